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
from simulator.server import serving
from simulator.trading.account import Account
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET
from simulator.virtual_clock import virtual_clock
from tests.support.desks.live_desk import differences
from tests.support.desks.stage import IN_PARTS, KEYS, SELDOM_PINGED, Stage, Systemd, Tape, new_york_ns, stage
from tests.support.desks.starts import BEFORE_FIRST_ENTRY, DAY, holding, working
from tests.support.ports import free_port

PATIENT = {"service": {"stop_deadline_s": 600}}  # contracts are sold one or two in a quarter of a minute


def staged(stack: ExitStack, tape: Tape, folder: Path, models_dir: Path, **options: Any) -> Stage:
    """A stage shortly before the lively policy's first entry."""
    tables = options.pop("tables", ())
    return stack.enter_context(stage(tape, DAY, BEFORE_FIRST_ENTRY, folder, models_dir, *tables, **options))


def has_traded(account: Account, times: int) -> bool:
    """Whether the account has so many executions."""
    return len(account.trades) >= times


def reports_flat(desk: Stage, before: int) -> bool:
    """Whether a report after the first `before` ones shows neither a position nor an open order."""
    return any(
        not (report["positions"] or report["open_orders"]) for report in desk.journaled("BrokerReported")[before:]
    )


def verified(desk: Stage, capsys: pytest.CaptureFixture[str]) -> bool:
    """Whether `rltraderctl verify` finds the stage's journal identical."""
    code = ctl.main(["verify", "--state-dir", str(desk.state_dir)])
    return code == 0 and capsys.readouterr().out.startswith("identical: ")


def test_a_kill_with_a_position_and_a_working_order_is_survived_and_nothing_is_sent_twice(
    bundled: Tape, lively: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as stack:
        patient = {"execution": {"exit_reprice_s": 3600}}
        desk = staged(stack, bundled, tmp_path, lively, tables=(patient,))
        desk.server.faults.add("order_held_back", where={"side": "sell"}, seconds=900)
        daemon = desk.start()
        desk.until_true(lambda: bool(working(desk, "sell")), "an exit works at the server")
        name, positions = working(desk, "sell")[0], desk.held()
        daemon.kill()
        daemon.wait(10)
        assert desk.account.by_client_id[name].open
        assert sum(positions.values()) > 0
        reports = len(desk.journaled("BrokerReported"))
        desk.start()
        desk.until_true(lambda: len(desk.journaled("BrokerReported")) > reports, "the second run's first report")
        adopted = desk.journaled("BrokerReported")[reports]
        assert name in [order["client_order_id"] for order in adopted["open_orders"]]
        desk.until_true(lambda: not desk.account.by_client_id[name].open, "the adopted order has ended")
        desk.until_true(lambda: not desk.held(), "the position was closed")
        desk.clock.pass_s(1)  # the news of it is under way
        desk.daemons[-1].terminate()
        assert desk.daemons[-1].wait(30) == 0, desk.log()[-2000:]
        names = [post["client_order_id"] for post in desk.posts()]
        assert len(names) == len(set(names))
        books = desk.books()
        assert differences(books, desk.account) == []
        assert books.orders.keys() >= desk.account.by_client_id.keys()
        assert books.state.risk.halt is None
        assert verified(desk, capsys)


def test_a_halted_desk_that_holds_something_leaves_without_room_for_its_reserve(
    bundled: Tape, lively: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a full disk that took the reserve: who is killed then finds no room to make it again."""

    def run_ctl(*words: str) -> int:
        return ctl.main([*words, "--state-dir", str(desk.state_dir), "--reason", "a full disk"])

    with ExitStack() as stack:
        desk = staged(stack, bundled, tmp_path, lively)
        daemon = desk.start()
        desk.until_true(lambda: holding(desk), "a position")
        assert run_ctl("halt") == 0
        daemon.kill()
        daemon.wait(10)
        (desk.state_dir / "ballast").unlink()
        before = len(desk.read_log("reconciled"))
        desk.start(tables=({"journal": {"ballast_mib": 1_048_576}},))
        desk.until_true(lambda: len(desk.read_log("reconciled")) > before, "book and broker agree")
        assert "cannot reserve 1048576 MiB" in str(desk.read_log("no_ballast"))
        assert run_ctl("resume") != 0
        assert "cannot reserve 1048576 MiB" in capsys.readouterr().err
        assert run_ctl("flatten") == 0
        desk.until_true(lambda: not desk.held(), "the position was closed")


def test_a_clean_stop_keeps_the_position_or_flattens_it_as_configured(
    bundled: Tape, lively: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as stack:
        stages = {
            rule: staged(stack, bundled, tmp_path / rule, lively, tables=(PATIENT, {"broker": {"on_stop": rule}}))
            for rule in ("keep", "flatten")
        }
        for desk in stages.values():
            desk.start()
        for rule, desk in stages.items():
            desk.until_true(partial(holding, desk), f"{rule}: held")
            desk.daemons[-1].terminate()
        for rule, desk in stages.items():
            assert desk.daemons[-1].wait(900) == 0, (rule, desk.log()[-2000:])
            assert bool(desk.held()) == (rule == "keep")
            assert desk.account.working == {}
            assert differences(desk.books(), desk.account) == []
            assert verified(desk, capsys)
            assert desk.read_log("stop_late") == []


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
            desk = Stage(server, clock, market, tmp_path, lively, (SELDOM_PINGED,))
        desk.start(environment={**KEYS, **systemd.environment})  # this server has gone; its address is configured
        stack.callback(desk.daemons[-1].kill)
        desk.until_true(lambda: systemd.received("READY=1"), "the daemon is ready")
        assert desk.journaled("BrokerReported") == []
        for outage in ("before the first report", "in the middle"):
            with serving(desk.market, desk.clock, **settings) as server:
                desk.server = server
                count = len(account.trades)
                desk.until_true(partial(has_traded, account, count + 4), f"trades after the outage {outage}")
        reports = len(desk.journaled("BrokerReported"))
        with serving(desk.market, desk.clock, **settings) as server:
            desk.server = server
            desk.until_true(lambda: not desk.held() and not account.working, "flat once more")
            desk.until_true(lambda: reports_flat(desk, reports), "a report shows it")
            desk.daemons[-1].terminate()
            assert desk.daemons[-1].wait(40) == 0, desk.log()[-2000:]
    books = desk.books()
    assert differences(books, account) == []
    assert books.state.risk.halt is None
    assert verified(desk, capsys)


def test_with_wrong_keys_the_daemon_stays_up_unreconciled_and_sends_no_order(
    bundled: Tape, lively: Path, tmp_path: Path
) -> None:
    wrong = {**KEYS, "APCA_API_SECRET_KEY": "a-secret-that-is-not-the-accounts"}
    with ExitStack() as stack:
        desk = staged(stack, bundled, tmp_path, lively)
        daemon = desk.start(environment=wrong)
        desk.until_true(lambda: len(desk.read_log("trade_stream_unauthorized")) >= 2, "the keys were refused twice")
        desk.until_time(new_york_ns(DAY, "10:20"))
        daemon.terminate()
        assert daemon.wait(30) == 0, desk.log()[-2000:]
        assert desk.requests("POST", "PATCH", "DELETE") == []
        assert not desk.books().state.risk.reconciled
        told = [line for line in desk.read_log("alarm") if line["alarm"] == "trade_stream_unauthorized"]
        assert str(told[0]["detail"]).startswith("the trade stream refused the keys")
        assert wrong["APCA_API_SECRET_KEY"] not in desk.log()


def test_live_money_at_an_account_of_another_number_halts_for_good(bundled: Tape, lively: Path, tmp_path: Path) -> None:
    live = {"desk": {"account": "live", "account_number": "987654321"}}
    with ExitStack() as stack:
        desk = staged(stack, bundled, tmp_path, lively, tables=(live,))
        daemon = desk.start()
        desk.until_true(lambda: bool(desk.journaled("BrokerReported")), "the broker's first report")
        desk.until_time(new_york_ns(DAY, "10:30"))
        daemon.terminate()
        assert daemon.wait(30) == 0, desk.log()[-2000:]
        halt = desk.books().state.risk.halt
        assert halt.reason == "wrong_account"
        assert desk.account.account_number in halt.detail
        assert "987654321" in halt.detail
        assert desk.requests("POST", "PATCH", "DELETE") == []
