"""Trades in the journal: what becomes a round trip, its average prices, profit, excursions and reasons.

Prices and sums are computed by hand: an option's contract is 100 shares. A desk buys 9 calls at 2.00: 1,800 USD.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.limits import Broker, Risk, Sizing, Trading
from daemon.core.records import DecisionRow, FillRow, MoveRow, OrderRow, Row
from daemon.journal.journal import Journal
from daemon.journal.reader import JournalReader
from daemon.journal.rows import CommitBatch
from daemon.journal.trade import Trade
from daemon.journal.trades import TradeList, Wanted, day_begin, day_end, read_trades, trades_of_decision
from strategies.kit.quantity import whole_of
from tests.support.core.account import Account, agreed, at_broker, line
from tests.support.core.daily_desk import KEEP, DailyDesk
from tests.support.core.desk import (
    BUY_CALL,
    BUY_PUT,
    CALL,
    EXIT,
    HALF_DAY,
    MINUTE,
    MONDAY,
    PUT,
    TRIM_50,
    TUESDAY,
    Desk,
    desk,
    quote,
    sent,
)
from tests.support.core.others import ADOPT, IGNORE, closed_by_hand, holding

RIDE = Trading(sizing=Sizing(stop_loss=0.99, take_profit=9.0), risk=Risk(cooldown_trade_s=0, cooldown_loss_s=0))


def journal_of(folder: Path, *batches: list[Row]) -> Path:
    """A journal of these rows, each list in a transaction of its own."""
    folder.mkdir(exist_ok=True)
    path = folder / "journal.sqlite"
    journal = Journal.create(path, {})
    for rows in batches:
        batch = CommitBatch()
        batch.rows = rows
        journal.commit(batch)
    journal.close()
    return path


def found_in(path: Path, query: Wanted | None = None) -> TradeList:
    with closing(JournalReader(path)) as reader:
        return read_trades(reader, query or Wanted())


def trades_of(d: Desk | DailyDesk, folder: Path) -> tuple[Trade, ...]:
    """The desk's trades, oldest first."""
    return found_in(journal_of(folder, list(d.rows))).trades[::-1]


def sell(d: Desk, action: int, minute: int, price: str, fees: str = "0") -> None:
    """The answer's sale, wholly filled at `price`."""
    d.bar(minute)
    order = sent(d.answer(action))
    d.fill(order.client_order_id, order.quantity, price, fees=fees)


# --- one trade ----------------------------------------------------------------------------------------------------


def test_partial_fills_and_part_exits_are_one_trade_at_average_prices(tmp_path: Path) -> None:
    d = desk(RIDE)
    order = d.buys()
    d.fill(order, 4, "2.00", fees="0.10")
    d.fill(order, 9, cost="18.50", price="2.10", fees="0.30")  # 4 at 2.00 and 5 at 2.10: 1,850 USD
    sell(d, TRIM_50, 1, "2.20", "0.25")
    quantity = d.held[CALL]
    sell(d, EXIT, 2, "2.00", "0.15")
    (trade,) = trades_of(d, tmp_path)
    proceeds = (9 - quantity) * 220 + quantity * 200
    assert (trade.symbol, trade.contract, trade.right, trade.side) == ("SPY", CALL, "call", "long")
    assert (trade.quantity, trade.held, trade.fills) == (9, 0, 4)
    assert trade.entry_price == pytest.approx(1850 / 900)
    assert trade.exit_price == pytest.approx(proceeds / 900)
    assert trade.pnl_usd == pytest.approx(proceeds - 1850 - 0.70)
    assert trade.fees_usd == pytest.approx(0.70)
    assert trade.pnl_pct == pytest.approx(100 * (proceeds - 1850 - 0.70) / 1850)
    assert trade.pnl_usd == float(d.state.book.realized)
    assert (trade.entered_ns, trade.left_ns, trade.held_s) == (d.at(1), d.at(3), 120.0)
    assert (trade.why_entered, trade.entry_action, trade.entry_decision) == ("policy", "BUY_CALL", 1)
    assert (trade.why_left, trade.exit_action, trade.exit_decision) == ("policy", "EXIT", 3)
    assert trade.entry_confidence == pytest.approx(0.9)


def test_the_worst_and_the_best_profit_are_those_of_the_marks_seen_and_bars_are_counted(tmp_path: Path) -> None:
    d = desk(RIDE)
    d.holds()
    for minute, middle in enumerate((190, 230, 210), 1):  # 9 calls from 2.00: -90, +270, +90
        d.bar(minute, quotes=(quote(CALL, f"{middle - 2}e-2", f"{middle + 2}e-2"),))
    sold_at = sent(d.answer(EXIT))
    d.fill(sold_at.client_order_id, 9, "2.05")
    (trade,) = trades_of(d, tmp_path)
    assert (trade.worst_usd, trade.best_usd, trade.pnl_usd, trade.bars) == (-90.0, 270.0, 45.0, 3)
    assert (trade.worst_pct, trade.best_pct) == (-5.0, 15.0)


def test_a_stop_is_why_a_trade_was_left_and_the_last_fill_is_its_worst(tmp_path: Path) -> None:
    d = desk(Trading(sizing=Sizing(stop_loss=0.2)))
    d.holds()
    order = sent(d.bar(1, quotes=(quote(CALL, "1.50", "1.54"),)))
    d.fill(order.client_order_id, 9, "1.40")
    (trade,) = trades_of(d, tmp_path)
    assert (trade.why_left, trade.exit_action, trade.pnl_usd, trade.worst_usd) == (
        "stop_loss",
        "EXIT",
        -540.0,
        -540.0,
    )
    rule = next(row for row in d.rows if isinstance(row, DecisionRow) and row.kind == "rule")
    assert trade.exit_decision == rule.decision


def test_an_open_trade_has_its_profit_at_the_newest_mark(tmp_path: Path) -> None:
    """4 of 9 are sold 20 USD above their cost, 5 are marked 50 USD above it, then sold at it. Fees to a millionth."""
    d = desk(RIDE)
    d.fill(d.buys(), 9, "2.00", fees="0.900001")
    sell(d, TRIM_50, 1, "2.20", fees="0.40")
    d.bar(2, quotes=(quote(CALL, "2.48", "2.52"),))
    (tmp_path / "open").mkdir()
    trades = found_in(journal_of(tmp_path / "open", list(d.rows)), Wanted(open_only=True))
    (trade,), sums = trades.trades, trades.totals
    assert (trade.left_ns, trade.held, trade.why_left, trade.exit_decision) == (None, 5, "", None)
    assert (trade.pnl_usd, trade.realized_usd, trade.unrealized_usd) == (328.699999, 78.699999, 250.0)
    assert (sums.trades, sums.open, sums.open_usd, sums.open_fees_usd) == (0, 1, 328.699999, 1.300001)
    assert (sums.open_realized_usd, sums.open_unrealized_usd) == (78.699999, 250.0)
    assert (sums.pnl_usd, sums.fees_usd, sums.win_rate, sums.held_s) == (0.0, 0.0, None, None)
    d.fill(sent(d.answer(EXIT)).client_order_id, 5, "2.00", fees="0.000001")
    (trade,), sums = (trades := found_in(journal_of(tmp_path, list(d.rows)))).trades, trades.totals
    assert (trade.pnl_usd, trade.unrealized_usd, sums.pnl_usd, sums.fees_usd) == (78.699998, None, 78.699998, 1.300002)
    assert (sums.open, sums.open_usd, sums.open_realized_usd, sums.open_unrealized_usd) == (0, None, 0.0, None)


def test_a_journal_without_a_trade_has_sums_of_nothing(tmp_path: Path) -> None:
    path = journal_of(tmp_path, [])
    assert found_in(path) == found_in(path, Wanted(symbol="SPY", limit=1)) == TradeList()


def test_the_next_position_in_the_same_symbol_is_another_trade(tmp_path: Path) -> None:
    d = desk(RIDE)
    d.holds()
    sell(d, EXIT, 1, "2.10")
    d.holds(minute=2)
    sell(d, EXIT, 3, "1.90")
    assert [trade.pnl_usd for trade in trades_of(d, tmp_path)] == [90.0, -90.0]


# --- other ways out -----------------------------------------------------------------------------------------------


def test_an_option_that_expires_worthless_is_left_by_expiry_at_nothing(tmp_path: Path) -> None:
    d = desk(RIDE)
    d.holds()
    d.put(ev.ContractExpired(d.at(390), CALL, 9, "SPY", 0, Decimal(500)))
    (trade,) = trades_of(d, tmp_path)
    assert (trade.why_left, trade.exit_price, trade.pnl_usd, trade.fills) == ("expiry", 0.0, -1800.0, 1)


def test_an_exercise_ends_the_option_and_its_shares_are_a_trade_at_the_strike(tmp_path: Path) -> None:
    d = desk(Trading(broker=Broker(exercised_shares="hold")), cash="1000000")
    d.holds()
    count = whole_of(d.held[CALL])
    d.put(ev.ContractExpired(d.at(390), CALL, count, "SPY", 100 * count, Decimal(500)))
    option, shares = trades_of(d, tmp_path)
    assert (option.why_left, option.pnl_usd) == ("exercise", -200.0 * count)
    assert (shares.symbol, shares.contract, shares.quantity, shares.entry_price) == ("SPY", "", 100 * count, 500.0)
    assert (shares.why_entered, shares.left_ns, shares.entry_decision) == ("exercise", None, None)


def test_a_put_that_is_exercised_against_held_shares_loses_its_premium_and_they_gain() -> None:
    account = Account()
    account.positions = {"SPY": (100, Decimal(480)), PUT: (1, Decimal(2))}
    d = at_broker(account, Broker(foreign_orders="adopt", exercised_shares="hold"))
    d.put(ev.ContractExpired(d.at(390), PUT, 1, "SPY", -100, Decimal(500)))
    gains = {row.symbol: Decimal(row.realized_usd) for row in d.rows if isinstance(row, MoveRow)}
    assert gains == {PUT: Decimal(-200), "SPY": Decimal(2000)}


def test_a_line_of_the_ledger_names_an_assignment(tmp_path: Path) -> None:
    account = Account()
    d = holding(account, Broker(exercised_shares="hold"), 1)
    d.begin(TUESDAY, HALF_DAY.date)
    account.positions.pop(CALL)
    account.book(line("OPASN", CALL, -1))
    d.put(account.report(d.at(-0.5)))
    (trade,) = trades_of(d, tmp_path)
    assert (trade.why_left, trade.pnl_usd) == ("assignment", -200.0)


def test_a_position_closed_by_somebody_else_is_left_at_the_last_mark(tmp_path: Path) -> None:
    account = Account()
    d = holding(account, ADOPT)
    d.quotes(1, quote(CALL, "2.18", "2.22"), second=30)  # 9 x 20 USD above the cost
    closed_by_hand(d, account)
    (trade,) = trades_of(d, tmp_path)
    assert (trade.why_left, trade.pnl_usd) == ("taken_over", 180.0)
    assert trade.exit_price == pytest.approx(2.20)
    assert trade.exit_decision is None


def test_a_part_sold_by_somebody_else_is_a_part_exit(tmp_path: Path) -> None:
    account = Account()
    d = holding(account, IGNORE)
    name = account.by_hand("by-hand", CALL, -1, 4, d.at(2))
    d.put(account.fill(name, 4, "2.00", d.at(2)), account.report(d.at(2)), account.report(d.at(2, 10)))
    assert d.held == {CALL: 5}
    (trade,) = trades_of(d, tmp_path)
    assert (trade.quantity, trade.held, trade.left_ns) == (9, 5, None)


def test_accept_broker_opens_a_trade_at_the_broker_s_price(tmp_path: Path) -> None:
    account = Account()
    d = holding(account, Broker())
    account.positions[PUT] = (2, Decimal("1.50"))
    d.put(ev.AcceptBrokerRequested(d.at(2), "found it", "me"), account.report(d.at(2, 30)))
    assert d.held == {CALL: 9, PUT: 2}
    call, put = trades_of(d, tmp_path)
    assert (call.contract, call.quantity, call.why_entered) == (CALL, 9, "policy")
    assert (put.quantity, put.entry_price, put.why_entered) == (2, 1.5, "taken_over")


def test_what_is_taken_over_was_entered_at_its_mark_and_the_trade_s_figures_agree(tmp_path: Path) -> None:
    d = holding(account := Account(), ADOPT)
    d.quotes(1, quote(CALL, "2.18", "2.22"), second=30)
    account.positions[CALL] = (12, Decimal("2.10"))  # a person bought 3 at 2.40
    account.cash -= 720
    d.put(account.report(d.at(2)), account.report(d.at(2, 11)))
    for folder, has_ended in (("open", False), ("closed", True)):
        if has_ended:
            d.bar(3, quotes=(quote(CALL, "2.18", "2.22"),))
            order = sent(d.answer(EXIT)).client_order_id
            d.fill(order, 12, "2.20")
        (trade,) = trades_of(d, tmp_path / folder)
        assert (trade.quantity, trade.pnl_usd) == (12, 180)
        assert trade.entry_price == pytest.approx(2.05)  # 9 at 2.00 and 3 at the mark, 2.20
    assert trade.exit_price == pytest.approx(2.20)


@pytest.mark.parametrize("lines", [(60,), (-60, 120)])
def test_a_split_stays_one_trade_whose_entry_price_follows_it(lines: tuple[int, ...], tmp_path: Path) -> None:
    d = DailyDesk().fund().holds(AAA=60)
    d.begin(TUESDAY)
    d.state = replace(d.state, broker=replace(d.state.broker, began_ns=1, account="A"))
    activities = tuple(line("SPLIT", "AAA", count) for count in lines)
    positions = (ev.BrokerPosition("AAA", Decimal(120), Decimal(50)),)
    now = d.state.now_ns
    d.put(ev.BrokerReported(now, now, "A", d.state.book.cash, "", positions, (), (), (), activities))
    (trade,) = trades_of(d, tmp_path)
    assert (trade.quantity, trade.held, trade.entered_usd, trade.entry_price) == (120, 120, 6000.0, 50.0)


def test_a_new_name_ends_the_trade_at_cost_and_begins_another_one(tmp_path: Path) -> None:
    d = DailyDesk().fund().holds(AAA=60)
    d.begin(TUESDAY)
    d.state = replace(d.state, broker=replace(d.state.broker, began_ns=1, account="A"))
    positions = (ev.BrokerPosition("CCC", Decimal(60), Decimal(100)),)
    now = d.state.now_ns
    activities = (line("NC", "AAA", -60), line("NC", "CCC", 60))
    d.put(ev.BrokerReported(now, now, "A", d.state.book.cash, "", positions, (), (), (), activities))
    old, new = trades_of(d, tmp_path)
    assert (old.symbol, old.why_left, old.pnl_usd) == ("AAA", "corporate_action", 0.0)
    assert (new.symbol, new.entered_usd, new.why_entered, new.held) == ("CCC", 6000.0, "corporate_action", 60)


def test_fees_and_dividends_of_the_ledger_are_in_no_trade_but_in_the_sums(tmp_path: Path) -> None:
    account = Account()
    d = holding(account, Broker())
    account.book(line("FEE", amount="-0.31"))
    account.book(line("DIV", "SPY", amount="2.50"))
    agreed(d, account, 2)
    path = journal_of(tmp_path, list(d.rows))
    trades = found_in(path)
    assert (len(trades.trades), trades.totals.other_usd) == (1, 2.19)
    (at_ns,) = {row.time_ns for row in d.rows if isinstance(row, MoveRow) and not row.opened_ns}
    for query, other in (
        (Wanted(start_ns=at_ns, end_ns=at_ns), 2.19),
        (Wanted(start_ns=at_ns + 1), 0.0),
        (Wanted(end_ns=at_ns - 1), 0.0),
        *[(one, 0.0) for one in (Wanted(symbol="SPY"), Wanted(side="long"), Wanted(result="win"))],
        (Wanted(open_only=True), 0.0),
    ):
        assert found_in(path, query).totals.other_usd == other


def test_a_correction_after_the_end_is_in_no_trade(tmp_path: Path) -> None:
    d = desk(RIDE)
    d.holds()
    d.bar(1)
    sale = sent(d.answer(EXIT)).client_order_id
    d.fill(sale, 9, "2.10")
    d.fill(sale, 9, cost="18.00", correction=1)  # 90 USD less than reported
    trades = found_in(journal_of(tmp_path, list(d.rows)))
    assert (trades.trades[0].pnl_usd, trades.totals.pnl_usd, trades.totals.other_usd) == (90.0, 90.0, -90.0)
    d.bar(2)
    again = sent(d.answer(BUY_CALL))
    d.fill(again.client_order_id, again.quantity, "2.00")
    d.fill(sale, 9, cost="17.10", correction=2)  # and 90 USD less, while the same contract is held again
    trades = found_in(journal_of(tmp_path / "later", list(d.rows)))
    assert ([trade.pnl_usd for trade in trades.trades], trades.totals.other_usd) == ([0.0, 90.0], -180.0)


def test_a_purchase_that_is_taken_back_was_never_entered_and_is_no_exit(tmp_path: Path) -> None:
    d = desk(RIDE)
    order = d.buys()
    d.fill(order, 4, "2.00")
    d.fill(order, 9, cost="18.50", price="2.10")
    d.fill(order, 4, "2.00", correction=1)  # the 5 at 2.10 are busted
    (trade,) = trades_of(d, tmp_path)
    assert (trade.quantity, trade.held, trade.entry_price, trade.entered_usd, trade.exit_price) == (4, 4, 2, 800, None)


@pytest.mark.parametrize("older", [False, True])
def test_a_sale_that_is_taken_back_is_neither_an_exit_nor_another_entry(older: bool, tmp_path: Path) -> None:
    d = desk(RIDE)
    d.holds()
    d.bar(1)
    sale = sent(d.answer(TRIM_50))
    d.fill(sale.client_order_id, 4, "2.50")
    if older:  # an order of an earlier session: a line of the ledger says when it was filled
        bust = replace(line("AMENDED_FILL", CALL, 4, "-1000", status=""), order="e1-pointer-0-0-0", side=-1)
        d.put(ev.LedgerBooked(d.state.now_ns, (replace(bust, filled_ns=d.at(1)),)))
    else:
        d.fill(sale.client_order_id, 0, cost="0", correction=1)
    sell(d, EXIT, 2, "3.00")
    (trade,) = trades_of(d, tmp_path)
    assert (trade.quantity, trade.entry_price, trade.exit_price, trade.pnl_usd, trade.pnl_pct) == (9, 2, 3, 900, 50)


def test_a_price_of_a_sale_that_is_corrected_on_a_later_day_is_its_trades(tmp_path: Path) -> None:
    d = desk(RIDE)
    d.holds()
    sell(d, TRIM_50, 1, "2.50")
    less = replace(line("AMENDED_FILL", CALL, 0, "-40", status=""), order="e1-pointer-0-0-0", side=-1)
    d.put(ev.LedgerBooked(d.state.now_ns, (replace(less, filled_ns=d.at(2)),)))  # 4 x 100 x 0.10 USD less
    sell(d, EXIT, 2, "3.00")
    trades = found_in(journal_of(tmp_path, list(d.rows)))
    (trade,) = trades.trades
    assert (trade.pnl_usd, trades.totals.other_usd) == (660, 0)
    assert trade.exit_price == pytest.approx(2460 / 900)


def test_a_clock_led_back_over_the_entry_goes_on_as_another_trade_at_cost(tmp_path: Path) -> None:
    d = desk(RIDE, mode="live")
    d.state = replace(d.state, risk=replace(d.state.risk, reconciled=True))
    d.holds()
    d.put(ev.ClockReset(d.at(0.5), "broker", "me"))
    old, new = sorted(trades_of(d, tmp_path), key=lambda trade: trade.held)
    assert (old.why_left, old.pnl_usd, old.exit_price) == ("clock_reset", 0.0, 2.0)
    assert (new.why_entered, new.held, new.entry_price) == ("clock_reset", 9, 2.0)


# --- the journal --------------------------------------------------------------------------------------------------


def a_day(action: int = BUY_CALL) -> Desk:
    """Two trades on Monday, +90 and −180 USD, and one from Tuesday on that is open."""
    d = desk(RIDE)
    d.holds(action)
    sell(d, EXIT, 1, "2.10")
    d.holds(BUY_PUT, minute=2)
    sell(d, EXIT, 4, "1.80")
    d.begin(TUESDAY, HALF_DAY.date)
    d.bar(0)
    order = sent(d.answer(BUY_PUT))
    d.fill(order.client_order_id, order.quantity)
    return d


def test_many_transactions_give_the_same_trades_as_one(tmp_path: Path) -> None:
    rows = list(a_day().rows)
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    whole = found_in(journal_of(tmp_path / "one", rows))
    assert found_in(journal_of(tmp_path / "many", *([row] for row in rows))) == whole
    assert [trade.pnl_usd for trade in whole.trades if trade.left_ns] == [-180.0, 90.0]


def test_filters_sorts_and_sums(tmp_path: Path) -> None:
    path = journal_of(tmp_path, list(a_day().rows))
    monday = {"start_ns": day_begin(MONDAY.date), "end_ns": day_end(MONDAY.date)}

    def profits(**fields: object) -> list[float | None]:
        return [trade.pnl_usd for trade in found_in(path, Wanted(**fields)).trades]  # type: ignore[arg-type]

    assert profits(**monday) == [-180.0, 90.0]
    assert profits(**monday, sort="pnl") == [90.0, -180.0]
    assert profits(**monday, sort="duration") == [-180.0, 90.0]
    assert profits(result="win") == profits(side="call") == profits(symbol=CALL) == [90.0]
    assert profits(result="loss") == [-180.0]
    assert profits(side="put") == profits(limit=2) == profits()[:2]
    assert profits(symbol="SPY") == profits() == profits(side="long")
    assert profits(symbol="SP") == profits(side="short") == []
    assert (profits(limit=1, offset=1), profits(start_ns=day_begin(TUESDAY.date))) == (
        [-180.0],
        profits(open_only=True),
    )
    totals = found_in(path, Wanted(limit=1)).totals
    assert (totals.trades, totals.wins, totals.losses, totals.open) == (2, 1, 1, 1)
    assert (totals.win_rate, totals.profit_factor, totals.expectancy_usd) == (0.5, 0.5, -45.0)
    assert (totals.pnl_usd, totals.held_s) == (-90.0, 90.0)
    won, losses = (found_in(path, Wanted(result=result)).totals for result in ("win", "loss"))
    assert (won.wins, won.losses, won.profit_factor, won.pnl_usd) == (1, 0, None, 90.0)
    assert (losses.wins, losses.losses, losses.profit_factor, losses.pnl_usd) == (0, 1, 0.0, -180.0)


@pytest.mark.parametrize(
    ("day", "begin", "end"),
    [
        ("2024-07-01", MONDAY.open_ns - 570 * MINUTE, MONDAY.open_ns + 870 * MINUTE - 1),
        ("", 0, 2**63 - 1),
        ("0001-01-01", 0, -1),
        ("9999-12-31", 2**63 - 1, 2**63 - 1),
    ],
)
def test_a_day_is_new_york_s_and_any_day_is_a_time_that_sqlite_holds(day: str, begin: int, end: int) -> None:
    assert (day_begin(day), day_end(day)) == (begin, end)


def test_the_trades_of_a_decision_are_those_that_it_changed_the_largest_first(tmp_path: Path) -> None:
    d = DailyDesk().fund().holds(AAA=60, BBB=20)  # by the first decision, at 100.00
    d.begin(TUESDAY)
    d.due()
    d.fill(sent(d.answer(50, KEEP, KEEP)).client_order_id, 10, "101")
    d.quotes(0, AAA="101", BBB="96")  # +60 and −80 USD
    with closing(JournalReader(journal_of(tmp_path, list(d.rows)))) as reader:
        rows = [trades_of_decision(reader, *key) for key in ((1, 9), (1, 1), (2, 9), (3, 9))]
    assert [[(trade.symbol, trade.pnl_usd) for trade in trades] for trades in rows] == [
        [("BBB", -80.0), ("AAA", 60.0)],
        [("BBB", -80.0)],
        [("AAA", 60.0)],
        [],
    ]


def test_the_view_of_the_journal_has_the_same_trades_for_plain_sql(tmp_path: Path) -> None:
    path = journal_of(tmp_path, list(a_day().rows))
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT symbol, pnl_usd, why_left FROM trades WHERE left_ns > 0 ORDER BY left_ns").fetchall()
    assert [(row[1], row[2]) for row in rows] == [(90.0, "policy"), (-180.0, "policy")]
    assert rows[0][0] == CALL


def older(path: Path) -> None:
    """Take away what a release before trades did not write."""
    with closing(sqlite3.connect(path)) as db:
        for statement in ("DROP VIEW trades", "DROP TABLE moves", "DROP TABLE round_trips"):
            db.execute(statement)


def test_an_older_journal_s_trades_follow_from_its_fills_and_go_on_when_it_does(tmp_path: Path) -> None:
    d = a_day()
    path = journal_of(tmp_path, [row for row in d.rows if isinstance(row, DecisionRow | OrderRow | FillRow)])
    older(path)
    fills = found_in(path)
    assert [(trade.pnl_usd, trade.worst_usd, trade.bars) for trade in fills.trades[1:]] == [
        (-180.0, None, None),
        (90.0, None, None),
    ]
    assert (fills.trades[0].pnl_usd, fills.trades[0].held, fills.totals.open_usd) == (
        None,
        d.held[fills.trades[0].contract],
        None,
    )
    assert fills.trades[1].entry_action == "BUY_PUT"

    before = len(d.rows)
    d.bar(1)
    order = sent(d.answer(EXIT))
    d.fill(order.client_order_id, order.quantity, "2.30")
    journal = Journal(path)
    batch = CommitBatch()
    batch.rows = d.rows[before:]
    journal.commit(batch)
    journal.close()
    trades = found_in(path)
    assert trades.trades[1:] == fills.trades[1:]
    last = trades.trades[0]
    assert (last.held, last.pnl_usd, last.why_entered, last.why_left) == (0, 30.0 * last.quantity, "policy", "policy")
    assert last.held_s == MINUTE / 1e9


def test_an_older_journal_s_fees_are_paid_and_a_sale_of_what_its_fills_never_bought_is_left_out(tmp_path: Path) -> None:
    at = MONDAY.open_ns
    rows: list[Row] = [
        FillRow("x", 0, 1, CALL, -1, 1, "2.00", "0.05", at, at),
        FillRow("a", 0, 1, PUT, 1, 1, "1.00", "0.04", at + 1, at + 1),
        FillRow("a", 0, 2, PUT, 1, 1, "1.00", "0.06", at + 2, at + 2),
        FillRow("b", 0, 2, PUT, -1, 2, "1.50", "0.20", at + 3, at + 3),
    ]
    path = journal_of(tmp_path, rows)
    older(path)
    trades = found_in(path)
    # 2 x 100 x 0.50 less 0.04 + 0.06 + 0.20 of fees
    assert [(trade.contract, trade.quantity, trade.pnl_usd) for trade in trades.trades] == [(PUT, 2, 99.7)]
    assert (trades.totals.fees_usd, trades.totals.other_usd) == (0.3, 0.0)
