"""Commands that are killed at any moment: the same command goes on to the same weights, and no worker outlives it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.training.small_runs import quiet, same, weights
from training.cli.main import main
from training.rl.coefficients import Coefficients
from training.runs.folder import code_version
from training.runs.prepared import prepare
from training.runs.settings import Settings, requests_of
from training.runs.tasks import train_one
from training.studies.runner import write_result

pytestmark = pytest.mark.usefixtures("one_export")
QUICK = Coefficients(environments=64, rollout_steps=32, batch=512, epochs=4)
QUICK_STEPS = 15 * 64 * 32  # seconds of training, and seconds of comparison after it: the kill comes within two


@pytest.fixture
def command(small: Settings, tmp_path: Path) -> list[str]:
    """The command of a run, of 15 quick updates, as a user gives it."""
    write_result(tmp_path / "quick.json", QUICK.differences(Coefficients()))
    return [
        "--strategy", small.strategy, "--bars", str(small.bars), "--out", str(tmp_path / "store"), "--run-dir",
        str(tmp_path / "run"), "--steps", str(QUICK_STEPS), "--checkpoint-s", "0", "--processes", "1",
        "--coefficients", str(tmp_path / "quick.json"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(small: Settings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The weights of `command` in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    settings = replace(small, steps=QUICK_STEPS, seeds=(1,), plan=QUICK)
    prepared = replace(prepare((settings, Path(), code_version())), folder=folder)
    train_one(prepared, requests_of(settings)[0], threading.Event(), quiet)
    return weights(folder, "trials/fold1-potential-seed1")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_command_killed_at_a_random_moment_goes_on_to_the_same_weights(
    command: list[str], tmp_path: Path, number: signal.Signals, undisturbed: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    seed = int(time.time())
    print(f"seed {seed}")
    trial = "trials/fold1-potential-seed1"
    process = subprocess.Popen([sys.executable, "-m", "training", *command], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "run" / trial / "checkpoint.pt").exists():
        time.sleep(0.02)
    time.sleep(random.Random(seed).uniform(0.0, 2.0))
    process.send_signal(number)
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130), errors
    if number == signal.SIGTERM:
        assert "stopped; give the same command again to go on" in errors
    assert main(command) == 0
    assert Path(capsys.readouterr().out.strip().splitlines()[-1]).joinpath("policy.onnx").exists()
    assert same(weights(tmp_path / "run", trial), undisturbed)


def test_an_orphan_ends(command: list[str], tmp_path: Path) -> None:
    """Workers of a killed run must not go on writing into its folder."""
    many = [*command, "--seeds", "2"]
    many[many.index("--processes") + 1] = "2"
    process = subprocess.Popen(
        [sys.executable, "-m", "training", *many], stderr=subprocess.DEVNULL, start_new_session=True
    )
    trials = tmp_path / "run" / "trials"
    while process.poll() is None and len(list(trials.glob("*/checkpoint.pt"))) < 2:
        time.sleep(0.05)
    process.kill()
    process.wait()
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("a worker outlived the run by ten seconds")
