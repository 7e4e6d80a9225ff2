"""A basket that a pause, a halt or a stop ends: what is held stays, its sales end with its buys, exits by a rule go on.

On Tuesday before the open 10 AAA are held, bought at 100.00; the basket sells them for 10 BBB.
"""

from __future__ import annotations

import pytest

from daemon.app.live.desk import settled
from daemon.core import events as ev
from daemon.core.effects import AnyEffect, RaiseAlarm, SubmitOrder
from daemon.core.limits import Basket, Risk, Trading
from tests.support.core.account import Account
from tests.support.core.daily_desk import KEEP, DailyDesk, decided, orders, tuesday
from tests.support.core.daily_live import with_shares
from tests.support.core.desk import HALF_DAY, alarms, canceling, of

SALE = "e1-shelf-2-0-0"
ENDS = ("pause", "halt", "stop")


def end_by(d: DailyDesk, how: str, minute: float = -10) -> list[AnyEffect]:
    now = d.at(minute)
    match how:
        case "pause":
            return d.put(ev.PauseRequested(now, "x", "ann"))
        case "halt":
            return d.put(ev.HaltRequested(now, "operator", "x", "ann"))
        case _:
            return d.put(ev.StopRequested(now, "SIGTERM", flatten=False))


def on_tuesday() -> DailyDesk:
    """The sale waits for the auction."""
    d = tuesday(AAA=10)
    assert decided(d, 0, 10, KEEP) == [("AAA", -10, None)]
    return d


@pytest.mark.parametrize("how", ENDS)
def test_what_is_held_stays_when_a_basket_is_ended_before_the_open(how: str) -> None:
    d = on_tuesday()
    effects = end_by(d, how)
    assert (canceling(effects), d.state.works, d.state.basket.given_up) == ([SALE], {}, {"AAA": -10, "BBB": 10})
    assert "basket_unfinished" in alarms(effects)
    assert not settled(d.state, flatten=False)
    d.put(ev.OrderCanceled(d.at(-9), SALE))
    assert settled(d.state, flatten=False)
    assert orders(d.quotes(0, AAA="100", BBB="100") + d.tick(5) + d.quotes(6, AAA="100", BBB="100")) == []
    assert d.held == {"AAA": 10}


@pytest.mark.parametrize("how", ENDS)
def test_a_sale_that_the_auction_does_not_let_go_fills_and_nothing_follows(how: str) -> None:
    d = on_tuesday()
    (detail,) = [it.detail for it in of(end_by(d, how, -1), RaiseAlarm) if it.name == "basket_unfinished"]
    assert detail == "not traded today: -10 AAA, +10 BBB; may still fill: -10 AAA"
    d.put(ev.CancelRejected(d.at(-1), SALE, "too late for the auction"))
    d.fill(SALE, 10, "100")
    assert orders(d.quotes(0, AAA="100", BBB="100") + d.tick(5)) == []
    assert (d.held, d.state.works) == ({}, {})


def test_a_sale_of_which_nothing_was_heard_is_cancelled_as_soon_as_it_is_found() -> None:
    d = with_shares(account := Account(), AAA=10)
    d.due()
    (order,) = of(d.answer(0, 10, KEEP), SubmitOrder)
    d.put(ev.OrderUnknown(d.state.now_ns, order.client_order_id))
    assert canceling(end_by(d, "pause")) == []
    account.take(order, d.state.now_ns)
    effects = d.put(account.found(order.client_order_id, d.at(-9)))
    assert canceling(effects) == [order.client_order_id]


@pytest.mark.parametrize("how", ENDS)
def test_after_a_restart_nothing_of_an_ended_basket_is_sent(how: str) -> None:
    d = with_shares(account := Account(), AAA=10)
    d.due()
    (order,) = of(d.answer(0, 10, KEEP), SubmitOrder)
    name = account.take(order, d.state.now_ns)
    d.put(ev.OrderAccepted(d.state.now_ns, name))
    end_by(d, how)
    d.put(ev.RunStarted(d.at(-5), "live", "desk-1", "shelf", "e1", "code", "sip", Trading()))
    again = d.tick(-4) + d.put(account.report(d.at(-4)))
    assert canceling(again) == [name]  # it still works there
    account.end(name)
    d.put(account.report(d.at(-3)))
    assert orders(d.quotes(0.1, AAA="100", BBB="100") + d.tick(5)) == []
    assert d.held == {"AAA": 10}


@pytest.mark.parametrize("flatten", [True, False])
def test_a_loss_that_leaves_all_takes_the_basket_s_sale_over_and_one_that_does_not_ends_it(flatten: bool) -> None:
    d = tuesday(Trading(risk=Risk(daily_loss_flatten=flatten)), AAA=10)
    decided(d, 0, 10, KEEP)
    d.put(ev.HaltRequested(d.at(-5), "daily_loss", "x", "guard"))
    assert [work.reason for work in d.state.works.values()] == (["daily_loss"] if flatten else [])
    assert bool(d.order(SALE).cancel_asked_ns) is not flatten


def test_exits_by_a_rule_go_on_through_a_pause() -> None:
    d = tuesday(AAA=10)
    d.put(ev.FlattenRequested(d.at(-5), "x", "ann"))
    end_by(d, "pause", -4)
    assert orders(d.tick(0)) == [("AAA", -10, None)]


def test_a_basket_of_a_session_whose_end_nobody_told_is_not_traded_in_the_next() -> None:
    """A close by a person goes on."""
    d = tuesday(Trading(basket=Basket(auction=False)), AAA=10, CCC=10)
    assert decided(d, 0, 10, KEEP) == []
    d.put(ev.CloseRequested(d.at(-10), "CCC", 0, "enough", "ann"))
    d.begin(HALF_DAY)
    assert (d.state.basket.given_up, [work.symbol for work in d.state.works.values()]) == (
        {"AAA": -10, "BBB": 10},
        ["CCC"],
    )
    assert [order[:2] for order in orders(d.quotes(0, AAA="100", BBB="100", CCC="100"))] == [("CCC", -10)]
