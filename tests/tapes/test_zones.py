"""Times that are hours off are found; files with bars around the session are left in peace."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.host.time.calendar import SessionCalendar
from daemon.tapes.zones import HalfHours, SessionsOff, half_hours, hours_off, sessions_off

HEADER = "symbol,timestamp,open,high,low,close,volume"
OPEN_S = 1_719_927_000  # 2024-07-02T13:30:00Z
DAY_S = 86_400


def tape(path: Path, first_min: int, last_min: int, hours: int = 0, right: tuple[int, ...] = ()) -> Path:
    """Bars of SPY on 2 and 5 July 2024, whole sessions, by minutes after the open; their times `hours` later.

    Or of the days after 2 July in `right` as they are, and of 8 and 9 July that many hours later.
    """
    days = dict.fromkeys(right, 0) | dict.fromkeys((6, 7) if right else (0, 3), hours)
    rows = [
        f"SPY,{(OPEN_S + day * DAY_S + minute * 60 + off * 3600) * 10**9},10,12,9,11,100"
        for day, off in days.items()
        for minute in range(first_min, last_min)
    ]
    path.write_text("\n".join((HEADER, *rows)) + "\n")
    return path


def halves_of(path: Path) -> HalfHours:
    return half_hours(path, ("SPY",))


@pytest.fixture(scope="module")
def calendar() -> SessionCalendar:
    return SessionCalendar.load("2024-07-02", "2024-07-09")


@pytest.mark.parametrize("hours", [-5, -4, -1, 1, 4, 8])
def test_the_hours_by_which_a_file_is_off_are_found(tmp_path: Path, hours: int, calendar: SessionCalendar) -> None:
    assert hours_off(halves_of(tape(tmp_path / "t.csv", 0, 390, hours)), calendar) == -hours


@pytest.mark.parametrize("hours", [-1, 1])
def test_sessions_that_are_one_hour_off_are_found_next_to_right_ones(
    tmp_path: Path, hours: int, calendar: SessionCalendar
) -> None:
    halves = halves_of(tape(tmp_path / "t.csv", 0, 390, hours, right=(0, 3)))
    assert hours_off(halves, calendar) == 0
    assert sessions_off(halves, calendar) == SessionsOff(-hours, 2, "2024-07-08", "2024-07-09")
    short = halves_of(tape(tmp_path / "short.csv", 0, 210, hours))
    assert sessions_off(short, calendar) is None  # no whole sessions, wherever they lie


@pytest.mark.parametrize(("first_min", "last_min"), [(-330, 630), (-60, 390), (-60, 330), (0, 450), (0, 390)])
def test_bars_before_and_after_the_session_are_no_wrong_zone(
    tmp_path: Path, first_min: int, last_min: int, calendar: SessionCalendar
) -> None:
    halves = halves_of(tape(tmp_path / "t.csv", first_min, last_min))
    assert hours_off(halves, calendar) == (1 if last_min == 330 else 0)
    assert (sessions_off(halves, calendar) is None) == (last_min != 330)  # the very rows of sessions one hour early
    assert hours_off(half_hours(tmp_path / "t.csv", ("QQQ",)), calendar) == 0
