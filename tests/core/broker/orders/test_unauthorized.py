"""An account that may not trade, as a refusal says before any report does: that is one piece of news, not many.

What the broker says is Alpaca's documented 403. By `reject_rate` half of two orders would halt the desk here.
"""

from __future__ import annotations

from daemon.core import events as ev
from daemon.core.effects import AnyEffect, RaiseAlarm, SubmitOrder
from daemon.core.limits import Risk, Trading
from tests.support.core.account import Account
from tests.support.core.daily_desk import DailyDesk
from tests.support.core.daily_live import with_shares
from tests.support.core.desk import of

REFUSAL = "403 40310000 account is not authorized to trade"
GATES = Trading(risk=Risk(reject_rate_orders=2))


def refuse(d: DailyDesk, effects: list[AnyEffect]) -> list[AnyEffect]:
    """Refuse each order among the effects; returns what that caused."""
    answers: list[AnyEffect] = []
    for order in of(effects, SubmitOrder):
        answers += d.put(ev.OrderRejected(d.state.now_ns, order.client_order_id, REFUSAL))
    return answers


def names(effects: list[AnyEffect]) -> list[str]:
    return [alarm.name for alarm in of(effects, RaiseAlarm)]


def test_a_basket_that_is_refused_for_the_account_waits_for_it_and_halts_nothing() -> None:
    d = with_shares(account := Account(), trading=GATES, AAA=40)  # 6,000 USD of cash
    d.prompt = None  # no report comes for now
    d.due()
    first = d.answer(5.0, 20.0, 20.0)  # the sale into the auction
    effects = refuse(d, first)
    assert d.state.broker.blocked == REFUSAL
    effects += refuse(d, d.quotes(1, AAA="100", BBB="100", CCC="100"))  # the sale again: an exit always goes out
    assert names(effects).count("account_blocked") == 1
    assert {order.symbol for order in d.state.closed.values() if order.status == "rejected"} == {"AAA"}
    assert d.state.risk.halt is None
    later_effects = d.put(account.report(d.at(2)))
    assert d.state.broker.blocked == ""
    later_effects += d.quotes(3, AAA="100", BBB="100", CCC="100")
    assert {order.symbol for order in of(later_effects, SubmitOrder)} >= {"BBB", "CCC"}


def test_purchases_refused_together_count_as_one() -> None:
    d = with_shares(account := Account(), trading=GATES)
    d.due()
    d.answer(20.0, 20.0, 20.0)
    first_effects = d.quotes(1, AAA="100", BBB="100", CCC="100")
    assert len(of(first_effects, SubmitOrder)) == 3
    refuse(d, first_effects)
    assert d.state.risk.halt is None
    assert not of(d.quotes(3, AAA="100", BBB="100", CCC="100"), SubmitOrder)
    effects = d.put(account.report(d.at(4))) + d.quotes(5, AAA="100", BBB="100", CCC="100")
    assert len(of(effects, SubmitOrder)) == 3


def test_an_account_that_is_fine_by_each_report_and_refuses_all_halts_in_the_end() -> None:
    d = with_shares(account := Account(), trading=GATES)
    d.due()
    d.answer(20.0, 20.0, 20.0)
    for minute in range(1, 9, 2):
        refuse(d, d.quotes(minute, AAA="100", BBB="100", CCC="100"))
        refuse(d, d.put(account.report(d.at(minute + 1))))
    assert d.state.risk.halt is not None
    assert d.state.risk.halt.reason == "reject_rate"
