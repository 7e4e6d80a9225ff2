"""The benchmarks of SAC and TD3, and of all algorithms with matched work, measure ours and Stable-Baselines3's."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.paths import REPOSITORY


def printed(module: str, *arguments: str) -> dict[str, Any]:
    """The figures of a smoke run."""
    result = subprocess.run(
        [sys.executable, "-m", f"bench.training.{module}", "--quick", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return report


def test_the_benchmark_of_matched_work_measures_ours_and_its_peers() -> None:
    names = ("td3", "dqn", "daily_rebalancer")
    options = [argument for name in names for argument in ("--only", name)]
    figures = printed("bench_matched", *options)
    for name in names:
        assert figures[f"{name}_float32_times_sb3"] > 0
        assert figures[f"{name}_sb3_steps_per_core_second"] > 0
    figures = printed("bench_matched", "--parts", *options)
    for name in names:
        shares = figures[f"{name}_float32_parts"]
        assert sum(shares.values()) == pytest.approx(1.0, abs=0.02)
        assert {"market", "minibatch", "Adam", "collect: policy"} < set(shares)
    figures = printed("bench_matched", "--curves", "2", "--only", "td3")
    assert len(figures["td3_curve_scores"]) == len(figures["td3_curve_steps"]) == 2


def test_the_benchmark_of_the_agents_measures_ours_and_its_peers() -> None:
    figures = printed("bench_off_policy")
    for name in ("sac", "td3"):
        assert figures[f"{name}_update_to_data"] == 2 / 32
        assert figures[f"{name}_float32_steps_per_s"] > 0
        assert figures[f"{name}_{figures['precision']}_steps_per_s"] > 0
        assert figures[f"sb3_{name}_default_steps_per_s"] > 0
        assert {f"{name}_share_of_sb3_default_seconds", f"{name}_share_of_sb3_tuned_seconds"} < set(figures)
