"""One conversion: vendors' files in, one file of the schema out, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from daemon.tapes.files import TapeError
from daemon.tapes.quotes.reader import QuoteFile
from daemon.tapes.quotes.writer import Written, writing_quotes
from training.data.quotes.columns import ColumnChoice, ConvertError
from training.data.quotes.formats import FORMATS

Progress = Callable[[Path, int, int], object]
"""Gets the file, its bytes read so far, and the rows taken from all files so far."""


@dataclass(frozen=True, slots=True)
class Converted:
    """The result of a conversion: rows read, file written."""

    read: int  # rows that were asked for
    written: Written
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
