"""Orders of others under each of the three settings, at a new journal's start and later: booked, reported or halted.

Money in the comments is computed by hand: 100 shares a contract.
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import CancelOrder, RaiseAlarm, SubmitOrder
from daemon.core.orders import CANCELED, FILLED, PARTIAL
from tests.support.core.account import Account, agreed, at_broker, line
from tests.support.core.desk import CALL, EXIT, OPEN, PUT, SECOND, alarms, of, sent
from tests.support.core.others import ADOPT, HALT, IGNORE, RULES, gain, holding


def used_account() -> Account:
    """An account with 2 puts at 1.50, and an order for 4 calls of which one is filled at 2.00."""
    account = Account()
    for name, symbol, quantity in (("ann-1", PUT, 2), ("ann-2", CALL, 4)):
        account.by_hand(name, symbol, 1, quantity, OPEN - 3600 * SECOND)
    account.fill("ann-1", 2, "1.50", OPEN - 3000 * SECOND)
    account.fill("ann-2", 1, "2.00", OPEN - 3000 * SECOND)
    return account


def test_under_halt_a_new_journal_does_not_begin_on_an_account_that_is_used() -> None:
    d = at_broker(used_account(), HALT)
    assert (d.halted(), d.state.risk.reconciled, d.state.book.cash) == ("foreign_order", False, Decimal(0))
    for words in (PUT, CALL, "ann-2"):
        assert words in str(d.state.risk.halt)


def test_under_halt_a_new_journal_begins_once_the_account_is_empty() -> None:
    account = used_account()
    d = at_broker(account, HALT)
    account.end("ann-2")
    account.by_hand("ann-3", PUT, -1, 2, OPEN)
    account.fill("ann-3", 2, "1.60", OPEN)
    account.by_hand("ann-4", CALL, -1, 1, OPEN)
    account.fill("ann-4", 1, "2.00", OPEN)
    agreed(d, account, 1)
    assert (d.halted(), d.state.book.cash) == ("foreign_order", Decimal(10020))  # until a person resumes


def test_under_ignore_a_new_journal_leaves_what_it_met_to_its_owner() -> None:
    d = at_broker(account := used_account(), IGNORE)
    assert (d.held, d.state.broker.foreign_held) == ({}, {PUT: 2, CALL: 1})
    assert (d.state.book.cash, d.state.book.equity, d.state.risk.reconciled) == (Decimal(9500), Decimal(9500), True)
    d.put(account.fill("ann-2", 3, "2.10", d.at(1)))  # not ours: the stream tells the order itself
    d.put(account.found("ann-2", d.at(1)))
    agreed(d, account, 2)
    assert d.state.broker.foreign_held == {PUT: 2, CALL: 4}
    assert (d.state.book.transfers, gain(d)) == (Decimal(-630), Decimal(0))


@pytest.mark.parametrize("rule", ["halt", "ignore"])
@pytest.mark.parametrize("open_", [False, True])
def test_a_new_journal_does_not_leave_what_an_earlier_one_of_this_desk_bought(rule: str, open_: bool) -> None:
    account = Account()
    former = "e0-pointer-3-0-0"  # of another epoch, this strategy's
    account.by_hand(former, CALL, 1, 4, OPEN - 3600 * SECOND)
    if not open_:
        account.fill(former, 4, "2.00", OPEN - 3000 * SECOND)
    d = at_broker(account, RULES[rule])
    assert (d.halted(), d.state.risk.reconciled) == ("foreign_order", False)
    for words in (former, "paths.state_dir", "accept-broker"):
        assert words in str(d.state.risk.halt)
    d.put(ev.AcceptBrokerRequested(d.at(0), "its journal is lost", "ann"), account.report(d.at(0, 1)))
    assert (d.held, d.state.broker.foreign_held) == ({} if open_ else {CALL: 4}, {})


def test_what_a_person_holds_of_what_an_earlier_journal_sold_again_is_the_person_s() -> None:
    account = used_account()
    for number, side in enumerate((1, -1)):
        name = account.by_hand(f"e0-pointer-{number}-0-0", PUT, side, 3, OPEN - 900 * SECOND)
        account.fill(name, 3, "1.50", OPEN - 800 * SECOND)
    d = at_broker(account, IGNORE)
    assert (d.held, d.halted(), d.state.broker.foreign_held) == ({}, "", {PUT: 2, CALL: 1})


def test_under_adopt_a_new_journal_takes_over_what_it_met_and_counts_it_once() -> None:
    d = at_broker(account := used_account(), ADOPT)
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
    assert alarms(d.effects) == ["foreign_order"]  # the halt
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


def test_under_ignore_a_sale_of_what_is_held_is_one_alarm_and_a_further_fill_another() -> None:
    d = holding(account := Account(), IGNORE, count=5)
    d.put(ev.FlattenRequested(d.at(1.1), "now", "ann"))
    account.by_hand("bob-1", CALL, -1, 3, d.at(1.2))
    account.fill("bob-1", 2, "2.00", d.at(1.2))
    for second in (20, 21):
        details = [it.detail for it in of(d.put(account.found("bob-1", d.at(1, second))), RaiseAlarm)]
        assert [detail.endswith("sold what this desk holds") for detail in details] == [True][: second == 20]
    account.fill("bob-1", 1, "2.00", d.at(1.4))
    assert alarms(d.put(account.found("bob-1", d.at(1, 30)))) == ["foreign_order"]
    assert (d.held, d.halted()) == ({CALL: 2}, "flatten")


def test_under_ignore_the_sale_of_what_lies_beside_leaves_the_desk_s_own_alone() -> None:
    d = holding(account := Account(), IGNORE)
    for name, side in (("ann-1", 1), ("ann-2", -1)):
        account.by_hand(name, CALL, side, 2, d.at(1))
        account.fill(name, 2, "2.00", d.at(1))
    agreed(d, account, 2)
    assert (d.held, d.state.broker.foreign_held, gain(d)) == ({CALL: 9}, {}, Decimal(0))


@pytest.mark.parametrize(("beside", "sale_quantity", "remaining"), [(0, 9, 0), (0, 4, 5), (2, 4, 7)])
def test_under_ignore_a_hand_sale_of_the_desk_s_own_never_goes_unnoticed(
    beside: int, sale_quantity: int, remaining: int
) -> None:
    d = holding(account := Account(), IGNORE)
    if beside:
        account.by_hand("ann-1", CALL, 1, beside, d.at(1))
        account.fill("ann-1", beside, "2.00", d.at(1))
        agreed(d, account, 1, 30)
    account.by_hand("ann-2", CALL, -1, sale_quantity, d.at(2))
    account.fill("ann-2", sale_quantity, "2.40", d.at(2))
    d.put(account.found("ann-2", d.at(2)))
    assert (d.halted(), d.held) == ("foreign_order", {CALL: remaining} if remaining else {})
    assert "ann-" in str(d.state.risk.halt)
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


@pytest.mark.parametrize(("symbol", "quantity"), [("AAPL", "10"), ("AAPL", "1.5")])
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
    assert (d.halted(), d.held, d.state.risk.reconciled) == ("foreign_order", {CALL: 9}, False)
    account.positions[CALL] = (-1, Decimal("2.00"))
    d.put(account.report(d.at(2, 10)), account.report(d.at(2, 20)))
    assert ("position_changed" in alarms(d.effects), d.held, gain(d)) == (True, {CALL: -1}, Decimal(0))


def test_under_adopt_a_sale_of_what_the_desk_does_not_hold_ends_with_the_report_and_is_taken_over() -> None:
    d = at_broker(account := Account(), ADOPT)
    account.by_hand("ann-1", PUT, -1, 2, d.at(1))
    d.put(account.found("ann-1", d.at(1)))
    account.fill("ann-1", 2, "2.00", d.at(2))
    for second in (0, 15, 30):
        d.put(account.found("ann-1", d.at(2, second)), account.report(d.at(2, second)))
    assert [order for order in d.state.orders.values() if order.purpose == "foreign"] == []
    assert ("position_changed" in alarms(d.effects), d.held) == (True, {PUT: -2})
    assert (d.state.book.cash, d.state.risk.reconciled) == (account.cash, True)


@pytest.mark.parametrize("rule", ["adopt", "ignore"])
def test_a_dividend_is_booked_once_however_much_a_person_trades_what_the_desk_holds(rule: str) -> None:
    d = holding(account := Account("100000"), RULES[rule])
    account.book(line("DIV", "SPY", amount="3.10"))
    agreed(d, account, 2)
    for number in range(900):
        name = account.by_hand(f"ann-{number}", CALL, 1 - number % 2 * 2, 2, d.at(3))
        account.fill(name, 2, "2.00", d.at(3))
    for minute in (4, 5):
        d.put(account.report(d.at(minute)))
    book = d.state.book
    assert (book.cash, book.realized, d.state.risk.reconciled) == (account.cash, Decimal("3.10"), True)
