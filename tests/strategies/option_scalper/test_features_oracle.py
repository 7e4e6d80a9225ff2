"""TA-Lib's indicators on the recorded minutes against pandas-ta-classic, which does not call it (`talib=False`).

Where the two seed their averages alike, a session's anchored window is compared; the whole history in one pass shows
how little the anchor matters.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from strategies.option_scalper import FEATURES
from tests.support.strategies.minutes import Minutes, W

NAMES = [feature.name for feature in FEATURES]
Columns = dict[str, npt.NDArray[np.float64]]

pytestmark = pytest.mark.filterwarnings("ignore")  # the oracle calls what pandas has deprecated, at its import too


def oracle(high: pd.Series, low: pd.Series, close: pd.Series, volume: pd.Series) -> Columns:
    """The indicator columns by pandas-ta-classic over one stretch of bars."""
    import pandas_ta_classic as ta

    bands = ta.bbands(close, length=20, std=2.0, ddof=0, talib=False)
    lower, middle, upper = (bands[f"BB{x}_20_2.0"] for x in "LMU")
    fast_k = ta.stochf(high, low, close, fastk=14, fastd=3, talib=False)
    columns = {
        "volume_ratio": np.log((volume + 1) / (ta.sma(volume, 20, talib=False) + 1)),
        "ema9_distance": close / ta.ema(close, 9, talib=False) - 1,
        "ema21_distance": close / ta.ema(close, 21, talib=False) - 1,
        "sma50_distance": close / ta.sma(close, 50, talib=False) - 1,
        "rsi14": ta.rsi(close, 14, talib=False) / 100,
        "macd_histogram": ta.macd(close, talib=False)["MACDh_12_26_9"] / close,
        "bollinger_percent_b": (close - lower) / (upper - lower),
        "bollinger_width": (upper - lower) / middle,
        "atr14": ta.atr(high, low, close, 14, talib=False) / close,
        "adx14": ta.adx(high, low, close, 14, talib=False)["ADX_14"] / 100,
        "stochastic_k": fast_k.iloc[:, 0] / 100,
        "cci20": (ta.cci(high, low, close, 20, talib=False) / 200).clip(-2, 2),
    }
    return {name: column.to_numpy(dtype=np.float64) for name, column in columns.items()}


def test_every_indicator_of_every_session_agrees_on_the_same_anchored_bars(spy_minutes: Minutes) -> None:
    values = spy_minutes.table().values
    columns = [pd.Series(spy_minutes.column(name)) for name in ("high", "low", "close", "volume")]
    ends = (*spy_minutes.starts[1:], len(spy_minutes.bars))
    largest = dict.fromkeys(NAMES[:20], np.float64(0.0))
    for start, end in zip(spy_minutes.starts[1:], ends[1:], strict=True):
        window = (column.iloc[start - W : end].reset_index(drop=True) for column in columns)
        for name, expected in oracle(*window).items():
            difference = np.abs(expected[W:] - values[start:end, NAMES.index(name)])
            largest[name] = np.maximum(largest[name], difference.max())  # keeps a NaN, which then fails
    assert {name: x for name, x in largest.items() if not x <= 1e-8} == {}


def test_the_anchor_is_far_enough_away_that_one_pass_over_all_history_agrees(spy_minutes: Minutes) -> None:
    table = spy_minutes.table()
    columns = oracle(*(pd.Series(spy_minutes.column(name)) for name in ("high", "low", "close", "volume")))
    for name, expected in columns.items():
        difference = np.abs(expected - table.values[:, NAMES.index(name)])[table.warm]
        # ADX smooths twice by 13/14 a bar, so after 256 bars about 256/14 * (13/14)^256 = 1e-7 of its seed is left.
        assert difference.max() <= (1e-7 if name == "adx14" else 1e-8), name
