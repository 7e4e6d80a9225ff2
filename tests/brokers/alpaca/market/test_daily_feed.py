"""The feed of a daily desk: what it tells before a decision, and when it lets none happen.

Expected values: the real calendar around 2024-07-05 (July 4 is a holiday, July 3 a half day), made-up prices by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from msgspec.structs import replace

from daemon.brokers.alpaca.wire import time_text
from daemon.brokers.api import Known
from daemon.core.events import (
    BarClosed,
    Event,
    HistoryAdjusted,
    QuotesReceived,
    RebalanceDue,
    SessionEnded,
    SessionScheduled,
    TroubleNoticed,
)
from daemon.core.limits import Basket
from daemon.host.time.calendar import midnight_ns
from tests.support.alpaca.daily_desk import (
    BEFORE,
    DAY,
    MINUTE,
    SECOND,
    SYMBOLS,
    Played,
    W,
    morning,
    price,
    row,
    session,
)

NOTHING = Known("", ended=False, last_bar_ns=0)


async def first_morning(stage: Played) -> None:
    """Everything up to the decision of `DAY`."""
    current = await stage.feed.catch_up(NOTHING)
    assert current.date == DAY
    await stage.feed.schedule(current)
    await stage.feed.decide(current)


def kinds(events: list[Event]) -> list[type[Event]]:
    return [type(event) for event in events]


async def test_a_first_start_tells_the_history_then_the_last_session_then_that_a_basket_is_due() -> None:
    stage = Played(morning())
    await first_morning(stage)
    expected = [HistoryAdjusted] * 3 + [SessionScheduled] + [BarClosed] * 3 + [SessionEnded, SessionScheduled]
    assert kinds(stage.events) == [*expected, RebalanceDue]
    assert [event.session.date for event in stage.of(SessionScheduled)] == [BEFORE, DAY]
    assert [(e.date, e.running) for e in stage.of(RebalanceDue)] == [(DAY, ())]
    for symbol, bars in stage.known().items():
        assert len(bars) == W
        assert bars[-1].start_ns == midnight_ns(BEFORE)
        assert bars[-1].close == price(symbol, BEFORE)


async def test_the_next_morning_tells_the_new_session_s_bars_alone() -> None:
    stage = Played(morning())
    await first_morning(stage)
    del stage.events[:]
    stage.source.now_ns = session(DAY).close_ns + 5 * MINUTE
    await stage.feed.end(session(DAY))
    assert kinds(stage.events) == [BarClosed] * 3 + [SessionEnded]
    stage.source.now_ns = morning("2024-07-08")
    await stage.feed.schedule(session("2024-07-08"))
    await stage.feed.decide(session("2024-07-08"))
    assert kinds(stage.events[4:]) == [SessionScheduled, RebalanceDue]


class Unable:
    """A strategy that does not say which bars it keeps: the core's call of it is journaled as its error."""

    def __init__(self, strategy: Any, returned: Any) -> None:
        self._strategy, self._returned = strategy, returned

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strategy, name)

    def known(self, _: object) -> Any:
        if isinstance(self._returned, Exception):
            raise self._returned
        return self._returned


@pytest.mark.parametrize("returned", [None, {"SPY": 7}, ZeroDivisionError("planted")])
async def test_a_strategy_that_cannot_say_which_bars_it_keeps_does_not_end_the_feed(returned: Any) -> None:
    stage = Played(morning())
    stage.feed = stage.feed_of(Unable(stage.strategy, returned))
    await first_morning(stage)
    assert {event.symbol for event in stage.of(HistoryAdjusted)} == set(SYMBOLS)  # the core meets the error at these
    assert [event.date for event in stage.of(RebalanceDue)] == [DAY]


async def test_a_split_over_night_replaces_the_history_of_its_symbol_and_of_no_other() -> None:
    stage = Played(morning())
    await first_morning(stage)
    stage.source.now_ns = session(DAY).close_ns + 5 * MINUTE
    await stage.feed.end(session(DAY))
    stage.source.factors["QQQ"] = 0.5
    stage.source.now_ns = morning("2024-07-08")
    del stage.events[:]
    await stage.feed.schedule(session("2024-07-08"))
    adjusted = stage.of(HistoryAdjusted)
    assert [event.symbol for event in adjusted] == ["QQQ"]
    assert adjusted[0].bars[-1].close == price("QQQ", DAY) / 2
    assert adjusted[0].bars == stage.known()["QQQ"]
    assert len(adjusted[0].bars) == W


async def test_a_difference_within_the_source_s_rounding_changes_nothing() -> None:
    stage = Played(morning())
    await first_morning(stage)
    stage.source.factors["QQQ"] = 1 + 4e-7  # 0.00006 USD
    del stage.events[:]
    stage.source.now_ns = session(DAY).close_ns + 5 * MINUTE
    await stage.feed.end(session(DAY))
    assert stage.of(HistoryAdjusted) == []


async def test_a_day_s_bar_is_not_asked_for_before_it_is_final() -> None:
    stage = Played(session(DAY).close_ns + 5 * MINUTE - 1)
    await stage.feed.catch_up(NOTHING)
    assert max(stage.source.asked) == midnight_ns(BEFORE)


async def test_sessions_that_were_missed_come_one_by_one_each_around_its_own_bars() -> None:
    stage = Played(morning(BEFORE))
    current = await stage.feed.catch_up(NOTHING)
    await stage.feed.schedule(current)
    later = Played(morning("2024-07-09"), state=stage.state)
    await later.feed.catch_up(Known(BEFORE, ended=False, last_bar_ns=0))
    missed = [SessionScheduled, BarClosed, BarClosed, BarClosed, SessionEnded]
    assert kinds(later.events) == [*missed * 3, SessionScheduled]
    assert [event.date for event in later.of(SessionEnded)] == [BEFORE, DAY, "2024-07-08"]
    starts = [event.bar.start_ns for event in later.of(BarClosed)]
    assert starts == sorted(starts)


async def test_a_start_without_rest_schedules_the_session_and_tells_the_bars_before_the_decision() -> None:
    stage = Played(morning(minutes_before=20))
    stage.source.failing = 10_000
    current = await stage.feed.catch_up(NOTHING)
    assert kinds(stage.events) == [SessionScheduled, SessionEnded, SessionScheduled]
    stage.source.failing = 2
    await stage.feed.schedule(current)
    await stage.feed.decide(current)
    assert kinds(stage.events[3:]) == [HistoryAdjusted] * 3 + [BarClosed] * 3 + [RebalanceDue]


async def test_a_history_that_cannot_be_had_before_the_open_means_no_basket() -> None:
    stage = Played(morning())
    stage.source.failing, stage.source.takes_ns = 10_000, MINUTE
    await stage.feed.decide(session(DAY))
    assert stage.of(RebalanceDue) == []
    (alarm,) = stage.of(TroubleNoticed)
    assert alarm.name == "basket_missed"
    assert "could not be fetched" in alarm.detail


async def test_a_daemon_that_starts_after_the_open_misses_the_basket_and_says_so() -> None:
    stage = Played(session(DAY).open_ns)
    await first_morning(stage)
    assert stage.of(RebalanceDue) == []
    (alarm,) = stage.of(TroubleNoticed)
    assert (alarm.name, alarm.detail) == (
        "basket_missed",
        f"no basket for {DAY}: its time was over when the daemon started",
    )


async def test_a_decision_waits_while_book_and_broker_do_not_agree() -> None:
    stage = Played(morning())
    stage.source.takes_ns = MINUTE
    reconciled = stage.state.risk
    stage.state = replace(stage.state, risk=replace(reconciled, reconciled=False))
    waiting = asyncio.create_task(stage.feed.decide(session(DAY)))
    await asyncio.sleep(0.02)  # some tries, a simulated minute each
    assert stage.of(RebalanceDue) == []
    stage.state = replace(stage.state, risk=reconciled)
    await waiting
    (due,) = stage.of(RebalanceDue)
    assert due.time_ns < session(DAY).open_ns - 5 * MINUTE


async def test_waiting_for_the_broker_alone_it_reads_the_newest_bars_each_minute_and_whole_what_changed() -> None:
    stage = Played(morning())
    agreed = stage.state.risk
    stage.state = replace(stage.state, risk=replace(agreed, reconciled=False))
    waiting = asyncio.create_task(stage.feed.decide(session(DAY)))
    for second in range(0, 150, 10):
        await asyncio.sleep(0.01)  # many tries
        if second == 70:
            assert stage.source.given == [3 * (W + 10), 3]
            stage.source.factors["IWM"] = 0.5  # a split that the bars show late
        stage.source.now_ns += MINUTE // 6
    assert stage.source.given[2:] == [3, W + 10]
    assert {event.symbol for event in stage.of(HistoryAdjusted) if event.time_ns > morning() + MINUTE} == {"IWM"}
    stage.state = replace(stage.state, risk=agreed)
    await waiting
    assert stage.source.given[4:] == [3]
    assert len(stage.of(RebalanceDue)) == 1


async def test_a_policy_is_asked_at_last_although_book_and_broker_do_not_agree() -> None:
    stage = Played(morning())
    stage.source.takes_ns = MINUTE
    stage.state = replace(stage.state, risk=replace(stage.state.risk, reconciled=False))
    await stage.feed.decide(session(DAY))
    (due,) = stage.of(RebalanceDue)
    assert due.time_ns == session(DAY).open_ns - MINUTE
    assert stage.of(TroubleNoticed) == []


async def test_a_session_that_was_decided_is_not_decided_again_after_a_restart() -> None:
    stage = Played(morning())
    await first_morning(stage)
    again = Played(session(DAY).open_ns + MINUTE, state=stage.state)
    await again.feed.decide(session(DAY))
    assert again.events == []


async def test_more_than_a_fifth_of_the_symbols_without_a_bar_means_no_basket() -> None:
    stage = Played(morning())
    stage.source.holes.add(("IWM", BEFORE))
    stage.source.takes_ns = MINUTE
    await first_morning(stage)
    assert stage.of(RebalanceDue) == []
    assert [(event.name, "IWM" in event.detail) for event in stage.of(TroubleNoticed)] == [
        ("symbols_missing", True),
        ("basket_missed", False),
    ]


@pytest.mark.parametrize("is_held", [False, True])
async def test_a_session_that_was_not_held_keeps_no_basket_back(is_held: bool) -> None:
    stage = Played(morning())
    stage.source.holes |= {(symbol, BEFORE) for symbol in SYMBOLS}
    stage.source.not_held |= set() if is_held else {BEFORE}
    stage.source.takes_ns = MINUTE
    await first_morning(stage)
    assert [event.date for event in stage.of(RebalanceDue)] == ([] if is_held else [DAY])
    assert stage.of(SessionScheduled)[-1].previous[-1].date == (BEFORE if is_held else "2024-07-02")
    assert bool(stage.of(TroubleNoticed)) is is_held


async def test_a_symbol_that_stays_without_bars_is_named_once() -> None:
    stage = Played(morning())
    stage.source.holes |= {("IWM", BEFORE), ("IWM", DAY)}
    stage.source.takes_ns = 16 * MINUTE
    await stage.feed.decide(session(DAY))
    stage.source.takes_ns, stage.source.now_ns = 0, morning("2024-07-08", 1)
    stage.source.takes_ns = MINUTE
    await stage.feed.decide(session("2024-07-08"))
    assert [event.name for event in stage.of(TroubleNoticed)].count("symbols_missing") == 1


async def test_a_bad_bar_is_refused_and_counts_as_none() -> None:
    stage = Played(morning())
    good = stage.source.day_bars

    async def day_bars(symbols: tuple[str, ...], *arguments: Any) -> dict[str, list[dict[str, Any]]]:
        bars = await good(symbols, *arguments)
        bars["SPY"][-1]["h"] = 0.01
        bars["QQQ"][-1]["c"] = 10**400  # which no float holds
        del bars["IWM"][-1]["t"]
        return bars

    stage.source.takes_ns = MINUTE
    object.__setattr__(stage.feed._history, "_reads", _With(stage.source, day_bars))
    await stage.feed.decide(session(DAY))
    assert [fields["symbol"] for name, fields in stage.log if name == "history_bar_bad"][:3] == list(SYMBOLS)
    assert stage.of(BarClosed) == []
    assert stage.of(RebalanceDue) == []


class _With:
    """The source with another answer for bars."""

    def __init__(self, source: Any, day_bars: Any) -> None:
        self._source = source
        self.day_bars = day_bars

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


# --- before the close ---------------------------------------------------------------------------------------------

LATE = Basket(decide="before_close", before_close_min=10)


def running(symbol: str, traded_ns: int) -> dict[str, Any]:
    return {"dailyBar": row(symbol, DAY), "latestTrade": {"t": time_text(traded_ns), "p": price(symbol, DAY)}}


async def test_before_the_close_the_running_bars_and_fresh_quotes_come_with_the_decision() -> None:
    now_ns = session(DAY).close_ns - 10 * MINUTE
    stage = Played(now_ns, LATE)
    stage.source.running = {symbol: running(symbol, now_ns - MINUTE) for symbol in SYMBOLS}
    stage.source.quotes = {s: {"bp": 100.01, "ap": 100.02, "t": time_text(now_ns)} for s in SYMBOLS}
    await first_morning(stage)
    assert kinds(stage.events[-2:]) == [QuotesReceived, RebalanceDue]
    assert [(bar.symbol, bar.close) for bar in stage.of(RebalanceDue)[0].running] == [
        (s, price(s, DAY)) for s in SYMBOLS
    ]
    assert str(stage.of(QuotesReceived)[0].quotes[0].bid) == "100.01"


async def test_a_running_bar_that_is_stale_or_of_another_day_is_none() -> None:
    now_ns = session(DAY).close_ns - 10 * MINUTE
    stage = Played(now_ns, LATE)
    stage.source.running = {symbol: running(symbol, now_ns - MINUTE) for symbol in SYMBOLS}
    stage.source.running["SPY"] = running("SPY", now_ns - 16 * MINUTE)
    stage.source.running["QQQ"]["dailyBar"] = row("QQQ", BEFORE)
    stage.source.takes_ns = MINUTE
    await first_morning(stage)
    assert stage.of(RebalanceDue) == []
    assert "2 of 3 symbols have no running bar" in stage.of(TroubleNoticed)[-1].detail


# --- quotes -------------------------------------------------------------------------------------------------------


async def test_what_works_is_quoted_every_five_seconds_and_what_is_held_each_minute() -> None:
    stage = Played(session(DAY).open_ns)
    stage.working, stage.held = frozenset({"SPY"}), frozenset({"QQQ"})
    stage.source.quotes = {s: {"bp": 99.99, "ap": 100, "t": time_text(session(DAY).open_ns)} for s in SYMBOLS}
    running = asyncio.create_task(stage.feed.run())
    for _ in range(24):
        quote_count = len(stage.source.quoted)
        while len(stage.source.quoted) == quote_count:
            stage.source.now_ns += 5 * SECOND
            stage.feed.attend(frozenset({str(stage.source.now_ns)}))  # wakes it
            await asyncio.sleep(0.01)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert stage.source.quoted[0] == ("QQQ", "SPY")
    assert ("SPY",) in stage.source.quoted
    assert {event.closes_bar_ns for event in stage.of(QuotesReceived)} == {0}


async def test_nothing_is_quoted_outside_of_regular_hours_and_nothing_when_nothing_is_held() -> None:
    early, idle = Played(session(DAY).open_ns - MINUTE), Played(session(DAY).open_ns)
    early.held = frozenset({"SPY"})
    tasks = [asyncio.create_task(stage.feed.run()) for stage in (early, idle)]
    await asyncio.sleep(0.15)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert early.source.quoted == idle.source.quoted == []


async def test_quotes_without_sides_crossed_or_unreadable_are_left_out() -> None:
    stage = Played(session(DAY).open_ns)
    time = time_text(session(DAY).open_ns)
    stage.source.quotes = {
        "SPY": {"bp": 0, "ap": 0, "t": time},
        "QQQ": {"bp": 101, "ap": 100, "t": time},
        "IWM": {"bp": "x", "ap": 100, "t": time},
    }
    await stage.quotes.ask(SYMBOLS)
    assert stage.events == []
    assert stage.quotes.counts == {"quotes": 0, "quotes_bad": 3}
