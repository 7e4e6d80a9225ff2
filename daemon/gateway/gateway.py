"""The running gateway: clients' requests become events, events become requests to the broker, news goes to its owner.

`Gateway` is the backend of Alpaca's protocols for all sub-accounts. An order is durable in the journal before it
leaves. News is passed on before it is durable: after a crash no client is served until a report repeats it.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from decimal import ROUND_DOWN, Decimal
from math import inf
from typing import Any, TypeVar, overload

from msgspec.structs import replace

from daemon.alpaca_api.books import AccountBooks as ShownBooks
from daemon.alpaca_api.books import ActivityRow
from daemon.alpaca_api.refusals import Refusal, denial, invalid, no_order, refusal, unprocessable
from daemon.alpaca_api.tickets import FURTHER_ORDERS, SEVERAL, Ticket, number, ticket
from daemon.alpaca_api.wire import ZERO, Json, asset_id, multiplier, text
from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.rest.client import GATEWAY, CallPriority, NotSent, Refused, RestError, Throttled
from daemon.brokers.alpaca.trading.report import amends, block_reason, funds_of, ledger_fill
from daemon.brokers.api import BrokerError
from daemon.brokers.clock_check import ClockCheck
from daemon.config.load import ConfigError
from daemon.core.handlers import LOOKED_NS, SEEN
from daemon.core.instruments.option_market import is_contract, parse_occ
from daemon.core.orders import is_desks
from daemon.core.risk.guards import deficit
from daemon.core.session import new_york_date, new_york_minute
from daemon.gateway.books import (
    BEFORE,
    CASH,
    LOST,
    GatewayOrder,
    Ledgers,
    NotedLine,
    caller,
    is_coin,
    name_of_call,
    submitted_ns_of,
)
from daemon.gateway.config import GatewaySettings
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
    Suspended,
    Transferred,
    Updated,
    Warn,
)
from daemon.gateway.journal import GatewayJournal
from daemon.gateway.rules import (
    WIDE_SHARE,
    OrderView,
    Permit,
    beyond_means,
    buying_power,
    day_loss,
    denied_entries,
    free_cash,
    has_one_name,
    judge,
    may_exercise,
    middle_of_row,
    only_call_passes,
    only_figure_denies,
    past_market,
    price_beyond,
)
from daemon.gateway.step import FILLS, prices_of
from daemon.gateway.upstream import CHANGED_KEYS, MISSING_ANSWERS, SENT_KEYS, Upstream, readable_fill, readable_order
from daemon.host.passing import MayPass
from daemon.host.time.clock import Clock
from daemon.host.time.virtual_time import look_s
from daemon.journal.rows import JournalError
from daemon.operator.alarm_command import AlarmedLog
from daemon.operator.side_thread import supervise
from daemon.pacing import TokenBucket, back_off_s
from strategies.kit.quantity import FINEST, PLACES
from strategies.kit.units import DAY_NS, MINUTE_NS, SECOND_NS

T = TypeVar("T")
ALL = "account"
"""Stands for all sub-accounts in the place of a name."""
QUOTE_S = 5.0  # an older price is requested anew before a purchase at the market
CANCEL_TRIES = 3  # tries of a panic, where the broker refuses a cancel
CLOSE_TRIES = 3  # the same, where a position is not closed
PANIC_S = 50.0  # until a panic answers with what is open by then, and goes on: a person's command waits a minute
LOOK_UP_S = 1.0  # between two look-ups of an unanswered order
REPORT_GAP_S = 2.0  # between two reports
EXIT_GAP_S = 0.25  # between two reports where an exit waits
REPORT_WAIT_S = 3.0  # an exit's wait for a report: a desk waits five seconds for the answer to its order
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
CLOCKS_NS = DAY_NS  # by how much the broker's clock may be behind, where an order is searched by its time
KEPT_KEYS = (
    "symbol", "side", "type", "time_in_force", "limit_price", "stop_price", "trail_price", "trail_percent",
    "extended_hours",
)  # fmt: skip
"""Fields that a replacement order takes over from the former one unless they are changed."""
NUMBERS = ("qty", "notional", "limit_price", "stop_price", "trail_price", "trail_percent", "trail")
SELL_OUT_MIN = 11 * 60  # minutes of New York's day: earlier no market closes soon
SELL_OUT_NS = 45 * MINUTE_NS  # before the close: desks leave contracts of the day an hour before it
BEAT_S = 1.0  # between two beats of the event loop
HUNG_S = 5.0  # a longer gap between two beats is a hang
SHARE = 60  # calls a minute, and in a burst, of one sub-account while the account's calls are scarce


class Gateway:
    """Sub-accounts over one account. Used on the event loop's thread."""

    def __init__(
        self,
        settings: GatewaySettings,
        journal: GatewayJournal,
        upstream: Upstream,
        clock: Clock,
        log: AlarmedLog,
        check: ClockCheck,
    ) -> None:
        self.settings, self.journal, self.upstream, self.clock = settings, journal, upstream, clock
        self._check = check
        self.prices: dict[str, tuple[int, Decimal]] = {}  # when, and USD a share
        self._log, self._alarms = log.plain, log
        self._publish: Callable[[str, Json], None] = lambda _account, _update: None
        self._on_state: Callable[[bool], None] = lambda _ready: None
        self._listens: Callable[[str], bool] = lambda _account: False
        self._rest_accounts = {
            name: ShownBooks(name, cash=ZERO, level=0, margin=1, account_number="")
            for name in (*settings.sub_accounts, MAIN)
        }
        self._incoming: list[Json] = []
        self._came = asyncio.Event()
        self._held_back: list[Json] = []  # updates that may be of an unanswered close call
        self._closing: dict[str, str] = {}  # name -> symbol, of close calls under way
        self._turns: dict[str, asyncio.Lock] = {}  # by symbol, for the next close call
        self._cancels: dict[str, asyncio.Future[None]] = {}  # by the broker's id, of cancels under way
        self._ending: set[str] = set()  # names of orders that are being cancelled until they are gone
        self._person_halts: dict[str, Halted] = {}  # newest by a person, by sub-account or `ALL`
        self._panics: set[str] = set()  # sub-accounts in a panic: their calls are not limited
        self._sold_off: set[str] = set()  # symbols whose sale past the gateway was noticed
        self._selling_out = False  # a check of contracts that end today is under way
        self._sold_out: set[tuple[str, str]] = set()  # sub-account and contract, already reported
        self._pricing: set[str] = set()  # names of orders of close calls that are being repriced
        self._behind: set[str] = set()  # names of those behind a person's order, already reported
        self._shares = {name: TokenBucket(self.now_ns, SHARE, SHARE) for name in settings.sub_accounts}
        self._order_change = asyncio.Event()  # set when an order changes
        self._report_request = asyncio.Event()  # requests a report
        self._exit_request = asyncio.Event()  # requests a report soon, for an exit
        self._report_condition = asyncio.Condition()
        self._report_number = self._taken_in = 0  # number of reports begun; number of the newest one taken
        self._began_ns = clock.now_ns()
        self._blocked_words = ""  # the `block_reason` that was reported
        self._beaten_s = inf  # when the event loop last showed that it runs; inf before it did
        self._report_needed = 1  # number of the first report that began after the start or the last hang
        self._figure_is_old = False  # orders changed since the newest report began
        self._stream = upstream.trade_stream(self._on_update, self._on_stream, self._on_taken)
        self.stream_taken = False  # the broker refuses its trade stream, because another connection has it
        self.orders_sent = dict.fromkeys(settings.sub_accounts, 0)
        self._listening = False
        self._connection = 0
        self.ready = False
        self._away_reason = "the broker was not reached yet"
        self._tasks: set[asyncio.Task[Any]] = set()
        self._bugs: asyncio.Queue[BaseException] = asyncio.Queue()

    @property
    def books(self) -> Ledgers:
        """All sub-accounts."""
        return self.journal.books

    @property
    def block_reason(self) -> str:
        """Why the account takes no orders at all, by the last report; "" while it does."""
        row = self.books.broker_account
        return block_reason(row) if row else ""

    @property
    def alarms_raised(self) -> Counter[str]:
        """The alarms of this process, by name."""
        return self._alarms.raised

    def now_ns(self) -> int:
        """The gateway's time."""
        return self.clock.now_ns()

    def serve_to(
        self,
        publish: Callable[[str, Json], None],
        on_state: Callable[[bool], None],
        listens: Callable[[str], bool],
    ) -> None:
        """Pass updates on to `publish` (sub-account, update) and each change of readiness to `on_state`.

        `listens` tells whether a client of a sub-account hears its updates now.
        """
        self._publish, self._on_state, self._listens = publish, on_state, listens

    # --- its life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled: the broker's stream, reports, and orders of an earlier life without an answer."""
        await self._is_of_this_account()
        guards = self.books.guard_prefixes(self.settings.guards)
        await self.do(GatewayStarted(self.now_ns(), self.journal.code, guards))
        if (damage := self.journal.damage(self.now_ns())) is not None:
            await self._halt(damage)
        if self.settings.mistake:
            await self._halt_by_mistake()
        for order in self.books.open_orders():
            if not order.known:
                self._look_up_soon(order)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.journal.commit_on(self._on_full), name="journal")
                group.create_task(self._stream.run(), name="trade stream")
                group.create_task(self._pass_on(), name="trade updates")
                group.create_task(self._report_on(), name="reports")
                group.create_task(self._bug(), name="bugs")
                group.create_task(
                    supervise("alarm command", self._alarms.command.run, self.watcher_failed), name="alarm command"
                )
        finally:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def watcher_failed(self, task: str, problem: str) -> None:
        """Raise an alarm that a task which only watches or reports failed; it is restarted."""
        self._alarms("task_failed", task=task, problem=problem)

    async def _halt_by_mistake(self) -> None:
        """Take no new risk with the file of the last start; raise the alarm at each start."""
        halt, reason, rest = self.books.halt, "configuration", self.books.former_halt_words
        if halt is not None and halt[0] == reason:  # of an earlier start: replaced by this one's mistake
            rest = "".join(halt[1].partition(BEFORE)[1:])
        words = f"started by the file of the last start, since this one had a mistake: {self.settings.mistake}{rest}"
        if halt is None or halt[:2] != (reason, words):
            await self.do(Halted(self.now_ns(), reason, words, "gateway"))
        self._has_halted()

    async def _is_of_this_account(self) -> None:
        """Raise ConfigError where the keys open another account than the journal's.

        A broker that is away is checked with its first report.
        """
        with contextlib.suppress(BrokerError, wire.Malformed):
            self._same_account(await self.upstream.reads.account())

    def _same_account(self, row: Json) -> None:
        """Raise ConfigError for another account than the journal's, Malformed without its number."""
        number = wire.required_text(row, "account_number")
        if number != self.books.number:
            raise ConfigError(self.books.other_account(number))

    async def do(self, event: AnyGatewayEvent) -> None:
        """Step an event, wait until it is durable, and carry out its effects."""
        effects = self.journal.take(event)
        await self.journal.durable()
        self._act(effects)

    def _act(self, effects: Sequence[AnyGatewayEffect]) -> None:
        for effect in effects:
            match effect:
                case PassOn(account=account, update=update):
                    self._publish(account, update)
                case CancelSibling(name=name):
                    self._spawn(self._cancel_sibling(name))
                case ReadFills(order_id=order_id):
                    self._spawn(self._read_fills(order_id))
                case Warn(name=name, detail=detail):
                    self._alarms.tell(name, detail=detail)
                case _:
                    pass  # an order is sent by the request that made it
        self._has_changed()

    def _has_changed(self) -> None:
        self._order_change.set()
        self._order_change = asyncio.Event()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._begin(work)

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_end)
        return task

    def _on_task_end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._bugs.put_nowait(error)

    def _on_full(self) -> None:
        detail = "the journal's disk is full: exits are journaled into its reserve"
        event = Halted(self.now_ns(), "disk_full", detail, "gateway")
        self._act(self.journal.take(event))
        self._has_halted()

    async def _bug(self) -> None:
        """Raise the first exception of a spawned task: the process ends, and recovers at its next start."""
        raise await self._bugs.get()

    # --- the broker's stream ------------------------------------------------------------------------------------------

    def _on_update(self, data: object) -> None:
        """Queue an update of the trade stream; one that cannot be read requests a report."""
        self._figure_is_old = True
        try:
            update = dict(wire.mapping(data, "data"))
            row = wire.mapping(update.get("order"), "order")
            event = wire.required_text(update, "event")
            readable_order(dict(row))
            if event in FILLS:
                readable_fill(update)
        except wire.Malformed:
            self._report_request.set()
            raise
        self._take_in(update)

    def _take_in(self, update: Json) -> None:
        """Queue an update; hold it back while it may belong to an unanswered close call."""
        if self._may_be_closing(update):
            self._held_back.append(update)
            return
        self._incoming.append(update)
        self._came.set()

    def _may_be_closing(self, update: Json) -> bool:
        row, books = update["order"], self.books
        known = row["id"] in books.names or row.get("client_order_id") in books.orders
        return not known and row.get("symbol") in self._closing.values()

    async def _pass_on(self) -> None:
        """Take updates in order; all that wait share one commit."""
        while True:
            await self._came.wait()
            self._came.clear()
            updates, self._incoming = self._incoming, []
            for update in updates:
                row = update["order"]
                strange, is_unjudged = self._strange_desk(row), self._is_new_of_guard(row)
                self._act(self.journal.take(Updated(self.now_ns(), update)))
                if is_unjudged:  # after a report it ends if its sub-account no longer holds so much
                    self._want_report()
                await self._halt_for(strange or self._newly_sold_off())

    def _on_stream(self, listening: bool, detail: str) -> None:
        self._listening, self.stream_taken = listening, False
        self._report_request.set()
        if not listening:
            self._connection += 1
            self._set_ready(False, f"the broker's trade stream is gone: {detail}")

    def _on_taken(self, detail: str) -> None:
        self.stream_taken = True
        self._set_ready(False, f"the broker's trade stream is gone: {detail}")

    def _set_ready(self, ready: bool, why: str = "") -> None:
        self._away_reason = why
        if ready != self.ready:
            self.ready = ready
            if ready:
                self._log("gateway_ready", sub_accounts=sorted(self.settings.sub_accounts))
            else:
                self._log("gateway_away", detail=why)
            self._on_state(ready)

    def away(self) -> str:
        """Return why the books may be stale, "" while stream and reports are whole."""
        return "" if self.ready else self._away_reason

    # --- reports ------------------------------------------------------------------------------------------------------

    async def _report_on(self) -> None:
        """Report after each connect, each minute and on request.

        While the stream is gone, a report is made only for an exit that waits for one. It does not make the gateway
        ready, since it could hide lost news. No report is made before the clock was compared with the broker's.
        """
        failures, every_s = 0, self.settings.upstream.alpaca.report_every_s
        every_ns = every_s * SECOND_NS
        while True:
            while not (self._listening or self._exit_request.is_set()):
                self._report_request.clear()
                await self._wait_at_most(self._report_request, every_ns)
            connection, was_listening = self._connection, self._listening
            self._report_request.clear()
            self._exit_request.clear()
            self._figure_is_old = False
            self._report_number += 1
            try:
                await self._check.measure_when_due(every_s)
                self._began_in_time()
                event = await self.upstream.report(self.books)
                self._same_account(event.account)
            except (BrokerError, wire.Malformed) as error:
                failures += 1
                self._log("gateway_report_failed", problem=str(error), failures=failures)
                if failures > 2:
                    self._set_ready(False, f"no report: {error}")
                await asyncio.sleep(back_off_s(failures, FIRST_PAUSE_S, LONGEST_PAUSE_S, 0.5))
                continue
            failures = 0
            await self._take_report(self._without_closing(event))
            if was_listening and connection == self._connection:  # else it could hide lost news
                self._set_ready(True)
            if not self._selling_out and self._ends_today():
                self._selling_out = True
                self._spawn(self._sell_out())
            for order in self._waiting_calls():
                self._pricing.add(order.name)
                self._spawn(self._price_anew(order))
            await self.clock.sleep_until(self.now_ns() + round(EXIT_GAP_S * SECOND_NS))
            await self._wait_at_most(self._exit_request, round((REPORT_GAP_S - EXIT_GAP_S) * SECOND_NS))
            again_ns = 10 * SECOND_NS if self.books.differences and not self.books.doubts else every_ns
            await self._wait_at_most(self._report_request, again_ns)

    # --- contracts that end today -------------------------------------------------------------------------------------

    def _ends_today(self) -> set[str]:
        """Return the underlyings of sub-accounts' contracts that end today; empty in the morning."""
        now_ns, accounts = self.now_ns(), self.books.accounts
        if new_york_minute(now_ns) < SELL_OUT_MIN:
            return set()
        date = new_york_date(now_ns).isoformat()
        contracts = (parse_occ(s) for name, a in accounts.items() if name != MAIN for s in a.holdings)
        return {contract.root for contract in contracts if contract is not None and contract.expiry == date}

    async def _sell_out(self) -> None:
        """Sell contracts that a sub-account could not exercise, as Alpaca does in an account's last hour.

        The broker exercises by the account's means, so the sub-account would owe cash or shares of others. Where the
        account lacks the means itself, the broker's own sale names no sub-account.
        """
        try:
            roots, clock = sorted(self._ends_today()), await self.upstream.clock()
            if clock.is_open is not True or not 0 < clock.next_close_ns - clock.now_ns <= SELL_OUT_NS:
                return
            spots = {root: spot for root in roots if (spot := await self._spot(root)) is not None}
            for name, symbol in beyond_means(self.books, spots, new_york_date(self.now_ns()).isoformat()):
                await self._sell_one_out(name, symbol)
        except (BrokerError, wire.Malformed) as problem:
            self._log("gateway_look_up_failed", problem=f"contracts that end today: {problem}")
        finally:
            self._selling_out = False

    async def _spot(self, root: str) -> Decimal | None:
        """Return an underlying's price, USD; None without one. Each is requested alone: an index has no quote."""
        try:
            rows = await self.upstream.market.latest_quotes((root,), self.settings.upstream.feed.name)
            return middle_of_row(rows[root], WIDE_SHARE) if root in rows else None
        except (BrokerError, wire.Malformed) as problem:
            self._log("gateway_look_up_failed", problem=f"{root}, whose contracts end today: {problem}")
            return None

    async def _sell_one_out(self, name: str, symbol: str) -> None:
        """Sell a sub-account's contract by the close call, once its own orders in it are gone."""
        orders = [order for order in self.books.working(symbol) if order.account == name]
        if any(o.closing or o.kind == "market" for o in orders):
            return  # its sale is under way
        detail = f"{name}: {symbol} ends today in the money, and {name} has not what its exercise takes: it is sold"
        if (name, symbol) not in self._sold_out:
            self._sold_out.add((name, symbol))
            self._alarms.tell("gateway_sells_out", detail=detail)
        try:
            for order in orders:
                self._spawn(self._cancel_sibling(order.name))
            await self._swept([order.name for order in orders])
            await self.close(name, symbol, None, None)
        except Refusal as error:
            self._log("gateway_sells_out", detail=f"{name}: {symbol} was not sold, tried again in a minute: {error}")

    # --- close calls that became limit orders ------------------------------------------------------------------------

    def _waiting_calls(self) -> list[GatewayOrder]:
        """Return close calls' orders that became limit orders beyond a person's order and still work a minute later."""
        before_ns = self.now_ns() - MINUTE_NS
        return [
            order
            for order in self.books.open_orders()
            if caller(order.name) == order.account and order.kind == "limit" and order.id
            if order.created_ns <= before_ns and order.name not in self._pricing
        ]

    async def _price_anew(self, order: GatewayOrder) -> None:
        """Move such an order to the market, as far as no person's order is in its way: no desk looks after it."""
        books, limit, price = self.books, order.price("limit_price"), self.price(order.symbol)
        try:
            if limit is None or price is None:
                return
            body = {"symbol": order.symbol, "qty": text(order.leaves_qty), "side": order.side, "type": "market"}
            beyond = price_beyond(books, ticket({**body, "time_in_force": "day"}))
            new_limit = past_market(order.symbol, order.sign, price, beyond)
            if (new_limit - limit) * order.sign > 0:
                await self._move_limit(order, new_limit)
            elif beyond is not None:
                self._tell_behind(order, limit)
        except Refusal as error:
            self._log("gateway_exit_waits", detail=f"{order.account}: {order.name}: not priced anew: {error}")
        finally:
            self._pricing.discard(order.name)

    async def _move_limit(self, old: GatewayOrder, limit: Decimal) -> None:
        whole = {"symbol": old.symbol, "qty": text(old.leaves_qty), "side": old.side, "type": "limit"}
        order = ticket({**whole, "time_in_force": "day", "limit_price": text(limit)})
        verdict = judge(self._view(), old.account, order, old_order=old)
        name, changes = name_of_call(old.account), {"limit_price": text(limit)}
        self._log("gateway_exit_priced", order=name, symbol=old.symbol, limit_price=text(limit))
        event = ReplaceTaken(self.now_ns(), old.account, name, old.name, changes, verdict.reserve, verdict.against)
        await self._journal_and_send(event, CallPriority.EXIT)

    def _tell_behind(self, order: GatewayOrder, limit: Decimal) -> None:
        if order.name in self._behind:
            return
        self._behind.add(order.name)
        words = f"{order.side} {text(order.leaves_qty)} {order.symbol} at {text(limit)}"
        detail = f"{order.account}: {words} waits: an order of a person is in its way"
        self._alarms.tell("gateway_exit_waits", detail=detail)

    def _began_in_time(self) -> None:
        """Raise MayPass if this process started with a clock ahead of the broker's, which did not answer then."""
        if not self._taken_in and self._check.lag_s:
            words = f"the time taken at the start was {self._check.lag_s:.0f} s ahead of the broker's"
            raise MayPass(f"{words}, which did not answer then: the next start goes on by the broker's")

    def _without_closing(self, event: Reported) -> Reported:
        """Leave out of a report what may belong to an unanswered close call, until the next report.

        Those are orders that the call may have made, with their fills, which would become `main`'s; and ledger lines
        divided by holdings, since the books still have what the call sold.
        """
        if not self._closing:
            return event
        strange = {str(row["id"]) for row in event.orders if self._may_be_closing({"order": row})}
        orders = [row for row in event.orders if str(row["id"]) not in strange]
        fills = [line for line in event.lines if line.get("activity_type") == "FILL"]
        return replace(event, orders=orders, lines=[it for it in fills if str(it.get("order_id")) not in strange])

    async def _wait_at_most(self, event: asyncio.Event, most_ns: int) -> None:
        """Wait for the event, at most `most_ns`."""
        due = asyncio.ensure_future(self.clock.sleep_until(self.now_ns() + most_ns))
        event_task = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait({due, event_task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            due.cancel()
            event_task.cancel()

    async def _take_report(self, event: Reported) -> None:
        strange = next(filter(None, map(self._strange_desk, event.orders)), "")
        await self.do(event)
        await self._halt_for(strange or self._newly_sold_off())
        self._tell_block()
        for symbol, price in prices_of(event.positions).items():
            self.prices[symbol] = (event.asked_ns, price)
        if self.books.halt is None and (loss := self._day_loss()):
            await self._halt(Halted(self.now_ns(), "day_loss", loss, "gateway", self.books.day[0]))
        if not self._taken_in and (denied := denied_entries(self._view())):
            for name, reason in denied.items():
                self._log("gateway_entry_ended", order=name, reason=reason)
            await self.do(EntriesEnded(self.now_ns(), denied))
        async with self._report_condition:
            self._taken_in = self._report_number
            self._report_condition.notify_all()

    def _tell_block(self) -> None:
        """Warn once that the account takes no orders, exits included: a desk only sees that its own are refused."""
        words, former_words = self.block_reason, self._blocked_words
        self._blocked_words = words
        if words and words != former_words:
            self._act([Warn("gateway_blocked", words)])

    def _strange_desk(self, row: Json) -> str:
        """Return, in words, that a desk has sent this order past the gateway since the start; "" for any other order.

        The account's lock holds on this host only: a second gateway elsewhere shows itself by its desks' orders.
        """
        name, books = wire.text(row.get("client_order_id")), self.books
        since_ns = max(self._began_ns, self.now_ns() - DAY_NS)  # the books forget what ended long ago
        known = row["id"] in books.names or name in books.orders
        if known or not is_desks(name) or submitted_ns_of(row, 0) < since_ns:
            return ""
        order = f"{name} ({wire.text(row.get('side'))} {wire.text(row.get('symbol'))}) is a desk's, and came past this"
        return f"{order} gateway: another gateway has this account's keys, on another host, or a desk has them: stop it"

    def _is_new_of_guard(self, row: Json) -> bool:
        """Return whether a guard sent this order past the gateway and it is new: no rule here judged it."""
        name, books = wire.text(row.get("client_order_id")), self.books
        return row["id"] not in books.names and any(name.startswith(prefix) for prefix, _ in books.guards)

    def _newly_sold_off(self) -> str:
        """Return, in words, what orders past the gateway sold of the desks' until nothing was left; "" for nothing new.

        A panic with the account's own keys tells the gateway nothing else, and may find it hanging or dead. What is
        still so at a start is new.
        """
        symbols, before = self.books.sold_off(), self._sold_off
        self._sold_off = symbols
        if not symbols - before:
            return ""
        sold = ", ".join(sorted(symbols))
        return f"orders past this gateway sold all that desks hold of {sold}, by hand or in a panic of the account"

    async def _halt_for(self, strange: str) -> None:
        """Take no new risk once others trade what is the desks': limits do not hold across both."""
        halt = self.books.halt
        if strange and (halt is None or halt[0] != "foreign_order"):
            words = strange + self.books.former_halt_words
            await self._halt(Halted(self.now_ns(), "foreign_order", words, "gateway"))

    def _day_loss(self) -> str:
        """Return the day's loss of all sub-accounts in words, where it reaches the limit; "" below it."""
        limit = self.settings.account.day_loss_max
        if not limit or (loss := day_loss(self.books)) < limit:
            return ""
        since = f"since the last report before {self.books.day[0]}"
        return f"{loss:.2f} USD lost over all sub-accounts {since}, account.day_loss_max is {limit}"

    async def wait_for_report(self, within_s: float, *, for_exit: bool = True) -> None:
        """Wait for a report begun from now on; for an exit it begins sooner. Raises TimeoutError after `within_s`."""
        report_number = self._report_number
        self._report_request.set()
        if for_exit:
            self._exit_request.set()
        async with asyncio.timeout(within_s), self._report_condition:
            await self._report_condition.wait_for(lambda: self._taken_in > report_number)

    def _want_report(self) -> None:
        """Request a report soon, for an exit that waits for one; also while the stream is gone."""
        self._report_request.set()
        self._exit_request.set()

    async def _read_fills(self, order_id: str) -> None:
        """Read all fills of an order; the ledger has an amendment a moment after the stream.

        An unreadable line is requested again: an amendment that is not booked would stay a difference.
        """

        async def readable() -> list[Json]:
            rows = await self.upstream.reads.order_fills(order_id)
            for row in rows:
                ledger_fill(row)
            return rows

        lines = await self._ask_until(readable, lambda rows: any(amends(row) for row in rows))
        await self.do(FillsRead(self.now_ns(), order_id, lines))

    async def _ask_until(
        self,
        ask: Callable[[], Awaitable[T]],
        is_there: Callable[[T], bool],
        is_moot: Callable[[], bool] = lambda: False,
    ) -> T:
        """Ask until `is_there` accepts an answer, or several in a row were not accepted; return the newest.

        Failures do not count: each is followed by a back-off, for as long as the broker is away. `is_moot` is true once
        other news settles the question, so that any answer will do.
        """
        missing = failures = 0
        while True:
            try:
                answer = await ask()
            except (BrokerError, wire.Malformed) as error:
                failures += 1
                if failures == 1:
                    self._log("gateway_look_up_failed", problem=str(error))
                await asyncio.sleep(back_off_s(failures, FIRST_PAUSE_S, LONGEST_PAUSE_S, 0.5))
                continue
            failures, missing = 0, missing + 1
            if is_there(answer) or is_moot() or missing >= MISSING_ANSWERS:
                return answer
            await asyncio.sleep(LOOK_UP_S)

    # --- what clients read --------------------------------------------------------------------------------------------

    def _require_whole(self) -> None:
        """Raise a 503 refusal while the books may be stale."""
        if not self.ready:
            raise Refusal(503, None, f"gateway: {self._away_reason}")

    def account(self, account: str) -> Json:
        """GET /v2/account: the sub-account's own figures, and the gateway's statement on the account behind it."""
        self._require_whole()
        books, ledger, view = self.books, self.books.accounts[account], self._rest_accounts[account]
        view.cash, view.account_number, view.last_equity = ledger.cash, ledger.number, ledger.last_equity
        view.positions = ledger.holdings
        level = str(books.broker_account.get("options_trading_level"))
        view.level = int(level) if level.isdecimal() else 0
        view.configuration = self.configuration(account)
        row = view.figures(
            lambda holding: self.price(holding.symbol) or holding.average,
            blocked=bool(self.block_reason),
            reserved=books.reserved_usd(account),
            deficit=deficit(funds_of(books.broker_account)),
        )
        names = ("buying_power", "non_marginable_buying_power", "options_buying_power")
        row |= dict.fromkeys(names, f"{buying_power(books, account):.2f}")
        prefix = self.settings.sub_accounts[account].guard_prefix
        return row | {"gateway": {**self.statement(), "guard_prefix": prefix}}

    def statement(self) -> Json:
        """Return what the gateway states about the account behind it."""
        upstream = self.settings.upstream
        return {
            "account": self.settings.gateway.account,
            "account_number": self.books.number,
            "trading_url": upstream.address("trading_url"),
            "real_time": not (upstream.clock.sim_start or upstream.clock.socket),
        }

    def price(self, symbol: str) -> Decimal | None:
        """Return the newest known price, USD a share; where books and broker differ, the last one from before."""
        if symbol in self.books.differences and symbol in self.books.marks:
            return self.books.marks[symbol]
        newest = self.prices.get(symbol)
        return None if newest is None else newest[1]

    def configuration(self, account: str) -> Json:
        """GET /v2/account/configurations."""
        return {
            **self._rest_accounts[account].configuration,
            "suspend_trade": self.books.accounts[account].suspended,
            "no_shorting": True,
        }

    async def configure(self, account: str, changes: Json) -> Json:
        """PATCH /v2/account/configurations: only `suspend_trade`, the sub-account's fence, can be changed."""
        now = self.configuration(account)  # libraries send all of it back
        differs = {key for key, value in changes.items() if value is not None and value != now.get(key)}
        strange = sorted(differs - {"suspend_trade"})
        if strange or not isinstance(changes.get("suspend_trade"), bool):
            raise unprocessable(f"gateway: {', '.join(strange) or 'suspend_trade'} cannot be set for a sub-account")
        await self.do(Suspended(self.now_ns(), account, changes["suspend_trade"]))
        return self.configuration(account)

    def orders(self, account: str, *, only_open: bool) -> Iterable[GatewayOrder]:
        """Return the orders of a sub-account that the broker has shown."""
        self._require_whole()
        among = self.books.open_orders() if only_open else self.books.orders.values()
        return [order for order in among if order.account == account and order.known]

    def order(self, account: str, order_id: str) -> GatewayOrder | None:
        """Return one of its orders by the broker's id; None for others'."""
        order = self._order_or_503(self.books.order_by_id(order_id))
        return order if order is not None and order.account == account else None

    def _order_or_503(self, order: GatewayOrder | None) -> GatewayOrder | None:
        """Return the order; raise 503 for None before a report after the start or a hang, which may bring it."""
        if order is None and self._is_unread():
            raise Refusal(503, None, "gateway: the broker's orders were not read yet")
        return order

    def order_of_name(self, account: str, client_order_id: str) -> GatewayOrder | None:
        """Return one of its orders by its name; raises 503 while its state is not known."""
        order = self._order_or_503(self.books.orders.get(client_order_id))
        if order is None or order.account != account or order.status == LOST:
            return None
        if not order.known:
            raise Refusal(503, None, "gateway: the broker has not answered for this order yet")
        return order

    def positions(self, account: str) -> dict[str, Json]:
        """GET /v2/positions: the sub-account's holdings."""
        self._require_whole()
        books = self.books
        rows = {}
        for symbol, holding in books.accounts[account].holdings.items():
            free = books.free(account, symbol) if holding.qty > 0 else holding.qty
            rows[symbol] = holding.shown(self.price(symbol) or holding.average, free)
        return rows

    def position(self, account: str, symbol: str) -> Json | None:
        """GET /v2/positions/{symbol}."""
        return self.positions(account).get(symbol)

    def symbol(self, account: str, name: str) -> str:
        """Return the symbol that a path names, by itself or by its asset's id."""
        holdings = self.books.accounts[account].holdings
        return next((symbol for symbol in holdings if asset_id(symbol) == name.lower()), name)

    def account_id(self, account: str) -> str:
        """Return the sub-account's UUID."""
        return self._rest_accounts[account].id

    def client_order_id(self, account: str, order_id: str) -> str:
        """Return the name of the order of a fill among the activities; "" for one that is no longer kept."""
        order = self.order(account, order_id)
        return "" if order is None else order.name

    def activities(self, account: str) -> Sequence[ActivityRow]:
        """GET /v2/account/activities."""
        self._require_whole()
        return _ShownLines(self.books.accounts[account].activities)

    async def announcements(self, query: Mapping[str, str]) -> list[Json]:
        """GET /v2/corporate_actions/announcements, as the broker answers."""
        answer = await self._broker_answer(self.upstream.get("/corporate_actions/announcements", query))
        return answer if isinstance(answer, list) else []

    async def pass_through(self, path: str, query: Mapping[str, str]) -> object:
        """GET what belongs to no account: clock, calendar, assets, contracts."""
        return await self._broker_answer(self.upstream.get(path, query))

    async def _broker_answer(self, asking: Coroutine[Any, Any, Any]) -> Any:
        """Wait for the broker's answer; raise its refusal or failure as a `Refusal`."""
        try:
            return await asking
        except Refused as refusal_error:
            raise refusal_of(refusal_error) from None
        except Throttled:
            raise refusal("rate_limit") from None
        except NotSent as send_error:
            raise Refusal(503, None, f"gateway: {send_error}") from None
        except (RestError, wire.Malformed) as error:
            raise Refusal(504, None, f"gateway: the broker gave no answer: {error}") from None

    # --- orders -------------------------------------------------------------------------------------------------------

    def _view(self) -> OrderView:
        prices = {symbol: price for symbol, (_, price) in self.prices.items()}
        settings = self.settings
        return OrderView(self.books, prices, settings.account, settings.sub_accounts, self.now_ns(), self.away())

    async def submit(self, account: str, body: Json) -> Json:
        """POST /v2/orders: judged, journaled, sent; returns the broker's row."""
        several = [key for key in FURTHER_ORDERS if body.get(key)]
        body = plain(body, SENT_KEYS, ("order_class",))
        if several := several or [name for name in SEVERAL if name == body.get("order_class")]:
            raise unprocessable(f"gateway: {several[0]} is not carried: send each order by itself")
        order = ticket(body)
        self._is_free(account, order.client_order_id)
        await self._ready_for(account, order)
        verdict = await self._permit(account, order)
        name = order.client_order_id or str(uuid.uuid4())
        if verdict.by_call:
            return await self._submit_by_call(account, order, name)
        order_body = {**body, "client_order_id": name} | ({} if order.qty is None else {"qty": text(order.qty)})
        if verdict.beyond is not None:
            order_body |= {"type": "limit", "limit_price": text(verdict.beyond)}
            self._log("gateway_exit_priced", order=name, symbol=order.symbol, limit_price=text(verdict.beyond))
        event = OrderTaken(self.now_ns(), account, name, order_body, verdict.reserve, verdict.against)
        return await self._journal_and_send(event, urgency_of(order))

    async def _submit_by_call(self, account: str, order: Ticket, name: str) -> Json:
        """Sell by the broker's own call where a person's order blocks the sale; the order keeps its client's name."""
        await self._after_report()
        async with self._call_of(order.symbol):
            self._is_free(account, name)
            verdict = judge(self._view(), account, order, by_call=True)
            assert order.qty is not None
            now_ns, against = self.now_ns(), verdict.against
            event = CloseTaken(
                now_ns, account, name, order.symbol, order.side, order.qty, for_order=True, against=against
            )
            return await self._call(event)

    async def _permit(self, account: str, order: Ticket, old_order: GatewayOrder | None = None) -> Permit:
        """Return what an order may do now. Raises `Refusal`.

        A purchase denied only by the account's buying power waits for a newer report, if orders changed since the last.
        """
        self._is_free(account, order.client_order_id)
        try:
            return judge(self._view(), account, order, old_order=old_order)
        except Refusal:
            if not (self._figure_is_old and only_figure_denies(self._view(), account, order, old_order)):
                raise
        await self._after_report(for_exit=False)
        self._is_free(account, order.client_order_id)
        return judge(self._view(), account, order, old_order=old_order)

    async def _ready_for(self, account: str, order: Ticket) -> None:
        """Wait for what an order needs before it is judged: its turn, a price, the end of another close call."""
        if is_coin(order.symbol):
            raise unprocessable(f"gateway: {order.symbol} is crypto, which is not carried")
        if not has_one_name(order):
            raise unprocessable(f'asset "{order.symbol}" not found')
        await self._has_turn(account, exits=order.sign < 0)
        await self._ask_price(order)
        if order.sign < 0:
            await self._once_read()
            await self._no_call_of(order.symbol)
        elif self.books.accounts[account].quantity(order.symbol) >= 0:
            await self._once_read_after_hang()

    def _is_free(self, account: str, name: str) -> None:
        """Raise the refusal of a name in use; its owner may reuse that of an order that never arrived."""
        named_order = self.books.orders.get(name) if name else None
        prefixes = self.books.guard_prefixes(self.settings.guards)
        guards = any(name.startswith(prefix) and owner != account for prefix, owner in prefixes)
        if guards or (named_order is not None and (named_order.status != LOST or named_order.account != account)):
            raise refusal("duplicate_id")

    async def _ask_price(self, order: Ticket) -> None:
        """Request a price for a purchase without a limit, unless a fresh one is known."""
        if order.sign < 0 or order.limit_price is not None:
            return
        newest = self.prices.get(order.symbol)
        if newest is not None and self.now_ns() - newest[0] <= QUOTE_S * SECOND_NS:
            return
        feed, market, symbols = self.settings.upstream.feed, self.upstream.market, (order.symbol,)
        asking = (
            market.latest_quotes(symbols, feed.name)
            if order.contract is None
            else market.latest_option_quotes(symbols, feed.options)
        )
        rows = await self._broker_answer(asking)
        ask = rows.get(order.symbol, {}).get("ap")
        price = ZERO if ask is None else wire.decimal(ask, "ap")
        if price <= 0:
            raise unprocessable(f"gateway: {order.symbol} has no offer to reckon a purchase at the market by")
        self.prices[order.symbol] = (self.now_ns(), price)

    async def _journal_and_send(self, event: OrderTaken | ReplaceTaken | CloseTaken, urgency: CallPriority) -> Json:
        """Journal an order that passed, send it, journal the outcome; returns the broker's row."""
        await self.do(event)
        self.orders_sent[event.account] = self.orders_sent.get(event.account, 0) + 1
        return await asyncio.shield(self._leave(event, urgency))

    async def _leave(self, event: OrderTaken | ReplaceTaken | CloseTaken, urgency: CallPriority) -> Json:
        name, wait_s = event.name, self.settings.gateway.answer_s
        order = self.books.orders[name]
        if order.against and not await self._swept(order.against):
            answer = refusal("wash_trade")
            await self.do(OrderRefused(self.now_ns(), name, answer.status, answer.code, answer.message, {}))
            raise answer
        try:
            row = await self._send(event, urgency, wait_s)
            readable_order(row)
        except Refused as refusal_error:
            reply = refusal_of(refusal_error)
            if refusal_error.of_name:
                await self._without_answer(order)
            else:
                await self.do(OrderRefused(self.now_ns(), name, reply.status, reply.code, reply.message, reply.extra))
            raise reply from None
        except NotSent as send_error:
            await self.do(OrderRefused(self.now_ns(), name, 503, None, str(send_error), {}))
            raise Refusal(503, None, f"gateway: not sent: {send_error}") from None
        except (RestError, wire.Malformed) as error:
            self._log("gateway_unanswered", order=name, problem=str(error))
            await self._without_answer(order)
            raise Refusal(504, None, "gateway: the broker has not answered: look the order up by its name") from None
        self._act(self.journal.take(OrderAnswered(self.now_ns(), name, row)))
        self._end_closing(name)
        return {**row, "client_order_id": name} if order.keeps_name else row

    async def _send(self, event: OrderTaken | ReplaceTaken | CloseTaken, urgency: CallPriority, wait_s: float) -> Json:
        match event:
            case OrderTaken(body=body):
                return await self.upstream.post(body, urgency, wait_s)
            case ReplaceTaken(replaced=old_name, changes=changes, name=name):
                order_id = self.books.orders[old_name].id
                return await self.upstream.replace(order_id, {**changes, "client_order_id": name}, urgency, wait_s)
            case _:
                return await self.upstream.close_position(event.symbol, event.quantity, wait_s)

    async def _without_answer(self, order: GatewayOrder) -> None:
        await self.do(OrderUnanswered(self.now_ns(), order.name))
        self._look_up_soon(order)

    async def _swept(self, names: Sequence[str]) -> bool:
        """Wait until other sub-accounts' entries that block an exit are gone; False when one stays."""
        await self._while_cancels(lambda: not self.books.live.keys().isdisjoint(names))
        return self.books.live.keys().isdisjoint(names)

    async def _while_cancels(self, works: Callable[[], bool]) -> None:
        """Wait while `works()`, at most `cancel_s`; without the stream, requested reports show the end of orders."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.gateway.cancel_s):
                while works():
                    if not self._listening:
                        self._want_report()
                    await self._order_change.wait()

    async def _cancel_sibling(self, name: str) -> None:
        """Cancel an order as soon as the broker has shown it, again where that fails; once for all requests."""
        if name in self._ending:
            return
        self._ending.add(name)
        failures = 0
        try:
            while name in self.books.live:
                if not self.books.orders[name].id:
                    await self._order_change.wait()
                    continue
                try:
                    await self.upstream.cancel(self.books.orders[name].id, self.settings.gateway.answer_s)
                except BrokerError as error:
                    failures += 1
                    if failures == 1:
                        self._log("gateway_unanswered", order=name, problem=str(error))
                    self._report_request.set()
                    await asyncio.sleep(back_off_s(failures, FIRST_PAUSE_S, LONGEST_PAUSE_S, 0.5))
                else:
                    return
        finally:
            self._ending.discard(name)

    # --- orders without an answer -------------------------------------------------------------------------------------

    def _look_up_soon(self, order: GatewayOrder) -> None:
        self._spawn(self._look_up_closing(order) if order.closing else self._look_up(order))

    async def _look_up(self, order: GatewayOrder) -> None:
        """Look an order up by its name until the broker shows it, or several times does not know it."""

        async def ask_by_name() -> Json | None:
            row = await self.upstream.reads.order_by_client_id(order.name)
            return row if row is not None and is_of(order, row) else None

        row = await self._ask_until(ask_by_name, lambda row: row is not None, lambda: order.known or not order.open)
        if row is not None:
            await self.do(OrderAnswered(self.now_ns(), order.name, row))
        elif order.open and not order.known:
            await self.do(Missing(self.now_ns(), order.name))

    async def _look_up_closing(self, order: GatewayOrder) -> None:
        """Find the order of a close call by its terms, since it bears the broker's name. Other sales wait meanwhile."""
        name = order.name
        self._closing[name] = order.symbol

        async def alike() -> list[Json]:
            rows = await self.upstream.reads.orders_since(order.created_ns - CLOCKS_NS)
            stream_rows = [update["order"] for update in self._held_back]  # a list may not have it yet
            rows_by_id = {str(row["id"]): row for row in (*stream_rows, *rows)}
            return [row for row in rows_by_id.values() if self._is_of_call(order, row)]

        rows = await self._ask_until(alike, lambda rows: len(rows) == 1)
        event = OrderAnswered(self.now_ns(), name, rows[0]) if len(rows) == 1 else Missing(self.now_ns(), name)
        await self.do(event)
        self._end_closing(name)

    def _is_of_call(self, order: GatewayOrder, row: Json) -> bool:
        quantity, books = wire.optional_decimal(row, "qty"), self.books
        same = (row.get("symbol"), row.get("side"), row.get("type")) == (order.symbol, order.side, "market")
        strange = str(row.get("client_order_id")) not in books.orders and str(row["id"]) not in books.names
        return same and quantity == order.quantity and strange

    def _end_closing(self, name: str) -> None:
        """End a close call: take the updates held back for it."""
        if self._closing.pop(name, None) is not None:
            waiting, self._held_back = self._held_back, []
            for update in waiting:
                self._take_in(update)
            self._has_changed()

    # --- changes of orders --------------------------------------------------------------------------------------------

    async def _has_turn(self, account: str, *, exits: bool) -> None:
        """Wait until a call of this sub-account may leave, so that a flood leaves calls to the others.

        A third of its share is kept for exits and cancels. Raises the broker's own refusal of too many calls.
        """
        share = self._shares.get(account)
        if share is None or account in self._panics:
            return
        spare_calls = 0 if exits else SHARE // 3
        for _ in range(round(self.settings.gateway.answer_s / LOOK_UP_S)):
            if not (share.wait_ns(spare_calls) and self.upstream.calls_are_scarce()):
                break
            await asyncio.sleep(LOOK_UP_S)
        if not share.wait_ns(spare_calls):
            share.take()
        elif self.upstream.calls_are_scarce():
            raise refusal("rate_limit")

    def _own_order(self, account: str, order_id: str) -> GatewayOrder:
        order = self.order(account, order_id)
        if order is None:
            raise no_order(order_id)
        return order

    async def cancel(self, account: str, order_id: str) -> None:
        """DELETE /v2/orders/{id}: cancel one of its own."""
        order = self._own_order(account, order_id)
        if not order.open:
            raise unprocessable(f'order is already in "{order.status}" state')
        if order_id not in self._cancels:  # one call for all who ask at once
            await self._has_turn(account, exits=True)
        if order_id not in self._cancels:
            asking = self._broker_answer(self.upstream.cancel(order_id, self.settings.gateway.answer_s))
            self._cancels[order_id] = task = asyncio.ensure_future(asking)
            task.add_done_callback(lambda _: self._cancels.pop(order_id))
        await asyncio.shield(self._cancels[order_id])

    async def cancel_all(self, account: str) -> list[Json]:
        """DELETE /v2/orders: cancel its own, one by one."""
        await self._once_read()
        rows: list[Json] = []
        orders = [o for o in self.books.open_orders() if o.account == account and not (o.closing and not o.known)]
        for order in orders:
            if not order.known:
                self._spawn(self._cancel_sibling(order.name))  # once the broker shows it
                continue
            try:
                await self.cancel(account, order.id)
                rows.append({"id": order.id, "status": 200})
            except Refusal as error:
                rows.append({"id": order.id, "status": error.status, "body": error.body()})
        return rows

    async def replace(self, account: str, order_id: str, changes: Json) -> Json:
        """PATCH /v2/orders/{id}: judged as the order that results."""
        old = self._own_order(account, order_id)
        former = {key: old.row.get(key) for key in KEPT_KEYS}
        newer = plain(changes, CHANGED_KEYS)
        if newer.get("trail") is not None:
            former["trail_price" if old.row.get("trail_price") else "trail_percent"] = newer["trail"]
        whole = number(newer, "qty") if "qty" in newer else wire.optional_decimal(old.row, "qty")
        if whole is None:
            raise unprocessable("gateway: an order in USD cannot be replaced")
        if whole <= old.filled:
            raise unprocessable("order qty must be greater than filled qty")
        body = {**former, **{k: v for k, v in newer.items() if k in former}, "qty": text(whole - old.filled)}
        name = str(newer.get("client_order_id") or uuid.uuid4())
        order = ticket({**body, "client_order_id": name})
        await self._ready_for(account, order)
        verdict = await self._permit(account, order, old)
        newer |= {"qty": text(whole)} if "qty" in newer else {}
        event = ReplaceTaken(self.now_ns(), account, name, old.name, newer, verdict.reserve, verdict.against)
        return await self._journal_and_send(event, urgency_of(order))

    async def close(self, account: str, symbol: str, quantity: Decimal | None, percent: Decimal | None) -> Json:
        """DELETE /v2/positions/{symbol}: the broker's own call with this sub-account's quantity, after a report."""
        self._is_held(account, symbol)
        if percent is not None and percent > 100:
            raise invalid("percentage must be between 0 and 100")
        await self._has_turn(account, exits=True)
        await self._after_report()
        async with self._call_of(symbol):
            self._is_held(account, symbol)
            return await self._close(account, symbol, quantity, percent)

    def _is_held(self, account: str, symbol: str) -> None:
        """Raise the broker's 404 for nothing to close: also where `main` is short of what others hold at the broker."""
        quantity = self.books.accounts[account].quantity(symbol)
        if not quantity or (account == MAIN and quantity < 0 and not self._short_at_broker(symbol)):
            raise Refusal(404, 40410000, f"position not found: {symbol}")

    def _short_at_broker(self, symbol: str) -> Decimal:
        """Return by how much the account itself is short, by the books and by the last report; 0 where it is not."""
        quantities = (self.books.sums()[1], self.books.broker_held)
        return max(-max(by_symbol.get(symbol, ZERO) for by_symbol in quantities), ZERO)

    async def _after_report(self, *, for_exit: bool = True) -> None:
        """Wait for a report that begins now: a close call does, and any sale before the first report of a start.

        Without one in time the books count, as for every exit: a possibly filled order still reserves its part.
        """
        with contextlib.suppress(TimeoutError):
            await self.wait_for_report(min(self.settings.gateway.answer_s, REPORT_WAIT_S), for_exit=for_exit)

    async def _once_read(self) -> None:
        """Wait for a report after a start or a hang: before it the books may lack a sale, whose shares are gone."""
        if self._is_unread():
            await self._after_report()

    def beat(self) -> None:
        """Note, each second, that the event loop runs: a gap shows that the process hung."""
        self._note_hang()
        self._beaten_s = asyncio.get_running_loop().time()

    def _note_hang(self) -> None:
        """Where the last beat is long ago, say so, and need a report that begins now: others may have acted."""
        now_s = asyncio.get_running_loop().time()
        gap_s = now_s - self._beaten_s
        if gap_s > max(HUNG_S, 2 * look_s(BEAT_S)):
            self._beaten_s, self._report_needed = now_s, self._report_number + 1
            self._log("gateway_hung", seconds=round(gap_s, 1))
            self._report_request.set()

    def _is_unread(self) -> bool:
        """Return whether no report is taken that began after the start, or after the last hang."""
        self._note_hang()
        return self._taken_in < self._report_needed

    async def _once_read_after_hang(self) -> None:
        """Wait for a report after a hang: a person may have closed everything meanwhile, and purchases waited here."""
        if not (self.ready and self._is_unread()):
            return
        try:
            await self.wait_for_report(min(self.settings.gateway.answer_s, REPORT_WAIT_S), for_exit=False)
        except TimeoutError:
            raise Refusal(503, None, "gateway: it hung, and has not read the account since: no new risk") from None

    @contextlib.asynccontextmanager
    async def _call_of(self, symbol: str) -> AsyncIterator[None]:
        """Hold the turn of a symbol's close calls: wait for the former one's answer, and make the next one wait."""
        async with self._turns.setdefault(symbol, asyncio.Lock()):
            await self._no_call_of(symbol)
            yield

    async def _no_call_of(self, symbol: str) -> None:
        """Wait until no close call of a symbol is unanswered; raise a refusal where one stays so."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.gateway.answer_s):
                while symbol in self._closing.values():
                    await self._order_change.wait()
        if symbol in self._closing.values():
            raise denial(f"gateway: a close call for {symbol} has no answer yet")

    async def _close(self, account: str, symbol: str, quantity: Decimal | None, percent: Decimal | None) -> Json:
        """Send the close call; without a quantity for all that is held, as far as the account still has it."""
        amount = self._closable(account, symbol)
        holding = self.books.accounts[account].quantity(symbol)
        if percent is not None:
            grid = Decimal(1) if multiplier(symbol) == 100 else FINEST
            amount = (amount * percent / 100).quantize(grid, ROUND_DOWN)
        amount = amount if quantity is None else quantity
        if quantity is None and percent is None and amount <= 0:
            words = f"(requested: {text(abs(holding))}, available: 0)"
            raise denial(f"insufficient qty available for order {words}")
        if amount <= 0:
            raise invalid("qty must be > 0")
        side = "sell" if holding > 0 else "buy"
        body = {"symbol": symbol, "qty": text(amount), "side": side, "type": "market", "time_in_force": "day"}
        if side == "buy" and account != MAIN:  # the broker's call would sell what others hold
            return await self._submit_as_call(account, body)
        order = None if account == MAIN else ticket(body)
        against = () if order is None else judge(self._view(), account, order, by_call=True).against
        name = name_of_call(account)
        event = CloseTaken(self.now_ns(), account, name, symbol, side, amount, against=against)
        try:
            return await self._call(event)
        except Refusal as error:
            if order is None or error.message != refusal("wash_trade").message:
                raise
            if only_call_passes(self.books, order) or price_beyond(self.books, order) is None:
                raise
        return await self._submit_as_call(account, body)  # beyond a person's limit order, like any exit

    async def _submit_as_call(self, account: str, body: Json) -> Json:
        """Submit an order in place of a close call; its name marks it for later repricing."""
        return await self.submit(account, {**body, "client_order_id": name_of_call(account)})

    def _closable(self, account: str, symbol: str) -> Decimal:
        """Return how much of a position can be closed, without what ended orders closed and is not booked yet."""
        books, holding = self.books, self.books.accounts[account].quantity(symbol)
        if holding <= 0:  # the broker's own call sells where the account is not short
            short = -holding if account != MAIN else min(-holding, self._short_at_broker(symbol))
            return short - books.unbooked_quantity(symbol, "buy", account)
        total = sum(books.holders(symbol).values(), ZERO) - books.unbooked_quantity(symbol, "sell")
        return min(holding - books.unbooked_quantity(symbol, "sell", account), total)

    async def _call(self, event: CloseTaken) -> Json:
        """Send a judged close call; news of its symbol is held back until its answer shows whose it is."""
        self._closing[event.name] = event.symbol
        try:
            return await self._journal_and_send(event, CallPriority.EXIT)
        except Refusal:
            if self.books.orders[event.name].status == LOST:
                self._end_closing(event.name)
            raise

    async def close_all(self, account: str, *, cancel_orders: bool) -> list[Json]:
        """DELETE /v2/positions: its own, each by a call of its own, after a shared report.

        A position that another request closed meanwhile has no row.
        """
        await self._once_read()
        if cancel_orders:
            for _ in range(CANCEL_TRIES):
                if all(row["status"] in (200, 422) for row in await self.cancel_all(account)):
                    break
                await asyncio.sleep(LOOK_UP_S)
            await self._while_cancels(lambda: any(o.account == account for o in self.books.open_orders()))
        rows = await self._close_positions(account, self.books.accounts[account].holdings)
        for _ in range(CLOSE_TRIES - 1 if cancel_orders else 0):
            if not (symbols := await self._still_to_close(account, rows)):
                break
            rows = [row for row in rows if row["status"] == 200 or row["symbol"] not in symbols]
            rows += await self._close_positions(account, symbols)
        return rows

    async def _still_to_close(self, account: str, rows: Sequence[Json]) -> list[str]:
        """Return the symbols still to be closed: calls were not sent or never arrived, or cancelled purchases filled.

        The news of such fills comes late. What is looked up may be sold.
        """
        denied_symbols = {row["symbol"] for row in rows if row["status"] != 200}
        await self._while_cancels(lambda: not denied_symbols.isdisjoint(self._closing.values()))
        if self.books.purchases((account,)):
            await self._after_report()
        held_symbols = self.books.accounts[account].holdings
        return sorted(symbol for symbol in held_symbols if self.books.free(account, symbol) > 0)

    async def _close_positions(self, account: str, symbols: Iterable[str]) -> list[Json]:
        rows = await asyncio.gather(*(self._close_position(account, symbol) for symbol in symbols))
        return [row for row in rows if row["status"] != 404]

    async def _close_position(self, account: str, symbol: str) -> Json:
        """Close one position; returns its row of the answer for all."""
        try:
            return {"symbol": symbol, "status": 200, "body": await self.close(account, symbol, None, None)}
        except Refusal as error:
            return {"symbol": symbol, "status": error.status, "body": error.body()}

    async def exercise(self, account: str, symbol: str) -> None:
        """POST …/exercise exercises the account's whole position: allowed only for the sole holder of the contract."""
        await self._once_read()
        self._sole_holder(account, symbol)
        may_exercise(self._view(), account, symbol)
        await self.do(ExerciseAsked(self.now_ns(), account, symbol, on=True))
        try:
            await self._broker_answer(self.upstream.instruct(symbol, "exercise"))
        except Refusal as error:
            if error.status != 504:  # without an answer it may be carried out
                await self.do(ExerciseAsked(self.now_ns(), account, symbol, on=False))
            raise

    async def do_not_exercise(self, account: str, symbol: str) -> None:
        """POST …/do-not-exercise: allowed as for `exercise`."""
        await self._once_read()
        self._sole_holder(account, symbol)
        await self._broker_answer(self.upstream.instruct(symbol, "do-not-exercise"))
        await self.do(LapseChosen(self.now_ns(), account, symbol))

    def _sole_holder(self, account: str, symbol: str) -> None:
        if self.books.accounts[account].quantity(symbol) <= 0:
            raise Refusal(404, 40410000, f"position not found: {symbol}")
        if len(self.books.holders(symbol)) > 1:
            raise unprocessable(f"gateway: others hold {symbol} too, and the broker would exercise all of it")

    # --- what a person does -------------------------------------------------------------------------------------------

    async def transfer(
        self, source: str, target: str, cash: Decimal, symbol: str, quantity: Decimal, by: str, why: str
    ) -> None:
        """Move cash or a quantity between sub-accounts. Raises ValueError, with the figures, for what is not there."""
        books = self.books
        if self._is_unread():
            raise ValueError("the account was not read yet, and what is there is not known: try again in a moment")
        if away := self.away():  # a stop may have sold what the books still have
            raise ValueError(f"what is there is not known: {away}: try again once the broker is back")
        for name in (source, target):
            if name not in books.accounts:
                raise ValueError(f"{name} is no sub-account: expected one of {', '.join(books.accounts)}")
        if not (cash.is_finite() and quantity.is_finite()) or cash.as_tuple().exponent < -2:  # type: ignore[operator]
            raise ValueError(f"cash is {cash}, quantity {quantity}: expected USD in whole cents, and a number")
        if source == target:
            raise ValueError(f"{source} is named twice: expected two sub-accounts")
        if cash < 0 or quantity < 0 or not (cash or quantity):
            raise ValueError(f"cash is {cash}, quantity {quantity}: expected one of them, above 0")
        if amended := [order.name for order in books.orders_in_amendment() if order.account == source]:
            words = f"the broker changed fills of {amended[0]}, which are being read"
            raise ValueError(f"what {source} has is not known: {words}: try again in a moment")
        if cash and source == MAIN and CASH in books.differences:  # a withdrawal: the cash would be another's
            raise ValueError(f"{books.differences[CASH][1]}: cash of {MAIN} moves once both agree")
        free = free_cash(books, source)
        if cash > free:
            words = f"{source} has {free:.2f} USD that no order, exercise or short position keeps"
            raise ValueError(f"{words}, asked for {cash}")
        if quantity:
            if is_coin(symbol):
                raise ValueError(f"{symbol}: crypto is {MAIN}'s alone")
            self._guard_knows(source)
            if symbol in books.differences:  # a split may have changed them
                raise ValueError(f"{books.differences[symbol][1]}: shares move once both agree")
            units = books.accounts[source].quantity(symbol) - books.held_for_orders(source, symbol)
            if quantity > units:
                raise ValueError(f"{source} has {text(units)} {symbol} that no order keeps, asked for {text(quantity)}")
            if quantity != round(quantity, PLACES):
                raise ValueError(f"{text(quantity)} {symbol}: expected at most {PLACES} decimals")
            if is_contract(symbol) and quantity % 1:
                raise ValueError(f"{text(quantity)} {symbol}: contracts move whole")
            rest = books.accounts[source].quantity(symbol) - quantity
            for name, part in ((target, quantity), (source, rest)):
                if name != MAIN and part % 1 and not books.accounts[name].fractions:
                    raise ValueError(f"{text(quantity)} {symbol}: {name} trades whole shares alone")
        await self.do(Transferred(self.now_ns(), source, target, cash, symbol, quantity, by, why))
        parts = [f"{cash} USD"] if cash else []
        parts += [f"{text(quantity)} {symbol}"] if quantity else []
        self._log("gateway_moved", source=source, target=target, what=" and ".join(parts), by=by, why=why)

    def _guard_knows(self, source: str) -> None:
        """Raise ValueError for shares taken from a desk that is not connected: its guard would still sell them."""
        table = self.settings.sub_accounts.get(source)
        guarded = table.guard_prefix if table else any(owner == source for _, owner in self.books.guards)
        if not guarded or self._listens(source):
            return
        if table:
            words = f"{source}'s desk is not there, and its guard would rest a stop for what is gone: start the desk"
            cure = "or stop the guard, take guard_prefix out of the file and start the gateway again"
        else:
            words = f"{source} is not in the file, and its guard may still rest a stop for what is gone"
            closes = f"`rltrader-gateway panic {source}` closes it"
            cure = f"{closes}; or stop the guard, and put {source} back into the file without guard_prefix"
        raise ValueError(f"{words}; {cure}")

    async def accept(self, subject: str, figure: Decimal, account: str, by: str, why: str) -> None:
        """Give a sub-account the difference in `subject`, a symbol or "cash", of which the broker has `figure`.

        Raises ValueError, with the figures, where books and broker do not differ by it, where something may still
        explain it, and where that sub-account would be left short.
        """
        books = self.books
        if account not in books.accounts:
            raise ValueError(f"{account} is no sub-account: expected one of {', '.join(books.accounts)}")
        _, words = books.differences.get(subject, (0, ""))
        if not words:
            difference_words = "; ".join(words for _, words in books.differences.values()) or "they differ in nothing"
            raise ValueError(f"{subject}: books and broker agree on it, as far as a report tells: {difference_words}")
        if self._is_unread() or books.changed_ns >= books.reported_ns or words not in books.doubts:
            raise ValueError(f"{words}: it is too new, and news may be on its way: try again in a moment")
        cash, quantities = books.sums()
        if subject == CASH:
            broker_figure, change, price = books.broker_cash, books.broker_cash - cash, ZERO
        else:
            broker_figure = books.broker_held.get(subject, ZERO)
            change, price = broker_figure - quantities.get(subject, ZERO), books.broker_averages.get(subject, ZERO)
        if figure != broker_figure:
            raise ValueError(f"{words}: the broker has {text(broker_figure)} now, and not {text(figure)}: look again")
        if left := books.may_explain(subject):
            raise ValueError(f"{words}: {left}")
        sub_account = books.accounts[account]
        has = sub_account.cash if subject == CASH else sub_account.quantity(subject)
        if has + change < 0 and (account != MAIN or (subject != CASH and broker_figure >= 0)):
            holders = ", ".join(f"{name} has {text(quantity)}" for name, quantity in books.holders(subject).items())
            raise ValueError(f"{words}: {account} has {text(has)}: name whose it was with --account: {holders}")
        if account != MAIN and subject != CASH:
            if is_coin(subject):
                raise ValueError(f"{subject}: crypto is {MAIN}'s alone")
            if (has + change) % 1 and not sub_account.fractions:
                raise ValueError(f"{words}: {account} trades whole shares alone")
        await self.do(DifferenceAccepted(self.now_ns(), account, subject, change, price, by, why))
        self._log("gateway_accepted", sub_account=account, what=words, by=by, why=why)

    async def panic(self, account: str, by: str) -> list[Json]:
        """Cancel and close all of a sub-account, whose fence then keeps it flat; return a row for each position.

        For `ALL` everything in the account, `main`'s too; all new risk is denied.
        """
        self._log("gateway_panic", of=account, by=by)
        if account == ALL:
            await self.halt("panic", "everything in the account is closed", by)
            return await self._flatten_each([*(name for name in self.books.accounts if name != MAIN), MAIN])
        self._person_halts[account] = Halted(self.now_ns(), "panic", f"all of {account} is closed", by)
        await self.do(Suspended(self.now_ns(), account, True))
        return await self._flatten_each([account])

    async def _flatten_each(self, names: Sequence[str]) -> list[Json]:
        """Flatten these at once, so that none waits for another; after `PANIC_S` return the rows of what is open."""
        works = {name: self._begin(self._flatten(name)) for name in names}
        await asyncio.wait(works.values(), timeout=PANIC_S)
        rows_of_each = (work.result() if work.done() else self._rows_of_held(name) for name, work in works.items())
        return [row for rows in rows_of_each for row in rows]

    async def _flatten(self, account: str) -> list[Json]:
        """Cancel and close all; return a row for each position, and for each purchase that still works or filled."""
        self._panics.add(account)
        try:
            rows = await self.close_all(account, cancel_orders=True)
        finally:
            self._panics.discard(account)
        return rows + self._rows_of_purchases(account)

    def _rows_of_held(self, account: str) -> list[Json]:
        """Return the rows of what a panic under way has not closed yet."""
        words = "not closed yet, and its tries go on: look at `rltrader-gateway status`, and give the panic again"
        rows: list[Json] = [
            {"symbol": symbol, "status": 504, "body": {"message": f"{text(holding.qty)} of {account}: {words}"}}
            for symbol, holding in self.books.accounts[account].holdings.items()
        ]
        return rows + self._rows_of_purchases(account)

    def _rows_of_purchases(self, account: str) -> list[Json]:
        words = {True: "is not cancelled", False: "filled, and the news of it has not come"}
        return [
            {"symbol": o.symbol, "status": 504, "body": {"message": f"purchase {o.name} {words[o.open]}: try again"}}
            for o in self.books.purchases((account,))
        ]

    async def halt(self, reason: str, detail: str, by: str) -> None:
        """Deny new risk to all sub-accounts until `resume`."""
        self._person_halts[ALL] = Halted(self.now_ns(), reason, detail, by)
        await self._halt(self._person_halts[ALL])

    async def _halt(self, event: Halted | RowsLeftOut) -> None:
        await self.do(event)
        self._has_halted()

    def _has_halted(self) -> None:
        if self.books.halt is not None:
            reason, detail, _ = self.books.halt
            self._log("gateway_halted", reason=reason, detail=detail)
            self._alarms.raise_for("gateway_halted", f"{reason}: {detail}")

    def _refuse_newer_halt(self, account: str, by: str, seen_ns: int) -> None:
        """Raise ValueError where another person commanded a halt, or a panic of `account`, in the last minute.

        `seen_ns` is when the person looked, 0 where that is not known; an older halt counts as seen.
        """
        now_ns, halt = self.now_ns(), self._person_halts.get(account)
        if halt is not None and halt.by != by and halt.time_ns > max(seen_ns, now_ns - LOOKED_NS):
            words = f"{halt.by} did this in the last minute: {halt.reason}: {halt.detail}"
            raise ValueError(f"{words}: look; {SEEN.format(now_ns)}")

    async def lift(self, account: str, by: str = "", seen_ns: int = 0) -> None:
        """Lift the fence of a sub-account, or the account's own (`ALL`).

        Raises ValueError after another person's panic in the last minute, and where the broker does not lift it.
        """
        self._refuse_newer_halt(account, by, seen_ns)
        if account == ALL:
            await self._lift_of_account()
        else:
            await self.do(Suspended(self.now_ns(), account, False))
        self._log("gateway_lifted", sub_account=account)

    async def _lift_of_account(self) -> None:
        """Have the broker take orders of the account again, and request a report."""
        try:
            await self.upstream.lift_fence()
        except (BrokerError, wire.Malformed) as error:
            raise ValueError(f"the broker did not lift the account's fence: {error}: try again") from None
        with contextlib.suppress(TimeoutError):  # a later report shows it too
            await self.wait_for_report(self.settings.gateway.answer_s)

    async def resume(self, by: str, why: str, seen_ns: int = 0) -> None:
        """Allow new risk again; `seen_ns` is when the person looked.

        Raises ValueError beyond the day's loss limit, without room for the journal's reserve, and after a halt that
        another person commanded in the last minute.
        """
        self._refuse_newer_halt(ALL, by, seen_ns)
        if loss := self._day_loss():
            cure = "it ends with the New York day; to go on before, raise that limit and start the gateway again"
            raise ValueError(f"{loss}: {cure}")
        try:
            await self.journal.reserve()
        except JournalError as error:
            raise ValueError(str(error)) from None
        await self.do(Resumed(self.now_ns(), by, why))
        self._log("gateway_resumed", by=by, why=why)


class _ShownLines(Sequence[ActivityRow]):
    """The activities of a sub-account, each turned into a row when it is read."""

    def __init__(self, lines: Sequence[NotedLine]) -> None:
        self._lines = lines

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, place: int) -> ActivityRow: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[ActivityRow]: ...
    def __getitem__(self, place: int | slice) -> ActivityRow | Sequence[ActivityRow]:
        if isinstance(place, slice):
            return _ShownLines(self._lines[place])
        line = self._lines[place]
        return ActivityRow(line.id, line.time_ns, line.time_ns, line.fields)


def is_of(order: GatewayOrder, row: Json) -> bool:
    """Return whether the broker's row of this name is the order that was sent, not one that had the name long before.

    A clock that leapt does not make it another order, which would be sent again. Raises Malformed for a row that the
    books could not take.
    """
    readable_order(row)
    alike = (row.get("symbol"), row.get("side")) == (order.symbol, order.side)
    return alike and submitted_ns_of(row, order.created_ns) >= order.created_ns - CLOCKS_NS


def refusal_of(error: Refused) -> Refusal:
    """Return the broker's refusal for a client: only what concerns the order, not the account.

    Where the broker does not know the keys, they are the account's, not the client's.
    """
    if error.unknown_keys:
        return denial(f"{GATEWAY}the broker refuses the account's keys: {error}")
    extra = {key: value for key, value in error.extra.items() if key in ("reject_reason", "symbol", "cost_basis")}
    return Refusal(error.status, error.code, error.message, **extra)


def plain(body: Json, keys: Sequence[str], more: Sequence[str] = ()) -> Json:
    """Return a client's fields that are passed on: texts, numbers and flags. Raises `Refusal` for other values."""
    result = {key: body[key] for key in (*keys, *more) if body.get(key) is not None}
    for key, value in result.items():
        scalar = isinstance(value, (str, int, float, Decimal))
        if not scalar or not str(value).isprintable() or (isinstance(value, int) and value.bit_length() > 63):
            raise invalid(f"invalid {key}")
        if key in NUMBERS:
            try:
                wire.optional_decimal(result, key)
            except wire.Malformed:  # the broker's row would be unreadable too, and so would every report with it
                raise invalid(f"invalid {key}") from None
    return result


def urgency_of(order: Ticket) -> CallPriority:
    """Return the priority of an order's call: sales that leave a position come first, stops and entries later."""
    leaves = order.sign < 0 and order.type in ("market", "limit")
    return CallPriority.EXIT if leaves else CallPriority.ENTRY
