"""Sessions, bars, quotes and prices, from the calendar and the market data."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from daemon.core.events.base import Event
from strategies.kit.contract import Bar, Session


class SessionScheduled(Event, frozen=True, tag=True):
    """The running or next session, with those after it (for expiries)."""

    session: Session
    upcoming: tuple[Session, ...]
    previous: tuple[Session, ...] = ()


class Contract(msgspec.Struct, frozen=True, gc=False):
    """One listed option. `symbol` is the OCC symbol, `expiry` the New York date, `right` +1 call, -1 put."""

    symbol: str
    expiry: str
    right: int
    strike: Decimal
    open_interest: int


class ContractsListed(Event, frozen=True, tag=True):
    """The option chain near the money for one session. `volatility` is the chain's, annualised; None when unknown."""

    session_date: str
    contracts: tuple[Contract, ...]
    volatility: float | None


class BarClosed(Event, frozen=True, tag=True):
    """A bar closed; `time_ns` is when we knew it (in replay: its end)."""

    bar: Bar


class BarCorrected(Event, frozen=True, tag=True):
    """A late correction of an earlier bar with the same symbol and start."""

    bar: Bar


class BarRejected(Event, frozen=True, tag=True):
    """A bar that the intake refused. `reason` is one of the intake's names, `detail` the offending values as text."""

    symbol: str
    start_ns: int
    reason: str
    detail: str


class Quote(msgspec.Struct, frozen=True, gc=False):
    """The best bid and ask of one option in USD a share; `bid` 0 means no bid, `ask` 0 no offer.

    `low` and `high` are the extreme mids since the last quote of this contract (a bar's range in replay, the
    conflation interval live), so that a stop touched in between is seen; they equal the mid where unknown.
    """

    symbol: str
    bid: Decimal
    ask: Decimal
    low: Decimal
    high: Decimal
    quoted_ns: int


class QuotesReceived(Event, frozen=True, tag=True):
    """Conflated quotes. `closes_bar_ns` is the start of the bar whose close they describe, 0 for quotes in between.

    Every bar is followed by exactly one `QuotesReceived` that closes it (with the quotes there are, maybe none);
    the strategy observes the bar when that arrives.
    """

    closes_bar_ns: int
    quotes: tuple[Quote, ...]


class Price(msgspec.Struct, frozen=True, gc=False):
    """A price of a share in USD, exact."""

    symbol: str
    price: Decimal


class PricesPrinted(Event, frozen=True, tag=True):
    """Shares traded at these prices; `opening` for the opening auction. A replay's market fills orders at them."""

    date: str
    opening: bool
    prices: tuple[Price, ...]


class RebalanceDue(Event, frozen=True, tag=True):
    """A daily desk decides now; all events that it may know came before. The first one of a `date` counts.

    `running` are the running session's bars so far where the desk decides before the close, none where it decides on
    complete bars before the open.
    """

    date: str  # of the session in which the basket is traded
    running: tuple[Bar, ...] = ()


class HistoryAdjusted(Event, frozen=True, tag=True):
    """A split or dividend: all daily bars of `symbol`, adjusted anew, replace those that are known. Oldest first."""

    symbol: str
    bars: tuple[Bar, ...]


class ClockTicked(Event, frozen=True, tag=True):
    """Time passed; every rule with a deadline is checked."""


class SessionEnded(Event, frozen=True, tag=True):
    """The regular session closed; day orders lapse, expiring contracts settle."""

    date: str
