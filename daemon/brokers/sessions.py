"""Which sessions a recovered desk lacks: for the catch-up of any broker's feed."""

from __future__ import annotations

from daemon.brokers.api import Known
from daemon.host.time.calendar import SessionCalendar
from strategies.kit.contract import Session


def open_session(known: Known, calendar: SessionCalendar, now_ns: int) -> Session | None:
    """The session that the state has open although its hours are over: it has to be finished first."""
    if not known.session_date or known.ended:
        return None
    found = (s for s in calendar.sessions if s.date == known.session_date and s.close_ns <= now_ns)
    return next(found, None)


def sessions_before(known: Known, calendar: SessionCalendar, now_ns: int) -> list[Session]:
    """Sessions that ended before now, the newest first, back to where the state has all of it already."""
    past = [s for s in calendar.sessions if s.close_ns <= now_ns and s.date > known.session_date]
    return past[::-1]
