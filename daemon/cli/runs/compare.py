"""`rltrader runs compare`: equity and drawdown of several runs in one chart, and the runs' differences."""

from __future__ import annotations

import argparse
from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from daemon.cli.arguments import print_table, write_out
from daemon.host.printable import printable
from daemon.library.compare import FEWEST, MOST, Comparison, comparison_page
from daemon.library.compare import compare as compared
from daemon.library.library import chosen_run, library_of
from daemon.reports.performance.words import share

LETTERS = "ABCDE"
COLOURS = ("cyan", "yellow", "green", "magenta", "red")
SEVERAL = "*"  # drawn where lines meet
ROWS, COLUMNS_MOST, LABEL = 12, 100, 10


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    command.add_argument("ids", nargs="+", metavar="ID", help=f"{FEWEST} to {MOST} of them")
    command.add_argument("--html", type=Path, metavar="FILE", help="write it as a page too")
    command.add_argument("--json", action="store_true", help="one JSON object with everything")


def run(options: argparse.Namespace, console: Console) -> int:
    """Print the comparison, write its page. Returns 0. Raises LibraryError, JournalError, ValueError, OSError."""
    library = library_of(options.places)
    comparison = compared([chosen_run(library, name) for name in options.ids])
    write_out(options, console, [comparison], lambda: show(comparison, console), lambda: comparison_page(comparison))
    return 0


def show(comparison: Comparison, console: Console) -> None:
    """Print equity, drawdown, figures and differences."""
    names = [run.id for run in comparison.runs]
    for letter, colour, name in zip(LETTERS, COLOURS, names, strict=False):
        console.print(Text.assemble((f"{letter} ", colour), printable(name)))
    width = min(console.width - LABEL - 3, COLUMNS_MOST)
    for title, lines in (
        ("return since the begin", [(one.times, one.shares) for one in comparison.courses]),
        ("drawdown", [(one.times, [-fall for fall in one.falls]) for one in comparison.courses]),
    ):
        console.print()
        console.print(title)
        for line in draw_lines(lines, width):
            console.print(line)
    console.print()
    print_table(console, _table("", comparison.figures, len(names)))
    if comparison.differences:
        print_table(console, _table("differs", comparison.differences, len(names)))
    else:
        console.print("No setting differs.")
    for remark in comparison.remarks:
        console.print(printable(remark))


def draw_lines(lines: Sequence[tuple[Sequence[float], Sequence[float]]], width: int, height: int = ROWS) -> list[Text]:
    """Return a chart of lines (times, values) as rows of text: one letter per line, `*` where several meet.

    A column shows the newest value up to its time, and nothing before a line's first and after its last.
    """
    times = [time for one, _ in lines for time in one]
    values = [value for _, some in lines for value in some]
    if not times:
        return [Text("nothing to draw yet")]
    begin, end, low, high = min(times), max(times), min(0.0, *values), max(0.0, *values)
    span = high - low or 1.0
    cells: list[list[tuple[str, str]]] = [[(" ", "")] * width for _ in range(height)]
    for letter, colour, (when, line_values) in zip(LETTERS, COLOURS, lines, strict=False):
        for column in range(width):
            at = begin + (end - begin) * column / max(width - 1, 1)
            place = bisect_right(when, at + 1e-6) - 1
            if place < 0 or at > when[-1] + (end - begin) / width:
                continue
            place_of = round((high - line_values[place]) / span * (height - 1))
            taken = cells[place_of][column][0] != " "
            cells[place_of][column] = (SEVERAL, "bold") if taken else (letter, colour)
    zero = round(high / span * (height - 1))
    labels = {0: share(high), height - 1: share(low), zero: share(0.0, sign=False)}
    rows = []
    for number, row in enumerate(cells):
        text = Text(f"{labels.get(number, ''):>{LABEL}} │")
        for sign, style in row:
            text.append("┄" if sign == " " and number == zero else sign, style="dim" if sign == " " else style)
        rows.append(text)
    first, last = (datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d") for time in (begin, end))
    return [*rows, Text(f"{'':>{LABEL}} └{first}{last:>{max(width - len(first), len(last) + 1)}}")]


def _table(head: str, rows: Sequence[tuple[str, ...]], runs: int) -> Table:
    table = Table(head)
    for letter in LETTERS[:runs]:
        table.add_column(letter, overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    return table
