"""The page is one well-formed file that needs nothing else, and text from a study stays text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from msgspec.structs import replace

from tests.support.training.page_words import page_words
from tests.support.training.studies import example_study, hand_study
from training.evidence.findings import Findings, decode
from training.report.find import find
from training.report.report import files
from training.study.study import Study


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


def test_the_page_is_one_small_file_that_loads_nothing(page: str) -> None:
    assert len(page) < 600_000
    assert not re.search(r"<script|<link|<img|<iframe|src=|url\(|@import|https?:", page)


def test_the_first_sentence_of_a_verdict_stands_out_and_the_others_follow(study: Study, findings: Findings) -> None:
    html = files(study, replace(findings, verdict="Costs 1.5 % a year. Earned 2.5 %. So be it."))[
        "report.html"
    ].decode()
    assert re.search(r'<p class="verdict bad">Costs 1\.5\s% a year\.</p>\s*<p>Earned 2\.5\s%\. So be it\.</p>', html)
    alone = files(study, replace(findings, verdict="Earned nothing."))["report.html"].decode()
    assert '<p class="verdict bad">Earned nothing.</p>' in alone


def test_sessions_with_the_full_capital_each_have_no_drawdown_that_could_pass_100_percent(
    page: str, findings: Findings
) -> None:
    assert not findings.compounds
    table = page[page.index("net return, sum") : page.index("worst session")]
    assert "largest fall of that sum" in table
    assert "largest drawdown" not in table
    assert "it is no account's drawdown and may be above 100" in page


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


def test_made_up_bars_are_called_so_and_text_of_the_study_stays_text() -> None:
    study = hand_study()
    page = files(study, find(study))["report.html"].decode()
    assert "4 sessions of made-up bars" in page_words(page)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_stops_that_rest_in_the_dry_run_alone_are_called_so() -> None:
    plain = hand_study()
    rests = replace(plain, settings={**plain.settings, "resting_stops": True})
    words = "The market that the policy learned and was validated in has none."
    for study, there in ((plain, False), (rests, True)):
        assert (words in files(study, find(study))["report.html"].decode()) is there


def test_the_best_of_several_seeds_is_called_mostly_the_luckiest() -> None:
    study = hand_study()
    words = page_words(files(study, find(study))["report.html"].decode())
    assert "the seed with the best validation return, mostly the luckiest of the 3;" in words


def test_the_digest_of_the_policy_stands_in_both_files(study: Study, findings: Findings) -> None:
    contents = files(study, findings, policy_sha256="c0ffee" * 10)
    assert decode(contents["report.json"]).policy_sha256 == "c0ffee" * 10
    assert ("c0ffee" * 10).encode() in contents["report.html"]
