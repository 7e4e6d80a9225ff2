"""One account of shares on daily bars in Decimal: sells at the open, then buys that share what cash there is, fees.

The fills are the paper broker's, written once more; how short cash is shared is the desk's own rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

from daemon.core.desks.shares.sizes import share_out, slack, step_cost, whole_units
from daemon.core.limits import Trading
from training.data.daily_table import DailyTable

GRID = Decimal("0.0001")
MICRO = Decimal("0.000001")


class Ledger:
    """Cash in USD and a count of steps of each symbol, in the order of the table."""

    def __init__(self, table: DailyTable, rules: Trading, per_share: int = 1) -> None:
        self.table, self.rules, self.per_share = table, rules, per_share
        self.cash = rules.paper.cash_usd
        self.steps = [0] * len(table.symbols)
        self._day = [Decimal(0)] * 3  # shares traded, shares sold, USD that sales brought

    @property
    def held(self) -> tuple[float, ...]:
        """Shares of each symbol."""
        return tuple(steps / self.per_share for steps in self.steps)

    def equity(self, day: int) -> Decimal:
        """Cash and shares in USD at a session's closes."""
        return self.cash + sum(
            (self.worth(place, self._close(day, place)) for place in range(len(self.steps))), GRID * 0
        )

    def worth(self, place: int, price: Decimal) -> Decimal:
        """What is held of a symbol is worth at this price, USD."""
        return price * self.steps[place] / self.per_share

    def trade(self, day: int, goals: Mapping[int, int]) -> None:
        """Go for these counts of steps by place, decided at the closes before session `day`, in that session."""
        changes = {place: goal - self.steps[place] for place, goal in sorted(goals.items())}
        changes = {p: steps for p, steps in changes.items() if not self._is_small(p, steps, self._close(day - 1, p))}
        sales = {place: self._sold(day, place, -change) for place, change in changes.items() if change < 0}
        buys = {place: change for place, change in changes.items() if change > 0}
        wait = self.rules.paper.share_wait_rate
        self._day = [Decimal(0)] * 3
        for place, steps in sales.items():
            if opened := self._open(day, place):
                rest = steps % self.per_share  # not in the auction
                self._move(place, rest - steps, opened)
                self._move(place, -rest, (opened * (1 - wait)).quantize(GRID, ROUND_FLOOR))
        waits, room = 1 + wait, 1 + Decimal(repr(self.rules.basket.price_slack))
        asks = {p: (o * waits).quantize(GRID, ROUND_CEILING) for p in buys if (o := self._open(day, p))}
        limits = {place: (ask * room).quantize(GRID, ROUND_CEILING) for place, ask in asks.items()}
        for place, steps in self._paid_for({p: buys[p] for p in asks}, limits, self.cash).items():
            self._move(place, steps, asks[place])
        self._pay_fees()

    def _sold(self, day: int, place: int, steps: int) -> int:
        """Steps of a sale, without a fraction beside whole shares that is too small for an order of its own."""
        rest = steps % self.per_share
        stays = steps > rest and steps < self.steps[place] and self._is_small(place, -rest, self._close(day - 1, place))
        return steps - rest if stays else steps

    def _paid_for(self, buys: dict[int, int], prices: Mapping[int, Decimal], cash: Decimal) -> dict[int, int]:
        traded = [prices[place] * steps / self.per_share for place, steps in buys.items()]
        if sum((usd + (usd * self._rate).quantize(MICRO, ROUND_CEILING) for usd in traded), Decimal(0)) <= cash:
            return buys
        costs = [step_cost(prices[place], self._rate, self.per_share) for place in buys]
        wanted = sum(steps > 0 for steps in buys.values())
        free = whole_units(cash, self.per_share) - slack(self.per_share) * wanted
        parts = dict(zip(buys, share_out(list(buys.values()), costs, free, self.per_share), strict=True))
        small = {p for p, steps in parts.items() if steps < buys[p] and self._is_small(p, steps, prices[p])}
        return {place: 0 if place in small else steps for place, steps in parts.items()}

    def _is_small(self, place: int, change: int, mark: Decimal) -> bool:
        """A fraction of a share too small for an order, which does not sell all."""
        part, ends = change % self.per_share, self.steps[place] + change == 0
        worth = abs(change) * mark / self.per_share
        return part > 0 and not ends and worth < self.rules.basket.min_order_usd

    def _move(self, place: int, steps: int, price: Decimal) -> None:
        value = price * steps / self.per_share
        self.cash -= value + (abs(value) * self._rate).quantize(MICRO, ROUND_HALF_EVEN)
        self.steps[place] += steps
        shares = Decimal(abs(steps)) / self.per_share
        self._day[0] += shares
        if steps < 0:
            self._day[1] += shares
            self._day[2] -= value

    def _pay_fees(self) -> None:
        """CAT of every share, TAF of those sold, the SEC's of what sales brought: each in whole cents a day, up."""
        paper = self.rules.paper
        if paper.cash_usd < paper.share_fees_below_usd:
            for traded, rate in zip(self._day, (paper.share_cat_usd, paper.share_taf_usd, paper.sec_rate), strict=True):
                self.cash -= (traded * rate).quantize(Decimal("0.01"), ROUND_CEILING)

    @property
    def _rate(self) -> Decimal:
        return self.rules.paper.share_cost_rate

    def _close(self, day: int, place: int) -> Decimal:
        return Decimal(int(self.table.close_ticks[day, place])) * GRID

    def _open(self, day: int, place: int) -> Decimal:
        return Decimal(int(self.table.open_ticks[day, place])) * GRID
