from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from daemon.core import handlers
from daemon.core.broker import exits
from daemon.core.draft import Draft
from daemon.core.session import new_york_text
from tests.support.paths import REPOSITORY
from tests.years.__main__ import Running, outcome_of
from tests.years.desks import DESKS, ONLINE, RATES, REBALANCER, SCALPER, SWITCHER, desk_of
from tests.years.focused import FOCUSED, PATIENT
from tests.years.models import FIVE_MINUTES, STORE
from tests.years.models.policies import make
from tests.years.run import Outcome, live
from tests.years.schedule import Happening, Row, Schedule

FIRST = "2024-07-02"  # a half day after it


@pytest.mark.parametrize("name", DESKS)
def test_a_desk_lives_through_two_sessions_and_is_killed(name: str) -> None:
    killed = (Happening(0, 5.0, "kill at a turn", 1), Happening(1, 100.0, "kill in the step", 2))
    outcome = outcome_of(Schedule(name, 7, FIRST, 2, (), killed))
    assert outcome.problems == ()
    assert outcome.fills > 0
    assert outcome.lives >= 3


@pytest.mark.parametrize("name", [SCALPER, ONLINE, SWITCHER])
def test_a_market_that_closes_before_the_calendar_ends_the_day_for_every_part_of_a_desk(name: str) -> None:
    early: tuple[Row, ...] = (("world", "closes_after_min", 210), ("basket", "decide", "before_close"))  # until 13:00
    outcome = outcome_of(Schedule(name, 7, "2024-07-08", 1, early[: 2 if name == SWITCHER else 1], ()))
    assert outcome.problems == ()
    alarms = [json.loads(text)["alarm"] for _, kind, text in outcome.story if kind == "alarm"]
    assert alarms == ["market_closed"]
    logged = [(new_york_text(ns)[11:], json.loads(text)) for ns, kind, text in outcome.story if kind == "log"]
    times = {fields["event"]: at for at, fields in logged if fields["event"] in ("feed_counts", "basket_decided")}
    expected = {"feed_counts": "13:05:00", "basket_decided": "12:50:00"}  # ten minutes before; five for the day's bars
    assert times == (expected if name == SWITCHER else {"feed_counts": "13:00:10"})


def test_what_a_desk_s_streams_tell_is_heard() -> None:
    outcome = outcome_of(Schedule(REBALANCER, 7, FIRST, 1, (("alpaca", "activity_stream", True),), ()))
    lines = [text for _, kind, text in outcome.story if kind == "log" and "activity_stream" in text]
    assert any('"activity_stream_listening"' in text for text in lines)
    losses = [text for text in lines if '"activity_stream_lost"' in text]
    assert all("Timeout on reading" in text for text in losses)  # a silent one is given up after 15 minutes
    assert outcome.problems == ()


def test_equal_seeds_tell_the_same_story_whatever_the_order_of_sets() -> None:
    digests = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-m", "tests.years", "--run", ONLINE, "3"]
        result = subprocess.run(
            command, cwd=REPOSITORY, env=environment, check=False, stdout=subprocess.PIPE, text=True
        )
        digests.add(result.stdout.splitlines()[-1])
    assert len(digests) == 1
    assert digests.pop().startswith("digest ")


def test_how_much_is_free_on_this_machine_is_no_part_of_a_story() -> None:
    refused = (Happening(0, 60.0, "disk read-only", 1), Happening(0, 90.0, "disk out of room", 2))
    outcome = outcome_of(Schedule(SWITCHER, 7, FIRST, 1, (), refused))
    free = {word for _, _, text in outcome.story for word in re.findall(r"(\d+) MiB are free", text)}
    assert free <= {"0", "65536"}
    assert free
    assert outcome.problems == ()


def test_halts_of_the_exchange_longer_than_blindness_takes_halt_no_desk_and_leave_no_exit_stuck() -> None:
    halts = tuple(Happening(0, 25.0 + 60 * number, "trading halt of 20 minutes", number) for number in range(5))
    rows = (("broker", "blind_min", 5), ("alpaca", "report_every_s", 60), ("world", "attended", False))
    outcome = outcome_of(Schedule(SCALPER, 5, FIRST, 1, rows, halts))
    assert outcome.problems == ()
    assert outcome.met["gate trading_halted"] > 0
    assert not {"halt blind", "alarm blind", "alarm exit_stuck", "alarm feed_silent"} & outcome.met.keys()
    assert outcome.fills > 20


def _lived_in(schedule: Schedule, folder: Path, _: Path) -> Outcome:
    return live(schedule, folder)


def test_where_a_run_lives_changes_no_byte_though_its_journal_names_a_file(tmp_path: Path) -> None:
    schedule = FOCUSED["no_start_without_a_model"]
    stories = []
    for folder in ("here", "there_for_longer"):
        outcome, _ = Running(partial(_lived_in, schedule, tmp_path / folder)).result()
        stories.append(outcome.story)
    assert stories[0] == stories[1]
    halt_ns = next(at_ns for at_ns, kind, text in stories[0] if kind == "halted" and "policy.onnx" in text)
    assert any(at_ns > halt_ns and '"chain_head"' in text for at_ns, _, text in stories[0])


def _deaf_to(guard: str, schedule: Schedule, folder: Path) -> Outcome:
    """Live it with a core that does not do what `guard` names."""
    leave = exits.exit_by_rule

    def leave_some(draft: Draft, symbol: str, reason: str, *rest: Any) -> None:
        if reason != guard:
            leave(draft, symbol, reason, *rest)

    events: Any = handlers
    rules: Any = exits
    if guard == "bought_back":
        events.root_of = lambda _: ""  # what nothing may buy is another symbol
    else:
        events.exit_by_rule = rules.exit_by_rule = leave_some
    return live(schedule, folder)


CLOSED = tuple(Happening(0, 30.0 * number, "close all of one") for number in (1, 2, 3, 4))
IN_TIME = (PATIENT, ("sizing", "time_stop_min", 15))


@pytest.mark.parametrize(
    ("guard", "rule", "tables", "happenings"),
    [
        ("time_stop", "time_stop", IN_TIME, ()),
        ("closed_by_hand", "closed_by_hand", (PATIENT,), CLOSED[:1]),
        ("bought_back", "closed_by_hand", (), CLOSED),
    ],
)
def test_a_guard_that_is_missing_breaks_its_rule(
    guard: str, rule: str, tables: tuple[Row, ...], happenings: tuple[Happening, ...]
) -> None:
    schedule = Schedule(SCALPER, 7, "2024-07-08", 1, tables, happenings)
    outcome, _ = Running(partial(_deaf_to, guard, schedule)).result()
    assert {problem.rule for problem in outcome.problems} == {rule}, outcome


def test_a_desk_with_these_guards_breaks_none() -> None:
    outcome = outcome_of(Schedule(SCALPER, 7, "2024-07-08", 1, IN_TIME, CLOSED[-1:]))
    assert outcome.problems == ()
    assert {"left by time_stop", "left by closed_by_hand"} <= outcome.met.keys()


def test_the_committed_policies_are_those_that_the_command_makes(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the command builds graphs with it")
    make(tmp_path / "store", tmp_path / FIVE_MINUTES.name)
    new_files = {str(path.relative_to(tmp_path / "store")): path for path in sorted((tmp_path / "store").rglob("*.*"))}
    committed_files = {str(path.relative_to(STORE)): path for path in sorted(STORE.rglob("*.*"))}
    assert new_files.keys() == committed_files.keys()
    assert all(new_files[name].read_bytes() == committed_files[name].read_bytes() for name in new_files)
    assert (tmp_path / FIVE_MINUTES.name).read_bytes() == FIVE_MINUTES.read_bytes()


def test_a_plan_depends_on_its_seed_alone_and_all_that_may_happen_does(tmp_path: Path) -> None:
    plans = [desk_of(REBALANCER, seed, "2022-03-01", 60, tmp_path, random.Random(seed)) for seed in (1, 1, 2, 3)]
    assert plans[0].happenings == plans[1].happenings != plans[2].happenings
    assert {it.kind for plan in plans for it in plan.happenings} == set(RATES)


def test_early_closes_and_changes_of_the_clock_are_lived_through(tmp_path: Path) -> None:
    sessions = desk_of(SCALPER, 1, "2024-10-28", 30, tmp_path, random.Random(1)).sessions
    lengths_min = {(session.close_ns - session.open_ns) // 60_000_000_000 for session in sessions}
    assert lengths_min == {390, 210}
    assert {session.open_ns // 3_600_000_000_000 % 24 for session in sessions} == {13, 14}
