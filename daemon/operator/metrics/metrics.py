"""The desk as Prometheus metrics: plain numbers counted on the trading loop, read by another thread at a scrape.

`observe` does a few additions and never raises for what a step holds. A scrape takes the frozen state once, copies
counters and asks the file system; it takes no lock that the trading loop could wait for.
"""

from __future__ import annotations

import contextlib
import platform
import shutil
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, get_args

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.registry import Collector

from daemon.core.book import fall_from, limited_peak
from daemon.core.desks.registry import GATES
from daemon.core.effects import RaiseAlarm, SubmitOrder
from daemon.core.events import AnyEvent, BarClosed, Event
from daemon.core.orders import SIDES
from daemon.core.risk.marks import fetch_equity
from daemon.core.session import bar_end_ns
from daemon.core.state import State
from daemon.core.step import Step
from daemon.host.latency import Buckets, Latency
from daemon.operator.metrics.exposition import ALARMS, OTHER, Exposition
from daemon.operator.metrics.loop_lag import LoopLag, wal_bytes
from daemon.operator.mqtt.outbox import Counts
from daemon.operator.status import challenger_of, claim_of, status_of
from strategies.kit.units import DAY_S, SECOND_NS

BAR_LAG_BOUNDS_S = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
DECISION_BOUNDS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
GATE_NAMES = tuple(dict.fromkeys(("no_quote", *(gate.name for gate in GATES))))
STREAMS = {
    "stream_lost": "market",
    "stream_busy": "market",
    "stream_refused": "market",
    "trade_stream_lost": "trade",
    "trade_stream_unauthorized": "trade",
    "mqtt_lost": "mqtt",
}
"""Log event of a lost connection -> the connection's label."""


class ScrapeSources(NamedTuple):
    """Sources of a scrape outside of steps; each is called on the scrape's thread and only reads plain values."""

    state: Callable[[], State[Any]]
    journal: Path
    latency: Latency
    lag: LoopLag
    intake: Callable[[], tuple[int, int]]  # events waiting, events dropped
    mqtt: Callable[[], Counts] | None = None
    shadow: Callable[[], str] | None = None  # version of the shadow model, "" for none
    trainer: Callable[[], tuple[int, int]] | None = None  # time of the trainer's last write (ns; 0: never), and its row


class DeskLabels(NamedTuple):
    """Constants of the desk. `actions` are the strategy's, none where they are continuous."""

    name: str
    strategy: str
    mode: str
    code: str  # digest of the deciding code
    actions: tuple[str, ...]
    bar_interval_s: int
    drawdown_max: float  # part of the peak at which it halts


class _Drift(NamedTuple):
    version: str
    feature_psi_max: float
    action_psi: float
    beyond: int


class Metrics(Collector):
    """`observe`, `log_event` and `drifted` for the trading loop, `run` to serve; the registry is its own."""

    def __init__(self, desk: DeskLabels, sources: ScrapeSources) -> None:
        self._desk, self._sources = desk, sources
        self._build = {"strategy": desk.strategy, "mode": desk.mode, "code": desk.code[:12]}
        self._events: dict[type, int] = dict.fromkeys(get_args(AnyEvent), 0)  # no key is ever added: safe to iterate
        self._orders = dict.fromkeys(product(("entry", "exit"), SIDES), 0)
        self._alarms = dict.fromkeys((*ALARMS, OTHER), 0)
        self._reconnects = dict.fromkeys(STREAMS.values(), 0)
        self._command_failures = 0
        self._drift: _Drift | None = None
        self._bar_lag = Buckets(BAR_LAG_BOUNDS_S)
        self._began_ns = 0  # market time of this process' first event
        self._bar_ns = desk.bar_interval_s * SECOND_NS
        self._minutes = desk.bar_interval_s < DAY_S
        self._process = ProcessCollector(registry=None)
        self.registry = CollectorRegistry()
        self.registry.register(self)

    # --- the trading loop's thread --------------------------------------------------------------------------------

    def observe(self, event: Event, step: Step) -> None:
        """Count a step."""
        self._events[type(event)] += 1
        self._began_ns = self._began_ns or event.time_ns
        if isinstance(event, BarClosed) and self._minutes:
            end_ns = bar_end_ns(event.bar.start_ns, self._bar_ns, step.state.session.session)
            if end_ns >= self._began_ns:  # bars from before this process do not show a lag of the feed
                self._bar_lag.add(max(event.time_ns - end_ns, 0) / SECOND_NS)
        if step.effects:
            self._note_questions(step)

    def _note_questions(self, step: Step) -> None:
        for effect in step.effects:
            if isinstance(effect, RaiseAlarm):
                self._alarms[effect.name if effect.name in self._alarms else OTHER] += 1
            elif isinstance(effect, SubmitOrder):
                order = step.state.orders.get(effect.client_order_id)
                if order is not None and (kind := (order.purpose, effect.side)) in self._orders:
                    self._orders[kind] += 1

    def log_event(self, name: str) -> None:
        """Count a log event that a metric needs; all events of one connection come from one thread."""
        if (stream := STREAMS.get(name)) is not None:
            self._reconnects[stream] += 1
        elif name == "alarm_command_failed":
            self._command_failures += 1

    def drifted(self, version: str, feature_psi_max: float, action_psi: float, beyond: int) -> None:
        """Keep the newest measurement of a version's drift; `beyond`: how many quantities raise an alarm."""
        self._drift = _Drift(version, feature_psi_max, action_psi, beyond)

    # --- the scrape's thread --------------------------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """Return all families, read now."""
        scrape, state = Exposition(self._desk.name), self._sources.state()
        self._what_runs(scrape, state)
        self._desk_now(scrape, state)
        self._trading(scrape, state)
        self._latency(scrape)
        self._outside(scrape, state)
        self._files(scrape)
        scrape.take_over(self._process.collect())
        return iter(scrape)

    def _what_runs(self, scrape: Exposition, state: State[Any]) -> None:
        scrape.add("rltrader_build_info", 1, **self._build, python=platform.python_version())
        if state.model is not None:
            promoted_text = "true" if state.model.promoted else "false"
            scrape.add("rltrader_model_info", 1, version=state.model.version, promoted=promoted_text)
        if self._sources.shadow is not None and (version := self._sources.shadow()):
            scrape.add("rltrader_shadow_info", 1, version=version)
        if (challenger := challenger_of(state)) is not None:
            scrape.add("rltrader_challenger_info", 1, version=challenger.version, step=challenger.step)
            scrape.add("rltrader_challenger_size_ratio", challenger.size)
            scrape.add("rltrader_challenger_sessions", challenger.sessions)

        if (claim := claim_of(state)) is not None:
            scrape.add("rltrader_claim_volatility_ratio", claim.volatility)
            scrape.add("rltrader_claim_volatility_low_ratio", claim.volatility_low)
            scrape.add("rltrader_claim_volatility_high_ratio", claim.volatility_high)
            scrape.add("rltrader_claim_sessions", min(claim.sessions, claim.window_sessions))
            scrape.add("rltrader_claim_drawdown_ratio", claim.drawdown)
            scrape.add("rltrader_claim_drawdown_max_ratio", claim.drawdown_max)
            scrape.add("rltrader_claim_broken", bool(claim.broken))

    def _desk_now(self, scrape: Exposition, state: State[Any]) -> None:
        status, session = status_of(state, self._desk.name), state.session.session
        running = session is not None and session.open_ns <= state.now_ns < session.close_ns and not state.session.ended
        scrape.add("rltrader_equity_usd", float(state.book.equity))
        scrape.add("rltrader_cash_usd", float(state.book.cash))
        scrape.add("rltrader_drawdown_ratio", status.drawdown)
        drawdown = fall_from(limited_peak(state.book), fetch_equity(state, state.book))
        scrape.add("rltrader_drawdown_used_ratio", drawdown / self._desk.drawdown_max)
        scrape.add("rltrader_positions", len(status.positions))
        scrape.add("rltrader_working_orders", status.orders)
        scrape.add("rltrader_halted", bool(status.halt))
        scrape.add("rltrader_paused", bool(status.pause))
        scrape.add("rltrader_reconciled", status.reconciled)
        scrape.add("rltrader_session_running", running)
        if session is not None and running:
            scrape.add("rltrader_session_open_timestamp_seconds", session.open_ns / SECOND_NS)

    def _trading(self, scrape: Exposition, state: State[Any]) -> None:
        stats = state.stats
        for kind, count in self._events.items():
            scrape.add("rltrader_events_total", count, kind=kind.__name__)
        scrape.add("rltrader_bars_total", stats.bars)
        scrape.add("rltrader_bars_rejected_total", stats.bars_rejected)
        if self._desk.actions:
            counts = stats.actions or (0,) * len(self._desk.actions)
            for action, count in zip(self._desk.actions, counts, strict=True):
                scrape.add("rltrader_decisions_total", count, action=action)
        else:
            scrape.add("rltrader_decisions_total", stats.decisions, action="continuous")
        for gate in GATE_NAMES:
            scrape.add("rltrader_denials_total", stats.denials.get(gate, 0), gate=gate)
        for (purpose, side), count in self._orders.items():
            scrape.add("rltrader_orders_total", count, purpose=purpose, side=SIDES[side])
        scrape.add("rltrader_fills_total", stats.fills)
        for name, count in self._alarms.items():
            scrape.add("rltrader_alarms_total", count, alarm=name)
        scrape.add("rltrader_alarm_command_failures_total", self._command_failures)
        drift = self._drift
        if drift is not None and state.model is not None and drift.version == state.model.version:
            scrape.add("rltrader_drift_feature_psi", drift.feature_psi_max)
            scrape.add("rltrader_drift_action_psi", drift.action_psi)
            scrape.add("rltrader_drift_beyond", drift.beyond)

    def _latency(self, scrape: Exposition) -> None:
        latency, lag = self._sources.latency, self._sources.lag
        decision_counts = latency.cumulative(DECISION_BOUNDS_S)
        _add_buckets(scrape, "rltrader_bar_lag_seconds", self._bar_lag)
        scrape.add_histogram(
            "rltrader_decision_seconds", DECISION_BOUNDS_S, decision_counts, latency.total_ns / SECOND_NS
        )
        _add_buckets(scrape, "rltrader_event_loop_lag_seconds", lag.buckets)
        scrape.add("rltrader_event_loop_lag_max_seconds", lag.newest_max_s())

    def _outside(self, scrape: Exposition, state: State[Any]) -> None:
        waiting, drop_count = self._sources.intake()
        scrape.add("rltrader_bar_interval_seconds", self._desk.bar_interval_s)
        if state.session.last_bar_ns:
            length_ns = self._bar_ns if self._minutes else 0
            end_ns = bar_end_ns(state.session.last_bar_ns, length_ns, state.session.session)
            scrape.add("rltrader_last_bar_timestamp_seconds", end_ns / SECOND_NS)
        if state.broker.reported_ns:
            scrape.add("rltrader_last_broker_report_timestamp_seconds", state.broker.reported_ns / SECOND_NS)
        for stream, count in self._reconnects.items():
            scrape.add("rltrader_reconnects_total", count, stream=stream)
        scrape.add("rltrader_intake_depth", waiting)
        scrape.add("rltrader_intake_dropped_total", drop_count)
        if self._sources.mqtt is not None:
            mqtt = self._sources.mqtt()
            scrape.add("rltrader_mqtt_queued", mqtt.waiting)
            scrape.add("rltrader_mqtt_published_total", mqtt.published)
            scrape.add("rltrader_mqtt_dropped_total", mqtt.dropped)

    def _files(self, scrape: Exposition) -> None:
        written_ns, row = (0, 0) if self._sources.trainer is None else self._sources.trainer()
        if written_ns:
            scrape.add("rltrader_trainer_sign_timestamp_seconds", written_ns / SECOND_NS)
            scrape.add("rltrader_trainer_row", row)
        journal = self._sources.journal
        with contextlib.suppress(OSError):  # a missing series is an answer too; the rest of the scrape goes on
            scrape.add("rltrader_journal_bytes", journal.stat().st_size)
            scrape.add("rltrader_journal_wal_bytes", wal_bytes(journal))
            scrape.add("rltrader_disk_free_bytes", shutil.disk_usage(journal.parent).free)


def _add_buckets(scrape: Exposition, name: str, buckets: Buckets) -> None:
    scrape.add_histogram(name, buckets.bounds_s, buckets.cumulative(), buckets.total_s)
