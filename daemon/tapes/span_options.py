"""Bars and option quotes as named on a command line: a file, or dates and symbols that select a span of a folder."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from daemon.tapes.bar_folder import BAR_LENGTHS, bar_length, default_folder
from daemon.tapes.files import TapeError
from daemon.tapes.spans import ADJUSTMENTS, ALL, RAW, SPLITS, Span, is_date
from strategies.kit.contract import OPEN, Spec
from strategies.kit.units import DAY_S


@dataclass(frozen=True, slots=True)
class QuoteChoice:
    """A file of quotes for a replay. `root` "" is the strategy's underlying, `closes` a file of its bars."""

    path: Path
    root: str = ""
    closes: Path | None = None


MINUTE = "1min"  # of BAR_LENGTHS


def add_span(command: argparse.ArgumentParser) -> Any:
    """Add the options in a group of their own, and return it."""
    group = command.add_argument_group("a span of a folder of bars, in place of a file (docs/DATA.md)")
    group.add_argument("--from", dest="first_date", metavar="DATE", help="first New York date; --bars is then a folder")
    group.add_argument("--to", dest="last_date", metavar="DATE", help="last New York date, included")
    usual = "raw for options, split for bars of shares, all for days"
    group.add_argument("--adjustment", choices=ADJUSTMENTS, help=f"what is done to prices as traded ({usual})")
    usual = "(the strategy's, or 1min, of which any other is made)"
    group.add_argument("--bar-length", type=as_length, choices=tuple(BAR_LENGTHS), help=usual)
    group.add_argument("--allow-holes", action="store_true", help="sessions without a bar are no fault")
    return group


def chosen_bars(
    chosen: argparse.Namespace, bars: Path | None, spec: Spec, symbols: tuple[str, ...] = ()
) -> Path | None:
    """Return the bars to read: `bars` if that is a file or None, else the span of that folder (None: the usual one).

    The span has the strategy's symbols, length and adjustment unless the command line names others. Raises TapeError.
    """
    names_given = [name for dest, name in _NAMES.items() if getattr(chosen, dest)]
    if not names_given:
        return bars
    if bars is not None and bars.exists() and not bars.is_dir():
        raise TapeError(
            f"{names_given[0]} goes with a folder of bars, and --bars {bars} is a file: leave one of them out"
        )
    absent = [name for name, day in (("--from", chosen.first_date), ("--to", chosen.last_date)) if not day]
    if absent:
        raise TapeError(f"{names_given[0]} needs {' and '.join(absent)} too: New York dates such as 2024-01-02")
    for name, day in (("--from", chosen.first_date), ("--to", chosen.last_date)):
        if not is_date(day):
            raise TapeError(f"{name} {day} is no date: expected YYYY-MM-DD, such as 2024-01-02")
    if chosen.first_date > chosen.last_date:
        raise TapeError(f"--from {chosen.first_date} is after --to {chosen.last_date}: exchange them")
    folder = bars or default_folder()
    usual = usual_span(
        spec, folder, chosen.first_date, chosen.last_date, symbols=symbols, length=chosen.bar_length or ""
    )
    span = replace(usual, adjustment=chosen.adjustment or usual.adjustment, holes=chosen.allow_holes)
    return Span.at(span.path).path


def usual_span(
    spec: Spec,
    folder: Path,
    first: str,
    last: str,
    *,
    symbols: tuple[str, ...] = (),
    length: str = "",
    holes: bool = False,
) -> Span:
    """Return a strategy's default span of a folder: its symbols, length and adjustment.

    Option desks get prices as traded, to match their strikes; bars of shares are adjusted for splits, daily ones also
    for dividends. Raises TapeError for a length that no folder has.
    """
    adjustment = RAW if spec.chained else ALL if spec.bar_interval_s == DAY_S else SPLITS
    names = tuple(sorted(set(symbols or spec.symbols)))
    return Span(folder, names, length or _length(spec), adjustment, first, last, holes)


_NAMES = {
    "first_date": "--from",
    "last_date": "--to",
    "adjustment": "--adjustment",
    "bar_length": "--bar-length",
    "allow_holes": "--allow-holes",
}


def as_length(text: str) -> str:
    """Read a bar length from the command line. Raises ArgumentTypeError for one that no folder has."""
    try:
        return bar_length(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _length(spec: Spec) -> str:
    """Return the strategy's length, or minutes to build its bars from, also if they are anchored to the full hour."""
    by_seconds = {seconds: name for name, seconds in BAR_LENGTHS.items()}
    return by_seconds.get(spec.bar_interval_s, MINUTE) if spec.bar_anchor == OPEN else MINUTE
