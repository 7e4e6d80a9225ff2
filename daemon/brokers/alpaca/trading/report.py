"""Full broker report: account, positions, orders, fills and ledger lines, read consistently.

It reads and assembles, without judging. Unreadable positions, orders and cash fail the report, because a missing one
would look like none; unreadable ledger lines are logged and left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import date, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, TypeVar

import msgspec

from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.rest.errors import Refused, RestError
from daemon.brokers.alpaca.trading.ledger import (
    LedgerFill,
    Standing,
    activity,
    amends,
    ledger_fill,
    order_fills,
    standing,
)
from daemon.brokers.alpaca.wire import ENDED, Malformed
from daemon.brokers.api import ClockComparison
from daemon.core.broker.fills import correction_name
from daemon.core.broker.ledger import AMENDED_FILL, DIVIDENDS
from daemon.core.events import Activity, BrokerOrder, BrokerPosition, BrokerReported, Funds, OrderFilled
from daemon.core.session import new_york_date
from strategies.kit.units import DAY_NS

if TYPE_CHECKING:
    from daemon.brokers.alpaca.rest.rest import Raw
    from daemon.brokers.alpaca.trading.trading import TradingReads
    from daemon.host.time.clock import Clock

T = TypeVar("T")

SUSPENDED = "trade_suspended_by_user"
GRID = Decimal("0.0001")  # of a cost
AVERAGE_GRID = Decimal("0.000001")  # of an average price, to which the broker rounds
PAID_LATE = timedelta(days=5)  # the ledger's line after the announced day of payment
READS_MAX = 3  # attempts to read a report when one of our orders filled meanwhile


class Amended(msgspec.Struct, frozen=True):
    """An order whose fills were amended: the ids of its lines, and its fills; None where they are not certain.

    `named` are the amended executions that a stream named, `count` is the number of lines that amend.
    """

    lines: frozenset[str]
    named: tuple[str, ...]
    count: int
    fills: Standing | None

    def of(self, order: BrokerOrder) -> tuple[Decimal, Decimal]:
        """Return quantity and cost that stand: the order's own, unless they still are those of before the amendment."""
        cost = wire.cost(order.symbol, order.filled, order.average_price)
        if self.fills is None or not _equal((order.filled, cost), self.fills.filled):
            return order.filled, cost
        return self.fills.stands


def _equal(one: tuple[Decimal, Decimal], other: tuple[Decimal, Decimal]) -> bool:
    """Return True for equal quantities and for costs that differ only because an average price is rounded."""
    return one[0] == other[0] and abs(one[1] - other[1]) <= GRID + one[0] * AVERAGE_GRID / 2


class Reporter:
    """Makes reports. It remembers what it reported in this process, so that later ones carry only news."""

    def __init__(
        self,
        reads: TradingReads,
        clock: Clock,
        is_ours: Callable[[str], bool],
        log: Callable[..., None],
        check: ClockComparison,
        *,
        agreed_ns: Callable[[], int] = lambda: 0,
        named: Callable[[BrokerOrder], BrokerOrder] = lambda order: order,
    ) -> None:
        """`check` compares the clocks before each; `agreed_ns` is when book and broker last agreed, 0 for never.

        `named` gives an order of the broker's own call the journal's name.
        """
        self._reads = reads
        self._clock = clock
        self._is_ours = is_ours
        self._log = log
        self._check = check
        self._agreed_ns = agreed_ns
        self._named = named
        self._names: dict[str, str] = {}  # order id -> client order id
        self._given_orders: set[BrokerOrder] = set()
        self._given_fills: set[tuple[str, int]] = set()  # order id, cumulative quantity
        self._given_lines: set[tuple[str, str]] = set()  # id, status
        self._amended: dict[str, Amended] = {}  # order id -> what the last ledger says of its amended fills
        self._named_fills: dict[str, list[str]] = {}  # order id -> executions that a stream named as amended
        self._unreadable: set[str] = set()  # lines logged already
        self._ex_dates: dict[tuple[str, date], str] = {}  # symbol and the date of a dividend's line -> its ex-date

    def forget(self) -> None:
        """Make the next report full again, from the New York day before today or before the last agreement."""
        self._given_orders, self._given_fills, self._given_lines = set(), set(), set()
        self._unreadable = set()

    def name_amended(self, order_id: str, execution: str) -> None:
        """Note that a stream named this execution of an order as busted or corrected."""
        named = self._named_fills.setdefault(order_id, [])
        if execution and execution not in named:
            named.append(execution)

    async def report(self) -> BrokerReported:
        """Read a report now. Raises RestError, Malformed."""
        await self._check.measure()
        for _ in range(READS_MAX):
            known = {order_id: amended.lines for order_id, amended in self._amended.items()}
            asked_ns = self._clock.now_ns()
            since_ns = self._since_ns(asked_ns)
            orders = await self._orders(since_ns)
            positions = tuple([wire.position(row) for row in await self._reads.positions()])
            account = await self._reads.account()
            fills, other = await self._ledger(await self._reads.activities(since_ns), orders)
            amended = {order_id: amended.lines for order_id, amended in self._amended.items()}
            if _belong_together(orders, fills) and amended == known:  # else the orders were read before a correction
                break
        return self._assemble(asked_ns, account, positions, orders, fills, other)

    # --- reading --------------------------------------------------------------------------------------------------

    def _since_ns(self, asked_ns: int) -> int:
        """Return a day before the last agreement, at least yesterday: covers any time without the daemon."""
        agreed_ns = self._agreed_ns() or asked_ns
        return wire.day_start_ns(min(asked_ns, agreed_ns)) - DAY_NS

    async def _orders(self, since_ns: int) -> dict[str, BrokerOrder]:
        """Return order id -> order: all that are open, and all submitted since. The later read wins."""
        rows = await self._reads.open_orders()
        rows += await self._reads.orders_since(since_ns)
        found = {order.order_id: order for order in map(self._named, map(wire.order, rows))}
        self._names |= {order_id: order.client_order_id for order_id, order in found.items()}
        return found

    async def _ledger(
        self, lines: list[Raw], orders: dict[str, BrokerOrder]
    ) -> tuple[dict[str, list[LedgerFill]], list[Activity]]:
        """Return our fills by order id, and the other lines.

        An order with an amended fill has none of them: its own figures stand, reported as one correction.
        """
        rows = [row for row in lines if row.get("activity_type") == "FILL"]
        rest = [row for row in lines if row.get("activity_type") != "FILL"]
        fills: dict[str, list[LedgerFill]] = defaultdict(list)
        for fill in self._readable(rows, ledger_fill):
            fills[fill.order_id].append(fill)
        self._names = {order_id: await self._name(order_id) for order_id in orders.keys() | fills.keys()}
        of_order: dict[str, list[Raw]] = defaultdict(list)
        for row in rows:
            of_order[wire.text(row.get("order_id"))].append(row)
        amended = {order_id: lines for order_id, lines in of_order.items() if any(map(amends, lines))}
        ours = {name for name in fills if name not in amended and self._is_ours(self._names[name])}
        self._amended = {
            order_id: await self._amended_fills(order_id, lines)
            for order_id, lines in amended.items()
            if self._is_ours(self._names.get(order_id, ""))
        }
        other = [await self._dated(line) for line in self._readable(rest, activity)] + self._amending_lines()
        return {order_id: fills[order_id] for order_id in ours}, other

    async def _dated(self, line: Activity) -> Activity:
        """Return a dividend's line with the ex-date that was announced; others, and unknown ones, as they are."""
        if line.kind not in DIVIDENDS or not line.symbol:
            return line
        paid = new_york_date(line.time_ns)
        if (line.symbol, paid) not in self._ex_dates:
            first = (paid - PAID_LATE).isoformat()
            try:
                rows = await self._reads.dividends_paid(line.symbol, first, paid.isoformat())
            except (RestError, Malformed) as problem:
                self._log("ex_date_unknown", symbol=line.symbol, problem=str(problem))
                rows = []
            dates = {wire.text(row.get("ex_date")) for row in rows}
            self._ex_dates[line.symbol, paid] = dates.pop() if len(dates) == 1 else ""
        return msgspec.structs.replace(line, ex_date=self._ex_dates[line.symbol, paid])

    async def _amended_fills(self, order_id: str, rows: list[Raw]) -> Amended:
        """Read all fills of an order when the ledger has a new line of it, and one amends a fill."""
        lines = frozenset(wire.text(row.get("id")) for row in rows)
        known, named = self._amended.get(order_id), tuple(self._named_fills.get(order_id, ()))
        if known is not None and (known.lines, known.named) == (lines, named):
            return known
        count = sum(map(amends, rows))
        try:
            return Amended(lines, named, count, standing(await self._reads.order_fills(order_id), named))
        except Malformed as odd:
            self._log_unreadable(order_id, odd)
            return Amended(lines, named, count, None)

    def _amending_lines(self) -> list[Activity]:
        """Return what each bust and correction changes, for orders that the journal forgot."""
        found = []
        for order_id, of_order in self._amended.items():
            for number, amended in enumerate(of_order.fills.amendments if of_order.fills else (), 1):
                (had, paid), fill = amended.before, amended.fill
                multiplier = 100 if wire.is_option(fill.symbol) else 1
                change = amended.quantity * amended.price - had * paid
                found.append(
                    Activity(
                        id=correction_name(self._names[order_id], number),
                        kind=AMENDED_FILL,
                        symbol=fill.symbol,
                        quantity=fill.side * (amended.quantity - had),
                        price=amended.price,
                        amount=-fill.side * change * multiplier,
                        status="",
                        time_ns=amended.time_ns,
                        order=self._names[order_id],
                        side=fill.side,
                    )
                )
        return found

    async def _name(self, order_id: str) -> str:
        """Return the client order id; fills do not carry it, and an order queued days ago is not in the listing."""
        if order_id in self._names:
            return self._names[order_id]
        try:
            return self._named(wire.order(await self._reads.order_by_id(order_id))).client_order_id
        except Refused as error:
            if error.status != 404:
                raise
            return ""

    def _readable(self, rows: Iterable[Raw], parse: Callable[[object], T]) -> list[T]:
        found = []
        for row in rows:
            try:
                found.append(parse(row))
            except Malformed as odd:
                self._log_unreadable(str(row.get("id"))[:80], odd)
        return found

    def _log_unreadable(self, line: str, odd: Malformed) -> None:
        if line not in self._unreadable:
            self._unreadable.add(line)
            self._log("ledger_line_unreadable", line=line, problem=str(odd))

    # --- news ---------------------------------------------------------------------------------------------------------

    def _assemble(
        self,
        asked_ns: int,
        account: Raw,
        positions: tuple[BrokerPosition, ...],
        orders: dict[str, BrokerOrder],
        fills: dict[str, list[LedgerFill]],
        lines: list[Activity],
    ) -> BrokerReported:
        now_ns = self._clock.now_ns()
        number = wire.text(account.get("account_number"))
        if not number:
            raise Malformed("account_number is missing: expected the account's number")
        ended = {order for order in orders.values() if order.status in ENDED}
        new_fills = self._new_fills(fills, now_ns) + self._corrections(orders, now_ns)
        new_lines = [line for line in lines if (line.id, line.status) not in self._given_lines]
        new_ended = ended - self._given_orders
        cash = wire.decimal(account.get("cash"), "cash")
        self._given_orders = ended
        self._given_lines = {(line.id, line.status) for line in lines}
        return BrokerReported(
            now_ns,
            asked_ns=asked_ns,
            account=number,
            cash=cash,
            blocked=blocked(account),
            positions=positions,
            open_orders=tuple(sorted((o for o in orders.values() if o.status not in ENDED), key=_submitted)),
            ended_orders=tuple(sorted(new_ended, key=_submitted)),
            fills=new_fills,
            activities=tuple(new_lines),
            funds=funds_of(account),
            market_open=self._check.market_open,
            next_open_ns=self._check.next_open_ns,
        )

    def _new_fills(self, fills: dict[str, list[LedgerFill]], now_ns: int) -> tuple[OrderFilled, ...]:
        """Return new fills, with costs summed over all of their order, sorted by time and cumulative quantity.

        An order whose fills do not add up is logged and left out: its own figures are among the orders.
        """
        found: list[OrderFilled] = []
        given: set[tuple[str, int]] = set()
        for order_id, of_order in fills.items():
            try:
                summed = order_fills(of_order, self._names[order_id], now_ns)
            except Malformed as odd:
                self._log_unreadable(self._names[order_id], odd)
                continue
            keys = [(order_id, fill.cumulative_quantity) for fill in summed]
            found += [fill for key, fill in zip(keys, summed, strict=True) if key not in self._given_fills]
            given |= set(keys)
        self._given_fills = given
        return tuple(sorted(found, key=lambda fill: (fill.filled_ns, fill.cumulative_quantity)))

    def _corrections(self, orders: dict[str, BrokerOrder], now_ns: int) -> tuple[OrderFilled, ...]:
        """Return what stands of each amended order of ours, in case the stream missed it; in every report."""
        found = []
        for order_id, amended in sorted(self._amended.items()):
            order = orders.get(order_id)
            if order is not None and (order.average_price is not None or not order.filled):
                filled, cost = amended.of(order)
                found.append(
                    OrderFilled(
                        now_ns,
                        client_order_id=order.client_order_id,
                        symbol=order.symbol,
                        side=order.side,
                        price=cost / filled if filled else Decimal(0),
                        filled_ns=now_ns,
                        cumulative_quantity=int(filled),
                        cumulative_cost=cost,
                        cumulative_fees=Decimal(0),
                        quantity=0,
                        correction=len(amended.fills.amendments) if amended.fills else amended.count,
                    )
                )
        return tuple(found)


def _submitted(order: BrokerOrder) -> tuple[int, str]:
    return order.submitted_ns, order.order_id


def _belong_together(orders: dict[str, BrokerOrder], fills: dict[str, list[LedgerFill]]) -> bool:
    """Return False when the ledger, read last, has fills that the orders, read first, lack: read all again."""
    return all(
        max(fill.cumulative for fill in of_order) <= orders[order_id].filled
        for order_id, of_order in fills.items()
        if order_id in orders
    )


def funds_of(account: Raw) -> Funds:
    """Return the account's funds and margin; an unreadable figure is None."""

    def figure(key: str) -> Decimal | None:
        try:
            return wire.decimal(account.get(key), key)
        except Malformed:
            return None

    return Funds(
        multiplier=figure("multiplier"),
        buying_power=figure("buying_power"),
        non_marginable=figure("non_marginable_buying_power"),
        options=figure("options_buying_power"),
        equity=figure("equity"),
        maintenance=figure("maintenance_margin"),
    )


def blocked(account: Raw) -> str:
    """Return why the account may not trade, from its status and its three flags; `""` when it may.

    The flag that a person sets is followed by the name of its setting.
    """
    reasons = [] if account.get("status") == "ACTIVE" else [f"status {str(account.get('status'))[:40]}"]
    flags = ("trading_blocked", "account_blocked", SUSPENDED)
    reasons += [flag for flag in flags if account.get(flag) not in (False, None)]
    return ", ".join(reasons).replace(SUSPENDED, f"{SUSPENDED} (the account's setting suspend_trade)")
