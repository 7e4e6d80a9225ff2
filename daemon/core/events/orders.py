"""News of orders: accepted, filled, cancelled, looked up, corrected."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from daemon.core.events.base import Event


class BrokerOrder(msgspec.Struct, frozen=True):
    """An order as the broker describes it. `status` is a key of `LIFE`'s map; `average_price` None before a fill."""

    client_order_id: str
    order_id: str
    symbol: str
    side: int  # +1 buy, -1 sell
    quantity: Decimal
    limit_price: Decimal | None
    intent: str  # buy_to_open, ...; "" when unknown
    status: str
    filled: Decimal
    average_price: Decimal | None  # USD a share
    submitted_ns: int
    replaced_by: str = ""


class OrderAccepted(Event, frozen=True, tag=True):
    client_order_id: str
    order_id: str = ""  # the broker's own id, "" where it has none


class OrderRejected(Event, frozen=True, tag=True):
    client_order_id: str
    reason: str


class OrderFilled(Event, frozen=True, tag=True):
    """A fill, whole or partial. Its identity is (client order id, `correction`, `cumulative_quantity`).

    `cumulative_quantity` counts from the order's start, `cumulative_cost` = sum of price x quantity (USD a share
    times contracts), `cumulative_fees` in USD; quantities are set from these, never added.
    """

    client_order_id: str
    symbol: str
    side: int  # +1 bought, -1 sold
    price: Decimal  # of this execution
    filled_ns: int  # when it traded (in replay the bar's open or its end); `time_ns` is when we knew
    cumulative_quantity: int
    cumulative_cost: Decimal
    cumulative_fees: Decimal
    quantity: int  # of this execution
    correction: int = 0


class OrderCanceled(Event, frozen=True, tag=True):
    client_order_id: str


class OrderExpired(Event, frozen=True, tag=True):
    client_order_id: str


class CancelRejected(Event, frozen=True, tag=True):
    client_order_id: str
    reason: str


class OrderUnknown(Event, frozen=True, tag=True):
    """The broker did not answer in time: the order may live, and counts as exposure until settled."""

    client_order_id: str


class OrderFound(Event, frozen=True, tag=True):
    """The broker's state of an order: the answer to a look-up, or news about a foreign order."""

    order: BrokerOrder


class OrderMissing(Event, frozen=True, tag=True):
    """The broker, asked several times, knows no order of this name."""

    client_order_id: str


class TradeCorrected(Event, frozen=True, tag=True):
    """The broker amended or took back an execution, which `execution_id` names.

    The totals are those of the order in the same message: after the amendment, or still those before it.
    """

    client_order_id: str
    execution_id: str
    cumulative_quantity: int
    cumulative_cost: Decimal
    reason: str  # trade_bust or trade_correct
