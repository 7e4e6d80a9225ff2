"""What other code left is taken as it happened: orders that left are the desk's, orders that did not are not there.

The other code is a desk under other rules; quantities and money are computed by hand.
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import AnyEffect, AskPolicy, CancelOrder, SubmitOrder
from daemon.core.limits import Execution, Sizing, Trading
from daemon.core.orders import ACCEPTED, CANCELING, SUBMITTED, UNKNOWN
from tests.support.core.account import Account, at_broker
from tests.support.core.daily_desk import KEEP, LAST_FRIDAY, SYMBOLS, DailyDesk
from tests.support.core.desk import BUY_CALL, CALL, EXIT, Desk, alarms, canceling, desk, logits, of, sent
from tests.support.core.lost_orders import lost
from tests.support.core.machines import machine, run

SMALL = Trading(sizing=Sizing(max_contracts=3))


def take(d: Desk | DailyDesk, event: ev.Event, *outputs: AnyEffect) -> list[AnyEffect]:
    """Step an event that other code stepped before, when `outputs` left the process."""
    step = d.core.step(d.state, event, outputs)
    d.state = step.state
    return list(step.effects)


def code_change(d: Desk, decision: int = 0) -> ev.CodeChanged:
    return ev.CodeChanged(d.state.now_ns, "0ther", 5, 1, "code 0ther wrote the last 5 events", decision)


def answer_of(d: Desk, action: int) -> ev.PolicyAnswered:
    assert d.state.ask is not None
    return ev.PolicyAnswered(d.state.now_ns, d.state.ask.decision, logits(action), b"", "v1")


def both_desks(trading: Trading = SMALL) -> tuple[Desk, Desk, SubmitOrder]:
    """Theirs, that bought 9; ours, which would have bought 3 and took their answer; and the order."""
    old_desk, new_desk = desk(), desk(trading)
    old_desk.bar(0)
    new_desk.bar(0)
    event = answer_of(old_desk, BUY_CALL)
    order = sent(old_desk.put(event))
    assert order.quantity == 9
    assert of(take(new_desk, event, order), SubmitOrder) == []
    return old_desk, new_desk, order


def test_an_order_that_left_is_the_desk_s_own_and_its_fill_is_booked() -> None:
    _, new_desk, order = both_desks()
    (entry,) = new_desk.state.orders.values()
    assert (entry.client_order_id, entry.symbol, entry.quantity) == (order.client_order_id, CALL, 9)
    assert (entry.purpose, entry.status, entry.valid_until_ns) == ("entry", SUBMITTED, order.valid_until_ns)
    assert (new_desk.state.risk.orders_today, new_desk.state.stats.orders) == (1, 1)
    fill = ev.OrderFilled(
        new_desk.state.now_ns,
        order.client_order_id,
        CALL,
        1,
        Decimal("2.00"),
        new_desk.state.now_ns,
        9,
        Decimal(18),
        Decimal(0),
        9,
    )
    take(new_desk, fill)
    assert new_desk.held == {CALL: 9}
    assert new_desk.state.book.cash == 10_000 - 9 * 200


def test_what_other_code_left_halts_cancels_entries_and_lets_exits_leave() -> None:
    _, new_desk, order = both_desks()
    take(new_desk, ev.OrderAccepted(new_desk.state.now_ns, order.client_order_id))
    fill = ev.OrderFilled(
        new_desk.state.now_ns,
        order.client_order_id,
        CALL,
        1,
        Decimal("2.00"),
        new_desk.state.now_ns,
        4,
        Decimal(8),
        Decimal(0),
        4,
    )
    take(new_desk, fill)
    effects = new_desk.put(code_change(new_desk))
    assert (new_desk.halted(), alarms(effects)) == ("code_changed", ["code_changed"])
    assert canceling(effects) == [order.client_order_id]
    new_desk.canceled(order.client_order_id)
    sale = sent(new_desk.put(ev.FlattenRequested(new_desk.state.now_ns, "x", "ann")))
    assert (sale.symbol, sale.side, sale.quantity) == (CALL, -1, 4)
    assert sale.client_order_id != order.client_order_id


def test_an_order_that_this_code_would_have_sent_and_that_did_not_leave_is_not_there() -> None:
    new_desk = desk()
    new_desk.bar(0)
    assert of(take(new_desk, answer_of(new_desk, BUY_CALL)), SubmitOrder) == []
    assert (new_desk.orders(), new_desk.state.works, new_desk.state.risk.orders_today) == ({}, {}, 0)
    new_desk.bar(1)
    assert sent(new_desk.answer(BUY_CALL)).quantity == 9  # afterwards it decides as ever


def test_an_order_that_both_sent_is_there_once_with_its_work() -> None:
    old_desk, new_desk = desk(), desk()
    for d in (old_desk, new_desk):
        d.bar(0)
    event = answer_of(old_desk, BUY_CALL)
    order = sent(old_desk.put(event))
    assert sent(take(new_desk, event, order)) == order
    assert new_desk.state == old_desk.state


def test_a_sale_that_left_ends_the_position() -> None:
    new_desk = desk()
    new_desk.holds()
    new_desk.bar(1)
    sale = SubmitOrder("e1-pointer-7-1-0", CALL, -1, 9, Decimal("1.50"), "sell_to_close", 0)
    take(new_desk, ev.ClockTicked(new_desk.at(2, 1)), sale)
    assert new_desk.order(sale.client_order_id).purpose == "exit"
    assert new_desk.state.decision == 7
    fill = ev.OrderFilled(
        new_desk.at(2, 2), sale.client_order_id, CALL, -1, Decimal("1.60"), 0, 9, Decimal("14.40"), Decimal(0), 9
    )
    take(new_desk, fill)
    assert new_desk.held == {}
    assert new_desk.state.book.cash == 10_000 - 1800 + 1440


def test_a_cancel_that_left_is_remembered_and_one_that_did_not_is_not() -> None:
    new_desk = desk(Trading(execution=Execution(entry_reprice_s=10)))
    order = new_desk.buys()
    assert canceling(take(new_desk, ev.ClockTicked(new_desk.at(1, 11)))) == []  # this code would cancel now
    assert new_desk.order(order).status == ACCEPTED
    assert new_desk.order(order).cancel_asked_ns == 0
    take(new_desk, ev.ClockTicked(new_desk.at(1, 12)), CancelOrder(order))
    assert (new_desk.order(order).status, new_desk.order(order).cancel_asked_ns) == (CANCELING, new_desk.at(1, 12))
    old_desk = desk()
    patient = old_desk.buys()
    take(old_desk, ev.ClockTicked(old_desk.at(1, 1)), CancelOrder(patient))  # this code would wait
    assert (old_desk.order(patient).status, old_desk.order(patient).cancel_asked_ns) == (CANCELING, old_desk.at(1, 1))
    take(old_desk, ev.ClockTicked(old_desk.at(1, 2)), CancelOrder(patient), CancelOrder("unknown"))
    assert old_desk.order(patient).cancel_asked_ns == old_desk.at(1, 1)


def test_a_sale_that_left_and_never_arrived_keeps_no_later_exit_back() -> None:
    """Its work is gone with the other code: the next exit takes it over and sends it again under its own name."""
    new_desk = desk()
    new_desk.holds()
    new_desk.bar(1)
    sale = SubmitOrder("e1-pointer-7-1-0", CALL, -1, 9, Decimal("1.50"), "sell_to_close", 0)
    take(new_desk, ev.ClockTicked(new_desk.at(2, 1)), sale)
    new_desk.put(code_change(new_desk))
    assert (
        of(new_desk.put(ev.OrderMissing(new_desk.at(2, 5), sale.client_order_id)), SubmitOrder) == []
    )  # not asked for
    assert of(new_desk.put(ev.FlattenRequested(new_desk.at(2, 6), "x", "ann")), SubmitOrder) == []  # it may be there
    again = sent(new_desk.put(ev.OrderMissing(new_desk.at(2, 9), sale.client_order_id)))
    assert (again.client_order_id, again.side, again.quantity) == (sale.client_order_id, -1, 9)
    (work,) = new_desk.state.works.values()
    assert work.order_id == sale.client_order_id
    fill = ev.OrderFilled(
        new_desk.at(2, 20), sale.client_order_id, CALL, -1, Decimal("1.60"), 0, 9, Decimal("14.40"), Decimal(0), 9
    )
    new_desk.put(fill)
    assert (new_desk.held, new_desk.state.works) == ({}, {})


@pytest.mark.parametrize("has_left", [True, False])
def test_a_missing_order_counts_as_sent_again_only_where_it_was(has_left: bool) -> None:
    d = at_broker(Account())
    name = lost(d)
    twin = at_broker(Account())
    lost(twin)
    missing = ev.OrderMissing(d.at(1, 8), name)
    again = sent(twin.put(missing))
    effects = take(d, missing, *((again,) if has_left else ()))
    assert (len(of(effects, SubmitOrder)), d.order(name).status) == ((1, SUBMITTED) if has_left else (0, UNKNOWN))


def test_no_number_of_a_decision_is_given_twice() -> None:
    new_desk = desk()
    new_desk.put(code_change(new_desk, 41))
    new_desk.bar(0)
    assert new_desk.state.ask is not None
    assert new_desk.state.ask.decision == 42


def test_the_orders_of_a_daily_desk_are_bought_or_sold() -> None:
    new_desk = DailyDesk().fund().begin()
    for name, side in (("e1-shelf-3-0-0", 1), ("e1-shelf-3-1-0", -1)):
        take(new_desk, ev.ClockTicked(new_desk.at(1)), SubmitOrder(name, "SPY", side, 5, Decimal(500), "", 0))
    assert [order.purpose for order in new_desk.state.orders.values()] == ["entry", "exit"]


def test_a_machine_waits_no_longer_for_what_other_code_did_not_do() -> None:
    events = run(machine())
    bar = next(i for i, event in enumerate(events) if isinstance(event, ev.OrderFilled)) - 1
    new_machine = machine()
    for event in events[:bar]:
        new_machine.reapply(event)
    new_machine.take(events[bar], ())  # the bar in which the order filled
    quotes = next(event for event in events[bar:] if isinstance(event, ev.QuotesReceived))
    assert any(isinstance(caused, ev.OrderFilled) for caused in new_machine.queue)
    new_machine.take(quotes, ())  # other code had no fill
    assert not any(isinstance(caused, ev.OrderFilled) for caused in new_machine.queue)
    ask = next((caused for caused in new_machine.queue if isinstance(caused, AskPolicy)), None)
    assert ask is not None
    new_machine.take(ev.PolicyAnswered(new_machine.state.now_ns, ask.decision, logits(EXIT), b"", "v1"), ())
    assert not new_machine.queue
    new_machine.queue.append(ask)
    new_machine.take(ev.ClockTicked(new_machine.state.now_ns), ())
    assert not new_machine.queue  # an engine asks its source only when nothing is under way


def test_a_damaged_journal_halts_under_its_own_name() -> None:
    new_desk = desk()
    effects = new_desk.put(replace(code_change(new_desk), damaged=True))
    assert (new_desk.halted(), alarms(effects)) == ("journal_damaged", ["journal_damaged"])


def test_a_work_that_its_former_code_began_goes_on_under_the_next_name() -> None:
    new_desk = DailyDesk().fund().begin()
    new_desk.bars(LAST_FRIDAY, **dict.fromkeys(SYMBOLS, 100.0))
    new_desk.due()
    new_desk.answer(20, KEEP, KEEP)
    take(new_desk, ev.ClockTicked(new_desk.at(0)), SubmitOrder("e1-shelf-1-0-0", "AAA", 1, 10, Decimal(101), "", 0))
    take(new_desk, ev.ClockTicked(new_desk.at(0.1)))
    new_desk.fill("e1-shelf-1-0-0", 10, "100")
    (rest,) = of(new_desk.quotes(0.2, AAA="100"), SubmitOrder)
    assert (rest.client_order_id, rest.symbol, rest.quantity) == ("e1-shelf-1-0-1", "AAA", 10)
    new_desk.fill(rest.client_order_id, 10, "100")
    assert new_desk.held == {"AAA": 20}
