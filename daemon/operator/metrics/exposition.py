"""The vocabulary of the metrics: each one declared once with its kind, labels and meaning.

`rltraderctl reference metrics` prints it for docs/MONITORING.md.
Invariant: label values come from closed sets, never from symbols, orders or foreign text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric, Sample

from daemon.operator.urgency import URGENCY

_Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
OTHER = "other"

ALARMS: tuple[str, ...] = tuple(URGENCY)
"""Halts and alarms, the headings of docs/OPERATIONS.md (a test compares them). Any other is counted as `OTHER`."""


class Declared(NamedTuple):
    """A declared metric. Each also has the label `desk`."""

    kind: str
    labels: tuple[str, ...]
    meaning: str


METRICS: dict[str, Declared] = {
    # --- what runs
    "rltrader_build_info": Declared(
        GAUGE, ("strategy", "mode", "code", "python"), "Always 1; the labels name what runs (code: digest, 12 digits)."
    ),
    "rltrader_model_info": Declared(
        GAUGE, ("version", "promoted"), "Always 1; the model that answers. No series while none is verified."
    ),
    "rltrader_shadow_info": Declared(
        GAUGE, ("version",), "Always 1; the shadow model's version. No series where there is none."
    ),
    "rltrader_challenger_info": Declared(
        GAUGE,
        ("version", "step"),
        "Always 1; the newest version on the ladder and its step. No series while none was proposed.",
    ),
    "rltrader_challenger_size_ratio": Declared(
        GAUGE, (), "Part of the desk's size that this version trades while it answers, 0 to 1."
    ),
    "rltrader_challenger_sessions": Declared(GAUGE, (), "Sessions of this version on its step so far."),
    "rltrader_claim_volatility_ratio": Declared(
        GAUGE,
        (),
        "Volatility of a year, 0.1 is 10 %, of the newest sessions that count. No series where the model proves no "
        "claim about risk.",
    ),
    "rltrader_claim_volatility_low_ratio": Declared(GAUGE, (), "Least volatility that the model states."),
    "rltrader_claim_volatility_high_ratio": Declared(GAUGE, (), "Most volatility that the model states."),
    "rltrader_claim_sessions": Declared(GAUGE, (), "Sessions in that volatility; it is judged by whole windows."),
    "rltrader_claim_drawdown_ratio": Declared(GAUGE, (), "Fall from the highest close that its claim counts, 0 to 1."),
    "rltrader_claim_drawdown_max_ratio": Declared(GAUGE, (), "Deepest fall that the model states, 0 to 1."),
    "rltrader_claim_broken": Declared(GAUGE, (), "1 while the model takes no new risk because it broke its claim."),
    # --- the desk
    "rltrader_equity_usd": Declared(GAUGE, (), "Cash and positions at their last known marks, USD."),
    "rltrader_cash_usd": Declared(GAUGE, (), "Cash of the desk's book, USD."),
    "rltrader_drawdown_ratio": Declared(GAUGE, (), "Fall of the equity from its peak, 0 to 1."),
    "rltrader_drawdown_used_ratio": Declared(
        GAUGE, (), "Part of risk.drawdown_max that is lost, since the limits were reset: 1 halts."
    ),
    "rltrader_positions": Declared(GAUGE, (), "Positions that are held."),
    "rltrader_working_orders": Declared(GAUGE, (), "Orders that work at the broker."),
    "rltrader_halted": Declared(GAUGE, (), "1 while the desk is halted: no new risk until it is resumed."),
    "rltrader_paused": Declared(GAUGE, (), "1 while the desk is paused."),
    "rltrader_reconciled": Declared(GAUGE, (), "1 while book and broker agree."),
    "rltrader_session_running": Declared(GAUGE, (), "1 from a session's open to its close, market time."),
    "rltrader_session_open_timestamp_seconds": Declared(
        GAUGE, (), "Open of the running session. No series outside of one."
    ),
    # --- trading
    "rltrader_events_total": Declared(COUNTER, ("kind",), "Events stepped by this process, by their kind."),
    "rltrader_bars_total": Declared(COUNTER, (), "Bars taken since the journal began."),
    "rltrader_bars_rejected_total": Declared(COUNTER, (), "Bars refused since the journal began."),
    "rltrader_decisions_total": Declared(
        COUNTER, ("action",), "Decisions of the policy since the journal began, by action; `continuous` has none."
    ),
    "rltrader_denials_total": Declared(COUNTER, ("gate",), "Denials since the journal began, by risk gate."),
    "rltrader_orders_total": Declared(
        COUNTER, ("purpose", "side"), "Orders handed to the broker by this process: entry or exit, buy or sell."
    ),
    "rltrader_fills_total": Declared(COUNTER, (), "Executions booked since the journal began."),
    "rltrader_alarms_total": Declared(
        COUNTER,
        ("alarm",),
        "Alarms and halts raised in this process, by name (docs/OPERATIONS.md); `other`: no heading.",
    ),
    "rltrader_alarm_command_failures_total": Declared(COUNTER, (), "Runs of the alarm command that did not end well."),
    "rltrader_drift_feature_psi": Declared(
        GAUGE,
        (),
        "Largest population stability index of a feature at the last look. No series before the first at the model "
        "that answers.",
    ),
    "rltrader_drift_action_psi": Declared(GAUGE, (), "The same of the actions."),
    "rltrader_drift_beyond": Declared(
        GAUGE, (), "How many of them are beyond the limit, chance and the training's own spread: the alarm `drift`."
    ),
    # --- latency
    "rltrader_bar_lag_seconds": Declared(
        HISTOGRAM,
        (),
        "From a minute bar's end until it was known, market time; bars fetched later count as late, those from before "
        "this process do not count.",
    ),
    "rltrader_decision_seconds": Declared(
        HISTOGRAM, (), "From taking the event that closes a bar to the policy's answer, stepped."
    ),
    "rltrader_event_loop_lag_seconds": Declared(HISTOGRAM, (), "How late the trading loop woke, ten times a second."),
    "rltrader_event_loop_lag_max_seconds": Declared(GAUGE, (), "The largest of these of the last minute."),
    # --- feed, broker, telemetry
    "rltrader_bar_interval_seconds": Declared(GAUGE, (), "Length of the strategy's bars."),
    "rltrader_last_bar_timestamp_seconds": Declared(
        GAUGE, (), "End of the newest bar (of a daily desk its start). No series before the first."
    ),
    "rltrader_last_broker_report_timestamp_seconds": Declared(
        GAUGE, (), "Time of the broker's last report. No series where there was no report."
    ),
    "rltrader_reconnects_total": Declared(
        COUNTER, ("stream",), "Times that a connection was lost or refused and tried again: market, trade, mqtt."
    ),
    "rltrader_intake_depth": Declared(GAUGE, (), "Events that wait for the engine."),
    "rltrader_intake_dropped_total": Declared(COUNTER, (), "Ticks and quotes let go because too many events waited."),
    "rltrader_mqtt_queued": Declared(GAUGE, (), "Messages that wait for the MQTT broker. No series without MQTT."),
    "rltrader_mqtt_published_total": Declared(
        COUNTER, (), "Messages given to the MQTT broker. No series without MQTT."
    ),
    "rltrader_mqtt_dropped_total": Declared(COUNTER, (), "Messages dropped, the oldest first. No series without MQTT."),
    "rltrader_trainer_sign_timestamp_seconds": Declared(
        GAUGE,
        (),
        "When the trainer of the desk last wrote, by this host's clock. No series where none ever did.",
    ),
    "rltrader_trainer_row": Declared(GAUGE, (), "Row of the journal up to which it had learned then."),
    # --- the journal
    "rltrader_journal_bytes": Declared(GAUGE, (), "Size of the journal."),
    "rltrader_journal_wal_bytes": Declared(GAUGE, (), "Size of its write-ahead log."),
    "rltrader_disk_free_bytes": Declared(GAUGE, (), "Space that the journal's disk has left for the daemon's user."),
}

PROCESS_METRICS: dict[str, Declared] = {
    "process_virtual_memory_bytes": Declared(GAUGE, (), "Virtual memory size in bytes."),
    "process_resident_memory_bytes": Declared(GAUGE, (), "Resident memory size in bytes."),
    "process_start_time_seconds": Declared(GAUGE, (), "Start time of the process since unix epoch in seconds."),
    "process_cpu_seconds_total": Declared(COUNTER, (), "Total user and system CPU time spent in seconds."),
    "process_open_fds": Declared(GAUGE, (), "Number of open file descriptors."),
    "process_max_fds": Declared(GAUGE, (), "Maximum number of open file descriptors."),
}
"""Metrics of prometheus_client's own collector."""

METRICS |= PROCESS_METRICS


GATEWAY_ALARMS: tuple[str, ...] = tuple(name for name in ALARMS if name.startswith("gateway_"))
"""Alarms that the gateway raises."""

GATEWAY_METRICS: dict[str, Declared] = {
    "rltrader_gateway_equity_usd": Declared(
        GAUGE, ("sub_account",), "Cash and holdings of a sub-account at the newest prices, USD; `main` too."
    ),
    "rltrader_gateway_cash_usd": Declared(GAUGE, ("sub_account",), "Cash of a sub-account, USD."),
    "rltrader_gateway_open_orders": Declared(GAUGE, ("sub_account",), "Its orders that may still fill."),
    "rltrader_gateway_sum_equity_usd": Declared(GAUGE, (), "What all sub-accounts are worth together, USD."),
    "rltrader_gateway_sum_cash_usd": Declared(GAUGE, (), "Their cash together, USD."),
    "rltrader_gateway_broker_equity_usd": Declared(GAUGE, (), "The account's equity by the broker's last report, USD."),
    "rltrader_gateway_broker_cash_usd": Declared(GAUGE, (), "Its cash by that report, USD."),
    "rltrader_gateway_last_broker_report_timestamp_seconds": Declared(GAUGE, (), "When that report was asked for."),
    "rltrader_gateway_differences": Declared(GAUGE, (), "Differences between the sum and the broker now."),
    "rltrader_gateway_doubts": Declared(GAUGE, (), "Those of them that last and deny new risk to all."),
    "rltrader_gateway_ready": Declared(GAUGE, (), "1 while the broker is there and clients are served."),
    "rltrader_gateway_halted": Declared(GAUGE, (), "1 while nobody may add risk."),
    "rltrader_gateway_alarms_total": Declared(
        COUNTER, ("alarm",), "Alarms and halts raised in its process, by name (docs/OPERATIONS.md)."
    ),
    "rltrader_gateway_orders_total": Declared(
        COUNTER, ("sub_account",), "Orders, changes and close calls that this process sent."
    ),
    "rltrader_gateway_refusals_total": Declared(
        COUNTER, ("status",), "Requests of clients that this process refused, by HTTP status."
    ),
    "rltrader_gateway_budget_left": Declared(
        GAUGE, ("queue",), "Calls that may go to the broker at once: orders, reads, through, market."
    ),
    "rltrader_gateway_commit_seconds": Declared(HISTOGRAM, (), "How long a commit of its journal took."),
} | PROCESS_METRICS
"""Metrics of `rltrader-gateway`, whose label `desk` is always `gateway`."""


_FAMILIES: dict[str, type[_Family]] = {
    COUNTER: CounterMetricFamily,
    GAUGE: GaugeMetricFamily,
    HISTOGRAM: HistogramMetricFamily,
}


class Exposition:
    """The families of one scrape, in the order of `metrics`; each sample gets the label `desk`."""

    def __init__(self, desk: str, metrics: Mapping[str, Declared] = METRICS) -> None:
        self._desk, self._metrics = desk, metrics
        self._families = {
            name: _FAMILIES[metric.kind](name, metric.meaning, labels=("desk", *metric.labels))
            for name, metric in metrics.items()
        }

    def add(self, name: str, value: float, **labels: str) -> None:
        """Add the value of a gauge or a counter."""
        assert tuple(labels) == self._metrics[name].labels
        family = self._families[name]
        assert not isinstance(family, HistogramMetricFamily)
        family.add_metric((self._desk, *labels.values()), value)

    def add_histogram(self, name: str, bounds: Iterable[float], cumulative: list[int], total: float) -> None:
        """Add a histogram: for each bound the number of values up to it, then their number and their sum."""
        family = self._families[name]
        assert isinstance(family, HistogramMetricFamily)
        buckets = tuple(zip((*map(str, bounds), "+Inf"), cumulative, strict=True))
        family.add_metric((self._desk,), buckets, total)

    def take_over(self, families: Iterable[Metric]) -> None:
        """Add another collector's samples under the same names."""
        for family in families:
            for sample in family.samples:
                self._families[sample.name].samples.append(
                    Sample(sample.name, {"desk": self._desk, **sample.labels}, sample.value)
                )

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._families.values())


def table() -> str:
    """Return the vocabulary as the Markdown table in docs/MONITORING.md."""
    lines = ["| metric | kind | labels (and `desk`) | meaning |", "|---|---|---|---|"]
    for name, metric in (METRICS | GATEWAY_METRICS).items():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{name}` | {metric.kind} | {labels} | {metric.meaning} |")
    return "\n".join(lines)
