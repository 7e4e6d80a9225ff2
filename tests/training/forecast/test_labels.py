"""Triple-barrier labels against cases worked out by hand, and class weights against scikit-learn."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight

from training.forecast.labels import BUY, HOLD, NONE, SELL, Barriers, class_weights, past_volatility, triple_barrier

QUIET = 0.01
PAST = 4
"""Rows of the past: closes that go up and down by 1 % in turns, so that the volatility of four returns is known."""
VOLATILITY = QUIET * math.sqrt(4 / 3)  # sample deviation of +1, -1, +1, -1 %


def _bars(*future: tuple[float, float, float, float]) -> NDArray[np.float64]:
    """(5, d, 1): five quiet closes, the last at 100, then these (open, high, low, close)."""
    closes = [100.0 * math.exp(QUIET * (step % 2)) for step in range(PAST + 1)]
    rows = [(close, close, close, close, 1000.0) for close in closes] + [(*bar, 1000.0) for bar in future]
    return np.array(rows, dtype=np.float64).T[:, :, None]


def _barriers(touch: str = "range", horizon: int = 3, down: float = 2.0) -> Barriers:
    return Barriers(up=2.0, down=down, horizon=horizon, volatility_rows=PAST, touch=touch)


def _label(*future: tuple[float, float, float, float], barriers: Barriers | None = None) -> tuple[int, int]:
    """Class and end, counted from the labelled row, of the last quiet close."""
    label = triple_barrier(_bars(*future), barriers or _barriers())
    end = int(label.end[PAST, 0])
    return int(label.classes[PAST, 0]), end - PAST if end != NONE else NONE


STILL = (100.0, 100.5, 99.5, 100.0)
UPPER, LOWER = 100.0 * math.exp(2 * VOLATILITY), 100.0 * math.exp(-2 * VOLATILITY)  # 102.336, 97.717


def test_the_past_volatility_is_the_sample_deviation_of_the_last_returns() -> None:
    close = _bars(STILL)[3]
    volatility = past_volatility(close, PAST, np.zeros(close.shape, dtype=np.bool_))
    assert np.isnan(volatility[:PAST]).all()
    assert volatility[PAST, 0] == pytest.approx(VOLATILITY, rel=1e-12)


def test_a_high_at_the_upper_barrier_is_a_buy_that_ends_there() -> None:
    assert _label(STILL, (100.0, UPPER, 99.0, 100.0), STILL) == (BUY, 2)
    assert _label(STILL, (100.0, UPPER * (1 - 1e-9), 99.0, 100.0), STILL) == (HOLD, 3)


def test_a_low_at_the_lower_barrier_is_a_sell_that_ends_there() -> None:
    assert _label((100.0, 101.0, LOWER, 100.0), STILL, STILL) == (SELL, 1)


def test_a_bar_that_reaches_both_barriers_counts_as_the_worse() -> None:
    assert _label((100.0, 110.0, 90.0, 109.0), STILL, STILL) == (SELL, 1)


def test_an_open_beyond_a_barrier_decides_before_high_and_low() -> None:
    assert _label((104.0, 105.0, 90.0, 91.0), STILL, STILL) == (BUY, 1)
    assert _label((96.0, 105.0, 95.0, 104.0), STILL, STILL) == (SELL, 1)


def test_the_first_touch_counts_and_not_the_largest() -> None:
    assert _label((100.0, 103.0, 99.0, 100.0), (90.0, 91.0, 80.0, 85.0), STILL) == (BUY, 1)


def test_no_touch_is_a_hold_that_ends_at_the_horizon() -> None:
    assert _label(STILL, STILL, STILL, (200.0, 200.0, 200.0, 200.0)) == (HOLD, 3)


def test_closes_alone_are_looked_at_where_touch_is_close() -> None:
    barriers = _barriers("close")
    assert _label((100.0, 110.0, 90.0, 100.0), (104.0, 110.0, 90.0, 97.0), STILL, barriers=barriers) == (SELL, 2)
    assert _label((96.0, 110.0, 90.0, 103.0), STILL, STILL, barriers=barriers) == (BUY, 1)


def test_the_widths_of_the_barriers_are_their_own() -> None:
    fall = (100.0, 101.0, 97.0, 100.0)  # beyond 2 deviations, 97.717, within 3, 96.595
    assert _label(fall, STILL, STILL) == (SELL, 1)
    assert _label(fall, STILL, STILL, barriers=_barriers(down=3.0)) == (HOLD, 3)


def test_a_label_needs_its_whole_interval_in_the_file_unless_a_barrier_was_touched() -> None:
    assert _label(STILL, STILL) == (NONE, NONE)
    assert _label(STILL, (100.0, 103.0, 99.0, 100.0)) == (BUY, 2)


def test_no_label_reaches_over_a_missing_bar() -> None:
    missing = (math.nan, math.nan, math.nan, math.nan)
    assert _label(STILL, missing, STILL, STILL) == (NONE, NONE)
    assert _label((100.0, 103.0, 99.0, 100.0), missing, STILL) == (BUY, 1)


def test_no_label_and_no_volatility_reaches_over_a_broken_price() -> None:
    bars = _bars(STILL, (50.0, 51.0, 49.0, 50.0), (50.0, 51.0, 49.0, 50.0))
    mask = np.zeros(bars.shape[1:], dtype=np.bool_)
    mask[PAST + 2] = True
    whole, with_gap = triple_barrier(bars, _barriers()), triple_barrier(bars, _barriers(), mask)
    assert whole.classes[PAST, 0] == SELL
    assert with_gap.classes[PAST, 0] == NONE
    assert np.isfinite(whole.volatility[PAST + 2, 0])
    assert np.isnan(with_gap.volatility[PAST + 2 :, 0]).all()


def test_a_price_that_never_moved_has_no_label() -> None:
    flat = np.full((5, 20, 1), 10.0)
    assert not triple_barrier(flat, _barriers()).known.any()


def test_symbols_do_not_touch_one_another() -> None:
    rising = _bars((100.0, 103.0, 99.0, 100.0), STILL, STILL)
    falling = _bars((100.0, 101.0, 90.0, 100.0), STILL, STILL)
    labels = triple_barrier(np.concatenate([rising, falling], axis=2), _barriers())
    assert labels.classes[PAST].tolist() == [BUY, SELL]
    assert np.array_equal(labels.classes[:, :1], triple_barrier(rising, _barriers()).classes)


def test_class_weights_are_those_of_scikit_learn() -> None:
    classes = np.array([0, 0, 0, 0, 0, 1, 1, 2, NONE, NONE], dtype=np.int8)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=classes[classes != NONE])
    assert class_weights(classes) == pytest.approx(expected, rel=1e-15)


def test_a_class_that_never_occurs_is_named() -> None:
    with pytest.raises(ValueError, match="no label is SELL among 3"):
        class_weights(np.array([0, 1, 1], dtype=np.int8))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b'{"up": 0.0}', "widths above 0"),
        (b'{"horizon": 0}', "horizon is 0"),
        (b'{"touch": "low"}', "touch is 'low'"),
        (b'{"width": 1.0}', "unknown field `width`"),
    ],
)
def test_barriers_that_make_no_sense_are_refused(text: bytes, problem: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=problem):
        msgspec.json.decode(text, type=Barriers)
