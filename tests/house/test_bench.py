"""The benchmarks run: their figures are there and not zero. What they are is for a person to read, not for a test."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from bench.bench_replay import stages, throughput
from bench.live.recovery import GROUP_EVENTS, after_a_kill
from daemon.tapes import BUNDLED_TAPE
from tests.support.paths import REPOSITORY


def test_the_replay_benchmark_measures_a_run_with_orders_and_partial_fills() -> None:
    figures = throughput(BUNDLED_TAPE)
    assert figures["bars"] == 11520
    assert min(figures["orders"], figures["partial_fills"], figures["decision_us_p50"]) > 0
    assert min(figures["bars_per_s"], figures["floor_bars_per_s"], figures["share_of_floor"]) > 0


def test_the_replay_benchmark_tells_each_stage() -> None:
    (by_stage,) = stages(BUNDLED_TAPE).values()
    assert by_stage.keys() == {"features", "policy", "paper_market", "step", "machine", "journal", "engine_and_feed"}
    assert min(by_stage.values()) > 0


def test_a_start_after_a_kill_goes_on_where_the_journal_ends(tmp_path: Path) -> None:
    figures = after_a_kill(BUNDLED_TAPE, tmp_path / "killed", events=3000, since=1000, runs=1)
    assert figures["resumed_at_event"] == figures["events"] >= 3000
    assert figures["events_after_the_snapshot"] >= 1000 - GROUP_EVENTS


def test_make_bench_finds_every_benchmark_as_a_module() -> None:
    outputs = [
        subprocess.run(["make", "-n", target], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
        for target in ("bench", "bench-train")
    ]
    names = {path.stem.removeprefix("bench_") for path in (REPOSITORY / "bench").glob("bench_*.py")}
    daemon = re.search(r"for bench in ([a-z ]+);", outputs[0])
    assert daemon is not None
    training = re.findall(r"-m bench\.bench_([a-z]+)", outputs[1])
    assert {*daemon.group(1).split(), *training} == names
    assert "-m bench.live.recovery" in outputs[0]
