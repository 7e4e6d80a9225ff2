"""News since the broker's last report was requested, by symbol: such news make the report old."""

from __future__ import annotations

from collections import Counter

from msgspec.structs import replace

from daemon.core.draft import Draft
from daemon.core.effects import AskBroker
from daemon.core.events import BrokerReported


def note_filled(draft: Draft, symbol: str) -> None:
    """Remember that a fill in `symbol` was booked now: earlier reports have another position and cash."""
    draft.broker = replace(draft.broker, filled=_at_now(draft, draft.broker.filled, symbol))


def note_touched(draft: Draft, symbol: str, why: str) -> None:
    """Remember that another party may have traded in `symbol`: its quantity is unknown until a new report."""
    broker = draft.broker
    draft.broker = replace(
        broker, available=_without(broker.available, symbol), touched=_at_now(draft, broker.touched, symbol)
    )
    draft.effects.append(AskBroker(why))


def take_available(draft: Draft, event: BrokerReported) -> None:
    """Take over the available quantity of each symbol without news since the report was requested.

    A symbol that the broker does not list has nothing to sell. Where a fill came later, the report is ignored and a
    doubt stays.
    """
    broker, asked_ns = draft.broker, event.asked_ns
    filled = _since(broker.filled, asked_ns)
    theirs = {position.symbol: int(position.quantity) for position in event.positions}
    ours = Counter({symbol: position.quantity for symbol, position in draft.book.positions.items()})
    ours.update(broker.foreign_held)
    doubtful = [symbol for symbol in sorted(theirs.keys() | ours) if theirs.get(symbol, 0) != ours[symbol]]
    listed = {position.symbol: position.available for position in event.positions}
    found = dict.fromkeys(draft.book.positions.keys() - listed.keys(), 0)
    found.update({symbol: abs(int(count)) for symbol, count in listed.items() if count is not None})
    moved, touched = _since(broker.moved, asked_ns), _since(broker.touched, asked_ns)
    available = {symbol: count for symbol, count in found.items() if symbol not in moved and symbol not in touched}
    draft.broker = replace(
        broker,
        asked_ns=asked_ns,
        available=available,
        moved=moved,
        touched=touched,
        filled=filled,
        doubtful=tuple(symbol for symbol in doubtful if symbol not in filled or symbol in broker.doubtful),
    )


def clamp_times(draft: Draft) -> None:
    """Move times in the future back to now, after the desk's clock was set back."""
    broker, now_ns = draft.broker, draft.now_ns
    moved, filled, touched = (
        {symbol: min(at_ns, now_ns) for symbol, at_ns in times.items()}
        for times in (broker.moved, broker.filled, broker.touched)
    )
    draft.broker = replace(broker, moved=moved, filled=filled, touched=touched)


def _at_now(draft: Draft, times: dict[str, int], symbol: str) -> dict[str, int]:
    return {**times, symbol: draft.now_ns}


def _without(counts: dict[str, int], symbol: str) -> dict[str, int]:
    return {other: count for other, count in counts.items() if other != symbol}


def _since(times: dict[str, int], asked_ns: int) -> dict[str, int]:
    return {symbol: at_ns for symbol, at_ns in times.items() if at_ns >= asked_ns}
