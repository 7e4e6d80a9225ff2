"""Restarts in the middle of a trade, clean stops, outages and refusals, each with a real process and a real server.

Expected values are the server's book and its log of requests.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from daemon.cli import ctl
from simulator.serving import serving
from simulator.trading.account import Account
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET
from simulator.virtual_clock import virtual_clock
from tests.support.desks.live_desk import differences
from tests.support.desks.stage import IN_PARTS, KEYS, SELDOM_PINGED, Stage, Systemd, Tape, new_york_ns, stage
from tests.support.desks.starts import BEFORE_FIRST_ENTRY, DAY, holding, working
from tests.support.ports import free_port

PATIENT = {"service": {"stop_deadline_s": 600}}  # contracts are sold one or two in a quarter of a minute


def staged(stack: ExitStack, tape: Tape, folder: Path, models_dir: Path, **named: Any) -> Stage:
    """A stage shortly before the lively policy's first entry."""
    tables = named.pop("tables", ())
    return stack.enter_context(stage(tape, DAY, BEFORE_FIRST_ENTRY, folder, models_dir, *tables, **named))


def traded(account: Account, times: int) -> bool:
    """Whether the account has so many executions."""
    return len(account.trades) >= times


def reports_flat(played: Stage, before: int) -> bool:
    """Whether a report after the first `before` ones shows neither a position nor an open order."""
    return any(
        not (report["positions"] or report["open_orders"]) for report in played.journaled("BrokerReported")[before:]
    )


def verified(played: Stage, capsys: pytest.CaptureFixture[str]) -> bool:
    """Whether `rltraderctl verify` finds the stage's journal identical."""
    code = ctl.main(["verify", "--state-dir", str(played.state_dir)])
    return code == 0 and capsys.readouterr().out.startswith("identical: ")


def test_a_kill_with_a_position_and_a_working_order_is_survived_and_nothing_is_sent_twice(
    bundled: Tape, lively: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as stack:
        patient = {"execution": {"exit_reprice_s": 3600}}
        played = staged(stack, bundled, tmp_path, lively, tables=(patient,))
        played.server.faults.add("order_held_back", where={"side": "sell"}, seconds=900)
        daemon = played.start()
        played.until_true(lambda: bool(working(played, "sell")), "an exit works at the server")
        name, held = working(played, "sell")[0], played.held()
        daemon.kill()
        daemon.wait(10)
        assert played.account.by_client_id[name].open
        assert sum(held.values()) > 0
        reports = len(played.journaled("BrokerReported"))
        played.start()
        played.until_true(lambda: len(played.journaled("BrokerReported")) > reports, "the second run's first report")
        adopted = played.journaled("BrokerReported")[reports]
        assert name in [order["client_order_id"] for order in adopted["open_orders"]]
        played.until_true(lambda: not played.account.by_client_id[name].open, "the adopted order has ended")
        played.until_true(lambda: not played.held(), "the position was closed")
        played.clock.pass_s(1)  # the news of it is under way
        played.daemons[-1].terminate()
        assert played.daemons[-1].wait(30) == 0, played.log()[-2000:]
        names = [post["client_order_id"] for post in played.posts()]
        assert len(names) == len(set(names))
        ours = played.books()
        assert differences(ours, played.account) == []
        assert ours.orders.keys() >= played.account.by_client_id.keys()
        assert ours.state.risk.halt is None
        assert verified(played, capsys)


def test_a_halted_desk_that_holds_something_leaves_without_room_for_its_reserve(
    bundled: Tape, lively: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a full disk that took the reserve: who is killed then finds no room to make it again."""

    def told(*words: str) -> int:
        return ctl.main([*words, "--state-dir", str(played.state_dir), "--reason", "a full disk"])

    with ExitStack() as stack:
        played = staged(stack, bundled, tmp_path, lively)
        daemon = played.start()
        played.until_true(lambda: holding(played), "a position")
        assert told("halt") == 0
        daemon.kill()
        daemon.wait(10)
        (played.state_dir / "ballast").unlink()
        before = len(played.read_log("reconciled"))
        played.start(tables=({"journal": {"ballast_mib": 1_048_576}},))
        played.until_true(lambda: len(played.read_log("reconciled")) > before, "book and broker agree")
        assert "cannot reserve 1048576 MiB" in str(played.read_log("no_ballast"))
        assert told("resume") != 0
        assert "cannot reserve 1048576 MiB" in capsys.readouterr().err
        assert told("flatten") == 0
        played.until_true(lambda: not played.held(), "the position was closed")


def test_a_clean_stop_keeps_the_position_or_flattens_it_as_configured(
    bundled: Tape, lively: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as stack:
        stages = {
            rule: staged(stack, bundled, tmp_path / rule, lively, tables=(PATIENT, {"broker": {"on_stop": rule}}))
            for rule in ("keep", "flatten")
        }
        for played in stages.values():
            played.start()
        for rule, played in stages.items():
            played.until_true(partial(holding, played), f"{rule}: held")
            played.daemons[-1].terminate()
        for rule, played in stages.items():
            assert played.daemons[-1].wait(900) == 0, (rule, played.log()[-2000:])
            assert bool(played.held()) == (rule == "keep")
            assert played.account.working == {}
            assert differences(played.books(), played.account) == []
            assert verified(played, capsys)
            assert played.read_log("stop_late") == []


def test_a_daemon_whose_broker_is_down_is_ready_and_trades_when_the_broker_comes_and_comes_back(
    bundled: Tape, lively: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port, account = free_port(), Account(DEFAULT_KEY, DEFAULT_SECRET)
    settings = {"rules": IN_PARTS, "accounts": (account,), "port": port}
    systemd = Systemd(tmp_path / "notify", 20.0)
    with ExitStack() as stack:
        market, clock = bundled.market(DAY), stack.enter_context(virtual_clock(new_york_ns(DAY, "09:50")))
        stack.callback(systemd.close)
        with serving(market, clock, **settings) as server:
            played = Stage(server, clock, market, tmp_path, lively, (SELDOM_PINGED,))
        played.start(environment={**KEYS, **systemd.environment})  # this server has gone; its address is configured
        stack.callback(played.daemons[-1].kill)
        played.until_true(lambda: systemd.received("READY=1"), "the daemon is ready")
        assert played.journaled("BrokerReported") == []
        for outage in ("before the first report", "in the middle"):
            with serving(played.market, played.clock, **settings) as server:
                played.server = server
                count = len(account.trades)
                played.until_true(partial(traded, account, count + 4), f"trades after the outage {outage}")
        reports = len(played.journaled("BrokerReported"))
        with serving(played.market, played.clock, **settings) as server:
            played.server = server
            played.until_true(lambda: not played.held() and not account.working, "flat once more")
            played.until_true(lambda: reports_flat(played, reports), "a report shows it")
            played.daemons[-1].terminate()
            assert played.daemons[-1].wait(40) == 0, played.log()[-2000:]
    ours = played.books()
    assert differences(ours, account) == []
    assert ours.state.risk.halt is None
    assert verified(played, capsys)


def test_with_wrong_keys_the_daemon_stays_up_unreconciled_and_sends_no_order(
    bundled: Tape, lively: Path, tmp_path: Path
) -> None:
    wrong = {**KEYS, "APCA_API_SECRET_KEY": "a-secret-that-is-not-the-accounts"}
    with ExitStack() as stack:
        played = staged(stack, bundled, tmp_path, lively)
        daemon = played.start(environment=wrong)
        played.until_true(lambda: len(played.read_log("trade_stream_unauthorized")) >= 2, "the keys were refused twice")
        played.until_time(new_york_ns(DAY, "10:20"))
        daemon.terminate()
        assert daemon.wait(30) == 0, played.log()[-2000:]
        assert played.requests("POST", "PATCH", "DELETE") == []
        assert not played.books().state.risk.reconciled
        assert wrong["APCA_API_SECRET_KEY"] not in played.log()


def test_live_money_at_an_account_of_another_number_halts_for_good(bundled: Tape, lively: Path, tmp_path: Path) -> None:
    live = {"desk": {"account": "live", "account_number": "987654321"}}
    with ExitStack() as stack:
        played = staged(stack, bundled, tmp_path, lively, tables=(live,))
        daemon = played.start()
        played.until_true(lambda: bool(played.journaled("BrokerReported")), "the broker's first report")
        played.until_time(new_york_ns(DAY, "10:30"))
        daemon.terminate()
        assert daemon.wait(30) == 0, played.log()[-2000:]
        halt = played.books().state.risk.halt
        assert halt.reason == "wrong_account"
        assert played.account.account_number in halt.detail
        assert "987654321" in halt.detail
        assert played.requests("POST", "PATCH", "DELETE") == []
