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
from tests.support.core.daily_desk import DailyDesk
from tests.support.core.desk import BUY_CALL, CALL, EXIT, Desk, alarms, canceling, desk, logits, of, sent
from tests.support.core.lost_orders import lost
from tests.support.core.machines import machine, run

SMALL = Trading(sizing=Sizing(max_contracts=3))


def take(d: Desk | DailyDesk, event: ev.Event, *left: AnyEffect) -> list[AnyEffect]:
    """Step an event that other code stepped before, when `left` left the process."""
    step = d.core.step(d.state, event, left)
    d.state = step.state
    return list(step.effects)


def changed(d: Desk, decision: int = 0) -> ev.CodeChanged:
    return ev.CodeChanged(d.state.now_ns, "0ther", 5, 1, "code 0ther wrote the last 5 events", decision)


def answered(d: Desk, action: int) -> ev.PolicyAnswered:
    assert d.state.ask is not None
    return ev.PolicyAnswered(d.state.now_ns, d.state.ask.decision, logits(action), b"", "v1")


def both(trading: Trading = SMALL) -> tuple[Desk, Desk, SubmitOrder]:
    """Theirs, that bought 9; ours, which would have bought 3 and took their answer; and the order."""
    theirs, ours = desk(), desk(trading)
    theirs.bar(0)
    ours.bar(0)
    event = answered(theirs, BUY_CALL)
    order = sent(theirs.put(event))
    assert order.quantity == 9
    assert of(take(ours, event, order), SubmitOrder) == []
    return theirs, ours, order


def test_an_order_that_left_is_the_desk_s_own_and_its_fill_is_booked() -> None:
    _, ours, order = both()
    (known,) = ours.state.orders.values()
    assert (known.client_order_id, known.symbol, known.quantity) == (order.client_order_id, CALL, 9)
    assert (known.purpose, known.status, known.valid_until_ns) == ("entry", SUBMITTED, order.valid_until_ns)
    assert (ours.state.risk.orders_today, ours.state.stats.orders) == (1, 1)
    filled = ev.OrderFilled(
        ours.state.now_ns,
        order.client_order_id,
        CALL,
        1,
        Decimal("2.00"),
        ours.state.now_ns,
        9,
        Decimal(18),
        Decimal(0),
        9,
    )
    take(ours, filled)
    assert ours.held == {CALL: 9}
    assert ours.state.book.cash == 10_000 - 9 * 200


def test_what_other_code_left_halts_cancels_entries_and_lets_exits_leave() -> None:
    _, ours, order = both()
    take(ours, ev.OrderAccepted(ours.state.now_ns, order.client_order_id))
    filled = ev.OrderFilled(
        ours.state.now_ns,
        order.client_order_id,
        CALL,
        1,
        Decimal("2.00"),
        ours.state.now_ns,
        4,
        Decimal(8),
        Decimal(0),
        4,
    )
    take(ours, filled)
    effects = ours.put(changed(ours))
    assert (ours.halted(), alarms(effects)) == ("code_changed", ["code_changed"])
    assert canceling(effects) == [order.client_order_id]
    ours.canceled(order.client_order_id)
    sale = sent(ours.put(ev.FlattenRequested(ours.state.now_ns, "x", "ann")))
    assert (sale.symbol, sale.side, sale.quantity) == (CALL, -1, 4)
    assert sale.client_order_id != order.client_order_id


def test_an_order_that_this_code_would_have_sent_and_that_did_not_leave_is_not_there() -> None:
    ours = desk()
    ours.bar(0)
    assert of(take(ours, answered(ours, BUY_CALL)), SubmitOrder) == []
    assert (ours.orders(), ours.state.works, ours.state.risk.orders_today) == ({}, {}, 0)
    ours.bar(1)
    assert sent(ours.answer(BUY_CALL)).quantity == 9  # afterwards it decides as ever


def test_an_order_that_both_sent_is_there_once_with_its_work() -> None:
    theirs, ours = desk(), desk()
    for d in (theirs, ours):
        d.bar(0)
    event = answered(theirs, BUY_CALL)
    order = sent(theirs.put(event))
    assert sent(take(ours, event, order)) == order
    assert ours.state == theirs.state


def test_a_sale_that_left_ends_the_position() -> None:
    ours = desk()
    ours.holds()
    ours.bar(1)
    sale = SubmitOrder("e1-pointer-7-1-0", CALL, -1, 9, Decimal("1.50"), "sell_to_close", 0)
    take(ours, ev.ClockTicked(ours.at(2, 1)), sale)
    assert ours.order(sale.client_order_id).purpose == "exit"
    assert ours.state.decision == 7
    filled = ev.OrderFilled(
        ours.at(2, 2), sale.client_order_id, CALL, -1, Decimal("1.60"), 0, 9, Decimal("14.40"), Decimal(0), 9
    )
    take(ours, filled)
    assert ours.held == {}
    assert ours.state.book.cash == 10_000 - 1800 + 1440


def test_a_cancel_that_left_is_remembered_and_one_that_did_not_is_not() -> None:
    ours = desk(Trading(execution=Execution(entry_reprice_s=10)))
    order = ours.buys()
    assert canceling(take(ours, ev.ClockTicked(ours.at(1, 11)))) == []  # this code would cancel now
    assert ours.order(order).status == ACCEPTED
    assert ours.order(order).cancel_asked_ns == 0
    take(ours, ev.ClockTicked(ours.at(1, 12)), CancelOrder(order))
    assert (ours.order(order).status, ours.order(order).cancel_asked_ns) == (CANCELING, ours.at(1, 12))
    theirs = desk()
    patient = theirs.buys()
    take(theirs, ev.ClockTicked(theirs.at(1, 1)), CancelOrder(patient))  # this code would wait
    assert (theirs.order(patient).status, theirs.order(patient).cancel_asked_ns) == (CANCELING, theirs.at(1, 1))
    take(theirs, ev.ClockTicked(theirs.at(1, 2)), CancelOrder(patient), CancelOrder("unknown"))
    assert theirs.order(patient).cancel_asked_ns == theirs.at(1, 1)


@pytest.mark.parametrize("left", [True, False])
def test_a_missing_order_counts_as_sent_again_only_where_it_was(left: bool) -> None:
    d = at_broker(Account())
    name = lost(d)
    twin = at_broker(Account())
    lost(twin)
    missing = ev.OrderMissing(d.at(1, 8), name)
    again = sent(twin.put(missing))
    effects = take(d, missing, *((again,) if left else ()))
    assert (len(of(effects, SubmitOrder)), d.order(name).status) == ((1, SUBMITTED) if left else (0, UNKNOWN))


def test_no_number_of_a_decision_is_given_twice() -> None:
    ours = desk()
    ours.put(changed(ours, 41))
    ours.bar(0)
    assert ours.state.ask is not None
    assert ours.state.ask.decision == 42


def test_the_orders_of_a_daily_desk_are_bought_or_sold() -> None:
    ours = DailyDesk().fund().begin()
    for name, side in (("e1-shelf-3-0-0", 1), ("e1-shelf-3-1-0", -1)):
        take(ours, ev.ClockTicked(ours.at(1)), SubmitOrder(name, "SPY", side, 5, Decimal(500), "", 0))
    assert [order.purpose for order in ours.state.orders.values()] == ["entry", "exit"]


def test_a_machine_waits_no_longer_for_what_other_code_did_not_do() -> None:
    seen = run(machine())
    bar = next(i for i, event in enumerate(seen) if isinstance(event, ev.OrderFilled)) - 1
    ours = machine()
    for event in seen[:bar]:
        ours.reapply(event)
    ours.take(seen[bar], ())  # the bar in which the order filled
    quotes = next(event for event in seen[bar:] if isinstance(event, ev.QuotesReceived))
    assert any(isinstance(caused, ev.OrderFilled) for caused in ours.queue)
    ours.take(quotes, ())  # other code had no fill
    assert not any(isinstance(caused, ev.OrderFilled) for caused in ours.queue)
    ask = next((caused for caused in ours.queue if isinstance(caused, AskPolicy)), None)
    assert ask is not None
    ours.take(ev.PolicyAnswered(ours.state.now_ns, ask.decision, logits(EXIT), b"", "v1"), ())
    assert not ours.queue
    ours.queue.append(ask)
    ours.take(ev.ClockTicked(ours.state.now_ns), ())
    assert not ours.queue  # an engine asks its source only when nothing is under way


def test_a_damaged_journal_halts_under_its_own_name() -> None:
    ours = desk()
    effects = ours.put(replace(changed(ours), damaged=True))
    assert (ours.halted(), alarms(effects)) == ("journal_damaged", ["journal_damaged"])
