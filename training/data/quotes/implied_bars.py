"""Bars of an underlying from its option quotes: for files without bars of the same minutes.

A bar closes at the recorded underlying of its minute's end, else at the nearest expiry's forward by put-call parity. It
opens at the close before it; nothing is known within the minute, and there is no volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from daemon.host.time.calendar import SessionCalendar
from daemon.host.whole_files import whole
from daemon.tapes.files import ADJUSTMENT_KEY, SOURCE_KEY, SYNTHETIC_KEY
from daemon.tapes.quotes.reader import QuoteArrays, QuoteFile
from daemon.tapes.quotes.schema import MINUTE
from daemon.tapes.quotes.spot import spots
from strategies.kit.contract import Session
from strategies.kit.units import MINUTE_NS
from training.data.quotes.columns import INSTANT, ConvertError
from training.data.quotes.convert import Progress, check_paths

SOURCE = b"option quotes: their underlying, else put-call parity"


def implied_bars(paths: Sequence[Path], out: Path, roots: frozenset[str], progress: Progress) -> int:
    """Write the bars of one root to `out`, without a symbol, replacing what is there; return their count.

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
