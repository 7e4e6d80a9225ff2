"""When quiet becomes silence, minute by minute, with times counted by hand from a session's open at 0."""

from __future__ import annotations

from daemon.brokers.alpaca.market.live_bars import LATE_NS, Timing
from daemon.brokers.alpaca.market.socket import Silence

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
LIMIT = Timing().silence_ns + LATE_NS


def silence() -> Silence:
    return Silence(LIMIT, -30 * MINUTE)


def test_one_minute_without_a_trade_is_no_silence() -> None:
    watch = silence()
    end_ns = 1 * MINUTE  # of the newest bar; the next one is missing, the one after it arrives at 3:01
    due = watch.look(2 * MINUTE, end_ns)
    while due < 3 * MINUTE + SECOND:
        due = watch.look(due, end_ns)
        assert watch.looks == 0


def test_two_missing_bars_are_silence() -> None:
    watch = silence()
    assert watch.look(0, 0) == MINUTE
    assert watch.look(MINUTE, 0) == 2 * MINUTE
    assert watch.look(2 * MINUTE, 0) == LIMIT  # two minutes after the open and the seconds in which a bar arrives
    watch.look(LIMIT, 0)
    assert (watch.looks, watch.loud, watch.quiet_ns) == (1, True, LIMIT)


def test_a_stream_that_stays_silent_is_acted_on_loudly_ever_more_seldom() -> None:
    watch, now, loud = silence(), LIMIT, []
    for look in range(1, 33):
        due = watch.look(now, 0)
        assert due == now + MINUTE
        loud += [look] if watch.loud else []
        now = due
    assert loud == [1, 2, 4, 8, 16, 32]


def test_news_ends_the_silence_and_it_begins_anew() -> None:
    watch = silence()
    watch.look(LIMIT, 0)
    watch.look(LIMIT + MINUTE, LIMIT + MINUTE)
    assert (watch.looks, watch.loud) == (0, False)


def test_time_in_which_nothing_was_expected_does_not_count() -> None:
    watch = silence()
    watch.look(100 * MINUTE, None)
    watch.look(101 * MINUTE, 0)
    assert watch.looks == 0
    watch.look(100 * MINUTE + LIMIT, 0)
    assert watch.looks == 1


def test_the_next_look_is_never_at_once() -> None:
    watch = silence()
    for now in range(0, 10 * MINUTE, 7 * SECOND):
        assert watch.look(now, 0) > now
