"""The benchmark of DQN and PQN measures ours and its peers."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.paths import REPOSITORY


def run(*arguments: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.training.bench_dqn", "--quick", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_benchmark_measures_the_cold_start_ppo_and_both_sides_of_dqn() -> None:
    figures = run()
    names = ["pqn_float32", "ppo_float32", f"pqn_{figures['precision']}", "sb3_default", "sb3_matched"]
    rates = [figures[f"{name}_steps_per_s"] for name in (*names, "matched", "few_large")]
    assert all(isinstance(rate, int) and rate > 0 for rate in rates)
    assert {"matched_over_sb3_matched_speed", "few_large_over_sb3_default_speed"} < set(figures)


def test_the_benchmark_measures_how_often_learning_recovers() -> None:
    figures = run("--flips")
    assert figures["recovered"] in (0.0, 1.0)
    assert isinstance(figures["frozen"], list)
    assert len(figures["frozen"]) == 1
