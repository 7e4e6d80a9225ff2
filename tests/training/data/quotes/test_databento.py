"""Databento's DBN, written by its own library: what each record becomes, and what happens without the library."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.quote_files import quotes_in, sessions_in, utc
from training.data.quotes.columns import ColumnChoice, ConvertError
from training.data.quotes.convert import convert

pytestmark = [  # databento 0.87 leaves its files to the garbage collector, and asks pandas 3.1 in the old way
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame"),
]
NOTHING = 2**63 - 1  # Databento's price of a missing side
RAW = {1: "SPY   240816C00550000", 2: "SPY   240816P00550000"}


def ns(text: str) -> int:
    return int(utc(text).timestamp()) * 10**9


def dbn_file(path: Path, records: list[tuple[int, str, int, int]], schema: str = "cbbo-1m") -> Path:
    """Write records (instrument, time in UTC, bid and ask in 1e-9 USD), every size 7."""
    dbn: Any = pytest.importorskip("databento_dbn", reason="needs the extra databento")
    day, after = (utc(f"2024-08-1{number} 00:00").date() for number in (5, 6))
    mappings = [
        SimpleNamespace(raw_symbol=raw, intervals=[SimpleNamespace(start_date=day, end_date=after, symbol=str(number))])
        for number, raw in RAW.items()
    ]
    metadata = dbn.Metadata(
        dataset="OPRA.PILLAR", start=ns("2024-08-15 00:00"), end=ns("2024-08-16 00:00"), stype_in=dbn.SType.RAW_SYMBOL,
        stype_out=dbn.SType.INSTRUMENT_ID, schema=dbn.Schema.from_str(schema), symbols=list(RAW.values()),
        mappings=mappings,
    )  # fmt: skip
    rows = b""
    for number, when, bid, ask in records:
        level = dbn.ConsolidatedBidAskPair(bid, ask, 7, 7, 0, 0)
        rows += bytes(
            dbn.CBBOMsg(
                rtype=dbn.RType.CBBO_1M, publisher_id=30, instrument_id=number, ts_event=ns(when) - 10**9,
                price=NOTHING, size=0, side=dbn.Side.NONE, ts_recv=ns(when), levels=level,
            )
        )  # fmt: skip
    path.write_bytes(bytes(metadata) + rows)
    return path


def converted(tmp_path: Path, path: Path) -> Path:
    convert("databento", [path], tmp_path / "q.parquet", ColumnChoice(), lambda *_: None)
    return tmp_path / "q.parquet"


def test_a_record_becomes_a_quote_at_the_intervals_end_with_its_own_symbol(tmp_path: Path) -> None:
    records = [
        (1, "2024-08-15 13:31", 1_230_000_000, 1_260_000_000), (2, "2024-08-15 13:31", NOTHING, 500_000_000),
        (1, "2024-08-15 13:33", 1_240_000_000, 1_270_000_000),
    ]  # fmt: skip
    out = converted(tmp_path, dbn_file(tmp_path / "a.dbn", records))
    assert quotes_in(out) == [
        ("SPY240816C00550000", "2024-08-15 13:31", 1.23, 1.26),
        ("SPY240816P00550000", "2024-08-15 13:31", 0.0, 0.5),
        ("SPY240816C00550000", "2024-08-15 13:33", 1.24, 1.27),
    ]
    (session,) = sessions_in(out)
    assert session.sizes.tolist() == [[7, 7, 7], [7, 7, 7]]


def test_another_schema_and_another_file_are_errors_that_name_it(tmp_path: Path) -> None:
    other = dbn_file(tmp_path / "a.dbn", [(1, "2024-08-15 13:31", 1, 2)], "cbbo-1s")
    with pytest.raises(ConvertError, match="the schema is cbbo-1s; expected cbbo-1m"):
        converted(tmp_path, other)
    text = tmp_path / "text.dbn"
    text.write_text("no dbn at all")
    with pytest.raises(ConvertError, match=r"text\.dbn: no DBN file, or damaged"):
        converted(tmp_path, text)


def test_without_the_library_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "databento", None)
    path = tmp_path / "a.dbn"
    path.write_bytes(b"DBN")
    with pytest.raises(ConvertError, match=r"need the extra databento .*pip install .*\.\[databento\]"):
        converted(tmp_path, path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.dbn"]
