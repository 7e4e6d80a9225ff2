"""Panels made up for tests of the forecaster: features that tell the next class, and noise.

The truth is drawn first: the probabilities of the classes are a softmax of `STRENGTH` × three of the features, so the
best possible accuracy, Bayes's, is the mean of the largest probability.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from strategies.kit.contract import Session
from training.data.daily_table import DailyTable, ticks
from training.forecast.folds import Forecasts, assemble, by_years
from training.forecast.labels import BUY, SELL, Barriers, Labels
from training.forecast.network import Sizes
from training.forecast.panel import Windows
from training.forecast.stage import FoldResult, ForecasterSettings, Material, finish_fold, train_member
from training.forecast.trainer import MemberProgress, MemberRecipe

STRENGTH = 2.0
FEATURES = 6
SMALL = Sizes(features=FEATURES, window=8, channels=(8, 12), hidden=16, attention=8)
PLAN = ForecasterSettings(
    sizes=SMALL,
    recipe=MemberRecipe(epochs=12, batch=128, learning_rate=4e-3, stride=2, patience=4),
    embargo=2,
    first_year=2013,
    last_year=2013,
)


def panel(
    seed: int, *, symbols: int = 8, planted: bool = True, strength: float = STRENGTH
) -> tuple[Material, NDArray[np.float64]]:
    """Four years from 2010, and the true probabilities (d, n, 3). A label ends one session after its row."""
    random = np.random.default_rng(seed)
    dates = tuple(str(date.date()) for date in pd.bdate_range("2010-01-04", "2013-12-31"))
    features = random.normal(size=(len(dates), symbols, FEATURES)).astype(np.float32)
    logits = strength * features[:, :, :3].astype(np.float64) * planted
    truth = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    drawn = (random.random((*truth.shape[:2], 1)) > truth.cumsum(axis=2)).sum(axis=2)
    end = np.arange(len(dates))[:, None] + np.ones((1, symbols), dtype=np.int64)
    labels = Labels(Barriers(), drawn.astype(np.int8), end.astype(np.int32), np.full(truth.shape[:2], 0.01))
    valid = np.ones(truth.shape[:2], dtype=np.bool_)
    valid[: SMALL.window - 1] = False
    return Material(dates, Windows(features * 3.0 + 5.0, SMALL.window), labels, valid), truth


def moving(material: Material, move: float) -> DailyTable:
    """Prices that do what the labels name: the next session opens at the last close and goes up, down, or nowhere."""
    classes = material.labels.classes
    steps = np.where(classes == BUY, 1.0 + move, np.where(classes == SELL, 1.0 / (1.0 + move), 1.0))
    close = np.vstack([np.ones((1, classes.shape[1])), steps[:-1].cumprod(axis=0)]) * 100.0
    opened = np.vstack([close[:1], close[:-1]])
    bars = np.stack([opened, np.maximum(opened, close), np.minimum(opened, close), close, np.full(close.shape, 1e6)])
    days, symbols = classes.shape
    return DailyTable(
        file="made up",
        sha256="",
        synthetic="yes",
        symbols=tuple(f"S{place}" for place in range(symbols)),
        history_bars=SMALL.window,
        sessions=tuple(Session(date, 0, 1) for date in material.dates),
        bars=bars,
        present=np.ones((days, symbols), dtype=np.bool_),
        open_ticks=ticks(opened),
        close_ticks=ticks(close),
        features=np.zeros((days, 0), dtype=np.float32),
        tradable=material.valid.astype(np.float32),
        warm=np.asarray(material.valid.all(axis=1), dtype=np.bool_),
    )


def _unheard(*_: object) -> None:
    """Listen to nothing."""


def walk_forward(
    material: Material,
    plan: ForecasterSettings,
    folder: Path | None = None,
    tell: Callable[[int, int, MemberProgress], object] = _unheard,
) -> tuple[Forecasts, tuple[FoldResult, ...]]:
    """Every fold of the plan, one after the other in this process, and their forecasts joined."""
    results = []
    for fold in by_years(material.dates, plan.first_year, plan.last_year):
        members = [
            train_member(material, plan, fold, number, folder=folder, tell=tell) for number in range(plan.members)
        ]
        results.append(finish_fold(material, plan, fold, members))
    days, symbols = material.valid.shape
    return assemble(days, symbols, [result.forecasts for result in results]), tuple(results)
