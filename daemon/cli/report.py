"""`rltraderctl report`: a session's result and its trading costs, as a table, a page and a CSV file.

With a span, or for several desks, it is the tear sheet of `daemon.cli.journal.tear_sheet`. Reads only the journal, also
while a daemon runs. The files are written whole or not at all.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from daemon.cli.arguments import a_date, add_state_dirs, lead_on, print_table, write_file
from daemon.cli.journal import tear_sheet
from daemon.engine.state_dir import REPORTS
from daemon.journal.journal import FILE
from daemon.reports.end_of_day import DecisionCount, SessionReport
from daemon.reports.execution_quality import plain, sums_of
from daemon.reports.gather import read_day
from daemon.reports.page import day_page
from daemon.reports.record import Day, session_of
from daemon.reports.tables import ORDER_COLUMNS, lines, orders_csv, sum_line, trade_row
from daemon.reports.words import (
    about,
    clock,
    first_sentence,
    further_sentences,
    instrument,
    money,
    number,
    price,
    reference,
)
from strategies.kit.quantity import to_json


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `report`."""
    command.set_defaults(run=run)
    add_state_dirs(command)
    tear_sheet.add_options(command)
    command.add_argument(
        "--day", type=a_date, metavar="DATE", help="YYYY-MM-DD (default: the newest session with an event)"
    )
    command.add_argument("--html", type=Path, metavar="FILE", help="the page (a day's default: DIR/reports/<day>.html)")
    command.add_argument(
        "--csv", type=Path, metavar="FILE", help="one line for each order; docs/REPORT.md names the columns"
    )
    command.add_argument("--json", action="store_true", help="figures and orders as one JSON object instead of a table")


def run(options: argparse.Namespace, console: Console) -> int:
    """Print the summary and write the files; returns 0. Raises JournalError; NotFound if a file cannot be written."""
    if tear_sheet.wanted(options):
        return tear_sheet.run(options, console)
    with session_of(options.state_dir / FILE, options.day) as (reader, session):
        day = read_day(reader, session)
    page = options.html or options.state_dir / REPORTS / f"{day.session.date}.html"
    if options.json:
        sys.stdout.write(json.dumps(msgspec.to_builtins(_document(day), enc_hook=to_json)) + "\n")
    else:
        _show(day, console)
    write_file(page, day_page(day), "--html", new_folder=options.html is None)
    if options.csv is not None:
        write_file(options.csv, orders_csv(day), "--csv", new_folder=False)
    lead_on(options, "decisions", "--outcome", "ordered")
    if not options.json:
        console.print(f"page: {page}" + (f"\nCSV:  {options.csv}" if options.csv is not None else ""))
    return 0


def _document(day: Day) -> SessionReport:
    """Return all figures, for JSON."""
    return SessionReport(
        desk=day.desk,
        strategy=day.strategy,
        mode=day.mode,
        account=day.account,
        synthetic=day.synthetic,
        session=day.session.date,
        ended=day.ended,
        newest_event_ns=day.last_ns,
        said=(first_sentence(day), *further_sentences(day)),
        gain_usd=None if day.gain is None else plain(day.gain),
        equity_usd=plain(day.equity[-1][1]) if day.equity else None,
        execution=sums_of(day.quality),
        fees_usd=plain(day.quality.fees_usd),
        decisions=tuple(DecisionCount(*decision_count) for decision_count in day.decisions),
        denials=dict(day.denials),
        alarms=len(day.alarms),
        commands=len(day.commands),
        halt=day.halt.name if day.halt is not None else "",
        bars_missing=sum(count for _, count in day.gaps),
        bars_rejected=len(day.rejected),
        held={holding.symbol: holding.quantity for holding in day.held if holding.quantity},
        held_exactly_known=day.exact,
        trades=lines(day.trades.trades),
        trade_sums=day.trades.totals,
        orders=tuple(
            {name: _value(column(day, order)) for name, column in ORDER_COLUMNS.items()} for order in day.quality.orders
        ),
        fees_by_the_day_usd=plain(day.fees_by_the_day),
    )


def _value(cell: Any) -> Any:
    return cell if cell is None or isinstance(cell, int | str) else plain(cell)


def _show_trades(day: Day, console: Console) -> None:
    """Print the session's round trips and their sums."""
    trades = day.trades.trades
    if not trades:
        return
    table = Table("trade", "P&L USD", "entered", "left", "held", "worst", "best", "fees")
    for trade in trades[::-1]:
        table.add_row(*(cell.replace("\n", ", ") for cell in trade_row(trade)))
    print_table(console, table, "fees", "best", "worst", "held")
    console.print(sum_line(day.trades.totals), soft_wrap=True)


def _show(day: Day, console: Console) -> None:
    console.print(about(day), soft_wrap=True, markup=False)
    for sentence in (first_sentence(day), *further_sentences(day)):
        console.print(sentence, soft_wrap=True)
    _show_trades(day, console)
    if not day.quality.orders:
        return
    table = Table("sent", "order", "limit", "arrival price", "fill", "bp", "USD", "spread ratio", "fees", "ended")
    for column in table.columns[2:9]:
        column.justify = "right"
    for order in day.quality.orders:
        average, ratio = order.average, order.spread_ratio
        table.add_row(
            clock(order.submitted_ns, seconds=True),
            f"{'buy' if order.side > 0 else 'sell'} {order.quantity} {instrument(order.symbol)}",
            "market" if order.limit is None else price(order.limit),
            "" if order.arrival is None else price(order.arrival.price),
            "" if average is None else price(average),
            "" if order.slippage_bp is None else number(order.slippage_bp, 1),
            "" if order.slippage_usd is None else money(order.slippage_usd),
            "" if ratio is None else number(ratio, 2),
            money(order.fees),
            f"{order.filled} {order.status.replace('_', ' ')}",
        )
    print_table(console, table, "spread ratio", "bp", "fees", "limit", "arrival price")
    console.print(f"Arrival price, and what slippage is against: {reference(day.quality)}.", soft_wrap=True)
    quality = day.quality
    share, mean = quality.filled_share, quality.slippage_bp
    console.print(
        f"{len(quality.orders)} orders, filled "
        + ("nothing" if share is None else f"{number(share * 100, 1)} % of what was wanted")
        + f"; slippage {money(quality.slippage_usd, sign=True)} USD"
        + ("" if mean is None else f" ({number(mean, 1)} bp)")
        + f", fees {money(quality.fees_usd)} USD, "
        + f"implementation shortfall {money(quality.shortfall_usd, sign=True)} USD"
    )
