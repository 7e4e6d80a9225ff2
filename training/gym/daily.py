"""The markets of the daily strategies as gymnasium environments; `training.gym` registers them.

    one = gymnasium.make("rltrader/DailyRebalancer-v0", bars="stocks.parquet")
    many = gymnasium.make_vec("rltrader/RegimeSwitcher-v0", num_envs=64, bars="etfs.parquet")

The markets are those of one split of a bars file. Nothing is decided here: NumPy goes in and out of
`training.desks.daily`. Observations are raw: scaling belongs to the policy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from daemon.core.limits import Trading
from strategies import daily_rebalancer, regime_switcher
from strategies.kit.contract import DailySpec
from strategies.registry import daily_strategy
from training.data.daily_table import DailyTable, read_table, table_cache
from training.desks.daily.markets.rebalancer import RebalancerMarket
from training.desks.daily.markets.regime import RegimeMarket
from training.desks.registry import kind
from training.runs.settings import trading_of
from training.study.folds import last_fold
from training.study.study import Fold

DailyMarket = RebalancerMarket | RegimeMarket


@dataclass(frozen=True, slots=True)
class EnvDefinition:
    """What a daily strategy's environments have in common."""

    spec: DailySpec
    bound: float  # bound of every observed value, far beyond real bars
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

    def __init__(
        self,
        definition: EnvDefinition,
        bars: Path | str,
        split: str,
        variant: str,
        config: Path | str | None = None,
        symbols: tuple[str, ...] = (),
    ) -> None:
        names, training_kind = Fold.__struct_fields__, kind(definition.spec.name, symbols=symbols)
        if split not in names:
            raise ValueError(f"split is {split!r}, expected one of {', '.join(names)}: choose one of these")
        training_kind.check((variant,) if variant else (), training_kind.networks[0])
        path = Path(bars)
        self._definition = definition
        self._table = _read(path, path.stat().st_mtime_ns, definition.spec.name, symbols)
        self._trading: Trading = trading_of(definition.spec.name, None if config is None else Path(config))
        self._variant = {"variant": variant or training_kind.variants[0]} if definition.spec.continuous else {}
        days = tuple(self._table.dates[self._table.first_decision :])
        self.dates: tuple[str, ...] = getattr(last_fold(days, training_kind.walk, training_kind.unusable), split)
        self.first, self.last = self._table.span(self.dates)

    def market(self, count: int, seed: int) -> DailyMarket:
        """`count` accounts whose episodes begin before sessions that are drawn."""
        return self._definition.market(
            self._table, self.first, self.last, self._trading, count=count, seed=seed, **self._variant
        )

    def market_from(self, begin: int) -> DailyMarket:
        """A market of one account whose episode begins before session `begin` (index into the table)."""
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
def _read(path: Path, _modified_ns: int, strategy: str, symbols: tuple[str, ...]) -> DailyTable:
    """The file, read once for all environments of a process as long as it is not changed."""
    return read_table(path, daily_strategy(strategy, symbols), table_cache())


Float32Array = npt.NDArray[np.float32]
SEEDS = 2**31
_SINGLE: dict[str, Any] = {"render_modes": []}
_VECTOR: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}


class DailyEnv(gymnasium.Env[Float32Array, Any]):
    """One account of a daily strategy, one decision a session; see `stocks_env` and `funds_env`.

    `truncated` when the time is over, `terminated` never. `info` has `equity_usd` at the last close and `session`, the
    date that is decided for. `reset(options={"session": "2015-07-02"})` begins with that session.
    """

    metadata = _SINGLE

    def __init__(self, definition: EnvDefinition, markets: SplitMarkets, render_mode: str | None = None) -> None:
        self.observation_space, self.action_space = definition.observations, definition.actions
        self.render_mode = render_mode
        self._type, self._markets = definition.action_type, markets
        self._market: DailyMarket | None = None

    @property
    def sessions(self) -> tuple[str, ...]:
        """The dates of the split, ascending."""
        return self._markets.dates

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32Array, dict[str, Any]]:
        """The first observation of an episode from a session that is drawn, or from `options["session"]`."""
        super().reset(seed=seed)
        session, markets = (options or {}).get("session"), self._markets
        begin = markets.begin(self.np_random) if session is None else markets.index(session)
        market = self._market = markets.market_from(begin)
        info = {"equity_usd": float(market.equity_usd[0]), "session": markets.date(begin)}
        return market.observe()[0].numpy(), info

    def step(self, action: Any) -> tuple[Float32Array, float, bool, bool, dict[str, Any]]:
        """Trade in the next session.

        Raises:
            gymnasium.error.ResetNeeded: the episode is over.
        """
        market = self._market
        if market is None:
            raise gymnasium.error.ResetNeeded("the episode is over: call reset before the next step")
        day = int(market.day[0])
        step = market.step(torch.from_numpy(np.array([action], dtype=self._type)))
        over = step.truncated is not None
        observation = market.observe() if step.last is None else step.last
        info = {"equity_usd": float(market.closing_usd[0][0]), "session": self._markets.date(day + 1)}
        self._market = None if over else market
        return observation[0].numpy(), float(step.rewards[0]), False, over, info


class DailyVectorEnv(VectorEnv[Float32Array, npt.NDArray[Any], npt.NDArray[Any]]):
    """`DailyEnv` many times, stepped together as tensors; a finished episode is followed by another at once.

    Same-step autoreset as gymnasium defines it: `infos["final_obs"]` has the last observation of the episode that
    ended. Episodes begin with sessions that are drawn; `info` is that of `DailyEnv`.
    """

    metadata = _VECTOR

    def __init__(
        self, num_envs: int, definition: EnvDefinition, markets: SplitMarkets, render_mode: str | None = None
    ) -> None:
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = definition.observations, definition.actions
        self.observation_space = batch_space(definition.observations, num_envs)
        self.action_space = batch_space(definition.actions, num_envs)
        self.render_mode = render_mode
        self._type, self._markets = definition.action_type, markets
        self._market = markets.market(num_envs, 0)

    @property
    def sessions(self) -> tuple[str, ...]:
        """The dates of the split, ascending."""
        return self._markets.dates

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32Array, dict[str, Any]]:
        """First observations. Raises ValueError for options: sessions cannot be chosen here, see `DailyEnv`."""
        super().reset(seed=seed)
        if options:
            raise ValueError(f"options are {options!r}, expected none: choose a session in a single environment")
        self._market = self._markets.market(self.num_envs, int(self.np_random.integers(SEEDS)))
        return self._market.observe().numpy(), self._infos()

    def step(
        self, actions: npt.NDArray[Any]
    ) -> tuple[Float32Array, npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], dict[str, Any]]:
        """Trade in the next session."""
        market = self._market
        days = market.day.numpy() + 1
        step = market.step(torch.from_numpy(np.asarray(actions, dtype=self._type)))
        never = np.zeros(self.num_envs, dtype=np.bool_)
        ended: dict[str, Any] = {}
        if step.truncated is not None and step.last is not None:
            last_observations, closing = step.last.numpy(), market.closing_usd[0].numpy()
            for seat in np.flatnonzero(step.truncated.numpy()).tolist():
                final = {"equity_usd": float(closing[seat]), "session": self._markets.date(int(days[seat]))}
                ended = self._add_info(ended, {"final_obs": last_observations[seat], "final_info": final}, seat)
        truncated = never if step.truncated is None else step.truncated.numpy()
        return market.observe().numpy(), step.rewards.numpy(), never, truncated, self._infos() | ended

    def _infos(self) -> dict[str, Any]:
        every = np.ones(self.num_envs, dtype=np.bool_)
        sessions = np.array([self._markets.date(day) for day in self._market.day.tolist()], dtype=object)
        equity = self._market.equity_usd.numpy()
        return {"equity_usd": equity, "_equity_usd": every, "session": sessions, "_session": every.copy()}


def stocks_env(
    bars: Path | str,
    split: str = "train",
    *,
    variant: str = "",
    config: Path | str | None = None,
    render_mode: str | None = None,
) -> DailyEnv:
    """`daily_rebalancer`: `Box` (803,) raw and `Box` (50,) within [-1, 1]; an episode ends with the split.

    The split ("train", "validate", "test") is that of our own training: the last fold of the strategy's walk, or
    60/20/20 where the file is too short for one. `variant` is what one unit of action is, "shares" or "notional".
    `config` is the file of the desk that will use the policy: its costs, sizes and risk overlay; None: the defaults.

    Raises:
        ValueError: the split or the variant is unknown, or the configuration is wrong.
        TapeError, CalendarError, HistoryError, OSError: the file cannot be trained on; the text gives the reason.
    """
    return DailyEnv(STOCKS, SplitMarkets(STOCKS, bars, split, variant, config), render_mode)


def stocks_vector_env(
    num_envs: int,
    bars: Path | str,
    split: str = "train",
    *,
    variant: str = "",
    config: Path | str | None = None,
    render_mode: str | None = None,
) -> DailyVectorEnv:
    """See `stocks_env`."""
    return DailyVectorEnv(num_envs, STOCKS, SplitMarkets(STOCKS, bars, split, variant, config), render_mode)


def funds_env(
    bars: Path | str,
    split: str = "train",
    *,
    symbols: Sequence[str] = (),
    config: Path | str | None = None,
    render_mode: str | None = None,
) -> DailyEnv:
    """`regime_switcher`: `Box` (64,) raw and `Discrete` 16; an episode has 256 sessions, or as many as the split.

    `symbols` are its funds, SPY, QQQ and IWM by default; the 16 regimes follow from them. Raises as `stocks_env`, and
    ValueError for symbols of which none follow.
    """
    return DailyEnv(FUNDS, SplitMarkets(FUNDS, bars, split, "", config, tuple(symbols)), render_mode)


def funds_vector_env(
    num_envs: int,
    bars: Path | str,
    split: str = "train",
    *,
    symbols: Sequence[str] = (),
    config: Path | str | None = None,
    render_mode: str | None = None,
) -> DailyVectorEnv:
    """See `funds_env`."""
    return DailyVectorEnv(num_envs, FUNDS, SplitMarkets(FUNDS, bars, split, "", config, tuple(symbols)), render_mode)
