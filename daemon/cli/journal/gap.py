"""`rltraderctl gap`: compare a session's orders at the broker with the same orders on paper; or sum several sessions.

Reads only the journal, also while a daemon runs.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing, suppress
from decimal import Decimal
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from daemon.cli.arguments import NotFound, a_date, add_state_dir, lead_on, print_table
from daemon.core.events import SessionScheduled
from daemon.core.state import BROKER_MODES
from daemon.engine.state_dir import parts_of
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.rows import decode_event
from daemon.reports.gap import REASONS, Gap, GapSummary, read_gap, summary_of
from daemon.reports.words import instrument, money, number, price, unread_sentence
from strategies.kit.quantity import to_json


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `gap`."""
    command.set_defaults(run=run)
    add_state_dir(command)
    command.add_argument(
        "--day", type=a_date, metavar="DATE", help="YYYY-MM-DD (default: the newest session with an event)"
    )
    command.add_argument("--days", type=_count, metavar="N", help="the newest N sessions up to that day, in sum")
    help_text = "judge by recorded quotes instead of the journal's: a file, or a folder as `[record]` writes it"
    command.add_argument("--option-quotes", type=Path, metavar="PATH", help=help_text)
    command.add_argument("--json", action="store_true", help="one JSON object a session, or their sum")


def run(options: argparse.Namespace, console: Console) -> int:
    """Print the gap; returns 0. Raises JournalError, NotFound."""
    journal = options.state_dir / FILE
    try:
        if options.days is None:
            gaps = [read_gap(journal, options.day, options.option_quotes)]
        else:
            dates = [date for date in sessions_in(journal) if options.day is None or date <= options.day]
            gaps = [read_gap(journal, date, options.option_quotes) for date in dates[-options.days :]]
    except ValueError as error:
        raise NotFound(str(error)) from error
    if not gaps:
        raise NotFound(f"{options.state_dir} holds no session up to {options.day}")
    summary = summary_of(gaps)
    if options.json:
        result = gaps[0] if options.days is None else summary
        sys.stdout.write(msgspec.json.encode(result, enc_hook=to_json).decode() + "\n")
        return 0
    if options.days is None:
        _show(gaps[0], console)
    if paper := sorted({gap.mode for gap in gaps} - BROKER_MODES):
        console.print(f"no order of this journal went to a broker (mode {', '.join(paper)}): paper next to paper")
    _show_sum(summary, console)
    if summary.unread:
        console.print(unread_sentence(summary.unread), soft_wrap=True)
    lead_on(options, *(("gap", "--days", "20") if options.days is None else ("report",)))
    return 0


def sessions_in(journal: Path) -> list[str]:
    """Return the dates of the sessions in the journal and its rotated parts, oldest first."""
    dates = set()
    for path in parts_of(journal):
        with closing(JournalReader(path)) as reader:
            newest = reader.query("SELECT max(time_ns) AS newest FROM events")[0]["newest"] or 0
            for row in reader.query("SELECT payload FROM events WHERE kind = 'SessionScheduled'"):
                with suppress(msgspec.MsgspecError):  # a damaged row; each start schedules the session again
                    event = decode_event(row["payload"])
                    if isinstance(event, SessionScheduled) and event.session.open_ns <= newest:
                        dates.add(event.session.date)
    return sorted(dates)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of sessions; expected 1 or more")
    return int(text)


def _show(gap: Gap, console: Console) -> None:
    """Print a line for each order."""
    if not gap.lines:
        console.print(f"{gap.date}: no order was sent")
        return
    table = Table("order", "at the broker", "after s", "on paper", "after s", "cost USD", "bp", "why", title=gap.date)
    for line in gap.lines:
        table.add_row(
            f"{'buy' if line.side > 0 else 'sell'} {line.quantity} {instrument(line.symbol)}",
            "" if line.live_price is None else f"{line.live_filled} at {price(line.live_price)}",
            "" if line.live_delay_s is None else f"{line.live_delay_s:.1f}",
            "" if line.paper_price is None else f"{line.paper_filled} at {price(line.paper_price)}",
            "" if line.paper_delay_s is None else f"{line.paper_delay_s:.1f}",
            "" if line.cost_usd is None else money(line.cost_usd),
            "" if line.cost_bp is None else number(line.cost_bp, 1),
            line.reason.replace("_", " ") + (f": {line.paper_refusal}" if line.paper_refusal else ""),
        )
    print_table(console, table, "after s", "bp")


def _apart(cost_usd: Decimal) -> str:
    return f"{money(abs(cost_usd))} USD {'less' if cost_usd < 0 else 'more'}"


def _show_sum(summary: GapSummary, console: Console) -> None:
    """Print the sums by reason, and the mean with its interval."""
    table = Table("orders", "cost USD", "why")
    for line in summary.reasons:
        table.add_row(f"{line.orders:,}", money(line.cost_usd) if line.notional_usd else "", REASONS[line.reason])
    if summary.reasons:
        console.print(table)
    alike = "" if summary.alike is None else f"; {summary.alike:.0%} filled as much on both sides".replace("%", " %")
    cost = "none filled on both sides, so no price is compared"
    if summary.cost_bp is not None:
        bp = f"{number(abs(summary.cost_bp), 1)} bp of what both filled"
        cost = f"real fills cost {_apart(summary.cost_usd)} than on paper, {bp}"
    console.print(f"sessions: {len(summary.sessions):,}, orders: {summary.orders:,}{alike}; {cost}", soft_wrap=True)
    fees = f"{money(summary.live_fees_usd)} USD at the broker, {money(summary.paper_fees_usd)} USD on paper"
    net = "" if summary.cost_bp is None else f"; with those of what both filled: {_apart(summary.net_usd)}"
    console.print(f"fees, not in these costs: {fees}{net}", soft_wrap=True)
    if summary.low_usd is not None and summary.high_usd is not None:
        console.print(
            f"a session {summary.mean_usd:+,.2f} USD, 95 % interval {summary.low_usd:+,.2f} to {summary.high_usd:+,.2f}"
        )
