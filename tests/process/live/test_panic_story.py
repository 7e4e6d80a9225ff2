"""A panic, and a close call whose answer is lost, at a daily desk with shares in a margin account: no order twice.

Real processes, as a person runs them.

Time is virtual. While a person's command runs, it passes as slowly as real processes need it (`SimClock.wait`).
Expected values: what the server holds, and its log of requests.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from daemon.operator.control.client import CommandRequest, ask
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
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("RLTRADER_", "APCA_"))}
    env = {**variables, **KEYS, "PYTHONPATH": str(REPOSITORY)}
    process = Command("daemon.cli.ctl", arguments, REPOSITORY, env)
    assert played.clock.wait(time.sleep, lambda: process.poll() is not None, COMMAND_S), arguments
    done = process.finish(120)
    return done.returncode, done.stdout + done.stderr


def command(played: Stage, name: str, *more: str, code: int = 0) -> str:
    ended, output = typed(played, name, "--state-dir", str(played.state_dir), "--reason", "a test", *more)
    assert ended == code, output
    return output


def panicking(played: Stage) -> Command:
    """A panic under way."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("RLTRADER_", "APCA_"))}
    config = ("--config", str(played.folder / "config.toml"))
    env = {**variables, **KEYS, "PYTHONPATH": str(REPOSITORY)}
    return Command("daemon.cli.ctl", ("panic", "--yes", *config), REPOSITORY, env)


def panic(played: Stage) -> str:
    process = panicking(played)
    assert played.clock.wait(time.sleep, lambda: process.poll() is not None, COMMAND_S)
    done = process.finish(120)
    assert done.returncode == 0, done
    return done.stdout + done.stderr


def unreachable(played: Stage) -> None:
    """The broker answers no request about the account."""
    refused = [("GET", "/v2/account"), ("GET", "/v2/positions"), ("DELETE", "/v2/positions"), ("DELETE", "/v2/orders")]

    def script() -> None:
        for method, path in refused:
            played.server.server.faults.add("http_error", times=100_000, where={"method": method, "path": path})

    played.server.call(script)


def reachable(played: Stage) -> None:
    played.server.call(played.server.server.faults.clear)


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
        output = panic(played)
        assert f"desk in {played.state_dir}: stands down" in output
        assert "flat: no open order, no position" in output
        assert "rltraderctl accept-broker" in output.splitlines()[-1]
        assert "this does nothing: flatten (by" in command(played, "flatten", "--yes", code=1)
        assert "halted: panic" in command(played, "resume", code=1)  # the broker's word comes first
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
    return [line["detail"] for line in played.read_log("alarm") if line["alarm"] == "broker_accepted"]


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


@pytest.mark.parametrize("end", ["killed", "interrupted"])
def test_what_a_panic_could_not_close_the_desk_closes_once_the_broker_is_back(
    models: Path, tmp_path: Path, end: str
) -> None:
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models) as played:
        bought(played)
        ours, held = len(played.posts()), played.held()
        unreachable(played)
        process = panicking(played)
        assert played.clock.wait(time.sleep, lambda: played.journaled("PanicNoticed") != [], COMMAND_S)
        assert (played.state_dir / "panic.noted").exists()
        if end == "killed":
            process.kill()
        else:
            assert played.clock.wait(time.sleep, lambda: closing(played) != [], COMMAND_S)
            os.kill(process.pid, signal.SIGINT)
        assert played.clock.wait(time.sleep, lambda: process.poll() is not None, COMMAND_S)
        result = process.finish(120)
        if end == "interrupted":
            assert (result.returncode, "Traceback" in result.stdout + result.stderr) == (1, False)
            assert "NOT flat: the broker does not say what is left" in result.stdout
            assert "to go on, run the same command again: rltraderctl panic" in result.stdout
        played.until_true(lambda: played.journaled("PanicFailed") != [], "the failure is noticed")
        assert (played.held(), len(played.posts())) == (held, ours)
        reachable(played)
        played.until_true(lambda: played.held() == {}, "the desk has closed what is its own")
        assert (len(played.posts()), never_short(played)) == (ours, True)
        assert f"/v2/positions/SPY?qty={held['SPY']}" in closing(played)
        assert not (played.state_dir / "panic.noted").exists()
        assert "halted: panic" in command(played, "resume", code=1)


def closing(played: Stage) -> list[str]:
    return [row.path for row in played.requests("DELETE") if row.path.startswith("/v2/positions")]


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
        assert len(played.journaled("BrokerReported")) == reports  # no report can have shown it
        ask(played.state_dir, CommandRequest(1, "flatten", "a moment later", "ann"))
        played.until_true(lambda: len(played.journaled("BrokerReported")) >= reports + 3, "three more reports")
        assert (len(played.posts()), never_short(played)) == (ours, True)
        command(played, "accept-broker")
        played.until_true(lambda: bool(accepted(played)), "the broker's word is accepted")
        assert "not halted" in command(played, "resume")


# --- a close call without an answer -----------------------------------------------------------------------------------


def unreported(played: Stage) -> None:
    """No report comes, so an exit leaves by the broker's own call; it sells, and its answer is lost."""
    add = played.server.server.faults.add

    def script() -> None:
        add("http_error", times=100_000, status=503, where={"method": "GET", "path": "/v2/account"})
        add("http_reset", where={"method": "DELETE", "path": "/v2/positions/*"})

    played.server.call(script)


@pytest.mark.parametrize("killed", [False, True])
def test_what_a_call_without_an_answer_sold_is_the_desk_s_own_sale(models: Path, tmp_path: Path, killed: bool) -> None:
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models) as played:
        bought(played)
        unreported(played)
        command(played, "flatten", "--yes")
        played.until_true(lambda: played.held() == {}, "the call sold")
        if killed:
            played.daemons[-1].kill()
            played.daemons[-1].wait(10)
        reachable(played)
        if killed:
            played.start()
        reports = len(played.journaled("BrokerReported"))
        played.until_true(lambda: len(played.journaled("BrokerReported")) >= reports + 3, "three reports")
        assert "not halted" in command(played, "resume")  # the flatten alone halted it
        played.daemons[-1].terminate()
        assert played.daemons[-1].wait(60) == 0
        ended, told = typed(played, "verify", "--state-dir", str(played.state_dir))
        assert ended == 0, told
        state = played.books().state
    assert (dict(state.book.positions), state.book.cash) == ({}, played.account.cash)
    assert (state.risk.halt, state.risk.reconciled, state.broker.foreign) == (None, True, {})
    (call,) = (order for order in (*state.orders.values(), *state.closed.values()) if order.closing)
    assert (call.status, call.executions) == ("filled", (call.quantity,))
    assert "foreign_order" not in {line["alarm"] for line in played.read_log("alarm")}
