"""The environments of a strategy by its name, and how its sessions are cut into folds."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from daemon.core.strategy_rules import trading_for
from strategies.registry import STRATEGIES, add
from training.desks.kind import Span
from training.desks.own.data import OwnDays, OwnMinutes
from training.desks.registry import kind
from training.gym import REGISTERED
from training.kit.bars import bars_of
from training.runs.prepared import loaded
from training.runs.settings import folds_of, settings_for, trading_of
from training.study.folds import single
from training.study.study import Fold

SPLITS = ("train", "validate", "test")


def own_env(
    strategy: str, bars: Path | str, split: str = "train", config: Path | str | None = None
) -> gymnasium.Env[Any, Any]:
    """Return the environment of a strategy, by its name or `path/to/file.py`, on a part of a bars file.

    The parts are those of `train-and-export`: 60 % of the sessions, 20 %, 20 %. Reward and environment are those of the
    strategy's training object (`training.desks.own.kind.own_kind`). `config` is the file of the desk that will use the
    policy; None: the strategy's defaults.

    Raises:
        ValueError: the strategy or the split is unknown, its training object is not made by `own_kind`, or the
            configuration is wrong.
        TapeError, CalendarError, HistoryError: the file cannot be trained on; the text gives reason and cure.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}: expected one of {', '.join(SPLITS)}")
    name = add(strategy)
    data: Any = kind(name).load(Path(bars), trading_of(name, None if config is None else Path(config)))
    made_here = isinstance(data, OwnDays | OwnMinutes)
    if not made_here:
        raise ValueError(f"{name} has a training object of its own kind: expected one of own_kind")
    (fold,) = single(tuple(data.days))
    span = Span({"train": fold.train, "validate": fold.validate, "test": fold.test}[split], "", data.trading)
    environment: gymnasium.Env[Any, Any] = data.gym_env(span)
    return environment


def make_env(
    name: str, bars: Path | str | None = None, split: str = "train", **options: Any
) -> gymnasium.Env[Any, Any]:
    """Return the environment that a strategy's policy is trained in, for any library that knows gymnasium.

    Observations are float32 and raw: scale them in the policy, which is exported with its scaling. Of
    `option_scalper` and `regime_switcher` actions are `Discrete`, of `daily_rebalancer` a `Box` within [-1, 1]. Rewards
    are those of our own training; `info` has `session`, and `net_pnl_usd` or `equity_usd`. `env.sessions` are the dates
    of the split, and `reset(options={"session": date})` begins with one of them.

    Args:
        name: of a strategy, or `path/to/file.py` of one of yours, whose environment is the desk itself.
        bars: CSV, CSV.gz or Parquet file; None: `bundled_bars`, which are made up.
        split: "train", "validate" or "test", as `folds` cuts the sessions of the file for one fold.
        options: `reward` ("potential") and `discount` (0.99) of `option_scalper`, `variant` of `daily_rebalancer`,
            `symbols` of `regime_switcher`; `config`, the file of the desk that will use the policy, of a daily strategy
            and of one of yours.

    Raises:
        ValueError: the strategy or the split is unknown, or the strategy has no environment.
        TapeError, HistoryError: the file cannot be trained on; the text gives reason and cure.

    >>> import training
    >>> env = training.make_env("option_scalper")
    >>> observation, info = env.reset(seed=1)
    >>> observation.shape, observation.dtype.name, int(env.action_space.n)
    ((20, 23), 'float32', 6)
    >>> observation, reward, terminated, truncated, info = env.step(0)
    >>> info["session"] in env.sessions
    True
    """
    name, path = add(name), bars_of(name, bars)
    if name not in STRATEGIES:
        return own_env(name, path, split, **_own_of(name, options))
    registered = _id_of(name)
    single, _ = REGISTERED[registered]
    environment: gymnasium.Env[Any, Any] = single(path, split, **options)
    environment.spec = copy.deepcopy(gymnasium.spec(registered))
    environment.spec.kwargs = {"bars": path, "split": split, **options}
    return environment


def make_vec(
    name: str, num_envs: int, bars: Path | str | None = None, split: str = "train", **options: Any
) -> VectorEnv[Any, Any, Any]:
    """Return `num_envs` environments of `make_env` that are stepped together; of shipped strategies as tensors.

    A finished episode is followed by another at once (`AutoresetMode.SAME_STEP`): `infos["final_obs"]` has the last
    observation of the one that ended. Arguments and errors are those of `make_env`.

    >>> import training
    >>> many = training.make_vec("option_scalper", 8)
    >>> observations, infos = many.reset(seed=1)
    >>> observations.shape
    (8, 20, 23)
    >>> many.step(many.action_space.sample())[1].shape  # rewards, one for each
    (8,)
    """
    name, path = add(name), bars_of(name, bars)
    if name not in STRATEGIES:
        make = partial(own_env, name, path, split, **_own_of(name, options))
        return SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
    _, many = REGISTERED[_id_of(name)]
    environments: VectorEnv[Any, Any, Any] = many(num_envs, path, split, **options)
    return environments


def _id_of(name: str) -> str:
    """The id of the environment of a shipped strategy. Raises ValueError where it has none."""
    ids = {shipped: f"rltrader/{shipped.title().replace('_', '')}-v0" for shipped in STRATEGIES}
    if ids[name] not in REGISTERED:
        names = ", ".join(shipped for shipped, environment_id in ids.items() if environment_id in REGISTERED)
        raise ValueError(f"{name} has no environment, its training has a procedure of its own: expected {names}")
    return ids[name]


def _own_of(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a strategy that is not shipped: a desk's configuration alone."""
    if unknown := options.keys() - {"config"}:
        raise ValueError(f"{name} is not shipped, so {min(unknown)} is not for its environment: leave it out")
    return options


def folds(name: str, bars: Path | str | None = None, count: int = 1) -> tuple[Fold, ...]:
    """Return how a run cuts the sessions of a bars file: the last `count` folds of the strategy's walk, oldest first.

    Each has the dates of its sessions (New York, `YYYY-MM-DD`) to train, validate and test on. A file that is too short
    for a single one is cut 60/20/20.

    Raises:
        ValueError: no strategy has that name.
        TapeError, HistoryError: the file cannot be trained on, or not in so many folds.

    >>> import training
    >>> (fold,) = training.folds("option_scalper")
    >>> fold.train[-1] < fold.validate[0] <= fold.validate[-1] < fold.test[0]
    True
    """
    name = add(name)
    usual = settings_for(name, bars_of(name, bars), Path())
    settings = replace(usual, folds=max(count, usual.folds))
    return folds_of(settings, loaded(settings, trading_for(name)))
