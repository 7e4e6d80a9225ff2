"""New York sessions as integers: the one place that uses exchange_calendars.

Holidays, half days and daylight saving are in the sessions; nothing else computes them. Dates past the calendar's
horizon are unknown and refused. The library runs in a process of its own (this module as a program), once for each
first year: it loads pandas, 90 MB that the daemon would hold for ever. Its answer is kept for the day in the user's
cache folder ($CACHE_DIRECTORY, $XDG_CACHE_HOME or ~/.cache), so that the next start does not ask again.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
from msgspec.structs import replace

from daemon.host.own_files import open_own, open_own_folder
from daemon.host.whole_files import write_whole
from rltrader import module_command
from strategies.kit.contract import Session
from strategies.kit.units import SECOND_NS

NEW_YORK = ZoneInfo("America/New_York")
SESSIONS_AROUND = 8  # sessions returned before and after a session
ANSWER_S = 600  # the library needs 0.5 s; a busy machine may need a minute
_MARGIN_DAYS = 30  # calendar days that certainly include SESSIONS_AROUND sessions


class CalendarError(Exception):
    """The calendar does not cover the date, or there was no session. The message names the date and the calendar's
    span."""


class SessionCalendar:
    """The sessions of the New York Stock Exchange over a span of dates, in order."""

    def __init__(self, sessions: tuple[Session, ...]) -> None:
        if not sessions:
            raise CalendarError("the calendar holds no session: expected at least one")
        self.sessions = sessions
        self._dates = [session.date for session in sessions]
        self._opens = [session.open_ns for session in sessions]

    @classmethod
    def load(cls, start_date: str, end_date: str) -> SessionCalendar:
        """Load the sessions from `start_date` to `end_date` (`YYYY-MM-DD`) with a margin for `around` at both ends.

        Raises CalendarError when a date is malformed, or `end_date` lies past the horizon (about a year from now).
        """
        first, last = _date(start_date), _date(end_date)
        if last < first:
            raise CalendarError(f"the first date, {start_date}, is after the last one, {end_date}: exchange them")
        margin = timedelta(days=_MARGIN_DAYS)
        begin, end = (first - margin).isoformat(), (last + margin).isoformat()
        sessions = _sessions_since((first - margin).year)
        if last.isoformat() > sessions[-1].date:
            raise CalendarError(f"no session is known after {sessions[-1].date}, {end_date} was asked for: {_CURE}")
        return cls(tuple(s for s in sessions if begin <= s.date <= end))

    @classmethod
    def to_horizon(cls, start_date: str) -> SessionCalendar:
        """Load all known sessions from a margin before `start_date`. Raises CalendarError for a malformed date."""
        begin = (_date(start_date) - timedelta(days=_MARGIN_DAYS)).isoformat()
        return cls(tuple(s for s in _sessions_since(int(begin[:4])) if s.date >= begin))

    def without(self, day: str) -> SessionCalendar:
        """Return this calendar without the session of `day`, which did not take place."""
        return SessionCalendar(tuple(session for session in self.sessions if session.date != day))

    def closed_by(self, close_times: Mapping[str, str]) -> SessionCalendar:
        """Return this calendar with earlier closes; `close_times` are New York's, `HH:MM` by date, others are ignored.

        An unreadable time, or one outside of the session, changes nothing.
        """
        return SessionCalendar(
            tuple([_closed_at(session, close_times.get(session.date, "")) for session in self.sessions])
        )

    def around(self, day: str) -> tuple[Session, tuple[Session, ...], tuple[Session, ...]]:
        """Return the session of `day` (`YYYY-MM-DD`), the next SESSIONS_AROUND, and the SESSIONS_AROUND before it, in
        order.

        Raises CalendarError when `day` is no session, or the calendar ends before the sessions after it: unknown dates
        are not traded. Before the calendar's first session there may be fewer.
        """
        index = self._index(day)
        upcoming = self.sessions[index + 1 : index + 1 + SESSIONS_AROUND]
        if len(upcoming) < SESSIONS_AROUND:
            raise CalendarError(
                f"the sessions after {day} are not known: expected {SESSIONS_AROUND}, found {len(upcoming)}, "
                f"the last known session is {self._dates[-1]}: {_CURE}"
            )
        return self.sessions[index], upcoming, self.sessions[max(0, index - SESSIONS_AROUND) : index]

    def at(self, now_ns: int) -> Session | None:
        """Return the session whose regular hours (open included, close excluded) hold `now_ns`; else None.

        Raises CalendarError before the first and after the last known session.
        """
        index = bisect_right(self._opens, now_ns) - 1
        if index < 0 or (index == len(self.sessions) - 1 and now_ns >= self.sessions[-1].close_ns):
            raise CalendarError(f"{_moment(now_ns)} is outside of the calendar: {self._span()}: {_CURE}")
        session = self.sessions[index]
        return session if now_ns < session.close_ns else None

    def next_after(self, now_ns: int) -> Session:
        """Return the first session that opens after `now_ns`. Raises CalendarError past the last known session."""
        index = bisect_right(self._opens, now_ns)
        if index == len(self.sessions):
            raise CalendarError(f"no session is known after {self._dates[-1]}: {_CURE}")
        return self.sessions[index]

    def _index(self, day: str) -> int:
        index = bisect_left(self._dates, day)
        if index == len(self._dates) or day < self._dates[0]:
            raise CalendarError(f"{day} is outside of the calendar: {self._span()}: {_CURE}")
        if self._dates[index] != day:
            raise CalendarError(f"{day} is no session: the next one is {self._dates[index]}")
        return index

    def _span(self) -> str:
        return f"the first known session is {self._dates[0]}, the last known session is {self._dates[-1]}"


_CURE = "load a span that holds it, or update exchange_calendars"


def _moment(now_ns: int) -> str:
    """Format a time; nanoseconds when outside of the years 1 to 9999."""
    try:
        return datetime.fromtimestamp(now_ns / 1e9, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{now_ns} ns"


@lru_cache(maxsize=4096)  # a history of days repeats the same ones
def midnight_ns(day: str) -> int:
    """Return midnight New York that begins `day` (`YYYY-MM-DD`), in nanoseconds UTC: the start of a one-day bar."""
    return int(datetime.combine(_date(day), datetime.min.time(), NEW_YORK).timestamp()) * SECOND_NS


def _closed_at(session: Session, close_time: str) -> Session:
    """Return the session with this earlier close, `HH:MM` in New York; unchanged if the time is not within it."""
    try:
        close = datetime.combine(_date(session.date), time.fromisoformat(close_time), NEW_YORK)
    except ValueError:
        return session
    close_ns = int(close.timestamp()) * SECOND_NS
    return replace(session, close_ns=close_ns) if session.open_ns < close_ns < session.close_ns else session


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise CalendarError(f"{text!r} is not a date: expected YYYY-MM-DD, such as 2024-07-03") from error


@lru_cache(maxsize=8)
def _sessions_since(year: int) -> tuple[Session, ...]:
    """Return all known sessions from the beginning of `year`. Raises CalendarError."""
    name = f"sessions-{version('exchange_calendars')}-{year}-{_today()}.json"
    sessions = _read_cache(name)
    if not sessions:
        sessions = _ask(year)
        _keep(name, sessions)
    return sessions


def _ask(year: int) -> tuple[Session, ...]:
    """Ask the library, in a process. Raises CalendarError."""
    program = module_command("daemon.host.time.calendar", f"{year}-01-01")
    try:
        process = subprocess.run(program, capture_output=True, text=True, check=False, timeout=ANSWER_S)
    except subprocess.TimeoutExpired:
        raise CalendarError(
            f"no session is known from {year}-01-01 on: the calendar's library gave no answer within {ANSWER_S} s: "
            "start again when the machine is less busy"
        ) from None
    if process.returncode != 0:
        lines = process.stderr.strip().splitlines() or ["no reason given"]
        raise CalendarError(f"no session is known from {year}-01-01 on ({lines[-1]}): {_CURE}")
    return msgspec.json.decode(process.stdout, type=tuple[Session, ...])


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def _cache_folder() -> Path:
    folder_text = os.environ.get("CACHE_DIRECTORY", "").split(":")[0] or os.environ.get("XDG_CACHE_HOME", "")
    return Path(folder_text or "~/.cache").expanduser() / "rltrader"


def _read_cache(name: str) -> tuple[Session, ...]:
    """Return today's cached sessions of this user; empty where there are none, or the file is odd."""
    try:
        folder = open_own_folder(_cache_folder())
        try:
            with os.fdopen(open_own(folder, name, os.O_RDONLY), "rb") as file:
                digest, _, data = file.read().partition(b"\n")
        finally:
            os.close(folder)
        return msgspec.json.decode(data, type=tuple[Session, ...]) if digest == _digest(data) else ()
    except (OSError, RuntimeError, ValueError):  # RuntimeError: a user without a home
        return ()


def _keep(name: str, sessions: tuple[Session, ...]) -> None:
    """Cache the sessions for today, and delete older files; without a cache the next start asks again."""
    with contextlib.suppress(OSError, RuntimeError):
        folder = _cache_folder()
        os.close(open_own_folder(folder, make_mode=0o700))
        for old in folder.glob("sessions-*.json"):
            if not old.name.endswith(f"-{_today()}.json"):
                old.unlink(missing_ok=True)
        data = msgspec.json.encode(sessions)
        write_whole(folder / name, _digest(data) + b"\n" + data, 0o600)


def _digest(data: bytes) -> bytes:
    return sha256(data).hexdigest().encode()


def main() -> None:
    """Print all sessions from the given date on as JSON, in order."""
    import exchange_calendars

    schedule = exchange_calendars.get_calendar("XNYS", start=sys.argv[1]).schedule
    opens = schedule["open"].dt.tz_localize(None).to_numpy().astype("datetime64[ns]").astype("int64").tolist()
    closes = schedule["close"].dt.tz_localize(None).to_numpy().astype("datetime64[ns]").astype("int64").tolist()
    sessions = tuple(map(Session, schedule.index.strftime("%Y-%m-%d").tolist(), opens, closes))
    sys.stdout.write(msgspec.json.encode(sessions).decode())


if __name__ == "__main__":
    main()
