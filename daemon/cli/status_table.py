"""One desk as a table, and several with their totals, for `rltraderctl status`."""

from __future__ import annotations

from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from daemon.config.limits_shown import by_origin, journaled_origins, limits_of
from daemon.core.limits import Limit
from daemon.core.session import new_york_text
from daemon.core.state import State
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.operator.fleet import PAPER, REAL, Fleet, FleetLine
from daemon.operator.status import OptionFills, challenger_of, differences_of, way_out
from daemon.reports.heads import left_alone
from daemon.reports.performance.words import share
from daemon.reports.words import NONE, money


class Journaled(msgspec.Struct, frozen=True):
    """Facts of a journal outside the state: limits of the newest start, symbols that the newest decision left alone."""

    limits: tuple[Limit, ...] = ()
    left_alone: dict[str, str] = {}  # symbol to reason
    option_fills: OptionFills | None = None  # of a replay with recorded option quotes


def table(meta: dict[str, str], state: State[Any], holder: str, facts: Journaled) -> Table:
    """Show a desk from its journal; `holder` is the process that runs on it, "" for none."""
    shown = Table(show_header=False, title=f"{meta.get('desk', '')} · {meta['strategy']}", title_justify="left")
    shown.add_column(style="cyan")
    shown.add_column()
    shown.add_row("daemon", f"runs as process {holder}" if holder else "not running")
    tape = f", tape {meta['tape']}" + (" (synthetic)" if meta.get("synthetic") else "") if meta.get("tape") else ""
    shown.add_row("mode", f"{meta['mode']}, account {meta['account']}{tape}")
    shown.add_row("last event", f"{state.seq:,} at {new_york_text(state.now_ns)}" if state.seq else "none")
    _trading_rows(shown, state)
    _money_rows(shown, state)
    for symbol, reason in facts.left_alone.items():
        shown.add_row("left alone", f"{symbol}: {reason}")
    stats = state.stats
    shown.add_row("bars", f"{stats.bars:,} ({stats.bars_rejected:,} rejected)")
    shown.add_row("decisions", f"{stats.decisions:,}")
    shown.add_row("orders, fills", f"{stats.orders:,}, {stats.fills:,} ({stats.partial_fills:,} partial)")
    if (filled := facts.option_fills) is not None:
        shown.add_row("option fills", f"{filled.recorded:,} at recorded quotes, {filled.modelled:,} at Black-Scholes")
    shown.add_row("trades", f"{stats.trades:,}, {stats.wins:,} won")
    denials = ", ".join(f"{gate} {count:,}" for gate, count in sorted(stats.denials.items(), key=lambda d: -d[1]))
    shown.add_row("denials", denials or "none")
    for origin, text in by_origin(facts.limits):
        shown.add_row("limits", f"from {origin}: {text}")
    return shown


def _trading_rows(shown: Table, state: State[Any]) -> None:
    """Show whether the desk may trade, and with which model."""
    halt, pause, model = state.risk.halt, state.risk.pause, state.model
    shown.add_row(
        "halt",
        Text.assemble((halt.reason, "red"), f": {halt.detail}, since {new_york_text(halt.since_ns)}") if halt else "no",
    )
    if pause is not None and (not pause.until_ns or state.now_ns < pause.until_ns):
        shown.add_row("pause", pause.reason + (f", until {new_york_text(pause.until_ns)}" if pause.until_ns else ""))
    differences, then = differences_of(state), way_out(state)
    shown.add_row("reconciled", "yes" if state.risk.reconciled else f"no: {differences}" if differences else "no")
    if then:
        shown.add_row("way out", then)
    shown.add_row("model", model.version + ("" if model.promoted else " (not promoted)") if model else "none")
    if (climber := challenger_of(state)) is not None:
        where = f"{climber.version}: {climber.step.replace('_', ' ')}, sessions on it: {climber.sessions}"
        shown.add_row("ladder", where)


def _money_rows(shown: Table, state: State[Any]) -> None:
    """Show money, positions and orders."""
    book = state.book
    shown.add_row(
        "equity",
        f"{book.equity:,.2f} USD, cash {book.cash:,.2f}, realised {book.realized:+,.2f}, fees {book.fees:,.2f}",
    )
    for position in sorted(book.positions.values(), key=lambda held: held.symbol):
        average, mark = position.cost / position.quantity, state.marks.get(position.symbol)
        now = "" if mark is None else f", now {mark:.4f}"
        shown.add_row(
            "position",
            f"{position.quantity} {position.symbol} at {average:.4f}{now}, since {new_york_text(position.opened_ns)}",
        )
    if state.basket.date:
        given_up = ", ".join(f"{shares:+,} {symbol}" for symbol, shares in state.basket.given_up.items())
        shown.add_row("last basket", f"due {state.basket.date}, given up: {given_up or 'nothing'}")
    for order in state.orders.values():
        if order.working:
            limit = "market" if order.limit_price is None else order.limit_price
            shown.add_row(
                "order",
                f"{order.client_order_id}: {order.side:+d} x {order.quantity} {order.symbol} at {limit}, "
                f"{order.status}",
            )


def journaled(path: Path, state: State[Any]) -> Journaled:
    """Read the facts of this folder's journal outside its state. Raises JournalError."""
    with closing(JournalReader(path / FILE)) as reader:
        limits = limits_of(state.identity.strategy, state.trading, journaled_origins(reader))
        return Journaled(limits, left_alone(reader))


def fleet_table(fleet: Fleet) -> Table:
    """Show several desks, a line each."""
    table = Table(
        "desk", "strategy", "account", "trading", "equity USD", "exposure", "P&L of the day", "alarms", "holds", "event"
    )
    for column in table.columns[4:7]:
        column.justify = "right"
    for line in fleet.desks:
        if line.problem:
            table.add_row(line.name, "", line.state_dir, Text(line.problem, "red"))
            continue
        trading = line.trading if line.running else f"not running; {line.trading}"
        table.add_row(
            line.name,
            line.strategy,
            _account(line),
            Text(trading, "" if line.may_trade else "red"),
            amount(line.equity_usd),
            share(line.exposure, 1, sign=False),
            f"{amount(line.day_usd, sign=True)}\n{line.session}" if line.session else "none",
            f"{line.alarms}: {line.alarm}" if line.alarms else "none",
            line.holds + (f"; {line.orders} orders" if line.orders else ""),
            _newest_event(line),
        )
    return table


def _account(line: FleetLine) -> str:
    """Name the account; a dry run and recorded data have a paper broker of their own."""
    if line.money == REAL:
        return f"REAL MONEY: {line.account}"
    return line.account if line.money == PAPER else line.money


def _newest_event(line: FleetLine) -> str:
    """Say when the newest event was: of recorded data its own time, else how long ago."""
    if not line.time:
        return "none"
    return new_york_text(round(line.time * 1e9)) if line.lag_s is None else f"{ago(line.lag_s)} ago"


def totals_table(fleet: Fleet) -> Table:
    """Show the totals by kind of money and by account, which are never added to each other."""
    table = Table("total of", "desks", "equity USD", "exposure", "P&L of the day", "alarms")
    for column in table.columns[1:]:
        column.justify = "right"
    for total in fleet.totals:
        of_day = f"{total.session}, {total.counted} of {total.desks}" if total.counted < total.desks else total.session
        table.add_row(
            f"  {total.account}" if total.account else total.money,
            str(total.desks),
            amount(total.equity_usd),
            share(total.exposure, 1, sign=False),
            f"{amount(total.day_usd, sign=True)}\n{of_day}" if total.counted else "none",
            str(total.alarms),
        )
    return table


def amount(value: float | None, *, sign: bool = False) -> str:
    """USD with two decimals, a dash where it is not known."""
    return NONE if value is None else money(Decimal(str(value)), sign=sign)


def ago(seconds: float) -> str:
    """Say a span in its largest units: 41 s, 3 min, 2 h 5 min, 12 days."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min" if whole < 172_800 else f"{whole // 86_400:,} days"
