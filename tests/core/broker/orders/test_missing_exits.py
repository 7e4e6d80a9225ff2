"""Exits that the broker lacks or refuses: sent again while they are needed, and never for more than it holds.

The broker's answers are those of its documentation; quantities and money are computed by hand.
"""

from __future__ import annotations

from decimal import Decimal

from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.broker.sending import hangs
from daemon.core.draft import Draft
from daemon.core.effects import AskBroker, SubmitOrder
from daemon.core.limits import Execution, Risk, Trading
from daemon.core.orders import EXPIRED, UNKNOWN
from tests.support.core.account import Account, at_broker
from tests.support.core.desk import CALL, EXIT, canceling, of, quote, sent
from tests.support.core.lost_orders import leaving, resent, submitted


def test_a_missing_exit_is_sent_again_while_it_is_needed_also_late_halted_and_unreconciled() -> None:
    d = at_broker(account := Account())
    sale = leaving(d, account)
    d.put(ev.BrokerLost(d.at(2, 6), "stream ended"), ev.HaltRequested(d.at(2, 6), "operator", "x", "ann"))
    for minute in (3, 4, 100):
        assert resent(d.put(ev.OrderMissing(d.at(minute), sale))) == [(sale, 9)]


def test_a_missing_exit_of_more_than_is_left_gives_way_to_a_smaller_one() -> None:
    d = at_broker(account := Account())
    sale = leaving(d, account)
    position = d.state.book.positions[CALL]
    remainder = replace(position, quantity=4, cost=Decimal(8))
    book = replace(d.state.book, positions={CALL: remainder}, realized=Decimal(-1000))
    d.state = replace(d.state, book=book)
    effects = d.put(ev.OrderMissing(d.at(2, 8), sale))
    assert d.order(sale).status == EXPIRED
    (again,) = of(effects, SubmitOrder)
    assert (again.quantity, again.client_order_id) == (4, "e1-pointer-2-1-1")


def test_an_exit_that_is_missing_after_the_close_is_not_sent_again() -> None:
    d = at_broker(account := Account())
    sale = leaving(d, account)
    assert resent(d.put(ev.OrderMissing(d.session.close_ns, sale))) == []


def test_an_entry_that_the_broker_lacks_holds_up_no_exit() -> None:
    rules = Trading(risk=Risk(orders_per_minute=50), execution=Execution(entry_reprice_s=30))
    d = at_broker(account := Account(), trading=rules)
    name = submitted(d, account)
    d.put(ev.OrderAccepted(d.at(1), name, f"id-{name}"), account.fill(name, 4, "2.00", d.at(1, 1)))
    d.quotes(1, quote(CALL), second=29)
    assert canceling(d.quotes(1, quote(CALL), second=30)) == [name]
    account.end(name)
    second = sent(d.put(ev.OrderCanceled(d.at(1, 31), name))).client_order_id
    d.put(ev.OrderUnknown(d.at(1, 36), second))
    held_up = d.confirmed(1, quote(CALL, "1.20", "1.24"), second=37)  # the stop; the buy may live: no wash trade
    assert (of(held_up, SubmitOrder), d.order(second).status) == ([], UNKNOWN)
    sale = sent(d.put(ev.OrderMissing(d.at(1, 39), second)))
    assert (sale.side, sale.quantity) == (-1, 4)
    assert (d.order(second).status, d.order(second).remaining) == (UNKNOWN, 5)  # still exposure


def test_an_order_that_the_broker_lacks_hangs_never_and_one_that_it_may_have_does() -> None:
    d = at_broker(account := Account())
    sale = leaving(d, account)
    d.put(ev.OrderUnknown(d.at(2, 6), sale))
    later = Draft(d.state, d.core.desk)
    later.now_ns = d.at(12)  # ten minutes after it should have been priced again
    order = later.orders[sale]
    assert order.status == UNKNOWN
    assert hangs(later, order)
    assert not hangs(later, replace(order, missing_ns=d.at(2, 7)))


def test_a_refused_exit_asks_what_the_broker_holds() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    d.bar(1)
    sale = sent(d.answer(EXIT)).client_order_id
    effects = d.put(ev.OrderRejected(d.at(2, 1), sale, "insufficient qty available"))
    assert of(effects, AskBroker) != []


def test_an_exit_sells_no_more_than_the_broker_would_let_go() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    report = account.report(d.at(1, 30))
    (position,) = report.positions
    d.put(replace(report, positions=(replace(position, available=Decimal(6)),)))
    d.bar(1)
    assert sent(d.answer(EXIT)).quantity == 6


def test_nothing_is_sold_while_the_broker_holds_all_of_it_back() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    report = account.report(d.at(1, 30))
    (position,) = report.positions
    d.put(replace(report, positions=(replace(position, available=Decimal(0)),)))
    d.bar(1)
    assert of(d.answer(EXIT), SubmitOrder) == []
    assert sent(d.put(account.report(d.at(2, 30)))).quantity == 9


def test_nothing_is_sold_that_the_broker_does_not_hold() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    d.put(replace(account.report(d.at(1, 30)), positions=()))  # gone there, by a bust nobody reported
    d.bar(1)
    assert of(d.answer(EXIT), SubmitOrder) == []
    assert sent(d.put(account.report(d.at(2, 30)))).quantity == 9  # it was an answer in the middle of a change
