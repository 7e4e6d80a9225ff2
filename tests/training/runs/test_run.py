"""Runs on small made-up files: what they write, that they repeat themselves, that they go on after any stop.

What a trial does is shown by trials alone (`trained`); whole runs, with comparison, report and export, are few.
"""

from __future__ import annotations

import functools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from strategies.kit.manifest import decode
from strategies.kit.synthetic import synthetic_sessions
from tests.support.training.made_up import sessions, write_csv
from training.cli.main import main
from training.evidence.findings import Findings
from training.rl.pool import Flag, Stopped
from training.rl.ppo import Coefficients
from training.rl.team import Team, together
from training.runs.folder import RunFolderError, _reached, code_version, held, open_run
from training.runs.ledger import Ledger, ledger_path
from training.runs.run import Outcome, train_and_export
from training.runs.settings import Settings, requests_of
from training.runs.tasks import Prepared, another, prepare, prepare_same, train_one
from training.runs.trial import Diverged, News
from training.search.coefficients_file import write_coefficients
from training.study.study import Study, Trial

SMALL = Coefficients(environments=16, rollout_steps=16, batch=128, epochs=2)
UPDATE = 256  # transitions
QUICK = Coefficients(environments=64, rollout_steps=32, batch=512, epochs=4)
QUICK_STEPS = 30 * 64 * 32
TRIAL = "trials/fold1-potential-seed2"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this module's."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def small(home: Path) -> Settings:
    """Six updates on 27 sessions of a random walk, of which six can be traded."""
    bars = write_csv(home / "walk.csv", synthetic_sessions(3, sessions(27)))
    return Settings(
        "option_scalper", bars, home / "store", steps=6 * UPDATE, seeds=(2,), coefficients=SMALL, processes=1,
        run_folder=home / "run",
    )  # fmt: skip


@pytest.fixture(scope="module")
def heard() -> list[object]:
    """What `whole` told."""
    return []


@pytest.fixture(scope="module")
def whole(small: Settings, heard: list[object]) -> Outcome:
    """An undisturbed run."""
    return train_and_export(small, heard.append)


@pytest.fixture(scope="module")
def ready(small: Settings) -> Prepared:
    """What every trial on its bars needs."""
    return prepare((small, Path(), code_version()))


Train = Callable[..., Trial]


@pytest.fixture
def trained(ready: Prepared, tmp_path: Path) -> Train:
    """Train the first trial of settings in a folder of this test's, alone."""

    def train(settings: Settings, name: str = "run", stop: StopAfter | None = None) -> Trial:
        flag: Flag = stop or threading.Event()
        prepared = replace(ready, settings=settings, folder=tmp_path / name)
        return train_one(prepared, requests_of(settings)[0], flag, stop or quiet)

    return train


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


def weights(run: Path, trial: str = TRIAL) -> dict[str, Any]:
    """The chosen weights of a trial."""
    found: dict[str, Any] = torch.load(run / trial / "best.pt", weights_only=True)
    return found


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Equal to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def timeless(trial: Trial) -> Trial:
    """A trial without what the clock says."""
    return msgspec.structs.replace(trial, seconds=0.0)


def test_a_run_writes_a_version_with_its_report_and_says_how_far_it_is(
    whole: Outcome, small: Settings, heard: list[object]
) -> None:
    assert sorted(path.name for path in whole.version.iterdir()) == [
        "manifest.json", "policy.onnx", "report.html", "report.json",
    ]  # fmt: skip
    manifest = decode((whole.version / "manifest.json").read_bytes())
    assert manifest.training.splits == {
        "train": ("2024-06-20", "2024-06-24"),
        "validate": ("2024-06-25", "2024-06-25"),
        "test": ("2024-06-26", "2024-06-27"),
    }
    assert (manifest.training.file, manifest.hyperparameters["seed"], manifest.promoted) == ("walk.csv", 2, False)
    findings = json.loads((whole.version / "report.json").read_bytes())
    assert findings["verdict"] == manifest.note == whole.findings.verdict
    assert findings["policy_sha256"] == manifest.policy_sha256
    assert [news.steps for news in heard if isinstance(news, News)] == [UPDATE * n for n in range(1, 7)]
    for name in ("run.json", "study.json", "report.html", f"{TRIAL}/metrics.jsonl"):
        assert (whole.run_folder / name).exists(), name
    assert list((whole.run_folder / TRIAL / "tensorboard").glob("events.out.tfevents.*"))
    assert [line.kind for line in Ledger(ledger_path(small.out, "option_scalper")).read().lines] == ["opening", "trial"]


def test_the_same_seed_gives_the_same_policy_and_another_seed_another(
    whole: Outcome, small: Settings, tmp_path: Path, trained: Train
) -> None:
    again = train_and_export(replace(small, out=tmp_path / "store", run_folder=tmp_path / "again"), quiet)
    assert (again.version / "policy.onnx").read_bytes() == (whole.version / "policy.onnx").read_bytes()
    trained(replace(small, seeds=(3,)))
    assert not same(weights(whole.run_folder), weights(tmp_path / "run", "trials/fold1-potential-seed3"))


def test_a_trial_stopped_after_every_update_is_that_of_an_undisturbed_run(
    whole: Outcome, small: Settings, tmp_path: Path, trained: Train
) -> None:
    for _ in range(5):
        with pytest.raises(Stopped):
            trained(small, stop=StopAfter(1))
    made = trained(small)
    assert same(weights(tmp_path / "run"), weights(whole.run_folder))
    metrics = f"{TRIAL}/metrics.jsonl"
    assert (tmp_path / "run" / metrics).read_text() == (whole.run_folder / metrics).read_text()
    study = msgspec.json.decode((whole.run_folder / "study.json").read_bytes(), type=Study)
    assert timeless(made) == timeless(study.trials[0])


def test_a_trial_that_finds_nothing_better_stops_early_wherever_it_was_stopped_before(
    small: Settings, tmp_path: Path, trained: Train
) -> None:
    patient = replace(small, patience=1, steps=40 * UPDATE)
    straight = trained(patient, "straight")
    assert straight.stopped == "no better validation in 1 looks"
    assert straight.steps < 40 * UPDATE
    returns = [point.validate_return for point in straight.curve]
    assert returns[-1] <= max(returns[:-1])
    for _ in range(straight.steps // UPDATE):  # the last stop is asked for after the last update
        with pytest.raises(Stopped):
            trained(patient, stop=StopAfter(1))
    assert timeless(trained(patient)) == timeless(straight)
    assert same(weights(tmp_path / "run"), weights(tmp_path / "straight"))


@pytest.fixture
def command(small: Settings, tmp_path: Path) -> list[str]:
    """The command of a run, of 30 quick updates, as a user gives it."""
    write_coefficients(tmp_path / "quick.json", QUICK)
    return [
        "--strategy", small.strategy, "--bars", str(small.bars), "--out", str(tmp_path / "store"), "--run-dir",
        str(tmp_path / "run"), "--steps", str(QUICK_STEPS), "--checkpoint-s", "0", "--processes", "1",
        "--coefficients", str(tmp_path / "quick.json"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(small: Settings, home: Path) -> dict[str, Any]:
    """The weights of `command` in one go."""
    settings = replace(small, steps=QUICK_STEPS, seeds=(1,), coefficients=QUICK)
    prepared = replace(prepare((settings, Path(), code_version())), folder=home / "undisturbed")
    train_one(prepared, requests_of(settings)[0], threading.Event(), quiet)
    return weights(home / "undisturbed", "trials/fold1-potential-seed1")


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
    said = process.communicate(timeout=300)[1]
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130), said
    if number == signal.SIGTERM:
        assert "stopped; give the same command again to go on" in said
    assert main(command) == 0
    assert Path(capsys.readouterr().out.strip().splitlines()[-1]).joinpath("policy.onnx").exists()
    assert same(weights(tmp_path / "run", trial), undisturbed)


def test_folds_seeds_and_rewards_share_the_processes_and_every_trial_is_in_the_ledger(
    small: Settings, tmp_path: Path
) -> None:
    walk = write_csv(tmp_path / "longer.csv", synthetic_sessions(4, sessions(30)))
    many = replace(
        small, bars=walk, out=tmp_path / "store", run_folder=tmp_path / "run", folds=2, train_sessions=3,
        validate_sessions=1, test_sessions=1, seeds=(1, 2), rewards=("potential", "reference"), steps=2 * UPDATE,
        processes=2,
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
    alone = replace(prepare((many, Path(), code_version())), folder=tmp_path / "alone")
    for request in requests_of(many)[1:6:4]:  # one of each fold
        train_one(alone, request, threading.Event(), quiet)
        name = f"trials/{request.name}"
        assert same(weights(tmp_path / "alone", name), weights(tmp_path / "run", name))
    flag = threading.Event()

    def until_compared(news: object) -> None:
        assert not isinstance(news, News)  # everything is there: nothing is trained
        if str(news).startswith("comparing"):
            flag.set()

    with pytest.raises(Stopped):
        train_and_export(replace(many, processes=1), until_compared, flag)
    assert Ledger(ledger_path(many.out, "option_scalper")).read().lines == lines  # and none is counted twice


def test_a_trial_that_has_seen_the_test_sessions_is_on_record_though_the_run_is_stopped(
    small: Settings, tmp_path: Path
) -> None:
    two = replace(small, seeds=(1, 2), steps=UPDATE, out=tmp_path / "store", run_folder=tmp_path / "run")
    flag = threading.Event()
    with pytest.raises(Stopped):
        train_and_export(two, lambda news: flag.set() if isinstance(news, Trial) else None, flag)
    lines = Ledger(ledger_path(two.out, "option_scalper")).read().lines
    assert [(line.kind, line.note.rpartition(", ")[2]) for line in lines[1:]] == [("trial", "seed 1")]


def test_two_processes_train_one_network_the_same_way_every_time(
    small: Settings, ready: Prepared, tmp_path: Path
) -> None:
    team = replace(small, processes=2, steps=4 * UPDATE)
    request = requests_of(team)[0]

    def train(name: str, stop: StopAfter | None = None) -> None:
        flag: Flag = stop or threading.Event()
        prepared = replace(ready, settings=team, folder=tmp_path / name)

        def first(found: Team) -> Trial:
            return train_one(prepared, request, flag, stop or quiet, found)

        sha256 = ready.data.info.sha256
        further = functools.partial(prepare_same, (team, tmp_path / name, ready.version), sha256)
        together(2, first, another, further, request)

    with pytest.raises(Stopped):
        train("stopped", StopAfter(2))
    train("stopped")
    train("whole")
    assert same(weights(tmp_path / "stopped"), weights(tmp_path / "whole"))


def test_a_loss_that_is_not_finite_stops_the_run_keeps_the_checkpoint_and_names_the_step(
    small: Settings, tmp_path: Path, trained: Train
) -> None:
    with pytest.raises(Stopped):
        trained(small, stop=StopAfter(2))
    checkpoint = tmp_path / "run" / TRIAL / "checkpoint.pt"
    poisoned = torch.load(checkpoint, weights_only=True)
    poisoned["team"][0]["network"]["policy.trunk.0.weight"][0, 0] = float("nan")
    torch.save(poisoned, checkpoint)
    kept = checkpoint.read_bytes()
    found = "fold1-potential-seed2 stopped after step 512: the .* of minibatch 0 in update 2 is nan.* is at step 512"
    with pytest.raises(Diverged, match=found):
        trained(replace(small, checkpoint_s=0.0))
    assert checkpoint.read_bytes() == kept


def test_a_disk_that_is_full_at_a_checkpoint_leaves_the_one_before_it(
    whole: Outcome, small: Settings, tmp_path: Path, trained: Train
) -> None:
    with pytest.raises(Stopped):
        trained(small, stop=StopAfter(2))
    folder = tmp_path / "run" / TRIAL
    kept = (folder / "checkpoint.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) // 2, limits[1]))  # a file can grow no further
    try:
        with pytest.raises(OSError, match="File too large"):
            trained(replace(small, checkpoint_s=0.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (folder / "checkpoint.pt").read_bytes() == kept
    assert not list(folder.glob(".*.part"))
    trained(small)
    assert same(weights(tmp_path / "run"), weights(whole.run_folder))


def test_what_other_code_made_is_made_again_and_that_is_said(small: Settings, ready: Prepared, tmp_path: Path) -> None:
    one = replace(small, steps=UPDATE)
    for version, expected in (("old", 0), ("new", 1), ("new", 0)):
        heard: list[object] = []
        prepared = replace(ready, settings=one, folder=tmp_path, version=version)
        train_one(prepared, requests_of(one)[0], threading.Event(), heard.append)
        assert sum("begins anew: what is there was made by other code" in str(news) for news in heard) == expected
    assert not [news for news in heard if isinstance(news, News)]  # read again, not trained again


def test_bars_that_change_while_a_run_is_at_work_end_it(small: Settings, ready: Prepared, tmp_path: Path) -> None:
    changed = write_csv(tmp_path / "walk.csv", synthetic_sessions(4, sessions(27)))
    with pytest.raises(RunFolderError, match=r"walk.csv changed while the run was at work: its SHA-256 is"):
        prepare_same((replace(small, bars=changed), tmp_path, "code"), ready.data.info.sha256)


def test_the_folder_of_another_run_is_refused_by_what_differs(whole: Outcome, small: Settings) -> None:
    kept = (whole.run_folder / "run.json").read_bytes()
    with pytest.raises(RunFolderError, match=r"belongs to a run with seeds = \[2\], this one has \[5\]"):
        train_and_export(replace(small, seeds=(5,)), quiet)
    assert (whole.run_folder / "run.json").read_bytes() == kept


def test_a_run_has_its_folder_alone(whole: Outcome, small: Settings) -> None:
    with (
        held(whole.run_folder),
        pytest.raises(RunFolderError, match=r"another process is at work in .* wait until it has ended"),
    ):
        train_and_export(replace(small, restart=True), quiet)
    assert (whole.run_folder / TRIAL / "best.pt").exists()


def test_a_restart_removes_what_the_old_run_wrote(tmp_path: Path) -> None:
    open_run(tmp_path, {"seeds": [2]}, {"code": "a"})
    (tmp_path / "trials" / "fold1").mkdir(parents=True)
    (tmp_path / "report.html").touch()
    open_run(tmp_path, {"seeds": [5]}, {"code": "b"}, restart=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert json.loads((tmp_path / "run.json").read_bytes()) == {"seeds": [5], "made_with": {"code": "b"}}


@pytest.mark.parametrize("files", [("run.json", "thesis.tex"), ("thesis.tex",)])
def test_a_restart_removes_nothing_where_something_is_no_run_s(tmp_path: Path, files: tuple[str, ...]) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(RunFolderError, match=r"thesis\.tex in it is no run's|holds files but no run\.json"):
        open_run(tmp_path, {"seeds": [5]}, {"code": "b"}, restart=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


def test_code_that_only_other_strategies_are_trained_by_throws_no_trial_away(tmp_path: Path) -> None:
    for name, content in (
        ("tasks", "from room.kinds import kind"),
        ("kinds", "def kind():\n    import room.one\n    import room.other"),
        ("one", "from room import shared"),
        ("other", "from room import shared, theirs"),
        ("shared", ""),
        ("theirs", ""),
    ):
        (tmp_path / "room").mkdir(exist_ok=True)
        (tmp_path / "room" / f"{name}.py").write_text(content)
    start = tmp_path / "room" / "tasks.py"
    found = _reached(tmp_path, start, {tmp_path / "room" / "other.py"})
    assert {path.stem for path in found} == {"tasks", "kinds", "one", "shared"}
    assert len(_reached(tmp_path, start)) == 6
    assert len({code_version("option_scalper"), code_version("daily_rebalancer"), code_version()}) == 3


@pytest.mark.parametrize("content", ["", "[1]", "{", "7"])
def test_a_damaged_run_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunFolderError, match=r"run\.json is damaged .*use another --run-dir, or --restart"):
        open_run(tmp_path, {"seeds": [5]}, {"code": "b"})


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
