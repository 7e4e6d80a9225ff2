"""The markets of a daily strategy on the sessions of one split of a bars file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from daemon.core.limits import Trading
from daemon.core.strategy_rules import trading_for
from strategies import daily_rebalancer, regime_switcher
from strategies.kit.contract import DailySpec
from strategies.registry import daily_strategy
from training.desks.daily.markets.rebalancer import RebalancerMarket
from training.desks.daily.markets.regime import RegimeMarket
from training.desks.daily.table import DailyTable, read_table, table_cache
from training.desks.registry import kind
from training.study.folds import last_fold
from training.study.study import Fold

DailyMarket = RebalancerMarket | RegimeMarket


@dataclass(frozen=True, slots=True)
class EnvDefinition:
    """What a daily strategy's environments have in common."""

    spec: DailySpec
    bound: float  # of every observed value: far beyond what real bars come to
    actions: spaces.Space[Any]
    action_type: npt.DTypeLike
    market: Callable[..., DailyMarket]  # table, first, last, trading, and `count`, `seed`, `draws` by name
    episode: int | None  # sessions; None: to the end of the span

    @property
    def observations(self) -> spaces.Space[Any]:
        """The space of raw observations."""
        return spaces.Box(-self.bound, self.bound, self.spec.observation_shape, np.float32)


STOCKS = EnvDefinition(
    daily_rebalancer.SPEC,
    1e12,
    spaces.Box(-1.0, 1.0, (len(daily_rebalancer.SPEC.actions),), np.float32),
    np.float32,
    RebalancerMarket,
    None,
)
FUNDS = EnvDefinition(
    regime_switcher.SPEC,
    1e6,
    spaces.Discrete(len(regime_switcher.SPEC.actions)),
    np.int64,
    RegimeMarket,
    regime_switcher.EPISODE,
)


class SplitMarkets:
    """A bars file and the sessions of one of its splits; makes markets on them."""

    def __init__(self, definition: EnvDefinition, bars: Path | str, split: str, variant: str) -> None:
        names, known = Fold.__struct_fields__, kind(definition.spec.name)
        if split not in names:
            raise ValueError(f"split is {split!r}, expected one of {', '.join(names)}: choose one of these")
        known.check((variant,) if variant else (), known.networks[0])
        path = Path(bars)
        self._definition = definition
        self._table = _read(path, path.stat().st_mtime_ns, definition.spec.name)
        self._trading: Trading = trading_for(definition.spec.name)
        self._variant = {"variant": variant or known.variants[0]} if definition.spec.continuous else {}
        days = tuple(self._table.dates[self._table.first_decision :])
        self.dates: tuple[str, ...] = getattr(last_fold(days, known.walk, known.before), split)
        self.first, self.last = self._table.span(self.dates)

    def market(self, count: int, seed: int) -> DailyMarket:
        """`count` accounts whose episodes begin before sessions that are drawn."""
        return self._definition.market(
            self._table, self.first, self.last, self._trading, count=count, seed=seed, **self._variant
        )

    def market_from(self, begin: int) -> DailyMarket:
        """One account whose episode begins before this session (index into the table)."""
        return self._definition.market(
            self._table, begin, self.last, self._trading, count=1, draws=False, **self._variant
        )

    def begin(self, random: np.random.Generator) -> int:
        """A session to begin with, drawn as the markets draw: episodes of a fixed length are whole if they can be."""
        whole = (self._definition.episode or 1) - 1
        return self.first + int(random.integers(max(self.last - self.first + 1 - whole, 1)))

    def index(self, date: str) -> int:
        """The session of this date. Raises ValueError for one that is not in the split."""
        if date not in self.dates:
            raise ValueError(
                f"session is {date!r}; expected one from {self.dates[0]} to {self.dates[-1]}: see env.sessions"
            )
        return self._table.span((date,))[0]

    def date(self, day: int) -> str:
        """The date of a session (index into the table); "" after the last of the file."""
        return self._table.dates[day] if day < len(self._table.sessions) else ""


@lru_cache(maxsize=2)
def _read(path: Path, _modified_ns: int, strategy: str) -> DailyTable:
    """The file, read once for all environments of a process as long as it is not changed."""
    return read_table(path, daily_strategy(strategy), table_cache())
