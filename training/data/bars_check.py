"""Checks of downloaded bars: each row from Alpaca, and all rows against the exchange calendar.

Pure. Invariant: bars that leave here are in order, of the wanted hours and on the grid of their timeframe, with finite
prices above 0 that lie within low and high.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from daemon.host.time.calendar import midnight_ns
from daemon.tapes.files import PRICES
from strategies.kit.units import HOUR_NS
from training.data.bars_request import Chunk, DownloadError, DownloadRequest, spans_of, utc

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BAD_BAR_CURE = "give the same command again; if it stays, report it to Alpaca or leave the day out"


@dataclass(frozen=True, slots=True)
class CheckedChunk:
    """A chunk's bars, checked: `start_ns` (n,) ascending, `prices` (5, n) open, high, low, close, volume."""

    start_ns: Int64Array
    prices: Float64Array
    pages: int
    outside: int


def checked(request: DownloadRequest, chunk: Chunk, pages: Iterable[Sequence[Any]]) -> CheckedChunk:
    """Alpaca's pages of a chunk as bars of the wanted hours, in the wanted timeframe.

    Raises DownloadError that names the first row that is no bar, or the first bar that is bad.
    """
    rows: list[tuple[int, list[float]]] = []
    count = 0
    for page in pages:
        count += 1
        rows.extend(_row(row, chunk.symbol) for row in page)
    starts = np.array([row[0] for row in rows], dtype=np.int64)
    prices = np.array([row[1] for row in rows], dtype=np.float64).reshape(-1, len(PRICES)).T
    return checked_rows(request, chunk, starts, prices, count)


def checked_rows(
    request: DownloadRequest,
    chunk: Chunk,
    starts: Int64Array,
    prices: Float64Array,
    pages: int = 0,
    cure: str = _BAD_BAR_CURE,
) -> CheckedChunk:
    """Bars of a chunk, starts (n,) and prices (5, n) in any hours, as bars of the wanted ones. Raises as `checked`."""
    _check_order(chunk.symbol, starts, cure)
    begins, ends = np.array(spans_of(request, chunk), dtype=np.int64).T
    at = np.searchsorted(begins, starts, side="right") - 1
    inside = (at >= 0) & (starts < ends[at])
    starts, prices, at = starts[inside], prices[:, inside], at[inside]
    off_grid = starts - begins[at] if request.timeframe == "1Day" else starts % request.asked_step_ns
    _check_values(chunk.symbol, starts, prices, off_grid, cure)
    if request.timeframe == "1Hour" and starts.size:
        starts, prices = grouped(starts - (starts - begins[at]) % HOUR_NS, prices)
    return CheckedChunk(starts, prices, pages, int(np.count_nonzero(~inside)))


def _row(row: Any, symbol: str) -> tuple[int, list[float]]:
    """Start in nanoseconds UTC, and open, high, low, close, volume. Raises DownloadError for what is no bar."""
    try:
        start_ns = (datetime.fromisoformat(row["t"]) - EPOCH) // timedelta(microseconds=1) * 1_000
        values = [row[name] for name in "ohlcv"]
        prices = [float(value) for value in values]
    except (LookupError, TypeError, ValueError, OverflowError):
        pass
    else:
        if abs(start_ns) < 2**63 and all(type(value) in {int, float} for value in values):
            return start_ns, prices
    raise DownloadError(f"{symbol}: {str(row)[:200]} is no bar: expected t, o, h, l, c, v: {_BAD_BAR_CURE}")


def _check_order(symbol: str, starts: Int64Array, cure: str = _BAD_BAR_CURE) -> None:
    steps = np.diff(starts)
    if steps.size and int(steps.min()) <= 0:
        index = int(np.argmax(steps <= 0))
        kind = "comes twice" if steps[index] == 0 else f"comes after {utc(int(starts[index]))}"
        raise DownloadError(f"{symbol}: the bar of {utc(int(starts[index + 1]))} {kind}: {cure}")


def _check_values(
    symbol: str, starts: Int64Array, prices: Float64Array, off_grid: Int64Array, cure: str = _BAD_BAR_CURE
) -> None:
    """Raises DownloadError that names the first bad bar."""
    opened, high, low, close, volume = prices
    for fault, mask in (
        ("a value is not finite", ~np.isfinite(prices).all(axis=0)),
        ("a price is not above 0", (prices[:4] <= 0.0).any(axis=0)),
        ("high is below low", high < low),
        (
            "open or close is outside of low and high",
            (np.minimum(opened, close) < low) | (np.maximum(opened, close) > high),
        ),
        ("the volume is below 0", volume < 0.0),
        ("its start is not on the grid of the timeframe", off_grid != 0),
    ):
        if mask.any():
            index = int(np.argmax(mask))
            values = " ".join(f"{name}={value}" for name, value in zip(PRICES, prices[:, index].tolist(), strict=True))
            raise DownloadError(f"{symbol}: the bar of {utc(int(starts[index]))}: {fault}: {values}: {cure}")


def grouped(labels: Int64Array, prices: Float64Array) -> tuple[Int64Array, Float64Array]:
    """Bars (5, n) in order of time as longer ones, one for each of the ascending `labels` (n,) that they share.

    First open, highest high, lowest low, last close, sum of the volumes. Returns the labels (k,) and the bars (5, k).
    """
    longer, first = np.unique(labels, return_index=True)
    last_rows = np.append(first[1:], len(labels)) - 1
    opened, high, low, close, volume = prices
    extremes = np.maximum.reduceat(high, first), np.minimum.reduceat(low, first)
    return longer, np.stack([opened[first], *extremes, close[last_rows], np.add.reduceat(volume, first)])


@dataclass(slots=True)
class Tally:
    """Counts the bars there are, and the bars missing from the calendar's regular hours, chunk by chunk."""

    bars: Counter[str] = field(default_factory=Counter)
    pages: int = 0
    outside: int = 0
    missing_sessions: dict[str, list[str]] = field(default_factory=dict)
    missing: dict[str, list[int]] = field(default_factory=dict)  # starts of bars, by symbol

    def add(self, request: DownloadRequest, chunk: Chunk, part: CheckedChunk) -> None:
        """Count one chunk."""
        self.bars[chunk.symbol] += part.start_ns.size
        self.pages += part.pages
        self.outside += part.outside
        for session in chunk.sessions:
            daily = request.timeframe == "1Day"
            first, end = (
                (start := midnight_ns(session.date), start + 1) if daily else (session.open_ns, session.close_ns)
            )
            grid = np.arange(first, end, request.step_ns)
            lacking = grid[~np.isin(grid, part.start_ns)]
            if lacking.size == grid.size:
                self.missing_sessions.setdefault(chunk.symbol, []).append(session.date)
            elif lacking.size:
                self.missing.setdefault(chunk.symbol, []).extend(lacking.tolist())
