"""Sessions that a recovered desk lacks: for the catch-up of any broker's feed."""

from __future__ import annotations

from daemon.brokers.api import Known
from daemon.host.time.calendar import SessionCalendar
from strategies.kit.contract import Session


def open_session(known: Known, calendar: SessionCalendar, now_ns: int) -> Session | None:
    """Return the session that the state has open after its hours: it must be finished first."""
    if not known.session_date or known.ended:
        return None
    sessions = (s for s in calendar.sessions if s.date == known.session_date and s.close_ns <= now_ns)
    return next(sessions, None)


def sessions_before(known: Known, calendar: SessionCalendar, now_ns: int) -> list[Session]:
    """Return the sessions before now that the state lacks, newest first."""
    past = [s for s in calendar.sessions if s.close_ns <= now_ns and s.date > known.session_date]
    return past[::-1]
