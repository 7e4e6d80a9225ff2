"""What a live desk reports: log events, alarms, the systemd status line, the heads of its journal's chain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from daemon.app.live.prepare import Live
from daemon.app.operator_side import OperatorSide
from daemon.core.events import TroubleNoticed
from daemon.engine.engine import Engine
from daemon.engine.intake import Intake
from daemon.host.service import Service
from daemon.host.time.clock import Clock
from daemon.host.time.virtual_time import look_s
from daemon.operator.log import Log
from daemon.operator.log_events import LOG_EVENTS
from daemon.operator.status import in_one_line, status_of
from strategies.kit.units import SECOND_NS

EVERY_S = 5.0
HALF_HOUR_NS = 1_800 * SECOND_NS


class Notifier:
    """Logs an event; one that is an alarm is journaled too."""

    def __init__(self, log: Log, intake: Intake, clock: Clock) -> None:
        self._log, self._intake, self._clock = log, intake, clock

    def __call__(self, name: str, /, **fields: object) -> None:
        self._log(name, **fields)
        if LOG_EVENTS[name].alarm:
            detail = ", ".join(f"{key} {value}" for key, value in fields.items())
            self._intake.put(TroubleNoticed(self._clock.now_ns(), name, detail))


class StatusLine:
    """Keeps the line of `systemctl status` current and logs it now and then; reports a host clock that was set back."""

    def __init__(self, live: Live, engine: Engine, service: Service, log: Log, notify: Callable[..., None]) -> None:
        self._live, self._engine, self._service, self._log, self._notify = live, engine, service, log, notify

    async def run(self) -> None:
        """Run until cancelled."""
        clock, name = self._live.clock, self._live.settings.desk.name
        known_ns, logged = 0, 0
        while True:
            state = self._engine.machine.state
            line = in_one_line(status_of(state, name))
            self._service.status(line)
            session, half_hours = state.session.session, clock.now_ns() // HALF_HOUR_NS
            if half_hours > logged and session is not None and not state.session.ended:
                logged = half_hours
                self._log("alive", status=line)
            back_ns = clock.stepped_back_ns
            if back_ns > known_ns + SECOND_NS:
                known_ns = back_ns
                self._notify("clock_stepped_back", by_s=round(back_ns / SECOND_NS, 1))
            await asyncio.sleep(look_s(EVERY_S))


class HeadPublisher:
    """Publishes the chain's head where a writer of the journal can no longer change it."""

    def __init__(self, engine: Engine, operator: OperatorSide, log: Log) -> None:
        self._engine, self._operator, self._log = engine, operator, log
        self._published = -1  # the newest published row

    def publish(self, row: int, head: str) -> None:
        """Publish the head at a durable row; each row once."""
        if row <= self._published:
            return
        self._published = row
        self._log("chain_head", row=row, head=head)
        self._operator.publish_head(row, head)

    async def run(self) -> None:
        """Publish the head of each snapshot, once its row is durable."""
        row = 0
        while True:
            row, head = await self._engine.snapshotted(row)
            await self._engine.kept(row)
            self.publish(row, head)
