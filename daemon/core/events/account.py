"""The account at the broker: positions, ledger, funds, whole reports."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from daemon.core.events.base import Event
from daemon.core.events.orders import BrokerOrder, OrderFilled


class BrokerPosition(msgspec.Struct, frozen=True):
    symbol: str
    quantity: Decimal  # contracts or shares, negative when short
    average_price: Decimal  # USD for one share
    available: Decimal | None = None  # not held back for working orders; None when unknown


class Activity(msgspec.Struct, frozen=True):
    """A line of the broker's ledger that is no fill. `kind` is its type, `amount` the change of cash in USD.

    Of a bust or correction `order` is the client order id and `side` the side of the fill that it amends.
    """

    id: str
    kind: str
    symbol: str
    quantity: Decimal  # signed change of contracts or shares, 0 for cash alone
    price: Decimal | None
    amount: Decimal
    status: str  # executed, correct, canceled, pending, or ""
    time_ns: int
    order: str = ""
    side: int = 0
    ex_date: str = ""  # YYYY-MM-DD: who held at the close before it is paid; "" where it is not known


class BrokerSnapshot(Event, frozen=True, tag=True):
    """The paper broker's positions at a start, reconciled by the step."""

    cash: Decimal
    positions: tuple[BrokerPosition, ...]
    open_orders: tuple[str, ...]  # client order ids


class BrokerLost(Event, frozen=True, tag=True):
    """Order news may be missing from here on: a stream ended, or the broker does not respond."""

    detail: str


class Funds(msgspec.Struct, frozen=True, gc=False):
    """Funds and margin of the account at the broker, in USD; None when unknown."""

    multiplier: Decimal | None = None  # of the buying power: 1 is a cash account
    buying_power: Decimal | None = None
    non_marginable: Decimal | None = None  # buying power without credit
    options: Decimal | None = None  # buying power for options
    equity: Decimal | None = None
    maintenance: Decimal | None = None  # margin requirement of the positions


class BrokerReported(Event, frozen=True, tag=True):
    """Full broker snapshot, requested at `asked_ns`: account, positions, orders, fills, activities.

    `orders` are the open ones and those that ended since the last report; `fills` and `activities` are the ledger's
    lines since the last report (all of the day after a start). Both may repeat known ones.
    """

    asked_ns: int
    account: str  # the account's number
    cash: Decimal
    blocked: str  # why the account may not trade, "" when it may
    positions: tuple[BrokerPosition, ...]
    open_orders: tuple[BrokerOrder, ...]
    ended_orders: tuple[BrokerOrder, ...]
    fills: tuple[OrderFilled, ...]
    activities: tuple[Activity, ...]
    funds: Funds | None = None
    market_open: bool | None = None  # by the broker's clock; None where it was not asked
    next_open_ns: int = 0  # by the broker's clock, 0 where it was not asked


class ContractExpired(Event, frozen=True, tag=True):
    """An option held at expiry settled. `shares` is the signed share change of an exercise, 0 when worthless."""

    symbol: str
    quantity: int
    underlying: str
    shares: int
    strike: Decimal


class CashTransferred(Event, frozen=True, tag=True):
    """Money came (positive) or went by transfer: neither gain nor loss."""

    amount: Decimal
