"""Entries and exits from the first attempt to the last: prices, partial fills, re-pricing, deadlines, one at a time.

Quotes are 1.98 to 2.02 unless a test says otherwise, so an entry's limit is 2.02 x 1.05 = 2.12 and, with 10,000 USD,
20 % of it buys 2,000 / 212 = 9 contracts; an exit's limit is 1.98 x 0.95 = 1.89, rounded up to the cent.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from msgspec.structs import replace as changed

from daemon.core.desks.options import contracts_for, entry_bound, entry_limit, sold_by_trim
from daemon.core.effects import SubmitOrder
from daemon.core.events import (
    CancelRejected,
    ClockTicked,
    OrderExpired,
    OrderRejected,
    OrderUnknown,
    SessionEnded,
)
from daemon.core.limits import Execution, Risk, Sizing, Trading
from daemon.core.orders import CANCELED, CANCELING, FILLED, PARTIAL, REJECTED, SUBMITTED, UNKNOWN
from tests.support.core.desk import (
    BUY_CALL,
    BUY_PUT,
    CALL,
    EXIT,
    HOLD,
    MONDAY,
    PUT,
    SECOND,
    TRIM_50,
    TRIM_70,
    TUESDAY,
    Desk,
    alarms,
    canceling,
    desk,
    of,
    quote,
    sent,
)

FIVE = Trading(sizing=Sizing(max_contracts=5))
PATIENT = Trading(execution=Execution(exit_start="mid"))


@pytest.mark.parametrize(
    ("equity", "limit", "expected"),
    [
        ("10000", "2.12", 9),  # 2000 / 212 = 9.43
        ("10000", "2.00", 10),  # 2000 / 200 exactly
        ("10000", "2.01", 9),
        ("10000", "0.05", 10),  # capped at max_contracts
        ("1000", "2.00", 1),
        ("999.99", "2.00", 0),  # not one contract
        ("0", "2.00", 0),
        ("-5", "2.00", 0),
        ("10000", "0", 0),
    ],
)
def test_the_premium_fraction_of_the_equity_buys_whole_contracts_up_to_the_cap(
    equity: str, limit: str, expected: int
) -> None:
    assert contracts_for(Decimal(equity), Decimal(limit), Sizing()) == expected


def test_fewer_contracts_than_the_minimum_are_none() -> None:
    assert contracts_for(Decimal(10000), Decimal("5.00"), Sizing(min_contracts=5)) == 0
    assert contracts_for(Decimal(10000), Decimal("4.00"), Sizing(min_contracts=5)) == 5


def test_an_entry_limit_is_the_ask_with_slack_below_the_bound_and_whole_cents() -> None:
    now = quote(CALL, "1.98", "2.02")
    assert entry_bound(now, 0.20) == Decimal("2.40")  # the mid 2.00 x 1.2
    assert entry_limit(now, 0.05, None) == Decimal("2.12")  # 2.121
    assert entry_limit(now, 0.05, Decimal("2.05")) == Decimal("2.05")


@pytest.mark.parametrize(
    ("quantity", "keep", "sale_quantity"),
    [(10, 50, 5), (9, 50, 4), (1, 50, 1), (10, 30, 7), (9, 30, 6), (3, 30, 2), (1, 30, 1), (17, 30, 11)],
)
def test_a_trim_rounds_down_and_sells_at_least_one(quantity: int, keep: int, sale_quantity: int) -> None:
    assert sold_by_trim(quantity, keep) == sale_quantity


def test_an_entry_goes_out_as_one_bounded_limit_order_named_by_its_decision() -> None:
    d = desk()
    d.bar(0)
    order = sent(d.answer(BUY_CALL))
    assert order == SubmitOrder(
        client_order_id="e1-pointer-1-0-0",
        symbol=CALL,
        side=1,
        quantity=9,
        limit_price=Decimal("2.12"),
        intent="buy_to_open",
        valid_until_ns=d.at(1) + 60 * SECOND,
    )
    assert d.order(order.client_order_id).status == SUBMITTED
    (decision,) = d.decisions()
    assert (decision.outcome, decision.work, decision.action, decision.confidence) == (
        "ordered",
        "1.0",
        "BUY_CALL",
        0.9,
    )


def test_partial_fills_add_up_and_the_whole_entry_ends_its_work() -> None:
    d = desk()
    order = d.buys()
    d.fill(order, 4, "2.00")
    assert (d.held, d.order(order).status, list(d.state.works)) == ({CALL: 4}, PARTIAL, ["1.0"])
    d.fill(order, 9, "2.02", cost="18.10")  # 4 x 2.00 + 5 x 2.02
    assert (d.held, d.order(order).status, d.state.works) == ({CALL: 9}, FILLED, {})
    assert d.state.book.cash == Decimal("8190.00")
    assert (d.state.stats.fills, d.state.stats.partial_fills) == (2, 1)


def test_an_entry_that_does_not_fill_is_cancelled_and_sent_again_at_the_new_price() -> None:
    d = desk()
    first = d.buys()
    assert d.tick(1, 59) == []
    assert canceling(d.bar(1, quotes=(quote(CALL, "2.08", "2.12"),))) == [first]
    assert d.order(first).status == CANCELING
    second = sent(d.canceled(first))
    assert (second.client_order_id, second.quantity) == ("e1-pointer-1-0-1", 9)
    assert second.limit_price == Decimal("2.22")  # 2.12 x 1.05 = 2.226


def test_a_re_priced_entry_asks_only_for_what_is_missing() -> None:
    d = desk()
    first = d.buys()
    d.fill(first, 4)
    d.bar(1)
    again = d.canceled(first)
    assert (sent(again).quantity, sent(again).client_order_id) == (5, "e1-pointer-1-0-1")


def test_a_re_priced_entry_never_pays_more_than_the_decision_s_bound_and_ends_when_the_ask_is_above_it() -> None:
    d = desk()
    first = d.buys()
    d.bar(1, quotes=(quote(CALL, "2.30", "2.34"),))
    second = sent(d.canceled(first))
    assert second.limit_price == Decimal("2.40")  # 2.34 x 1.05 = 2.457 lies above the bound
    d.accept(second.client_order_id)
    d.bar(2, quotes=(quote(CALL, "2.40", "2.44"),))
    assert d.canceled(second.client_order_id) == []
    assert d.state.works == {}


def test_an_entry_is_given_up_at_its_deadline_and_keeps_what_was_filled() -> None:
    d = desk(FIVE)
    order = d.buys()
    d.fill(order, 2)
    for minute in (1, 2):
        assert canceling(d.bar(minute)) == [order]
        order = sent(d.canceled(order)).client_order_id
        d.accept(order)
    assert d.tick(3, 59) == []
    assert canceling(d.tick(4)) == [order]  # 180 s after the decision
    assert d.canceled(order) == []
    assert (d.held, d.state.works) == ({CALL: 2}, {})


@pytest.mark.parametrize("obstacle", ["rejected", "stale", "no offer", "gate"])
def test_an_entry_is_not_sent_again_when_the_broker_the_quote_or_a_gate_speaks_against_it(obstacle: str) -> None:
    d = desk()
    order = d.buys()
    if obstacle == "rejected":
        assert of(d.put(OrderRejected(d.at(1), order, "no")), SubmitOrder) == []
    else:
        d.bar(
            1,
            quotes={"no offer": (quote(CALL, "1.98", "0"),), "gate": (quote(CALL, "1.50", "2.02"),)}.get(obstacle, ()),
        )
        if obstacle == "stale":
            d.tick(2, 31)
        assert of(d.canceled(order), SubmitOrder) == []
    assert d.state.works == {}


def test_a_late_fill_of_an_old_attempt_shrinks_the_new_one() -> None:
    d = desk(FIVE)
    first = d.buys()
    d.bar(1)
    second = sent(d.canceled(first)).client_order_id
    assert canceling(d.fill(first, 2)) == [second]  # 5 wanted, 2 held, 5 working: too many
    assert sent(d.canceled(second)).quantity == 3


def test_an_exit_starts_below_the_bid_and_goes_to_market_after_its_attempts() -> None:
    d = desk()
    d.holds()
    d.bar(1)
    first = sent(d.answer(EXIT))
    assert (first.client_order_id, first.quantity, first.intent) == ("e1-pointer-2-1-0", 9, "sell_to_close")
    assert first.limit_price == Decimal("1.89")  # 1.98 x 0.95 = 1.881
    d.accept(first.client_order_id)
    d.tick(2, 59)
    assert canceling(d.bar(2)) == [first.client_order_id]
    second = sent(d.canceled(first.client_order_id))
    assert second.limit_price == Decimal("1.89")
    d.accept(second.client_order_id)
    assert canceling(d.bar(3)) == [second.client_order_id]
    third = sent(d.canceled(second.client_order_id))
    assert third.limit_price is None
    d.accept(third.client_order_id)
    assert canceling(d.quotes(4, quote(CALL), second=-1)) == []
    stuck = d.bar(4)  # a market order that does not fill within a minute hangs
    assert (canceling(stuck), alarms(stuck)) == ([third.client_order_id], ["exit_stuck"])
    d.fill(third.client_order_id, 9, "1.90")
    assert (d.held, d.state.works) == ({}, {})


def test_a_patient_exit_walks_from_the_mid_to_the_bid_to_the_market() -> None:
    d = desk(PATIENT)
    d.holds()
    d.bar(1, quotes=(quote(CALL, "1.97", "2.02"),))
    limits = []
    order = sent(d.answer(EXIT))
    for minute in (2, 3):
        limits.append(order.limit_price)
        d.bar(minute, quotes=(quote(CALL, "1.97", "2.02"),))
        order = sent(d.canceled(order.client_order_id))
    limits.append(order.limit_price)
    assert limits == [Decimal("2.00"), Decimal("1.88"), None]  # mid 1.995 up; 1.97 x 0.95 = 1.8715 up


def test_an_exit_limit_is_never_below_one_cent() -> None:
    d = desk(Trading(execution=Execution(exit_slack=1.0)))
    d.holds()
    d.bar(1)
    assert sent(d.answer(EXIT)).limit_price == Decimal("0.01")


def test_an_exit_without_a_fresh_quote_goes_to_market() -> None:
    d = desk()
    d.holds()
    d.bar(1)
    d.bar(2, quotes=())
    d.bar(3, quotes=())
    assert sent(d.answer(EXIT)).limit_price is None


def test_without_a_bid_nothing_is_sent_and_one_alarm_is_raised_until_somebody_bids() -> None:
    d = desk()
    d.holds()
    stop = d.bar(1, quotes=(quote(CALL, "0", "0.02"),))
    assert (alarms(stop), of(stop, SubmitOrder)) == (["daily_loss", "no_bid"], [])
    assert of(d.bar(2, quotes=(quote(CALL, "0", "0.02"),)), SubmitOrder) == []
    assert alarms(d.tick(3, 30)) == []
    order = sent(d.bar(3, quotes=(quote(CALL, "0.01", "0.02"),)))
    assert (order.limit_price, order.quantity) == (Decimal("0.01"), 9)


@pytest.mark.parametrize(("action", "sale_quantity"), [(TRIM_50, 4), (TRIM_70, 6)])
def test_a_trim_sells_its_part_and_the_rest_stays(action: int, sale_quantity: int) -> None:
    d = desk()
    d.holds()
    d.bar(1)
    order = sent(d.answer(action))
    assert order.quantity == sale_quantity
    d.fill(order.client_order_id, sale_quantity, "2.10")
    assert (d.held, d.state.works) == ({CALL: 9 - sale_quantity}, {})
    assert d.state.stats.trades == 0


def test_a_trim_of_one_contract_sells_it() -> None:
    d = desk(Trading(sizing=Sizing(max_contracts=1)))
    d.holds()
    d.bar(1)
    order = sent(d.answer(TRIM_50))
    d.fill(order.client_order_id, 1, "2.10")
    assert (order.quantity, d.held, d.state.stats.trades) == (1, {}, 1)


def test_an_opposite_buy_is_an_exit() -> None:
    d = desk()
    d.holds(BUY_PUT)
    assert d.held == {PUT: 9}
    d.bar(1)
    order = sent(d.answer(BUY_CALL))
    assert (order.symbol, order.side, order.quantity) == (PUT, -1, 9)


def test_a_buy_of_the_held_side_or_a_hold_or_an_exit_when_flat_changes_nothing() -> None:
    d = desk()
    d.bar(0)
    assert d.answer(EXIT) == []
    d.holds(minute=1)
    for minute, action in ((2, BUY_CALL), (3, HOLD)):
        d.bar(minute)
        assert d.answer(action) == []
    assert [row.outcome for row in d.decisions()] == ["hold", "ordered", "hold", "hold"]


def test_an_exit_during_a_working_entry_cancels_first_and_then_sells_what_was_filled() -> None:
    d = desk()
    entry = d.buys()
    d.fill(entry, 3)
    effects = d.quotes(1, quote(CALL, "1.38", "1.42"), second=10)  # the mid 1.40 is the stop of 2.00 - 30 %
    assert (canceling(effects), of(effects, SubmitOrder)) == ([entry], [])
    assert d.fill(entry, 4) == []  # a fill overtakes the cancel
    order = sent(d.canceled(entry))
    assert (order.side, order.quantity, order.symbol) == (-1, 4, CALL)


def test_a_trim_beside_an_exit_under_way_is_denied_and_a_full_exit_takes_a_trim_over() -> None:
    d = desk()
    d.holds()
    d.bar(1)
    trim = sent(d.answer(TRIM_50)).client_order_id
    d.accept(trim)
    d.bar(2)
    d.answer(TRIM_70)
    assert d.decisions()[-1].outcome == "denied"
    assert d.state.stats.denials == {"duplicate_intent": 1}
    d.canceled(trim)
    (work,) = d.state.works.values()
    assert work.goal == 5
    d.bar(3)
    d.answer(EXIT)
    (work,) = d.state.works.values()
    assert work.goal == 0


def test_a_lower_goal_sells_the_rest_when_the_order_under_way_ends() -> None:
    d = desk()
    d.holds()
    d.bar(1)
    trim = sent(d.answer(TRIM_50)).client_order_id
    d.accept(trim)
    d.bar(2)
    d.answer(EXIT)
    order = sent(d.fill(trim, 4, "1.98"))
    assert (order.quantity, order.side) == (5, -1)


def test_a_rejected_exit_waits_a_re_price_interval_before_it_is_sent_again() -> None:
    d = desk()
    d.holds()
    d.bar(1)
    order = sent(d.answer(EXIT)).client_order_id
    effects = d.put(OrderRejected(d.at(2), order, "odd"))
    assert (alarms(effects), of(effects, SubmitOrder)) == (["order_rejected"], [])
    assert d.tick(2, 59) == []
    assert sent(d.tick(3)).client_order_id == "e1-pointer-2-1-1"


def test_a_refused_cancel_is_asked_for_again_only_after_half_a_minute() -> None:
    d = desk()
    order = d.buys()
    assert canceling(d.bar(1)) == [order]
    assert d.put(CancelRejected(d.at(2), order, "not cancelable")) == []
    assert d.order(order).working
    assert d.put(ClockTicked(d.at(2, 29))) == []
    assert canceling(d.put(ClockTicked(d.at(2, 30)))) == [order]


def test_an_exit_waits_for_an_unknown_order_and_sells_no_contract_twice() -> None:
    d = desk()
    d.holds()
    d.bar(1)
    order = sent(d.answer(EXIT)).client_order_id
    d.put(OrderUnknown(d.at(2, 10), order))
    assert d.order(order).status == UNKNOWN
    d.bar(2)
    assert of(d.bar(3) + d.bar(4), SubmitOrder) == []
    assert canceling(d.effects) == []
    d.fill(order, 9, "1.95")
    assert (d.held, d.state.works) == ({}, {})


def test_an_exit_that_an_older_attempt_overtook_is_cancelled_to_the_surplus() -> None:
    d = desk()
    d.holds()
    d.bar(1)
    first = sent(d.answer(EXIT)).client_order_id
    d.bar(2)
    second = sent(d.canceled(first)).client_order_id
    d.accept(second)
    assert canceling(d.fill(first, 4, "1.95")) == [second]
    assert sent(d.canceled(second)).quantity == 5


def test_an_exit_whose_position_went_away_cancels_its_order_and_ends() -> None:
    d = desk()
    d.holds()
    d.bar(1)
    first = sent(d.answer(EXIT)).client_order_id
    d.bar(2)
    second = sent(d.canceled(first)).client_order_id
    assert canceling(d.fill(first, 9, "1.95")) == [second]
    d.canceled(second)
    assert (d.held, d.state.works, d.order(first).status) == ({}, {}, FILLED)


def test_an_exit_outside_of_the_session_waits_for_the_next_open() -> None:
    d = Desk().fund().begin(expiry="2024-07-05")
    d.bar(0)
    symbol = sent(d.answer(BUY_CALL)).symbol
    d.fill("e1-pointer-1-0-0", 9)
    d.bar(1, quotes=(quote(symbol),))
    order = sent(d.answer(EXIT)).client_order_id
    d.put(SessionEnded(MONDAY.close_ns, MONDAY.date), OrderExpired(MONDAY.close_ns, order))
    assert list(d.state.works) == ["2.1"]
    d.begin(TUESDAY, "2024-07-05")
    assert sent(d.tick(0)).quantity == 9


def test_the_desk_never_uses_an_order_id_twice() -> None:
    d = desk()
    d.holds()
    d.bar(1)
    d.answer(EXIT)
    work = {"2.1": changed(d.state.works["2.1"], attempt=-1, order_id="")}
    orders = {name: changed(order, status=CANCELED) for name, order in d.state.orders.items()}
    d.state = changed(d.state, works=work, orders={}, closed={**d.state.closed, **orders})
    with pytest.raises(ValueError, match="e1-pointer-2-1-0 was used before"):
        d.tick(2)


def test_a_rejected_order_that_fills_all_the_same_is_booked() -> None:
    d = desk()
    order = d.buys()
    d.put(OrderRejected(d.at(1), order, "no"))
    d.fill(order, 9)
    assert (d.held, d.order(order).status) == ({CALL: 9}, FILLED)
    assert REJECTED not in {o.status for o in d.orders().values()}


@pytest.mark.parametrize("working", [4, 9])
def test_an_exit_beside_another_working_sale_waits_for_its_end(working: int) -> None:
    d = desk()
    entry = d.holds()
    other = changed(
        d.order(entry), client_order_id="other", purpose="exit", side=-1, quantity=working, filled=0, status="accepted"
    )
    d.state = changed(d.state, orders={**d.state.orders, "other": other})
    d.bar(1)
    assert of(d.answer(EXIT), SubmitOrder) == []
    assert sent(d.canceled("other")).quantity == 9


def test_an_exit_goes_out_even_where_nothing_is_known_of_the_contract() -> None:
    d = desk()
    d.holds()
    d.bar(1)
    d.state = changed(d.state, contracts={}, chain=None)
    assert sent(d.answer(EXIT)).quantity == 9


def test_orders_of_the_last_minute_and_of_the_day_are_counted() -> None:
    d = desk(replace(FIVE, risk=Risk(cooldown_trade_s=0, cooldown_loss_s=0, orders_per_day=2)))
    d.holds()
    d.bar(1)
    d.fill(sent(d.answer(EXIT)).client_order_id, 5, "2.10")
    assert (d.state.risk.orders_today, d.state.risk.order_times) == (2, (d.at(2),))
    d.bar(2)
    d.answer(BUY_CALL)
    assert d.state.stats.denials == {"orders_per_day": 1}


def test_a_work_whose_last_attempt_is_forgotten_is_a_bug_that_is_named() -> None:
    d = desk()
    d.holds()
    d.bar(1)
    order = sent(d.answer(EXIT)).client_order_id
    d.state = changed(d.state, orders={})
    with pytest.raises(ValueError, match=f"order {order} of work 2.1 is forgotten"):
        d.tick(2)
