"""Distance between two samples of a quantity: bins, shares and the population stability index, in numpy only.

Pure functions of float64 arrays. Training makes a `Histogram` with them, the daemon compares live values with it.
Invariant: the same values give the same bins and the same index, wherever they are computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from strategies.kit.manifest import Histogram

Float64Array = npt.NDArray[np.float64]

BINS = 10  # deciles
FLOOR = 1e-4
"""The least share of a bin: an empty one would make the index infinite."""
WINDOWS = (60, 125, 250, 500, 1000, 2000, 4000)  # rows of the training windows that are compared with the whole
DISJOINT = 4  # number of disjoint windows required
QUANTILE = 0.99
_NORMAL_99 = 2.3263478740408408  # the standard normal's quantile


def edges_of(values: npt.ArrayLike, most: int = BINS) -> tuple[float, ...]:
    """Return the inner edges, ascending, of at most `most` bins with about equal shares of the values.

    At most `most` distinct values get a bin each, parted half way; a single one gets a bin between two open ones.
    Otherwise the edges are quantiles that are values themselves, each once, none of them the largest.
    """
    distinct = np.unique(np.asarray(values, dtype=np.float64))
    if len(distinct) == 1:
        only = float(distinct[0])
        return (float(np.nextafter(np.float32(only), np.float32(-np.inf))), only)
    if len(distinct) <= most:
        return tuple(((distinct[1:] + distinct[:-1]) / 2.0).tolist())
    at = np.arange(1, most) / most
    edges = np.unique(np.quantile(np.asarray(values, dtype=np.float64), at, method="inverted_cdf"))
    return tuple(edges[edges < distinct[-1]].tolist())


def shares_of(values: npt.ArrayLike, edges: Sequence[float]) -> Float64Array:
    """Return the share of the values in each bin, float64 (edges + 1,): x is in bin i when edges[i-1] < x <= edges[i].

    A NaN belongs to the last bin. Raises ValueError without a value.
    """
    flat = np.asarray(values, dtype=np.float64).ravel()
    if not len(flat):
        raise ValueError("there are no values, expected one at least: ask for shares of something that was seen")
    counts = np.bincount(np.searchsorted(np.asarray(edges), flat, side="left"), minlength=len(edges) + 1)
    return np.asarray(counts / len(flat), dtype=np.float64)


def psi(expected: npt.ArrayLike, actual: npt.ArrayLike) -> Float64Array:
    """Return the population stability index of shares, float64 (...), over their last axis, which is the bins'.

    Sum of (actual - expected) x ln(actual / expected), each share at least `FLOOR` (Siddiqi 2006, Credit Risk
    Scorecards, chapter 10, where below 0.1 is no change, 0.1 to 0.25 a small one and above 0.25 a shift).
    """
    one = np.maximum(np.asarray(expected, dtype=np.float64), FLOOR)
    other = np.maximum(np.asarray(actual, dtype=np.float64), FLOOR)
    return np.asarray(((other - one) * np.log(other / one)).sum(axis=-1))


def chance_level(bins: int, actual: int, expected: int) -> float:
    """Return the index that two samples of one distribution exceed with probability 0.01; `bins` counts nonempty ones.

    `actual` and `expected` are the sample sizes. Without drift the index divided by 1/actual + 1/expected is about
    chi-square with bins - 1 degrees of freedom (Yurdakul 2018, Statistical Properties of Population Stability Index,
    section 3.3), whose 99 % quantile is taken from Wilson and Hilferty 1931. 0 with one bin.
    """
    freedom = bins - 1
    if freedom < 1:
        return 0.0
    part = 2.0 / (9.0 * freedom)
    quantile = freedom * (1.0 - part + _NORMAL_99 * part**0.5) ** 3
    return float(quantile * (1.0 / actual + 1.0 / expected))


def usual_level(within: Sequence[tuple[int, float]], rows: int) -> float:
    """Return the level of the longest training window (`Histogram.within`) that has at most `rows` rows.

    0 when the training was too short.
    """
    return max(((length, level) for length, level in within if length <= rows), default=(0, 0.0))[1]


def histogram(
    name: str,
    values: npt.ArrayLike,
    *,
    columns: Sequence[int] = (),
    of_the_desk: bool = False,
    edges: Sequence[float] = (),
) -> Histogram:
    """The values, float (rows, pooled) in the order of time, as a `Histogram` with shares of six digits.

    Bins are `edges`, or where there are none those of `edges_of`.
    """
    rows = np.asarray(values, dtype=np.float64)
    borders = tuple(edges) or edges_of(rows)
    shares = shares_of(rows, borders)
    return Histogram(
        name=name,
        edges=borders,
        shares=tuple(round(share, 6) for share in shares.tolist()),
        columns=tuple(columns),
        of_the_desk=of_the_desk,
        within=_within(rows, borders, shares),
    )


def _within(rows: Float64Array, edges: Sequence[float], shares: Float64Array) -> tuple[tuple[int, float], ...]:
    """Return, for each length of `WINDOWS`, the 99 % quantile of the index over half-overlapping windows."""
    where = np.searchsorted(np.asarray(edges), rows, side="left")
    counts = np.zeros((len(rows) + 1, len(shares)))
    np.add.at(counts, (np.repeat(np.arange(1, len(rows) + 1), rows.shape[1]), where.ravel()), 1.0)
    counts = counts.cumsum(axis=0)
    levels = []
    for length in WINDOWS:
        if len(rows) >= DISJOINT * length:
            first = np.arange(0, len(rows) - length + 1, length // 2)
            parts = (counts[first + length] - counts[first]) / (length * rows.shape[1])
            levels.append((length, round(float(np.quantile(psi(shares, parts), QUANTILE)), 6)))
    return tuple(levels)
