"""Time within a session: minutes to a deadline, New York wall time for configured windows. Pure, from integers.

Sessions themselves come as events (`SessionScheduled`); nothing here knows a calendar.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from daemon.core.limits import Execution
from strategies.kit.contract import MINUTES, Grid, Session
from strategies.kit.units import MINUTE_NS, SECOND_NS

LATER = "9999-12-31"  # an expiry after any session
SATURDAY = 5  # as `date.weekday` counts
OPENS_MIN, CLOSES_MIN = 9 * 60 + 30, 16 * 60  # a full session, in minutes of New York's day

NEW_YORK = ZoneInfo("America/New_York")
_WINDOW = re.compile(r"(\d\d):([0-5]\d)-(\d\d):([0-5]\d)", re.ASCII)


def as_traded(session: Session, running: Session | None) -> Session:
    """Return a calendar's session as the state has it: where it is `running`, with the market's close."""
    return running if running is not None and running.date == session.date else session


def minutes_to(deadline_ns: int, now_ns: int) -> float:
    """Return the minutes from now to the deadline, negative when it has passed."""
    return (deadline_ns - now_ns) / MINUTE_NS


_LAST_NS = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp()) * SECOND_NS


def new_york_minute(now_ns: int) -> int:
    """Return the minute of the New York day, 0 to 1439."""
    local = datetime.fromtimestamp(now_ns // SECOND_NS, UTC).astimezone(NEW_YORK)
    return local.hour * 60 + local.minute


def new_york_date(time_ns: int) -> date:
    """Return the New York date."""
    return datetime.fromtimestamp(time_ns // SECOND_NS, UTC).astimezone(NEW_YORK).date()


def weekdays_after(day: date, count: int) -> date:
    """Return the date that comes so many weekdays later."""
    for _ in range(count):
        day += timedelta(days=1)
        while day.weekday() >= SATURDAY:
            day += timedelta(days=1)
    return day


def new_york_text(time_ns: int) -> str:
    """Return the New York wall time, to the second; for a time outside of any calendar, its last day."""
    local = datetime.fromtimestamp(min(time_ns, _LAST_NS) // SECOND_NS, UTC).astimezone(NEW_YORK)
    return local.strftime("%Y-%m-%d %H:%M:%S")


def week_of(day: str) -> tuple[int, int]:
    """Return year and number of the ISO week, which begins on Monday, of a date such as "2024-07-01"."""
    year, week, _ = date.fromisoformat(day).isocalendar()
    return year, week


def parse_window(window: str) -> tuple[int, int]:
    """Parse `"HH:MM-HH:MM"` as minutes of the day, start before end, at most 24:00. Raises ValueError otherwise."""
    match = _WINDOW.fullmatch(window)
    if match is not None:
        hour, minute, last_hour, last_minute = map(int, match.groups())
        first, last = hour * 60 + minute, last_hour * 60 + last_minute
        if first < last <= 24 * 60:
            return first, last
    raise ValueError(f"window {window!r}: start must lie before end within one day, as in '12:00-13:00'")


def in_window(minute: int, window: str) -> bool:
    """Return True when the minute of the day lies in [start, end) of the window."""
    first, last = parse_window(window)
    return first <= minute < last


def expires_by_close(session: Session, expiry: str) -> bool:
    """Return True for an expiry on this session's date or earlier; "" stands for shares."""
    return "" < expiry <= session.date


def flatten_from_ns(session: Session, expiry: str, execution: Execution, grid: Grid = MINUTES) -> int:
    """Return when the exit for the flat-before-close rule is sent: earlier for contracts that expire today.

    It is the last close of a bar of the grid that leaves the time: a tape has no other times, and a live desk leaves at
    the same minute. On a contract's last day it is a minute before the close at the latest.
    """
    latest_ns = session.close_ns - MINUTE_NS if expires_by_close(session, expiry) else session.close_ns
    from_ns = min(flat_by_ns(session, expiry, execution) - execution.flatten_lead_min * MINUTE_NS, latest_ns)
    return grid.at(from_ns, session)[0] if from_ns > session.open_ns else from_ns


def flat_by_ns(session: Session, expiry: str, execution: Execution) -> int:
    """Return when every position of this expiry, "" for shares, must be flat."""
    minutes = execution.expiry_day_flat_min if expires_by_close(session, expiry) else execution.flat_before_close_min
    return session.close_ns - minutes * MINUTE_NS


def bar_end_ns(start_ns: int, length_ns: int, session: Session | None) -> int:
    """Return the end of a bar: the last one of the session ends with it."""
    if session is None or not session.open_ns <= start_ns < session.close_ns:
        return start_ns + length_ns
    return min(start_ns + length_ns, session.close_ns)
