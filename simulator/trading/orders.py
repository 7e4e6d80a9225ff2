"""Orders as the account stores and REST shows them.

Only the venue changes an order, in place; nothing is decided here.
"""

from __future__ import annotations

import dataclasses
from decimal import Decimal

from daemon.alpaca_api.wire import TERMINAL, ZERO, Json, asset_id, stamp, text
from daemon.core.instruments.option_market import parse_occ


@dataclasses.dataclass(slots=True)
class AlpacaOrder:
    """An order; it changes in place. Times in ns UTC, 0 for never; `cost` = sum of price x quantity of its fills."""

    id: str
    client_order_id: str
    symbol: str
    side: str
    type: str
    time_in_force: str
    qty: Decimal | None
    notional: Decimal | None
    created_ns: int
    position_intent: str = ""
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    trail_price: Decimal | None = None
    trail_percent: Decimal | None = None
    hwm: Decimal | None = None
    extended_hours: bool = False
    status: str = "pending_new"
    filled_qty: Decimal = ZERO
    cost: Decimal = ZERO
    reserve_price: Decimal = ZERO  # USD a share, reserved from the buying power by an opening order
    updated_ns: int = 0
    filled_ns: int = 0
    expired_ns: int = 0
    expires_ns: int = 0
    cancel_requested_ns: int = 0
    canceled_ns: int = 0
    failed_ns: int = 0
    replaced_ns: int = 0
    replaced_by: str | None = None
    replaces: str | None = None
    triggered: bool = False  # the stop has been touched
    held: bool = False  # a fault holds it: no event, no fill
    unreached_until_ns: int = dataclasses.field(default=0, init=False)  # a stop that no price before that touches
    source: str | None = None
    past: list[tuple[int, Json]] = dataclasses.field(default_factory=list)  # REST's views with their start times

    @property
    def sign(self) -> int:
        """+1 buys, -1 sells."""
        return 1 if self.side == "buy" else -1

    @property
    def open(self) -> bool:
        """Whether it may still fill."""
        return self.status not in TERMINAL

    @property
    def left(self) -> Decimal:
        """The unfilled quantity; of a notional order at its reserve price, to nine decimals."""
        if self.qty is not None:
            return self.qty - self.filled_qty
        assert self.notional is not None
        return ((self.notional - self.cost) / self.reserve_price).quantize(Decimal("1e-9"))

    @property
    def average(self) -> Decimal | None:
        """The average price of its fills in USD a share, None without a fill."""
        return (self.cost / self.filled_qty).quantize(Decimal("1e-6")) if self.filled_qty else None

    def shown(self) -> Json:
        """Return the order object of REST and trade updates; timestamps mix `Z` and New York's offset, as Alpaca's."""
        option = parse_occ(self.symbol) is not None
        return {
            "id": self.id,
            "client_order_id": self.client_order_id,
            "created_at": stamp(self.created_ns),
            "updated_at": stamp(self.updated_ns or self.created_ns, new_york=True),
            "submitted_at": stamp(self.created_ns, new_york=True),
            "filled_at": stamp(self.filled_ns, new_york=True) if self.filled_ns else None,
            "expired_at": stamp(self.expired_ns) if self.expired_ns else None,
            "expires_at": stamp(self.expires_ns) if self.expires_ns else None,
            "cancel_requested_at": stamp(self.cancel_requested_ns) if self.cancel_requested_ns else None,
            "canceled_at": stamp(self.canceled_ns) if self.canceled_ns else None,
            "failed_at": stamp(self.failed_ns) if self.failed_ns else None,
            "replaced_at": stamp(self.replaced_ns) if self.replaced_ns else None,
            "replaced_by": self.replaced_by,
            "replaces": self.replaces,
            "asset_id": asset_id(self.symbol),
            "symbol": self.symbol,
            "asset_class": "us_option" if option else "us_equity",
            "notional": _text_or_none(self.notional),
            "qty": _text_or_none(self.qty),
            "filled_qty": text(self.filled_qty),
            "filled_avg_price": _text_or_none(self.average),
            "order_class": "simple" if option else "",
            "order_type": self.type,
            "type": self.type,
            "side": self.side,
            "position_intent": self.position_intent,
            "time_in_force": self.time_in_force,
            "limit_price": _text_or_none(self.limit_price),
            "stop_price": _text_or_none(self.stop_price),
            "status": self.status,
            "extended_hours": self.extended_hours,
            "legs": None,
            "trail_percent": _text_or_none(self.trail_percent),
            "trail_price": _text_or_none(self.trail_price),
            "hwm": _text_or_none(self.hwm),
            "ratio_qty": None,
            "subtag": None,
            "source": self.source,
        }

    def shown_at(self, ns: int) -> Json | None:
        """Return REST's view at `ns`; None before the order existed."""
        return next((order for since_ns, order in reversed(self.past) if since_ns <= ns), None)


def _text_or_none(value: Decimal | None) -> str | None:
    return None if value is None else text(value)


def triggers(order: AlpacaOrder, middle: Decimal) -> bool:
    """Return whether this price touches a stop; a trailing stop first moves its high-water mark."""
    if order.type == "trailing_stop":
        best = min if order.side == "buy" else max
        order.hwm = middle if order.hwm is None else best(order.hwm, middle)
        trail = order.trail_price or order.hwm * (order.trail_percent or Decimal(0)) / 100
        order.stop_price = order.hwm + trail * order.sign
    assert order.stop_price is not None
    return (middle - order.stop_price) * order.sign >= 0
