"""What the broker announces of a dry run's shares: read before each session, for the paper broker to book.

It decides nothing. No order is held back by a read that fails: bars that show a split keep its shares waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import date, timedelta

from msgspec import UnsetType
from msgspec.structs import replace

from daemon.brokers.api import Admin, BrokerError, EventLogger, Put
from daemon.core.events import ActionsAnnounced, action_name
from daemon.core.paper.state import SharePaperState
from daemon.core.risk.splits import NIGHTS_MAX
from daemon.core.session import new_york_date
from daemon.core.state import ZERO
from daemon.core.step import Machine
from daemon.host.time.clock import Clock
from daemon.host.time.virtual_time import look_s
from strategies.kit.contract import Session
from strategies.kit.units import MINUTE_NS

EVERY_S = 5.0
AGAIN_NS = MINUTE_NS  # after a read that failed, or while bars show a split that is not announced


class PaperActions:
    """Reads announcements by `admin`, and puts those that are new to the paper broker. `machine()` is the desk's."""

    def __init__(self, admin: Admin, clock: Clock, machine: Callable[[], Machine], put: Put, log: EventLogger) -> None:
        self._admin, self._clock, self._machine, self._put, self._log = admin, clock, machine, put, log
        self._read_ns = 0  # when it was last tried
        self._unread_on = ""  # date of the session whose failure was logged

    async def run(self) -> None:
        """Read on the morning of each session, and again while a split is waited for, until cancelled."""
        while True:
            machine = self._machine()
            session, paper = machine.state.session.session, machine.market_state
            if session is not None and isinstance(paper, SharePaperState):
                await self._look(session, paper, waits=bool(machine.state.basket.splits))
            await asyncio.sleep(look_s(EVERY_S))

    async def _look(self, session: Session, paper: SharePaperState, *, waits: bool) -> None:
        now_ns = self._clock.now_ns()
        actions = None if isinstance(paper.actions, UnsetType) else paper.actions
        is_read = actions is not None and actions.to >= session.date
        if new_york_date(now_ns).isoformat() < session.date or (is_read and not waits):
            return
        if now_ns < self._read_ns + AGAIN_NS:
            return
        self._read_ns, since = now_ns, session.date
        if actions is not None:
            nights_before = (date.fromisoformat(actions.to) - timedelta(days=NIGHTS_MAX)).isoformat()
            since = max(actions.since, nights_before)
        try:
            announced = await self._admin.actions(tuple(paper.holdings), since, session.date) if paper.holdings else ()
        except BrokerError as problem:
            if self._unread_on != session.date:
                self._unread_on = session.date
                self._log("announcements_unread", problem=str(problem))
            return
        names = () if actions is None else actions.names
        new = [action for action in announced if action_name(action) not in names]
        if new or not is_read:
            marks = self._machine().state.marks
            priced = tuple(replace(action, price=marks.get(action.symbol, ZERO)) for action in new)
            self._put(ActionsAnnounced(self._clock.now_ns(), session.date, priced))
