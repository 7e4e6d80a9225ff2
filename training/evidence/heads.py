"""How good a policy's heads are compared with constants: direction with the base rate, risk with the mean.

The constants come from the training sessions, so they were known before. The block bootstrap draws rows of one session
together. Source of the score: Brier 1950, "Verification of forecasts expressed in terms of probability".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from training.evidence.resampling import Interval, pooled_intervals

Float64Array = npt.NDArray[np.float64]

KEY = "heads"  # of a study's `extra`
SMALLEST = 1e-15  # lower bound of probabilities, so that one row does not dominate the log loss


class DirectionScores(msgspec.Struct, frozen=True, kw_only=True):
    """Scores of probabilities of a rise. `over_*` is the head's score less the base rate's: below 0 is better."""

    rows: int
    sessions: int
    base_rate: float  # share of rises in the training sessions
    came: float  # share of rises in these
    log_loss: Interval  # nats
    brier: Interval  # (probability - 0 or 1) squared, 0 to 1
    base_log_loss: Interval
    base_brier: Interval
    over_log_loss: Interval
    over_brier: Interval


class RiskScores(msgspec.Struct, frozen=True, kw_only=True):
    """Scores of expected falls, as parts of the price, by squared errors, because the head estimates a mean."""

    rows: int
    sessions: int
    base: float  # mean fall in the training sessions
    came: float  # in these
    expected: float  # by the head
    error: Interval  # root of the mean squared error
    base_error: Interval
    over_error: Interval  # the head's less that of the mean: below 0 is better


class HeadScores(msgspec.Struct, frozen=True, kw_only=True):
    """The heads of a policy on test sessions; None where it has no such head."""

    direction: DirectionScores | None = None
    risk: RiskScores | None = None


def heads_of(extra: Mapping[str, Any]) -> HeadScores | None:
    """The scores of heads in a study's `extra`; None without heads."""
    return msgspec.convert(extra[KEY], HeadScores) if KEY in extra else None


def direction_scores(
    probabilities: Float64Array, rises: Float64Array, sessions: npt.NDArray[np.int64], base_rate: float
) -> DirectionScores:
    """Scores of rows (n,): the probability of a rise, 1 or 0 for what came, and the row's session."""
    base = np.full(len(rises), base_rate)
    columns = [_log_loss(probabilities, rises), np.square(probabilities - rises)]
    columns += [_log_loss(base, rises), np.square(base - rises)]
    parts = _by_session(columns, sessions)
    of = [_mean(1), _mean(2), _mean(3), _mean(4), _change(_mean(1), _mean(3)), _change(_mean(2), _mean(4))]
    intervals = pooled_intervals(parts, of, blocks_of=parts[:, 1] / parts[:, 0])
    names = ("log_loss", "brier", "base_log_loss", "base_brier", "over_log_loss", "over_brier")
    return DirectionScores(
        rows=len(rises),
        sessions=len(parts),
        base_rate=base_rate,
        came=float(rises.mean()),
        **dict(zip(names, intervals, strict=True)),
    )


def risk_scores(
    expected: Float64Array, falls: Float64Array, sessions: npt.NDArray[np.int64], base: float
) -> RiskScores:
    """Scores of rows (n,): the expected fall, the one that came, and the row's session."""
    parts = _by_session([np.square(expected - falls), np.square(base - falls)], sessions)
    of = [_root(1), _root(2), _change(_root(1), _root(2))]
    error, base_error, over = pooled_intervals(parts, of, blocks_of=parts[:, 1] / parts[:, 0])
    return RiskScores(
        rows=len(falls),
        sessions=len(parts),
        base=base,
        came=float(falls.mean()),
        expected=float(expected.mean()),
        error=error,
        base_error=base_error,
        over_error=over,
    )


_Figure = Callable[[Float64Array], Float64Array]


def _log_loss(probabilities: Float64Array, rises: Float64Array) -> Float64Array:
    outcome_probabilities = np.where(rises > 0.0, probabilities, 1.0 - probabilities)
    losses: Float64Array = -np.log(np.maximum(outcome_probabilities, SMALLEST))
    return losses


def _by_session(columns: list[Float64Array], sessions: npt.NDArray[np.int64]) -> Float64Array:
    """Rows and sums of the columns for each session, float64 (sessions, 1 + columns)."""
    unique, at = np.unique(sessions, return_inverse=True)
    sums = [np.bincount(at, column, len(unique)) for column in (np.ones(len(at)), *columns)]
    return np.stack(sums, axis=1)


def _mean(column: int) -> _Figure:
    return lambda sums: sums[:, column] / sums[:, 0]


def _root(column: int) -> _Figure:
    return lambda sums: np.sqrt(sums[:, column] / sums[:, 0])


def _change(figure: _Figure, subtrahend: _Figure) -> _Figure:
    return lambda sums: figure(sums) - subtrahend(sums)
