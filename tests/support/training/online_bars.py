"""Bars for the tests of `online_dqn`'s training: the bundled tape, the same with wild opens, and recorded files.

Nothing here computes an expected value.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from daemon.core.limits import Trading
from daemon.core.strategy_rules import trading_for
from daemon.tapes import BUNDLED_TAPE
from strategies.online_dqn import OnlineDqn
from strategies.online_dqn.model_config import ModelConfig
from strategies.online_dqn.state_vector import shipped
from training.desks.online.data import OnlineData, load, one_hot_values
from training.desks.online.history import Bars, Series, history_of

RULES = trading_for("online_dqn")


@cache
def bundled() -> OnlineData:
    """The bundled tape: 29 sessions of made-up SPY that can be decided on."""
    return load([BUNDLED_TAPE], shipped(), (), RULES)


def first_sessions(path: Path, count: int) -> Path:
    """A file of the first sessions of the bundled tape."""
    with gzip.open(BUNDLED_TAPE, "rt") as stream:
        lines = stream.readlines()
    path.write_text("".join(lines[: 2 + count * 390]))
    return path


def of_bars(bars: Bars, trading: Trading = RULES, config: ModelConfig | None = None) -> OnlineData:
    """Bars at hand made ready."""
    config = config or shipped()
    strategy = OnlineDqn(config, tuple(series.symbol for series in bars.series))
    return OnlineData(bars, history_of(bars, strategy.spec, config, trading), config, strategy, trading)


def wild(bars: Bars, jump: float, every: int, seed: int) -> Bars:
    """The same bars, but about one of `every` opens leaps by up to `jump` of the price, and prices stay there."""
    random = np.random.default_rng(seed)

    def leaping(series: Series) -> Series:
        count = len(series.start_ns)
        leaps = np.where(random.random(count) < 1.0 / every, random.uniform(-jump, jump, count), 0.0)
        values = series.values.copy()
        values[:4] *= np.exp(np.cumsum(leaps) - 0.5 * np.cumsum(leaps).mean())
        values[:4] = values[:4].round(2)
        return replace(series, values=values)

    return replace(bars, series=tuple(leaping(series) for series in bars.series))


def five_minutes() -> ModelConfig:
    """The shipped configuration by five minutes."""
    return msgspec.structs.replace(shipped(), bar_minutes=5)


def five_minutes_of_two(folder: Path) -> OnlineData:
    """Recorded SPY and QQQ by five minutes."""
    files = [folder / "spy_5min_2024.parquet", folder / "qqq_5min_2024.parquet"]
    return load(files, five_minutes(), ("SPY", "QQQ"), RULES)


def busy(only: int | None = None, symbols: int = 1) -> Callable[[Tensor], Tensor]:
    """A player whose actions depend on every number of an observation; of `symbols` rows `only` one trades."""

    def player(observations: Tensor) -> Tensor:
        actions = (observations.double().sum(1) * 1e4).long() % 3
        if only is not None and len(observations) == symbols > 1:
            others = torch.arange(symbols) != only
            actions = actions.masked_fill(others, 0)
        return one_hot_values(actions)

    return player
