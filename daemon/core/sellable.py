"""What may be sold now: how many of a position an exit may order. One rule for options and for shares.

The broker's figure counts only while it is newer than all that the desk heard of the symbol. An older one is unknown,
and unknown holds back no exit of what the book holds: the broker confirmed that by fills.
"""

from __future__ import annotations

from msgspec.structs import replace

from daemon.core.events import BrokerReported
from daemon.core.state import Draft


def note_moved(draft: Draft, symbol: str) -> None:
    """Remember that an order in `symbol` changed now: what a report that was asked for earlier has of it is old."""
    broker = draft.broker
    left = {other: count for other, count in broker.available.items() if other != symbol}
    draft.broker = replace(broker, available=left, moved={**broker.moved, symbol: draft.now_ns})


def note_filled(draft: Draft, symbol: str) -> None:
    """Remember that a fill in `symbol` was booked now: an earlier report has another position and another cash."""
    draft.broker = replace(draft.broker, filled={**draft.broker.filled, symbol: draft.now_ns})


def take_available(draft: Draft, event: BrokerReported) -> None:
    """Take over what the broker would let go of each symbol, where nothing was heard of it since it was asked.

    What the broker does not list is not there to be sold.
    """
    broker = draft.broker
    listed = {position.symbol: position.available for position in event.positions}
    found = dict.fromkeys(draft.book.positions.keys() - listed.keys(), 0)
    found.update({symbol: abs(int(count)) for symbol, count in listed.items() if count is not None})
    moved = {symbol: at_ns for symbol, at_ns in broker.moved.items() if at_ns >= event.asked_ns}
    available = {symbol: count for symbol, count in found.items() if symbol not in moved}
    filled = {symbol: at_ns for symbol, at_ns in broker.filled.items() if at_ns >= event.asked_ns}
    draft.broker = replace(broker, asked_ns=event.asked_ns, available=available, moved=moved, filled=filled)


def sellable(draft: Draft, symbol: str, side: int, surplus: int, hanging: int = 0) -> int:
    """How many of `surplus` an exit on `side` may order now; 0 or less where nothing is free.

    After news were lost, the figure of the last report says nothing. Where it counts, it knows best what the `hanging`
    contracts or shares of orders that should have ended still hold back.
    """
    free, broker = surplus - draft.working(symbol, side), draft.broker
    known = broker.available.get(symbol) if broker.asked_ns >= broker.lost_ns else None
    return free if known is None else min(free + hanging, known)
