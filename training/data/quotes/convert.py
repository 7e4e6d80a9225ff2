"""One conversion: vendors' files in, one file of option quotes or of bars out, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from daemon.host.time.calendar import SessionCalendar
from daemon.host.whole_files import whole
from daemon.tapes.files import ADJUSTMENT_KEY, EARLIEST_NS, SOURCE_KEY, SYNTHETIC_KEY, TapeError
from daemon.tapes.quotes.reader import QuoteArrays, QuoteFile
from daemon.tapes.quotes.schema import MINUTE
from daemon.tapes.quotes.spot import spots
from daemon.tapes.quotes.writer import RowCounts, writing_quotes
from strategies.kit.contract import Session
from strategies.kit.units import MINUTE_NS
from training.data.quotes.columns import INSTANT, REPAIR, ColumnChoice, ConvertError, csv_tables
from training.data.quotes.formats import FORMATS

Progress = Callable[[Path, int, int], object]
"""Gets the file, its bytes read so far, and the rows taken from all files so far."""


@dataclass(frozen=True, slots=True)
class Converted:
    """The result of a conversion: rows read, file written."""

    read: int  # rows that were asked for
    written: RowCounts
    left_out: dict[str, int]  # rows, by reason


def convert(name: str, paths: Sequence[Path], out: Path, request: ColumnChoice, progress: Progress) -> Converted:
    """Convert the files, all of the format `name`, into a file of quotes at `out`; replaces what is there.

    Raises ConvertError and TapeError, which name the file, the finding and the cure; OSError.
    """
    check_paths(paths, out)
    interval, synthetic = _marks(name, paths)
    rows = 0
    with writing_quotes(out, source=name, interval=interval, synthetic=synthetic) as writer:
        for path in paths:
            try:
                for table, position in FORMATS[name].read(path, request):
                    writer.add(table)
                    rows += table.num_rows
                    progress(path, position, rows)
            except pa.ArrowInvalid as error:
                raise ConvertError(f"{path}: a value has the wrong kind ({error}): repair the file") from error
            progress(path, path.stat().st_size, rows)
        if not rows:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in request.left_out.items()) or "no row"
            raise ConvertError(f"{out}: no quote was taken ({reasons}): check the files, --symbols and --max-days")
        summary = writer.finish()
    return Converted(rows, summary, dict(request.left_out))


def check_paths(paths: Sequence[Path], out: Path) -> None:
    """Refuse a missing input, and an output that is an input or a folder. Raises ConvertError."""
    for path in paths:
        if not path.is_file():
            raise ConvertError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; expected a file")
        if out.exists() and path.samefile(out):
            raise ConvertError(f"--out {out} is one of the files to convert: choose another name")
    if out.is_dir():
        raise ConvertError(f"--out {out} is a folder; expected the name of a file to write")


def _marks(name: str, paths: Sequence[Path]) -> tuple[str, str]:
    """Return the interval, and what made the quotes up: of files that have the schema already, their own."""
    if name != "quotes":
        return FORMATS[name].interval, ""
    files = [QuoteFile(path) for path in paths]
    intervals = {file.interval: file.path for file in files}
    if len(intervals) > 1:
        intervals_text = ", ".join(f"{path} has {interval}" for interval, path in intervals.items())
        raise TapeError(f"{intervals_text}; expected one interval: convert them one by one")
    return files[0].interval, ", ".join(dict.fromkeys(file.synthetic for file in files if file.synthetic))


_PRICES = ("open", "high", "low", "close", "volume")
_TYPES = {"ticker": pa.string(), "window_start": pa.int64()} | dict.fromkeys(_PRICES, pa.float64())


def convert_bars(paths: Sequence[Path], out: Path, symbols: frozenset[str], progress: Progress) -> int:
    """Write the bars of `symbols` in order to `out`, replacing what is there; return their count.

    The inputs are Massive's (formerly Polygon's) flat files of stock minutes: CSV.gz, a file for each day with all US
    stocks. Published at massive.com/docs/flat-files/stocks/minute-aggregates: `window_start` in nanoseconds UTC, the
    bar's start; prices are not adjusted. The result is a file of bars (docs/DATA.md).

    Holds the bars of the wanted symbols in memory: about 100 bytes each. Raises ConvertError, OSError.
    """
    check_paths(paths, out)
    if not symbols:
        raise ConvertError(f"{out}: a flat file holds every stock; expected some: give --symbols, such as SPY,QQQ")
    symbol_array, tables, rows = pa.array(sorted(symbols)), list[Any](), 0
    for path in paths:
        for table, position in csv_tables(path, _TYPES):
            chosen = table.filter(pc.is_in(table.column("ticker"), symbol_array))
            if empty := [name for name in _TYPES if chosen.column(name).null_count]:
                raise ConvertError(f"{path}: a row has no {empty[0]}; expected one in every row: {REPAIR}")
            earliest = pc.min(chosen.column("window_start")).as_py()
            if earliest is not None and earliest < EARLIEST_NS:
                raise ConvertError(
                    f"{path}: the window_start {earliest} is before 1980 when read as nanoseconds; expected these, "
                    "as flat files have them: an answer of the REST interface has milliseconds, multiply them by 1e6"
                )
            tables.append(chosen)
            rows += chosen.num_rows
            progress(path, position, rows)
        progress(path, path.stat().st_size, rows)
    if not rows:
        raise ConvertError(f"{out}: no bar of {', '.join(sorted(symbols))}: check --symbols and the files")
    table = pa.concat_tables(tables).combine_chunks()
    missing = sorted(symbols - set(table.column("ticker").unique().to_pylist()))
    if missing:
        raise ConvertError(f"{out}: no bar of {', '.join(missing)} in the files: check --symbols")
    table = table.sort_by([("window_start", "ascending"), ("ticker", "ascending")])
    _refuse_twice(out, table)
    bars = pa.table(
        {
            "symbol": table.column("ticker"),
            "timestamp": table.column("window_start").cast(INSTANT),
            **{name: table.column(name) for name in _PRICES},
        }
    )
    metadata = {b"source": b"Massive flat files, stocks minute aggregates", ADJUSTMENT_KEY: b"raw"}
    with whole(out) as part:
        pa.parquet.write_table(bars.replace_schema_metadata(metadata), part, compression="zstd")
    return rows


def _refuse_twice(out: Path, table: Any) -> None:
    starts = table.column("window_start").to_numpy()
    names = table.column("ticker").to_numpy()
    twice = np.flatnonzero((starts[1:] == starts[:-1]) & (names[1:] == names[:-1]))
    if twice.size:
        when = np.datetime64(int(starts[twice[0]]), "ns").astype("datetime64[s]")
        raise ConvertError(f"{out}: {names[twice[0]]} has two bars at {when}Z: give each day's file once")


SOURCE = b"option quotes: their underlying, else put-call parity"


def implied_bars(paths: Sequence[Path], out: Path, roots: frozenset[str], progress: Progress) -> int:
    """Write the bars of one root's underlying, implied by its quotes, to `out`, without a symbol; return their count.

    For files without bars of the same minutes. A bar closes at the recorded underlying of its minute's end, else at the
    nearest expiry's forward by put-call parity. It opens at the close before it; nothing is known within the minute,
    and there is no volume.

    Raises ConvertError, TapeError, CalendarError, OSError.
    """
    check_paths(paths, out)
    if len(paths) != 1 or len(roots) != 1:
        inputs = f"{len(paths)} files and --symbols {','.join(sorted(roots)) or 'none'}"
        raise ConvertError(f"{out}: found {inputs}; expected one file of quotes and one root, such as SPXW")
    path, root = paths[0], next(iter(roots))
    file = QuoteFile(path)
    if file.interval != MINUTE:
        raise ConvertError(f"{path}: quotes of the interval {file.interval}; expected minutes")
    starts: list[int] = []
    rows: list[tuple[float, float, float, float]] = []
    calendar: SessionCalendar | None = None
    for quotes in file.sessions():
        calendar = calendar or SessionCalendar.to_horizon(quotes.date)
        session = next((scheduled for scheduled in calendar.sessions if scheduled.date == quotes.date), None)
        previous_close: float | None = None
        for end_ns, close in _closes(quotes, session, root) if session is not None else ():
            opened = close if previous_close is None else previous_close
            starts.append(end_ns - MINUTE_NS)
            rows.append((opened, max(opened, close), min(opened, close), close))
            previous_close = close
        progress(path, 0, len(rows))
    if not rows:
        raise ConvertError(f"{out}: no minute of {root} has an underlying or a pair of quotes: check --symbols")
    prices = np.array(rows).T
    names = ("open", "high", "low", "close")
    columns = {name: pa.array(values) for name, values in zip(names, prices, strict=True)}
    table = pa.table(
        {"timestamp": pa.array(starts, pa.int64()).cast(INSTANT), **columns, "volume": pa.array(np.zeros(len(rows)))}
    )
    metadata = {SOURCE_KEY: SOURCE, ADJUSTMENT_KEY: b"raw"}
    if file.synthetic:
        metadata[SYNTHETIC_KEY] = file.synthetic.encode()
    with whole(out) as part:
        pa.parquet.write_table(table.replace_schema_metadata(metadata), part, compression="zstd")
    return len(rows)


def _closes(quotes: QuoteArrays, session: Session, root: str) -> list[tuple[int, float]]:
    """Return end and close of each minute of the session that has one, in order."""
    spot = spots(quotes)
    of_root = np.array([root_name == root for root_name in quotes.contracts.roots], dtype=np.bool_)[quotes.codes]
    usable = of_root & np.isfinite(spot) & (quotes.end_ns > session.open_ns) & (quotes.end_ns <= session.close_ns)
    ends, first = np.unique(quotes.end_ns[usable], return_index=True)
    return list(zip(ends.tolist(), spot[usable][first].tolist(), strict=True))
