"""What all tests share: the folder of real market data, Hypothesis without a clock, where coverage is measured, and
which files come first.

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


LONGEST = (
    "chaos/desks/test_desks.py",
    "chaos/test_chaos.py",
    "process/live/test_session.py",
    "training/study/test_planted_market.py",
    "engine/test_crash.py",
    "training/runs/test_killed_runs.py",
    "training/runs/test_shared_processes.py",
    "process/live/daily/test_daily_desk.py",
    "training/runs/test_run.py",
    "training/cli/test_cli.py",
    "training/search/test_search_ray.py",
    "training/desks/daily/test_dry_run.py",
    "process/host/test_panic.py",
    "training/rl/test_cartpole.py",
    "process/live/daily/test_daily_stops.py",
    "process/live/daily/test_daily_splits.py",
    "training/search/test_search.py",
    "process/replay/test_daily_replay.py",
    "dashboard/test_pages.py",
)
"""Files of half a minute and more, the longest first: several processes then end together, because the last is short.
A file's tests stay together, so a new long file belongs here."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first; no test outside `COVERING` is traced."""
    first = {REPOSITORY / "tests" / name: place for place, name in enumerate(LONGEST)}
    if missing := [str(path) for path in first if not path.exists()]:
        raise pytest.UsageError(f"LONGEST in tests/conftest.py names files that are not there: {', '.join(missing)}")
    items.sort(key=lambda item: first.get(item.path, len(first)))
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
