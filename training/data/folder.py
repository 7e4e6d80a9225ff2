"""Writes the folder of bars: imports, fetches, updates and resamples bars. `daemon.tapes.bar_folder` has the layout.

Invariant: one command writes at a time; a file is whole and durable before the index names it, and a file that the
index no longer names stays until the next command. A stopped command is resumed by giving it again.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import fcntl
import hashlib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from daemon.host.time.calendar import midnight_ns
from daemon.host.whole_files import write_whole
from daemon.tapes.bar_folder import (
    ACTION_KINDS,
    ACTIONS,
    BAR_LENGTHS,
    DAYS,
    DIVIDEND,
    INDEX,
    SPIN_OFF,
    SPLIT,
    UNKNOWN,
    Action,
    Actions,
    Float64Array,
    Int64Array,
    Part,
    Series,
    actions_of,
    all_series,
    content_digest,
    encode_index,
    made_of,
    period_of,
    read_part,
    series_of,
)
from daemon.tapes.bars import AnyBars, open_bars, origin_of
from daemon.tapes.files import PRICES, TapeError
from daemon.tapes.minutes import new_york_days
from strategies.kit.contract import Session
from strategies.kit.units import SECOND_NS
from training.data import alpaca_bars, bars_request
from training.data.alpaca_bars import BarsDoor, Listen, PacingClock, pages_of
from training.data.bars_check import CheckedChunk, checked, checked_rows, grouped
from training.data.bars_request import FEEDS, Chunk, DownloadError, DownloadRequest, periods_of, settled, utc
from training.data.sessions import calendar_of, sessions_between

_NAMES = {seconds: timeframe for timeframe, seconds in bars_request.TIMEFRAMES.items()}
TIMEFRAMES = {bars: _NAMES[seconds] for bars, seconds in BAR_LENGTHS.items()}
"""Length of a bar -> Alpaca's name for it."""
MINUTES = "1min"
ALPACA = "Alpaca /v2/stocks/bars"
ALPACA_ACTIONS = "Alpaca /v1/corporate-actions"
OF_A_FILE = "file"  # feed of a file that does not name one
PROCESSED_LATER = timedelta(days=180)  # Alpaca dates actions by their processing: a dividend by its payment
_PART = r"\d{4}(-\d\d)?-[0-9a-f]{12}\.parquet"
_WRITTEN = re.compile(rf"{_PART}|\.({_PART}|{re.escape(INDEX)})\..+\.part")  # names of the files that `Writer` writes
_SCHEMA = pa.schema([("timestamp", pa.timestamp("ns", "UTC")), *((name, pa.float64()) for name in PRICES)])


def is_made_of_minutes(series: Series) -> bool:
    """Whether some of these bars were resampled here from the symbol's minutes."""
    return any(part.made_of for part in series.parts.values())


class Origin(NamedTuple):
    """The origin of bars, as in the index."""

    feed: str
    source: str
    synthetic: str = ""


class Rows(NamedTuple):
    """Bars of the sessions requested from a source, within one part: a month, for daily bars a year."""

    sessions: Sequence[str]  # New York dates, those without a bar included
    starts: Int64Array  # (n,)
    prices: Float64Array  # (5, n)
    made_of: str = ""  # see `Part`


@dataclass(frozen=True, slots=True)
class Writer:
    """The folder, while this process alone writes into it."""

    folder: Path
    clock: PacingClock

    @property
    def now(self) -> str:
        """The time, UTC, to the second."""
        return utc(self.clock.now_ns())

    def put(self, symbol: str, bars: str, origin: Origin, chunks: Iterable[Rows]) -> int:
        """Replace whole sessions; returns the number of bars. Order: new files, index, removal of old files.

        Raises DownloadError for another feed, or for synthetic bars beside recorded ones; TapeError; OSError.
        """
        series = series_of(self.folder, bars, symbol) or Series(symbol, bars, *origin, {})
        _check_origin(self.folder, series, origin)
        home = self.folder / bars / symbol
        home.mkdir(parents=True, exist_ok=True)
        source_names = [*(series.source.split(", ") if series.parts else ()), *(origin.source or UNKNOWN).split(", ")]
        sources = ", ".join(dict.fromkeys(source_names))
        parts, count = dict(series.parts), 0
        for rows in chunks:
            if rows.sessions:
                period = period_of(rows.sessions[0], bars)
                parts[period] = self._written(series, parts.get(period), period, rows, sources)
                count += rows.starts.size
        self._index(Series(symbol, bars, series.feed, sources, series.synthetic, dict(sorted(parts.items()))))
        return count

    def _written(self, series: Series, old: Part | None, period: str, rows: Rows, sources: str) -> Part:
        """Merge rows into a part and write its file."""
        starts, prices = rows.starts, rows.prices
        dates = set(rows.sessions)
        if old is not None and not dates.issuperset(old.sessions):
            stood, old_prices = read_part(self.folder, series, old)
            stays = ~np.isin(new_york_days(stood), np.array(sorted(dates), dtype="datetime64[D]"))
            starts = np.concatenate((stood[stays], starts))
            prices = np.concatenate((old_prices[:, stays], prices), axis=1)
            order = np.argsort(starts, kind="stable")
            starts, prices = starts[order], prices[:, order]
        empty_before = set(old.empty) - dates if old is not None else set()
        sessions = tuple(map(str, np.unique(new_york_days(starts))))
        empty = tuple(sorted(empty_before | (dates - set(sessions))))
        content = content_digest(starts, prices)
        if not starts.size:
            return Part("", "", content, 0, (), empty, self.now, rows.made_of)
        source = "" if UNKNOWN in sources else sources
        marks_of_file = {"symbol": series.symbol, "feed": series.feed, "adjustment": "raw"}
        marks = {"source": source, "synthetic": series.synthetic}
        schema = _SCHEMA.with_metadata(marks_of_file | {name: text for name, text in marks.items() if text})
        times = pa.array(starts).cast(_SCHEMA.field("timestamp").type)
        sink = pa.BufferOutputStream()
        pa.parquet.write_table(pa.table([times, *map(pa.array, prices)], schema=schema), sink, compression="zstd")
        data = sink.getvalue().to_pybytes()
        digest = hashlib.sha256(data).hexdigest()
        file = f"{period}-{digest[:12]}.parquet"
        write_whole(self.folder / series.bars / series.symbol / file, data)
        return Part(file, digest, content, int(starts.size), sessions, empty, self.now, rows.made_of)

    def _index(self, series: Series) -> None:
        write_whole(self.folder / series.bars / series.symbol / INDEX, encode_index(series))

    def put_actions(self, actions: Actions) -> None:
        """Replace a symbol's known splits and dividends. Raises OSError."""
        (self.folder / ACTIONS).mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / ACTIONS / f"{actions.symbol}.json", encode_index(actions))

    def remove(self, symbol: str, bars: str) -> None:
        """Remove a symbol's bars of one length; its splits and dividends stay. Raises DownloadError, OSError."""
        home = self.folder / bars / symbol
        if home not in (self.folder / bars).glob("*/"):  # a name such as .. would lead outside the folder
            raise DownloadError(
                f"{self.folder}: there are no {bars} bars of {symbol}: rltrader data list shows what there is"
            )
        (home / INDEX).unlink(missing_ok=True)
        shutil.rmtree(home)


@contextlib.contextmanager
def writing(folder: Path, clock: PacingClock | None = None) -> Iterator[Writer]:
    """Hold the folder for this process. Raises DownloadError where another one writes into it, OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadError(f"{folder}: another command writes into it: wait for its end") from error
        _sweep(folder)
        yield Writer(folder, clock or PacingClock())


def _sweep(folder: Path) -> None:
    """Remove files that no index names: replaced ones, and leftovers of a stopped command.

    Only files with this module's names are removed, because `--data-dir` may hold other files.
    """
    for home in (place for bars in BAR_LENGTHS for place in (folder / bars).glob("*/")):
        with contextlib.suppress(TapeError):  # with a damaged index nothing is removed here; `remove` deletes it
            series = series_of(folder, home.parent.name, home.name)
            indexed = {part.file for part in series.parts.values()} if series is not None else set()
            for path in home.iterdir():
                if path.name not in indexed and _WRITTEN.fullmatch(path.name):
                    path.unlink(missing_ok=True)


def _check_origin(folder: Path, series: Series, origin: Origin) -> None:
    for name, present, new in (
        ("feed", series.feed, origin.feed),
        ("mark of made-up bars", series.synthetic, origin.synthetic),
    ):
        if present != new:
            raise DownloadError(
                f"{folder}: the {series.bars} bars of {series.symbol} have the {name} {present or 'none'!r}, these "
                "have "
                f"{new or 'none'!r}: bars of two are never mixed; take another --data-dir, or rltrader data remove "
                f"{series.symbol} --bars {series.bars} first"
            )


# --- from Alpaca ------------------------------------------------------------------------------------------------------


def fetch(writer: Writer, request: DownloadRequest, door: BarsDoor, listen: Listen, *, again: bool = False) -> int:
    """Fetch the missing sessions of a request (`again`: all), month by month; returns the number of bars.

    Raises DownloadError where Alpaca refuses or a symbol has no bar at all, TapeError, CalendarError, OSError.
    """
    bars = next(name for name, timeframe in TIMEFRAMES.items() if timeframe == request.timeframe)
    sessions, left_out = settled(request, writer.clock.now_ns())
    if left_out:
        listen(f"left out, not over yet: {', '.join(left_out)}")
    origin, count = Origin(request.feed, ALPACA), 0
    for symbol in request.symbols:
        series = series_of(writer.folder, bars, symbol)
        if series is not None:
            _check_origin(writer.folder, series, origin)
            _check_fetched(writer.folder, series)
        present = set() if series is None or again else _complete_sessions(series)
        missing = [session for session in sessions if session.date not in present]
        if not missing:
            listen(f"{symbol}: {bars} bars are here already")
            continue
        for (chunk,) in periods_of(_alone(request, symbol), missing):
            part = checked(request, chunk, pages_of(door, request, chunk))
            count += writer.put(symbol, bars, origin, [_rows(chunk, part)])
            listen(f"{symbol} {chunk.sessions[0].date} to {chunk.sessions[-1].date}: {part.start_ns.size:,} bars")
        series = series_of(writer.folder, bars, symbol)
        if series is None or not series.sessions:
            writer.remove(symbol, bars)
            raise DownloadError(
                f"no bar of {symbol} from {request.start} to {request.end} on feed {request.feed}: check the symbol "
                "and the dates (Alpaca's history begins in 2016)"
            )
    return count


def _alone(request: DownloadRequest, symbol: str, **changes: Any) -> DownloadRequest:
    return dataclasses.replace(request, symbols=(symbol,), **changes)


def _rows(chunk: Chunk, part: CheckedChunk) -> Rows:
    return Rows([session.date for session in chunk.sessions], part.start_ns, part.prices)


def _complete_sessions(series: Series) -> set[str]:
    """The sessions that need no request: those with a bar, and those without one that precede the newest bar."""
    newest = max(series.sessions, default="")
    return set(series.sessions) | {day for day in series.empty if day < newest}


def _check_fetched(folder: Path, series: Series) -> None:
    if is_made_of_minutes(series):
        raise DownloadError(
            f"{folder}: the {series.bars} bars of {series.symbol} were made of its minutes: rltrader data update makes "
            f"the newer ones; to fetch them instead, rltrader data remove {series.symbol} --bars {series.bars} first"
        )


def update(writer: Writer, usual: DownloadRequest, door: BarsDoor, listen: Listen) -> int:
    """Fetch each symbol's missing bars up to `usual.end`, resample longer bars, and fetch splits and dividends.

    `usual` holds the fields common to all requests. Returns the number of bars. Raises as `fetch`.
    """
    count, of_files, everything = 0, [], list(all_series(writer.folder))
    if not everything:
        raise DownloadError(f"{writer.folder}: there are no bars: begin with rltrader data add SPY --from 2020")
    for series in everything:
        if is_made_of_minutes(series) or not series.sessions:
            continue
        if series.feed not in FEEDS or ALPACA not in series.source:
            of_files.append(f"{series.symbol} {series.bars}")
            continue
        timeframe, start = TIMEFRAMES[series.bars], series.sessions[0]
        request = _alone(usual, series.symbol, start=start, timeframe=timeframe, feed=series.feed)
        count += fetch(writer, request, door, listen)
    if of_files:
        listen(f"not updated: {', '.join(of_files)}, of files: rltrader data add --from-file takes newer bars in")
    for bars in sorted({series.bars for series in everything if is_made_of_minutes(series)}):
        of_minutes = [series.symbol for series in everything if series.bars == bars and is_made_of_minutes(series)]
        resample(writer, bars, of_minutes, listen)
    fetch_actions(writer, sorted({s.symbol for s in everything if ALPACA in s.source}), usual.end, door, listen)
    return count


# --- splits and dividends ---------------------------------------------------------------------------------------------


def fetch_actions(writer: Writer, symbols: Sequence[str], last: str, door: BarsDoor, listen: Listen) -> None:
    """Ask Alpaca for the splits and dividends of all dates that have bars, up to the newest session before `last`.

    Alpaca's present answer replaces earlier ones; `listen` gets the changes. Raises as `actions_of`, TapeError,
    OSError.
    """
    spans = _dates_of(writer.folder, symbols)
    if not spans:
        return
    earliest = min(first for first, _ in spans.values())
    latest = date.fromisoformat(max(min(last, newest) for _, newest in spans.values())) + PROCESSED_LATER
    actions_by_symbol: dict[str, set[Action]] = {symbol: set() for symbol in spans}
    for kind, row in alpaca_bars.actions_of(door, sorted(spans), earliest, latest.isoformat()):
        symbol, action = _action_of(kind, row)
        if symbol in actions_by_symbol:
            actions_by_symbol[symbol].add(action)
    for symbol, (first, newest) in spans.items():
        old = actions_of(writer.folder, symbol)
        worth = {a.ex_date: a for a in old.actions if a.kind == SPIN_OFF} if old is not None else {}
        in_usd = (worth.get(a.ex_date, a) if a.kind == SPIN_OFF else a for a in actions_by_symbol[symbol])
        actions = tuple(sorted(action for action in in_usd if first <= action.ex_date <= newest))
        _tell_changes(old, actions, symbol, listen)
        writer.put_actions(Actions(symbol, first, newest, ALPACA_ACTIONS, writer.now, actions))


def _action_of(kind: str, row: Mapping[str, Any]) -> tuple[str, Action]:
    """The symbol and the action of a row from Alpaca. Raises DownloadError for an invalid row."""
    try:
        symbol = str(row["source_symbol" if kind == "spin_offs" else "symbol"])
        day = date.fromisoformat(row["ex_date"]).isoformat()
        if kind == "cash_dividends":
            action = Action(day, DIVIDEND, float(row["rate"]))
        elif kind == "stock_dividends":
            action = Action(day, SPLIT, 1.0 + float(row["rate"]))
        elif kind == "spin_offs":
            action = Action(day, SPIN_OFF, 0.0)  # the value of the new share is not given
        else:
            action = Action(day, SPLIT, float(row["new_rate"]) / float(row["old_rate"]))
    except (LookupError, TypeError, ValueError, ZeroDivisionError) as error:
        raise DownloadError(
            f"{str(row)[:200]} is no corporate action ({kind}): expected symbol, ex_date and rate: give the same "
            "command again; if it stays, report it to Alpaca, and give the actions by rltrader data add --actions"
        ) from error
    if action.kind != SPIN_OFF and not 0.0 < action.value < float("inf"):
        raise DownloadError(f"{symbol}: the {action.kind} of {day} is {action.value:g}: expected a number above 0")
    return symbol, action


def _tell_changes(old: Actions | None, new: Sequence[Action], symbol: str, listen: Listen) -> None:
    if old is None:
        listen(f"{symbol}: {len(new)} splits, dividends and spin-offs")
        return
    for word, actions in (("no more", set(old.actions) - set(new)), ("new", set(new) - set(old.actions))):
        for action in sorted(actions):
            within = " (spans over it have another digest now)" if action.ex_date <= old.last else ""
            listen(f"{symbol}: {word}: {action.kind} of {action.ex_date}, {action.value:g}{within}")


def take_actions(writer: Writer, path: Path, symbols: Sequence[str]) -> int:
    """Take splits, dividends and spin-offs from a CSV file: symbol, ex_date, kind and value; returns how many.

    On dates of the symbol's bars without known actions, the file must be complete. On other dates its actions are added
    and replace known ones of the same kind and date. Raises DownloadError that names the row, OSError.
    """
    rows = _rows_of(path)
    spans = _dates_of(writer.folder, symbols or sorted({symbol for symbol, _ in rows}))
    for symbol, (first, last) in spans.items():
        present = actions_of(writer.folder, symbol)
        merged = [action for name, action in rows if name == symbol]  # there may be two dividends on one day
        announced = {(action.ex_date, action.kind) for action in merged}
        merged += [a for a in (present.actions if present is not None else ()) if (a.ex_date, a.kind) not in announced]
        begin, end = (first, last) if present is None else (min(first, present.first), max(last, present.last))
        within = tuple(sorted(action for action in merged if begin <= action.ex_date <= end))
        writer.put_actions(Actions(symbol, begin, end, path.name, writer.now, within))
    return sum(symbol in spans for symbol, _ in rows)


def _rows_of(path: Path) -> list[tuple[str, Action]]:
    try:
        return _actions_in(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DownloadError(f"{path}: no CSV file ({error}): check the path given with --actions") from error


def _actions_in(path: Path) -> list[tuple[str, Action]]:
    actions: dict[tuple[str, Action], None] = {}
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(line for line in stream if not line.startswith("#"))
        columns = ("symbol", "ex_date", "kind", "value")
        if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
            raise DownloadError(f"{path}: the column {missing[0]} is missing; expected {', '.join(columns)}")
        for number, row in enumerate(reader, 2):
            try:
                action = Action(date.fromisoformat(row["ex_date"]).isoformat(), row["kind"], float(row["value"]))
            except (TypeError, ValueError) as error:
                entry = f"{row['ex_date']}, {row['value']}"
                raise DownloadError(
                    f"{path}, row {number}: ex_date and value are {entry}; expected a date as 2024-06-10 and a number"
                ) from error
            if action.kind not in ACTION_KINDS or not 0.0 < action.value < float("inf"):
                raise DownloadError(
                    f"{path}, row {number}: {action.kind} {action.value:g}; expected one of {', '.join(ACTION_KINDS)} "
                    "and a number above 0 (of a split the shares for each one before, else USD a share)"
                )
            if (row["symbol"], action) in actions:
                raise DownloadError(
                    f"{path}, row {number}: the {action.kind} of {row['symbol']} of {action.ex_date}, "
                    f"{action.value:g}, comes twice: leave one out; where both are meant, give one row with what they "
                    "make together"
                )
            actions[row["symbol"], action] = None
    return list(actions)


def _dates_of(folder: Path, symbols: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The first and last date with a bar of any length, for each symbol that has bars."""
    spans: dict[str, tuple[str, str]] = {}
    for series in all_series(folder):
        if series.symbol in symbols and series.sessions:
            first, newest = spans.get(series.symbol, ("9999", ""))
            spans[series.symbol] = min(first, series.sessions[0]), max(newest, series.sessions[-1])
    return spans


# --- from a file ------------------------------------------------------------------------------------------------------


def take_file(
    writer: Writer, path: Path, symbols: tuple[str, ...], bars: str, feed: str, listen: Listen, *, again: bool = False
) -> int:
    """Import the bars of a file (prices as traded), of these or all its symbols; returns the number of bars.

    Sessions already present stay if they equal the file's; if they differ, `again` replaces them. Raises DownloadError
    that names the fault, TapeError, CalendarError, OSError.
    """
    file = open_bars(path, symbols or ("",))
    if file.adjustment not in {"", "raw"}:
        raise DownloadError(
            f"{path}: its prices are adjusted ({file.adjustment}); a folder holds them as they were traded, and "
            "adjusts when they are read: give a file of raw prices"
        )
    tables = _by_symbol(path, file, symbols)
    origin = Origin(feed or _feed_of(path) or OF_A_FILE, origin_of(path), file.synthetic)
    firsts, lasts = zip(*((starts[0], starts[-1]) for starts, _ in tables.values()), strict=True)
    first, last = map(str, new_york_days(np.array([min(firsts), max(lasts)])))
    sessions = sessions_between(first, last)
    count = 0
    for symbol, (starts, prices) in tables.items():
        if symbol != symbol.upper():
            raise DownloadError(f"{path}: it has bars of {symbol}: write symbols in capital letters")
        request = DownloadRequest((symbol,), first, last, TIMEFRAMES[bars], Path("x.parquet"))
        series = series_of(writer.folder, bars, symbol)
        if series is not None:
            _check_fetched(writer.folder, series)
        chunks = [_of_file(request, chunk, starts, prices, path) for (chunk,) in periods_of(request, sessions)]
        if not any(chunk.starts.size for chunk in chunks):
            raise DownloadError(
                f"{path}: of {starts.size:,} rows of {symbol}, none is a {bars} bar of regular hours: give the length "
                f"of its bars, such as --bars {MINUTES} or --bars {DAYS}, and its times with their real zone"
            )
        new = [_changed_sessions(writer, series, chunk, path, again=again) for chunk in chunks]
        came = writer.put(symbol, bars, origin, new)
        outside = starts.size - sum(chunk.starts.size for chunk in chunks)
        left_out = f"; {outside:,} outside of regular hours left out" if outside else ""
        listen(f"{symbol} {first} to {last}: {came:,} new {bars} bars{left_out}")
        count += came
    return count


def _by_symbol(path: Path, file: AnyBars, symbols: Sequence[str]) -> dict[str, tuple[Int64Array, Float64Array]]:
    """The rows of each symbol in order of time. Raises DownloadError for a symbol without a row."""
    batches = list(file.batches())
    starts = np.concatenate([np.empty(0, np.int64), *(rows.start_ns for rows in batches)])
    prices = np.concatenate([np.empty((len(PRICES), 0)), *(rows.prices for rows in batches)], axis=1)
    names = np.concatenate([np.empty(0, "U1"), *(np.array(rows.names)[rows.codes] for rows in batches)])
    rows_by_symbol = {}
    for symbol in symbols or sorted(set(names.tolist())):
        rows = np.flatnonzero(names == symbol)
        rows = rows[np.argsort(starts[rows], kind="stable")]
        if not symbol and rows.size:
            raise DownloadError(
                f"{path}: it has no column symbol: name its symbol, as in data add SPY --from-file FILE"
            )
        if not rows.size:
            symbols_text = ", ".join(sorted(set(names.tolist()))[:8]) or "none"
            raise DownloadError(f"{path}: no bar of {symbol}; found {symbols_text}: name the symbols")
        rows_by_symbol[symbol] = starts[rows], prices[:, rows]
    return rows_by_symbol


def _feed_of(path: Path) -> str:
    if not path.name.endswith(".parquet"):
        return ""
    return str((pa.parquet.read_schema(path).metadata or {}).get(b"feed", b"").decode())


def _of_file(request: DownloadRequest, chunk: Chunk, starts: Int64Array, prices: Float64Array, path: Path) -> Rows:
    low, high = midnight_ns(chunk.sessions[0].date), midnight_ns(chunk.sessions[-1].date) + 24 * 3600 * SECOND_NS
    begin, end = np.searchsorted(starts, (low, high))
    cure = f"mend that row of {path}, or leave it out"
    return _rows(chunk, checked_rows(request, chunk, starts[begin:end], prices[:, begin:end], cure=cure))


def _changed_sessions(writer: Writer, series: Series | None, rows: Rows, path: Path, *, again: bool) -> Rows:
    """The sessions of a file that are not present yet. Raises DownloadError where one is present with other bars."""
    part = None if series is None else series.parts.get(period_of(rows.sessions[0], series.bars))
    if series is None or part is None or again:
        return rows
    starts, prices = read_part(writer.folder, series, part)
    old_days, days = new_york_days(starts), new_york_days(rows.starts)
    new = []
    for day in rows.sessions:
        old, now = old_days == np.datetime64(day), days == np.datetime64(day)
        if not old.any():
            new.append(day)
        elif now.any() and not (
            np.array_equal(starts[old], rows.starts[now]) and np.array_equal(prices[:, old], rows.prices[:, now])
        ):
            raise DownloadError(
                f"{path}: its bars of {series.symbol} on {day} are not those of {writer.folder}: --again replaces them"
            )
    keep = np.isin(days, np.array(new, dtype="datetime64[D]"))
    return Rows(new, rows.starts[keep], rows.prices[:, keep])


# --- longer bars ------------------------------------------------------------------------------------------------------


def resample(writer: Writer, bars: str, symbols: Sequence[str], listen: Listen) -> int:
    """Resample minutes to longer bars where the minutes have changed; returns the number of bars.

    A bar begins at the open plus whole lengths and ends with its session at the latest; a day's is labelled by midnight
    in New York. First open, highest high, lowest low, last close, sum of the volume. Raises DownloadError for a symbol
    without minutes, or whose longer bars were fetched; TapeError; OSError.
    """
    count = 0
    for symbol in symbols:
        minutes, old = series_of(writer.folder, MINUTES, symbol), series_of(writer.folder, bars, symbol)
        if minutes is None or not minutes.sessions:
            raise DownloadError(
                f"{writer.folder}: there are no minutes of {symbol}: rltrader data add {symbol} --bars 1min"
            )
        if old is not None and not is_made_of_minutes(old):
            raise DownloadError(
                f"{writer.folder}: the {bars} bars of {symbol} were not made of minutes; to make them, rltrader data "
                f"remove {symbol} --bars {bars} first"
            )
        days = calendar_of(minutes.sessions[0], minutes.sessions[-1]).sessions
        chunks = []
        for period in dict.fromkeys(period_of(month, bars) for month in minutes.parts):
            digest = made_of(minutes.parts, period)
            if old is None or period not in old.parts or old.parts[period].made_of != digest:
                chunks.append(_longer(writer.folder, minutes, period, bars, days, digest))
        bar_count = writer.put(symbol, bars, Origin(minutes.feed, minutes.source, minutes.synthetic), chunks)
        listen(
            f"{symbol}: {bar_count:,} {bars} bars made of minutes"
            if chunks
            else f"{symbol}: {bars} bars are up to date"
        )
        count += bar_count
    return count


def _longer(folder: Path, minutes: Series, period: str, bars: str, sessions: Sequence[Session], digest: str) -> Rows:
    parts = [part for month, part in minutes.parts.items() if month.startswith(period)]
    parts_read = [read_part(folder, minutes, part) for part in parts]
    starts = np.concatenate([rows[0] for rows in parts_read])
    prices = np.concatenate([rows[1] for rows in parts_read], axis=1)
    opens = np.array([session.open_ns for session in sessions], dtype=np.int64)
    at = np.searchsorted(opens, starts, side="right") - 1
    if bars == DAYS:
        labels = np.array([midnight_ns(session.date) for session in sessions], dtype=np.int64)[at]
    else:
        labels = starts - (starts - opens[at]) % (BAR_LENGTHS[bars] * SECOND_NS)
    dates = sorted({day for part in parts for day in (*part.sessions, *part.empty)})
    if not starts.size:
        return Rows(dates, starts, prices, digest)
    return Rows(dates, *grouped(labels, prices), digest)
