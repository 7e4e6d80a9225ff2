"""A tape of shorter bars than the strategy's: what comes out, against pandas and a tape of whole bars."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from daemon.core.events import BarClosed, BarRejected, ClockTicked, Event, PartClosed, SessionEnded
from daemon.host.time.calendar import SessionCalendar
from daemon.tapes.minutes import TapeError, TapeSource, scan
from strategies.kit.contract import Bar
from strategies.kit.synthetic import synthetic_sessions
from tests.support.desks.desk_run import bar_rows, write_tape

MINUTE = 60_000_000_000
FIRST, LAST = "2024-07-01", "2024-07-05"  # with the half day before Independence Day
HOW = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}


@pytest.fixture(scope="module")
def calendar() -> SessionCalendar:
    return SessionCalendar.load(FIRST, LAST)


@pytest.fixture(scope="module")
def minutes(calendar: SessionCalendar) -> list[Bar]:
    days = [day for day in calendar.sessions if FIRST <= day.date <= LAST]
    bars = synthetic_sessions(3, days)
    return [one for at, one in enumerate(bars) if at % 7 and not 40 <= at % 390 < 48]  # holes, ends of bars among them


def whole_rows(minutes: list[Bar], calendar: SessionCalendar, length: int) -> list[Bar]:
    """The tape of whole bars, by pandas."""
    bars = []
    for day in calendar.sessions:
        day_minutes = [one for one in minutes if day.open_ns <= one.start_ns < day.close_ns]
        if day_minutes:
            table = pd.DataFrame([[getattr(one, name) for name in HOW] for one in day_minutes], columns=list(HOW))
            table.index = pd.to_datetime([one.start_ns for one in day_minutes])
            longer = table.resample(f"{length}min", origin=pd.Timestamp(day.open_ns)).agg(HOW).dropna()
            bars += [Bar("SPY", at.value, *row) for at, row in zip(longer.index, longer.to_numpy(), strict=True)]
    return bars


def events_of(tape: Path, calendar: SessionCalendar, length: int, anchor: str = "open", **options: bool) -> list[Event]:
    return list(TapeSource(tape, scan(tape, ("SPY",), 60 * length, anchor), calendar, **options))


@pytest.mark.parametrize("length", [2, 5, 7, 15, 30, 60])
def test_minutes_give_the_bars_and_the_moments_of_a_tape_of_whole_bars(
    tmp_path: Path, calendar: SessionCalendar, minutes: list[Bar], length: int
) -> None:
    fine = write_tape(tmp_path / "minutes.csv", bar_rows(minutes))
    wide = write_tape(tmp_path / "wide.csv", bar_rows(whole_rows(minutes, calendar, length)))
    events = events_of(fine, calendar, length)
    assert [event for event in events if not isinstance(event, PartClosed)] == events_of(wide, calendar, length)
    assert [event.bar for event in events if isinstance(event, PartClosed)] == minutes
    assert [event.time_ns for event in events] == sorted(event.time_ns for event in events)
    assert not any(isinstance(event, PartClosed) for event in events_of(fine, calendar, length, parts=False))


def test_each_part_comes_before_the_whole_and_the_whole_at_its_end(
    tmp_path: Path, calendar: SessionCalendar, minutes: list[Bar]
) -> None:
    tape = write_tape(tmp_path / "minutes.csv", bar_rows(minutes))
    part_ns = 0
    for event in events_of(tape, calendar, 15):
        if isinstance(event, PartClosed):
            part_ns = event.bar.start_ns
        elif isinstance(event, BarClosed):
            assert event.bar.start_ns <= part_ns < event.bar.start_ns + 15 * MINUTE == event.time_ns
        elif isinstance(event, SessionEnded):
            assert event.time_ns > part_ns


def test_bars_of_five_minutes_make_those_of_fifteen_and_those_of_four_do_not(
    tmp_path: Path, calendar: SessionCalendar, minutes: list[Bar]
) -> None:
    five = write_tape(tmp_path / "five.csv", bar_rows(whole_rows(minutes, calendar, 5)))
    fifteen = write_tape(tmp_path / "fifteen.csv", bar_rows(whole_rows(minutes, calendar, 15)))
    bars = [event for event in events_of(five, calendar, 15) if isinstance(event, BarClosed)]
    assert bars == [event for event in events_of(fifteen, calendar, 15) if isinstance(event, BarClosed)]
    four = write_tape(tmp_path / "four.csv", bar_rows(whole_rows(minutes, calendar, 4)))
    with pytest.raises(TapeError, match="most bars are 240 s apart; expected bars of 900 s, or shorter ones that join"):
        scan(four, ("SPY",), 900)


def test_a_desk_of_several_symbols_is_told_when_the_whole_bar_lacks_one(
    tmp_path: Path, calendar: SessionCalendar
) -> None:
    day = next(day for day in calendar.sessions if day.date == FIRST)
    bars = [Bar("SPY", day.open_ns + at * MINUTE, 10.0, 10.0, 10.0, 10.0, 1.0) for at in range(30)]
    tape = write_tape(tmp_path / "one.csv", bar_rows(bars))
    events = list(TapeSource(tape, scan(tape, ("SPY", "QQQ"), 300), calendar, tick_ns=5))
    ticks = [event.time_ns for event in events if isinstance(event, ClockTicked)]
    assert ticks == [day.open_ns + at * MINUTE + 5 for at in (5, 10, 15, 20, 25, 30)]


@pytest.mark.parametrize("label", [-30, 0])
def test_hours_of_the_full_hour_are_understood_by_either_label_of_the_first_one(
    tmp_path: Path, calendar: SessionCalendar, label: int
) -> None:
    days = [day for day in calendar.sessions if FIRST <= day.date <= LAST]
    starts = [(day.open_ns + at * MINUTE, day) for day in days for at in (label, 30, 90, 150)]
    bars = [Bar("SPY", start, 10.0, 11.0, 9.0, 10.0, 5.0) for start, _ in starts]
    before = [Bar("SPY", days[0].open_ns - 90 * MINUTE, 10.0, 11.0, 9.0, 10.0, 5.0)]  # of 8:00
    tape = write_tape(tmp_path / "hours.csv", bar_rows([*before, *bars]))
    events = events_of(tape, calendar, 60, "hour")
    assert not [event for event in events if isinstance(event, BarRejected)]
    bar_events = [event for event in events if isinstance(event, BarClosed)]
    expected = [(day.open_ns + at * MINUTE, day.open_ns + end * MINUTE) for day in days for at, end in HOURS]
    assert [(event.bar.start_ns, event.time_ns) for event in bar_events] == expected


HOURS = ((0, 30), (30, 90), (90, 150), (150, 210))  # 9:30 to 10:00, to 11:00, to 12:00, to 13:00


def test_minutes_before_the_open_are_none_of_the_first_hour(tmp_path: Path, calendar: SessionCalendar) -> None:
    day = next(day for day in calendar.sessions if day.date == FIRST)
    bars = [Bar("SPY", day.open_ns + at * MINUTE, 10.0, 10.0, 10.0, 10.0, 1.0) for at in range(-60, 60)]
    tape = write_tape(tmp_path / "early.csv", bar_rows(bars))
    closed_bars = [event.bar for event in events_of(tape, calendar, 60, "hour") if isinstance(event, BarClosed)]
    assert [(one.start_ns, one.volume) for one in closed_bars] == [
        (day.open_ns, 30.0),
        (day.open_ns + 30 * MINUTE, 30.0),
    ]
