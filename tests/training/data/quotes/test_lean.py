"""LEAN's minute zips: written by hand with what each row must become, and the recorded ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from daemon.tapes.quotes.reader import QuoteFile
from tests.support.quote_files import lean_zip, quotes_in, sessions_in
from training.data.quotes.columns import ColumnChoice, ConvertError
from training.data.quotes.convert import convert

NAME = "20240815_spy_minute_quote_american_{}_{}_{}.csv"
CALL = NAME.format("call", "5500000", "20240816")


def converted(tmp_path: Path, entries: dict[str, list[str]], request: ColumnChoice | None = None) -> Path:
    path = lean_zip(tmp_path / "20240815_quote_american.zip", entries)
    convert("lean", [path], tmp_path / "q.parquet", request or ColumnChoice(), lambda _path, _bytes_read, _rows: None)
    return tmp_path / "q.parquet"


def test_a_row_becomes_a_quote_at_its_minutes_end(tmp_path: Path) -> None:
    line = "34200000,12100,12500,11900,12300,20,12500,12800,12400,12600,35"
    out = converted(tmp_path, {CALL: [line]})
    (row,) = pyarrow.parquet.read_table(out).to_pylist()
    when = row.pop("timestamp")
    assert f"{when:%Y-%m-%d %H:%M:%S %Z}" == "2024-08-15 13:31:00 UTC"  # 09:30 is the bar's start
    assert row == {
        "symbol": "SPY240816C00550000", "bid": 1.23, "ask": 1.26, "bid_size": 20, "ask_size": 35,
        "low_bid": 1.19, "high_bid": 1.25, "low_ask": 1.24, "high_ask": 1.28, "underlying": None, "source": "lean",
    }  # fmt: skip


def test_a_missing_side_is_0_and_its_extremes_unknown(tmp_path: Path) -> None:
    (session,) = sessions_in(converted(tmp_path, {CALL: ["34200000,,,,,0,21500,21500,5000,5000,19"]}))
    assert (session.bid.tolist(), session.ask.tolist()) == ([0.0], [0.5])
    assert np.isnan(session.extremes[:2]).all()
    assert session.extremes[2:].tolist() == [[0.5], [2.15]]
    assert session.sizes.tolist() == [[0], [19]]


def test_many_contracts_come_out_by_time_and_puts_and_strikes_are_read(tmp_path: Path) -> None:
    put = NAME.format("put", "5475000", "20240920")
    quote = ",10000,10000,10000,10000,1,11000,11000,11000,11000,1"
    out = converted(tmp_path, {put: [f"34260000{quote}", f"34320000{quote}"], CALL: [f"34260000{quote}"]})
    assert quotes_in(out) == [
        ("SPY240816C00550000", "2024-08-15 13:32", 1.0, 1.1),
        ("SPY240920P00547500", "2024-08-15 13:32", 1.0, 1.1),
        ("SPY240920P00547500", "2024-08-15 13:33", 1.0, 1.1),
    ]


@pytest.mark.parametrize(
    ("date", "in_utc"),
    [
        ("20240308", "2024-03-08 14:31"), ("20240311", "2024-03-11 13:31"),
        ("20241101", "2024-11-01 13:31"), ("20241104", "2024-11-04 14:31"),
    ],
)  # fmt: skip
def test_the_open_is_half_past_nine_in_new_york_on_both_sides_of_a_change_of_clocks(
    tmp_path: Path, date: str, in_utc: str
) -> None:
    name = f"{date}_spy_minute_quote_american_call_5500000_20241220.csv"
    path = lean_zip(tmp_path / "a.zip", {name: ["34200000,1,1,1,10000,1,1,1,1,11000,1"]})
    convert("lean", [path], tmp_path / "q.parquet", ColumnChoice(), lambda *_: None)
    assert [quote[1] for quote in quotes_in(tmp_path / "q.parquet")] == [in_utc]


def test_only_the_wanted_roots_and_days_are_taken_and_the_others_counted(tmp_path: Path) -> None:
    quote = "34260000,10000,10000,10000,10000,1,11000,11000,11000,11000,1"
    far, other = NAME.format("call", "5500000", "20241220"), CALL.replace("_spy_", "_spxw_")
    request = ColumnChoice(roots=frozenset({"SPY"}), max_days=5)
    out = converted(
        tmp_path, {CALL: [quote], far: [quote], other: [quote, quote.replace("34260000", "34320000")]}, request
    )
    assert [quote[0] for quote in quotes_in(out)] == ["SPY240816C00550000"]
    assert dict(request.left_out) == {"expiries after --max-days": 1, "other symbols than --symbols": 2}


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({CALL.replace("quote", "trade"): ["34200000,1,1,1,1,1"]}, "is of kind trade, not quote: give LEAN's"),
        ({"readme.csv": ["1"]}, "readme.csv is no option's minutes"),
        ({CALL: ["34200000,1,2,3"]}, f"{CALL}: .*Expected 11 columns, got 4.*; expected the columns ms, bid_open"),
        ({CALL: ["half past nine,1,1,1,1,1,1,1,1,1,1"]}, f"{CALL}: .*half past nine"),
        ({CALL: []}, r"no quote was taken \(no row\)"),
        ({}, "the zip is empty"),
    ],
)
def test_another_kind_of_zip_is_an_error_that_names_it(
    tmp_path: Path, entries: dict[str, list[str]], words: str
) -> None:
    with pytest.raises(ConvertError, match=words):
        converted(tmp_path, entries)
    assert [path.name for path in tmp_path.iterdir()] == ["20240815_quote_american.zip"]


def test_a_file_that_is_no_zip_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("text")
    with pytest.raises(ConvertError, match="no zip, or damaged"):
        convert("lean", [tmp_path / "a.zip"], tmp_path / "q.parquet", ColumnChoice(), lambda *_: None)


def test_the_recorded_spy_day_equals_the_same_day_read_by_others(data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / "lean" / "option" / "usa" / "minute" / "spy" / "20230803_quote_american.zip"
    convert("lean", [path], tmp_path / "q.parquet", ColumnChoice(), lambda *_: None)
    expected = pyarrow.parquet.read_table(data_dir / "spy_option_1min_2023-08-03.parquet").to_pandas()
    expected = expected[expected["kind"] == "quote"].sort_values(["timestamp", "type", "strike"])
    frame = pyarrow.parquet.read_table(tmp_path / "q.parquet").to_pandas()
    assert len(frame) == len(expected) == 1620
    assert (frame["timestamp"].to_numpy() - expected["timestamp"].to_numpy() == np.timedelta64(60, "s")).all()
    names = {"bid": "bid_close", "low_bid": "bid_low", "high_ask": "ask_high", "ask_size": "ask_size"}
    for column, other_column in names.items():
        np.testing.assert_allclose(frame[column].to_numpy(), expected[other_column].to_numpy(), rtol=0, atol=1e-9)


def test_the_recorded_chain_of_a_half_day_comes_whole(data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / "lean" / "option" / "usa" / "minute" / "goog" / "20151224_quote_american.zip"
    progress = []
    convert(
        "lean",
        [path],
        tmp_path / "q.parquet",
        ColumnChoice(),
        lambda _path, bytes_read, _rows: progress.append(bytes_read),
    )
    file = QuoteFile(tmp_path / "q.parquet")
    (session,) = file.sessions()
    assert (file.rows, len(session.contracts.symbols), set(session.contracts.roots)) == (275_552, 2192, {"GOOG"})
    assert progress == sorted(progress)  # the progress never goes back
