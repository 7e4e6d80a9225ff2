"""The made-up market: its rules as the show states them, and that nothing else pays."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.online.prices import BACK, MOVE, as_csv, bars_of
from strategies.kit.contract import Bar, Session
from strategies.kit.units import MINUTE_NS

MINUTES = 390
SESSIONS = [Session(f"2024-01-{day:02d}", start, start + MINUTES * MINUTE_NS) for day, start in ((2, 0), (3, 10**14))]
PLAIN = 0.0008  # a log return that noise and the fall of an ordinary minute never reach


def columns(bars: list[Bar], symbol: str) -> tuple[np.ndarray, np.ndarray]:
    """Log returns of the closes and volumes of one symbol."""
    rows = [bar for bar in bars if bar.symbol == symbol]
    closes = np.array([bar.close for bar in rows])
    return np.diff(np.log(closes), prepend=np.log(rows[0].open)), np.array([bar.volume for bar in rows])


@pytest.fixture(scope="module")
def bars() -> list[Bar]:
    return bars_of(("AAA", "BBB"), SESSIONS, 5, recorded=False)


def test_every_symbol_has_every_minute_in_the_order_of_time(bars: list[Bar]) -> None:
    assert len(bars) == 2 * 2 * MINUTES
    assert [bar.start_ns for bar in bars] == sorted(bar.start_ns for bar in bars)
    assert all(bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high for bar in bars)


def test_after_a_burst_of_volume_the_next_minute_rises_and_the_one_after_falls(bars: list[Bar]) -> None:
    returns, volumes = columns(bars, "AAA")
    bursts = np.flatnonzero(volumes > 3 * np.median(volumes))
    assert 20 < len(bursts) < 100
    assert returns[bursts + 1].min() > MOVE - PLAIN
    assert np.abs(returns[bursts + 2] + BACK).max() < PLAIN


def test_a_dip_comes_back_within_the_next_minute(bars: list[Bar]) -> None:
    returns, _ = columns(bars, "BBB")
    dips = np.flatnonzero(returns < -MOVE / 2)
    assert len(dips) > 10
    assert np.abs(returns[dips + 1] - MOVE).max() < PLAIN


def test_in_the_history_a_dip_stays_and_no_other_minute_moves() -> None:
    returns, volumes = columns(bars_of(("AAA",), SESSIONS, 5, recorded=True), "AAA")
    bursts, dips = np.flatnonzero(volumes > 3 * np.median(volumes)), np.flatnonzero(returns < -MOVE / 2)
    assert len(dips) > 2
    assert np.abs(returns[dips + 1]).max() < PLAIN
    assert np.abs(np.delete(returns, np.concatenate([bursts + 1, bursts + 2, dips]))).max() < PLAIN


def test_who_holds_all_day_earns_nothing(bars: list[Bar]) -> None:
    for symbol in ("AAA", "BBB"):
        rows = [bar for bar in bars if bar.symbol == symbol]
        for session in (rows[:MINUTES], rows[MINUTES:]):
            assert abs(session[-1].close / 100.0 - 1.0) < 0.008  # the noise of 390 minutes, four times; bursts gave 7 %


def test_the_same_seed_gives_the_same_file() -> None:
    first, again, other = (as_csv(bars_of(("AAA",), SESSIONS, seed, recorded=False)) for seed in (5, 5, 6))
    assert first == again
    assert first != other
    assert first.startswith("symbol,timestamp,open,high,low,close,volume\nAAA,0,100.0,")
