"""Closes of the traded symbols, from the journal or a file, and the returns of buying and holding them.

A desk that decides at each bar has thousands of bars a day: for each day only the newest bar before its last record is
read. A daily desk's bars are shortly before a session's end, or before its decision.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np

from daemon.core.session import new_york_text
from daemon.engine.state_dir import parts_of
from daemon.journal.equity import EquityDay
from daemon.journal.reader import JournalReader
from daemon.reports.performance.figures import DaySpan, Series
from daemon.reports.record import first_id
from daemon.tapes.bars import open_bars
from daemon.tapes.files import TapeError

Closes = dict[str, dict[str, float]]
"""Symbol -> New York date -> close in USD a share."""
LOOK_BACK = 400  # rows before a time that are searched for a symbol's newest bar
SPARE = 60  # rows of other kinds among a daily desk's bars


class _BarClose(msgspec.Struct, gc=False):
    """The needed part of a bar."""

    symbol: str
    start_ns: int
    close: float


class _OneBar(msgspec.Struct, gc=False):
    """The needed part of `BarClosed` and `BarCorrected`."""

    bar: _BarClose


class _ManyBars(msgspec.Struct):
    """The needed part of `HistoryAdjusted`."""

    symbol: str
    bars: tuple[_BarClose, ...]


class _Split(msgspec.Struct, frozen=True):
    """The needed part of `SharesSplit`."""

    symbol: str
    ratio: float
    from_ns: int


_one = msgspec.json.Decoder(_OneBar)
_many = msgspec.json.Decoder(_ManyBars)
_split = msgspec.json.Decoder(_Split)


def closes_at(journal: JournalReader, symbols: Sequence[str], days: Sequence[EquityDay], *, decides: str) -> Closes:
    """Return the closes of these days, and of the first day's first record under the date "", by `Spec.decides`.

    Damaged rows are left out. Raises JournalError, sqlite3.Error.
    """
    closes: Closes = {symbol: {} for symbol in symbols}
    if not days:
        return closes
    splits: set[_Split] = set()  # each once, even if journaled more often
    for reader, some in _by_part(journal, days):
        ends = _session_ends(reader, some)
        _ADD[decides](reader, closes, some, ends, days[0])
        splits |= _splits(reader, some)
    for split in splits:
        date_before = _date(split.from_ns)
        symbol_closes = closes.get(split.symbol, {})
        symbol_closes.update({date: close / split.ratio for date, close in symbol_closes.items() if date < date_before})
    return closes


def _splits(reader: JournalReader, days: Sequence[EquityDay]) -> set[_Split]:
    """Return the splits journaled within these days, of a desk that decides at each bar."""
    rows = reader.query(
        "SELECT payload FROM events WHERE kind = 'SharesSplit' AND time_ns BETWEEN ? AND ?",
        (days[0].first_ns, days[-1].last_ns),
    )
    splits: set[_Split] = set()
    for row in rows:
        with suppress(msgspec.DecodeError, UnicodeError):  # a damaged row: `verify` reports it
            splits.add(_split.decode(row["payload"]))
    return {split for split in splits if split.ratio > 0.0}


def _by_part(journal: JournalReader, days: Sequence[EquityDay]) -> Iterator[tuple[JournalReader, Sequence[EquityDay]]]:
    """Yield the files that hold the events of these days with the days of each, oldest first."""
    parts = parts_of(journal.path)
    if len(parts) == 1:
        yield journal, days
        return
    begins = []
    for path in parts:
        with closing(JournalReader(path)) as reader:
            first = reader.query("SELECT time_ns FROM events ORDER BY id LIMIT 1")
            begins.append(first[0]["time_ns"] if first else 0)
    places = [max(bisect_right(begins, day.last_ns) - 1, 0) for day in days]
    for place, path in enumerate(parts):
        some = [day for day, at in zip(days, places, strict=True) if at == place]
        if some:
            with closing(JournalReader(path)) as reader:
                yield reader, some


def _session_ends(reader: JournalReader, days: Sequence[EquityDay]) -> dict[str, int]:
    """Return the event row of each day's session end, by date."""
    rows = reader.query(
        "SELECT id, time_ns FROM events WHERE kind = 'SessionEnded' AND time_ns BETWEEN ? AND ?",
        (days[0].first_ns, days[-1].last_ns),
    )
    return {new_york_text(row["time_ns"])[:10]: row["id"] for row in rows}


def _newest(reader: JournalReader, symbols: Sequence[str], beyond: int) -> dict[str, float]:
    """Return the close of each symbol's newest bar among the rows before `beyond`."""
    newest: dict[str, float] = {}
    for look_back in (12 * len(symbols), LOOK_BACK * len(symbols)):
        rows = reader.query(
            "SELECT payload FROM events WHERE id >= ? AND id < ? AND kind = 'BarClosed' ORDER BY id DESC",
            (beyond - look_back, beyond),
        )
        for row in rows:
            for bar in _bars(row["payload"]):
                if bar.symbol in symbols:
                    newest.setdefault(bar.symbol, bar.close)
        if len(newest) == len(symbols):
            break
    return newest


@lru_cache(1 << 14)  # the symbols of a day have one start
def _date(start_ns: int) -> str:
    return new_york_text(start_ns)[:10]


def _bars(payload: str | bytes, *, many: bool = False) -> tuple[_BarClose, ...]:
    try:
        return _many.decode(payload).bars if many else (_one.decode(payload).bar,)
    except (msgspec.DecodeError, UnicodeError):
        return ()  # `verify` reports it


def _of_bars(
    reader: JournalReader, closes: Closes, days: Sequence[EquityDay], ends: Mapping[str, int], first: EquityDay
) -> None:
    """Add the closes of the newest bars before each session's end, and before the first record of all."""
    symbols = tuple(closes)
    if days[0] is first:
        for symbol, close in _newest(reader, symbols, first_id(reader, days[0].first_ns + 1)).items():
            closes[symbol][""] = close
    for day in days:
        beyond = ends.get(day.date) or first_id(reader, day.last_ns + 1)
        for symbol, close in _newest(reader, symbols, beyond).items():
            closes[symbol][day.date] = close


def _of_days(
    reader: JournalReader, by_symbol: Closes, days: Sequence[EquityDay], ends: Mapping[str, int], _: EquityDay
) -> None:
    """Add the daily closes: before each session's end; if a day has none there, before the next decisions."""
    _add_before(reader, by_symbol, ends.values())
    missing = [day.first_ns for day in days if not all(day.date in closes for closes in by_symbol.values())]
    if missing:
        decision_rows = reader.query(
            "SELECT DISTINCT time_ns FROM decisions WHERE kind = 'policy' AND time_ns >= ? AND time_ns <= ?",
            (missing[0], days[-1].last_ns),
        )
        _add_before(reader, by_symbol, [first_id(reader, row["time_ns"]) for row in decision_rows])


def _add_before(reader: JournalReader, closes: Closes, places: Iterable[int]) -> None:
    back = 4 * len(closes) + SPARE
    for first, beyond in _join((place - back, place) for place in places):
        rows = reader.query(
            "SELECT kind = 'HistoryAdjusted' AS many, CAST(payload AS BLOB) AS payload FROM events "
            "WHERE id >= ? AND id < ? AND kind IN ('BarClosed', 'BarCorrected', 'HistoryAdjusted') ORDER BY id",
            (first, beyond),
        )
        for many, payload in rows:
            bars = [bar for bar in _bars(payload, many=many) if bar.symbol in closes]
            if many and bars:
                _rescale(closes[bars[0].symbol], bars[0])
            for bar in bars:
                closes[bar.symbol][_date(bar.start_ns)] = bar.close


_ADD = {"bar": _of_bars, "session": _of_days}
"""`Spec.decides` -> function that adds the closes of a file's days."""


def _join(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    spans_joined: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if spans_joined and begin <= spans_joined[-1][1]:
            spans_joined[-1] = (spans_joined[-1][0], max(end, spans_joined[-1][1]))
        else:
            spans_joined.append((begin, end))
    return spans_joined


def _rescale(closes: dict[str, float], oldest: _BarClose) -> None:
    """Scale the closes before an adjusted history to it: otherwise a split would look like a loss."""
    date = _date(oldest.start_ns)
    if date in closes and closes[date] > 0:
        factor = oldest.close / closes[date]
        for earlier in [name for name in closes if name < date]:
            closes[earlier] *= factor


def closes_of_file(text: str) -> tuple[str, dict[str, float]]:
    """Return the symbol and the last close of each New York date of a bar file, `FILE` or `FILE:SYMBOL`.

    Raises TapeError for an unusable file, or one of several symbols if none of them is named.
    """
    name, colon, symbol = text.rpartition(":")
    path, symbol = (Path(name), symbol) if colon and not Path(text).exists() else (Path(text), "")
    label = symbol or path.name.split(".")[0]
    closes: dict[str, float] = {}
    for rows in open_bars(path, (label,)).in_order():
        if not symbol and len(rows.names) > 1:
            raise TapeError(
                f"{path}: it has {len(rows.names)} symbols ({', '.join(rows.names[:8])} …): name one: {path}:SYMBOL"
            )
        label = symbol or rows.names[0]
        chosen = np.isin(rows.codes, [place for place, name in enumerate(rows.names) if name == label])
        for start, close in zip(rows.start_ns[chosen].tolist(), rows.prices[3][chosen].tolist(), strict=True):
            if close > 0:
                closes[new_york_text(start)[:10]] = close
    if not closes:
        raise TapeError(f"{path}: no bar of {label}; name a symbol that is in it: {path}:SYMBOL")
    return label, closes


def held_returns(closes: Sequence[Mapping[str, float]], span: DaySpan) -> Series | None:
    """Return the daily returns, (sessions,), of equal amounts bought at the span's begin and held; None without prices.

    A price missing on a day stays unchanged. A symbol without a price at the begin is not bought.
    """
    chosen = span.chosen
    if not chosen:
        return None
    values = []
    for of_symbol in closes:
        names = sorted(name for name in of_symbol if name)
        place = bisect_left(names, chosen[0].date)
        start = of_symbol[names[place - 1]] if place else of_symbol.get("")
        if start is None and place < len(names) and names[place] == chosen[0].date:
            start = of_symbol[names[place]]
        if not start:
            continue
        last, course = start, []
        for day in chosen:
            last = of_symbol.get(day.date, last)
            course.append(last / start)
        values.append(course)
    if not values:
        return None
    index = np.mean(np.array(values), axis=0)
    index_before = np.concatenate(([1.0], index[:-1]))
    returns: Series = index / index_before - 1.0
    return returns
