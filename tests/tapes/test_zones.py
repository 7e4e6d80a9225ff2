"""Times that are hours off are found; files with bars around the session are left in peace."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.host.time.calendar import SessionCalendar
from daemon.tapes.zones import hours_off

HEADER = "symbol,timestamp,open,high,low,close,volume"
OPEN_S = 1_719_927_000  # 2024-07-02T13:30:00Z
DAY_S = 86_400


def tape(path: Path, first_min: int, last_min: int, hours: int = 0) -> Path:
    """Bars of SPY on 2 and 5 July 2024, whole sessions, by minutes after the open; their times `hours` later."""
    rows = [
        f"SPY,{(OPEN_S + day * DAY_S + minute * 60 + hours * 3600) * 10**9},10,12,9,11,100"
        for day in (0, 3)
        for minute in range(first_min, last_min)
    ]
    path.write_text("\n".join((HEADER, *rows)) + "\n")
    return path


@pytest.mark.parametrize("hours", [-5, -4, -1, 1, 4, 8])
def test_the_hours_by_which_a_file_is_off_are_found(tmp_path: Path, hours: int) -> None:
    calendar = SessionCalendar.load("2024-07-02", "2024-07-05")
    assert hours_off(tape(tmp_path / "t.csv", 0, 390, hours), ("SPY",), calendar) == -hours


def test_bars_before_and_after_the_session_are_no_wrong_zone(tmp_path: Path) -> None:
    calendar = SessionCalendar.load("2024-07-02", "2024-07-05")
    assert hours_off(tape(tmp_path / "t.csv", -330, 630), ("SPY",), calendar) == 0
    assert hours_off(tape(tmp_path / "t.csv", -60, 390), ("SPY",), calendar) == 0
    assert hours_off(tape(tmp_path / "t.csv", 0, 390), ("QQQ",), calendar) == 0
