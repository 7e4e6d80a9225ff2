"""The arithmetic of the risk overlay: a portfolio's forecast volatility, and the cap that it puts on gross exposure.

No state and no I/O. `xp` is numpy or torch: the desk and the tensor markets run these lines, so they agree to the last
bit. Every sum goes term by term in a fixed order, since libraries add up in orders of their own. Arrays are float64:
n accounts, s symbols, t sessions with the oldest first. Invariant: a goal is never raised.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

from daemon.core.instruments.option_market import SESSIONS_PER_YEAR

SPANS = 3  # sessions that the moving average reads, in spans: 99.75 % of its weight at a span of 20
HAR_SESSIONS = 250  # returns to which HAR is fitted
WEEK, MONTH = 5, 22  # sessions of HAR's averages (Corsi 2009, "A Simple Approximate Long-Memory Model of Realized
# Volatility"), here of squared daily returns; it forecasts the mean of the next `WEEK`
EWMA, HAR, MODEL = "ewma", "har", "model"
VARIANCE = "variance"  # the head that `model` reads


def return_count(forecast: str, span: int) -> int:
    """Return how many daily returns a forecast reads: one less than closes."""
    return HAR_SESSIONS if forecast == HAR else SPANS * span


def average_weights(span: int, count: int) -> tuple[float, ...]:
    """Return the weights of an exponential moving average of `count` values, oldest first; they sum to 1."""
    decay = 1.0 - 2.0 / (span + 1.0)
    raw = [decay ** (count - 1 - place) for place in range(count)]
    total = sum(raw)
    return tuple([weight / total for weight in raw])


def volatility(xp: Any, mix: Any, returns: Any, forecast: str, span: int, variances: Any = None) -> Any:
    """Return the annual volatility forecast of fully invested portfolios, (n,); NaN or infinite where it is unknown.

    Args:
        xp: numpy or torch.
        mix: what each symbol is of the invested money, (n, s); each row sums to 1.
        returns: simple daily returns, (n or 1, t, s), t as `return_count` says; 0 of a symbol that the mix leaves
            out may stand for one that is not known.
        forecast: "ewma", "har", or "model".
        span: of the moving average, in sessions.
        variances: of each symbol's daily log returns over the next five sessions, (n or 1, s), for "model": the
            correlations are then those of the moving average.
    """
    count = returns.shape[1]
    weights = average_weights(span, count)
    if forecast == MODEL:
        past = _over_time(returns * returns, weights)
        mix = xp.where(mix > 0.0, mix * _root(xp, variances / past), mix)
    moves = _total(mix[:, None, :] * returns)
    squares = moves * moves
    daily = _har(xp, squares) if forecast == HAR else _over_time(squares, weights)
    return _root(xp, daily) * sqrt(SESSIONS_PER_YEAR)


def mix_of(worth: Any) -> Any:
    """Return what each symbol is of the invested money, (n, s), of its worth in USD, (n, s)."""
    return worth / _total(worth)[:, None]


def exposure_cap(target: float, forecast: Any) -> Any:
    """Return the most that may be invested, as a part of the equity, (n,): target / forecast, at most 1; NaN stays."""
    return (target / forecast).clip(None, 1.0)


def cap_goals(
    xp: Any, holdings: Any, goals: Any, prices: Any, *, most: Any, band: float, whole: bool, shares: bool = True
) -> Any:
    """Return goals under the cap, (n, s), none above those given.

    Nothing changes while the portfolio as asked for is worth `most` or less. Above it, buys are cut to what `most`
    leaves, and once what is held is worth more than `most` x (1 + band), all is sold in proportion down to `most`.

    Args:
        xp: numpy or torch.
        holdings: shares held, (n, s).
        goals: shares asked for, (n, s): of a symbol that is left alone, what is held.
        prices: USD a share, (n, s); 0 of a symbol that is neither held nor asked for may stand for no price.
        most: USD that may be invested, (n,).
        band: part of `most` by which holdings may exceed it before they are sold.
        whole: the goals are a whole portfolio by weights, so its mix is kept: each symbol is bought up to its part of
            `most` and sold down to it, and buys count where the band is asked about. Else they are changes, and what
            is not sold stays as it is within the band.
        shares: round down to whole shares; False leaves fractions.
    """
    goals_worth = _total(goals * prices)
    part = (most / xp.where(goals_worth > 0.0, goals_worth, xp.ones_like(goals_worth))).clip(None, 1.0)[:, None]
    scaled_goals = _whole(xp, goals * part, shares)
    sold = goals < holdings
    kept_shares = xp.where(sold, scaled_goals if whole else goals, holdings)
    more = ((scaled_goals if whole else goals) - kept_shares).clip(0.0, None)
    worth, buys_worth = _total(kept_shares * prices), _total(more * prices)
    room = (most - worth).clip(0.0, None)
    share = (room / xp.where(buys_worth > 0.0, buys_worth, xp.ones_like(buys_worth))).clip(None, 1.0)[:, None]
    within = kept_shares + _whole(xp, more * share, shares)
    sale_share = (most / xp.where(worth > 0.0, worth, xp.ones_like(worth))).clip(None, 1.0)[:, None]
    beyond = scaled_goals if whole else _whole(xp, kept_shares * sale_share, shares)
    over = (worth + buys_worth if whole else worth) > most * (1.0 + band)
    cut = xp.where(over[:, None], beyond, within)
    return xp.where((goals_worth > most)[:, None], cut, goals)


def without_new_risk(xp: Any, holdings: Any, goals: Any) -> Any:
    """Return the goals of a portfolio of unknown volatility: sales as requested, and no buys."""
    return xp.where(goals < holdings, goals, holdings)


def _whole(xp: Any, values: Any, shares: bool) -> Any:
    return xp.floor(values) if shares else values


def _root(xp: Any, values: Any) -> Any:
    """Return the square root, correctly rounded: torch's on a CPU is one bit off in places, by processor (MKL's)."""
    if xp is np or values.device.type != "cpu":
        return xp.sqrt(values)
    return xp.from_numpy(np.sqrt(values.numpy()))


def _total(values: Any) -> Any:
    """Return the sum over the last axis, term by term."""
    total = values[..., 0]
    for place in range(1, values.shape[-1]):
        total = total + values[..., place]
    return total


def _over_time(values: Any, weights: tuple[float, ...]) -> Any:
    """Return the weighted sum over the second axis, oldest first."""
    total = values[:, 0] * weights[0]
    for place in range(1, len(weights)):
        total = total + values[:, place] * weights[place]
    return total


def _har(xp: Any, squares: Any) -> Any:
    """Return HAR's forecast of the mean squared return of the next week, (n,).

    Least squares on the sessions given, solved by elimination. A forecast outside of what the fit has seen becomes the
    nearest that it has (the insanity filter of Swanson and White 1997), so it is never negative.
    """
    count = squares.shape[1]
    scale = _total(squares) / count
    values = squares / scale[:, None]
    week, month = _means(values, WEEK), _means(values, MONTH)
    last = count - WEEK  # sessions followed by a whole week
    inputs = [xp.ones_like(values), values, _pad(xp, week, count), _pad(xp, month, count)]
    rows = xp.stack([column[:, MONTH - 1 : last] for column in inputs], 2)
    target = week[:, MONTH:]  # the mean of the week after each of these rows
    size = len(inputs)
    products = [rows[:, :, i] * rows[:, :, j] for i in range(size) for j in range(size)]
    sums = _total(xp.stack([*products, *(rows[:, :, i] * target for i in range(size))], 1))
    matrix = [[sums[:, i * size + j] for j in range(size)] for i in range(size)]
    slopes = _solve(matrix, [sums[:, size * size + i] for i in range(size)])
    forecast = slopes[0]
    for slope, column in zip(slopes[1:], inputs[1:], strict=True):
        forecast = forecast + slope * column[:, -1]
    return forecast.clip(xp.amin(target, 1), xp.amax(target, 1)) * scale


def _means(values: Any, length: int) -> Any:
    """Return the mean of each run of `length` values along the second axis, (n, t - length + 1)."""
    count = values.shape[1] - length + 1
    total = values[:, :count]
    for place in range(1, length):
        total = total + values[:, place : place + count]
    return total / length


def _pad(xp: Any, values: Any, count: int) -> Any:
    """Return values (n, t) with zeros before them, (n, count)."""
    missing = count - values.shape[1]
    return xp.concatenate([xp.zeros_like(values[:, :1])] * missing + [values], 1) if missing else values


def _solve(matrix: list[list[Any]], right: list[Any]) -> list[Any]:
    """Return the solution of a symmetric positive system by elimination; not finite where it has none."""
    size = len(right)
    matrix, right = [list(row) for row in matrix], list(right)
    for pivot in range(size):
        for row in range(pivot + 1, size):
            factor = matrix[row][pivot] / matrix[pivot][pivot]
            for column in range(pivot, size):
                matrix[row][column] = matrix[row][column] - factor * matrix[pivot][column]
            right[row] = right[row] - factor * right[pivot]
    solution: list[Any] = [None] * size
    for row in reversed(range(size)):
        value = right[row]
        for column in range(row + 1, size):
            value = value - matrix[row][column] * solution[column]
        solution[row] = value / matrix[row][row]
    return solution
