"""The calendar of a file of bars."""

from __future__ import annotations

from daemon.host.time.calendar import SessionCalendar
from training.rl.pool import stop_signals_blocked


def calendar_of(first_date: str, last_date: str) -> SessionCalendar:
    """Return the sessions between two New York dates, both included. Raises CalendarError.

    The calendar asks a process of its own, which Ctrl-C would end: stop signals wait until it has answered.
    """
    with stop_signals_blocked():
        return SessionCalendar.load(first_date, last_date)
