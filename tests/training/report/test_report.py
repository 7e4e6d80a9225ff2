"""A report says what the study holds: checked against hand calculation, never against its own code."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest

from tests.support.training.page_words import page_words
from tests.support.training.studies import example_study, hand_study, session
from training.evidence.findings import Findings, decode
from training.report.find import find
from training.report.report import files, write_report
from training.study.study import Fold, PlayResult, SeedAgreement, Study


@pytest.fixture(scope="module")
def study() -> Study:
    """Three folds, ten seeds, two rewards; a policy with next to no edge."""
    return example_study()


@pytest.fixture(scope="module")
def findings(study: Study) -> Findings:
    return find(study)


def test_the_headline_joins_the_chosen_seed_of_each_fold_as_calculated_by_hand() -> None:
    result = find(hand_study())
    returns = (0.010, -0.004, 0.008, 0.012)
    mean = 0.026 / 4
    deviation = math.sqrt(sum((value - mean) ** 2 for value in returns) / 3)
    assert result.policy.figures.net_return == pytest.approx(0.026)
    assert result.policy.net_return.estimate == pytest.approx(0.026)
    assert result.policy.figures.sharpe_annual == pytest.approx(mean / deviation * math.sqrt(252))
    assert result.policy.figures.max_drawdown == pytest.approx(0.004)
    assert [fold.net_return for fold in result.folds] == pytest.approx([0.006, 0.020])
    assert [fold.validate_return for fold in result.folds] == pytest.approx([0.009, 0.007])
    assert [fold.baselines for fold in result.folds] == [{"buy and hold": pytest.approx(0.004)}] * 2
    assert result.over_baselines["buy and hold"].estimate == pytest.approx(mean - 0.002)
    assert result.denials == {"cooldown": 3}
    assert (result.seeds, result.calibration.trades) == (3, 2)


def test_earlier_trials_never_raise_a_deflated_ratio_however_much_they_agree(study: Study, findings: Findings) -> None:
    for earlier in ((0.0,) * 50, (-0.5,) * 50, (findings.deflated.sharpe,) * 50):
        more = find(msgspec.structs.replace(study, prior_sharpes=earlier))
        assert more.deflated.trials == findings.deflated.trials + 50
        assert more.deflated.deflated < findings.deflated.deflated
        assert more.overfitting == findings.overfitting
        assert more.lead is not None
        assert findings.lead is not None
        assert (more.lead.deflated or 1.0) < (findings.lead.deflated or 0.0)
        assert (more.lead.low, more.lead.loss) == (findings.lead.low, findings.lead.loss)


def test_the_share_of_random_traders_counts_both_folds_and_the_policy_itself() -> None:
    """Totals of the three traders: 0, 26, 25; the policy earned 6 + 20 = 26, so one ties: (1 + 1) / (1 + 3)."""
    result = find(hand_study())
    assert result.random_p == 0.5
    assert [fold.random_p for fold in result.folds] == [
        0.75,
        0.25,
    ]  # two of 0, 10, 20 reach 6; none of 0, 16, 5 reaches 20
    assert result.random_ranges[0] == pytest.approx((0.001, 0.019))  # 5 % of the way from 0 to 10, and from 20 to 10


def test_a_policy_that_does_what_a_baseline_does_says_so_and_is_each_of_its_random_traders() -> None:
    """The traders of the first fold all earn 5.50 USD, of another market, where the policy earned 6."""
    study = hand_study()
    random = ((5.5, 5.5, 5.5), *study.random_pnl_usd[1:])
    twin = msgspec.structs.replace(study.baselines[0], folds=tuple(trial.test for trial in study.headline))
    result = find(msgspec.structs.replace(study, random_pnl_usd=random, baselines=(twin,)))
    assert result.folds[0].random_p == 1.0
    assert result.verdict.endswith(
        f"It held {twin.name} on every day: each session's profit is that of this baseline, to the cent."
    )
    assert "It held" not in find(study).verdict


def test_a_mean_of_seeds_is_compared_with_the_passive_policy_on_validation() -> None:
    """Validation earned 9 and 7 USD of 1,000, the passive policy 4 and -1."""
    plain = hand_study()
    means = tuple(
        msgspec.structs.replace(
            plain.trials[index],
            members=3,
            passive=(session(plain.folds[fold].validate[0], profit),),
            agreement=SeedAgreement(0.25, 0.125),
        )
        for fold, (index, profit) in enumerate(zip(plain.chosen, (4.0, -1.0), strict=True))
    )
    study = msgspec.structs.replace(plain, ensembles=means)
    result = find(study)
    assert [fold.over_passive.estimate for fold in result.folds if fold.over_passive] == pytest.approx([0.005, 0.008])
    words = page_words(files(study, result)["report.html"].decode())
    assert "1 +0.50 % 0.250 0.125 2 +0.80 % 0.250 0.125" in words
    assert "agreement of the seeds" not in page_words(files(plain, find(plain))["report.html"].decode())


def test_validation_is_compared_with_test_by_ranks_within_each_fold() -> None:
    """Fold 1: validation 3, 2, 1 and test 3, 2, 1 (6, 3, -10) agree; fold 2: 1, 3, 2 and -1, 20, 6 do as well."""
    result = find(hand_study())
    assert result.rank_correlation == pytest.approx(1.0)
    assert result.rank_chance == pytest.approx(1.6449 * math.sqrt(1 / 2 + 1 / 2) / 2, abs=1e-4)  # variances 1 / (3 - 1)
    study = hand_study()
    swapped = [msgspec.structs.replace(study.trials[0], test=study.trials[2].test)]
    swapped += [study.trials[1], msgspec.structs.replace(study.trials[2], test=study.trials[0].test), *study.trials[3:]]
    assert find(msgspec.structs.replace(study, trials=tuple(swapped))).rank_correlation == pytest.approx(
        0.0
    )  # (-1 + 1) / 2


def test_a_seed_that_was_validated_on_other_sessions_is_refused() -> None:
    study = hand_study()
    other = msgspec.structs.replace(study.trials[1], validate=(session("2024-01-04", 5.0),))
    with pytest.raises(ValueError, match="seed 2 of fold 0 was validated on other sessions"):
        find(msgspec.structs.replace(study, trials=(study.trials[0], other, *study.trials[2:])))


def test_weekdays_between_the_spans_are_counted() -> None:
    """January 2024: Wednesday 3 to Friday 5 and Friday 5 to Tuesday 9 leave out one each, Wednesday 10 to 16 three."""
    assert [fold.weekdays_left_out for fold in find(hand_study()).folds] == [(1, 1), (2, 3)]


def test_the_same_study_gives_the_same_bytes_and_nothing_else_is_left_in_the_folder(
    study: Study, findings: Findings, tmp_path: Path
) -> None:
    assert write_report(study, tmp_path) == findings
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
    for name, data in files(study, findings).items():
        assert (tmp_path / name).read_bytes() == data
    assert decode((tmp_path / "report.json").read_bytes()) == findings


def test_the_bins_of_the_logits_hold_every_split_and_the_pbo_lies_left_of_zero(findings: Findings) -> None:
    assert math.fsum(share for *_, share in findings.overfitting.logits) == pytest.approx(1.0)
    below = math.fsum(share for _, high, share in findings.overfitting.logits if high < 1e-6)
    assert below == pytest.approx(findings.overfitting.probability)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": (0,)}, "2 folds and 1 chosen"),
        ({"chosen": (0, 1)}, "fold 1 is trial 1, which is not of that fold"),
        (
            {"scenarios": {"one bar late": (PlayResult((session("2024-01-09", 1.0),)),)}},
            "one bar late was played on other",
        ),
        ({"format": 99}, "has format 99, expected 1"),
        ({"chosen": (1, 4)}, "the chosen trial of fold 0 is of reward potential and seed 2; expected the one"),
        ({"reward": "reference"}, "is of reward potential"),
        ({"folds": (hand_study().folds[0],) * 2}, "spans of fold 1 overlap"),
        (
            {"folds": (Fold(("2024-01-05",), ("2024-01-05",), ("2024-01-09", "2024-01-10")), hand_study().folds[1])},
            "spans of fold 0 overlap",
        ),
        ({"folds": (Fold((), ("2024-01-05",), ("2024-01-09",)), hand_study().folds[1])}, "fold 0 has an empty span"),
    ],
)
def test_a_study_whose_parts_do_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find(msgspec.structs.replace(hand_study(), **change))


def test_the_ablation_does_not_count_among_what_was_chosen() -> None:
    study = example_study(folds=3, seeds=10)
    alone = msgspec.structs.replace(
        study, trials=tuple(trial for trial in study.trials if trial.reward == study.reward)
    )
    places = {id(trial): place for place, trial in enumerate(alone.trials)}
    alone = msgspec.structs.replace(alone, chosen=tuple(places[id(study.trials[index])] for index in study.chosen))
    with_ablation, one = find(study), find(alone)
    assert with_ablation.overfitting == one.overfitting
    assert with_ablation.overfitting.trials == 10
    assert with_ablation.lead == one.lead
