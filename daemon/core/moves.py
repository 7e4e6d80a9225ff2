"""The book's moves: each change of a position or of the realised profit as a row of `moves`.

Trades, from flat to flat, are sums of these rows. Invariant: the rows' `realized_usd` add up to the book's `realized`,
their quantities to its positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import NamedTuple

from daemon.core.orders import Order
from daemon.core.records import MoveRow, RoundTripRow
from daemon.core.state import ZERO, Book, Position
from strategies.kit.quantity import Quantity

ENTER, ADD, REDUCE, LEAVE, CHANGE = "enter", "add", "reduce", "leave", "change"


class Cause(NamedTuple):
    """Why the book moves: an order's fill at `at_ns`, or another `reason`.

    `gains` are profits that positions realised without a change, by (opened_ns, symbol); for those in `entered` they
    make the entered value equal the mark. `side` is that of an amended fill whose order is forgotten.
    """

    reason: str
    order: Order | None = None
    at_ns: int = 0
    gains: Mapping[tuple[int, str], Decimal] = {}
    side: int = 0
    entered: frozenset[tuple[int, str]] = frozenset()


RECONCILED = Cause("reconciled")


class Move(NamedTuple):
    """One change of the book."""

    before: Book
    after: Book
    cause: Cause


def move_rows(moves: Iterable[Move], seq: int, now_ns: int, first_part: int) -> list[MoveRow]:
    """Return the rows of a step's moves, in their order; `first_part` numbers them within the event.

    A position that is removed and put back in one step (a split of two lines) or valued moves once.
    """
    changes: list[tuple[_PositionChange, Cause]] = []
    for move in moves:
        for part in _parts(move):
            earlier_changes = [n for n, (other, _) in enumerate(changes) if other.key == part.key]
            former = earlier_changes[-1] if earlier_changes and part.key[0] else None
            whole = part
            if former is not None and not _quantity_of(changes[former][0].after) and not _quantity_of(part.before):
                out = changes.pop(former)[0]
                whole = part._replace(before=out.before, gain=out.gain + part.gain, fees=out.fees + part.fees)
            changes.append((whole, move.cause))
    return [_row(part, cause, seq, now_ns, first_part + n) for n, (part, cause) in enumerate(changes)]


def left_of(row: MoveRow) -> Quantity:
    """Return how much of a move's quantity its trade left; what was left and is taken back has the other sign."""
    entry_value, exit_value = Decimal(row.entered_usd), Decimal(row.left_usd)
    entering = bool(entry_value) or (not exit_value and row.step in (ENTER, ADD))
    return 0 if entering else row.quantity


def round_trip(row: MoveRow) -> RoundTripRow:
    """Return what a move adds to its trade. A fill that is taken back takes its quantity and value back."""
    exit_quantity = left_of(row)
    is_ended = row.step == LEAVE
    return RoundTripRow(
        opened_ns=row.opened_ns,
        symbol=row.symbol,
        time_ns=row.time_ns,
        multiplier=row.multiplier,
        entered=row.quantity - exit_quantity,
        left_again=exit_quantity,
        entered_usd=float(row.entered_usd),
        left_usd=float(row.left_usd),
        realized_usd=float(row.realized_usd),
        fees_usd=float(row.fees_usd),
        fills=int(row.client_order_id is not None),
        left_ns=row.at_ns if is_ended else None,
        why_entered=row.reason if row.step == ENTER else None,
        why_left=row.reason if is_ended else None,
        entry_decision=row.decision if row.step == ENTER else None,
        exit_decision=row.decision if is_ended else None,
    )


def _quantity_of(position: Position | None) -> Quantity:
    return 0 if position is None else position.quantity


class _PositionChange(NamedTuple):
    """The change of one position, None where it is not held; without both, of the realised profit alone."""

    key: tuple[int, str]  # (opened_ns, symbol), (0, "") where no position is concerned
    before: Position | None
    after: Position | None
    gain: Decimal
    fees: Decimal


def _parts(move: Move) -> list[_PositionChange]:
    """Split a move by position; the last one has all that the others leave."""
    old_positions, new_positions = move.before.positions, move.after.positions
    gain, fees = move.after.realized - move.before.realized, move.after.fees - move.before.fees
    parts: list[_PositionChange] = []
    changed_symbols = [
        symbol
        for symbol in {**old_positions, **new_positions}
        if old_positions.get(symbol) != new_positions.get(symbol)
    ]
    for symbol in changed_symbols:
        old, new = old_positions.get(symbol), new_positions.get(symbol)
        position_gain, own_fees = (gain, fees) if symbol == changed_symbols[-1] else (_own_gain(old, new), ZERO)
        gain, fees = gain - position_gain, fees - own_fees
        if old is not None and new is not None and old.opened_ns != new.opened_ns:  # the clock was led back
            parts.append(_PositionChange((old.opened_ns, symbol), old, None, ZERO, ZERO))
            old = None
        position = old or new
        assert position is not None
        parts.append(_PositionChange((position.opened_ns, symbol), old, new, position_gain, own_fees))
    for key, amount in move.cause.gains.items():
        gain -= amount
        parts.append(_PositionChange(key, None, None, amount, ZERO))
    if gain or fees:
        order = move.cause.order
        parts.append(_PositionChange((0, "" if order is None else order.symbol), None, None, gain, fees))
    return parts


def _own_gain(old: Position | None, new: Position | None) -> Decimal:
    """Return what one of several positions realised."""
    if old is None or new is None:
        return ZERO if old is None else -old.cost * old.multiplier
    return new.pnl - old.pnl


def _row(part: _PositionChange, cause: Cause, seq: int, now_ns: int, number: int) -> MoveRow:
    old, new = part.before, part.after
    new_quantity, old_quantity = _quantity_of(new), _quantity_of(old)
    position = new or old
    multiplier = position.multiplier if position else 1
    cost = _cost(part)
    enters = _enters(part, cause)
    pnl = new.pnl if new else old.pnl + part.gain if old else None
    order = cause.order
    return MoveRow(
        opened_ns=part.key[0],
        symbol=part.key[1],
        seq=seq,
        part=number,
        at_ns=cause.at_ns or now_ns,
        time_ns=now_ns,
        step=_kind(old_quantity, new_quantity),
        reason=cause.reason if order is None else order.reason,
        decision=_decision(order),
        client_order_id=None if order is None else order.client_order_id,
        quantity=new_quantity - old_quantity,
        held=new_quantity,
        multiplier=multiplier,
        entered_usd=str(cost - part.gain - part.fees if enters else ZERO),
        left_usd=str(ZERO if enters else part.gain + part.fees - cost),
        realized_usd=str(part.gain),
        fees_usd=str(part.fees),
        pnl_usd=None if pnl is None else str(pnl),
    )


def _cost(part: _PositionChange) -> Decimal:
    """Return what the change adds to the cost of the position, USD."""
    old, new = part.before, part.after
    position = new or old
    cost_change = (new.cost if new else ZERO) - (old.cost if old else ZERO)
    return cost_change * position.multiplier if position else ZERO


def _enters(part: _PositionChange, cause: Cause) -> bool:
    """Return whether the change is of what was entered, also where a fill of that is taken back; else of what was left.

    A sale of an earlier trade that is taken back enters again.
    """
    new_quantity, old_quantity, order = _quantity_of(part.after), _quantity_of(part.before), cause.order
    side = cause.side if order is None else order.side
    earlier = order is not None and order.submitted_ns < part.key[0]
    if side * old_quantity > 0 or (side * old_quantity < 0 and not earlier):
        return side * old_quantity > 0
    return abs(new_quantity) > abs(old_quantity) or (
        new_quantity == old_quantity and (bool(_cost(part)) or part.key in cause.entered)
    )


def _kind(old_quantity: Quantity, new_quantity: Quantity) -> str:
    if old_quantity == new_quantity:
        return CHANGE
    if not old_quantity or not new_quantity:
        return LEAVE if old_quantity else ENTER
    return ADD if abs(new_quantity) > abs(old_quantity) else REDUCE


def _decision(order: Order | None) -> int | None:
    """Return the number of the order's decision; None for a foreign order."""
    number = order.work.partition(".")[0] if order is not None else ""
    return int(number) if number.isdecimal() else None
