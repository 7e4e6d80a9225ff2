"""The made-up bars: reproducible, valid, and like SPY's in the ways that tests rely on."""

from __future__ import annotations

from itertools import pairwise
from math import log
from statistics import fmean, stdev

from strategies.kit.contract import Session
from strategies.kit.synthetic import synthetic_sessions

DAY_NS, MINUTE_NS = 86_400_000_000_000, 60_000_000_000
OPEN_NS = 1_719_927_000_000_000_000
LENGTHS = [390] * 19 + [210]
SESSIONS = [
    Session(f"day {i}", OPEN_NS + i * DAY_NS, OPEN_NS + i * DAY_NS + minutes * MINUTE_NS)
    for i, minutes in enumerate(LENGTHS)
]
BARS = list(synthetic_sessions(3, SESSIONS))


def test_the_same_seed_gives_the_same_bars_and_another_seed_others() -> None:
    assert list(synthetic_sessions(3, SESSIONS)) == BARS
    assert list(synthetic_sessions(4, SESSIONS)) != BARS


def test_every_minute_of_every_session_has_one_bar() -> None:
    assert [bar.start_ns for bar in BARS] == [
        s.open_ns + i * MINUTE_NS for s, n in zip(SESSIONS, LENGTHS, strict=True) for i in range(n)
    ]


def test_every_bar_is_valid_and_in_whole_cents_and_shares() -> None:
    for bar in BARS:
        assert 0 < bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high
        assert all(price == float(f"{price:.2f}") for price in (bar.open, bar.high, bar.low, bar.close))
        assert bar.volume == int(bar.volume) > 0


def test_minute_returns_deviate_as_much_as_spy_and_volume_is_a_u() -> None:
    pairs = [(a, b) for a, b in pairwise(BARS) if b.start_ns - a.start_ns == MINUTE_NS]
    assert 0.0002 < stdev(log(b.close / a.close) for a, b in pairs) < 0.0006
    by_minute = [fmean(BARS[390 * day + minute].volume for day in range(19)) for minute in range(390)]
    assert fmean(by_minute[:30]) > fmean(by_minute[-30:]) > fmean(by_minute[180:210])


def test_some_minutes_hardly_trade_and_nights_have_gaps() -> None:
    quiet = [bar for bar in BARS if bar.volume < 500]
    assert 0.01 < len(quiet) / len(BARS) < 0.03
    assert all(bar.high == bar.low for bar in quiet)
    opens = [BARS[390 * day] for day in range(1, 20)]
    closes = [BARS[390 * day - 1] for day in range(1, 20)]
    assert 0.002 < stdev(b.open / a.close - 1 for a, b in zip(closes, opens, strict=True)) < 0.01
