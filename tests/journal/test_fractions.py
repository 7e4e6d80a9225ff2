"""A journal with fractions of shares, by everything that reads a journal: exact, as text, and never cut.

The figures are those of `tests.support.core.fractions_desk`, worked out there by hand.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace
from rich.console import Console

from daemon import journal
from daemon.cli.ctl import main
from daemon.cli.status_table import table
from daemon.core.desks.registry import desk_of
from daemon.core.moves import round_trip
from daemon.core.records import FillRow, MoveRow, OrderRow, OverlayRow, Row
from daemon.dashboard.desks import FollowedDesk, Picture
from daemon.dashboard.newest import _trade_words
from daemon.dashboard.pages.decisions import decision_page, decision_row
from daemon.dashboard.pages.history import Lookup
from daemon.dashboard.pages.now import now_of
from daemon.dashboard.pages.price import fill_marks
from daemon.dashboard.pages.risk import limits_now
from daemon.dashboard.pages.trades import trades_page
from daemon.engine.follow import Follower
from daemon.engine.recover import code_digest
from daemon.engine.verify import verify
from daemon.experience.experience import Prices, SymbolTransition, _implausible_holding
from daemon.journal.journal import FILE, Journal
from daemon.journal.moves_of_fills import moves_of_fills
from daemon.journal.outcomes import Ordered, orders_of
from daemon.journal.reader import JournalReader
from daemon.journal.rows import CommitBatch
from daemon.journal.trades import Wanted
from daemon.notify.news import _fills
from daemon.operator.heartbeat import heartbeat_of
from daemon.operator.log import Log
from daemon.operator.mqtt.messages import message_of, schemas
from daemon.operator.status import status_of
from daemon.reports.decision import overlay_words
from daemon.reports.end_of_day import day_report, write_report
from daemon.reports.gather import read_day
from daemon.reports.record import find_session
from strategies.kit.quantity import Part, Quantity, exact, to_json
from strategies.registry import strategy
from tests.support.core.desk import MONDAY
from tests.support.core.fractions_desk import JournaledDesk, played
from tests.support.toy.registered import registered


@pytest.fixture(scope="module", autouse=True)
def registration() -> Iterator[None]:
    with registered(shelf="tests.support.core.fractions_desk"):
        yield


@pytest.fixture(scope="module")
def desk(registration: None) -> JournaledDesk:
    return played()


@pytest.fixture(scope="module")
def file(desk: JournaledDesk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return desk.write(tmp_path_factory.mktemp("fractions"))


@pytest.fixture
def reader(file: Path) -> Iterator[JournalReader]:
    with closing(JournalReader(file)) as new_reader:
        yield new_reader


@pytest.fixture(scope="module")
def picture(file: Path) -> Picture:
    view = FollowedDesk("shelf-1", file.parent).look()
    assert (view.problem, view.caught_up) == ("", True)
    return view


def as_json(value: object) -> Any:
    return json.loads(msgspec.json.encode(value, enc_hook=to_json))


def output_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


# --- the journal ------------------------------------------------------------------------------------------------------


def test_rows_of_the_tables_are_exact_and_in_the_order_of_what_was_filled_so_far(file: Path) -> None:
    with journal.open(file) as book:
        orders: list[OrderRow] = list(book.orders())
        fills: list[FillRow] = [fill for fill in book.fills() if fill.symbol == "BBB"]
    assert [(o.symbol, o.side, o.quantity, o.filled) for o in orders][:2] == [
        ("AAA", 1, exact("0.3335"), exact("0.3335")),
        ("BBB", 1, exact("12.25"), exact("12.25")),
    ]
    assert [(f.quantity, f.cumulative) for f in fills] == [
        (exact("9.5"), exact("9.5")), (exact("2.75"), exact("12.25")), (2, 2), (exact("0.25"), exact("0.25")),
    ]  # fmt: skip
    assert all(type(value) in (int, Part) for o in orders for value in (o.quantity, o.filled))


def test_from_its_first_fraction_on_a_journal_is_one_that_release_0_2_refuses(
    desk: JournaledDesk, tmp_path: Path
) -> None:
    """Its rule: `schema` is 1, or it ends with exit code 2. It read the fraction's state as one without holdings."""
    whole = [row for row in desk.rows if not any(type(value) is Part for value in msgspec.structs.astuple(row))]
    first = next(row for row in desk.rows if isinstance(row, OrderRow) and type(row.quantity) is Part)
    with closing(Journal.create(tmp_path / FILE, desk.meta)) as written:
        for rows, schema in ((whole, "1"), ([first], "2"), (whole, "2")):
            batch = CommitBatch()
            batch.rows = list(rows)
            written.commit(batch)
            assert written.reader().meta()["schema"] == schema


def test_a_journal_writes_its_schema_with_the_first_fraction_and_never_again(
    desk: JournaledDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted, note = list[tuple[str, str]](), Journal.note

    def spied(journal: Journal, key: str, value: str) -> None:
        noted.append((key, value))
        note(journal, key, value)

    monkeypatch.setattr(Journal, "note", spied)
    first = next(row for row in desk.rows if isinstance(row, OrderRow) and type(row.quantity) is Part)
    batch = CommitBatch()
    batch.rows = [first]
    for opened in (Journal.create(tmp_path / FILE, desk.meta), None):
        with closing(opened or Journal(tmp_path / FILE)) as written:
            for _ in range(2):
                written.commit(batch)
    assert noted == [("schema", "2")]


def test_the_account_at_a_row_holds_fractions(file: Path) -> None:
    with journal.open(file) as book:
        last = list(book.rows("OrderFilled"))[-1]
        first = next(book.rows("OrderFilled"))
        assert book.at(first.id).positions == {"AAA": exact("0.1")}
        assert book.at(last.id).positions == {"BBB": 10, "CCC": exact("3.35")}
        assert book.at(last.id).positions["CCC"] + exact("0.65") == 4
        assert type(book.at(last.id).positions["BBB"]) is int


def test_a_decision_s_orders_are_summed_exactly_and_a_sale_in_two_parts_is_one(reader: JournalReader) -> None:
    assert orders_of(reader, 1) == (
        Ordered("AAA", 1, exact("0.3335"), exact("0.3335"), False),
        Ordered("BBB", 1, exact("12.25"), exact("12.25"), False),
        Ordered("CCC", 1, 3, 3, False),
    )
    assert orders_of(reader, 2)[:2] == (
        Ordered("AAA", -1, exact("0.3335"), exact("0.3335"), False),
        Ordered("BBB", -1, exact("2.25"), exact("2.25"), False),
    )


def test_trades_have_exact_quantities_and_what_they_made(file: Path) -> None:
    with journal.open(file) as book:
        trades = {trade.symbol: trade for trade in book.trades()}
        totals = book.totals()
    closed_trade, part_sale, whole = trades["AAA"], trades["BBB"], trades["CCC"]
    assert (closed_trade.quantity, closed_trade.held, closed_trade.fills) == (exact("0.3335"), 0, 3)
    assert (closed_trade.entry_price, closed_trade.exit_price) == pytest.approx((100.0, 120.0))
    assert (closed_trade.pnl_usd, closed_trade.left_ns is not None) == (6.67, True)
    assert (part_sale.quantity, part_sale.held, part_sale.exit_price) == (exact("12.25"), 10, 104.0)
    assert (part_sale.realized_usd, part_sale.unrealized_usd) == (9.0, 40.0)
    assert (whole.quantity, whole.held) == (exact("3.35"), exact("3.35"))
    assert (totals.trades, totals.open, totals.pnl_usd, totals.open_usd) == (1, 2, 6.67, 49.0)


def test_moves_follow_from_fills_alone_too(file: Path, reader: JournalReader) -> None:
    quantities = {row.symbol: row.held for row in moves_of_fills(reader) if isinstance(row, MoveRow)}
    assert quantities == {"AAA": 0, "BBB": 10, "CCC": exact("3.35")}


def test_every_event_steps_again_to_the_same_tables(file: Path) -> None:
    report = verify(file, code_digest("shelf"), strategy)
    assert (report.difference, report.events, report.stepped) == ("", 32, 32)


# --- commands ---------------------------------------------------------------------------------------------------------


def test_trades_are_told_as_a_table_as_csv_and_as_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = output_of(capsys, "trades", "--state-dir", str(file.parent))
    assert "0.3335 AAA" in table
    assert "12.25 BBB, open: 10 of 12.25: unrealised ▲ +40.00, realised ▲ +9.00 by 2.25 sold at 104.00" in table
    lines = csv.DictReader(io.StringIO(output_of(capsys, "trades", "--csv", "--state-dir", str(file.parent))))
    assert {line["symbol"]: (line["quantity"], line["held"]) for line in lines} == {
        "AAA": ("0.3335", "0"), "BBB": ("12.25", "10"), "CCC": ("3.35", "3.35"),
    }  # fmt: skip
    told_as_json = json.loads(output_of(capsys, "trades", "--json", "--state-dir", str(file.parent)))
    assert {trade["symbol"]: (trade["quantity"], trade["held"]) for trade in told_as_json["trades"]} == {
        "AAA": ("0.3335", 0), "BBB": ("12.25", 10), "CCC": ("3.35", "3.35"),
    }  # fmt: skip


def test_the_status_names_fractions(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = output_of(capsys, "status", "--state-dir", str(file.parent))
    assert "10 BBB at 100.0000, now 104.0000" in table
    assert "3.35 CCC at 100.0000, now 100.0000" in table
    status = json.loads(output_of(capsys, "status", "--json", "--state-dir", str(file.parent)))
    assert [(position["symbol"], position["quantity"]) for position in status["positions"]] == [
        ("BBB", 10),
        ("CCC", "3.35"),
    ]
    assert (status["equity_usd"], status["cash_usd"]) == ("10055.67", "8680.67")


def test_what_was_given_up_is_told_with_its_sign(desk: JournaledDesk) -> None:
    basket = replace(desk.state.basket, given_up={"AAA": exact("-0.1234"), "BBB": 1500})
    status = status_of(replace(desk.state, basket=basket), "shelf-1")
    console = Console(width=200, file=io.StringIO())
    console.print(table(status))
    assert "given up: -0.1234 AAA, +1,500 BBB" in console.file.getvalue()  # type: ignore[attr-defined]
    assert as_json(status)["given_up"] == {"AAA": "-0.1234", "BBB": 1500}


def test_a_decision_is_explained_with_its_fractions(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar = "2024-06-28"
    text = output_of(capsys, "decisions", "--bar", bar, "--state-dir", str(file.parent))
    assert "buy 0.3335" in text
    assert text.index(" 9.5 ") < text.index(" 2.75 ")  # in the order of what was filled so far


def test_the_report_of_a_session_has_fractions(file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "orders.csv"
    words = ("report", "--state-dir", str(file.parent), "--html", str(tmp_path / "day.html"))
    report = json.loads(output_of(capsys, *words, "--csv", str(out), "--json"))
    assert report["held"] == {"BBB": 10, "CCC": "3.35"}
    assert report["execution"]["filled_share"] == "1.0000"
    assert [(order["symbol"], order["quantity"], order["filled"]) for order in report["orders"]] == [
        ("BBB", 2, 2), ("CCC", "0.35", "0.35"), ("BBB", "0.25", "0.25"), ("AAA", "0.3335", "0.3335"),
    ]  # fmt: skip
    assert [line["quantity"] for line in csv.DictReader(io.StringIO(out.read_text()))] == [
        "2",
        "0.35",
        "0.25",
        "0.3335",
    ]
    page = (tmp_path / "day.html").read_text()
    for text in ("sell 0.3335 AAA", "0.35 of 0.35", "0.3335 / 0.3335", "2.25 / 2.25", "(-0.3335)"):
        assert text.replace("-", "-") in page.replace("\N{MINUS SIGN}", "-"), text
    assert "sell 0.3335 AAA" in output_of(capsys, *words)


def test_the_works_and_holdings_of_a_session_are_exact(reader: JournalReader) -> None:
    day = read_day(reader, find_session(reader))
    works = {work.symbol: (work.wanted, work.filled) for work in day.quality.works}
    assert works == {
        "AAA": (exact("0.3335"), exact("0.3335")), "BBB": (exact("2.25"), exact("2.25")),
        "CCC": (exact("0.35"), exact("0.35")),
    }  # fmt: skip
    assert {holding.symbol: (holding.before, holding.quantity) for holding in day.held} == {
        "AAA": (exact("0.3335"), 0), "BBB": (exact("12.25"), 10), "CCC": (3, exact("3.35")),
    }  # fmt: skip


def test_the_file_of_a_session_sums_shares_exactly(file: Path, tmp_path: Path) -> None:
    shutil.copy(file, tmp_path)
    with closing(JournalReader(file)) as reader:
        session = find_session(reader, MONDAY.date)
        report = day_report(file, find_session(reader))
    assert (report.shares_bought, report.shares_sold) == (exact("0.35"), exact("2.5835"))
    file_content = json.loads(write_report(tmp_path / file.name, session).read_text())
    assert (file_content["shares_bought"], file_content["shares_sold"]) == ("15.5835", 0)
    assert file_content["page"] == "2024-07-01.html"  # and no reason why there is none


def test_the_gap_to_paper_compares_fractions(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gap = json.loads(output_of(capsys, "gap", "--json", "--state-dir", str(file.parent)))
    lines = {(line["symbol"], line["quantity"]): line for line in gap["lines"]}
    assert lines["AAA", "0.3335"]["live_filled"] == "0.3335"
    assert lines["AAA", "0.3335"]["reason"] != "quantity"
    assert "0.3335 at 120.00" in output_of(capsys, "gap", "--state-dir", str(file.parent))


def test_events_are_printed_as_they_were_journaled(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = output_of(
        capsys, "events", "--json", "--kind", "OrderFilled", "--limit", "1", "--state-dir", str(file.parent)
    )
    fill = json.loads(line)["event"]
    assert (fill["quantity"], fill["cumulative_quantity"]) == ("0.3335", "0.3335")


def test_parquet_has_exact_decimals_of_a_journal_with_fractions_and_integers_of_a_whole_one(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output_of(capsys, "export", "tables", "--state-dir", str(file.parent), "--out", str(tmp_path))
    orders, trades, fills, moves = (
        pq.read_table(tmp_path / f"{name}.parquet") for name in ("orders", "trades", "fills", "moves")
    )
    assert {str(table.schema.field("quantity").type) for table in (orders, trades, fills, moves)} == {
        "decimal128(38, 9)"
    }
    assert orders.column("filled").to_pylist()[0] == Decimal("0.3335")
    assert sum(fills.column("quantity").to_pylist()) == Decimal("18.517")
    assert dict(zip(trades.column("symbol").to_pylist(), trades.column("held").to_pylist(), strict=True)) == {
        "AAA": 0, "BBB": 10, "CCC": Decimal("3.35"),
    }  # fmt: skip
    whole = tmp_path / "whole"
    whole.mkdir()
    journal_of(whole, [a_fill("a", 3)])
    output_of(capsys, "export", "tables", "--state-dir", str(whole), "--out", str(whole))
    assert str(pq.read_schema(whole / "fills.parquet").field("quantity").type) == "int64"


# --- the dashboard ----------------------------------------------------------------------------------------------------


def test_the_page_now_shows_what_is_held(picture: Picture) -> None:
    now = as_json(now_of(picture))
    assert [(line["symbol"], line["quantity"], line["entered"]) for line in now["positions"]] == [
        ("BBB", 10, "12.25"), ("CCC", "3.35", "3.35"),
    ]  # fmt: skip
    assert now["acted"]["became"] == "filled"
    assert [line["value_usd"] for line in now["positions"]] == [1040.0, 335.0]


def test_orders_that_work_are_shown_from_the_tables_too(tmp_path: Path) -> None:
    quantity, part = exact("1.5"), exact("0.5")
    order = OrderRow("x", "1.0", "entry", "", "AAA", 1, quantity, None, "partially_filled", part, "50", "0", 1, 1)
    path = journal_of(tmp_path, [order])
    with closing(JournalReader(path)) as reader:
        now = now_of(Picture("x", reader.meta()), reader)
    assert [(line.quantity, line.filled) for line in now.orders] == [(quantity, part)]


def test_the_pages_of_decisions_trades_and_prices_have_fractions(picture: Picture, reader: JournalReader) -> None:
    page = as_json(decision_page(picture, reader, decision_row(picture, reader, 1), Lookup(), None, ""))
    assert page["line"]["traded"] == "buy 3 symbols"
    orders = {order["symbol"]: order for order in page["orders"]}
    assert [fill[1] for fill in orders["BBB"]["fills"]] == ["9.5", "2.75"]
    assert (orders["AAA"]["quantity"], orders["CCC"]["filled"]) == ("0.3335", 3)
    lines = {line["symbol"]: line for line in as_json(trades_page(reader, Wanted()))["trades"]}
    assert (lines["AAA"]["what"], lines["BBB"]["quantity"], lines["CCC"]["held"]) == ("0.3335 AAA", "12.25", "3.35")
    texts = [mark.text for mark in fill_marks(reader, 0, 2**62, "BBB")]
    assert texts == ["buy 9.5 BBB at 100", "buy 2.75 BBB at 100", "sell 2 BBB at 104", "sell 0.25 BBB at 104"]


def test_the_limits_weigh_what_is_held(picture: Picture) -> None:
    assert picture.state is not None
    assert picture.spec is not None
    limits = {line.name: line.value for line in limits_now(picture.state, picture.spec)}
    assert limits["all positions of the equity"] == "13.67 %"  # 1,375 / 10,055.67
    assert limits["largest position of the equity"] == "10.34 %"


def test_one_order_is_told_in_words() -> None:
    assert _trade_words((Ordered("AAA", -1, exact("1234.5"), exact("1234.25"), False),)) == "sell 1,234.25 AAA"


def test_what_the_overlay_cut_is_told_in_words(tmp_path: Path) -> None:
    cut = '{"AAA":["1234.5","0.25"],"BBB":[3,0]}'
    row = OverlayRow(
        decision=1, time_ns=1, forecast="ewma", target=0.1, volatility=0.2, cap=0.5, asked=0.9, allowed=0.5, cut=cut,
        unknown="",
    )  # fmt: skip
    with closing(JournalReader(journal_of(tmp_path, [row]))) as reader:
        assert overlay_words(reader, 1)[-1] == "Cut: AAA 1,234.5 to 0.25 shares, BBB 3 to 0 shares."


# --- what leaves the desk ---------------------------------------------------------------------------------------------


def test_telemetry_has_the_text_of_a_fraction_and_its_schema_lets_it_pass(desk: JournaledDesk) -> None:
    jsonschema: Any = pytest.importorskip("jsonschema")
    fill = [row for row in desk.rows if isinstance(row, FillRow)][-1]
    message = as_json(message_of("fills", fill, "shelf-1"))
    assert (message["quantity"], message["cumulative"]) == ("0.3335", "0.3335")
    jsonschema.validate(message, json.loads(schemas()["fill.v1.json"]))
    status = as_json(message_of("status", desk.state, "shelf-1"))
    jsonschema.validate(status, json.loads(schemas()["status.v1.json"]))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(message | {"quantity": 0.3335}, json.loads(schemas()["fill.v1.json"]))


def test_the_log_tells_fractions_as_text(file: Path) -> None:
    stream, follower = io.StringIO(), Follower(file)
    log = Log("debug", "json", stream)
    for entry, step in follower.advance():
        assert step is not None
        log.step(entry.event, step)
    follower.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["cumulative_quantity"] for line in lines if line["event"] == "order_filled"][:2] == ["0.1", "0.3335"]
    assert next(line["quantity"] for line in lines if line["event"] == "order_submitted") == "0.3335"
    (close_line,) = [line for line in lines if line["event"] == "trade_closed"]
    assert (close_line["quantity"], close_line["price"], close_line["pnl_usd"]) == ("0.3335", "120", "+6.67")


def test_a_message_to_a_person_names_the_fraction(reader: JournalReader) -> None:
    fills = [text for entry in reader.entries() for text in _fills(entry, reader)]
    assert fills[0] == ("fill", "bought 0.1 AAA at 100", "2024-07-01 09:30:00 New York")


def test_a_heartbeat_says_how_much_is_held(desk: JournaledDesk) -> None:
    beat = heartbeat_of(desk.state, desk_of(desk.strategy), "shelf-1", 1, 1, desk.state.now_ns, leaving=False)
    assert as_json(beat)["holds"]["CCC"][0] == "3.35"


def test_an_experience_values_fractions() -> None:
    bar = Prices(0, 100.0, 100.0, 100.0, 100.0, 1.0)
    line = SymbolTransition("AAA", bar, bar, exact("0.5"), exact("0.25"), 100.0, 120.0, 26.0, 0.0)
    assert line.gain == 6.0  # 30 - 50 + 26
    assert list(_implausible_holding(line, 1000.0)) == []
    assert list(_implausible_holding(msgspec.structs.replace(line, shares=exact("1000.5")), 1000.0)) != []


# --- a journal of a former release ------------------------------------------------------------------------------------

FORMER = """
CREATE TABLE orders (client_order_id TEXT NOT NULL, work TEXT NOT NULL, purpose TEXT NOT NULL, reason TEXT NOT NULL,
    symbol TEXT NOT NULL, side INTEGER NOT NULL, quantity INTEGER NOT NULL, limit_price TEXT, status TEXT NOT NULL,
    filled INTEGER NOT NULL, cost TEXT NOT NULL, fees_usd TEXT NOT NULL, submitted_ns INTEGER NOT NULL,
    updated_ns INTEGER NOT NULL, PRIMARY KEY (client_order_id)) WITHOUT ROWID;
CREATE TABLE fills (client_order_id TEXT NOT NULL, correction INTEGER NOT NULL, cumulative INTEGER NOT NULL,
    symbol TEXT NOT NULL, side INTEGER NOT NULL, quantity INTEGER NOT NULL, price TEXT NOT NULL, fees_usd TEXT NOT NULL,
    filled_ns INTEGER NOT NULL, time_ns INTEGER NOT NULL, PRIMARY KEY (client_order_id, correction, cumulative))
    WITHOUT ROWID;
CREATE TABLE moves (opened_ns INTEGER NOT NULL, symbol TEXT NOT NULL, seq INTEGER NOT NULL, part INTEGER NOT NULL,
    at_ns INTEGER NOT NULL, time_ns INTEGER NOT NULL, step TEXT NOT NULL, reason TEXT NOT NULL, decision INTEGER,
    client_order_id TEXT, quantity INTEGER NOT NULL, held INTEGER NOT NULL, multiplier INTEGER NOT NULL,
    entered_usd TEXT NOT NULL, left_usd TEXT NOT NULL, realized_usd TEXT NOT NULL, fees_usd TEXT NOT NULL, pnl_usd TEXT,
    PRIMARY KEY (opened_ns, symbol, seq, part)) WITHOUT ROWID;
CREATE TABLE round_trips (opened_ns INTEGER NOT NULL, symbol TEXT NOT NULL, time_ns INTEGER NOT NULL,
    multiplier INTEGER NOT NULL, entered INTEGER NOT NULL, left_again INTEGER NOT NULL, entered_usd REAL NOT NULL,
    left_usd REAL NOT NULL, realized_usd REAL NOT NULL, fees_usd REAL NOT NULL, fills INTEGER NOT NULL,
    bars INTEGER NOT NULL, left_ns INTEGER, why_entered TEXT, why_left TEXT, entry_decision INTEGER,
    exit_decision INTEGER, worst_usd REAL, best_usd REAL, now_usd REAL, PRIMARY KEY (opened_ns, symbol)) WITHOUT ROWID;
INSERT INTO orders VALUES ('a', '1.0', 'entry', '', 'CCC', 1, 3, NULL, 'filled', 3, '300', '0', 7, 7);
INSERT INTO fills VALUES ('a', 0, 3, 'CCC', 1, 3, '100', '0', 7, 7);
INSERT INTO moves VALUES (7, 'CCC', 1, 0, 7, 7, 'enter', 'policy', 1, 'a', 3, 3, 1, '300', '0', '0', '0', '0');
INSERT INTO round_trips VALUES (7, 'CCC', 7, 1, 3, 0, 300.0, 0.0, 0.0, 0.0, 1, 0, NULL, 'policy', NULL, 1, NULL, NULL,
    NULL, 0.0);
"""


@pytest.fixture
def former(tmp_path: Path) -> Path:
    """A journal whose quantities are columns of whole numbers: three shares bought at 100, still held."""
    path = journal_of(tmp_path, [])
    with closing(sqlite3.connect(path)) as db:
        for name in ("VIEW trades", "TABLE orders", "TABLE fills", "TABLE moves", "TABLE round_trips"):
            db.execute(f"DROP {name}")
        db.executescript(FORMER)
    return path


def test_a_journal_of_a_former_release_takes_a_fraction_and_keeps_it_exact(former: Path) -> None:
    batch, continued = CommitBatch(), Journal(former)
    purchase = MoveRow(
        opened_ns=7, symbol="CCC", seq=2, part=0, at_ns=9, time_ns=9, step="add", reason="policy", decision=2,
        client_order_id="b", quantity=exact("0.123456789"), held=exact("3.123456789"), multiplier=1,
        entered_usd="12.35", left_usd="0", realized_usd="0", fees_usd="0", pnl_usd="0",
    )  # fmt: skip
    batch.rows = [a_fill("b", exact("0.123456789")), purchase, round_trip(purchase)]
    continued.commit(batch)
    continued.close()
    with journal.open(former) as book:
        assert [(fill.quantity, fill.cumulative) for fill in book.fills()] == [
            (3, 3), (exact("0.123456789"), exact("0.123456789")),
        ]  # fmt: skip
        (trade,) = book.trades()
        assert [order.quantity for order in book.orders()] == [3]
        kinds = book.query("SELECT typeof(quantity) AS kind FROM fills ORDER BY client_order_id")
    assert (trade.quantity, trade.held, trade.fills) == (exact("3.123456789"), exact("3.123456789"), 2)
    assert [row["kind"] for row in kinds] == ["integer", "text"]


def test_a_journal_of_a_former_release_is_read_before_it_is_written(former: Path) -> None:
    with journal.open(former) as book:
        (fill,) = book.fills()
        holding = book.query("SELECT held FROM moves")[0]["held"]
        assert (fill.quantity, type(fill.quantity), holding) == (3, int, 3)


def test_a_short_trade_in_fractions_is_short(tmp_path: Path) -> None:
    sale = MoveRow(
        opened_ns=7, symbol="AAA", seq=1, part=0, at_ns=7, time_ns=7, step="enter", reason="foreign", decision=None,
        client_order_id="a", quantity=exact("-0.5"), held=exact("-0.5"), multiplier=1, entered_usd="-50",
        left_usd="0", realized_usd="0", fees_usd="0", pnl_usd="0",
    )  # fmt: skip
    with journal.open(journal_of(tmp_path, [sale, round_trip(sale)])) as book:
        (trade,) = book.trades()
    assert (trade.side, trade.quantity, trade.held) == ("short", exact("0.5"), exact("-0.5"))
    assert trade.entry_price == 100.0


def journal_of(folder: Path, rows: list[Row]) -> Path:
    new_journal = Journal.create(folder / FILE, {"strategy": "shelf", "mode": "paper"})
    batch = CommitBatch()
    batch.rows = rows
    new_journal.commit(batch)
    new_journal.close()
    return folder / FILE


def a_fill(order: str, quantity: Quantity) -> FillRow:
    return FillRow(order, 0, quantity, "CCC", 1, quantity, "100", "0", 9, 9)
