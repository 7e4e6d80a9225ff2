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


async def first_morning(played: Played) -> None:
    """Everything up to the decision of `DAY`."""
    current = await played.feed.catch_up(NOTHING)
    assert current.date == DAY
    await played.feed.schedule(current)
    await played.feed.decide(current)


def kinds(events: list[Event]) -> list[type[Event]]:
    return [type(event) for event in events]


async def test_a_first_start_tells_the_history_then_the_last_session_then_that_a_basket_is_due() -> None:
    played = Played(morning())
    await first_morning(played)
    expected = [HistoryAdjusted] * 3 + [SessionScheduled] + [BarClosed] * 3 + [SessionEnded, SessionScheduled]
    assert kinds(played.events) == [*expected, RebalanceDue]
    assert [event.session.date for event in played.of(SessionScheduled)] == [BEFORE, DAY]
    assert [(e.date, e.running) for e in played.of(RebalanceDue)] == [(DAY, ())]
    for symbol, bars in played.known().items():
        assert len(bars) == W
        assert bars[-1].start_ns == midnight_ns(BEFORE)
        assert bars[-1].close == price(symbol, BEFORE)


async def test_the_next_morning_tells_the_new_session_s_bars_alone() -> None:
    played = Played(morning())
    await first_morning(played)
    del played.events[:]
    played.source.now_ns = session(DAY).close_ns + 5 * MINUTE
    await played.feed.end(session(DAY))
    assert kinds(played.events) == [BarClosed] * 3 + [SessionEnded]
    played.source.now_ns = morning("2024-07-08")
    await played.feed.schedule(session("2024-07-08"))
    await played.feed.decide(session("2024-07-08"))
    assert kinds(played.events[4:]) == [SessionScheduled, RebalanceDue]


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
    played = Played(morning())
    played.feed = played.feed_of(Unable(played.strategy, returned))
    await first_morning(played)
    assert {event.symbol for event in played.of(HistoryAdjusted)} == set(SYMBOLS)  # the core meets the error at these
    assert [event.date for event in played.of(RebalanceDue)] == [DAY]


async def test_a_split_over_night_replaces_the_history_of_its_symbol_and_of_no_other() -> None:
    played = Played(morning())
    await first_morning(played)
    played.source.now_ns = session(DAY).close_ns + 5 * MINUTE
    await played.feed.end(session(DAY))
    played.source.factors["QQQ"] = 0.5
    played.source.now_ns = morning("2024-07-08")
    del played.events[:]
    await played.feed.schedule(session("2024-07-08"))
    adjusted = played.of(HistoryAdjusted)
    assert [event.symbol for event in adjusted] == ["QQQ"]
    assert adjusted[0].bars[-1].close == price("QQQ", DAY) / 2
    assert adjusted[0].bars == played.known()["QQQ"]
    assert len(adjusted[0].bars) == W


async def test_a_difference_within_the_source_s_rounding_changes_nothing() -> None:
    played = Played(morning())
    await first_morning(played)
    played.source.factors["QQQ"] = 1 + 4e-7  # 0.00006 USD
    del played.events[:]
    played.source.now_ns = session(DAY).close_ns + 5 * MINUTE
    await played.feed.end(session(DAY))
    assert played.of(HistoryAdjusted) == []


async def test_a_day_s_bar_is_not_asked_for_before_it_is_final() -> None:
    played = Played(session(DAY).close_ns + 5 * MINUTE - 1)
    await played.feed.catch_up(NOTHING)
    assert max(played.source.asked) == midnight_ns(BEFORE)


async def test_sessions_that_were_missed_come_one_by_one_each_around_its_own_bars() -> None:
    played = Played(morning(BEFORE))
    current = await played.feed.catch_up(NOTHING)
    await played.feed.schedule(current)
    later = Played(morning("2024-07-09"), state=played.state)
    await later.feed.catch_up(Known(BEFORE, ended=False, last_bar_ns=0))
    missed = [SessionScheduled, BarClosed, BarClosed, BarClosed, SessionEnded]
    assert kinds(later.events) == [*missed * 3, SessionScheduled]
    assert [event.date for event in later.of(SessionEnded)] == [BEFORE, DAY, "2024-07-08"]
    starts = [event.bar.start_ns for event in later.of(BarClosed)]
    assert starts == sorted(starts)


async def test_a_start_without_rest_schedules_the_session_and_tells_the_bars_before_the_decision() -> None:
    played = Played(morning(minutes_before=20))
    played.source.failing = 10_000
    current = await played.feed.catch_up(NOTHING)
    assert kinds(played.events) == [SessionScheduled, SessionEnded, SessionScheduled]
    played.source.failing = 2
    await played.feed.schedule(current)
    await played.feed.decide(current)
    assert kinds(played.events[3:]) == [HistoryAdjusted] * 3 + [BarClosed] * 3 + [RebalanceDue]


async def test_a_history_that_cannot_be_had_before_the_open_means_no_basket() -> None:
    played = Played(morning())
    played.source.failing, played.source.takes_ns = 10_000, MINUTE
    await played.feed.decide(session(DAY))
    assert played.of(RebalanceDue) == []
    (alarm,) = played.of(TroubleNoticed)
    assert alarm.name == "basket_missed"
    assert "could not be fetched" in alarm.detail


async def test_a_daemon_that_starts_after_the_open_misses_the_basket_and_says_so() -> None:
    played = Played(session(DAY).open_ns)
    await first_morning(played)
    assert played.of(RebalanceDue) == []
    (alarm,) = played.of(TroubleNoticed)
    assert (alarm.name, alarm.detail) == ("basket_missed", f"no basket for {DAY}: the daemon started too late")


async def test_a_decision_waits_while_book_and_broker_do_not_agree() -> None:
    played = Played(morning())
    played.source.takes_ns = MINUTE
    reconciled = played.state.risk
    played.state = replace(played.state, risk=replace(reconciled, reconciled=False))
    waiting = asyncio.create_task(played.feed.decide(session(DAY)))
    await asyncio.sleep(0.02)  # some tries, a simulated minute each
    assert played.of(RebalanceDue) == []
    played.state = replace(played.state, risk=reconciled)
    await waiting
    (due,) = played.of(RebalanceDue)
    assert due.time_ns < session(DAY).open_ns - 5 * MINUTE


async def test_waiting_for_the_broker_alone_it_reads_the_bars_each_minute_and_before_it_decides() -> None:
    played = Played(morning())
    agreed = played.state.risk
    played.state = replace(played.state, risk=replace(agreed, reconciled=False))
    waiting = asyncio.create_task(played.feed.decide(session(DAY)))
    for second in range(0, 150, 10):
        await asyncio.sleep(0.01)  # many tries
        if second == 70:
            assert len(played.source.asked) == 2
            played.source.factors["IWM"] = 0.5  # a split that the bars show late
        played.source.now_ns += MINUTE // 6
    assert len(played.source.asked) == 3
    assert {event.symbol for event in played.of(HistoryAdjusted) if event.time_ns > morning() + MINUTE} == {"IWM"}
    played.state = replace(played.state, risk=agreed)
    await waiting
    assert len(played.source.asked) == 4
    assert len(played.of(RebalanceDue)) == 1


async def test_a_policy_is_asked_at_last_although_book_and_broker_do_not_agree() -> None:
    played = Played(morning())
    played.source.takes_ns = MINUTE
    played.state = replace(played.state, risk=replace(played.state.risk, reconciled=False))
    await played.feed.decide(session(DAY))
    (due,) = played.of(RebalanceDue)
    assert due.time_ns == session(DAY).open_ns - MINUTE
    assert played.of(TroubleNoticed) == []


async def test_a_session_that_was_decided_is_not_decided_again_after_a_restart() -> None:
    played = Played(morning())
    await first_morning(played)
    again = Played(session(DAY).open_ns + MINUTE, state=played.state)
    await again.feed.decide(session(DAY))
    assert again.events == []


async def test_more_than_a_fifth_of_the_symbols_without_a_bar_means_no_basket() -> None:
    played = Played(morning())
    played.source.holes.add(("IWM", BEFORE))
    played.source.takes_ns = MINUTE
    await first_morning(played)
    assert played.of(RebalanceDue) == []
    assert [(event.name, "IWM" in event.detail) for event in played.of(TroubleNoticed)] == [
        ("symbols_missing", True),
        ("basket_missed", False),
    ]


@pytest.mark.parametrize("held", [False, True])
async def test_a_session_that_was_not_held_keeps_no_basket_back(held: bool) -> None:
    played = Played(morning())
    played.source.holes |= {(symbol, BEFORE) for symbol in SYMBOLS}
    played.source.not_held |= set() if held else {BEFORE}
    played.source.takes_ns = MINUTE
    await first_morning(played)
    assert [event.date for event in played.of(RebalanceDue)] == ([] if held else [DAY])
    assert played.of(SessionScheduled)[-1].previous[-1].date == (BEFORE if held else "2024-07-02")
    assert bool(played.of(TroubleNoticed)) is held


async def test_a_symbol_that_stays_without_bars_is_named_once() -> None:
    played = Played(morning())
    played.source.holes |= {("IWM", BEFORE), ("IWM", DAY)}
    played.source.takes_ns = 16 * MINUTE
    await played.feed.decide(session(DAY))
    played.source.takes_ns, played.source.now_ns = 0, morning("2024-07-08", 1)
    played.source.takes_ns = MINUTE
    await played.feed.decide(session("2024-07-08"))
    assert [event.name for event in played.of(TroubleNoticed)].count("symbols_missing") == 1


async def test_a_bad_bar_is_refused_and_counts_as_none() -> None:
    played = Played(morning())
    good = played.source.day_bars

    async def day_bars(symbols: tuple[str, ...], *arguments: Any) -> dict[str, list[dict[str, Any]]]:
        bars = await good(symbols, *arguments)
        bars["SPY"][-1]["h"] = 0.01
        bars["QQQ"][-1]["c"] = 10**400  # which no float holds
        del bars["IWM"][-1]["t"]
        return bars

    played.source.takes_ns = MINUTE
    object.__setattr__(played.feed._history, "_reads", _With(played.source, day_bars))
    await played.feed.decide(session(DAY))
    assert [fields["symbol"] for name, fields in played.log if name == "history_bar_bad"][:3] == list(SYMBOLS)
    assert played.of(BarClosed) == []
    assert played.of(RebalanceDue) == []


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
    played = Played(now_ns, LATE)
    played.source.running = {symbol: running(symbol, now_ns - MINUTE) for symbol in SYMBOLS}
    played.source.quotes = {s: {"bp": 100.01, "ap": 100.02, "t": time_text(now_ns)} for s in SYMBOLS}
    await first_morning(played)
    assert kinds(played.events[-2:]) == [QuotesReceived, RebalanceDue]
    assert [(bar.symbol, bar.close) for bar in played.of(RebalanceDue)[0].running] == [
        (s, price(s, DAY)) for s in SYMBOLS
    ]
    assert str(played.of(QuotesReceived)[0].quotes[0].bid) == "100.01"


async def test_a_running_bar_that_is_stale_or_of_another_day_is_none() -> None:
    now_ns = session(DAY).close_ns - 10 * MINUTE
    played = Played(now_ns, LATE)
    played.source.running = {symbol: running(symbol, now_ns - MINUTE) for symbol in SYMBOLS}
    played.source.running["SPY"] = running("SPY", now_ns - 16 * MINUTE)
    played.source.running["QQQ"]["dailyBar"] = row("QQQ", BEFORE)
    played.source.takes_ns = MINUTE
    await first_morning(played)
    assert played.of(RebalanceDue) == []
    assert "2 of 3 symbols have no running bar" in played.of(TroubleNoticed)[-1].detail


# --- quotes -------------------------------------------------------------------------------------------------------


async def test_what_works_is_quoted_every_five_seconds_and_what_is_held_each_minute() -> None:
    played = Played(session(DAY).open_ns)
    played.working, played.held = frozenset({"SPY"}), frozenset({"QQQ"})
    played.source.quotes = {s: {"bp": 99.99, "ap": 100, "t": time_text(session(DAY).open_ns)} for s in SYMBOLS}
    running = asyncio.create_task(played.feed.run())
    for _ in range(24):
        seen = len(played.source.quoted)
        while len(played.source.quoted) == seen:
            played.source.now_ns += 5 * SECOND
            played.feed.attend(frozenset({str(played.source.now_ns)}))  # wakes it
            await asyncio.sleep(0.01)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert played.source.quoted[0] == ("QQQ", "SPY")
    assert ("SPY",) in played.source.quoted
    assert {event.closes_bar_ns for event in played.of(QuotesReceived)} == {0}


async def test_nothing_is_quoted_outside_of_regular_hours_and_nothing_when_nothing_is_held() -> None:
    early, idle = Played(session(DAY).open_ns - MINUTE), Played(session(DAY).open_ns)
    early.held = frozenset({"SPY"})
    tasks = [asyncio.create_task(played.feed.run()) for played in (early, idle)]
    await asyncio.sleep(0.15)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert early.source.quoted == idle.source.quoted == []


async def test_quotes_without_sides_crossed_or_unreadable_are_left_out() -> None:
    played = Played(session(DAY).open_ns)
    time = time_text(session(DAY).open_ns)
    played.source.quotes = {
        "SPY": {"bp": 0, "ap": 0, "t": time},
        "QQQ": {"bp": 101, "ap": 100, "t": time},
        "IWM": {"bp": "x", "ap": 100, "t": time},
    }
    await played.quotes.ask(SYMBOLS)
    assert played.events == []
    assert played.quotes.counts == {"quotes": 0, "quotes_bad": 3}
