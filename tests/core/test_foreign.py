"""Orders and positions of others under each of the three settings: what is booked, what is told, what halts.

Money in the comments is computed by hand: 100 shares a contract.
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import CancelOrder, SubmitOrder
from daemon.core.limits import Broker, Sizing, Trading
from daemon.core.orders import CANCELED, FILLED, PARTIAL
from strategies.contract import Session
from tests.core.account import Account, agreed, at_broker
from tests.core.desk import (
    BUY_CALL,
    CALL,
    DAY,
    EXIT,
    MINUTE,
    OPEN,
    PUT,
    SECOND,
    TUESDAY,
    Desk,
    alarms,
    of,
    quote,
    sent,
)

HALT, ADOPT, IGNORE = Broker(), Broker(foreign_orders="adopt"), Broker(foreign_orders="ignore")
RULES = {"halt": HALT, "adopt": ADOPT, "ignore": IGNORE}


def holding(account: Account, broker: Broker, count: int = 9) -> Desk:
    """A desk that bought calls at 2.00 at this account."""
    sizing = Sizing(max_contracts=count, stop_loss=0.99, take_profit=9.0)
    d = at_broker(account, trading=Trading(broker=broker, sizing=sizing))
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.put(account.fill(name, count, "2.00", d.at(1)))
    agreed(d, account, 1, 5)
    return d


def gain(d: Desk) -> Decimal:
    """What the loss limits see: equity against the session's start, transfers left out."""
    book = d.state.book
    return book.equity - book.session_start_equity - book.transfers


# --- a new journal ------------------------------------------------------------------------------------------------


def used() -> Account:
    """An account with 2 puts at 1.50, and an order for 4 calls of which one is filled at 2.00."""
    account = Account()
    for name, symbol, quantity in (("ann-1", PUT, 2), ("ann-2", CALL, 4)):
        account.by_hand(name, symbol, 1, quantity, OPEN - 3600 * SECOND)
    account.fill("ann-1", 2, "1.50", OPEN - 3000 * SECOND)
    account.fill("ann-2", 1, "2.00", OPEN - 3000 * SECOND)
    return account


def test_under_halt_a_new_journal_does_not_begin_on_an_account_that_is_used() -> None:
    d = at_broker(used(), HALT)
    assert (d.halted(), d.state.risk.reconciled, d.state.book.cash) == ("foreign_order", False, Decimal(0))
    for named in (PUT, CALL, "ann-2"):
        assert named in str(d.state.risk.halt)


def test_under_halt_a_new_journal_begins_once_the_account_is_empty() -> None:
    account = used()
    d = at_broker(account, HALT)
    account.end("ann-2")
    account.by_hand("ann-3", PUT, -1, 2, OPEN)
    account.fill("ann-3", 2, "1.60", OPEN)
    account.by_hand("ann-4", CALL, -1, 1, OPEN)
    account.fill("ann-4", 1, "2.00", OPEN)
    agreed(d, account, 1)
    assert (d.halted(), d.state.book.cash) == ("foreign_order", Decimal(10020))  # until a person resumes


def test_under_ignore_a_new_journal_leaves_what_it_met_to_its_owner() -> None:
    d = at_broker(account := used(), IGNORE)
    assert (d.held, d.state.broker.foreign_held) == ({}, {PUT: 2, CALL: 1})
    assert (d.state.book.cash, d.state.book.equity, d.state.risk.reconciled) == (Decimal(9500), Decimal(9500), True)
    d.put(account.fill("ann-2", 3, "2.10", d.at(1)))  # not ours: the stream tells the order itself
    d.put(account.found("ann-2", d.at(1)))
    agreed(d, account, 2)
    assert d.state.broker.foreign_held == {PUT: 2, CALL: 4}
    assert (d.state.book.transfers, gain(d)) == (Decimal(-630), Decimal(0))


def test_under_adopt_a_new_journal_takes_over_what_it_met_and_counts_it_once() -> None:
    d = at_broker(account := used(), ADOPT)
    assert d.held == {PUT: 2, CALL: 1}
    book = d.state.book
    assert (book.cash, book.equity, book.peak, book.session_start_equity) == (Decimal(9500), *(Decimal(10000),) * 3)
    account.fill("ann-2", 3, "2.10", d.at(1))
    d.put(account.found("ann-2", d.at(1)))
    agreed(d, account, 2)
    assert (d.held, d.order("ann-2").status, d.halted()) == ({PUT: 2, CALL: 4}, FILLED, "")
    (leave,) = [e for e in of(d.effects, SubmitOrder) if e.symbol == PUT]  # the desk's own now: held overnight
    assert (leave.side, leave.quantity, leave.intent) == (-1, 2, "sell_to_close")


# --- orders -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["new", "partially_filled", "filled"])
def test_under_halt_somebody_else_s_order_halts_and_is_named(status: str) -> None:
    d = at_broker(account := Account(), HALT)
    account.by_hand("ann-1", CALL, 1, 2, d.at(0))
    if status != "new":
        account.fill("ann-1", 2 if status == "filled" else 1, "2.00", d.at(0))
    d.put(account.found("ann-1", d.at(1)))
    assert (d.halted(), d.held, d.state.book.cash) == ("foreign_order", {}, Decimal(10000))
    assert "ann-1" in str(d.state.risk.halt)


@pytest.mark.parametrize("rule", RULES)
def test_an_order_that_ended_before_the_journal_began_or_without_a_fill_means_nothing(rule: str) -> None:
    account = Account()
    account.by_hand("ann-1", CALL, 1, 2, OPEN - 3600 * SECOND)
    account.fill("ann-1", 2, "2.00", OPEN - 3600 * SECOND)
    account.by_hand("ann-2", CALL, -1, 2, OPEN - 3600 * SECOND)
    account.fill("ann-2", 2, "2.00", OPEN - 3600 * SECOND)
    d = at_broker(account, RULES[rule])
    agreed(d, account, 1)
    assert (d.halted(), alarms(d.effects), d.state.broker.foreign) == ("", [], {})
    account.by_hand("ann-3", CALL, 1, 2, d.at(2))
    account.end("ann-3")
    d.put(account.found("ann-3", d.at(2)))
    assert (d.halted(), d.held) == ("", {})


def test_under_ignore_the_fills_of_others_are_counted_beside_and_their_cash_is_a_transfer() -> None:
    d = holding(account := Account(), IGNORE, count=5)
    account.by_hand("ann-1", CALL, 1, 3, d.at(1))
    for _ in range(2):
        d.put(account.found("ann-1", d.at(1, 10)))
    assert alarms(d.effects) == ["foreign_order"]
    account.fill("ann-1", 2, "2.00", d.at(1))
    d.put(account.found("ann-1", d.at(1, 20)))
    older = account.orders["ann-1"]
    account.fill("ann-1", 1, "2.30", d.at(1))
    d.put(account.found("ann-1", d.at(1, 30)), ev.OrderFound(d.at(1, 31), older))  # an old answer turns nothing back
    # 2 x 200 + 230 went out with somebody else's 3 calls
    assert (d.held, d.state.broker.foreign_held) == ({CALL: 5}, {CALL: 3})
    assert (d.state.book.transfers, gain(d), d.state.book.realized) == (Decimal(-630), Decimal(0), Decimal(0))
    agreed(d, account, 2)
    d.bar(2)
    assert sent(d.answer(EXIT)).quantity == 5  # never what is not the desk's


def test_under_ignore_the_sale_of_what_lies_beside_leaves_the_desk_s_own_alone() -> None:
    d = holding(account := Account(), IGNORE)
    for name, side in (("ann-1", 1), ("ann-2", -1)):
        account.by_hand(name, CALL, side, 2, d.at(1))
        account.fill(name, 2, "2.00", d.at(1))
    agreed(d, account, 2)
    assert (d.held, d.state.broker.foreign_held, d.halted()) == ({CALL: 9}, {}, "")


@pytest.mark.parametrize(("beside", "sold", "left"), [(0, 9, 0), (0, 4, 5), (2, 4, 7)])
def test_under_ignore_a_hand_sale_of_the_desk_s_own_never_goes_unnoticed(beside: int, sold: int, left: int) -> None:
    d = holding(account := Account(), IGNORE)
    if beside:
        account.by_hand("ann-1", CALL, 1, beside, d.at(1))
        account.fill("ann-1", beside, "2.00", d.at(1))
        agreed(d, account, 1, 30)
    account.by_hand("ann-2", CALL, -1, sold, d.at(2))
    account.fill("ann-2", sold, "2.40", d.at(2))
    d.put(account.found("ann-2", d.at(2)))
    assert (d.halted(), d.held) == ("foreign_order", {CALL: left} if left else {})
    assert "sold what this desk holds" in str(d.state.risk.halt)
    assert (d.state.book.cash, d.state.broker.foreign_held, gain(d)) == (account.cash, {}, Decimal(0))
    agreed(d, account, 3)
    assert of(d.tick(3, 1), SubmitOrder) == []


def test_under_ignore_an_answer_that_tells_no_price_yet_counts_nothing() -> None:
    d = holding(account := Account(), IGNORE)
    account.by_hand("ann-1", CALL, 1, 3, d.at(1))
    account.fill("ann-1", 3, "2.00", d.at(1))
    d.put(ev.OrderFound(d.at(2), replace(account.orders["ann-1"], average_price=None)))
    assert d.state.broker.foreign_held == {}
    agreed(d, account, 3)


def test_under_ignore_shares_of_another_company_count_once_each() -> None:
    d = at_broker(account := Account(), IGNORE)
    account.by_hand("ann-1", "AAPL", 1, 10, d.at(0))
    account.fill("ann-1", 10, "220.15", d.at(0))
    agreed(d, account, 1)
    assert (d.state.broker.foreign_held, d.state.book.cash) == ({"AAPL": 10}, Decimal("7798.50"))


def test_under_adopt_somebody_else_s_purchase_becomes_the_desk_s_and_its_order_is_left_to_its_owner() -> None:
    d = at_broker(account := Account(), ADOPT)
    account.by_hand("ann-1", CALL, 1, 3, d.at(0))
    account.fill("ann-1", 1, "2.00", d.at(0))
    for second in (0, 1):
        d.put(account.found("ann-1", d.at(1, second)))
    assert (alarms(d.effects), d.held, d.order("ann-1").status) == (["foreign_order"], {CALL: 1}, PARTIAL)
    account.fill("ann-1", 1, "2.10", d.at(1))
    account.end("ann-1")
    agreed(d, account, 2)
    assert (d.held, d.order("ann-1").status) == ({CALL: 2}, CANCELED)
    assert of(d.effects, CancelOrder) == []
    assert d.state.book.cash == Decimal(9590)


def test_under_adopt_an_order_said_filled_with_other_figures_still_works() -> None:
    d = at_broker(account := Account(), ADOPT)
    account.by_hand("ann-1", CALL, 1, 3, d.at(0))
    account.fill("ann-1", 1, "2.00", d.at(0))
    account.end("ann-1", "filled")
    d.put(account.found("ann-1", d.at(1)))
    assert (d.order("ann-1").status, d.held) == (PARTIAL, {CALL: 1})


def test_under_adopt_an_old_answer_about_an_adopted_order_changes_nothing() -> None:
    d = at_broker(account := Account(), ADOPT)
    account.by_hand("ann-1", CALL, 1, 3, d.at(0))
    older = account.orders["ann-1"]
    account.fill("ann-1", 2, "2.00", d.at(0))
    d.put(account.found("ann-1", d.at(1)), ev.OrderFound(d.at(1, 1), replace(older, status="canceled")))
    assert (d.order("ann-1").status, d.held) == (PARTIAL, {CALL: 2})


@pytest.mark.parametrize(("symbol", "quantity"), [("AAPL", "10"), ("SPY", "0.5")])
def test_under_adopt_what_the_desk_cannot_hold_is_refused(symbol: str, quantity: str) -> None:
    d = at_broker(account := Account(), ADOPT)
    account.by_hand("ann-1", symbol, 1, 10, d.at(0))
    d.put(ev.OrderFound(d.at(1), replace(account.orders["ann-1"], quantity=Decimal(quantity))))
    assert (d.halted(), d.held) == ("foreign_order", {})
    assert "cannot hold" in str(d.state.risk.halt)


def test_under_adopt_a_sale_that_is_told_before_its_purchase_waits_for_the_report() -> None:
    d = at_broker(account := Account(), ADOPT)
    for name, side in (("ann-1", 1), ("ann-2", -1)):
        account.by_hand(name, CALL, side, 2, d.at(0))
        account.fill(name, 2, "2.00", d.at(0))
    d.put(account.found("ann-2", d.at(1)))
    assert (d.halted(), d.held, d.state.risk.reconciled) == ("", {}, False)
    agreed(d, account, 2)
    assert (d.held, d.state.book.cash) == ({}, Decimal(10000))


def test_under_adopt_a_hand_sale_of_more_than_is_held_is_taken_over_from_the_positions_and_bought_back() -> None:
    d = holding(account := Account(), ADOPT)
    account.by_hand("ann-1", CALL, -1, 10, d.at(1))
    account.fill("ann-1", 10, "2.00", d.at(1))
    d.put(account.found("ann-1", d.at(2)))
    assert (d.halted(), d.held, d.state.risk.reconciled) == ("", {CALL: 9}, False)
    account.positions[CALL] = (-1, Decimal("2.00"))
    d.put(account.report(d.at(2, 10)), account.report(d.at(2, 20)))
    assert ("position_changed" in alarms(d.effects), d.held, gain(d)) == (True, {CALL: -1}, Decimal(0))


# --- positions ----------------------------------------------------------------------------------------------------


def closed_by_hand(d: Desk, account: Account, price: str = "2.40") -> None:
    """Somebody closed all at `price`, and the report's orders do not show how."""
    quantity, _ = account.positions.pop(CALL)
    account.cash += quantity * Decimal(price) * 100
    d.put(account.report(d.at(2)), account.report(d.at(2, 10)))


def test_incident_4_under_halt_a_position_closed_by_hand_halts_and_is_named() -> None:
    d = holding(account := Account(), HALT)
    closed_by_hand(d, account)
    assert (d.halted(), d.held) == ("reconciliation", {CALL: 9})
    assert f"{CALL}: broker 0, book 9" in str(d.state.risk.halt)


@pytest.mark.parametrize("rule", ["adopt", "ignore"])
def test_incident_4_a_position_closed_by_hand_is_noticed_told_and_no_gain(rule: str) -> None:
    d = holding(account := Account(), RULES[rule])
    d.quotes(1, quote(CALL, "2.18", "2.22"), second=30)  # 9 x 20 USD above the cost
    assert gain(d) == Decimal(180)
    closed_by_hand(d, account)
    assert "position_changed" in alarms(d.effects)
    assert (d.held, d.state.book.cash, d.halted()) == ({}, Decimal(10360), "")
    # up to the last mark it was the desk's gain, the rest is the other's doing
    assert (gain(d), d.state.book.realized, d.state.book.transfers) == (Decimal(180), Decimal(180), Decimal(180))
    agreed(d, account, 3)
    d.bar(3)
    assert sent(d.answer(BUY_CALL)).quantity == 9


def test_under_halt_a_position_opened_by_hand_halts_and_moves_no_money() -> None:
    d = holding(account := Account(), HALT)
    account.positions[PUT] = (2, Decimal("1.50"))
    account.cash -= 300
    d.put(account.report(d.at(2)), account.report(d.at(2, 10)))
    assert (d.halted(), d.held, d.state.book.cash) == ("reconciliation", {CALL: 9}, Decimal(8200))


def test_under_ignore_a_position_opened_by_hand_is_held_beside() -> None:
    d = holding(account := Account(), IGNORE)
    account.positions[PUT] = (2, Decimal("1.50"))
    account.positions["AAPL"] = (-5, Decimal(200))
    account.cash += 700
    d.put(account.report(d.at(2)), account.report(d.at(2, 10)))
    assert (d.held, d.state.broker.foreign_held) == ({CALL: 9}, {PUT: 2, "AAPL": -5})
    assert gain(d) == 0
    agreed(d, account, 3)
    account.positions[CALL] = (11, Decimal(2))
    account.cash -= 400
    d.put(account.report(d.at(4)), account.report(d.at(4, 10)))
    assert (d.held, d.state.broker.foreign_held[CALL]) == ({CALL: 9}, 2)
    agreed(d, account, 5)


def test_under_ignore_a_part_of_the_desk_s_own_that_is_gone_leaves_the_rest_at_its_cost() -> None:
    d = holding(account := Account(), IGNORE)
    account.positions[CALL] = (4, Decimal(2))
    account.cash += 1000
    d.put(account.report(d.at(2)), account.report(d.at(2, 10)))
    position = d.state.book.positions[CALL]
    assert (position.quantity, position.cost, d.state.broker.foreign_held) == (4, Decimal(8), {})
    agreed(d, account, 3)


def test_under_adopt_a_position_opened_by_hand_becomes_the_desk_s_at_the_broker_s_cost() -> None:
    d = holding(account := Account(), ADOPT, count=1)
    account.positions[PUT] = (2, Decimal("1.50"))
    account.positions[CALL] = (3, Decimal("2.10"))
    account.cash -= 730
    d.put(account.report(d.at(2)), account.report(d.at(2, 10)))
    put, call = d.state.book.positions[PUT], d.state.book.positions[CALL]
    assert (put.quantity, put.cost, put.right, put.opened_ns) == (2, Decimal("3.00"), -1, d.at(2, 10))
    assert (call.quantity, call.cost, call.opened_ns) == (3, Decimal("6.30"), d.at(1))
    assert gain(d) == 0
    agreed(d, account, 3)


@pytest.mark.parametrize("rule", ["adopt", "ignore"])
def test_a_fraction_of_a_share_stays_a_difference_and_halts(rule: str) -> None:
    d = at_broker(account := Account(), RULES[rule])
    half = ev.BrokerPosition("SPY", Decimal("0.5"), Decimal(500))
    for second in (0, 10, 20):
        d.put(replace(account.report(d.at(1, second)), positions=(half,)))
    assert (d.halted(), d.held, alarms(d.effects)) == ("reconciliation", {}, ["reconciliation"])


def test_under_adopt_shares_of_another_company_stay_a_difference_because_nothing_marks_them() -> None:
    d = at_broker(account := Account(), ADOPT)
    account.positions["AAPL"] = (10, Decimal(200))
    d.put(account.report(d.at(1)), account.report(d.at(1, 10)))
    assert (d.halted(), d.held) == ("reconciliation", {})


def test_under_adopt_cash_that_nothing_explains_is_a_transfer_and_told() -> None:
    d = at_broker(account := Account(), ADOPT)
    account.cash += 2500
    d.put(account.report(d.at(1)))
    assert alarms(d.put(account.report(d.at(1, 10)))) == ["position_changed"]
    assert (d.state.book.transfers, gain(d)) == (Decimal(2500), Decimal(0))
    agreed(d, account, 2)


def test_under_ignore_cash_that_nothing_explains_halts() -> None:
    d = at_broker(account := Account(), IGNORE)
    account.cash += 2500
    d.put(account.report(d.at(1)), account.report(d.at(1, 10)))
    assert d.halted() == "reconciliation"


def test_shares_sold_short_by_hand_and_adopted_are_bought_back_in_parts() -> None:
    d = at_broker(account := Account("60000"), ADOPT)
    account.positions["SPY"] = (-100, Decimal(500))
    account.cash += 50_000
    d.put(account.report(d.at(1)), account.report(d.at(1, 10)))
    (cover,) = of(d.effects, SubmitOrder)
    assert (cover.symbol, cover.side, cover.quantity, cover.limit_price) == ("SPY", 1, 100, None)
    assert cover.intent == "buy_to_close"
    name = account.take(cover, d.state.now_ns)
    d.put(account.fill(name, 40, "499.00", d.at(2)))
    assert (d.held, d.state.book.realized) == ({"SPY": -60}, Decimal(0))
    d.put(account.fill(name, 60, "498.00", d.at(2, 1)))
    # sold at 500.00, bought 40 at 499.00 and 60 at 498.00
    assert (d.held, d.state.book.realized) == ({}, Decimal(160))
    agreed(d, account, 3)


def test_a_sale_against_what_is_owed_is_seen_in_the_positions_alone() -> None:
    d = at_broker(account := Account("60000"), ADOPT)
    account.positions["SPY"] = (-100, Decimal(500))
    account.cash += 50_000
    d.put(account.report(d.at(-1)), account.report(d.at(-1, 10)))
    account.by_hand("ann-1", "SPY", -1, 10, d.at(1))
    account.fill("ann-1", 10, "500.00", d.at(1))
    d.put(account.found("ann-1", d.at(1)))
    assert (d.halted(), d.held, d.state.risk.reconciled) == ("", {"SPY": -100}, False)


def test_a_restart_forgets_nothing_of_what_is_beside() -> None:
    d = holding(account := Account(), IGNORE)
    account.by_hand("ann-1", PUT, 1, 2, d.at(1))
    account.fill("ann-1", 2, "1.50", d.at(1))
    agreed(d, account, 2)
    d.put(ev.RunStarted(d.at(2, 30), "live", "desk-1", "pointer", "e1", "c", "sip", d.state.trading))
    assert not d.state.risk.reconciled
    agreed(d, account, 3)
    assert (d.state.broker.foreign_held, len(d.state.broker.foreign)) == ({PUT: 2}, 1)
    assert d.state.now_ns == OPEN + 3 * MINUTE


def test_what_was_ignored_stays_beside_when_the_setting_changes_until_a_difference_is_adopted() -> None:
    d = at_broker(account := Account(), IGNORE)
    account.by_hand("ann-1", PUT, 1, 3, d.at(0))
    account.fill("ann-1", 1, "1.50", d.at(0))
    agreed(d, account, 1)
    d.put(ev.RunStarted(d.at(2), "live", "desk-1", "pointer", "e1", "c", "sip", Trading(broker=ADOPT)))
    account.fill("ann-1", 1, "1.50", d.at(2))
    agreed(d, account, 3)
    assert (d.held, d.state.broker.foreign_held) == ({}, {PUT: 2})
    account.positions[PUT] = (4, Decimal("1.50"))
    account.cash -= 300
    d.put(account.report(d.at(4)), account.report(d.at(4, 10)))
    assert (d.held, d.state.broker.foreign_held) == ({PUT: 4}, {})
    agreed(d, account, 5)


def test_a_book_that_is_wrong_is_mended_by_one_start_that_adopts() -> None:
    d = holding(account := Account(), HALT)
    closed_by_hand(d, account)
    assert d.halted() == "reconciliation"
    d.put(ev.RunStarted(d.at(3), "live", "desk-1", "pointer", "e1", "c", "sip", Trading(broker=ADOPT)))
    d.put(account.report(d.at(3, 10)), account.report(d.at(3, 20)))
    d.put(ev.ResumeRequested(d.at(3, 30), "sold by hand, I know", "ann"))
    assert (d.held, d.halted(), d.state.risk.reconciled) == ({}, "", True)


def test_under_ignore_a_debt_that_others_made_leaves_no_peak_to_fall_from() -> None:
    d = at_broker(account := Account(), IGNORE)
    account.by_hand("ann-1", "AAPL", 1, 100, d.at(0))
    account.fill("ann-1", 100, "200.00", d.at(0))  # on margin: 10,000 USD more than there were
    agreed(d, account, 1)
    book = d.state.book
    assert (book.equity, book.peak, book.transfers) == (Decimal(-10000), Decimal(0), Decimal(-20000))
    d.bar(1)
    d.answer(BUY_CALL)
    assert d.state.stats.denials
    assert d.held == {}


@pytest.mark.parametrize("rule", ["adopt", "ignore"])
def test_the_next_day_s_report_may_repeat_somebody_else_s_order_and_changes_nothing(rule: str) -> None:
    d = at_broker(account := Account(), RULES[rule])
    account.by_hand("ann-1", CALL, 1, 2, d.at(0))
    account.fill("ann-1", 2, "2.00", d.at(0))
    account.by_hand("ann-2", CALL, -1, 2, d.at(1))
    account.fill("ann-2", 2, "2.50", d.at(1))
    agreed(d, account, 2)
    d.begin(TUESDAY, "2024-07-03")
    before = (d.held, d.state.book, d.state.broker.foreign_held)
    told = d.put(account.report(TUESDAY.open_ns))  # it has both orders still
    assert (d.held, d.state.book, d.state.broker.foreign_held) == before
    assert (d.halted(), alarms(told)) == ("", [])
    d.begin(Session("2024-07-09", OPEN + 8 * DAY, OPEN + 8 * DAY + 390 * MINUTE), "2024-07-10")
    assert (d.state.broker.foreign, d.state.closed) == ({}, {})  # reports tell them no more


def test_under_halt_an_order_that_was_judged_halts_once_and_again_when_it_fills_more() -> None:
    d = at_broker(account := Account(), HALT)
    account.by_hand("ann-1", CALL, 1, 2, d.at(0))
    account.by_hand("ann-2", CALL, -1, 1, d.at(0))
    d.put(account.found("ann-1", d.at(1)))
    d.put(ev.ResumeRequested(d.at(2), "it is mine", "ann"), account.found("ann-1", d.at(3)))
    assert d.halted() == ""
    account.fill("ann-1", 1, "2.00", d.at(4))
    d.put(account.found("ann-1", d.at(4)))
    assert d.halted() == "foreign_order"
