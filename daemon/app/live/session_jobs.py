"""The scheduled jobs of a live desk in a session: warm up, decide, close, report, plan the next session."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from daemon.app.live.prepare import Live
from daemon.brokers.api import MarketFeed
from daemon.config.load import DeskSettings
from daemon.core.events import ClockTicked
from daemon.core.session import as_traded, new_york_text
from daemon.engine.engine import Engine, Intake
from daemon.engine.state_dir import report_path
from daemon.host.time.schedule import CLOSE, DECIDE, END_OF_DAY, WARM_UP, DayTimes, Job, Schedule, plan
from daemon.journal.journal import FILE
from daemon.operator.log import Log
from daemon.reports.archive import archive, disk_is_low
from daemon.reports.end_of_day import newest_head, write_report
from strategies.kit.contract import Session
from strategies.kit.units import DAY_NS

HISTORY_MIN = 15  # a daily desk requests its history this long before its decision
END_OF_DAY_LEAST_MIN = 10  # a daily desk's bars are final before its report is written
HORIZON_DAYS = 30  # warn when fewer days are left in the calendar


class SessionJobs:
    """Plans the jobs of each session. `notify` logs and raises alarms; `publish_head` publishes the head at a row."""

    def __init__(
        self,
        live: Live,
        feed: MarketFeed,
        engine: Engine,
        intake: Intake,
        folder: Path,
        log: Log,
        notify: Callable[..., None],
        probe: Callable[[], Awaitable[None]],
        publish_head: Callable[[int, str], None],
    ) -> None:
        self._live, self._feed, self._engine, self._intake, self._journal = live, feed, engine, intake, folder / FILE
        self._log, self._notify, self._probe, self._publish_head = log, notify, probe, publish_head
        self.schedule = Schedule(live.clock, lambda name, problem: notify("job_failed", job=name, problem=problem))
        self._times = _day_times(live, feed.close_grace_s)
        self.traded: Session | None = None  # the state's session, by which the jobs are planned

    def plan(self, session: Session) -> None:
        """Put the session's jobs on the schedule; those already due run at once, in order."""
        session = as_traded(session, self.traded)
        for job in plan(session, self._times):
            self.schedule.at(job.at_ns, job.name, partial(self._do, job, session))
        self._log(
            "session_planned",
            date=session.date,
            opens=new_york_text(session.open_ns),
            closes=new_york_text(session.close_ns),
        )

    def follow(self, session: Session | None) -> None:
        """Take over the state's session if it changed: waiting jobs follow a moved close."""
        self.traded = session
        if session is None:
            return
        waiting = dict(self.schedule.pending())
        for job in plan(session, self._times):
            if waiting.get(job.name, job.at_ns) != job.at_ns:
                self.schedule.at(job.at_ns, job.name, partial(self._do, job, session))

    def plan_late_report(self, session: Session) -> None:
        """Plan the end of day of a session that closed while no daemon ran, unless its report exists.

        Under a name of its own: `follow` would take its late time for a close that moved.
        """
        if report_path(self._journal, session).exists():
            return
        job = plan(session, self._times)[-1]
        at_ns = max(job.at_ns, self._live.clock.now_ns())
        self.schedule.at(at_ns, f"late {job.name}", partial(self._late_report, session))

    async def _late_report(self, session: Session) -> None:
        await self._probe()  # the start's events for the session are in the journal
        await self._end_of_day(session)

    async def _do(self, job: Job, session: Session) -> None:
        match job.kind:
            case kind if kind == WARM_UP:
                await self._feed.schedule(session)
            case kind if kind == DECIDE:
                await self._feed.decide(session)
            case kind if kind == CLOSE:
                await self._feed.end(session)
                self._engine.snapshot_soon()
            case kind if kind == END_OF_DAY:
                self.plan(self._live.calendar.next_after(session.close_ns))
                await self._end_of_day(session)
            case _:
                self._intake.put(ClockTicked(self._live.clock.now_ns()))

    async def _end_of_day(self, session: Session) -> None:
        """Check calendar and disk, write the report, copy the journal. Files are written off the event loop."""
        journal, keep = self._journal, self._live.settings.service.archives
        last = self._live.calendar.sessions[-1]
        days = (last.close_ns - self._live.clock.now_ns()) // DAY_NS
        if days < HORIZON_DAYS:
            self._notify("calendar_ends", last=last.date, days=days)
        low = await asyncio.to_thread(disk_is_low, journal)  # before the copy, which would fail on a full disk
        if low is not None:
            self._notify("disk_low", free_mib=low[0], journal_mib=low[1])
        report = await asyncio.to_thread(write_report, journal, session)
        copy = await asyncio.to_thread(archive, journal, session.date, keep)
        row, head = await asyncio.to_thread(newest_head, journal)
        self._publish_head(row, head)
        self._log("day_ended", date=session.date, report=str(report), archive=str(copy or ""))


def _day_times(live: Live, close_grace_s: int) -> DayTimes:
    """Return the times of the desk's jobs."""
    times = _TIMES[live.strategy.spec.decides](live.settings, close_grace_s)
    return replace(times, grid=live.strategy.spec.grid)


def _of_bars(settings: DeskSettings, close_grace_s: int) -> DayTimes:
    return DayTimes(settings.execution, settings.feed.warm_up_min, close_grace_s, settings.service.end_of_day_min)


def _of_days(settings: DeskSettings, close_grace_s: int) -> DayTimes:
    """Return a daily desk's times: history before the decision, final bars some time after the close."""
    return DayTimes(
        settings.execution,
        warm_up_min=max(settings.feed.warm_up_min, settings.basket.before_open_min + HISTORY_MIN),
        close_grace_s=close_grace_s,
        end_of_day_min=max(settings.service.end_of_day_min, END_OF_DAY_LEAST_MIN),
        basket=settings.basket,
    )


_TIMES = {"bar": _of_bars, "session": _of_days}
