"""`rltraderctl export quotes`: the quotes of a journal by the minute, as the file of option quotes."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from daemon.cli import ctl
from daemon.journal.journal import FILE, Journal
from tests.support.desks.desk_run import Desk, chained, tape_rows, write_tape
from tests.support.quote_files import quotes_in, sessions_in, utc

CALL, PUT = "SPY240816C00550000", "SPY240816P00550000"


def ns(text: str) -> int:
    return int(utc(text).timestamp() * 10**6) * 1000


def quote(symbol: str, when: str, bid: str, ask: str) -> dict[str, Any]:
    return {"symbol": symbol, "bid": bid, "ask": ask, "low": bid, "high": ask, "quoted_ns": ns(when)}


def quotes(when: str, *columns: dict[str, Any], closes: str = "") -> dict[str, Any]:
    return {
        "type": "QuotesReceived",
        "time_ns": ns(when),
        "closes_bar_ns": ns(closes) if closes else 0,
        "quotes": columns,
    }


def bar(start: str, close: float) -> dict[str, Any]:
    begins = ns(start)
    value = {
        "symbol": "SPY",
        "start_ns": begins,
        "open": 550.0,
        "high": 551.0,
        "low": 549.0,
        "close": close,
        "volume": 1.0,
    }
    return {"type": "BarClosed", "time_ns": begins + 61 * 10**9, "bar": value}


def journal(state_dir: Path, events: list[dict[str, Any]], mode: str = "live") -> Path:
    """A journal with these events, as a desk would have left it."""
    state_dir.mkdir(mode=0o700)
    Journal.create(state_dir / FILE, {"mode": mode, "strategy": "option_scalper"}).close()
    db = sqlite3.connect(state_dir / FILE, isolation_level=None)
    for number, event in enumerate(events, start=1):
        row = (number, number, event["time_ns"], event["type"], json.dumps(event), "[]", b"")
        db.execute(
            "INSERT INTO events (id, seq, time_ns, kind, payload, effects, hash) VALUES (?, ?, ?, ?, ?, ?, ?)", row
        )
    db.close()
    return state_dir


def export(state_dir: Path, out: Path) -> int:
    return ctl.main(["export", "quotes", "--state-dir", str(state_dir), "--out", str(out)])


def test_the_last_quote_of_each_minute_is_kept_under_the_minutes_end(tmp_path: Path) -> None:
    events = [
        quotes("2024-08-15 14:00:05", quote(CALL, "2024-08-15 14:00:05", "1.00", "1.10")),
        quotes("2024-08-15 14:00:50", quote(CALL, "2024-08-15 14:00:50", "1.02", "1.12")),
        bar("2024-08-15 14:00", 550.5),
        quotes("2024-08-15 14:01:01", quote(CALL, "2024-08-15 14:00:50", "1.02", "1.12"),
               quote(PUT, "2024-08-15 14:00:59", "0", "0.05"), closes="2024-08-15 14:00"),
        quotes("2024-08-15 14:02:00", quote(PUT, "2024-08-15 14:02:00", "0.01", "0.06")),
        bar("2024-08-15 14:01", 551.0),
        quotes("2024-08-16 13:31:01", quote(CALL, "2024-08-15 19:59:59", "9", "9.1"),
               quote(PUT, "2024-08-16 13:30:30", "0.02", "0.07"), closes="2024-08-16 13:30"),
    ]  # fmt: skip
    out = tmp_path / "q.parquet"
    assert export(journal(tmp_path / "state", events), out) == 0
    assert quotes_in(out) == [
        (CALL, "2024-08-15 14:01", 1.02, 1.12),
        (PUT, "2024-08-15 14:01", 0.0, 0.05),
        (PUT, "2024-08-15 14:02", 0.01, 0.06),
        (PUT, "2024-08-16 13:31", 0.02, 0.07),
    ]
    first, _ = sessions_in(out)
    assert first.underlying.tolist() == [550.5, 550.5, 551.0]
    assert first.sizes.tolist() == [[-1] * 3] * 2
    assert pyarrow.parquet.read_schema(out).metadata[b"synthetic"] == b""


def test_quotes_of_shares_are_no_option_quotes_and_a_journal_without_any_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = journal(
        tmp_path / "state", [quotes("2024-08-15 14:00:05", quote("SPY", "2024-08-15 14:00:05", "550", "551"))]
    )
    assert export(state, tmp_path / "q.parquet") == 2
    assert "holds no option quote" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_quotes_of_a_replay_are_marked_as_made_up_and_a_terminal_gets_the_command_that_checks_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert Desk(write_tape(tmp_path / "tape.csv", tape_rows(1, 30))).run(tmp_path / "state").failure is None
    out = tmp_path / "q.parquet"
    assert export(tmp_path / "state", out) == 0
    made_up, following = capsys.readouterr().err.splitlines()
    assert "made up by the option market of a replay" in made_up
    assert following == f"next: train-and-export check-quotes {out}"
    assert pyarrow.parquet.read_schema(out).metadata[b"synthetic"] == b"the option market of a replay (Black-Scholes)"
    expected = {
        (one["symbol"], one["quoted_ns"], float(one["bid"]), float(one["ask"]))
        for row in chained(tmp_path / "state")
        if row[2] == "QuotesReceived"
        for one in json.loads(row[3])["quotes"]
    }
    assert expected
    assert {(symbol, ns(when), bid, ask) for symbol, when, bid, ask in quotes_in(out)} == expected
