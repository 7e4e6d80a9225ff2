"""Texts and figures of Alpaca's wire format: decimals, money, times, ids, and the fields of a fill."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Protocol

from daemon.core.instruments.option_market import is_contract
from daemon.core.session import NEW_YORK
from strategies.kit.units import SECOND_NS

ZERO = Decimal(0)
MAGNITUDE = 15  # digits before the point, or zeros after it: more is no valid quantity or price
TERMINAL = frozenset({"filled", "canceled", "expired", "rejected", "replaced"})
"""Final statuses of an order."""
Json = dict[str, Any]
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def text(value: Decimal) -> str:
    """Return a decimal in the wire format: no exponent, no trailing zeros."""
    return format(value.normalize(), "f") if value else "0"


def decimal(value: str) -> Decimal | None:
    """Return a client's number; None if it is no number, or has more than `MAGNITUDE` digits."""
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    return number if number.is_finite() and (not number or abs(number.adjusted()) <= MAGNITUDE) else None


def money(value: Decimal) -> str:
    """Return USD with at least two decimals."""
    return f"{value:.2f}" if value == value.quantize(Decimal("0.01")) else text(value)


@lru_cache(maxsize=4096)  # daily histories have equal labels for every symbol
def stamp(ns: int, *, new_york: bool = False) -> str:
    """Return a time as RFC 3339 with up to nine digits, in UTC (`Z`) or with New York's offset (`-04:00`)."""
    seconds, fraction = divmod(ns, SECOND_NS)
    whole = datetime.fromtimestamp(seconds, NEW_YORK if new_york else UTC).isoformat()
    body, offset = whole[:19], whole[19:] if new_york else "Z"
    return body + offset if not fraction else f"{body}.{fraction:09d}".rstrip("0") + offset


def multiplier(symbol: str) -> int:
    """Return the shares in one unit of a price: 100 for an option, adjusted or not, 1 for a share."""
    return 100 if is_contract(symbol) else 1


@lru_cache(maxsize=65_536)
def asset_id(symbol: str) -> str:
    """Return a UUID for a symbol: always the same, though not Alpaca's."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, symbol))


def ulid(ms: int, number: int) -> str:
    """Return a ULID: 48 bits of milliseconds, then 80 bits that sort within one, here a number."""
    value = (ms << 80) | number
    return "".join(_CROCKFORD[value >> shift & 31] for shift in range(125, -1, -5))


class FilledOrder(Protocol):
    """Fields of an order in the row of its fill, after the fill; `left` is the unfilled quantity."""

    @property
    def id(self) -> str: ...
    @property
    def symbol(self) -> str: ...
    @property
    def side(self) -> str: ...
    @property
    def position_intent(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def filled_qty(self) -> Decimal: ...
    @property
    def left(self) -> Decimal: ...


def fill_fields(order: FilledOrder, quantity: Decimal, price: Decimal, at_ns: int, *, whole: bool) -> Json:
    """Return the fields of a FILL activity; as documented it has neither client order id nor execution id."""
    return {
        "activity_type": "FILL",
        "transaction_time": stamp(at_ns),
        "type": "fill" if whole else "partial_fill",
        "price": text(price),
        "qty": text(quantity),
        "side": "sell_short"
        if order.position_intent == "sell_to_open" and multiplier(order.symbol) == 1
        else order.side,
        "symbol": order.symbol,
        "leaves_qty": text(max(order.left, Decimal(0))),
        "order_id": order.id,
        "cum_qty": text(order.filled_qty),
        "order_status": order.status,
    }
