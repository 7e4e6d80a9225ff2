"""Turn the trades of a journal into messages: a round trip once it is closed, a daily desk's basket once it is done.

A trade is reported once, however many fills it had. Only reads.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from decimal import Decimal
from typing import NamedTuple

from daemon.core.instruments.option_market import parse_occ
from daemon.core.session import new_york_text
from daemon.host.printable import printable
from daemon.journal.reader import JournalReader
from daemon.journal.trade import Trade
from daemon.journal.trades import Wanted, read_trades
from daemon.reports.tables import duration_words, left_by
from daemon.reports.words import plural
from strategies.kit.units import DAY_NS

MERGE_S = 30.0  # seconds without another fill after which an entry is reported
BACK_NS = 8 * DAY_NS  # latest arrival of a fill
DAILY = "RebalanceDue"  # event at which a daily desk decides
DUE_ROWS = 20_000  # rows at the journal's end: more than two sessions of a daily desk
QUIET = frozenset(("BarClosed", "QuotesReceived", "ClockTicked", "PricesPrinted", "PolicyAnswered"))
"""Kinds of events that close no trade."""
REASONS = {
    "take_profit": "target reached",
    "stop_loss": "stop reached",
    "trailing_stop": "trailing stop reached",
    "time_stop": "held as long as allowed",
    "flat_before_close": "flat before the close",
    "closed_by_hand": "closed by hand",
    "operator": "flattened by hand",
    "policy": "by the policy",
    "daily_loss": "the day's loss limit",
    "drawdown": "the drawdown limit",
    "expiry": "expired",
    "foreign_order": "sold by somebody else",
}


class TradeMessage(NamedTuple):
    """A message without the desk's name; `what` names it in a summary."""

    what: str
    title: str
    body: str


class TradeNews:
    """Messages about trades since its creation, or since `since_ns`. `now_s` is a monotonic clock."""

    def __init__(
        self,
        reader: JournalReader,
        since_ns: int | None,
        *,
        entries: bool = False,
        merge_s: float = MERGE_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._entries, self._merge_s, self._now_s = entries, merge_s, now_s
        newest = reader.last_entry()
        self._newest_ns = 0 if newest is None else newest.time_ns
        before_ns = self._newest_ns + 1 if since_ns is None else since_ns
        trades = read_trades(reader, Wanted(start_ns=max(min(before_ns, self._newest_ns) - BACK_NS, 0))).trades
        self._left_times = {_key(trade): trade.left_ns for trade in trades if (trade.left_ns or before_ns) < before_ns}
        open_trades = read_trades(reader, Wanted(open_only=True)).trades
        self._quantities = {_key(trade): trade.quantity for trade in open_trades if trade.opened_ns < before_ns}
        self._growing: dict[tuple[int, str], tuple[object, float]] = {}  # quantity, and the time of its last change
        self._basket = _newest_basket(reader, before_ns)
        rows = reader.query(f"SELECT kind FROM events ORDER BY id DESC LIMIT {DUE_ROWS}")
        self.daily = any(row["kind"] == DAILY for row in rows)

    def read(self, reader: JournalReader, *, moved: bool) -> Iterator[TradeMessage]:
        """Yield the messages due now. Without `moved` no event came that may have closed a trade."""
        if moved:
            yield from self._baskets(reader)
        if not moved and not self._growing:
            return
        newest = reader.last_entry()
        self._newest_ns = self._newest_ns if newest is None else newest.time_ns
        since_ns = max(self._newest_ns - BACK_NS, 0)
        if self._entries and not self.daily:
            yield from self._openings(reader)
        trades = read_trades(reader, Wanted(start_ns=since_ns)).trades
        for trade in sorted((one for one in trades if one.left_ns is not None), key=lambda one: one.left_ns or 0):
            if _key(trade) in self._left_times:
                continue
            self._left_times[_key(trade)] = trade.left_ns
            self._growing.pop(_key(trade), None)
            if not self.daily or trade.why_left != "policy":
                yield _close_message(trade)
        self._left_times = {key: left_ns for key, left_ns in self._left_times.items() if (left_ns or 0) >= since_ns}

    def _openings(self, reader: JournalReader) -> Iterator[TradeMessage]:
        """Yield the entries to which no fill was added for a while."""
        now_s, open_trades = self._now_s(), read_trades(reader, Wanted(open_only=True)).trades
        keys = {_key(trade) for trade in open_trades}
        self._growing = {key: value for key, value in self._growing.items() if key in keys}
        for trade in open_trades:
            key = _key(trade)
            if self._quantities.get(key) == trade.quantity:
                continue
            quantity, since_s = self._growing.get(key, (None, now_s))
            if quantity != trade.quantity:
                self._growing[key] = trade.quantity, now_s
            elif now_s - since_s >= self._merge_s:
                del self._growing[key]
                quantity_before = self._quantities.get(key)
                self._quantities[key] = trade.quantity
                yield _open_message(trade, grown=quantity_before is not None)

    def _baskets(self, reader: JournalReader) -> Iterator[TradeMessage]:
        if not self.daily or not reader.query("SELECT 1 FROM sqlite_schema WHERE name = 'baskets'"):
            return
        query = "SELECT decision, time_ns FROM baskets WHERE decision > ? ORDER BY decision"
        for basket in reader.query(query, (self._basket,)):
            self._basket = basket["decision"]
            orders = reader.query(_ORDERS, (f"{self._basket}.*",))
            if orders:
                yield _basket(basket["time_ns"], orders, _cash(reader, basket["time_ns"]))


_ORDERS = (
    "SELECT side, cost, filled + 0 = 0 AS unfilled FROM orders WHERE work GLOB ? AND reason = 'policy' "
    "ORDER BY client_order_id"
)
_CASH = "SELECT time_ns, cash_usd FROM equity WHERE time_ns <= ? ORDER BY time_ns DESC LIMIT 1"
_MOVED = "SELECT entered_usd, left_usd, fees_usd FROM moves WHERE time_ns > ? AND time_ns <= ?"


def _cash(reader: JournalReader, time_ns: int) -> Decimal | None:
    """Return the cash at a time: the newest record's, and the trades since. None without a record."""
    records = reader.query(_CASH, (time_ns,))
    if not records:
        return None
    moves = reader.query(_MOVED, (records[0]["time_ns"], time_ns))
    traded = (Decimal(move["left_usd"]) - Decimal(move["entered_usd"]) - Decimal(move["fees_usd"]) for move in moves)
    return Decimal(records[0]["cash_usd"]) + sum(traded)


def _newest_basket(reader: JournalReader, before_ns: int) -> int:
    if not reader.query("SELECT 1 FROM sqlite_schema WHERE name = 'baskets'"):
        return 0
    rows = reader.query("SELECT max(decision) AS newest FROM baskets WHERE time_ns < ?", (before_ns,))
    return rows[0]["newest"] or 0


def _basket(time_ns: int, orders: Sequence[sqlite3.Row], cash: Decimal | None) -> TradeMessage:
    cost_bought, cost_sold = (
        sum(Decimal(order["cost"]) for order in orders if order["side"] == side) for side in (1, -1)
    )
    unfilled_count = sum(order["unfilled"] for order in orders)
    body = f"bought for {cost_bought:,.2f} USD, sold for {cost_sold:,.2f} USD"
    body += f", {unfilled_count} without a fill" if unfilled_count else ""
    body += "" if cash is None else f"\nCash after it {cash:,.2f} USD."
    return TradeMessage("basket", f"basket of {plural(len(orders), 'order')}", f"{body}\n{_at(time_ns)}")


def _close_message(trade: Trade) -> TradeMessage:
    result = "result not known" if trade.pnl_usd is None else f"{trade.pnl_usd:+,.2f} USD"
    if trade.pnl_usd is not None and trade.pnl_pct is not None:
        result += f" ({trade.pnl_pct:+.2f} %)"
    reason = REASONS.get(trade.why_left, "") or left_by(trade)
    body = f"{trade.quantity:,} held for {duration_words(trade.held_s)}, {reason}"
    return TradeMessage("trade", printable(f"{_name(trade)}: {result}", 200), f"{body}\n{_at(trade.left_ns or 0)}")


def _open_message(trade: Trade, *, grown: bool) -> TradeMessage:
    verb = "sold short" if trade.side == "short" else "bought"
    price = "" if trade.entry_price is None else f" at {trade.entry_price:,.2f}"
    more = ", more than before" if grown else ""
    title = f"{verb} {trade.quantity:,} {_name(trade)}{price}"
    body = f"{trade.entered_usd:,.2f} USD{more}\n{_at(trade.opened_ns)}"
    return TradeMessage("entry", printable(title, 200), body)


def _name(trade: Trade) -> str:
    """Return "SPY call 585 of 1 Nov" for a contract, a share's symbol unchanged."""
    terms = parse_occ(trade.contract) if trade.contract else None
    if terms is None:
        return trade.symbol
    expiry = date.fromisoformat(terms.expiry)
    word = "call" if terms.right > 0 else "put"
    return f"{terms.root} {word} {terms.strike.normalize():f} of {expiry.day} {expiry:%b}"


def _key(trade: Trade) -> tuple[int, str]:
    return trade.opened_ns, trade.contract or trade.symbol


def _at(time_ns: int) -> str:
    return f"{new_york_text(time_ns)} New York"
