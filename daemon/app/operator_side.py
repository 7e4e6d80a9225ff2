"""The operator's side of one running desk, put together: what is seen, what may be asked, which model answers.

Beside the trading path. Invariant: the engine waits for nothing in here, and what raises is told and begun again; an
observer that raises is not asked again in this run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from daemon.config.load import ConfigError, Settings, operator_secrets
from daemon.core.events import Event, PauseRequested
from daemon.core.step import Step
from daemon.engine.engine import Engine
from daemon.journal.journal import FILE
from daemon.models.answering import Models
from daemon.models.lifecycle import Lifecycle
from daemon.operator.alarm_command import AlarmCommand
from daemon.operator.control.control import ControlServer
from daemon.operator.door import Door
from daemon.operator.log import Log
from daemon.operator.metrics.loop_lag import LoopLag
from daemon.operator.metrics.wal_watch import WalWatch
from daemon.operator.side_thread import SideThread, Work
from strategies.kit.contract import Strategy

if TYPE_CHECKING:
    from daemon.operator.metrics.metrics import Metrics
    from daemon.operator.mqtt.outbox import Outbox
    from daemon.operator.mqtt.signing import Key

END_S = 2.0  # so long the side thread may take to say goodbye
DESK_OF_A_REPLAY = "replay"  # behind the desk's name in telemetry: no replay is taken for the desk itself

Observer = Callable[[Event, Step], None]


class BrokerKeys(NamedTuple):
    """What this daemon proves itself with at the MQTT broker, and what commands are proved with. Never printed."""

    password: str | None
    commands: Mapping[str, Key]

    def __repr__(self) -> str:
        return "BrokerKeys([hidden])"


def broker_keys(settings: Settings) -> BrokerKeys:
    """The secrets that the settings ask for. Raises ConfigError for one that is missing or cannot be used."""
    if not settings.mqtt.enabled:
        return BrokerKeys(None, {})
    from daemon.operator.mqtt.signing import KeyRefused, parse_keys

    secrets = operator_secrets()
    password, text = secrets.mqtt_password, secrets.mqtt_command_keys
    if settings.mqtt.username and password is None:
        raise ConfigError(
            f"mqtt.username is {settings.mqtt.username!r} and there is no password: expected the credential or "
            f"environment variable MQTT_PASSWORD"
        )
    try:
        keys = parse_keys(text.get_secret_value()) if text is not None and settings.mqtt.commands else {}
    except KeyRefused as error:
        raise ConfigError(f"MQTT_COMMAND_KEYS: {error}") from None
    if settings.mqtt.commands and not keys:
        raise ConfigError(
            "mqtt.commands is true and there is no key that signs them: expected the credential or environment "
            "variable MQTT_COMMAND_KEYS with name:hex in it (docs/TELEMETRY.md)"
        )
    return BrokerKeys(password.get_secret_value() if password is not None else None, keys)


class OperatorSide:
    """Made on the event loop once the engine is there. `observe` sees every step; `works` run beside it."""

    def __init__(
        self,
        settings: Settings,
        keys: BrokerKeys,
        strategy: Strategy,
        engine: Engine,
        put: Callable[[Event], None],
        now_ns: Callable[[], int],
        log: Log,
        tell: Callable[..., None],
        models: Models,
        *,
        code: str,
        waiting: Callable[[], tuple[int, int]] = lambda: (0, 0),
        host_ns: Callable[[], int] = time.time_ns,
        clock_fault: Callable[[], str] = lambda: "a replay's time is its tape's",
    ) -> None:
        self.door = Door(engine, put, now_ns, clock_fault)
        self._host_ns = host_ns
        self._log, self._engine, self._strategy, self._models = log, engine, strategy, models
        self._state_dir = settings.paths.state_dir
        mode = self.door.state.identity.mode
        self._replay = mode == "replay"
        self._desk = f"{settings.desk.name}-{DESK_OF_A_REPLAY}" if self._replay else settings.desk.name
        self._observers: list[tuple[str, Observer]] = [("door", self.door.observe)]
        self._works: list[tuple[str, Work]] = []
        lifecycle = self._lifecycle(settings)
        self._prepare = lifecycle.prepare if settings.policy.shadow else None
        self._observers.append(("models", lifecycle.observe))
        self._works.append(("models", lifecycle.run))
        side: list[tuple[str, Work]] = []
        self._outbox: Outbox | None = None
        if settings.control.enabled:
            control = ControlServer(self._state_dir, self.door, settings.desk.name, log)
            self._works.append(("control", control.run))
        if settings.mqtt.enabled:
            side.append(("mqtt", self._mqtt(settings, keys)))
        if settings.alarms.command and not self._replay:
            alarms = AlarmCommand(
                settings.alarms.command, settings.alarms.per_minute, settings.alarms.timeout_s, self._desk, log
            )
            self._observers.append(("alarm command", alarms.observe))
            side.append(("alarm command", alarms.run))
        journal = self._state_dir / FILE
        self._works.append(("wal watch", WalWatch(journal, settings.alarms.wal_mib, tell).run))
        lag = LoopLag()
        self.metrics: Metrics | None = None
        if settings.metrics.enabled:
            self._works.append(("loop lag", lag.run))
            self.metrics = self._measured(journal, code, lag, waiting)
            self._observers.append(("metrics", self.metrics.observe))
            self._works.append(("metrics", partial(self.metrics.run, settings.metrics.port, log)))
        if settings.drift.every_min and not self._replay:
            self._works.append(("drift", self._drift(settings, journal, tell)))
        self._side = SideThread(side, self.failed) if side else None

    def _lifecycle(self, settings: Settings) -> Lifecycle:
        policy = settings.policy
        return Lifecycle(
            settings.paths.models_dir,
            self._strategy,
            policy.version,
            policy.shadow,
            poll_s=policy.poll_s,
            public_key=policy.public_key,
            provider=policy.provider,
            threads=policy.threads,
            trading=settings.trading(),
            door=self.door,
            models=self._models,
            log=self._log,
        )

    def _drift(self, settings: Settings, journal: Path, tell: Callable[..., None]) -> Work:
        from daemon.models.drift import DriftLimits, DriftWatch

        table = settings.drift
        limits = DriftLimits(table.window, table.least, table.feature_psi_max, table.action_psi_max)

        def told(name: str, **fields: Any) -> None:
            if name == "drift_measured" and self.metrics is not None:
                self.metrics.drifted(fields["features_psi_max"], fields["action_psi"])
            tell(name, **fields)

        async def pause(reason: str) -> None:
            await self.door.submit(lambda now_ns: PauseRequested(now_ns, reason, "drift"))

        watch = DriftWatch(
            journal,
            lambda: self._models.running.manifest,
            limits,
            every_min=table.every_min,
            log=told,
            pause=pause if table.pause else None,
        )
        return watch.run

    def _mqtt(self, settings: Settings, keys: BrokerKeys) -> Work:
        """Telemetry out, commands in. Its libraries are imported only where they are wanted."""
        from daemon.operator.announce import Announcer
        from daemon.operator.mqtt.connection import Broker
        from daemon.operator.mqtt.mqtt import MqttSettings, MqttSide
        from daemon.operator.mqtt.outbox import Outbox

        table = settings.mqtt
        broker = Broker(table.host, table.port, table.tls, table.ca_file, table.username, table.keepalive_s)
        self._outbox = Outbox(table.queue)
        self._observers.append(("telemetry", Announcer(self._outbox).observe))
        mqtt = MqttSide(
            MqttSettings(broker, self._desk, table.prefix, table.commands),
            keys.password,
            keys.commands,
            self._outbox,
            self.door.submit_from_thread,
            lambda: self.door.state,
            self._log,
            self._host_ns,
        )
        self._observers.append(("remote commands", mqtt.observe))
        return mqtt.run

    def _measured(self, journal: Path, code: str, lag: LoopLag, waiting: Callable[[], tuple[int, int]]) -> Metrics:
        from daemon.operator.metrics.metrics import Desk, Metrics, MqttCounts, Sources

        def counted() -> MqttCounts:
            assert self._outbox is not None
            counts = self._outbox.counts()
            return MqttCounts(counts.waiting, counts.published, counts.dropped)

        spec = self._strategy.spec
        identity = self.door.state.identity
        desk = Desk(
            self._desk,
            identity.strategy,
            identity.mode,
            code,
            () if spec.continuous else spec.actions,
            spec.bar_interval_s,
        )
        mqtt = counted if self._outbox is not None else None
        shadow = self._models
        sources = Sources(
            lambda: self.door.state,
            journal,
            self._engine.latency,
            lag,
            waiting,
            mqtt,
            lambda: shadow.shadow.version if shadow.shadow is not None else "",
        )
        return Metrics(desk, sources)

    def publish_head(self, row: int, head: str) -> None:
        """Leave the chain's head for the broker, where there is one. On the trading loop's thread."""
        if self._outbox is not None:
            from daemon.operator.mqtt.messages import ChainHead

            self._outbox.put_retained("chain", ChainHead(row, head))

    # --- the trading loop -----------------------------------------------------------------------------------------

    def observe(self, event: Event, step: Step) -> None:
        """Show a step to all that look at steps; whoever raises is told and not asked again.

        Which model answers is no mere look: that it raises is a bug that ends the daemon, which then recovers.
        """
        self._models.observe(event, step)
        for name, observer in self._observers:
            try:
                observer(event, step)
            except Exception as error:
                self._observers = [entry for entry in self._observers if entry[0] != name]
                self.failed(name, f"{type(error).__name__}: {error}; it is left out until the next start")

    def failed(self, name: str, problem: str) -> None:
        """Tell that something which only watches raised; trading goes on. May be called on any thread."""
        self._log("task_failed", task=name, problem=problem)

    async def prepare(self) -> None:
        """Let a candidate stand ready before the first event, so that a replay asks it from the first bar on."""
        if self._prepare is not None:
            await self._prepare()

    def start(self) -> None:
        """Begin what runs on a thread of its own, and hear what is logged."""
        if self.metrics is not None:
            self._log.heard = self.metrics.heard
        if self._side is not None:
            try:
                self._side.start()
            except RuntimeError as error:  # no thread is left: the desk trades without
                self._side = None
                self.failed("operator's thread", f"{type(error).__name__}: {error}")

    @property
    def works(self) -> tuple[tuple[str, Work], ...]:
        """What runs on the event loop, supervised, by name."""
        return tuple(self._works)

    async def close(self) -> None:
        """Say goodbye within a deadline; what hangs is left behind."""
        self._log.heard = None
        if self._side is not None and not await asyncio.to_thread(self._side.stop, END_S):
            self.failed("operator's thread", f"did not end within {END_S:g} s; it is left behind")
