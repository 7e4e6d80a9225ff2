"""A broker inside of the process, as small as the interface allows: a made-up market, an account, no network.

Nothing here is Alpaca's: orders fill whole at the present quote or rest, news is put at once and is never lost. It
serves desks that decide at each bar of a minute. `BOOK` beside the journal is the account as it was at the end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal

from msgspec.structs import replace

import daemon.core.events as ev
from daemon.brokers import api
from daemon.config.load import Credentials, DeskSettings
from daemon.core.effects import AnyEffect, AskBroker, CancelOrder, LookUpOrder, SubmitOrder
from daemon.core.instruments.option_market import occ_symbol, option_terms
from daemon.host.time.clock import Clock
from strategies.kit.contract import Bar, Session
from strategies.kit.units import MINUTE_NS, SECOND_NS

BOOK = "toy_book.json"
STRIKES = range(480, 521)
SHARES = 100  # of a contract
SESSIONS_BEFORE = 2  # put before the first one: more bars than the strategy wants
CASH = Decimal(100_000)
NUMBER, WORKING = "TOY-1", "new"


def spot(at_ns: int) -> float:
    """The price of the share: a wave of six dollars and one of forty cents."""
    minutes = at_ns / MINUTE_NS
    return round(500 + 3 * math.sin(minutes / 95) + 0.2 * math.sin(minutes / 3), 2)


def bar(symbol: str, start_ns: int) -> Bar:
    """The minute that begins there."""
    first, last = spot(start_ns), spot(start_ns + MINUTE_NS)
    return Bar(symbol, start_ns, first, max(first, last) + 0.02, min(first, last) - 0.02, last, 10_000.0)


def quote(symbol: str, at_ns: int) -> ev.Quote:
    """Two cents wide around the value: what exercise would bring, and some time."""
    strike, right, _expiry = option_terms(symbol)
    money = right * (spot(at_ns) - strike)
    mid = Decimal(f"{max(money, 0.0) + 2 * math.exp(-abs(money) / 5):.2f}")
    return ev.Quote(symbol, mid - Decimal("0.01"), mid + Decimal("0.01"), mid, mid, at_ns)


class ToyFeed:
    """`MarketFeed`: bars of one symbol by the clock, and quotes of all listed contracts with each."""

    close_grace_s = 10

    def __init__(self, clock: Clock, desk: api.FeedDesk, put: api.Put) -> None:
        self._clock, self._calendar, self._put = clock, desk.calendar, put
        self._symbol = desk.strategy.spec.symbols[0]
        self._scheduled: ev.SessionScheduled | None = None
        self._last_ns = 0  # start of the newest bar that was put
        self._listed: tuple[str, ...] = ()
        self._attended: frozenset[str] = frozenset()

    async def catch_up(self, known: api.Known, *, exposed: bool = False) -> Session:
        now_ns, self._last_ns = self._clock.now_ns(), known.last_bar_ns
        session = self._calendar.at(now_ns) or self._calendar.next_after(now_ns)
        for one in (*reversed(api.sessions_before(known, self._calendar, now_ns)[:SESSIONS_BEFORE]), session):
            self._announce(one)
            self._put_bars(one, now_ns, past=True)
            if one is not session:
                self._put(ev.SessionEnded(self._clock.now_ns(), one.date))
        return session

    async def run(self) -> None:
        while True:
            now_ns = self._clock.now_ns()
            if self._scheduled is not None:
                self._put_bars(self._scheduled.session, now_ns, past=False)
            if self._attended and self._calendar.at(now_ns) is not None:
                self._put(ev.QuotesReceived(now_ns, 0, tuple(quote(s, now_ns) for s in sorted(self._attended))))
            await self._clock.sleep_until(now_ns + SECOND_NS)

    async def schedule(self, session: Session) -> None:
        scheduled = self._announce(session)
        if not self._listed:
            expiry = scheduled.upcoming[0].date
            rows = tuple(
                ev.Contract(occ_symbol(self._symbol, expiry, right, strike), expiry, right, strike, 900)
                for strike in map(Decimal, STRIKES)
                for right in (1, -1)
            )
            self._listed = tuple(row.symbol for row in rows)
            self._put(ev.ContractsListed(self._clock.now_ns(), session.date, rows, 0.15))

    async def decide(self, session: Session) -> None:
        raise AssertionError("this feed serves desks that decide at each bar")

    async def end(self, session: Session) -> None:
        self._put_bars(session, self._clock.now_ns(), past=False)
        self._put(ev.SessionEnded(self._clock.now_ns(), session.date))

    def watch(self, symbols: tuple[str, ...]) -> None:
        """Nothing: every listed contract is quoted with each bar."""

    def attend(self, symbols: frozenset[str]) -> None:
        self._attended = symbols

    def _announce(self, session: Session) -> ev.SessionScheduled:
        if self._scheduled is None or self._scheduled.session != session:
            self._listed = ()
            self._scheduled = ev.SessionScheduled(self._clock.now_ns(), *self._calendar.around(session.date))
            self._put(self._scheduled)
        return self._scheduled

    def _put_bars(self, session: Session, now_ns: int, *, past: bool) -> None:
        """Put the session's bars that are complete and were not put; what quotes were in the past is not known."""
        for start_ns in range(session.open_ns, min(now_ns, session.close_ns) - MINUTE_NS + 1, MINUTE_NS):
            if start_ns > self._last_ns:
                self._last_ns = start_ns
                self._put(ev.BarClosed(self._clock.now_ns(), bar(self._symbol, start_ns)))
                quotes = () if past else tuple(quote(symbol, now_ns) for symbol in self._listed)
                self._put(ev.QuotesReceived(self._clock.now_ns(), start_ns, quotes))


class ToyAccount:
    """Cash in USD, contracts, and orders by name; `Admin` of itself."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.cash = CASH
        self.held: dict[str, int] = {}
        self.orders: dict[str, ev.BrokerOrder] = {}

    def trade(self, symbol: str, change: int, price: Decimal) -> None:
        """Book a trade of so many contracts, negative for a sale."""
        self.cash -= change * price * SHARES
        self.held[symbol] = self.held.get(symbol, 0) + change
        self.held = {symbol: quantity for symbol, quantity in self.held.items() if quantity}

    async def account(self) -> api.AccountSummary:
        return api.AccountSummary(NUMBER, "", str(self.cash), str(self.cash), 2)

    async def short_sales(self) -> api.ShortSales:
        return api.ShortSales(True, "always", "")

    async def ledger_stream(self, since_ns: int, until_ns: int) -> None:
        return None

    async def clock(self) -> api.BrokerClock:
        return api.BrokerClock(self._clock.now_ns(), None, 0)

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, Decimal]:
        return {symbol: Decimal(str(spot(self._clock.now_ns()))) for symbol in symbols}

    async def feeds(self, symbol: str, *, options: bool) -> tuple[str, str]:
        return "sip", "opra"

    async def bars(self, symbol: str, start_ns: int, end_ns: int) -> int:
        return (end_ns - start_ns) // MINUTE_NS

    async def day_bars(self, symbols: Sequence[str], start_ns: int, end_ns: int) -> Mapping[str, int]:
        return {}

    async def contracts(
        self, symbol: str, dates: tuple[str, str], strikes: tuple[Decimal, Decimal]
    ) -> Mapping[str, Decimal]:
        near = [strike for strike in STRIKES if strikes[0] <= strike <= strikes[1]]
        return {occ_symbol(symbol, dates[1], 1, Decimal(strike)): Decimal(0) for strike in near}

    async def actions(self, symbols: Collection[str], first_date: str, last_date: str) -> tuple[ev.Announcement, ...]:
        return ()

    async def cancel_all(self) -> api.BulkResult:
        working = {name: order for name, order in self.orders.items() if order.status == WORKING}
        self.orders |= {name: replace(order, status="canceled") for name, order in working.items()}
        return api.BulkResult(len(working), ())

    async def close_all(self) -> api.BulkResult:
        for symbol, quantity in (closed := tuple(self.held.items())):
            self.trade(symbol, -quantity, quote(symbol, self._clock.now_ns()).bid)
        return api.BulkResult(len(closed), ())

    async def left(self) -> tuple[str, ...]:
        working = [f"order {order.order_id}" for order in self.orders.values() if order.status == WORKING]
        return (*working, *(f"position {quantity} {symbol}" for symbol, quantity in self.held.items()))


class ToyTrading:
    """`OrderGateway`: the account is in the process, so every request is settled at once."""

    def __init__(self, clock: Clock, account: ToyAccount, desk: api.TradingDesk) -> None:
        self._clock, self._account, self._desk = clock, account, desk
        self._asked = True

    async def release(self, effects: Sequence[AnyEffect]) -> None:
        for effect in effects:
            if isinstance(effect, SubmitOrder) and self._desk.panicked():
                self._desk.put(ev.OrderExpired(self._clock.now_ns(), effect.client_order_id))
            elif isinstance(effect, SubmitOrder):
                self._submit(effect)
            elif isinstance(effect, CancelOrder):
                self._cancel(effect.client_order_id)

    def stepped(self, _: ev.Event, effects: Sequence[AnyEffect]) -> None:
        now_ns = self._clock.now_ns()
        for effect in effects:
            if isinstance(effect, LookUpOrder):
                name, order = effect.client_order_id, self._account.orders.get(effect.client_order_id)
                self._desk.put(ev.OrderMissing(now_ns, name) if order is None else ev.OrderFound(now_ns, order))
            elif isinstance(effect, AskBroker):
                self._asked = True

    def follow(self, order_ids: Mapping[str, str], closings: Mapping[str, str]) -> None:
        """Nothing: no order outlives this process."""

    async def run(self) -> None:
        due_ns = 0
        while True:
            now_ns = self._clock.now_ns()
            for order in tuple(self._account.orders.values()):
                self._match(order)
            if self._asked or now_ns >= due_ns:
                self._asked, due_ns = False, now_ns + MINUTE_NS
                await self._desk.clocks.measure()
                self._desk.put(self._report(now_ns))
            await self._clock.sleep_until(now_ns + SECOND_NS)

    def _submit(self, order: SubmitOrder) -> None:
        name, orders, now_ns = order.client_order_id, self._account.orders, self._clock.now_ns()
        if name not in orders:
            terms = (order.symbol, order.side, Decimal(order.quantity), order.limit_price, order.intent)
            orders[name] = ev.BrokerOrder(name, f"toy-{len(orders)}", *terms, WORKING, Decimal(0), None, now_ns)
            self._desk.put(ev.OrderAccepted(now_ns, name, orders[name].order_id))
            self._match(orders[name])

    def _cancel(self, name: str) -> None:
        if (order := self._account.orders.get(name)) is not None and order.status == WORKING:
            self._account.orders[name] = replace(order, status="canceled")
            self._desk.put(ev.OrderCanceled(self._clock.now_ns(), name))

    def _match(self, order: ev.BrokerOrder) -> None:
        """Fill a working order whole where its limit allows the present quote."""
        if order.status != WORKING:
            return
        name, now_ns, size = order.client_order_id, self._clock.now_ns(), int(order.quantity)
        offered = quote(order.symbol, now_ns)
        price = offered.ask if order.side > 0 else offered.bid
        if order.limit_price is None or order.side * price <= order.side * order.limit_price:
            self._account.orders[name] = replace(order, status="filled", filled=order.quantity, average_price=price)
            self._account.trade(order.symbol, order.side * size, price)
            figures = (price, now_ns, size, price * size, Decimal(0), size)
            self._desk.put(ev.OrderFilled(now_ns, name, order.symbol, order.side, *figures))

    def _report(self, now_ns: int) -> ev.BrokerReported:
        orders, held = self._account.orders.values(), self._account.held.items()
        positions = tuple(ev.BrokerPosition(symbol, Decimal(quantity), Decimal(1)) for symbol, quantity in held)
        working = tuple(order for order in orders if order.status == WORKING)
        ended = tuple(order for order in orders if order.status != WORKING)
        return ev.BrokerReported(now_ns, now_ns, NUMBER, self._account.cash, "", positions, working, ended, (), ())


class ToyDesk:
    """One desk's account and market."""

    start_wait_s, clock_skew_max_s = 10.0, 2.0

    def __init__(self, settings: DeskSettings, clock: Clock, put: api.Put) -> None:
        self._clock, self._put, self._path = clock, put, settings.paths.state_dir / BOOK
        self.admin = ToyAccount(clock)

    def market_feed(self, desk: api.FeedDesk) -> ToyFeed:
        return ToyFeed(self._clock, desk, self._put)

    def trading(self, desk: api.TradingDesk) -> ToyTrading:
        return ToyTrading(self._clock, self.admin, desk)

    async def close(self) -> None:
        if self._path.parent.is_dir():  # a connection from before the desk's first start has traded nothing
            self._path.write_text(json.dumps({"cash": str(self.admin.cash), "held": self.admin.held}))


class Toy:
    """The registry's entry."""

    def service(self, settings: DeskSettings) -> str:
        return "toy://localhost"

    def services(self, settings: DeskSettings) -> tuple[str, ...]:
        return ("toy://localhost",)

    def connect(
        self, settings: DeskSettings, keys: Credentials, clock: Clock, put: api.Put, log: api.EventLogger
    ) -> ToyDesk:
        return ToyDesk(settings, clock, put)


BROKER = Toy()
