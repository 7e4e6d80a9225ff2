"""Who holds what in one account: the desk, and all together, by the server's trades alone.

A trade belongs to who sent its order. What has no order is the company's or the clearing house's: a new name and a
merger take both along, a split and a spin-off give each its own shares times the ratio. The desk's part is a multiple
of its `unit`, a share or the finest fraction, and what is left over is the other's. So the fraction that the company
pays out takes nothing from whole shares of the desk; from its fractions it takes at most what the account had beyond
whole shares.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from daemon.alpaca_api.books import PositionChange
from strategies.kit.quantity import floor_to

ZERO, WHOLE = Decimal(0), Decimal(1)


@dataclass(frozen=True, slots=True)
class Holders:
    """Shares or contracts of each symbol: the desk's `own`, the `total`; `disturbed`: others sold of the desk's."""

    own: Mapping[str, Decimal]
    total: Mapping[str, Decimal]
    disturbed: frozenset[str] = frozenset()


def fold(
    before: Holders,
    trades: Sequence[PositionChange],
    is_own: Callable[[str], bool],
    foreign_trades: Collection[PositionChange] = (),
    unit: Decimal = WHOLE,
    parents: Mapping[str, str] | None = None,
) -> Holders:
    """Return who holds what after `trades`, in their order.

    `is_own` tells of an order's id whether the desk sent it; `foreign_trades` are without an order and no desk's;
    `unit` is the least number of shares that the desk counts; `parents` has what each share was spun off from.
    """
    own, total, disturbed = dict(before.own), dict(before.total), set(before.disturbed)
    moving: tuple[Decimal, Decimal] | None = None  # all and own of what the next trade's shares replace

    def part_of(quantity: Decimal, own_part: Decimal, whole: Decimal) -> Decimal:
        """The desk's part of shares that come for a holding, of which it had a part."""
        part = own_part * quantity / whole if whole else ZERO
        return part if own_part == whole else Decimal(floor_to(part, unit))

    for place, trade in enumerate(trades):
        symbol, all_, share = trade.symbol, total.get(trade.symbol, ZERO), own.get(trade.symbol, ZERO)
        if trade.order_id:
            if is_own(trade.order_id):
                share += trade.quantity
            elif trade.quantity < 0 < share:
                disturbed.add(symbol)
        elif trade in foreign_trades:
            pass
        elif moving is not None:
            share, moving = share + part_of(trade.quantity, moving[1], moving[0]), None
        elif all_ and trade.quantity == -all_ and _replaces(trades[place : place + 2]):
            moving, share = (all_, share), ZERO
        elif trade.quantity > 0 and not trade.price and (parent := (parents or {}).get(symbol)):
            share += part_of(trade.quantity, own.get(parent, ZERO), total.get(parent, ZERO))
        elif trade.price and trade.quantity == -(all_ % 1):
            share -= _paid_out(share, all_, unit)  # cash in lieu of a fraction
        elif all_:
            share = share * (all_ + trade.quantity) / all_
            share = share if all_ == own.get(symbol) else Decimal(floor_to(share, unit))
        elif trade.price:
            share += trade.quantity  # shares for a contract
        own[symbol], total[symbol] = share, all_ + trade.quantity
    return Holders(own, total, frozenset(disturbed))


def _replaces(pair: Sequence[PositionChange]) -> bool:
    """Return True where a trade and the next one are a new name or a merger: shares for shares, at no price."""
    if len(pair) < 2 or pair[1].order_id or pair[0].symbol == pair[1].symbol:
        return False
    merges = not pair[1].price and pair[0].time_ns == pair[1].time_ns and pair[0].quantity * pair[1].quantity < 0
    return merges or pair[0].quantity == -pair[1].quantity


def _paid_out(share: Decimal, all_: Decimal, unit: Decimal) -> Decimal:
    """Return what of the desk's shares goes with the account's fraction of a share."""
    return share - floor_to(share, WHOLE) if unit == WHOLE else min(share % 1, all_ % 1)
