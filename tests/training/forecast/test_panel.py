"""Panels of bars files: what is read, what is refused, and which rows are masked and why."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from numpy.typing import NDArray

from daemon.tapes.files import TapeError
from strategies.forecast_ensemble.masks import REASONS, jumps, reasons
from training.forecast.panel import Panel

WINDOW = 5
SESSIONS = [str(day.date()) for day in pd.bdate_range("2024-02-20", "2024-03-27")]  # without a holiday: 27 sessions


def _features(
    _open: NDArray[np.float64],
    high: NDArray[np.float64],
    _low: NDArray[np.float64],
    close: NDArray[np.float64],
    _volume: NDArray[np.float64],
    dates: NDArray[np.datetime64],
) -> NDArray[np.float32]:
    """The log return over this symbol's own bars, close over high, and the day of the month."""
    features = np.full((len(close), 3), np.nan, dtype=np.float32)
    features[1:, 0] = np.diff(np.log(close))
    features[:, 1] = close / high
    features[:, 2] = dates.astype(object) == dates.astype(object)
    return features


def _write(path: Path, closes: dict[str, list[float]], adjustment: str = "", cents: float = 1.0) -> Path:
    """One row for each close that is not infinite, from the first session on; NaN makes a bad bar."""
    rows: dict[str, list[object]] = {name: [] for name in ("symbol", "timestamp", "open", "high", "low", "close")}
    volume = []
    for symbol, series in closes.items():
        for date, close in zip(SESSIONS, series, strict=False):
            if math.isinf(close):
                continue
            values = [symbol, pd.Timestamp(date, tz="America/New_York").tz_convert("UTC")]
            prices = [close * cents] * 4
            for name, value in zip(rows, values + prices, strict=True):
                rows[name].append(value)
            volume.append(100.0)
    metadata = {b"adjustment": adjustment.encode()} if adjustment else {}
    table = pa.table(rows | {"volume": volume}).replace_schema_metadata(metadata)
    pa.parquet.write_table(table, path)
    return path


def _walk(count: int = 20, start: float = 50.0) -> list[float]:
    return [start + 0.25 * (step % 3) for step in range(count)]


def _why(panel: Panel, symbol: str) -> list[str]:
    return [REASONS[code] for code in panel.reasons[:, panel.symbols.index(symbol)].tolist()]


def test_two_files_become_one_panel_of_all_their_symbols(tmp_path: Path) -> None:
    one = _write(tmp_path / "one.parquet", {"BBB": _walk(), "AAA": _walk(start=20.0)})
    other = _write(tmp_path / "other.parquet", {"CCC": [math.inf] * 4 + _walk(18, 30.0)})
    panel = Panel.load([one, other], _features, window=WINDOW)
    assert panel.symbols == ("AAA", "BBB", "CCC")
    assert panel.dates == tuple(SESSIONS[:22])
    assert panel.bars.shape == (5, 22, 3)
    assert panel.bars[3, :20, 0].tolist() == _walk(start=20.0)
    assert np.isnan(panel.bars[:, :4, 2]).all()
    assert panel.features[1, 0, 0] == np.float32(math.log(20.25 / 20.0))
    assert [source.file for source in panel.sources] == ["one.parquet", "other.parquet"]
    assert len(panel.sha256) == 64


def test_only_the_symbols_asked_for_are_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "one.parquet", {"BBB": _walk(), "AAA": _walk()})
    assert Panel.load([path], _features, symbols=["BBB"], window=WINDOW).symbols == ("BBB",)
    with pytest.raises(TapeError, match=r"one.parquet: no row of ZZZ: give the file"):
        Panel.load([path], _features, symbols=["AAA", "ZZZ"], window=WINDOW)


def test_a_symbol_in_two_files_is_refused_and_both_are_named(tmp_path: Path) -> None:
    one, other = (_write(tmp_path / f"{name}.parquet", {"AAA": _walk()}) for name in ("one", "other"))
    with pytest.raises(TapeError, match=r"one.parquet and other.parquet both hold AAA"):
        Panel.load([one, other], _features, window=WINDOW)


@pytest.mark.parametrize(
    ("first", "second", "adjustment"),
    [
        ("raw", "all", "raw, other.parquet by splits and dividends"),
        ("split", "raw", "splits only, other.parquet by raw"),
        ("", "all", "splits only, other.parquet by splits and dividends"),
    ],
)
def test_files_of_different_adjustment_are_refused_by_their_metadata(
    first: str, second: str, adjustment: str, tmp_path: Path
) -> None:
    one = _write(tmp_path / "one.parquet", {"AAA": _walk()}, first)
    other = _write(tmp_path / "other.parquet", {"BBB": _walk()}, second)
    with pytest.raises(TapeError, match=f"one.parquet holds prices adjusted by {adjustment}"):
        Panel.load([one, other], _features, window=WINDOW)


def test_prices_off_the_cents_are_taken_for_adjusted_by_dividends(tmp_path: Path) -> None:
    one = _write(tmp_path / "one.parquet", {"AAA": _walk()})
    other = _write(tmp_path / "other.parquet", {"BBB": _walk()}, cents=0.98713)
    with pytest.raises(TapeError, match=r"splits only, other\.parquet by splits and dividends"):
        Panel.load([one, other], _features, window=WINDOW)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("etf_daily_2010_2022", "stocks_daily_2010_2022"),
        ("stocks_daily_2010_2022", "sp500_daily_2018_2022"),
        ("etf_daily_2010_2022", "sp500_daily_2018_2022"),
    ],
)
def test_recorded_files_of_different_adjustment_are_not_mixed(first: str, second: str, data_dir: Path) -> None:
    with pytest.raises(TapeError, match=rf"{first}.parquet holds .*, {second}.parquet by"):
        Panel.load([data_dir / f"{first}.parquet", data_dir / f"{second}.parquet"], _features)


def test_recorded_stocks_and_etfs_of_one_adjustment_go_together(data_dir: Path) -> None:
    paths = [data_dir / f"{name}_2010_2022.parquet" for name in ("stocks_daily", "etf_other_daily_adj")]
    panel = Panel.load(paths, _features, symbols=["AAPL", "ABBV", "GLD"])
    assert panel.symbols == ("AAPL", "ABBV", "GLD")
    assert len(panel.dates) == 3272
    masked = {
        symbol: Counter(REASONS[code] for code in panel.reasons[:, place] if REASONS[code])
        for place, symbol in enumerate(panel.symbols)
    }
    assert masked == {  # ABBV is listed from 2013-01-02 on, row 754
        "AAPL": {"short history": 59, "features": 1},
        "ABBV": {"not listed": 754, "short history": 59, "features": 1},
        "GLD": {"short history": 59, "features": 1},
    }


def test_a_file_without_symbols_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "one.parquet", {"AAA": _walk()})
    pa.parquet.write_table(pa.parquet.read_table(path).drop_columns(["symbol"]), path)
    with pytest.raises(TapeError, match="no column symbol"):
        Panel.load([path], _features)


def test_rows_are_masked_until_the_window_is_whole_and_the_features_are_settled(tmp_path: Path) -> None:
    path = _write(tmp_path / "one.parquet", {"AAA": _walk(8), "BBB": [math.inf] * 2 + _walk(6)})
    panel = Panel.load([path], _features, window=WINDOW)
    assert _why(panel, "AAA") == ["short history"] * 4 + ["features"] + [""] * 3
    assert _why(panel, "BBB") == ["not listed"] * 2 + ["short history"] * 4 + ["features"] + [""]


def test_a_gap_a_bad_bar_and_an_end_are_masked_each_by_its_name(tmp_path: Path) -> None:
    holes = {
        "ALL": _walk(20),
        "GAP": [*_walk(10), math.inf, *_walk(9)],
        "BAD": [*_walk(10), math.nan, *_walk(9)],
        "END": _walk(12),
    }
    panel = Panel.load([_write(tmp_path / "one.parquet", holes)], _features, window=WINDOW)
    assert _why(panel, "ALL")[6:] == [""] * 14
    assert _why(panel, "GAP")[6:] == [""] * 4 + ["gap"] * WINDOW + [""] * 5
    assert _why(panel, "BAD")[6:] == [""] * 4 + ["bad bar"] * WINDOW + [""] * 5
    assert _why(panel, "END")[6:] == [""] * 6 + ["ended"] * 8


def test_a_session_whose_every_bar_was_refused_is_no_session(tmp_path: Path) -> None:
    refused = {"AAA": [*_walk(10), math.nan, *_walk(9)], "BBB": [*_walk(10), math.inf, *_walk(9)]}
    panel = Panel.load([_write(tmp_path / "one.parquet", refused)], _features, window=WINDOW)
    assert panel.dates == (*SESSIONS[:10], *SESSIONS[11:20])
    assert _why(panel, "AAA")[5:] == _why(panel, "BBB")[5:] == [""] * 14


def test_a_jump_by_a_splits_ratio_is_masked_and_breaks_labels(tmp_path: Path) -> None:
    split = {"AAA": _walk(10) + [price / 2 for price in _walk(10)], "BBB": _walk(10) + [p * 1.4 for p in _walk(10)]}
    panel = Panel.load([_write(tmp_path / "one.parquet", split)], _features, window=WINDOW)
    assert _why(panel, "AAA")[6:] == [""] * 4 + ["jump"] * WINDOW + [""] * 5
    assert _why(panel, "BBB")[6:] == [""] * 14
    assert np.argwhere(panel.broken).tolist() == [[10, 0]]


def test_a_jump_is_seen_across_a_gap() -> None:
    bars = np.full((5, 4, 1), 30.0)
    bars[:, 1] = np.nan
    bars[:, 2:] = 10.0
    assert jumps(bars)[:, 0].tolist() == [False, False, True, False]


def test_sessions_without_volume_are_masked_when_they_are_as_many_as_the_limit() -> None:
    bars = np.full((5, 12, 1), 10.0)
    bars[4, 3:8] = 0.0
    causes = reasons(bars, np.zeros((12, 1), dtype=np.bool_), np.ones((12, 1, 2), dtype=np.float32), 2, silent=4)
    assert [REASONS[code] for code in causes[:, 0].tolist()] == [
        "short history", *[""] * 5, "no volume", "no volume", *[""] * 4
    ]  # fmt: skip
