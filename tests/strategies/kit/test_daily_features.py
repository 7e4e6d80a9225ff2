"""The market columns of daily bars: right by hand and by another library, and the same bits on both ways to them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.kit.daily_features import (
    FUND_WINDOW,
    STOCK_WINDOW,
    fund_features,
    indicator_history,
    indicators,
    rebalancer_table,
    regime_table,
)
from tests.support.examples import examples
from tests.support.strategies.days import RAMP_INDICATORS, DailyColumns

Float64Array = npt.NDArray[np.float64]
RAMP = 100.0 + np.arange(400.0)


def test_the_indicators_of_a_ramp_are_those_by_hand() -> None:
    assert indicators(RAMP + 0.5, RAMP - 0.5, RAMP).tolist() == pytest.approx(RAMP_INDICATORS, rel=1e-9)


def test_flat_bars_and_too_few_bars_give_0_and_never_nan() -> None:
    flat = np.full(400, 25.0)
    assert indicators(flat, flat, flat).tolist() == [0, 0, 0, 0, 25, 25, 25, 25, 25, 25, 0, 0, 0]
    for bars in (1, 2, 13, 14, 15, 20, 21, 34, 50, 199, 200):
        values = indicators(RAMP[:bars] + 0.5, RAMP[:bars] - 0.5, RAMP[:bars])
        assert np.isfinite(values).all()
        assert (values[6] == 0.0) == (bars < 200)  # SMA 200


@pytest.mark.filterwarnings("ignore")  # the oracle calls what pandas has deprecated, at its import too
@pytest.mark.parametrize("symbol", ["AAPL", "BRK.B", "XOM"])
def test_the_indicators_of_recorded_days_agree_with_another_library(stock_days: DailyColumns, symbol: str) -> None:
    import pandas_ta_classic as ta

    for end in range(400, 3272, 287):
        high, low, close = (
            pd.Series(stock_days.of(symbol, name)[end - 400 : end]) for name in ("high", "low", "close")
        )
        bands = ta.bbands(close, length=20, std=2.0, ddof=0, talib=False)
        moves = ta.adx(high, low, close, 14, talib=False)
        plus, minus = moves["DMP_14"], moves["DMN_14"]
        columns = (
            ta.macd(close, talib=False)["MACD_12_26_9"],
            ta.rsi(close, 14, talib=False),
            ta.cci(high, low, close, 20, talib=False),
            100 * (plus - minus).abs() / (plus + minus),
            *(ta.sma(close, length, talib=False) for length in (20, 50, 200)),
            *(bands[f"BB{x}_20_2.0"] for x in "UML"),
            ta.atr(high, low, close, 14, talib=False),
            ta.willr(high, low, close, 14, talib=False),
            ta.stochf(high, low, close, fastk=14, fastd=3, talib=False).iloc[:, 0],
        )
        expected = [column.iloc[-1] for column in columns]
        values = indicators(*(x.to_numpy() for x in (high, low, close)))
        assert values.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9 * close.iloc[-1])


@pytest.mark.parametrize("symbol", ["AMD", "GE", "UNH"])
def test_a_whole_recorded_history_has_the_bits_of_each_days_window(stock_days: DailyColumns, symbol: str) -> None:
    high, low, close = (stock_days.of(symbol, name) for name in ("high", "low", "close"))
    values = indicator_history(high, low, close)
    for end in range(1, len(close) + 1):
        window = slice(max(end - STOCK_WINDOW, 0), end)
        assert values[end - 1].tobytes() == indicators(high[window], low[window], close[window]).tobytes()


PRICES = st.integers(1, 60).flatmap(lambda n: st.lists(st.integers(90, 110) | st.just(100), min_size=n, max_size=n))


@settings(max_examples=examples(60))
@given(PRICES, st.integers(40, 50))
def test_any_history_has_the_bits_of_each_days_window(cents: list[int], window: int) -> None:
    close = np.array(cents) / 100.0
    high, low = close + 0.01 * (np.arange(len(close)) % 3), close - 0.01 * (np.arange(len(close)) % 2)
    values = indicator_history(high, low, close, window)
    for end in range(1, len(close) + 1):
        part = slice(max(end - window, 0), end)
        assert values[end - 1].tobytes() == indicators(high[part], low[part], close[part]).tobytes()


def test_an_empty_history_has_no_row() -> None:
    assert indicator_history(*np.zeros((3, 0))).shape == (0, 13)


def test_the_features_of_funds_are_those_by_hand() -> None:
    up, flat, down = np.full((3, 252), 100.0)
    up[-1], down[-1] = 110.0, 50.0
    values = fund_features(np.stack((up, flat, down)))
    expected = (
        # 19 returns of 0 and one of 0.1: their mean is 0.005, the squares sum up to 0.0095, over 19 is 0.0005
        (110 / (25_210 / 252) - 1, 1.0, 10 * 0.0005**0.5),
        (0.0, 0.0, 0.0),
        (50 / (25_150 / 252) - 1, -5.0, 10 * 0.0125**0.5),
    )
    for row, by_hand in zip(values.tolist(), expected, strict=True):
        assert row == pytest.approx(by_hand, rel=1e-12)


def test_the_features_of_recorded_funds_have_the_bits_of_each_days_window(fund_closes: Float64Array) -> None:
    table = regime_table(fund_closes)
    assert table.dtype == np.float32
    assert not table[: FUND_WINDOW - 1].any()
    for end in range(FUND_WINDOW, len(fund_closes) + 1):
        one = fund_features(np.ascontiguousarray(fund_closes[end - FUND_WINDOW : end].T))
        assert table[end - 1].tobytes() == one.T.astype(np.float32).tobytes()


def test_the_volatility_of_recorded_funds_is_numpys_sample_deviation(fund_closes: Float64Array) -> None:
    returns = fund_closes[1:] / fund_closes[:-1] - 1.0
    table = regime_table(fund_closes)
    for day in range(300, len(fund_closes), 331):
        assert table[day, 6:9].tolist() == pytest.approx(10 * returns[day - 20 : day].std(axis=0, ddof=1), rel=1e-6)
        assert table[day, 3:6].tolist() == pytest.approx(10 * returns[day - 1], rel=1e-6)
        mean = fund_closes[day - 251 : day + 1].mean(axis=0)
        assert table[day, 0:3].tolist() == pytest.approx(fund_closes[day] / mean - 1, abs=1e-7)


def test_a_fund_with_too_few_bars_leaves_zeros(fund_closes: Float64Array) -> None:
    present = np.ones((300, 3), dtype=np.bool_)
    present[50:, 1] = False
    assert not regime_table(fund_closes[:300], present).any()


def walk(days: int, n: int, seed: int = 3) -> Float64Array:
    moves = np.random.default_rng(seed).normal(0, 0.01, (days, n))
    return np.asarray(50.0 * np.exp(np.cumsum(moves, axis=0)))


@settings(max_examples=examples(25))
@given(st.integers(60, 99), st.integers(0, 2), st.floats(0.5, 2.0))
def test_the_table_of_stocks_never_sees_the_future_nor_more_than_its_window(cut: int, stock: int, by: float) -> None:
    close = walk(100, 3)
    table = rebalancer_table(close, close * 1.01, close * 0.99, close, window=60)
    for change, same in ((slice(cut + 1, None), slice(0, cut + 1)), (slice(0, cut - 59), slice(cut, cut + 1))):
        other = close.copy()
        other[change, stock] *= by
        other_table = rebalancer_table(other, other * 1.01, other * 0.99, other, window=60)
        assert other_table.market[same].tobytes() == table.market[same].tobytes()
        assert other_table.tradable[same].tobytes() == table.tradable[same].tobytes()


@settings(max_examples=examples(25))
@given(st.integers(251, 299), st.integers(0, 2), st.floats(0.5, 2.0))
def test_the_table_of_funds_never_sees_the_future_nor_more_than_its_window(cut: int, fund: int, by: float) -> None:
    close = walk(300, 3)
    table = regime_table(close)
    for change, same in ((slice(cut + 1, None), slice(0, cut + 1)), (slice(0, cut - 251), slice(cut, cut + 1))):
        other = close.copy()
        other[change, fund] *= by
        assert regime_table(other)[same].tobytes() == table[same].tobytes()


def test_permuting_the_stocks_permutes_their_columns() -> None:
    close = walk(80, 4)
    order = [2, 0, 3, 1]
    market = rebalancer_table(close, close * 1.01, close * 0.99, close, window=60).market
    other = rebalancer_table(*(x[:, order] for x in (close, close * 1.01, close * 0.99, close)), window=60).market
    assert np.array_equal(other[:, :4], market[:, order])
    assert np.array_equal(other[:, 4:].reshape(80, 4, 13), market[:, 4:].reshape(80, 4, 13)[:, order])


def test_the_flags_of_a_table_want_a_bar_of_the_day_and_a_full_window() -> None:
    close = walk(8, 2)
    present = np.ones((8, 2), dtype=np.bool_)
    present[4, 0] = False  # a day of the second alone
    present[6] = False  # a day of none: what was known stays
    close[7, 1] = np.nan  # not a price: as if there were no bar
    table = rebalancer_table(close, close, close, close, present, window=3)
    assert table.tradable.tolist() == [[0, 0], [0, 0], [1, 1], [1, 1], [0, 1], [1, 1], [1, 1], [1, 0]]
    assert table.market[4, 0] == table.market[3, 0] == np.float32(close[3, 0])
    assert np.array_equal(table.market[6], table.market[5])
    assert table.market[7, 1] == np.float32(close[5, 1])


def test_missing_days_of_a_fund_show_its_own_last_bars() -> None:
    close = walk(255, 3)
    present = np.ones((255, 3), dtype=np.bool_)
    present[100, 2] = present[254, 0] = False
    table = regime_table(close, present)
    assert not table[251].any()  # the third has 251 bars
    assert table[252].all()
    assert table[254, ::3].tolist() == table[253, ::3].tolist()
    without = np.delete(close[:, 2], 100)
    assert table[254, 2::3].tobytes() == fund_features(without[None, 2:254])[0].astype(np.float32).tobytes()
