"""A run through a real Ray on this machine: the bytes of a run without it, also after it was killed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.training.ray_processes import left, mark
from tests.support.training.small_runs import UPDATE, same, weights
from training.cli.main import main
from training.rl.coefficients import Coefficients
from training.rl.pool import Stopped
from training.runs.run import train_and_export
from training.runs.settings import Settings
from training.studies.runner import write_result

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install '.[scale]'")
TRIALS = ("trials/fold1-potential-seed1", "trials/fold1-potential-seed2")


def train_run(settings: Settings) -> None:
    """Train all trials, and leave it there: what follows is alike with and without Ray."""
    flag = threading.Event()

    def listen(news: object) -> None:
        if str(news).startswith("comparing"):
            flag.set()

    with pytest.raises(Stopped):
        train_and_export(settings, listen, flag)


def test_a_run_through_ray_that_was_killed_goes_on_to_the_weights_of_a_run_without_it(
    small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(small, seeds=(1, 2), steps=12 * UPDATE, checkpoint_s=0.0, run_folder=tmp_path / "run", processes=2)
    write_result(tmp_path / "small.json", small.plan.differences(Coefficients()))
    command = [
        "--strategy", small.strategy, "--bars", str(small.bars), "--out", str(small.out), "--ray", "local",
        "--run-dir", str(run.run_folder), "--steps", str(run.steps), "--seeds", "2", "--checkpoint-s", "0",
        "--coefficients", str(tmp_path / "small.json"),
    ]  # fmt: skip
    config = str(tmp_path)
    mark(monkeypatch, config)
    process = subprocess.Popen([sys.executable, "-m", "training", *command], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list((tmp_path / "run").glob("trials/*/checkpoint.pt")):
        time.sleep(0.02)
    process.kill()
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == -9, errors
    assert left(config) == []
    assert not all((tmp_path / "run" / trial / "trial.json").exists() for trial in TRIALS)
    train_run(replace(run, ray="local"))
    assert left(config) == []
    train_run(replace(run, run_folder=tmp_path / "alone", processes=1))
    for trial in TRIALS:
        assert same(weights(tmp_path / "run", trial), weights(tmp_path / "alone", trial))


def test_the_processes_of_one_trial_share_it_in_ray_as_they_do_without(
    small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark(monkeypatch, str(tmp_path))
    for name, ray in (("with", "local"), ("without", "")):
        train_run(replace(small, steps=2 * UPDATE, run_folder=tmp_path / name, processes=2, ray=ray))
    trial = "trials/fold1-potential-seed2"
    assert same(weights(tmp_path / "with", trial), weights(tmp_path / "without", trial))


def test_a_missing_cluster_is_one_line(small: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--strategy", small.strategy, "--bars", str(small.bars), "--out", str(small.out)]
    assert main([*arguments, "--run-dir", str(tmp_path / "run"), "--ray", "127.0.0.1:1"]) == 2
    assert "no Ray cluster at '127.0.0.1:1'" in capsys.readouterr().err.splitlines()[-1]
