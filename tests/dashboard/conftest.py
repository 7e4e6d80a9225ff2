"""A desk that traded bundled minutes, and the dashboard of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.support.browser import chromium
from tests.support.dashboards import Played, Served, serving
from tests.support.desks.desk_run import Desk, tape_rows, write_tape

SESSIONS, BARS = 2, 150


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A desk on three stub sessions and two that trade."""
    return Desk(write_tape(tmp_path_factory.mktemp("tape") / "tape.csv", tape_rows(SESSIONS, BARS)))


@pytest.fixture(scope="session")
def replay(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """The tape played to its end, the daemon stopped."""
    path = tmp_path_factory.mktemp("played") / "desk"
    run = desk.run(path)
    assert run.failure is None
    return Played(path, tape_rows(SESSIONS, BARS))


@pytest.fixture(scope="session")
def served(replay: Played) -> Iterator[Served]:
    """A dashboard of the played desk."""
    with serving(replay.path) as dashboard:
        yield dashboard


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium for the pages of one file."""
    with chromium() as browser:
        yield browser
