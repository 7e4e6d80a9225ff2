"""A run under a risk overlay states a risk and claims what it was asked for, in manifest and report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.library.run_files import STUDY_FILE
from strategies import regime_switcher
from strategies.kit.manifest import RISK, decode
from tests.support.training.made_up_days import days, write_days
from training.cli.main import main
from training.report.find import find
from training.rl.coefficients import Coefficients
from training.runs.ledger import RISK_CLAIM, Ledger, ledger_path
from training.runs.run import train_and_export
from training.runs.settings import Settings, settings_for
from training.study.study import decode as study_of

SMALL = Coefficients(environments=8, rollout_steps=16, batch=64, epochs=1, sequence=8)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("claims")
    config = home / "config.toml"
    config.write_text('[desk]\nstrategy = "regime_switcher"\n\n[basket]\nvolatility_target = 0.1\n')
    bars = write_days(home / "bars.csv", regime_switcher.SYMBOLS, days("2020-01-02", "2022-06-30", 252 + 20))
    usual = settings_for("regime_switcher", bars, home / "store")
    return replace(usual, plan=SMALL, steps=128, processes=1, config=config, run_folder=home / "run")


def test_a_run_claims_its_stated_risk_as_unproven_where_the_tests_are_short(settings: Settings) -> None:
    with_claim = replace(settings, claim=RISK, claim_drawdown=0.2)
    outcome = train_and_export(with_claim, lambda _: None)
    manifest = decode((outcome.version / "manifest.json").read_bytes())
    claim = manifest.claim
    assert outcome.passive
    assert claim is not None
    assert (claim.kind, claim.proven, claim.volatility_target, claim.drawdown_max) == (RISK, False, 0.1, 0.2)
    assert manifest.note.startswith(claim.sentence)
    report = json.loads((outcome.version / "report.json").read_bytes())
    assert report["verdict"] == manifest.note
    assert report["claim"]["sentence"] == claim.sentence
    assert with_claim.run_folder is not None
    study = study_of((with_claim.run_folder / STUDY_FILE).read_bytes())
    assert study.risk is not None
    with_overlay, without = (
        sum(session.held_min for part in folds for session in part.sessions)
        for folds in (study.risk.policy, study.risk.passive)
    )
    assert with_overlay < without  # the cap holds, or nothing was compared
    again = find(study)  # the report can be made again
    assert again.claim == claim
    assert again.verdict == manifest.note


def test_without_a_proven_claim_the_passive_policy_claims_nothing(settings: Settings) -> None:
    outcome = train_and_export(settings, lambda _: None)
    manifest = decode((outcome.version / "manifest.json").read_bytes())
    assert manifest.claim is None
    assert manifest.note.startswith("The exported policy is the passive one, which takes EQUAL_WEIGHT every day, and ")
    assert ", and claims nothing: for what was learned" in manifest.note
    assert "A risk was stated; the tests say nothing of it, so none is claimed." in manifest.note


def test_each_statement_is_in_the_ledger_once_and_counts_for_others(settings: Settings) -> None:
    ledger = Ledger(ledger_path(settings.out, settings.strategy))
    statements = [line for line in ledger.read().lines if line.note.startswith(RISK_CLAIM)]
    notes = [line.note.removeprefix(RISK_CLAIM).strip() for line in statements]
    assert notes == ["volatility 0.1, drawdown 0.2", "volatility 0.1, drawdown 0.25"]
    dates = [statements[0].first]
    assert ledger.claims(dates, own_lines=statements) == 0
    assert ledger.claims(dates, own_lines=statements[:1]) == 1
    assert ledger.claims(["2030-01-04"]) == 0


def test_the_passive_policy_alone_is_tested_and_claims_without_a_training(settings: Settings, tmp_path: Path) -> None:
    other_outcome = train_and_export(
        replace(settings, out=tmp_path / "trained", run_folder=tmp_path / "a"), lambda _: None
    )
    alone = replace(settings, passive=True, claim=RISK, out=tmp_path / "alone", run_folder=tmp_path / "b")
    outcome = train_and_export(alone, lambda _: None)
    manifest, other = (decode((one.version / "manifest.json").read_bytes()) for one in (outcome, other_outcome))
    assert manifest.golden == other.golden  # the same policy
    assert manifest.metrics == {name: figure for name, figure in other.metrics.items() if name != "learned"}
    assert manifest.claim is not None
    assert manifest.desk == {"basket.volatility_target": "0.1"}
    assert manifest.note.startswith(manifest.claim.sentence)
    assert "which takes EQUAL_WEIGHT every day: nothing was trained. " in manifest.note
    page = (outcome.version / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "a passive policy for regime_switcher that nothing trained" in page
    assert "learned policy" not in page
    assert " --config config.toml --passive --claim risk " in manifest.hyperparameters["command"]


@pytest.mark.parametrize("options", [["--seeds", "3"], ["--steps", "64"], ["--allow-unproven"], ["--refit"]])
def test_what_is_about_a_training_is_refused_beside_it(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    arguments = ["--strategy", "regime_switcher", "--bars", str(settings.bars), "--models-dir", str(tmp_path)]
    with pytest.raises(SystemExit) as exit_info:
        main([*arguments, "--passive", *options])
    assert exit_info.value.code == 2
    assert f"--passive trains nothing: leave {options[0]} out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--claim", "risk"], "basket.volatility_target above 0, found 0"),
        (["--claim-drawdown", "0.2"], "no risk is stated"),
    ],
)
def test_a_risk_without_an_overlay_is_refused_with_key_value_and_cure(
    settings: Settings, capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], words: str
) -> None:
    arguments = ["--strategy", "regime_switcher", "--bars", str(settings.bars), "--models-dir", str(tmp_path), *options]
    assert main([*arguments, "--run-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "--config" in error


def test_a_drawdown_that_is_no_fraction_is_refused(settings: Settings, tmp_path: Path) -> None:
    arguments = ["--strategy", "regime_switcher", "--bars", str(settings.bars), "--models-dir", str(tmp_path)]
    with pytest.raises(SystemExit) as exit_info:
        main([*arguments, "--claim-drawdown", "25"])
    assert exit_info.value.code == 2
