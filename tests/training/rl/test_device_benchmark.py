"""The benchmark of a device measures every part of training, on any machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.paths import REPOSITORY


def test_the_benchmark_of_a_device_measures_speed_kernels_agents_and_curves(data_dir: Path, tmp_path: Path) -> None:
    def run(*more: str) -> str:
        line = [sys.executable, "-m", "bench.training.bench_device", "--quick", "--seeds", "2", *more]
        result = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    before = tmp_path / "curves.txt"
    before.write_text(run("--part", "curves"))
    figures = json.loads(run("--against", str(before)).splitlines()[-1])
    assert len(figures["speed"]) == len(figures["curves"]) == 2
    assert all(row["best"] > 0 for row in figures["speed"].values())
    assert all(row["kernels_each"] > 100 for row in figures["profile"].values())
    assert set(figures["agents"]) == {"sac", "td3", "dqn", "dqn without priorities"}
    for rows in figures["differences"].values():
        assert all(difference == 0.0 for _, _, difference, _ in rows)  # the same seeds on the same device
