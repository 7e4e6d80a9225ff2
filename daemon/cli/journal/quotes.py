"""`rltraderctl export quotes`: write the option quotes of a journal as a file for calibration and checks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
from rich.console import Console

from daemon.cli.arguments import NotFound
from daemon.core.events import BarClosed, Quote, QuotesReceived
from daemon.core.instruments.option_market import parse_occ
from daemon.engine.state_dir import parts_of
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.tapes.files import TapeError
from daemon.tapes.quotes.schema import MINUTE, SCHEMA
from daemon.tapes.quotes.writer import writing_quotes
from strategies.kit.units import DAY_NS, HOUR_NS, MINUTE_NS

SOURCE = "journal"
MADE_UP = "the option market of a replay (Black-Scholes)"
_DECODER = msgspec.json.Decoder(QuotesReceived | BarClosed)


def export_quotes(state_dir: Path, out: Path, console: Console) -> int:
    """Write the file; returns 0. Raises NotFound, JournalError, OSError."""
    journal = state_dir / FILE
    parts = parts_of(journal)
    with closing(JournalReader(journal)) as reader:
        meta = reader.meta()
        synthetic = MADE_UP if meta.get("mode") == "replay" else meta.get("option_quotes_synthetic", "")
    try:
        with writing_quotes(out, source=SOURCE, interval=MINUTE, synthetic=synthetic) as writer:
            rows = 0
            for table in _tables(parts):
                writer.add(table)
                rows += table.num_rows
            if not rows:
                raise NotFound(f"{state_dir} holds no option quote")
            summary = writer.finish()
    except TapeError as error:
        raise NotFound(str(error)) from error
    if synthetic:
        sys.stderr.write(f"rltraderctl: the quotes are made up by {synthetic}; the file says so\n")
    dates = sorted(summary.by_date)
    console.print(f"{out}: {summary.rows:,} quotes of {len(dates):,} sessions, {dates[0]} to {dates[-1]}")
    return 0


def _tables(parts: list[Path]) -> Iterator[Any]:
    """Yield the last quote of each contract and minute, one New York date at a time."""
    quotes: dict[tuple[str, int], Quote] = {}
    bars: dict[str, dict[int, float]] = {}
    day = 0
    for event in _events(parts):
        if _day(event.time_ns) != day:
            if quotes:
                yield _table(quotes, bars)
            quotes, bars, day = {}, {}, _day(event.time_ns)
        match event:
            case BarClosed():
                bars.setdefault(event.bar.symbol, {})[event.bar.start_ns] = event.bar.close
            case QuotesReceived():
                for quote in event.quotes:
                    _keep(quotes, quote, day)
    if quotes:
        yield _table(quotes, bars)


def _keep(quotes: dict[tuple[str, int], Quote], quote: Quote, day: int) -> None:
    """Store an option's quote of this day under the end of its minute; the latest one wins."""
    if parse_occ(quote.symbol) is None or _day(quote.quoted_ns) != day:
        return
    key = quote.symbol, -(-quote.quoted_ns // MINUTE_NS) * MINUTE_NS
    if key not in quotes or quotes[key].quoted_ns <= quote.quoted_ns:
        quotes[key] = quote


def _table(quotes: dict[tuple[str, int], Quote], bars: dict[str, dict[int, float]]) -> Any:
    """Return one day's quotes; the underlying is the close of its bar that ends with the quote's minute."""
    closes: dict[tuple[str, int], float] = {}
    for symbol, by_start in bars.items():
        starts = sorted(by_start)
        width = min((next_start - start for start, next_start in pairwise(starts)), default=MINUTE_NS)
        closes |= {(symbol, start + width): by_start[start] for start in starts}
    rows = [
        {
            "symbol": symbol,
            "timestamp": end_ns,
            "bid": float(quote.bid),
            "ask": float(quote.ask),
            "underlying": closes.get((occ.root, end_ns)) if (occ := parse_occ(symbol)) else None,
        }
        for (symbol, end_ns), quote in quotes.items()
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema([item for item in SCHEMA if item.name != "source"]))


def _events(parts: list[Path]) -> Iterator[QuotesReceived | BarClosed]:
    """Yield the journal's bars and quotes in order, rotated files first."""
    for path in parts:
        with closing(JournalReader(path)) as reader:
            yield from map(_DECODER.decode, reader.payloads("BarClosed", "QuotesReceived"))


def _day(time_ns: int) -> int:
    """Return a number for the New York date; quotes end before 20:00."""
    return (time_ns - 4 * HOUR_NS) // DAY_NS
