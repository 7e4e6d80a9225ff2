"""The benchmark of SAC and TD3 measures ours and Stable-Baselines3's."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.paths import REPOSITORY


def test_the_benchmark_of_the_agents_measures_ours_and_its_peers() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.training.bench_off_policy", "--quick"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    for name in ("sac", "td3"):
        assert figures[f"{name}_update_to_data"] == 2 / 32
        assert figures[f"{name}_float32_steps_per_s"] > 0
        assert figures[f"{name}_{figures['precision']}_steps_per_s"] > 0
        assert figures[f"sb3_{name}_default_steps_per_s"] > 0
        assert {f"{name}_share_of_sb3_default_seconds", f"{name}_share_of_sb3_tuned_seconds"} < set(figures)
