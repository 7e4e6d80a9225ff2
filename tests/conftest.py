"""What all tests share: the folder of real market data, and the New York calendar, loaded once.

Tests that need real data take `data_dir`: they are skipped where the folder is missing, and fail where it exists but
a file in it does not. Expected values never come from here.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data: RLTRADER_DATA, or ../shared/data beside the repository; skips where it is missing."""
    folder = Path(os.environ.get("RLTRADER_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs real data: set RLTRADER_DATA to its folder ({folder} does not exist)")
    return folder
