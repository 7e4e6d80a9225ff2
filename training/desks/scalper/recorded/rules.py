"""Marks and limits of a desk on recorded quotes, as whole numbers over many environments.

The rules are those of `daemon.core.risk.marks` and `daemon.core.desks.options.execution`. Prices are in half cents a
share, so that mids are whole, and limits of orders in cents. Fractions of the desk's limits are whole millionths.
"""

from __future__ import annotations

import torch
from torch import Tensor

from daemon.core.instruments.quotes import NARROW_USD, STEP_USD
from daemon.core.limits import Trading
from training.desks.scalper.prices import MILLION, exact, millionths
from training.study.folds import HistoryError

HALF_CENTS = 200  # of a dollar


class QuoteRules:
    """The limits of one desk that need a quote."""

    def __init__(self, trading: Trading) -> None:
        """Resolve the limits. Raises HistoryError for rules under which an order outlives its minute."""
        risk, rules, sizing = trading.risk, trading.execution, trading.sizing
        if max(rules.entry_reprice_s, rules.exit_reprice_s) > 60:
            raise HistoryError(
                f"entry_reprice_s is {rules.entry_reprice_s}, exit_reprice_s {rules.exit_reprice_s}: on recorded "
                "quotes training knows orders of a minute: choose at most 60"
            )
        if trading.paper.contracts_per_minute < sizing.max_contracts:
            raise HistoryError(
                f"paper.contracts_per_minute is {trading.paper.contracts_per_minute}, sizing.max_contracts "
                f"{sizing.max_contracts}: training knows whole fills: choose at least as many"
            )
        self._width, self._leap = millionths(exact(risk.mark_width_max)), millionths(exact(risk.mark_leap_max))
        self._narrow, self._step = int(NARROW_USD * HALF_CENTS), int(STEP_USD * HALF_CENTS) * MILLION
        self._slack = millionths(1 + exact(rules.entry_slack))
        self._collar = millionths(exact(risk.price_collar))
        self._below_bid = millionths(1 - exact(rules.exit_slack))
        self._spread = millionths(exact(risk.spread_max))
        self._at_mid = rules.exit_start == "mid"
        self._attempts = rules.exit_limit_attempts

    def price(self, bid: Tensor, ask: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """The price that a quote in cents implies next to the `known` one, and where it implies any (bool)."""
        middle, wide = bid + ask, ask - bid
        narrow = (bid > 0) & (ask >= bid) & ((2 * wide <= self._narrow) | (2 * wide * MILLION <= self._width * middle))
        bound = torch.maximum(known, 2 * bid)
        bound = torch.where(ask > 0, torch.minimum(bound, 2 * ask), bound)
        return torch.where(narrow, middle, bound), narrow | (bound != known)

    def leaps(self, price: Tensor, known: Tensor) -> Tensor:
        """Where a price is too far from the known one to count at once."""
        return (price - known).abs() * MILLION > (torch.maximum(price, known) * self._leap).clamp(min=self._step)

    def marked(
        self, mark: Tensor, doubt: Tensor, known: Tensor, bid: Tensor, ask: Tensor, where: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The mark and the leap that waits, each 0 for none, after a quote `where` there is one; `known` is not 0."""
        price, implies = self.price(bid, ask, known)
        far = self.leaps(price, known)
        again = (doubt > 0) & ((doubt - known) * (price - known) >= 0)
        both = torch.where((price - known).abs() <= (doubt - known).abs(), price, doubt)
        follows = self.leaps(price, both)
        taken = torch.where(far & follows, both, price)
        waits = far & (~again | follows)
        new_mark = torch.where(where & implies & (~far | again), taken, mark)
        return new_mark, torch.where(where & implies, price * waits, doubt)

    def entry_limit(self, ask: Tensor, bound: Tensor) -> Tensor:
        """The limit of a buy in cents."""
        return torch.minimum(ask * self._slack // MILLION, bound)

    def entry_bound(self, bid: Tensor, ask: Tensor) -> Tensor:
        """The highest limit of any attempt of an entry that is decided on at this quote, in cents."""
        return (bid + ask) * (MILLION + self._collar) // (2 * MILLION)

    def may_pay(self, limit: Tensor, bid: Tensor, ask: Tensor) -> Tensor:
        """Where a buy at this limit passes the gates on spread and price, bool."""
        middle = bid + ask
        narrow = (ask - bid) * 2 * MILLION <= middle * self._spread
        close = (2 * limit - middle).abs() * MILLION <= middle * self._collar
        return (bid > 0) & (ask > 0) & narrow & close

    def exit_limit(self, bid: Tensor, price: Tensor, attempt: Tensor) -> Tensor:
        """The limit of a sale in cents, 0 for a market order; `attempt` counts from 0, `price` is the mark."""
        cent = 2 * MILLION
        collared = torch.maximum(2 * bid * self._below_bid, price * (MILLION - self._collar)).clamp(min=cent)
        least = torch.minimum(collared, price * MILLION)
        limit = -(-least.clamp(min=cent) // cent)
        if self._at_mid:
            limit = torch.where(attempt == 0, (price + 1) // 2, limit)
        return limit * (attempt < self._attempts)
