"""What is told of the risk overlay at a decision: each case of its row, and a journal from before it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.core.records import OverlayRow
from daemon.journal.journal import READ_MODELS
from daemon.journal.reader import JournalReader
from daemon.reports.decision import overlay_words

ROW = OverlayRow(
    decision=7,
    time_ns=1,
    forecast="ewma",
    target=0.12,
    volatility=0.24,
    cap=0.5,
    asked=0.99,
    allowed=0.4975,
    cut=json.dumps({"SPY": [1200, 600]}),
    unknown="",
)


def sentences_of(tmp_path: Path, row: OverlayRow) -> tuple[str, ...]:
    db = sqlite3.connect(tmp_path / "journal.sqlite")
    db.row_factory = sqlite3.Row
    db.execute(READ_MODELS["overlays"].create)
    db.execute(READ_MODELS["overlays"].insert(1), msgspec.structs.astuple(row))
    return overlay_words(JournalReader(tmp_path / "journal.sqlite", db), 7)


@pytest.mark.parametrize(
    ("change", "first", "third"),
    [
        (
            {},
            "At most 50.00% of the equity may be invested = target 12.00% / forecast 24.00% (ewma).",
            "Cut: SPY 1,200 to 600 shares.",
        ),
        (
            {"volatility": 0.1, "cap": 1.0, "cut": "{}"},
            "At most 100.00% of the equity may be invested: forecast 10.00% (ewma) is not above the target 12.00%.",
            "Nothing was cut.",
        ),
        (
            {"volatility": None, "cap": None, "unknown": "equity is 0 USD"},
            "The volatility of what is asked for is not known, so nothing is bought: equity is 0 USD.",
            "Cut: SPY 1,200 to 600 shares.",
        ),
        (
            {"volatility": None, "cap": 1.0, "cut": "{}"},
            "Nothing is to be held, so nothing is capped.",
            "Nothing was cut.",
        ),
    ],
)
def test_each_case_has_its_sentences(change: dict[str, Any], first: str, third: str, tmp_path: Path) -> None:
    words = sentences_of(tmp_path, msgspec.structs.replace(ROW, **change))
    assert words == (first, "Asked for: 99.00% of the equity; allowed: 49.75% of the equity.", third)


def test_a_journal_from_before_the_overlay_tells_nothing(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "journal.sqlite")
    db.execute("CREATE TABLE decisions (decision INTEGER)")
    assert overlay_words(JournalReader(tmp_path / "journal.sqlite", db), 7) == ()
