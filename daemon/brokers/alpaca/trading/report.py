"""Full broker report: account, positions, orders, fills and ledger lines, read consistently.

It reads and assembles, without judging. Unreadable positions, orders and cash fail the report, because a missing one
would look like none; unreadable ledger lines are logged and left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec
from msgspec.structs import replace

from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.rest.client import RestError
from daemon.brokers.alpaca.trading.trading import AnnouncementCache, parse_announcements, pays_cash
from daemon.brokers.alpaca.wire import (
    ENDED,
    NEW_YORK,
    Malformed,
    decimal,
    mapping,
    moment_ns,
    optional_decimal,
    optional_quantity,
    quantity,
    required_text,
    side_of,
    text,
    units,
    value_text,
)
from daemon.brokers.api import ClockComparison
from daemon.core.book import AVERAGE_GRID, COST_GRID
from daemon.core.broker.fills import correction_name
from daemon.core.broker.ledger import AMENDED_FILL, DIVIDENDS
from daemon.core.events import (
    DIVIDEND,
    Activity,
    BrokerOrder,
    BrokerPosition,
    BrokerReported,
    Funds,
    OrderFilled,
    action_name,
)
from daemon.core.instruments.option_market import is_contract
from daemon.core.orders import FENCE
from daemon.core.risk.splits import ANNOUNCED, NIGHTS_MAX, PAYS
from daemon.core.session import new_york_date, new_york_minute
from daemon.core.state import ZERO
from strategies.kit.quantity import Quantity
from strategies.kit.units import DAY_NS, SECOND_NS

if TYPE_CHECKING:
    from daemon.brokers.alpaca.rest.client import Raw
    from daemon.brokers.alpaca.trading.trading import TradingReads
    from daemon.host.time.clock import Clock


def activity(value: object) -> Activity:
    """Parse a ledger line other than a fill. Raises Malformed.

    Its time is its own, or midnight of its New York date: it may be written that evening or the day after.
    """
    raw = mapping(value, "activity")
    moment = wire.first_moment_ns(raw, "transaction_time")
    if moment is None and not raw.get("date"):
        moment = wire.first_moment_ns(raw, "created_at")
    return Activity(
        id=required_text(raw, "id"),
        kind=required_text(raw, "activity_type"),
        symbol=text(raw.get("symbol")),
        quantity=optional_quantity(raw, "qty") or Decimal(0),
        price=optional_decimal(raw, "price"),
        amount=optional_decimal(raw, "net_amount") or Decimal(0),
        status=text(raw.get("status")),
        time_ns=_date_ns(raw.get("date")) if moment is None else moment,
    )


def _date_ns(value: object) -> int:
    try:
        day = datetime.strptime(text(value)[:10], "%Y-%m-%d").replace(tzinfo=NEW_YORK)
    except ValueError:
        raise Malformed(f"date is {value_text(value)}: expected YYYY-MM-DD") from None
    return int(day.timestamp()) * SECOND_NS


# --- fills of the ledger ------------------------------------------------------------------------------------------


class LedgerFill(msgspec.Struct, frozen=True):
    """A FILL line: one execution of one order. `cumulative` counts the order's fills up to and with this one."""

    id: str
    order_id: str
    symbol: str
    side: int
    quantity: Decimal
    price: Decimal
    cumulative: Decimal
    filled_ns: int


def ledger_fill(value: object) -> LedgerFill:
    """Parse a FILL activity. Raises Malformed."""
    raw = mapping(value, "activity")
    return LedgerFill(
        id=required_text(raw, "id"),
        order_id=required_text(raw, "order_id"),
        symbol=required_text(raw, "symbol"),
        side=side_of(raw.get("side")),
        quantity=quantity(raw.get("qty"), "qty"),
        price=decimal(raw.get("price"), "price"),
        cumulative=quantity(raw.get("cum_qty"), "cum_qty"),
        filled_ns=moment_ns(raw.get("transaction_time"), "transaction_time"),
    )


AMENDING = ("canceled", "correct")  # statuses of a ledger line that busts or corrects an earlier one
BUST, CORRECTION = "trade_bust", "trade_correct"  # the same, as types of a fill


class Amendment(msgspec.Struct, frozen=True):
    """The result of a bust or a correction of one fill; `quantity` is 0 after a bust."""

    fill: LedgerFill
    before: tuple[Decimal, Decimal]  # quantity and price before
    quantity: Decimal
    price: Decimal
    time_ns: int


class Standing(msgspec.Struct, frozen=True):
    """An order's fills by the ledger: sums of quantity and of price x quantity, as filled and as they stand now.

    `fills` has each as it stands now, with quantity 0 after a bust.
    """

    filled: tuple[Decimal, Decimal]
    stands: tuple[Decimal, Decimal]
    amendments: tuple[Amendment, ...]
    fills: tuple[LedgerFill, ...]


def amends(row: Mapping[str, object]) -> bool:
    """Return True for a FILL line that busts or corrects an earlier fill."""
    return row.get("status") in AMENDING or row.get("type") in (BUST, CORRECTION)


def as_filled(rows: Iterable[Mapping[str, object]]) -> tuple[Decimal, Decimal]:
    """Return the sums of quantity and of price x quantity of one order's fills, as filled. Raises as `standing`."""
    lines = {required_text(row, "id"): row for row in rows}
    fills = [ledger_fill(row) for row in lines.values() if not amends(row)]
    whole = sum(fill.quantity for fill in fills) == max((fill.cumulative for fill in fills), default=0)
    if not whole and not _follow_on(lines):
        raise Malformed("the order's fills are not whole: expected quantities that add up to cum_qty")
    return _decimals((sum(fill.quantity for fill in fills), sum(fill.quantity * fill.price for fill in fills)))


def _follow_on(lines: Mapping[str, Mapping[str, object]]) -> bool:
    """Return whether each fill begins at the `cum_qty` of the line before it: an order may go on filling after a bust.

    The order of lines with the same time is not known: a fill that fits comes first, then its amendments.
    """
    quantity_before, waiting = Decimal(0), sorted(lines, key=_moment)
    while waiting:
        together = [line for line in waiting if _moment(line) == _moment(waiting[0])]
        quantities_after = {line: quantity(lines[line].get("cum_qty"), "cum_qty") for line in together}
        fits = [
            line
            for line in together
            if not amends(lines[line])
            and quantities_after[line] == quantity_before + quantity(lines[line].get("qty"), "qty")
        ]
        following = fits or [line for line in together if amends(lines[line])]
        if not following:
            return False
        quantity_before = quantities_after[following[0]]
        waiting.remove(following[0])
    return True


def _moment(line: str) -> str:
    return line.partition("::")[0]


def standing(rows: Iterable[Mapping[str, object]], executions: Sequence[str] = ()) -> Standing:
    """Return what stands of one order, from all of its FILL lines.

    An amending line names its fill by `previous_id`; else it means the only fill with its quantity (for a bust also
    with its price), or among several the one in `executions`: those that streams named as amended, in order. Raises
    Malformed where a line is unreadable or the amended fill is not certain.
    """
    lines = {required_text(row, "id"): row for row in rows}
    sums = as_filled(lines.values())
    fills = [ledger_fill(row) for row in lines.values() if not amends(row)]
    now = {fill.id: (fill.quantity, fill.price) for fill in fills}
    by_id = {fill.id: fill for fill in fills}
    names = {execution_of(fill.id): fill.id for fill in fills}
    amendments, hints = [], list(executions)
    for line, row in sorted(lines.items()):
        if amends(row):
            bust = row.get("status") == "canceled" or row.get("type") == BUST
            stated_quantity, price = quantity(row.get("qty"), "qty"), decimal(row.get("price"), "price")
            amended_line = _amended_by(row, now, names, stated_quantity, price if bust else None, hints)
            values_after = (Decimal(0), price) if bust else (stated_quantity, price)
            time = moment_ns(row.get("transaction_time"), "transaction_time")
            amendments.append(Amendment(by_id[amended_line], now[amended_line], *values_after, time))
            now[amended_line] = values_after
            names[execution_of(line)] = amended_line
    stands = (sum(q for q, _ in now.values()), sum(q * p for q, p in now.values()))
    current_fills = (replace(fill, quantity=now[fill.id][0], price=now[fill.id][1]) for fill in fills)
    return Standing(sums, _decimals(stands), tuple(amendments), tuple(current_fills))


def _decimals(pair: tuple[Decimal | int, Decimal | int]) -> tuple[Decimal, Decimal]:
    return Decimal(pair[0]), Decimal(pair[1])


def execution_of(line: str) -> str:
    """Return the part of a line's id that names its execution, after `YYYYMMDDHHMMSSmmm::`."""
    return line.rpartition("::")[2]


def amended_execution(update: Mapping[str, object]) -> str:
    """Return the execution that a stream's bust or correction names, "" without one."""
    return text(update.get("previous_execution_id") or update.get("execution_id"))


def _amended_by(
    row: Mapping[str, object],
    now: Mapping[str, tuple[Decimal, Decimal]],
    names: Mapping[str, str],
    stated_quantity: Decimal,
    price: Decimal | None,
    hints: list[str],
) -> str:
    """Return the id of the fill that this line amends; remove the hint that decided it."""
    previous_id = text(row.get("previous_id")) or text(row.get("previous_execution_id"))
    if execution_of(previous_id) in names:
        return names[execution_of(previous_id)]
    alike = [
        line for line, (line_quantity, at) in now.items() if line_quantity == stated_quantity and price in (None, at)
    ]
    if not previous_id and len({now[line] for line in alike}) == 1:
        return alike[0]
    for hint in hints:
        if names.get(hint) in alike:
            hints.remove(hint)
            return names[hint]
    raise Malformed(f"{row.get('id')} amends a fill of its order: expected one that it can mean, found {len(alike)}")


def order_fills(fills: Iterable[LedgerFill], client_order_id: str, now_ns: int) -> tuple[OrderFilled, ...]:
    """Return all fills of one order, with its cost summed over them, by cumulative quantity.

    Within one millisecond the ledger is unordered, so the cumulative quantity decides. Raises Malformed when the fills
    do not add up to it: one is missing, or contracts are not whole.
    """
    events, cumulative_cost = [], Decimal(0)
    total: Quantity = 0
    for fill in sorted({fill.id: fill for fill in fills}.values(), key=lambda fill: fill.cumulative):
        fill_quantity = units(fill.quantity, fill.symbol, "qty")
        total, cumulative_cost = total + fill_quantity, cumulative_cost + fill.price * fill_quantity
        if total != fill.cumulative:
            raise Malformed(f"cum_qty of fill {fill.id} is {fill.cumulative}: expected {total}, the sum of its order's")
        events.append(
            OrderFilled(
                now_ns,
                client_order_id=client_order_id,
                symbol=fill.symbol,
                side=fill.side,
                price=fill.price,
                filled_ns=fill.filled_ns,
                cumulative_quantity=total,
                cumulative_cost=cumulative_cost,
                cumulative_fees=Decimal(0),  # regulatory fees come as FEE activities of their own
                quantity=fill_quantity,
            )
        )
    return tuple(events)


T = TypeVar("T")

CHANGES = {"split": "SPLIT", "spinoff": "SPIN", "merger": "MA", "dividend": "SPLIT"}
"""Kind of an announcement -> a line's kind. A dividend that is paid in shares is a small split."""
RESTING = ("stop", "stop_limit")  # types of order
BEFORE_OPEN_MIN = 9 * 60  # minutes of New York's day, after which announcements are read again
READS_MAX = 3  # attempts to read a report when one of our orders filled meanwhile


class Amended(msgspec.Struct, frozen=True):
    """An order whose fills were amended: the ids of its lines, and its fills; None where they are not certain.

    `named` are the amended executions that a stream named, `count` is the number of amending lines, `filled` the sums
    of its fills before any amendment, None where its lines cannot be read.
    """

    lines: frozenset[str]
    named: tuple[str, ...]
    count: int
    fills: Standing | None
    filled: tuple[Decimal, Decimal] | None

    def of(self, order: BrokerOrder) -> tuple[Decimal, Decimal] | None:
        """Return quantity and cost that stand: the order's own, unless these are still from before the amendment.

        None where it is unknown: the order does not show the amendment yet, and which fill it means is not certain.
        """
        cost = wire.cost(order.symbol, order.filled, order.average_price)
        if self.filled is None or not _equal((order.filled, cost), self.filled):
            return order.filled, cost
        return None if self.fills is None else self.fills.stands


def _announcing(row: Raw, day: str, at_ns: int) -> list[Activity]:
    """Return a line for each share named in an announcement of changed shares; none for a kind that is unknown.

    On days other than today, `day`, none for a split: the shares themselves show it.
    """
    kind, ex_date = CHANGES.get(wire.text(row.get("ca_type")).lower()), wire.text(row.get("ex_date")) or day
    symbols = {wire.text(row.get(name)) for name in ("initiating_symbol", "target_symbol")} - {""}
    if kind is None or (kind == "SPLIT" and ex_date != day):
        return []
    seen_on = "" if ex_date == day else f"{day}: "  # on its own day it is reported again
    return [
        Activity(f"{seen_on}{ex_date} {kind} {it}", kind, it, ZERO, None, ZERO, ANNOUNCED, at_ns, ex_date=ex_date)
        for it in sorted(symbols)
    ]


def _equal(one: tuple[Decimal, Decimal], other: tuple[Decimal, Decimal]) -> bool:
    """Return True for equal quantities and for costs that differ only because an average price is rounded."""
    return one[0] == other[0] and abs(one[1] - other[1]) <= COST_GRID + one[0] * AVERAGE_GRID / 2


class Reread(Generic[T]):
    """Parses the rows of repeated reads; a row unchanged since the last read is not parsed again."""

    def __init__(self, parse: Callable[[object], T]) -> None:
        self._parse = parse
        self._former: dict[str, tuple[Raw, T]] = {}  # id -> row and value
        self._now: dict[str, tuple[Raw, T]] = {}

    def begin(self) -> None:
        """Begin a read; forget rows that the last one did not have."""
        self._former, self._now = self._now, {}

    def __call__(self, row: Raw) -> T:
        """Return a row's value. Raises as `parse`."""
        name = wire.text(row.get("id"))
        entry = self._now.get(name) or self._former.get(name)
        if entry is None or entry[0] != row:
            entry = row, self._parse(row)
        self._now[name] = entry
        return entry[1]


class Reporter:
    """Makes reports. It remembers what this process reported, so that later reports carry only news."""

    def __init__(
        self,
        reads: TradingReads,
        clock: Clock,
        is_ours: Callable[[str], bool],
        log: Callable[..., None],
        check: ClockComparison,
        *,
        agreed_ns: Callable[[], int] = lambda: 0,
        differs: Callable[[], bool] = lambda: False,
        waits: Callable[[], bool] = lambda: False,
        under_name: Callable[[BrokerOrder], BrokerOrder] = lambda order: order,
        strange: Callable[[Raw], str] = lambda _account: "",
    ) -> None:
        """`check` compares the clocks before each; `agreed_ns` is when book and broker last agreed, 0 for never;
        `differs` says whether they did not by the last report, `waits` whether the desk waits for a split's line.

        `under_name` gives an order of the broker's own call the journal's name, `strange` says why the account cannot
        be the configured one.
        """
        self._reads = reads
        self._clock = clock
        self._is_ours = is_ours
        self._log = log
        self._check = check
        self._agreed_ns = agreed_ns
        self._differs = differs
        self._waits = waits
        self._under_name = under_name
        self._strange = strange
        self._order, self._fill = Reread(wire.order), Reread(ledger_fill)
        self._names: dict[str, str] = {}  # order id -> client order id
        self._given_orders: set[BrokerOrder] = set()
        self._given_fills: dict[str, tuple[list[LedgerFill], set[Quantity]]] = {}  # order id -> fills, sums of quantity
        self._given_lines: set[tuple[str, str]] = set()  # id, status
        self._amendments: dict[str, Amended] = {}  # order id -> its amended fills, by the last ledger
        self._named_fills: dict[str, list[str]] = {}  # order id -> executions that a stream named as amended
        self._unreadable: set[str] = set()  # lines logged already
        self._rests = False  # a stop was resting at the last read
        self._announced_lines: tuple[tuple[date, bool], list[Activity]] | None = None  # with the time of reading
        self._announcements = AnnouncementCache()  # of dividends

    def forget(self) -> None:
        """Make the next report full again, from the New York day before today or before the last agreement."""
        self._given_orders, self._given_fills, self._given_lines = set(), {}, set()
        self._unreadable = set()

    def name_amended(self, order_id: str, execution: str) -> None:
        """Note that a stream reported this execution of an order as busted or corrected."""
        executions = self._named_fills.setdefault(order_id, [])
        if execution and execution not in executions:
            executions.append(execution)

    async def report(self) -> BrokerReported:
        """Read a report now. Raises RestError, Malformed."""
        await self._check.measure()
        for _ in range(READS_MAX):
            former = {order_id: amendments.lines for order_id, amendments in self._amendments.items()}
            asked_ns = self._clock.now_ns()
            since_ns = self._since_ns(asked_ns)
            orders = await self._orders(since_ns)
            positions = wire.positions(await self._reads.positions())
            account = await self._reads.account()
            fills, other = await self._ledger(await self._reads.activities(since_ns), orders)
            lines_by_order = {order_id: amendment.lines for order_id, amendment in self._amendments.items()}
            # otherwise the orders were read before a correction
            if _belong_together(orders, fills) and lines_by_order == former:
                break
        held = {position.symbol for position in positions}
        other = [*other, *await self._announced_changes(asked_ns, held)]
        return self._assemble(asked_ns, account, positions, orders, fills, other)

    # --- reading --------------------------------------------------------------------------------------------------

    def _since_ns(self, asked_ns: int) -> int:
        """Return a day before the last agreement, at least yesterday: covers any time without the daemon."""
        agreed_ns = self._agreed_ns() or asked_ns
        return wire.day_start_ns(min(asked_ns, agreed_ns)) - DAY_NS

    async def _orders(self, since_ns: int) -> dict[str, BrokerOrder]:
        """Return order id -> order: all that are open, and all submitted since. The later read wins."""
        rows = await self._reads.open_orders()
        self._rests = any(row.get("type") in RESTING for row in rows)
        rows += await self._reads.orders_since(since_ns)
        self._order.begin()
        orders = {order.order_id: order for order in map(self._under_name, map(self._order, rows))}
        self._names |= {order_id: order.client_order_id for order_id, order in orders.items()}
        return orders

    async def _ledger(
        self, lines: list[Raw], orders: dict[str, BrokerOrder]
    ) -> tuple[dict[str, list[LedgerFill]], list[Activity]]:
        """Return our fills by order id, and the other lines.

        An order with an amended fill has no fills here: its own figures stand, reported as one correction.
        """
        rows = [row for row in lines if row.get("activity_type") == "FILL"]
        rest = [row for row in lines if row.get("activity_type") != "FILL"]
        fills: dict[str, list[LedgerFill]] = defaultdict(list)
        self._fill.begin()
        for fill in self._readable(rows, self._fill):
            fills[fill.order_id].append(fill)
        self._names = {order_id: await self._name(order_id) for order_id in orders.keys() | fills.keys()}
        of_order: dict[str, list[Raw]] = defaultdict(list)
        for row in rows:
            of_order[wire.text(row.get("order_id"))].append(row)
        amended_lines = {order_id: lines for order_id, lines in of_order.items() if any(map(amends, lines))}
        own_names = {name for name in fills if name not in amended_lines and self._is_ours(self._names[name])}
        self._amendments = {
            order_id: await self._amended_fills(order_id, lines)
            for order_id, lines in amended_lines.items()
            if self._is_ours(self._names.get(order_id, ""))
        }
        other = [await self._with_ex_date(line) for line in self._readable(rest, activity)] + self._amending_lines()
        return {order_id: fills[order_id] for order_id in own_names}, other

    async def _with_ex_date(self, line: Activity) -> Activity:
        """Return a dividend's line with its announced ex-date; other lines, and unknown ones, unchanged."""
        if line.kind not in DIVIDENDS or not line.symbol:
            return line

        def report_failure(symbol: str, problem: str) -> None:
            self._log("ex_date_unknown", symbol=symbol, problem=problem)

        payment_date = new_york_date(line.time_ns)
        ex_date = await self._announcements.of(self._reads.ex_date, line.symbol, payment_date, report_failure)
        return msgspec.structs.replace(line, ex_date=ex_date or "")

    async def _announced_changes(self, asked_ns: int, held: Container[str]) -> list[Activity]:
        """Return the splits, stock dividends, spin-offs and mergers of the day and some nights around it, as announcing
        lines, and the cash dividends of what is `held` that are ex by now.

        They are read where a stop rests, which they concern, and where book and broker differ, or bars changed as by a
        split, which they may explain: once before the day's nine o'clock and once after it.
        """
        day, minute = new_york_date(asked_ns), new_york_minute(asked_ns)
        when = day, minute >= BEFORE_OPEN_MIN
        former = [] if self._announced_lines is None or self._announced_lines[0][0] != day else self._announced_lines[1]
        needed = self._rests or self._differs() or self._waits()
        if not needed or (self._announced_lines is not None and self._announced_lines[0] == when):
            return former
        try:
            nights = timedelta(days=NIGHTS_MAX)
            first_date, last_date = (day - nights).isoformat(), (day + nights).isoformat()
            rows = await self._reads.corporate_actions(first_date, last_date)
        except (RestError, Malformed) as problem:
            self._log("announcements_unread", problem=str(problem))
            return former
        lines = [line for row in rows if not pays_cash(row) for line in _announcing(row, day.isoformat(), asked_ns)]
        lines += [
            Activity(action_name(it), PAYS, it.symbol, ZERO, it.cash, ZERO, ANNOUNCED, asked_ns, ex_date=it.ex_date)
            for it in parse_announcements(rows)
            if it.kind == DIVIDEND and it.symbol in held and it.ex_date <= day.isoformat()
        ]
        self._announced_lines = when, lines
        return lines

    async def _amended_fills(self, order_id: str, rows: list[Raw]) -> Amended:
        """Read all fills of an order when the ledger has a new line of it and one of its lines amends a fill."""
        lines = frozenset(wire.text(row.get("id")) for row in rows)
        former, executions = self._amendments.get(order_id), tuple(self._named_fills.get(order_id, ()))
        if former is not None and (former.lines, former.named) == (lines, executions):
            return former
        count, sums = sum(map(amends, rows)), None
        try:
            all_rows = await self._reads.order_fills(order_id)
            sums = as_filled(all_rows)
            return Amended(lines, executions, count, standing(all_rows, executions), sums)
        except Malformed as odd:
            self._log_unreadable(order_id, odd)
            return Amended(lines, executions, count, None, sums)

    def _amending_lines(self) -> list[Activity]:
        """Return the change by each bust and correction, for orders that the journal forgot."""
        activities = []
        for order_id, of_order in self._amendments.items():
            for number, amendment in enumerate(of_order.fills.amendments if of_order.fills else (), 1):
                (had, cost_before), fill = amendment.before, amendment.fill
                multiplier = 100 if is_contract(fill.symbol) else 1
                change = amendment.quantity * amendment.price - had * cost_before
                activities.append(
                    Activity(
                        id=correction_name(self._names[order_id], number),
                        kind=AMENDED_FILL,
                        symbol=fill.symbol,
                        quantity=fill.side * (amendment.quantity - had),
                        price=amendment.price,
                        amount=-fill.side * change * multiplier,
                        status="",
                        time_ns=amendment.time_ns,
                        order=self._names[order_id],
                        side=fill.side,
                        filled_ns=fill.filled_ns,
                    )
                )
        return activities

    async def _name(self, order_id: str) -> str:
        """Return the client order id; fills do not carry it, and an order queued days ago is not in the listing."""
        if order_id in self._names:
            return self._names[order_id]
        row = await self._reads.order_by_id(order_id)
        return "" if row is None else self._under_name(wire.order(row)).client_order_id

    def _readable(self, rows: Iterable[Raw], parse: Callable[[Raw], T]) -> list[T]:
        values = []
        for row in rows:
            try:
                values.append(parse(row))
            except Malformed as odd:
                self._log_unreadable(str(row.get("id"))[:80], odd)
        return values

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
        ended_orders = {order for order in orders.values() if order.status in ENDED}
        new_fills = self._new_fills(fills, now_ns) + self._corrections(orders, now_ns)
        new_lines = [line for line in lines if (line.id, line.status) not in self._given_lines]
        newly_ended = ended_orders - self._given_orders
        cash = wire.decimal(account.get("cash"), "cash")
        self._given_orders = ended_orders
        self._given_lines = {(line.id, line.status) for line in lines}
        return BrokerReported(
            now_ns,
            asked_ns=asked_ns,
            account=number,
            cash=cash,
            blocked=block_reason(account, self._strange(account)),
            positions=positions,
            open_orders=tuple(sorted((o for o in orders.values() if o.status not in ENDED), key=_submission)),
            ended_orders=tuple(sorted(newly_ended, key=_submission)),
            fills=new_fills,
            activities=tuple(new_lines),
            funds=funds_of(account),
            market_open=self._check.market_open,
            next_open_ns=self._check.next_open_ns,
            next_close_ns=self._check.next_close_ns,
        )

    def _new_fills(self, fills: dict[str, list[LedgerFill]], now_ns: int) -> tuple[OrderFilled, ...]:
        """Return new fills, with costs summed over all of their order, sorted by time and cumulative quantity.

        An order whose fills do not add up is logged and left out: its own figures are among the orders.
        """
        fresh: list[OrderFilled] = []
        reports: dict[str, tuple[list[LedgerFill], set[Quantity]]] = {}
        for order_id, of_order in fills.items():
            former, given_fills = self._given_fills.get(order_id, ([], set()))
            if of_order == former:
                reports[order_id] = former, given_fills
                continue
            try:
                fill_events = order_fills(of_order, self._names[order_id], now_ns)
            except Malformed as odd:
                self._log_unreadable(self._names[order_id], odd)
                continue
            fresh += [fill for fill in fill_events if fill.cumulative_quantity not in given_fills]
            reports[order_id] = of_order, {fill.cumulative_quantity for fill in fill_events}
        self._given_fills = reports
        return tuple(sorted(fresh, key=lambda fill: (fill.filled_ns, fill.cumulative_quantity)))

    def _corrections(self, orders: dict[str, BrokerOrder], now_ns: int) -> tuple[OrderFilled, ...]:
        """Return what stands of each amended order of ours, in case the stream missed it; in every report.

        Orders with an uncertain amendment are left out: an earlier process may have booked it; the cash is compared.
        """
        corrections = []
        for order_id, amendment in sorted(self._amendments.items()):
            order = orders.get(order_id)
            stands = None if order is None else amendment.of(order)
            if order is not None and stands is not None and (order.average_price is not None or not order.filled):
                filled_quantity, cost = stands
                corrections.append(
                    OrderFilled(
                        now_ns,
                        client_order_id=order.client_order_id,
                        symbol=order.symbol,
                        side=order.side,
                        price=cost / filled_quantity if filled_quantity else Decimal(0),
                        filled_ns=now_ns,
                        cumulative_quantity=units(filled_quantity, order.symbol, "filled_qty"),
                        cumulative_cost=cost,
                        cumulative_fees=Decimal(0),
                        quantity=0,
                        correction=len(amendment.fills.amendments) if amendment.fills else amendment.count,
                    )
                )
        return tuple(corrections)


def _submission(order: BrokerOrder) -> tuple[int, str]:
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


def block_reason(account: Raw, strange: str = "") -> str:
    """Return why the account may not trade, from its status and its three flags; `""` when it may.

    `strange` is why it cannot be the configured account, "" where it can. The flag that a person sets is followed by
    the name of its setting.
    """
    reasons = [strange] if strange else []
    reasons += [] if account.get("status") == "ACTIVE" else [f"status {str(account.get('status'))[:40]}"]
    flags = ("trading_blocked", "account_blocked", FENCE)
    reasons += [flag for flag in flags if account.get(flag) not in (False, None)]
    return ", ".join(reasons).replace(FENCE, f"{FENCE} (the account's setting suspend_trade)")
