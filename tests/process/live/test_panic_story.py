"""A panic, and a close call whose answer is lost, at a daily desk with shares in a margin account: no order twice.

Real processes, as a person runs them.

Time is virtual, but where a disk hangs. While a person's command runs, it passes as slowly as real processes need it
(`SimClock.wait`).
Expected values: what the server holds, and its log of requests.
"""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from daemon.host.panic_marker import MARKER
from daemon.journal.rows import CommitBatch
from daemon.journal.writer import JournalWriter
from daemon.operator.control.client import CommandRequest, ask
from tests.support.desks.daily_stage import HALF_DAY, daily_stage, swapping
from tests.support.desks.online_day import online_stage
from tests.support.desks.stage import KEYS, LIMIT_S, Stage, new_york_ns, until
from tests.support.desks.warm import Command
from tests.support.models.online_models import put_momentum
from tests.support.paths import REPOSITORY

BEGIN = "08:40"  # the decision is due at nine
OPEN = "09:30"
MOMENT_S = 0.2  # virtual: the trade stream has brought what a person did, which takes at most 40 ms
COMMAND_S = 7200.0  # virtual seconds that a command may take


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the swapping policy."""
    return swapping(tmp_path_factory.mktemp("swapping"))


def typed(desk: Stage, *arguments: str) -> tuple[int, str]:
    """What `rltraderctl` answers, and its exit code."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("RLTRADER_", "APCA_"))}
    env = {**variables, **KEYS, "PYTHONPATH": str(REPOSITORY)}
    process = Command("daemon.cli.ctl", arguments, REPOSITORY, env)
    assert desk.clock.wait(time.sleep, lambda: process.poll() is not None, COMMAND_S), arguments
    result = process.finish(120)
    return result.returncode, result.stdout + result.stderr


def command(desk: Stage, name: str, *more: str, code: int = 0) -> str:
    exit_code, output = typed(desk, name, "--state-dir", str(desk.state_dir), "--reason", "a test", *more)
    assert exit_code == code, output
    return output


def panicking(desk: Stage) -> Command:
    """A panic under way."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("RLTRADER_", "APCA_"))}
    config = ("--config", str(desk.folder / "config.toml"))
    env = {**variables, **KEYS, "PYTHONPATH": str(REPOSITORY)}
    return Command("daemon.cli.ctl", ("panic", "--yes", *config), REPOSITORY, env)


def panic(desk: Stage) -> str:
    process = panicking(desk)
    assert desk.clock.wait(time.sleep, lambda: process.poll() is not None, COMMAND_S)
    result = process.finish(120)
    assert result.returncode == 0, result
    return result.stdout + result.stderr


def unreachable(desk: Stage) -> None:
    """The broker answers no request about the account."""
    refused = [("GET", "/v2/account"), ("GET", "/v2/positions"), ("DELETE", "/v2/positions"), ("DELETE", "/v2/orders")]

    def script() -> None:
        for method, path in refused:
            desk.server.server.faults.add("http_error", times=100_000, where={"method": method, "path": path})

    desk.server.call(script)


def reachable(desk: Stage) -> None:
    desk.server.call(desk.server.server.faults.clear)


def start_and_buy(desk: Stage) -> None:
    desk.account.margin = 2  # a sale of what is not there would be taken
    desk.start()
    desk.until_time(new_york_ns(HALF_DAY, OPEN))
    desk.until_true(lambda: bool(desk.held().get("SPY")), "SPY is bought")
    desk.until_true(lambda: desk.journaled("OrderFilled") != [], "the fill is journaled")


def never_short(desk: Stage) -> bool:
    past = desk.server.call(lambda: list(desk.account.past_positions))
    return all(position.qty >= 0 for _, positions in past for position in positions.values())


def test_after_a_panic_nothing_is_sold_again_and_one_command_leads_out_with_the_daemon_up(
    models: Path, tmp_path: Path
) -> None:
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models) as desk:
        start_and_buy(desk)
        order_count = len(desk.posts())
        output = panic(desk)
        assert f"desk in {desk.state_dir}: stands down" in output
        assert "flat: no open order, no position" in output
        assert "rltraderctl accept-broker" in output.splitlines()[-1]
        assert "this does nothing: flatten (by" in command(desk, "flatten", "--yes", code=1)
        assert "halted: panic" in command(desk, "resume", code=1)  # the broker's word comes first
        assert "way out" in typed(desk, "status", "--state-dir", str(desk.state_dir))[1]
        command(desk, "accept-broker")
        desk.until_true(lambda: bool(accepted(desk)), "the broker's word is accepted")
        assert "not halted" in command(desk, "resume")
        reports = len(desk.journaled("BrokerReported"))
        desk.until_true(lambda: len(desk.journaled("BrokerReported")) >= reports + 3, "three more reports")
        assert "not halted" in command(desk, "pause")  # nothing halted it again
        assert (len(desk.posts()), desk.held(), never_short(desk)) == (order_count, {}, True)
        daemon = desk.daemons[-1]
        daemon.terminate()
        assert daemon.wait(60) == 0
        state = desk.books().state
        assert (dict(state.book.positions), state.book.cash) == ({}, desk.account.cash)


def accepted(desk: Stage) -> list[str]:
    return [line["detail"] for line in desk.read_log("alarm") if line["alarm"] == "broker_accepted"]


def test_a_desk_that_starts_after_a_panic_stands_down_before_it_sends_anything(models: Path, tmp_path: Path) -> None:
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models) as desk:
        start_and_buy(desk)
        desk.daemons[-1].kill()
        desk.daemons[-1].wait(10)
        command(desk, "flatten", "--yes")  # journaled for the next start
        order_count = len(desk.posts())
        assert "stands down when it starts" in panic(desk)
        desk.start()
        desk.until_true(lambda: desk.journaled("PanicNoticed") != [], "the panic is noticed")
        desk.until_true(lambda: not (desk.state_dir / "panic").exists(), "the file is taken away")
        desk.until_true(lambda: len(desk.journaled("BrokerReported")) > 3, "some reports")
        assert (len(desk.posts()), desk.held(), never_short(desk)) == (order_count, {}, True)
        desk.daemons[-1].terminate()
        assert desk.daemons[-1].wait(60) == 0
        state = desk.books().state
        assert state.risk.halt is not None
        assert (state.risk.halt.reason, state.broker.stood_down) == ("panic", True)


@pytest.mark.parametrize("end", ["killed", "interrupted"])
def test_what_a_panic_could_not_close_the_desk_closes_once_the_broker_is_back(
    models: Path, tmp_path: Path, end: str
) -> None:
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models) as desk:
        start_and_buy(desk)
        order_count, positions = len(desk.posts()), desk.held()
        unreachable(desk)
        process = panicking(desk)
        assert desk.clock.wait(time.sleep, lambda: desk.journaled("PanicNoticed") != [], COMMAND_S)
        assert (desk.state_dir / "panic.noted").exists()
        if end == "killed":
            process.kill()
        else:
            assert desk.clock.wait(time.sleep, lambda: closing(desk) != [], COMMAND_S)
            os.kill(process.pid, signal.SIGINT)
        assert desk.clock.wait(time.sleep, lambda: process.poll() is not None, COMMAND_S)
        result = process.finish(120)
        if end == "interrupted":
            assert (result.returncode, "Traceback" in result.stdout + result.stderr) == (1, False)
            assert "NOT flat: the broker does not say what is left" in result.stdout
            assert "to go on, run the same command again: rltraderctl panic" in result.stdout
        desk.until_true(lambda: desk.journaled("PanicFailed") != [], "the failure is noticed")
        assert (desk.held(), len(desk.posts())) == (positions, order_count)
        reachable(desk)
        desk.until_true(lambda: desk.held() == {}, "the desk has closed what is its own")
        assert (len(desk.posts()), never_short(desk)) == (order_count, True)
        assert f"/v2/positions/SPY?qty={positions['SPY']}" in closing(desk)
        assert not (desk.state_dir / "panic.noted").exists()
        assert "halted: panic" in command(desk, "resume", code=1)


def closing(desk: Stage) -> list[str]:
    return [row.path for row in desk.requests("DELETE") if row.path.startswith("/v2/positions")]


@pytest.mark.parametrize("unheard", [False, True])
def test_shares_that_a_person_sold_are_not_sold_again_by_a_flatten_a_moment_later(
    models: Path, tmp_path: Path, unheard: bool
) -> None:
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models) as desk:
        start_and_buy(desk)
        order_count = len(desk.posts())
        reports = len(desk.journaled("BrokerReported"))
        if unheard:  # the stream is half open: nothing comes through, and nobody notices
            desk.server.call(lambda: desk.server.server.faults.add("update_lost", times=1000))
        desk.server.by_hand("close", symbol="SPY")
        desk.clock.pass_s(MOMENT_S)
        assert len(desk.journaled("BrokerReported")) == reports  # no report can have shown it
        ask(desk.state_dir, CommandRequest(1, "flatten", "a moment later", "ann"))
        desk.until_true(lambda: len(desk.journaled("BrokerReported")) >= reports + 3, "three more reports")
        assert (len(desk.posts()), never_short(desk)) == (order_count, True)
        command(desk, "accept-broker")
        desk.until_true(lambda: bool(accepted(desk)), "the broker's word is accepted")
        assert "not halted" in command(desk, "resume")


# --- a close call without an answer -----------------------------------------------------------------------------------


def unreported(desk: Stage) -> None:
    """No report comes, so an exit leaves by the broker's own call; it sells, and its answer is lost."""
    add = desk.server.server.faults.add

    def script() -> None:
        add("http_error", times=100_000, status=503, where={"method": "GET", "path": "/v2/account"})
        add("http_reset", where={"method": "DELETE", "path": "/v2/positions/*"})

    desk.server.call(script)


@pytest.mark.parametrize("killed", [False, True])
def test_what_a_call_without_an_answer_sold_is_the_desk_s_own_sale(models: Path, tmp_path: Path, killed: bool) -> None:
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models) as desk:
        start_and_buy(desk)
        unreported(desk)
        command(desk, "flatten", "--yes")
        desk.until_true(lambda: desk.held() == {}, "the call sold")
        if killed:
            desk.daemons[-1].kill()
            desk.daemons[-1].wait(10)
        reachable(desk)
        if killed:
            desk.start()
        reports = len(desk.journaled("BrokerReported"))
        desk.until_true(lambda: len(desk.journaled("BrokerReported")) >= reports + 3, "three reports")
        assert "not halted" in command(desk, "resume")  # the flatten alone halted it
        desk.daemons[-1].terminate()
        assert desk.daemons[-1].wait(60) == 0
        exit_code, output = typed(desk, "verify", "--state-dir", str(desk.state_dir))
        assert exit_code == 0, output
        state = desk.books().state
    assert (dict(state.book.positions), state.book.cash) == ({}, desk.account.cash)
    assert (state.risk.halt, state.risk.reconciled, state.broker.foreign) == (None, True, {})
    (call,) = (order for order in (*state.orders.values(), *state.closed.values()) if order.closing)
    assert (call.status, call.executions) == ("filled", (call.quantity,))
    assert "foreign_order" not in {line["alarm"] for line in desk.read_log("alarm")}


def hang_at_an_entry(folder: Path) -> None:
    """Let the disk hang at the first commit that has a buy, until a person's panic is over."""
    commit = JournalWriter._commit

    def slowly(writer: JournalWriter, batch: CommitBatch) -> None:
        if any('"side":1,' in entry.effects for entry in batch.entries) and not (folder / "hangs").exists():
            (folder / "hangs").touch()
            while not (folder / "panic is over").exists():
                time.sleep(0.01)
        commit(writer, batch)

    JournalWriter._commit = slowly  # type: ignore[method-assign, assignment]


def test_an_entry_that_waits_for_a_disk_that_hangs_does_not_leave_after_a_panic(tmp_path: Path) -> None:
    lasting = {"basket": {"reprice_s": 3600}}
    with online_stage("10:45", tmp_path / "stage", put_momentum(tmp_path / "store"), lasting, rate=30.0) as desk:
        desk.start(prepare=partial(hang_at_an_entry, tmp_path))
        until((tmp_path / "hangs").exists, "an entry is decided, and its commit hangs")
        result = panicking(desk).finish(LIMIT_S)
        assert "does not answer; going on" in result.stdout
        assert "flat: no open order, no position" in result.stdout
        (tmp_path / "panic is over").touch()
        until(lambda: desk.read_log("order_not_sent") != [], "the disk is back, and the entry stays here")
        until(lambda: not (desk.state_dir / MARKER).exists(), "the desk stands down")
        assert (desk.posts(), desk.held(), desk.halts()) == ([], {}, ["panic"])
