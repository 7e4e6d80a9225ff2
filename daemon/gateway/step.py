"""One event of a gateway: how the books change, and which effects follow.

`step` depends on books and event alone, so a journal can be stepped again. What an order must pass before it becomes an
event is in `rules.py`; how a ledger line is divided, in `parts.py`.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from msgspec.structs import replace

from daemon.alpaca_api.books import AlpacaPosition
from daemon.alpaca_api.wire import ZERO, Json, multiplier, text
from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.trading.report import amended_execution, amends, execution_of, ledger_fill, standing
from daemon.core.book import CENT, OPTION_MULTIPLIER
from daemon.core.broker.ledger import AMENDED, CASH_IN_LIEU, CONTRACT_CASH, CONTRACT_ENDS, in_order
from daemon.core.events import Activity
from daemon.core.instruments.option_market import parse_occ, root_of
from daemon.core.orders import parse_name
from daemon.core.session import CLOSES_MIN, new_york_date, new_york_minute
from daemon.gateway.books import (
    CANCELED,
    CASH,
    EXPIRED,
    LOST,
    SENDING,
    SHARE_TRANSFER,
    UNKNOWN,
    GatewayOrder,
    Ledgers,
    LinePart,
    Moving,
    SubAccount,
    caller,
    line_stamp,
    name_of_part,
    submitted_ns_of,
)
from daemon.gateway.events import (
    MAIN,
    AnyGatewayEffect,
    AnyGatewayEvent,
    CancelSibling,
    CloseTaken,
    DifferenceAccepted,
    EntriesEnded,
    ExerciseAsked,
    FillsRead,
    GatewayStarted,
    Halted,
    LapseChosen,
    Missing,
    Opened,
    OrderAnswered,
    OrderRefused,
    OrderTaken,
    OrderUnanswered,
    PassOn,
    ReadFills,
    ReplaceTaken,
    Reported,
    Resumed,
    RowsLeftOut,
    SendOrder,
    Suspended,
    Transferred,
    Updated,
    Warn,
)
from daemon.gateway.parts import (
    EARLY,
    LAPSED,
    LedgerLine,
    divide,
    early_shares,
    exercises,
    line_of,
    some_of,
)
from strategies.kit.quantity import FINEST
from strategies.kit.units import DAY_NS, MINUTE_NS, SECOND_NS

CRYPTO = "crypto"  # the class of a coin's asset
READ_AGAIN_DAYS = 7  # most days of orders and lines that are read again after a damaged row
OWES_USD = Decimal(1)  # least lack of cash in `main` to report: less comes from fees or interest
LASTS_NS = 10 * SECOND_NS  # a younger difference may be news on its way
FILLS = ("fill", "partial_fill")
REPLACE_REJECTED, REJECTED = "order_replace_rejected", "rejected"
AMENDMENTS = ("trade_bust", "trade_correct")
CASH_TRANSFER = "JNLC"  # kind of an activity of cash moved between sub-accounts
DESK_SHORT = "gateway_desk_short"


class Bookkeeper:
    """The books, and the one way to change them."""

    def __init__(self, books: Ledgers | None = None) -> None:
        self.books = books or Ledgers()
        self.whole_until_ns: int | None = None  # time of the last report before a row that was left out
        self.owners_later: Mapping[str, str] = {}  # order's name or id -> sub-account, from rows after that one
        self.has_divided = False  # the last event divided a line, or contracts that ended without one
        self._effects: list[AnyGatewayEffect] = []

    def step(self, event: AnyGatewayEvent) -> list[AnyGatewayEffect]:
        """Apply one event; returns its effects in order."""
        books, self._effects, self.has_divided = self.books, [], False
        books.now_ns = max(books.now_ns, event.time_ns)
        books.seq += 1
        match event:
            case OrderTaken() | ReplaceTaken() | CloseTaken():
                self._take(event)
            case OrderAnswered(name=name, row=row):
                self._answer(name, row)
            case OrderRefused(name=name) | Missing(name=name):
                self._doubt(name, LOST)
            case OrderUnanswered(name=name):
                self._doubt(name, UNKNOWN)
            case Updated(update=update):
                self._update(update)
            case Reported():
                self._report(event)
            case FillsRead(order_id=order_id, lines=lines):
                self._amend(order_id, lines)
            case Opened():
                self._open(event)
            case Transferred():
                self._move(event)
            case DifferenceAccepted():
                self._accept(event)
            case Suspended(account=account, on=on):
                books.accounts[account].suspended = on
            case LapseChosen(account=account, symbol=symbol):
                books.lapses[symbol] = account
                books.exercises.pop(symbol, None)
            case ExerciseAsked(account=account, symbol=symbol, on=on):
                books.lapses.pop(symbol, None)
                books.exercises.pop(symbol, None)
                if on:
                    books.exercises[symbol] = account
            case Halted():
                books.halt = (event.reason, event.detail, event.until_date)
                self._give_way(books.entries())
            case EntriesEnded(ended=ended):
                self._give_way(ended)
            case RowsLeftOut(rows=rows, since_ns=since_ns):
                self._go_on_without(rows, since_ns)
            case Resumed():
                books.halt = None
            case GatewayStarted(code=code, guards=guards):
                books.code, books.guards, books.amending = code, guards, {}
                books.go_on_at(event.time_ns)
        return self._effects

    def leave_out(self, row: int) -> None:
        """Skip an unreadable row of the journal; it still counts in `seq`."""
        self.books.seq = row
        if self.whole_until_ns is None:
            self.whole_until_ns = self.books.reported_ns

    def _do(self, effect: AnyGatewayEffect) -> None:
        self._effects.append(effect)

    def _go_on_without(self, rows: Sequence[str], since_ns: int) -> None:
        """Halt new risk; let the next report read all orders and lines since the rows that were left out."""
        books, more = self.books, f", and {len(rows) - 1} more" if len(rows) > 1 else ""
        words = f"left out of the journal: {rows[0]}{more}: transfers, fences and lapses in them are gone"
        books.halt = ("journal_damaged", words + books.former_halt_words, "")
        books.reported_ns = max(since_ns, books.now_ns - READ_AGAIN_DAYS * DAY_NS)
        self.whole_until_ns, self.owners_later = None, {}

    # --- the opening and transfers ------------------------------------------------------------------------------------

    def _open(self, event: Opened) -> None:
        """Give everything to `main`, then each other sub-account its capital."""
        books = self.books
        books.number, books.broker_account, books.guards = event.number, event.account, event.guards
        books.main.number = event.number
        books.main.cash = wire.decimal(event.account.get("cash"), "cash")
        books.reported_ns = event.time_ns
        yesterday = (new_york_date(event.time_ns) - timedelta(days=1)).isoformat()
        positions = wire.positions(event.positions)
        books.open_with(((p.symbol, p.quantity, p.average_price) for p in positions), yesterday)
        for row in event.orders:
            order = self._adopt(row)
            order.base = wire.optional_decimal(row, "filled_qty") or ZERO
            books.keep(order)  # its fills so far are in the account's holdings
        books.lines = dict.fromkeys(event.lines, (event.time_ns, {}))
        for name, capital in event.capital.items():
            self._fund(name, capital)

    def _fund(self, name: str, capital: Decimal) -> None:
        books = self.books
        if name not in books.accounts:
            books.accounts[name] = SubAccount(name, f"{books.number}-{name}")
        books.accounts[name].capital += capital
        books.accounts[name].last_equity += capital
        books.move(MAIN, name, capital, "", ZERO)

    def _move(self, event: Transferred) -> None:
        """Move cash or a quantity, with an activity on each side, as the broker notes a journal between accounts."""
        books = self.books
        if event.target not in books.accounts:
            self._fund(event.target, event.cash)
            return
        cost = books.move(event.source, event.target, event.cash, event.symbol, event.quantity)
        for name, sign in ((event.source, -1), (event.target, 1)):
            if event.cash:
                self._note_move(name, event.why, cash=sign * event.cash)
            if event.quantity:
                price = abs(cost / event.quantity / multiplier(event.symbol))
                self._note_move(name, event.why, event.symbol, sign * event.quantity, price)

    def _accept(self, event: DifferenceAccepted) -> None:
        """Book a difference that no line explains as a journal from outside; then books and broker agree."""
        books, account, change = self.books, event.account, event.change
        if event.what == CASH:
            books.take_in(account, LinePart(amount=change), "")
            self._note_move(account, event.why, cash=change)
        else:
            books.take_in(account, LinePart(change, cost=change * event.price * multiplier(event.what)), event.what)
            self._note_move(account, event.why, event.what, change, event.price)
            self._end_uncovered_sales(account, event.what)
        _, words = books.differences.pop(event.what, (0, ""))
        books.doubts = tuple(doubt for doubt in books.doubts if doubt != words)

    def _note_move(
        self, name: str, why: str, symbol: str = "", quantity: Decimal = ZERO, price: Decimal = ZERO, *,
        cash: Decimal = ZERO,
    ) -> None:  # fmt: skip
        books = self.books
        kind = CASH_TRANSFER if not symbol else CONTRACT_CASH if cash else SHARE_TRANSFER
        shares = {"symbol": symbol, "qty": text(quantity), "price": text(price)} if symbol else {}
        words = f"{books.seq} {name} {kind}" + (f" {symbol}" if kind == CONTRACT_CASH else "")  # several a report
        fields: Json = {
            "id": f"{line_stamp(books.now_ns)}::{uuid.uuid5(uuid.NAMESPACE_OID, words)}",
            "activity_type": kind,
            "date": new_york_date(books.now_ns).isoformat(),
            "net_amount": text(cash),
            "description": why,
            "status": "executed",
        }
        books.note(books.accounts[name], fields | shares)

    # --- orders -------------------------------------------------------------------------------------------------------

    def _take(self, event: OrderTaken | ReplaceTaken | CloseTaken) -> None:
        books = self.books
        match event:
            case OrderTaken():
                body = event.body
                order = GatewayOrder(
                    event.account, event.name, str(body["symbol"]), str(body["side"]), SENDING, event.time_ns,
                    quantity=wire.optional_decimal(body, "qty"), body=body, reserve=event.reserve,
                    against=event.against,
                )  # fmt: skip
                how = "post"
            case ReplaceTaken():
                old = books.orders[event.replaced]
                body = {**old.body, **{k: v for k, v in old.row.items() if v is not None}, **event.changes}
                whole = wire.optional_decimal(body, "qty")
                order = GatewayOrder(
                    event.account, event.name, old.symbol, old.side, SENDING, event.time_ns,
                    quantity=None if whole is None else whole - old.filled, body=event.changes, reserve=event.reserve,
                    replaces=old.name, against=event.against,
                )  # fmt: skip
                how = "replace"
            case _:
                order = GatewayOrder(
                    event.account, event.name, event.symbol, event.side, SENDING, event.time_ns,
                    quantity=event.quantity, closing=True, keeps_name=event.for_order, against=event.against,
                )  # fmt: skip
                how = "close"
                if event.for_order:
                    words = f"{event.account}: {event.name}: {text(event.quantity)} {event.symbol}"
                    self._do(Warn("gateway_exit_called", f"{words}: an order of a person is in its way"))
        if order.quantity is None or order.quantity % 1:
            books.accounts[order.account].fractions = True
        books.keep(order)
        self._give_way(order.against)
        self._do(SendOrder(event.name, how))

    def _give_way(self, names: Iterable[str]) -> None:
        """Cancel these entries; their desks see them expire."""
        for name in names:
            self.books.orders[name].gives_way = True
            self._do(CancelSibling(name))

    def _answer(self, name: str, row: Json) -> None:
        """Take the broker's row of an order that was sent; a close call's order takes the name in the row."""
        books, real = self.books, str(row.get("client_order_id") or name)
        if name not in books.orders and self.whole_until_ns is not None:
            self._restore_order(name, real, row)
        order = books.orders[name]
        if real != name:
            strange = books.orders.get(real)
            if strange is not None and strange is not order:
                self._give(strange, order)  # its news came before the answer, and was `main`'s
                books.drop(name)
                if order.keeps_name:
                    books.drop(real)
                    strange.name = books.names[strange.id] = name
                    books.keep(strange)
                books.show(strange, row)
                return
            if not order.keeps_name:
                books.drop(name)
                order.name = real
        rejected = order.status == REJECTED and not order.known  # the stream was faster than the answer
        books.show(order, {**row, "status": REJECTED} if rejected else row)

    def _give(self, strange: GatewayOrder, to: GatewayOrder) -> None:
        """Give an order that was `main`'s because its name was unknown, with its fills, to this sub-account."""
        books, size = self.books, multiplier(strange.symbol)
        giver, taker = books.accounts[strange.account], books.accounts[to.account]
        strange.closing, strange.keeps_name = to.closing, to.keeps_name
        if giver is taker:
            return
        trades = books.trades_of(strange)
        books.retrade(strange, [(date, replace(fill, account=to.account)) for date, fill in trades])
        for quantity, price in strange.fills.values():
            cost = strange.sign * quantity * price * size
            giver.cash += cost
            taker.cash -= cost
            change = strange.sign * quantity
            giver.change(strange.symbol, -change, -cost)
            taker.change(strange.symbol, change, cost)
            books.note_holders(strange.symbol, {giver.name: -change, taker.name: change})
        rows = [line for line in giver.activities if line.fields.get("order_id") == strange.id]
        giver.activities = [line for line in giver.activities if line.fields.get("order_id") != strange.id]
        taker.activities.extend(rows)
        strange.account = to.account

    def _doubt(self, name: str, status: str) -> None:
        """Note the status of an unanswered order; a row that the broker showed takes precedence."""
        order = self.books.orders[name]
        if not order.known:
            order.status = status
            self.books.keep(order)
        if order.replaces and not order.open:  # the former order stays, and may exceed the holding now
            self._end_uncovered_sales(order.account, order.symbol)

    def _adopt(self, row: Json) -> GatewayOrder:
        """Take in an order that the books do not have, for the maker of its name (a guard or a desk), else `main`."""
        books = self.books
        name = str(row.get("client_order_id") or row["id"])
        account = next((a for prefix, a in books.guards if name.startswith(prefix) and a in books.accounts), "")
        account = account or self._owner_later(row) or self._maker(name)
        side = "buy" if wire.side_of(row.get("side")) > 0 else "sell"
        created_ns = submitted_ns_of(row, books.now_ns)
        symbol, reserve = wire.text(row.get("symbol")), _reserve_of(row)
        order = GatewayOrder(account, name, symbol, side, "", created_ns, reserve=reserve)
        if (old_order := books.order_by_id(wire.text(row.get("replaces")))) is not None:
            order.account, order.replaces = old_order.account, old_order.name
        if order.account == MAIN and order.symbol:
            order.account = self._sold_out(order, row)
        known_ns = books.reported_ns if self.whole_until_ns is None else self.whole_until_ns
        if created_ns < known_ns - DAY_NS:  # the books had it before, or it ended before they began
            order.base = wire.optional_decimal(row, "filled_qty") or ZERO
        books.show(order, row)
        return order

    def _restore_order(self, name: str, real: str, row: Json) -> None:
        """Take in an order whose row was left out, as a request on its way to the answer in the journal."""
        if (account := caller(name) or self._owner_later(row) or self._maker(name)) == MAIN:
            return
        self.books.keep(
            GatewayOrder(
                account, name, wire.text(row.get("symbol")), wire.text(row.get("side")), SENDING, self.books.now_ns,
                quantity=wire.optional_decimal(row, "qty"), reserve=_reserve_of(row), closing=real != name,
                keeps_name=real != name and not caller(name),
            )
        )  # fmt: skip

    def _owner_later(self, row: Json) -> str:
        """Return the sub-account that later rows name for this order after a row was left out; "" without one."""
        account = self.owners_later.get(wire.text(row.get("id")), "")
        return account if account in self.books.accounts else ""

    def _call_of(self, row: Json) -> GatewayOrder | None:
        """Return the close call that may have made this order and whose answer was left out; None without one."""
        if self.whole_until_ns is None or row.get("type") != "market":
            return None
        request = row.get("side"), wire.optional_decimal(row, "qty")
        calls = [order for order in self.books.working(wire.text(row.get("symbol"))) if order.closing]
        return next((call for call in calls if not call.known and (call.side, call.quantity) == request), None)

    def _maker(self, name: str) -> str:
        """Return the sub-account whose desk numbers its orders with the stem of this name; `main` without one.

        A restored copy of the journal has a desk's earlier orders, but not its newest ones.
        """
        if (new := parse_name(name)) is None:
            return MAIN
        name_owners = ((order.name, order.account) for order in self.books.orders.values())
        parsed_names = ((account, parse_name(old)) for old, account in (*name_owners, *self.owners_later.items()))
        owners = {account for account, old in parsed_names if old is not None and old.stem == new.stem} - {MAIN}
        return owners.pop() if len(owners) == 1 else MAIN

    def _sold_out(self, order: GatewayOrder, row: Json) -> str:
        """Return the owner of an unknown order that may be the broker's own sale of a contract on its last day.

        Alpaca sells what the account could not exercise. The owner is the contract's only holder, else `main`, as where
        `main` may have bought some: one report has purchase and sale before their fills are booked.
        """
        contract, holders = parse_occ(order.symbol), self.books.holders(order.symbol)
        last_day = contract is not None and contract.expiry == new_york_date(order.created_ns).isoformat()
        is_immediate = last_day and (order.side, row.get("type")) == ("sell", "market")
        (holder, holding), *other_holders = *holders.items(), (MAIN, ZERO)
        quantity = wire.optional_decimal(row, "qty") or ZERO
        is_theirs = len(other_holders) == 1 and ZERO < quantity <= holding
        bought = any(purchase.symbol == order.symbol for purchase in self.books.purchases((MAIN,)))
        return holder if is_immediate and is_theirs and not bought else MAIN

    def _order_of(self, row: Json) -> GatewayOrder:
        """Return the order of a broker's row; an unknown one is taken in."""
        books = self.books
        order = books.order_by_id(str(row["id"])) or books.orders.get(wire.text(row.get("client_order_id")))
        if order is None and (call := self._call_of(row)) is not None:
            self._answer(call.name, row)
            return call
        return order if order is not None else self._adopt(row)

    # --- the stream ---------------------------------------------------------------------------------------------------

    def _update(self, update: Json) -> None:
        """Take an update of the stream: the order's row, its fill, and the news for its owner."""
        row = update["order"]
        if not wire.text(row.get("symbol")):  # a parent of several legs is not booked here
            self._do(Warn("gateway_order_unreadable", f"order {row.get('id')} of several legs: by the next report"))
            return
        order, event = self._order_of(row), str(update.get("event") or "")
        self.books.show(order, row, amended=event in AMENDMENTS)
        if event in FILLS:
            self._fill_from(order, update, row)
        elif event in AMENDMENTS:
            execution = amended_execution(update)
            if execution and execution not in order.amended_fills:
                order.amended_fills = (*order.amended_fills, execution)
            self._read_fills(order.id)
        elif event == REPLACE_REJECTED:
            self._end_replacements(order)
        if order.account != MAIN:
            position = self.books.accounts[order.account].quantity(order.symbol)
            news = {**update, "order": order.shown()}
            if order.gives_way and event == CANCELED:
                news["event"] = EXPIRED
            if "position_qty" in update:
                news["position_qty"] = text(position)
            self._do(PassOn(order.account, news))

    def _end_replacements(self, old: GatewayOrder) -> None:
        """End the replacements of an order that the broker did not replace."""
        for order in self.books.open_orders():
            if order.replaces == old.name and not order.filled:
                order.status = REJECTED
                if order.known:
                    order.row = {**order.row, "status": REJECTED}
                self.books.keep(order)
        self._end_uncovered_sales(old.account, old.symbol)

    def _fill_from(self, order: GatewayOrder, update: Json, row: Json) -> None:
        cumulative = wire.decimal(row.get("filled_qty"), "filled_qty")
        quantity, price = wire.decimal(update.get("qty"), "qty"), wire.decimal(update.get("price"), "price")
        execution = wire.text(update.get("execution_id"))
        line = self._fill_line(order, row, execution, cumulative, quantity, price, wire.text(update.get("timestamp")))
        self.books.fill(order, cumulative, quantity, price, line)

    def _fill_line(
        self,
        order: GatewayOrder,
        row: Json,
        execution: str,
        cumulative: Decimal,
        quantity: Decimal,
        price: Decimal,
        moment: str,
    ) -> Json:
        """Return the FILL row of a sub-account's activities; its id is the broker's if the stream has one."""
        name = execution or str(uuid.uuid5(uuid.NAMESPACE_OID, f"{order.id} {text(cumulative)}"))
        whole = wire.optional_decimal(row, "qty")
        rest = ZERO if whole is None else max(whole - cumulative, ZERO)
        return {
            "id": f"{line_stamp(wire.time_ns(moment))}::{name}",
            "activity_type": "FILL",
            "transaction_time": moment,
            "type": "partial_fill" if rest else "fill",
            "price": text(price),
            "qty": text(quantity),
            "side": order.side,
            "symbol": order.symbol,
            "leaves_qty": text(rest),
            "order_id": order.id,
            "cum_qty": text(cumulative),
            "order_status": str(row.get("status")),
        }

    def _read_fills(self, order_id: str) -> None:
        self.books.amending.setdefault(order_id, self.books.now_ns)
        self._do(ReadFills(order_id))

    def _amend(self, order_id: str, lines: Sequence[Json]) -> None:
        """Replace an order's fills by those that stand after all its lines, busts and corrections included.

        A line whose fill is not in the ledger yet is read again with the next report.
        """
        books, order = self.books, self.books.order_by_id(order_id)
        if order is None and self.whole_until_ns is not None:
            return  # its rows were left out: its fills are read again after the report that restores it
        amending: dict[str, tuple[int, dict[str, LinePart]]] = {
            str(row["id"]): (books.now_ns, {}) for row in lines if amends(row)
        }
        if order is None or order.base:
            books.amending.pop(order_id, None)
            books.lines |= amending
            self._do(Warn("gateway_fill_amended", f"order {order_id}: an older fill changed; it is compared"))
            return
        try:
            stands = standing(lines, order.amended_fills)
        except wire.Malformed as odd:
            if (case := f"{order_id} {sorted(amending)}") not in books.lines:
                books.lines[case] = (books.now_ns, {})
                self._do(Warn("gateway_fill_amended", f"order {order.name}: {odd}"))
            return
        books.amending.pop(order_id, None)
        books.lines |= amending
        cumulatives = [ledger_fill(row).cumulative for row in lines if not amends(row)]
        amended_ns = max((amendment.time_ns for amendment in stands.amendments), default=order.amended_ns)
        change = books.amend(order, stands.fills, cumulatives, amended_ns)
        account = books.accounts[order.account]
        known_ids = {execution_of(line.id) for line in account.activities}
        for row in lines:
            if execution_of(str(row["id"])) not in known_ids:
                books.note(account, row)
        self._end_uncovered_sales(order.account, order.symbol)
        if change.quantity or change.amount:
            words = f"{order.account}: {order.name}: {text(change.quantity)} {order.symbol}, {change.amount} USD"
            self._do(Warn("gateway_fill_amended", words))

    def _end_uncovered_sales(self, account: str, symbol: str) -> None:
        """Cancel a sub-account's newest sales beyond its holding: they would sell another's shares.

        While amended fills of its orders are being read the holding is not known: it is checked again after that.
        """
        books = self.books
        if any((order.account, order.symbol) == (account, symbol) for order in books.orders_in_amendment()):
            return
        sales = [o for o in books.sales_of_desks(symbol) if o.account == account]
        for order in _newest(sales, books.accounts[account].quantity(symbol)):
            self._do(CancelSibling(order.name))

    def _end_sales_beyond_account(self, symbol: str) -> None:
        """Cancel the newest resting sales of sub-accounts beyond what the account has; their desks see them expire.

        An assignment of a person's short call takes shares for which a desk rests a stop: that would sell short.
        """
        books = self.books
        if all(order.symbol != symbol for order in books.orders_in_amendment()):
            sales = [order for order in books.sales_of_desks(symbol) if order.known]
            self._give_way(order.name for order in _newest(sales, sum(books.holders(symbol).values(), ZERO)))

    # --- reports ------------------------------------------------------------------------------------------------------

    def _report(self, event: Reported) -> None:
        """Take a report: orders, fills that no stream brought, the ledger's lines; then compare the sums.

        Behind a row that was left out, lines wait for the report that restores its fills: holdings divide them.
        """
        books, today = self.books, new_york_date(self.books.now_ns).isoformat()
        marks = books.marks or prices_of(event.positions)
        former_worth = {name: books.worth(name, marks) for name in books.accounts}
        books.broker_account = event.account
        books.broker_cash = wire.decimal(event.account.get("cash"), "cash")
        positions = wire.positions(event.positions)
        books.broker_held = {p.symbol: p.quantity for p in positions}
        books.broker_averages = {p.symbol: p.average_price for p in positions}
        coins = {row.get("symbol") for row in event.positions if row.get("asset_class") == CRYPTO}
        books.take_coins(
            [AlpacaPosition(p.symbol, p.quantity, p.average_price) for p in positions if p.symbol in coins]
        )
        for row in sorted(event.orders, key=_made_ns):  # oldest first: a replacement gets its order's owner
            if wire.text(row.get("symbol")):
                books.show(self._order_of(row), row)
        for order_id in event.gone:
            order = books.order_by_id(order_id)
            if order is not None and not order.filled and event.asked_ns - order.created_ns > MINUTE_NS:
                order.status = LOST
                books.keep(order)
        fills = [row for row in event.lines if row.get("activity_type") == "FILL"]
        for row in sorted(fills, key=lambda row: str(row.get("id"))):
            self._ledger_fill(row)
        books.ratios |= {line: ratio for line, ratio in event.ratios.items() if ratio and line not in books.lines}
        books.spun |= {line: some for line, some in event.spun.items() if some and line not in books.lines}
        lines = [(row, event.ex_dates.get(str(row["id"]), "")) for row in event.lines if row["activity_type"] != "FILL"]
        if self.whole_until_ns is not None:
            books.lines_later += [(books.now_ns, *line) for line in lines]
            return
        self._book_lines([*(later[1:] for later in books.lines_later), *lines])
        books.lines_later = []
        self._settle_without_ledger(event)
        self._compare(event)
        self._tell_shortages()
        newest = books.changed_ns < event.asked_ns
        for account, symbol in sorted({(order.account, order.symbol) for order in books.open_orders()}):
            if lines or (newest and symbol not in books.differences):  # a guard's stop did not pass the rules here
                self._end_uncovered_sales(account, symbol)
        if newest:
            for symbol in sorted({order.symbol for order in books.open_orders()} - books.differences.keys()):
                self._end_sales_beyond_account(symbol)
        if books.day[0] < today:
            books.forget()
            self._begin_day(today, former_worth)
        books.reported_ns = event.asked_ns

    def _book_lines(self, rows: Sequence[tuple[Json, str]]) -> None:
        """Book lines of the ledger other than fills, each with its ex-date."""
        lines = [(line_of(row), row, ex_date) for row, ex_date in rows]
        for line, row, ex_date in in_order(sorted(lines, key=lambda entry: entry[0].id), lambda it: _activity(it[0])):
            self._line(line, row, ex_date)

    def _ledger_fill(self, row: Json) -> None:
        """Book a fill of the ledger, unless the stream brought it."""
        books, order = self.books, self.books.order_by_id(wire.text(row.get("order_id")))
        if amends(row):
            if order is not None and str(row["id"]) not in books.lines:
                self._read_fills(order.id)  # repeated with each report until they are read
            return
        fill = ledger_fill(row)
        if order is not None:
            books.fill(order, fill.cumulative, fill.quantity, fill.price, row)

    def _line(self, line: LedgerLine, row: Json, ex_date: str) -> None:
        """Book a line of the ledger in parts, once; an amended line first reverses its former parts."""
        books = self.books
        former = books.lines.get(line.id)
        if line.status in AMENDED:
            if f"{line.id} {line.status}" in books.lines:
                return
            books.lines[f"{line.id} {line.status}"] = (books.now_ns, {})
            for name, part in (former[1] if former is not None else {}).items():
                back = LinePart(-part.quantity, -part.amount, -part.cost, part.rescales)
                books.book(name, line.symbol, back, line.date)
            self._do(Warn("gateway_line_amended", f"{line.kind} {line.symbol} {line.id}: {line.status}"))
            if line.status == "canceled":
                return
        elif former is not None or self._comes_early(line):
            return
        self._take_back(line)
        division, self.has_divided = divide(books, line, ex_date), True
        if line.kind in CONTRACT_ENDS:
            books.exercises.pop(line.symbol, None)
        books.ratios.pop(line.id, None)
        books.spun.pop(line.id, None)
        books.lines[line.id] = (books.now_ns, division.parts)
        if division.doubt:
            self._do(Warn("gateway_line_unowned", division.doubt))
        for name, part in division.parts.items():
            if not division.early:
                books.book(name, line.symbol, part, line.date)
            part_row = {**row, "id": name_of_part(line.id, name)}
            if len(division.parts) > 1 or name != MAIN:
                part_row["net_amount"] = text(part.amount)
                if "qty" in row:
                    part_row["qty"] = text(part.quantity or self._part_of_quantity(line, part))
            books.note(books.accounts[name], part_row)

    def _comes_early(self, line: LedgerLine) -> bool:
        """Return whether cash in lieu came before the line of its shares and waits for it, through the next day.

        Then books and broker differ by more than that fraction. Later reports do not contain the cash again.
        """
        books = self.books
        yesterday = new_york_date(books.now_ns) - timedelta(days=1)
        if line.kind != CASH_IN_LIEU or line.date < yesterday.isoformat():
            return False
        apart = sum(books.holders(line.symbol).values(), line.quantity) - books.broker_held.get(line.symbol, ZERO)
        return apart != 0 if line.quantity else abs(apart) >= 1

    def _part_of_quantity(self, line: LedgerLine, part: LinePart) -> Decimal:
        """Return for how many shares a part of a cash line pays, where the line names how many it pays for."""
        if not line.quantity or not line.amount:
            return ZERO
        return (line.quantity * part.amount / line.amount).quantize(FINEST).normalize()

    def _settle_without_ledger(self, event: Reported) -> None:
        """End expired contracts that the broker no longer holds, before their line: on paper it comes a day later.

        Shares beyond the books, as many as the contracts stand for, show an exercise at the strike. A contract may also
        have been sold: while news of that may be on its way, it waits.
        """
        books, today = self.books, new_york_date(self.books.now_ns)
        is_closed = event.closed or new_york_minute(books.now_ns) >= CLOSES_MIN  # whatever the broker's clock
        over = (today + timedelta(days=int(is_closed))).isoformat()
        for symbol in [symbol for symbol, holding in books.main.holdings.items() if holding.qty < 0]:
            contract = parse_occ(symbol)
            if contract is not None and contract.expiry <= today.isoformat():
                self._pay_sale(symbol, event.asked_ns)
        contracts = {}
        for symbol in sorted({s for a in books.accounts.values() for s in a.holdings}):
            contract = parse_occ(symbol)
            if contract is None or symbol in books.broker_held or contract.expiry >= over:
                continue
            if not self._awaits_fill(symbol, event.asked_ns):
                contracts[symbol] = contract
        became_shares = exercises(books, contracts)
        for symbol, contract in contracts.items():
            holders, legs, self.has_divided = books.holders(symbol), {}, True
            for name, quantity in holders.items():
                books.book(name, symbol, LinePart(-quantity), contract.expiry)
                if symbol in became_shares:
                    leg = quantity * OPTION_MULTIPLIER * contract.right
                    legs[name] = LinePart(leg, -leg * contract.strike, leg * contract.strike)
                    books.book(name, contract.root, legs[name], contract.expiry)
            books.settled[symbol] = holders
            if legs:
                early = Moving(EARLY, contract.expiry, symbol, legs)
                books.moving.append(early)
                self._do(Warn("gateway_exercised", f"{symbol}: {text(early.total)} {contract.root} for it"))

    def _pay_sale(self, symbol: str, asked_ns: int) -> None:
        """Book a contract that `main` is short of, on its last day, as sold by its holders at that price.

        The broker's own sale of what several could not exercise names no holder, nor does a person's sale.
        """
        books, short = self.books, self.books.main.holdings[symbol]
        holders = {name: count for name, count in books.holders(symbol).items() if count > 0}
        if not holders or self._awaits_fill(symbol, asked_ns):
            return
        self.has_divided = True
        for name, count in some_of(holders, min(-short.qty, sum(holders.values(), ZERO))).items():
            amount = (count * short.average * multiplier(symbol)).quantize(CENT)
            books.book(name, symbol, LinePart(-count, amount))
            books.book(MAIN, symbol, LinePart(count, -amount))
            self._note_move(name, f"sold by nobody's order at {text(short.average)}", symbol, -count, cash=amount)
            self._do(
                Warn("gateway_sells_out", f"{name}: {text(count)} {symbol}, sold by nobody's order for {amount} USD")
            )

    def _awaits_fill(self, symbol: str, asked_ns: int) -> bool:
        """Return whether the books, or a report requested at `asked_ns`, may lack a fill of contract or shares."""
        books = self.books
        unbooked = not {symbol, root_of(symbol)}.isdisjoint(books.unbooked.values())
        return unbooked or bool(books.working(symbol)) or books.changed_ns >= asked_ns

    def _take_back(self, line: LedgerLine) -> None:
        """Reverse the shares booked early for a contract whose line shows that it lapsed."""
        books = self.books
        early = early_shares(books, line.symbol) if line.kind == LAPSED else None
        if early is None:
            return
        root = root_of(line.symbol)
        books.moving.remove(early)
        for name, part in early.parts.items():
            books.book(name, root, LinePart(-part.quantity, -part.amount, -part.cost), early.date)
        self._do(Warn("gateway_line_amended", f"{line.symbol} lapsed: {text(early.total)} {root} are taken back"))

    def _compare(self, event: Reported) -> None:
        """Compare the sums with the broker's; a difference that lasts denies new risk to all sub-accounts."""
        books, asked_ns = self.books, event.asked_ns
        self._take_rounding(event)
        cash, quantities = books.sums()
        apart: dict[str, str] = {}
        if abs(cash - books.broker_cash) >= CENT:
            apart[CASH] = f"cash {cash:.2f} in the sub-accounts, {books.broker_cash} at the broker"
        for symbol in sorted(quantities.keys() | books.broker_held.keys()):
            in_books, at_broker = quantities.get(symbol, ZERO), books.broker_held.get(symbol, ZERO)
            if in_books != at_broker:
                apart[symbol] = f"{symbol} {text(in_books)} in the sub-accounts, {text(at_broker)} at the broker"
        books.agreed_averages = {
            symbol: books.agreed_averages.get(symbol, average) if symbol in apart else average
            for symbol, average in books.broker_averages.items()
        }
        self._mark(prices_of(event.positions), apart.keys())
        if books.changed_ns >= asked_ns and not books.doubts:
            apart = {key: words for key, words in apart.items() if key in books.differences}  # news may be coming
        books.differences = {
            key: (books.differences.get(key, (books.now_ns, ""))[0], words) for key, words in apart.items()
        }
        lasting = tuple(w for since_ns, w in books.differences.values() if books.now_ns - since_ns >= LASTS_NS)
        for words in lasting:
            if words not in books.doubts:
                self._do(Warn("gateway_differs", words))
        books.doubts = lasting

    def _tell_shortages(self) -> None:
        """Warn where one sub-account is short of what others hold, so that the account has less; for cash once.

        Calls that a person wrote without shares of `main` are written on others': the broker keeps these for them.
        """
        books, shortages = self.books, dict[str, tuple[int, Decimal]]()
        short = [(n, h.symbol, h.qty, "") for n, account in books.accounts.items() for h in account.holdings.values()]
        short += [(MAIN, CASH, books.main.cash, "")] if books.main.cash <= -OWES_USD else []
        short += [(MAIN, root, quantity, " for calls that a person wrote") for root, quantity in _uncovered(books.main)]
        for name, symbol, quantity, why in short:
            owners = {n: account.cash for n, account in books.accounts.items()} if symbol == CASH else None
            holders = {n: count for n, count in (owners or books.holders(symbol)).items() if count > 0 and n != name}
            if not holders or quantity >= 0:
                continue
            key, alarm = (symbol + why, "gateway_main_short") if name == MAIN else (f"{name} {symbol}", DESK_SHORT)
            since_ns, told_quantity = books.owed.get(key, (books.now_ns, ZERO))
            lasts = books.now_ns - since_ns >= LASTS_NS and symbol not in books.differences
            if lasts and told_quantity != quantity and not (told_quantity and symbol == CASH):
                told_quantity, unit = quantity, "USD" if symbol == CASH else symbol
                parts = ", ".join(f"{holder} {text(count)}" for holder, count in sorted(holders.items()))
                self._do(Warn(alarm, f"{name} is short of {text(-quantity)} {unit}{why}, by the books held: {parts}"))
            shortages[key] = (since_ns, told_quantity)
        books.owed = shortages

    def _mark(self, prices: Mapping[str, Decimal], apart: Collection[str]) -> None:
        """Take a report's prices; where books and broker differ, and where it has none, the former price stays.

        Old shares at the price after a split would show a loss that did not happen.
        """
        books, marks = self.books, dict(prices)
        for symbol in {symbol for account in books.accounts.values() for symbol in account.holdings}:
            if symbol in books.marks and (symbol in apart or symbol not in marks):
                marks[symbol] = books.marks[symbol]
        books.marks = marks

    def _take_rounding(self, event: Reported) -> None:
        """Give `main` what the broker's rounding explains: at most a cent for each fill not in whole cents.

        A report with ledger lines may have cash from before these: the next one decides.
        """
        books, asked_ns = self.books, event.asked_ns
        if any(row["activity_type"] != "FILL" for row in event.lines):
            return
        beyond = books.broker_cash - books.sums()[0]
        if books.changed_ns >= asked_ns or books.orders_in_amendment() or abs(beyond) > books.uneven * CENT:
            return  # the news of a fill may be on its way, or it is more than rounding
        books.main.cash += beyond
        books.uneven = 0

    def _begin_day(self, today: str, former_worth: Mapping[str, Decimal]) -> None:
        """Begin a New York date with what the sub-accounts were worth by the report before its first one."""
        books = self.books
        books.day = (today, sum((usd for name, usd in former_worth.items() if name != MAIN), ZERO))
        for name, account in books.accounts.items():
            account.last_equity = former_worth[name]
            for symbol, holding in list(account.holdings.items()):
                account.hold(dataclasses.replace(holding, lastday_price=books.marks.get(symbol, holding.lastday_price)))
        if books.halt is not None and books.halt[2] and books.halt[2] < today:
            books.halt = None


def prices_of(positions: Iterable[Json]) -> dict[str, Decimal]:
    """Return the prices in a report's positions, USD a share; a share's price of 0 is left out."""
    prices = {str(row["symbol"]): wire.optional_decimal(row, "current_price") for row in positions}
    return {
        symbol: price
        for symbol, price in prices.items()
        if price is not None and (price > 0 or parse_occ(symbol) is not None)
    }


def _newest(sales: Iterable[GatewayOrder], quantity: Decimal) -> list[GatewayOrder]:
    """Return the newest of the sales: those that a holding of `quantity` does not cover after the older ones."""
    newest_first = sorted(sales, key=lambda order: (-order.created_ns, order.name))
    beyond, result = sum((order.leaves_qty for order in newest_first), ZERO) - max(quantity, ZERO), []
    for order in newest_first:
        if beyond > 0:
            result.append(order)
            beyond -= order.leaves_qty
    return result


def _uncovered(main: SubAccount) -> list[tuple[str, Decimal]]:
    """Return (underlying, shares below 0) of calls that `main` wrote on more shares than it holds."""
    shares: dict[str, Decimal] = {}
    for symbol, holding in sorted(main.holdings.items()):
        contract = parse_occ(symbol)
        if contract is not None and contract.right > 0 and holding.qty < 0:
            covering = shares.setdefault(contract.root, max(main.quantity(contract.root), ZERO))
            shares[contract.root] = covering + holding.qty * multiplier(symbol)
    return [(root, quantity) for root, quantity in shares.items() if quantity < 0]


def _reserve_of(row: Json) -> Decimal:
    """Return what a purchase reserves of the buying power, USD a share, by its own limit or stop price."""
    return wire.optional_decimal(row, "limit_price") or wire.optional_decimal(row, "stop_price") or ZERO


def _made_ns(row: Json) -> int:
    return wire.first_moment_ns(row, "created_at", "submitted_at") or 0


def _activity(line: LedgerLine) -> Activity:
    """Return the line as the core's `Activity`, at noon of its day, by which a report's lines are sorted."""
    noon = datetime.fromisoformat(line.date).replace(hour=12, tzinfo=UTC)
    at_ns = int(noon.timestamp()) * SECOND_NS
    return Activity(line.id, line.kind, line.symbol, line.quantity, line.price, line.amount, line.status, at_ns)
