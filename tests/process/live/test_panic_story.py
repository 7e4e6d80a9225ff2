"""A panic at a daily desk with shares in a margin account, as a person runs it: real processes, no order twice.

Time is virtual. While a person's command runs, it passes as slowly as real processes need it (`SimClock.wait`).
Expected values: what the server holds, and its log of requests.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from daemon.operator.control.client import Request, ask
from tests.support.desks.daily_stage import HALF_DAY, daily_stage, swapping
from tests.support.desks.stage import KEYS, Stage, new_york_ns
from tests.support.desks.warm import Command
from tests.support.paths import REPOSITORY

BEGIN = "08:40"  # the decision is due at nine
OPEN = "09:30"
MOMENT_S = 0.2  # virtual: the trade stream has brought what a person did, which takes at most 40 ms
COMMAND_S = 7200.0  # virtual seconds that a command may take


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the swapping policy."""
    return swapping(tmp_path_factory.mktemp("swapping"))


def typed(played: Stage, *arguments: str) -> tuple[int, str]:
    """What `rltraderctl` answers, and its exit code."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RLTRADER_", "APCA_"))}
    env = {**kept, **KEYS, "PYTHONPATH": str(REPOSITORY)}
    asked = Command("daemon.cli.ctl", arguments, REPOSITORY, env)
    assert played.clock.wait(time.sleep, lambda: asked.poll() is not None, COMMAND_S), arguments
    done = asked.finish(120)
    return done.returncode, done.stdout + done.stderr


def command(played: Stage, name: str, *more: str) -> str:
    code, told = typed(played, name, "--state-dir", str(played.state_dir), "--reason", "a test", *more)
    assert code == 0, told
    return told


def panic(played: Stage) -> str:
    code, told = typed(played, "panic", "--yes", "--config", str(played.folder / "config.toml"))
    assert code == 0, told
    return told


def bought(played: Stage) -> None:
    played.account.margin = 2  # a sale of what is not there would be taken
    played.start()
    played.until_time(new_york_ns(HALF_DAY, OPEN))
    played.until_true(lambda: bool(played.held().get("SPY")), "SPY is bought")
    played.until_true(lambda: played.journaled("OrderFilled") != [], "the fill is journaled")


def never_short(played: Stage) -> bool:
    past = played.server.call(lambda: list(played.account.past_positions))
    return all(position.qty >= 0 for _, held in past for position in held.values())


def test_after_a_panic_nothing_is_sold_again_and_one_command_leads_out_with_the_daemon_up(
    models: Path, tmp_path: Path
) -> None:
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models) as played:
        bought(played)
        ours = len(played.posts())
        told = panic(played)
        assert f"desk in {played.state_dir}: stands down" in told
        assert "flat: no open order, no position" in told
        assert "rltraderctl accept-broker" in told.splitlines()[-1]
        assert "0 sent" in (asked := command(played, "flatten", "--yes")) or "sent" not in asked
        assert "halted: panic" in command(played, "resume")  # the broker's word comes first
        assert "way out" in typed(played, "status", "--state-dir", str(played.state_dir))[1]
        command(played, "accept-broker")
        played.until_true(lambda: bool(accepted(played)), "the broker's word is accepted")
        assert "not halted" in command(played, "resume")
        reports = len(played.journaled("BrokerReported"))
        played.until_true(lambda: len(played.journaled("BrokerReported")) >= reports + 3, "three more reports")
        assert "not halted" in command(played, "pause")  # nothing halted it again
        assert (len(played.posts()), played.held(), never_short(played)) == (ours, {}, True)
        daemon = played.daemons[-1]
        daemon.terminate()
        assert daemon.wait(60) == 0
        state = played.books().state
        assert (dict(state.book.positions), state.book.cash) == ({}, played.account.cash)


def accepted(played: Stage) -> list[str]:
    return [line["detail"] for line in played.told("alarm") if line["alarm"] == "broker_accepted"]


def test_a_desk_that_starts_after_a_panic_stands_down_before_it_sends_anything(models: Path, tmp_path: Path) -> None:
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models) as played:
        bought(played)
        played.daemons[-1].kill()
        played.daemons[-1].wait(10)
        command(played, "flatten", "--yes")  # journaled for the next start
        ours = len(played.posts())
        assert "stands down when it starts" in panic(played)
        played.start()
        played.until_true(lambda: played.journaled("PanicNoticed") != [], "the panic is noticed")
        played.until_true(lambda: not (played.state_dir / "panic").exists(), "the file is taken away")
        played.until_true(lambda: len(played.journaled("BrokerReported")) > 3, "some reports")
        assert (len(played.posts()), played.held(), never_short(played)) == (ours, {}, True)
        played.daemons[-1].terminate()
        assert played.daemons[-1].wait(60) == 0
        state = played.books().state
        assert state.risk.halt is not None
        assert (state.risk.halt.reason, state.broker.stood_down) == ("panic", True)


@pytest.mark.parametrize("unheard", [False, True])
def test_shares_that_a_person_sold_are_not_sold_again_by_a_flatten_a_moment_later(
    models: Path, tmp_path: Path, unheard: bool
) -> None:
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models) as played:
        bought(played)
        ours = len(played.posts())
        reports = len(played.journaled("BrokerReported"))
        if unheard:  # the stream is half open: nothing comes through, and nobody notices
            played.server.call(lambda: played.server.server.faults.add("update_lost", times=1000))
        played.server.by_hand("close", symbol="SPY")
        played.clock.pass_s(MOMENT_S)
        assert len(played.journaled("BrokerReported")) == reports  # no report can have told of it
        ask(played.state_dir, Request(1, "flatten", "a moment later", "ann"))
        played.until_true(lambda: len(played.journaled("BrokerReported")) >= reports + 3, "three more reports")
        assert (len(played.posts()), never_short(played)) == (ours, True)
        command(played, "accept-broker")
        played.until_true(lambda: bool(accepted(played)), "the broker's word is accepted")
        assert "not halted" in command(played, "resume")
