"""Trades of `daemon.journal.trades` as text, lines of CSV, or objects for JSON; a session's orders as CSV.

The lines of CSV are for a spreadsheet: column names are stable and have their units, and a text never begins with a
sign that a spreadsheet takes for a formula.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from types import GenericAlias
from typing import Any, get_type_hints

import msgspec

from daemon.core.session import new_york_text
from daemon.journal import trade as trade_units
from daemon.journal.trade import COLUMNS, LISTED, Column, Trade
from daemon.journal.trades import Totals, TradeList
from daemon.reports.execution_quality import OrderQuality, plain
from daemon.reports.record import Day
from daemon.reports.words import NONE, clock, instrument, money, plural
from strategies.kit.units import DAY_S, SECOND_NS

Cell = str | int | Decimal | None
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")  # OWASP, "CSV injection", and the begin of DDE
MS = 1_000_000


def milliseconds(begin_ns: int, end_ns: int) -> Decimal | None:
    """Return the time between two journaled times; None if one is unknown."""
    return Decimal(end_ns - begin_ns) / MS if begin_ns and end_ns else None


def utc(time_ns: int) -> str:
    """Return ISO 8601 with nanoseconds; "" for never."""
    seconds, rest = divmod(time_ns, SECOND_NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}Z" if time_ns else ""


ORDER_COLUMNS: dict[str, Callable[[Day, OrderQuality], Cell]] = {
    "session": lambda day, _: day.session.date,
    "desk": lambda day, _: day.desk,
    "strategy": lambda day, _: day.strategy,
    "mode": lambda day, _: day.mode,
    "client_order_id": lambda _, order: order.client_order_id,
    "decision": lambda _, order: order.decision,
    "work": lambda _, order: order.work,
    "attempt": lambda _, order: order.attempt,
    "purpose": lambda _, order: order.purpose,
    "symbol": lambda _, order: order.symbol,
    "side": lambda _, order: "buy" if order.side > 0 else "sell",
    "opening_auction": lambda _, order: "yes" if order.auction else "no",
    "multiplier": lambda _, order: order.multiplier,
    "quantity": lambda _, order: order.quantity,
    "filled": lambda _, order: order.filled,
    "limit_usd_per_share": lambda _, order: order.limit,
    "arrival_usd_per_share": lambda _, order: order.arrival.price if order.arrival else None,
    "arrival_source": lambda _, order: order.arrival.source if order.arrival else "",
    "arrival_bid_usd_per_share": lambda _, order: order.arrival.bid if order.arrival else None,
    "arrival_ask_usd_per_share": lambda _, order: order.arrival.ask if order.arrival else None,
    "arrival_spread_usd_per_share": lambda _, order: order.arrival.spread if order.arrival else None,
    "arrival_age_ms": lambda _, order: (
        milliseconds(order.arrival.known_ns, order.submitted_ns) if order.arrival else None
    ),
    "average_fill_usd_per_share": lambda _, order: order.average,
    "slippage_usd_per_share": lambda _, order: order.slippage_share,
    "slippage_bp": lambda _, order: order.slippage_bp,
    "slippage_usd": lambda _, order: order.slippage_usd,
    "effective_over_quoted_spread": lambda _, order: order.spread_ratio,
    "improvement_on_limit_usd_per_share": lambda _, order: order.improvement,
    "fees_usd": lambda _, order: order.fees,
    "corrections": lambda _, order: order.corrections,
    "status": lambda _, order: order.status,
    "reject_reason": lambda _, order: order.reason,
    "decided_utc": lambda _, order: utc(order.decided_ns),
    "submitted_utc": lambda _, order: utc(order.submitted_ns),
    "accepted_utc": lambda _, order: utc(order.accepted_ns),
    "first_fill_utc": lambda _, order: utc(order.first_fill_ns),
    "last_fill_utc": lambda _, order: utc(order.last_fill_ns),
    "cancel_asked_utc": lambda _, order: utc(order.cancel_asked_ns),
    "canceled_utc": lambda _, order: utc(order.canceled_ns),
    "decided_to_submitted_ms": lambda _, order: milliseconds(order.decided_ns, order.submitted_ns),
    "submitted_to_accepted_ms": lambda _, order: milliseconds(order.submitted_ns, order.accepted_ns),
    "submitted_to_first_fill_ms": lambda _, order: milliseconds(order.submitted_ns, order.first_fill_ns),
    "first_to_last_fill_ms": lambda _, order: milliseconds(order.first_fill_ns, order.last_fill_ns),
    "cancel_asked_to_canceled_ms": lambda _, order: milliseconds(order.cancel_asked_ns, order.canceled_ns),
}
"""Column -> its value. docs/REPORT.md explains each; append new ones at the end."""


def orders_csv(day: Day) -> str:
    """Return the header and a line for each order, in the order of sending; an unknown value is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(ORDER_COLUMNS)
    for order in day.quality.orders:
        writer.writerow(as_cell(column(day, order)) for column in ORDER_COLUMNS.values())
    return text.getvalue()


def as_cell(value: Cell) -> str:
    """Return a value as a cell: "" if unknown, and never a text that a spreadsheet takes for a formula."""
    match value:
        case None:
            return ""
        case Decimal():
            return plain(value)
        case int():
            return str(value)
    return f"'{value}" if value.startswith(FORMULA) else value


def trades_csv(trades: Iterable[Trade]) -> str:
    """Return the header and a line for each trade; an unknown value is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(LISTED)
    for trade in trades:
        writer.writerow(map(_cell, line(trade).values()))
    return text.getvalue()


class TradesShown(msgspec.Struct, frozen=True):
    """The trades that were asked for, each by the columns of the CSV, and the totals of all that match."""

    trades: tuple[dict[str, str | int | float | None], ...]
    totals: Totals


def trades_shown(trades: TradeList) -> TradesShown:
    """Return the trades for JSON."""
    return TradesShown(lines(trades.trades), trades.totals)


def lines(trades: Iterable[Trade]) -> tuple[dict[str, str | int | float | None], ...]:
    """Return the trades as objects, by the columns of the CSV."""
    return tuple(map(line, trades))


def line(trade: Trade) -> dict[str, str | int | float | None]:
    """Return a trade by the columns of the CSV, with values for JSON."""
    return {name: _for_programs(column.unit, getattr(trade, field)) for name, (field, column) in LISTED.items()}


def own_columns(where: str) -> dict[str, Column]:
    """Return the columns with a column of their own in the tables of `where`: field -> its declaration."""
    return {name: column for name, column in COLUMNS.items() if column.heading and where in column.shown}


def in_words(unit: str, value: Any) -> str:
    """Return the value of a column as text."""
    if value is None or value == "":
        return NONE
    match unit:
        case trade_units.USD | trade_units.USD_PER_SHARE:
            return usd(value)
        case trade_units.PERCENT:
            return percent(value)
        case trade_units.RATIO:
            return f"{value:.2f}"
        case trade_units.SECONDS:
            return duration_words(value)
        case trade_units.TIME:
            return new_york_text(value)
        case trade_units.NUMBER:
            return f"{value:,}"
    return why(value)


def trades_contract() -> type:
    """Return the type of `trades_shown` for its schema: each column with its type."""
    types = get_type_hints(Trade)
    kinds = [
        (name, str if column.unit == trade_units.TIME else types[field]) for name, (field, column) in LISTED.items()
    ]
    row_type = msgspec.defstruct("TradeShown", kinds, namespace={"__doc__": "A trade, by the columns of the CSV."})
    fields = [("trades", GenericAlias(tuple, (row_type, ...))), ("totals", Totals)]
    return msgspec.defstruct("TradesShown", fields, namespace={"__doc__": TradesShown.__doc__})


def _for_programs(unit: str, value: Any) -> Any:
    match unit:
        case trade_units.TIME:
            return utc(value or 0)
        case trade_units.USD | trade_units.USD_PER_SHARE | trade_units.PERCENT | trade_units.RATIO:
            return None if value is None else round(value, 6)
    return value


def _cell(value: str | float | None) -> str:
    return as_cell(Decimal(repr(value)) if isinstance(value, float) else value)


# --- words ------------------------------------------------------------------------------------------------------------


def trade_words(trade: Trade) -> str:
    """Return the quantity and the instrument as text."""
    short = "short " if trade.side == "short" else ""
    return f"{short}{trade.quantity:,} {instrument(trade.contract or trade.symbol)}"


def gain(value: float | None) -> str:
    """Return USD with an arrow up or down, readable without colour; a dash if unknown."""
    if value is None:
        return NONE
    arrow = "▲ " if value > 0 else "▼ " if value < 0 else ""
    return f"{arrow}{money(Decimal(repr(round(value, 2))), sign=True)}"


def percent(value: float | None) -> str:
    """Return a signed percentage, a dash if unknown."""
    return NONE if value is None else f"{value:+.2f} %".replace("-", "\N{MINUS SIGN}")


def usd(value: float | None) -> str:
    """Return USD a share, a dash if unknown."""
    return NONE if value is None else f"{value:,.2f}"


def duration_words(seconds: float | None) -> str:
    """Return a holding time as text: minutes and hours within a day, days beyond."""
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if seconds < DAY_S:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{seconds / DAY_S:.1f} days"


def why(reason: str) -> str:
    """Return a reason as text."""
    return reason.replace("_", " ") or NONE


def left_by(trade: Trade) -> str:
    """Return why a trade was closed: the policy's action, or the rule."""
    return trade.exit_action if trade.why_left == "policy" and trade.exit_action else why(trade.why_left)


def unrealised_rest(total: float | None, realised_usd: float) -> float | None:
    """Return total less realised USD, both rounded to cents first, so that the shown parts add up."""
    return None if total is None else round(round(total, 2) - round(realised_usd, 2), 2)


def open_of(trade: Trade) -> str:
    """Return the quantity of an open trade that is still held."""
    return f"open: {abs(trade.held):,} of {trade.quantity:,}" if abs(trade.held) != trade.quantity else "open"


def so_far(trade: Trade) -> str:
    """Return an open trade's profit: at the newest mark, and of the part sold, with its price."""
    sold_quantity = trade.quantity - abs(trade.held)
    by = (
        f" by {sold_quantity:,} {'bought back' if trade.side == 'short' else 'sold'} at {usd(trade.exit_price)}"
        if sold_quantity
        else ""
    )
    rest_usd = unrealised_rest(trade.pnl_usd, trade.realized_usd)
    return f"unrealised {gain(rest_usd)}, realised {gain(trade.realized_usd)}{by}"


def trade_row(trade: Trade) -> tuple[str, ...]:
    """Return a trade as the row of a report; text after a line feed is printed small."""
    entry_text = clock(trade.entered_ns)
    exit_text = clock(trade.left_ns) if trade.left_ns is not None else open_of(trade)
    if trade.held_s >= DAY_S / 2:
        entry_text = new_york_text(trade.entered_ns)[:-3]
    cause = trade.entry_action or why(trade.why_entered)
    if trade.entry_confidence is not None:
        cause += f" {trade.entry_confidence:.2f}"
    return (
        trade_words(trade),
        f"{gain(trade.pnl_usd)}\n{percent(trade.pnl_pct)}",
        f"{entry_text} at {usd(trade.entry_price)}\n{cause}, decision {trade.entry_decision or NONE}",
        f"{exit_text} at {usd(trade.exit_price)}\n{left_by(trade)}, decision {trade.exit_decision or NONE}"
        if trade.left_ns is not None
        else f"{exit_text}\n{so_far(trade)}",
        duration_words(trade.held_s),
        f"{gain(trade.worst_usd)}\n{percent(trade.worst_pct)}",
        f"{gain(trade.best_usd)}\n{percent(trade.best_pct)}",
        usd(trade.fees_usd),
    )


def sum_line(totals: Totals) -> str:
    """Return the sums over closed trades, over open ones, and the realised profit of both."""
    parts = [plural(totals.trades, "closed trade") + (" (flat again)" if totals.open else "")]
    if totals.win_rate is not None:
        parts.append(f"{100 * totals.win_rate:.0f} % won ({totals.wins:,} of {totals.trades:,})")
        factor = "no losses" if totals.profit_factor is None else f"profit factor {totals.profit_factor:.2f}"
        parts.append(factor)
        parts.append(f"expectancy {_usd(totals.expectancy_usd)} USD")
        parts.append(f"held {duration_words(totals.held_s)} on average")
    parts.append(f"P&L {_usd(totals.pnl_usd)} USD after {_usd(totals.fees_usd, sign=False)} USD of fees")
    text = ", ".join(parts) + "."
    if totals.open:
        open_text = "" if totals.open_usd is None else f", {_usd(totals.open_usd)} USD at the newest marks"
        text += f" Open: {totals.open:,}{open_text}, {open_parts(totals)}. Realised in all: {realised_words(totals)}."
    if totals.other_usd:
        text += f" Not in a trade: {_usd(totals.other_usd)} USD ({NOT_OF_A_TRADE})."
    return text


NOT_OF_A_TRADE = "fees of the ledger, dividends, interest"


def open_parts(totals: Totals) -> str:
    """Return the realised profit of open trades by the parts sold, and the unrealised rest."""
    return (
        f"of it realised {_usd(totals.open_realized_usd)} USD by the parts sold and all fees, "
        f"unrealised {_usd(unrealised_rest(totals.open_usd, totals.open_realized_usd))} USD"
    )


def realised_words(totals: Totals) -> str:
    """Return the realised profit of closed trades and of the parts sold of open ones, after the fees of both."""
    total, fees = totals.pnl_usd + totals.open_realized_usd, totals.fees_usd + totals.open_fees_usd
    return f"{_usd(total)} USD after {_usd(fees, sign=False)} USD of fees"


def _usd(value: float | None, *, sign: bool = True) -> str:
    return NONE if value is None else money(Decimal(repr(round(value, 2))), sign=sign)
