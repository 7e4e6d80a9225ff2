"""The desk of a strategy of one's own as a gymnasium environment, for other libraries such as Stable-Baselines3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium

from strategies.registry import add
from training.desks.kind import Span
from training.desks.own.data import OwnDays, OwnMinutes
from training.desks.registry import kind
from training.runs.settings import trading_of
from training.study.folds import single

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
