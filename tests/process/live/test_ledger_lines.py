"""Lines of the ledger that reach a live desk by either source, and corrections whose orders do not show them.

Expected values are the server's own books.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from tests.support.desks.stage import Stage, Table, Tape, halted, new_york_ns, soon, stage

DAY = "2024-11-01"
LISTENING: Table = {"alpaca": {"activity_stream": True}}


def agrees(desk: Stage) -> bool:
    state = desk.books().state
    positions = {symbol: Decimal(position.quantity) for symbol, position in state.book.positions.items()}
    there = {symbol: position.qty for symbol, position in desk.account.positions.items()}
    return state.risk.reconciled and (state.book.cash, positions) == (desk.account.cash, there)


@pytest.mark.parametrize("kind", ["trade_correct", "trade_bust"])
@pytest.mark.parametrize("tables", [{}, LISTENING], ids=["reports alone", "with the stream"])
def test_a_correction_of_hundreds_of_dollars_that_its_order_does_not_show_halts_nothing(
    bundled: Tape, lively: Path, tmp_path: Path, kind: str, tables: Table
) -> None:
    with stage(bundled, DAY, "09:25", tmp_path, lively, tables) as desk:
        desk.start()
        desk.until_time(new_york_ns(DAY, "10:45"))
        soon(desk, lambda: any(trade.execution_id for trade in desk.account.trades), "a fill")
        if tables:  # either stream names the fill, where several are alike
            desk.server.faults.add("update_lost", where={"event": kind})
        desk.server.faults.add(kind, shift="0.70", order_kept=True)
        soon(desk, lambda: any(row.amends for row in desk.account.activities), "the correction")
        before = desk.clock.now_ns()
        desk.until_time(before + 45 * 60 * 10**9)  # `cash_halt_min` is 30
        soon(desk, lambda: agrees(desk), "book and broker agree")
        assert (
            halted(desk),
            [line["alarm"] for line in desk.read_log("alarm") if line["alarm"].startswith("cash")],
        ) == ("", [])


def test_a_session_with_a_faulty_stream_of_activities_ends_with_the_broker_s_books(
    bundled: Tape, lively: Path, tmp_path: Path
) -> None:
    with stage(bundled, DAY, "09:25", tmp_path, lively, LISTENING) as desk:
        for kind in ("activity_dropped", "activity_garbage", "activity_doubled", "activity_late"):
            desk.server.faults.add(kind, times=3)
        at_ns = new_york_ns(DAY, "10:50")
        desk.server.faults.add("ledger_line", activity_type="WH", amount="-3.10", from_ns=at_ns)
        desk.start()
        desk.until_time(new_york_ns(DAY, "11:00"))
        desk.server.faults.add("activity_refused", times=1000)
        desk.server.faults.add("activity_dropped")
        desk.until_time(new_york_ns(DAY, "11:30"))
        soon(desk, lambda: agrees(desk), "book and broker agree")
        assert (halted(desk), bool(desk.read_log("activity_stream_listening"))) == ("", True)
        assert len(desk.account.trades) > 1
