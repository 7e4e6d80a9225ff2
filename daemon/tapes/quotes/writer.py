"""Write a file of option quotes from rows in any order, within bounded memory, whole or not at all.

Rows are collected, split by New York date and spilled next to the output; at the end each date is sorted and written.
So memory holds `GATHERED_ROWS` rows or one date's rows, whichever is more.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from daemon.host.whole_files import whole
from daemon.tapes.files import TapeError
from daemon.tapes.minutes import new_york_days
from daemon.tapes.quotes.reader import end_ns_of
from daemon.tapes.quotes.schema import (
    DECIMALS,
    EXTREMES,
    FORMAT_KEY,
    INTERVAL_KEY,
    SCHEMA,
    SYNTHETIC_KEY,
    VERSION,
    VERSION_KEY,
)

GATHERED_ROWS = 1_000_000
_GROUP_ROWS = 262_144
_PRICES = ("bid", "ask", *EXTREMES, "underlying")


@dataclass(slots=True)
class RowCounts:
    """Row counts of a written file of quotes."""

    rows: int = 0
    repeated: int = 0  # duplicate rows with equal values, written once
    by_date: Counter[str] = field(default_factory=Counter)


class QuoteWriter:
    """Accepts tables of quotes in any order; `finish` writes them sorted to `out`. Use within `writing_quotes`."""

    def __init__(self, out: Path, spill: Path, *, source: str, interval: str, synthetic: str = "") -> None:
        self._out = out
        self._spill = spill
        self._source = source
        self._metadata = {
            VERSION_KEY: VERSION.encode(),
            FORMAT_KEY: source.encode(),
            INTERVAL_KEY: interval.encode(),
            SYNTHETIC_KEY: synthetic.encode(),
        }
        self._batches: list[Any] = []
        self._gathered_rows = 0
        self._chunks: dict[str, int] = {}  # date -> spilled files

    def add(self, table: Any) -> None:
        """Add quotes: a pyarrow table with the required columns; without `source`, all have this writer's source.

        Raises pyarrow.ArrowException for values of the wrong type.
        """
        columns = []
        for item in SCHEMA:
            if item.name in table.column_names:
                column = table.column(item.name).cast(item.type)
                columns.append(pc.round(column, DECIMALS) if item.name in _PRICES else column)
            elif item.name == "source":
                columns.append(pa.repeat(pa.scalar(self._source), table.num_rows))
            else:
                columns.append(pa.nulls(table.num_rows, item.type))
        self._batches.append(pa.table(columns, schema=SCHEMA))
        self._gathered_rows += table.num_rows
        if self._gathered_rows >= GATHERED_ROWS:
            self._flush()

    def finish(self, on_day: Callable[[str], object] = lambda _date: None) -> RowCounts:
        """Write all rows in order to the output; `on_day` is called with each date before it is written.

        Raises TapeError when there is no quote, or one contract has two different quotes for one minute.
        """
        self._flush()
        if not self._chunks:
            raise TapeError(f"{self._out}: there is no quote to write: check the input files")
        summary = RowCounts()
        schema = SCHEMA.with_metadata(self._metadata)
        options = {"compression": "zstd", "use_dictionary": True, "write_page_checksum": True}
        with whole(self._out) as part, pa.parquet.ParquetWriter(part, schema, **options) as file:
            for date in sorted(self._chunks):
                on_day(date)
                table = self._day(date, summary)
                file.write_table(table.cast(schema), row_group_size=_GROUP_ROWS)
                summary.by_date[date] = table.num_rows
                summary.rows += table.num_rows
        return summary

    def _flush(self) -> None:
        """Spill the collected rows, a file for each date."""
        if not self._gathered_rows:
            return
        table = pa.concat_tables(self._batches).combine_chunks()
        self._batches, self._gathered_rows = [], 0
        days = new_york_days(end_ns_of(table))
        order = np.argsort(days, kind="stable")
        values, begins = np.unique(days[order], return_index=True)
        for value, part in zip(values, np.split(order, begins[1:]), strict=True):
            date = str(value)
            number = self._chunks.get(date, 0)
            self._chunks[date] = number + 1
            pa.parquet.write_table(table.take(pa.array(part)), self._chunk(date, number), compression="lz4")

    def _day(self, date: str, summary: RowCounts) -> Any:
        """Return one date's rows in order, each contract and minute once."""
        chunks = [self._chunk(date, number) for number in range(self._chunks[date])]
        read = [pa.parquet.read_table(path, read_dictionary=["symbol", "source"]) for path in chunks]
        table = pa.concat_tables(read).unify_dictionaries().combine_chunks()
        symbols = table.column("symbol").combine_chunks()
        names = np.array(symbols.dictionary.to_pylist(), dtype=object)
        rank = np.empty(names.size, dtype=np.int64)
        rank[np.argsort(names, kind="stable")] = np.arange(names.size)
        codes = rank[symbols.indices.to_numpy()]
        ends = end_ns_of(table)
        order = np.lexsort((codes, ends))
        repeats = np.flatnonzero((np.diff(ends[order]) == 0) & (np.diff(codes[order]) == 0)) + 1
        if repeats.size:
            self._refuse_contradiction(table, order[repeats - 1], order[repeats])
            summary.repeated += repeats.size
            order = np.delete(order, repeats)
        for path in chunks:
            path.unlink()
        return table.take(pa.array(order))

    def _refuse_contradiction(self, table: Any, first: Any, second: Any) -> None:
        for name in ("bid", "ask"):
            values = table.column(name).to_numpy()
            differ = np.flatnonzero(values[first] != values[second])
            if differ.size:
                row, other = int(first[differ[0]]), int(second[differ[0]])
                symbol, when = table.column("symbol")[row].as_py(), table.column("timestamp")[row]
                raise TapeError(
                    f"{self._out}: {symbol} has two quotes for {when.cast(pa.string())}: {name} {values[row]} and "
                    f"{values[other]}; expected one: leave one of the files out"
                )

    def _chunk(self, date: str, number: int) -> Path:
        return self._spill / f"{date}-{number}.parquet"


@contextlib.contextmanager
def writing_quotes(out: Path, *, source: str, interval: str, synthetic: str = "") -> Iterator[QuoteWriter]:
    """Yield a writer for `out`; `out` does not exist before `finish`, and no other file is left in any case.

    Files of a killed process are removed. Raises TapeError while another process writes the same file.
    """
    spill = out.with_name(f".{out.name}.spill")
    spill.mkdir(exist_ok=True)
    with (spill / "lock").open("w") as lock:
        _claim(lock, out)
        for file in spill.glob("*.parquet"):
            file.unlink()
        try:
            yield QuoteWriter(out, spill, source=source, interval=interval, synthetic=synthetic)
        finally:
            shutil.rmtree(spill)


def _claim(lock: IO[str], out: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise TapeError(f"{out}: another process writes this file: wait for it, or choose another --out") from error
