"""`rltraderctl report` over a span: a minute desk and a daily desk, alone and together.

Expected values come from the tapes and from the journals' own tables, by pandas and plain SQL.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from daemon.cli.ctl import main
from daemon.journal.equity import equity_days
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.reports.performance.prices import closes_at
from tests.support.desks.desk_run import Desk, environment, rltraderd, tape_rows, write_tape
from tests.support.paths import REPOSITORY

DAILY = "daemon/tapes/daily_synthetic_500.csv.gz"


@pytest.fixture(scope="module")
def minutes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A state directory of an option desk and its tape: stub sessions, then two that trade."""
    folder = tmp_path_factory.mktemp("minutes")
    tape = write_tape(folder / "tape.csv", tape_rows(2, 90))
    assert Desk(tape).run(folder / "state").failure is None
    return folder / "state", tape


@pytest.fixture(scope="module")
def daily(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory of a desk of three funds on the bundled daily tape."""
    state_dir = tmp_path_factory.mktemp("daily") / "state"
    arguments = ("--dry-run", "--strategy", "regime_switcher", "--state-dir", state_dir)
    env = environment(RLTRADER_PATHS__MODELS_DIR=str(REPOSITORY / "onnx_models"), RLTRADER_POLICY__VERSION="current")
    process = rltraderd(*arguments, cwd=REPOSITORY, env=env)
    assert process.returncode == 0, process.stderr
    return state_dir


def sheet(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """Run it with --json."""
    assert main(["report", "--json", *map(str, arguments)]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def equity_of(state_dir: Path) -> pd.Series:
    """The last recorded equity of each New York date."""
    with closing(sqlite3.connect(state_dir / FILE)) as db:
        rows = pd.read_sql("SELECT time_ns, equity_usd FROM equity ORDER BY time_ns", db)
    dates = pd.to_datetime(rows["time_ns"], utc=True).dt.tz_convert("America/New_York").dt.strftime("%Y-%m-%d")
    equity: pd.Series = rows["equity_usd"].astype(float).groupby(dates).last()
    return equity


def one(answer: dict[str, Any]) -> dict[str, Any]:
    """The figures of the only desk."""
    (desk,) = answer["desks"]
    assert answer["total"] is None
    figures: dict[str, Any] = desk["figures"]
    return figures


def compared(figures: dict[str, Any]) -> dict[str, float]:
    return {line["name"]: line["share"] for line in figures["compared"]}


def test_a_daily_desk_s_days_and_its_buy_and_hold_are_those_of_journal_and_tape(
    daily: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = one(sheet(capsys, "--state-dir", daily, "--from", "2024-02-01", "--to", "2024-10-31"))
    equity = equity_of(daily)
    span = equity["2024-02-01":"2024-10-31"]
    assert [day["name"] for day in figures["days"]] == list(span.index)
    gained = equity.round(2).diff()["2024-02-01":"2024-10-31"]  # between equities in whole cents
    assert [day["pnl_usd"] for day in figures["days"]] == pytest.approx(gained.tolist(), abs=1e-6)
    start = equity[:"2024-01-31"].iloc[-1]
    assert figures["share"] == pytest.approx(span.iloc[-1] / start - 1)
    assert (figures["start_usd"], figures["transfers_usd"]) == (pytest.approx(start), 0.0)
    tape = pd.read_csv(REPOSITORY / DAILY, comment="#")
    tape["date"] = pd.to_datetime(tape["timestamp"], utc=True).dt.tz_convert("America/New_York").dt.strftime("%Y-%m-%d")
    closes = tape.pivot(index="date", columns="symbol", values="close")[["SPY", "QQQ", "IWM"]]
    hold_returns = closes.loc[span.index[-1]] / closes[:"2024-01-31"].iloc[-1] - 1
    assert compared(figures) == pytest.approx({"buy and hold of SPY, QQQ, IWM": hold_returns.mean()})


def test_sessions_before_the_first_trade_are_left_out_of_all(daily: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = one(sheet(capsys, "--state-dir", daily, "--range", "ALL", "--benchmark", "spy"))
    with closing(sqlite3.connect(daily / FILE)) as db:
        first = db.execute("SELECT min(opened_ns) FROM round_trips").fetchone()[0]
    first_date = pd.Timestamp(first, tz="UTC").tz_convert("America/New_York").strftime("%Y-%m-%d")
    equity = equity_of(daily)
    assert (figures["first"], figures["warm_up"]) == (first_date, int((equity.index < first_date).sum()))
    assert figures["in_market"] == 1.0
    assert set(compared(figures)) == {"buy and hold of SPY, QQQ, IWM", "SPY"}


def test_a_split_brings_a_minute_desk_s_closes_before_it_to_the_new_shares(
    minutes: tuple[Path, Path], tmp_path: Path
) -> None:
    state_dir = shutil.copytree(minutes[0], tmp_path / "state")

    def closes() -> dict[str, float]:
        with closing(JournalReader(state_dir / FILE)) as reader:
            return closes_at(reader, ("SPY",), equity_days(reader), decides="bar")["SPY"]

    before = closes()
    last = max(before)
    opens = int(pd.Timestamp(f"{last} 09:30", tz="America/New_York").value)
    split = json.dumps({"type": "SharesSplit", "time_ns": opens, "symbol": "SPY", "ratio": 4.0, "from_ns": opens})
    with closing(sqlite3.connect(state_dir / FILE)) as db:
        for text in (split, split, "{"):  # it may be told again; and a damaged row
            columns = "seq, time_ns, kind, payload, effects, hash"
            db.execute(f"INSERT INTO events ({columns}) VALUES (NULL, ?, 'SharesSplit', ?, '[]', x'')", (opens, text))
        db.commit()
    assert closes() == {date: close if date == last else close / 4.0 for date, close in before.items()}
    assert len(before) > 2


def test_a_minute_desk_is_held_against_its_own_bars_and_against_a_file(
    minutes: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    state_dir, tape = minutes
    rows = pd.read_csv(tape)
    dates = pd.to_datetime(rows["timestamp"], utc=True).dt.tz_convert("America/New_York").dt.strftime("%Y-%m-%d")
    closes = rows.groupby(dates)["close"].last()
    days = list(equity_of(state_dir).index)
    figures = one(sheet(capsys, "--state-dir", state_dir, "--from", days[-2], "--benchmark", tape))
    hold_return = closes[days[-1]] / closes[days[-3]] - 1
    assert compared(figures) == pytest.approx({"buy and hold of SPY": hold_return, "SPY": hold_return})
    with closing(sqlite3.connect(state_dir / FILE)) as db:
        gains = [row[0] for row in db.execute("SELECT pnl_usd FROM trades WHERE left_ns IS NOT NULL")]
    trades = figures["trades"]
    assert (trades["trades"], trades["pnl_usd"]) == (len(gains), pytest.approx(sum(gains)))
    assert 0.0 < figures["in_market"] < 1.0


def test_several_desks_stand_next_to_their_sum(
    daily: Path, minutes: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = sheet(capsys, "--state-dir", daily, "--state-dir", minutes[0], "--from", "2024-10-01")
    parts = [desk["figures"] for desk in answer["desks"]]
    assert [desk["strategy"] for desk in answer["desks"]] == ["regime_switcher", "option_scalper"]
    assert [desk["desk"] for desk in answer["desks"]] == [daily.parent.name, minutes[0].parent.name]
    assert answer["total"]["pnl_usd"] == pytest.approx(sum(part["pnl_usd"] for part in parts), abs=0.011)
    assert answer["total"]["trades"]["trades"] == sum(part["trades"]["trades"] for part in parts)
    page, desks = tmp_path / "sheet.html", tmp_path / "desks.toml"
    places = (("slow", daily), ("quick", minutes[0]))
    desks.write_text("".join(f'[[desk]]\nname = "{name}"\nstate_dir = "{place}"\n' for name, place in places))
    assert main(["report", "--desks", str(desks), "--html", str(page)]) == 0
    output = capsys.readouterr().out
    assert "all desks: −" in output
    assert "Still open" in output
    assert ("slow (regime_switcher)" in output, "quick (option_scalper)" in output) == (True, True)
    assert f"page: {page}" in output
    text = page.read_text()
    assert text.startswith("<!doctype html>")
    assert text.count("<section>") == 3
    assert "Sum of 2 desks" in text


def test_a_folder_names_its_desks(daily: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    span = ("--from", "2024-10-01")
    answer = sheet(capsys, "--desks", daily.parent, *span)
    assert answer == sheet(capsys, "--state-dir", daily, *span)
    assert main(["report", "--desks", str(tmp_path), *span]) == 2
    assert f"{tmp_path}: no desk has a journal here" in capsys.readouterr().err


def test_a_narrow_terminal_shows_the_year_in_two_tables_and_cuts_no_month(
    daily: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    months = [f"{day['share']:+.1%}" for day in one(sheet(capsys, "--state-dir", daily, "--range", "ALL"))["months"]]
    monkeypatch.setattr("daemon.cli.ctl._console", lambda: Console(width=80, highlight=False))
    assert main(["report", "--state-dir", str(daily), "--range", "ALL"]) == 0
    output = capsys.readouterr().out
    assert "…" not in output
    assert [month for month in months if month.replace("-", "−").replace("%", " %") not in output] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--from", "2024-01-02", "--day", "2024-01-02"), "--day is about one session of one desk"),
        (("--range", "1M", "--to", "2024-01-02"), "name it alone, or --from and --to"),
        (("--from", "2024-02-01", "--to", "2024-01-02"), "is later than --to"),
        (("--range", "ALL", "--benchmark", "AAPL"), "no bar of it is in the journal, which has IWM, QQQ, SPY"),
        (("--range", "ALL", "--benchmark", "missing.csv"), "no such file"),
        (("--range", "ALL", "--benchmark", DAILY), f"name one: {DAILY}:SYMBOL"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_the_cure(
    daily: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert main(["report", "--state-dir", str(daily), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_desk_that_is_given_twice_is_not_added_to_itself(daily: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice = ["--state-dir", str(daily), "--state-dir", str(daily / "." / "..") + f"/{daily.name}"]
    with pytest.raises(SystemExit, match="2"):
        main(["report", *twice, "--range", "ALL"])
    assert "is given twice: a desk counts once" in capsys.readouterr().err


def test_a_span_without_a_session_says_so(daily: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--state-dir", str(daily), "--from", "2031-01-01"]) == 0
    assert "No session with a recorded equity lies in this span." in capsys.readouterr().out
