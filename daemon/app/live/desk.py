"""A live desk: engine, journal and machine as in a replay, with a broker's feed and, unless dry, its orders.

An outage of the broker is a state of the running daemon. The order path (engine, journal, feed, broker) may end the
process; all else is supervised.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.app.desk import CALLERS, OpenDesk, announce, prepare_interpreter
from daemon.app.live.feed_choice import choose_feed, keep_feed
from daemon.app.live.paper_actions import PaperActions
from daemon.app.live.prepare import Live, leave_streams, open_live
from daemon.app.live.session_jobs import SessionJobs
from daemon.app.operator_side import BrokerKeys, DeskPorts, OperatorSide, broker_keys
from daemon.brokers.api import EventLogger, FeedDesk, Known, OrderGateway, Put, TradingDesk
from daemon.brokers.clock_check import ClockCheck
from daemon.config.load import ConfigError
from daemon.core.effects import WatchContracts
from daemon.core.events import (
    BarClosed,
    BarCorrected,
    BarRejected,
    BrokerReported,
    ClockTicked,
    Event,
    PanicFailed,
    PanicNoticed,
    StopRequested,
    TroubleNoticed,
)
from daemon.core.instruments.quotes import bar_fault, values_text
from daemon.core.limits import Protection
from daemon.core.orders import CANCELING, SUBMITTED
from daemon.core.session import new_york_text
from daemon.core.state import State
from daemon.core.step import Step
from daemon.engine.engine import Engine, Intake
from daemon.engine.own_code import begin_run, end_run, end_watch, unstopped_runs
from daemon.host.account_lock import AccountLock
from daemon.host.credential import CredentialProblem
from daemon.host.failures import innermost
from daemon.host.hang import ENDS_MAX, CallMark, HangGuard, last_hang, shown_stack
from daemon.host.panic_marker import Notice, obey, panic_asker
from daemon.host.service import Service
from daemon.host.time.clock import Clock
from daemon.host.time.virtual_time import look_s
from daemon.journal.rows import as_journaled
from daemon.journal.writer import JournalWriter
from daemon.operator.alarm_command import detail_of
from daemon.operator.log import Log
from daemon.operator.log_events import LOG_EVENTS
from daemon.operator.side_thread import supervise
from daemon.operator.status import in_one_line, status_of
from rltrader.install import install_line
from strategies.kit.contract import Session
from strategies.kit.entry import told_of_calls
from strategies.kit.own.stand_in import StandIn
from strategies.kit.units import SECOND_NS
from strategies.registry import own

if TYPE_CHECKING:
    from daemon.models.served import ServedAnswers


class BrokerSide:
    """One connection to the broker. `state()` is the newest state; `initial` is the recovered one."""

    def __init__(
        self,
        live: Live,
        account: AccountLock | None,
        folder: Path,
        intake: Intake,
        initial: State[Any],
        state: Callable[[], State[Any]],
        ticks: Ticks,
        notify: EventLogger,
    ) -> None:
        self._intake, self._state, self._ticks = intake, state, ticks
        spec = live.strategy.spec
        self._by_symbol = len(spec.symbols) > 1
        self._connection = live.broker.connect(live.settings, live.credentials, live.clock, self._put_market, notify)
        self.admin = self._connection.admin
        self.clock_check = ClockCheck(
            self.admin.clock,
            live.clock,
            notify,
            self._connection.clock_skew_max_s,
            lambda: state().now_ns,
        )
        self.feed = self._connection.market_feed(
            FeedDesk(live.strategy, live.calendar, folder / "history", state, ticks.probe)
        )
        self.panic = Notice(folder)
        self.trading: OrderGateway | None = None
        if not live.dry_run:
            put = partial(self._put_trading, account)
            self.trading = self._connection.trading(
                TradingDesk(
                    initial.identity,
                    lambda: state().broker,
                    put,
                    self.clock_check,
                    self.panic.is_new,
                    lambda: bool(state().basket.splits),
                )
            )
            orders_of_desk = [
                order for order in initial.orders.values() if order.order_id and order.purpose != "foreign"
            ]
            ended_orders = [order for order in initial.closed.values() if order.order_id]
            closings = {
                order.client_order_id: order.order_id for order in (*orders_of_desk, *ended_orders) if order.closing
            }
            self.trading.follow({order.client_order_id: order.order_id for order in orders_of_desk}, closings)

    def _put_market(self, event: Event) -> None:
        """Emit an event of the feed; a faulty bar is replaced by its refusal, so that no strategy sees it."""
        if isinstance(event, BarClosed | BarCorrected) and (reason := bar_fault(event.bar)):
            bar = event.bar
            detail = values_text((bar.open, bar.high, bar.low, bar.close, bar.volume))
            event = BarRejected(event.time_ns, bar.symbol, bar.start_ns, reason, detail)
        self._intake.put(event)

    def _put_trading(self, account: AccountLock | None, event: Event) -> None:
        """Emit an event of the trading side in the journal's form, after locking the account of a report."""
        event = as_journaled(event)
        if isinstance(event, BrokerReported) and account is not None:
            account.claim_number(event.account)
        self._intake.put(event)

    async def check_clock(self) -> None:
        """Compare the clocks before the first time stamp; go on without a timely answer."""
        await self.clock_check.at_start(self._connection.start_wait_s)

    def observe(self, event: Event, step: Step, used_beside: frozenset[str]) -> None:
        """Pass a step's effects on to feed and orders; `used_beside` are symbols in which a shadow's copies fill."""
        for effect in step.effects:
            if isinstance(effect, WatchContracts):
                self.feed.watch(effect.symbols)
        if self.trading is not None:
            self.trading.stepped(event, step.effects)
        state = step.state
        symbols = (*state.book.positions, *(order.symbol for order in state.orders.values()))
        self.feed.attend(used_beside.union(symbols))

    async def catch_up(self) -> tuple[Session, Session | None]:
        """Add the events that the journal lacks; return the current or next session, and the journal's last one."""
        if self.trading is not None:  # its report first: later sessions then know what the desk holds
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._connection.start_wait_s):
                    await self._ticks.until(lambda state: state.broker.reported_ns >= state.broker.started_ns)
        state = self._state()
        session = state.session.session
        known_bars = Known("", ended=False, last_bar_ns=0)
        if session is not None:
            newest = state.basket.newest if self._by_symbol else {}
            known_bars = Known(session.date, state.session.ended, state.session.last_bar_ns, newest)
        if state.watched:
            self.feed.watch(state.watched)
        return await self.feed.catch_up(known_bars, exposed=bool(state.book.positions or state.orders)), session

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()


BUSY_TICK_NS = SECOND_NS  # while something works at the broker or the policy
HOLDING_TICK_NS = 5 * SECOND_NS
IDLE_TICK_NS = 60 * SECOND_NS
AROUND_NS = 1800 * SECOND_NS  # a position this close to a session is watched as within it
LEAST_NAP_S = 0.02  # least, however fast a simulated clock runs


class Ticks:
    """Puts `ClockTicked` into the intake and waits for its results. `state()` is the newest state."""

    def __init__(self, clock: Clock, intake: Intake, writer: JournalWriter, state: Callable[[], State[Any]]) -> None:
        self._clock, self._intake, self._writer, self._state = clock, intake, writer, state
        self._probes: dict[int, asyncio.Future[None]] = {}  # by `id` of their ticks
        self._step_event = asyncio.Event()
        self._tick_ns, self._busier = IDLE_TICK_NS, asyncio.Event()

    def observe(self, event: Event, state: State[Any]) -> None:
        """Must see every step."""
        self._step_event.set()
        if _tick_ns(state, event.time_ns) < self._tick_ns:
            self._busier.set()
        if self._probes and (probe := self._probes.get(id(event))) is not None and not probe.done():
            probe.set_result(None)

    async def run(self) -> None:
        """Tick often while something waits for the time, else seldom."""
        last_ns = 0
        while True:
            now_ns = self._clock.now_ns()
            every_ns = self._tick_ns = _tick_ns(self._state(), now_ns)
            if now_ns - last_ns >= every_ns and len(self._intake) == 0:
                last_ns = now_ns
                self._intake.put(ClockTicked(now_ns))
            await self._nap(last_ns + every_ns - now_ns)

    async def _nap(self, left_ns: int) -> None:
        """Wait a second of the clock; in virtual time until a step needs a tick sooner, or the next one is due."""
        if self._clock.participant is None:
            await asyncio.sleep(max(self._clock.real_s(BUSY_TICK_NS), LEAST_NAP_S))
            return
        self._busier.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(left_ns, BUSY_TICK_NS) / SECOND_NS):
                await self._busier.wait()

    async def probe(self) -> None:
        """Return when a tick was stepped and everything before it is durable."""
        tick = ClockTicked(self._clock.now_ns())
        probe: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._probes[id(tick)] = probe  # the watchdog and a stop may probe at the same time
        try:
            self._intake.put(tick)
            await probe
        finally:
            del self._probes[id(tick)]
        await self._writer.beat()

    async def until(self, reached: Callable[[State[Any]], bool]) -> None:
        """Return after the first step whose state satisfies `reached`."""
        while not reached(self._state()):
            self._step_event.clear()
            await self._step_event.wait()


def _tick_ns(state: State[Any], now_ns: int) -> int:
    """Return the interval of ticks in this state at this time."""
    waits = state.ask is not None or state.basket.waiting is not None or bool(state.pending_bars)
    at_work = any(order.purpose != "protection" for order in state.orders.values())
    if at_work or state.works or waits or state.risk.stopping:
        return BUSY_TICK_NS
    session = state.session.session
    near = session is None or session.open_ns - AROUND_NS <= now_ns < session.close_ns + AROUND_NS
    return HOLDING_TICK_NS if state.book.positions and near else IDLE_TICK_NS


def served_answers(live: Live, desk: OpenDesk, put: Put, log: EventLogger) -> ServedAnswers | None:
    """Return the client where `policy.answers` is "served", else None. Raises ConfigError."""
    policy, meta, models = live.settings.policy, desk.state_dir.meta, desk.models
    if policy.answers != "served":
        return None
    try:
        from daemon.experience.link import link_of, password
        from daemon.models.served import ServedAnswers
    except ImportError as error:
        raise ConfigError(f'policy.answers is "served", {error}: {install_line("online")}') from error
    try:
        link, secret = link_of(policy.redis, policy.redis_user, policy.redis_ca_file), password()
    except (CredentialProblem, ValueError) as error:
        raise ConfigError(f"policy.redis: {error}") from error
    return ServedAnswers(
        link,
        secret,
        (meta["desk"], meta["epoch"]),
        live.strategy.spec,
        lambda: models.running,
        put,
        live.clock.now_ns,
        log,
        deadline_s=policy.served_deadline_ms / 1000,
    )


def stop_at_signals(stop: Callable[[str], Coroutine[Any, Any, None]]) -> list[asyncio.Task[None]]:
    """Run `stop(name)` on this loop at the first SIGTERM or SIGINT; the list holds its task from then on."""
    loop, stops = asyncio.get_running_loop(), list[asyncio.Task[None]]()

    def at_signal(name: str) -> None:
        if not stops:
            stops.append(loop.create_task(stop(name), name="stop"))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, at_signal, number.name)
    return stops


async def stop_cleanly(name: str, live: Live, engine: Engine, intake: Intake, ticks: Ticks, log: Log) -> None:
    """Cancel entries and, with `broker.on_stop = "flatten"`, close positions; then end, or at the deadline."""
    rules = live.settings
    flatten = rules.broker.on_stop == "flatten"
    engine.stopped_by = name
    intake.put(StopRequested(live.clock.now_ns(), name, flatten))
    try:
        async with asyncio.timeout(rules.service.stop_deadline_s):
            await ticks.probe()
            await ticks.until(lambda state: settled(state, flatten=flatten))
    except TimeoutError:
        log("stop_late", open=open_things(engine.machine.state))
    position_texts = [f"{p.quantity} {p.symbol}" for p in engine.machine.state.book.positions.values()]
    if position_texts and not live.dry_run:
        log("positions_kept", positions=position_texts)
    intake.end()


class StandDown:
    """Stops all orders of the desk after `rltraderctl panic` wrote its file into its folder, while the panic runs.

    After a failed panic the desk closes its own positions.
    """

    def __init__(self, panic: Notice, live: Live, engine: Engine, intake: Intake, ticks: Ticks) -> None:
        self._panic, self._live, self._engine, self._intake, self._ticks = panic, live, engine, intake, ticks

    def at_start(self) -> None:
        """Stand down if the file exists. Run before any other outside event. A desk that sends nothing goes on."""
        if not self._live.dry_run and (asker := panic_asker(self._panic.folder)):
            self._stand_down(asker)

    def _stand_down(self, asker: str) -> None:
        broker = self._engine.machine.state.broker
        if not broker.stood_down or broker.accept_ns or broker.panic_failed_ns:
            self._intake.put(PanicNoticed(self._live.clock.now_ns(), asker))

    def _report_failure(self, why: str) -> None:
        self._intake.put(PanicFailed(self._live.clock.now_ns(), why))

    async def run(self) -> None:
        """Watch for the file."""
        if not self._live.dry_run:
            await self._engine.started.wait()
            await obey(self._panic, self._stand_down, self._report_failure, self._ticks.probe)


def settled(state: State[Any], *, flatten: bool) -> bool:
    """Return True when a clean stop has nothing left to wait for."""
    session = state.session.session
    trading = session is not None and session.open_ns <= state.now_ns < session.close_ns
    if flatten and trading:
        return (
            not state.orders
            and not state.works
            and not any(position.right for position in state.book.positions.values())
        )
    orders = [order for order in state.orders.values() if order.purpose not in ("foreign", "protection")]
    if any(order.purpose == "entry" or order.work not in state.works for order in orders):
        return False
    return not (trading and isinstance(state.trading.protection, Protection) and _uncovers(state))


def _uncovers(state: State[Any]) -> bool:
    """Return whether a stop is on its way or removed for an unsent order, so that the end would leave none."""
    if any(order.purpose == "protection" and order.status in (SUBMITTED, CANCELING) for order in state.orders.values()):
        return True
    symbols_sold = {order.symbol for order in state.orders.values() if order.side < 0}
    bare = {work.symbol for work in state.works.values() if work.purpose == "exit"} - symbols_sold
    return any(symbol in bare for symbol in state.book.positions)


def open_things(state: State[Any]) -> list[str]:
    orders = [f"order {name} {order.status}" for name, order in state.orders.items()]
    return orders + [f"position {p.quantity} {p.symbol}" for p in state.book.positions.values()]


def closed_in_words(session: Session | None, now_ns: int) -> str:
    """Return what to add to the status line while the market is closed: when the next session opens."""
    if session is None or now_ns >= session.open_ns:
        return ""
    return f"; market closed, the session opens {new_york_text(session.open_ns)}"


EVERY_S = 5.0
HALF_HOUR_NS = 1_800 * SECOND_NS


class Notifier:
    """Logs an event; an alarm is journaled too."""

    def __init__(self, log: Log, intake: Intake, clock: Clock) -> None:
        self._log, self._intake, self._clock = log, intake, clock

    def __call__(self, name: str, /, **fields: object) -> None:
        self._log(name, **fields)
        if LOG_EVENTS[name].alarm:
            self._intake.put(TroubleNoticed(self._clock.now_ns(), name, detail_of(fields)))


class StatusLine:
    """Keeps the line of `systemctl status` current and logs it now and then; reports a host clock set back."""

    def __init__(self, live: Live, engine: Engine, service: Service, log: Log, notify: Callable[..., None]) -> None:
        self._live, self._engine, self._service, self._log, self._notify = live, engine, service, log, notify

    async def run(self) -> None:
        """Run until cancelled."""
        clock, name = self._live.clock, self._live.settings.desk.name
        known_ns, logged_ns = 0, 0
        while True:
            state = self._engine.machine.state
            session, half_hours = state.session.session, clock.now_ns() // HALF_HOUR_NS
            line = in_one_line(status_of(state, name)) + closed_in_words(session, clock.now_ns())
            self._service.status(line)
            if half_hours > logged_ns and session is not None and not state.session.ended:
                logged_ns = half_hours
                self._log("alive", status=line)
            back_ns = clock.stepped_back_ns
            if back_ns > known_ns + SECOND_NS:
                known_ns = back_ns
                self._notify("clock_stepped_back", by_s=round(back_ns / SECOND_NS, 1))
            await asyncio.sleep(look_s(EVERY_S))


class StrategyCalls:
    """Notes the calls of an own strategy, which may end the process silently.

    After the first such end of a day there is an alarm, and the event is stepped once more; `again` is the reason for a
    halt after the second one. Calls of shipped strategies are not noted.
    """

    def __init__(self, live: Live, folder: Path, notify: Callable[..., None]) -> None:
        self._live, self._folder, self.again = live, folder, ""
        own_strategy = own(live.strategy.spec.name)
        self._mark: CallMark | None = None
        if own_strategy is None:
            return
        self._mark = mark = CallMark(folder, new_york_text(live.clock.now_ns())[:10])
        whose = f"of {own_strategy.name} ({own_strategy.file})"
        where = f"{mark.ended_in or 'one of its calls'} {whose}"
        if mark.times >= ENDS_MAX:
            self.again = f"ended {mark.times} runs of this day without an error, the last in {where}"
        elif mark.ended_in and not shown_stack(last_hang(folder), *CALLERS):
            notify("strategy_ended", call=where)
        elif unstopped_runs() > 1:
            notify("strategy_ended", call=f"none, but after those {whose}, as {unstopped_runs()} runs of this day")

    @property
    def under_way(self) -> int:
        """The number of the noted call under way, 0 between two."""
        return 0 if self._mark is None else self._mark.under_way

    def start(self) -> None:
        """Note the calls from now on."""
        if self._mark is not None:
            stands_in = isinstance(self._live.strategy, StandIn)
            end_watch(self._folder, passed=not stands_in)
            if not stands_in:
                begin_run()
            told_of_calls.append(self._mark.note)
            for number in (signal.SIGTERM, signal.SIGINT):  # it runs at once, within the call; the loop's later
                signal.signal(number, self._stop)

    def _stop(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Note that this run ends in order."""
        if self._mark is not None:
            self._mark.stopped()
            end_run()

    def forget(self) -> None:
        """Restart the counts: the halt is in the journal."""
        if self._mark is not None and self.again:
            self._mark.forget()

    def close(self) -> None:
        """End the notes."""
        if self._mark is not None and self._mark.note in told_of_calls:
            told_of_calls.remove(self._mark.note)
            self._mark.close()


class HeadPublisher:
    """Publishes the chain's head in places that a writer of the journal cannot change."""

    def __init__(self, engine: Engine, operator: OperatorSide, log: Log) -> None:
        self._engine, self._operator, self._log = engine, operator, log
        self._published_row = -1  # the newest published row

    def publish(self, row: int, head: str) -> None:
        """Publish the head at a durable row; each row once."""
        if row <= self._published_row:
            return
        self._published_row = row
        self._log("chain_head", row=row, head=head)
        self._operator.publish_head(row, head)

    async def run(self) -> None:
        """Publish the head of each snapshot, once its row is durable."""
        row = 0
        while True:
            row, head = await self._engine.wait_for_snapshot(row)
            await self._engine.wait_until_durable(row)
            self.publish(row, head)


PROBE_S = 20.0


class LiveDesk:
    """One run of a live desk: owns its parts, and starts and stops them in order."""

    def __init__(
        self, live: Live, desk: OpenDesk, log: Log, keys: BrokerKeys, account: AccountLock | None = None
    ) -> None:
        self.intake = Intake()
        self._live, self._log, self._account = live, log, account
        self._service = Service()
        folder, clock, initial = desk.state_dir.path, live.clock, desk.recovered.machine.state
        self.notify = Notifier(log, self.intake, clock)
        self.ticks = Ticks(clock, self.intake, desk.writer, self._state)
        self._broker = BrokerSide(live, account, folder, self.intake, initial, self._state, self.ticks, self.notify)
        trading, number = self._broker.trading, live.settings.desk.account_number
        self._served_answers = served_answers(live, desk, self.intake.put, self.notify)
        serve = None if self._served_answers is None else self._served_answers.ask
        self._calls = StrategyCalls(live, folder, self.notify)
        self.desk = desk.assemble(self.intake, self._observe, trading, number, serve, self._calls.again)
        self.engine = self.desk.engine
        limit_s = live.settings.policy.hang_s
        words = (
            f"a step did not return within policy.hang_s ({limit_s} s): the daemon ends, the next start says where\n"
        )
        self._hang = HangGuard(folder, limit_s, self._turn, last_words=words)
        if self._hang.unrecorded:
            log("hang_unrecorded", problem=self._hang.unrecorded)
        ports = DeskPorts(
            self.intake.put,
            clock.now_ns,
            clock.host_ns,
            lambda: (len(self.intake), self.intake.dropped),
            self._broker.clock_check.fault,
        )
        self.operator = OperatorSide(desk, self.engine, keys, ports, log, self.notify)
        self.heads = HeadPublisher(self.engine, self.operator, log)
        self._stand_down = StandDown(self._broker.panic, live, self.engine, self.intake, self.ticks)
        self._jobs = SessionJobs(
            live,
            self._broker.feed,
            self.engine,
            self.intake,
            folder,
            log,
            self.notify,
            self.ticks.probe,
            self.heads.publish,
        )

    def _state(self) -> State[Any]:
        return self.engine.machine.state

    def _turn(self) -> int:
        """Return what `HangGuard` watches: a step, or a call of an own strategy outside of one, as the feed makes."""
        return self.engine.stepping_ns or self._calls.under_way

    def _observe(self, event: Event, step: Step) -> None:
        self._log.step(event, step)
        self.operator.observe(event, step)
        self._broker.observe(event, step, self.operator.symbols_used)
        if step.state.session.session is not self._jobs.traded:
            self._jobs.follow(step.state.session.session)
        self.ticks.observe(event, step.state)

    async def run(self) -> None:
        """Run until the engine ends. Raises what ended engine, journal, feed or broker."""
        await self._broker.check_clock()  # before any event is stamped with it
        began_ns = self._live.clock.now_ns()
        stops = stop_at_signals(self._stop)
        self._stand_down.at_start()
        self._jobs.schedule.start()
        if self._served_answers is not None:
            self._served_answers.start()
        self.operator.start()
        self._calls.start()  # ends the guard of the start, and Python has one such guard at a time
        self._hang.start()
        try:
            await self._tasks(began_ns)
            self._calls.end()
        except BaseExceptionGroup as several:
            raise innermost(several) from None
        finally:
            for task in stops:
                task.cancel()
            self._jobs.schedule.stop()
            if self._served_answers is not None:
                self._served_answers.close()
            self.intake.end()
            await self._broker.close()
            await self.operator.close()
            self._service.close()
            self._hang.close()
            self._calls.close()

    async def _tasks(self, began_ns: int) -> None:
        """The root task group: a failed order path ends it, a failed monitor does not."""
        status = StatusLine(self._live, self.engine, self._service, self._log, self.notify)
        async with asyncio.TaskGroup() as group:
            engine = group.create_task(self.desk.run(began_ns), name="engine")
            order_path = [group.create_task(self._market(), name="feed")]
            if self._broker.trading is not None:
                order_path.append(group.create_task(self._broker.trading.run(), name="broker"))
            order_path.append(group.create_task(self.ticks.run(), name="ticks"))
            if self._live.dry_run and self._account is not None:
                order_path.append(group.create_task(self._leave_streams(self._account), name="account"))
            tasks = list(order_path)
            watching = (
                ("panic", self._stand_down.run),
                ("watchdog", self._guard),
                ("status", status.run),
                ("heads", self.heads.run),
                ("clock", self._broker.clock_check.run),
                *self.operator.works,
                *(self._paper_actions() if self._live.dry_run else ()),
            )
            for name, work in watching:
                tasks.append(group.create_task(supervise(name, work, self.operator.failed), name=name))
            await _none_ends(engine, order_path)  # its last commit is durable
            self.heads.publish(self.engine.last_row, self.engine.chain_head)
            for task in tasks:
                task.cancel()

    def _paper_actions(self) -> list[tuple[str, Callable[[], Coroutine[Any, Any, None]]]]:
        """Return the work that reads what is announced of the paper broker's shares."""
        admin, clock, put = self._broker.admin, self._live.clock, self.intake.put
        return [("paper actions", PaperActions(admin, clock, lambda: self.engine.machine, put, self.notify).run)]

    async def _leave_streams(self, account: AccountLock) -> None:
        """Watch for a desk of this host that needs the market streams of this dry run. Raises AccountTakenError."""
        while True:
            await asyncio.sleep(look_s(EVERY_S))
            leave_streams(self._live, account)

    async def _market(self) -> None:
        """Add the events that the journal lacks, then stream; the schedule starts one session after another."""
        await self.engine.started.wait()
        self._service.ready()
        current, session_before = await self._broker.catch_up()
        self._jobs.plan(current)
        if session_before is not None and session_before.date != current.date:
            self._jobs.plan_late_report(session_before)
        await self._broker.feed.run()

    async def _guard(self) -> None:
        await self.engine.started.wait()
        await self.ticks.probe()  # the halt for an earlier hang is durable
        self._hang.forget()
        self._calls.forget()
        await self._service.guard(self.ticks.probe, PROBE_S, PROBE_S)

    async def _stop(self, name: str) -> None:
        self._log("stopping", reason=name)
        self._service.stopping()
        await stop_cleanly(name, self._live, self.engine, self.intake, self.ticks, self._log)


async def _none_ends(engine: asyncio.Task[None], order_path: Sequence[asyncio.Task[None]]) -> None:
    """Return when the engine has ended. Raises RuntimeError where a task of the order path ends before it."""
    ended_tasks, _ = await asyncio.wait((engine, *order_path), return_when=asyncio.FIRST_COMPLETED)
    by_itself = [task.get_name() for task in ended_tasks if task.cancelled() or task.exception() is None]
    if by_itself and engine not in ended_tasks:
        raise RuntimeError(f"the {by_itself[0]} ended by itself, which it never may (daemon/brokers/api.py)")
    await engine


async def run_live(live: Live, log: Log) -> str:
    """Run a live desk until it is stopped; returns what stopped it.

    Raises what `choose_feed` and `open_live` raise, with nothing written.
    """
    keys = broker_keys(live.settings)
    chosen = await choose_feed(live.settings, live.credentials, live.clock)
    live.settings = chosen.settings
    account, resources = open_live(live, log)
    recovery = resources.recovered
    try:
        if live.clock.is_simulated:
            log.market_time = lambda: new_york_text(live.clock.now_ns())
        announce(resources, log)
        if chosen.how:
            keep_feed(resources.state_dir.path, chosen)
            log("feed_chosen", name=live.settings.feed.name, options=live.settings.feed.options, how=chosen.how)
        if live.refused and live.model.digest:
            reason = f"it answered last and goes on, because {live.refused}"
            log("model_warning", version=live.model.version, reason=reason)
        prepare_interpreter()
        desk = LiveDesk(live, resources, log, keys, account)
        desk.heads.publish(recovery.last_id, recovery.head.hex())
        for snapshot in recovery.passed_over:
            desk.notify("snapshot_passed_over", snapshot=snapshot)
        await desk.run()
        state, engine = desk.engine.machine.state, desk.engine
        log("run_ended", events=state.seq, state_digest=engine.state_digest(), stopped_by=engine.stopped_by)
        return engine.stopped_by
    finally:
        resources.close()
        account.close()
