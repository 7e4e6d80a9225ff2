"""Deadlines and New York wall time, with expected values from the exchange's calendar and known UTC offsets."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from daemon.core.limits import Execution
from daemon.core.session import (
    flat_by_ns,
    flatten_from_ns,
    in_window,
    minutes_to,
    new_york_minute,
    new_york_text,
    parse_window,
)
from strategies.kit.contract import MINUTES, Grid, Session
from tests.support.core.desk import HALF_DAY, MINUTE, MONDAY, TUESDAY


def utc(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000_000


def test_the_scenarios_sessions_are_at_their_real_hours() -> None:
    assert MONDAY.open_ns == utc("2024-07-01T13:30:00")
    assert HALF_DAY.close_ns == utc("2024-07-03T17:00:00")  # 13:00 in New York


def test_minutes_to_a_deadline_turn_negative_when_it_has_passed() -> None:
    assert minutes_to(10 * MINUTE, 4 * MINUTE) == 6.0
    assert minutes_to(10 * MINUTE, 11 * MINUTE + MINUTE // 2) == -1.5


@pytest.mark.parametrize(
    ("moment", "hour", "minute"),
    [
        ("2024-03-08T14:30:00", 9, 30),  # the Friday before the clocks go forward: UTC-5
        ("2024-03-11T13:30:00", 9, 30),  # the Monday after it: UTC-4
        ("2024-11-01T13:30:00", 9, 30),
        ("2024-11-04T14:30:00", 9, 30),
        ("2024-07-01T04:00:00", 0, 0),
        ("2024-07-01T03:59:59", 23, 59),
    ],
)
def test_new_york_time_follows_daylight_saving_in_both_weeks(moment: str, hour: int, minute: int) -> None:
    assert new_york_minute(utc(moment)) == hour * 60 + minute


@pytest.mark.parametrize(
    ("window", "minutes"), [("12:00-13:00", (720, 780)), ("00:00-24:00", (0, 1440)), ("09:05-09:06", (545, 546))]
)
def test_a_window_is_minutes_of_the_day(window: str, minutes: tuple[int, int]) -> None:
    assert parse_window(window) == minutes


@pytest.mark.parametrize(
    "window",
    ["", "noon", "12:00", "13:00-12:00", "12:00-12:00", "23:00-24:01", "12:75-13:00", "9:30-10:00", "-1:00-01:00",
     "12:00-13:00-14:00", "12:00 - 13:00"],
)  # fmt: skip
def test_a_window_that_makes_no_sense_is_refused_with_an_example(window: str) -> None:
    with pytest.raises(ValueError, match="as in '12:00-13:00'"):
        parse_window(window)


def test_a_window_begins_with_its_first_minute_and_ends_before_its_last() -> None:
    assert [in_window(minute, "12:00-13:00") for minute in (719, 720, 779, 780)] == [False, True, True, False]


def test_a_position_is_flat_five_minutes_before_the_close_and_its_exit_goes_out_two_minutes_earlier() -> None:
    rules = Execution()
    assert flat_by_ns(MONDAY, TUESDAY.date, rules) == utc("2024-07-01T19:55:00")
    assert flatten_from_ns(MONDAY, TUESDAY.date, rules) == utc("2024-07-01T19:53:00")


@pytest.mark.parametrize(
    ("bar_min", "day", "expected"),
    [
        (5, MONDAY, "2024-07-01T19:50:00"),  # 15:50 in New York: the next close, 15:55, is after 15:53
        (15, MONDAY, "2024-07-01T19:45:00"),
        (60, MONDAY, "2024-07-01T19:30:00"),  # hours from 9:30 on: 15:30
        (60, HALF_DAY, "2024-07-03T16:30:00"),  # to 12:53: 12:30
    ],
)
def test_a_desk_of_wide_bars_leaves_at_the_last_close_before_the_deadline(
    bar_min: int, day: Session, expected: str
) -> None:
    assert flatten_from_ns(day, "2024-07-05", Execution(), Grid(bar_min * MINUTES.length_ns)) == utc(expected)


def test_without_any_minutes_a_contract_s_last_day_ends_a_minute_before_the_close() -> None:
    no_minutes = Execution(flat_before_close_min=0, flatten_lead_min=0, expiry_day_flat_min=0)
    assert flatten_from_ns(MONDAY, MONDAY.date, no_minutes) == utc("2024-07-01T19:59:00")
    assert flatten_from_ns(MONDAY, TUESDAY.date, no_minutes) == utc("2024-07-01T20:00:00")


def test_half_days_have_their_own_deadline() -> None:
    assert flat_by_ns(HALF_DAY, "2024-07-05", Execution()) == utc("2024-07-03T16:55:00")


@pytest.mark.parametrize("expiry", ["2024-07-01", "2024-06-28"])
def test_what_expires_today_or_should_have_expired_is_left_an_hour_before_the_close(expiry: str) -> None:
    assert flat_by_ns(MONDAY, expiry, Execution()) == utc("2024-07-01T19:00:00")
    assert flatten_from_ns(MONDAY, expiry, Execution()) == utc("2024-07-01T18:58:00")


def test_the_wall_time_of_new_york_is_shown_in_summer_and_winter() -> None:
    assert new_york_text(1_720_008_000 * 1_000_000_000) == "2024-07-03 08:00:00"  # 12:00 UTC
    assert new_york_text(1_733_236_200 * 1_000_000_000 + 999_999_999) == "2024-12-03 09:30:00"  # 14:30 UTC


def test_a_time_that_no_calendar_has_is_shown_as_the_last_day() -> None:
    """A pause of a billion years ends then; who looks at it is told, and not refused."""
    assert new_york_text(10**24) == "9999-12-30 19:00:00"
