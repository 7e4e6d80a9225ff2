"""The texts and figures that Alpaca writes on the wire: decimals, money, times, ids, and the fields of a fill."""

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
MAGNITUDE = 15  # digits before the point, or zeros after it: more is no quantity and no price
TERMINAL = frozenset({"filled", "canceled", "expired", "rejected", "replaced"})
"""The statuses that an order never leaves."""
Json = dict[str, Any]
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def text(value: Decimal) -> str:
    """A decimal as the wire writes it: no exponent, no trailing zeros."""
    return format(value.normalize(), "f") if value else "0"


def decimal(value: str) -> Decimal | None:
    """The number that a client wrote; None for no number, and for one of more than `MAGNITUDE` digits."""
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    return number if number.is_finite() and (not number or abs(number.adjusted()) <= MAGNITUDE) else None


def money(value: Decimal) -> str:
    """USD with cents at least, more digits where there are more."""
    return f"{value:.2f}" if value == value.quantize(Decimal("0.01")) else text(value)


@lru_cache(maxsize=4096)  # a history of days has the same labels for every symbol
def stamp(ns: int, *, new_york: bool = False) -> str:
    """RFC 3339 with up to nine digits, in UTC (`Z`) or with New York's offset (`-04:00`)."""
    seconds, fraction = divmod(ns, SECOND_NS)
    whole = datetime.fromtimestamp(seconds, NEW_YORK if new_york else UTC).isoformat()
    body, offset = whole[:19], whole[19:] if new_york else "Z"
    return body + offset if not fraction else f"{body}.{fraction:09d}".rstrip("0") + offset


def multiplier(symbol: str) -> int:
    """Shares in one unit, as its price counts: 100 for an option, an adjusted one too, 1 for a share."""
    return 100 if is_contract(symbol) else 1


@lru_cache(maxsize=65_536)
def asset_id(symbol: str) -> str:
    """A UUID for a symbol: always the same, though not Alpaca's."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, symbol))


def ulid(ms: int, number: int) -> str:
    """A ULID: 48 bits of milliseconds, then what sorts within one, here a number."""
    value = (ms << 80) | number
    return "".join(_CROCKFORD[value >> shift & 31] for shift in range(125, -1, -5))


class FilledOrder(Protocol):
    """What the row of a fill shows of its order, after the fill; `left` is the unfilled quantity."""

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
    """The fields of a FILL activity; as documented it has neither client order id nor execution id."""
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
