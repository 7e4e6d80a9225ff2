"""A file of quotes appears whole and in order, whatever the order of its rows, and a killed writer leaves none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from daemon.tapes.files import TapeError
from daemon.tapes.quotes import writer
from daemon.tapes.quotes.schema import SCHEMA
from daemon.tapes.quotes.writer import RowCounts, writing_quotes
from tests.support.quote_files import Quote, quotes_in, rows_of

CALL, PUT = "SPY240816C00550000", "SPY240816P00550000"
UNORDERED: list[Quote] = [
    (PUT, "2024-08-16 13:31", 0.5, 0.6), (CALL, "2024-08-15 14:01", 1.1, 1.3), (PUT, "2024-08-15 14:00", 0.4, 0.5),
    (CALL, "2024-08-15 14:00", 1.0, 1.2), (CALL, "2024-08-16 13:31", 2.0, 2.1),
]  # fmt: skip


def table(quotes: list[Quote]) -> Any:
    return pa.Table.from_pylist(rows_of(quotes), schema=SCHEMA)


def write(out: Path, *tables: Any) -> RowCounts:
    with writing_quotes(out, source="hand", interval="minute") as writing:
        for part in tables:
            writing.add(part)
        return writing.finish()


def test_rows_in_any_order_come_out_by_time_then_symbol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "GATHERED_ROWS", 2)  # so that several files are spilled for a date
    out = tmp_path / "q.parquet"
    summary = write(out, *(table([quote]) for quote in UNORDERED))
    assert quotes_in(out) == sorted(UNORDERED, key=lambda quote: (quote[1], quote[0]))
    assert (summary.rows, summary.repeated, dict(summary.by_date)) == (5, 0, {"2024-08-15": 3, "2024-08-16": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["q.parquet"]


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    out = tmp_path / "q.parquet"
    write(out, table(UNORDERED).drop_columns(["source"]))
    metadata = pa.parquet.read_schema(out).metadata
    assert metadata[b"quotes_version"] == b"1"
    assert (metadata[b"format"], metadata[b"interval"], metadata[b"synthetic"]) == (b"hand", b"minute", b"")
    assert pa.parquet.read_table(out).column("source").unique().to_pylist() == ["hand"]


def test_a_quote_that_is_given_twice_is_written_once(tmp_path: Path) -> None:
    out = tmp_path / "q.parquet"
    summary = write(out, table(UNORDERED), table(UNORDERED[:2]))
    assert (summary.rows, summary.repeated) == (5, 2)
    assert len(quotes_in(out)) == 5


def test_two_different_quotes_for_one_minute_are_refused_and_the_former_file_stays(tmp_path: Path) -> None:
    out = tmp_path / "q.parquet"
    write(out, table(UNORDERED))
    before = out.read_bytes()
    with pytest.raises(TapeError, match=rf"{CALL} has two quotes for 2024-08-15 14:00.*: ask 1.2 and 1.25"):
        write(out, table([(CALL, "2024-08-15 14:00", 1.0, 1.2), (CALL, "2024-08-15 14:00", 1.0, 1.25)]))
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["q.parquet"]


def test_prices_lie_on_the_grid_of_the_schema(tmp_path: Path) -> None:
    write(tmp_path / "q.parquet", table([(CALL, "2024-08-15 14:00", 0.1 + 0.2, 1.23456)]))
    assert quotes_in(tmp_path / "q.parquet") == [(CALL, "2024-08-15 14:00", 0.3, 1.2346)]


def test_no_quote_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TapeError, match="there is no quote to write"):
        write(tmp_path / "q.parquet")
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_are_one_too_many(tmp_path: Path) -> None:
    out = tmp_path / "q.parquet"
    with writing_quotes(out, source="hand", interval="minute") as first:
        first.add(table(UNORDERED))
        with pytest.raises(TapeError, match="another process writes this file"):
            write(out, table(UNORDERED))
        assert first.finish().rows == 5


KILLED = """
import os, signal, sys
from pathlib import Path
import pyarrow as pa
from daemon.tapes.quotes import writer
from daemon.tapes.quotes.schema import SCHEMA
writer.GATHERED_ROWS = 1
rows = [{"symbol": "SPY240816C00550000", "timestamp": 1723730400000000000 + day * 86400000000000, "bid": 1.0,
         "ask": 2.0, "bid_size": 1, "ask_size": 1, "source": "hand"} for day in (0, 1)]
with writer.writing_quotes(Path(sys.argv[1]), source="hand", interval="minute") as writing:
    writing.add(pa.Table.from_pylist(rows, schema=SCHEMA))
    writing.finish(lambda date: date == "2024-08-16" and os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_killed_writer_leaves_no_half_file_and_the_next_one_clears_up(tmp_path: Path) -> None:
    out = tmp_path / "q.parquet"
    result = subprocess.run([sys.executable, "-c", KILLED, str(out)], check=False, env=os.environ)
    assert result.returncode == -signal.SIGKILL
    assert not out.exists()
    assert (tmp_path / ".q.parquet.spill").exists()  # it was killed in the middle
    write(out, table(UNORDERED))
    assert len(quotes_in(out)) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["q.parquet"]
