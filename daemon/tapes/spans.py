"""A span: bars of some symbols from one date to another in a folder of bars, read like a file of bars.

A span is named by a path, `FOLDER/QQQ,SPY_1min_raw_2024-01-02_2024-06-28.span`, at which no file exists: the name is
the selection. Its digest is that of its bars and factors, so it does not depend on the order in which the folder was
filled, nor on later months. Fails closed: with a session of the exchange without bars, a split or a dividend without
its factor, or two feeds, nothing is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, Self

import msgspec
import numpy as np

from daemon.host.time.calendar import SessionCalendar, midnight_ns
from daemon.tapes.bar_folder import (
    BAR_LENGTHS,
    DAYS,
    DIVIDEND,
    SPIN_OFF,
    SPLIT,
    UNKNOWN,
    Action,
    Actions,
    Float64Array,
    Int64Array,
    Series,
    actions_of,
    made_of,
    period_of,
    read_part,
    series_of,
)
from daemon.tapes.files import BATCH_ROWS, PRICES, BarRows, TapeError

SUFFIX = ".span"
RAW, SPLITS, ALL = ADJUSTMENTS = ("raw", "split", "all")
"""Adjustments of traded prices: none, for splits, or for splits, dividends and spin-offs."""
_HOLES = "holes"
_SHOWN = 5  # most dates in an error message


@dataclass(frozen=True, slots=True)
class Span:
    """Selection of bars. Dates are New York's, both included; `holes` allows sessions without a bar."""

    folder: Path
    symbols: tuple[str, ...]  # in alphabetical order
    bars: str  # a key of `BAR_LENGTHS`
    adjustment: str  # one of `ADJUSTMENTS`
    first: str
    last: str
    holes: bool = False

    @property
    def path(self) -> Path:
        """The path that names the span."""
        words = [",".join(self.symbols), self.bars, self.adjustment, self.first, self.last]
        return self.folder / ("_".join([*words, *([_HOLES] if self.holes else [])]) + SUFFIX)

    @classmethod
    def at(cls, path: Path) -> Self:
        """Return the span that a path names. Raises TapeError if it names none."""
        words = path.name.removesuffix(SUFFIX).split("_")
        holes = words[5:] == [_HOLES]
        if len(words) - holes == 5 and words[1] in BAR_LENGTHS and words[2] in ADJUSTMENTS and words[0]:
            names, bars, adjustment, first, last = words[:5]
            symbols = tuple(sorted(set(names.split(","))))
            if is_date(first) and is_date(last) and first <= last and all(symbols):
                return cls(path.parent, symbols, bars, adjustment, first, last, holes)
        raise TapeError(
            f"{path}: it names no span; expected FOLDER/SPY,QQQ_1min_raw_2024-01-02_2024-06-28{SUFFIX}, with one of "
            f"{', '.join(BAR_LENGTHS)}, one of {', '.join(ADJUSTMENTS)}, and two dates in order"
        )


def is_date(text: str) -> bool:
    """Return whether a text is a date, as YYYY-MM-DD."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def is_span(path: Path) -> bool:
    """Return whether a path names a span."""
    return path.name.endswith(SUFFIX)


class SpanBars:
    """The bars of a span, with the interface of `TapeFile`. Raises TapeError if the span is not fully readable."""

    symbol_assumed = adjustable = adjusts = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.span = span = Span.at(path)
        self.adjustment = span.adjustment
        if not span.folder.is_dir():
            raise TapeError(f"{span.folder}: no such folder of bars: make it with {_add(span, span.symbols)}")
        self._sessions = _sessions(span)
        self._series = [_series(span, symbol) for symbol in span.symbols]
        self.feed = self._same("feed")
        self.synthetic = self._same("synthetic")
        sources = ", ".join(dict.fromkeys(series.source for series in self._series))
        self.source = "" if UNKNOWN in sources else sources  # the source of some is unknown
        for series in self._series:
            self._check_holes(series)
            self._check_made_of(series)
        self._actions = [
            () if span.adjustment == RAW else _actions(span, symbol, self._sessions) for symbol in span.symbols
        ]

    def batches(self) -> Iterator[BarRows]:
        """Yield all rows by time, then by symbol. Raises TapeError if a file is not the one of the index."""
        for period in self._periods:
            parts = [self._adjust(place, period) for place in range(len(self._series))]
            starts = np.concatenate([part.starts for part in parts])
            codes = np.repeat(np.arange(len(parts)), [part.starts.size for part in parts])
            prices = np.concatenate([part.prices for part in parts], axis=1)
            order = np.argsort(starts, kind="stable")
            for begin in range(0, order.size, BATCH_ROWS):
                cut = order[begin : begin + BATCH_ROWS]
                yield BarRows(self.span.symbols, codes[cut], starts[cut], prices[:, cut])

    in_order = batches

    def digest(self) -> str:
        """Return the SHA-256, hexadecimal, of symbols, dates, length, adjustment, bars as traded, and factors."""
        span = self.span
        parts_named = [1, span.symbols, span.bars, span.adjustment, span.first, span.last, span.holes]
        digest = hashlib.sha256(msgspec.json.encode([parts_named, self._actions]))
        for series in self._series:
            digest.update(f"\n{series.symbol}\n".encode())
            for period in self._periods:
                starts, prices = self._raw(series, period)
                digest.update(starts.astype("<i8").tobytes() + np.ascontiguousarray(prices, dtype="<f8").tobytes())
        return digest.hexdigest()

    @property
    def _periods(self) -> tuple[str, ...]:
        span = self.span
        first, last = period_of(span.first, span.bars), period_of(span.last, span.bars)
        periods = {period for series in self._series for period in series.parts}
        return tuple(period for period in sorted(periods) if first <= period <= last)

    def _same(self, name: str) -> str:
        """Return the common value of all symbols. Raises TapeError if they differ."""
        values = {str(getattr(series, name)): series.symbol for series in self._series}
        if len(values) > 1:
            words = ", ".join(f"{symbol} {value or 'none'}" for value, symbol in values.items())
            cure = "another --data-dir, or rltrader data remove and rltrader data add --feed, makes one of them"
            raise TapeError(f"{self.path}: the {name} differs ({words}); expected one for all symbols: {cure}")
        return next(iter(values))

    def _check_holes(self, series: Series) -> None:
        """Raise TapeError for sessions of the exchange without a bar, except those before a share's first bar."""
        session_dates, empty = set(series.sessions), series.empty
        begins = min(session_dates, default="")
        lacking = [day for day in self._sessions if day not in session_dates and not (day < begins and day in empty)]
        if not session_dates.intersection(self._sessions):
            raise TapeError(
                f"{self.path}: there is no {series.bars} bar of {series.symbol} in these dates; what there is reaches "
                f"from {begins} to {max(session_dates, default='')}: {_add(self.span, (series.symbol,))}"
            )
        if not lacking or self.span.holes:
            return
        empty_days = [day for day in lacking if day in empty]
        option_text = " --again" if len(empty_days) == len(lacking) else ""
        none = f"; the source had no bar on {_dates(empty_days)}: --allow-holes goes on without" if empty_days else ""
        runs = _runs(self._sessions, lacking)
        cures = ", then ".join(_add(self.span, (series.symbol,), *run, more=option_text) for run in runs[:_SHOWN])
        raise TapeError(
            f"{self.path}: {series.symbol} has no {series.bars} bar in {len(lacking)} of {len(self._sessions)} "
            f"sessions: {_dates(lacking)}: {cures}{none}"
        )

    def _check_made_of(self, series: Series) -> None:
        """Raise TapeError if the minutes of longer bars have changed since."""
        first, last = (period_of(day, series.bars) for day in (self.span.first, self.span.last))
        made_parts = {period: part for period, part in series.parts.items() if first <= period <= last and part.made_of}
        if not made_parts:
            return
        minutes = series_of(self.span.folder, "1min", series.symbol)
        for period, part in made_parts.items():
            if minutes is None or made_of(minutes.parts, period) != part.made_of:
                raise TapeError(
                    f"{self.path}: the {series.bars} bars of {series.symbol} in {period} were made of minutes that "
                    f"have changed: rltrader data resample {series.bars} --data-dir {self.span.folder}"
                )

    def _raw(self, series: Series, period: str) -> tuple[Int64Array, Float64Array]:
        """Return one part's rows within the span, as traded."""
        part = series.parts.get(period)
        if part is None:
            return np.empty(0, np.int64), np.empty((len(PRICES), 0))
        starts, prices = read_part(self.span.folder, series, part)
        low, high = np.searchsorted(starts, (midnight_ns(self.span.first), midnight_ns(_next(self.span.last))))
        return starts[low:high], prices[:, low:high]

    def _adjust(self, place: int, period: str) -> _Rows:
        starts, prices = self._raw(self._series[place], period)
        steps = self._steps[place]
        if steps is None or not starts.size:
            return _Rows(starts, prices)
        step_index = np.searchsorted(steps.from_ns, starts, side="right")
        price, volume = steps.price[step_index], steps.volume[step_index]
        return _Rows(starts, np.concatenate((prices[:4] * price, prices[4:] * volume)))

    @cached_property
    def _steps(self) -> list[_Steps | None]:
        return [
            self._steps_of(series, actions) if actions else None
            for series, actions in zip(self._series, self._actions, strict=True)
        ]

    def _steps_of(self, series: Series, actions: Sequence[Action]) -> _Steps:
        """Return the factors of the bars before each ex-date: a split's 1 / shares, a dividend's 1 - amount / close.

        The close is the last before the ex-date, as traded (Center for Research in Security Prices); a dividend on the
        day of a split is per new share.
        """
        days, price, volume = [], [1.0], [1.0]
        for day, on_it in groupby(reversed(actions), key=lambda action: action.ex_date):
            on_the_day = list(on_it)
            shares = float(np.prod([action.value for action in on_the_day if action.kind == SPLIT]))
            dividends = sum(action.value for action in on_the_day if action.kind != SPLIT)
            part = 0.0
            if dividends:
                close = self._close_before(series, day)
                part = 0.0 if close is None else dividends * shares / close
            if part >= 1.0:
                raise TapeError(
                    f"{self.path}: {series.symbol} paid {dividends:g} USD a share with the ex-date {day}, not less "
                    f"than the close before: correct it: rltrader data add {series.symbol} --actions FILE"
                )
            days.append(midnight_ns(day))
            price.append(price[-1] * (1.0 - part) / shares)
            volume.append(volume[-1] * shares)
        return _Steps(np.array(days[::-1]), np.array(price[::-1]), np.array(volume[::-1]))

    def _close_before(self, series: Series, day: str) -> float | None:
        """Return the last close as traded before a date; None if the span has no bar before it."""
        sessions = [session for session in self._sessions if session < day]
        session_dates = set(series.sessions)
        known_sessions = [session for session in sessions if session in session_dates]
        if not known_sessions:
            return None
        missing_sessions = [
            session for session in sessions if session > known_sessions[-1] and session not in series.empty
        ]
        if missing_sessions:
            first, last = missing_sessions[0], missing_sessions[-1]
            raise TapeError(
                f"{self.path}: the dividend of {series.symbol} with the ex-date {day} has no factor, because the close "
                f"of {last} is not there: {_add(self.span, (series.symbol,), first, last)}"
            )
        starts, prices = self._raw(series, period_of(known_sessions[-1], series.bars))
        return float(prices[3, np.searchsorted(starts, midnight_ns(day)) - 1])


class _Rows(NamedTuple):
    starts: Int64Array  # (n,)
    prices: Float64Array  # (5, n)


class _Steps(NamedTuple):
    """Factors of the bars before each time; the last one, 1.0, is for the bars after all of them."""

    from_ns: Int64Array  # (k,) ascending
    price: Float64Array  # (k + 1,)
    volume: Float64Array  # (k + 1,)


def _sessions(span: Span) -> tuple[str, ...]:
    calendar = SessionCalendar.load(span.first, span.last)
    sessions = tuple(day.date for day in calendar.sessions if span.first <= day.date <= span.last)
    if not sessions:
        raise TapeError(f"{span.path}: the exchange had no session in these dates: choose others")
    return sessions


def _series(span: Span, symbol: str) -> Series:
    series = series_of(span.folder, span.bars, symbol)
    if series is not None:
        return series
    if span.bars != "1min" and series_of(span.folder, "1min", symbol) is not None:
        cure = f"rltrader data resample {span.bars} --data-dir {span.folder}"
    else:
        cure = _add(span, (symbol,))
    raise TapeError(f"{span.folder}: there are no {span.bars} bars of {symbol}: {cure}")


def _actions(span: Span, symbol: str, sessions: Sequence[str]) -> tuple[Action, ...]:
    """Return the splits, with `all` also dividends and spin-offs, within the span. Raises TapeError if unknown."""
    actions = actions_of(span.folder, symbol)
    if actions is None or actions.first > sessions[0] or actions.last < sessions[-1]:
        raise TapeError(f"{span.path}: {_unknown_words(symbol, actions)}; for prices as traded take --adjustment {RAW}")
    kinds = (SPLIT,) if span.adjustment == SPLITS else (SPLIT, DIVIDEND, SPIN_OFF)
    chosen = tuple(a for a in actions.actions if a.kind in kinds and span.first < a.ex_date <= span.last)
    for action in chosen:
        if not action.value > 0.0:
            raise TapeError(
                f"{span.path}: the {action.kind.replace('_', '-')} of {symbol} with the ex-date {action.ex_date} has "
                f"no factor: state its worth in USD a share: rltrader data add {symbol} --actions FILE"
            )
    return chosen


def _unknown_words(symbol: str, actions: Actions | None) -> str:
    reason = "they are not known" if actions is None else f"they are known from {actions.first} to {actions.last} alone"
    cure = f"rltrader data update, or of bars from a file rltrader data add {symbol} --actions FILE"
    return f"prices are to be adjusted for splits and dividends of {symbol}, and {reason}: {cure}"


def _add(span: Span, symbols: Sequence[str], first: str = "", last: str = "", more: str = "") -> str:
    dates = f"--from {first or span.first} --to {last or span.last}"
    names = " ".join(symbols)
    return f"rltrader data add {names} --bars {span.bars} {dates}{more} --data-dir {span.folder}"


def _next(day: str) -> str:
    return (date.fromisoformat(day) + timedelta(days=1)).isoformat()


def _dates(days: Sequence[str]) -> str:
    return ", ".join(days[:_SHOWN]) + (", …" if len(days) > _SHOWN else "")


def _runs(sessions: Sequence[str], lacking: Sequence[str]) -> list[tuple[str, str]]:
    """Return the first and the last date of each run of consecutive sessions."""
    place = {day: number for number, day in enumerate(sessions)}
    runs: list[tuple[str, str]] = []
    for day in lacking:
        if runs and place[runs[-1][1]] + 1 == place[day]:
            runs[-1] = (runs[-1][0], day)
        else:
            runs.append((day, day))
    return runs


__all__ = ["ADJUSTMENTS", "ALL", "DAYS", "RAW", "SUFFIX", "Span", "SpanBars", "is_span"]
