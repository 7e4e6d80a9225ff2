"""A day's times against UTC worked out by hand, and a scheduler that loses nothing when the host's clock jumps.

The library reads `datetime.now` itself; where a test moves the host's clock, it moves it there, by `HostClock`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, tzinfo
from typing import Self

import pytest

from daemon.core.limits import Execution
from daemon.host.time import schedule
from daemon.host.time.clock import Clock
from daemon.host.time.schedule import DayTimes, Job, Schedule, plan
from strategies.kit.contract import Session
from strategies.kit.units import SECOND_NS

TIMES = DayTimes(
    Execution(flat_before_close_min=5, flatten_lead_min=2, expiry_day_flat_min=60),
    warm_up_min=30,
    close_grace_s=10,
    end_of_day_min=20,
)


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND_NS


@pytest.mark.parametrize(
    ("session", "moments"),
    [
        (  # summer: New York is UTC-4
            ("2024-07-02", "13:30", "20:00"),
            ("13:00:00", "13:30:00", "18:58:00", "19:53:00", "20:00:10", "20:20:00"),
        ),
        (  # half day in summer: closes at 13:00 New York
            ("2024-07-03", "13:30", "17:00"),
            ("13:00:00", "13:30:00", "15:58:00", "16:53:00", "17:00:10", "17:20:00"),
        ),
        (  # half day in winter: New York is UTC-5
            ("2024-11-29", "14:30", "18:00"),
            ("14:00:00", "14:30:00", "16:58:00", "17:53:00", "18:00:10", "18:20:00"),
        ),
        (  # the last session before clocks go forward in New York on 2024-03-10
            ("2024-03-08", "14:30", "21:00"),
            ("14:00:00", "14:30:00", "19:58:00", "20:53:00", "21:00:10", "21:20:00"),
        ),
        (  # and the first after it
            ("2024-03-11", "13:30", "20:00"),
            ("13:00:00", "13:30:00", "18:58:00", "19:53:00", "20:00:10", "20:20:00"),
        ),
        (  # the last session before clocks go back on 2024-11-03
            ("2024-11-01", "13:30", "20:00"),
            ("13:00:00", "13:30:00", "18:58:00", "19:53:00", "20:00:10", "20:20:00"),
        ),
        (  # and the first after it
            ("2024-11-04", "14:30", "21:00"),
            ("14:00:00", "14:30:00", "19:58:00", "20:53:00", "21:00:10", "21:20:00"),
        ),
    ],
)
def test_a_day_s_jobs_are_due_at_the_times_worked_out_by_hand(
    session: tuple[str, str, str], moments: tuple[str, ...]
) -> None:
    date, opens, closes = session
    kinds = ("warm_up", "open", "flatten_expiry_day", "flatten", "close", "end_of_day")
    expected = tuple(Job(kind, date, utc(f"{date}T{at}")) for kind, at in zip(kinds, moments, strict=True))
    jobs = plan(Session(date, utc(f"{date}T{opens}"), utc(f"{date}T{closes}")), TIMES)
    assert jobs == expected
    assert jobs[3].name == f"flatten {date}"


def test_the_calendar_s_own_sessions_give_the_times_worked_out_by_hand() -> None:
    from daemon.host.time.calendar import SessionCalendar

    calendar = SessionCalendar.load("2024-03-08", "2024-11-29")
    for date, flatten in (
        ("2024-03-08", "20:53"),
        ("2024-03-11", "19:53"),
        ("2024-07-03", "16:53"),
        ("2024-11-29", "17:53"),
    ):
        jobs = {job.kind: job.at_ns for job in plan(calendar.around(date)[0], TIMES)}
        assert jobs["flatten"] == utc(f"{date}T{flatten}")


def test_jobs_are_in_the_order_of_time_even_when_a_deadline_lies_before_the_open() -> None:
    early = DayTimes(Execution(expiry_day_flat_min=390))
    day = Session("2024-07-03", utc("2024-07-03T13:30"), utc("2024-07-03T17:00"))
    kinds = [job.kind for job in plan(day, early)]
    assert kinds == ["flatten_expiry_day", "warm_up", "open", "flatten", "close", "end_of_day"]


# --- the scheduler ------------------------------------------------------------------------------------------------


class HostClock(datetime):
    """The host's wall clock as the scheduler reads it: it stands at `now_ns` until that is set."""

    now_ns = 0

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls.fromtimestamp(cls.now_ns / SECOND_NS, tz)


class Diary:
    """What ran, in order, and the problems reported."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.problems: list[tuple[str, str]] = []
        self.changed = asyncio.Event()

    def job(self, name: str) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            self.ran.append(name)
            self.changed.set()

        return run

    def problem(self, name: str, text: str) -> None:
        self.problems.append((name, text))
        self.changed.set()

    async def has(self, count: int) -> None:
        async with asyncio.timeout(180):
            while len(self.ran) + len(self.problems) < count:
                self.changed.clear()
                await self.changed.wait()


NINE = utc("2024-07-02T09:00")
HOUR = 3600 * SECOND_NS


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> type[HostClock]:
    monkeypatch.setattr("apscheduler.schedulers.base.datetime", HostClock)
    monkeypatch.setattr(schedule, "LOOK_S", 0.01)
    HostClock.now_ns = NINE
    return HostClock


async def test_a_clock_that_jumps_past_two_jobs_runs_both_once_and_in_order(host: type[HostClock]) -> None:
    diary = Diary()
    jobs = Schedule(Clock.real(lambda: host.now_ns), diary.problem)
    jobs.at(NINE + 2 * HOUR, "second", diary.job("second"))
    jobs.start()
    jobs.at(NINE + HOUR, "first", diary.job("first"))
    jobs.at(NINE + 9 * HOUR, "third", diary.job("third"))
    await asyncio.sleep(0.03)
    assert diary.ran == []
    assert jobs.pending() == (("first", NINE + HOUR), ("second", NINE + 2 * HOUR), ("third", NINE + 9 * HOUR))
    host.now_ns = NINE + 5 * HOUR  # the host slept, or its clock was set
    await diary.has(2)
    host.now_ns = NINE + 3 * HOUR  # set back again: what ran does not run again
    await asyncio.sleep(0.03)
    jobs.stop()
    assert diary.ran == ["first", "second"]
    assert jobs.pending() == (("third", NINE + 9 * HOUR),)
    assert diary.problems == []


async def test_a_step_back_of_the_host_s_clock_does_not_hold_a_job_up_once_its_time_is_shown(
    host: type[HostClock],
) -> None:
    diary = Diary()
    jobs = Schedule(Clock.real(lambda: host.now_ns), diary.problem)
    jobs.at(NINE + HOUR, "a", diary.job("a"))
    jobs.start()
    host.now_ns = NINE - 9 * HOUR
    await asyncio.sleep(0.03)
    assert diary.ran == []
    host.now_ns = NINE + HOUR
    await diary.has(1)
    jobs.stop()
    assert diary.ran == ["a"]


async def test_a_job_whose_time_has_passed_runs_at_once() -> None:
    diary = Diary()
    jobs = Schedule(Clock.real(), diary.problem)
    jobs.at(NINE, "late", diary.job("late"))
    jobs.start()
    await diary.has(1)
    jobs.stop()
    assert diary.ran == ["late"]


async def test_a_job_runs_when_the_simulated_clock_shows_its_time() -> None:
    diary = Diary()
    real = Clock.real()
    clock = Clock.simulated(real.now_ns() / SECOND_NS, NINE, 3600)
    readings: list[int] = []

    async def note() -> None:
        readings.append(clock.now_ns())
        await diary.job("a")()

    jobs = Schedule(clock, diary.problem)
    jobs.at(NINE + 120 * SECOND_NS, "a", note)
    jobs.start()
    await diary.has(1)
    jobs.stop()
    assert readings[0] >= NINE + 120 * SECOND_NS


async def test_a_job_that_raises_is_told_and_the_next_one_runs() -> None:
    diary = Diary()

    async def broken() -> None:
        raise OSError("the disk is gone")

    jobs = Schedule(Clock.real(), diary.problem)
    jobs.at(NINE, "broken", broken)
    jobs.at(NINE + 1, "sound", diary.job("sound"))
    jobs.start()
    await diary.has(2)
    jobs.stop()
    assert diary.problems == [("broken", "OSError: the disk is gone")]
    assert diary.ran == ["sound"]


async def test_the_same_name_again_replaces_what_waits() -> None:
    diary = Diary()
    jobs = Schedule(Clock.real(), diary.problem)
    far = Clock.real().now_ns() + HOUR
    jobs.at(far, "a", diary.job("old"))
    jobs.at(far + 1, "a", diary.job("older"))
    jobs.start()
    assert jobs.pending() == (("a", far + 1),)
    jobs.at(NINE, "a", diary.job("new"))
    await diary.has(1)
    jobs.stop()
    assert (diary.ran, jobs.pending()) == (["new"], ())


async def test_a_job_due_while_one_of_its_name_still_runs_is_told_not_lost_in_silence() -> None:
    diary = Diary()

    async def endless() -> None:
        await diary.job("endless")()
        await asyncio.Event().wait()

    jobs = Schedule(Clock.real(), diary.problem)
    jobs.at(NINE, "a", endless)
    jobs.start()
    await diary.has(1)
    jobs.at(NINE, "a", diary.job("again"))
    await diary.has(2)
    jobs.stop()
    await asyncio.sleep(0.01)  # the endless one is cancelled, which is no problem to report
    assert diary.ran == ["endless"]
    assert diary.problems == [("a", "left out, because a job of this name was still running")]


async def test_a_stopped_schedule_runs_nothing_and_can_be_stopped_again() -> None:
    diary = Diary()
    jobs = Schedule(Clock.real(), diary.problem)
    jobs.stop()
    jobs.start()
    jobs.stop()
    jobs.stop()
    await asyncio.sleep(0.01)
    jobs.at(NINE, "a", diary.job("a"))
    await asyncio.sleep(0.01)
    assert diary.ran == []
