"""`rltraderctl report --from --to`: performance of one desk, or of several and their sum, over a span. Reads only."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from daemon.cli.arguments import NotFound, a_date, check_span, lead_on, print_table, write_out
from daemon.engine.state_dir import enter
from daemon.reports.performance.figures import RANGES, Performance
from daemon.reports.performance.page import sheet_page
from daemon.reports.performance.prices import closes_of_file
from daemon.reports.performance.read import Benchmark, Sheet, read_sheet
from daemon.reports.performance.words import (
    MONTHS,
    calendar,
    compared_rows,
    drawdown_row,
    rows,
    share,
    span_words,
    verdict,
)
from daemon.tapes.files import TapeError

DRAWDOWNS = 5
COMPARED = ("compared", "return", "drawdown", "Sharpe")
FALLS = ("drawdown", "start", "trough", "end", "sessions", "to the trough")
MONTH_WIDTH = 11  # of a column: −100.0 % and its margins


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of a span."""
    command.add_argument("--from", dest="since", type=a_date, metavar="DATE", help="a tear sheet from this day on")
    command.add_argument("--to", dest="until", type=a_date, metavar="DATE", help="a tear sheet up to this day")
    command.add_argument(
        "--range",
        choices=RANGES,
        metavar="RANGE",
        default="",
        help=f"a tear sheet of the newest {', '.join(RANGES[:-1])}, or {RANGES[-1]}",
    )
    command.add_argument(
        "--benchmark",
        default="",
        metavar="WHAT",
        help="of a tear sheet: a symbol of the journal, or bars: FILE or FILE:SYMBOL",
    )


def wanted(options: argparse.Namespace) -> bool:
    """Return whether the request is for a span, not for a session. Raises NotFound if it names both."""
    has_span = options.since or options.until or options.range or options.benchmark
    several = len(options.state_dirs) > 1
    if not has_span and not several:
        return False
    if options.day or options.csv:
        option = "--day" if options.day else "--csv"
        raise NotFound(f"{option} is about one session of one desk: leave it out, or what is about a span")
    if options.range and (options.since or options.until):
        raise NotFound("--range ends with the newest session: name it alone, or --from and --to")
    check_span(options.since, options.until)
    return True


def run(options: argparse.Namespace, console: Console) -> int:
    """Print the tear sheet, write its page. Returns 0. Raises NotFound, JournalError."""
    places = options.state_dirs or (options.state_dir,)
    for path in places[1:]:
        enter(path)
    benchmark = _benchmark(options.benchmark)
    sheet = read_sheet(places, options.since or "", options.until or "", options.range, benchmark, options.names)
    _check(sheet, benchmark)
    write_out(options, console, [sheet], lambda: _show(sheet, console), lambda: sheet_page(sheet))
    lead_on(options, "trades")
    return 0


def _benchmark(text: str) -> Benchmark | None:
    """Read the option as a file, if it exists, else as a symbol."""
    if not text:
        return None
    if not _names_file(text):
        return Benchmark(text.upper())
    try:
        return Benchmark(*closes_of_file(text))
    except TapeError as error:
        raise NotFound(f"--benchmark: {error}") from error


def _names_file(text: str) -> bool:
    return "/" in text or ".csv" in text or ".parquet" in text or Path(text).exists()


def _check(sheet: Sheet, benchmark: Benchmark | None) -> None:
    """Refuse a benchmark that no desk can be compared with."""
    active_desks = [desk for desk in sheet.desks if desk.figures.sessions]
    if benchmark is None or not active_desks or any(_has(desk.figures, benchmark.name) for desk in active_desks):
        return
    begin = min(desk.figures.first for desk in active_desks)
    if benchmark.closes:
        raise NotFound(
            f"--benchmark: {benchmark.name} begins on {min(benchmark.closes)}, the span on {begin}: "
            "name a file that begins before it, or a later --from"
        )
    symbols = sorted({symbol for desk in sheet.desks for symbol in desk.symbols})
    raise NotFound(
        f"--benchmark {benchmark.name}: no bar of it is in the journal, which has {', '.join(symbols[:20])}; "
        "name a file of bars: FILE.csv or FILE.parquet"
    )


def _has(figures: Performance, name: str) -> bool:
    return any(one.name == name for one in figures.compared)


# --- the terminal -----------------------------------------------------------------------------------------------------


def _show(sheet: Sheet, console: Console) -> None:
    figures_by_name = [(f"{desk.desk} ({desk.strategy})", desk.figures) for desk in sheet.desks]
    for desk in sheet.desks:
        console.print(f"{desk.desk} · {desk.strategy} · {desk.kind}", soft_wrap=True, markup=False)
    if sheet.total is not None:
        figures_by_name.append(("all desks", sheet.total))
    for name, figures in figures_by_name:
        console.print(verdict(name, figures), soft_wrap=True)
        if figures.sessions:
            console.print(span_words(figures), soft_wrap=True)
    figures_by_name = [(name, figures) for name, figures in figures_by_name if figures.sessions]
    if not figures_by_name:
        return
    print_table(console, _figures(figures_by_name))
    for name, figures in figures_by_name:
        if len(figures.compared) > 0:
            print_table(console, _table(COMPARED, compared_rows(figures), name))
        for half in _months(name, figures, console.width):
            print_table(console, half)
        falls = [drawdown_row(fall) for fall in figures.drawdowns[:DRAWDOWNS]]
        if falls:
            print_table(console, _table(FALLS, falls, name))


def _figures(figures_by_name: Sequence[tuple[str, Performance]]) -> Table:
    columns = [dict(rows(figures)) for _, figures in figures_by_name]
    names = list(dict.fromkeys(name for column in columns for name in column))
    table = Table("", *(name for name, _ in figures_by_name))
    for column in table.columns[1:]:
        column.justify = "right"
    for name in names:
        table.add_row(name, *(column.get(name, "").replace("\n", ", ") for column in columns))
    return table


def _months(name: str, figures: Performance, width: int) -> list[Table]:
    """Return each year's months and total as tables; two of them if one would be wider than the terminal."""
    years = calendar(figures)
    columns = [place for place in range(12) if any(months[place] is not None for _, months, _ in years)]
    lines = [
        (year, *("" if one is None else share(one.share, 1) for one in map(months.__getitem__, columns)))
        for year, months, _ in years
    ]
    sums = [share(total.share, 1) for _, _, total in years]
    heads = [MONTHS[place] for place in columns]
    if width >= len(name) + (len(columns) + 1) * MONTH_WIDTH:
        return [_table((name, *heads, "year"), [(*line, total) for line, total in zip(lines, sums, strict=True)])]
    half = (len(columns) + 1) // 2
    first = _table((name, *heads[:half]), [line[: half + 1] for line in lines])
    rest = [(line[0], *line[half + 1 :], total) for line, total in zip(lines, sums, strict=True)]
    return [first, _table(("", *heads[half:], "year"), rest)]


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]], title: str | None = None) -> Table:
    table = Table(*heads, title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for line in lines:
        table.add_row(*line)
    return table
