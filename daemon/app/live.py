"""The live wiring: engine, journal and machine as in a replay, with a broker's feed and, unless dry, its orders.

Everything is checked before anything is written. An outage of the broker is a state of the running daemon, never a
reason not to start. The order path (engine, journal, feed, broker) may end the process; all else is supervised.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

from daemon.app.desk import assemble, prepare_interpreter
from daemon.app.live_start import Live, open_live, prepare_live, start_of
from daemon.app.live_status import open_things, settled
from daemon.app.operator_side import BrokerKeys, OperatorSide, broker_keys
from daemon.app.wiring import announce
from daemon.brokers.api import FeedDesk, Known, Trading, TradingDesk
from daemon.brokers.clock_check import ClockCheck
from daemon.core.effects import WatchContracts
from daemon.core.events import (
    BrokerReported,
    ClockTicked,
    Event,
    PanicNoticed,
    StopRequested,
    TroubleNoticed,
)
from daemon.core.session import new_york_text
from daemon.core.state import State
from daemon.core.step import Step
from daemon.engine.intake import Intake
from daemon.engine.recover import Recovered
from daemon.engine.recovery import code_digest, identity_of
from daemon.engine.state_dir import StateDir, report_path
from daemon.host.account_lock import AccountLock
from daemon.host.panic_marker import noticed, obey
from daemon.host.service import Service
from daemon.host.time.schedule import CLOSE, DECIDE, END_OF_DAY, WARM_UP, DayTimes, Job, Schedule, plan
from daemon.journal.journal import FILE
from daemon.journal.writer import JournalWriter
from daemon.models.answering import Models
from daemon.operator.log import Log
from daemon.operator.log_events import LOG_EVENTS
from daemon.operator.side_thread import supervised
from daemon.operator.status import in_one_line, status_of
from daemon.reports.end_of_day import archive, disk_is_low, newest_head, write_report
from strategies.kit.contract import Session
from strategies.kit.units import DAY_NS, SECOND_NS

__all__ = ["LiveDesk", "prepare_live", "run_live"]

BUSY_TICK_NS = SECOND_NS  # while something works at the broker or the policy
HOLDING_TICK_NS = 5 * SECOND_NS
IDLE_TICK_NS = 60 * SECOND_NS
LEAST_NAP_S = 0.02  # however fast a simulated clock runs
PROBE_S = 20.0
HALF_HOUR_NS = 1_800 * SECOND_NS
HISTORY_MIN = 15  # a daily desk's history is asked for so long before its decision
END_OF_DAY_LEAST_MIN = 10  # a daily desk's bars are final before its report is written
HORIZON_DAYS = 30  # fewer left in the calendar are told


class LiveDesk:
    """One run of a live desk: owns the parts, and their order at start and stop."""

    def __init__(
        self,
        live: Live,
        log: Log,
        state_dir: StateDir,
        recovered: Recovered,
        writer: JournalWriter,
        keys: BrokerKeys,
        account: AccountLock | None = None,
    ) -> None:
        self.intake = Intake()
        self._live, self._log, self._state_dir = live, log, state_dir
        self._writer = writer
        self._service = Service()
        self._probes: dict[int, asyncio.Future[None]] = {}  # by the identity of their ticks
        self._stepped = asyncio.Event()
        self._tick_ns, self._busier = IDLE_TICK_NS, asyncio.Event()
        self._published = -1  # the newest row whose head was published
        settings, state = live.settings, recovered.machine.state
        self._broker = live.broker.connect(settings, live.credentials, live.clock, self.intake.put, self.tell)
        self._clock_check = ClockCheck(
            self._broker.admin.clock,
            live.clock,
            self.tell,
            self._broker.clock_skew_max_s,
            lambda: self._state().now_ns,
        )
        self.feed = self._broker.market_feed(
            FeedDesk(live.strategy, live.calendar, state_dir.path / "history", self._state, self.probe)
        )
        self.link: Trading | None = None
        if not live.dry_run:
            put = self.intake.put if account is None else partial(self._put_claimed, account)
            self.link = self._broker.trading(
                TradingDesk(state.identity, lambda: self._state().broker, put, self._clock_check)
            )
            own = [order for order in state.orders.values() if order.order_id and order.purpose != "foreign"]
            ended = [order for order in state.closed.values() if order.order_id]
            closings = {order.client_order_id: order.order_id for order in (*own, *ended) if order.closing}
            self.link.follow({order.client_order_id: order.order_id for order in own}, closings)
        models, code = Models(live.policy, live.model), code_digest()
        self.desk = assemble(
            start_of(live, identity_of(state_dir.meta), code),
            recovered,
            writer,
            self.intake,
            models,
            group_events=settings.journal.group_events,
            snapshot_events=settings.journal.snapshot_events,
            observe=self._observe,
            outside=self.link,
            shadow=models,
        )
        self.engine = self.desk.engine
        self.operator = OperatorSide(
            settings,
            keys,
            live.strategy,
            self.engine,
            self.intake.put,
            live.clock.now_ns,
            log,
            self.tell,
            models,
            code=code,
            waiting=lambda: (len(self.intake), self.intake.dropped),
            host_ns=live.clock.host_ns,
            clock_fault=self._clock_check.fault,
        )
        self.schedule = Schedule(live.clock, lambda name, problem: self.tell("job_failed", job=name, problem=problem))
        self._times = _day_times(live, self.feed.close_grace_s)

    def _state(self) -> State[Any]:
        return self.engine.machine.state

    def _put_claimed(self, account: AccountLock, event: Event) -> None:
        """Put an event of the trading side in; a report's account is locked first."""
        if isinstance(event, BrokerReported):
            account.claim_number(event.account)
        self.intake.put(event)

    async def check_clock(self) -> None:
        """Compare the clocks before anything is stamped; without an answer in time the start goes on."""
        await self._clock_check.at_start(self._broker.start_wait_s)

    # --- what the parts tell --------------------------------------------------------------------------------------

    def tell(self, name: str, /, **fields: object) -> None:
        """Log it; what a person must know is an event too, and so an alarm."""
        self._log(name, **fields)
        if LOG_EVENTS[name].alarm:
            detail = ", ".join(f"{key} {value}" for key, value in fields.items())
            self.intake.put(TroubleNoticed(self._live.clock.now_ns(), name, detail))

    # --- what every step sets in motion ---------------------------------------------------------------------------

    def _observe(self, event: Event, step: Step) -> None:
        self._log.step(event, step)
        self.operator.observe(event, step)
        for effect in step.effects:
            if isinstance(effect, WatchContracts):
                self.feed.watch(effect.symbols)
        if self.link is not None:
            self.link.stepped(event)
            self.link.ask(step.effects)
        state = step.state
        if state.book.positions or state.orders:
            held = [*state.book.positions, *(order.symbol for order in state.orders.values())]
            self.feed.attend(frozenset(held))
        else:
            self.feed.attend(frozenset())
        self._stepped.set()
        if _tick_ns(state) < self._tick_ns:
            self._busier.set()
        if self._probes and (probed := self._probes.get(id(event))) is not None and not probed.done():
            probed.set_result(None)

    # --- life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until the engine ends. Raises what ended engine, journal, feed or broker."""
        began_ns = self._live.clock.now_ns()
        loop = asyncio.get_running_loop()
        stops: list[asyncio.Task[None]] = []

        def stop(name: str) -> None:
            if not stops:
                stops.append(loop.create_task(self._stop(name), name="stop"))

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number.name)
        if self.link is not None and (who := noticed(self._state_dir.path)):
            self._stand_down(who)  # before anything else that comes from outside
        self.schedule.start()
        self.operator.start()
        others: list[asyncio.Task[None]] = []
        try:
            async with asyncio.TaskGroup() as group:
                engine = group.create_task(self.desk.run(began_ns), name="engine")
                others.append(group.create_task(self._market(), name="feed"))
                if self.link is not None:
                    others.append(group.create_task(self.link.run(), name="broker"))
                others.append(group.create_task(self._tick(), name="ticks"))
                watching = (
                    ("panic", self._obey),
                    ("watchdog", self._guard),
                    ("status", self._tell_status),
                    ("heads", self._publish_heads),
                    ("clock", self._clock_check.run),
                    *self.operator.works,
                )
                for name, work in watching:
                    others.append(group.create_task(supervised(name, work, self.operator.failed), name=name))
                await engine  # its last commit is durable
                self.publish_head(self.engine.last_row, self.engine.chain_head)
                for task in others:
                    task.cancel()
        except BaseExceptionGroup as several:
            raise _first_of(several) from None
        finally:
            for task in stops:
                task.cancel()
            self.schedule.stop()
            self.intake.end()
            await self._broker.close()
            await self.operator.close()
            self._service.close()

    def _stand_down(self, who: str) -> None:
        broker = self._state().broker
        if not broker.stood_down or broker.accept_ns:
            self.intake.put(PanicNoticed(self._live.clock.now_ns(), who))

    async def _obey(self) -> None:
        if self.link is not None:  # a desk that sends nothing goes on
            await self.engine.started.wait()
            await obey(self._state_dir.path, self._stand_down, self.probe)

    async def _market(self) -> None:
        """Catch up with what the journal lacks, then stream; the sessions follow one another by schedule."""
        await self.engine.started.wait()
        self._service.ready()
        if self.link is not None:  # its word first: the sessions that follow know what the desk holds
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._broker.start_wait_s):
                    await self._until(lambda state: state.broker.reported_ns >= state.broker.started_ns)
        state = self.engine.machine.state
        session = state.session.session
        known = Known("", ended=False, last_bar_ns=0)
        if session is not None:
            known = Known(session.date, state.session.ended, state.session.last_bar_ns)
        if state.watched:
            self.feed.watch(state.watched)
        current = await self.feed.catch_up(known, exposed=bool(state.book.positions or state.orders))
        self._plan(current)
        if session is not None and session.date != current.date:
            self._plan_late_report(session)
        await self.feed.run()

    def _plan(self, session: Session) -> None:
        """Put the session's jobs on the schedule; what is due already runs at once, in order."""
        for job in plan(session, self._times):
            self.schedule.at(job.at_ns, job.name, partial(self._do, job, session))
        self._log(
            "session_planned",
            date=session.date,
            opens=new_york_text(session.open_ns),
            closes=new_york_text(session.close_ns),
        )

    def _plan_late_report(self, session: Session) -> None:
        """The last run ended after the session's close and before its end of day: report and copy are still due."""
        if report_path(self._state_dir.path / FILE, session).exists():
            return
        job = plan(session, self._times)[-1]
        self.schedule.at(max(job.at_ns, self._live.clock.now_ns()), job.name, partial(self._late_report, session))

    async def _late_report(self, session: Session) -> None:
        await self.probe()  # what the start put for the session is in the journal
        await self._end_of_day(session)

    async def _do(self, job: Job, session: Session) -> None:
        match job.kind:
            case kind if kind == WARM_UP:
                await self.feed.schedule(session)
            case kind if kind == DECIDE:
                await self.feed.decide(session)
            case kind if kind == CLOSE:
                await self.feed.end(session)
                self.engine.snapshot_soon()
            case kind if kind == END_OF_DAY:
                self._plan(self._live.calendar.next_after(session.close_ns))
                await self._end_of_day(session)
            case _:
                self.intake.put(ClockTicked(self._live.clock.now_ns()))

    async def _end_of_day(self, session: Session) -> None:
        """A look at calendar and disk, report, copy of the journal. Off the loop; what fails is told by its job."""
        journal, keep = self._state_dir.path / FILE, self._live.settings.service.archives
        last = self._live.calendar.sessions[-1]
        days = (last.close_ns - self._live.clock.now_ns()) // DAY_NS
        if days < HORIZON_DAYS:
            self.tell("calendar_ends", last=last.date, days=days)
        low = await asyncio.to_thread(disk_is_low, journal)  # before the copy, which a full disk refuses
        if low is not None:
            self.tell("disk_low", free_mib=low[0], journal_mib=low[1])
        report = await asyncio.to_thread(write_report, journal, session)
        copy = await asyncio.to_thread(archive, journal, session.date, keep)
        row, head = await asyncio.to_thread(newest_head, journal)
        self.publish_head(row, head)
        self._log("day_ended", date=session.date, report=str(report), archive=str(copy or ""))

    async def _publish_heads(self) -> None:
        """Publish the chain's head at each snapshot, once its row is durable."""
        row = 0
        while True:
            row, head = await self.engine.snapshotted(row)
            await self.engine.kept(row)
            self.publish_head(row, head)

    def publish_head(self, row: int, head: str) -> None:
        """Put the head at a durable row where who writes the journal cannot change it any more; each row once."""
        if row <= self._published:
            return
        self._published = row
        self._log("chain_head", row=row, head=head)
        self.operator.publish_head(row, head)

    async def _tick(self) -> None:
        """Let time pass: often while something waits for it, seldom when nothing does."""
        clock, last_ns = self._live.clock, 0
        while True:
            every_ns = self._tick_ns = _tick_ns(self.engine.machine.state)
            now_ns = clock.now_ns()
            if now_ns - last_ns >= every_ns and len(self.intake) == 0:
                last_ns = now_ns
                self.intake.put(ClockTicked(now_ns))
            await self._nap(last_ns + every_ns - now_ns)

    async def _nap(self, left_ns: int) -> None:
        """A second, after which the wall clock is looked at again; virtual time passes by itself until something steps
        or the next tick is due.
        """
        clock = self._live.clock
        if clock.participant is None:
            await asyncio.sleep(max(clock.real_s(BUSY_TICK_NS), LEAST_NAP_S))
            return
        self._busier.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(left_ns, BUSY_TICK_NS) / SECOND_NS):
                await self._busier.wait()

    async def probe(self) -> None:
        """Return when a tick came through intake and step, and the journal's thread has written what came before."""
        tick = ClockTicked(self._live.clock.now_ns())
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._probes[id(tick)] = done  # the watchdog's and the stop's may be under way at once
        try:
            self.intake.put(tick)
            await done
        finally:
            del self._probes[id(tick)]
        await self._writer.beat()

    async def _until(self, reached: Callable[[State[Any]], bool]) -> None:
        """Return when the state after some step is as asked."""
        while not reached(self.engine.machine.state):
            self._stepped.clear()
            await self._stepped.wait()

    async def _guard(self) -> None:
        await self._service.guard(self.probe, PROBE_S, PROBE_S)

    async def _tell_status(self) -> None:
        """What `systemctl status` shows, now and then in the log too, and whether the host's clock was set back."""
        known_ns, told = 0, 0
        while True:
            state = self.engine.machine.state
            self._service.status(in_one_line(status_of(state, self._live.settings.desk.name)))
            session, half_hours = state.session.session, self._live.clock.now_ns() // HALF_HOUR_NS
            if half_hours > told and session is not None and not state.session.ended:
                told = half_hours
                self._log("alive", status=in_one_line(status_of(state, self._live.settings.desk.name)))
            back_ns = self._live.clock.stepped_back_ns
            if back_ns > known_ns + SECOND_NS:
                known_ns = back_ns
                self.tell("clock_stepped_back", by_s=round(back_ns / SECOND_NS, 1))
            await asyncio.sleep(5)

    async def _stop(self, name: str) -> None:
        """No new orders, working entries cancelled, positions kept or left; then, or at the deadline, the end."""
        rules = self._live.settings
        self._log("stopping", reason=name)
        self._service.stopping()
        flatten = rules.broker.on_stop == "flatten"
        self.engine.stopped_by = name
        self.intake.put(StopRequested(self._live.clock.now_ns(), name, flatten))
        try:
            async with asyncio.timeout(rules.service.stop_deadline_s):
                await self.probe()
                await self._until(lambda state: settled(state, flatten=flatten))
        except TimeoutError:
            self._log("stop_late", open=open_things(self.engine.machine.state))
        held = [f"{p.quantity} {p.symbol}" for p in self.engine.machine.state.book.positions.values()]
        if held and not self._live.dry_run:
            self._log("positions_kept", positions=held)
        self.intake.end()


def _tick_ns(state: State[Any]) -> int:
    """How often time is stepped while the state is so."""
    waits = state.ask is not None or state.basket.waiting is not None
    if state.orders or state.works or waits or state.risk.stopping:
        return BUSY_TICK_NS
    return HOLDING_TICK_NS if state.book.positions else IDLE_TICK_NS


def _day_times(live: Live, close_grace_s: int) -> DayTimes:
    """When the desk's jobs are due. A daily desk has its history before it decides; bars are final at its close."""
    settings = live.settings
    warm_up_min, end_of_day_min = settings.feed.warm_up_min, settings.service.end_of_day_min
    if live.daily is None:
        return DayTimes(settings.execution, warm_up_min, close_grace_s, end_of_day_min)
    return DayTimes(
        settings.execution,
        warm_up_min=max(warm_up_min, settings.basket.before_open_min + HISTORY_MIN),
        close_grace_s=close_grace_s,
        end_of_day_min=max(end_of_day_min, END_OF_DAY_LEAST_MIN),
        basket=settings.basket,
    )


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception that is not a group."""
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first


async def run_live(live: Live, log: Log) -> str:
    """Run a live desk until it is stopped; returns what stopped it."""
    settings, code = live.settings, code_digest()
    keys = broker_keys(settings)
    account, state_dir, recovered, writer = open_live(live, log)
    try:
        model = live.model
        if live.clock.is_simulated:
            log.market_time = lambda: new_york_text(live.clock.now_ns())
        announce(settings, live.strategy, model, live.policy, state_dir, recovered, log, code)
        if live.refused:
            log("model_warning", version=model.version, reason=f"it answered last and goes on, because {live.refused}")
        prepare_interpreter()
        desk = LiveDesk(live, log, state_dir, recovered, writer, keys, account)
        desk.publish_head(recovered.last_id, recovered.head.hex())
        for snapshot in recovered.passed_over:
            desk.tell("snapshot_passed_over", snapshot=snapshot)
        await desk.check_clock()  # before any event is stamped with it
        await desk.run()
        state = desk.engine.machine.state
        log("run_ended", events=state.seq, state_digest=desk.engine.state_digest(), stopped_by=desk.engine.stopped_by)
        return desk.engine.stopped_by
    finally:
        writer.close()
        state_dir.close()
        account.close()
