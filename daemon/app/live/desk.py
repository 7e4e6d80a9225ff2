"""A live desk: engine, journal and machine as in a replay, with a broker's feed and, unless dry, its orders.

An outage of the broker is a state of the running daemon. The order path (engine, journal, feed, broker) may end the
process; all else is supervised.
"""

from __future__ import annotations

import asyncio
from typing import Any

from daemon.app.live.broker_side import BrokerSide
from daemon.app.live.prepare import Live
from daemon.app.live.serving import served_answers
from daemon.app.live.session_jobs import SessionJobs
from daemon.app.live.stop import StandDown, stop_at_signals, stop_cleanly
from daemon.app.live.ticks import Ticks
from daemon.app.live.watch import HeadPublisher, Notifier, StatusLine
from daemon.app.opening import OpenDesk
from daemon.app.operator_side import DeskPorts, OperatorSide
from daemon.app.telemetry import BrokerKeys
from daemon.core.events import Event
from daemon.core.state import State
from daemon.core.step import Step
from daemon.engine.intake import Intake
from daemon.host.account_lock import AccountLock
from daemon.host.hang import HangGuard
from daemon.host.service import Service
from daemon.operator.log import Log
from daemon.operator.side_thread import supervised

PROBE_S = 20.0


class LiveDesk:
    """One run of a live desk: owns the parts, and their order at start and stop."""

    def __init__(
        self, live: Live, opened: OpenDesk, log: Log, keys: BrokerKeys, account: AccountLock | None = None
    ) -> None:
        self.intake = Intake()
        self._live, self._log = live, log
        self._service = Service()
        folder, clock, initial = opened.state_dir.path, live.clock, opened.recovered.machine.state
        self.notify = Notifier(log, self.intake, clock)
        self.ticks = Ticks(clock, self.intake, opened.writer, self._state)
        self._broker = BrokerSide(
            live, account, folder / "history", self.intake, initial, self._state, self.ticks, self.notify
        )
        trading, number = self._broker.trading, live.settings.desk.account_number
        self._served = served_answers(live, opened, self.intake.put, self.notify)
        serve = None if self._served is None else self._served.ask
        self.desk = opened.assemble(self.intake, self._observe, trading, number, serve)
        self.engine = self.desk.engine
        self._hang = HangGuard(folder, live.settings.policy.hang_s, lambda: self.engine.stepping_ns)
        ports = DeskPorts(
            self.intake.put,
            clock.now_ns,
            clock.host_ns,
            lambda: (len(self.intake), self.intake.dropped),
            self._broker.clock_check.fault,
        )
        self.operator = OperatorSide(opened, self.engine, keys, ports, log, self.notify)
        self.heads = HeadPublisher(self.engine, self.operator, log)
        self._stand_down = StandDown(folder, live, self.engine, self.intake, self.ticks)
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

    async def check_clock(self) -> None:
        """Compare the clocks before the first time stamp; go on without a timely answer."""
        await self._broker.check_clock()

    def _observe(self, event: Event, step: Step) -> None:
        self._log.step(event, step)
        self.operator.observe(event, step)
        self._broker.observe(event, step)
        self.ticks.observe(event, step.state)

    async def run(self) -> None:
        """Run until the engine ends. Raises what ended engine, journal, feed or broker."""
        began_ns = self._live.clock.now_ns()
        stops = stop_at_signals(self._stop)
        self._stand_down.at_start()
        self._jobs.schedule.start()
        if self._served is not None:
            self._served.start()
        self.operator.start()
        self._hang.start()
        try:
            await self._tasks(began_ns)
        except BaseExceptionGroup as several:
            raise _first_of(several) from None
        finally:
            for task in stops:
                task.cancel()
            self._jobs.schedule.stop()
            if self._served is not None:
                self._served.close()
            self.intake.end()
            await self._broker.close()
            await self.operator.close()
            self._service.close()
            self._hang.close()

    async def _tasks(self, began_ns: int) -> None:
        """The root task group: a failed order path ends it, a failed monitor does not."""
        status = StatusLine(self._live, self.engine, self._service, self._log, self.notify)
        async with asyncio.TaskGroup() as group:
            engine = group.create_task(self.desk.run(began_ns), name="engine")
            others = [group.create_task(self._market(), name="feed")]
            if self._broker.trading is not None:
                others.append(group.create_task(self._broker.trading.run(), name="broker"))
            others.append(group.create_task(self.ticks.run(), name="ticks"))
            watching = (
                ("panic", self._stand_down.run),
                ("watchdog", self._guard),
                ("status", status.run),
                ("heads", self.heads.run),
                ("clock", self._broker.clock_check.run),
                *self.operator.works,
            )
            for name, work in watching:
                others.append(group.create_task(supervised(name, work, self.operator.failed), name=name))
            await engine  # its last commit is durable
            self.heads.publish(self.engine.last_row, self.engine.chain_head)
            for task in others:
                task.cancel()

    async def _market(self) -> None:
        """Add the events that the journal lacks, then stream; the schedule starts one session after another."""
        await self.engine.started.wait()
        self._service.ready()
        current, before = await self._broker.catch_up()
        self._jobs.plan(current)
        if before is not None and before.date != current.date:
            self._jobs.plan_late_report(before)
        await self._broker.feed.run()

    async def _guard(self) -> None:
        await self.engine.started.wait()
        await self.ticks.probe()  # the halt for an earlier hang is durable
        self._hang.forget()
        await self._service.guard(self.ticks.probe, PROBE_S, PROBE_S)

    async def _stop(self, name: str) -> None:
        self._log("stopping", reason=name)
        self._service.stopping()
        await stop_cleanly(name, self._live, self.engine, self.intake, self.ticks, self._log)


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first exception that is not a group."""
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first
