"""Desks whose stops rest at the broker, and what to see of them. Nothing here computes an expected value.

The desk of two shares bought ten of each at 100 USD. With its own stop at 30 % and a distance of 1.5 the broker's is
45 % below: 55 USD.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from msgspec import UNSET

from daemon.core.effects import AnyEffect, RaiseAlarm, SubmitOrder
from daemon.core.limits import Protection, Sizing, Trading
from daemon.core.orders import SUBMITTED
from strategies.kit.contract import Answer, Basket, Leg, Rebalance, View
from strategies.kit.quantity import Quantity, total
from tests.support.core.account import Account, at_broker
from tests.support.core.daily_desk import KEEP, DailyDesk
from tests.support.core.daily_live import live
from tests.support.core.desk import BUY_CALL, of
from tests.support.core.desk import Desk as OptionDesk
from tests.support.core.share_bars import ShareBarState
from tests.support.core.two_shares import RULES, SYMBOLS, Desk, TwoShares

RESTS = replace(RULES, protection=Protection(rest_at_broker=True))
STOP = Decimal("55.00")


def stops(effects: list[AnyEffect]) -> list[SubmitOrder]:
    return [order for order in of(effects, SubmitOrder) if order.stop_price is not UNSET]


def sales(effects: list[AnyEffect]) -> list[SubmitOrder]:
    return [order for order in of(effects, SubmitOrder) if order.side < 0 and order.stop_price is UNSET]


def alarms(effects: list[AnyEffect]) -> list[str]:
    return [alarm.name for alarm in of(effects, RaiseAlarm)]


def working_sells(desk: Desk, symbol: str) -> Quantity:
    """What the desk's orders may still sell of the symbol, by its own state."""
    return total(order.remaining for order in desk.state.orders.values() if order.symbol == symbol and order.side < 0)


def protected(rules: Trading = RESTS) -> tuple[Desk, dict[str, str]]:
    """A desk whose stops rest, and their names by symbol."""
    desk = Desk(rules)
    desk.holds()
    sent = left(desk)
    desk.take(list[AnyEffect](sent))
    names = {order.symbol: order.client_order_id for order in sent}
    assert set(names) == set(SYMBOLS)
    return desk, names


def left(desk: Desk) -> list[SubmitOrder]:
    """The stops that the desk has sent and nobody has answered yet."""
    return [
        SubmitOrder(o.client_order_id, o.symbol, o.side, o.quantity, None, "", 0, stop_price=o.stop_price)
        for o in desk.state.orders.values()
        if o.stop_price is not UNSET and o.status == SUBMITTED
    ]


class MoreShares(TwoShares):
    """Holds as many shares of each symbol as its answer says."""

    def decide(self, state: ShareBarState, answer: Answer, view: View) -> tuple[ShareBarState, Rebalance]:
        legs = [Leg(symbol, int(wish)) for symbol, wish in zip(SYMBOLS, answer.logits, strict=True)]
        return state, Rebalance(None, "as wished", Basket(tuple(legs)))


LIMITED = Protection(rest_at_broker=True, options="stop_limit")


def holding_calls(protection: Protection) -> tuple[OptionDesk, Account]:
    """Nine calls bought at 2.00; the desk's own stop is at 1.40."""
    account = Account()
    rules = Trading(protection=protection, sizing=Sizing(max_contracts=9, stop_loss=0.3, take_profit=9.0))
    desk = at_broker(account, trading=rules)
    desk.bar(0)
    name = account.take(next(iter(of(desk.answer(BUY_CALL), SubmitOrder))), desk.state.now_ns)
    desk.put(account.fill(name, 9, "2.00", desk.at(1)))
    return desk, account


DISASTER = Trading(protection=Protection(rest_at_broker=True, disaster_stop=0.2))
FRIDAY_S, MONDAY_S = Decimal("80.00"), Decimal("88.00")  # 20 % below closes of 100 and 110


def daily() -> tuple[DailyDesk, Account, str]:
    """A daily desk that bought 10 AAA at 100 on Monday; its stop rests, by its name."""
    account = Account()
    d = live(account, DISASTER)
    d.due()
    d.answer(10, KEEP, KEEP)
    (buy,) = of(d.quotes(0, AAA="100"), SubmitOrder)
    d.put(account.fill(account.take(buy, d.state.now_ns), 10, "100", d.state.now_ns))
    sent = d.put(account.report(d.at(1)))
    rested = [order for order in d.state.orders.values() if order.purpose == "protection"]
    assert [(order.symbol, order.quantity, order.stop_price) for order in rested] == [("AAA", 10, FRIDAY_S)]
    (stop,) = stops(d.effects) or stops(sent)
    account.take(stop, d.state.now_ns)
    d.put(account.found(stop.client_order_id, d.state.now_ns))
    return d, account, stop.client_order_id
