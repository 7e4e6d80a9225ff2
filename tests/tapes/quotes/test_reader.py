"""Recorded option quotes are read a session at a time, and an unusable file names its fault and the cure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from daemon.tapes.files import TapeError
from daemon.tapes.quotes import reader
from daemon.tapes.quotes.reader import QuoteFile
from tests.support.quote_files import rows_of, sessions_in, write_quotes

CALL, PUT = "SPY240816C00550000", "SPY240816P00550000"


def test_quotes_come_by_new_york_date_with_their_contracts_terms(tmp_path: Path) -> None:
    rows = rows_of(
        [(CALL, "2024-08-15 19:59", 1.1, 1.2), (PUT, "2024-08-15 23:30", 0.5, 0.6), (CALL, "2024-08-16 13:31", 2, 2.1)]
    )
    first, second = sessions_in(write_quotes(tmp_path / "q.parquet", rows))
    assert (first.date, second.date) == ("2024-08-15", "2024-08-16")
    assert first.contracts.symbols == (CALL, PUT)
    assert first.contracts.roots == ("SPY", "SPY")
    assert first.contracts.strike.tolist() == [550.0, 550.0]
    assert first.contracts.right.tolist() == [1, -1]
    assert [str(day) for day in first.contracts.expiry] == ["2024-08-16", "2024-08-16"]
    assert first.mid.tolist() == [pytest.approx(1.15), pytest.approx(0.55)]
    assert first.sizes.tolist() == [[1, 1], [1, 1]]
    assert np.isnan(first.extremes).all()
    assert first.sources == ("hand",)


def test_a_session_that_spans_batches_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_BATCH_ROWS", 2)
    quotes = [(CALL, f"2024-08-15 14:0{minute}", 1.0 + minute, 2.0 + minute) for minute in range(5)]
    (session,) = sessions_in(write_quotes(tmp_path / "q.parquet", rows_of(quotes)))
    assert session.bid.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_missing_side_has_no_mid(tmp_path: Path) -> None:
    (session,) = sessions_in(write_quotes(tmp_path / "q.parquet", rows_of([(CALL, "2024-08-15 14:00", 0, 0.05)])))
    assert np.isnan(session.mid).tolist() == [True]


def test_rows_that_are_not_in_order_are_an_error_that_names_the_row(tmp_path: Path) -> None:
    rows = rows_of([(CALL, "2024-08-15 14:01", 1, 2), (CALL, "2024-08-15 14:00", 1, 2)])
    with pytest.raises(TapeError, match=r"row 2 is earlier .* convert --from quotes"):
        sessions_in(write_quotes(tmp_path / "q.parquet", rows))


def test_a_row_without_a_time_is_an_error_that_names_the_row(tmp_path: Path) -> None:
    rows = rows_of([(CALL, "2024-08-15 14:01", 1, 2)]) * 2
    with pytest.raises(TapeError, match="row 2 has no timestamp"):
        sessions_in(write_quotes(tmp_path / "q.parquet", [rows[0], rows[1] | {"timestamp": None}]))


def test_a_missing_column_is_an_error_that_names_it_and_what_was_found(tmp_path: Path) -> None:
    path = write_quotes(tmp_path / "q.parquet", rows_of([(CALL, "2024-08-15 14:01", 1, 2)]))
    pa.parquet.write_table(pa.parquet.read_table(path).drop_columns(["ask", "bid_size"]), path)
    with pytest.raises(
        TapeError, match="the columns ask, bid_size are missing; found symbol, timestamp, bid, ask_size"
    ):
        QuoteFile(path)


def test_a_column_that_is_there_twice_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = write_quotes(tmp_path / "q.parquet", rows_of([(CALL, "2024-08-15 14:01", 1, 2)]))
    table = pa.parquet.read_table(path)
    pa.parquet.write_table(table.append_column("bid", table["ask"]), path)
    with pytest.raises(TapeError, match="the column bid is there more than once; expected each once"):
        QuoteFile(path)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({b"quotes_version": b"2"}, "version 2 of the schema; expected 1"),
        ({b"interval": b"week"}, "interval 'week' in the metadata; expected one of minute, snapshot, end_of_day"),
    ],
)
def test_metadata_of_another_kind_are_an_error(tmp_path: Path, metadata: dict[bytes, bytes], words: str) -> None:
    path = write_quotes(tmp_path / "q.parquet", rows_of([(CALL, "2024-08-15 14:01", 1, 2)]), metadata)
    with pytest.raises(TapeError, match=words):
        QuoteFile(path)


def test_a_missing_file_another_kind_of_file_and_times_without_a_zone_are_errors(tmp_path: Path) -> None:
    with pytest.raises(TapeError, match="no such file"):
        QuoteFile(tmp_path / "none.parquet")
    text = tmp_path / "text.parquet"
    text.write_text("symbol,bid\n")
    with pytest.raises(TapeError, match="no Parquet file"):
        QuoteFile(text)
    path = write_quotes(tmp_path / "q.parquet", rows_of([(CALL, "2024-08-15 14:01", 1, 2)]))
    table = pa.parquet.read_table(path)
    place = table.schema.get_field_index("timestamp")
    naive = table.set_column(place, "timestamp", table.column("timestamp").cast(pa.timestamp("ns")))
    pa.parquet.write_table(naive, path)
    with pytest.raises(TapeError, match="expected a time with a zone"):
        QuoteFile(path)
