"""The live feed against the loopback server in simulated time: reconnects, holes, corrections, silence, quotes.

What the tape holds is known minute by minute, so every expectation is "each minute once, in order, with its values".
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from daemon.alpaca_api.messages import DataMessage
from daemon.core.events import (
    BarClosed,
    BarCorrected,
    BarRejected,
    ContractsListed,
    QuotesReceived,
    SessionEnded,
    SessionScheduled,
)
from simulator.data.fields import bar_fields
from strategies.kit.contract import Bar
from tests.support.alpaca.market_desk import (
    CALL,
    DATE,
    DAY,
    ENDED,
    MINUTE,
    PUT,
    SECOND,
    TIMING,
    MarketDesk,
    bar,
    desk,
    live,
    session,
)

pytestmark = pytest.mark.filterwarnings("ignore:websockets.legacy is deprecated:DeprecationWarning")


async def reach(it: MarketDesk, minute: int) -> None:
    """Wait until the bar of this minute was given; then all before it were, once, in order, as the tape has them."""
    await it.until(lambda: max(it.minutes_of(DAY), default=-1) >= minute)
    minutes = it.minutes_of(DAY)
    assert minutes == list(range(len(minutes)))
    corrected = {event.bar.start_ns for event in it.of(BarCorrected)}
    for live_bar in it.bars():
        if live_bar.start_ns not in corrected and live_bar.start_ns >= DAY.open_ns:
            assert live_bar == bar(DAY, (live_bar.start_ns - DAY.open_ns) // MINUTE)


async def test_each_bar_is_given_once_in_order_and_followed_at_once_by_its_quotes(tmp_path: Path) -> None:
    async with live(tmp_path) as it:
        await reach(it, 3)
        for event, after in pairwise(it.events):
            if isinstance(event, BarClosed) and after is not it.events[-1]:
                assert isinstance(after, QuotesReceived)
                assert after.closes_bar_ns == event.bar.start_ns
        closing = [event.closes_bar_ns for event in it.of(QuotesReceived)]
        assert closing == [b.start_ns for b in it.bars()]
        times = [event.time_ns for event in it.events]
        assert times == sorted(times)


async def test_a_dropped_connection_within_a_session_loses_no_minute(tmp_path: Path) -> None:
    async with live(tmp_path) as it:
        await reach(it, 1)
        it.server.faults.add("socket_drop", where={"stream": "stock"})  # then 406 for 90 simulated seconds
        await it.until(lambda: "stream_busy" in it.log.names())
        await reach(it, 6)
        assert {"stream_lost", "stream_busy", "stream_up"} <= it.log.names()


async def test_a_start_within_a_session_loses_no_minute(tmp_path: Path) -> None:
    async with live(tmp_path, 5 * 60 + 58.0) as it:
        await reach(it, 9)


@pytest.mark.parametrize("code", [1000, 1001, 1011])
async def test_a_connection_that_the_server_closes_is_taken_up_again_without_a_hole(tmp_path: Path, code: int) -> None:
    async with live(tmp_path) as it:
        await reach(it, 0)
        it.server.faults.add("socket_close", code=code, where={"stream": "stock"})
        await it.until(lambda: "stream_lost" in it.log.names())
        await reach(it, 3)


async def test_a_half_open_connection_is_left_and_no_minute_is_lost(tmp_path: Path) -> None:
    async with live(tmp_path) as it:
        await reach(it, 0)
        it.server.faults.add("socket_black_hole", where={"stream": "stock"})
        await it.until(lambda: "stream_lost" in it.log.names())
        await reach(it, 6)


@pytest.mark.parametrize("fault", ["bar_gap", "bar_reordered", "bar_duplicated", "bar_late"])
async def test_a_bar_that_is_missing_late_doubled_or_overtaken_is_given_once_in_order(
    tmp_path: Path, fault: str
) -> None:
    async with live(tmp_path) as it:
        it.server.faults.add(fault, after=1)
        await reach(it, 4)
        assert it.server.faults.met[fault] == 1


async def test_a_late_update_becomes_a_correction(tmp_path: Path) -> None:
    async with live(tmp_path) as it:
        it.server.faults.add("bar_corrected", after=1, shift=0.25)
        await it.until(lambda: it.of(BarCorrected))
        (event,) = it.of(BarCorrected)
        tape = bar(DAY, 1)
        assert event.bar == msgspec.structs.replace(
            tape, close=round(tape.close + 0.25, 4), high=round(tape.close + 0.25, 4), volume=tape.volume + 100
        )
        await reach(it, 3)


async def test_a_malformed_message_costs_no_bar(tmp_path: Path) -> None:
    async with live(tmp_path) as it:
        it.server.faults.add("malformed_json", where={"stream": "stock"}, times=1)
        it.server.faults.add("data_null", where={"stream": "stock"}, times=1, after=1)
        await reach(it, 4)


async def test_a_stream_that_says_nothing_in_a_session_is_told_reconnected_and_read_over_rest(tmp_path: Path) -> None:
    async with live(tmp_path) as it:
        await reach(it, 0)
        it.server.faults.add("socket_stall", until_ns=it.clock.now_ns() + 6 * MINUTE, where={"stream": "stock"})
        await it.until(lambda: "feed_silent" in it.log.names())
        await it.until(lambda: "no bar came although its minute is over" in str(it.log.of("stream_lost")))
        await reach(it, 9)
        assert "repaired" in it.log.names()
        assert it.feed._bars.counts["silences"] < 12  # one a minute at the most


async def test_a_market_that_the_broker_has_closed_is_not_silent_until_it_opens(tmp_path: Path) -> None:
    async with live(tmp_path) as it:
        await reach(it, 0)
        it.is_closed = True
        it.server.faults.add("socket_stall", until_ns=it.clock.now_ns() + 16 * MINUTE, where={"stream": "stock"})
        await it.clock.sleep_until(it.clock.now_ns() + 8 * MINUTE)
        assert "feed_silent" not in it.log.names()
        it.is_closed = False
        await it.until(lambda: "feed_silent" in it.log.names())


async def test_a_frame_that_is_nested_beyond_measure_costs_no_bar(tmp_path: Path) -> None:
    async with live(tmp_path) as it:
        it.server.faults.add("malformed_json", where={"stream": "stock"}, times=1, nested=True)
        await reach(it, 4)
        assert "message_unreadable" in it.log.names()


async def test_a_bad_bar_of_the_future_does_not_switch_the_silence_watch_off(tmp_path: Path) -> None:
    async with live(tmp_path) as it:
        it.server.faults.add("bar_ahead", minutes=30)
        await it.until(lambda: it.feed._bars.counts["rejected"])
        it.server.faults.add("socket_stall", until_ns=it.clock.now_ns() + 8 * MINUTE, where={"stream": "stock"})
        await it.until(lambda: "feed_silent" in it.log.names())
        assert it.clock.now_ns() < DAY.open_ns + 30 * MINUTE
        assert it.server.faults.met["bar_ahead"] == 1


async def test_before_the_open_and_after_the_close_silence_is_quiet(tmp_path: Path) -> None:
    async with live(tmp_path, -20 * 60.0, rate=600.0) as it:
        await it.clock.sleep_until(DAY.open_ns - MINUTE)
        assert "feed_silent" not in it.log.names()


async def test_when_rest_stays_silent_streamed_bars_go_on_after_the_deadline(tmp_path: Path) -> None:
    async with live(tmp_path, timing=dataclasses.replace(TIMING, repair_s=0.5)) as it:
        await reach(it, 0)
        it.server.faults.add("http_error", times=10_000, status=503, where={"path": "/v2/stocks/bars*"})
        it.server.faults.add("bar_gap")
        await it.until(lambda: "repair_abandoned" in it.log.names())
        await it.until(lambda: len(it.minutes_of(DAY)) > 4)
        minutes = it.minutes_of(DAY)
        assert minutes == sorted(set(minutes))
        assert 1 not in minutes  # it is lost, and logged


async def test_a_symbol_that_rest_does_not_know_is_told_by_name(tmp_path: Path) -> None:
    async with live(tmp_path, timing=dataclasses.replace(TIMING, repair_s=0.5)) as it:
        await reach(it, 0)
        it.server.faults.add("http_error", times=10_000, status=404, where={"path": "/v2/stocks/bars*"})
        it.server.faults.add("bar_gap")
        await it.until(lambda: "symbol_refused" in it.log.names())
        assert it.log.of("symbol_refused")[0]["symbol"] == "SPY"


async def test_the_end_of_a_session_comes_after_its_last_bar(tmp_path: Path) -> None:
    async with live(tmp_path, 387 * 60.0 + 30.0) as it:
        await it.clock.sleep_until(DAY.close_ns + 3 * SECOND)
        await it.feed.end(DAY)
        assert isinstance(it.events[-1], SessionEnded)
        assert it.minutes_of(DAY)[-1] == 389
        (counts,) = it.log.of("feed_counts")
        assert counts["date"] == DATE


async def test_a_last_bar_that_was_never_streamed_is_fetched_before_the_end(tmp_path: Path) -> None:
    async with live(tmp_path, 387 * 60.0 + 30.0) as it:
        it.server.faults.add("bar_gap", where={"start_ns": DAY.open_ns + 389 * MINUTE})
        await it.clock.sleep_until(DAY.close_ns + 5 * SECOND)
        await it.feed.end(DAY)
        assert it.minutes_of(DAY)[-1] == 389
        assert isinstance(it.events[-1], SessionEnded)


async def test_the_schedule_lists_contracts_and_is_put_once(tmp_path: Path) -> None:
    async with live(tmp_path, -600.0, rate=1.0) as it:
        await it.feed.schedule(DAY)
        assert len(it.of(SessionScheduled)) == 1
        (listed,) = it.of(ContractsListed)
        assert {CALL, PUT} <= {contract.symbol for contract in listed.contracts}


# --- quotes -------------------------------------------------------------------------------------------------------


async def test_watched_contracts_and_their_neighbours_are_quoted_with_each_bar(tmp_path: Path) -> None:
    async with live(tmp_path) as it:
        await it.feed.schedule(DAY)
        it.feed.watch((CALL, PUT))
        await reach(it, 2)
        closing = it.of(QuotesReceived)[-1]
        quoted = {quote.symbol for quote in closing.quotes}
        assert quoted == {f"SPY240703{right}00{strike}000" for right in "CP" for strike in range(543, 548)}
        for quote in closing.quotes:
            assert 0 <= quote.bid <= quote.ask
            assert quote.low <= (quote.bid + quote.ask) / 2 <= quote.high
            assert quote.quoted_ns <= closing.time_ns


async def test_a_newly_watched_contract_is_asked_for_once_over_rest(tmp_path: Path) -> None:
    async with live(tmp_path, 120.0, rate=1.0) as it:  # slow: the stream has no quote yet
        it.feed.watch((CALL,))
        await it.until(lambda: CALL in it.feed._quotes.book)
        paths = [request.path for request in it.server.requests if "/options/quotes/latest" in request.path]
        assert len(paths) == 1
        assert CALL in paths[0]
        it.feed.watch((CALL, PUT))
        await it.until(lambda: PUT in it.feed._quotes.book)
        paths = [request.path for request in it.server.requests if "/options/quotes/latest" in request.path]
        assert len(paths) == 2
        assert CALL not in paths[1]


async def test_a_contract_that_cannot_be_quoted_is_named(tmp_path: Path) -> None:
    async with live(tmp_path, 120.0, rate=1.0) as it:
        it.server.faults.add("http_error", times=1, status=404, where={"path": "/v1beta1/options/quotes*"})
        it.feed.watch((CALL,))
        await it.until(lambda: "quotes_unavailable" in it.log.names())
        assert CALL in str(it.log.of("quotes_unavailable"))


async def test_shares_of_an_exercise_are_not_asked_for_among_contracts(tmp_path: Path) -> None:
    async with live(tmp_path, 30.0, rate=30.0) as it:
        it.feed.watch((CALL, "SPY"))
        it.feed.attend(frozenset({PUT, "SPY"}))
        await it.until(lambda: any(not event.closes_bar_ns for event in it.of(QuotesReceived)))
        paths = [request.path for request in it.server.requests if "/options/quotes" in request.path]
        assert paths
        assert not [path for path in paths if re.search(r"SPY(,|%2C|&|$)", path)]
        assert {symbol for _, symbol in it.feed._quotes.socket.granted} >= {CALL, PUT}
        assert ("quotes", "SPY") not in it.feed._quotes.socket.granted


async def test_attended_contracts_are_quoted_between_bars_at_most_once_a_second(tmp_path: Path) -> None:
    async with live(tmp_path, 30.0, rate=30.0) as it:
        it.feed.watch((CALL,))
        it.feed.attend(frozenset({PUT}))
        await it.until(lambda: len([e for e in it.of(QuotesReceived) if not e.closes_bar_ns]) >= 4)
        between = [e for e in it.of(QuotesReceived) if not e.closes_bar_ns]
        assert all({quote.symbol for quote in event.quotes} == {PUT} for event in between)
        assert all(after.time_ns - event.time_ns >= SECOND for event, after in pairwise(between))
        it.feed.attend(frozenset())
        await asyncio.sleep(0.1)
        count = len([e for e in it.of(QuotesReceived) if not e.closes_bar_ns])
        await it.clock.sleep_until(it.clock.now_ns() + 40 * SECOND)
        assert len([e for e in it.of(QuotesReceived) if not e.closes_bar_ns]) == count


async def test_crossed_quotes_are_dropped_and_counted(tmp_path: Path) -> None:
    async with live(tmp_path) as it:
        it.feed.watch((CALL,))
        it.server.faults.add("quote_crossed", times=3, where={"stream": "option"})
        await it.until(lambda: it.server.faults.met["quote_crossed"] == 3)
        await reach(it, 2)
        assert it.feed._quotes.book.counts["crossed"] == 3


async def test_the_option_stream_comes_back_with_all_contracts(tmp_path: Path) -> None:
    async with live(tmp_path) as it:
        it.feed.watch((CALL,))
        await it.until(lambda: ("quotes", CALL) in it.feed._quotes.socket.granted)
        it.server.faults.add("socket_close", where={"stream": "option"})
        await it.until(lambda: it.feed._quotes.socket.counts["connects"] > 1)
        await it.until(lambda: ("quotes", CALL) in it.feed._quotes.socket.granted)


async def test_at_the_end_both_sockets_are_closed_with_a_close_frame(tmp_path: Path) -> None:
    async with desk(tmp_path, DATE, 120.0, rate=1.0) as it:
        await it.feed.catch_up(ENDED)
        for _ in range(2):  # a session that was not closed cleanly would be held and refuse the second round with 406
            it.log.entries.clear()
            async with it.running():
                await it.until(lambda: len(it.log.of("stream_up")) == 2)
            assert "stream_busy" not in it.log.names()


async def test_an_option_stream_that_turns_deaf_is_told_and_left_and_quotes_come_over_rest(tmp_path: Path) -> None:
    async with live(tmp_path) as it:
        it.server.faults.add("symbol_limit", where={"stream": "option"})  # 405 after the ack, then no data
        it.feed.watch((CALL,))
        await it.until(lambda: "quotes_silent" in it.log.names())
        assert it.log.of("stream_error")[0]["code"] == 405
        await it.until(lambda: it.feed._quotes.socket.counts["connects"] > 1)
        quoted_ns = it.feed._quotes.book.take()[0].quoted_ns
        await it.until(lambda: it.feed._quotes.book.take()[0].quoted_ns > quoted_ns)


@pytest.mark.parametrize("ahead", [bar(DAY, 380), bar(session("2024-07-03"), 5)])
async def test_a_bar_of_a_minute_to_come_is_refused_and_the_session_goes_on(tmp_path: Path, ahead: Bar) -> None:
    async with live(tmp_path) as it:
        await reach(it, 3)
        message = DataMessage("b", "SPY", ahead.start_ns, bar_fields(ahead))
        it.server.data_stream.publish_stocks([message])
        await it.until(lambda: it.of(BarRejected))
        newest_minute = max(it.minutes_of(DAY))
        await reach(it, newest_minute + 3)
        assert [(event.start_ns, event.reason) for event in it.of(BarRejected)] == [(ahead.start_ns, "early")]
        assert [event.session.date for event in it.of(SessionScheduled)][-1] == DATE
