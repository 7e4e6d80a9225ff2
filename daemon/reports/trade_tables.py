"""Trades of `daemon.journal.trades` as text, lines of CSV, or objects for JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from decimal import Decimal
from types import GenericAlias
from typing import Any, get_type_hints

import msgspec

from daemon.core.session import new_york_text
from daemon.journal import trade as trade_units
from daemon.journal.trade import COLUMNS, LISTED, Column, Trade
from daemon.journal.trades import Totals, TradeList
from daemon.reports.csv_tables import as_cell, utc
from daemon.reports.words import NONE, clock, instrument, money, plural
from strategies.kit.units import DAY_S


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
