"""Recorded bars of a few symbols, read as a replay reads them, and a session's feed events made from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from daemon.core.desks.bars import MINUTE_WAIT_NS
from daemon.core.events import BarClosed, ClockTicked, Event, SessionEnded, SessionScheduled
from daemon.tapes.bars import digest_of_bars
from daemon.tapes.minutes import TapeSource, scan
from strategies.kit.contract import Bar, ShareSpec
from strategies.kit.daily import usable
from strategies.kit.units import SECOND_NS
from training.data.sessions import calendar_of_bars
from training.study.folds import HistoryError

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Series:
    """All regular-session bars of one symbol, oldest first."""

    symbol: str
    start_ns: Int64Array  # (n,)
    values: Float64Array  # (5, n): open, high, low, close in USD, volume

    def bar(self, place: int) -> Bar:
        """The bar at this place."""
        return Bar(self.symbol, int(self.start_ns[place]), *self.values[:, place].tolist())


@dataclass(frozen=True, slots=True)
class Bars:
    """The bars of all symbols, in the spec's order, and the sessions in which any of them has one."""

    file: str
    sha256: str  # of the bytes of all files
    synthetic: str  # the label of made-up bars, empty for recorded ones
    interval_s: int
    scheduled: tuple[SessionScheduled, ...]
    series: tuple[Series, ...]
    remark: str = ""  # what part of the files was ignored, if that is a large part

    def places(self, series: Series, index: int) -> tuple[int, int]:
        """Range [first, end) of a session's bars in a series."""
        session = self.scheduled[index].session
        first, end = np.searchsorted(series.start_ns, [session.open_ns, session.close_ns])
        return int(first), int(end)

    def feed(self, index: int) -> Iterator[Event]:
        """The events of a session as a replay has them."""
        scheduled = self.scheduled[index]
        session = scheduled.session
        yield scheduled
        ends: dict[int, list[Bar]] = {}
        for series in self.series:
            for place in range(*self.places(series, index)):
                bar = series.bar(place)
                ends.setdefault(min(bar.start_ns + self.interval_s * SECOND_NS, session.close_ns), []).append(bar)
        for end_ns in sorted(ends):
            for bar in ends[end_ns]:
                yield BarClosed(end_ns, bar)
            if len(ends[end_ns]) < len(self.series) and end_ns + MINUTE_WAIT_NS < session.close_ns:
                yield ClockTicked(end_ns + MINUTE_WAIT_NS)
        yield SessionEnded(session.close_ns, session.date)


def read_bars(paths: Sequence[Path], spec: ShareSpec) -> Bars:
    """Read the bars of the spec's symbols: from one file with all of them, or from one file for each, in their order.

    Raises:
        HistoryError: another number of files, or a symbol without a bar.
        TapeError, CalendarError: a file cannot be read; the text gives reason and cure.
    """
    if len(paths) not in {1, len(spec.symbols)}:
        raise HistoryError(
            f"{len(paths)} files for {', '.join(spec.symbols)}: give one with all, or one for each in this order"
        )
    parts = [spec.symbols] if len(paths) == 1 else [(symbol,) for symbol in spec.symbols]
    infos = [
        scan(path, symbols, spec.bar_interval_s, spec.bar_anchor) for path, symbols in zip(paths, parts, strict=True)
    ]
    calendar = calendar_of_bars(*zip(paths, infos, strict=True))
    sessions: dict[str, SessionScheduled] = {}
    bars_by_symbol: dict[str, list[Bar]] = {symbol: [] for symbol in spec.symbols}
    sources = [TapeSource(path, info, calendar) for path, info in zip(paths, infos, strict=True)]
    for source in sources:
        _gather(source, sessions, bars_by_symbol)
    remark = " ".join(filter(None, (source.counts.remark for source in sources)))
    missing = [symbol for symbol, bars in bars_by_symbol.items() if not bars]
    if missing:
        raise HistoryError(f"no regular-session bar of {', '.join(missing)}: choose another file. {remark}".strip())
    return Bars(
        ", ".join(path.name for path in paths),
        _digest([info.sha256 for info in infos]),
        next((info.synthetic for info in infos if info.synthetic), ""),
        spec.bar_interval_s,
        tuple(sessions[date] for date in sorted(sessions)),
        tuple(_series(symbol, bars) for symbol, bars in bars_by_symbol.items()),
        remark,
    )


def _gather(source: TapeSource, sessions: dict[str, SessionScheduled], bars_by_symbol: dict[str, list[Bar]]) -> None:
    """Add the sessions and the good bars of a file."""
    for event in source:
        if isinstance(event, SessionScheduled):
            sessions.setdefault(event.session.date, event)
        elif isinstance(event, BarClosed) and usable(event.bar):
            bars_by_symbol[event.bar.symbol].append(event.bar)


def _series(symbol: str, bars: Sequence[Bar]) -> Series:
    values = np.array([(bar.open, bar.high, bar.low, bar.close, bar.volume) for bar in bars], dtype=np.float64)
    starts = np.array([bar.start_ns for bar in bars], dtype=np.int64)
    return Series(symbol, starts, np.ascontiguousarray(values.T))


def digest_of_files(paths: Sequence[Path]) -> str:
    """Return the digest that `read_bars` gives these bars, without reading them. Raises as `digest_of_bars`."""
    return _digest([digest_of_bars(path) for path in paths])


def _digest(digests: Sequence[str]) -> str:
    """The file's own digest, or that of all digests."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
