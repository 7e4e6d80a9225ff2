"""Snapshots of chains become quotes; Massive's flat files become bars that every reader of bars takes."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from daemon.tapes.files import TapeFile
from tests.support.quote_files import quotes_in, sessions_in, utc
from training.data.quotes.columns import ColumnChoice, ConvertError
from training.data.quotes.convert import convert, convert_bars

HEADER = "ticker,volume,open,close,high,low,window_start,transactions"


def silent(_path: Path, _bytes_read: int, _rows: int) -> None:
    pass


def flat_file(path: Path, *lines: str) -> Path:
    path.write_bytes(gzip.compress("\n".join([HEADER, *lines]).encode()))
    return path


def minute(symbol: str, start: str, close: float) -> str:
    return f"{symbol},4930,200.29,{close},200.63,200.2,{int(utc(start).timestamp()) * 10**9},129"


def test_a_snapshot_becomes_quotes_for_calibration(tmp_path: Path) -> None:
    row = {"contract_symbol": "SPY240816C00550000", "bid": 1.0, "ask": 1.1, "underlying": 549.5}
    rows = [row | {"quote_time": utc("2024-08-15 16:19:32")}]
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "s.parquet")
    convert("snapshots", [tmp_path / "s.parquet"], tmp_path / "q.parquet", ColumnChoice(), silent)
    assert quotes_in(tmp_path / "q.parquet") == [("SPY240816C00550000", "2024-08-15 16:19", 1.0, 1.1)]
    (session,) = sessions_in(tmp_path / "q.parquet")
    assert (session.underlying.tolist(), session.sizes.tolist()) == ([549.5], [[-1], [-1]])
    assert pa.parquet.read_schema(tmp_path / "q.parquet").metadata[b"interval"] == b"snapshot"


def test_a_snapshot_without_a_column_or_a_zone_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    row = {"contract_symbol": "SPY240816C00550000", "bid": 1.0, "ask": 1.1}
    pa.parquet.write_table(pa.Table.from_pylist([row]), path)
    with pytest.raises(
        ConvertError, match="the columns underlying, quote_time or approx_quote_time are missing; found"
    ):
        convert("snapshots", [path], tmp_path / "q.parquet", ColumnChoice(), silent)
    naive = utc("2024-08-15 16:19").replace(tzinfo=None)
    pa.parquet.write_table(pa.Table.from_pylist([row | {"underlying": 1.0, "quote_time": naive}]), path)
    with pytest.raises(ConvertError, match="quote_time has no time zone"):
        convert("snapshots", [path], tmp_path / "q.parquet", ColumnChoice(), silent)


def test_flat_files_become_bars_in_order_of_time_that_the_reader_of_bars_takes(tmp_path: Path) -> None:
    later = flat_file(
        tmp_path / "b.csv.gz", minute("SPY", "2024-08-16 13:30", 3.0), minute("AAPL", "2024-08-16 13:30", 9)
    )
    first = flat_file(
        tmp_path / "a.csv.gz", minute("SPY", "2024-08-15 13:30", 200.5), minute("SPY", "2024-08-15 13:31", 200.3),
        minute("QQQ", "2024-08-15 13:30", 200.4), minute("QQQ", "2024-08-15 13:32", 200.6),
    )  # fmt: skip
    out = tmp_path / "bars.parquet"
    assert convert_bars([later, first], out, frozenset({"SPY", "QQQ"}), silent) == 5
    rows = [
        (batch.names[code], start, tuple(price))
        for batch in TapeFile(out, ("SPY", "QQQ")).batches()
        for code, start, price in zip(batch.codes, batch.start_ns.tolist(), batch.prices.T.tolist(), strict=True)
    ]
    assert [(name, price[3]) for name, _, price in rows] == [
        ("QQQ", 200.4), ("SPY", 200.5), ("SPY", 200.3), ("QQQ", 200.6), ("SPY", 3.0),
    ]  # fmt: skip
    assert rows[0][1:] == (int(utc("2024-08-15 13:30").timestamp()) * 10**9, (200.29, 200.63, 200.2, 200.4, 4930.0))
    assert TapeFile(out, ("SPY", "QQQ")).adjustment == "raw"


@pytest.mark.parametrize(
    ("symbols", "words"),
    [
        (frozenset[str](), "a flat file holds every stock.*--symbols"),
        (frozenset({"IWM"}), "no bar of IWM"),
        (frozenset({"SPY", "IWM"}), "no bar of IWM in the files"),
    ],
)
def test_symbols_that_are_not_in_the_files_are_an_error(tmp_path: Path, symbols: frozenset[str], words: str) -> None:
    path = flat_file(tmp_path / "a.csv.gz", minute("SPY", "2024-08-15 13:30", 200.5))
    with pytest.raises(ConvertError, match=words):
        convert_bars([path], tmp_path / "bars.parquet", symbols, silent)
    assert not (tmp_path / "bars.parquet").exists()


def test_milliseconds_as_the_vendor_s_rest_interface_has_them_are_an_error(tmp_path: Path) -> None:
    path = flat_file(tmp_path / "a.csv.gz", "SPY,4930,200.29,200.5,200.63,200.2,1723728600000,129")  # 2024-08-15
    with pytest.raises(ConvertError, match=r"window_start 1723728600000 is before 1980 .* milliseconds, multiply them"):
        convert_bars([path], tmp_path / "bars.parquet", frozenset({"SPY"}), silent)


def test_the_same_day_given_twice_is_an_error(tmp_path: Path) -> None:
    paths = [flat_file(tmp_path / f"{i}.csv.gz", minute("SPY", "2024-08-15 13:30", 200.5)) for i in range(2)]
    with pytest.raises(ConvertError, match="SPY has two bars at 2024-08-15T13:30:00Z"):
        convert_bars(paths, tmp_path / "bars.parquet", frozenset({"SPY"}), silent)
