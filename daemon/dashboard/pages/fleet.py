"""The page of all desks: a line for each, from its state at the newest event, and the totals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from daemon.dashboard.desks import Picture
from daemon.dashboard.newest import raised_on
from daemon.operator.fleet import Fleet, fleet_of
from daemon.operator.status import DeskStatus, status_of, unreadable_desk


def fleet_page(pictures: Sequence[Picture], now_s: float) -> Fleet:
    """`GET /api/fleet`. `now_s` is this host's clock. Pure."""
    return fleet_of([(picture.desk, _status(picture)) for picture in pictures], now_s)


def _status(picture: Picture) -> DeskStatus:
    state = picture.state
    if state is None:
        return unreadable_desk("", picture.problem or "its journal is still being read")
    alarms = raised_on(picture.newest, state)
    return replace(
        status_of(state, picture.desk),
        process=picture.process,
        problem=picture.problem,
        alarms=sum(alarm.count for alarm in alarms),
        alarm=alarms[0].name if alarms else "",
    )
