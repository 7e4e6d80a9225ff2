"""A dry run on recorded option quotes: each fill is at a recorded price of a later minute, or counted as modelled.

The quotes here follow a rule of their own, so no price of the option market is near them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet
import pytest

from daemon.cli import daemon as cli
from daemon.cli.ctl import main as ctl
from daemon.core.events import OrderFilled
from daemon.core.instruments.option_market import occ_symbol, parse_occ
from daemon.host.time.calendar import SessionCalendar
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.tapes.span_options import QuoteChoice
from tests.support.desks.desk_run import (
    FREE_TRADING,
    Desk,
    chained,
    crashed,
    log_of,
    read_models,
    records,
    rltraderd,
    summary_of,
    tape_rows,
    verified,
    write_tape,
)
from tests.support.quote_files import write_quotes

MINUTE = 60_000_000_000
MISSING = 6  # every sixth minute has no row


def cents(minute: int, right: int) -> tuple[int, int]:
    """Bid and ask of every contract at the end of a minute of its session."""
    bid = 200 + 3 * (minute % 11) + (5 if right < 0 else 0)
    return bid, bid + 4


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tape of two sessions after three that warm up, and quotes of contracts around the money for these two."""
    folder = tmp_path_factory.mktemp("recorded")
    rows = tape_rows(2, 75)
    tape = write_tape(folder / "tape.csv", rows)
    return tape, write_quotes(folder / "quotes.parquet", sorted(_quotes(rows), key=lambda row: row["timestamp"]))


def _quotes(rows: list[str]) -> Iterator[dict[str, Any]]:
    bars = [(int(row.split(",")[1]), float(row.split(",")[5])) for row in rows][-150:]
    first, last = (datetime.fromtimestamp(bars[i][0] // 10**9, UTC).date().isoformat() for i in (0, -1))
    calendar = SessionCalendar.load(first, last)
    for start, close in bars:
        session = calendar.at(start)
        assert session is not None
        minute = (start - session.open_ns) // MINUTE + 1
        if minute % MISSING == 0:
            continue
        expiry = calendar.around(session.date)[1][0].date
        for strike in range(math.floor(close) - 15, math.floor(close) + 16):
            for right in (1, -1):
                bid, ask = cents(minute, right)
                yield {
                    "symbol": occ_symbol("SPY", expiry, right, Decimal(strike)),
                    "timestamp": datetime.fromtimestamp(start // 10**9 + 60, UTC),
                    "bid": bid / 100,
                    "ask": ask / 100,
                    "source": "hand",
                }


@pytest.fixture(scope="module")
def run(files: tuple[Path, Path]) -> tuple[Path, dict[str, Any], list[dict[str, Any]]]:
    """The state directory of a whole run, its summary and its log."""
    tape, quotes = files
    state = tape.parent / "state"
    arguments = ("--dry-run", "--bars", tape, "--option-quotes", quotes, "--state-dir", state)
    finished = rltraderd(*arguments, cwd=tape.parent)
    assert finished.returncode == 0, finished.stderr
    return state, summary_of(finished), log_of(finished.stderr)


def fills(state: Path) -> list[OrderFilled]:
    reader = JournalReader(state / FILE)
    try:
        rows = reader.query("SELECT payload FROM events WHERE kind = 'OrderFilled' ORDER BY id")
        return [msgspec.json.decode(row["payload"], type=OrderFilled) for row in rows]
    finally:
        reader.close()


def test_each_fill_is_at_the_quote_of_a_later_minute_or_counted(
    files: tuple[Path, Path],
    run: tuple[Path, dict[str, Any], list[dict[str, Any]]],
) -> None:
    state, summary, log = run
    orders = {row["client_order_id"]: row for row in records(state, "orders", "client_order_id")}
    recorded = modelled = 0
    for fill in fills(state):
        order = orders[fill.client_order_id]
        session = SessionCalendar.load("2024-01-02", "2025-01-02").at(fill.filled_ns)
        assert session is not None
        minute, rest = divmod(fill.filled_ns - session.open_ns, MINUTE)
        assert rest == 0
        assert fill.filled_ns >= order["submitted_ns"] + MINUTE
        occ = parse_occ(fill.symbol)
        assert occ is not None
        if minute % MISSING == 0 or occ.expiry == session.date:  # bought in the session before: not on file any more
            modelled += 1
            continue
        recorded += 1
        bid, ask = cents(minute, occ.right)
        assert fill.price == Decimal(ask if fill.side > 0 else bid) / 100
    assert recorded > 10
    assert modelled > 2
    counts = summary["option_quotes"]
    assert (counts["fills_recorded"], counts["fills_modelled"]) == (recorded, modelled)
    assert counts["fills_compared"] == len(fills(state))
    assert len(summary["rules"]) == 64
    assert counts["recorded"] + counts["standing"] + counts["missing"] == counts["asked"]
    assert (counts["sessions"], counts["sessions_quoted"], counts["standing"]) == (5, 2, 0)
    ends = pyarrow.parquet.read_table(files[1], columns=["timestamp"]).column(0).to_pylist()
    assert (counts["first_date"], counts["last_date"]) == (f"{ends[0]:%Y-%m-%d}", f"{ends[-1]:%Y-%m-%d}")
    assert next(line for line in log if line["event"] == "option_quotes_used")["fills_modelled"] == modelled
    assert summary["mode"] == "recorded"
    assert any(f"{modelled} of {recorded + modelled} fills are at Black-Scholes" in text for text in summary["remarks"])
    assert any("the volatility is that of the closes of the bars: 2 returns" in text for text in summary["remarks"])
    assert any("3 of 5 sessions have no option quote" in text for text in summary["remarks"])


def _interrupt(_: float) -> None:
    raise KeyboardInterrupt


def test_its_journal_verifies_without_the_files_and_status_counts_the_fills(
    run: tuple[Path, dict[str, Any], list[dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state, summary, _ = run
    report = verified(state)
    assert report.difference == ""
    assert report.events == summary["journal_events"]
    counts = summary["option_quotes"]
    assert ctl(["status", "--json", "--state-dir", str(state)]) == 0
    status = msgspec.json.decode(capsys.readouterr().out)
    assert status["option_fills"] == {"recorded": counts["fills_recorded"], "modelled": counts["fills_modelled"]}
    with monkeypatch.context() as patch:
        patch.setattr("daemon.cli.status.time.sleep", _interrupt)
        assert ctl(["status", "--watch", "--json", "--state-dir", str(state)]) == 0
    assert msgspec.json.decode(capsys.readouterr().out) == status
    assert ctl(["status", "--state-dir", str(state)]) == 0
    assert f"{counts['fills_recorded']} at recorded quotes, {counts['fills_modelled']} at Black-Scholes" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_killed_run_goes_on_to_the_same_end(files: tuple[Path, Path], tmp_path: Path) -> None:
    tape, quotes = files
    desk = Desk(tape, QuoteChoice(quotes))
    whole = desk.run(tmp_path / "whole")
    assert whole.failure is None
    for steps in (700, 701):
        state = tmp_path / f"killed-{steps}"
        crashed(desk, state, steps)
        assert desk.run(state).digest == whole.digest
        assert read_models(state) == read_models(tmp_path / "whole")
    assert [row[2:5] for row in chained(state)][-20:] == [row[2:5] for row in chained(tmp_path / "whole")][-20:]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--option-quotes", "q.parquet"), "needs --bars"),
        (("--bars", "b.csv", "--closes", "c.csv"), "belong to --option-quotes FILE"),
        (("--bars", "b.csv", "--option-root", "SPXW"), "belong to --option-quotes FILE"),
    ],
)
def test_options_that_miss_another_are_refused(
    arguments: tuple[str, ...],
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["--dry-run", *arguments, "--state-dir", str(tmp_path / "state")]) == 2
    assert problem in capsys.readouterr().err


def test_other_quotes_and_no_quotes_are_refused_on_its_state_directory(
    run: tuple[Path, dict[str, Any], list[dict[str, Any]]],
    files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in FREE_TRADING.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    state, (tape, quotes) = run[0], files
    rows = [
        {"symbol": "SPY240816C00550000", "timestamp": datetime(2024, 8, 15, 14, tzinfo=UTC), "bid": 1.0, "ask": 2.0}
    ]
    other = write_quotes(tmp_path / "other.parquet", rows)
    arguments = ["--dry-run", "--bars", str(tape), "--state-dir", str(state)]
    for more, problem in (
        (["--option-quotes", str(other)], "made with option_quotes quotes.parquet"),
        ([], "made with mode recorded, now replay is asked for"),
        (["--option-quotes", str(quotes), "--strategy", "regime_switcher"], "trades no options: leave it out"),
    ):
        assert cli.main([*arguments, *more]) == 2
        assert problem in capsys.readouterr().err
