"""Transaction costs: an order against its arrival price, an entry or exit against the price of its decision.

Only computes: `daemon.reports.execution_watch` gathers the data. Money is Decimal, a cost is positive.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec

from strategies.kit.quantity import Quantity, total

ZERO, BP = Decimal(0), Decimal(10_000)
QUOTE, PRINT, CLOSE = "quote", "print", "close"


class Arrival(msgspec.Struct, frozen=True):
    """A price in USD a share as known to the desk: the mid of a quote, a print, or the last known bar's close."""

    price: Decimal
    source: str  # quote, print or close
    known_ns: int
    bid: Decimal | None = None
    ask: Decimal | None = None

    @property
    def spread(self) -> Decimal | None:
        """Ask - bid in USD a share; None without a quote, or where it is not above 0."""
        if self.bid is None or self.ask is None or self.ask <= self.bid:
            return None
        return self.ask - self.bid


class OrderQuality(msgspec.Struct, frozen=True, kw_only=True):
    """One order, which is one attempt of a work. Prices USD a share, times nanoseconds UTC as journaled, 0 for never.

    `cost` is the sum of price x quantity filled; `arrival` the price known to the desk when the order was sent, None if
    unknown; `status` its final status, a word of `daemon.core.orders`.
    """

    client_order_id: str
    work: str  # decision.leg
    decision: int
    attempt: int
    purpose: str  # entry or exit
    symbol: str
    side: int  # +1 buy, -1 sell
    auction: bool
    quantity: Quantity
    multiplier: int  # 100 for options
    limit: Decimal | None  # None: market
    arrival: Arrival | None
    status: str
    reason: str  # of a rejection
    filled: Quantity
    cost: Decimal
    fees: Decimal
    corrections: int
    decided_ns: int
    submitted_ns: int
    accepted_ns: int
    first_fill_ns: int
    last_fill_ns: int
    cancel_asked_ns: int
    canceled_ns: int
    ended_ns: int

    @property
    def average(self) -> Decimal | None:
        """Average fill price; None without a fill."""
        return self.cost / self.filled if self.filled else None

    @property
    def notional(self) -> Decimal | None:
        """USD filled, at the arrival price; None without a fill or an arrival price."""
        return self.arrival.price * self.filled * self.multiplier if self.arrival and self.filled else None

    @property
    def slippage_usd(self) -> Decimal | None:
        """Cost of the fills beyond the arrival price, USD for the whole order; negative when they were better.

        side x (cost - quantity x arrival) x multiplier: the trader's "arrival cost" (Kissell, "The Science of
        Algorithmic Trading and Portfolio Management", 2014, chapter 3).
        """
        if self.arrival is None or not self.filled:
            return None
        return self.side * (self.cost - self.arrival.price * self.filled) * self.multiplier

    @property
    def slippage_share(self) -> Decimal | None:
        """Slippage in USD a share."""
        slippage = self.slippage_usd
        return None if slippage is None else slippage / (self.filled * self.multiplier)

    @property
    def slippage_bp(self) -> Decimal | None:
        """Slippage in basis points of the arrival price."""
        slippage, notional = self.slippage_usd, self.notional
        return None if slippage is None or not notional else slippage / notional * BP

    @property
    def spread_ratio(self) -> Decimal | None:
        """Effective over quoted spread: 2 x |average - mid| / (ask - bid), at the arrival's quote.

        1 is a trade at the quote, below 1 inside of it. The effective spread is that of SEC rule 600(b) (17 CFR
        242.600) and Bessembinder and Venkataraman ("Bid-ask spreads", Encyclopedia of Quantitative Finance, 2010).
        """
        average, spread = self.average, self.arrival.spread if self.arrival else None
        if average is None or spread is None or self.arrival is None:
            return None
        return 2 * abs(average - self.arrival.price) / spread

    @property
    def improvement(self) -> Decimal | None:
        """USD a share better than the limit; None without a limit or a fill."""
        average = self.average
        return None if average is None or self.limit is None else self.side * (self.limit - average)


class WorkQuality(msgspec.Struct, frozen=True, kw_only=True):
    """An entry or exit over all its attempts, against a paper trade of the same size at the decision's price.

    Implementation shortfall (Perold, "The implementation shortfall: paper versus reality", Journal of Portfolio
    Management 14(3), 1988) is the paper trade's gain less the desk's: `execution_usd` on the filled quantity, plus
    `missed_usd` on the rest, up to the work's end, plus `fees_usd`. None if a price is unknown.
    """

    work: str
    symbol: str
    side: int
    purpose: str
    orders: int
    wanted: Quantity
    filled: Quantity
    multiplier: int
    decision: Arrival | None  # price when the policy answered; of a rule, when it first sent
    end: Arrival | None  # price when its last order ended, or now while one works
    open: bool
    cost: Decimal
    fees_usd: Decimal

    @property
    def execution_usd(self) -> Decimal | None:
        if self.decision is None:
            return None
        return self.side * (self.cost - self.decision.price * self.filled) * self.multiplier

    @property
    def missed_usd(self) -> Decimal | None:
        missing = self.wanted - self.filled
        if not missing:
            return ZERO
        if self.decision is None or self.end is None:
            return None
        return self.side * (self.end.price - self.decision.price) * missing * self.multiplier

    @property
    def shortfall_usd(self) -> Decimal | None:
        execution, opportunity = self.execution_usd, self.missed_usd
        return None if execution is None or opportunity is None else execution + opportunity + self.fees_usd


class Quality(msgspec.Struct, frozen=True):
    """A session's orders in the order of sending, and its works in the order of their first orders."""

    orders: tuple[OrderQuality, ...]
    works: tuple[WorkQuality, ...]

    @property
    def filled_share(self) -> Decimal | None:
        """Filled part of the wanted quantity of all works, 0 to 1; None if nothing was wanted."""
        quantity_wanted = total(work.wanted for work in self.works)
        return Decimal(total(work.filled for work in self.works)) / quantity_wanted if quantity_wanted else None

    @property
    def fees_usd(self) -> Decimal:
        return sum((order.fees for order in self.orders), ZERO)

    @property
    def slippage_usd(self) -> Decimal:
        """Sum over the orders whose arrival price is known."""
        return sum((order.slippage_usd or ZERO for order in self.orders), ZERO)

    @property
    def slippage_bp(self) -> Decimal | None:
        """Mean weighted by notional, in basis points; None without a fill that has an arrival price."""
        notional = sum((order.notional or ZERO for order in self.orders), ZERO)
        return self.slippage_usd / notional * BP if notional else None

    @property
    def shortfall_usd(self) -> Decimal:
        """Sum over the works whose prices are known."""
        return sum((work.shortfall_usd or ZERO for work in self.works), ZERO)

    @property
    def unpriced(self) -> int:
        """Count of filled orders without a known arrival price."""
        return sum(bool(order.filled) and order.arrival is None for order in self.orders)


class ExecutionSums(msgspec.Struct, frozen=True):
    """Sums for a report: money, shares and basis points as text, counts as numbers."""

    orders: int
    works: int
    filled_share: str | None
    slippage_usd: str
    slippage_mean_bp: str | None
    shortfall_usd: str
    unpriced_orders: int


def sums_of(quality: Quality) -> ExecutionSums:
    """Return the sums for a report."""
    share, mean = quality.filled_share, quality.slippage_bp
    return ExecutionSums(
        orders=len(quality.orders),
        works=len(quality.works),
        filled_share=None if share is None else f"{share:.4f}",
        slippage_usd=plain(quality.slippage_usd),
        slippage_mean_bp=None if mean is None else f"{mean:.2f}",
        shortfall_usd=plain(quality.shortfall_usd),
        unpriced_orders=quality.unpriced,
    )


def plain(value: Decimal) -> str:
    """Return the exact value without an exponent: 1E+2 is "100"; endless quotients are cut to 10 decimals."""
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -10:
        value = value.quantize(Decimal("1E-10"))
    return f"{value.normalize():f}" if value else "0"
