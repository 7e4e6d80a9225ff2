"""The forecaster's section: its figures are those of the study, and the claims stand beside them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import msgspec
import numpy as np
import pytest

from tests.support.planted.panels import moving, panel
from tests.support.training.page_words import page_words
from tests.support.training.studies import account_study
from training.evidence.findings import decode
from training.forecast.findings import KEY, Forecast, ForecasterFindings, find
from training.report import forecaster, report
from training.report.find import find as find_all
from training.study.study import Study


def found_of(*, planted: bool) -> ForecasterFindings:
    """Two years forecast by the truth, where there is one: 2012 is not tested."""
    material, truth = panel(3, symbols=4, planted=planted)
    if not planted:
        truth = np.random.default_rng(1).dirichlet((9.0, 9.0, 9.0), truth.shape[:2])
    years = []
    for year in (2012, 2013):
        days = [day for day, date in enumerate(material.dates) if date.startswith(str(year))]
        rows = np.array([[day, place] for day in days[:-1] for place in range(4)])
        probable = truth[tuple(rows.T)].astype(np.float32)
        years.append(Forecast(year, rows, probable, probable.max(axis=1), 1.25, 0))
    facts = {"parameters": 360_740, "members": 5, "confidence": "calibrated"}
    return find(material, moving(material, 0.02).bars, years, [2013], 0.0022, facts)


@pytest.fixture(scope="module")
def findings() -> ForecasterFindings:
    return found_of(planted=True)


@pytest.fixture(scope="module")
def study(findings: ForecasterFindings) -> Study:
    extra = {KEY: msgspec.to_builtins(findings), "decision_ms": {"1": 0.75, "20": 12.3}}
    extra["chosen"] = [{"sac": 0.25, "td3": 0.75, "threshold": 0.45}, {"sac": 1.0, "td3": 0.0, "threshold": 0.0}]
    return msgspec.structs.replace(account_study(), extra=extra)


@pytest.fixture(scope="module")
def page(study: Study) -> str:
    return report.files(study, find_all(study))["report.html"].decode()


def test_each_score_stands_with_its_interval_before_and_after_the_temperature(
    page: str, findings: ForecasterFindings
) -> None:
    words = page_words(page)
    assert findings.scores is not None
    scores = findings.scores
    for interval in (scores.after.accuracy, scores.after.base_rate):
        assert f"{interval.estimate:.1%} {interval.low:.1%} to {interval.high:.1%}".replace("%", " %") in words
    for name in ("log_loss", "brier", "expected_calibration_error"):
        before, after = getattr(scores.before, name), getattr(scores.after, name)
        text = f"{before.estimate:.3f} → {after.estimate:.3f} {after.low:.3f} to {after.high:.3f}"
        assert text in words
    assert findings.skill is not None
    for name, one in (
        ("Whether a price will move", findings.skill.moves),
        ("Which way, where it moved", findings.skill.sides),
    ):
        assert f"{name}: AUC {one.estimate:.3f} ({one.low:.3f} to {one.high:.3f})" in words
        assert f"{one.estimate:.3f} {one.low:.3f} to {one.high:.3f}" in words
    assert words.index("Which way, where it moved") < words.index("Accuracy ")  # accuracy is no skill of direction
    assert findings.figures is not None
    (hold, buy, sell), totals = findings.figures.confusion, np.array(findings.figures.confusion).sum(axis=0)
    for name, right, came, times in (
        ("HOLD", hold[0], hold, totals[0]),
        ("BUY", buy[1], buy, totals[1]),
        ("SELL", sell[2], sell, totals[2]),
    ):
        of = f"{right / times:.1%} {right / sum(came):.1%}".replace("%", " %")
        assert of in words[words.index("By class over the tested years") :], name
    change = scores.log_loss
    assert f"log loss {change.estimate:.4f} ({change.low:.4f} to {change.high:.4f})".replace("-", "−") in words
    assert "2012 not tested" in words
    assert "1 0.25 0.75 0.45 2 1.00 0.00 0.00" in words  # the weights of both agents and the threshold, by fold
    assert "5 networks of 360,740 parameters" in words
    assert page.count('href="#forecaster"') == 2  # of the contents, and of the section on confidence


def test_the_plots_and_the_confusion_are_there_and_well_formed(page: str, findings: ForecasterFindings) -> None:
    section = page[page.index('<section id="forecaster">') :]
    section = section[: section.index("</section>")]
    pictures = re.findall(r"<svg.*?</svg>", section, re.DOTALL)
    assert [ET.fromstring(one).attrib["aria-label"] for one in pictures] == [
        "rows predicted rightly", "Reliability by year", "Accuracy over coverage", "Profit of a trade over coverage",
        "Sum of profits over coverage",
    ]  # fmt: skip
    assert findings.figures is not None
    for counts in findings.figures.confusion:
        for count in counts:
            assert f">{count:,}" in section.replace("\n", "")
            assert count > 0


def test_claims_stand_beside_what_was_found_with_what_differs(page: str, findings: ForecasterFindings) -> None:
    words = page_words(page)
    assert findings.scores is not None
    accuracy = f"{findings.scores.after.accuracy.estimate:.1%}".replace("%", " %")
    assert f"accuracy on three classes 43 % {accuracy} (" in words
    assert "a decision below 50 ms on a GPU 0.8 ms for 1 symbol, 12.3 ms for 20 symbols" in words
    assert "parameters of the forecaster 19,843 360,740" in words
    assert "always naming the commonest class" in words
    assert "full history from 2010" in words


def test_the_figures_of_each_year_stand_in_the_file_of_figures(study: Study) -> None:
    figures = decode(report.files(study, find_all(study))["report.json"]).forecaster
    assert figures is not None
    assert [year["year"] for year in figures["years"]] == [2012, 2013]
    assert len(figures["years"][0]["figures"]["confusion"]) == 3


def test_whether_it_knows_more_than_the_commonest_class_is_in_words(findings: ForecasterFindings) -> None:
    assert "right more often than always naming the commonest class, beyond chance" in forecaster.judgement(findings)
    assert "no knowledge is shown" in forecaster.judgement(found_of(planted=False))
    nothing = msgspec.structs.replace(findings, scores=None, figures=None)
    assert "nothing is known" in forecaster.judgement(nothing)


def test_a_study_of_another_strategy_has_no_such_section() -> None:
    study = account_study()
    page = report.files(study, find_all(study))["report.html"].decode()
    assert 'id="forecaster"' not in page
    assert "accuracy on three classes 43 % –" in page_words(page)
