"""Alpaca's account as `rltrader-guard` uses it: a look in five requests, stops, cancels, and the fence.

The fence is `suspend_trade` of the account's configuration: the broker takes no new order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.assemble import AlpacaAdmin, accesses, broker_clock
from daemon.brokers.alpaca.rest.client import guard_queues, market_queue
from daemon.brokers.alpaca.rest.market_data import MarketData
from daemon.brokers.alpaca.trading.trading import TradingOrders, TradingReads, pays_cash
from daemon.brokers.api import AccountLook, BrokerError
from daemon.config.load import Credentials, DeskSettings
from daemon.core.effects import SubmitOrder
from daemon.core.events import BrokerOrder
from daemon.core.orders import FENCE
from daemon.host.time.clock import Clock
from strategies.kit.units import HOUR_NS, SECOND_NS

NAMES_MAX = 20  # orders looked up by name in one look


class AlpacaGuarded:
    """The account; `admin` has the two requests of a panic."""

    def __init__(self, settings: DeskSettings, keys: Credentials, clock: Clock) -> None:
        sending, reading, data = accesses(settings, keys)
        self._clock, self._queues = clock, (*guard_queues(clock), market_queue(clock))
        self._orders, self._reads = TradingOrders(sending, self._queues[0]), TradingReads(reading, self._queues[1])
        market = MarketData(data, self._queues[2])
        self.admin = AlpacaAdmin(self._reads, lambda: market, lambda: self._orders, settings)
        self._changes_read: tuple[str, str, int] | None = None  # first and last day, and hour, of the last whole read
        self._changed: frozenset[str] = frozenset()  # symbols with corporate actions on these days
        self._ended_orders: dict[str, BrokerOrder] = {}  # by name: these change no more
        self._since_ns = 0  # of the last look
        self._open_names: frozenset[str] = frozenset()  # of orders that worked at the last look
        self._worked_names: frozenset[str] = frozenset()  # of those that worked at a look since then, or just before

    async def look(self, since_ns: int, names: Collection[str], days: Sequence[str] | None) -> AccountLook:
        """Read clock, orders, positions and account. Raises RestError and Malformed, both a BrokerError."""
        asked_ns = self._clock.now_ns()
        clock = broker_clock(await self._reads.clock())
        between_ns = (asked_ns + self._clock.now_ns()) // 2
        open_orders = list(map(wire.order, await self._reads.open_orders()))
        later_orders = map(wire.order, await self._reads.orders_since(since_ns))
        orders = {order.order_id: order for order in (*open_orders, *later_orders)}
        self._note_open(since_ns, frozenset(order.client_order_id for order in open_orders))
        read_names = {order.client_order_id for order in orders.values()}
        for order in await self._orders_of_names({*names, *self._worked_names} - read_names):
            orders[order.order_id] = order
        positions = wire.positions(await self._reads.positions())
        account = await self._reads.account()
        return AccountLook(
            number=wire.required_text(account, "account_number"),
            broker_ns=clock.now_ns,
            ahead_s=(clock.now_ns - between_ns) / SECOND_NS,
            market_open=clock.is_open,
            fenced=account.get(FENCE) is True,
            positions=positions,
            orders=tuple(orders.values()),
            changed=await self._changes(days),
            next_open_ns=clock.next_open_ns,
        )

    def _note_open(self, since_ns: int, open_names: frozenset[str]) -> None:
        """Remember which orders work, also those of others that were sent long before: they may fill in a silence."""
        if since_ns != self._since_ns:  # a new heartbeat includes what ended earlier
            self._since_ns, self._worked_names = since_ns, self._open_names
        self._open_names, self._worked_names = open_names, self._worked_names | open_names

    async def _orders_of_names(self, names: set[str]) -> list[BrokerOrder]:
        """Return the orders of these names; an ended one is requested once."""
        for name in sorted(names - self._ended_orders.keys())[:NAMES_MAX]:
            if (row := await self._reads.order_by_client_id(name)) is not None:
                self._ended_orders[name] = wire.order(row)
        orders = [self._ended_orders[name] for name in names & self._ended_orders.keys()]
        self._ended_orders = {order.client_order_id: order for order in orders if order.status in wire.ENDED}
        return orders

    async def _changes(self, days: Sequence[str] | None) -> frozenset[str] | None:
        """Return the symbols with corporate actions; None where they cannot be read, which does not void the look.

        All days are read once an hour, as an action may be announced late, and the newest one at each look.
        """
        if not days:
            return None if days is None else frozenset()
        first, last = min(days), max(days)
        now = (first, last, self._clock.now_ns() // HOUR_NS)
        is_whole = now != self._changes_read
        try:
            rows = await self._reads.corporate_actions(first if is_whole else last, last, dividends=is_whole)
        except BrokerError:
            return None
        rows = [row for row in rows if not pays_cash(row)]
        names = (wire.text(row.get(key)) for row in rows for key in ("initiating_symbol", "target_symbol"))
        self._changed = frozenset(names) | (frozenset() if is_whole else self._changed)
        self._changes_read = now
        return self._changed

    async def rest(self, stop: SubmitOrder) -> None:
        """POST /v2/orders. Raises Refused for a definite refusal."""
        await self._orders.submit(stop)

    async def cancel(self, order_id: str) -> None:
        """DELETE /v2/orders/{id}."""
        await self._orders.cancel(order_id)

    async def fence(self, *, on: bool) -> None:
        """PATCH /v2/account/configurations."""
        await self._orders.suspend(on=on)

    async def close(self) -> None:
        """End the threads of the request queues."""
        for queue in self._queues:
            await queue.close()


guarded = AlpacaGuarded
