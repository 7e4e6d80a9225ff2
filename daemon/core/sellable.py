"""What may be sold now: how many of a position an exit may order, and by which way. One rule for options and shares.

The broker's figure counts only while it is newer than all that the desk heard of the symbol. An older one is unknown,
and unknown holds back no exit of what the book holds: the broker confirmed that by fills. But a sale of shares that
somebody else sold already opens a short position, which the broker refuses of options alone: after such news shares
wait for a report that is newer, and where none comes they leave by the broker's own call, which only ever closes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from daemon.core.guards import alarm
from daemon.core.hanging import may_be_free, note_held_up
from daemon.core.option_market import parse_occ
from daemon.core.orders import Order
from daemon.core.risk_view import SECOND_NS
from daemon.core.state import Draft

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
    free, broker = surplus - draft.working(symbol, side), draft.broker
    if not confirmed(draft, symbol):
        late = draft.now_ns - broker.asked_ns >= CONFIRM_NS
        position = draft.book.positions.get(symbol)
        whole = position is not None and free == abs(position.quantity) and not broker.foreign_held.get(symbol)
        return Leave(free, closing=True) if late and whole else Leave(0, waits=True)
    known = broker.available.get(symbol) if broker.asked_ns >= max(broker.lost_ns, broker.started_ns) else None
    quantity = free
    if known is not None:
        beside = max(-side * broker.foreign_held.get(symbol, 0), 0)  # is not the desk's, however free it is
        held_back = may_be_free(hanging)
        quantity = max(min(free, known), min(free + held_back, known - beside))
    if quantity <= 0:
        note_held_up(draft, symbol, surplus, hanging)
    return Leave(quantity)


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
    """Tell that shares leave by the broker's own call."""
    why = f"{quantity} {symbol}: no report says what is there; closed by the broker's own call, which sells no more"
    alarm(draft, "exit_unconfirmed", why, once=True, about=symbol)
