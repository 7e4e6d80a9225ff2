"""What the figures of a replay would hide is in its summary, in a sentence with the cure."""

from __future__ import annotations

import io
import json
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from daemon.cli.start.replay import TRADES_MOST, first_trades
from daemon.core.session import new_york_text
from daemon.journal.journal import FILE
from tests.support.desks.desk_run import bundled_rows, environment, log_of, rltraderd, summary_of, tape_rows, write_tape


@pytest.fixture(scope="module")
def rows() -> list[str]:
    return tape_rows(1, 75)


def replayed(folder: Path, rows: Sequence[str], **extra: str) -> dict[str, Any]:
    tape = write_tape(folder / "tape.csv", rows)
    finished = rltraderd(
        "--dry-run", "--bars", tape, "--state-dir", folder / "state", cwd=folder, env=environment(**extra)
    )
    assert finished.returncode == 0, finished.stderr
    summary = summary_of(finished)
    logged = [line["remark"] for line in log_of(finished.stderr) if line["event"] == "replay_remark"]
    assert logged == summary["remarks"]
    return summary


def test_a_file_newest_first_is_sorted_and_trades_as_the_sorted_one(tmp_path: Path, rows: list[str]) -> None:
    for name in ("sorted", "newest first"):
        (tmp_path / name).mkdir()
    usual = replayed(tmp_path / "sorted", rows)
    turned = replayed(tmp_path / "newest first", rows[::-1])
    assert usual["remarks"] == []
    assert turned["remarks"] == ["tape.csv was not in order of time: its rows were sorted."]
    for figure in ("bars", "bars_rejected", "decisions", "orders", "fills", "equity_usd"):
        assert turned[figure] == usual[figure], figure
    again = replayed(tmp_path / "sorted", rows, RLTRADER_RISK__COOLDOWN_TRADE_S="600")
    (remark,) = again["remarks"]
    assert remark.startswith("Nothing was replayed: ")
    assert "of that run and of its rules" in remark


def test_a_terminal_sees_each_closed_trade_when_it_was_on_the_tape_and_what_comes_next(
    tmp_path: Path, rows: list[str]
) -> None:
    tape = write_tape(tmp_path / "tape.csv", rows)
    terminal = environment(FORCE_COLOR="1", COLUMNS="400")
    arguments = ("--dry-run", "--bars", tape, "--state-dir", tmp_path / "state")
    first = rltraderd(*arguments, cwd=tmp_path, env=terminal)
    with closing(sqlite3.connect(tmp_path / "state" / FILE)) as db:
        trades = db.execute("SELECT symbol, pnl_usd, left_ns FROM trades WHERE left_ns IS NOT NULL").fetchall()
        (equity,) = db.execute("SELECT equity_usd FROM equity ORDER BY time_ns DESC LIMIT 1").fetchone()
    line = r'\{"symbol": "(\w+)".*"pnl_usd": "([+-][\d.]+)".*"simulated": "([\d: -]+)".*"trade_closed"'
    remarks = re.findall(line, first.stderr)
    minute_ns = 60 * 10**9  # a bar's fills are known when it closes
    expected = [(symbol, f"{pnl:+.2f}", new_york_text(left_ns + minute_ns)) for symbol, pnl, left_ns in trades]
    assert trades
    assert sorted(remarks) == sorted(expected)
    change = f"{100 * (float(equity) / 100_000 - 1):+.2f} %".replace("-", "−")
    days = "1 of 4 sessions (from the first trade on)"  # the tape's three stubs warm up
    assert f"100,000.00 → {float(equity):,.2f} USD, {change} in {days}; buy and hold of SPY" in first.stdout
    assert f"rltraderctl report --range ALL --state-dir {tmp_path / 'state'}" in first.stdout
    assert f"rltraderctl trades --state-dir {tmp_path / 'state'}" in first.stdout
    again = rltraderd(*arguments, cwd=tmp_path, env=terminal)
    assert ("EARLIER run" in first.stdout, "EARLIER run" in again.stdout) == (False, True)
    assert ("Nothing was replayed" in again.stdout, "replay_remark" in again.stderr) == (True, False)  # printed once
    assert ("bars/s" in first.stdout, "bars/s" in again.stdout) == (True, False)


def test_a_terminal_that_sees_no_further_trades_is_told_so_once() -> None:
    shown = io.StringIO()
    passes = first_trades(Console(file=shown))
    assert [passes("trade_closed") for _ in range(TRADES_MOST + 2)] == [True] * TRADES_MOST + [False] * 2
    assert not passes("order_filled")
    assert shown.getvalue() == "… the first 100 trades and baskets are shown here; the journal has all\n"


def earlier(row: str, hours: int = 5) -> str:
    """A row of a tape whose times are so many hours too early."""
    symbol, start_ns, *prices = row.split(",")
    return ",".join((symbol, str(int(start_ns) - hours * 3600 * 10**9), *prices))


def test_whole_sessions_that_are_one_hour_off_are_named_and_hours_before_the_open_are_not(
    tmp_path: Path, rows: list[str]
) -> None:
    day = next(iter(bundled_rows().values()))  # 390 minutes
    for name, tape in (("off", [earlier(row, 1) for row in day]), ("early", [earlier(day[0], 2), *day])):
        (tmp_path / name).mkdir()
        remarks = replayed(tmp_path / name, tape)["remarks"]
        assert any("60 of 390 rows lie outside" in remark for remark in remarks) == (name == "off")
        assert any("1 hour later most would lie inside" in remark for remark in remarks) == (name == "off")


def test_sessions_that_miss_a_change_of_summer_time_are_named_by_their_first_and_last_day(tmp_path: Path) -> None:
    days = list(bundled_rows().values())[:3]
    tape = [*days[0], *(earlier(row, 1) for day in days[1:] for row in day)]
    dates = [new_york_text(int(day[0].split(",")[1]))[:10] for day in days]
    assert replayed(tmp_path, tape)["remarks"][0] == (
        "120 of 1,170 rows lie outside of regular sessions and were left out. 1 hour later 2 of 3 sessions would lie "
        f"inside whole, from {dates[1]} to {dates[2]}: their times miss a change to or from summer time. Write them "
        "with their real zone."
    )


def test_times_that_are_hours_off_are_named(tmp_path: Path, rows: list[str]) -> None:
    (remark, *_) = replayed(tmp_path, [earlier(row) for row in rows])["remarks"]
    count = f"{len(rows):,}"
    assert remark == (
        f"{count} of {count} rows lie outside of regular sessions and were left out. 5 hours later most would lie "
        "inside: write the times with their real zone."
    )


def test_rejected_bars_and_a_tape_too_short_for_quotes_are_named(tmp_path: Path, rows: list[str]) -> None:
    doubled = [row for row in rows for _ in range(2)]
    summary = replayed(tmp_path, doubled, RLTRADER_PAPER__VOLATILITY_SESSIONS="20")
    rejected, no_trade = summary["remarks"]
    first = datetime.fromtimestamp(int(rows[0].split(",")[1]) // 10**9, UTC)
    assert rejected == (
        f"{len(rows):,} of {len(doubled):,} bars were rejected, {len(rows):,} of them as duplicate, the first of "
        f"SPY at {first:%Y-%m-%dT%H:%M:%SZ}: several rows have one time and symbol: keep one of them."
    )
    assert no_trade == (
        "No trade: the replay's option market quotes after 21 sessions, and the tape has 4. Pass a longer tape."
    )
    assert json.dumps(summary["denials"]).startswith('{"no_quote"')


def test_a_tape_without_a_decision_says_what_is_missing(tmp_path: Path, rows: list[str]) -> None:
    summary = replayed(tmp_path, rows[:80])
    assert summary["decisions"] == 0
    (remark,) = summary["remarks"]
    assert remark == (
        "No decision was made: option_scalper looks back on 256 bars of a symbol, and the tape has 80 bars in all. "
        "Pass a longer tape."
    )


def test_entries_that_a_small_account_cannot_pay_for_are_counted_and_the_setting_that_fits_them_does(
    tmp_path: Path,
) -> None:
    rows = [row for session in bundled_rows().values() for row in session]
    for name in ("small", "fitted", "large"):
        (tmp_path / name).mkdir()
    small = replayed(tmp_path / "small", rows, RLTRADER_PAPER__CASH_USD="1000")
    remark = small["remarks"][-1]
    assert small["entries_unaffordable"] == small["denials"]["order_quantity"] > 0  # the gate's own count
    assert remark.startswith(f"{small['entries_unaffordable']:,} of {small['entries_wanted']:,} wanted entries (")
    hints = dict(re.findall(r"(delta_target|premium_fraction|min_days) = ([\d.]+) fits", remark))
    part = hints["premium_fraction"]
    fitted = replayed(
        tmp_path / "fitted", rows, RLTRADER_PAPER__CASH_USD="1000", RLTRADER_SIZING__PREMIUM_FRACTION=part
    )
    assert fitted["entries_wanted"] > 0
    assert (
        fitted["entries_unaffordable"] / fitted["entries_wanted"]
        < 0.5 * small["entries_unaffordable"] / small["entries_wanted"]
    )
    large = replayed(tmp_path / "large", rows, RLTRADER_PAPER__CASH_USD="100000")
    assert large["entries_unaffordable"] == 0 < large["fills"]
    assert "wanted entries (" not in " ".join(large["remarks"])
