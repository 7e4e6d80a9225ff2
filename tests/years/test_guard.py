from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from daemon.guard.watch import Watch
from tests.years.__main__ import Running, outcome_of
from tests.years.desks import SWITCHER
from tests.years.run import Outcome, live
from tests.years.schedule import Happening, Row, Schedule

GUARDED: tuple[Row, ...] = (
    ("guard", "prefix", "guard"),
    ("guard", "act", "protect"),
    ("guard", "beat_s", 30),
    ("guard", "silence_s", 180),
    ("guard", "alarm_s", 90),
    ("guard", "act_s", 300),
    ("guard", "look_s", 60),
)
FRACTIONS: tuple[Row, ...] = (  # of which each stop is for the day: a desk that is away in the morning has none
    ("world", "cash_usd", 3000),
    ("basket", "fractions", "on"),
    ("protection", "rest_at_broker", True),
    ("protection", "disaster_stop", 0.2),
)
AWAY = (Happening(1, -30.0, "away", 5),)  # for four hours


def _with(tables: tuple[Row, ...], happenings: tuple[Happening, ...]) -> Schedule:
    return Schedule(SWITCHER, 7, "2024-07-08", 2, (*GUARDED, *tables), happenings)


def _alarms(outcome: Outcome) -> list[str]:
    return [json.loads(text)["alarm"] for _, kind, text in outcome.story if kind == "alarm"]


def test_a_desk_that_is_away_gets_its_stops_from_the_guard_and_takes_them_back() -> None:
    outcome = outcome_of(_with(FRACTIONS, AWAY))
    assert outcome.problems == ()
    assert outcome.met["guard rest"] > 0
    assert {"desk_silent", "guard_acts", "desk_heard"} <= set(_alarms(outcome))


def test_where_each_path_hears_the_desk_nothing_is_done() -> None:
    troubles = (
        Happening(0, 30.0, "guard killed", 1), Happening(0, 60.0, "guard's folder gone", 2),
        Happening(0, 200.0, "kill", 3), Happening(0, 250.0, "guard away", 4),
    )  # fmt: skip
    outcome = outcome_of(Schedule(SWITCHER, 7, "2024-07-08", 1, (*GUARDED, *FRACTIONS), troubles))
    assert outcome.problems == ()
    assert not [name for name in outcome.met if name in ("guard rest", "guard cancel", "guard fence", "guard close")]
    assert {"guard_blind", "guard_silent"} <= set(_alarms(outcome))


def test_a_guard_that_may_close_leaves_an_account_that_the_desk_takes_as_it_is() -> None:
    outcome = outcome_of(_with((*FRACTIONS, ("world", "guard_closes", True), ("world", "attended", True)), AWAY))
    assert outcome.problems == ()
    assert outcome.met["guard close"] == 1
    assert {"foreign_order", "broker_accepted"} <= set(_alarms(outcome))


def _lives_with(broken: str, schedule: Schedule, folder: Path) -> Outcome:
    watch: Any = Watch
    if broken == "acts at once":
        silent_s = watch.silent_s
        watch.silent_s = lambda self, now_s: silent_s(self, now_s) + 3600.0
    elif broken == "does nothing":
        watch._act = lambda _self, _look, _now_s: []
    else:
        watch.turn = lambda _self, _now_s: []
    return live(schedule, folder)


@pytest.mark.parametrize(
    ("broken", "rules"),
    [
        ("acts at once", {"guard_hasty"}),
        ("does nothing", {"guard_bare"}),
        ("tells nothing", {"guard_idle"}),
    ],
)
def test_a_guard_that_fails_breaks_its_rule(broken: str, rules: set[str]) -> None:
    outcome, _ = Running(partial(_lives_with, broken, _with(FRACTIONS, AWAY))).result()
    assert {problem.rule for problem in outcome.problems} == rules, outcome.problems
