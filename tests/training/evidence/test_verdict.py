"""The first sentences claim no more than the figures show, whatever the study lacks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from tests.support.training.page_words import page_words
from tests.support.training.studies import example_study, hand_study, session
from training.evidence.findings import Findings, told_apart
from training.evidence.resampling import Interval
from training.report.find import find
from training.report.report import files, write_report
from training.study.study import ClosedTrade, PlayResult, SessionResult, Study


@pytest.fixture(scope="module")
def study() -> Study:
    """Three folds, ten seeds, two rewards; a policy with next to no edge."""
    return example_study()


@pytest.fixture(scope="module")
def findings(study: Study) -> Findings:
    return find(study)


@pytest.fixture(scope="module")
def page(study: Study, findings: Findings) -> str:
    return files(study, findings)["report.html"].decode()


def test_the_first_sentence_of_page_and_json_says_what_the_policy_does_not_beat(
    study: Study, findings: Findings, page: str, tmp_path: Path
) -> None:
    write_report(study, tmp_path)
    pnl = sum(session.pnl_usd for index in study.chosen for session in study.trials[index].test.sessions)
    ahead = [
        one.name
        for one in study.baselines
        if sum(session.pnl_usd for fold in one.folds for session in fold.sessions) >= pnl
    ]
    assert ahead
    for name in ahead:
        assert name in findings.verdict
    assert findings.verdict.startswith("Does not beat ")
    assert page_words(page).startswith(findings.verdict)
    assert json.loads((tmp_path / "report.json").read_bytes())["verdict"] == findings.verdict


def test_earlier_trials_and_openings_of_the_ledger_are_counted_and_told(findings: Findings) -> None:
    study = example_study(prior_sharpes=(0.4, -0.3, 0.2), prior_openings=2)
    result = find(study)
    assert result.deflated.trials == findings.deflated.trials + 3 == 63
    assert "The ledger shows 2 earlier openings of them, so they are no longer untouched." in result.abstract[0]
    assert "The ledger shows no earlier opening of them." in findings.abstract[0]
    once = find(msgspec.structs.replace(study, prior_openings=1))
    assert "1 earlier opening of them" in once.abstract[0]


def test_one_fold_one_seed_and_no_ablation_read_well_and_say_what_is_missing() -> None:
    study = example_study(folds=1, seeds=1, rewards=("potential",), scenarios=False)
    words = page_words(files(study, find(study))["report.html"].decode())
    assert "trained once (1 fold, 1 seed, reward “potential”), on 20 sessions" in words
    assert "With one fold nothing says whether the result holds in another period." in words
    assert "Only one seed was trained" in words
    assert "Only potential was trained" in words
    assert "Not tested: what higher costs" in words
    assert "PBO: one trial: nothing was chosen among." in words


def test_a_policy_that_never_trades_equals_always_flat() -> None:
    study = example_study(folds=2, seeds=2, rewards=("potential",), scenarios=False)

    def idle(results: tuple[SessionResult, ...]) -> tuple[SessionResult, ...]:
        return tuple(session(result.date, 0.0, trades=0) for result in results)

    trials = tuple(
        msgspec.structs.replace(
            trial, validate=idle(trial.validate), test=PlayResult(idle(trial.test.sessions)), curve=()
        )
        for trial in study.trials
    )
    study = msgspec.structs.replace(study, trials=trials, baselines=(), random_pnl_usd=())
    flat_findings = find(study)
    words = page_words(files(study, flat_findings)["report.html"].decode())
    assert flat_findings.verdict.startswith("Never traded, so it equals always flat")
    assert "Denied" not in flat_findings.verdict
    denied = tuple(
        msgspec.structs.replace(
            trial, test=msgspec.structs.replace(trial.test, denials={"basket_legs": 2, "spread": 3})
        )
        for trial in trials
    )
    assert " sessions. Denied by spread " in find(msgspec.structs.replace(study, trials=denied)).verdict
    assert "No baseline was played" in words
    assert "The policy made no trade" in words
    assert "No learning curve was recorded." in words
    assert not any(
        criterion.passes for criterion in flat_findings.criteria if criterion.name in {"profit", "lead", "baselines"}
    )

    assert flat_findings.abstract[1] == "The policy earned 0.00 % of its capital in sum with 0 trades."


def test_a_lead_that_may_be_luck_is_not_called_beating() -> None:
    """Four sessions tell nothing apart: 2.60 % against 0.80 %, and yet the one is not called better than the other."""
    result = find(hand_study())
    assert result.verdict.startswith(
        "Earned +2.60 % after costs over 4 test sessions of made-up bars, more than every baseline but not surely more "
        "than buy and hold; deflated Sharpe "
    )
    words = page_words(files(hand_study(), result)["report.html"].decode())
    assert "(too few sessions to decide)" in words
    sure = find(example_study(edge_usd=160.0))
    assert sure.verdict.startswith("Beats every baseline with ")
    assert sure.verdict.endswith("fails 1 of 16 criteria for real money (recorded options).")
    late = find(example_study(edge_usd=160.0, prior_sharpes=(0.0,) * 10_000))
    assert late.over_baselines == sure.over_baselines
    assert ", more than every baseline, which is not proven among all trials; deflated Sharpe " in late.verdict
    assert "Beats" not in late.verdict


@pytest.mark.parametrize(
    ("low", "high", "sessions", "apart"),
    [(0.001, 0.002, 16, True), (-0.002, -0.001, 16, True), (0.001, 0.002, 15, False), (0.0, 0.002, 60, False)],
)
def test_two_are_told_apart_by_an_interval_without_zero_over_enough_sessions(
    low: float, high: float, sessions: int, apart: bool
) -> None:
    assert told_apart(Interval(estimate=(low + high) / 2, low=low, high=high), sessions) is apart


def test_what_was_trained_elsewhere_is_not_said_to_be_tested_on_unseen_sessions() -> None:
    study = example_study(folds=1, seeds=1, rewards=("potential",), edge_usd=160.0)
    trial = msgspec.structs.replace(study.trials[0], curve=(), stopped="trained elsewhere")
    study = msgspec.structs.replace(study, trials=(trial,), settings={"imported": "ppo.zip"})
    result = find(study)
    words = page_words(files(study, result)["report.html"].decode())
    assert "it may have learned from these very sessions" in words
    assert "deflated Sharpe not known, as it was trained elsewhere" in result.verdict
    assert {criterion.name: criterion.found for criterion in result.criteria}["deflated lead"] == "not known"
    assert "by a reward that is not known here" in words
    assert "later than what" not in words
    assert re.search(r"deflated Sharpe ratio \(DSR\) at most \d", words)
    assert "potential" not in words


def test_a_rule_is_not_said_to_be_trained() -> None:
    study = example_study(folds=1, seeds=1, rewards=("potential",), edge_usd=160.0)
    trial = msgspec.structs.replace(study.trials[0], steps=0, chosen_steps=0, curve=(), stopped="a rule, not trained")
    study = msgspec.structs.replace(study, trials=(trial,))
    words = page_words(files(study, find(study))["report.html"].decode())
    assert f"Tested: a rule for {study.strategy} that nothing trained, on " in words
    assert "trained once" not in words


def test_one_seed_for_each_reward_has_no_interval_and_one_trade_is_no_plural() -> None:
    study = example_study(folds=1, seeds=1, test_sessions=1, seed=3)
    trial = study.trials[0]
    one = PlayResult((session(study.folds[0].test[0], 5.0),), {}, (ClosedTrade(study.folds[0].test[0], 0.7, 5.0),))
    study = msgspec.structs.replace(study, trials=(msgspec.structs.replace(trial, test=one), study.trials[1]))
    result = find(study)
    words = page_words(files(study, result)["report.html"].decode())
    assert result.abstract[1] == "The policy earned +0.05 % of its capital in sum with 1 trade."
    assert "1 trade, of which 100.0 % earned." in words
    assert "1 seed is no evidence about others; at least 10 are advised." in words
    assert "100.0 % to 100.0 %" not in words
    assert not re.search(r"\b1 (sessions|trades|seeds|folds|times)\b", words)


def test_the_policy_that_ships_is_told_from_the_procedure_that_was_tested(page: str, findings: Findings) -> None:
    words = page_words(page)
    assert "What it ships is the last fold's policy, which only the 20 test sessions of that fold tested" in words
    assert "In 20 sessions a test at 5 % finds an edge with 80 % probability only if" in words


# --- a report of the store's version ------------------------------------------------------------------------------


def test_a_passive_version_does_not_pass_for_the_weights_that_were_tested(study: Study, findings: Findings) -> None:
    words = "The exported policy is the passive one, which holds nothing: for what was learned no lead is proven."
    passive = find(msgspec.structs.replace(study, exported=words))
    (criterion,) = [one for one in passive.criteria if one.name == "weights"]
    assert (criterion.passes, criterion.found) == (False, "those of the passive policy, of which no figure here is")
    assert [one for one in passive.criteria if one != criterion] == [
        one for one in findings.criteria if one.name != "weights"
    ]
    assert {one.name: (one.passes, one.found) for one in findings.criteria}["weights"] == (True, "the tested ones")


def test_each_figure_that_has_a_limit_stands_next_to_it(study: Study) -> None:
    values = {one.name: one.found for one in find(study).criteria}
    limits = {
        "seeds": "at least 10", "length": "at least 60", "trades": "at least 30", "profit": "above 0",
        "baselines": "to beat ", "lead": "above 0", "deflated lead": "at least 0.95",
        "overfitting": "of the splits; needed: at most 20 %", "drawdown": "limit ", "luck": "at most 5 %",
        "costs": "above 0", "delay": "above 0",
    }  # fmt: skip
    for name, limit in limits.items():
        figure, _, beside = values[name].partition("; ")
        assert any(digit in figure for digit in "0123456789"), name
        assert limit in values[name], name
        assert beside, name
    assert re.search(
        r"deflated Sharpe [\d.]+, of its lead [\d.]+ \(at least 0\.95 for real money\)", find(study).verdict
    )


def test_what_next_names_the_version_that_the_report_is_of(study: Study, findings: Findings, page: str) -> None:
    html = files(study, findings, version="2024-01-16-0badcafe")["report.html"].decode()
    commands = "\n".join(re.findall(r"<pre>(.*?)</pre>", html, flags=re.DOTALL))
    assert "RLTRADER_POLICY__VERSION=2024-01-16-0badcafe rltraderd --dry-run " in commands
    assert "rltraderctl models activate 2024-01-16-0badcafe --strategy option_scalper" in commands
    assert "VERSION --" not in commands
    assert "rltraderctl models list shows the names" in page_words(page)  # of a run's folder, without a version
