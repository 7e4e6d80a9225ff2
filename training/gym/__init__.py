"""The tensor market as gymnasium environments, so that any library can train on exactly what our own PPO trains on.

    import gymnasium, training.gym
    one = gymnasium.make("rltrader/OptionScalper-v0", bars="spy.parquet")
    many = gymnasium.make_vec("rltrader/OptionScalper-v0", num_envs=64, bars="spy.parquet")

Importing this module registers them. Nothing is decided here: both forms hand NumPy in and out of
`training.desks.scalper.market`.
Observations are raw: scaling belongs to the policy, whose exported graph holds it (no VecNormalize). The daily
strategies' environments are in `training.gym.daily`; a further strategy adds its own pair and a line in `REGISTERED`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from daemon.core.limits import Trading
from strategies.option_scalper import SPEC, OptionScalper
from training.desks.scalper.data import Data, load
from training.desks.scalper.kind import KIND
from training.desks.scalper.market import Market
from training.gym.daily import funds_env, funds_vector_env, stocks_env, stocks_vector_env
from training.study.folds import last_fold
from training.study.study import Fold

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

BOUND = 1_000.0  # bound of every observed value, far beyond the features of real bars
OBSERVATIONS = spaces.Box(-BOUND, BOUND, SPEC.observation_shape, np.float32)
ACTIONS: spaces.Discrete = spaces.Discrete(len(SPEC.actions))
_SINGLE: dict[str, Any] = {"render_modes": []}
_VECTOR: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}


class SplitAccounts:
    """`count` accounts on sessions of one split, each with a generator of its own that draws its next session.

    So environment i of a vector seeded with s plays the sessions of a single environment seeded with s + i.
    """

    def __init__(self, bars: Path | str, split_name: str, count: int, reward: str, discount: float) -> None:
        names = Fold.__struct_fields__
        if split_name not in names:
            raise ValueError(f"split is {split_name!r}, expected one of {', '.join(names)}: choose one of these")
        path, trading = Path(bars), Trading()
        data = _read(path, path.stat().st_mtime_ns)
        self.dates: tuple[str, ...] = getattr(last_fold(tuple(data.days), KIND.walk), split_name)
        self.days = data.on(self.dates)
        self.market = Market(
            data.history, data.prices, self.days, trading,
            count=count, reward_name=reward, discount=discount, auto_reset=False,
        )  # fmt: skip
        self.playing = np.zeros(count, dtype=np.int64)  # indices of the sessions
        self.generators = [np.random.default_rng() for _ in range(count)]

    def begin(self, which: npt.NDArray[np.bool_], dates: Sequence[str] | None = None) -> None:
        """Start the seats `which` on sessions that they draw, or all of them on `dates`.

        Raises:
            ValueError: a date that is not in the split, or not one for each seat.
        """
        if dates is None:
            for seat in np.flatnonzero(which):
                self.playing[seat] = self.generators[seat].integers(len(self.days))
        else:
            unknown = sorted(set(dates) - set(self.dates))
            if unknown or len(dates) != len(self.playing):
                unknown_text = f" with {unknown[0]}" if unknown else ""
                raise ValueError(
                    f"sessions are {len(dates)} dates{unknown_text}; expected one for each of "
                    f"{len(self.playing)} environments, from {self.dates[0]} to {self.dates[-1]}: see env.sessions"
                )
            self.playing[:] = [self.dates.index(date) for date in dates]
        self.market.begin(torch.from_numpy(self.playing), torch.from_numpy(which))

    def step(self, actions: Int64Array) -> tuple[Float32Array, npt.NDArray[np.bool_]]:
        """Rewards and true terminals, each (count,)."""
        step = self.market.step(torch.from_numpy(actions))
        return step.rewards.numpy(), step.terminals.numpy()

    def observe(self) -> Float32Array:
        """Raw observations (count, 20, 23), a new array each time."""
        observations: Float32Array = self.market.observe().numpy()
        return observations

    def info(self, seat: int) -> dict[str, Any]:
        """Net profit of the session so far in USD, at the bid, and the session's date."""
        return {"net_pnl_usd": float(self.market.net_pnl_usd[seat]), "session": self.dates[self.playing[seat]]}


class OptionScalperEnv(gymnasium.Env[Float32Array, np.int64]):
    """One session of one-minute decisions on one account: `Box` (20, 23) float32, raw, and `Discrete` 6.

    `terminated` at the session's flatten, a true terminal; `truncated` never. `info` has `net_pnl_usd` (USD, after
    spread and fees) and `session` (its date). `reset(options={"session": "2024-07-02"})` plays that session.
    """

    metadata = _SINGLE

    def __init__(
        self,
        bars: Path | str,
        split: str = "train",
        *,
        reward: str = "potential",
        discount: float = 0.99,
        render_mode: str | None = None,
    ) -> None:
        """Play the sessions of a `split` ("train", "validate", "test": those of our own training) of a bars file.

        Raises:
            ValueError: the split is unknown.
            TapeError, CalendarError, HistoryError, OSError: the file cannot be trained on; the text gives the reason.
        """
        self.observation_space = OBSERVATIONS
        self.action_space = ACTIONS
        self.render_mode = render_mode
        self._seats = SplitAccounts(bars, split, 1, reward, discount)
        self._over = True

    @property
    def sessions(self) -> tuple[str, ...]:
        """The dates of the split, ascending."""
        return tuple(self._seats.dates)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32Array, dict[str, Any]]:
        """The first observation of a session that is drawn, or of `options["session"]`."""
        super().reset(seed=seed)
        self._seats.generators[0] = self.np_random
        session = (options or {}).get("session")
        self._seats.begin(np.ones(1, dtype=np.bool_), None if session is None else [session])
        self._over = False
        return self._seats.observe()[0], self._seats.info(0)

    def step(self, action: np.int64) -> tuple[Float32Array, float, bool, bool, dict[str, Any]]:
        """Carry an action out at the next bar's open.

        Raises:
            gymnasium.error.ResetNeeded: the session is over.
        """
        if self._over:
            raise gymnasium.error.ResetNeeded("the session is over: call reset before the next step")
        rewards, terminals = self._seats.step(np.array([action], dtype=np.int64))
        self._over = bool(terminals[0])
        return self._seats.observe()[0], float(rewards[0]), self._over, False, self._seats.info(0)


class OptionScalperVectorEnv(VectorEnv[Float32Array, Int64Array, npt.NDArray[Any]]):
    """`OptionScalperEnv` many times, stepped together as tensors. A finished session is followed by another at once.

    Same-step autoreset as gymnasium defines it: the observation is the new session's first, `infos["final_obs"]` and
    `infos["final_info"]` have the last one of the session that ended.
    """

    metadata = _VECTOR

    def __init__(
        self,
        num_envs: int,
        bars: Path | str,
        split: str = "train",
        *,
        reward: str = "potential",
        discount: float = 0.99,
        render_mode: str | None = None,
    ) -> None:
        """See `OptionScalperEnv`."""
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = OBSERVATIONS, ACTIONS
        self.observation_space = batch_space(OBSERVATIONS, num_envs)
        self.action_space = batch_space(ACTIONS, num_envs)
        self.render_mode = render_mode
        self._seats = SplitAccounts(bars, split, num_envs, reward, discount)

    @property
    def sessions(self) -> tuple[str, ...]:
        """The dates of the split, ascending."""
        return tuple(self._seats.dates)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32Array, dict[str, Any]]:
        """First observations of sessions that are drawn, or of the dates `options["sessions"]`, one for each."""
        super().reset(seed=seed)
        if seed is not None:
            self._seats.generators = [seeding.np_random(seed + place)[0] for place in range(self.num_envs)]
        self._seats.begin(np.ones(self.num_envs, dtype=np.bool_), (options or {}).get("sessions"))
        return self._seats.observe(), self._infos()

    def step(
        self, actions: Int64Array
    ) -> tuple[Float32Array, npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], dict[str, Any]]:
        """Carry actions (num_envs,) out at the next bar's open."""
        rewards, terminals = self._seats.step(np.asarray(actions, dtype=np.int64))
        ended: dict[str, Any] = {}
        if terminals.any():
            last_observations = self._seats.observe()
            for seat in np.flatnonzero(terminals).tolist():
                final = {"final_obs": last_observations[seat], "final_info": self._seats.info(seat)}
                ended = self._add_info(ended, final, seat)
            self._seats.begin(terminals)
        infos = self._infos() | ended
        return self._seats.observe(), rewards, terminals, np.zeros(self.num_envs, dtype=np.bool_), infos

    def _infos(self) -> dict[str, Any]:
        every, seats = np.ones(self.num_envs, dtype=np.bool_), self._seats
        sessions = np.array(seats.dates, dtype=object)[seats.playing]
        pnl = seats.market.net_pnl_usd.numpy()
        return {"net_pnl_usd": pnl, "_net_pnl_usd": every, "session": sessions, "_session": every.copy()}


@lru_cache(maxsize=2)
def _read(path: Path, _modified_ns: int) -> Data:
    """The file, read once for all environments of a process as long as it is not changed."""
    return load(path, OptionScalper(), Trading())


REGISTERED: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "rltrader/OptionScalper-v0": (OptionScalperEnv, OptionScalperVectorEnv),
    "rltrader/DailyRebalancer-v0": (stocks_env, stocks_vector_env),
    "rltrader/RegimeSwitcher-v0": (funds_env, funds_vector_env),
}
"""Environment ids, and what makes their single and vector forms."""

for _name, (_single, _many) in REGISTERED.items():
    gymnasium.register(
        _name,
        entry_point=f"{_single.__module__}:{_single.__name__}",
        vector_entry_point=f"{_many.__module__}:{_many.__name__}",
    )
