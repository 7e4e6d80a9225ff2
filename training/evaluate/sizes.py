"""A policy on accounts of several sizes, through the dry run: how far holdings are from their targets.

The targets come from the strategy, asked again with steps so fine that rounding is negligible. The difference from the
holdings after the session's fills is due to whole shares (or steps), short cash, limits and missing prices, and to the
risk overlay if there is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from math import prod
from typing import Any

import msgspec

from strategies.kit.contract import Answer, Bar, DailySpec, DailyStrategy, Observation, Portfolio, Rebalance, View
from training.evaluate.days import Desk, desk_before, play_to_desk
from training.evaluate.machine import Player
from training.study.progress import counted
from training.study.study import SessionResult, SizeFigures

SIZES_USD = (5_000, 25_000, 100_000, 1_000_000)
SESSIONS = 252  # most sessions that a report plays, the first of its last test: each size costs a dry run
FINE = 10**9  # steps in a share with which rounding is negligible


class _Noting:
    """Wraps a strategy and records, at each decision, its portfolio and its target shares."""

    def __init__(self, strategy: DailyStrategy) -> None:
        self._strategy = strategy
        self.portfolio: Portfolio | None = None  # portfolio at the session's decision
        self.wanted: dict[str, float] = {}  # target shares of the symbols that change

    def forget(self) -> None:
        """A session begins."""
        self.portfolio, self.wanted = None, {}

    @property
    def spec(self) -> DailySpec:
        return self._strategy.spec

    @property
    def state_type(self) -> type[Any]:
        return self._strategy.state_type

    def start(self) -> Any:
        return self._strategy.start()

    def remember(self, state: Any, bars: tuple[Bar, ...]) -> Any:
        return self._strategy.remember(state, bars)

    def readjust(self, state: Any, symbol: str, bars: tuple[Bar, ...]) -> Any:
        return self._strategy.readjust(state, symbol, bars)

    def known(self, state: Any) -> Mapping[str, tuple[Bar, ...]]:
        return self._strategy.known(state)

    def observe(self, state: Any, bars: tuple[Bar, ...], view: View) -> tuple[Any, Observation | None]:
        return self._strategy.observe(state, bars, view)

    def decide(self, state: Any, answer: Answer, view: View) -> tuple[Any, Rebalance]:
        assert view.portfolio is not None, "a desk of shares shows its portfolio"
        fine = msgspec.structs.replace(view.portfolio, per_share=FINE)
        ideal = self._strategy.decide(state, answer, msgspec.structs.replace(view, portfolio=fine))[1]
        self.portfolio, self.wanted = view.portfolio, {leg.symbol: float(leg.goal) for leg in ideal.basket.legs}
        return self._strategy.decide(state, answer, view)


def at_sizes(policy: Player, desk: Desk, sizes_usd: Sequence[float] = SIZES_USD) -> tuple[SizeFigures, ...]:
    """The policy's results in the desk's sessions for each amount of paper cash, with the desk's other rules."""
    return tuple([at_size(policy, desk, usd) for usd in counted(sizes_usd, "sizes")])


def at_size(policy: Player, desk: Desk, capital_usd: float) -> SizeFigures:
    """The result with this much paper cash. Raises as `training.evaluate.days.desk_before`."""
    paper = replace(desk.trading.paper, cash_usd=Decimal(str(capital_usd)))
    noting = _Noting(desk.strategy)
    rate = float(paper.share_cost_rate)
    sized = desk_before(desk.table, desk.dates, noting, replace(desk.trading, paper=paper))
    last, sessions, offs, denials, fractions = sized.last, list[SessionResult](), list[list[float]](), 0, False
    for day in range(sized.first, last + 1):
        noting.forget()
        result, sized = play_to_desk(policy, replace(sized, first=day, last=day))
        sessions += result.sessions
        denials += sum(result.denials.values())
        if (portfolio := noting.portfolio) is not None:
            offs.append(_off(noting.wanted, portfolio, sized))
            fractions = portfolio.per_share > 1
    decisions = max(len(offs), 1)
    return SizeFigures(
        capital_usd=capital_usd,
        sessions=len(sessions),
        fractions=fractions,
        net_return=prod(1.0 + session.pnl_usd / session.capital_usd for session in sessions) - 1.0,
        off=sum(map(sum, offs)) / decisions,
        off_most=sum(max(offsets, default=0.0) for offsets in offs) / decisions,
        orders=sum(session.trades for session in sessions) / len(sessions),
        costs=sum(session.fees_usd for session in sessions) / capital_usd,
        denials=denials,
        day_fees=sum(session.fees_usd - rate * session.premium_usd for session in sessions) / capital_usd,
    )


def _off(goals: Mapping[str, float], portfolio: Portfolio, desk_after: Desk) -> list[float]:
    """Absolute difference of each symbol's weight after the session from its goal, at the decision's prices."""
    positions = {symbol: float(position.quantity) for symbol, position in desk_after.state.book.positions.items()}
    rows = zip(desk_after.strategy.spec.symbols, portfolio.shares, portfolio.prices, strict=True)
    return [
        abs(positions.get(symbol, 0.0) - goals.get(symbol, share_before)) * price / portfolio.equity
        for symbol, share_before, price in rows
    ]
