"""Runs on small made-up files: what they write, that they repeat themselves, go on after any stop, begin at a version.

What a trial does is shown by trials alone (`trained`); whole runs, with comparison, report and export, are few.
"""

from __future__ import annotations

import json
import resource
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from daemon.core.strategy_rules import rules_digest, trading_for
from strategies.kit.manifest import decode
from strategies.kit.synthetic import synthetic_sessions
from strategies.registry import strategy
from tests.support.training.made_up import sessions, write_csv
from tests.support.training.small_runs import TRIAL, UPDATE, StopAfter, Train, quiet, same, timeless, weights
from training.cli.main import main
from training.desks.trial import Diverged, News
from training.evaluate.players import choosing
from training.export.shelf import Version, VersionError, read_version
from training.export.weights import WEIGHTS_FILE, read_weights
from training.rl.pool import Stopped
from training.runs.folder import RunFolderError, code_version, folder_lock
from training.runs.ledger import Ledger, ledger_path
from training.runs.prepared import Prepared, prepare, prepare_same
from training.runs.record import Outcome
from training.runs.run import Run, train_and_export
from training.runs.settings import NONE, SEEDS, Settings, requests_of
from training.runs.tasks import Relay, relay_one, train_one
from training.study.progress import PhaseProgress
from training.study.study import Study, Trial

SCALPER = strategy("option_scalper")


def test_a_run_writes_a_version_with_its_report_and_says_how_far_it_is(
    whole: Outcome, small: Settings, messages: list[object]
) -> None:
    assert sorted(path.name for path in whole.version.iterdir()) == [
        "manifest.json", "policy.onnx", "report.html", "report.json", "weights.pt",
    ]  # fmt: skip
    manifest = decode((whole.version / "manifest.json").read_bytes())
    assert manifest.training.splits == {
        "train": ("2024-06-20", "2024-06-24"),
        "validate": ("2024-06-25", "2024-06-25"),
        "test": ("2024-06-26", "2024-06-27"),
    }
    assert manifest.rules == {"digest": rules_digest(trading_for("option_scalper"))}
    assert (manifest.training.file, manifest.hyperparameters["seed"], manifest.promoted) == ("walk.csv", 2, False)
    findings = json.loads((whole.version / "report.json").read_bytes())
    assert findings["verdict"] == manifest.note == whole.findings.verdict
    assert findings["policy_sha256"] == manifest.policy_sha256
    assert [news.steps for news in messages if isinstance(news, News)] == [UPDATE * n for n in range(1, 7)]
    phases = [part.phase for part in messages if isinstance(part, PhaseProgress) and part.ended]
    assert phases[0] == "reading walk.csv"
    assert phases[-1] == "export to ONNX, read back and compared"
    assert {"test sessions", "always flat", "random traders, all", "costs x 3", "intervals by bootstrap"} <= {*phases}
    counts = [
        part for part in messages if isinstance(part, PhaseProgress) and part.phase == "simple rule" and part.total
    ]
    assert [(part.done, part.total) for part in counts] == [(0, 2), (1, 2), (2, 2)]  # the test has two sessions
    one = whole.findings.account
    assert one is not None
    assert any(words.startswith("One account through all tests: 10,000 USD became ") for words in findings["abstract"])
    assert one.end_usd == pytest.approx(10_000.0 * (1.0 + one.net_return), abs=0.01)
    assert (whole.run_folder / "trials/one-account/checkpoint.pt").exists()  # read again when the run goes on
    for name in ("run.json", "study.json", "report.html", f"{TRIAL}/metrics.jsonl"):
        assert (whole.run_folder / name).exists(), name
    assert list((whole.run_folder / TRIAL / "tensorboard").glob("events.out.tfevents.*"))
    assert [line.kind for line in Ledger(ledger_path(small.out, "option_scalper")).read().lines] == ["opening", "trial"]
    assert whole.findings.counted_trials == 1


def test_the_one_account_is_read_again_when_the_run_goes_on(whole: Outcome, small: Settings) -> None:
    study = msgspec.json.decode((whole.run_folder / "study.json").read_bytes(), type=Study)
    prepared = prepare((small, whole.run_folder, code_version("option_scalper")))
    nobody = Relay((), study.reward)  # without a policy nothing can be played
    assert relay_one(prepared, nobody, threading.Event(), quiet) == study.one_account is not None


def test_the_one_account_of_another_ensemble_is_played_anew(small: Settings, tmp_path: Path) -> None:
    """The mean of the seeds bought; the chosen seed holds, in the folder of the same run."""
    settings, trades = replace(small, seeds=(2, 3)), []
    prepared = prepare((settings, tmp_path / "run", code_version("option_scalper")))
    for ensemble, action in ((SEEDS, "BUY_CALL"), (NONE, "HOLD")):
        player: Any = choosing(SCALPER.spec.actions.index(action), len(SCALPER.spec.actions))
        request = replace(prepared, settings=replace(settings, ensemble=ensemble))
        account = relay_one(request, Relay((player,), "potential"), threading.Event(), quiet)
        trades.append(sum(session.trades for part in account.folds for session in part.sessions))
    assert trades[0] > trades[1] == 0


def test_a_run_says_first_what_of_its_file_counts_for_nothing(small: Settings, tmp_path: Path) -> None:
    head, *rows = small.bars.read_text().splitlines()
    for place in range(0, len(rows), 50):
        rows[place] = rows[place].rpartition(",")[0] + ",-1"  # the volume
    bars = tmp_path / "walk.csv"
    bars.write_text("\n".join([head, *rows]) + "\n")
    messages: list[object] = []
    Run(replace(small, bars=bars, run_folder=tmp_path / "run"), messages.append, threading.Event())
    words = [one for one in messages if isinstance(one, str)]
    assert words[0].startswith(f"walk.csv: {len(range(0, len(rows), 50)):,} of {len(rows):,} bars were rejected, ")


def test_the_same_seed_gives_the_same_policy_and_another_seed_another(
    whole: Outcome, small: Settings, tmp_path: Path, train_trial: Train
) -> None:
    again = train_and_export(replace(small, out=tmp_path / "store", run_folder=tmp_path / "again"), quiet)
    assert (again.version / "policy.onnx").read_bytes() == (whole.version / "policy.onnx").read_bytes()
    train_trial(replace(small, seeds=(3,)))
    assert not same(weights(whole.run_folder), weights(tmp_path / "run", "trials/fold1-potential-seed3"))


def test_a_trial_stopped_after_every_update_is_that_of_an_undisturbed_run(
    whole: Outcome, small: Settings, tmp_path: Path, train_trial: Train
) -> None:
    for _ in range(5):
        with pytest.raises(Stopped):
            train_trial(small, stop=StopAfter(1))
    trial = train_trial(small)
    assert same(weights(tmp_path / "run"), weights(whole.run_folder))
    metrics = f"{TRIAL}/metrics.jsonl"
    assert (tmp_path / "run" / metrics).read_text() == (whole.run_folder / metrics).read_text()
    study = msgspec.json.decode((whole.run_folder / "study.json").read_bytes(), type=Study)
    assert timeless(trial) == timeless(study.trials[0])


def test_a_trial_that_finds_nothing_better_stops_early_wherever_it_was_stopped_before(
    small: Settings, tmp_path: Path, train_trial: Train
) -> None:
    patient = replace(small, patience=1, steps=40 * UPDATE)
    straight = train_trial(patient, "straight")
    assert straight.stopped == "no better validation in 1 looks"
    assert straight.steps < 40 * UPDATE
    returns = [point.validate_return for point in straight.curve]
    assert returns[-1] <= max(returns[:-1])
    for _ in range(straight.steps // UPDATE):  # the last stop is asked for after the last update
        with pytest.raises(Stopped):
            train_trial(patient, stop=StopAfter(1))
    assert timeless(train_trial(patient)) == timeless(straight)
    assert same(weights(tmp_path / "run"), weights(tmp_path / "straight"))


def test_a_trial_that_has_seen_the_test_sessions_is_on_record_though_the_run_is_stopped(
    small: Settings, tmp_path: Path
) -> None:
    two = replace(small, seeds=(1, 2), steps=UPDATE, out=tmp_path / "store", run_folder=tmp_path / "run")
    flag = threading.Event()
    with pytest.raises(Stopped):
        train_and_export(two, lambda news: flag.set() if isinstance(news, Trial) else None, flag)
    lines = Ledger(ledger_path(two.out, "option_scalper")).read().lines
    assert [(line.kind, line.note.rpartition(", ")[2]) for line in lines[1:]] == [("trial", "seed 1")]


def test_a_loss_that_is_not_finite_stops_the_run_keeps_the_checkpoint_and_names_the_step(
    small: Settings, tmp_path: Path, train_trial: Train
) -> None:
    with pytest.raises(Stopped):
        train_trial(small, stop=StopAfter(2))
    checkpoint = tmp_path / "run" / TRIAL / "checkpoint.pt"
    poisoned = torch.load(checkpoint, weights_only=True)
    poisoned["team"][0]["network"]["policy.trunk.0.weight"][0, 0] = float("nan")
    torch.save(poisoned, checkpoint)
    data = checkpoint.read_bytes()
    message = "fold1-potential-seed2 stopped after step 512: the .* of minibatch 0 in update 2 is nan.* is at step 512"
    with pytest.raises(Diverged, match=message):
        train_trial(replace(small, checkpoint_s=0.0))
    assert checkpoint.read_bytes() == data


def test_a_disk_that_is_full_at_a_checkpoint_leaves_the_one_before_it(
    whole: Outcome, small: Settings, tmp_path: Path, train_trial: Train
) -> None:
    with pytest.raises(Stopped):
        train_trial(small, stop=StopAfter(2))
    folder = tmp_path / "run" / TRIAL
    data = (folder / "checkpoint.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(data) // 2, limits[1]))  # a file can grow no further
    try:
        with pytest.raises(OSError, match="File too large"):
            train_trial(replace(small, checkpoint_s=0.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (folder / "checkpoint.pt").read_bytes() == data
    assert not list(folder.glob(".*.part"))
    train_trial(small)
    assert same(weights(tmp_path / "run"), weights(whole.run_folder))


def test_what_other_code_made_is_made_again_and_that_is_said(small: Settings, ready: Prepared, tmp_path: Path) -> None:
    one = replace(small, steps=UPDATE)
    for version, expected in (("old", 0), ("new", 1), ("new", 0)):
        messages: list[object] = []
        prepared = replace(ready, settings=one, folder=tmp_path, version=version)
        train_one(prepared, requests_of(one)[0], threading.Event(), messages.append)
        assert sum("begins anew: what is there was made by other code" in str(news) for news in messages) == expected
    assert not [news for news in messages if isinstance(news, News)]  # read again, not trained again


def test_bars_that_change_while_a_run_is_at_work_end_it(small: Settings, ready: Prepared, tmp_path: Path) -> None:
    other_bars = write_csv(tmp_path / "walk.csv", synthetic_sessions(4, sessions(27)))
    with pytest.raises(RunFolderError, match=r"walk.csv changed while the run was at work: its SHA-256 is"):
        prepare_same((replace(small, bars=other_bars), tmp_path, "code"), ready.data.info.sha256)


def test_the_folder_of_another_run_is_refused_by_what_differs(whole: Outcome, small: Settings) -> None:
    data = (whole.run_folder / "run.json").read_bytes()
    with pytest.raises(RunFolderError, match=r"belongs to a run with seeds = \[2\], this one has \[5\]"):
        train_and_export(replace(small, seeds=(5,)), quiet)
    assert (whole.run_folder / "run.json").read_bytes() == data


def test_a_run_has_its_folder_alone(whole: Outcome, small: Settings) -> None:
    with (
        folder_lock(whole.run_folder),
        pytest.raises(RunFolderError, match=r"another process is at work in .* wait until it has ended"),
    ):
        train_and_export(replace(small, restart=True), quiet)
    assert (whole.run_folder / TRIAL / "best.pt").exists()


@pytest.fixture(scope="module")
def version(whole: Outcome, small: Settings) -> Version:
    """A version that was learned until 2024-06-25."""
    return read_version(small.out, small.strategy, whole.version.name)


def test_a_trial_begins_at_the_weights_of_a_version_its_critic_too(
    version: Version, whole: Outcome, small: Settings, tmp_path: Path
) -> None:
    later = write_csv(tmp_path / "later.csv", synthetic_sessions(4, sessions(60)))
    settings = replace(small, bars=later, warm_start=version.manifest.version, seeds=(5, 6))
    prepared = prepare((settings, tmp_path, "code"))
    state = weights(whole.run_folder)
    assert any(name.startswith("critic.") for name in state)
    for request in requests_of(settings):  # two seeds, one member
        begin, train = prepared.begin(request), prepared.folds[0].train
        network = prepared.kind.procedure.learner(prepared.data, "mlp", request.seed, train)
        subject: Any = network
        assert not same(subject.state_dict(), state)
        assert begin is not None
        begin(network)
        assert same(subject.state_dict(), state)
    task, fold = prepared.task(requests_of(settings)[0]), prepared.folds[0]
    start = prepared.kind.procedure.start(task, fold, torch.nn.Identity(), {})  # what is learned is measured from it
    assert start is not None
    of_policy = {name.removeprefix("policy."): value for name, value in state.items() if name.startswith("policy.")}
    assert same(start.policy.state_dict(), of_policy)
    identity = settings.identity("0" * 64)
    assert identity["warm_start"] == version.manifest.version
    assert "warm_start" not in small.identity("0" * 64)
    assert f"--warm-start {version.manifest.version}" in settings.command()


def test_a_version_that_has_seen_the_validation_is_refused(version: Version, small: Settings, tmp_path: Path) -> None:
    with pytest.raises(VersionError, match="up to 2024-06-25, and this run validates from 2024-06-25"):
        prepare((replace(small, warm_start=version.manifest.version), tmp_path, "code"))


def test_another_contract_another_network_and_a_version_without_weights_are_refused_by_name(
    version: Version, tmp_path: Path
) -> None:
    with pytest.raises(VersionError, match="is of the network mlp, this run trains lstm"):
        read_weights(version, SCALPER, "lstm")
    other = replace(version, manifest=msgspec.structs.replace(version.manifest, contract_hash="f" * 64))
    with pytest.raises(VersionError, match="has the contract ffffffffffff, option_scalper has"):
        read_weights(other, SCALPER, "mlp")
    with pytest.raises(VersionError, match="keeps no weights to begin at"):
        read_weights(read_version(Path("onnx_models"), "option_scalper"), SCALPER, "mlp")
    (tmp_path / WEIGHTS_FILE).write_bytes((version.folder / WEIGHTS_FILE).read_bytes() + b"0")
    with pytest.raises(VersionError, match="restore the version's folder"):
        read_weights(replace(version, folder=tmp_path), SCALPER, "mlp")


def test_the_command_refuses_it_for_a_strategy_with_a_procedure_of_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--strategy", "online_dqn", "--bars", "bars.csv", "--warm-start", "current"]
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    assert "--warm-start is not for online_dqn" in capsys.readouterr().err


def test_sinks_receive_what_the_trial_s_metrics_have(
    whole: Outcome, small: Settings, train_trial: Any, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "import json\n"
        "from training.sinks.sink import Sink\n"
        "class Book(Sink):\n"
        "    def __init__(self, started):\n"
        "        self.started, self.lines = started, []\n"
        "    def on_update(self, update, figures):\n"
        "        self.lines.append([update, figures])\n"
        "    def on_look(self, update, figures):\n"
        "        self.lines[-1][1].update(figures)\n"
        "    def close(self):\n"
        "        found = {'trial': self.started.trial, 'seeds': self.started.settings['seeds'], 'lines': self.lines}\n"
        "        (self.started.folder / 'book.json').write_text(json.dumps(found))\n"
    )
    train_trial(replace(small, sinks=(f"{tmp_path / 'mine.py'}:Book",)))
    folder = tmp_path / "run" / "trials" / "fold1-potential-seed2"
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert json.loads((folder / "book.json").read_text()) == {
        "trial": "fold1-potential-seed2",
        "seeds": [2],
        "lines": [[number, line] for number, line in enumerate(metrics, start=1)],
    }
    assert same(weights(tmp_path / "run"), weights(whole.run_folder))
