"""Daily bars files as one panel: sessions by symbols, features of each close, and which rows can be forecast.

Files are read as a replay is fed from them, so the panel and the desk see the same bars. All prices of a panel are
adjusted in the same way, because a return over a dividend depends on the adjustment.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from daemon.core.limits import Basket
from daemon.tapes.bars import open_bars
from daemon.tapes.days import DailyTapeSource, scan_daily
from daemon.tapes.files import TapeError
from strategies.forecast_ensemble.masks import GOOD, jumps, reasons
from training.data.sessions import calendar_of_bars, days_of
from training.forecast.labels import BoolArray, Float64Array

Features = Callable[
    [Float64Array, Float64Array, Float64Array, Float64Array, Float64Array, NDArray[np.datetime64]],
    NDArray[np.float32],
]
"""Open, high, low, close, volume and dates of a symbol's own bars, (n,) each, to float32 (n, f): NaN until settled."""

ADJUSTMENTS = {
    "raw": "raw",
    "split": "splits only",
    "dividend": "dividends only",
    "all": "splits and dividends",
    "column": "raw with adj_close",
}
ON_CENTS = 0.5
"""Share of closes in whole cents above which prices count as traded, or as adjusted for splits alone.

Of our files: 93 % where dividends are not adjusted for (a split may leave the cents), 2 to 5 % where they are.
"""
WINDOW = 60
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class BarsFile:
    """One bars file."""

    file: str
    sha256: str
    symbols: tuple[str, ...]
    adjustment: str  # a value of `ADJUSTMENTS`
    synthetic: str  # the label of made-up bars, empty for recorded ones


@dataclass(frozen=True, slots=True)
class Panel:
    """d sessions, n symbols in the order of the files and then of their names."""

    dates: tuple[str, ...]  # (d,) New York, ascending; those on which a symbol has a bar
    symbols: tuple[str, ...]
    bars: Float64Array  # (5, d, n) open, high, low, close in USD and volume; NaN where there is no good bar
    features: NDArray[np.float32]  # (d, n, f); NaN where they have not settled or there is no bar
    reasons: NDArray[np.uint8]  # (d, n) why a row is masked, a code of `masks.REASONS`
    sources: tuple[BarsFile, ...] = ()

    @property
    def valid(self) -> BoolArray:
        """Where there is a whole sequence to forecast from, bool (d, n)."""
        valid: BoolArray = self.reasons == GOOD
        return valid

    @property
    def broken(self) -> BoolArray:
        """Where a price cannot be compared with the one before it, bool (d, n); see `labels.triple_barrier`."""
        return jumps(self.bars)

    @property
    def sha256(self) -> str:
        """A digest of the bytes of all files, in order."""
        return hashlib.sha256("".join(source.sha256 for source in self.sources).encode()).hexdigest()

    @classmethod
    def load(
        cls, paths: Sequence[Path], features: Features, *, symbols: Sequence[str] = (), window: int = WINDOW
    ) -> Panel:
        """Read files, all their symbols or these.

        Raises:
            TapeError: a file cannot be read or has no column `symbol`; two files are adjusted in different ways or
                hold the same symbol; none holds one of `symbols`.
            CalendarError: the dates of a file are not known.
        """
        sources = _checked([_source(path, symbols) for path in paths], symbols)
        parts_read = [_read(path, source) for path, source in zip(paths, sources, strict=True) if source.symbols]
        dates = tuple(sorted({date for part in parts_read for date in part[1]}))
        place = {date: row for row, date in enumerate(dates)}
        bars = [_spread(part[0], [place[date] for date in part[1]], len(dates), np.nan) for part in parts_read]
        refused = [_spread(part[2][None], [place[date] for date in part[1]], len(dates), 0) for part in parts_read]
        names = tuple(symbol for source in sources for symbol in source.symbols)
        every, refusals = np.concatenate(bars, axis=2), np.concatenate(refused, axis=2)[0]
        present = np.logical_and.reduce(np.isfinite(every), axis=0)
        kept = np.flatnonzero(np.logical_or.reduce(present, axis=1))  # of the others each bar was refused
        dates = tuple(dates[row] for row in kept.tolist())
        return cls.of(dates, names, every[:, kept], features, refusals[kept], sources, window)

    @classmethod
    def of(
        cls,
        dates: Sequence[str],
        symbols: Sequence[str],
        bars: Float64Array,
        features: Features,
        refused: BoolArray | None = None,
        sources: tuple[BarsFile, ...] = (),
        window: int = WINDOW,
    ) -> Panel:
        """A panel of bars that are at hand, float64 (5, d, n) with NaN where there is none."""
        columns = _features(np.array(dates, dtype="datetime64[D]"), bars, features)
        no = np.zeros(bars.shape[1:], dtype=np.bool_) if refused is None else refused
        return cls(tuple(dates), tuple(symbols), bars, columns, reasons(bars, no, columns, window), sources)


def _source(path: Path, symbols: Sequence[str]) -> BarsFile:
    """The facts of a file, from a scan of its rows."""
    file = open_bars(path, ("",))
    if file.symbol_assumed:
        raise TapeError(f"{path}: there is no column symbol: add it, so that each bar says whose it is")
    names: dict[str, None] = {}
    rows = on_cents = 0
    for batch in file.batches():
        names |= dict.fromkeys(batch.names)
        cents = batch.prices[3] * 100.0
        rows += len(cents)
        on_cents += int(np.count_nonzero(np.abs(cents - np.round(cents)) < 1e-6))
    kind = "column" if file.adjustable else file.adjustment
    if kind not in ADJUSTMENTS:
        kind = "split" if on_cents > ON_CENTS * rows else "all"
    chosen = tuple(symbol for symbol in sorted(names) if not symbols or symbol in symbols)
    return BarsFile(path.name, file.digest(), chosen, ADJUSTMENTS[kind], file.synthetic)


def _checked(sources: list[BarsFile], symbols: Sequence[str]) -> tuple[BarsFile, ...]:
    """Raises TapeError where the files do not go together."""
    holder: dict[str, str] = {}
    for source in sources:
        if source.adjustment != sources[0].adjustment:
            raise TapeError(
                f"{sources[0].file} holds prices adjusted by {sources[0].adjustment}, {source.file} by "
                f"{source.adjustment}; expected one way: give files of one adjustment, or write the key `adjustment` "
                "(raw, split, dividend or all) into the Parquet metadata of the file that was judged wrongly"
            )
        for symbol in source.symbols:
            if symbol in holder:
                raise TapeError(f"{holder[symbol]} and {source.file} both hold {symbol}: leave one of them out")
            holder[symbol] = source.file
    missing = [symbol for symbol in symbols if symbol not in holder]
    if missing or not holder:
        files = ", ".join(source.file for source in sources) or "no file"
        raise TapeError(f"{files}: no row of {', '.join(missing) or 'any symbol'}: give the file that holds them")
    return tuple(sources)


def _read(path: Path, source: BarsFile) -> tuple[Float64Array, tuple[str, ...], BoolArray]:
    """Bars (5, d, n), dates and what was refused, of the file's own sessions."""
    info = scan_daily(path, source.symbols)
    calendar = calendar_of_bars((path, info))
    bars, sessions, refused = days_of(DailyTapeSource(path, info, calendar, Basket()), source.symbols)
    return bars, tuple(session.date for session in sessions), refused


def _spread(values: NDArray[T], rows: list[int], days: int, fill: float) -> NDArray[T]:
    """Spread values (k, sessions of a file, n) over the panel's sessions: (k, `days`, n)."""
    spread = np.full((len(values), days, values.shape[2]), fill, dtype=values.dtype)
    spread[:, rows] = values
    return spread


def _features(dates: NDArray[np.datetime64], bars: Float64Array, features: Features) -> NDArray[np.float32]:
    """Each symbol's features, computed from its own bars without gaps, at the sessions of those bars."""
    present: BoolArray = np.logical_and.reduce(np.isfinite(bars), axis=0)
    columns: NDArray[np.float32] | None = None
    for place in range(bars.shape[2]):
        rows = np.flatnonzero(present[:, place])
        opened, high, low, close, volume = bars[:, rows, place]
        table = features(opened, high, low, close, volume, dates[rows])
        if columns is None:
            columns = np.full((len(dates), bars.shape[2], table.shape[1]), np.nan, dtype=np.float32)
        columns[rows, place] = table
    assert columns is not None, "a panel has a symbol"
    return columns


class Windows:
    """Windows of `length` rows over features (d, n, f). A symbol's rows are adjacent, so a window is one block."""

    def __init__(self, features: NDArray[np.float32], length: int, device: torch.device | str = "cpu") -> None:
        """Take a copy of `features`, with 0 in place of what is not finite: no window of a valid row holds any."""
        days, symbols, width = features.shape
        rows = np.nan_to_num(features.transpose(1, 0, 2), copy=True, nan=0.0, posinf=0.0, neginf=0.0)
        self.length = length
        self.days = days
        self.rows = torch.from_numpy(np.ascontiguousarray(rows)).view(symbols * days, width).to(device)
        self._steps = torch.arange(1 - length, 1, device=device)

    @torch.no_grad()
    def mapped(self, change: Callable[[Tensor], Tensor]) -> Windows:
        """The same windows over changed rows."""
        windows = copy.copy(self)
        windows.rows = change(self.rows)
        return windows

    def cast(self, kind: torch.dtype) -> Windows:
        """The same windows over rows of another type."""
        return self.mapped(lambda rows: rows.to(kind))

    def places(self, rows: NDArray[np.int64]) -> Tensor:
        """Where the windows of rows (k, 2) of session and symbol end, int64 (k,).

        Raises:
            ValueError: a window would begin before the panel.
        """
        if len(rows) and int(rows[:, 0].min()) < self.length - 1:
            raise ValueError(
                f"a window of {self.length} rows ends in session {int(rows[:, 0].min())}: expected one that begins in "
                "the panel; leave out the rows that are not valid"
            )
        return torch.from_numpy(rows[:, 1] * self.days + rows[:, 0]).to(self.rows.device)

    def gather(self, places: Tensor) -> Tensor:
        """Sequences (k, length, f), the newest row last."""
        index = (places.unsqueeze(1) + self._steps).flatten()
        return self.rows.index_select(0, index).view(len(places), self.length, -1)
