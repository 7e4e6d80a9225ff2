"""The rows of a step about trades: what moved the book, and the profit of each held position at a new mark."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal

from daemon.core.draft import Draft
from daemon.core.moves import LEAVE, move_rows, round_trip
from daemon.core.records import MoveRow, RoundTripRow, Row
from daemon.core.risk.marks import guarded, marked
from daemon.core.state import Position


def trade_rows(draft: Draft, first_part: int) -> list[Row]:
    """Return the step's moves and what they and the marks add to trades; `first_part` numbers the moves."""
    if not draft.moves:  # most steps, so this comes first
        return _valued(draft, frozenset()) if draft.observed or _marks_differ(draft) else []
    moves = move_rows(draft.moves, draft.seq, draft.now_ns, first_part)
    rows: list[Row] = list(moves)
    rows.extend(round_trip(row) for row in moves if row.opened_ns)
    rows.extend(_valued(draft, {(row.opened_ns, row.symbol) for row in moves}))
    rows.extend(_ended(draft, row) for row in moves if row.step == LEAVE)
    return rows


def _valued(draft: Draft, moved: Collection[tuple[int, str]]) -> list[Row]:
    """Return the profit of each held position that was observed, `moved` or has a new mark."""
    rows: list[Row] = []
    for symbol, position in draft.book.positions.items():
        if draft.observed or (position.opened_ns, symbol) in moved or _remarked(draft, symbol):
            price = marked(draft, symbol)
            profit = None if price is None else _profit(position, price)
            if profit is not None or draft.observed:
                rows.append(_at_mark(draft, position.opened_ns, symbol, profit, draft.observed))
    return rows


def _marks_differ(draft: Draft) -> bool:
    former = draft.former
    return draft.marks is not former.marks or draft.quotes is not former.quotes


def _remarked(draft: Draft, symbol: str) -> bool:
    """Return whether the symbol's mark is a new one."""
    former = draft.former
    if guarded(draft):
        return draft.marks.get(symbol) != former.marks.get(symbol)
    return draft.quotes.get(symbol) is not former.quotes.get(symbol)


def _profit(position: Position, price: Decimal) -> float:
    """Return what the position realised, and would realise at `price`, in USD."""
    return float(position.pnl + (price * position.quantity - position.cost) * position.multiplier)


def _at_mark(draft: Draft, opened_ns: int, symbol: str, profit: float | None, bars: int) -> RoundTripRow:
    return RoundTripRow(
        opened_ns=opened_ns,
        symbol=symbol,
        time_ns=draft.now_ns,
        bars=bars,
        worst_usd=profit,
        best_usd=profit,
        now_usd=profit,
    )


def _ended(draft: Draft, row: MoveRow) -> RoundTripRow:
    """Return the end of a trade: its profit counts as an excursion, too."""
    profit = None if row.pnl_usd is None else float(row.pnl_usd)
    return _at_mark(draft, row.opened_ns, row.symbol, profit, 0)
