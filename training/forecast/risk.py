"""Variance forecasts: realised variance, the inputs that are known beforehand, and scores.

A variance is the mean squared log return of the next sessions, per session; the drift of a few days is negligible. Its
logarithm is linear in these inputs: a heterogeneous autoregression (HAR: Corsi 2009, "A Simple Approximate Long-Memory
Model of Realized Volatility") over four spans of Garman and Klass's daily estimate with the night (Garman & Klass
1980), which wastes less of a bar than its squared return does; the deviation that the labels' barriers are measured in;
and what the forecaster says of HOLD, which is how likely prices stay within so many of these deviations. The loss is
QLIKE (Patton 2011, "Volatility forecast comparison using imperfect volatility proxies"): noise in what came changes no
ranking by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from strategies.forecast_ensemble.features import NAMES
from training.evidence.resampling import Interval, pooled_intervals
from training.forecast.labels import HOLD, BoolArray, Float64Array

SESSIONS = 5  # horizon of a variance, in sessions
SPANS = (1, 5, 22, 60)  # rows of the means that the autoregression reads
HAR_SPANS = (1, 5, 22)  # of the reference, which reads squared returns
DECAY = 0.94  # of the reference EWMA: RiskMetrics 1996
COLUMNS = tuple(NAMES.index(name) for name in ("gap", "body", "upper_wick", "lower_wick", "natr14", "stddev20"))
"""The features from which variances are forecast."""
FLOOR = 1e-6  # of a variance whose logarithm is taken: a tenth of a percent a session
SMALLEST, LARGEST = 1e-7, 1.0  # of a forecast
UNKNOWN_LOG = -8.0  # default log variance: 1.8 % a session
RIDGE = 0.1  # strength of the prior that HOLD tells nothing, in rows a row; chosen on forecasts of 2014 to 2016
RISK_DRAWS = 2_000
_STEPS = 60  # most steps of Newton's method
_GARMAN_KLASS = 2.0 * math.log(2.0) - 1.0


def realised(close: Float64Array, broken: BoolArray) -> Float64Array:
    """The mean squared log return of the `SESSIONS` after each row, float64 (d, n); NaN where one is not known.

    Args:
        close: USD (d, n), NaN where there is no bar.
        broken: where a price cannot be compared with the one before, bool (d, n).
    """
    variance = np.full(close.shape, np.nan)
    if len(close) > SESSIONS:
        variance[:-SESSIONS] = _means(squared_returns(close, broken)[1:], SESSIONS)
    return variance


def squared_returns(close: Float64Array, broken: BoolArray) -> Float64Array:
    """Squared log returns, float64 (d, n); NaN where there is none."""
    squares = np.full(close.shape, np.nan)
    with np.errstate(invalid="ignore"):
        squares[1:] = np.square(np.log(close[1:] / close[:-1]))
    squares[broken] = np.nan
    return squares


def _means(values: Float64Array, rows: int) -> Float64Array:
    """Means over `rows` neighbouring sessions, float64 (d - rows + 1, n), of values (d, n)."""
    windows: Float64Array = np.lib.stride_tricks.sliding_window_view(values, rows, axis=0).mean(axis=-1)
    return windows


def references(close: Float64Array, broken: BoolArray) -> tuple[Float64Array, Float64Array]:
    """Inputs of the reference forecasts after each session: EWMA's forecast (d, n), log means of HAR (d, n, 3).

    NaN where a return of the last 60 sessions is not known.
    """
    squares = squared_returns(close, broken)
    days, longest = len(close), SPANS[-1]
    ewma = np.full(close.shape, np.nan)
    means = np.full((*close.shape, len(HAR_SPANS)), np.nan)
    if days >= longest:
        weights = DECAY ** np.arange(longest - 1, -1, -1.0)
        windows = np.lib.stride_tricks.sliding_window_view(squares, longest, axis=0)
        ewma[longest - 1 :] = (windows * (weights / weights.sum())).sum(axis=-1) + FLOOR
        for place, span in enumerate(HAR_SPANS):
            means[longest - 1 :, :, place] = np.log(_means(squares, span)[longest - span :] + FLOOR)
    return ewma, means


def day_variance(rows: Tensor) -> Tensor:
    """Garman and Klass's variance of each bar with its night, (...), of the first five of `COLUMNS`, (..., 5)."""
    gap, body, upper, lower, natr = rows.unbind(-1)
    unit = natr / 100.0
    opened = (1.0 - body * unit).clamp(min=1e-3)  # all in closes
    high, low = opened.clamp(min=1.0) + upper * unit, (opened.clamp(max=1.0) - lower * unit).clamp(min=1e-3)
    return gap.square() + 0.5 * (high / low).log().square() - _GARMAN_KLASS * opened.log().square()


class Known(nn.Module):
    """Raw sequences (n, window, features) to log inputs of the variance forecast, (n, width)."""

    columns: Tensor

    def __init__(self, columns: Sequence[int] = ()) -> None:
        """`columns` are the places of `COLUMNS` among the features; none where nothing is known."""
        super().__init__()
        self.width = len(SPANS) + 1 if columns else 0
        self.register_buffer("columns", torch.tensor(list(columns), dtype=torch.int64), persistent=False)

    def forward(self, sequences: Tensor) -> Tensor:
        """Natural logarithms, (n, width): of the mean variance over each of `SPANS`, and of the newest 20 returns'.

        `sequences` are raw, (n, window, features), the newest row last; (n, 0) where nothing is known.
        """
        if not self.width:
            return sequences[:, 0, :0]
        rows = sequences.index_select(2, self.columns)
        days = day_variance(rows[:, :, :-1])
        means = [days[:, -span:].mean(dim=1) for span in SPANS]
        inputs = torch.stack([*means, rows[:, -1, -1].square()], dim=1)
        return (inputs.clamp(min=0.0) + FLOOR).log()


def hold_logit(logits: Tensor) -> Tensor:
    """ln(p / (1 - p)) of HOLD, (n, 1), of logits (n, 3)."""
    other_classes = [place for place in range(logits.shape[1]) if place != HOLD]
    return (logits[:, HOLD] - logits[:, other_classes].logsumexp(dim=1)).unsqueeze(1)


def fitted(inputs: Float64Array, came: Float64Array, start: Sequence[float], ridge: float = 0.0) -> tuple[float, ...]:
    """Weights w that minimise the mean QLIKE of exp(w[0] + inputs · w[1:]), by Newton's method from `start`.

    Args:
        inputs: (n, k), k 0 or more.
        came: variances (n,), 0 or above.
        ridge: strength of the prior that the weights are `start`, as a number of rows for each row.

    Raises:
        ValueError: no row, or a number that is not finite.
    """
    if not len(came) or not np.isfinite(inputs).all() or not np.isfinite(came).all():
        raise ValueError(
            f"{len(came)} rows to fit a variance on, all finite: {bool(np.isfinite(inputs).all())}; expected rows of "
            "sessions whose next prices are in the file: check the bars"
        )
    table = np.column_stack([np.ones(len(came)), inputs])
    start_weights = np.asarray(start, dtype=np.float64)
    pull, tiny = ridge * len(came), 1e-9 * len(came) * np.eye(table.shape[1])

    def loss(at: Float64Array) -> float:
        logs = table @ at
        return float((came * np.exp(-logs) + logs).mean() + 0.5 * ridge * np.square(at - start_weights).sum())

    weights = start_weights
    for _ in range(_STEPS):
        ratio = came * np.exp(-(table @ weights))
        slope = table.T @ (1.0 - ratio) + pull * (weights - start_weights)
        bend = (table * ratio[:, None]).T @ table + pull * np.eye(table.shape[1]) + tiny
        step, share, present = np.linalg.solve(bend, slope), 1.0, loss(weights)
        while share > 1e-6 and not loss(weights - share * step) < present:
            share /= 2.0
        if share <= 1e-6:
            break
        weights = weights - share * step
    return tuple(weights.tolist())


class RiskScores(msgspec.Struct, frozen=True, kw_only=True):
    """Scores of variance forecasts; differences are paired on the same drawn sessions."""

    rows: int
    sessions: int
    qlike: Interval  # 0 is perfect
    har: Interval  # QLIKE of the autoregression of squared returns over 1, 5 and 22 sessions
    ewma: Interval  # QLIKE of the exponential mean of squared returns
    over_har: Interval  # QLIKE less HAR's: below 0 is better
    over_ewma: Interval
    explained: Interval  # R²: squared correlation of the logarithms of forecast and what came
    explained_har: Interval
    explained_ewma: Interval
    explained_over_har: Interval  # above 0 is better


_SCORES = tuple(name for name in RiskScores.__struct_fields__ if name not in {"rows", "sessions"})


@dataclass(frozen=True, slots=True)
class RiskRows:
    """Realised variances, forecasts and reference forecasts, float64 (k,), and the sessions of the rows."""

    sessions: NDArray[np.int64]
    came: Float64Array
    forecast: Float64Array
    har: Float64Array
    ewma: Float64Array

    @classmethod
    def joined(cls, parts: Sequence[RiskRows]) -> RiskRows:
        """All rows, one part after the other."""
        names = ("sessions", "came", "forecast", "har", "ewma")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def scores(self, seed: int = 0) -> RiskScores | None:
        """QLIKE and correlations with block-bootstrap intervals; None without a row."""
        if not len(self.came):
            return None
        days, at = np.unique(self.sessions, return_inverse=True)
        forecasts = (self.forecast, self.har, self.ewma)
        came, logs = np.log(self.came + FLOOR), [np.log(forecast + FLOOR) for forecast in forecasts]
        values = [np.ones(len(came)), *(qlike(self.came, forecast) for forecast in forecasts), came, came * came]
        values += [
            column
            for log_forecast in logs
            for column in (log_forecast, log_forecast * log_forecast, log_forecast * came)
        ]
        parts = np.stack([np.bincount(at, column, len(days)).astype(np.float64) for column in values], axis=1)
        figures = [
            *map(_loss, range(3)),
            lambda sums: _loss(0)(sums) - _loss(1)(sums),
            lambda sums: _loss(0)(sums) - _loss(2)(sums),
            *map(_correlation, range(3)),
            lambda sums: _correlation(0)(sums) - _correlation(1)(sums),
        ]
        better = (parts[:, 1] - parts[:, 2]) / parts[:, 0]
        intervals = pooled_intervals(parts, figures, blocks_of=better, seed=seed, draws=RISK_DRAWS)
        return RiskScores(rows=len(came), sessions=len(days), **dict(zip(_SCORES, intervals, strict=True)))


def _loss(place: int) -> Callable[[Float64Array], Float64Array]:
    return lambda sums: sums[:, 1 + place] / sums[:, 0]


def _correlation(place: int) -> Callable[[Float64Array], Float64Array]:
    """Maps sums over rows, (draws, k), to squared correlations of what came and a forecast, (draws,)."""

    def of(sums: Float64Array) -> Float64Array:
        count, came, came_square = sums[:, 0], sums[:, 4], sums[:, 5]
        forecast_sum, said_square, cross = (sums[:, 6 + 3 * place + nth] for nth in range(3))
        spreads = (count * came_square - came**2) * (count * said_square - forecast_sum**2)
        shared = np.square(count * cross - came * forecast_sum)
        return np.divide(shared, spreads, out=np.zeros(len(sums)), where=spreads > 0.0)

    return of


def qlike(came: NDArray[np.float64], forecast: NDArray[np.float64]) -> Float64Array:
    """QLIKE of each row: ratio - ln(ratio) - 1 of what came over the forecast; 0 is perfect."""
    ratio = (came + FLOOR) / (forecast + FLOOR)
    losses: Float64Array = ratio - np.log(ratio) - 1.0
    return losses
