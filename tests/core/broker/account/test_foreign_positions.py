"""Positions of others under each of the three settings: what is booked, what is reported, what halts.

Money in the comments is computed by hand: 100 shares a contract.
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import SubmitOrder
from daemon.core.limits import Trading
from strategies.kit.contract import Session
from tests.support.core.account import Account, agreed, at_broker
from tests.support.core.desk import BUY_CALL, CALL, DAY, MINUTE, OPEN, PUT, TUESDAY, Desk, alarms, of, quote, sent
from tests.support.core.others import ADOPT, HALT, IGNORE, RULES, closed_by_hand, gain, holding


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


def test_under_ignore_what_is_gone_while_nobody_was_paid_for_it_is_not_given_up() -> None:
    """A list of positions that lacks the desk's: once it is whole again they would be somebody else's."""
    d = holding(account := Account(), IGNORE)
    whole = dict(account.positions)
    account.positions.clear()
    d.put(*(account.report(d.at(minute)) for minute in (2, 3, 4)))
    assert (d.held, d.halted(), d.state.broker.foreign_held) == ({CALL: 9}, "reconciliation", {})
    account.positions.update(whole)
    agreed(d, account, 5)


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


def test_under_ignore_cash_that_nothing_explains_is_no_transfer() -> None:
    d = at_broker(account := Account(), IGNORE)
    account.cash += 2500
    d.put(account.report(d.at(1)), account.report(d.at(1, 10)))
    assert (alarms(d.effects), d.state.risk.reconciled, d.state.book.transfers) == (
        ["cash_unexplained"],
        False,
        Decimal(0),
    )


def owing() -> tuple[Desk, Account, SubmitOrder]:
    """A desk that took over 100 shares sold short by hand at 500.00, and its order that buys them back."""
    d = at_broker(account := Account("60000"), ADOPT)
    account.positions["SPY"] = (-100, Decimal(500))
    account.cash += 50_000
    d.put(account.report(d.at(1)), account.report(d.at(1, 10)))
    (cover,) = of(d.effects, SubmitOrder)
    return d, account, cover


def test_shares_sold_short_by_hand_and_adopted_are_bought_back_in_parts() -> None:
    d, account, cover = owing()
    assert (cover.symbol, cover.side, cover.quantity, cover.limit_price) == ("SPY", 1, 100, None)
    assert cover.intent == "buy_to_close"
    name = account.take(cover, d.state.now_ns)
    d.put(account.fill(name, 40, "499.00", d.at(2)))
    assert (d.held, d.state.book.realized) == ({"SPY": -60}, Decimal(0))
    d.put(account.fill(name, 60, "498.00", d.at(2, 1)))
    # sold at 500.00, bought 40 at 499.00 and 60 at 498.00
    assert (d.held, d.state.book.realized) == ({}, Decimal(160))
    agreed(d, account, 3)


def test_fees_of_each_part_of_a_buy_back_are_paid_once() -> None:
    d, account, cover = owing()
    name = account.take(cover, d.state.now_ns)
    before, last_fees = d.state.book.fees, Decimal(0)
    for quantity, fees, minute in ((40, "0.40", 2), (35, "0.75", 3), (25, "1.00", 4)):
        d.put(replace(account.fill(name, quantity, "499.00", d.at(minute)), cumulative_fees=Decimal(fees)))
        account.cash -= Decimal(fees) - last_fees
        last_fees = Decimal(fees)
        assert d.state.book.fees - before == Decimal(fees)
        assert d.state.book.cash == account.cash
    assert (d.held, d.state.book.realized) == ({}, Decimal(99))  # a dollar a share, less the fees
    agreed(d, account, 5)


def test_a_sale_against_what_is_owed_is_seen_in_the_positions_alone() -> None:
    d = at_broker(account := Account("60000"), ADOPT)
    account.positions["SPY"] = (-100, Decimal(500))
    account.cash += 50_000
    d.put(account.report(d.at(-1)), account.report(d.at(-1, 10)))
    account.by_hand("ann-1", "SPY", -1, 10, d.at(1))
    account.fill("ann-1", 10, "500.00", d.at(1))
    d.put(account.found("ann-1", d.at(1)))
    assert (d.halted(), d.held, d.state.risk.reconciled) == ("short_position", {"SPY": -100}, False)


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
    effects = d.put(account.report(TUESDAY.open_ns))  # it has both orders still
    assert (d.held, d.state.book, d.state.broker.foreign_held) == before
    assert (d.halted(), alarms(effects)) == ("foreign_order" if rule == "adopt" else "", [])  # the sale of what it held
    d.put(account.report(OPEN + 7 * DAY))
    d.begin(Session("2024-07-09", OPEN + 8 * DAY, OPEN + 8 * DAY + 390 * MINUTE), "2024-07-10")
    assert (d.state.broker.foreign, d.state.closed) == ({}, {})  # reports tell them no more


@pytest.mark.parametrize("rule", ["adopt", "ignore"])
def test_after_days_without_the_daemon_the_first_report_repeats_orders_and_changes_nothing(rule: str) -> None:
    d = at_broker(account := Account(), RULES[rule])
    account.by_hand("ann-1", "SPY", 1, 2, d.at(0))
    account.fill("ann-1", 2, "500.00", d.at(0))
    agreed(d, account, 2)
    before, at_ns = (d.held, d.state.book.cash, d.state.broker.foreign_held), OPEN + 8 * DAY
    d.put(ev.RunStarted(at_ns - MINUTE, "live", "desk-1", "pointer", "e1", "c", "sip", d.state.trading))
    d.begin(Session("2024-07-09", at_ns, at_ns + 390 * MINUTE), "2024-07-10")  # the broker is slow
    effects = d.put(account.report(at_ns - 30))  # from the day before it last agreed
    assert (d.held, d.state.book.cash, d.state.broker.foreign_held) == before
    assert (d.halted(), alarms(effects)) == ("", [])


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
