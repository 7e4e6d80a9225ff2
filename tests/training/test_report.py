"""A report says what the study holds: checked against hand calculation, never against its own code."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.manifest import Training
from tests.training.example_study import example_study
from training import plots
from training.evaluation import SessionResult
from training.findings import Findings, decode, told_apart
from training.report import files, find, write_report
from training.resampling import Interval
from training.study import Baseline, Entry, Fold, Played, Study, Trial

VOID = {"meta", "br"}


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


class _Reader(HTMLParser):
    """Checks that tags nest and keeps the words outside of head, style and pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An empty element of a picture."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"head", "svg"} & {*self.open} and data.strip():
            self.words.append(data.strip())


def _words(page: str) -> str:
    reader = _Reader()
    reader.feed(page)
    assert reader.open == []
    return " ".join(reader.words).replace("\N{NO-BREAK SPACE}", " ")


def _session(date: str, pnl_usd: float, trades: int = 1) -> SessionResult:
    return SessionResult(date, pnl_usd, trades, int(pnl_usd > 0), 1.0 * trades, 500.0 * trades, 60 * trades, 360)


def _hand_study() -> Study:
    """Two folds of two test sessions, three seeds, everything small enough to calculate by hand; capital 1,000."""
    folds = (
        Fold(("2024-01-02", "2024-01-03"), ("2024-01-05",), ("2024-01-09", "2024-01-10")),
        Fold(("2024-01-02", "2024-01-05"), ("2024-01-10",), ("2024-01-16", "2024-01-17")),
    )
    tests = {(0, 1): (10.0, -4.0), (0, 2): (2.0, 1.0), (0, 3): (-5.0, -5.0)}
    tests |= {(1, 1): (-1.0, 0.0), (1, 2): (8.0, 12.0), (1, 3): (3.0, 3.0)}
    validates = {(0, 1): 9.0, (0, 2): 5.0, (0, 3): 1.0, (1, 1): 1.0, (1, 2): 7.0, (1, 3): 2.0}
    trials = tuple(
        Trial(
            fold=fold,
            seed=seed,
            reward="potential",
            steps=100,
            seconds=1.0,
            chosen_steps=50,
            stopped="",
            curve=(),
            validate=(_session(folds[fold].validate[0], validates[fold, seed]),),
            test=Played(
                tuple(_session(date, pnl) for date, pnl in zip(folds[fold].test, earned, strict=True)),
                {"cooldown": fold + 1},
                (Entry(folds[fold].test[0], 0.6, earned[0]),),
            ),
        )
        for (fold, seed), earned in tests.items()
    )
    held = tuple(Played(tuple(_session(date, 2.0) for date in fold.test)) for fold in folds)
    return Study(
        strategy="option_scalper",
        network="mlp",
        reward="potential",
        capital_usd=1000.0,
        code_version="abc",
        settings={"note": "<script>alert(1)</script>"},
        machine={},
        data=Training(
            "bars.csv", "00" * 32, "sip", synthetic=True, sessions=9, first_session="", last_session="", splits={}
        ),
        folds=folds,
        trials=trials,
        chosen=(0, 4),  # seed 1 in the first fold, seed 2 in the second: the best on validation
        baselines=(Baseline("buy and hold", "shares", held),),
        random_pnl_usd=((0.0, 10.0, 20.0), (0.0, 16.0, 5.0)),
        scenarios={"costs x 2": tuple(Played(tuple(_session(date, 1.0) for date in fold.test)) for fold in folds)},
    )


def test_the_headline_joins_the_chosen_seed_of_each_fold_as_calculated_by_hand() -> None:
    found = find(_hand_study())
    returns = (0.010, -0.004, 0.008, 0.012)
    mean = 0.026 / 4
    deviation = math.sqrt(sum((value - mean) ** 2 for value in returns) / 3)
    assert found.policy.figures.net_return == pytest.approx(0.026)
    assert found.policy.net_return.estimate == pytest.approx(0.026)
    assert found.policy.figures.sharpe_annual == pytest.approx(mean / deviation * math.sqrt(252))
    assert found.policy.figures.max_drawdown == pytest.approx(0.004)
    assert [fold.net_return for fold in found.folds] == pytest.approx([0.006, 0.020])
    assert [fold.validate_return for fold in found.folds] == pytest.approx([0.009, 0.007])
    assert [fold.baselines for fold in found.folds] == [{"buy and hold": pytest.approx(0.004)}] * 2
    assert found.over_baselines["buy and hold"].estimate == pytest.approx(mean - 0.002)
    assert found.denials == {"cooldown": 3}
    assert (found.seeds, found.calibration.trades) == (3, 2)


def test_the_share_of_random_traders_counts_both_folds_and_the_policy_itself() -> None:
    """Totals of the three traders: 0, 26, 25; the policy earned 6 + 20 = 26, so one ties: (1 + 1) / (1 + 3)."""
    found = find(_hand_study())
    assert found.random_p == 0.5
    assert [fold.random_p for fold in found.folds] == [
        0.75,
        0.25,
    ]  # two of 0, 10, 20 reach 6; none of 0, 16, 5 reaches 20
    assert found.random_ranges[0] == pytest.approx((0.001, 0.019))  # 5 % of the way from 0 to 10, and from 20 to 10


def test_validation_is_compared_with_test_by_ranks_within_each_fold() -> None:
    """Fold 1: validation 3, 2, 1 and test 3, 2, 1 (6, 3, -10) agree; fold 2: 1, 3, 2 and -1, 20, 6 do as well."""
    found = find(_hand_study())
    assert found.rank_correlation == pytest.approx(1.0)
    assert found.rank_chance == pytest.approx(1.6449 * math.sqrt(1 / 2 + 1 / 2) / 2, abs=1e-4)  # variances 1 / (3 - 1)
    study = _hand_study()
    swapped = [msgspec.structs.replace(study.trials[0], test=study.trials[2].test)]
    swapped += [study.trials[1], msgspec.structs.replace(study.trials[2], test=study.trials[0].test), *study.trials[3:]]
    assert find(msgspec.structs.replace(study, trials=tuple(swapped))).rank_correlation == pytest.approx(
        0.0
    )  # (-1 + 1) / 2


def test_a_seed_that_was_validated_on_other_sessions_is_refused() -> None:
    study = _hand_study()
    other = msgspec.structs.replace(study.trials[1], validate=(_session("2024-01-04", 5.0),))
    with pytest.raises(ValueError, match="seed 2 of fold 0 was validated on other sessions"):
        find(msgspec.structs.replace(study, trials=(study.trials[0], other, *study.trials[2:])))


def test_weekdays_between_the_spans_are_counted() -> None:
    """January 2024: Wednesday 3 to Friday 5 and Friday 5 to Tuesday 9 leave out one each, Wednesday 10 to 16 three."""
    assert [fold.weekdays_left_out for fold in find(_hand_study()).folds] == [(1, 1), (2, 3)]


def test_the_first_sentence_of_page_and_json_says_what_the_policy_does_not_beat(
    study: Study, findings: Findings, page: str, tmp_path: Path
) -> None:
    write_report(study, tmp_path)
    own = sum(session.pnl_usd for index in study.chosen for session in study.trials[index].test.sessions)
    ahead = [
        one.name
        for one in study.baselines
        if sum(session.pnl_usd for fold in one.folds for session in fold.sessions) >= own
    ]
    assert ahead
    for name in ahead:
        assert name in findings.verdict
    assert findings.verdict.startswith("Does not beat ")
    assert _words(page).startswith(findings.verdict)
    assert json.loads((tmp_path / "report.json").read_bytes())["verdict"] == findings.verdict


def test_the_same_study_gives_the_same_bytes_and_nothing_else_is_left_in_the_folder(
    study: Study, findings: Findings, tmp_path: Path
) -> None:
    assert write_report(study, tmp_path) == findings
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
    for name, data in files(study, findings).items():
        assert (tmp_path / name).read_bytes() == data
    assert decode((tmp_path / "report.json").read_bytes()) == findings


def test_the_page_is_one_small_file_that_loads_nothing(page: str) -> None:
    assert len(page) < 600_000
    assert not re.search(r"<script|<link|<img|<iframe|src=|url\(|@import|https?:", page)


def test_every_picture_is_well_formed_has_a_name_and_stays_inside_its_frame(page: str) -> None:
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) >= 10
    for picture in pictures:
        root = ET.fromstring(picture)
        assert root.attrib["aria-label"]
        width, height = (float(value) for value in root.attrib["viewBox"].split()[2:])
        for part in root.iter():
            for key, limit in (
                ("cx", width),
                ("x", width),
                ("x1", width),
                ("x2", width),
                ("cy", height),
                ("y1", height),
            ):
                assert 0.0 <= float(part.attrib.get(key, 0.0)) <= limit


def test_the_bins_of_the_logits_hold_every_split_and_the_pbo_lies_left_of_zero(findings: Findings) -> None:
    assert math.fsum(share for *_, share in findings.overfitting.logits) == pytest.approx(1.0)
    left = math.fsum(share for _, high, share in findings.overfitting.logits if high < 1e-6)
    assert left == pytest.approx(findings.overfitting.probability)


def test_earlier_trials_and_openings_of_the_ledger_are_counted_and_told(findings: Findings) -> None:
    study = example_study(prior_sharpes=(0.4, -0.3, 0.2), prior_openings=2)
    found = find(study)
    assert found.deflated.trials == findings.deflated.trials + 3 == 63
    assert "The ledger shows 2 earlier openings of them, so they are no longer untouched." in found.abstract[0]
    assert "The ledger shows no earlier opening of them." in findings.abstract[0]
    once = find(msgspec.structs.replace(study, prior_openings=1))
    assert "1 earlier opening of them" in once.abstract[0]


def test_one_fold_one_seed_and_no_ablation_read_well_and_say_what_is_missing() -> None:
    study = example_study(folds=1, seeds=1, rewards=("potential",), scenarios=False)
    words = _words(files(study, find(study))["report.html"].decode())
    assert "trained once (1 fold, 1 seed, potential reward), on 20 sessions" in words
    assert "With one fold nothing says whether the result holds in another period." in words
    assert "Only one seed was trained" in words
    assert "Only potential was trained" in words
    assert "Not tested: what higher costs" in words
    assert "PBO: one trial: nothing was chosen among." in words


def test_a_policy_that_never_trades_equals_always_flat() -> None:
    study = example_study(folds=2, seeds=2, rewards=("potential",), scenarios=False)

    def idle(results: tuple[SessionResult, ...]) -> tuple[SessionResult, ...]:
        return tuple(_session(result.date, 0.0, trades=0) for result in results)

    trials = tuple(
        msgspec.structs.replace(trial, validate=idle(trial.validate), test=Played(idle(trial.test.sessions)), curve=())
        for trial in study.trials
    )
    study = msgspec.structs.replace(study, trials=trials, baselines=(), random_pnl_usd=())
    found = find(study)
    words = _words(files(study, found)["report.html"].decode())
    assert found.verdict.startswith("Never traded, so it equals always flat")
    assert "No baseline was played" in words
    assert "The policy made no trade" in words
    assert "No learning curve was recorded." in words
    assert not any(judged.passes for judged in found.criteria if judged.name in {"profit", "mean return", "baselines"})

    assert found.abstract[1] == "The policy earned 0.00 % of its capital in sum with 0 trades."


def test_a_lead_that_may_be_luck_is_not_called_beating() -> None:
    """Four sessions tell nothing apart: 2.60 % against 0.80 %, and yet it is not said that the one beats the other."""
    found = find(_hand_study())
    assert found.verdict.startswith(
        "Earned +2.60 % after costs over 4 test sessions of made-up bars, more than every baseline but not surely more "
        "than buy and hold; deflated Sharpe "
    )
    words = _words(files(_hand_study(), found)["report.html"].decode())
    assert "(too few sessions to tell)" in words
    sure = find(example_study(edge_usd=160.0))
    assert sure.verdict.startswith("Beats every baseline with ")
    assert sure.verdict.endswith("passes all 13 criteria for real money.")


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
    found = find(study)
    words = _words(files(study, found)["report.html"].decode())
    assert "it may have learned from these very sessions" in words
    assert "deflated Sharpe not known, as it was trained elsewhere" in found.verdict
    assert {judged.name: judged.found for judged in found.criteria}["deflated Sharpe"] == "not known"
    assert "by a reward that is not known here" in words
    assert "later than what" not in words
    assert "potential" not in words


def test_one_seed_for_each_reward_has_no_interval_and_one_trade_is_no_plural() -> None:
    study = example_study(folds=1, seeds=1, test_sessions=1, seed=3)
    trial = study.trials[0]
    one = Played((_session(study.folds[0].test[0], 5.0),), {}, (Entry(study.folds[0].test[0], 0.7, 5.0),))
    study = msgspec.structs.replace(study, trials=(msgspec.structs.replace(trial, test=one), study.trials[1]))
    found = find(study)
    words = _words(files(study, found)["report.html"].decode())
    assert found.abstract[1] == "The policy earned +0.05 % of its capital in sum with 1 trade."
    assert "1 trade, of which 100.0 % earned." in words
    assert "1 seed says nothing of others; at least 10 are advised." in words
    assert "100.0 % to 100.0 %" not in words
    assert not re.search(r"\b1 (sessions|trades|seeds|folds|times)\b", words)


def test_the_policy_that_ships_is_told_from_the_procedure_that_was_tested(page: str, findings: Findings) -> None:
    words = _words(page)
    assert "What it ships is the last fold's policy, which only the 20 test sessions of that fold tested" in words
    assert "In 20 sessions a test at 5 % finds an edge with 80 % probability only if" in words


def test_made_up_bars_are_called_so_and_text_of_the_study_stays_text() -> None:
    study = _hand_study()
    page = files(study, find(study))["report.html"].decode()
    assert "4 sessions of made-up bars" in _words(page)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_the_digest_of_the_policy_stands_in_both_files(study: Study, findings: Findings) -> None:
    written = files(study, findings, policy_sha256="c0ffee" * 10)
    assert decode(written["report.json"]).policy_sha256 == "c0ffee" * 10
    assert ("c0ffee" * 10).encode() in written["report.html"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chosen": (0,)}, "2 folds and 1 chosen"),
        ({"chosen": (0, 1)}, "fold 1 is trial 1, which is not of that fold"),
        (
            {"scenarios": {"one bar late": (Played((_session("2024-01-09", 1.0),)),)}},
            "one bar late was played on other",
        ),
        ({"format": 99}, "has format 99, expected 1"),
        ({"chosen": (1, 4)}, "the chosen trial of fold 0 is of reward potential and seed 2; expected the one"),
        ({"reward": "reference"}, "is of reward potential"),
        ({"folds": (_hand_study().folds[0],) * 2}, "spans of fold 1 overlap"),
        (
            {"folds": (Fold(("2024-01-05",), ("2024-01-05",), ("2024-01-09", "2024-01-10")), _hand_study().folds[1])},
            "spans of fold 0 overlap",
        ),
        ({"folds": (Fold((), ("2024-01-05",), ("2024-01-09",)), _hand_study().folds[1])}, "fold 0 has an empty span"),
    ],
)
def test_a_study_whose_parts_do_not_fit_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        find(msgspec.structs.replace(_hand_study(), **change))


@given(st.floats(-1e4, 1e4), st.floats(1e-6, 1e4))
def test_ticks_are_few_and_always_inside(low: float, width: float) -> None:
    found = plots.ticks(low, low + width)
    slack = 1e-6 * width
    assert all(low - slack <= value <= low + width + slack for value in found)
    assert 1 <= len(found) <= 8


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=7))
def test_labels_never_overlap_and_never_leave_the_plot(wanted: list[float]) -> None:
    placed = sorted(plots.apart(wanted, 13.0, 0.0, 100.0))
    assert placed[0] >= -1e-9
    assert placed[-1] <= 100.0 + 1e-9
    assert all(after - before >= 13.0 - 1e-9 for before, after in pairwise(placed))
