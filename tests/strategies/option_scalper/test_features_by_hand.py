"""Every feature against its plain formula, written out here over lists, within 1e-12.

Seeds follow TA-Lib's documentation: an EMA starts from the mean of its first n values, Wilder's averages likewise;
ATR leaves out bar 0, and ADX starts its sums with n - 1 moves.
"""

from __future__ import annotations

from itertools import pairwise
from math import fsum, log, sin, sqrt

import pytest

from strategies.option_scalper import FEATURES, SessionStream, position_features
from tests.support.strategies.minutes import W, two_sessions

Series = list[float]
NAMES = [feature.name for feature in FEATURES]


def mean(x: Series) -> float:
    return fsum(x) / len(x)


def ema(x: Series, n: int) -> float:
    value = mean(x[:n])
    for new in x[n:]:
        value += (new - value) * 2 / (n + 1)
    return value


def wilder(x: Series, n: int) -> float:
    value = mean(x[:n])
    for new in x[n:]:
        value = (value * (n - 1) + new) / n
    return value


def moves(x: Series) -> Series:
    return [b - a for a, b in pairwise(x)]


def rsi(close: Series, n: int) -> float:
    gain = wilder([max(m, 0.0) for m in moves(close)], n)
    loss = wilder([max(-m, 0.0) for m in moves(close)], n)
    return 100 * gain / (gain + loss)


def true_ranges(high: Series, low: Series, close: Series) -> Series:
    return [max(h, c) - min(lo, c) for h, lo, c in zip(high[1:], low[1:], close, strict=False)]


def adx(high: Series, low: Series, close: Series, n: int) -> float:
    ups, downs = moves(high), [-m for m in moves(low)]
    plus = [up if up > down and up > 0 else 0.0 for up, down in zip(ups, downs, strict=True)]
    minus = [down if down > up and down > 0 else 0.0 for up, down in zip(ups, downs, strict=True)]
    sums = [fsum(plus[: n - 1]), fsum(minus[: n - 1])]
    strengths: Series = []
    for up, down in zip(plus[n - 1 :], minus[n - 1 :], strict=True):
        sums = [s - s / n + new for s, new in zip(sums, (up, down), strict=True)]
        strengths.append(100 * abs(sums[0] - sums[1]) / (sums[0] + sums[1]))  # the true range cancels out
    return wilder(strengths, n)


def macd_histogram(close: Series) -> float:
    lines = [ema(close[:i], 12) - ema(close[:i], 26) for i in range(26, len(close) + 1)]
    return lines[-1] - ema(lines, 9)


def cci(typical: Series, n: int) -> float:
    window = typical[-n:]
    centre = mean(window)
    return (typical[-1] - centre) / (0.015 * mean([abs(x - centre) for x in window]))


def zigzag(bars: int) -> list[tuple[float, float, float, float, float]]:
    """A wavy, jagged series with moves large enough that rounding stays far below 1e-12."""
    closes = [100 + 6 * sin(i / 9) + 3 * ((i * 37) % 11) / 11 for i in range(bars)]
    opens = [100.5, *(c + 0.2 * ((i * 7) % 5 - 2) for i, c in enumerate(closes[:-1]))]
    return [
        (o, max(o, c) + 0.1 * (1 + i % 4), min(o, c) - 0.1 * (1 + i % 3), c, 1000.0 + 90.0 * ((i * 13) % 17))
        for i, (o, c) in enumerate(zip(opens, closes, strict=True))
    ]


def test_every_market_feature_equals_its_plain_formula() -> None:
    shapes = zigzag(W + 25)
    rows = two_sessions(shapes).streamed()
    assert len(rows) == 25
    for t, row in enumerate(rows):
        o, h, lo, c, v = (list(x) for x in zip(*shapes[: W + t + 1], strict=True))
        typical = [(a + b + d) / 3 for a, b, d in zip(h, lo, c, strict=True)]
        centre = mean(c[-20:])
        deviation = sqrt(mean([(x - centre) ** 2 for x in c[-20:]]))
        lower, upper = centre - 2 * deviation, centre + 2 * deviation
        vwap = fsum(a * b for a, b in zip(typical[W:], v[W:], strict=True)) / fsum(v[W:])
        bottom, top = min(lo[-14:]), max(h[-14:])
        expected = {
            "log_return": log(c[-1]) - log(c[-2]),
            "log_return_5": log(c[-1]) - log(c[-6]),
            "range": (h[-1] - lo[-1]) / c[-1],
            "body": 1 - o[-1] / c[-1],
            "close_location": (c[-1] - lo[-1]) / (h[-1] - lo[-1]),
            "volume_ratio": log(v[-1] + 1) - log(mean(v[-20:]) + 1),
            "vwap_distance": c[-1] / vwap - 1,
            "ema9_distance": c[-1] / ema(c, 9) - 1,
            "ema21_distance": c[-1] / ema(c, 21) - 1,
            "sma50_distance": c[-1] / mean(c[-50:]) - 1,
            "rsi14": rsi(c, 14) / 100,
            "macd_histogram": macd_histogram(c) / c[-1],
            "bollinger_percent_b": (c[-1] - lower) / (upper - lower),
            "bollinger_width": 4 * deviation / centre,
            "atr14": wilder(true_ranges(h, lo, c), 14) / c[-1],
            "adx14": adx(h, lo, c, 14) / 100,
            "stochastic_k": (c[-1] - bottom) / (top - bottom),
            "cci20": max(-2.0, min(2.0, cci(typical, 20) / 200)),
            "session_elapsed": (t + 1) / 390,
            "overnight_gap": shapes[W][0] / shapes[W - 1][3] - 1,
        }
        assert list(expected) == NAMES[:20]
        assert dict(zip(NAMES, row, strict=False)) == pytest.approx(expected, rel=0, abs=1e-12)


def test_one_bar_worked_with_pencil_and_paper() -> None:
    shapes = [(100.0, 100.0, 100.0, 100.0, 999.0)] * W + [
        (101.0, 104.0, 100.0, 103.0, 0.0),
        (103.0, 108.0, 102.0, 105.0, 60.0),
    ]
    first, second = (dict(zip(NAMES, row, strict=False)) for row in two_sessions(shapes).streamed())
    assert first["overnight_gap"] == pytest.approx(0.01, abs=1e-12)
    assert second["overnight_gap"] == first["overnight_gap"]
    assert first["range"] == pytest.approx(4 / 103, abs=1e-12)
    assert first["close_location"] == pytest.approx(0.75, abs=1e-12)
    assert first["vwap_distance"] == 0.0  # nothing traded yet
    assert second["vwap_distance"] == pytest.approx(0.0, abs=1e-12)  # all volume at (108 + 102 + 105) / 3 = 105
    assert first["volume_ratio"] == pytest.approx(-log(950.05), abs=1e-12)  # SMA20 = 19 * 999 / 20 = 949.05
    assert first["ema9_distance"] == pytest.approx(103 / 100.6 - 1, abs=1e-12)  # 100 + 3 * 2 / 10
    assert first["sma50_distance"] == pytest.approx(103 / 100.06 - 1, abs=1e-12)
    assert first["rsi14"] == pytest.approx(1.0, abs=1e-12)  # gains only
    assert first["atr14"] == pytest.approx(4 / 14 / 103, abs=1e-12)  # one range of 4 after 14 of 0
    assert first["stochastic_k"] == pytest.approx(0.75, abs=1e-12)
    assert second["log_return_5"] == pytest.approx(log(1.05), abs=1e-12)


def test_flat_bars_give_the_values_of_the_guards_and_of_ta_lib() -> None:
    rows = two_sessions([(100.0, 100.0, 100.0, 100.0, 0.0)] * (W + 3)).streamed()
    for t, row in enumerate(rows):
        expected = dict.fromkeys(NAMES[:20], 0.0) | {"close_location": 0.5, "bollinger_percent_b": 0.5}
        assert dict(zip(NAMES, row, strict=False)) == expected | {"session_elapsed": (t + 1) / 390}


def test_the_last_bar_of_a_half_day_has_elapsed_one() -> None:
    rows = two_sessions(zigzag(W + 210), minutes=210).streamed()
    assert rows[-1][NAMES.index("session_elapsed")] == 1.0
    assert rows[104][NAMES.index("session_elapsed")] == 0.5


def test_position_columns_are_clipped_and_empty_when_flat() -> None:
    assert NAMES[20:] == ["position_side", "position_return", "position_age"]
    assert position_features(1, 0.25, 30.0) == (1.0, 0.25, 0.5)
    assert position_features(-1, 9.0, 1000.0) == (-1.0, 3.0, 2.0)
    assert position_features(-1, -2.0, -1.0) == (-1.0, -1.0, 0.0)
    assert position_features(0, 0.7, 12.0) == (0.0, 0.0, 0.0)


def test_a_stream_without_its_history_says_how_many_bars_are_missing() -> None:
    minutes = two_sessions(zigzag(W + 1))
    with pytest.raises(ValueError, match=r"history before session 2024-07-03 has 255 bars, expected 256"):
        SessionStream(minutes.bars[1:W], minutes.sessions[1])
