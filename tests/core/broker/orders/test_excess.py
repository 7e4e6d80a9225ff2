"""Late fills of cancelled entries: what exceeds the goal or the limit is sold again and reported, on both desks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core import events as ev
from daemon.core.effects import SubmitOrder
from daemon.core.limits import Basket, Execution, Risk, Sizing, Trading
from tests.support.core.daily_desk import KEEP, LAST_FRIDAY, DailyDesk
from tests.support.core.desk import (
    BUY_CALL,
    CALL,
    EXIT,
    MONDAY,
    TUESDAY,
    Desk,
    alarms,
    canceling,
    desk,
    of,
    quote,
    sent,
)
from tests.support.examples import examples

BUSY = Trading(
    risk=Risk(orders_per_minute=90, cooldown_trade_s=0, cooldown_loss_s=0), execution=Execution(entry_deadline_s=600)
)


def bought_twice(mode: str = "live") -> tuple[Desk, str]:
    """A desk that holds the 9 it wanted, by the second attempt; and the first one, cancelled, as far as it knows."""
    d = desk(BUSY, mode=mode)
    first = d.buys()
    assert canceling(d.quotes(2, quote(CALL))) == [first]
    second = sent(d.canceled(first)).client_order_id
    d.fill(second, 9)
    assert (d.held, d.state.works) == ({CALL: 9}, {})
    return d, first


@pytest.mark.parametrize("late", [1, 4, 9])
def test_a_late_fill_of_a_cancelled_entry_is_sold_again(late: int) -> None:
    d, first = bought_twice()
    effects = d.fill(first, late)
    assert (sent(effects).side, sent(effects).quantity, alarms(effects)) == (-1, late, ["excess_filled"])
    d.fill(sent(effects).client_order_id, late, "1.90")
    assert (d.held, d.state.works) == ({CALL: 9}, {})
    assert d.decisions()[-1].action == "excess"


def test_a_successor_that_fills_in_spite_of_its_cancel_is_sold_again() -> None:
    d = desk(BUSY, mode="live")
    first = d.buys()
    d.quotes(2, quote(CALL))
    second = sent(d.canceled(first)).client_order_id
    assert canceling(d.fill(first, 9)) == [second]
    effects = d.fill(second, 9)
    assert (d.held, sent(effects).quantity, alarms(effects)) == ({CALL: 18}, 9, ["excess_filled"])


def test_an_entry_that_fills_after_the_desk_left_is_left_too() -> None:
    d = desk(BUSY, mode="live")
    order = d.buys()
    d.fill(order, 4)
    d.bar(1)
    assert of(d.answer(EXIT), SubmitOrder) == []  # the cancel of the buy comes first
    sale = sent(d.canceled(order)).client_order_id
    d.fill(sale, 4, "1.90")
    assert (d.held, d.state.works) == ({}, {})
    effects = d.fill(order, 7)
    assert (sent(effects).quantity, alarms(effects)) == (3, ["excess_filled"])


def test_an_entry_given_up_that_fills_late_within_its_goal_stays() -> None:
    d = desk(BUSY, mode="live")
    order = d.buys()
    d.put(ev.PauseRequested(d.at(1), "lunch", "ann"))
    d.canceled(order)
    assert of(d.fill(order, 9), SubmitOrder) == []
    assert d.held == {CALL: 9}


def test_contracts_beyond_the_position_limit_are_sold_although_they_were_wanted() -> None:
    d = desk(BUSY, mode="live")
    order = d.buys()
    less = Trading(risk=Risk(position_contracts_max=5, orders_per_minute=90))
    d.put(ev.RunStarted(d.at(1), "live", "desk-1", "pointer", "e1", "c", "sip", less))
    d.tick(3)  # a start hears the broker first, a minute at most
    effects = d.fill(order, 9)
    assert (alarms(effects), sent(effects).quantity) == (["excess_filled"], 4)


def test_an_entry_of_another_contract_makes_a_late_fill_of_the_former_one_unwanted() -> None:
    d = desk(BUSY, mode="live")
    order = d.buys()
    d.put(ev.HaltRequested(d.at(1), "operator", "x", "ann"))
    d.canceled(order)
    d.put(ev.ResumeRequested(d.at(1), "on", "ann"))
    d.bar(1, close=502.0)  # another strike is nearest
    d.bar(2, close=502.0)
    other = sent(d.answer(BUY_CALL))
    assert other.symbol != CALL
    d.fill(other.client_order_id, other.quantity)
    assert alarms(d.fill(order, 3)) == ["excess_filled"]
    sale = sent(d.quotes(3, quote(CALL), second=1))  # what nobody watched any more is quoted again first
    assert (sale.symbol, sale.quantity) == (CALL, 3)


def test_what_the_cash_of_a_daily_desk_did_not_cover_is_wanted_no_more() -> None:
    d = DailyDesk(Trading(basket=Basket(auction=False))).fund("6000").begin(MONDAY)
    d.bars(LAST_FRIDAY, AAA=100.0)
    d.due()
    d.answer(90, KEEP, KEEP)
    first = sent(d.quotes(1, AAA="100"))
    assert first.quantity == 59  # of the 90 that were decided, at 100.20 with costs
    assert canceling(d.quotes(2, AAA="100")) == [first.client_order_id]
    d.put(ev.OrderCanceled(d.at(2), first.client_order_id))
    second = sent(d.quotes(2.1, AAA="100"))
    d.fill(first.client_order_id, 59, "100")
    assert alarms(d.fill(second.client_order_id, second.quantity, "100")) == ["excess_filled"]
    sale = sent(d.quotes(2.2, AAA="100"))
    assert (d.held, sale.side, sale.quantity) == ({"AAA": 118}, -1, 59)  # the cash is 5,800 USD below zero until then


def test_a_late_fill_of_a_daily_desk_s_buy_is_sold_again() -> None:
    d = DailyDesk(Trading(basket=Basket(auction=False))).fund().holds(AAA=10)
    d.begin(TUESDAY)
    d.due()
    d.answer(20, KEEP, KEEP)
    first = sent(d.quotes(1, AAA="100")).client_order_id
    assert canceling(d.quotes(2, AAA="100")) == [first]
    d.put(ev.OrderCanceled(d.at(2), first))
    second = sent(d.quotes(2.1, AAA="100")).client_order_id
    d.fill(second, 10, "100")
    d.fill(first, 6, "100")
    effects = d.quotes(2.2, AAA="100")
    assert (d.held, sent(effects).side, sent(effects).quantity) == ({"AAA": 26}, -1, 6)
    assert "excess_filled" in alarms(d.effects)


MOVES = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(("fill", "cancel", "tick", "quotes", "exit"))), max_size=30
)


@settings(max_examples=examples(120), deadline=None)
@given(MOVES)
def test_whatever_fills_late_no_more_than_wanted_stays(moves: list[tuple[int, str]]) -> None:
    d = desk(
        Trading(risk=BUSY.risk, execution=BUSY.execution, sizing=Sizing(stop_loss=0.9, take_profit=9.0)), mode="live"
    )
    d.buys()
    second = 70
    for pick, move in moves:
        second += 31
        names = [name for name, order in d.orders().items() if order.side > 0]
        name = names[pick % len(names)]
        if move == "fill":
            order = d.order(name)
            d.fill(name, min(order.filled + 1 + pick, order.quantity))
        elif move == "cancel":
            d.canceled(name)
        elif move == "exit":
            d.bar(second // 60)
            if d.state.ask is not None:
                d.answer(EXIT)
        else:
            d.quotes(0, quote(CALL), second=second)
    for step in range(40):  # from here on the broker answers at once
        for name, order in tuple(d.state.orders.items()):
            if order.status == "pending_cancel":
                d.canceled(name)
            elif order.side < 0:
                d.fill(name, order.quantity, "1.90")
        d.quotes(0, quote(CALL), second=second + 700 + 31 * step)
    assert d.held.get(CALL, 0) <= d.state.wanted[CALL]
    assert d.state.works == {}
