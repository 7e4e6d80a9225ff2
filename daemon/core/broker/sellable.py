"""Quantity that an exit may order now, and by which way. One rule for options and shares.

The broker's figure counts only while it is newer than all news of the symbol. An older one is unknown, which blocks no
exit of what the book holds: fills confirmed that. But selling shares that another party sold already opens a short
position, which the broker refuses for options only. After such news shares wait for a newer report; if none comes, they
leave by the broker's own call, which can only close. That call is also the last way for a position whose orders do not
end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from daemon.core.broker.hanging import given_up, may_be_free, note_held_up, on_its_way
from daemon.core.draft import Draft
from daemon.core.instruments.option_market import parse_occ
from daemon.core.orders import Order
from strategies.kit.units import SECOND_NS

# reports come each minute: without one for this long, shares leave by the broker's own call
CONFIRM_NS = 120 * SECOND_NS


class Leave(NamedTuple):
    """Quantity that an exit may order; `closing`: by the broker's own call; `waits`: for a report first."""

    quantity: int
    closing: bool = False
    waits: bool = False


def sellable(draft: Draft, symbol: str, side: int, surplus: int, hanging: Sequence[Order] = ()) -> Leave:
    """Return what an exit on `side` may order of `surplus` now; 0 or less when nothing is free, which is reported.

    Where the broker's figure counts, it includes what hanging orders (`hanging`) still hold back.
    """
    broker = draft.broker
    gone = max(-broker.foreign_held.get(symbol, 0), 0) if side < 0 else 0  # others sold it of the desk's position
    free = surplus - draft.working(symbol, side) - gone
    if not confirmed(draft, symbol):
        late = draft.now_ns - broker.asked_ns >= CONFIRM_NS
        return Leave(free, closing=True) if late and 0 < free == _alone(draft, symbol) else Leave(0, waits=True)
    known = broker.available.get(symbol) if broker.asked_ns >= max(broker.lost_ns, broker.started_ns) else None
    quantity = free
    if known is not None:
        foreign = max(-side * broker.foreign_held.get(symbol, 0), 0)  # is not the desk's, even if free
        held_back, coming = may_be_free(hanging), on_its_way(draft, symbol, side)
        quantity = max(min(free, known), min(free + held_back, known - foreign - coming))
    if quantity > 0:
        return Leave(quantity)
    if surplus == _alone(draft, symbol) and given_up(draft, hanging):
        return Leave(surplus, closing=True)
    note_held_up(draft, symbol, surplus, hanging)
    return Leave(quantity)


def _alone(draft: Draft, symbol: str) -> int:
    """Return the quantity that the broker's own call would close when all of it is the desk's own; else 0."""
    position = draft.book.positions.get(symbol)
    return 0 if position is None or draft.broker.foreign_held.get(symbol) else abs(position.quantity)


def confirmed(draft: Draft, symbol: str) -> bool:
    """Return True for an option, and for shares fully covered by a report.

    That is: no news lost since, no foreign trade since, and no open doubt about the quantity.
    """
    if parse_occ(symbol) is not None:
        return True
    broker = draft.broker
    reported = broker.reported_ns >= broker.started_ns and broker.asked_ns >= broker.lost_ns
    return reported and symbol not in broker.touched and (symbol not in broker.doubtful or symbol in broker.available)


def report_closing(draft: Draft, symbol: str, quantity: int) -> None:
    """Report that a position leaves by the broker's own call, and why."""
    how = "closed by the broker's own call, which sells no more"
    if confirmed(draft, symbol):
        why = f"{quantity} {symbol}: orders that do not end hold all of it; {how}"
        draft.alarm("exit_stuck", why, once=True, about=f"close {symbol}")
        return
    draft.alarm(
        "exit_unconfirmed", f"{quantity} {symbol}: no report says what is there; {how}", once=True, about=symbol
    )
