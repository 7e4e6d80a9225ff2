"""What trading cost, against figures worked by hand, and against what the step made of the same events in replays."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.effects import AnyEffect, CancelOrder, SubmitOrder
from daemon.core.events import (
    BarClosed,
    BrokerOrder,
    BrokerReported,
    Event,
    HistoryAdjusted,
    OrderAccepted,
    OrderCanceled,
    OrderFilled,
    OrderFound,
    OrderRejected,
    PolicyAnswered,
    Price,
    PricesPrinted,
    Quote,
    QuotesReceived,
    TradeCorrected,
)
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.rows import JournalError, decode_event, encode_effects
from daemon.reports.execution_quality import Quality, plain, sums_of
from daemon.reports.execution_watch import Watch
from daemon.reports.gather import read_day
from daemon.reports.record import find_session, first_id
from daemon.tapes import DAILY_TAPE
from strategies.kit.contract import Bar
from tests.support.desks.desk_run import Desk, rltraderd, table, tape_rows, write_tape
from tests.support.paths import REPOSITORY

D = Decimal
MS = 1_000_000
CALL = "SPY240705C00550000"
ENTRY, SECOND, EXIT = "e-option_scalper-7-0-0", "e-option_scalper-7-0-1", "e-option_scalper-9-1-0"


class Feed:
    """Events given to a watch at one market time after the other, in milliseconds."""

    def __init__(self) -> None:
        self.watch = Watch()

    def see(self, event: Event, *effects: AnyEffect) -> None:
        decoded: list[Mapping[str, Any]] = msgspec.json.decode(encode_effects(effects))
        self.watch.see(event, decoded)

    def quote(self, at_ms: int, bid: str, ask: str, of: str = CALL) -> None:
        low = (D(bid) + D(ask)) / 2
        self.see(QuotesReceived(at_ms * MS, 0, (Quote(of, D(bid), D(ask), low, low, at_ms * MS),)))

    def decide(self, at_ms: int, decision: int, *effects: AnyEffect) -> None:
        self.see(PolicyAnswered(at_ms * MS, decision, (0.0,), b"", "model"), *effects)

    def fill(
        self, at_ms: int, name: str, price: str, quantity: int, total: int, cost: str, fees: str = "0", side: int = 1
    ) -> None:
        at_ns = at_ms * MS
        self.see(OrderFilled(at_ns, name, CALL, side, D(price), at_ns, total, D(cost), D(fees), quantity))

    def quality(self) -> Quality:
        return self.watch.quality()


def buy(name: str, quantity: int, limit: str | None, intent: str = "buy_to_open") -> SubmitOrder:
    return SubmitOrder(name, CALL, 1, quantity, None if limit is None else D(limit), intent, 10**15)


def sell(name: str, quantity: int, limit: str | None) -> SubmitOrder:
    return SubmitOrder(name, CALL, -1, quantity, None if limit is None else D(limit), "sell_to_close", 10**15)


# --- worked by hand -----------------------------------------------------------------------------------------------


def test_an_entry_that_fills_in_parts_over_two_attempts_costs_what_is_worked_by_hand() -> None:
    feed = Feed()
    feed.quote(1_000, "1.00", "1.04")  # mid 1.02
    feed.decide(1_200, 7, buy(ENTRY, 10, "1.06"))
    feed.see(OrderAccepted(1_250 * MS, ENTRY))
    feed.fill(1_400, ENTRY, "1.04", 3, 3, "3.12", "0.10")
    feed.fill(1_500, ENTRY, "1.05", 1, 4, "4.17", "0.14")
    feed.quote(2_000, "1.10", "1.14")  # mid 1.12
    feed.see(QuotesReceived(2_100 * MS, 0, ()), CancelOrder(ENTRY))
    feed.see(OrderCanceled(2_180 * MS, ENTRY), buy(SECOND, 6, "1.16"))
    feed.fill(2_300, SECOND, "1.13", 6, 6, "6.78", "0.20")
    first, second = feed.quality().orders

    # 3.12 + 1.05 = 4.17 for 4; 4 x 1.02 = 4.08; 0.09 x 100 = 9 USD on 408: 220.59 bp; 0.0225 a share
    assert (first.decision, first.attempt, first.purpose, first.quantity, first.filled) == (7, 0, "entry", 10, 4)
    assert first.average == D("1.0425")
    assert (first.slippage_usd, first.slippage_share) == (D("9.00"), D("0.0225"))
    assert first.slippage_bp is not None
    assert round(first.slippage_bp, 2) == D("220.59")
    assert first.spread_ratio == D("1.125")  # 2 x 0.0225 / 0.04
    assert first.improvement == D("0.0175")  # 1.06 - 1.0425
    assert (first.status, first.fees) == ("canceled", D("0.14"))
    assert (first.decided_ns, first.submitted_ns, first.accepted_ns) == (1_200 * MS, 1_200 * MS, 1_250 * MS)
    assert (first.first_fill_ns, first.last_fill_ns) == (1_400 * MS, 1_500 * MS)
    assert (first.cancel_asked_ns, first.canceled_ns, first.ended_ns) == (2_100 * MS, 2_180 * MS, 2_180 * MS)

    # sent at mid 1.12, filled at 1.13: 0.01 x 6 x 100 = 6 USD on 672: 89.29 bp
    assert second.arrival is not None
    assert (second.attempt, second.arrival.price, second.slippage_usd) == (1, D("1.12"), D("6.00"))
    assert (second.status, second.decided_ns, second.spread_ratio) == ("filled", 1_200 * MS, D("0.5"))

    (work,) = feed.quality().works
    # decided at 1.02: (4.17 + 6.78 - 10 x 1.02) x 100 = 75 USD, nothing missed, 0.34 of fees
    assert (work.work, work.orders, work.wanted, work.filled, work.open) == ("7.0", 2, 10, 10, False)
    assert (work.execution_usd, work.missed_usd, work.shortfall_usd) == (D("75.00"), D(0), D("75.34"))

    quality = feed.quality()
    assert (quality.slippage_usd, quality.fees_usd, quality.filled_share) == (D("15.00"), D("0.34"), D(1))
    assert quality.slippage_bp is not None
    assert round(quality.slippage_bp, 2) == D("138.89")  # 15 of 408 + 672
    assert msgspec.structs.asdict(sums_of(quality)) == {
        "orders": 2,
        "works": 1,
        "filled_share": "1.0000",
        "slippage_usd": "15",
        "slippage_mean_bp": "138.89",
        "shortfall_usd": "75.34",
        "unpriced_orders": 0,
    }


def test_what_a_cancelled_entry_missed_is_valued_where_it_ended() -> None:
    feed = Feed()
    feed.quote(1_000, "2.00", "2.10")  # mid 2.05
    feed.decide(1_000, 7, buy(ENTRY, 5, "2.10"))
    feed.fill(1_100, ENTRY, "2.08", 2, 2, "4.16", "0.08")
    feed.quote(3_000, "2.20", "2.30")  # mid 2.25
    feed.see(OrderCanceled(3_000 * MS, ENTRY))
    feed.quote(4_000, "9.00", "9.10")  # after its end: no matter
    (work,) = feed.quality().works
    # paper: 5 x (2.25 - 2.05) = 1.00; real: 2 x (2.25 - 2.08) = 0.34; the difference is 0.66 x 100, and the fees
    assert (work.execution_usd, work.missed_usd) == (D("6.00"), D("60.00"))
    assert work.shortfall_usd == D("66.08")
    assert (work.wanted, work.filled) == (5, 2)
    assert feed.quality().filled_share == D("0.4")


def test_a_rejected_order_costs_nothing_and_says_why() -> None:
    feed = Feed()
    feed.quote(1_000, "2.00", "2.10")
    feed.decide(1_000, 7, buy(ENTRY, 5, "2.10"))
    feed.see(OrderRejected(1_050 * MS, ENTRY, "insufficient buying power"))
    (order,) = feed.quality().orders
    assert (order.status, order.reason, order.filled) == ("rejected", "insufficient buying power", 0)
    assert [order.average, order.slippage_usd, order.slippage_bp, order.slippage_share] == [None] * 4
    assert [order.spread_ratio, order.improvement, order.notional] == [None] * 3
    (work,) = feed.quality().works
    assert (work.execution_usd, work.missed_usd, work.shortfall_usd) == (D(0), D(0), D(0))
    assert feed.quality().slippage_bp is None


def test_a_market_exit_below_the_mid_is_a_cost_and_has_no_limit_to_improve_on() -> None:
    feed = Feed()
    feed.quote(5_000, "3.00", "3.10")  # mid 3.05
    feed.see(QuotesReceived(5_000 * MS, 0, ()), sell(EXIT, 4, None))  # a rule: no answer of the policy
    feed.fill(5_200, EXIT, "2.99", 4, 4, "11.96", "0.16", side=-1)
    (order,) = feed.quality().orders
    # 4 x 3.05 = 12.20; received 11.96: 0.24 x 100 = 24 USD on 1220: 196.72 bp; 0.06 / 0.05
    assert (order.purpose, order.limit, order.slippage_usd) == ("exit", None, D("24.00"))
    assert order.slippage_bp is not None
    assert round(order.slippage_bp, 2) == D("196.72")
    assert (order.spread_ratio, order.improvement) == (D("1.2"), None)
    assert order.decided_ns == order.submitted_ns == 5_000 * MS
    (work,) = feed.quality().works
    assert work.shortfall_usd == D("24.16")


def test_a_sale_above_the_mid_is_a_gain_and_beats_its_limit() -> None:
    feed = Feed()
    feed.quote(5_000, "3.00", "3.10")
    feed.decide(5_000, 9, sell(EXIT, 2, "3.00"))
    feed.fill(5_200, EXIT, "3.07", 2, 2, "6.14", side=-1)
    (order,) = feed.quality().orders
    assert (order.slippage_usd, order.improvement, order.spread_ratio) == (D("-4.00"), D("0.07"), D("0.4"))


def test_a_fill_told_twice_counts_once() -> None:
    once, twice = Feed(), Feed()
    for feed in (once, twice):
        feed.quote(1_000, "1.00", "1.04")
        feed.decide(1_000, 7, buy(ENTRY, 5, "1.06"))
        feed.fill(1_100, ENTRY, "1.03", 2, 2, "2.06", "0.05")
    twice.fill(1_900, ENTRY, "1.03", 2, 2, "2.06", "0.05")
    assert twice.quality().orders[0].cost == once.quality().orders[0].cost == D("2.06")
    assert twice.quality().orders[0].filled == 2
    assert twice.quality().slippage_usd == once.quality().slippage_usd == D("2.00")


def test_a_correction_replaces_what_was_filled_and_is_taken_once() -> None:
    feed = Feed()
    feed.quote(1_000, "1.00", "1.04")  # mid 1.02
    feed.decide(1_000, 7, buy(ENTRY, 5, "1.06"))
    feed.fill(1_100, ENTRY, "1.04", 5, 5, "5.20", "0.20")
    for at_ms in (2_000, 2_500):
        feed.see(TradeCorrected(at_ms * MS, ENTRY, "exec-1", 5, D("5.25"), "trade_correct"))
    (order,) = feed.quality().orders
    assert (order.filled, order.cost, order.corrections) == (5, D("5.25"), 1)
    assert order.slippage_usd == D("15.00")  # 5.25 - 5.10
    feed.fill(3_000, ENTRY, "1.04", 5, 5, "5.20", "0.20")  # what was reported before it is no news
    assert feed.quality().orders[0].cost == D("5.25")


def test_a_busted_trade_is_no_fill() -> None:
    feed = Feed()
    feed.quote(1_000, "1.00", "1.04")
    feed.decide(1_000, 7, buy(ENTRY, 5, "1.06"))
    feed.fill(1_100, ENTRY, "1.04", 5, 5, "5.20")
    feed.see(TradeCorrected(2_000 * MS, ENTRY, "exec-1", 0, D(0), "trade_bust"))
    (order,) = feed.quality().orders
    assert (order.filled, order.average, order.slippage_usd) == (0, None, None)


def broker_order(filled: int, average: str | None, status: str, quantity: int = 5) -> BrokerOrder:
    price = None if average is None else D(average)
    return BrokerOrder(
        ENTRY, "id", CALL, 1, D(quantity), D("1.06"), "buy_to_open", status, D(filled), price, 1_000 * MS
    )


def test_what_a_look_up_finds_counts_as_what_the_stream_would_have_told() -> None:
    feed = Feed()
    feed.quote(1_000, "1.00", "1.04")
    feed.decide(1_000, 7, buy(ENTRY, 5, "1.06"))
    feed.see(OrderFound(4_000 * MS, broker_order(3, "1.036667", "partially_filled")))
    feed.see(OrderFound(5_000 * MS, broker_order(2, "1.03", "partially_filled")))  # an older answer
    feed.see(OrderFound(5_500 * MS, broker_order(9, "1.03", "filled", quantity=9)))  # another order of our name
    (order,) = feed.quality().orders
    assert (order.filled, order.cost, order.first_fill_ns) == (3, D("3.11"), 4_000 * MS)
    report = BrokerReported(
        6_000 * MS, 6_000 * MS, "A", D(0), "", (), (), (broker_order(3, "1.036667", "canceled"),), (), ()
    )
    feed.see(report)
    (order,) = feed.quality().orders
    assert (order.status, order.canceled_ns, order.filled) == ("canceled", 6_000 * MS, 3)


def test_an_order_that_is_sent_again_under_its_name_is_one_order() -> None:
    feed = Feed()
    feed.quote(1_000, "1.00", "1.04")
    feed.decide(1_000, 7, buy(ENTRY, 5, "1.06"))
    feed.quote(2_000, "2.00", "2.04")
    feed.see(QuotesReceived(2_000 * MS, 0, ()), buy(ENTRY, 5, "1.06"))
    (order,) = feed.quality().orders
    assert order.arrival is not None
    assert (order.submitted_ns, order.arrival.price) == (1_000 * MS, D("1.02"))


def test_the_arrival_price_is_the_newest_that_was_known_and_says_where_it_came_from() -> None:
    feed = Feed()
    share, at = "e-regime_switcher-3-0-0", 7_000 * MS

    def arrival() -> tuple[str, Decimal, Decimal | None]:
        quote = feed.watch.known["SPY"]
        return quote.source, quote.price, quote.spread

    feed.see(BarClosed(1 * MS, Bar("SPY", 0, 1.0, 1.0, 1.0, 500.25, 1.0)))
    assert arrival() == ("close", D("500.25"), None)
    feed.see(PricesPrinted(2 * MS, "2024-07-03", True, (Price("SPY", D("501.10")),)))
    assert arrival() == ("print", D("501.10"), None)
    feed.quote(3, "501.00", "501.04", of="SPY")
    assert arrival() == ("quote", D("501.02"), D("0.04"))
    feed.quote(4, "0", "501.04", of="SPY")  # one side alone has no middle
    feed.quote(5, "501.05", "501.05", of="SPY")
    assert arrival() == ("quote", D("501.05"), None)  # locked: a price, and no spread
    feed.see(HistoryAdjusted(6 * MS, "SPY", (Bar("SPY", 0, 1.0, 1.0, 1.0, 250.5, 1.0),)))
    assert arrival() == ("close", D("250.5"), None)
    feed.see(PolicyAnswered(at, 3, (0.0,), b"", "m"), SubmitOrder(share, "SPY", -1, 10, None, "", at, auction=True))
    feed.see(OrderFilled(at, share, "SPY", -1, D("250"), at, 10, D("2500"), D("1.5"), 10))
    (order,) = feed.quality().orders
    assert (order.purpose, order.auction, order.multiplier, order.slippage_usd) == ("exit", True, 1, D("5.0"))
    assert order.spread_ratio is None


def test_an_order_without_any_known_price_is_counted_and_not_judged() -> None:
    feed = Feed()
    feed.decide(1_000, 7, buy(ENTRY, 5, "1.06"))
    feed.fill(1_100, ENTRY, "1.04", 5, 5, "5.20", "0.20")
    quality = feed.quality()
    assert (quality.orders[0].arrival, quality.orders[0].slippage_usd, quality.unpriced) == (None, None, 1)
    assert (quality.works[0].execution_usd, quality.works[0].shortfall_usd) == (None, None)
    assert (quality.slippage_usd, quality.shortfall_usd) == (D(0), D(0))


def test_news_of_orders_that_were_not_sent_in_the_session_change_nothing() -> None:
    feed = Feed()
    feed.fill(1_100, ENTRY, "1.04", 5, 5, "5.20")
    feed.see(OrderCanceled(1_200 * MS, ENTRY), CancelOrder(ENTRY))
    feed.see(TradeCorrected(1_300 * MS, ENTRY, "x", 0, D(0), "trade_bust"))
    feed.see(OrderFound(1_400 * MS, broker_order(3, "1.04", "filled")))
    assert feed.quality() == Quality((), ())
    assert sums_of(feed.quality()).filled_share is None


def test_a_work_that_goes_on_is_valued_at_what_is_known_now() -> None:
    feed = Feed()
    feed.quote(1_000, "2.00", "2.10")
    feed.decide(1_000, 7, buy(ENTRY, 5, "2.10"))
    feed.quote(2_000, "2.10", "2.20")  # mid 2.15, ten cents away
    (work,) = feed.quality().works
    assert (work.open, work.missed_usd) == (True, D("50.00"))


@pytest.mark.parametrize(
    ("value", "text"),
    [("100", "100"), ("1E+2", "100"), ("0.50", "0.5"), ("-0", "0"), ("-1.20", "-1.2"), ("1E-12", "0.0000000000")],
)
def test_money_is_written_plainly(value: str, text: str) -> None:
    output = plain(D(value))
    assert output == text or D(output) == 0 == D(text)


@given(st.decimals("-1000000", "1000000", allow_nan=False, places=8))
def test_plain_text_is_always_the_same_number(value: Decimal) -> None:
    assert D(plain(value)) == value
    assert "E" not in plain(value)


# --- against the step ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sessions whose orders fill in parts, over attempts that are cancelled."""
    folder = tmp_path_factory.mktemp("replayed")
    assert Desk(write_tape(folder / "tape.csv", tape_rows(2, 120))).run(folder / "state").failure is None
    return folder / "state"


def test_every_order_of_a_replay_is_what_the_step_made_of_it(replayed: Path) -> None:
    watch, reader = Watch(), JournalReader(replayed / FILE)
    for entry in reader.entries():
        watch.see(decode_event(entry.payload), msgspec.json.decode(entry.effects))
    reader.close()
    quality = watch.quality()
    orders = {
        order.client_order_id: (order.purpose, order.quantity, order.status, order.filled, order.cost, order.fees)
        for order in quality.orders
    }
    expected = {
        row[0]: (row[2], row[6], row[8], row[9], D(row[10]), D(row[11])) for row in table(replayed, "orders")
    }  # client_order_id, purpose, quantity, status, filled, cost, fees_usd
    assert orders == expected
    assert len({row[2] for row in expected.values()}) > 1, "all ended in the same way"
    fills = table(replayed, "fills")
    assert sum(order.cost for order in quality.orders) == sum(D(row[6]) * row[5] for row in fills)
    assert quality.fees_usd == sum(D(row[7]) for row in fills)
    assert any(work.orders > 1 for work in quality.works)
    assert all(order.arrival is not None and order.arrival.source == "quote" for order in quality.orders)


def test_the_sessions_of_a_replay_hold_all_its_fills_between_them(replayed: Path) -> None:
    reader = JournalReader(replayed / FILE)
    dates = [
        msgspec.json.decode(row["payload"])["session"]["date"]
        for row in reader.query("SELECT payload FROM events WHERE kind = 'SessionScheduled'")
    ]
    days = [read_day(reader, find_session(reader, date)) for date in dates]
    assert find_session(reader).date == dates[-1]
    assert sum(o.filled for day in days for o in day.quality.orders) == sum(r[5] for r in table(replayed, "fills")) > 0
    assert sum(day.quality.fees_usd for day in days) == sum(D(row[7]) for row in table(replayed, "fills"))
    assert sum(count for day in days for *_, count in day.decisions) == len(table(replayed, "decisions"))
    assert [day.session.date for day in days] == dates
    with pytest.raises(JournalError, match="the session of 2031-01-02 is not in the journal"):
        find_session(reader, "2031-01-02")
    reader.close()


def test_the_sessions_of_a_daily_desk_hold_its_fills_and_know_each_price(tmp_path: Path) -> None:
    finished = rltraderd(
        *("--dry-run", "--strategy", "regime_switcher", "--bars", DAILY_TAPE, "--state-dir", tmp_path / "state"),
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY), "RLTRADER_PATHS__MODELS_DIR": str(REPOSITORY / "onnx_models")},
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    fills = table(tmp_path / "state", "fills")
    reader = JournalReader(tmp_path / "state" / FILE)
    fills_by_date = {
        msgspec.json.decode(row["payload"])["date"]
        for row in reader.query(
            "SELECT payload FROM events WHERE kind = 'PricesPrinted' AND time_ns IN (SELECT time_ns FROM fills)"
        )
    }
    days = [read_day(reader, find_session(reader, date)) for date in sorted(fills_by_date)]
    reader.close()
    orders = [order for day in days for order in day.quality.orders]
    assert sum(order.filled for order in orders) == sum(row[5] for row in fills) > 0
    assert sum(order.cost for order in orders) == sum(D(row[6]) * row[5] for row in fills)
    assert {order.arrival.source for order in orders if order.arrival} == {"close", "quote"}
    assert all((order.arrival.source == "close") == order.auction for order in orders if order.arrival)
    assert all(order.arrival for order in orders)


def test_ids_are_found_by_time_as_a_scan_finds_them(replayed: Path) -> None:
    reader = JournalReader(replayed / FILE)
    rows = [(row["id"], row["time_ns"]) for row in reader.query("SELECT id, time_ns FROM events ORDER BY id")]
    for _, time_ns in (rows[0], rows[len(rows) // 3], rows[len(rows) // 2], rows[-1]):
        for at in (time_ns - 1, time_ns, time_ns + 1):
            assert first_id(reader, at) == next((row for row, row_ns in rows if row_ns >= at), rows[-1][0] + 1)
    reader.close()


def test_a_stop_that_rests_is_an_order_once_it_sold_and_slips_by_nothing() -> None:
    """It was sent at 2.00 and sold at 1.10 because the price came there, which is no cost of trading."""
    feed, stop = Feed(), "e-option_scalper-8-2-0"
    feed.quote(0, "1.98", "2.02")
    stop_order = SubmitOrder(stop, CALL, -1, 3, D("0.55"), "sell_to_close", 0, stop_price=D("1.10"))
    feed.see(OrderAccepted(1 * MS, ENTRY), stop_order)
    feed.see(OrderAccepted(2 * MS, stop))
    assert feed.watch.quality() == Quality((), ())
    feed.fill(3, stop, "1.10", 3, 3, "3.30", side=-1)
    quality = feed.watch.quality()
    assert [(order.filled, order.average, order.arrival, order.slippage_usd) for order in quality.orders] == [
        (3, D("1.10"), None, None)
    ]
    assert [work.filled for work in quality.works] == [3]
