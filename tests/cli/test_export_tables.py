"""`rltraderctl export tables`: rows written by plain SQL come back from the Parquet files."""

from __future__ import annotations

import errno
import os
import sqlite3
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow.parquet as pq
import pytest

from daemon.cli import ctl
from daemon.journal.journal import FILE, Journal

AT_NS = 1_733_240_100_000_000_000  # 2024-12-03 15:35:00 UTC
MINUTE_NS = 60_000_000_000


def insert(db: sqlite3.Connection, table: str, **values: object) -> None:
    db.execute(
        f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})", (*values.values(),)
    )


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A journal with two decisions, a fill, a record of the equity and a trade."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    Journal.create(folder / FILE, {"mode": "paper", "strategy": "option_scalper", "desk": "paper-7"}).close()
    with sqlite3.connect(folder / FILE) as db:
        observed = np.array([0.5, -2.0], "<f4").tobytes()
        common = {"kind": "policy", "outcome": "ordered"}
        insert(db, "decisions", decision=1, bar_ns=AT_NS, time_ns=AT_NS, confidence=0.75, row=observed, **common)
        insert(db, "decisions", decision=2, bar_ns=0, time_ns=AT_NS + MINUTE_NS, **common)
        insert(
            db, "fills", client_order_id="a", correction=0, cumulative=2, symbol="SPY", side=1, quantity=2,
            price="459.0300", fees_usd="0.02685", filled_ns=AT_NS, time_ns=AT_NS,
        )  # fmt: skip
        insert(
            db, "equity", time_ns=AT_NS, equity_usd="10001.5", cash_usd="9083.44", realized_usd="0", max_drawdown=0.25
        )
        insert(
            db, "round_trips", opened_ns=AT_NS, symbol="SPY", time_ns=AT_NS + MINUTE_NS, multiplier=1, entered=2,
            left_again=-2, entered_usd=918.06, left_usd=-920.06, realized_usd=1.9, fees_usd=0.1, fills=2, bars=1,
            left_ns=AT_NS + MINUTE_NS, why_entered="policy", why_left="stop_loss", entry_decision=1, exit_decision=2,
            now_usd=1.9, worst_usd=-1.0, best_usd=1.9,
        )  # fmt: skip
    return folder


def test_what_stands_in_the_journal_stands_in_the_files(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "tables"
    assert ctl.main(["export", "tables", "--state-dir", str(state), "--out", str(out)]) == 0
    assert f"{out / 'decisions.parquet'}: 2 rows" in capsys.readouterr().out
    at = datetime(2024, 12, 3, 15, 35)  # noqa: DTZ001
    later = at.replace(minute=36)

    def select(columns: str, table: str) -> list[tuple[object, ...]]:
        rows = pq.read_table(out / f"{table}.parquet", columns=columns.split(", ")).to_pylist()
        return [tuple(row.values()) for row in rows]

    assert select("decision, bar_utc, time_utc, confidence, row", "decisions") == [
        (1, at, at, 0.75, [0.5, -2.0]),
        (2, None, later, None, None),
    ]
    assert select("client_order_id, price, fees_usd, filled_utc", "fills") == [("a", 459.03, 0.02685, at)]
    assert select("time_utc, equity_usd, cash_usd", "equity") == [(at, 10001.5, 9083.44)]
    assert select("entered_utc, left_utc, quantity, held, pnl_usd, entry_price, exit_price, why_left", "trades") == [
        (at, later, 2, 0, 1.9, 459.03, 460.03, "stop_loss")
    ]
    assert select("symbol", "orders") == []
    assert pq.read_schema(out / "orders.parquet").metadata[b"desk"] == b"paper-7"


def test_an_earlier_export_is_replaced_and_no_part_is_left(state: Path, tmp_path: Path) -> None:
    out = tmp_path / "tables"
    for _ in range(2):
        assert ctl.main(["export", "tables", "--state-dir", str(state), "--out", str(out)]) == 0
    tables = "baskets choices decisions equity fills heads moves orders overlays shadows trades"
    names = set(tables.split())
    assert {path.name for path in out.iterdir()} == {f"{name}.parquet" for name in names}


def test_a_file_in_place_of_the_folder_is_named(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.parquet").write_text("")
    assert ctl.main(["export", "tables", "--state-dir", str(state), "--out", str(tmp_path / "t.parquet")]) == 2
    assert f"{tmp_path / 't.parquet'}: a file; expected a folder" in capsys.readouterr().err


def test_a_folder_on_a_disk_that_is_read_only_is_named_by_the_file_that_was_wanted(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_only(path: Path, **_: object) -> NoReturn:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "touch", read_only)
    assert ctl.main(["export", "tables", "--state-dir", str(state), "--out", str(tmp_path)]) != 0
    assert f"Read-only file system: '{tmp_path / 'decisions.parquet'}'" in capsys.readouterr().err
