"""`rltraderctl trades`: print round trips from flat to flat, with their sums. Reads only the journal."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing

import msgspec
from rich.console import Console
from rich.table import Table

from daemon.cli.arguments import NotFound, a_date, add_state_dir, check_span, count, lead_on, print_table
from daemon.core.session import new_york_text
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.trade import TERMINAL, Trade
from daemon.journal.trades import RESULTS, SIDES, SORTS, Wanted, day_begin, day_end, read_trades
from daemon.reports.tables import (
    duration_words,
    gain,
    in_words,
    left_by,
    open_of,
    own_columns,
    percent,
    so_far,
    sum_line,
    trade_words,
    trades_csv,
    trades_shown,
    usd,
    why,
)
from strategies.kit.quantity import to_json

SHOWN = 20  # most trades on a terminal
HEADINGS = ("entered (New York)", "held", "what", "entry", "exit", "P&L USD", "%", "worst", "best", "why", "decisions")
LEAST = ("decisions", "best", "worst", "held", "exit", "entry")  # omitted in this order on a narrow terminal


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `trades`."""
    command.set_defaults(run=run)
    add_state_dir(command)
    command.add_argument("--symbol", default="", metavar="S", help="only this symbol, contract or underlying")
    command.add_argument("--from", dest="since", type=a_date, metavar="DATE", help="left on this day or later")
    command.add_argument("--to", dest="until", type=a_date, metavar="DATE", help="left on this day or earlier")
    command.add_argument("--side", choices=SIDES, metavar="SIDE", default="", help=f"only {', '.join(SIDES)}")
    command.add_argument("--result", choices=RESULTS, metavar="RESULT", default="", help="only win, or loss")
    command.add_argument("--open", action="store_true", help="only what is held now")
    command.add_argument(
        "--sort", choices=tuple(SORTS), metavar="BY", default="time", help="time (newest last), pnl or duration"
    )
    command.add_argument("--limit", type=count, metavar="N", help=f"at most N (default {SHOWN}; --json, --csv: all)")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="trades and sums as one JSON object")
    form.add_argument("--csv", action="store_true", help="one line of CSV for each trade")


def run(options: argparse.Namespace, console: Console) -> int:
    """Print the trades that match; returns 0. Raises NotFound, JournalError."""
    check_span(options.since, options.until)
    filters = Wanted(
        symbol=options.symbol.upper(),
        start_ns=day_begin(options.since or ""),
        end_ns=day_end(options.until or ""),
        side=options.side,
        result=options.result,
        open_only=options.open,
        sort=options.sort,
        limit=options.limit or (0 if options.json or options.csv else SHOWN),
    )
    with closing(JournalReader(options.state_dir / FILE)) as reader:
        trades = read_trades(reader, filters)
    if options.json:
        sys.stdout.write(json.dumps(msgspec.to_builtins(trades_shown(trades), enc_hook=to_json)) + "\n")
    elif options.csv:
        sys.stdout.write(trades_csv(trades.trades))
    elif not trades.trades:
        raise NotFound(f"no trade in {options.state_dir} matches")
    else:
        lead_on(options, "decisions", "--outcome", "ordered")
        rows = trades.trades[::-1] if options.sort == "time" else trades.trades
        print_table(console, _table(rows), *(column.heading for column in own_columns(TERMINAL).values()), *LEAST)
        for trade in rows:
            if abs(trade.held) not in (0, trade.quantity):
                console.print(f"{trade_words(trade)}, {open_of(trade)}: {so_far(trade)}", soft_wrap=True)
        console.print(sum_line(trades.totals), soft_wrap=True)
        if (matching := trades.totals.trades + trades.totals.open) > len(rows):
            console.print(f"{len(rows)} of {matching} are shown; --limit {matching} shows all", soft_wrap=True)
    return 0


def _table(trades: tuple[Trade, ...]) -> Table:
    more = own_columns(TERMINAL)
    table = Table(*HEADINGS, *(column.heading for column in more.values()))
    for column in table.columns[3:9]:
        column.justify, column.no_wrap = "right", True
    for trade in trades:
        pnl = trade.pnl_usd or 0.0
        table.add_row(
            new_york_text(trade.entered_ns),
            duration_words(trade.held_s)
            if trade.left_ns is not None
            else f"{open_of(trade)}, {duration_words(trade.held_s)}",
            trade_words(trade),
            usd(trade.entry_price),
            usd(trade.exit_price if trade.left_ns is not None else None),
            gain(trade.pnl_usd),
            percent(trade.pnl_pct),
            gain(trade.worst_usd),
            gain(trade.best_usd),
            _why(trade),
            f"{trade.entry_decision or '–'} → {trade.exit_decision or '–'}",
            *(in_words(column.unit, getattr(trade, name)) for name, column in more.items()),
            style="green" if pnl > 0 else "red" if pnl < 0 else "",
        )
    return table


def _why(trade: Trade) -> str:
    entry_text = trade.entry_action or why(trade.why_entered)
    if trade.entry_confidence is not None:
        entry_text += f" {trade.entry_confidence:.2f}"
    return f"{entry_text} → {left_by(trade)}" if trade.left_ns is not None else entry_text
