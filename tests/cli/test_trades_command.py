"""`rltraderctl trades`: what it prints for a journal of two closed trades and an open one.

A desk buys 9 calls at 2.00 and sells them at 2.10: 90 USD; 9 puts at 2.00, sold at 1.80: 180 USD lost.
"""

from __future__ import annotations

import csv
import io
import json
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from daemon.cli.ctl import main
from daemon.core.limits import Risk, Sizing, Trading
from daemon.journal.journal import FILE, Journal
from daemon.journal.reader import JournalReader
from daemon.journal.rows import CommitBatch
from daemon.journal.trades import Totals, Wanted, read_trades
from daemon.reports.performance.figures import totals_of
from daemon.reports.tables import open_of, so_far, sum_line, trade_row
from tests.support.core.desk import BUY_CALL, BUY_PUT, CALL, EXIT, HALF_DAY, PUT, TUESDAY, desk, sent

RULES = Trading(sizing=Sizing(stop_loss=0.99, take_profit=9.0), risk=Risk(cooldown_trade_s=0, cooldown_loss_s=0))


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    d = desk(RULES)
    for minute, action, price in ((0, BUY_CALL, "2.10"), (2, BUY_PUT, "1.80")):
        d.holds(action, minute=minute)
        d.bar(minute + 1)
        order = sent(d.answer(EXIT))
        d.fill(order.client_order_id, order.quantity, price)
    d.begin(TUESDAY, HALF_DAY.date)
    d.bar(0)
    order = sent(d.answer(BUY_CALL))
    d.fill(order.client_order_id, order.quantity)
    folder = tmp_path_factory.mktemp("trades")
    journal = Journal.create(folder / FILE, {})
    batch = CommitBatch()
    batch.rows = d.rows
    journal.commit(batch)
    journal.close()
    return folder


def test_the_table_has_the_newest_last_and_the_sums_below(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trades", "--state-dir", str(state_dir)]) == 0
    output = capsys.readouterr().out
    win, loss, open_trade = output.index("▲ +90.00"), output.index("▼ −180.00"), output.index("open, ")
    assert win < loss < open_trade
    assert "2 closed trades (flat again), 50 % won (1 of 2), profit factor 0.50, expectancy −45.00 USD" in output
    assert "BUY_CALL 0.90 → EXIT" in output
    assert "Open: 1" in output


def test_an_open_trade_has_what_it_realised_apart(tmp_path: Path) -> None:
    """6 of 9 contracts are sold 0.10 above the entry of 2.00: 60 USD, without fees."""
    d = desk(RULES)
    d.holds(BUY_CALL, minute=0)
    d.bar(1)
    order = sent(d.answer(EXIT))
    d.fill(order.client_order_id, 6, "2.10")
    journal = CommitBatch()
    journal.rows = d.rows
    writer = Journal.create(tmp_path / FILE, {})
    writer.commit(journal)
    writer.close()
    with closing(JournalReader(tmp_path / FILE)) as reader:
        trades = read_trades(reader, Wanted())
    (trade,) = trades.trades
    assert open_of(trade) == "open: 3 of 9"
    assert so_far(trade).endswith("realised ▲ +60.00 by 6 sold at 2.10")
    assert trade_row(trade)[3].startswith("open: 3 of 9\nunrealised ")
    assert "Realised in all: +60.00 USD after 0.00 USD of fees." in sum_line(trades.totals)
    assert trades.totals == totals_of(trades.trades)


def test_the_parts_of_an_open_trade_add_up_in_cents() -> None:
    """-6,792.2362 is -6,792.24, but next to +2,830.68 the rest of -3,961.55 is -6,792.23."""
    text = sum_line(Totals(open=1, open_usd=-3961.55187, open_realized_usd=2830.68433, open_unrealized_usd=-6792.2362))
    assert "−3,961.55 USD at the newest marks" in text
    assert "realised +2,830.68 USD" in text
    assert "unrealised −6,792.23 USD" in text


def test_json_and_csv_have_the_same_trades_and_all_of_them(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trades", "--state-dir", str(state_dir), "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert main(["trades", "--state-dir", str(state_dir), "--csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [line["contract"] for line in lines] == [trade["contract"] for trade in page["trades"]]
    assert [line["contract"] for line in lines[1:]] == [PUT, CALL]
    assert (page["trades"][1]["pnl_usd"], page["totals"]["pnl_usd"], lines[1]["pnl_usd"]) == (-180.0, -90.0, "-180")
    assert (lines[0]["left_utc"], lines[0]["exit_usd_per_share"], lines[2]["left_utc"] > "") == ("", "", True)


@pytest.mark.parametrize(
    ("options", "gains"),
    [
        (["--result", "win"], [90.0]),
        (["--side", "put"], [-180.0]),
        (["--sort", "pnl", "--to", "2024-07-01"], [90.0, -180.0]),
        (["--from", "2024-07-01", "--to", "2024-07-01", "--limit", "1"], [-180.0]),
        (["--symbol", "spy", "--to", "2024-06-30"], []),
    ],
)
def test_options_choose(
    options: list[str], gains: list[float], state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trades", "--state-dir", str(state_dir), "--json", *options]) == 0
    assert [trade["pnl_usd"] for trade in json.loads(capsys.readouterr().out)["trades"]] == gains


def test_a_table_that_is_cut_says_how_to_see_all(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trades", "--state-dir", str(state_dir), "--limit", "1"]) == 0
    assert capsys.readouterr().out.endswith("1 of 3 are shown; --limit 3 shows all\n")
    assert main(["trades", "--state-dir", str(state_dir)]) == 0
    assert "shows all" not in capsys.readouterr().out


def test_a_narrow_terminal_cuts_no_number_and_names_the_columns_that_have_no_room(
    state_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.cli.ctl._console", lambda: Console(width=80, highlight=False))
    assert main(["trades", "--state-dir", str(state_dir)]) == 0
    output = capsys.readouterr().out
    table, _, below = output.partition("no room for: decisions, best, worst")
    assert "▼ −180.00" in table
    assert "−10.0" in table
    assert "…" not in table
    assert max(map(len, table.splitlines())) == 80
    assert "a wider terminal" in below


def test_no_match_is_named_and_a_wrong_day_refused(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trades", "--state-dir", str(state_dir), "--symbol", "QQQ"]) == 2
    assert "no trade in" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["trades", "--state-dir", str(state_dir), "--from", "monday"])
    assert "expected YYYY-MM-DD" in capsys.readouterr().err
    assert main(["trades", "--state-dir", str(state_dir), "--from", "2024-12-06", "--to", "2024-12-02"]) == 2
    assert "--from 2024-12-06 is later than --to 2024-12-02: exchange them" in capsys.readouterr().err
