"""The recorded minutes and days, read once. Sessions are taken from the files: none has a missing session edge."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from strategies.daily_rebalancer import SYMBOLS as STOCKS
from strategies.kit.contract import Bar, Session
from tests.support.strategies.days import DailyColumns
from tests.support.strategies.minutes import MINUTE_NS, Minutes, minutes_of

DAY_NS = 86_400_000_000_000


@pytest.fixture(scope="session")
def spy_minutes(data_dir: Path) -> Minutes:
    """All of `spy_1min_2024.parquet`: 194 sessions, of which three are half days; no minute is missing."""
    table = pq.read_table(data_dir / "spy_1min_2024.parquet")
    times = table["timestamp"].cast("int64").to_pylist()
    prices = [table[name].to_pylist() for name in ("open", "high", "low", "close")]
    volumes = [float(v) for v in table["volume"].to_pylist()]
    bars = [Bar("SPY", t, *rest) for t, *rest in zip(times, *prices, volumes, strict=True)]
    sessions = []
    for day, group in groupby(times, key=lambda t: t // DAY_NS):  # regular hours lie within one day of UTC
        minutes = list(group)
        sessions.append(Session(str(day), minutes[0], minutes[-1] + MINUTE_NS))
    return minutes_of(bars, sessions)


@pytest.fixture(scope="session")
def stock_days(data_dir: Path) -> DailyColumns:
    """The 50 stocks of `stocks_daily_2010_2022.parquet`: 3,272 sessions, none missing."""
    table = pq.read_table(data_dir / "stocks_daily_2010_2022.parquet")
    names = table["symbol"].to_numpy()
    columns = {}
    for name in ("open", "high", "low", "close"):
        values = table[name].to_numpy()
        columns[name] = np.stack([values[names == symbol] for symbol in STOCKS], axis=1)
    return DailyColumns(STOCKS, columns)


@pytest.fixture(scope="session")
def fund_closes(data_dir: Path) -> npt.NDArray[np.float64]:
    """Adjusted closes of SPY, QQQ and IWM, (3272, 3)."""
    table = pq.read_table(data_dir / "etf_daily_2010_2022.parquet")
    names, closes = table["symbol"].to_numpy(), table["adj_close"].to_numpy()
    return np.stack([closes[names == symbol] for symbol in ("SPY", "QQQ", "IWM")], axis=1)
