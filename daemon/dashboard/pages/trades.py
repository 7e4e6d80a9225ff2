"""The page of trades: round trips from flat to flat, with their sums. They come from `daemon.journal.trades`."""

from __future__ import annotations

from daemon.dashboard.views import TradeLine, TradesPage
from daemon.journal.reader import JournalReader
from daemon.journal.trades import Trade, Wanted, read_trades
from daemon.reports.trade_tables import left_by, trades_csv, what, why

LINES_MOST = 200


def trades_page(reader: JournalReader, wanted: Wanted) -> TradesPage:
    """`GET /api/trades`. Raises sqlite3.Error."""
    found = read_trades(reader, wanted)
    return TradesPage(tuple(map(_line, found.trades)), found.totals)


def trades_file(reader: JournalReader, wanted: Wanted) -> str:
    """`GET /api/trades.csv`: all that match. Raises sqlite3.Error."""
    return trades_csv(read_trades(reader, wanted).trades)


def _line(trade: Trade) -> TradeLine:
    return TradeLine(
        what=what(trade),
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
        fees_usd=trade.fees_usd,
        worst_usd=trade.worst_usd,
        worst_percent=trade.worst_pct,
        best_usd=trade.best_usd,
        best_percent=trade.best_pct,
        why_entered=trade.entry_action or why(trade.why_entered),
        confidence=trade.entry_confidence,
        why_left=left_by(trade) if trade.left_ns is not None else "",
        entry_decision=trade.entry_decision or 0,
        exit_decision=trade.exit_decision or 0,
    )
