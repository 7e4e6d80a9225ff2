"""Ways out: a halt ends for good once its cause is mended and somebody resumed, and an exit is held up by nobody.

Each scenario goes the way of docs/OPERATIONS.md: mend, stop, resume, start. Money is computed by hand.
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import AnyEffect, AskBroker, CancelOrder, SubmitOrder
from daemon.core.limits import Sizing, Trading
from daemon.core.orders import EXPIRED
from tests.support.core.account import Account, agreed, at_broker
from tests.support.core.desk import CALL, EXIT, PUT, TUESDAY, Desk, alarms, of, quote, sent
from tests.support.core.lost_orders import leaving, lost
from tests.support.core.others import ADOPT, HALT, IGNORE, holding

STOP = quote(CALL, "1.20", "1.24")  # 0.78 a share below the cost of 2.00


def start_again(d: Desk, minute: float, number: str = "") -> None:
    """A resume of the stopped desk, and its next start."""
    d.put(ev.ResumeRequested(d.at(minute), "mended", "ann"))
    d.put(ev.RunStarted(d.at(minute), "live", "desk-1", "pointer", "e1", "c", "sip", d.state.trading, number))


# --- halts that end -----------------------------------------------------------------------------------------------


def test_an_order_that_is_not_what_was_sent_halts_once_and_holds_nothing_up_for_ever() -> None:
    d = at_broker(account := Account())
    name = lost(d)
    account.by_hand(name, PUT, 1, 9, d.state.now_ns)  # another desk with this one's names
    account.end(name)
    d.put(account.found(name, d.at(1, 6)))
    assert (d.halted(), d.order(name).status, d.state.orders) == ("order_mismatch", EXPIRED, {})
    start_again(d, 3)
    agreed(d, account, 3, 30)
    assert d.halted() == ""


def test_an_order_that_turns_into_another_one_keeps_the_figures_that_were_known_of_it() -> None:
    d = holding(account := Account(), HALT)
    d.bar(1)
    name = account.take(sent(d.answer(EXIT)), d.state.now_ns)
    d.accept(name)
    for second in (1, 2):
        d.put(ev.OrderFound(d.at(2, second), replace(account.orders[name], quantity=Decimal(5))))
    assert (d.halted(), list(d.state.orders), d.held) == ("order_mismatch", [name], {CALL: 9})
    assert alarms(d.effects).count("order_mismatch") == 1


def test_a_fill_that_the_book_cannot_hold_halts_once_and_is_never_booked_later() -> None:
    d = holding(account := Account(), HALT)
    d.bar(1)
    name = account.take(sent(d.answer(EXIT)), d.state.now_ns)
    account.fill(name, 9, "2.10", d.at(2))
    d.put(account.report(d.at(2)))
    bust = ev.TradeCorrected(d.at(3), next(iter(account.orders)), "x-1", 4, Decimal("8.00"), "trade_bust")
    event = ev.OrderFilled(
        d.at(3, 1), bust.client_order_id, CALL, 1, Decimal(2), d.at(1), 4, Decimal("8.00"), Decimal(0), 0, correction=1
    )
    d.put(bust, event)
    assert (d.halted(), d.held) == ("fill_mismatch", {})
    d.put(ev.RunStarted(d.at(4), "live", "desk-1", "pointer", "e1", "c", "sip", Trading(broker=ADOPT)))
    account.positions[CALL] = (-5, Decimal(2))
    account.cash += 1000
    report = account.report(d.at(4))
    first = replace(report.ended_orders[0], filled=Decimal(4))
    report = replace(report, ended_orders=(first, *report.ended_orders[1:]), fills=(event, *report.fills[1:]))
    d.put(report, replace(report, asked_ns=d.at(4, 10), time_ns=d.at(4, 10)))
    assert d.held == {CALL: -5}
    d.put(ev.ResumeRequested(d.at(5), "the broker's page says so", "ann"))
    d.put(replace(report, asked_ns=d.at(5), time_ns=d.at(5)))
    assert (d.halted(), d.held, d.state.risk.reconciled) == ("", {CALL: -5}, True)


def test_a_fill_of_another_contract_under_our_name_halts_once_however_often_it_is_told() -> None:
    d = holding(account := Account(), HALT)
    d.bar(1)
    name = account.take(sent(d.answer(EXIT)), d.state.now_ns)
    odd = ev.OrderFilled(d.at(2), name, PUT, -1, Decimal(2), d.at(2), 1, Decimal(2), Decimal(0), 1)
    assert alarms(d.put(odd, odd)) == ["fill_mismatch"]
    start_again(d, 3)
    d.put(odd)
    assert (d.halted(), d.held) == ("", {CALL: 9})


def test_a_sale_that_sold_more_than_the_book_held_works_no_longer_once_the_broker_ended_it() -> None:
    d = holding(account := Account(), IGNORE)
    d.bar(1)
    name = account.take(sent(d.answer(EXIT)), d.state.now_ns)
    account.by_hand("ann-1", CALL, -1, 5, d.at(2))
    account.fill("ann-1", 5, "2.00", d.at(2))
    d.put(account.found("ann-1", d.at(2)))
    account.fill(name, 9, "2.00", d.at(2, 1))
    for second in (1, 2):
        d.put(account.found(name, d.at(2, second)))
    assert (d.halted(), d.held, d.order(name).status) == ("foreign_order", {CALL: 4}, EXPIRED)
    assert alarms(d.effects).count("fill_mismatch") == 1


@pytest.mark.parametrize("symbol", ["AAPL", "SPY"])
def test_under_adopt_what_could_not_be_held_and_was_closed_by_hand_halts_no_further_start(symbol: str) -> None:
    d = at_broker(account := Account(), ADOPT)
    for name, side in (("ann-1", 1), ("ann-2", -1)):
        account.by_hand(name, symbol, side, 2, d.at(1))
        account.fill(name, 2, "200.00", d.at(1))
        if symbol == "SPY":  # two shares and a half
            account.orders[name] = replace(account.orders[name], quantity=Decimal("2.5"))
        d.put(account.found(name, d.at(1)))
    assert d.halted() == "foreign_order"
    start_again(d, 2)
    agreed(d, account, 2, 30)
    assert d.halted() == ""


def test_under_adopt_an_order_for_what_cannot_be_held_that_never_filled_means_nothing() -> None:
    d = at_broker(account := Account(), ADOPT)
    account.by_hand("ann-1", "AAPL", 1, 2, d.at(1))
    account.end("ann-1")
    agreed(d, account, 1)
    assert alarms(d.effects) == []


def test_a_cancel_that_is_refused_for_an_order_that_nobody_knows_asks_for_nothing_again() -> None:
    d = at_broker(account := Account())
    account.by_hand("e1-pointer-77-0-0", CALL, 1, 1, d.at(0))
    for second in (0, 10):
        d.put(account.report(d.at(1, second)))
    assert [e.client_order_id for e in of(d.effects, CancelOrder)] == ["e1-pointer-77-0-0"]
    effects = d.put(ev.CancelRejected(d.at(1, 11), "e1-pointer-77-0-0", "not cancelable"))
    assert of(effects, AskBroker) == []


def test_a_second_trouble_is_told_although_the_desk_is_halted_already() -> None:
    d = holding(account := Account(), HALT)
    d.put(ev.HaltRequested(d.at(2), "operator", "lunch", "ann"))
    report = account.report(d.at(2, 30), blocked="trading_blocked")
    assert alarms(d.put(report)) == ["account_blocked"]
    assert (alarms(d.put(report)), d.halted()) == ([], "operator")


# --- the account --------------------------------------------------------------------------------------------------


def test_a_journal_stays_with_its_account_whatever_number_the_configuration_names() -> None:
    d = holding(account := Account(), ADOPT)
    d.put(ev.RunStarted(d.at(2), "live", "desk-1", "pointer", "e1", "c", "sip", d.state.trading, "PA4OTHER"))
    d.put(replace(Account("500").report(d.at(2, 5)), account="PA4OTHER"))
    assert (d.halted(), d.held, d.state.book.cash) == ("wrong_account", {CALL: 9}, Decimal(8200))
    start_again(d, 3)
    agreed(d, account, 3, 5)
    assert d.halted() == ""


def test_nothing_is_sent_to_another_account_not_even_an_exit() -> None:
    d = holding(account := Account(), HALT)
    tight = Trading(sizing=Sizing(stop_loss=0.30))
    d.put(ev.RunStarted(d.at(2), "live", "desk-1", "pointer", "e1", "c", "sip", tight))
    d.put(account.report(d.at(2, 5), account="PA4OTHER"))
    waiting = d.confirmed(2, STOP, second=10) + d.tick(2, 20)
    assert (d.halted(), of(waiting, SubmitOrder), len(d.state.works)) == ("wrong_account", [], 1)
    start_again(d, 3)
    exit_order = sent(d.put(account.report(d.at(3, 5))))
    assert (exit_order.side, exit_order.quantity) == (-1, 9)


def test_what_another_account_does_not_know_is_not_lost() -> None:
    d = holding(account := Account(), HALT)
    d.bar(1)
    name = account.take(sent(d.answer(EXIT)), d.state.now_ns)
    d.accept(name)
    d.put(account.report(d.at(2, 5), account="PA4OTHER"), ev.OrderMissing(d.at(2, 30), name))
    assert (list(d.state.orders), "order_lost" in alarms(d.effects)) == ([name], False)


# --- exits --------------------------------------------------------------------------------------------------------


def test_an_adopted_sale_of_somebody_else_holds_up_no_exit_of_the_rest() -> None:
    d = holding(account := Account(), ADOPT)
    account.by_hand("ann-1", CALL, -1, 1, d.at(1, 10))  # far from the market
    agreed(d, account, 1, 30)
    d.bar(1)
    order = sent(d.answer(EXIT))
    assert (order.side, order.quantity) == (-1, 8)


def test_an_exit_that_others_orders_hold_up_wholly_is_told_once_and_goes_out_when_they_end() -> None:
    d = holding(account := Account(), ADOPT)
    account.by_hand("ann-1", CALL, -1, 9, d.at(1, 10))
    agreed(d, account, 1, 30)
    d.bar(1)
    effects = d.answer(EXIT) + d.tick(2, 1)
    assert (alarms(effects), of(effects, SubmitOrder)) == (["exit_held_up"], [])
    account.end("ann-1")
    assert sent(d.put(account.found("ann-1", d.at(2, 5)))).quantity == 9


def test_an_adopted_short_option_is_bought_back_whole_and_the_next_long_one_can_be_left() -> None:
    d = at_broker(account := Account(), ADOPT)
    account.positions[CALL] = (-2, Decimal(2))
    account.cash += 400
    d.put(account.report(d.at(0)), account.report(d.at(0, 10)))
    d.bar(0)
    order = sent(d.answer(EXIT))
    assert (order.side, order.quantity, order.intent) == (1, 2, "buy_to_close")
    name = account.take(order, d.state.now_ns)
    d.put(account.fill(name, 2, "2.02", d.at(1)))
    assert (d.held, d.state.works) == ({}, {})


# --- halts of the exchange ----------------------------------------------------------------------------------------


def exchange(d: Desk, minute: float, second: int, *, halts: bool) -> None:
    d.put(ev.TradingStatusChanged(d.at(minute, second), "SPY", halts, "Trading Halt LUDP"))


def tick_on(d: Desk, account: Account, first: int, last: int) -> list[AnyEffect]:
    """Ticks and reports of these minutes, each ten seconds; returns all effects."""
    effects: list[AnyEffect] = []
    for minute in range(first, last):
        d.put(account.report(d.at(minute)))
        effects += [effect for second in range(0, 60, 10) for effect in d.tick(minute, second)]
    return effects


def test_an_exit_in_a_halt_of_the_exchange_rests_at_its_limit_and_is_priced_anew_once_it_trades() -> None:
    d = holding(account := Account(), HALT)
    d.bar(1)
    first = sent(d.answer(EXIT))
    d.accept(account.take(first, d.state.now_ns))
    assert first.limit_price is not None
    exchange(d, 2, 30, halts=True)
    effects = tick_on(d, account, 3, 30)
    assert (of(effects, CancelOrder), of(effects, SubmitOrder), alarms(effects), d.halted()) == ([], [], [], "")
    exchange(d, 30, 0, halts=False)
    d.quotes(30, quote(CALL, "1.50", "1.54"))
    assert of(d.tick(30, 50), CancelOrder) == []  # its minute began anew
    effects = d.put(account.report(d.at(31)))
    assert [cancel.client_order_id for cancel in of(effects, CancelOrder)] == [first.client_order_id]


def test_an_exit_that_is_decided_in_a_halt_waits_for_a_price_of_after_it_and_at_most_five_seconds() -> None:
    for quoted in (True, False):
        d = holding(account := Account(), HALT)
        d.bar(1)
        exchange(d, 2, 0, halts=True)
        tick_on(d, account, 2, 15)  # by then no quote is of now
        d.put(ev.FlattenRequested(d.at(15), "by hand", "ann"))
        assert of(tick_on(d, account, 15, 20), SubmitOrder) == []
        exchange(d, 20, 0, halts=False)
        d.put(account.report(d.at(20, 1)))
        assert of(d.tick(20, 4), SubmitOrder) == []
        order = sent(d.quotes(20, quote(CALL, "1.50", "1.54"), second=4) if quoted else d.tick(20, 5))
        assert (order.symbol, order.side, order.limit_price is None) == (CALL, -1, not quoted)


def test_an_exit_that_is_decided_in_a_halt_waits_though_the_quote_of_before_it_is_young() -> None:
    d = holding(account := Account(), HALT)
    d.bar(1)
    exchange(d, 2, 0, halts=True)
    effects = d.put(ev.FlattenRequested(d.at(2, 10), "by hand", "ann"))
    assert of(effects + tick_on(d, account, 3, 20), SubmitOrder) == []
    exchange(d, 20, 0, halts=False)
    assert sent(d.quotes(20, quote(CALL, "1.50", "1.54"), second=2)).limit_price is not None


# --- exits from before the open -----------------------------------------------------------------------------------


@pytest.mark.parametrize("quoted", [True, False])
@pytest.mark.parametrize("since", ["the evening before", "before the open"])
def test_an_exit_of_before_the_open_has_five_seconds_after_it_for_a_quote_of_the_day(since: str, quoted: bool) -> None:
    d = holding(account := Account(), HALT)
    evening = since == "the evening before"
    if evening:  # asked for too late to be sold
        d.put(ev.FlattenRequested(d.at(390), "by hand", "ann"))
    d.put(ev.SessionEnded(d.at(391), d.session.date))
    d.begin(TUESDAY, "2024-07-03")
    d.put(account.report(d.at(-20)))
    if not evening:
        d.put(ev.FlattenRequested(d.at(-10), "by hand", "ann"))
    d.put(account.report(d.at(-0.5)))
    assert of(d.tick(0) + d.tick(0, 4), SubmitOrder) == []
    if quoted:
        d.quotes(0, quote(CALL, "1.50", "1.54"), second=4)
        order = sent(d.quotes(0, quote(CALL, "1.50", "1.54"), second=5))
    else:
        order = sent(d.tick(0, 5))
    assert (order.symbol, order.side, order.limit_price is None) == (CALL, -1, not quoted)


def test_what_was_taken_over_at_noon_is_not_blind_before_its_first_quotes_can_have_come() -> None:
    d = at_broker(account := Account(), ADOPT)
    for minute in range(30):
        d.bar(minute)
    agreed(d, account, 30)
    account.positions["SPY240702C00490000"] = (1, Decimal(12))
    account.cash -= 1200
    d.put(account.report(d.at(30, 5)), account.report(d.at(30, 15)))
    d.tick(30, 20)
    assert (d.held, d.halted()) == ({"SPY240702C00490000": 1}, "")
    for minute in range(30, 35):
        d.bar(minute, quotes=())
    agreed(d, account, 35)
    d.tick(35, 15)
    assert d.halted() == "blind"  # five minutes without any


def test_an_exit_without_an_answer_goes_on_after_days_without_the_daemon() -> None:
    d = at_broker(account := Account())
    sale = leaving(d, account)
    d.begin(TUESDAY, "2024-07-03")
    d.put(ev.RunStarted(d.at(-5), "live", "desk-1", "pointer", "e1", "c", "sip", d.state.trading))
    d.put(account.report(d.at(-4)), ev.OrderMissing(d.at(-3), sale), account.report(d.at(-2)))
    assert d.state.orders == {}
    again = sent(d.tick(0, 5))
    assert (again.client_order_id, again.quantity) == (sale[:-1] + "1", 9)
