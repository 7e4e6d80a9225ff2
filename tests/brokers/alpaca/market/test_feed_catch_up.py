"""What the feed puts before it goes live, from whatever the recovered state knows.

Sessions are the real ones of 2024 (June 28 Friday, July 3 half day of 210 minutes, July 4 holiday); counts by hand.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from msgspec.structs import replace

from daemon.brokers.alpaca.market.live_bars import Timing
from daemon.brokers.api import Known
from daemon.core.events import BarClosed, HaltRequested, QuotesReceived, SessionScheduled
from simulator.prices.market import Market
from tests.support.alpaca.market_desk import MINUTE, SECOND, bar, calendar, desk, kinds, session

pytestmark = pytest.mark.filterwarnings("ignore:websockets.legacy is deprecated:DeprecationWarning")

FRESH = Known("", True, 0)
HOUR = 3600.0


async def test_a_fresh_journal_before_the_open_gets_the_session_before_and_the_next_schedule(tmp_path: Path) -> None:
    async with desk(tmp_path, "2024-07-02", -HOUR) as it:
        await it.feed.catch_up(FRESH)
        assert kinds(it.events) == [
            "SessionScheduled 2024-07-01",
            "390 bars",
            "SessionEnded 2024-07-01",
            "SessionScheduled 2024-07-02",
        ]


async def test_each_bar_is_followed_at_once_by_quotes_that_close_it(tmp_path: Path) -> None:
    async with desk(tmp_path, "2024-07-02", -HOUR) as it:
        await it.feed.catch_up(FRESH)
        assert it.bars() == [bar(session("2024-07-01"), minute) for minute in range(390)]
        for event, after in pairwise(it.events):
            if isinstance(event, BarClosed):
                assert isinstance(after, QuotesReceived)
                assert (after.closes_bar_ns, after.quotes) == (event.bar.start_ns, ())
        times = [event.time_ns for event in it.events]
        assert times == sorted(times)


async def test_a_fresh_journal_within_a_session_gets_it_so_far(tmp_path: Path) -> None:
    async with desk(tmp_path, "2024-07-02", 10 * 60 + 30, rate=1.0) as it:
        await it.feed.catch_up(FRESH)
        assert kinds(it.events)[-2:] == ["SessionScheduled 2024-07-02", "10 bars"]


async def test_after_a_half_day_one_session_is_not_enough(tmp_path: Path) -> None:
    async with desk(tmp_path, "2024-07-05", -HOUR) as it:
        await it.feed.catch_up(FRESH)
        assert kinds(it.events) == [
            "SessionScheduled 2024-07-02",
            "390 bars",
            "SessionEnded 2024-07-02",
            "SessionScheduled 2024-07-03",
            "210 bars",
            "SessionEnded 2024-07-03",
            "SessionScheduled 2024-07-05",
        ]


async def test_within_the_same_session_only_the_missing_bars_are_given(tmp_path: Path) -> None:
    day = session("2024-07-02")
    async with desk(tmp_path, "2024-07-02", 20 * 60 + 30, rate=1.0) as it:
        await it.feed.catch_up(Known(day.date, False, day.open_ns + 14 * MINUTE))
        assert it.minutes_of(day) == [15, 16, 17, 18, 19]
        assert kinds(it.events) == ["SessionScheduled 2024-07-02", "5 bars"]


async def test_the_next_morning_the_open_session_is_finished_first(tmp_path: Path) -> None:
    day = session("2024-07-01")
    async with desk(tmp_path, "2024-07-02", -HOUR) as it:
        await it.feed.catch_up(Known(day.date, False, day.open_ns + 386 * MINUTE))
        assert kinds(it.events) == [
            "SessionScheduled 2024-07-01",
            "3 bars",
            "SessionEnded 2024-07-01",
            "SessionScheduled 2024-07-02",
        ]
        assert it.minutes_of(day) == [387, 388, 389]


async def test_what_was_ended_is_not_given_again_but_its_last_price_is_known(tmp_path: Path) -> None:
    day = session("2024-07-01")
    async with desk(tmp_path, "2024-07-02", -HOUR) as it:
        await it.feed.catch_up(Known(day.date, True, day.open_ns + 389 * MINUTE))
        assert kinds(it.events) == ["SessionScheduled 2024-07-02"]
        await it.feed.schedule(session("2024-07-02"))
        assert kinds(it.events) == ["SessionScheduled 2024-07-02", "ContractsListed 2024-07-02"]


async def test_after_three_days_the_open_session_is_finished_and_the_latest_ones_warm_the_strategy(
    tmp_path: Path,
) -> None:
    day = session("2024-06-27")
    async with desk(tmp_path, "2024-07-02", 60.0 * 3 + 30, rate=1.0) as it:
        await it.feed.catch_up(Known(day.date, False, day.open_ns + 199 * MINUTE))
        assert kinds(it.events) == [
            "SessionScheduled 2024-06-27",
            "190 bars",
            "SessionEnded 2024-06-27",
            "SessionScheduled 2024-07-01",
            "390 bars",
            "SessionEnded 2024-07-01",
            "SessionScheduled 2024-07-02",
            "3 bars",
        ]


async def test_a_session_that_was_only_scheduled_is_given_whole(tmp_path: Path) -> None:
    before = session("2024-07-01")
    async with desk(tmp_path, "2024-07-03", -HOUR) as it:
        await it.feed.catch_up(Known("2024-07-02", False, before.open_ns + 389 * MINUTE))
        assert kinds(it.events)[:3] == ["SessionScheduled 2024-07-02", "390 bars", "SessionEnded 2024-07-02"]


async def test_a_past_session_ends_where_the_broker_s_market_closed(tmp_path: Path) -> None:
    day, days = session("2024-07-01"), calendar().sessions
    early = replace(day, close_ns=day.open_ns + 210 * MINUTE)  # 13:00 in place of 16:00; shares trade on after hours
    market = Market.from_bars(
        [bar(one, minute) for one in days if "2024-06-24" <= one.date <= "2024-07-12" for minute in range(390)],
        sessions=[early if one == day else one for one in days],
    )
    async with desk(tmp_path, "2024-07-02", -HOUR, market=market) as it:
        await it.feed.catch_up(FRESH)
        scheduled = it.of(SessionScheduled)
        assert (scheduled[-2].session, scheduled[-1].previous[-1]) == (early, early)
        assert it.minutes_of(day)[-1] == 209


async def test_without_the_broker_s_calendar_a_start_goes_by_its_own(tmp_path: Path) -> None:
    async with desk(tmp_path, "2024-07-02", -HOUR) as it:
        it.server.faults.add("http_error", times=9, status=503, where={"path": "/v2/calendar*"})
        await it.feed.catch_up(FRESH)
        assert len(it.bars()) == 390
        assert it.log.of("history_unavailable")[0]["symbol"] == "the calendar"


async def test_history_is_asked_for_until_rest_answers(tmp_path: Path) -> None:
    async with desk(tmp_path, "2024-07-02", -HOUR) as it:
        it.server.faults.add("http_error", times=2, status=503, where={"path": "/v2/stocks/bars*"})
        it.server.faults.add("http_html", times=1, where={"path": "/v2/stocks/bars*"})
        await it.feed.catch_up(FRESH)
        assert len(it.bars()) == 390
        assert len(it.log.of("history_unavailable")) == 3


async def test_the_schedule_carries_the_sessions_around_it(tmp_path: Path) -> None:
    async with desk(tmp_path, "2024-07-03", -HOUR) as it:
        await it.feed.catch_up(FRESH)
        last = it.of(SessionScheduled)[-1]
        assert [day.date for day in last.upcoming[:2]] == ["2024-07-05", "2024-07-08"]
        assert last.previous[-1].date == "2024-07-02"


async def test_an_exposed_desk_begins_the_running_session_without_the_past_that_cannot_be_had(tmp_path: Path) -> None:
    day, hasty = session("2024-07-01"), Timing(repair_s=0.5, retry_first_s=0.05, retry_most_s=0.1)
    async with desk(tmp_path, "2024-07-02", 10 * 60 + 30, rate=1.0, timing=hasty) as it:
        it.server.faults.add("http_error", times=1000, status=503, where={"path": "/v2/stocks/bars*"})
        past = Known(day.date, False, day.open_ns + 330 * MINUTE)
        assert await it.feed.catch_up(past, exposed=True) == session("2024-07-02")
        (halt,) = it.of(HaltRequested)
        assert (halt.reason, "2024-07-01" in halt.detail) == ("history_missing", True)
        it.events.remove(halt)
        assert kinds(it.events) == [
            "SessionScheduled 2024-07-01",
            "SessionEnded 2024-07-01",
            "SessionScheduled 2024-07-02",
        ]


async def test_an_exposed_desk_gets_the_past_that_can_be_had_and_does_not_halt(tmp_path: Path) -> None:
    day = session("2024-07-01")
    async with desk(tmp_path, "2024-07-02", -HOUR) as it:
        await it.feed.catch_up(Known(day.date, False, day.open_ns + 386 * MINUTE), exposed=True)
        assert it.minutes_of(day) == [387, 388, 389]
        assert it.of(HaltRequested) == []


async def test_an_exposed_desk_waits_for_its_past_until_the_open(tmp_path: Path) -> None:
    day, hasty = session("2024-07-01"), Timing(repair_s=0.1, retry_first_s=0.05, retry_most_s=0.1)
    async with desk(tmp_path, "2024-07-02", -90, rate=60.0, timing=hasty) as it:
        it.server.faults.add("http_error", times=1000, status=503, where={"path": "/v2/stocks/bars*"})
        await it.feed.catch_up(Known(day.date, False, day.open_ns + 386 * MINUTE), exposed=True)
        assert it.clock.now_ns() >= session("2024-07-02").open_ns - SECOND  # a timer may be that early
        assert [halt.reason for halt in it.of(HaltRequested)] == ["history_missing"]
