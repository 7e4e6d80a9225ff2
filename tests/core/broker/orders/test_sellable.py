"""What may be sold: a report counts for what it was asked for, and an old figure holds back no exit of what is held.

The same stories for options and for shares. Quantities and money are computed by hand.
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.broker.sending import Leave
from daemon.core.effects import AskBroker, SubmitOrder
from tests.support.core.account import Account, agreed, at_broker
from tests.support.core.daily_desk import KEEP
from tests.support.core.daily_live import live, with_shares
from tests.support.core.desk import BUY_CALL, CALL, EXIT, Desk, alarms, of, quote, sent

STOP = quote(CALL, "1.20", "1.24")  # 0.78 a share below the cost of 2.00


def overtaken(account: Account) -> tuple[Desk, ev.BrokerReported]:
    """9 calls that were filled after a report was asked for and before it came: it shows neither them nor the cost."""
    d = at_broker(account)
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    before = account.report(d.at(1, 5))
    d.put(account.fill(name, 9, "2.00", d.at(1, 6)))
    return d, replace(before, time_ns=d.at(1, 8))


@pytest.mark.parametrize(
    ("side", "text", "limit"),
    [(-1, "1.90", "2.13"), (-1, "2.20", "2.20"), (+1, "2.20", "2.13"), (+1, "1.90", "1.90"), (-1, None, "2.13")],
)
def test_an_exit_past_a_stuck_order_keeps_to_the_limit_that_crosses_nothing(
    side: int, text: str | None, limit: str
) -> None:
    """No sale below 2.13 USD, no buy above it."""
    way = Leave(4, beyond=Decimal("2.13"))
    assert way.limit(None if text is None else Decimal(text), side) == Decimal(limit)


def test_a_report_that_a_fill_overtook_holds_back_no_exit() -> None:
    d, late = overtaken(Account())
    d.put(late)
    exit_order = sent(d.confirmed(1, STOP, second=20))
    assert (exit_order.side, exit_order.quantity) == (-1, 9)


def test_a_report_that_a_fill_overtook_is_no_difference_however_often_it_comes() -> None:
    d, late = overtaken(account := Account())
    for second in range(8, 40, 4):
        effects = d.put(replace(late, time_ns=d.at(1, second)))
        assert len(of(effects, AskBroker)) == 1  # the next one will know
    assert (d.halted(), d.state.broker.suspicion, d.state.risk.reconciled) == ("", None, True)
    agreed(d, account, 2)


def test_a_report_that_comes_after_a_newer_one_is_no_difference_and_holds_back_no_exit() -> None:
    d, late = overtaken(account := Account())
    agreed(d, account, 1, 9)
    assert of(d.put(replace(late, time_ns=d.at(1, 10))), AskBroker) == []
    assert (d.state.broker.available, d.state.broker.suspicion) == ({CALL: 9}, None)
    assert sent(d.confirmed(1, STOP, second=20)).quantity == 9


def test_a_figure_from_before_a_start_holds_back_no_exit() -> None:
    d, _ = overtaken(account := Account())
    report = account.report(d.at(1, 9))
    d.put(replace(report, positions=(replace(report.positions[0], available=Decimal(0)),)))
    d.put(ev.RunStarted(d.at(1, 10), "live", "desk-1", "pointer", "e1", "c", "sip", d.state.trading))
    d.put(ev.FlattenRequested(d.at(1, 11), "x", "ann"))
    assert of(d.tick(2, 5), SubmitOrder) == []  # the broker is heard first, for a minute
    assert sent(d.tick(2, 10)).quantity == 9


def test_an_old_report_that_says_nothing_else_than_the_book_still_agrees() -> None:
    d, _ = overtaken(account := Account())
    effects = d.put(replace(account.report(d.at(1, 5)), time_ns=d.at(1, 8)))  # its parts were read after the fill
    assert (of(effects, AskBroker), d.state.broker.agreed_ns) == ([], d.at(1, 8))


def test_a_fill_that_only_the_report_s_ledger_tells_makes_its_own_positions_old() -> None:
    d = at_broker(account := Account())
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    before = account.report(d.at(1, 5))
    fill = account.fill(name, 9, "2.00", d.at(1, 6))
    d.put(replace(before, time_ns=d.at(1, 8), fills=(fill,)))  # the ledger is read last
    assert (d.held, d.state.broker.suspicion) == ({CALL: 9}, None)
    assert sent(d.confirmed(1, STOP, second=20)).quantity == 9


def test_a_fill_that_the_report_s_orders_tell_is_in_its_positions_too() -> None:
    d = at_broker(account := Account())
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    account.fill(name, 9, "2.00", d.at(1))
    report = account.report(d.at(1, 5))
    (position,) = report.positions
    d.put(replace(report, positions=(replace(position, available=Decimal(6)),)))
    assert d.state.broker.available == {CALL: 6}


def test_a_figure_from_before_news_were_lost_holds_back_no_exit() -> None:
    d = at_broker(account := Account())
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    d.put(replace(account.report(d.at(1, 5)), positions=()))  # in the middle of a change
    assert of(d.confirmed(1, STOP, second=20), SubmitOrder) == []
    assert sent(d.put(ev.BrokerLost(d.at(1, 30), "report: 500"))).quantity == 9  # and no other one comes


def test_an_exit_that_ended_unfilled_leaves_again_although_the_last_report_saw_all_of_it_held_back() -> None:
    d = at_broker(account := Account())
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    d.bar(1)
    sale = account.take(sent(d.answer(EXIT)), d.state.now_ns)
    report = account.report(d.at(2, 5))
    (position,) = report.positions
    report = replace(report, positions=(replace(position, available=Decimal(0)),))  # the sale holds them
    account.end(sale)
    again = d.put(ev.OrderCanceled(d.at(2, 6), sale), replace(report, time_ns=d.at(2, 7)))
    assert [order.quantity for order in of(again, SubmitOrder)] == [9]


def test_shares_that_were_bought_after_a_report_was_asked_for_can_be_sold() -> None:
    d = live(account := Account())
    d.due()
    d.answer(10, KEEP, KEEP)
    (buy,) = of(d.quotes(0, AAA="100"), SubmitOrder)
    name = account.take(buy, d.state.now_ns)
    before = account.report(d.at(1))
    d.put(account.fill(name, 10, "100", d.at(1.1)), replace(before, time_ns=d.at(1.2)))
    assert (alarms(d.effects), d.state.broker.suspicion) == ([], None)
    (sale,) = of(d.put(ev.FlattenRequested(d.at(2), "x", "ann")), SubmitOrder)
    assert (sale.side, sale.quantity) == (-1, 10)


def test_a_fresh_figure_of_the_broker_still_bounds_a_sale_of_shares() -> None:
    d = with_shares(account := Account(), AAA=10)
    report = account.report(d.at(1))
    (position,) = report.positions
    d.prompt = lambda now_ns: replace(
        report, time_ns=now_ns, asked_ns=now_ns, positions=(replace(position, available=Decimal(6)),)
    )
    (sale,) = of(d.put(ev.FlattenRequested(d.at(2), "x", "ann")), SubmitOrder)
    assert sale.quantity == 6
