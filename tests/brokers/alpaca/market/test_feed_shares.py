"""The live feed of a desk of shares against the loopback server: bars and quotes of two symbols on one connection.

What the tape holds is known minute by minute; a wide bar's expected values are written out from its five minutes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.brokers.api import Known
from daemon.core.events import (
    BarClosed,
    BarCorrected,
    ContractsListed,
    QuotesReceived,
    SessionEnded,
    TradingStatusChanged,
)
from simulator.prices.market import Market
from strategies.kit.contract import Bar
from strategies.online_dqn import OnlineDqn
from tests.support.alpaca.market_desk import (
    BEFORE,
    DATE,
    DAY,
    ENDED,
    MINUTE,
    SECOND,
    MarketDesk,
    bar,
    calendar,
    desk,
    minutes,
)

pytestmark = pytest.mark.filterwarnings("ignore:websockets.legacy is deprecated:DeprecationWarning")

SYMBOLS = ("SPY", "QQQ")
SPEC = msgspec.structs.replace(OnlineDqn(None, SYMBOLS).spec, history_bars=300)
FIVE = msgspec.structs.replace(SPEC, bar_interval_s=300, history_bars=60)


@cache
def market() -> Market:
    """The made-up tape of both symbols around the day."""
    days = [day for day in calendar().sessions if "2024-06-27" <= day.date <= DATE]
    bars = [bar(day, minute, symbol) for day in days for minute in range(minutes(day)) for symbol in SYMBOLS]
    return Market.from_bars(bars, sessions=calendar().sessions)


@asynccontextmanager
async def live(folder: Path, start_s: float = -20.0, **settings: Any) -> AsyncIterator[MarketDesk]:
    """A feed of two shares that runs since shortly before the open (or later)."""
    async with desk(folder, DATE, start_s, **{"market": market(), "spec": SPEC, **settings}) as it:
        await it.feed.catch_up(ENDED)
        async with it.running():
            await it.until(lambda: "stream_up" in it.log.names())
            yield it


def of_day(it: MarketDesk, symbol: str) -> list[int]:
    """The minutes of this symbol's bars of the day, as they were given."""
    return [(b.start_ns - DAY.open_ns) // MINUTE for b in it.bars() if b.symbol == symbol and b.start_ns >= DAY.open_ns]


async def reach(it: MarketDesk, symbol: str, minute: int) -> None:
    """Wait until this symbol's bar of the minute was given; all before it were too, once and in order."""
    await it.until(lambda: max(of_day(it, symbol), default=-1) >= minute)
    assert of_day(it, symbol) == list(range(len(of_day(it, symbol))))


async def test_bars_and_quotes_of_both_symbols_come_on_one_connection(tmp_path: Path) -> None:
    async with live(tmp_path) as it:
        await reach(it, "SPY", 3)
        await reach(it, "QQQ", 3)
        channels = {
            (channel, symbol) for channel in ("bars", "updatedBars", "statuses", "quotes") for symbol in SYMBOLS
        }
        assert it.feed._quotes.socket.granted == channels
        assert [entry["url"] for entry in it.log.of("stream_up")] == [it.server.stream_url]


async def test_each_bar_is_followed_at_once_by_the_quote_of_its_own_share(tmp_path: Path) -> None:
    async with live(tmp_path) as it:
        await reach(it, "QQQ", 3)
        for event, after in pairwise(it.events):
            if isinstance(event, BarClosed) and event.bar.start_ns > DAY.open_ns:
                assert isinstance(after, QuotesReceived)
                assert after.closes_bar_ns == event.bar.start_ns
                (quote,) = after.quotes
                assert quote.symbol == event.bar.symbol
                assert float(quote.bid) == event.bar.close  # the last path point of the minute
                assert event.bar.start_ns <= quote.quoted_ns <= after.time_ns


async def test_a_fresh_desk_gets_its_history_over_rest_minute_by_minute_with_both_symbols(tmp_path: Path) -> None:
    async with desk(tmp_path, DATE, -600.0, market=market(), spec=SPEC) as it:
        session = await it.feed.catch_up(Known("", ended=False, last_bar_ns=0))
        assert session == DAY
        starts = [(b.start_ns, b.symbol) for b in it.bars()]
        assert starts == [(BEFORE.open_ns + minute * MINUTE, symbol) for minute in range(390) for symbol in SYMBOLS]
        assert [event.date for event in it.of(SessionEnded)] == [BEFORE.date]


async def test_a_symbol_that_loses_a_minute_gets_it_over_rest_and_holds_the_other_one_up_by_nothing(
    tmp_path: Path,
) -> None:
    async with live(tmp_path) as it:
        await reach(it, "QQQ", 1)
        it.server.faults.add("bar_gap", where={"symbol": "QQQ", "start_ns": DAY.open_ns + 4 * MINUTE})
        await reach(it, "SPY", 7)
        await reach(it, "QQQ", 7)
        times = {(b.bar.symbol, b.bar.start_ns): b.time_ns for b in it.of(BarClosed)}
        fourth = DAY.open_ns + 4 * MINUTE
        assert times["SPY", fourth] < fourth + MINUTE + 30 * SECOND
        assert times["QQQ", fourth] >= fourth + 2 * MINUTE  # with the bar that shows the hole
        assert {entry["symbol"] for entry in it.log.of("repaired") if entry["reason"] == "a minute is missing"} == {
            "QQQ"
        }


async def test_a_share_that_its_exchange_halts_is_told_and_its_silence_opens_no_stream_again(tmp_path: Path) -> None:
    async with live(tmp_path, market=market.__wrapped__()) as it:  # whose tape the halt changes
        await reach(it, "QQQ", 1)
        it.server.faults.add("trading_halt", where={"symbol": "QQQ"}, minutes=7)
        await it.until(lambda: len(it.of(TradingStatusChanged)) == 2)
        halt, resume = it.of(TradingStatusChanged)
        assert [(event.symbol, event.halted, event.reason) for event in (halt, resume)] == [
            ("QQQ", True, "Trading Halt LUDP Volatility Pause"),
            ("QQQ", False, "Trading Resumption"),
        ]
        assert resume.time_ns - halt.time_ns == pytest.approx(7 * MINUTE, abs=30 * SECOND)
        await it.until(lambda: max(of_day(it, "QQQ")) * MINUTE + DAY.open_ns >= resume.time_ns)
        whole = [minute for minute in range(of_day(it, "QQQ")[-1]) if minute not in of_day(it, "QQQ")]
        assert len(whole) in (6, 7)  # the minute in which it began had trades
        assert of_day(it, "SPY") == list(range(len(of_day(it, "SPY"))))
        quoted = [q.quoted_ns for event in it.of(QuotesReceived) for q in event.quotes if q.symbol == "QQQ"]
        assert not [ns for ns in quoted if halt.time_ns + 15 * SECOND < ns < resume.time_ns - 15 * SECOND]
        assert "QQQ" not in [entry["symbol"] for entry in it.log.of("feed_silent")]


async def test_a_late_trade_corrects_the_bar_of_its_symbol_alone(tmp_path: Path) -> None:
    async with live(tmp_path) as it:
        it.server.faults.add("bar_corrected", where={"symbol": "QQQ"}, shift=0.25)
        await it.until(lambda: it.of(BarCorrected))
        (corrected,) = it.of(BarCorrected)
        minute = (corrected.bar.start_ns - DAY.open_ns) // MINUTE
        assert corrected.bar.symbol == "QQQ"
        assert corrected.bar.close == round(bar(DAY, minute).close + 0.25, 4)


async def test_after_a_lost_connection_both_symbols_have_every_minute(tmp_path: Path) -> None:
    async with live(tmp_path) as it:
        await reach(it, "QQQ", 2)
        it.server.faults.add("socket_drop", where={"stream": "stock"})
        await it.until(lambda: len(it.log.of("stream_up")) == 2)
        await reach(it, "SPY", 9)
        await reach(it, "QQQ", 9)


async def test_five_minute_bars_are_built_from_minutes(tmp_path: Path) -> None:
    async with live(tmp_path, 8 * 60.0, spec=FIVE) as it:
        await it.until(lambda: [b.start_ns for b in it.bars() if b.symbol == "QQQ"][-1:] == [DAY.open_ns + 15 * MINUTE])
        bars = [b for b in it.bars() if b.symbol == "QQQ" and b.start_ns >= DAY.open_ns]
        assert [(b.start_ns - DAY.open_ns) // MINUTE for b in bars] == [0, 5, 10, 15]
        assert bars[0] == Bar("QQQ", DAY.open_ns, 545.0, 545.09, 544.95, 545.05, 5000.0)
        assert bars[3] == Bar("QQQ", DAY.open_ns + 15 * MINUTE, 545.15, 545.24, 545.1, 545.2, 5000.0)
        assert it.of(ContractsListed) == []


async def test_after_a_restart_each_symbol_goes_on_where_the_state_has_it(tmp_path: Path) -> None:
    newest = {"SPY": DAY.open_ns + 5 * MINUTE, "QQQ": DAY.open_ns + 3 * MINUTE}
    past = Known(DATE, ended=False, last_bar_ns=newest["SPY"], newest=newest)
    async with desk(tmp_path, DATE, 8 * 60.0 + 30.0, market=market(), spec=SPEC) as it:
        await it.feed.catch_up(past)
        assert of_day(it, "SPY") == [6, 7]
        assert of_day(it, "QQQ") == [4, 5, 6, 7]
        starts = [b.start_ns for b in it.bars()]
        assert starts == sorted(starts)


async def test_a_held_share_is_quoted_between_bars_at_most_once_a_second(tmp_path: Path) -> None:
    async with live(tmp_path) as it:
        it.feed.attend(frozenset({"QQQ"}))
        between = [event for event in it.of(QuotesReceived) if not event.closes_bar_ns]
        await it.until(
            lambda: len([e for e in it.of(QuotesReceived) if not e.closes_bar_ns and e.time_ns > DAY.open_ns]) > 5
        )
        between = [event for event in it.of(QuotesReceived) if not event.closes_bar_ns]
        assert {quote.symbol for event in between for quote in event.quotes} == {"QQQ"}
        assert all(later.time_ns - event.time_ns >= SECOND for event, later in pairwise(between))


async def test_one_share_without_quotes_is_asked_for_over_rest_though_the_other_has_them(tmp_path: Path) -> None:
    async with live(tmp_path) as it:
        await reach(it, "QQQ", 1)
        it.server.faults.add("quote_gap", times=10_000, where={"symbol": "QQQ"})
        await it.until(lambda: "quotes_silent" in it.log.names())
        paths = [row.path for row in it.server.requests if row.path.startswith("/v2/stocks/quotes/latest")]
        assert any("QQQ" in path for path in paths)
        await reach(it, "SPY", 8)
