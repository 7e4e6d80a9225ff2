"""`train-and-export check-quotes`: what is wrong with a file of option quotes, and what it covers."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from daemon.host.time.calendar import CalendarError
from daemon.host.version import CommandLine
from daemon.tapes.files import TapeError
from daemon.tapes.quotes.coverage import MONEYNESS_NAMES, Cover, QuoteReport, report_on
from daemon.tapes.quotes.day import STANDING
from daemon.tapes.quotes.faults import FAULTS, REMARKS
from rltrader import called
from training.cli.main import COMMANDS, DONE, wrong
from training.evidence.wording import counted, share

FAULTY = 1
SESSIONS_SHOWN = 20
_DAYS = ((0, 0), (1, 1), (2, 5), (6, 14), (15, 45), (46, None))


def main(arguments: Sequence[str]) -> int:
    """`train-and-export check-quotes FILE`; returns 0, 1 when there are faults, 2 when the file is unusable."""
    options = CommandLine(prog=f"{called('train-and-export')} check-quotes", description=COMMANDS["check-quotes"])
    options.add_argument("file", type=Path, help="a file of option quotes (docs/DATA.md)")
    options.add_argument("--json", action="store_true", help="one JSON object with everything")
    chosen = options.parse_args(arguments)
    try:
        report = report_on(chosen.file)
    except (TapeError, CalendarError, OSError) as error:
        return wrong(error)
    if chosen.json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        console = Console(highlight=False, markup=False)
        show(report, console if console.is_terminal else Console(highlight=False, markup=False, width=160))
    return FAULTY if report.faulty else DONE


def show(report: QuoteReport, console: Console) -> None:
    """Print the report as tables."""
    made_up = f" · SYNTHETIC: {report.synthetic}" if report.synthetic else ""
    dates = f"{report.first_date} to {report.last_date}" if report.sessions else "no session"
    console.print(
        f"{report.file}: {counted(report.rows, 'quote')}, {counted(report.sessions, 'session')}, {dates}; "
        f"interval {report.interval}, source {', '.join(report.sources) or 'unknown'}{made_up}"
    )
    if report.findings:
        table = Table("finding", "rows", "contracts", "what", "first")
        for finding in report.findings:
            what = FAULTS.get(finding.name) or REMARKS[finding.name]
            kind = "fault" if finding.fault else "remark"
            first = finding.examples[0] if finding.examples else ""
            table.add_row(f"{finding.name} ({kind})", f"{finding.rows:,}", f"{finding.contracts:,}", what, first)
        console.print(table)
    if standing := sorted(STANDING.intersection(report.sources)):
        console.print(
            f"{', '.join(standing)}: no row for a minute without a new quote; the last one stood, so gaps and shares "
            "below 100 % are no holes"
        )
    console.print(_by_days(report.coverage))
    console.print(_by_session(report.coverage))


def _by_days(coverage: Sequence[Cover]) -> Table:
    """Days to the expiry against the distance of the strike: contract-days, and the share of minutes with two sides."""
    cells: defaultdict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for cover in coverage:
        place = next(
            (i for i, (low, high) in enumerate(_DAYS) if cover.days >= low and (high is None or cover.days <= high)), -1
        )
        for number, value in enumerate((cover.contracts, cover.two_sided, cover.possible)):
            cells[place, cover.moneyness][number] += value
    table = Table(
        "days to expiry",
        *MONEYNESS_NAMES,
        title="contract days and share of times with bid and ask, by distance of the strike",
    )
    for place, (low, high) in enumerate(_DAYS):
        row = [_cell(cells.get((place, name))) for name in MONEYNESS_NAMES]
        if any(row):
            table.add_row(f"{low}" if low == high else f"{low} to {high}" if high else f"{low} and more", *row)
    return table


def _cell(counts: list[int] | None) -> str:
    return "" if counts is None else f"{counts[0]:,} · {share(counts[1] / counts[2] if counts[2] else None)}"


def _by_session(coverage: Sequence[Cover]) -> Table:
    """The sessions with the least coverage."""
    sums: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    expiries: defaultdict[str, set[str]] = defaultdict(set)
    for cover in coverage:
        for number, value in enumerate((cover.contracts, cover.rows, cover.two_sided, cover.possible)):
            sums[cover.date][number] += value
        expiries[cover.date].add(cover.expiry)
    worst = sorted(sums, key=lambda date: (sums[date][2] / max(sums[date][3], 1), date))[:SESSIONS_SHOWN]
    title = None if len(worst) == len(sums) else f"the {SESSIONS_SHOWN} sessions of {len(sums)} with the least coverage"
    table = Table("session", "expiries", "contracts", "quotes", "times with bid and ask", title=title)
    for date in sorted(worst):
        contracts, rows, two_sided, possible = sums[date]
        table.add_row(
            date,
            f"{len(expiries[date])}",
            f"{contracts:,}",
            f"{rows:,}",
            share(two_sided / possible if possible else None),
        )
    return table
