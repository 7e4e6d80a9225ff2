"""Which version with a card is proposed next."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from daemon.core.handlers import JUDGED_MAX
from daemon.models.ladder.cards import newest_with_card
from strategies.kit.card import CARD_FILE
from strategies.kit.manifest import MANIFEST_FILE

SHELF = "online_dqn"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Versions v0, v1, …: one more than the journal remembers, each card a second younger than the one before."""
    for number in range(JUDGED_MAX + 1):
        folder = tmp_path / SHELF / f"v{number}"
        folder.mkdir(parents=True)
        for name in (MANIFEST_FILE, CARD_FILE):
            (folder / name).touch()
        os.utime(folder / CARD_FILE, (number, number))
    return tmp_path


def test_the_newest_card_of_a_version_that_is_none_of_the_known_comes_next(store: Path) -> None:
    last = JUDGED_MAX
    assert newest_with_card(store, SHELF, (), ()) == f"v{last}"
    assert newest_with_card(store, SHELF, (f"v{last}",), (f"v{last - 1}",)) == f"v{last - 2}"


def test_a_version_that_the_journal_has_forgotten_is_not_proposed_for_ever(store: Path) -> None:
    versions = tuple(f"v{number}" for number in range(1, JUDGED_MAX + 1))
    assert newest_with_card(store, SHELF, versions[1:], ()) == "v1"
    assert newest_with_card(store, SHELF, versions, ()) == ""  # v0 was judged before all of these
    assert newest_with_card(store, SHELF, versions[:-1] + ("gone",), ()) == versions[-1]


def test_a_card_of_a_time_to_come_keeps_no_later_version_from_the_ladder(store: Path) -> None:
    judged = tuple(f"v{number}" for number in range(JUDGED_MAX))
    ahead_s = time.time() + 365 * 24 * 3600
    for version, at in ((judged[-1], ahead_s), (f"v{JUDGED_MAX}", time.time())):
        os.utime(store / SHELF / version / CARD_FILE, (at, at))
    assert newest_with_card(store, SHELF, judged, ()) == f"v{JUDGED_MAX}"
    forgotten = (*judged[:-1], f"v{JUDGED_MAX}")
    assert newest_with_card(store, SHELF, forgotten, ()) == ""  # that one was judged: it does not come again
