"""Triple-barrier labels: the barrier that the price touches first after a close, and the row at which it is known.

Source: López de Prado 2018, "Advances in Financial Machine Learning", chapter 3. Pure functions of arrays of sessions
by symbols, NaN where there is no bar. A label looks ahead, so each one has the row in which it ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

HOLD, BUY, SELL = range(3)
CLASSES = ("HOLD", "BUY", "SELL")
NONE = -1
TOUCHES = ("range", "close")


class Barriers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The definition of a label; recorded in the manifest.

    The reference is the close of row d. The barriers lie at close × exp(± width × volatility), the volatility being the
    sample deviation of the last `volatility_rows` log returns up to row d. Rows d+1 to d+horizon are looked at in turn.

    `touch` "range": an open beyond a barrier decides first, then high and low; where one bar reaches both, it counts
    as the lower one, the worse for who holds shares. "close": closes alone are looked at. Neither touched: HOLD, which
    is known at row d+horizon.
    """

    up: float = 2.0  # width of the upper barrier, in deviations of one session's log return
    down: float = 2.0  # width of the lower barrier
    horizon: int = 5  # sessions
    volatility_rows: int = 20
    touch: str = "range"

    def __post_init__(self) -> None:
        if not (self.up > 0.0 and self.down > 0.0):
            raise ValueError(f"the barriers are up {self.up} and down {self.down}: expected widths above 0")
        if self.horizon < 1 or self.volatility_rows < 2:
            raise ValueError(
                f"the horizon is {self.horizon} sessions and the volatility of {self.volatility_rows} rows: "
                "expected at least 1 and 2"
            )
        if self.touch not in TOUCHES:
            raise ValueError(f"touch is {self.touch!r}: expected one of {', '.join(TOUCHES)}")


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of d sessions by n symbols."""

    barriers: Barriers
    classes: NDArray[np.int8]  # (d, n) HOLD, BUY or SELL; NONE where there is no label
    end: NDArray[np.int32]  # (d, n) the row whose bar decided; NONE where there is no label
    volatility: Float64Array  # (d, n) past deviation of log returns, NaN where it is unknown

    @property
    def known(self) -> BoolArray:
        """Where there is a label."""
        mask: BoolArray = self.classes != NONE
        return mask


def triple_barrier(bars: Float64Array, barriers: Barriers, broken: BoolArray | None = None) -> Labels:
    """Label every row whose future is in the file.

    There is no label where the past volatility is unknown or 0, or where a bar is missing before a barrier is touched:
    after the end of the file or of the symbol, or in a gap.

    Args:
        bars: float64 (5, d, n) open, high, low, close, volume; NaN where there is no bar.
        broken: bool (d, n), true where the price cannot be compared with that of the row before, such as a split that
            the file does not adjust for. No label and no volatility reaches across.
    """
    days, symbols = bars.shape[1:]
    cut = np.zeros((days, symbols), dtype=np.bool_) if broken is None else broken
    volatility = past_volatility(bars[3], barriers.volatility_rows, cut)
    with np.errstate(invalid="ignore", over="ignore"):
        upper = bars[3] * np.exp(barriers.up * volatility)
        lower = bars[3] * np.exp(-barriers.down * volatility)
    classes = np.full((days, symbols), NONE, dtype=np.int8)
    end = np.full((days, symbols), NONE, dtype=np.int32)
    open_rows: BoolArray = np.isfinite(upper) & (volatility > 0.0)
    for ahead in range(1, min(barriers.horizon, days - 1) + 1):
        now, later = slice(0, days - ahead), slice(ahead, days)
        open_rows[days - ahead :] = False
        open_rows[now] &= np.isfinite(bars[:4, later]).all(axis=0) & ~cut[later]
        touched = _touched(bars[:, later], upper[now], lower[now], barriers.touch)
        if ahead == barriers.horizon:
            touched = np.where(touched == NONE, HOLD, touched)
        decided = open_rows[now] & (touched != NONE)
        classes[now][decided] = touched[decided]
        end[now][decided] = (np.arange(ahead, days)[:, None] + np.zeros((1, symbols), dtype=np.int64))[decided]
        open_rows[now] &= ~decided
    return Labels(barriers, classes, end, volatility)


def _touched(bars: Float64Array, upper: Float64Array, lower: Float64Array, touch: str) -> NDArray[np.int8]:
    """BUY, SELL or NONE of one bar for each row; comparisons with NaN are false."""
    opened, high, low, close = bars[:4]
    if touch == "close":
        return np.select([close <= lower, close >= upper], [SELL, BUY], NONE).astype(np.int8)
    order = [opened <= lower, opened >= upper, low <= lower, high >= upper]
    return np.select(order, [SELL, BUY, SELL, BUY], NONE).astype(np.int8)


def past_volatility(close: Float64Array, rows: int, broken: BoolArray) -> Float64Array:
    """Sample deviation of the last `rows` log returns up to each row, float64 (d, n); NaN where one is unknown."""
    result = np.full(close.shape, np.nan)
    returns = np.full(close.shape, np.nan)
    returns[1:] = np.log(close[1:] / close[:-1])
    returns[broken] = np.nan
    if len(close) > rows:
        windows = np.lib.stride_tricks.sliding_window_view(returns[1:], rows, axis=0)
        result[rows:] = windows.std(axis=-1, ddof=1)
    return result


def class_weights(classes: NDArray[np.int8]) -> tuple[float, ...]:
    """Weights of HOLD, BUY and SELL in the loss: inverse to how often each occurs, so that each has the same sum.

    Weights of a mean of 1 over the labels given (scikit-learn's "balanced").

    Raises:
        ValueError: a class does not occur.
    """
    counts = np.bincount(classes[classes != NONE], minlength=len(CLASSES))
    if not counts.all():
        missing = ", ".join(name for name, count in zip(CLASSES, counts.tolist(), strict=True) if not count)
        raise ValueError(
            f"no label is {missing} among {counts.sum()}: narrow the barriers, change the horizon or give more data"
        )
    return tuple((counts.sum() / (len(CLASSES) * counts)).tolist())
