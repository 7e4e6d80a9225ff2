"""A sale that leaves no shares waits for a report from after its decision: a lost update may hide a sale by hand.

The account of `tests.support.core.account` is the truth; what a person does is known by a report alone.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.broker.exits import exit_by_rule
from daemon.core.desks.shares.rebalance import drive_shares
from daemon.core.draft import Draft
from daemon.core.effects import AnyEffect, AskBroker, RaiseAlarm, SubmitOrder
from daemon.core.limits import Trading
from strategies.kit.contract import Session
from strategies.kit.quantity import Quantity
from tests.support.core.account import Account, agreed
from tests.support.core.daily_desk import KEEP, DailyDesk
from tests.support.core.daily_live import with_shares
from tests.support.core.desk import CALL, DAY, MINUTE, OPEN, TUESDAY, Desk, alarms, of
from tests.support.core.others import RULES, holding

IGNORE = Trading(broker=RULES["ignore"])


def silent(account: Account, trading: Trading | None = None, **shares: int) -> DailyDesk:
    """A desk with these shares at a broker that reports only what a test puts; its last report is fresh."""
    d = with_shares(account, trading, **shares)
    d.prompt = None
    d.put(account.report(d.at(1)))
    return d


def sold_unseen(account: Account, symbol: str, quantity: int, at_ns: int, name: str = "ann-1") -> None:
    """A person sells, and the stream loses the news."""
    account.by_hand(name, symbol, -1, quantity, at_ns)
    account.fill(name, quantity, "100", at_ns)


def flatten(d: DailyDesk | Desk, minute: float) -> list[AnyEffect]:
    return d.put(ev.FlattenRequested(d.at(minute), "x", "ann"))


def sales(effects: list[AnyEffect]) -> list[tuple[Quantity, bool]]:
    return [(order.quantity, order.closing) for order in of(effects, SubmitOrder) if order.side < 0]


@pytest.mark.parametrize("after_s", [1, 10, 45])
def test_shares_that_a_person_sold_unseen_are_not_sold_again_by_a_flatten(after_s: int) -> None:
    d = silent(account := Account("50000"), AAA=198)
    sold_unseen(account, "AAA", 198, d.at(1.01))
    effects = flatten(d, 1 + after_s / 60)
    assert sales(effects) == []
    assert [ask.at_once for ask in of(effects, AskBroker)] == [True]
    now = d.state.now_ns
    assert sales(d.put(account.report(now + 1)) + d.tick(3) + d.tick(5)) == []


def test_what_a_person_sold_beside_an_own_holding_is_the_person_s_first() -> None:
    """198 of the desk and 100 of a person; the person sells 198: 98 of the desk's are gone, 100 can leave."""
    d = silent(account := Account("50000"), IGNORE, AAA=198)
    account.by_hand("ann-0", "AAA", +1, 100, d.at(1.001))
    account.fill("ann-0", 100, "100", d.at(1.001))
    d.put(account.report(d.at(1.01)))
    assert d.state.broker.foreign_held == {"AAA": 100}
    sold_unseen(account, "AAA", 198, d.at(1.02))
    assert sales(flatten(d, 1.2)) == []
    assert sales(d.put(account.report(d.state.now_ns + 1))) == [(100, False)]


def test_a_report_that_was_requested_before_the_decision_is_none_about_it() -> None:
    d = silent(account := Account("50000"), AAA=198)
    before = account.report(d.at(1.19))
    sold_unseen(account, "AAA", 198, d.at(1.195))
    flatten(d, 1.2)
    assert sales(d.put(replace(before, time_ns=d.at(1.21)))) == []


@pytest.mark.parametrize("person", [0, 100])
def test_without_a_report_the_broker_s_own_call_closes_the_desk_s_quantity_after_five_seconds(person: int) -> None:
    d = silent(account := Account("50000"), IGNORE, AAA=198)
    if person:
        account.by_hand("ann-0", "AAA", +1, person, d.at(1.001))
        account.fill("ann-0", person, "100", d.at(1.001))
        d.put(account.report(d.at(1.01)))
    assert sales(flatten(d, 1.1)) == []
    assert sales(d.tick(1.1, 4)) == []
    effects = d.tick(1.1, 5)
    assert (sales(effects), "exit_unconfirmed" in alarms(effects)) == ([(198, True)], True)


def test_one_alarm_names_all_exits_that_no_report_confirms() -> None:
    d = silent(Account("50000"), AAA=198, BBB=50, CCC=7)
    flatten(d, 1.1)
    effects = d.tick(1.1, 5)
    assert sales(effects) == [(198, True), (50, True), (7, True)]
    (alarm,) = of(effects, RaiseAlarm)
    assert (alarm.name, alarm.detail.partition(":")[0]) == ("exit_unconfirmed", "198 AAA, 50 BBB, 7 CCC")
    first, *others = of(effects, SubmitOrder)
    for order in others:
        d.fill(order.client_order_id, order.quantity, "100")
    d.put(ev.OrderRejected(d.at(1.1, 6), first.client_order_id, "not now"))
    again = [effect for second in range(10, 120, 10) for effect in d.tick(1.1, second)]
    assert (sales(again)[:1], "exit_unconfirmed" in alarms(again)) == ([(198, True)], False)


def test_an_unanswered_call_is_not_repeated_where_it_could_close_what_a_person_holds() -> None:
    d = silent(account := Account("50000"), IGNORE, AAA=198)
    account.by_hand("ann-0", "AAA", +1, 300, d.at(1.001))
    account.fill("ann-0", 300, "100", d.at(1.001))
    d.put(account.report(d.at(1.01)))
    flatten(d, 1.1)
    (first,) = of(d.tick(1.1, 5), SubmitOrder)
    d.put(ev.OrderUnknown(d.at(1.1, 10), first.client_order_id))
    later = d.put(ev.OrderMissing(d.at(1.1, 20), first.client_order_id)) + d.tick(1.1, 30) + d.tick(4)
    assert sales(later) == []  # it may have sold them: only a report tells
    assert sales(d.put(account.report(d.state.now_ns + 1))) == [(198, False)]


def test_a_sale_of_a_part_waits_for_nothing() -> None:
    d = silent(Account("50000"), AAA=198)
    d.state = replace(d.state, broker=replace(d.state.broker, asked_ns=d.at(-10)))
    exit_by_rule(draft := Draft(d.state, d.core.desk), "AAA", "excess", 100)
    drive_shares(draft)
    assert sales(draft.effects) == [(98, False)]


def test_one_report_serves_all_that_leave_at_once() -> None:
    d = silent(account := Account("50000"), AAA=198, BBB=50, CCC=7)
    effects = flatten(d, 1.1)
    assert (sales(effects), len(of(effects, AskBroker))) == ([], 1)
    assert sales(d.put(account.report(d.state.now_ns + 1))) == [(198, False), (50, False), (7, False)]


def test_each_attempt_has_a_report_of_its_own() -> None:
    d = silent(account := Account("50000"), AAA=198)
    flatten(d, 1.1)
    (first,) = of(d.put(account.report(d.state.now_ns + 1)), SubmitOrder)
    d.put(ev.OrderRejected(d.at(1.2), first.client_order_id, "403 no"))
    sold_unseen(account, "AAA", 198, d.at(1.25))
    effects = d.tick(2.5) + d.tick(2.5, 1)
    assert (sales(effects), [ask.at_once for ask in of(effects, AskBroker) if ask.at_once]) == ([], [True])
    assert sales(d.put(account.report(d.state.now_ns + 1)) + d.tick(4)) == []


def test_a_report_that_is_old_when_the_sale_can_go_is_requested_anew() -> None:
    d = silent(account := Account("50000"), AAA=198)
    flatten(d, 1.1)
    d.state = replace(d.state, broker=replace(d.state.broker, wrong=True))  # nothing is sent for a while
    d.put(replace(account.report(d.state.now_ns + 1), account="PA4OTHER"))
    effects = d.put(account.report(d.state.now_ns + 1))
    assert sales(effects) == [(198, False)]


def test_a_wait_survives_a_restart_and_a_snapshot() -> None:
    d = silent(account := Account("50000"), AAA=198)
    d.reload = True
    flatten(d, 1.1)
    d.put(ev.RunStarted(d.at(1.2), "live", "desk-1", "shelf", "e1", "c", "sip", d.state.trading))
    assert sales(d.tick(1.3)) == []
    sold_unseen(account, "AAA", 100, d.at(1.35))
    assert sales(d.put(account.report(d.at(1.4)))) == [(98, False)]


def test_a_daily_desk_s_sale_into_the_auction_leaves_with_the_report_and_before_the_auction_closes() -> None:
    d = with_shares(account := Account(), AAA=10)
    d.prompt = None
    d.due(-15)
    assert sales(d.answer(0, KEEP, KEEP)) == []
    (order,) = of(d.put(account.report(d.at(-14.99))), SubmitOrder)
    assert (order.auction, order.quantity, order.closing) == (True, 10, False)


def test_a_basket_s_sale_waits_for_a_report_without_limit_and_delays_no_buy_for_long() -> None:
    d = with_shares(account := Account("21000"), AAA=10)
    d.prompt = None
    d.due()
    assert of(d.answer(0, 200, KEEP), SubmitOrder) == []
    (buy,) = of(d.quotes(0.1, AAA="100", BBB="100"), SubmitOrder)
    assert (buy.symbol, buy.side) == ("BBB", 1)
    assert sales(d.quotes(30, AAA="100")) == []
    assert sales(d.put(account.report(d.state.now_ns + 1))) == [(10, False)]


# --- contracts ----------------------------------------------------------------------------------------------------


def test_contracts_that_the_desk_alone_holds_wait_for_no_report() -> None:
    d = holding(Account(), RULES["ignore"])
    d.prompt = None
    assert sales(flatten(d, 1.5)) == [(9, False)]


def test_contracts_that_a_person_holds_too_wait_for_a_report() -> None:
    """9 of the desk and 2 of a person, who closes all 11 and buys 9 again: none of these is the desk's."""
    d = holding(account := Account(), RULES["ignore"])
    d.prompt = None
    account.by_hand("ann-1", CALL, 1, 2, d.at(1, 10))
    account.fill("ann-1", 2, "2.00", d.at(1, 10))
    agreed(d, account, 1, 30)
    sold_unseen(account, CALL, 11, d.at(1, 31), "ann-2")
    account.by_hand("ann-3", CALL, 1, 9, d.at(1, 32))
    account.fill("ann-3", 9, "2.00", d.at(1, 32))
    assert sales(flatten(d, 1.6)) == []
    assert sales(d.put(account.report(d.state.now_ns + 1)) + d.tick(3)) == []
    assert (d.held, d.state.broker.foreign_held, account.positions[CALL][0]) == ({}, {CALL: 9}, 9)


def test_contracts_beside_a_person_s_leave_by_the_broker_s_own_call_where_no_report_comes() -> None:
    d = holding(account := Account(), RULES["ignore"])
    d.prompt = None
    account.by_hand("ann-1", CALL, 1, 2, d.at(1, 10))
    account.fill("ann-1", 2, "2.00", d.at(1, 10))
    agreed(d, account, 1, 30)
    assert sales(flatten(d, 1.6)) == []
    (order,) = of(d.tick(1.6, 5), SubmitOrder)
    assert (order.quantity, order.closing, order.limit_price) == (9, True, None)


def test_the_next_days_know_by_the_broker_s_name_what_its_own_call_sold() -> None:
    """Reports after a start repeat orders of the days before; the call's order has a name that only the state knows."""
    d = holding(account := Account(), RULES["ignore"])
    d.prompt = None
    account.by_hand("ann-1", CALL, 1, 2, d.at(1, 10))
    account.fill("ann-1", 2, "2.00", d.at(1, 10))
    agreed(d, account, 1, 30)
    flatten(d, 1.6)
    (order,) = of(d.tick(1.6, 5), SubmitOrder)
    assert order.closing
    account.take(order, d.at(1.7))
    news = account.found(order.client_order_id, d.at(1.7))
    d.put(news, account.fill(order.client_order_id, order.quantity, "2.00", d.at(1.8)))
    agreed(d, account, 2)
    assert d.held == {}
    d.begin(TUESDAY, "2024-07-03")
    names = [
        (closed_order.client_order_id, closed_order.order_id)
        for closed_order in d.state.closed.values()
        if closed_order.purpose != "foreign"
    ]
    assert names == [(order.client_order_id, news.order.order_id)]
    d.put(account.report(OPEN + 7 * DAY))
    d.begin(Session("2024-07-09", OPEN + 8 * DAY, OPEN + 8 * DAY + 390 * MINUTE), "2024-07-10")
    assert d.state.closed == {}
