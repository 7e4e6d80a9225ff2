"""The New York calendar against facts of the exchange, written by hand in UTC: half days, holidays, clock changes."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from daemon.host.time.calendar import CalendarError, SessionCalendar, midnight_ns
from strategies.kit.contract import Session
from tests.support.paths import REPOSITORY


def utc_ns(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 10**9


@pytest.fixture(scope="module")
def year() -> SessionCalendar:
    return SessionCalendar.load("2024-01-02", "2024-12-31")


@pytest.mark.parametrize(
    ("day", "opens", "closes"),
    [
        ("2024-07-02", "2024-07-02T13:30", "2024-07-02T20:00"),  # summer time: UTC - 4
        ("2024-01-03", "2024-01-03T14:30", "2024-01-03T21:00"),  # winter time: UTC - 5
        ("2024-07-03", "2024-07-03T13:30", "2024-07-03T17:00"),  # the day before Independence Day closes at 13:00
        ("2024-11-29", "2024-11-29T14:30", "2024-11-29T18:00"),  # the day after Thanksgiving
        ("2024-12-24", "2024-12-24T14:30", "2024-12-24T18:00"),  # Christmas Eve
        ("2024-03-08", "2024-03-08T14:30", "2024-03-08T21:00"),  # the Friday before the clocks go forward
        ("2024-03-11", "2024-03-11T13:30", "2024-03-11T20:00"),  # the Monday after
        ("2024-11-01", "2024-11-01T13:30", "2024-11-01T20:00"),  # the Friday before the clocks go back
        ("2024-11-04", "2024-11-04T14:30", "2024-11-04T21:00"),  # the Monday after
    ],
)
def test_a_session_has_the_hours_the_exchange_published(
    year: SessionCalendar, day: str, opens: str, closes: str
) -> None:
    session, _, _ = year.around(day)
    assert session == Session(day, utc_ns(opens), utc_ns(closes))


def test_2024_had_252_sessions(year: SessionCalendar) -> None:
    assert sum(session.date.startswith("2024") for session in year.sessions) == 252


@pytest.mark.parametrize(
    "holiday",
    [
        f"2024-{day}"
        for day in ("01-01", "01-15", "02-19", "03-29", "05-27", "06-19", "07-04", "09-02", "11-28", "12-25")
    ],
)
def test_a_holiday_is_no_session_and_the_error_names_the_next_one(year: SessionCalendar, holiday: str) -> None:
    with pytest.raises(CalendarError, match=f"{holiday} is no session: the next one is 2024-"):
        year.around(holiday)


def test_the_day_of_mourning_of_january_2025_is_no_session() -> None:
    dates = [session.date for session in SessionCalendar.load("2025-01-06", "2025-01-10").sessions]
    assert "2025-01-08" in dates
    assert "2025-01-09" not in dates
    assert "2025-01-10" in dates


def test_a_session_comes_with_the_eight_after_it_and_the_eight_before_it(year: SessionCalendar) -> None:
    _, upcoming, previous = year.around("2024-07-03")
    after = "2024-07-05 2024-07-08 2024-07-09 2024-07-10 2024-07-11 2024-07-12 2024-07-15 2024-07-16"
    before = "2024-06-20 2024-06-21 2024-06-24 2024-06-25 2024-06-26 2024-06-27 2024-06-28 2024-07-01 2024-07-02"
    assert " ".join(session.date for session in upcoming) == after
    assert [session.date for session in previous] == before.split()[1:]


def test_the_margin_gives_the_first_and_the_last_session_of_a_span_their_surroundings() -> None:
    for span in (SessionCalendar.load("2024-12-31", "2024-12-31"), SessionCalendar.load("2024-12-30", "2024-12-31")):
        session, upcoming, previous = span.around("2024-12-31")
        assert (session.date, len(upcoming), len(previous)) == ("2024-12-31", 8, 8)


def test_the_open_is_within_the_session_and_the_close_is_not(year: SessionCalendar) -> None:
    opens, closes = utc_ns("2024-07-03T13:30"), utc_ns("2024-07-03T17:00")
    half_day = Session("2024-07-03", opens, closes)
    assert year.at(opens) == half_day
    assert year.at(closes - 1) == half_day
    assert year.at(closes) is None
    assert year.at(opens - 1) is None


def test_the_session_after_a_half_day_before_a_holiday_is_two_days_later(year: SessionCalendar) -> None:
    assert year.next_after(utc_ns("2024-07-03T13:30")).date == "2024-07-05"


def test_past_the_last_known_session_the_calendar_refuses_and_names_it() -> None:
    week = SessionCalendar((Session("2024-07-02", 1_000, 2_000), Session("2024-07-03", 3_000, 4_000)))
    with pytest.raises(CalendarError, match="the last known session is 2024-07-03"):
        week.around("2024-07-05")
    with pytest.raises(CalendarError, match=r"expected 8, found 1, the last known session is 2024-07-03"):
        week.around("2024-07-02")
    with pytest.raises(CalendarError, match="the last known session is 2024-07-03"):
        week.at(4_000)
    with pytest.raises(CalendarError, match="no session is known after 2024-07-03"):
        week.next_after(3_000)
    with pytest.raises(CalendarError, match="the first known session is 2024-07-02"):
        week.at(999)


@pytest.mark.parametrize("at_ns", [(2**63 - 1) * 10**9, -(2**63) * 10**9, 253_402_300_800 * 10**9])
def test_a_time_of_no_year_is_outside_of_the_calendar_like_any_other(year: SessionCalendar, at_ns: int) -> None:
    with pytest.raises(CalendarError, match=f"{at_ns} ns is outside of the calendar"):
        year.at(at_ns)


def test_a_span_past_the_horizon_is_refused() -> None:
    with pytest.raises(CalendarError, match=r"no session is known after 20\d\d-\d\d-\d\d, 2099-01-01 was asked for"):
        SessionCalendar.load("2024-01-02", "2099-01-01")


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("2024-7-3", "2024-07-05", "'2024-7-3' is not a date: expected YYYY-MM-DD"),
        ("2024-07-05", "2024-07-03", "the first date, 2024-07-05, is after the last one"),
    ],
)
def test_a_span_that_is_none_is_refused(start: str, end: str, message: str) -> None:
    with pytest.raises(CalendarError, match=message):
        SessionCalendar.load(start, end)


def test_a_calendar_without_sessions_is_refused() -> None:
    with pytest.raises(CalendarError, match="expected at least one"):
        SessionCalendar(())


def test_midnight_in_new_york_is_four_hours_behind_in_summer_and_five_in_winter() -> None:
    assert midnight_ns("2024-07-03") == utc_ns("2024-07-03T04:00")
    assert midnight_ns("2024-01-03") == utc_ns("2024-01-03T05:00")


ASKS = """
from daemon.host.time.calendar import SessionCalendar
print(len(SessionCalendar.load('2024-01-02', '2024-12-31').sessions))
"""


def loaded(cache: Path, first: Path = REPOSITORY) -> int:
    """How many sessions a process of its own loads, with this cache folder; `first` comes before the libraries."""
    extra = {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": f"{first}:{REPOSITORY}"}
    run = [sys.executable, "-c", ASKS]
    return int(subprocess.run(run, env=os.environ | extra, capture_output=True, text=True, check=True).stdout)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder after a first start."""
    folder = tmp_path_factory.mktemp("kept")
    assert loaded(folder) > 252
    return folder


@pytest.fixture
def no_library(tmp_path: Path) -> Path:
    """A folder in which exchange_calendars cannot be imported: who asks it fails."""
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "exchange_calendars.py").write_text("raise SystemExit('asked')")
    return tmp_path / "none"


def test_the_second_start_of_a_day_does_not_ask_the_library_again(cache_dir: Path, no_library: Path) -> None:
    (file,) = (cache_dir / "rltrader").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert loaded(cache_dir, no_library) > 252


@pytest.mark.parametrize("spoilt", ["cut", "empty", "link", "writable", "another digit", "no text"])
def test_what_is_odd_in_the_cache_is_not_read(cache_dir: Path, tmp_path: Path, no_library: Path, spoilt: str) -> None:
    shutil.copytree(cache_dir, tmp_path / "cache")
    (file,) = (tmp_path / "cache" / "rltrader").iterdir()
    whole = file.read_bytes()
    if spoilt == "link":
        file.rename(tmp_path / "elsewhere.json")
        file.symlink_to(tmp_path / "elsewhere.json")
    elif spoilt == "writable":
        file.parent.chmod(0o777)
    elif spoilt in ("another digit", "no text"):  # one bit of a session's close, and of its date
        flipped = bytearray(whole)
        at, bit = (whole.rindex(b"0000000") - 1, 0x01) if spoilt == "another digit" else (whole.rindex(b"20"), 0x80)
        flipped[at] ^= bit
        file.write_bytes(flipped)
    else:
        file.write_bytes(whole[:-5] if spoilt == "cut" else b"[]")
    with pytest.raises(subprocess.CalledProcessError, match="exit status 1"):
        loaded(tmp_path / "cache", no_library)


def test_without_a_place_for_the_cache_the_library_is_asked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert loaded(tmp_path / "file") > 252


def test_only_the_files_of_today_are_kept(tmp_path: Path) -> None:
    old = tmp_path / "rltrader" / "sessions-4.0-2023-2024-02-01.json"
    old.parent.mkdir(mode=0o700)
    old.touch()
    loaded(tmp_path)
    assert not old.exists()


@pytest.mark.parametrize(
    ("told", "minutes"), [("13:00", 210), ("16:00", 390), ("18:00", 390), ("09:00", 390), ("x", 390), ("", 390)]
)
def test_a_close_that_the_broker_tells_counts_where_it_is_earlier(told: str, minutes: int) -> None:
    days = SessionCalendar.load("2024-07-01", "2024-07-05").closed_by({"2024-07-01": told, "2024-07-04": "13:00"})
    week = [day for day in days.sessions if "2024-07-01" <= day.date <= "2024-07-04"]
    assert [(day.close_ns - day.open_ns) // 60_000_000_000 for day in week] == [minutes, 390, 210]
