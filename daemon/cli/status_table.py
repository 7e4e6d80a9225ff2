"""One desk as a table, and several with their totals, for `rltraderctl status`."""

from __future__ import annotations

from decimal import Decimal

from rich.table import Table
from rich.text import Text

from daemon.config.limits_shown import by_origin
from daemon.core.orders import in_words
from daemon.core.session import new_york_text
from daemon.operator.fleet import PAPER, REAL, Fleet, FleetLine
from daemon.operator.status import DeskStatus, rows
from daemon.reports.performance.words import share
from daemon.reports.words import NONE, money


def table(desk: DeskStatus) -> Table:
    """Return a desk's status as a table."""
    grid = Table(show_header=False, title=f"{desk.desk} · {desk.strategy}", title_justify="left")
    grid.add_column(style="cyan")
    grid.add_column()
    grid.add_row("daemon", f"runs as process {desk.process}" if desk.process else "not running")
    tape = f", tape {desk.tape}" + (" (synthetic)" if desk.synthetic else "") if desk.tape else ""
    grid.add_row("mode", f"{desk.mode}, account {desk.account}{tape}")
    grid.add_row("last event", f"{desk.seq:,} at {new_york_text(desk.time_ns)}" if desk.seq else "none")
    _trading_rows(grid, desk)
    _money_rows(grid, desk)
    for symbol, reason in desk.left_alone.items():
        grid.add_row("left alone", f"{symbol}: {reason}")
    grid.add_row("bars", f"{desk.bars:,} ({desk.bars_rejected:,} rejected)")
    for name, text in rows(desk):
        grid.add_row(name, text)
    grid.add_row("orders, fills", f"{desk.orders_sent:,}, {desk.fills:,} ({desk.partial_fills:,} partial)")
    if (fills := desk.option_fills) is not None:
        grid.add_row("option fills", f"{fills.recorded:,} at recorded quotes, {fills.modelled:,} at Black-Scholes")
    grid.add_row("trades", f"{desk.trades:,} closed by the desk, {desk.wins:,} won")
    denials = ", ".join(f"{gate} {count:,}" for gate, count in sorted(desk.denials.items(), key=lambda d: -d[1]))
    grid.add_row("denials", denials or "none")
    for origin, text in by_origin(desk.limits):
        grid.add_row("limits", f"from {origin}: {text}")
    return grid


def _trading_rows(grid: Table, desk: DeskStatus) -> None:
    """Add whether the desk may trade, and its model."""
    reason, colon, detail = desk.halt.partition(": ")
    since_text = f"{colon}{detail}, since {new_york_text(desk.halt_since_ns)}" if desk.halt else ""
    grid.add_row("halt", Text.assemble((reason, "red"), since_text) if desk.halt else "no")
    if desk.pause:
        until_text = f", until {new_york_text(desk.paused_until_ns)}" if desk.paused_until_ns else ""
        grid.add_row("pause", desk.pause + until_text)
    reconciled_text = "yes" if desk.reconciled else f"no: {desk.differences}" if desk.differences else "no"
    grid.add_row("reconciled", reconciled_text)
    if desk.limit_base_usd or desk.limit_peak_usd:
        limit_bases = ((desk.limit_base_usd, "the session's loss"), (desk.limit_peak_usd, "the drawdown"))
        grid.add_row("limits reset", ", ".join(f"{limit} counts from {usd} USD" for usd, limit in limit_bases if usd))
    if desk.then:
        grid.add_row("way out", desk.then)
    grid.add_row("model", desk.model + ("" if desk.model_promoted else " (not promoted)") if desk.model else "none")
    if (climber := desk.challenger) is not None:
        where = f"{climber.version}: {climber.step.replace('_', ' ')}, sessions on it: {climber.sessions}"
        grid.add_row("ladder", where)


def _money_rows(grid: Table, desk: DeskStatus) -> None:
    """Add money, positions and orders."""
    equity, cash, realised_usd, fees = map(Decimal, (desk.equity_usd, desk.cash_usd, desk.realized_usd, desk.fees_usd))
    # as in the summary of a replay
    profit_text = f"realised {money(realised_usd, sign=True)} after {money(fees)} of fees"
    grid.add_row("equity", f"{money(equity)} USD, cash {money(cash)}, {profit_text}")
    for position in sorted(desk.positions, key=lambda position: position.symbol):
        now = f", now {Decimal(position.mark_usd):.4f}" if position.mark_usd else ""
        opened_text = new_york_text(position.opened_ns)
        grid.add_row(
            "position", f"{position.quantity} {position.symbol} at {position.price_usd}{now}, since {opened_text}"
        )
    if desk.last_basket:
        given_up = ", ".join(f"{shares:+,} {symbol}" for symbol, shares in desk.given_up.items())
        grid.add_row("last basket", f"due {desk.last_basket}, given up: {given_up or 'nothing'}")
    for order in desk.working:
        price = f"{order.limit_usd or 'market'} once it is at {order.stop_usd}" if order.stop_usd else order.limit_usd
        text = f"{in_words(order.side, order.quantity, order.symbol)} at {price or 'market'}"
        kind = "resting stop" if order.stop_usd else "order"
        grid.add_row(kind, f"{order.client_order_id}: {text}, {order.status}")


def fleet_table(fleet: Fleet) -> Table:
    """Return several desks as a table, a line each."""
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
    """Return the account's name; a dry run and recorded data have a paper broker of their own."""
    if line.money == REAL:
        return f"REAL MONEY: {line.account}"
    return line.account if line.money == PAPER else line.money


AHEAD_S = 5.0  # of this host's clock: an event's time beyond it does not give its age


def _newest_event(line: FleetLine) -> str:
    """Return the time of the newest event: of recorded data its own, else its age."""
    if not line.time:
        return "none"
    if line.lag_s is None:
        return new_york_text(round(line.time * 1e9))
    return f"{ago(-line.lag_s)} ahead of this host" if line.lag_s < -AHEAD_S else f"{ago(max(line.lag_s, 0.0))} ago"


def totals_table(fleet: Fleet) -> Table:
    """Return the totals by kind of money and by account, which are never added to each other."""
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
    """Return USD with two decimals, or a dash if unknown."""
    return NONE if value is None else money(Decimal(str(value)), sign=sign)


def ago(seconds: float) -> str:
    """Return a duration in its largest units: 41 s, 3 min, 2 h 5 min, 12 days."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min" if whole < 172_800 else f"{whole // 86_400:,} days"
