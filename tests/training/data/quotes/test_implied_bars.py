"""Bars of an underlying from its option quotes: by hand, and from the recorded week of an index."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet
import pytest

from tests.support.quote_files import rows_of, write_quotes
from training.cli import convert

CALL, PUT = "SPXW240816C05500000", "SPXW240816P05500000"


def bars_in(path: Path) -> list[tuple[str, float, float, float, float, float]]:
    """Start and prices of each bar."""
    return [
        (f"{row['timestamp']:%H:%M}", row["open"], row["high"], row["low"], row["close"], row["volume"])
        for row in pyarrow.parquet.read_table(path).to_pylist()
    ]


def test_a_bar_closes_at_parity_or_the_recorded_underlying(tmp_path: Path) -> None:
    rows = [
        *rows_of([(CALL, "2024-08-15 13:31", 20.0, 22.0), (PUT, "2024-08-15 13:31", 18.0, 20.0)]),  # 21 - 19 + 5500
        *rows_of([(CALL, "2024-08-15 13:32", 23.0, 25.0)], underlying=5505.5),
        *rows_of([(CALL, "2024-08-15 13:33", 23.0, 25.0)]),  # no pair
        *rows_of([(CALL, "2024-08-15 13:34", 20.0, 22.0), (PUT, "2024-08-15 13:34", 21.0, 23.0)]),  # 21 - 22 + 5500
        *rows_of([(CALL, "2024-08-15 20:01", 20.0, 22.0), (PUT, "2024-08-15 20:01", 21.0, 23.0)]),  # after the close
    ]
    quotes, out = write_quotes(tmp_path / "q.parquet", rows), tmp_path / "bars.parquet"
    assert convert.main(["--from", "implied-bars", str(quotes), "--symbols", "SPXW", "--out", str(out)]) == 0
    assert bars_in(out) == [
        ("13:30", 5502.0, 5502.0, 5502.0, 5502.0, 0.0),
        ("13:31", 5502.0, 5505.5, 5502.0, 5505.5, 0.0),
        ("13:33", 5505.5, 5505.5, 5499.0, 5499.0, 0.0),
    ]


def test_what_cannot_be_made_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quotes = str(write_quotes(tmp_path / "q.parquet", rows_of([(CALL, "2024-08-15 13:31", 20.0, 22.0)])))
    out = str(tmp_path / "bars.parquet")
    for arguments, problem in (
        ([quotes], "expected one file of quotes and one root"),
        ([quotes, "--symbols", "SPXW"], "no minute of SPXW has an underlying or a pair of quotes"),
    ):
        assert convert.main(["--from", "implied-bars", *arguments, "--out", out]) == 2
        assert problem in capsys.readouterr().err
    assert not Path(out).exists()
