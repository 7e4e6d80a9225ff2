"""Bars as tables that the market gathers from: prices on the paper broker's grid, features, labels, allowed entries.

The bars are read as a replay reads them; a row is a bar of a symbol. Invariant: a row's features are those of the live
path, bit for bit; what is known at a row's close comes from it and from earlier bars alone, but for the labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from daemon.core.desks.bars import MINUTE_WAIT_NS
from daemon.core.events import BarClosed, ClockTicked, Event, SessionEnded, SessionScheduled
from daemon.core.limits import Trading
from daemon.core.session import flatten_from_ns
from daemon.tapes.bars import digest_of_bars
from daemon.tapes.minutes import TapeSource, scan
from strategies.kit.contract import Bar, Session, ShareSpec
from strategies.kit.daily import usable
from strategies.kit.units import MINUTE_NS, SECOND_NS
from strategies.online_dqn.model_config import ModelConfig
from strategies.online_dqn.state_vector import market_rows
from training.data.daily_table import TICKS, ticks
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


OPEN, HIGH, LOW, CLOSE, VOLUME = range(5)
HALF = 2 * TICKS
"""Half ticks in a US dollar. Marks are in half ticks, because they are midpoints of two prices in ticks."""


@dataclass(frozen=True, slots=True)
class TradingDay:
    """One session of one symbol. `first` and `end` are its rows [first, end)."""

    session: Session
    symbol: str
    first: int
    end: int
    flatten: int  # the row at whose close the last exit is sent; a row follows it
    usable: bool  # warm at its first bar, without a price jump, and with a bar after the flatten


@dataclass(frozen=True, slots=True)
class History:
    """All rows, symbol after symbol, oldest first."""

    bar_min: int
    minute: Int64Array  # from the session's open to the bar's end
    open: Int64Array  # ticks
    close: Int64Array  # ticks: the bid at the bar's end
    ask: Int64Array  # ticks, at the bar's end
    low: Int64Array  # half ticks: lowest price of the bar and of the mark at its end
    high: Int64Array
    entry: npt.NDArray[np.bool_]  # True where clock and bars allow an entry at this row's close
    seen: npt.NDArray[np.float32]  # (k, columns): features of each session with the rows before it
    newest: Int64Array  # index into `seen` of this row's features; -1 where the desk is not warm
    labels: npt.NDArray[np.float32]  # (rows, heads): labels of the heads, NaN where unknown
    days: tuple[TradingDay, ...]

    @property
    def dates(self) -> tuple[str, ...]:
        """The sessions that are usable for every symbol, ascending."""
        bad = {day.session.date for day in self.days if not day.usable}
        return tuple(sorted({day.session.date for day in self.days} - bad))

    def on(self, dates: Sequence[str]) -> tuple[TradingDay, ...]:
        """The sessions of these dates, of all symbols, by date."""
        chosen = frozenset(dates)
        days = [day for day in self.days if day.session.date in chosen]
        return tuple(sorted(days, key=lambda day: day.session.date))


def history_of(bars: Bars, spec: ShareSpec, config: ModelConfig, trading: Trading) -> History:
    """The tables of all symbols. Raises HistoryError where no session can be decided on."""
    parts = [_Symbol(bars, series, spec, config, trading) for series in bars.series]
    first_row, first_seen, days = 0, 0, list[TradingDay]()
    newest: list[Int64Array] = []
    for part in parts:
        days.extend(part.days(first_row))
        newest.append(np.where(part.newest >= 0, part.newest + first_seen, -1))
        first_row, first_seen = first_row + len(part.minute), first_seen + len(part.seen)
    history = History(
        bar_min=spec.bar_interval_s // 60,
        minute=np.concatenate([part.minute for part in parts]),
        open=np.concatenate([part.open for part in parts]),
        close=np.concatenate([part.close for part in parts]),
        ask=np.concatenate([part.ask for part in parts]),
        low=np.concatenate([part.low for part in parts]),
        high=np.concatenate([part.high for part in parts]),
        entry=np.concatenate([part.entry for part in parts]),
        seen=np.concatenate([part.seen for part in parts]),
        newest=np.concatenate(newest),
        labels=np.concatenate([part.labels for part in parts]),
        days=tuple(days),
    )
    if not history.dates:
        raise HistoryError(
            f"{bars.file} has no session with {spec.history_bars} bars of each symbol before it: give a longer file"
        )
    return history


class _Symbol:
    """The tables of one symbol."""

    def __init__(self, bars: Bars, series: Series, spec: ShareSpec, config: ModelConfig, trading: Trading) -> None:
        self._bars, self._series, self._spec, self._trading = bars, series, spec, trading
        spans = [(scheduled.session, *bars.places(series, n)) for n, scheduled in enumerate(bars.scheduled)]
        self._spans = [(session, first, end) for session, first, end in spans if end > first]
        opens = np.concatenate([np.full(end - first, session.open_ns) for session, first, end in self._spans])
        ends = np.concatenate([np.full(end - first, session.close_ns) for session, first, end in self._spans])
        interval_ns = spec.bar_interval_s * SECOND_NS
        self.minute = (np.minimum(series.start_ns + interval_ns, ends) - opens) // MINUTE_NS
        self._prices(trading)
        self.entry = self._entries(ends)
        self.seen, self.newest = self._features(config)
        self.labels = labels_of(series.values, [(first, end) for _, first, end in self._spans], config)

    def days(self, first_row: int) -> list[TradingDay]:
        """The symbol's sessions; `first_row` is its first row in the tables of all symbols."""
        days = []
        for session, first, end in self._spans:
            deadline = flatten_from_ns(session, "", self._trading.execution, self._spec.grid)
            deadline -= session.open_ns
            flatten = first + int(np.searchsorted(self.minute[first:end] * MINUTE_NS, deadline))
            usable = self.newest[first] >= 0 and first < flatten < end - 1 and not self._leaps(first, flatten + 2)
            day = TradingDay(
                session, self._series.symbol, first_row + first, first_row + end, first_row + flatten, bool(usable)
            )
            days.append(day)
        return days

    def _prices(self, trading: Trading) -> None:
        """Prices in ticks as the paper broker quotes them."""
        whole = ticks(self._series.values[: CLOSE + 1]).astype(np.int64)
        self.open, self.close = whole[OPEN], whole[CLOSE]
        self.ask = rounded_up(self.close, 1 + Fraction(trading.paper.share_wait_rate))
        middle = self.close + self.ask
        self.low, self.high = np.minimum(2 * whole[LOW], middle), np.maximum(2 * whole[HIGH], middle)

    def _entries(self, closes_ns: Int64Array) -> npt.NDArray[np.bool_]:
        """Rows at whose close the clock and the window's bars allow an entry."""
        risk, start_ns, interval_ns = self._trading.risk, self._series.start_ns, self._spec.bar_interval_s * SECOND_NS
        now_ns = np.minimum(start_ns + interval_ns, closes_ns)
        allowed: npt.NDArray[np.bool_] = (self.minute >= risk.no_entry_after_open_min) & (
            closes_ns - now_ns > risk.no_entry_before_close_min * MINUTE_NS
        )
        missing = np.diff(start_ns, prepend=start_ns[0]) - interval_ns
        torn = missing // MINUTE_NS > risk.gap_min
        for _, first, end in self._spans:
            torn[first] = False
            for place in np.flatnonzero(torn[first:end]).tolist():
                allowed[first + place : min(first + place + self._spec.window - 1, end)] = False
        return allowed

    def _features(self, config: ModelConfig) -> tuple[npt.NDArray[np.float32], Int64Array]:
        """Features of every warm session with the rows before it that a window needs, and each row's index in them."""
        values, history, lead = self._series.values, self._spec.history_bars, config.window - 1
        newest = np.full(values.shape[1], -1, dtype=np.int64)
        blocks, filled = [np.zeros((0, len(config.indicators)), dtype=np.float32)], 0
        for _, first, end in self._spans:
            if first < history:
                continue
            count = lead + end - first
            block = market_rows(config, np.ascontiguousarray(values[:, first - history : end]), count)
            blocks.append(block.astype(np.float32))
            newest[first:end] = filled + lead + np.arange(end - first)
            filled += count
        return np.concatenate(blocks), newest

    def _leaps(self, first: int, end: int) -> bool:
        """Whether a price in these rows jumps so far from the last close that the desk would doubt it."""
        most, values = self._trading.risk.bar_leap_max, self._series.values
        rows = slice(max(first, 1), end)
        previous = values[CLOSE, rows.start - 1 : end - 1]
        prices = values[:VOLUME, rows]
        return bool((np.abs(prices - previous) > most * np.maximum(prices, previous)).any())


def labels_of(values: Float64Array, spans: Sequence[tuple[int, int]], config: ModelConfig) -> npt.NDArray[np.float32]:
    """Labels of the configuration's heads at each bar, float32 (n, heads), from bars of the same session.

    direction: 1 where the close `bars` later is higher, else 0. risk: the fall from the close to the lowest price of
    the next `bars`, as a part of the close. NaN where the session has too few bars left.
    """
    columns = []
    direction, risk = config.heads.direction, config.heads.risk
    if direction is not None:
        columns.append(_ahead(values, spans, direction.bars, _rises))
    if risk is not None:
        columns.append(_ahead(values, spans, risk.bars, _falls))
    return np.stack(columns, axis=1) if columns else np.zeros((values.shape[1], 0), dtype=np.float32)


def _ahead(
    values: Float64Array,
    spans: Sequence[tuple[int, int]],
    bars: int,
    of: Callable[[Float64Array, int], Float64Array],
) -> npt.NDArray[np.float32]:
    """Apply `of` to each session's bars that have `bars` bars after them; NaN for the others."""
    result = np.full(values.shape[1], np.nan, dtype=np.float32)
    for first, end in spans:
        if end - first > bars:
            result[first : end - bars] = of(values[:, first:end], bars)
    return result


def _rises(session: Float64Array, bars: int) -> Float64Array:
    rises: Float64Array = (session[CLOSE, bars:] > session[CLOSE, :-bars]).astype(np.float64)
    return rises


def _falls(session: Float64Array, bars: int) -> Float64Array:
    close = session[CLOSE, :-bars]
    lowest = np.lib.stride_tricks.sliding_window_view(session[LOW, 1:], bars).min(axis=1)
    falls: Float64Array = np.maximum(1.0 - lowest / close, 0.0)
    return falls


def rounded_up(whole: Int64Array, factor: Fraction) -> Int64Array:
    """Whole numbers times a factor, rounded up."""
    return -(-whole * factor.numerator // factor.denominator)
