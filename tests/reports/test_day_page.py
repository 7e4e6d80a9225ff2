"""The page says what the journal says, in words first; foreign text stays text, and nothing is asked of any network."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from daemon.core.effects import AnyEffect, CancelOrder, RaiseAlarm, SubmitOrder
from daemon.core.events import (
    Activity,
    BarClosed,
    BarRejected,
    ClockTicked,
    CommandRefused,
    Event,
    HaltRequested,
    LedgerBooked,
    ModelPromoted,
    ModelVerified,
    OrderAccepted,
    OrderFilled,
    PolicyAnswered,
    Quote,
    QuotesReceived,
    ResumeRequested,
    SessionEnded,
    SessionScheduled,
    ShadowAnswered,
)
from daemon.core.records import DecisionRow, EquityRow, OrderRow, Row
from daemon.core.state import Book, RiskState
from daemon.journal.journal import FILE, Journal
from daemon.journal.rows import CommitBatch, HashChain, encode_effects
from daemon.reports.figures import costs
from daemon.reports.gather import read_day
from daemon.reports.page import day_page
from daemon.reports.record import HALTS, Day
from daemon.reports.tables import ORDER_COLUMNS, orders_csv
from daemon.reports.words import first_sentence, further_sentences, instrument, long_date
from strategies.kit.contract import Bar, Session
from tests.support.core.desk import MONDAY, desk
from tests.support.paths import REPOSITORY

D = Decimal
MINUTE = 60 * 10**9
OPEN, CLOSE = 1_733_236_200 * 10**9, 1_733_259_600 * 10**9  # 9:30 and 16:00 in New York
SESSION = Session("2024-12-03", OPEN, CLOSE)
HALF = Session("2024-11-29", 1_732_890_600 * 10**9, 1_732_903_200 * 10**9)
CALL = "SPY241204C00600000"
ENTRY, EXIT = "e-option_scalper-2-0-0", "e-option_scalper-3-1-0"
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>&\"'"
JournalStep = tuple[Event, tuple[AnyEffect, ...]]


def bar(minute: int, close: float, open_ns: int = OPEN) -> JournalStep:
    start = open_ns + minute * MINUTE
    return BarClosed(start + MINUTE, Bar("SPY", start, close, close, close, close, 100.0)), ()


def quote(minute: int, bid: str, ask: str) -> JournalStep:
    at = OPEN + minute * MINUTE
    middle = (D(bid) + D(ask)) / 2
    return QuotesReceived(at, 0, (Quote(CALL, D(bid), D(ask), middle, middle, at),)), ()


def a_trade() -> list[JournalStep]:
    """Bought 2 at 1.05 (mid 1.02), of three sold 1 at 1.20 (mid 1.22); a bar is missing, one was refused."""
    at = [OPEN + minute * MINUTE for minute in range(40)]
    return [
        (SessionScheduled(at[0], SESSION, ()), ()),
        (ModelVerified(at[0], "v1", "0" * 64, True, "sip"), ()),
        bar(0, 600.0),
        bar(1, 600.5),
        quote(2, "1.00", "1.04"),
        (
            PolicyAnswered(at[2], 2, (0.0,), b"", "v1"),
            (SubmitOrder(ENTRY, CALL, 1, 2, D("1.06"), "buy_to_open", at[5]),),
        ),
        (ShadowAnswered(at[2], 2, (0.0,), b"", "v2"), ()),
        (OrderAccepted(at[2], ENTRY), ()),
        bar(2, 601.0),
        (OrderFilled(at[3], ENTRY, CALL, 1, D("1.05"), at[2], 2, D("2.10"), D("0.08"), 2), ()),
        (ModelPromoted(at[3], "v2", "1" * 64, False, "sip", "v1"), ()),
        bar(4, 602.0),  # the one at minute 3 did not come
        quote(5, "1.20", "1.24"),
        (
            PolicyAnswered(at[5], 3, (0.0,), b"", "v2"),
            (SubmitOrder(EXIT, CALL, -1, 2, None, "sell_to_close", at[9]),),
        ),
        (OrderFilled(at[5], EXIT, CALL, -1, D("1.20"), at[5], 1, D("1.20"), D("0.04"), 1), ()),
        (BarRejected(at[6], "SPY", at[5], "negative", "low -1"), ()),
    ]


def rows(minutes_equity: Sequence[tuple[int, str]]) -> list[Row]:
    equity_rows: list[Row] = [EquityRow(OPEN - 86_400 * 10**9, "10000.00", "10000.00", "0", 0.0)]
    equity_rows += [
        EquityRow(OPEN + minute * MINUTE, usd, usd, str(D(usd) - 10_000), 0.0) for minute, usd in minutes_equity
    ]
    return equity_rows


def decided(number: int, action: str, outcome: str, gates: str | None = None) -> DecisionRow:
    at = OPEN + number * MINUTE
    return DecisionRow(
        decision=number, kind="policy", bar_ns=at - MINUTE, time_ns=at, action=action, outcome=outcome, gates=gates
    )


def order_row(name: str, side: int, filled: int, status: str) -> OrderRow:
    at = OPEN + 2 * MINUTE
    return OrderRow(name, "2.0", "entry", "policy", CALL, side, 2, None, status, filled, "0", "0", at, at)


A_TRADES_ROWS: list[Row] = [
    *rows(((3, "10006.00"), (5, "10033.00"), (6, "10019.88"))),
    decided(2, "BUY_CALL", "ordered"),
    decided(3, "EXIT", "exit"),
    decided(4, "BUY_PUT", "denied", '{"halted":"","low_confidence":"0.2 < 0.3","near_close":"9 minutes"}'),
    decided(5, "BUY_PUT", "denied", '{"halted":"","low_confidence":"0.1 < 0.3","near_close":null}'),
    order_row(ENTRY, 1, 2, "filled"),
    order_row(EXIT, -1, 1, "partially_filled"),
]


def journal(
    folder: Path, steps: Sequence[JournalStep], read_models: Sequence[Row] = (), strategy: str = "option_scalper"
) -> Path:
    """A journal of these events in this order."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = {"strategy": "option_scalper", "desk": "paper-1", "mode": "paper", "account": "paper"}
    file, batch, chain = Journal.create(folder / FILE, meta), CommitBatch(), HashChain()
    batch.rows += read_models
    for seq, (event, effects) in enumerate(steps, start=1):
        batch.entries.append(chain.entry(seq, event, encode_effects(effects)))
    file.commit(batch)
    file.close()
    return folder / FILE


def day_of(
    folder: Path, steps: Sequence[JournalStep], read_models: Sequence[Row] = (), session: Session = SESSION
) -> tuple[Day, str]:
    day = read_day(journal(folder, steps, read_models), session)
    return day, day_page(day)


class Markup(HTMLParser):
    """Every tag with its attributes, and all text beside the style sheet."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "line", "rect", "circle", "polyline", "polygon"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "rect", "polygon"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


# --- what it states -----------------------------------------------------------------------------------------------


def test_a_running_day_says_so_and_what_it_came_to_so_far(tmp_path: Path) -> None:
    day, page = day_of(tmp_path, a_trade(), A_TRADES_ROWS)
    # 10,019.88 - 10,000.00; bought: 2 x 0.03 x 100 = 6; sold: 1 x 0.02 x 100 = 2; 8 of 2 x 102 + 1 x 122 = 326 USD
    assert first_sentence(day) == (
        "On Tuesday, 3 December 2024, so far (up to 09:36 New York), the desk gained 19.88 USD (0.20 %) with 2 orders, "
        "1 filled, 1 in part. The fills were 8.00 USD (245.4 bp) worse than the middle of bid and ask when sent, "
        "and fees took 0.12 USD. 2 of 3 wanted entries were denied, mostly by the gate low_confidence."
    )
    assert further_sentences(day) == (
        "Still held now: +1 SPY 4 Dec 24 600 call.",
        "1 order works still.",
        "2 of 6 bars did not come.",
        "1 bar was refused.",
    )
    text = Markup(page).text
    assert first_sentence(day) in text
    assert "Open now" in text
    assert f"{EXIT}: 1 SPY 4 Dec 24 600 call not filled yet, partially filled." in text
    assert "low_confidence denied most, 2 times" in text
    assert "09:33:00 v2 took over from v1, not promoted" in text
    assert "v2 as a shadow 1" in text
    assert "4 of 6 bars came, 2 did not." in text
    assert "negative SPY: low -1" in text


def test_the_end_of_the_session_before_ends_no_day_and_an_older_equity_bears_its_time(tmp_path: Path) -> None:
    """A desk that starts in the morning is told of both; the equity was recorded while it held something."""
    before = (SessionEnded(OPEN - 30 * MINUTE, "2024-12-02"), ())
    steps = [before, *a_trade(), bar(9, 602.0)]
    day, _ = day_of(tmp_path, steps, A_TRADES_ROWS)
    assert not day.ended
    sentence = "so far (up to 09:40 New York; the equity as of 09:36), the desk gained 19.88 USD"
    assert sentence in first_sentence(day)
    day, _ = day_of(tmp_path / "over", [*steps, (SessionEnded(SESSION.close_ns, SESSION.date), ())], A_TRADES_ROWS)
    assert (day.ended, "so far" in first_sentence(day)) == (True, False)


def test_the_denials_and_decisions_are_counted_as_the_rows_say(tmp_path: Path) -> None:
    day, _ = day_of(tmp_path, a_trade(), A_TRADES_ROWS)
    assert day.denials == (("low_confidence", 2), ("near_close", 1))
    assert set(day.decisions) == {("BUY_CALL", "ordered", 1), ("EXIT", "exit", 1), ("BUY_PUT", "denied", 2)}
    assert day.gaps == ((OPEN + 3 * MINUTE, 1), (OPEN + 5 * MINUTE, 1))
    assert [(answers.model, answers.shadow, answers.count) for answers in day.answers] == [
        ("v1", False, 1),
        ("v2", True, 1),
        ("v2", False, 1),
    ]
    assert [(holding.symbol, holding.before, holding.quantity, holding.price) for holding in day.held] == [
        (CALL, 0, 1, D("1.22"))
    ]
    assert not day.exact


def test_a_transfer_that_the_brokers_ledger_tells_is_no_gain_of_the_day(tmp_path: Path) -> None:
    d = desk()
    d.bar(0)
    deposit = Activity("a1", "CSD", "", D(0), None, D("2500"), "executed", MONDAY.open_ns)
    d.put(LedgerBooked(d.at(2), (deposit,)), SessionEnded(MONDAY.close_ns, MONDAY.date))
    steps: list[JournalStep] = [(SessionScheduled(MONDAY.open_ns, MONDAY, ()), ())]
    day, _ = day_of(tmp_path, steps, d.rows, MONDAY)
    assert day.equity[-1][1] - day.equity[0][1] == 2500
    assert day.gain == 0
    assert day.transfers == 2500
    assert "Transfers of +2,500.00 USD are neither gain nor loss." in further_sentences(day)


def test_fees_that_the_ledger_books_by_the_day_are_on_its_page(tmp_path: Path) -> None:
    d = desk()
    d.bar(0)
    fee = Activity("f1", "FEE", "", D(0), None, D("-0.37"), "executed", MONDAY.open_ns)
    d.put(LedgerBooked(d.at(2), (fee,)), SessionEnded(MONDAY.close_ns, MONDAY.date))
    steps: list[JournalStep] = [(SessionScheduled(MONDAY.open_ns, MONDAY, ()), ())]
    day, _ = day_of(tmp_path, steps, d.rows, MONDAY)
    rows = dict(costs(day))
    assert (day.quality.fees_usd, day.fees_by_the_day, day.gain) == (D(0), D("0.37"), D("-0.37"))
    assert [words for name, words in rows.items() if name.startswith("Fees")] == ["0.00 USD", "0.37 USD"]


def test_the_first_sentence_counts_the_fees_of_the_day_too(tmp_path: Path) -> None:
    day, _ = day_of(tmp_path, a_trade(), A_TRADES_ROWS)
    sentence = first_sentence(msgspec.structs.replace(day, fees_by_the_day=D("0.03")))  # 0.12 came with the fills
    assert "and fees took 0.15 USD, 0.03 USD of it booked by the day." in sentence


def test_a_loss_that_is_booked_before_the_open_is_the_days(tmp_path: Path) -> None:
    """A stop sold while the daemon was down, and the equity was recorded at nine."""
    more: list[Row] = [EquityRow(OPEN - 30 * MINUTE, "9700.00", "9700.00", "-300.00", 0.0)]
    day, _ = day_of(tmp_path, a_trade(), [*rows(((3, "9750.00"),)), *more])
    assert (day.equity_before, day.gain) == (D(10_000), D(-250))


def test_a_day_without_a_trade_says_so_and_shows_no_empty_plot(tmp_path: Path) -> None:
    steps: list[JournalStep] = [
        (SessionScheduled(OPEN, SESSION, ()), ()),
        bar(0, 600.0),
        (SessionEnded(CLOSE, "2024-12-03"), ()),
    ]
    day, page = day_of(tmp_path, steps, rows(((0, "10000.00"), (390, "10000.00"))))
    assert first_sentence(day) == "On Tuesday, 3 December 2024 the desk neither gained nor lost and sent no order."
    text = Markup(page).text
    for sentence in (
        "No order was sent.",
        "Nothing was decided.",
        "No alarm was raised",
        "No model answered.",
        "No position",
    ):
        assert sentence in text
    assert "What trading cost" not in text
    assert "389 of 390 bars did not come." in further_sentences(day)


def test_a_session_without_any_event_is_a_page_too(tmp_path: Path) -> None:
    day, page = day_of(tmp_path, [(SessionScheduled(OPEN - 10**16, SESSION, ()), ())])
    assert first_sentence(day) == (
        "On Tuesday, 3 December 2024, so far (before its first event), no equity was recorded; no order was sent."
    )
    assert "No equity was recorded" in Markup(page).text


def test_a_halt_is_told_with_its_time_and_stands_in_the_plots(tmp_path: Path) -> None:
    steps = a_trade()
    at = OPEN + 20 * MINUTE
    steps += [
        (QuotesReceived(at, 0, ()), (RaiseAlarm("drawdown", "12.1 % of 12 %"), CancelOrder(EXIT))),
        (ResumeRequested(at + MINUTE, "looked at", "control/alice (uid 1000)"), ()),
        (HaltRequested(at + 2 * MINUTE, "operator", "lunch", "mqtt/ops"), (RaiseAlarm("operator", "lunch"),)),
        (CommandRefused(at + 3 * MINUTE, "mqtt", "too old"), ()),
    ]
    day, page = day_of(tmp_path, steps, A_TRADES_ROWS)
    sentences = further_sentences(day)
    assert sentences[:3] == (
        "It was halted at 09:50: drawdown.",
        "It was halted at 09:52: operator (mqtt/ops).",
        "Whether it still is halted is not known from this journal.",
    )
    markup = Markup(page)
    assert "09:50:00 halt drawdown 12.1 % of 12 %" in markup.text
    assert "09:51:00 command resume looked at control/alice (uid 1000)" in markup.text
    assert "09:53:00 command refused too old mqtt" in markup.text
    lines = [attributes for tag, attributes in markup.tags if tag == "line" and attributes["class"] == "halt"]
    assert len(lines) == 2 * 2 * 2  # halts, plots, widths


@pytest.mark.parametrize("resumed", [False, True])
def test_a_halt_of_the_evening_before_stands_in_the_report_of_the_day(tmp_path: Path, resumed: bool) -> None:
    evening = OPEN - 16 * 3600 * 10**9  # after the snapshot of the close before
    steps: list[JournalStep] = [
        (ClockTicked(evening - MINUTE), ()),
        (HaltRequested(evening, "operator", "lunch", "mqtt/ops"), (RaiseAlarm("operator", "lunch"),)),
        *([(ResumeRequested(evening + MINUTE, "looked at", "ann"), ())] if resumed else []),
        (SessionScheduled(OPEN, SESSION, ()), ()),
    ]
    path = journal(tmp_path, steps)
    state = msgspec.json.encode({"book": Book(), "risk": RiskState()})
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO snapshots VALUES (1, 1, '', 0, ?, X'', '', '')", (state,))
    sentences = further_sentences(read_day(path, SESSION))
    sentence = "It was halted at 17:30 on Monday, 2 December 2024: operator (mqtt/ops)."
    assert sentences[:1] == (() if resumed else (sentence,))


def test_a_half_day_says_when_it_closed_and_its_axis_ends_there(tmp_path: Path) -> None:
    steps: list[JournalStep] = [
        (SessionScheduled(HALF.open_ns, HALF, ()), ()),
        *(bar(minute, 600.0 + minute % 7, HALF.open_ns) for minute in range(210)),
        (SessionEnded(HALF.close_ns, HALF.date), ()),
    ]
    day, page = day_of(tmp_path, steps, (), HALF)
    assert first_sentence(day).startswith("On Friday, 29 November 2024, a half day that closed at 13:00, ")
    assert (day.expected_bars, day.gaps) == (210, ())
    text = Markup(page).text
    assert ">13:00<" in page
    assert ">14:00<" not in page
    assert "210 of 210 bars came, 0 did not." in text


# --- what it may not do -------------------------------------------------------------------------------------------


def test_foreign_text_stays_text(tmp_path: Path) -> None:
    at = OPEN + 30 * MINUTE
    steps = a_trade()
    steps += [
        (QuotesReceived(at, 0, ()), (RaiseAlarm("drawdown", HOSTILE), RaiseAlarm(HOSTILE, HOSTILE))),
        (HaltRequested(at, "operator", HOSTILE, HOSTILE), ()),
        (ModelPromoted(at, HOSTILE, "0" * 64, False, "sip", HOSTILE), ()),
        (BarRejected(at, HOSTILE, at, HOSTILE, HOSTILE), ()),
        (PolicyAnswered(at, 9, (0.0,), b"", HOSTILE), ()),
    ]
    read_models = [*A_TRADES_ROWS, decided(6, HOSTILE, "denied", '{"<b>gate</b>":"<i>"}')]
    _, page = day_of(tmp_path, steps, read_models)
    markup = Markup(page)
    assert not {tag for tag, _ in markup.tags} & {"script", "img", "b", "i"}
    assert not [name for _, attributes in markup.tags for name in attributes if name.startswith("on")]
    assert HOSTILE in markup.text
    assert "<b>gate</b>" in markup.text


def test_nothing_is_asked_of_any_network_and_no_script_runs(tmp_path: Path) -> None:
    _, page = day_of(tmp_path, a_trade(), A_TRADES_ROWS)
    markup = Markup(page)
    address_attributes = {"src", "href", "srcset", "data", "action", "poster", "xlink:href"}
    assert not [attributes for _, attributes in markup.tags if address_attributes & set(attributes)]
    assert not {tag for tag, _ in markup.tags} & {"script", "link", "iframe", "object", "base", "form"}
    assert not re.search(r"url\(|@import|https?:", page)
    policy = next(a["content"] for _, a in markup.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert markup.open == []


def test_each_plot_says_in_words_what_it_shows(tmp_path: Path) -> None:
    _, page = day_of(tmp_path, a_trade(), A_TRADES_ROWS)
    plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(plots) == 8  # equity, price, slippage, denials, in two widths
    assert all(
        re.match(r'<svg role="img" aria-label="[^"]+" viewBox="[^"]+"><title>[^<]+</title><desc>[^<]+', p)
        for p in plots
    )
    assert "SPY went from 600.00 to 602.00 USD; 1 entry and 1 exit filled." in page


def test_the_same_day_gives_the_same_bytes(tmp_path: Path) -> None:
    assert day_of(tmp_path / "a", a_trade(), A_TRADES_ROWS)[1] == day_of(tmp_path / "b", a_trade(), A_TRADES_ROWS)[1]


# --- the spreadsheet ----------------------------------------------------------------------------------------------


def test_the_csv_has_a_line_for_each_order_and_every_column_is_documented(tmp_path: Path) -> None:
    day, _ = day_of(tmp_path, a_trade(), A_TRADES_ROWS)
    head, *lines = orders_csv(day).splitlines()
    assert head.split(",") == list(ORDER_COLUMNS)
    first = dict(zip(head.split(","), lines[0].split(","), strict=True))
    assert len(lines) == 2
    expected = {
        "decision": "2", "symbol": CALL, "side": "buy", "filled": "2", "limit_usd_per_share": "1.06",
        "arrival_usd_per_share": "1.02", "arrival_source": "quote", "average_fill_usd_per_share": "1.05",
        "slippage_usd": "6", "slippage_usd_per_share": "0.03", "effective_over_quoted_spread": "1.5",
        "improvement_on_limit_usd_per_share": "0.01", "fees_usd": "0.08", "status": "filled",
        "submitted_utc": "2024-12-03T14:32:00.000000000Z", "submitted_to_accepted_ms": "0", "cancel_asked_utc": "",
    }  # fmt: skip
    assert {name: first[name] for name in expected} == expected
    manual = (REPOSITORY / "docs" / "REPORT.md").read_text()
    assert [name for name in ORDER_COLUMNS if f"`{name}`" not in manual] == []


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r"])
def test_no_text_of_the_csv_begins_a_formula(tmp_path: Path, sign: str) -> None:
    steps = a_trade()
    name = f"{sign}cmd|' /C calc'!A0-option_scalper-4-0-0"
    order = SubmitOrder(name, f"{sign}SUM(A1)", 1, 2, D("1.06"), "buy_to_open", CLOSE)
    steps.append((QuotesReceived(OPEN + 9 * MINUTE, 0, ()), (order,)))
    day, _ = day_of(tmp_path, steps, A_TRADES_ROWS)
    text = orders_csv(day)
    assert f"'{sign}SUM(A1)" in text
    assert f"'{sign}cmd" in text
    assert f",{sign}SUM" not in text


# --- words --------------------------------------------------------------------------------------------------------


def test_the_halts_are_those_of_the_manual_that_are_no_alarms() -> None:
    manual = (REPOSITORY / "docs" / "OPERATIONS.md").read_text()
    halts, alarms = (set(re.findall(rf"^### {kind} `(\w+)`", manual, re.MULTILINE)) for kind in ("halt", "alarm"))
    assert halts - alarms == HALTS


def test_dates_and_contracts_are_written_as_people_say_them() -> None:
    assert long_date("2024-07-04") == "Thursday, 4 July 2024"
    assert instrument("SPY241204C00458000") == "SPY 4 Dec 24 458 call"
    assert instrument("SPY241204P00458500") == "SPY 4 Dec 24 458.5 put"
    assert instrument("SPY") == "SPY"
