"""What may be sold now: how many of a position an exit may order, and by which way. One rule for options and shares.

The broker's figure counts only while it is newer than all that the desk heard of the symbol. An older one is unknown,
and unknown holds back no exit of what the book holds: the broker confirmed that by fills. But a sale of shares that
somebody else sold already opens a short position, which the broker refuses of options alone: after such news shares
wait for a report that is newer, and where none comes they leave by the broker's own call, which only ever closes.
That call is the last way too for a position all of which orders hold that do not end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from daemon.core.broker.hanging import given_up, may_be_free, note_held_up, on_its_way
from daemon.core.draft import Draft
from daemon.core.instruments.option_market import parse_occ
from daemon.core.orders import Order
from strategies.kit.units import SECOND_NS

CONFIRM_NS = 120 * SECOND_NS  # reports come each minute: without one for so long, shares leave by the broker's own call


class Leave(NamedTuple):
    """How many an exit may order; `closing`: by the broker's own call; `waits`: a report shall come first."""

    quantity: int
    closing: bool = False
    waits: bool = False


def sellable(draft: Draft, symbol: str, side: int, surplus: int, hanging: Sequence[Order] = ()) -> Leave:
    """What an exit on `side` may order of `surplus` now; 0 or less where nothing is free, which is reported.

    Where the broker's figure counts, it knows best what orders that should have ended (`hanging`) still hold back.
    """
    broker = draft.broker
    gone = max(-broker.foreign_held.get(symbol, 0), 0) if side < 0 else 0  # others sold it of what the desk holds
    free = surplus - draft.working(symbol, side) - gone
    if not confirmed(draft, symbol):
        late = draft.now_ns - broker.asked_ns >= CONFIRM_NS
        return Leave(free, closing=True) if late and 0 < free == _alone(draft, symbol) else Leave(0, waits=True)
    known = broker.available.get(symbol) if broker.asked_ns >= max(broker.lost_ns, broker.started_ns) else None
    quantity = free
    if known is not None:
        beside = max(-side * broker.foreign_held.get(symbol, 0), 0)  # is not the desk's, however free it is
        held_back, coming = may_be_free(hanging), on_its_way(draft, symbol, side)
        quantity = max(min(free, known), min(free + held_back, known - beside - coming))
    if quantity > 0:
        return Leave(quantity)
    if surplus == _alone(draft, symbol) and given_up(draft, hanging):
        return Leave(surplus, closing=True)
    note_held_up(draft, symbol, surplus, hanging)
    return Leave(quantity)


def _alone(draft: Draft, symbol: str) -> int:
    """How many the broker's own call would close, where all of it is the desk's own; 0 else."""
    position = draft.book.positions.get(symbol)
    return 0 if position is None or draft.broker.foreign_held.get(symbol) else abs(position.quantity)


def confirmed(draft: Draft, symbol: str) -> bool:
    """True for an option, and for shares of which a report says all: no news since were lost, none told of somebody
    else, and where it had another quantity than the book its figure still holds.
    """
    if parse_occ(symbol) is not None:
        return True
    broker = draft.broker
    heard = broker.reported_ns >= broker.started_ns and broker.asked_ns >= broker.lost_ns
    return heard and symbol not in broker.touched and (symbol not in broker.doubtful or symbol in broker.available)


def tell_closing(draft: Draft, symbol: str, quantity: int) -> None:
    """Report that a position leaves by the broker's own call, and why."""
    how = "closed by the broker's own call, which sells no more"
    if confirmed(draft, symbol):
        why = f"{quantity} {symbol}: orders that do not end hold all of it; {how}"
        draft.alarm("exit_stuck", why, once=True, about=f"close {symbol}")
        return
    draft.alarm(
        "exit_unconfirmed", f"{quantity} {symbol}: no report says what is there; {how}", once=True, about=symbol
    )
