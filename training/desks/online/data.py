"""Files of bars made ready for `online_dqn`. Nothing here depends on how the sessions are split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from daemon.core.events import Event
from daemon.core.limits import Trading
from strategies.kit.contract import Float32Array, ShareSpec
from strategies.online_dqn import ACTIONS, HOLD, OnlineDqn
from strategies.online_dqn.model_config import ModelConfig
from strategies.online_dqn.state_vector import portfolio_fields
from training.desks.online.market.bars import Bars, Float64Array, Int64Array, read_bars
from training.desks.online.market.history import History, TradingDay, history_of
from training.desks.online.market.online_market import OnlineMarket
from training.evaluate.bars import BarDesk
from training.evaluate.players import choosing


@dataclass(frozen=True, slots=True)
class OnlineData:
    """Bars made ready for one model configuration and its symbols."""

    bars: Bars
    history: History
    config: ModelConfig
    strategy: OnlineDqn
    trading: Trading

    @property
    def spec(self) -> ShareSpec:
        """The strategy's."""
        return self.strategy.spec

    @property
    def days(self) -> Mapping[str, int]:
        """The usable sessions by date, ascending, and their place among all sessions."""
        usable = frozenset(self.history.dates)
        places = {scheduled.session.date: place for place, scheduled in enumerate(self.bars.scheduled)}
        return {date: place for date, place in places.items() if date in usable}

    def on(self, dates: Sequence[str]) -> tuple[TradingDay, ...]:
        """These sessions, one for each symbol."""
        return self.history.on(dates)

    def market(
        self, dates: Sequence[str], trading: Trading, *, count: int = 0, seed: int = 0, auto_reset: bool = True
    ) -> OnlineMarket:
        """Rows that play these sessions; without a `count` one for each session and symbol."""
        days = self.on(dates)
        symbols = len(self.spec.symbols)
        size = count or len(days)
        return OnlineMarket(
            self.history, days, self.config, trading, symbols=symbols, count=size, seed=seed, auto_reset=auto_reset
        )

    @property
    def desk(self) -> BarDesk:
        """Where figures come from."""
        flat = choosing(HOLD, len(ACTIONS), 1.0)
        return BarDesk(self.strategy, self._fed, flat, minutes=lambda date, _bars, _rules: self.minutes(date))

    def _fed(self, date: str, _: Trading) -> tuple[Iterable[Event], int]:
        """The feed from the session on that warms the strategy for this one, and how many sessions lie before it."""
        bars, first = self.bars, self.days[date]
        opening = bars.scheduled[first].session.open_ns
        begins = [int(each.start_ns[each.start_ns < opening][-self.spec.history_bars]) for each in bars.series]
        start = sum(scheduled.session.close_ns <= min(begins) for scheduled in bars.scheduled)
        return chain.from_iterable(bars.feed(index) for index in range(start, len(bars.scheduled))), first - start

    def minutes(self, date: str) -> int:
        """Minutes of a session in which a position could be held."""
        return max(day.flatten - day.first for day in self.on((date,))) * self.history.bar_min

    def rows(self, dates: Sequence[str]) -> tuple[Int64Array, Int64Array]:
        """The rows of these sessions, all symbols, and the number of each one's session."""
        days = self.on(dates)
        places = {date: place for place, date in enumerate(dates)}
        rows = np.concatenate([np.arange(day.first, day.end) for day in days])
        sessions = np.concatenate([np.full(day.end - day.first, places[day.session.date]) for day in days])
        return rows, sessions

    def flat_observations(self, rows: Int64Array) -> Float32Array:
        """What is observed at these rows with nothing but cash, float32 (n, width)."""
        cash = float(self.trading.paper.cash_usd)
        fields = portfolio_fields(self.config.portfolio, shares=0, price=1.0, cash=cash, equity=cash, cost=0, age_min=0)
        return self._observations(rows, np.broadcast_to(fields, (len(rows), len(self.config.portfolio))))

    def probes(self, dates: Sequence[str], count: int, seed: int) -> Float32Array:
        """Up to `count` observations of these sessions with made-up portfolios, float32 (n, width)."""
        random = np.random.default_rng(seed)
        rows, _ = self.rows(dates)
        chosen = random.choice(rows, size=min(count, len(rows)), replace=False)
        return self._observations(chosen, random.uniform(-1.0, 3.0, size=(len(chosen), len(self.config.portfolio))))

    def _observations(self, rows: Int64Array, portfolio: Float64Array) -> Float32Array:
        window = np.arange(1 - self.config.window, 1)
        market = self.history.seen[self.history.newest[rows][:, None] + window].reshape(len(rows), -1)
        return np.concatenate([market, portfolio.astype(np.float32)], axis=1)


def load(paths: Sequence[Path], config: ModelConfig, symbols: tuple[str, ...], trading: Trading) -> OnlineData:
    """Read bars of these symbols (of the configuration's own where there are none). Raises what `read_bars` raises."""
    strategy = OnlineDqn(config, symbols)
    bars = read_bars(paths, strategy.spec)
    return OnlineData(bars, history_of(bars, strategy.spec, config, trading), config, strategy, trading)
