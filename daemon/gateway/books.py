"""The books of a gateway: sub-accounts with cash, holdings, orders and activities, and how each changes.

No rule decides here. Quantities and money are exact decimals (USD); a fill is booked once, by its order and the order's
cumulative quantity. A sub-account shows what an Alpaca account with the same trades would show.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import msgspec

from daemon.alpaca_api.books import AlpacaPosition
from daemon.alpaca_api.wire import ZERO, Json, multiplier, text
from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.trading.report import LedgerFill, amends, execution_of
from daemon.core.book import CENT
from daemon.core.instruments.option_market import parse_occ, root_of
from daemon.core.session import new_york_date, weekdays_after
from daemon.gateway.events import MAIN
from strategies.kit.quantity import FINEST, floor_to
from strategies.kit.units import MILLISECOND_NS, MINUTE_NS, SECOND_NS

CASH = "cash"
"""Key of a difference of cash, among those of symbols."""
BEFORE = "; halted before: "  # precedes the words of the halt that was replaced
ORDERS_DAYS = 3  # how long an order without a fill is kept: a report may list it again for two
LAST_ORDERS = 100  # newest orders of each sub-account that stay as long as filled ones, for a desk that was away
LINES_DAYS = 45  # how long activities, their orders and the ledger lines' parts are kept, for corrections
EXPLAINS_DAYS = 2  # weekdays within which a line explains a difference: on paper a contract's comes a day later
HELD_DAYS = 120  # how long holders at closes are kept: a dividend is paid weeks after its ex-date
SENDING, UNKNOWN = "sending", "unknown"
"""Statuses of an order that the broker has not shown: journaled and on its way; without an answer."""
CANCELED, EXPIRED = "canceled", "expired"
AMENDING_NS = 2 * MINUTE_NS
COST_NEAR = Decimal("0.02")  # part of a cost: the broker rounds its averages
SHARE_TRANSFER = "JNLS"
"""The kind of an activity of shares moved between sub-accounts."""
LOST = "missing"
"""Status of an order that never reached the broker."""
CALL = "close-"
"""Prefix of a close call's name, until the broker's answer names its order."""


class NotedLine(msgspec.Struct):
    """A row of a sub-account's activities, oldest first by `time_ns`."""

    id: str
    time_ns: int
    fields: Json


class DayFill(msgspec.Struct, frozen=True):
    """A fill, for dividing fees; `order` is the broker's id of its order."""

    account: str
    symbol: str
    side: int
    quantity: Decimal
    price: Decimal
    order: str = ""


class LinePart(msgspec.Struct, frozen=True):
    """One sub-account's part of a ledger line: quantity, amount in USD, and the cost of its shares in USD.

    With `rescales` the holding keeps its whole cost: other shares for the same money, as in a split.
    """

    quantity: Decimal = ZERO
    amount: Decimal = ZERO
    cost: Decimal = ZERO
    rescales: bool = False


class Moving(msgspec.Struct):
    """Shares or contracts taken away by lines whose replacement comes by later lines of this kind and date.

    `given`: what came for them so far, by symbol and sub-account.
    """

    kind: str
    date: str
    symbol: str
    parts: dict[str, LinePart]
    given: dict[str, dict[str, Decimal]] = {}

    @property
    def total(self) -> Decimal:
        """The signed quantity of all parts."""
        return sum((part.quantity for part in self.parts.values()), ZERO)


class SubAccount(msgspec.Struct):
    """The books of one sub-account. `suspended` is its fence; `fractions`: it has ordered a part of a share."""

    name: str
    number: str
    cash: Decimal = ZERO
    capital: Decimal = ZERO
    holdings: dict[str, AlpacaPosition] = {}
    activities: list[NotedLine] = []
    last_equity: Decimal = ZERO
    suspended: bool = False
    fractions: bool = False

    def quantity(self, symbol: str) -> Decimal:
        """Return the signed quantity, 0 without a holding."""
        holding = self.holdings.get(symbol)
        return ZERO if holding is None else holding.qty

    def change(self, symbol: str, quantity: Decimal, cost: Decimal) -> None:
        """Add `quantity` with a total `cost` in USD; a reduction keeps the average price, whatever its cost."""
        if not quantity:
            return  # an amendment may leave an empty fill
        price = abs(cost / (quantity * multiplier(symbol)))
        self.hold(self.holdings.get(symbol, AlpacaPosition(symbol, ZERO, ZERO)).after(quantity, price))

    def hold(self, holding: AlpacaPosition) -> None:
        """Replace a holding; one of quantity zero is removed."""
        if holding.qty:
            self.holdings[holding.symbol] = holding
        else:
            self.holdings.pop(holding.symbol, None)


class GatewayOrder(msgspec.Struct):
    """An order of a sub-account. `row` is the broker's newest, {} before it showed one; `body` is the client's request.

    `fills`: cumulative quantity -> (quantity, price); after a bust or correction "amended" has what stands of all of
    them. `base` was filled before the gateway opened. With `keeps_name` the broker has it under another name: the close
    call made it in place of a client's order. With `gives_way` it is cancelled for another sub-account's exit: its
    owner sees it expire, since a foreign cancel would halt a desk.
    """

    account: str
    name: str
    symbol: str
    side: str
    status: str
    created_ns: int
    id: str = ""
    quantity: Decimal | None = None
    body: Json = {}
    row: Json = {}
    reserve: Decimal = ZERO
    replaces: str = ""
    closing: bool = False
    keeps_name: bool = False
    base: Decimal = ZERO
    fills: dict[str, tuple[Decimal, Decimal]] = {}
    against: tuple[str, ...] = ()
    gives_way: bool = False
    amended_ns: int = 0  # time of the broker's last bust or correction of its fills
    amended_fills: tuple[str, ...] = ()  # executions that the stream named as busted or corrected, in order

    @property
    def sign(self) -> int:
        """+1 buys, -1 sells."""
        return 1 if self.side == "buy" else -1

    @property
    def open(self) -> bool:
        """Whether it may still fill, at the broker or on its way to it."""
        return self.status not in wire.ENDED and self.status != LOST

    @property
    def known(self) -> bool:
        """Whether the broker has shown it."""
        return bool(self.row)

    @property
    def submitted_ns(self) -> int:
        """When the broker accepted it, by its row; clients page through lists by that time."""
        return submitted_ns_of(self.row, self.created_ns)

    @property
    def filled(self) -> Decimal:
        """The quantity booked, `base` included."""
        if not self.fills:  # most orders of a long list
            return self.base
        return self.base + sum((quantity for quantity, _ in self.fills.values()), ZERO)

    @property
    def leaves_qty(self) -> Decimal:
        """The quantity that may still fill; for an order in USD by its reserve price."""
        if self.quantity is not None:
            return max(self.quantity - self.filled, ZERO)
        cost = sum((quantity * price for quantity, price in self.fills.values()), ZERO)
        dollars = wire.optional_decimal(self.row or self.body, "notional") or ZERO
        return max((dollars - cost) / self.reserve, ZERO).quantize(FINEST) if self.reserve else ZERO

    @property
    def filled_or_open(self) -> Decimal:
        """The quantity filled, or still to come."""
        if self.quantity is not None and self.open:
            return max(self.quantity, self.filled)
        return self.filled + self.to_come

    @property
    def to_come(self) -> Decimal:
        """The quantity that is not booked and may still fill, or has filled."""
        return self.leaves_qty if self.open else self.unbooked

    @property
    def unbooked(self) -> Decimal:
        """The quantity of an ended order that the books lack; 0 after a bust, whose fills are read one by one."""
        if self.open or self.amended_ns:
            return ZERO
        return max((wire.optional_decimal(self.row, "filled_qty") or ZERO) - self.filled, ZERO)

    @property
    def opens(self) -> bool:
        """Whether it adds to a holding: a purchase, unless it closes a short position."""
        intent = str((self.row or self.body).get("position_intent") or "")
        return self.side == "buy" and intent != "buy_to_close"

    @property
    def kind(self) -> str:
        """market, limit, stop, stop_limit or trailing_stop."""
        return str((self.row or self.body).get("type") or "market")

    def price(self, name: str) -> Decimal | None:
        """Return limit_price or stop_price, None without one."""
        return wire.optional_decimal(self.row or self.body, name)

    def shown(self) -> Json:
        """Return the order object of REST and of trade updates, with the name and the ending that its owner knows."""
        row = {**self.row, "client_order_id": self.name} if self.keeps_name else self.row
        if not (self.gives_way and row.get("status") == CANCELED):
            return row
        return {**row, "status": EXPIRED, "expired_at": row.get("canceled_at"), "canceled_at": None}


class Ledgers(msgspec.Struct):
    """The whole state of a gateway, and the content of a snapshot."""

    number: str = ""
    now_ns: int = 0
    seq: int = 0
    accounts: dict[str, SubAccount] = {}
    orders: dict[str, GatewayOrder] = {}  # by name, each sub-account's in order of time
    live: dict[str, str] = {}  # name -> symbol of orders that may still fill
    names: dict[str, str] = {}  # the broker's id -> name
    lines: dict[str, tuple[int, dict[str, LinePart]]] = {}  # id and status of a line -> time, parts
    trades: dict[str, list[DayFill]] = {}  # by New York date
    held: dict[str, list[tuple[str, dict[str, Decimal]]]] = {}  # symbol -> (date, quantity by sub-account at its close)
    moving: list[Moving] = []
    settled: dict[str, dict[str, Decimal]] = {}  # contracts that ended before their line -> quantity by sub-account
    lapses: dict[str, str] = {}  # contracts that their holder lets lapse -> sub-account
    exercises: dict[str, str] = {}  # contracts whose exercise was asked for and is not booked -> sub-account
    broker_cash: Decimal = ZERO  # by the last report
    broker_held: dict[str, Decimal] = {}
    broker_averages: dict[str, Decimal] = {}  # average cost of a share, USD, by the last report
    agreed_averages: dict[str, Decimal] = {}  # the same when books and broker last agreed on the symbol
    broker_account: Json = {}
    marks: dict[str, Decimal] = {}  # USD a share, by the last report
    reported_ns: int = 0  # when the last report was requested
    changed_ns: int = 0  # when the books last changed by a fill
    differences: dict[str, tuple[int, str]] = {}  # "cash" or a symbol -> since when, words
    doubts: tuple[str, ...] = ()  # differences that last
    halt: tuple[str, str, str] | None = None  # reason, detail, last date ("" for no end)
    day: tuple[str, Decimal] = ("", ZERO)  # New York date, value of the sub-accounts by the report before its first
    uneven: int = 0  # fills not in whole cents since the sums last agreed, each of which the broker may have rounded
    code: str = ""
    guards: list[tuple[str, str]] = []  # prefixes of guards' order names, each with its sub-account
    amending: dict[str, int] = {}  # the broker's ids of orders whose amended fills are being read -> since when
    lines_later: list[tuple[int, Json, str]] = []  # time seen, line, ex-date: waiting for fills of rows left out
    ratios: dict[str, str] = {}  # id of a line that waits -> its announced "new/old"
    spun: dict[str, list[tuple[str, str, str]]] = {}  # for a spin-off -> each parent's symbol, ex-date, "new/old"
    unbooked: dict[str, str] = {}  # name -> symbol of ended orders with fills that are not booked
    lieu: dict[str, tuple[str, dict[str, Decimal]]] = {}  # symbol -> date, shares that each got less than were due
    owed: dict[str, tuple[int, Decimal]] = {}
    """What one is short of while others hold it, by symbol (`main`) or name and symbol: since when, as reported."""
    coins: tuple[str, ...] = ()  # crypto that `main` holds, by the last report

    def __post_init__(self) -> None:
        """Add `main`, and sort a snapshot's orders by time."""
        self.orders = dict(sorted(self.orders.items(), key=lambda item: item[1].created_ns))
        if MAIN not in self.accounts:
            self.accounts[MAIN] = SubAccount(MAIN, "")

    @property
    def main(self) -> SubAccount:
        """The sub-account of everything that no other owns."""
        return self.accounts[MAIN]

    @property
    def is_needed(self) -> bool:
        """Whether a desk holds something, or has an order that may still fill or has unbooked fills."""
        return any(self.works(name) for name in self.accounts if name != MAIN)

    def works(self, account: str) -> bool:
        """Return whether a sub-account holds something, or has an order that may still fill or has unbooked fills."""
        holds = account in self.accounts and bool(self.accounts[account].holdings)
        orders = (*self.open_orders(), *(self.orders[name] for name in self.unbooked))
        return holds or any(order.account == account for order in orders)

    def guard_prefixes(self, new: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return a start's guard prefixes, and former ones of sub-accounts in use: those guards may act too."""
        prefixes = dict(new)
        return [*new, *(pair for pair in self.guards if pair[0] not in prefixes and self.works(pair[1]))]

    def other_account(self, number: str) -> str:
        """Return, in words, that the keys open this account, and not the journal's, with the cure."""
        cure = "use that account's keys, or another gateway.state_dir"
        return f"the keys open account {number}, and the journal is of account {self.number}: {cure}"

    @property
    def former_halt_words(self) -> str:
        """Words of this halt, to append to those of one that replaces it; "" without a halt."""
        return "" if self.halt is None else f"{BEFORE}{self.halt[0]}: {self.halt[1]}"

    # --- orders -------------------------------------------------------------------------------------------------------

    def order_by_id(self, order_id: str) -> GatewayOrder | None:
        """Return the order of the broker's id; None for an unknown one."""
        return self.orders.get(self.names.get(order_id, ""))

    def working(self, symbol: str) -> list[GatewayOrder]:
        """Return all orders of a symbol that may still fill, of all sub-accounts."""
        return [self.orders[name] for name, order_symbol in self.live.items() if order_symbol == symbol]

    def sales_of_desks(self, symbol: str) -> list[GatewayOrder]:
        """Return sub-accounts' sales of a symbol that may still fill; of one and its replacement the replacement."""
        sales = [o for o in self.working(symbol) if o.side == "sell" and o.account != MAIN]
        old_names = {order.replaces for order in sales}
        return [order for order in sales if order.name not in old_names]

    def open_orders(self) -> list[GatewayOrder]:
        """Return all orders that may still fill."""
        return [self.orders[name] for name in self.live]

    def entries(self) -> list[str]:
        """Return the names of sub-accounts' open orders that add risk; buying back a short position does not.

        Sorted by name: books restored from a snapshot have these orders in another sequence.
        """
        orders = (order for order in self.open_orders() if order.opens and order.account != MAIN)
        return sorted(order.name for order in orders if self.accounts[order.account].quantity(order.symbol) >= 0)

    def orders_since(self, ns: int) -> Iterator[GatewayOrder]:
        """Yield the orders of all sub-accounts but `main` that were taken at `ns` or later, newest first."""
        for order in reversed(self.orders.values()):
            if order.account != MAIN:
                if order.created_ns >= ns:
                    yield order
                elif order.body:
                    return  # orders of another host or a close call are added later than they were made

    def keep(self, order: GatewayOrder) -> None:
        """Store an order under its name, and whether it may still fill."""
        if self.orders.get(order.name) is not order:
            self.orders.pop(order.name, None)  # a lost order's name, used again: now the newest
        self.orders[order.name] = order
        if order.open:
            self.live[order.name] = order.symbol
        else:
            self.live.pop(order.name, None)
        self._note_booking(order)

    def _note_booking(self, order: GatewayOrder) -> None:
        if order.unbooked:
            self.unbooked[order.name] = order.symbol
        else:
            self.unbooked.pop(order.name, None)

    def drop(self, name: str) -> None:
        """Forget a name; its order may be stored under another."""
        del self.orders[name]
        self.live.pop(name, None)
        self.unbooked.pop(name, None)

    def orders_in_amendment(self) -> list[GatewayOrder]:
        """Return the orders whose amended fills are being read, for two minutes at most: then the known fills count."""
        since_ns = self.now_ns - AMENDING_NS
        orders = [self.order_by_id(order_id) for order_id, at_ns in self.amending.items() if at_ns > since_ns]
        return [order for order in orders if order is not None]

    def held_for_orders(self, account: str, symbol: str) -> Decimal:
        """Return how much of a long holding own sales reserve (working, or with unbooked fills), and own exercises."""
        sales = self._reserved_by_sales(symbol, account) + self.unbooked_quantity(symbol, "sell", account)
        return sales + self.kept_for_exercise(symbol, account)

    def kept_for_exercise(self, subject: str, account: str = "") -> Decimal:
        """Return what exercises of a sub-account ("": of all) will take: USD for `CASH`, else shares."""
        total = ZERO
        for symbol, owner in self.exercises.items():
            contract = parse_occ(symbol)
            if contract is None or account not in ("", owner):
                continue
            units = max(self.accounts[owner].quantity(symbol), ZERO) * multiplier(symbol)
            if contract.right > 0 and subject == CASH:
                total += units * contract.strike
            elif contract.right < 0 and subject == contract.root:
                total += units
        return total

    def _reserved_by_sales(self, symbol: str, account: str, without: GatewayOrder | None = None) -> Decimal:
        """Return what working sales of a sub-account ("": of all) reserve, except `without`.

        Of an order and its replacement only one is at the broker at a time: the greater counts.
        """
        sales = (o for o in self.working(symbol) if o.side == "sell" and o is not without)
        orders = {order.name: order for order in sales if account in ("", order.account)}
        twice = (min(o.leaves_qty, orders[o.replaces].leaves_qty) for o in orders.values() if o.replaces in orders)
        return sum((order.leaves_qty for order in orders.values()), ZERO) - sum(twice, ZERO)

    def unbooked_quantity(self, symbol: str, side: str, account: str = "") -> Decimal:
        """Return what ended orders of a sub-account ("": of all) filled and the books lack: its news is on its way."""
        orders = (self.orders[name] for name, order_symbol in self.unbooked.items() if order_symbol == symbol)
        return sum((o.unbooked for o in orders if o.side == side and account in ("", o.account)), ZERO)

    def free(self, account: str, symbol: str, without: GatewayOrder | None = None) -> Decimal:
        """Return how much of a long holding may be sold: no own sale or exercise reserves it, and the account has it.

        The account has less where `main` sold what others hold. After a reverse split without its line, a holding
        counts as its part of the new shares. The sale `without` counts as gone.
        """
        own_free = self._part_of_fewer(account, symbol) - self._reserved_by_sales(symbol, account, without)
        account_free = self._account_quantity(symbol) - self._reserved_by_sales(symbol, "", without)
        own_free -= self.unbooked_quantity(symbol, "sell", account)
        account_free -= self.unbooked_quantity(symbol, "sell")
        own_free -= self.kept_for_exercise(symbol, account)
        account_free -= self.kept_for_exercise(symbol)
        return max(min(own_free, account_free), ZERO)

    def _account_quantity(self, symbol: str) -> Decimal:
        """Return what all hold by the books; the broker's quantity where a lasting difference makes that right.

        That is more after a split without a line, or nothing, as after an assignment without one: a sale of the last
        share that is not there would open a short position. A sale beyond fewer shares the broker refuses itself.
        """
        booked = sum(self.holders(symbol).values(), ZERO)
        if self.differences.get(symbol, (0, ""))[1] not in self.doubts:
            return booked
        there = self.broker_held.get(symbol, ZERO) + sum(self.trades_since(symbol, self.reported_ns).values(), ZERO)
        return booked if 0 < there < booked else there

    def _part_of_fewer(self, account: str, symbol: str) -> Decimal:
        """Return a holding; its part of the broker's quantity where a reverse split without a line made that less.

        That is the part at the begin of the difference, with later trades added. Fewer shares with the same total cost
        show a split; otherwise it is unknown whose are gone, and no exit is blocked.
        """
        since_ns, words = self.differences.get(symbol, (0, ""))
        quantity, holders = self.accounts[account].quantity(symbol), self.holders(symbol)
        if words not in self.doubts or len(holders) < 2:
            return quantity
        trades = self.trades_since(symbol, since_ns)
        reported_sum = sum(trades.values(), ZERO) - sum(self.trades_since(symbol, self.reported_ns).values(), ZERO)
        old_total = sum(holders.values(), ZERO) - sum(trades.values(), ZERO)
        new_total, old_part = self.broker_held.get(symbol, ZERO) - reported_sum, quantity - trades.get(account, ZERO)
        if not (0 <= new_total < old_total and self._cost_as_before(symbol, old_total, new_total)):
            return quantity
        step = FINEST if self.accounts[account].fractions or old_part % 1 else Decimal(1)
        return floor_to(old_part * new_total / old_total, step) + trades.get(account, ZERO)

    def _cost_as_before(self, symbol: str, old_total: Decimal, new_total: Decimal) -> bool:
        """Return whether fewer shares cost more each and the same in total, except for a fraction paid in cash."""
        average, former = self.broker_averages.get(symbol, ZERO), self.agreed_averages.get(symbol, ZERO)
        near = former * old_total * COST_NEAR + average
        return abs(average - former) > former * COST_NEAR and abs(average * new_total - former * old_total) <= near

    def may_explain(self, subject: str) -> str:
        """Return what may still explain a difference of cash or of a symbol, in words; "" for nothing.

        A line comes within two weekdays: an older difference waits for nothing.
        """
        today = new_york_date(self.now_ns)
        if (until := weekdays_after(new_york_date(self.differences[subject][0]), EXPLAINS_DAYS)) <= today:
            return ""
        unknown_orders = [order for order in self.open_orders() if order.status in (SENDING, UNKNOWN)]
        orders = [*unknown_orders, *(self.orders[name] for name in self.unbooked), *self.orders_in_amendment()]
        if news := next((order.name for order in orders if subject in (CASH, order.symbol)), ""):
            return f"news of order {news} is on its way: try again in a moment"
        if subject == CASH:
            return ""
        deadline = f"until {until} its line may come"
        if any(subject in (symbol, root_of(symbol)) for symbol in self.settled):
            return f"a contract ended that may have become {subject}: {deadline}"
        waiting = ((moving, datetime.fromisoformat(moving.date).date()) for moving in self.moving if not moving.given)
        if former_symbol := next((it.symbol for it, day in waiting if weekdays_after(day, EXPLAINS_DAYS) > today), ""):
            return f"{former_symbol} was taken away, and what came for it may be {subject}: {deadline}"
        old_total, new_total = sum(self.holders(subject).values(), ZERO), self.broker_held.get(subject, ZERO)
        if self._cost_as_before(subject, old_total, new_total):
            return f"it looks like a split, as all cost what they did: {deadline}"
        return ""

    def purchases(self, accounts: Collection[str]) -> list[GatewayOrder]:
        """Return the purchases of sub-accounts that may still fill, or have unbooked fills."""
        orders = (*self.open_orders(), *(self.orders[name] for name in self.unbooked))
        return [order for order in orders if order.account in accounts and order.opens]

    def reserved_usd(self, account: str) -> Decimal:
        """Return USD that a sub-account's purchases and exercises reserve of its cash until they are booked."""
        purchases = (o.to_come * o.reserve * multiplier(o.symbol) for o in self.purchases((account,)))
        return sum(purchases, self.kept_for_exercise(CASH, account))

    def show(self, order: GatewayOrder, row: Json, *, amended: bool = False) -> bool:
        """Take the broker's newest row of an order; False for a row older than what is known.

        `amended`: a fill was busted or corrected, so that less may be filled than before.
        """
        filled_qty = wire.optional_decimal(row, "filled_qty") or ZERO
        known_qty = wire.optional_decimal(order.row, "filled_qty") or ZERO
        status = str(row.get("status") or "")
        over = order.row.get("status") in wire.ENDED
        if order.row and ((over and status not in wire.ENDED) or (filled_qty < known_qty and not over and not amended)):
            return False
        older = _updated_ns(row) < _updated_ns(order.row) - MILLISECOND_NS if order.row else False
        if older and filled_qty == known_qty and status not in wire.ENDED and not amended:
            return False
        order.row, order.status, order.id = row, status or order.status, str(row["id"])
        order.quantity = wire.optional_decimal(row, "qty")
        symbol = wire.text(row.get("symbol"))
        if symbol and not is_coin(symbol):
            order.symbol = symbol  # the broker may keep an order under a company's new symbol
        self.names[order.id] = order.name
        self.keep(order)
        return True

    # --- what changes holdings and cash -------------------------------------------------------------------------------

    def fill(self, order: GatewayOrder, cumulative: Decimal, quantity: Decimal, price: Decimal, line: Json) -> bool:
        """Book one execution; False where it is booked already. `line` is its row of the activities."""
        if self.booked(order, cumulative, line):
            return False
        order.fills = {**order.fills, text(cumulative): (quantity, price)}
        account = self.accounts[order.account]
        cost = order.sign * quantity * price * dollars(order.symbol)
        account.cash -= cost
        self.changed_ns = self.now_ns
        self.uneven += bool(cost % CENT)
        if not is_pair(order.symbol):
            account.change(order.symbol, order.sign * quantity, cost)
            date = new_york_date(wire.time_ns(line["transaction_time"])).isoformat()  # it may come days late
            self.trades.setdefault(date, []).append(day_fill(order, quantity, price))
            self.note_holders(order.symbol, {order.account: order.sign * quantity}, date)
        self.note(account, line)
        self._note_booking(order)
        return True

    def booked(self, order: GatewayOrder, cumulative: Decimal, line: Json) -> bool:
        """Return whether an execution is booked, or was filled before the opening.

        After a bust a cumulative quantity may occur again: then the execution's id decides.
        """
        if cumulative <= order.base:
            return True
        if text(cumulative) not in order.fills:
            return False
        if wire.time_ns(line["transaction_time"]) <= order.amended_ns or not order.amended_ns:
            return True
        name = execution_of(str(line["id"]))
        return any(execution_of(line.id) == name for line in self.accounts[order.account].activities)

    def amend(
        self, order: GatewayOrder, stands: Iterable[LedgerFill], cumulatives: Iterable[Decimal], amended_ns: int
    ) -> LinePart:
        """Replace an order's fills by the valid ones `stands`; return the change. Each counts for its own day.

        `cumulatives` are the cumulative quantities of all fills considered: none is booked again.
        """
        old_sums = sum((q for q, _ in order.fills.values()), ZERO), sum((q * p for q, p in order.fills.values()), ZERO)
        fills = [fill for fill in stands if fill.quantity]
        quantity, cost = sum((f.quantity for f in fills), ZERO), sum((f.quantity * f.price for f in fills), ZERO)
        size, account = dollars(order.symbol), self.accounts[order.account]
        change = ZERO if is_pair(order.symbol) else order.sign * (quantity - old_sums[0])
        cost_change = order.sign * (cost - old_sums[1]) * size
        zero_fills = dict.fromkeys((*order.fills, *map(text, cumulatives)), (ZERO, ZERO))
        order.fills = zero_fills | {"amended": (quantity, cost / quantity if quantity else ZERO)}
        order.amended_ns = amended_ns
        account.cash -= cost_change
        self.uneven += bool(cost * size % CENT or old_sums[1] * size % CENT)
        holding = account.holdings.get(order.symbol)
        if change:
            account.change(order.symbol, change, cost_change)
        elif holding is not None and holding.qty * order.sign > 0:
            account.hold(replace(holding, average=holding.average + cost_change / (holding.qty * size)))
        self.changed_ns = self.now_ns
        if not is_pair(order.symbol):
            day_fills = [(new_york_date(f.filled_ns).isoformat(), day_fill(order, f.quantity, f.price)) for f in fills]
            self._let_stand(order, old_sums[0], day_fills)
        self._note_booking(order)
        return LinePart(change, -cost_change)

    def trades_of(self, order: GatewayOrder) -> list[tuple[str, DayFill]]:
        """Return an order's fills among the day fills that divide fees, each with its date."""
        return [(date, fill) for date, fills in self.trades.items() for fill in fills if fill.order == order.id]

    def retrade(self, order: GatewayOrder, day_fills: Iterable[tuple[str, DayFill]]) -> None:
        """Replace an order's fills by `day_fills`, each with its date."""
        for date in {date for date, _ in self.trades_of(order)}:
            self.trades[date] = [fill for fill in self.trades[date] if fill.order != order.id]
        for date, fill in day_fills:
            self.trades.setdefault(date, []).append(fill)

    def _let_stand(self, order: GatewayOrder, old_total: Decimal, stands: Sequence[tuple[str, DayFill]]) -> None:
        """Replace an order's day fills, of `old_total` in all, by the valid ones `stands`, each with its date.

        Holders change on the fills' own days. Where some of the former fills are no longer kept, they change today.
        """
        former, changes = self.trades_of(order), dict[str, Decimal]()
        all_here = sum((fill.quantity for _, fill in former), ZERO) == old_total
        for sign, fills in ((-order.sign, former), (order.sign, stands)):
            for date, fill in fills:
                changes[date] = changes.get(date, ZERO) + sign * fill.quantity
        if all_here:
            self.retrade(order, stands)
        else:
            changes = {"": order.sign * (sum((fill.quantity for _, fill in stands), ZERO) - old_total)}
        for date, quantity in changes.items():
            self.note_holders(order.symbol, {order.account: quantity}, date)

    def book(self, account: str, symbol: str, part: LinePart, date: str = "") -> None:
        """Book a part of a ledger line; `date` is the day at whose close it counts (default: today)."""
        sub_account = self.accounts[account]
        sub_account.cash += part.amount
        if part.quantity:
            holding = sub_account.holdings.get(symbol)
            if part.rescales and holding is not None and holding.qty + part.quantity:
                new_quantity = holding.qty + part.quantity
                sub_account.hold(
                    replace(holding, qty=new_quantity, average=holding.average * holding.qty / new_quantity)
                )
            else:
                sub_account.change(symbol, part.quantity, part.cost)
            self.note_holders(symbol, {account: part.quantity}, date)

    def move(self, source: str, target: str, cash: Decimal, symbol: str, quantity: Decimal) -> Decimal:
        """Move cash, or a quantity at its average price; return the quantity's cost in USD.

        A move from or to `main` is neither gain nor loss of the day.
        """
        giver, taker = self.accounts[source], self.accounts[target]
        giver.cash -= cash
        taker.cash += cash
        cost, value = ZERO, cash
        if quantity:
            average = giver.holdings[symbol].average
            cost = average * quantity * multiplier(symbol)
            value += self.marks.get(symbol, average) * quantity * multiplier(symbol)
            giver.change(symbol, -quantity, -cost)
            taker.change(symbol, quantity, cost)
            self.note_holders(symbol, {source: -quantity, target: quantity})
        if self.day[0]:
            self.day = (self.day[0], self.day[1] + (source == MAIN) * value - (target == MAIN) * value)
        return cost

    def take_in(self, account: str, part: LinePart, symbol: str) -> None:
        """Book a change from outside without a line, as neither gain nor loss of the day."""
        former_worth = self.worth(account, self.marks)
        self.book(account, symbol, part)
        if self.day[0] and account != MAIN:
            self.day = (self.day[0], self.day[1] + self.worth(account, self.marks) - former_worth)

    def note(self, account: SubAccount, fields: Json) -> None:
        """Add a row to a sub-account's activities, at its own time if it has one, else now."""
        moment = fields.get("transaction_time")
        at_ns = wire.time_ns(moment, "transaction_time") if moment else self.now_ns
        account.activities.append(NotedLine(str(fields["id"]), at_ns, fields))

    def go_on_at(self, ns: int) -> None:
        """Take a start's time as now, even where the former clock was ahead; the day and its loss stay."""
        self.now_ns, self.changed_ns = ns, min(self.changed_ns, ns)
        self.differences = {key: (min(since_ns, ns), words) for key, (since_ns, words) in self.differences.items()}

    # --- who held -----------------------------------------------------------------------------------------------------

    def note_holders(self, symbol: str, changes: Mapping[str, Decimal], date: str = "") -> None:
        """Add changes to the holders at the end of `date` (default: today) and of each later day."""
        date = date or new_york_date(self.now_ns).isoformat()
        entries = self.held.setdefault(symbol, [])
        place = bisect_left(entries, date, key=lambda entry: entry[0])
        if place == len(entries) or entries[place][0] != date:
            entries.insert(place, (date, dict(entries[place - 1][1]) if place else {}))
        for number in range(place, len(entries)):
            day, quantities = entries[number]
            new_quantities = {
                name: quantities.get(name, ZERO) + changes.get(name, ZERO)
                for name in quantities.keys() | changes.keys()
            }
            entries[number] = (day, {name: quantity for name, quantity in sorted(new_quantities.items()) if quantity})

    def rename_holders(self, old: str, new: str, date: str) -> None:
        """Copy the holders before this date to a share's new symbol, for dividends weeks later."""
        former = [(day, quantities) for day, quantities in self.held.get(old, []) if day < date]
        if former and not self.holders_before(new, date):
            since = [entry for entry in self.held.get(new, []) if entry[0] >= date]
            self.held[new] = [*former, *([] if since and since[0][0] == date else [(date, {})]), *since]

    def holders(self, symbol: str) -> dict[str, Decimal]:
        """Return who holds how much of a symbol now, by sub-account."""
        return {name: a.quantity(symbol) for name, a in self.accounts.items() if a.quantity(symbol)}

    def sold_off(self) -> set[str]:
        """Return the symbols that sub-accounts hold and orders of `main` sold, until the account has none left.

        So a panic with the account's own keys shows itself. Without a contract on its last day, which the broker sells
        of its own accord, and what an unanswered close call may have sold.
        """
        today = new_york_date(self.now_ns).isoformat()
        symbols = set()
        for symbol in [symbol for symbol, holding in self.main.holdings.items() if holding.qty < 0]:
            contract, quantities = parse_occ(symbol), self.holders(symbol).values()
            none_left = sum(quantities, ZERO) <= 0 < max(quantities)
            if none_left and not (contract is not None and contract.expiry <= today) and self._is_sold_by_main(symbol):
                symbols.add(symbol)
        return symbols

    def _is_sold_by_main(self, symbol: str) -> bool:
        if any(order.closing and not order.known for order in self.working(symbol)):
            return False
        sales = (o for o in self.orders.values() if (o.account, o.side, o.symbol) == (MAIN, "sell", symbol))
        return any(order.fills for order in sales)

    def holders_before(self, symbol: str, date: str) -> dict[str, Decimal]:
        """Return who held how much at the close before this New York date."""
        entries = self.held.get(symbol, [])
        place = bisect_left(entries, date, key=lambda entry: entry[0])
        return dict(entries[place - 1][1]) if place else {}

    def trades_since(
        self, symbol: str, ns: int, kinds: Collection[str] = ("FILL", SHARE_TRANSFER)
    ) -> dict[str, Decimal]:
        """Return the signed quantity that each sub-account has bought, sold or been given since a time."""
        quantities: dict[str, Decimal] = {}
        for name, account in self.accounts.items():
            for row in (line.fields for line in account.activities if line.time_ns >= ns):
                if row.get("symbol") == symbol and row["activity_type"] in kinds and not amends(row):
                    sign = -1 if row.get("side") == "sell" else 1
                    quantities[name] = quantities.get(name, ZERO) + sign * Decimal(str(row["qty"]))
        return quantities

    def holders_at(self, symbol: str, ns: int) -> dict[str, Decimal]:
        """Return the holders at a time, computed back from the trades since.

        A person's moves since are not reversed: they were made in the shares that the books have now.
        """
        trades = self.trades_since(symbol, ns, ("FILL",))
        names = self.accounts.keys() & (self.holders(symbol).keys() | trades.keys())
        quantities = {name: self.accounts[name].quantity(symbol) - trades.get(name, ZERO) for name in sorted(names)}
        return {name: quantity for name, quantity in quantities.items() if quantity}

    def take_coins(self, coins: Iterable[AlpacaPosition]) -> None:
        """Set `main`'s crypto to the broker's: no other sub-account can hold any, and fees are taken in coins."""
        for symbol in [symbol for symbol in self.main.holdings if symbol in self.coins or is_pair(symbol)]:
            del self.main.holdings[symbol]
        for coin in coins:
            self.main.hold(coin)
        self.coins = tuple(coin.symbol for coin in coins)

    def open_with(self, positions: Iterable[tuple[str, Decimal, Decimal]], since_date: str) -> None:
        """Give `main` what the account holds at the opening, as held since `since_date`."""
        for symbol, quantity, average in positions:
            self.main.hold(AlpacaPosition(symbol, quantity, average))
            self.held[symbol] = [(since_date, {MAIN: quantity})]

    # --- figures ------------------------------------------------------------------------------------------------------

    def worth(self, account: str, marks: Mapping[str, Decimal]) -> Decimal:
        """Return cash and holdings of a sub-account at `marks`, USD a share; holdings without one at average price."""
        sub_account = self.accounts[account]
        values = (h.qty * marks.get(s, h.average) * multiplier(s) for s, h in sub_account.holdings.items())
        return sub_account.cash + sum(values, ZERO)

    def sums(self) -> tuple[Decimal, dict[str, Decimal]]:
        """Return the cash and the holdings of all sub-accounts together."""
        quantities: dict[str, Decimal] = {}
        for account in self.accounts.values():
            for symbol, holding in account.holdings.items():
                quantities[symbol] = quantities.get(symbol, ZERO) + holding.qty
        cash = sum((account.cash for account in self.accounts.values()), ZERO)
        return cash, {symbol: quantity for symbol, quantity in quantities.items() if quantity}

    def _last_names(self) -> set[str]:
        """Return the names of each sub-account's newest orders that the broker showed and that ended without a fill."""
        ended: dict[str, list[tuple[int, str]]] = {}
        for order in self.orders.values():
            if order.account != MAIN and order.known and not order.open and not order.filled:
                ended.setdefault(order.account, []).append((order.created_ns, order.name))
        return {name for orders in ended.values() for _, name in sorted(orders)[-LAST_ORDERS:]}

    def forget(self) -> None:
        """Drop entries too old to be requested."""
        today = new_york_date(self.now_ns)
        orders_from, lines_from, held_from = (
            (today - timedelta(days=days)).isoformat() for days in (ORDERS_DAYS, LINES_DAYS, HELD_DAYS)
        )
        last_names = self._last_names()
        for name, order in list(self.orders.items()):
            ended_ns = _updated_ns(order.row) if order.row else order.created_ns
            stays = order.filled or name in last_names  # for a desk that was away
            from_date = lines_from if stays else orders_from
            if not order.open and new_york_date(ended_ns).isoformat() < from_date:
                self.drop(name)
                self.names.pop(order.id, None)
        for choices in (self.lapses, self.exercises):
            for symbol, name in list(choices.items()):
                if symbol not in self.settled and not self.accounts[name].quantity(symbol):
                    del choices[symbol]
        for line, (at_ns, _) in list(self.lines.items()):
            if new_york_date(at_ns).isoformat() < lines_from:
                del self.lines[line]
        for account in self.accounts.values():
            account.activities = [a for a in account.activities if new_york_date(a.time_ns).isoformat() >= lines_from]
        self.trades = {date: trades for date, trades in self.trades.items() if date >= lines_from}
        self.moving = [moving for moving in self.moving if moving.date >= lines_from]
        self.lieu = {symbol: one for symbol, one in self.lieu.items() if one[0] >= lines_from}
        for symbol, entries in list(self.held.items()):
            place = bisect_left(entries, held_from, key=lambda entry: entry[0])
            self.held[symbol] = entries[max(place - 1, 0) :]
            if len(self.held[symbol]) == 1 and not self.held[symbol][0][1]:
                del self.held[symbol]


def day_fill(order: GatewayOrder, quantity: Decimal, price: Decimal) -> DayFill:
    """Return a fill of an order as a `DayFill`."""
    return DayFill(order.account, order.symbol, order.sign, quantity, price, order.id)


def is_coin(symbol: str) -> bool:
    """Return whether a symbol is crypto's, in the form of orders or of positions: no share has six letters."""
    return is_pair(symbol) or re.fullmatch(r"[A-Z0-9]{3,}USD[CT]?", symbol) is not None


def is_pair(symbol: str) -> bool:
    """Return whether orders of this symbol trade crypto, as BTC/USD; the position in it is called BTCUSD."""
    return "/" in symbol


def dollars(symbol: str) -> int:
    """Return how much cash in USD one unit moves for each USD of its price; 0 for a pair that is paid in coins."""
    return 0 if is_pair(symbol) and not symbol.endswith("/USD") else multiplier(symbol)


def digest(books: Ledgers) -> str:
    """Return the SHA-256 of the books as JSON with sorted keys."""
    return hashlib.sha256(_encoder.encode(books)).hexdigest()


_encoder = msgspec.json.Encoder(order="deterministic")


def name_of_part(line_id: str, account: str) -> str:
    """Return the id of a sub-account's part of a ledger line: same time, another UUID; `main` keeps the line's id."""
    if account == MAIN:
        return line_id
    prefix, _, rest = line_id.rpartition("::")
    return f"{prefix}::{uuid.uuid5(uuid.NAMESPACE_OID, f'{rest} {account}')}"


def name_of_call(account: str) -> str:
    """Return a new name for a close call, used until the broker's answer names its order."""
    return f"{CALL}{account}-{uuid.uuid4()}"


def caller(name: str) -> str:
    """Return the sub-account in a close call's name, "" for any other name."""
    return name[len(CALL) : -len("-") - 36] if name.startswith(CALL) else ""


def line_stamp(ns: int) -> str:
    """Return a time in the form with which an activity's id begins: `YYYYMMDDHHMMSSmmm`, New York."""
    local = datetime.fromtimestamp(ns // SECOND_NS, wire.NEW_YORK)
    return f"{local:%Y%m%d%H%M%S}{ns // MILLISECOND_NS % 1000:03d}"


def stamped_ns(line_id: str) -> int | None:
    """Return the time with which an activity's id begins, as `line_stamp` makes it; None for an id without one."""
    try:
        local = datetime.strptime(line_id[:14], "%Y%m%d%H%M%S").replace(tzinfo=wire.NEW_YORK)
        milliseconds = int(line_id[14:17] or 0)
    except ValueError:
        return None
    return int(local.timestamp()) * SECOND_NS + milliseconds * MILLISECOND_NS


def submitted_ns_of(row: Json, default_ns: int) -> int:
    """Return when the broker accepted an order, by its row; `default_ns` where the row has no time."""
    ns = wire.first_moment_ns(row, "submitted_at", "created_at")
    return default_ns if ns is None else ns


def _updated_ns(row: Json) -> int:
    return wire.first_moment_ns(row, "updated_at", "submitted_at") or 0
