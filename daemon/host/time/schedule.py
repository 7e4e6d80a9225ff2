"""The times of a trading day, and the scheduler that runs the daemon's jobs at them. The step decides, not the jobs.

`plan` is pure. Invariant: a scheduled job runs once, however late, and a job that raises ends only itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, JobExecutionEvent, JobSubmissionEvent
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger

from daemon.core.limits import Basket, Execution
from daemon.core.session import LATER, flatten_from_ns
from daemon.host.time.clock import Clock
from strategies.kit.contract import MINUTES, Grid, Session
from strategies.kit.units import MINUTE_NS, SECOND_NS

LOOK_S = 5.0  # the scheduler checks the wall clock at least this often
LOOK_VIRTUAL_S = 86_400.0  # in virtual time jobs come when due

WARM_UP = "warm_up"
OPEN = "open"
FLATTEN_EXPIRY_DAY = "flatten_expiry_day"
FLATTEN = "flatten"
DECIDE = "decide"
GIVE_UP = "give_up"
CLOSE = "close"
END_OF_DAY = "end_of_day"

logging.getLogger("apscheduler").addHandler(logging.NullHandler())  # `log_problem` replaces its output


@dataclass(frozen=True, slots=True)
class DayTimes:
    """When a session's jobs are due. `execution` holds the flatten's minutes before the close.

    A daily desk has a `basket`, whose decision and end replace the flatten's jobs.
    """

    execution: Execution
    warm_up_min: int = 30  # before the open
    close_grace_s: int = 10  # after the close: the last bar comes about a second after its minute
    end_of_day_min: int = 30  # after the close
    basket: Basket | None = None
    grid: Grid = MINUTES  # grid of bars, for a desk by the bar


@dataclass(frozen=True, slots=True)
class Job:
    """One job, due at `at_ns` (nanoseconds UTC) of the session of `date`. `kind` is one of this module's constants."""

    kind: str
    date: str
    at_ns: int

    @property
    def name(self) -> str:
        """Unique among all sessions, such as `flatten 2024-07-03`."""
        return f"{self.kind} {self.date}"


def plan(session: Session, times: DayTimes) -> tuple[Job, ...]:
    """Return the jobs of one session in order of time: a half day's follow its own close."""
    moments = {
        WARM_UP: session.open_ns - times.warm_up_min * MINUTE_NS,
        OPEN: session.open_ns,
        **_leaving(session, times),
        CLOSE: session.close_ns + times.close_grace_s * SECOND_NS,
        END_OF_DAY: session.close_ns + times.end_of_day_min * MINUTE_NS,
    }
    jobs = (Job(kind, session.date, at_ns) for kind, at_ns in moments.items())
    return tuple(sorted(jobs, key=lambda job: job.at_ns))


def decision_ns(session: Session, basket: Basket) -> int:
    """Return when a daily desk decides for this session (nanoseconds UTC)."""
    if basket.decide == "before_close":
        return session.close_ns - basket.before_close_min * MINUTE_NS
    return session.open_ns - basket.before_open_min * MINUTE_NS


def _leaving(session: Session, times: DayTimes) -> dict[str, int]:
    """Return the times at which the clock opens or closes positions."""
    if times.basket is None:
        return {
            FLATTEN_EXPIRY_DAY: flatten_from_ns(session, session.date, times.execution, times.grid),
            FLATTEN: flatten_from_ns(session, LATER, times.execution, times.grid),
        }
    return {
        DECIDE: decision_ns(session, times.basket),
        GIVE_UP: session.close_ns - times.basket.end_before_close_min * MINUTE_NS,
    }


class Schedule:
    """Runs jobs at times of `clock`. `log_problem(name, problem)` reports jobs that raised or were skipped.

    Jobs run on the event loop, in order of time; one that awaits does not delay those after it. Used on the loop on
    which `start` was called.
    """

    __slots__ = ("_clock", "_log_problem", "_look", "_scheduler", "_waiting_jobs")

    def __init__(self, clock: Clock, log_problem: Callable[[str, str], None]) -> None:
        self._clock = clock
        self._log_problem = log_problem
        self._look: asyncio.TimerHandle | None = None
        self._waiting_jobs: dict[str, tuple[int, asyncio.TimerHandle]] = {}  # jobs in virtual time that are not due
        self._scheduler = AsyncIOScheduler(
            timezone=UTC, job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
        )
        self._scheduler.add_listener(self._report_error, EVENT_JOB_ERROR)
        self._scheduler.add_listener(self._left_out, EVENT_JOB_MAX_INSTANCES)

    def at(self, sim_ns: int, name: str, job: Callable[[], Awaitable[None]]) -> None:
        """Run `job` once at `sim_ns` of the clock, at once if that has passed. Replaces a waiting job of this name."""
        if self._clock.participant is None:
            self._add(self._clock.to_real_datetime(sim_ns), sim_ns, name, job)
            return
        loop, left_s = asyncio.get_running_loop(), self._clock.real_s(sim_ns - self._clock.now_ns())
        if name in self._waiting_jobs:
            self._waiting_jobs[name][1].cancel()
        self._waiting_jobs[name] = sim_ns, loop.call_at(loop.time() + left_s, self._due, sim_ns, name, job)

    def _due(self, sim_ns: int, name: str, job: Callable[[], Awaitable[None]]) -> None:
        """Hand a job that is due in virtual time to the library, which knows the wall clock only."""
        del self._waiting_jobs[name]
        self._add(datetime.now(UTC), sim_ns, name, job)

    def _add(self, due: datetime, sim_ns: int, name: str, job: Callable[[], Awaitable[None]]) -> None:
        self._scheduler.add_job(
            self._run,
            DateTrigger(due),
            args=(sim_ns, job),
            id=name,
            name=name,
            replace_existing=True,
        )

    def start(self) -> None:
        """Begin to run jobs, on the running event loop."""
        self._scheduler.start()
        self._look_again()

    def stop(self) -> None:
        """Run no more jobs and cancel a running one. Does nothing when not started."""
        if self._look is None:
            return
        self._look.cancel()
        self._look = None
        for _, handle in self._waiting_jobs.values():
            handle.cancel()
        self._scheduler.shutdown(wait=False)

    def pending(self) -> tuple[tuple[str, int], ...]:
        """Return (name, nanoseconds UTC of the clock) of waiting jobs, in order of time."""
        waiting = {name: sim_ns for name, (sim_ns, _) in self._waiting_jobs.items()}
        waiting |= {job.id: int(job.args[0]) for job in self._scheduler.get_jobs()}
        return tuple(sorted(waiting.items(), key=lambda item: item[1]))

    def _look_again(self) -> None:
        """Run due jobs by the desk's clock, in order: the library follows the host's wall clock."""
        now_ns, earliest = self._clock.now_ns(), datetime.now(UTC)
        waiting = [job for job in self._scheduler.get_jobs() if job.args[0] <= now_ns and job.next_run_time > earliest]
        for place, job in enumerate(sorted(waiting, key=lambda job: int(job.args[0]))):
            job.modify(next_run_time=earliest + timedelta(microseconds=place - len(waiting)))
        self._scheduler.wakeup()
        every_s = LOOK_S if self._clock.participant is None else LOOK_VIRTUAL_S
        self._look = asyncio.get_running_loop().call_later(every_s, self._look_again)

    async def _run(self, sim_ns: int, job: Callable[[], Awaitable[None]]) -> None:
        await self._clock.sleep_until(sim_ns)  # the host's wall clock may have leapt
        await job()

    def _report_error(self, event: JobExecutionEvent) -> None:
        if not isinstance(event.exception, asyncio.CancelledError):  # cancelled by our own stop
            self._log_problem(event.job_id, f"{type(event.exception).__name__}: {event.exception}")

    def _left_out(self, event: JobSubmissionEvent) -> None:
        self._log_problem(event.job_id, "left out, because a job of this name was still running")


def deadline_ns(session: Session, basket: Basket) -> int:
    """Return the time after which there is no decision for this session."""
    if basket.decide == "before_close":
        end_ns = session.close_ns - basket.end_before_close_min * MINUTE_NS
        return max(end_ns, decision_ns(session, basket) + MINUTE_NS)
    return session.open_ns
