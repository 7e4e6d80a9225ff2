"""Splits that the feed of a desk of shares tells, by day bars as traded and adjusted of the loopback server."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from daemon.brokers.alpaca.market.live_bars import Timing
from daemon.brokers.alpaca.rest.client import Refused
from daemon.brokers.api import Known
from daemon.core.events import BarClosed, SharesSplit
from simulator.prices.corporate_actions import Dividend, Split
from simulator.prices.day_prices import DailyPrices
from simulator.prices.market import Market
from tests.support.alpaca.market_desk import MarketDesk, calendar, desk, session
from tests.support.core.share_bars import SPEC

FRESH = Known("", True, 0)
EX = "2024-07-05"  # after the half day and Independence Day
CLOSES = {"SPY": ("2024-07-12", 100.0)}
DIVIDEND = Dividend("SPY", "2024-07-02", Decimal(3))


def market(*splits: Split) -> Market:
    around = [day for day in calendar().sessions if "2024-06-10" <= day.date <= "2024-07-19"]
    days = DailyPrices.made_up(("SPY",), around, seed=3, closes=CLOSES, splits=splits, dividends=(DIVIDEND,))
    return Market((), sessions=around, days=days)


def splits_of(it: MarketDesk) -> list[tuple[str, float, int]]:
    return [(split.symbol, split.ratio, split.from_ns) for split in it.of(SharesSplit)]


async def test_a_split_is_told_in_the_morning_of_its_day_and_a_dividend_never(tmp_path: Path) -> None:
    split = Split("SPY", EX, Decimal(4))
    async with desk(tmp_path, EX, -50, rate=1.0, market=market(split), spec=SPEC) as it:
        await it.feed.schedule(session(EX))
        assert splits_of(it) == [("SPY", 4.0, session(EX).open_ns)]


async def test_the_evening_before_nothing_is_known(tmp_path: Path) -> None:
    split = Split("SPY", EX, Decimal("0.1"))
    async with desk(tmp_path, "2024-07-03", 5 * 3600, rate=1.0, market=market(split), spec=SPEC) as it:
        await it.feed.catch_up(FRESH)
        assert splits_of(it) == []


async def test_a_start_within_the_session_tells_it_before_the_session_s_bars(tmp_path: Path) -> None:
    split = Split("SPY", EX, Decimal("1.5"))
    async with desk(tmp_path, EX, 600, rate=1.0, market=market(split), spec=SPEC) as it:
        await it.feed.catch_up(FRESH)
        assert splits_of(it) == [("SPY", 1.5, session(EX).open_ns)]
        kinds = [type(event) for event in it.events if isinstance(event, (SharesSplit, BarClosed))]
        assert kinds[0] is SharesSplit  # this desk wants no bars of earlier sessions
        assert BarClosed in kinds


async def test_splits_while_the_desk_was_down_are_told_with_the_sessions_from_which_they_count(tmp_path: Path) -> None:
    splits = (Split("SPY", "2024-07-01", Decimal(2)), Split("SPY", EX, Decimal(3)))
    async with desk(tmp_path, "2024-07-08", -50, rate=1.0, market=market(*splits), spec=SPEC) as it:
        await it.feed.schedule(session("2024-07-08"))
        assert splits_of(it) == [("SPY", 2.0, session("2024-07-01").open_ns), ("SPY", 3.0, session(EX).open_ns)]


async def test_it_is_asked_until_rest_answers(tmp_path: Path) -> None:
    split = Split("SPY", EX, Decimal(4))
    async with desk(tmp_path, EX, -50, rate=1.0, market=market(split), spec=SPEC) as it:
        it.server.faults.add("http_error", status=500, times=6)
        await it.feed.schedule(session(EX))
        assert splits_of(it) == [("SPY", 4.0, session(EX).open_ns)]


async def test_no_start_waits_for_long_where_rest_refuses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's bars come, and its job goes on asking."""

    async def refuse(*_: object) -> dict[str, list[dict[str, Any]]]:
        raise Refused(403, None, "no day bars", {})

    split, timing = Split("SPY", EX, Decimal(4)), Timing(repair_s=0.3)
    async with desk(tmp_path, EX, 600, rate=1.0, market=market(split), spec=SPEC, timing=timing) as it:
        with monkeypatch.context() as patched:
            patched.setattr(it.feed._history._reads, "day_bars", refuse)
            await it.feed.catch_up(FRESH)
        assert splits_of(it) == []
        assert it.of(BarClosed)
        await it.feed.schedule(session(EX))
        assert splits_of(it) == [("SPY", 4.0, session(EX).open_ns)]


async def test_day_bars_that_were_adjusted_late_are_looked_at_again_before_the_open(tmp_path: Path) -> None:
    split = Split("SPY", EX, Decimal(4))
    async with desk(tmp_path, EX, -110, rate=20.0, market=market(split), spec=SPEC) as it:
        it.server.faults.add("day_bars_unadjusted")
        await it.feed.schedule(session(EX))
        assert splits_of(it) == [("SPY", 4.0, session(EX).open_ns)]
        looks = [request for request in it.server.requests if "adjustment=split" in request.path]
        assert len(looks) == 2
