"""The markets of the daily strategies as gymnasium environments; `training.gym` registers them.

    one = gymnasium.make("rltrader/DailyRebalancer-v0", bars="stocks.parquet")
    many = gymnasium.make_vec("rltrader/RegimeSwitcher-v0", num_envs=64, bars="etfs.parquet")

Nothing is decided here: NumPy goes in and out of `training.desks.daily`. Observations are raw: scaling belongs to the
policy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from training.gym.split_markets import FUNDS, STOCKS, DailyMarket, EnvDefinition, SplitMarkets

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
        seen = market.observe() if step.last is None else step.last
        info = {"equity_usd": float(market.closing_usd[0][0]), "session": self._markets.date(day + 1)}
        self._market = None if over else market
        return seen[0].numpy(), float(step.rewards[0]), False, over, info


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
            last, closing = step.last.numpy(), market.closing_usd[0].numpy()
            for seat in np.flatnonzero(step.truncated.numpy()).tolist():
                final = {"equity_usd": float(closing[seat]), "session": self._markets.date(int(days[seat]))}
                ended = self._add_info(ended, {"final_obs": last[seat], "final_info": final}, seat)
        truncated = never if step.truncated is None else step.truncated.numpy()
        return market.observe().numpy(), step.rewards.numpy(), never, truncated, self._infos() | ended

    def _infos(self) -> dict[str, Any]:
        every = np.ones(self.num_envs, dtype=np.bool_)
        sessions = np.array([self._markets.date(day) for day in self._market.day.tolist()], dtype=object)
        equity = self._market.equity_usd.numpy()
        return {"equity_usd": equity, "_equity_usd": every, "session": sessions, "_session": every.copy()}


def stocks_env(
    bars: Path | str, split: str = "train", *, variant: str = "", render_mode: str | None = None
) -> DailyEnv:
    """`daily_rebalancer`: `Box` (803,) raw and `Box` (50,) within [-1, 1]; an episode ends with the split.

    The split ("train", "validate", "test") is that of our own training: the last fold of the strategy's walk, or
    60/20/20 where the file is too short for one. `variant` is what one unit of action is, "shares" or "notional".

    Raises:
        ValueError: the split or the variant is unknown.
        TapeError, CalendarError, HistoryError, OSError: the file cannot be trained on; the text gives the reason.
    """
    return DailyEnv(STOCKS, SplitMarkets(STOCKS, bars, split, variant), render_mode)


def stocks_vector_env(
    num_envs: int, bars: Path | str, split: str = "train", *, variant: str = "", render_mode: str | None = None
) -> DailyVectorEnv:
    """See `stocks_env`."""
    return DailyVectorEnv(num_envs, STOCKS, SplitMarkets(STOCKS, bars, split, variant), render_mode)


def funds_env(bars: Path | str, split: str = "train", *, render_mode: str | None = None) -> DailyEnv:
    """`regime_switcher`: `Box` (64,) raw and `Discrete` 16; an episode has 256 sessions, or as many as the split.

    Raises as `stocks_env`.
    """
    return DailyEnv(FUNDS, SplitMarkets(FUNDS, bars, split, ""), render_mode)


def funds_vector_env(
    num_envs: int, bars: Path | str, split: str = "train", *, render_mode: str | None = None
) -> DailyVectorEnv:
    """See `funds_env`."""
    return DailyVectorEnv(num_envs, FUNDS, SplitMarkets(FUNDS, bars, split, ""), render_mode)
