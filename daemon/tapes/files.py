"""Bar files as numpy columns, a batch at a time; all knowledge of CSV, gzip and Parquet.

Columns symbol (may be absent for a strategy of one symbol), timestamp (with a zone, or integer epoch nanoseconds),
open, high, low, close, volume, and adj_close for adjusted prices; others are ignored. Unreadable data raises
`TapeError`; values are not checked here.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import itertools
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

PRICES = ("open", "high", "low", "close", "volume")
ADJUSTED = "adj_close"
SOURCE_KEY = b"source"  # of a Parquet file's metadata: origin of the bars; in CSV the comment line `# source …`
ADJUSTMENT_KEY = b"adjustment"  # of a Parquet file's metadata: raw, split, dividend or all
SYNTHETIC_KEY = b"synthetic"  # of a Parquet file's metadata; in CSV the comment line `# synthetic …` comes first
_SOURCE = "# source"
BATCH_ROWS = 16_384
pa.set_memory_pool(pa.system_memory_pool())  # pyarrow's own pool keeps 10 MB more of freed memory
EARLIEST_NS = 315_532_800_000_000_000  # 1980: integers below it are not nanoseconds
_INSTANT = pa.timestamp("ns", "UTC")


class TapeError(Exception):
    """An unusable tape: the operator's mistake (exit code 2). The message names file, fault and cure."""


def origin_of_file(path: Path) -> str:
    """Return the source that a file names for its bars; "" if it names none."""
    try:
        if path.name.endswith(".parquet"):
            metadata = pa.parquet.read_schema(path).metadata or {}
            return str(metadata.get(SOURCE_KEY, b"").decode()).strip()
        with _open(path) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig") as text:
            comments = itertools.takewhile(lambda line: line.startswith("#"), text)
            return next((line[len(_SOURCE) :].strip(" :\r\n") for line in comments if line.startswith(_SOURCE)), "")
    except (pa.ArrowException, OSError, EOFError, zlib.error, ValueError):
        return ""


def _open(path: Path) -> io.BufferedReader:
    """Open a CSV file, compressed or not."""
    return io.BufferedReader(gzip.GzipFile(path)) if path.name.endswith(".gz") else path.open("rb")


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def missing_columns(names: Sequence[str]) -> str:
    """Return a message that a file lacks these columns."""
    several = len(names) > 1
    return f"the column{'s' * several} {', '.join(names)} {'are' if several else 'is'} missing"


def check_once(path: Path, names: Sequence[str]) -> None:
    """Raise TapeError for a duplicate column, as its meaning is ambiguous."""
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise TapeError(
            f"{path}: the column {', '.join(twice)} is there more than once; expected each once: rename the others"
        )


@dataclass(frozen=True, slots=True)
class BarRows:
    """A batch of n rows in file order, values unchanged."""

    names: tuple[str, ...]  # the symbols of this batch
    codes: npt.NDArray[np.int64]  # (n,) index into `names`
    start_ns: npt.NDArray[np.int64]  # (n,)
    prices: npt.NDArray[np.float64]  # open, high, low, close, volume; NaN if missing


def adjust_prices(prices: npt.NDArray[np.float64], adj_close: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return (5, n) open, high, low and close times adj_close / close; volume unchanged. NaN or infinite if invalid."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.concatenate((prices[:4] * (adj_close / prices[3]), prices[4:]))


class TapeFile:
    """A bar file with checked columns. Raises TapeError for an unusable file.

    With `adjust`, prices are adjusted by the column adj_close, if the file has it: see `adjusts`.
    """

    def __init__(self, path: Path, symbols: tuple[str, ...], *, adjust: bool = False) -> None:
        self.path = path
        self.synthetic = ""
        self.adjustment = ""  # from the metadata; "" if missing
        self._comments = 0  # lines before the header
        self._epoch = False  # integer timestamps in a CSV file
        self._sample = ""  # the first timestamp
        self._kind: Any = None  # the Parquet type of timestamp
        if not path.is_file():
            problem = "a folder" if path.is_dir() else "no such file"
            more = "; a folder of bars needs --from and --to" if path.is_dir() else ""
            raise TapeError(f"{path}: {problem}; expected a tape of bars: check the path{more}")
        if path.stat().st_size == 0:
            raise TapeError(f"{path}: the file is empty; expected a header and bars: check how it was written")
        self._parquet = path.name.endswith(".parquet")
        if not self._parquet and not path.name.endswith((".csv", ".csv.gz")):
            raise TapeError(f"{path}: unknown format; expected .csv, .csv.gz or .parquet: convert or rename it")
        with _reading(path):
            columns = self._open_parquet() if self._parquet else self._open_csv()
        self._header = columns
        self.symbol_assumed = "symbol" not in columns
        columns_required = ("timestamp", *PRICES)
        missing = [name for name in columns_required if name not in columns]
        if missing:
            apart = len(columns) == 1 and columns[0].count("\t") + columns[0].count(";") >= len(PRICES)
            raise TapeError(
                f"{path}: {missing_columns(missing)}; found {', '.join(columns)}; expected "
                f"{', '.join(columns_required)}, and symbol where there are several: "
                f"{'separate' if apart else 'rename'} the columns{' by commas' if apart else ''}"
            )
        check_once(path, columns)
        if self.symbol_assumed and len(symbols) != 1:
            raise TapeError(
                f"{path}: there is no column symbol, and the strategy has {len(symbols)} symbols "
                f"({', '.join(symbols)}): add the column, so that each bar says whose it is"
            )
        self._assumed_symbol = symbols[0]
        self._columns = list(columns_required) if self.symbol_assumed else ["symbol", *columns_required]
        self.adjustable = ADJUSTED in columns
        meant = [name for name in columns if name != ADJUSTED and name.strip().lower().replace(" ", "_") == ADJUSTED]
        if adjust and meant and not self.adjustable:
            raise TapeError(
                f"{path}: the column {meant[0]!r} would not be read, and nothing be adjusted by it: rename it to "
                f"{ADJUSTED}, or remove it where the other prices are adjusted already"
            )
        self.adjusts = adjust and self.adjustable
        if self.adjusts:
            self._columns.append(ADJUSTED)
        with _reading(path):
            self._check_timestamps()

    def digest(self) -> str:
        """Return the SHA-256 of the file's bytes, hexadecimal. Raises OSError."""
        return digest_of(self.path)

    def batches(self) -> Iterator[BarRows]:
        """Yield all rows in file order. Raises TapeError for a truncated file or a value of the wrong type."""
        with _reading(self.path, self._header):
            rows_read = 0
            for batch in self._parquet_batches() if self._parquet else self._csv_batches():
                if batch.num_rows:
                    yield self._rows(batch, rows_read)
                rows_read += batch.num_rows

    def in_order(self) -> Iterator[BarRows]:
        """Yield all rows by time, equal ones in file order, as `batches`. Holds the file in memory: 56 bytes a row."""
        batches = list(self.batches())
        names = tuple(dict.fromkeys(name for rows in batches for name in rows.names))
        codes = np.concatenate([np.array([names.index(name) for name in rows.names])[rows.codes] for rows in batches])
        start_ns = np.concatenate([rows.start_ns for rows in batches])
        prices = np.concatenate([rows.prices for rows in batches], axis=1)
        order = np.argsort(start_ns, kind="stable")
        for begin in range(0, order.size, BATCH_ROWS):
            part = order[begin : begin + BATCH_ROWS]
            yield BarRows(names, codes[part], start_ns[part], prices[:, part])

    def _open_parquet(self) -> list[str]:
        with pa.parquet.ParquetFile(self.path) as file:
            metadata = file.schema_arrow.metadata or {}
            self.synthetic = metadata.get(SYNTHETIC_KEY, b"").decode()
            self.adjustment = metadata.get(ADJUSTMENT_KEY, b"").decode()
            self._kind = dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True)).get("timestamp")
            return list(file.schema_arrow.names)

    def _open_csv(self) -> list[str]:
        with _open(self.path) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig") as text:
            line = text.readline()
            while line.startswith("#"):
                if self._comments == 0 and line.startswith("# synthetic"):
                    self.synthetic = line.removeprefix("#").strip()
                self._comments += 1
                line = text.readline()
            columns, sample = (next(csv.reader([row]), []) for row in (line, text.readline()))
        if "timestamp" in columns and len(sample) == len(columns):
            self._sample = sample[columns.index("timestamp")]
        self._epoch = self._sample.lstrip("-").isdecimal()
        return columns

    def _check_timestamps(self) -> None:
        naive = f"{self.path}: the timestamps have no time zone ({{}}); expected UTC offsets: {_ZONE_CURE}"
        if self._parquet:
            if pa.types.is_timestamp(self._kind) and self._kind.tz is None:
                raise TapeError(naive.format(f"type {self._kind}"))
            if not (pa.types.is_timestamp(self._kind) or pa.types.is_integer(self._kind) or _is_text(self._kind)):
                raise TapeError(
                    f"{self.path}: the column timestamp has type {self._kind}; expected timestamps: {_ZONE_CURE}"
                )
        elif self._sample and not self._epoch:
            try:
                zone = datetime.fromisoformat(self._sample).tzinfo
            except ValueError:  # no time: reading reports it with its row
                return
            if zone is None:
                raise TapeError(naive.format(f"such as {self._sample!r}"))

    def _parquet_batches(self) -> Iterator[Any]:
        with pa.parquet.ParquetFile(self.path, pre_buffer=False) as file:
            yield from file.iter_batches(BATCH_ROWS, columns=self._columns, use_threads=False)

    def _csv_batches(self) -> Iterator[Any]:
        types = dict.fromkeys((*PRICES, ADJUSTED), pa.float64()) | {"symbol": pa.string()}
        types["timestamp"] = pa.int64() if self._epoch else _INSTANT
        with (
            _open(self.path) as stream,
            pa.csv.open_csv(
                stream,
                read_options=pa.csv.ReadOptions(use_threads=False, skip_rows=self._comments),
                convert_options=pa.csv.ConvertOptions(include_columns=self._columns, column_types=types),
            ) as reader,
        ):
            yield from reader

    def _rows(self, batch: Any, rows_read: int) -> BarRows:
        times = batch.column("timestamp")
        if times.null_count:
            row = rows_read + int(np.argmax(times.is_null().to_numpy(zero_copy_only=False))) + 1
            raise TapeError(f"{self.path}: row {row} has no timestamp; expected one in every row: remove or repair it")
        if not pa.types.is_integer(times.type):
            times = self._cast(batch, "timestamp", _INSTANT, rows_read)
        start_ns = times.cast(pa.int64()).to_numpy(zero_copy_only=False)
        if int(start_ns.min()) < EARLIEST_NS:
            raise TapeError(
                f"{self.path}: the timestamp {int(start_ns.min())} is before 1980 when read as nanoseconds; expected "
                f"integer nanoseconds since 1970 UTC: multiply seconds by 1e9, milliseconds by 1e6"
            )
        prices = np.empty((len(PRICES), batch.num_rows))
        for row, name in enumerate(PRICES):
            prices[row] = self._cast(batch, name, pa.float64(), rows_read).to_numpy(zero_copy_only=False)
        if self.adjusts:
            adj_close = self._cast(batch, ADJUSTED, pa.float64(), rows_read).to_numpy(zero_copy_only=False)
            prices = adjust_prices(prices, adj_close)
        if self.symbol_assumed:
            return BarRows((self._assumed_symbol,), np.zeros(batch.num_rows, dtype=np.int64), start_ns, prices)
        symbols = batch.column("symbol").cast(pa.string()).fill_null("").dictionary_encode()
        codes = symbols.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        return BarRows(tuple(symbols.dictionary.to_pylist()), codes, start_ns, prices)

    def _cast(self, batch: Any, name: str, kind: Any, rows_read: int) -> Any:
        """Return a column as this type. Raises TapeError with the row of the first value that cannot be converted."""
        column = batch.column(name)
        if pa.types.is_decimal(column.type):  # a decimal becomes the nearest double only through its digits
            column = column.cast(pa.string())
        try:
            return column.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            for place, value in enumerate(column.to_pylist()):
                try:
                    column.slice(place, 1).cast(kind)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    row = rows_read + place + 1
                    raise TapeError(
                        f"{self.path}: row {row} has {value!r} in the column {name}; expected {_expected(str(kind))}"
                    ) from error
            raise


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


_ZONE_CURE = (
    "write them as 2024-03-26T13:30:00Z (a day's bar as 2024-03-26T00:00:00-04:00, midnight in New York), as tz-aware "
    "Parquet timestamps, or as integer epoch nanoseconds"
)
_NO_VALUE = re.compile(
    r"In CSV column #(\d+): Row #(\d+): CSV conversion error to (\S+).*: "
    r"(?:invalid value|expected a zone offset in) '(.*?)'(?:$|\. If)"
)
_EXPECTED = {
    "double": "a number, with a point before its decimals",
    "int64": "integer epoch nanoseconds, as in the first row",
}


def _no_value(reason: str, columns: Sequence[str]) -> str:
    """Return the value that pyarrow could not read, in the file's own terms; "" for another reason."""
    if (match := _NO_VALUE.match(reason)) is None:
        return ""
    column, line, kind, value = match.groups()
    return f"line {line} has {value!r} in the column {columns[int(column)]}; expected {_expected(kind)}"


def _expected(kind: str) -> str:
    return _EXPECTED.get(kind, f"times with their zone: {_ZONE_CURE}")


@contextmanager
def _reading(path: Path, columns: Sequence[str] = ()) -> Iterator[None]:
    """Turn the readers' exceptions into a TapeError that names the file."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TapeError(f"{path}: the gzip stream is truncated or damaged ({error}): fetch the file again") from error
    except PermissionError as error:
        raise TapeError(f"{path}: {error.strerror}: give your user the right to read it") from error
    except UnicodeDecodeError as error:
        raise TapeError(f"{path}: the file is no text in UTF-8 ({error}): save it as CSV in UTF-8") from error
    except (pa.ArrowException, OSError, csv.Error) as error:
        reason = str(error).splitlines()[0]
        if value := _no_value(reason, columns):
            raise TapeError(f"{path}: {value}") from error
        raise TapeError(f"{path}: the file is truncated or malformed ({reason}): fetch or write it again") from error
