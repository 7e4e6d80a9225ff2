"""Measure one desk: Prometheus metrics, size of the journal's log, drift of the model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.app.opening import OpenDesk
from daemon.core.events import Event, PauseRequested
from daemon.core.step import Step
from daemon.engine.engine import Engine
from daemon.experience.learning import LearningWatch
from daemon.journal.journal import FILE
from daemon.operator.gateway import Gateway
from daemon.operator.log import Log
from daemon.operator.metrics.loop_lag import LoopLag
from daemon.operator.metrics.wal_watch import WalWatch
from daemon.operator.side_thread import Work

if TYPE_CHECKING:
    from daemon.operator.metrics.metrics import Metrics
    from daemon.operator.mqtt.outbox import Outbox

Notify = Callable[..., None]


class Measuring:
    """The measurements that the settings enable. `works` run as tasks, `observers` see every step."""

    def __init__(
        self,
        opened: OpenDesk,
        name: str,
        engine: Engine,
        gateway: Gateway,
        waiting: Callable[[], tuple[int, int]],
        outbox: Outbox | None,
        log: Log,
        notify: Notify,
        drifted: Callable[[str, str], None] | None = None,
    ) -> None:
        settings, journal = opened.checked.settings, opened.state_dir.path / FILE
        self.works: list[tuple[str, Work]] = [("wal watch", WalWatch(journal, settings.alarms.wal_mib, notify).run)]
        self.observers: list[tuple[str, Callable[[Event, Step], None]]] = []
        self.count_log_event: Callable[[str], None] | None = None
        if not gateway.state.identity.by_tape:
            shelf = settings.paths.models_dir / opened.checked.strategy.spec.name
            self.works.append(("learning watch", LearningWatch(shelf, notify).run))
        metrics = None
        if settings.metrics.enabled:
            from daemon.operator.metrics.server import serve

            lag = LoopLag()
            metrics = _metrics(opened, name, engine, journal, lag, waiting, outbox)
            self.count_log_event = metrics.log_event
            self.observers.append(("metrics", metrics.observe))
            self.works.append(("loop lag", lag.run))
            self.works.append(("metrics", partial(serve, metrics.registry, settings.metrics.port, log)))
        if settings.drift.every_min and not gateway.state.identity.by_tape:
            self.works.append(("drift", _drift_watch(opened, journal, gateway, notify, metrics, drifted)))


def _metrics(
    opened: OpenDesk,
    name: str,
    engine: Engine,
    journal: Path,
    lag: LoopLag,
    waiting: Callable[[], tuple[int, int]],
    outbox: Outbox | None,
) -> Metrics:
    """Return the metrics of the desk `name`. `waiting` returns the events in the intake, and the dropped ones."""
    from daemon.operator.metrics.metrics import Desk, Metrics, MqttCounts, Sources

    def counted() -> MqttCounts:
        assert outbox is not None
        counts = outbox.counts()
        return MqttCounts(counts.waiting, counts.published, counts.dropped)

    spec, models = opened.checked.strategy.spec, opened.models
    identity = engine.machine.state.identity
    actions = () if spec.continuous else spec.actions
    desk = Desk(name, identity.strategy, identity.mode, opened.code, actions, spec.bar_interval_s)
    sources = Sources(
        lambda: engine.machine.state,
        journal,
        engine.latency,
        lag,
        waiting,
        counted if outbox is not None else None,
        lambda: models.shadow.version if models.shadow is not None else "",
    )
    return Metrics(desk, sources)


def _drift_watch(
    opened: OpenDesk,
    journal: Path,
    gateway: Gateway,
    notify: Notify,
    metrics: Metrics | None,
    drifted: Callable[[str, str], None] | None,
) -> Work:
    """Compare live features and actions with those of training, every few minutes; pause the desk if configured.

    `drifted(version, detail)` is called for each alarm.
    """
    from daemon.models.drift import DriftLimits, DriftWatch

    table = opened.checked.settings.drift
    limits = DriftLimits(table.window, table.least, table.feature_psi_max, table.action_psi_max)

    def measured(name: str, **fields: Any) -> None:
        if name == "drift_measured" and metrics is not None:
            metrics.drifted(fields["features_psi_max"], fields["action_psi"])
        if name == "drift" and drifted is not None:
            drifted(fields["model"], fields["detail"])
        notify(name, **fields)

    async def pause(reason: str) -> None:
        await gateway.submit(lambda now_ns: PauseRequested(now_ns, reason, "drift"))

    watch = DriftWatch(
        journal,
        lambda: opened.models.running.manifest,
        limits,
        every_min=table.every_min,
        log=measured,
        pause=pause if table.pause else None,
    )
    return watch.run
