"""`train-and-export convert`: vendors' option quotes into one file of the schema; Massive's stock minutes into bars.

The output is replaced whole; an interrupted conversion leaves the former file as it was.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from daemon.host.time.calendar import CalendarError
from daemon.host.version import CommandLine
from daemon.tapes.files import TapeError
from rltrader import called
from training.cli.main import COMMANDS, DONE, wrong
from training.data.quotes.columns import ColumnChoice, ConvertError
from training.data.quotes.convert import Converted, convert, convert_bars, implied_bars
from training.data.quotes.convert import Progress as Listen
from training.data.quotes.formats import BARS, FORMATS
from training.evidence.wording import counted


def main(arguments: Sequence[str]) -> int:
    """`train-and-export convert …`; returns the exit code: 0, or 2 with one line on standard error."""
    chosen = parser().parse_args(arguments)
    roots = frozenset(name.strip().upper() for name in chosen.symbols.split(",") if name.strip())
    if chosen.max_days is not None and chosen.max_days < 0:
        return wrong(ConvertError(f"--max-days is {chosen.max_days}; expected 0 or more"))
    try:
        with _progress(chosen.files) as progress:
            if chosen.format in BARS:
                make = implied_bars if chosen.format == "implied-bars" else convert_bars
                rows = make(chosen.files, chosen.out, roots, progress)
                text = f"{chosen.out}: {counted(rows, 'bar')} of {', '.join(sorted(roots))}"
            else:
                request = ColumnChoice(roots=roots, max_days=chosen.max_days)
                text = _text(chosen.out, convert(chosen.format, chosen.files, chosen.out, request, progress))
    except (ConvertError, TapeError, CalendarError, OSError) as error:
        return wrong(error)
    sys.stdout.write(f"{text}\n")
    return DONE


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    formats = FORMATS | BARS
    texts = "; ".join(f"{name}: {getattr(what, 'text', what)}" for name, what in formats.items())
    options = CommandLine(
        prog=f"{called('train-and-export')} convert", description=COMMANDS["convert"], epilog=f"Formats. {texts}."
    )
    options.add_argument("files", nargs="+", type=Path, metavar="FILE", help="the vendor's files, all of one format")
    options.add_argument("--from", dest="format", required=True, choices=tuple(formats), help="the files' format")
    options.add_argument("--out", required=True, type=Path, help="the file to write, such as quotes.parquet")
    options.add_argument(
        "--symbols",
        default="",
        help="only these OCC roots, such as SPXW,SPX (all); of massive, optionsdx and implied-bars required",
    )
    options.add_argument("--max-days", type=int, help="only expiries within so many calendar days of the quote (all)")
    return options


def _text(out: Path, converted: Converted) -> str:
    summary = converted.written
    dates = sorted(summary.by_date)
    lines = [
        f"{out}: {counted(summary.rows, 'quote')} of {counted(len(dates), 'session')}, {dates[0]} to {dates[-1]}",
    ]
    if summary.repeated:
        lines.append(f"given twice with the same values, written once: {counted(summary.repeated, 'quote')}")
    lines += [f"left out, {reason}: {counted(count, 'quote')}" for reason, count in converted.left_out.items()]
    lines.append(f"look at it with: train-and-export check-quotes {out}")
    return "\n".join(lines)


@contextlib.contextmanager
def _progress(files: Sequence[Path]) -> Iterator[Listen]:
    """Yield a listener that draws a bar on a terminal, and does nothing elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _path, _done, _rows: None
        return
    positions: dict[Path, int] = {}
    total = sum(path.stat().st_size for path in files if path.is_file())
    columns = (BarColumn(), DownloadColumn(), TextColumn("{task.fields[rows]:,} quotes"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total, rows=0)

        def listen(path: Path, position: int, rows: int) -> None:
            positions[path] = max(position, positions.get(path, 0))
            bar.update(task, completed=sum(positions.values()), rows=rows)

        yield listen
