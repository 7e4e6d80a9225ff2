"""The trades page: round trips from flat to flat, with their sums, from `daemon.journal.trades`.

For a decision: the trades that it opened, changed or closed, and the price around it.
"""

from __future__ import annotations

import sqlite3

from daemon.dashboard.desks import Picture
from daemon.dashboard.pages.price import NotThere, bars_between, fill_marks
from daemon.dashboard.views import AroundPage, TradeColumn, TradeLine, TradesPage
from daemon.journal.reader import JournalReader
from daemon.journal.trade import PAGE, TEXT, Trade
from daemon.journal.trades import Wanted, read_trades, trades_of_decision, with_trades
from daemon.reports.tables import in_words, left_by, own_columns, trade_words, trades_csv, why
from strategies.kit.contract import Spec
from strategies.kit.units import DAY_NS, SECOND_NS

LINES_MOST = 200
BARS_BEFORE, BARS_AFTER = 60, 60  # for a desk that is flat overnight
DAYS_BEFORE, DAYS_AFTER = 60, 40
TRADES_MOST = 100


def trades_page(reader: JournalReader, filters: Wanted) -> TradesPage:
    """`GET /api/trades`. Raises sqlite3.Error."""
    trades = read_trades(reader, filters)
    columns = tuple(
        TradeColumn(name, column.heading, column.meaning, column.unit != TEXT)
        for name, column in own_columns(PAGE).items()
    )
    return TradesPage(tuple(map(trade_line, trades.trades)), trades.totals, columns)


def trades_file(reader: JournalReader, filters: Wanted) -> str:
    """`GET /api/trades.csv`: all matching trades. Raises sqlite3.Error."""
    return trades_csv(read_trades(reader, filters).trades)


def trade_line(trade: Trade) -> TradeLine:
    """Return a round trip for display."""
    return TradeLine(
        what=trade_words(trade),
        symbol=trade.contract or trade.symbol,
        side=trade.right or trade.side,
        quantity=trade.quantity,
        held=trade.held,
        entered=trade.entered_ns / 1e9,
        left=(trade.left_ns or 0) / 1e9,
        held_s=trade.held_s,
        bars=trade.bars,
        entry=trade.entry_price,
        exit=trade.exit_price,
        pnl_usd=trade.pnl_usd,
        pnl_percent=trade.pnl_pct,
        realised_usd=trade.realized_usd,
        unrealised_usd=trade.unrealized_usd,
        worst_usd=trade.worst_usd,
        worst_percent=trade.worst_pct,
        best_usd=trade.best_usd,
        best_percent=trade.best_pct,
        why_entered=trade.entry_action or why(trade.why_entered),
        confidence=trade.entry_confidence,
        why_left=left_by(trade) if trade.left_ns is not None else "",
        entry_decision=trade.entry_decision or 0,
        exit_decision=trade.exit_decision or 0,
        more={name: in_words(column.unit, getattr(trade, name)) for name, column in own_columns(PAGE).items()},
    )


def around_page(picture: Picture, reader: JournalReader, row: sqlite3.Row, symbol: str) -> AroundPage:
    """`GET /api/around/N`. Raises NotThere for an unknown symbol, sqlite3.Error."""
    spec = picture.spec
    trades = tuple(map(trade_line, trades_of_decision(reader, row["decision"], TRADES_MOST)))
    if spec is None:
        return AroundPage("", (), (), (), trades)
    first = [*(trade.symbol for trade in trades), *_symbols_held(reader, row["time_ns"])]
    places = {name: place for place, name in reversed(list(enumerate(first)))}
    symbols = tuple(sorted(spec.symbols, key=lambda name: places.get(name, len(first))))
    symbol = symbol or symbols[0]
    if symbol not in symbols:
        raise NotThere(f"symbol is {symbol!r}, expected one of this desk: {', '.join(spec.symbols[:60])}")
    begin_ns, end_ns = _span(spec, row["bar_ns"], row["time_ns"])
    bars = bars_between(reader, symbol, begin_ns, end_ns)
    marks = fill_marks(reader, begin_ns, end_ns, "" if spec.chained else symbol) if bars else ()
    return AroundPage(symbol, symbols, bars, marks, trades)


def _symbols_held(reader: JournalReader, time_ns: int) -> list[str]:
    """Return the symbols held at a time, the largest first."""
    with with_trades(reader) as query:
        symbols_sql = (
            "SELECT symbol FROM round_trips WHERE opened_ns <= :at AND (entered + left_again <> 0 OR left_ns > :at)"
        )
        return [
            row["symbol"] for row in query(f"{symbols_sql} ORDER BY abs(entered_usd) DESC, symbol", {"at": time_ns})
        ]


def _span(spec: Spec, bar_ns: int, time_ns: int) -> tuple[int, int]:
    if spec.overnight:
        return time_ns - DAYS_BEFORE * DAY_NS, time_ns + DAYS_AFTER * DAY_NS
    length_ns = spec.bar_interval_s * SECOND_NS
    return bar_ns - BARS_BEFORE * length_ns, bar_ns + (BARS_AFTER + 1) * length_ns
