"""A dry run that was played once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.library_runs import play


@pytest.fixture(scope="session")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its state directory, which no test changes."""
    return play(tmp_path_factory.mktemp("library"))
