"""The benchmark of DQN and PQN measures ours and its peers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.training import flips
from bench.training.resumed import resumed
from tests.support.paths import REPOSITORY


def run(module: str, *arguments: str) -> dict[str, object]:
    result = subprocess.run(
        [sys.executable, "-m", f"bench.training.{module}", "--quick", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    report: dict[str, object] = json.loads(result.stdout.splitlines()[-1])
    return report


def test_the_benchmark_measures_the_cold_start_ppo_and_both_sides_of_dqn() -> None:
    figures = run("bench_dqn")
    names = ["pqn_float32", "ppo_float32", f"pqn_{figures['precision']}", "sb3_default", "sb3_matched"]
    rates = [figures[f"{name}_steps_per_s"] for name in (*names, "matched", "few_large")]
    assert all(isinstance(rate, int) and rate > 0 for rate in rates)
    assert {"matched_over_sb3_matched_speed", "few_large_over_sb3_default_speed"} < set(figures)


def test_the_study_of_flips_keeps_each_seed_goes_on_there_and_prints_a_verdict(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    figures = run("flips", "--seeds", "1", "--into", str(path))
    assert figures["recovered"] in (0.0, 1.0)
    line = json.loads(path.read_text())
    path.write_text(json.dumps(line | {"part": {"online": [0.2, 0.99], "frozen": -0.5}}) + '\n{"cut')
    again = flips.main(["--quick", "--seeds", "1", "--into", str(path)])  # what was kept is not made again
    assert (again["reached_in_session"], again["at_the_end"], again["frozen"]) == ([2], [0.99], -0.5)
    assert again["holds"]
    with pytest.raises(SystemExit, match="was made with"):
        flips.main(["--seeds", "1", "--into", str(path)])


def test_a_study_does_only_what_is_missing(tmp_path: Path) -> None:
    batches: list[list[int]] = []

    def work(keys: list[int]) -> Iterator[tuple[int, int]]:
        batches.append(keys)
        return ((key, 10 * key) for key in keys)

    first = resumed(tmp_path / "kept", {"n": 1}, range(4), work)
    assert [next(first), next(first)] == [(0, 0), (1, 10)]
    first.close()  # it was stopped
    assert [*resumed(tmp_path / "kept", {"n": 1}, range(4), work)] == [(0, 0), (1, 10), (2, 20), (3, 30)]
    assert batches == [[0, 1, 2, 3], [2, 3]]


def test_a_version_taken_on_noise_is_judged_by_the_ladder_s_own_criteria() -> None:
    (version,) = flips.of_noise(0, flips.QUICK)
    assert version == ["refused", "card_cannot_say", "1 sessions, expected at least 8"]
    outcomes = [[version], [["replay", "card_passed", ""]]]
    assert flips.verdict(outcomes, noise=True, size=flips.QUICK)["passed"] == 1


def test_a_learner_recovered_if_it_came_there_and_holds_it_in_the_mean_of_the_last_sessions() -> None:
    def recovered(*online: float) -> float:
        part = {"online": list(online), "frozen": -1.0}
        return float(flips.verdict([part], noise=False, size=flips.Size(sessions=4, last=2))["recovered"])

    assert recovered(0.1, 0.95, 0.97, 0.86) == 1.0  # the mean of the last two is 0.915
    assert recovered(0.1, 0.99, 0.93, 0.86) == 0.0  # 0.895
    assert recovered(0.1, 0.5, 0.8, 0.89) == 0.0
