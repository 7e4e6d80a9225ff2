"""A tape of three short sessions, its desk, and a state directory, for the tests of recovery, rotation and verify."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.desks.desk_run import Desk, stopped, tape_rows, write_tape


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tape(tmp_path_factory.mktemp("tape") / "tape.csv", tape_rows(3, 75))


@pytest.fixture(scope="module")
def desk(tape: Path) -> Desk:
    return Desk(tape)


@pytest.fixture
def half(desk: Desk, tmp_path: Path) -> Path:
    """Where the desk was stopped in the middle of its tape."""
    return stopped(desk, tmp_path / "half", 700)
