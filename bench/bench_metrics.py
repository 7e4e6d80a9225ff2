"""What the metrics cost: processor time of `observe` beside the step itself, and of a scrape. `make bench` prints it.

The bundled synthetic tape is stepped in memory by the machine that live, replay and verify share, with the shipped
model; then the same steps go by `observe`. Processor time of one thread, the median of several rounds.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from prometheus_client import generate_latest

from bench.bench_replay import trading_version
from daemon.app.replay_start import prepare_replay
from daemon.config.load import load
from daemon.core.events import Event
from daemon.core.state import Identity
from daemon.core.step import Step
from daemon.engine.recover import fresh_machine
from daemon.host.latency import Latency
from daemon.journal.journal import FILE
from daemon.operator.metrics.loop_lag import LoopLag
from daemon.operator.metrics.metrics import DeskLabels, Metrics, ScrapeSources
from daemon.tapes import BUNDLED_TAPE

ROUNDS = 7
SCRAPES = 50


def main() -> None:
    """Print all figures as one JSON object."""
    with tempfile.TemporaryDirectory() as name:
        journal = Path(name) / FILE
        journal.write_bytes(b"")
        replay = prepare_replay(
            load(None, {"paths.state_dir": Path(name), "policy.version": trading_version()}), BUNDLED_TAPE
        )
        spec = replay.strategy.spec
        identity = Identity("replay", "paper", spec.name, replay.epoch(), "sip")
        machine = fresh_machine(replay.strategy, identity, replay.settings.trading())
        steps: list[tuple[Event, Step]] = []
        began = time.process_time()
        machine.run(replay.source(), replay.policy.answer, lambda event, step: steps.append((event, step)))
        stepped_s = time.process_time() - began
        latency = Latency()
        for us in range(0, 20_000, 7):
            latency.add(us * 1000)
        sources = ScrapeSources(lambda: machine.state, journal, latency, LoopLag(), lambda: (0, 0))
        metrics = Metrics(
            DeskLabels("bench", spec.name, "replay", "0" * 64, spec.actions, spec.bar_interval_s, 0.3), sources
        )
        rounds = [_observed(metrics, steps) for _ in range(ROUNDS)]
        scrapes = [_scraped(metrics) for _ in range(SCRAPES)]
        observe_ns = (statistics.median(rounds) - statistics.median(_walked(steps) for _ in range(ROUNDS))) * 1e9
        step_ns = stepped_s / len(steps) * 1e9
        figures = {
            "bench": "metrics",
            "steps": len(steps),
            "observe_ns_a_step": round(observe_ns / len(steps)),
            "reference_step_and_policy_ns": round(step_ns),
            "ratio": round(observe_ns / len(steps) / step_ns, 5),
            "scrape_ms": round(statistics.median(scrapes) * 1e3, 2),
            "scrape_bytes": len(generate_latest(metrics.registry)),
        }
    sys.stdout.write(json.dumps(figures) + "\n")
    if observe_ns / len(steps) > 1000:
        sys.exit(f"bench: observe costs {observe_ns / len(steps):.0f} ns a step; expected less than 1000")


def _observed(metrics: Metrics, steps: list[tuple[Event, Step]]) -> float:
    observe, began = metrics.observe, time.process_time()
    for event, step in steps:
        observe(event, step)
    return time.process_time() - began


def _walked(steps: list[tuple[Event, Step]]) -> float:
    began = time.process_time()
    for _event, _step in steps:
        pass
    return time.process_time() - began


def _scraped(metrics: Metrics) -> float:
    began = time.process_time()
    generate_latest(metrics.registry)
    return time.process_time() - began


if __name__ == "__main__":
    main()
