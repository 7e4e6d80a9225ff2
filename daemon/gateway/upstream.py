"""The gateway's connections to the broker: the account's only ones, its request budget, reports, and look-ups.

It uses the queues, streams and wire formats of `daemon/brokers/alpaca`. It decides nothing: what it reads becomes
events, and what it sends is journaled before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from functools import partial
from typing import Any, Literal, TypeVar

from daemon.alpaca_api.wire import Json, text
from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.assemble import accesses, broker_clock, endpoint, trade_stream
from daemon.brokers.alpaca.market.socket import MarketSocket, State
from daemon.brokers.alpaca.rest.client import (
    READING,
    SETTING,
    TRADING,
    CallPriority,
    QueuedClient,
    RequestQueue,
    an_object,
)
from daemon.brokers.alpaca.rest.market_data import MarketData
from daemon.brokers.alpaca.trading.report import amends, ledger_fill
from daemon.brokers.alpaca.trading.trade_stream import TradeStream
from daemon.brokers.alpaca.trading.trading import AnnouncementCache, TradingOrders, TradingReads
from daemon.brokers.api import BrokerClock, BrokerError, EventLogger
from daemon.config.load import Credentials, DeskSettings
from daemon.core.broker.ledger import AMENDED, DIVIDENDS, REORGANISED, SPLITS, SPUN_OFF
from daemon.core.instruments.option_market import parse_occ
from daemon.core.session import new_york_date, new_york_minute
from daemon.gateway.books import LINES_DAYS, Ledgers
from daemon.gateway.events import Reported
from daemon.gateway.parts import line_of
from daemon.host.time.clock import Clock
from daemon.pacing import TokenBucket
from strategies.kit.units import DAY_NS, MINUTE_NS

T = TypeVar("T")
ACCOUNT_KEYS = (
    "account_number", "status", "cash", "buying_power", "non_marginable_buying_power", "options_buying_power", "equity",
    "multiplier", "maintenance_margin", "trading_blocked", "account_blocked", "trade_suspended_by_user",
    "options_approved_level", "options_trading_level",
)  # fmt: skip
"""Fields of the account object that a report keeps."""
POSITION_KEYS = ("symbol", "asset_class", "qty", "side", "avg_entry_price", "current_price", "qty_available")
SENT_KEYS = (
    "symbol", "qty", "notional", "side", "type", "time_in_force", "limit_price", "stop_price", "trail_price",
    "trail_percent", "extended_hours", "client_order_id", "position_intent",
)  # fmt: skip
"""Fields of a client's order that are passed on; `ticket` refuses others that would change its meaning."""
CHANGED_KEYS = ("qty", "time_in_force", "limit_price", "stop_price", "trail", "client_order_id")
RESHAPING = SPLITS | REORGANISED
"""Kinds of lines that replace shares by others, at an announced ratio."""
MISSING_ANSWERS = 3
SCARCE = 30  # calls kept for sub-accounts that have not used their share
TOLD_LATE_NS = (LINES_DAYS - 5) * DAY_NS
STILL_READS = 6  # readings of an account at its opening: two equal ones show one moment
MANY_ROWS = 500  # orders and lines of one report: after more, the next report reads only what is new
EVENING_MIN = 16 * 60 + 5  # of New York's day, after which no exit waits for a long report
LATE_NS = 10 * MINUTE_NS  # by which a list may lag behind the stream, and clocks may differ


def gateway_queues(clock: Clock, bucket: TokenBucket) -> tuple[RequestQueue, RequestQueue, RequestQueue]:
    """Return the queues for orders, for reads, and for requests passed through: at most 200 calls a minute together.

    Orders have `bucket`: 100 a minute and 120 at once, of which 60 are for exits and cancels only.
    """
    orders = RequestQueue("orders", bucket, clock, reserve=60)
    reads = RequestQueue("reads", TokenBucket(clock.now_ns, 40, 20), clock, least_each=3)
    through = RequestQueue("through", TokenBucket(clock.now_ns, 30, 10), clock, floor=20)
    return orders, reads, through


class Upstream:
    """The account at the broker. Methods raise RestError (`Refused` for a definite refusal) and Malformed."""

    def __init__(self, settings: DeskSettings, keys: Credentials, clock: Clock, log: EventLogger) -> None:
        self._settings, self._keys, self._clock, self._log = settings, keys, clock, log
        sending, reading, data = accesses(settings, keys)
        self._bucket = TokenBucket(clock.now_ns, 100, 120)
        self._queues = gateway_queues(clock, self._bucket)
        orders, reads, through = self._queues
        self._market_queue = RequestQueue("market", TokenBucket(clock.now_ns, 150, 50), clock)
        self._sender, self._changer = QueuedClient(sending, orders, TRADING), QueuedClient(sending, orders, SETTING)
        self.reads = TradingReads(reading, reads)
        self._orders = TradingOrders(sending, orders)
        self._through = QueuedClient(reading, through, READING)
        self._data = {
            version: QueuedClient(data, self._market_queue, READING, version) for version in ("v2", "v1beta1")
        }
        self.market = MarketData(data, self._market_queue)
        self._announcements = AnnouncementCache()
        self._unreadable: set[str] = set()  # ids of unreadable ledger lines already logged
        self._read_whole_on: date | None = None  # the evening of New York on which a report read them all
        self._row_count = 0  # orders and lines since yesterday, in the last report that read them all

    @property
    def budgets(self) -> dict[str, float]:
        """Calls that may leave at once now, by queue."""
        return {queue.name: queue.left for queue in (*self._queues, self._market_queue)}

    # --- orders -------------------------------------------------------------------------------------------------------

    def calls_are_scarce(self) -> bool:
        """Return whether the calls left for orders are half of the exits' reserve, or less."""
        return self._bucket.wait_ns(SCARCE) > 0

    async def post(self, body: Json, urgency: CallPriority, wait_s: float) -> Json:
        """POST /v2/orders, once."""
        order = {key: _wire_value(body[key]) for key in SENT_KEYS if body.get(key) is not None}
        answer = await self._sender.ask(partial(self._sender.client.post, "/orders", order), urgency, wait_s=wait_s)
        return an_object(answer, "order")

    async def replace(self, order_id: str, changes: Json, urgency: CallPriority, wait_s: float) -> Json:
        """PATCH /v2/orders/{id}, once."""
        change = {key: _wire_value(changes[key]) for key in CHANGED_KEYS if changes.get(key) is not None}
        patch = partial(self._changer.client.patch, f"/orders/{order_id}", change)
        return an_object(await self._changer.ask(patch, urgency, wait_s=wait_s), "order")

    async def close_position(self, symbol: str, quantity: Decimal, wait_s: float) -> Json:
        """DELETE /v2/positions/{symbol}?qty=, once."""
        delete = partial(self._sender.client.delete, f"/positions/{symbol}", {"qty": _wire_value(quantity)})
        return an_object(await self._sender.ask(delete, CallPriority.EXIT, wait_s=wait_s), "order")

    async def cancel(self, order_id: str, wait_s: float) -> None:
        """DELETE /v2/orders/{id}: only a request. Raises ValueError without an id, which would cancel all orders."""
        if not order_id:
            raise ValueError("order_id is empty: expected the broker's id of one order")
        delete = partial(self._sender.client.delete, f"/orders/{order_id}")
        await self._sender.ask(delete, CallPriority.EXIT, wait_s=wait_s)

    async def instruct(self, symbol: str, action: Literal["exercise", "do-not-exercise"]) -> None:
        """POST /v2/positions/{symbol}/{action}, for the account's whole position."""
        await self._sender.ask(partial(self._sender.client.post, f"/positions/{symbol}/{action}"), CallPriority.ENTRY)

    async def lift_fence(self) -> None:
        """PATCH /v2/account/configurations, so that the account takes orders again."""
        await self._orders.suspend(on=False)

    # --- what is passed through ---------------------------------------------------------------------------------------

    async def get(self, path: str, query: Mapping[str, str]) -> object:
        """GET a path below /v2 of the trading service; return its answer unchanged."""
        return await self._through.get(path, dict(query))

    async def get_data(self, version: str, path: str, query: Mapping[str, str]) -> object:
        """GET a path of the market-data service, below /v2 or /v1beta1; return its answer unchanged."""
        return await self._data[version].get(path, dict(query), many=True)

    # --- reports ------------------------------------------------------------------------------------------------------

    async def clock(self) -> BrokerClock:
        """Return the broker's time and market state. Raises BrokerError."""
        return broker_clock(await self.reads.clock())

    async def account(self) -> tuple[Json, list[Json], list[Json], list[Json]]:
        """Return account, positions, orders (open, and since yesterday), and the ledger's lines since yesterday.

        All are of one moment: they are read until two readings are equal. Raises BrokerError.
        """
        former: object = None
        for _ in range(STILL_READS):
            since_ns = wire.day_start_ns(self._clock.now_ns()) - DAY_NS
            rows = await self.reads.open_orders()
            rows += await self.reads.orders_since(since_ns)
            orders = list(_by_id(rows).values())
            positions = await self.reads.positions()
            account = await self.reads.account()
            lines = await self._lines(since_ns, since_ns)
            quantities = sorted((str(row.get("symbol")), str(row.get("qty"))) for row in positions)
            now = (account.get("cash"), quantities, orders, [line.get("id") for line in lines])
            if now == former:
                return *_cut(account, positions), orders, lines
            former = now
        raise BrokerError("the account does not hold still for a first reading: try again when nothing trades in it")

    async def report(self, books: Ledgers) -> Reported:
        """Read the account; of orders and lines only those that are new to the books.

        After a report of many rows the next ones read what is newer than the last one, and the orders at work. All
        since yesterday is read at the start, while a difference lasts, and once a day after the close: an amended fill
        may be of an earlier time.
        """
        asked_ns = self._clock.now_ns()
        since_ns = wire.day_start_ns(min(asked_ns, books.reported_ns or asked_ns)) - DAY_NS
        evening = new_york_date(asked_ns) if new_york_minute(asked_ns) >= EVENING_MIN else self._read_whole_on
        is_short = self._row_count > MANY_ROWS and not books.differences and evening == self._read_whole_on
        news_ns = max(since_ns, books.reported_ns - LATE_NS) if is_short else since_ns
        rows = await self.reads.open_orders()
        rows += await self.reads.orders_since(news_ns)
        positions = await self.reads.positions()
        account = await self.reads.account()
        read_lines = await self._lines(news_ns, min(since_ns, self._differs_since_ns(books, asked_ns)))
        if not is_short:
            self._row_count, self._read_whole_on = len(rows) + len(read_lines), evening
        lines = [row for row in read_lines if self._is_readable(row) and _is_news(books, row)]
        orders = _by_id(rows)
        other_rows, missing_ids = await self._left_out(books, orders, lines)
        for row in other_rows:
            orders[str(row["id"])] = row
        news = [row for key, row in orders.items() if (it := books.order_by_id(key)) is None or it.row != row]
        for row in news:
            readable_order(row)
        for row in positions:
            wire.position(row)
            wire.optional_decimal(row, "current_price")
        wire.decimal(account.get("cash"), "cash")
        return Reported(
            self._clock.now_ns(),
            asked_ns,
            *_cut(account, positions),
            news,
            lines,
            {str(line["id"]): await self._ex_date(line) for line in lines if line.get("activity_type") in DIVIDENDS},
            missing_ids,
            {str(line["id"]): await self._ratio(line) for line in lines if line.get("activity_type") in RESHAPING},
            await self._has_closed(books, positions),
            {str(line["id"]): await self._spun(line) for line in lines if line.get("activity_type") in SPUN_OFF},
        )

    def _differs_since_ns(self, books: Ledgers, asked_ns: int) -> int:
        """Return the earliest date (ns) of a late line that may explain a difference: the day before that began.

        It reaches back no further than the books know which lines are booked.
        """
        first_ns = min((since_ns for since_ns, _ in books.differences.values()), default=asked_ns)
        return wire.day_start_ns(max(first_ns, asked_ns - TOLD_LATE_NS)) - DAY_NS

    async def _lines(self, since_ns: int, others_since_ns: int) -> list[Json]:
        """Read the ledger's lines after `since_ns`, those other than fills after an earlier time.

        Pending lines are left out: they have moved nothing yet, and may change.
        """
        rows = await self.reads.activities(since_ns)
        if others_since_ns < since_ns:
            known = {(row.get("id"), row.get("status")) for row in rows}
            early_rows = await self.reads.other_activities(others_since_ns)
            rows = [*(row for row in early_rows if (row.get("id"), row.get("status")) not in known), *rows]
        return [row for row in rows if row.get("status") != "pending"]

    async def _has_closed(self, books: Ledgers, positions: Sequence[Json]) -> bool:
        """Return whether today's session is over; the broker is asked if it no longer has a contract of today."""
        today, held_symbols = new_york_date(self._clock.now_ns()), {row["symbol"] for row in positions}
        missing = {symbol for account in books.accounts.values() for symbol in account.holdings} - held_symbols
        if not any((it := parse_occ(symbol)) and it.expiry == today.isoformat() for symbol in missing):
            return False
        try:
            clock = await self.clock()
        except BrokerError:
            return False
        return clock.is_open is False and new_york_date(clock.next_close_ns) > today

    async def _left_out(
        self, books: Ledgers, orders: Mapping[str, Json], lines: Sequence[Json]
    ) -> tuple[list[Json], list[str]]:
        """Read orders that no list contains: those working by the books that ended, and those named by a fill or bust.

        Returns their rows, and the ids that the broker does not know.
        """
        ids = {order.id for order in books.open_orders() if order.id}
        ids |= {
            str(line["order_id"])
            for line in lines
            if line.get("order_id") and (line["order_id"] not in books.names or amends(line))
        }
        rows, missing_ids = [], []
        for order_id in sorted(ids - orders.keys()):
            if (row := await self.reads.order_by_id(order_id)) is None:
                missing_ids.append(order_id)
            else:
                rows.append(row)
        return rows, missing_ids

    def _is_readable(self, row: Json) -> bool:
        """Return whether a ledger line can be booked; others are logged, and the sums will differ."""
        try:
            if row.get("activity_type") == "FILL":
                ledger_fill(row)
            else:
                line_of(row)
        except wire.Malformed as odd:
            if (line := str(row.get("id"))) not in self._unreadable:
                self._unreadable.add(line)
                self._log("ledger_line_unreadable", line=line, problem=str(odd))
            return False
        return True

    async def _ex_date(self, line: Json) -> str:
        """Return the announced ex-date of a dividend's line, "" where none or several are known."""

        def log_missing(symbol: str, problem: str) -> None:
            self._log("ex_date_unknown", symbol=symbol, problem=problem)

        return await self._announcement(self.reads.ex_date, line, log_missing) or ""

    async def _ratio(self, line: Json) -> str:
        """Return the announced "new/old" of a line of a split or merger, "" where none or several are known."""
        return await self._announcement(self.reads.ratio, line, self._log_missing_ratio) or ""

    async def _spun(self, line: Json) -> list[tuple[str, str, str]]:
        """Return the announced spin-offs that may have brought a line's shares."""
        return await self._announcement(self.reads.spin_offs, line, self._log_missing_ratio) or []

    def _log_missing_ratio(self, symbol: str, problem: str) -> None:
        self._log("ratio_unknown", symbol=symbol, problem=problem)

    async def _announcement(
        self, read: Callable[[str, date], Awaitable[T]], line: Json, on_missing: Callable[[str, str], None]
    ) -> T | None:
        """Return what is announced for a line's symbol at its date; None where that fails."""
        symbol, day = str(line.get("symbol") or ""), str(line.get("date") or "")[:10]
        if not symbol or not day:
            return None
        return await self._announcements.of(read, symbol, date.fromisoformat(day), on_missing)

    # --- the streams --------------------------------------------------------------------------------------------------

    def trade_stream(
        self,
        on_update: Callable[[object], None],
        on_state: Callable[[bool, str], None],
        on_taken: Callable[[str], None],
    ) -> TradeStream:
        """Return the account's stream of trade updates."""
        return trade_stream(
            self._settings, self._keys, self._log, on_update=on_update, on_state=on_state, on_taken=on_taken
        )

    def market_url(self, path: str) -> str | None:
        """Return the broker's address of a market-data stream such as /v2/iex; None for one that is not configured."""
        alpaca, feed = self._settings.alpaca, path.rpartition("/")[2]
        url = alpaca.option_stream_url if path.startswith("/v1beta1/") else alpaca.stream_url
        url = url.replace("{feed}", feed).replace("{options}", feed).rstrip("/")
        return url if url.endswith(path) else None

    def market_socket(
        self,
        url: str,
        on_message: Callable[[Json], None],
        on_state: Callable[[State], None],
        on_news: Callable[[], None],
        on_error: Callable[[int], None],
    ) -> MarketSocket:
        """Return the connection to a stream of market data."""
        where = endpoint(self._settings, self._keys, url)
        return MarketSocket(
            where, on_message=on_message, on_state=on_state, on_news=on_news, on_error=on_error, log=self._log
        )

    async def close(self) -> None:
        """End the threads of the request queues."""
        for queue in (*self._queues, self._market_queue):
            await queue.close()


def _cut(account: Json, positions: Sequence[Json]) -> tuple[Json, list[Json]]:
    """Return account and positions with the fields that a report keeps."""
    figures = {key: account[key] for key in ACCOUNT_KEYS if key in account}
    return figures, [{key: row[key] for key in POSITION_KEYS if key in row} for row in positions]


def _by_id(rows: Sequence[Json]) -> dict[str, Json]:
    """Return the last row of each order by its id. Raises Malformed for one without an id."""
    return {wire.required_text(row, "id"): row for row in rows}


def readable_order(row: Json) -> None:
    """Raise Malformed for an order's row that the books could not take."""
    wire.order(row)
    wire.optional_decimal(row, "notional")
    if not isinstance(row.get("status"), str | None):
        raise wire.Malformed(f"status is {wire.value_text(row['status'])}: expected text")
    for key in ("created_at", "updated_at"):
        wire.first_moment_ns(row, key)


def readable_fill(update: Json) -> None:
    """Raise Malformed for an update of a fill that the books could not take."""
    wire.quantity(update["order"].get("filled_qty"), "filled_qty")
    if wire.quantity(update.get("qty"), "qty") <= 0:
        raise wire.Malformed(f"qty is {wire.value_text(update['qty'])}: expected more than 0")
    wire.decimal(update.get("price"), "price")
    wire.moment_ns(update.get("timestamp"))


def _wire_value(value: Any) -> Any:
    """Return a value of a request as it is sent: a number as its exact text, without exponent and trailing zeros."""
    if isinstance(value, Decimal | float):
        return text(Decimal(str(value)))
    return value


def _is_news(books: Ledgers, row: Json) -> bool:
    """Return whether the books have not booked this line of the ledger."""
    line, status = str(row.get("id")), str(row.get("status") or "")
    if row.get("activity_type") == "FILL" and not amends(row):
        order = books.order_by_id(str(row.get("order_id")))
        if order is None:
            return True
        return not books.booked(order, wire.decimal(row.get("cum_qty"), "cum_qty"), row)
    if status in AMENDED and row.get("activity_type") != "FILL":
        return f"{line} {status}" not in books.lines
    return line not in books.lines
