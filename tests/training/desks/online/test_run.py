"""A whole run of `online_dqn` on made-up bars: trial, players, report, one graph; stopped, it ends in the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from daemon.library.run_files import REPORT_FILE, STUDY_FILE
from daemon.models.runtime import OnnxPolicy
from daemon.models.store import load
from strategies.golden import contract_hash
from strategies.kit.manifest import MANIFEST_FILE, Manifest, decode
from strategies.registry import strategy
from tests.support.training.online_bars import first_sessions
from tests.support.training.page_words import page_words
from tests.support.training.small_runs import StopAfter
from training.desks.online.data import flat, one_hot_values
from training.desks.online.kind import BASELINES
from training.evaluate.players import Late
from training.rl.pool import Stopped
from training.runs.run import train_and_export
from training.runs.settings import Settings, settings_for
from training.study.study import Study
from training.study.study import decode as decode_study

pytestmark = pytest.mark.usefixtures("one_export")
NAME = "online_dqn"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A smoke run."""
    home = tmp_path_factory.mktemp("online")
    base = settings_for(NAME, first_sessions(home / "bars.csv", 12), home / "store", preset="smoke")
    return replace(base, processes=1, run_folder=home / "run", checkpoint_s=0.0, allow_unproven=True)


@pytest.fixture(scope="module")
def version(settings: Settings) -> Path:
    return train_and_export(settings, lambda _: None).version


@pytest.fixture(scope="module")
def manifest(version: Path) -> Manifest:
    return decode((version / MANIFEST_FILE).read_bytes())


@pytest.fixture(scope="module")
def study(settings: Settings, version: Path) -> Study:
    return study_of(settings)


def study_of(settings: Settings) -> Study:
    assert settings.run_folder is not None
    return decode_study((settings.run_folder / STUDY_FILE).read_bytes())


def test_the_version_has_the_contract_and_is_one_that_the_daemon_opens(
    settings: Settings, version: Path, manifest: Manifest
) -> None:
    maker = strategy(NAME)
    assert manifest.contract_hash == contract_hash(maker)
    assert manifest.model_config == msgspec.json.decode(maker.spec.config)
    loaded = load(settings.out, maker, version.name)
    assert loaded.manifest.version == version.name
    OnnxPolicy.open(loaded, maker)


def test_sessions_are_split_60_20_20(manifest: Manifest, study: Study) -> None:
    assert [len(span) for span in (study.folds[0].train, study.folds[0].validate, study.folds[0].test)] == [6, 2, 3]
    assert manifest.training.sessions == 11


def test_the_players_are_the_baselines_and_the_policy_under_other_costs(study: Study) -> None:
    assert [one.name for one in study.baselines] == list(BASELINES)
    assert list(study.scenarios) == ["no costs", "costs x 2", "costs x 3", "one bar late"]
    assert [len(totals) for totals in study.random_pnl_usd] == [1000]
    assert study.account == ()  # every session has an account of its own
    flat_one = study.baselines[0].folds[0].sessions
    assert [(result.pnl_usd, result.trades) for result in flat_one] == [(0.0, 0)] * 3
    trades = sum(result.trades for result in study.trials[0].test.sessions)
    random = sum(result.trades for result in study.baselines[2].folds[0].sessions)
    assert random == pytest.approx(trades, rel=0.35)
    fees = [sum(r.fees_usd for r in study.scenarios[name][0].sessions) for name in ("no costs", "costs x 2")]
    assert fees[0] == 0.0
    assert fees[1] > sum(result.fees_usd for result in study.trials[0].test.sessions)


def test_the_policy_and_holding_also_play_one_account_that_goes_through_all_tests(
    settings: Settings, version: Path, study: Study
) -> None:
    one = study.one_account
    assert one is not None
    assert (one.passive, one.folds[0].halts) == ("hold from the open", ())
    anew = {"policy": study.trials[0].test.sessions, "hold": study.baselines[1].folds[0].sessions}
    for name, sessions in (("policy", one.folds[0].sessions), ("hold", one.held)):
        assert [result.date for result in sessions] == list(study.folds[0].test)
        began = study.capital_usd
        for result in sessions:
            assert result.capital_usd == pytest.approx(began)
            began += result.pnl_usd
        assert sessions[0].pnl_usd == pytest.approx(anew[name][0].pnl_usd)  # with the same money
        assert [result.trades > 0 for result in sessions] == [result.trades > 0 for result in anew[name]]
    assert one.held[1].pnl_usd != anew["hold"][1].pnl_usd  # with what the first session left
    paragraph = msgspec.json.decode((version / REPORT_FILE).read_bytes())["abstract"]
    assert any(words.startswith("One account through all tests: 100,000 USD became ") for words in paragraph)


def test_the_report_says_what_the_heads_knew_beside_the_base_rate(version: Path, study: Study) -> None:
    heads = study.extra["heads"]
    assert heads["direction"]["sessions"] == heads["risk"]["sessions"] == 3
    assert heads["direction"]["rows"] == 3 * (390 - 15)
    assert 0.4 < heads["direction"]["base_rate"] < 0.6
    words = page_words((version / "report.html").read_text())
    assert "direction, log loss in nats" in words
    assert "Option prices" not in words
    assert msgspec.json.decode((version / REPORT_FILE).read_bytes())["heads"] == heads


def test_a_trial_says_how_far_it_came_from_the_network_that_it_began_as(study: Study) -> None:
    learnt = study.trials[0].learnt
    assert learnt is not None
    # 32 rows of 16 steps an update, 4 minibatches of 128 each; the checkpoint is of one of two looks
    assert learnt.gradient_steps == 4 * study.trials[0].chosen_steps // (32 * 16)
    assert learnt.kl is not None
    assert learnt.kl > 0.0
    assert 1 / 3 <= learnt.size <= 1.0
    assert learnt.explained_variance == study.trials[0].curve[-1].explained_variance
    assert 0.0 != learnt.explained_variance <= 1.0


def test_without_a_proven_lead_a_network_that_holds_nothing_is_exported(
    settings: Settings, version: Path, manifest: Manifest
) -> None:
    folder = train_and_export(replace(settings, allow_unproven=False), lambda _: None).version  # nothing is trained
    passive = decode((folder / MANIFEST_FILE).read_bytes())
    assert passive.note.startswith("The exported policy is the passive one, which holds nothing, and claims nothing: ")
    values = np.array(passive.golden.logits).reshape(-1, 3)  # HOLD, BUY, SELL of each golden symbol
    assert values[:, 0] - values[:, 1] == pytest.approx(np.ones(len(values)))
    assert values[:, 0] - values[:, 2] == pytest.approx(np.ones(len(values)))
    assert passive.metrics["test"]["trades"] == 0
    heads = [one.heads for one in (passive.golden, manifest.golden)]
    assert [head["direction"] for head in heads[0]] == [head["direction"] for head in heads[1]]


def test_a_run_that_was_stopped_ends_in_the_same_bytes(settings: Settings, version: Path, tmp_path: Path) -> None:
    again = replace(settings, run_folder=tmp_path / "run", out=tmp_path / "store")
    for updates in (3, 9):
        stop = StopAfter(updates)
        with pytest.raises(Stopped):
            train_and_export(again, stop, stop)
    other = train_and_export(again, lambda _: None).version
    assert (other / "policy.onnx").read_bytes() == (version / "policy.onnx").read_bytes()
    assert study_of(again).scenarios == study_of(settings).scenarios


def test_a_late_player_answers_as_the_other_did_a_bar_before_and_holds_first() -> None:
    late = Late(lambda observations: one_hot_values(observations[:, 0].long()), flat)
    answers = [late(torch.tensor([[float(number)]])).argmax(1).item() for number in (1, 2, 0)]
    assert answers == [0, 1, 2]
