"""The operator's side of one running desk: displays, commands and the choice of its model.

It runs next to the trading path. Invariant: the engine waits for nothing here. A task that raises is logged and
restarted; an observer that raises is left out until the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from daemon.app.desk import OpenDesk
from daemon.config.load import ConfigError, DeskSettings, operator_secrets
from daemon.core.events import Event, PauseRequested
from daemon.core.state import BROKER_MODES
from daemon.core.step import Step
from daemon.engine.engine import Engine
from daemon.engine.state_dir import parts_of
from daemon.experience.learning import LearningWatch
from daemon.journal.journal import FILE
from daemon.models.ladder.climber import Climber
from daemon.models.lifecycle import Lifecycle, WatchedDesk
from daemon.operator.alarm_command import AlarmCommand
from daemon.operator.control.control import ControlServer, SignedServer
from daemon.operator.log import Log
from daemon.operator.metrics.loop_lag import LoopLag, WalWatch
from daemon.operator.side_thread import SideThread, Work
from daemon.operator.submitter import Submitter
from strategies.kit.units import SECOND_NS

if TYPE_CHECKING:
    from daemon.models.claim_watch import ClaimWatch
    from daemon.operator.guard_link import GuardLink
    from daemon.operator.metrics.metrics import Metrics
    from daemon.operator.mqtt.outbox import Outbox
    from daemon.operator.remote_commands import Judge
    from daemon.operator.signing import Key


class BrokerKeys(NamedTuple):
    """The MQTT password, the keys that verify commands, and the guard's key. Never printed."""

    password: str | None
    commands: Mapping[str, Key]
    guard: Key | None = None  # None where no guard watches

    def __repr__(self) -> str:
        return "BrokerKeys([hidden])"


def broker_keys(settings: DeskSettings) -> BrokerKeys:
    """Return the secrets that the settings need. Raises ConfigError for a missing or unusable one."""
    keys = signed_keys(settings)
    if not settings.guard.prefix:
        return keys
    from daemon.operator.heartbeat import guard_key

    return keys._replace(guard=guard_key(settings.guard))


def signed_keys(settings: DeskSettings) -> BrokerKeys:
    """Return only those of `[mqtt]` and of signed commands. Raises ConfigError."""
    password, mqtt = None, settings.mqtt
    if mqtt.enabled:
        from daemon.operator.mqtt.connection import password_of

        password = password_of(mqtt)
    switch = "mqtt.commands" if mqtt.commands else "control.signed" if settings.control.signed else ""
    if not switch:
        return BrokerKeys(password, {})
    from daemon.operator.signing import KeyRefused, parse_keys

    text = operator_secrets().mqtt_command_keys
    try:
        keys = parse_keys(text.get_secret_value()) if text is not None else {}
    except KeyRefused as error:
        raise ConfigError(f"MQTT_COMMAND_KEYS: {error}") from None
    if not keys:
        raise ConfigError(
            f"{switch} is true and there is no key that signs commands: expected the credential or environment "
            f"variable MQTT_COMMAND_KEYS with name:hex in it (docs/TELEMETRY.md)"
        )
    return BrokerKeys(password, keys)


Notify = Callable[..., None]


class Measuring:
    """The measurements enabled in the settings. `works` run as tasks, `observers` see every step."""

    def __init__(
        self,
        desk: OpenDesk,
        name: str,
        engine: Engine,
        submitter: Submitter,
        waiting: Callable[[], tuple[int, int]],
        outbox: Outbox | None,
        log: Log,
        notify: Notify,
        on_drift: Callable[[str, str], None] | None,
    ) -> None:
        settings, journal = desk.checked.settings, desk.state_dir.path / FILE
        trainer = None
        self.works: list[tuple[str, Work]] = [("wal watch", WalWatch(journal, settings.alarms.wal_mib, notify).run)]
        self.observers: list[tuple[str, Callable[[Event, Step], None]]] = []
        self.count_log_event: Callable[[str], None] | None = None
        if not submitter.state.identity.by_tape:
            shelf = settings.paths.models_dir / desk.checked.strategy.spec.name
            wanted = _why_a_trainer(settings)
            watch = LearningWatch(
                shelf, notify, desk=settings.desk.name, epoch=submitter.state.identity.epoch, wanted=wanted
            )
            self.works.append(("learning watch", watch.run))
            self.observers.append(("learning watch", watch.observe))
            trainer = watch.newest_sign
        metrics = None
        if settings.metrics.enabled:
            from daemon.operator.metrics.server import serve

            lag = LoopLag()
            metrics = _metrics(desk, name, engine, journal, lag, waiting, outbox, trainer)
            self.count_log_event = metrics.log_event
            self.observers.append(("metrics", metrics.observe))
            self.works.append(("loop lag", lag.run))
            self.works.append(("metrics", partial(serve, metrics.registry, settings.metrics.port, log)))
        if settings.drift.every_min and not submitter.state.identity.by_tape:
            self.works.append(("drift", _drift_watch(desk, journal, submitter, notify, metrics, on_drift)))


def _why_a_trainer(settings: DeskSettings) -> str:
    """Return why there must be a trainer, "" where the desk needs none."""
    if settings.policy.answers == "served":
        return 'policy.answers = "served": each decision is a HOLD'
    if settings.exploration.kind != "none":
        return f'exploration.kind = "{settings.exploration.kind}": the desk explores for nobody'
    return "policy.wait_for_first = true: nothing is learned" if settings.policy.wait_for_first else ""


def _metrics(
    resources: OpenDesk,
    name: str,
    engine: Engine,
    journal: Path,
    lag: LoopLag,
    waiting: Callable[[], tuple[int, int]],
    outbox: Outbox | None,
    trainer: Callable[[], tuple[int, int]] | None,
) -> Metrics:
    """Return the metrics of the desk `name`. `waiting` returns the events in the intake, and the dropped ones."""
    from daemon.operator.metrics.metrics import DeskLabels, Metrics, ScrapeSources

    spec, models = resources.checked.strategy.spec, resources.models
    identity = engine.machine.state.identity
    actions = () if spec.continuous else spec.actions
    drawdown_max = resources.checked.settings.trading().risk.drawdown_max
    desk = DeskLabels(
        name, identity.strategy, identity.mode, resources.code, actions, spec.bar_interval_s, drawdown_max
    )
    sources = ScrapeSources(
        lambda: engine.machine.state,
        journal,
        engine.latency,
        lag,
        waiting,
        outbox.counts if outbox is not None else None,
        lambda: models.shadow.version if models.shadow is not None else "",
        trainer,
    )
    return Metrics(desk, sources)


def _drift_watch(
    desk: OpenDesk,
    journal: Path,
    submitter: Submitter,
    notify: Notify,
    metrics: Metrics | None,
    on_drift: Callable[[str, str], None] | None,
) -> Work:
    """Compare live features and actions with those of training, every few minutes; pause the desk if configured.

    `drifted(version, detail)` is called for each alarm.
    """
    from daemon.models.drift import WHO, DriftLimits, DriftWatch

    table = desk.checked.settings.drift
    limits = DriftLimits(table.window, table.least, table.feature_psi_max, table.action_psi_max)

    def log_and_count(name: str, **fields: Any) -> None:
        if name == "drift_measured" and metrics is not None:
            metrics.drifted(*(fields[name] for name in ("model", "features_psi_max", "action_psi", "beyond")))
        if name == "drift" and on_drift is not None:
            on_drift(fields["model"], fields["detail"])
        notify(name, **fields)

    async def pause(reason: str) -> None:
        await submitter.submit(lambda now_ns: PauseRequested(now_ns, reason, WHO))

    watch = DriftWatch(
        journal,
        lambda: desk.models.running.manifest,
        limits,
        every_min=table.every_min,
        log=log_and_count,
        pause=pause if table.pause else None,
    )
    return watch.run


SHUTDOWN_TIMEOUT_S = 2.0
JOURNALS_READ = 2  # journals read for ids of signed commands: this start may have rotated
DESK_OF_A_REPLAY, DESK_OF_A_DRY_RUN = "replay", "dry"
"""Appended to the desk's name in telemetry, so that neither is taken for the desk, nor takes a command for it."""

Observer = Callable[[Event, Step], None]


@dataclass(frozen=True, slots=True)
class DeskPorts:
    """Connections of the operator's side to the desk's source of events. The defaults are a replay's."""

    put: Callable[[Event], None]
    now_ns: Callable[[], int]
    host_ns: Callable[[], int]  # real time without leaps of the host's clock: remote commands are judged by it
    waiting: Callable[[], tuple[int, int]] = lambda: (0, 0)  # events in the intake, and dropped ones
    clock_fault: Callable[[], str] = lambda: "a replay's time is its tape's"


class OperatorSide:
    """Displays, commands and model choice of one desk. `observe` must see every step; run `works` as tasks.

    Create it on the event loop, after the engine. `notify` logs, and raises an alarm where the event is one.
    """

    def __init__(
        self,
        desk: OpenDesk,
        engine: Engine,
        keys: BrokerKeys,
        ports: DeskPorts,
        log: Log,
        notify: Callable[..., None],
    ) -> None:
        settings = desk.checked.settings
        self.submitter = Submitter(engine, ports.put, ports.now_ns, ports.clock_fault)
        self._log, self._desk = log, desk
        identity = self.submitter.state.identity
        replay = identity.by_tape
        name = settings.desk.name
        if identity.mode not in BROKER_MODES:
            name += f"-{DESK_OF_A_REPLAY if replay else DESK_OF_A_DRY_RUN}"
        lifecycle = self._lifecycle()
        self._ladder = climber = None if replay else self._climber(lifecycle)
        self._prepare = lifecycle.prepare if settings.policy.shadow else None
        self._observers: list[tuple[str, Observer]] = [
            ("submitter", self.submitter.observe),
            ("models", lifecycle.observe),
        ]
        self._works: list[tuple[str, Work]] = [("models", lifecycle.run)]
        if climber is not None:
            watch = self._claim_watch(lifecycle)
            self._observers += [("ladder", climber.observe), ("claim", watch.observe)]
            self._works += [("ladder", climber.run), ("claim", watch.run)]
        side: list[tuple[str, Work]] = []
        judge = self._judge(name, keys.commands, ports.host_ns)
        if settings.control.signed and judge is not None:
            signed_server = SignedServer(settings.paths.state_dir, self.submitter, name, judge, log)
            self._works.append(("signed commands", signed_server.run))
        if settings.control.enabled:
            control = ControlServer(settings.paths.state_dir, self.submitter, settings.desk.name, log)
            self._works.append(("control", control.run))
        self._outbox = self._telemetry(name, keys, judge, side) if settings.mqtt.enabled else None
        self._guard = self._guard_link(name, keys.guard, notify)
        if self._guard is not None:
            self._works.append(("guard link", self._guard.run))
        alarm = settings.alarms
        if alarm.command and not replay:
            alarms = AlarmCommand(alarm.command, alarm.per_minute, alarm.timeout_s, name, log)
            self._observers.append(("alarm command", alarms.observe))
            side.append(("alarm command", alarms.run))
        on_drift = climber.drifted if climber is not None else None
        self._measuring = Measuring(
            desk, name, engine, self.submitter, ports.waiting, self._outbox, log, notify, on_drift
        )
        self._observers += self._measuring.observers
        self._works += self._measuring.works
        self._side = SideThread(side, self.failed) if side else None

    def _lifecycle(self) -> Lifecycle:
        checked_desk = self._desk.checked
        settings = checked_desk.settings
        policy = settings.policy
        return Lifecycle(
            settings.paths.models_dir,
            checked_desk.strategy,
            policy.version,
            policy.shadow,
            poll_s=policy.poll_s,
            public_key=policy.public_key,
            provider=policy.provider,
            threads=policy.threads,
            trading=settings.trading(),
            submitter=self.submitter,
            models=self._desk.models,
            log=self._log,
            refused="" if checked_desk.model.digest else checked_desk.refused,
        )

    def _telemetry(self, name: str, keys: BrokerKeys, judge: Judge | None, side: list[tuple[str, Work]]) -> Outbox:
        """Add the MQTT client, with the desk's `name` in topics, to the works of the side thread; return its outbox."""
        from daemon.operator.announce import Announcer
        from daemon.operator.mqtt.connection import MqttBroker, MqttSettings
        from daemon.operator.mqtt.mqtt import MqttSide
        from daemon.operator.mqtt.outbox import Outbox

        checked_desk, submitter = self._desk.checked, self.submitter
        table = checked_desk.settings.mqtt
        outbox = Outbox(table.queue)
        client = MqttSide(
            MqttSettings(MqttBroker.of(table), name, table.prefix, table.commands),
            keys.password,
            judge,
            outbox,
            submitter.submit_from_thread,
            lambda: submitter.state,
            self._log,
            None if keys.guard is None else self._hear_guard,
        )
        bar_ns = checked_desk.strategy.spec.bar_interval_s * SECOND_NS
        self._observers.append(("telemetry", Announcer(outbox, bar_ns).observe))
        side.append(("mqtt", client.run))
        return outbox

    def _judge(self, name: str, keys: Mapping[str, Key], host_ns: Callable[[], int]) -> Judge | None:
        """Return the judge of signed commands, None without a key."""
        if not keys:
            return None
        from daemon.operator.remote_commands import Judge, journaled_ids

        desk, done_ids = self.submitter.state, []
        if any(key.scope for key in keys.values()):
            journal = self._desk.checked.settings.paths.state_dir / FILE
            done_ids = list(journaled_ids(parts_of(journal)[-JOURNALS_READ:]))
        known_ns = 0 if desk.identity.by_tape else desk.now_ns  # a replay's would be the tape's time
        judge = Judge(name, keys, host_ns, known_ns, done_ids)
        self._observers.append(("signed commands", judge.observe))
        return judge

    def _guard_link(self, name: str, key: Key | None, notify: Notify) -> GuardLink | None:
        """Return the link to the guard, if the desk sends orders and has one."""
        if key is None or self.submitter.state.identity.mode not in BROKER_MODES:
            return None
        from daemon.operator.guard_link import GuardLink

        publish = None if self._outbox is None else partial(self._outbox.put_retained, "heartbeat")
        settings = self._desk.checked.settings
        return GuardLink(settings.guard, name, key, self.submitter, publish, notify, settings.clock.rate)

    def _hear_guard(self, payload: bytes) -> None:
        """Pass a message of the guard on. Called on the side thread."""
        if self._guard is not None:
            self._guard.hear(payload)

    def _watched_desk(self, lifecycle: Lifecycle) -> WatchedDesk:
        checked_desk = self._desk.checked
        return WatchedDesk(
            checked_desk.settings.paths.models_dir,
            checked_desk.strategy,
            checked_desk.settings.policy.poll_s,
            checked_desk.settings.policy.public_key,
            self.submitter,
            self._desk.models,
            lifecycle,
            self._log,
        )

    def _climber(self, lifecycle: Lifecycle) -> Climber:
        settings = self._desk.checked.settings
        return Climber(self._watched_desk(lifecycle), settings.ladder, settings.paths.state_dir / FILE)

    def _claim_watch(self, lifecycle: Lifecycle) -> ClaimWatch:
        from daemon.models.claim_watch import ClaimWatch

        settings = self._desk.checked.settings
        return ClaimWatch(self._watched_desk(lifecycle), settings.drift.claim_broken, settings.trading())

    def publish_head(self, row: int, head: str) -> None:
        """Publish the chain's head over MQTT if that is enabled. On the trading loop's thread."""
        if self._outbox is not None:
            from daemon.operator.mqtt.messages import ChainHead

            self._outbox.put_retained("chain", ChainHead(row, head))

    # --- the trading loop -----------------------------------------------------------------------------------------

    def observe(self, event: Event, step: Step) -> None:
        """Pass a step to all observers; one that raises is logged and removed.

        An error in `Models`, which decides which model answers, ends the daemon instead; the next start recovers.
        """
        self._desk.models.observe(event, step)
        for name, observer in self._observers:
            try:
                observer(event, step)
            except Exception as error:
                self._observers = [entry for entry in self._observers if entry[0] != name]
                self.failed(name, f"{type(error).__name__}: {error}; it is left out until the next start")

    @property
    def symbols_used(self) -> frozenset[str]:
        """Return the symbols whose quotes the ladder's shadow needs between two bars."""
        return frozenset() if self._ladder is None else self._ladder.symbols_used

    def failed(self, name: str, problem: str) -> None:
        """Log that a monitoring part raised; trading goes on. Thread-safe."""
        self._log("task_failed", task=name, problem=problem)

    async def prepare(self) -> None:
        """Load a candidate before the first event, so that a replay asks it from the first bar."""
        if self._prepare is not None:
            await self._prepare()

    def start(self) -> None:
        """Start the side thread and count log events."""
        self._log.on_event = self._measuring.count_log_event
        if self._side is not None:
            try:
                self._side.start()
            except RuntimeError as error:  # no thread is available: the desk trades without
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
