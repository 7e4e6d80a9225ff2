"""CSV files of vendors as pyarrow tables, a block at a time: plain, gzipped or zipped, with checked columns."""

from __future__ import annotations

import gzip
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from training.data.quotes.source import ConvertError, Tables

BLOCK_BYTES = 8 * 1024 * 1024


def header_of(path: Path) -> tuple[str, ...]:
    """Return the names of a CSV file's columns, in lower case and without brackets. Raises ConvertError."""
    with _reading(path), _opened(path) as (stream, _raw):
        return _header(stream)


def csv_tables(path: Path, types: Mapping[str, Any]) -> Tables:
    """Yield the columns of `types` (name -> pyarrow type) of a CSV file with a header, a block at a time.

    Names are compared in lower case, without brackets and blanks. Raises ConvertError that names a missing column.
    """
    names: list[str] = []
    with _reading(path, names), _opened(path) as (stream, raw):
        names += _header(stream)
        if missing := [name for name in types if name not in names]:
            raise ConvertError(
                f"{path}: the column {', '.join(missing)} is missing; found {', '.join(names) or 'nothing'}; expected "
                f"{', '.join(types)}: check --from and how the file was requested"
            )
        options = pa.csv.ConvertOptions(
            include_columns=list(types),
            column_types=dict(types),
            null_values=["", " ", "NaN", "nan", "null"],
            strings_can_be_null=True,
        )
        read = pa.csv.ReadOptions(column_names=names, use_threads=False, block_size=BLOCK_BYTES)
        try:
            reader = pa.csv.open_csv(stream, read_options=read, convert_options=options)
        except pa.ArrowInvalid as error:
            if "Empty CSV file" in str(error):  # a header alone: no contract was quoted
                return
            raise
        with reader:
            for batch in reader:
                if batch.num_rows:
                    yield pa.Table.from_batches([batch]), raw.tell()


def _header(stream: Any) -> tuple[str, ...]:
    line = stream.readline().decode("utf-8-sig").strip("\r\n")
    return tuple(name.strip(' "[]').lower() for name in line.split(","))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Yield the text as a stream of bytes, and the file under it, whose position shows the progress."""
    with path.open("rb") as raw:
        if path.name.endswith(".gz"):
            with gzip.GzipFile(fileobj=raw) as stream:
                yield stream, raw
        elif path.name.endswith(".zip"):
            with zipfile.ZipFile(raw) as archive:
                inside = [name for name in archive.namelist() if name.lower().endswith((".csv", ".txt"))]
                if len(inside) != 1:
                    found = ", ".join(archive.namelist()[:5]) or "nothing"
                    raise ConvertError(f"{path}: found {found} inside; expected one CSV file: unpack it first")
                with archive.open(inside[0]) as member:
                    yield member, raw
        else:
            yield raw, raw


@contextmanager
def _reading(path: Path, names: Sequence[str] = ()) -> Iterator[None]:
    """Turn the readers' exceptions into a ConvertError that names the file, and the column where it has a name."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        raise ConvertError(f"{path}: truncated or damaged ({error}): fetch the file again") from error
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        reason = re.sub(r"CSV column #(\d+)", lambda found: f"the column {names[int(found[1])]}", reason)
        raise ConvertError(f"{path}: a row is malformed ({reason}): repair or fetch the file again") from error
