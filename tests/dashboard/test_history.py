"""The observation of any decision comes back exactly as the policy saw it, whichever is asked for first."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from daemon.dashboard.desks import FollowedDesk
from daemon.dashboard.pages import history as module
from daemon.dashboard.pages.history import DecisionHistory, Lookup
from daemon.journal.journal import FILE
from tests.support.dashboards import LIMIT_S, Played, Served
from tests.support.desks.desk_run import execute


@pytest.fixture
def history(replay: Played) -> Iterator[DecisionHistory]:
    with ThreadPoolExecutor(1) as pool:
        yield _history(replay.path, pool)


def _history(path: Path, pool: ThreadPoolExecutor) -> DecisionHistory:
    desk = FollowedDesk("desk", path)
    desk.look()
    return DecisionHistory(desk, pool)


def sought(history: DecisionHistory, decision: int) -> Lookup:
    """Ask until it is found."""
    end = time.monotonic() + LIMIT_S
    while (lookup := history.find(decision)).pending:
        assert time.monotonic() < end, f"decision {decision} is pending for ever"
        time.sleep(0.01)
    return lookup


def digits(lookup: Lookup) -> str:
    """What the journal writes for an observation."""
    assert lookup.observation is not None, lookup.missing
    return hashlib.sha256(lookup.observation.data + lookup.observation.hidden).hexdigest()[:16]


def journaled(replay: Played) -> dict[int, str]:
    """Each question's decision and the digits of its observation, from the events' effects."""
    rows = replay.sql("SELECT effects FROM events WHERE effects LIKE '%AskPolicy%'")
    questions = [effect for row in rows for effect in json.loads(row["effects"]) if effect["type"] == "AskPolicy"]
    return {effect["decision"]: effect["observation"] for effect in questions}


def test_an_observation_is_the_one_whose_digest_the_journal_holds(history: DecisionHistory, replay: Played) -> None:
    expected = journaled(replay)
    numbers = sorted(expected)
    for decision in (numbers[-1], numbers[0], numbers[len(numbers) // 2], numbers[1], numbers[-2]):
        assert digits(sought(history, decision)) == expected[decision]


def test_its_newest_row_is_the_one_of_the_read_model(history: DecisionHistory, replay: Played) -> None:
    row = replay.sql("SELECT decision, row FROM decisions WHERE kind = 'policy' ORDER BY decision DESC LIMIT 1")[0]
    lookup = sought(history, row["decision"])
    assert lookup.observation is not None
    assert lookup.observation.data[-len(row["row"]) :] == row["row"]


def test_a_number_that_no_question_has_is_said_to_be_missing(history: DecisionHistory, replay: Played) -> None:
    rules = replay.sql("SELECT decision FROM decisions WHERE kind = 'rule'")
    for number in [row["decision"] for row in rules[:1]] + [10**6]:
        assert "no question" in sought(history, number).missing


def test_anchors_and_observations_stay_bounded(replay: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANCHORS_MOST", 2)
    monkeypatch.setattr(module, "KEPT", 20)
    with ThreadPoolExecutor(1) as pool:
        history = _history(replay.path, pool)
        expected = journaled(replay)
        for decision in sorted(expected)[::60]:
            assert digits(sought(history, decision)) == expected[decision]
        assert len(history._anchors) <= 2
        assert len(history._lookups) <= 20


def test_a_journal_that_other_code_wrote_is_missing_and_not_wrong(replay: Played, tmp_path: Path) -> None:
    copy = tmp_path / "desk"
    copy.mkdir()
    (copy / FILE).write_bytes((replay.path / FILE).read_bytes())
    execute(copy, "DELETE FROM snapshots")
    execute(copy, 'UPDATE events SET effects = replace(effects, \'"observation":"\', \'"observation":"x\')')
    decision = min(journaled(replay))
    with ThreadPoolExecutor(1) as pool:
        lookup = sought(_history(copy, pool), decision)
    assert lookup.observation is None
    assert "its effects differ" in lookup.missing
    assert str(tmp_path) not in lookup.missing


def test_the_page_of_a_decision_shows_all_cells(served: Served, replay: Played) -> None:
    number = max(journaled(replay))
    page = served.computed(f"/api/decision/{number}")
    assert not page["missing"]
    assert (len(page["rows"]), {len(row) for row in page["rows"]}, len(page["features"])) == (20, {23}, 23)
    assert page["contribution"]["method"] == "occlusion"
    assert (len(page["contribution"]["cells"]), len(page["contribution"]["features"])) == (20, 23)
