"""The operator's side of one running desk: displays, commands and the choice of its model.

It runs next to the trading path. Invariant: the engine waits for nothing here. A task that raises is logged and
restarted; an observer that raises is left out until the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from daemon.app.measuring import Measuring
from daemon.app.opening import OpenDesk
from daemon.app.telemetry import BrokerKeys, Telemetry
from daemon.core.events import Event
from daemon.core.step import Step
from daemon.engine.engine import Engine
from daemon.journal.journal import FILE
from daemon.models.ladder.climber import Climber
from daemon.models.lifecycle import Lifecycle
from daemon.operator.alarm_command import AlarmCommand
from daemon.operator.control.control import ControlServer
from daemon.operator.gateway import Gateway
from daemon.operator.log import Log
from daemon.operator.side_thread import SideThread, Work

SHUTDOWN_TIMEOUT_S = 2.0
DESK_OF_A_REPLAY = "replay"  # appended to the desk's name in telemetry, so that no replay passes for the desk itself

Observer = Callable[[Event, Step], None]


@dataclass(frozen=True, slots=True)
class DeskPorts:
    """How the operator's side reaches the desk's source of events. The defaults are a replay's."""

    put: Callable[[Event], None]
    now_ns: Callable[[], int]
    host_ns: Callable[[], int]  # real time without leaps of the host's clock: remote commands are judged by it
    waiting: Callable[[], tuple[int, int]] = lambda: (0, 0)  # events in the intake, and dropped ones
    clock_fault: Callable[[], str] = lambda: "a replay's time is its tape's"


class OperatorSide:
    """Displays, commands and model choice of one desk. `observe` must see every step; run `works` as tasks.

    Make it on the event loop, after the engine. `notify` logs, and raises an alarm where the event is one.
    """

    def __init__(
        self,
        opened: OpenDesk,
        engine: Engine,
        keys: BrokerKeys,
        ports: DeskPorts,
        log: Log,
        notify: Callable[..., None],
    ) -> None:
        settings = opened.checked.settings
        self.gateway = Gateway(engine, ports.put, ports.now_ns, ports.clock_fault)
        self._log, self._opened = log, opened
        replay = self.gateway.state.identity.by_tape
        name = f"{settings.desk.name}-{DESK_OF_A_REPLAY}" if replay else settings.desk.name
        lifecycle = self._lifecycle()
        climber = None if replay else self._climber(lifecycle)
        self._prepare = lifecycle.prepare if settings.policy.shadow else None
        self._observers: list[tuple[str, Observer]] = [("gateway", self.gateway.observe), ("models", lifecycle.observe)]
        self._works: list[tuple[str, Work]] = [("models", lifecycle.run)]
        if climber is not None:
            self._observers.append(("ladder", climber.observe))
            self._works.append(("ladder", climber.run))
        side: list[tuple[str, Work]] = []
        if settings.control.enabled:
            control = ControlServer(settings.paths.state_dir, self.gateway, settings.desk.name, log)
            self._works.append(("control", control.run))
        self._telemetry: Telemetry | None = None
        if settings.mqtt.enabled:
            self._telemetry = Telemetry(settings, name, keys, self.gateway, log, ports.host_ns)
            self._observers += self._telemetry.observers
            side.append(("mqtt", self._telemetry.run))
        alarm = settings.alarms
        if alarm.command and not replay:
            alarms = AlarmCommand(alarm.command, alarm.per_minute, alarm.timeout_s, name, log)
            self._observers.append(("alarm command", alarms.observe))
            side.append(("alarm command", alarms.run))
        outbox = self._telemetry.outbox if self._telemetry is not None else None
        drifted = climber.drifted if climber is not None else None
        self._measuring = Measuring(opened, name, engine, self.gateway, ports.waiting, outbox, log, notify, drifted)
        self._observers += self._measuring.observers
        self._works += self._measuring.works
        self._side = SideThread(side, self.failed) if side else None

    def _lifecycle(self) -> Lifecycle:
        checked = self._opened.checked
        settings = checked.settings
        policy = settings.policy
        return Lifecycle(
            settings.paths.models_dir,
            checked.strategy,
            policy.version,
            policy.shadow,
            poll_s=policy.poll_s,
            public_key=policy.public_key,
            provider=policy.provider,
            threads=policy.threads,
            trading=settings.trading(),
            gateway=self.gateway,
            models=self._opened.models,
            log=self._log,
        )

    def _climber(self, lifecycle: Lifecycle) -> Climber:
        checked = self._opened.checked
        settings = checked.settings
        return Climber(
            settings.paths.models_dir,
            checked.strategy,
            settings.ladder,
            journal=settings.paths.state_dir / FILE,
            poll_s=settings.policy.poll_s,
            public_key=settings.policy.public_key,
            gateway=self.gateway,
            models=self._opened.models,
            lifecycle=lifecycle,
            log=self._log,
        )

    def publish_head(self, row: int, head: str) -> None:
        """Publish the chain's head over MQTT if that is enabled. On the trading loop's thread."""
        if self._telemetry is not None:
            self._telemetry.publish_head(row, head)

    # --- the trading loop -----------------------------------------------------------------------------------------

    def observe(self, event: Event, step: Step) -> None:
        """Show a step to all observers; one that raises is logged and left out.

        An error in `Models`, which decides which model answers, ends the daemon instead; the next start recovers.
        """
        self._opened.models.observe(event, step)
        for name, observer in self._observers:
            try:
                observer(event, step)
            except Exception as error:
                self._observers = [entry for entry in self._observers if entry[0] != name]
                self.failed(name, f"{type(error).__name__}: {error}; it is left out until the next start")

    def failed(self, name: str, problem: str) -> None:
        """Log that a monitoring part raised; trading goes on. Thread-safe."""
        self._log("task_failed", task=name, problem=problem)

    async def prepare(self) -> None:
        """Load a candidate before the first event, so that a replay asks it from the first bar on."""
        if self._prepare is not None:
            await self._prepare()

    def start(self) -> None:
        """Start the side thread and count log events."""
        self._log.on_event = self._measuring.count_log_event
        if self._side is not None:
            try:
                self._side.start()
            except RuntimeError as error:  # no thread is left: the desk trades without
                self._side = None
                self.failed("operator's thread", f"{type(error).__name__}: {error}")

    @property
    def works(self) -> tuple[tuple[str, Work], ...]:
        """The tasks for the event loop, by name."""
        return tuple(self._works)

    async def close(self) -> None:
        """Stop the side thread within a deadline; abandon work that hangs."""
        self._log.on_event = None
        if self._side is not None and not await asyncio.to_thread(self._side.stop, SHUTDOWN_TIMEOUT_S):
            self.failed("operator's thread", f"did not end within {SHUTDOWN_TIMEOUT_S:g} s; it is left behind")
