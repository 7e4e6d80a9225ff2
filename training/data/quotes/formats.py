"""The formats that `train-and-export convert` reads, by the name that `--from` takes."""

from __future__ import annotations

from pathlib import Path

from daemon.tapes.quotes.reader import QuoteFile
from daemon.tapes.quotes.schema import END_OF_DAY, MINUTE, SNAPSHOT
from training.data.quotes import cboe, databento_files, lean, optionsdx, snapshots, thetadata
from training.data.quotes.columns import taken
from training.data.quotes.source import Format, Request, Tables


def _own(path: Path, request: Request) -> Tables:
    """Yield the rows of a file that has the schema already."""
    file, seen = QuoteFile(path), 0
    for table in file.tables():
        seen += table.num_rows
        yield taken(path, table, request), path.stat().st_size * seen // file.rows


FORMATS = {
    "lean": Format(lean.read, MINUTE, "LEAN's DATE_quote_STYLE.zip of options, minutes"),
    "thetadata": Format(thetadata.read, MINUTE, "CSV of ThetaData's option/history/quote at 1m"),
    "databento": Format(databento_files.read, MINUTE, "DBN of Databento's cbbo-1m (extra databento)"),
    "cboe": Format(cboe.read, MINUTE, "CSV of Cboe DataShop's Option Intervals at one minute"),
    "optionsdx": Format(optionsdx.read, END_OF_DAY, "CSV of OptionsDX's end-of-day chains, for calibration"),
    "snapshots": Format(snapshots.read, SNAPSHOT, "Parquet of chain snapshots (yfinance's names), for calibration"),
    "quotes": Format(_own, MINUTE, "files of this schema: joins and sorts them"),
}
BARS = {
    "massive": "CSV of Massive's (Polygon's) flat files of stock minutes: makes a file of bars",
    "implied-bars": "a file of this schema: makes bars of its underlying, by put-call parity where it is not recorded",
}
