"""Whole runs on small made-up files: what they write, that they repeat themselves, that they go on after any stop."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch

from strategies.manifest import decode
from strategies.synthetic import synthetic_sessions
from tests.training.made_up import sessions, write_csv
from training.ledger import Ledger, ledger_path
from training.pool import Stopped
from training.ppo import Coefficients
from training.promotion import Findings
from training.run import train_and_export
from training.run_folder import RunFolderError
from training.settings import Settings
from training.study import Study, Trial
from training.trial import Diverged, News

SMALL = Coefficients(environments=16, rollout_steps=16, batch=128, epochs=2)
UPDATE = 256  # transitions


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """27 sessions of a random walk, of which six can be traded."""
    return write_csv(tmp_path_factory.mktemp("bars") / "walk.csv", synthetic_sessions(3, sessions(27)))


@pytest.fixture
def settings(bars: Path, tmp_path: Path) -> Settings:
    return Settings(
        "option_scalper", bars, tmp_path / "store", steps=6 * UPDATE, seeds=(2,), coefficients=SMALL,
        run_folder=tmp_path / "run",
    )  # fmt: skip


def beside(settings: Settings, name: str) -> Settings:
    """The same run in another folder and store."""
    return replace(settings, out=settings.out.parent / name / "store", run_folder=settings.out.parent / name / "run")


def quiet(_: object) -> None:
    """Nobody listens."""


class StopAfter:
    """A flag that is set once `updates` updates were told of."""

    def __init__(self, updates: int) -> None:
        self._left = updates

    def __call__(self, news: object) -> None:
        self._left -= isinstance(news, News)

    def is_set(self) -> bool:
        return self._left <= 0

    def set(self) -> None:
        self._left = 0


def test_a_run_writes_a_version_with_its_report_and_the_same_seed_writes_the_same_policy(settings: Settings) -> None:
    heard: list[object] = []
    made = train_and_export(settings, heard.append)
    again = train_and_export(beside(settings, "again"), quiet)
    other = train_and_export(replace(beside(settings, "other"), seeds=(3,)), quiet)
    policy = (made.version / "policy.onnx").read_bytes()
    assert policy == (again.version / "policy.onnx").read_bytes()
    assert policy != (other.version / "policy.onnx").read_bytes()
    assert sorted(path.name for path in made.version.iterdir()) == [
        "manifest.json", "policy.onnx", "report.html", "report.json",
    ]  # fmt: skip
    manifest = decode((made.version / "manifest.json").read_bytes())
    assert manifest.training.splits == {
        "train": ("2024-06-20", "2024-06-24"),
        "validate": ("2024-06-25", "2024-06-25"),
        "test": ("2024-06-26", "2024-06-27"),
    }
    assert (manifest.training.file, manifest.hyperparameters["seed"], manifest.promoted) == ("walk.csv", 2, False)
    findings = json.loads((made.version / "report.json").read_bytes())
    assert findings["verdict"] == manifest.note == made.findings.verdict
    assert findings["policy_sha256"] == manifest.policy_sha256
    assert [news.steps for news in heard if isinstance(news, News)] == [UPDATE * n for n in range(1, 7)]
    for name in ("run.json", "study.json", "report.html", "trials/fold1-potential-seed2/metrics.jsonl"):
        assert (settings.run_folder / name).exists(), name  # type: ignore[operator]
    assert list((made.run_folder / "trials/fold1-potential-seed2/tensorboard").glob("events.out.tfevents.*"))


def test_a_run_stopped_after_every_update_gives_the_policy_of_an_undisturbed_one(settings: Settings) -> None:
    whole = train_and_export(beside(settings, "whole"), quiet)
    for _ in range(5):
        stop = StopAfter(1)
        with pytest.raises(Stopped):
            train_and_export(settings, stop, stop)
    made = train_and_export(settings, quiet)
    assert (made.version / "policy.onnx").read_bytes() == (whole.version / "policy.onnx").read_bytes()
    metrics = "trials/fold1-potential-seed2/metrics.jsonl"
    assert (made.run_folder / metrics).read_text() == (whole.run_folder / metrics).read_text()
    studies = [
        msgspec.json.decode((run / "study.json").read_bytes(), type=Study)
        for run in (made.run_folder, whole.run_folder)
    ]
    assert len({msgspec.json.encode([msgspec.structs.replace(t, seconds=0.0) for t in s.trials]) for s in studies}) == 1


@pytest.fixture
def command(settings: Settings) -> list[str]:
    """The command of a run, of 40 updates, as a user gives it."""
    return [
        sys.executable, "-m", "training", "--strategy", settings.strategy, "--bars", str(settings.bars), "--out",
        str(settings.out), "--run-dir", str(settings.run_folder), "--steps", str(8 * 16_384), "--checkpoint-s", "0",
        "--processes", "1",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_command_killed_at_a_random_moment_goes_on_to_the_same_bytes(
    command: list[str], settings: Settings, number: signal.Signals
) -> None:
    seed = int(time.time())
    print(f"seed {seed}")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    checkpoint = settings.run_folder / "trials/fold1-potential-seed1/checkpoint.pt"  # type: ignore[operator]
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.02)
    time.sleep(random.Random(seed).uniform(0.0, 2.0))
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130), said
    if number == signal.SIGTERM:
        assert "stopped; give the same command again to go on" in said
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    straight = [
        *command[: command.index("--out")], "--out", str(settings.out.parent / "b"), "--run-dir",
        str(settings.out.parent / "c"), *command[command.index("--steps") :],
    ]  # fmt: skip
    whole = subprocess.run(straight, check=True, capture_output=True, text=True)
    assert (Path(again.stdout.strip()) / "policy.onnx").read_bytes() == (
        Path(whole.stdout.strip()) / "policy.onnx"
    ).read_bytes()


def test_folds_seeds_and_rewards_share_the_processes_and_every_trial_is_in_the_ledger(
    settings: Settings, tmp_path: Path
) -> None:
    walk = write_csv(tmp_path / "longer.csv", synthetic_sessions(4, sessions(30)))
    many = replace(
        settings, bars=walk, folds=2, train_sessions=3, validate_sessions=1, test_sessions=1, seeds=(1, 2),
        rewards=("potential", "reference"), steps=2 * UPDATE, processes=2,
    )  # fmt: skip
    heard: list[object] = []
    made = train_and_export(many, heard.append)
    study = msgspec.json.decode((made.run_folder / "study.json").read_bytes(), type=Study)
    assert [(t.fold, t.reward, t.seed) for t in study.trials] == [
        (fold, reward, seed) for fold in (0, 1) for reward in ("potential", "reference") for seed in (1, 2)
    ]
    # 2024-06-20 is the first session with a volatility; one session lies between spans
    assert [(f.train, f.validate, f.test) for f in study.folds] == [
        (("2024-06-20", "2024-06-21", "2024-06-24"), ("2024-06-26",), ("2024-06-28",)),
        (("2024-06-20", "2024-06-21", "2024-06-24", "2024-06-25"), ("2024-06-27",), ("2024-07-01",)),
    ]
    assert all(study.trials[index].reward == "potential" for index in study.chosen)
    assert sum(isinstance(news, Trial) for news in heard) == 8
    lines = Ledger(ledger_path(many.out, "option_scalper")).read().lines
    assert [line.kind for line in lines].count("trial") == 8
    assert [(line.first, line.last) for line in lines if line.kind == "opening"] == [
        ("2024-06-28", "2024-06-28"), ("2024-07-01", "2024-07-01"),
    ]  # fmt: skip
    assert isinstance(made.findings, Findings)
    alone = train_and_export(replace(beside(many, "alone"), processes=1), quiet)
    assert (alone.version / "policy.onnx").read_bytes() == (made.version / "policy.onnx").read_bytes()
    train_and_export(many, quiet)  # everything is there: nothing is trained, nothing is written into the ledger twice
    assert Ledger(ledger_path(many.out, "option_scalper")).read().lines == lines


def test_two_processes_train_one_network_the_same_way_every_time(settings: Settings) -> None:
    team = replace(settings, processes=2, steps=4 * UPDATE)
    stop = StopAfter(2)
    with pytest.raises(Stopped):
        train_and_export(team, stop, stop)
    went_on = train_and_export(team, quiet)
    whole = train_and_export(beside(team, "whole"), quiet)
    assert (went_on.version / "policy.onnx").read_bytes() == (whole.version / "policy.onnx").read_bytes()


def test_a_loss_that_is_not_finite_stops_the_run_keeps_the_checkpoint_and_names_the_step(settings: Settings) -> None:
    stop = StopAfter(2)
    with pytest.raises(Stopped):
        train_and_export(settings, stop, stop)
    checkpoint = settings.run_folder / "trials/fold1-potential-seed2/checkpoint.pt"  # type: ignore[operator]
    poisoned = torch.load(checkpoint, weights_only=True)
    poisoned["team"][0]["network"]["policy.trunk.0.weight"][0, 0] = float("nan")
    torch.save(poisoned, checkpoint)
    kept = checkpoint.read_bytes()
    found = "fold1-potential-seed2 stopped after step 512: the .* of minibatch 0 in update 2 is nan.* is at step 512"
    with pytest.raises(Diverged, match=found):
        train_and_export(replace(settings, checkpoint_s=0.0), quiet)
    assert checkpoint.read_bytes() == kept


def test_a_disk_that_is_full_at_a_checkpoint_leaves_the_one_before_it(settings: Settings) -> None:
    stop = StopAfter(2)
    with pytest.raises(Stopped):
        train_and_export(settings, stop, stop)
    folder = settings.run_folder / "trials/fold1-potential-seed2"  # type: ignore[operator]
    kept = (folder / "checkpoint.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) // 2, limits[1]))  # a file can grow no further
    try:
        with pytest.raises(OSError, match="File too large"):
            train_and_export(replace(settings, checkpoint_s=0.0), quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (folder / "checkpoint.pt").read_bytes() == kept
    assert not list(folder.glob(".*.part"))
    whole = train_and_export(beside(settings, "whole"), quiet)
    assert (train_and_export(settings, quiet).version / "policy.onnx").read_bytes() == (
        whole.version / "policy.onnx"
    ).read_bytes()


def test_a_run_that_finds_nothing_better_stops_early_and_says_so(settings: Settings) -> None:
    made = train_and_export(replace(settings, patience=1, steps=40 * UPDATE), quiet)
    study = msgspec.json.decode((made.run_folder / "study.json").read_bytes(), type=Study)
    (trial,) = study.trials
    assert trial.stopped == "no better validation in 1 looks"
    assert trial.steps < 40 * UPDATE
    returns = [point.validate_return for point in trial.curve]
    assert returns[-1] <= max(returns[:-1])


def test_the_folder_of_another_run_is_refused_by_what_differs_unless_it_is_thrown_away(settings: Settings) -> None:
    made = train_and_export(settings, quiet)
    with pytest.raises(RunFolderError, match=r"belongs to a run with seeds = \[2\], this one has \[5\]"):
        train_and_export(replace(settings, seeds=(5,)), quiet)
    train_and_export(replace(settings, seeds=(5,), restart=True), quiet)
    assert not (made.run_folder / "trials/fold1-potential-seed2").exists()


def test_an_orphan_ends(settings: Settings, command: list[str]) -> None:
    """Workers of a killed run must not go on writing into its folder."""
    many = [*command, "--seeds", "2"]
    many[many.index("--processes") + 1] = "2"
    process = subprocess.Popen(many, stderr=subprocess.DEVNULL, start_new_session=True)
    trials = settings.run_folder / "trials"  # type: ignore[operator]
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
