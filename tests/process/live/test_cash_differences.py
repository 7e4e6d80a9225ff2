"""Cash that no line of the ledger explains: by night and for a while it halts nothing, and its line ends it.

One that stays for `broker.cash_halt_min` of a session halts. Expected values are the server's own books and clock.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from daemon.operator.status import differences_of
from tests.support.desks.stage import Stage, Table, Tape, halted, new_york_ns, new_york_time, soon, stage

DAY = "2024-11-01"
TEN_MINUTES: Table = {"broker": {"cash_halt_min": 10}}
MINUTE_NS = 60_000_000_000


def take_cash(desk: Stage, usd: str) -> None:
    """The broker takes cash and does not say what for."""

    def take() -> None:
        desk.account.cash -= Decimal(usd)

    desk.server.call(take)
    soon(desk, lambda: f"cash: broker {desk.account.cash} USD" in differences(desk), "it is noticed")


def explained(desk: Stage, usd: str) -> None:
    """The line of what was taken comes."""
    row = {"activity_type": "FEE", "net_amount": f"-{usd}", "date": DAY, "status": "executed", "description": "Fees"}
    desk.server.call(desk.account.note, desk.clock.now_ns(), row)
    soon(desk, lambda: desk.books().state.risk.reconciled, "book and broker agree")


def differences(desk: Stage) -> str:
    return differences_of(desk.books().state)


def alarms(desk: Stage) -> list[str]:
    return [line["alarm"] for line in desk.read_log("alarm")]


def test_unexplained_cash_halts_only_after_its_minutes_of_a_session_and_its_line_ends_it(
    bundled: Tape, lively: Path, tmp_path: Path
) -> None:
    with stage(bundled, DAY, "09:00", tmp_path, lively, TEN_MINUTES) as desk:
        desk.start()
        soon(desk, lambda: bool(desk.read_log("run_started")), "the start")
        soon(desk, lambda: desk.books().state.risk.reconciled, "book and broker agree")
        take_cash(desk, "5.00")  # before the open, for longer than the ten minutes
        desk.until_time(new_york_ns(DAY, "09:25"))
        assert (halted(desk), "cash_unexplained" in alarms(desk)) == ("", True)
        explained(desk, "5.00")
        desk.until_time(new_york_ns(DAY, "09:40"))
        take_cash(desk, "7.00")  # in the session, for five of them
        desk.until_time(new_york_ns(DAY, "09:45"))
        assert (halted(desk), desk.books().state.risk.reconciled) == ("", False)
        explained(desk, "7.00")
        assert halted(desk) == ""
        desk.until_time(new_york_ns(DAY, "09:48"))
        taken_ns = desk.clock.now_ns()
        take_cash(desk, "9.00")  # for good
        soon(desk, lambda: bool(halted(desk)), "the halt")
        halt = desk.books().state.risk.halt
        assert halt is not None
        assert halt.reason == "cash_difference"
        assert 10 <= (halt.since_ns - taken_ns) / MINUTE_NS <= 13, new_york_time(halt.since_ns)  # a report each minute
        assert desk.posts() == []
