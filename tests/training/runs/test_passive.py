"""What is exported: the passive policy, the mean of the seeds, or the seed and setting that validation chooses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from daemon.models.store import is_passive, proof_words
from strategies.kit.manifest import decode
from strategies.option_scalper import HOLD, SPEC
from tests.support.training.small_runs import UPDATE, quiet, weights
from training.cli.main import main
from training.cli.train import parser, settings_from
from training.desks.registry import kind
from training.desks.scalper.kind import KIND
from training.export.export import run_onnx
from training.report.find import find
from training.rl.dimensions import with_values
from training.runs.ledger import Ledger, ledger_path
from training.runs.run import train_and_export
from training.runs.settings import Settings, choose, headline_of, settings_for
from training.study.study import PlayResult, SessionResult, Study, Trial

NOT_OF_IT = "No figure below is of it"


def test_without_a_proven_lead_the_passive_policy_is_exported_and_the_first_sentence_says_so(
    small: Settings, tmp_path: Path
) -> None:
    settings = replace(small, out=tmp_path / "store", run_folder=tmp_path / "run", allow_unproven=False)
    result = train_and_export(settings, quiet)
    manifest = decode((result.version / "manifest.json").read_bytes())
    assert manifest.note.startswith(
        "The exported policy is the passive one, which holds nothing, and claims nothing: for what was learned no "
    )
    assert json.loads((result.version / "report.json").read_bytes())["verdict"] == manifest.note
    page = (result.version / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert NOT_OF_IT in page
    assert f"rltraderctl models activate {result.version.name} --strategy option_scalper" in page
    assert "those of the passive policy, of which no figure here is" in page
    assert re.search(
        r"The exported policy on the \d+ test sessions? of the last fold: 0.00 % after costs, .* 0 trades\.", page
    )
    observations = np.random.default_rng(1).normal(size=(50, *SPEC.observation_shape)).astype(np.float32)
    answers = run_onnx(result.version / "policy.onnx", observations)
    assert set(answers.argmax(axis=1).tolist()) == {HOLD}
    assert np.ptp(answers, axis=0).max() == 0.0
    study = msgspec.json.decode((tmp_path / "run" / "study.json").read_bytes(), type=Study)
    assert find(study).verdict == manifest.note  # the report can be made again
    assert result.passive
    assert result.version.name == f"{manifest.training.last_session}-passive-{manifest.policy_sha256[:8]}"
    assert is_passive(manifest)
    assert manifest.metrics["test"]["trades"] == 0  # of what is exported, not of what was learned
    assert manifest.metrics["learned"]["test"]["trades"] == result.findings.policy.figures.trades

    unproven = train_and_export(replace(settings, allow_unproven=True), quiet)  # the same run: nothing is trained again
    assert decode((unproven.version / "manifest.json").read_bytes()).note.startswith(
        "Exported although no lead over the best baseline is proven. "
    )
    assert np.ptp(run_onnx(unproven.version / "policy.onnx", observations), axis=0).max() > 0.0
    assert not unproven.passive
    (fold,) = unproven.findings.folds  # one seed, next to the passive policy, which earns nothing
    assert fold.over_passive is not None
    assert fold.over_passive.estimate == pytest.approx(fold.validate_return)
    manifest = decode((unproven.version / "manifest.json").read_bytes())
    assert not is_passive(manifest)
    assert NOT_OF_IT not in (unproven.version / "report.html").read_text()
    assert proof_words(manifest) == "it was learned, and no lead over the best baseline is proven"


def test_a_preset_begins_at_the_passive_policy(small: Settings, tmp_path: Path) -> None:
    passive = settings_for("option_scalper", small.bars, small.out, preset="passive")
    assert passive.preset == "passive"
    assert passive.command().endswith("--preset passive")
    near_passive = replace(
        small, begins=passive.begins, run_folder=tmp_path / "run", out=tmp_path / "store", steps=1,
        plan=with_values(small.plan, {"learning_rate": 1e-9}),
    )  # fmt: skip
    train_and_export(near_passive, quiet)
    bias = weights(tmp_path / "run")["policy.actor.2.bias"]
    assert bias.tolist() == pytest.approx([3.0 if action == HOLD else 0.0 for action in range(6)], abs=1e-6)
    passive_policy = kind("option_scalper").passive
    assert passive_policy is not None
    assert passive_policy.words == "holds nothing"


def _trial(fold: int, reward: str, seed: int, earned: float) -> Trial:
    session = SessionResult("2024-01-02", earned, 1, 1, 0.0, 0.0, 1, 1)
    return Trial(
        fold=fold, seed=seed, reward=reward, steps=1, seconds=0.0, chosen_steps=1, stopped="", curve=(),
        validate=(session,), test=PlayResult(()), lead=earned,
    )  # fmt: skip


def test_the_middle_half_chooses_the_setting_and_a_typical_seed_and_best_the_luckiest() -> None:
    # one seed of the first setting was lucky; the middle of the second is better
    earned = {"potential": (1.0, 2.0, 3.0, 99.0), "reference": (3.0, 4.0, 6.0, 7.0)}
    trials = [
        _trial(0, reward, seed, value) for reward, values in earned.items() for seed, value in enumerate(values, 1)
    ]
    settings = Settings(
        "option_scalper", Path("b.csv"), Path("s"), seeds=(1, 2, 3, 4), rewards=("potential", "reference")
    )
    assert headline_of(trials, settings) == "reference"  # (4 + 6) / 2 against (2 + 3) / 2
    assert [trials[i].seed for i in choose(trials, settings, "reference")] == [2]  # 4 is as near to 5 as 6: the first
    best = replace(settings, select="best")
    assert headline_of(trials, best) == "potential"
    assert [trials[i].seed for i in choose(trials, best, "potential")] == [4]


def test_several_seeds_are_exported_as_their_mean_which_the_test_sessions_tested(
    small: Settings, tmp_path: Path
) -> None:
    settings = replace(small, seeds=(1, 2), steps=2 * UPDATE, out=tmp_path / "store", run_folder=tmp_path / "run")
    result = train_and_export(settings, quiet)
    observations = np.random.default_rng(1).normal(size=(50, *SPEC.observation_shape)).astype(np.float32)
    policies = [
        KIND.policy("mlp", seed, weights(tmp_path / "run", f"trials/fold1-potential-seed{seed}")) for seed in (1, 2)
    ]

    with torch.no_grad():
        one, other = (policy(torch.from_numpy(observations)).numpy() for policy in policies)
    logits = run_onnx(result.version / "policy.onnx", observations)
    assert np.abs(logits - (one + other) / 2).max() < 1e-5
    assert np.abs(one - other).max() > 1e-3
    manifest = decode((result.version / "manifest.json").read_bytes())
    assert manifest.members == 2
    study = msgspec.json.decode((tmp_path / "run/study.json").read_bytes(), type=Study)
    (mean,) = study.ensembles
    assert study.headline == (mean,)
    assert mean.members == result.findings.members == 2
    assert result.findings.policy.figures.trades == sum(session.trades for session in mean.test.sessions)
    assert tuple(session.date for session in mean.validate) == study.folds[0].validate
    assert result.findings.learnt == mean.learnt
    assert mean.learnt is not None
    assert mean.learnt.kl is not None
    assert mean.learnt.kl > 0.0
    assert any("the mean of 2 seeds" in sentence for sentence in result.findings.abstract)
    assert tuple(session.date for session in mean.passive) == study.folds[0].validate
    assert all(session.pnl_usd == 0.0 for session in mean.passive)  # the passive scalper stays flat
    (fold,) = result.findings.folds
    assert fold.over_passive is not None
    assert fold.over_passive.estimate == pytest.approx(fold.validate_return)
    assert fold.agreement == mean.agreement is not None
    notes = [
        line.note for line in Ledger(ledger_path(settings.out, settings.strategy)).read().lines if line.kind == "trial"
    ]
    assert notes == ["fold 1, potential, seed 1", "fold 1, potential, seed 2", "fold 1, potential, mean of 2 seeds"]

    messages: list[object] = []  # what is made of finished trials may change: nothing is trained again
    single = train_and_export(replace(settings, ensemble="none"), messages.append)
    assert decode((single.version / "manifest.json").read_bytes()).members == 1
    assert len([news for news in messages if isinstance(news, Trial)]) == 2
    assert not [news for news in messages if type(news).__name__ == "News"]
    answer = run_onnx(single.version / "policy.onnx", observations)
    assert min(np.abs(answer - one).max(), np.abs(answer - other).max()) < 1e-5


def test_a_dead_seed_is_trained_tested_and_named_and_not_in_the_mean(small: Settings, tmp_path: Path) -> None:
    settings = replace(small, seeds=(1, 2, 3), out=tmp_path / "store", run_folder=tmp_path / "run")
    train_and_export(replace(settings, ensemble="none"), quiet)
    for seed, variation in ((1, 0.5), (2, 0.0), (3, 0.5)):  # as if the second answered the same whatever it sees
        path = tmp_path / f"run/trials/fold1-potential-seed{seed}/trial.json"
        record = json.loads(path.read_bytes())
        record["trial"]["learnt"] |= {"variation": variation, "explained_variance": 0.5}
        path.write_text(json.dumps(record))
    result = train_and_export(settings, quiet)
    assert result.findings.seeds == 3
    assert result.findings.members == 2
    observations = np.random.default_rng(1).normal(size=(50, *SPEC.observation_shape)).astype(np.float32)
    living = [
        KIND.policy("mlp", seed, weights(tmp_path / "run", f"trials/fold1-potential-seed{seed}")) for seed in (1, 3)
    ]
    with torch.no_grad():
        one, other = (policy(torch.from_numpy(observations)).numpy() for policy in living)
    assert np.abs(run_onnx(result.version / "policy.onnx", observations) - (one + other) / 2).max() < 1e-5
    manifest = decode((result.version / "manifest.json").read_bytes())
    assert manifest.members == 2
    assert list(manifest.metrics["dead"]) == ["seed 2"]
    assert any("Dead: fold 1 seed 2, without weight" in sentence for sentence in result.findings.abstract)
    page = (result.version / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "the mean of the answers of the 2 living ones of 3 seeds" in page


def test_one_seed_and_a_procedure_of_its_own_have_no_mean(capsys: pytest.CaptureFixture[str]) -> None:
    def settings_of(*options: str) -> Settings:
        return settings_from(parser().parse_args(["--bars", "b.csv", *options]))

    assert not settings_of("--strategy", "option_scalper").averages
    assert settings_of("--strategy", "option_scalper", "--seeds", "2").averages
    assert not settings_of("--strategy", "online_dqn", "--seeds", "2").averages
    settings = settings_of("--strategy", "regime_switcher", "--seeds", "2", "--ensemble", "none")
    assert not settings.averages
    assert settings.command().endswith("--seeds 2 --ensemble none")
    with pytest.raises(SystemExit):
        main(["--strategy", "online_dqn", "--bars", "b.csv", "--ensemble", "seeds"])
    assert "--ensemble is not for online_dqn" in capsys.readouterr().err
