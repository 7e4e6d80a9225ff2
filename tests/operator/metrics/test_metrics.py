"""The metrics of a real replay against the journal's own rows, and the server against real clients."""

from __future__ import annotations

import asyncio
import contextlib
import re
import select
import shutil
import socket
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from daemon.core.effects import RaiseAlarm
from daemon.core.events import (
    BarClosed,
    ClockTicked,
    Event,
    HaltRequested,
    LadderMoved,
    ModelVerified,
    PauseRequested,
    TroubleNoticed,
)
from daemon.core.limits import Trading
from daemon.core.state import Identity, State
from daemon.core.step import Core, Machine, Step
from daemon.host.latency import Buckets, Latency
from daemon.journal.journal import FILE
from daemon.operator.log_events import LOG_EVENTS
from daemon.operator.metrics import server
from daemon.operator.metrics.exposition import ALARMS, METRICS
from daemon.operator.metrics.loop_lag import LoopLag
from daemon.operator.metrics.metrics import DeskLabels, Metrics, ScrapeSources
from daemon.operator.metrics.server import serve
from daemon.operator.mqtt.outbox import Counts
from strategies.kit.contract import Bar, Session
from strategies.registry import strategy as strategy_named
from tests.support.desks.desk_run import Desk as ReplayDesk
from tests.support.desks.desk_run import table as rows_of
from tests.support.desks.desk_run import tape_rows, write_tape
from tests.support.paths import REPOSITORY

SPEC = strategy_named("option_scalper").spec
MINUTE_NS = 60_000_000_000
BEGIN_NS = 1_700_000_000_000_000_000
IDENTITY = Identity("paper", "paper", SPEC.name, "0123456789", "sip")
DESK = DeskLabels("desk-1", SPEC.name, "paper", "c0de" * 16, SPEC.actions, 60, 0.3)
NUMBER = re.compile(r"rltrader_[a-z_]+|process_[a-z_]+")


def scraped(metrics: Metrics) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Samples by name and labels without `desk`, as Prometheus' own format says them."""
    text = prometheus_client.generate_latest(metrics.registry).decode()
    samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("desk") == "desk-1"
            samples.setdefault(sample.name, {})[tuple(sorted(labels.items()))] = sample.value
    return samples


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return scraped(metrics)[name][tuple(sorted(labels.items()))]


@dataclass(slots=True)
class Stage:
    """A machine and its metrics; `machine.state` is what a scrape sees."""

    machine: Machine
    metrics: Metrics

    def step(self, event: Any) -> Step:
        step = self.machine.apply(event)
        self.metrics.observe(event, step)
        return step


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    core = Core(strategy_named(SPEC.name))
    machine = Machine(core, core.start(IDENTITY, Trading()))
    return Stage(machine, metrics_of(machine, tmp_path / FILE))


def metrics_of(machine: Machine, journal: Path, **more: Any) -> Metrics:
    return Metrics(DESK, ScrapeSources(lambda: machine.state, journal, Latency(), LoopLag(), lambda: (3, 2), **more))


# --- a replay -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Replayed:
    metrics: Metrics
    folder: Path
    state: State[Any]


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    folder = tmp_path_factory.mktemp("metrics")
    desk = ReplayDesk(write_tape(folder / "tape.csv", tape_rows(2, 120)))
    metrics: list[Metrics] = []

    def engine_made(engine: Any) -> None:
        sources = ScrapeSources(
            lambda: engine.machine.state, folder / "state" / FILE, engine.latency, LoopLag(), lambda: (0, 0)
        )
        metrics.append(Metrics(DESK, sources))

    def observe(event: Event, step: Step) -> None:
        metrics[0].observe(event, step)

    outcome = desk.run(folder / "state", engine_made=engine_made, observe=observe)
    assert outcome.failure is None
    assert outcome.engine is not None
    return Replayed(metrics[0], folder / "state", outcome.engine.machine.state)


def test_the_events_counted_are_the_journal_s_rows(replayed: Replayed) -> None:
    kinds = Counter(row[3] for row in rows_of(replayed.folder, "events"))
    counts = {
        dict(labels)["kind"]: count for labels, count in scraped(replayed.metrics)["rltrader_events_total"].items()
    }
    assert {kind: count for kind, count in counts.items() if count} == kinds
    assert len(kinds) > 8


def test_orders_fills_and_decisions_are_those_of_the_journal_s_tables(replayed: Replayed) -> None:
    orders = Counter((row[2], "buy" if row[5] > 0 else "sell") for row in rows_of(replayed.folder, "orders"))
    metrics = scraped(replayed.metrics)
    counts = {
        (dict(labels)["purpose"], dict(labels)["side"]): count
        for labels, count in metrics["rltrader_orders_total"].items()
        if count
    }
    assert counts == orders
    assert len(orders) == 2
    assert metrics["rltrader_fills_total"][()] == len(rows_of(replayed.folder, "fills"))
    decided = [row for row in rows_of(replayed.folder, "decisions") if row[1] == "policy" and row[4] is not None]
    assert sum(metrics["rltrader_decisions_total"].values()) == len(decided)
    assert {dict(labels)["action"] for labels in metrics["rltrader_decisions_total"]} == set(SPEC.actions)


def test_the_money_is_that_of_the_last_equity_row(replayed: Replayed) -> None:
    last = rows_of(replayed.folder, "equity")[-1]
    assert value(replayed.metrics, "rltrader_equity_usd") == float(last[1])
    assert value(replayed.metrics, "rltrader_cash_usd") == float(last[2])


def test_bars_of_a_replay_are_known_at_their_end(replayed: Replayed) -> None:
    metrics = scraped(replayed.metrics)
    bars = metrics["rltrader_bars_total"][()]
    assert bars == 3 * 86 + 2 * 120
    assert metrics["rltrader_bar_lag_seconds_bucket"][(("le", "0.1"),)] == bars
    assert metrics["rltrader_bar_lag_seconds_sum"][()] == 0.0


def test_each_answered_question_is_a_decision_s_time(replayed: Replayed) -> None:
    metrics = scraped(replayed.metrics)
    assert (
        metrics["rltrader_decision_seconds_count"][()]
        == metrics["rltrader_events_total"][(("kind", "PolicyAnswered"),)]
    )
    assert metrics["rltrader_decision_seconds_sum"][()] > 0


def test_no_symbol_and_no_order_is_ever_a_label(replayed: Replayed) -> None:
    text = prometheus_client.generate_latest(replayed.metrics.registry).decode()
    names = [row[0] for row in rows_of(replayed.folder, "orders")] + [
        row[3] for row in rows_of(replayed.folder, "fills")
    ]
    assert names
    assert [name for name in names if name in text] == []
    assert all(f'"{symbol}"' not in text for symbol in SPEC.symbols)


def test_the_journal_s_sizes_are_the_file_s(replayed: Replayed) -> None:
    assert value(replayed.metrics, "rltrader_journal_bytes") == (replayed.folder / FILE).stat().st_size
    assert value(replayed.metrics, "rltrader_journal_wal_bytes") == 0
    free = shutil.disk_usage(replayed.folder).free
    assert value(replayed.metrics, "rltrader_disk_free_bytes") == pytest.approx(free, rel=0.2)


# --- single numbers -----------------------------------------------------------------------------------------------


def test_bars_that_ended_before_the_process_began_are_no_lag_of_its_feed(stage: Stage) -> None:
    stage.step(ClockTicked(BEGIN_NS + 60 * MINUTE_NS))  # it starts an hour later, and reads what it missed
    for minute in range(60):
        bar = Bar("SPY", BEGIN_NS + minute * MINUTE_NS, 1.0, 1.0, 1.0, 1.0, 1.0)
        stage.step(BarClosed(BEGIN_NS + 60 * MINUTE_NS + 2 * 10**9, bar))
    stage.step(BarClosed(BEGIN_NS + 61 * MINUTE_NS + 10**9, replace(bar, start_ns=BEGIN_NS + 60 * MINUTE_NS)))
    metrics = scraped(stage.metrics)
    assert metrics["rltrader_bar_lag_seconds_count"][()] == 2  # that of the very minute, and the next one
    assert metrics["rltrader_bar_lag_seconds_sum"][()] == pytest.approx(2.0 + 1.0)


def test_a_bar_s_lag_counts_from_its_end_until_it_was_known(stage: Stage) -> None:
    stage.step(ClockTicked(BEGIN_NS))
    for lag_s in (0.2, 1.0, 45.0, 7200.0):
        known_ns = BEGIN_NS + MINUTE_NS + int(lag_s * 1e9)
        stage.step(BarClosed(known_ns, Bar("SPY", BEGIN_NS, 1.0, 1.0, 1.0, 1.0, 1.0)))
    metrics = scraped(stage.metrics)
    buckets = {dict(labels)["le"]: count for labels, count in metrics["rltrader_bar_lag_seconds_bucket"].items()}
    assert (buckets["0.1"], buckets["0.25"], buckets["1.0"], buckets["60.0"]) == (0, 1, 2, 3)
    assert (buckets["3600.0"], buckets["+Inf"]) == (3, 4)
    assert metrics["rltrader_bar_lag_seconds_sum"][()] == pytest.approx(7246.2)


def test_the_way_to_the_drawdown_halt_is_a_part_of_the_limit_since_it_was_reset(stage: Stage) -> None:
    """From a peak of 1,000 USD the desk halts at 700: at 850 it is half way, whatever else it fell before a reset."""
    state = stage.machine.state
    stage.machine.state = replace(state, book=replace(state.book, equity=Decimal(850), peak=Decimal(1000)))
    assert value(stage.metrics, "rltrader_drawdown_used_ratio") == pytest.approx(0.5)
    stage.machine.state = replace(
        state, book=replace(state.book, equity=Decimal(850), peak=Decimal(1000), guard_peak=Decimal(850))
    )
    assert value(stage.metrics, "rltrader_drawdown_used_ratio") == 0.0
    assert value(stage.metrics, "rltrader_drawdown_ratio") == pytest.approx(0.15)


def test_the_session_s_open_is_told_from_the_open_to_the_close_alone(stage: Stage) -> None:
    state, hour_ns = stage.machine.state, 3600 * 10**9
    session = Session("2023-11-14", BEGIN_NS, BEGIN_NS + 6 * hour_ns)
    for now_ns, open_s in ((BEGIN_NS - 1, None), (BEGIN_NS, 1_700_000_000.0), (session.close_ns, None)):
        stage.machine.state = replace(state, now_ns=now_ns, session=replace(state.session, session=session))
        series = scraped(stage.metrics).get("rltrader_session_open_timestamp_seconds", {None: None})
        assert list(series.values()) == [open_s]


def test_halt_and_pause_are_seen_while_they_last(stage: Stage) -> None:
    assert value(stage.metrics, "rltrader_halted") == value(stage.metrics, "rltrader_paused") == 0
    stage.step(PauseRequested(BEGIN_NS, "lunch", "control/alice"))
    assert value(stage.metrics, "rltrader_paused") == 1
    stage.step(HaltRequested(BEGIN_NS, "operator", "enough", "control/alice"))
    assert value(stage.metrics, "rltrader_halted") == 1
    assert value(stage.metrics, "rltrader_alarms_total", alarm="operator") == 1
    assert value(stage.metrics, "rltrader_reconciled") == 0


def test_an_alarm_without_a_heading_is_counted_as_other(stage: Stage) -> None:
    stage.step(TroubleNoticed(BEGIN_NS, "wal_large", ""))
    for number in range(500):
        stage.step(TroubleNoticed(BEGIN_NS, f"made up {number}", ""))
    counts = scraped(stage.metrics)["rltrader_alarms_total"]
    assert counts[(("alarm", "wal_large"),)] == 1
    assert counts[(("alarm", "other"),)] == 500
    assert len(counts) == len(ALARMS) + 1


def test_the_model_that_answers_and_the_one_beside_it_are_named(stage: Stage, tmp_path: Path) -> None:
    assert "rltrader_model_info" not in scraped(stage.metrics)
    stage.step(ModelVerified(BEGIN_NS, "2026-01", "d" * 64, promoted=False, feed="sip"))
    assert value(stage.metrics, "rltrader_model_info", version="2026-01", promoted="false") == 1
    shadow = ["2026-02"]
    metrics = metrics_of(stage.machine, tmp_path / FILE, shadow=lambda: shadow[0])
    assert value(metrics, "rltrader_shadow_info", version="2026-02") == 1
    shadow[0] = ""
    assert "rltrader_shadow_info" not in scraped(metrics)


def test_the_challenger_on_the_ladder_is_named_with_its_step_size_and_sessions(stage: Stage) -> None:
    assert "rltrader_challenger_info" not in scraped(stage.metrics)
    stage.step(LadderMoved(BEGIN_NS, "v2", "canary_10", "canary_25", "v1", 0.25, 0, "canary_passed", "2 sessions"))
    stage.step(LadderMoved(BEGIN_NS, "v2", "canary_25", "canary_25", "v1", 0.25, 1, "session", "1 on this step"))
    assert value(stage.metrics, "rltrader_challenger_info", version="v2", step="canary_25") == 1
    assert value(stage.metrics, "rltrader_challenger_size_ratio") == 0.25
    assert value(stage.metrics, "rltrader_challenger_sessions") == 1


def test_lost_connections_are_counted_by_whose_they_are(stage: Stage) -> None:
    names = ["stream_up", "stream_lost", "stream_refused", "stream_lost", "trade_stream_lost", "mqtt_up", "mqtt_lost"]
    assert set(names) <= set(LOG_EVENTS)
    for name in (*names, "alarm_command_failed"):
        stage.metrics.log_event(name)
    counts = {
        stream: value(stage.metrics, "rltrader_reconnects_total", stream=stream) for stream in ("market", "trade")
    }
    assert counts == {"market": 3, "trade": 1}
    assert value(stage.metrics, "rltrader_reconnects_total", stream="mqtt") == 1
    assert value(stage.metrics, "rltrader_alarm_command_failures_total") == 1


def test_intake_mqtt_and_drift_are_told_as_they_were_given(stage: Stage, tmp_path: Path) -> None:
    counts = Counts(offered=66, published=50, dropped=6, conflated=5, refused=1, waiting=4)
    metrics = metrics_of(stage.machine, tmp_path / FILE, mqtt=lambda: counts)
    assert value(metrics, "rltrader_intake_depth") == 3
    assert value(metrics, "rltrader_intake_dropped_total") == 2
    assert value(metrics, "rltrader_mqtt_queued") == 4
    assert value(metrics, "rltrader_mqtt_published_total") == 50
    assert value(metrics, "rltrader_mqtt_dropped_total") == 6


def test_the_trainer_s_newest_sign_is_told_where_there_is_one(stage: Stage, tmp_path: Path) -> None:
    signs = iter([(0, 0), (BEGIN_NS, 7), (BEGIN_NS, 7)])
    metrics = metrics_of(stage.machine, tmp_path / FILE, trainer=lambda: next(signs))
    assert "rltrader_trainer_sign_timestamp_seconds" not in scraped(metrics)
    assert value(metrics, "rltrader_trainer_sign_timestamp_seconds") == 1_700_000_000.0
    assert value(metrics, "rltrader_trainer_row") == 7


def test_drift_is_that_of_the_version_that_answers_and_of_no_former_one(stage: Stage, tmp_path: Path) -> None:
    metrics = metrics_of(stage.machine, tmp_path / FILE)
    stage.step(ModelVerified(BEGIN_NS, "v1", "d" * 64, promoted=False, feed="sip"))
    assert "rltrader_drift_action_psi" not in scraped(metrics)
    metrics.drifted("v1", 0.31, 0.02, 1)
    assert value(metrics, "rltrader_drift_feature_psi") == 0.31
    assert value(metrics, "rltrader_drift_action_psi") == 0.02
    assert value(metrics, "rltrader_drift_beyond") == 1
    stage.step(ModelVerified(BEGIN_NS + 1, "v2", "e" * 64, promoted=False, feed="sip"))  # it has made no decision yet
    assert not {name for name in scraped(metrics) if name.startswith("rltrader_drift_")}


def test_the_newest_bar_and_report_are_moments_and_missing_before_the_first(stage: Stage) -> None:
    absent = scraped(stage.metrics)
    assert "rltrader_last_bar_timestamp_seconds" not in absent
    assert "rltrader_last_broker_report_timestamp_seconds" not in absent
    state = stage.machine.state
    stage.machine.state = replace(
        state,
        session=replace(state.session, last_bar_ns=BEGIN_NS),
        broker=replace(state.broker, reported_ns=BEGIN_NS + 5_000_000_000),
    )
    assert value(stage.metrics, "rltrader_last_bar_timestamp_seconds") == 1_700_000_060
    assert value(stage.metrics, "rltrader_last_broker_report_timestamp_seconds") == 1_700_000_005


def test_a_missing_journal_costs_its_own_series_alone(stage: Stage) -> None:
    metrics = scraped(stage.metrics)
    assert "rltrader_journal_bytes" not in metrics
    assert "rltrader_equity_usd" in metrics


def test_a_continuous_policy_s_decisions_have_one_series(stage: Stage, tmp_path: Path) -> None:
    sources = ScrapeSources(lambda: stage.machine.state, tmp_path / FILE, Latency(), LoopLag(), lambda: (0, 0))
    metrics = Metrics(DESK._replace(actions=(), bar_interval_s=86_400), sources)
    assert value(metrics, "rltrader_decisions_total", action="continuous") == 0
    bar = BarClosed(BEGIN_NS, Bar("SPY", BEGIN_NS - 10**15, 1.0, 1.0, 1.0, 1.0, 1.0))
    metrics.observe(bar, Step(stage.machine.state, (RaiseAlarm("drift", ""),), ()))
    assert scraped(metrics)["rltrader_bar_lag_seconds_count"][()] == 0  # a daily bar's lag says nothing


def test_scrapes_go_on_while_steps_are_counted(stage: Stage) -> None:
    event = TroubleNoticed(BEGIN_NS, "wal_large", "")
    step = stage.machine.apply(event)
    end = threading.Event()

    def count() -> None:
        for _ in range(20_000):
            stage.metrics.observe(event, step)
        end.set()

    counting = threading.Thread(target=count)
    counting.start()
    values = [0.0]
    while not end.is_set():
        values.append(value(stage.metrics, "rltrader_alarms_total", alarm="wal_large"))
    counting.join()
    assert values == sorted(values)
    assert value(stage.metrics, "rltrader_alarms_total", alarm="wal_large") == 20_000


# --- the vocabulary -----------------------------------------------------------------------------------------------


def test_every_declared_metric_is_exposed_and_no_other(stage: Stage) -> None:
    text = prometheus_client.generate_latest(stage.metrics.registry).decode()
    declared = {family.name: family for family in text_string_to_metric_families(text)}
    assert set(declared) == {name.removesuffix("_total") for name in METRICS}
    for name, metric in METRICS.items():
        family = declared[name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.meaning)


def test_the_global_registry_is_left_alone(stage: Stage) -> None:
    scraped(stage.metrics)
    names = {family.name for family in prometheus_client.REGISTRY.collect()}
    assert [name for name in names if name.startswith("rltrader")] == []


def test_the_names_of_alarms_are_the_headings_of_the_manual() -> None:
    manual = (REPOSITORY / "docs" / "OPERATIONS.md").read_text()
    assert set(ALARMS) == set(re.findall(r"^### (?:halt|alarm) `([a-z_]+)`$", manual, re.MULTILINE))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")
def test_promtool_finds_no_fault_with_names_and_help(replayed: Replayed) -> None:
    text = prometheus_client.generate_latest(replayed.metrics.registry)
    result = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (result.stdout + result.stderr).decode() == ""
    assert result.returncode == 0


# --- histograms ---------------------------------------------------------------------------------------------------


def test_a_duration_at_a_bound_counts_below_it() -> None:
    buckets = Buckets((0.001, 0.01))
    for seconds in (0.0, 0.001, 0.0011, 0.01, 5.0):
        buckets.add(seconds)
    assert buckets.cumulative() == [2, 4, 5]
    assert buckets.total_s == pytest.approx(5.0121)


def test_the_engine_s_latencies_fall_into_the_right_bounds() -> None:
    latency = Latency()
    for us in (10, 499, 520, 3_000, 800_000):
        latency.add(us * 1000)
    assert latency.cumulative((0.0005, 0.001, 0.0025, 0.005, 1.0)) == [2, 3, 3, 4, 5, 5]
    assert latency.total_ns == 804_029_000


# --- the server ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def served(metrics: Metrics, port: int = 0) -> AsyncIterator[str]:
    urls: asyncio.Queue[str] = asyncio.Queue()

    def log(name: str, /, **fields: object) -> None:
        assert set(fields) == set(LOG_EVENTS[name].fields)
        urls.put_nowait(str(fields["url"]))

    task = asyncio.create_task(serve(metrics.registry, port, log))
    try:
        first = asyncio.create_task(urls.get())
        await asyncio.wait([task, first], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            first.cancel()
            task.result()
        yield first.result()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await task


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=180) as answer:
        assert answer.status == 200
        return str(answer.read().decode())


def answers(url: str) -> bool:
    try:
        fetched(url)
    except urllib.error.URLError:
        return False
    return True


async def test_a_scrape_over_http_tells_the_desk(stage: Stage) -> None:
    async with served(stage.metrics) as url:
        assert url.startswith("http://127.0.0.1:")
        text = await asyncio.to_thread(fetched, url)
    assert 'rltrader_build_info{code="c0dec0dec0de",desk="desk-1",mode="paper"' in text


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9464", 200),
        ("LocalHost:9999", 200),  # an ssh tunnel has a port of its own
        ("[::1]:9464", 200),
        ("localhost", 200),
        ("rebound.example:9464", 400),  # a web page whose name was bound to 127.0.0.1 after it was loaded
        ("127.0.0.1.rebound.example", 400),
        ("127.0.0.1:80@rebound.example:9464", 400),
    ],
)
async def test_a_web_page_that_had_its_name_bound_to_this_host_reads_nothing(
    stage: Stage, host: str, status: int
) -> None:
    async with served(stage.metrics) as url:
        port = int(url.rpartition(":")[2].removesuffix("/metrics"))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
    assert answer.split(b" ")[1] == str(status).encode()
    assert (b"rltrader_equity_usd" in answer) is (status == 200)


async def test_a_taken_port_is_told_with_its_cure_and_served_once_it_is_free(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        expected = rf"^metrics\.port {port}: Address already in use: end what has it, or choose another$"
        with pytest.raises(OSError, match=expected):
            async with served(stage.metrics, port):
                pass
    async with served(stage.metrics, port) as url:
        assert "rltrader_equity_usd" in await asyncio.to_thread(fetched, url)


async def test_clients_that_say_nothing_are_few_keep_nobody_out_and_the_end_does_not_wait_for_them(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CLIENT_TIMEOUT_S", 600.0)
    async with served(stage.metrics) as url:
        port = int(url.rpartition(":")[2].removesuffix("/metrics"))
        before = threading.active_count()
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
        assert "rltrader_equity_usd" in await asyncio.to_thread(fetched, url)
        assert threading.active_count() <= before + 1  # a thread of this test's own
        readable, _, _ = select.select(silent, [], [], 60)
        assert len(readable) >= 50 + 1 - server.CLIENTS_MOST
    for client in silent:
        client.close()


async def test_a_client_that_says_nothing_is_dropped_after_a_while(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CLIENT_TIMEOUT_S", 0.1)
    async with served(stage.metrics) as url:
        port = int(url.rpartition(":")[2].removesuffix("/metrics"))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(60):
            assert await reader.read() == b""
        writer.close()


async def test_a_client_that_asks_byte_by_byte_holds_nobody_up(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CLIENT_TIMEOUT_S", 600.0)
    over = threading.Event()

    def drip(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as client, contextlib.suppress(OSError):
            while not over.wait(0.1):
                client.sendall(b"x")

    async with served(stage.metrics) as url:
        dripping = asyncio.create_task(asyncio.to_thread(drip, int(url.rpartition(":")[2].removesuffix("/metrics"))))
        await asyncio.sleep(0.2)
        assert "rltrader_equity_usd" in await asyncio.to_thread(fetched, url)
        over.set()
        await dripping


async def test_after_the_end_nobody_answers(stage: Stage) -> None:
    async with served(stage.metrics) as url:
        pass
    for _ in range(400):  # the server's thread ends by itself
        with contextlib.suppress(ConnectionResetError):  # it ended in between
            if not await asyncio.to_thread(answers, url):
                return
        await asyncio.sleep(0.05)
    pytest.fail("the server answers although it was ended")


async def test_who_was_connected_at_the_end_is_answered(stage: Stage) -> None:
    async with served(stage.metrics) as url:
        address = urllib.parse.urlsplit(url)
        early = await asyncio.to_thread(socket.create_connection, (address.hostname, address.port), 180)
        assert "rltrader_equity_usd" in await asyncio.to_thread(fetched, url)  # the early one was accepted before this
    with early:
        for thread in threading.enumerate():
            if thread.name == "metrics":
                await asyncio.to_thread(thread.join, 1)
        early.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        answer = await asyncio.to_thread(early.makefile("rb").read)
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")


async def test_a_scrape_that_raises_says_why_and_ends_neither_server_nor_desk(stage: Stage, tmp_path: Path) -> None:
    fails = [True]

    def state() -> State[Any]:
        if fails[0]:
            raise RuntimeError("no state")
        state: State[Any] = stage.machine.state
        return state

    fails[0] = False
    metrics = Metrics(DESK, ScrapeSources(state, tmp_path / FILE, Latency(), LoopLag(), lambda: (0, 0)))
    fails[0] = True
    async with served(metrics) as url:
        with pytest.raises(urllib.error.HTTPError) as error:
            await asyncio.to_thread(fetched, url)
        assert error.value.read() == b"RuntimeError: no state\n"
        error.value.close()
        stage.step(ClockTicked(BEGIN_NS))
        fails[0] = False
        assert "rltrader_equity_usd" in await asyncio.to_thread(fetched, url)
