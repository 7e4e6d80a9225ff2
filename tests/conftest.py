"""What all tests share: the folder of real market data, Hypothesis without a clock, and where coverage is measured.

Tests that need real data take `data_dir`: they are skipped where the folder is missing, and fail where it exists but a
file in it does not. Expected values never come from here.
"""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

from tests.support.paths import REPOSITORY

hypothesis.settings.register_profile("rltrader", deadline=None, print_blob=True)  # no test asserts a wall-clock time
hypothesis.settings.load_profile("rltrader")

COVERING = (REPOSITORY / "tests" / "core", REPOSITORY / "tests" / "strategies")
"""The tests whose coverage counts: those that test the pure code for its own sake. Tracing nearly doubles its cost."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Trace no test outside `COVERING`."""
    for item in items:
        if not any(item.path.is_relative_to(folder) for folder in COVERING):
            item.add_marker(pytest.mark.no_cover)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data: RLTRADER_DATA, or ../shared/data beside the repository; skips where it is missing."""
    folder = Path(os.environ.get("RLTRADER_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs real data: set RLTRADER_DATA to its folder ({folder} does not exist)")
    return folder
