"""An asset that the broker does not trade any more: its exit is tried on, and nothing else stands still for it.

What the broker says is Alpaca's documented 422. By `reject_rate` half of ten orders would halt the desk.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from msgspec import structs

from daemon.core import events as ev
from daemon.core.effects import AnyEffect, AskBroker, RaiseAlarm, SubmitOrder
from tests.support.core.account import NUMBER, Account
from tests.support.core.daily_desk import KEEP, DailyDesk
from tests.support.core.daily_live import with_shares
from tests.support.core.desk import of
from tests.support.core.two_shares import SYMBOLS, Desk

NOT_TRADABLE = '422 asset "{}" is not tradable'
WORDS = ("not tradable", "not active", "not found")


class Broker:
    """Refuses each order in `refused`, fills the others at 100.00 but in the auction, and reports when asked."""

    def __init__(self, desk: Desk | DailyDesk, account: Account, refused: str, reason: str = NOT_TRADABLE) -> None:
        self.desk, self.account, self.refused, self.reason = desk, account, refused, reason
        self.sent: list[SubmitOrder] = []
        self.alarms: list[str] = []

    def answer(self, effects: Iterable[AnyEffect]) -> None:
        for effect in effects:
            now = self.desk.state.now_ns
            if isinstance(effect, RaiseAlarm):
                self.alarms.append(effect.name)
            elif isinstance(effect, AskBroker):
                self.answer(self.desk.put(self.account.report(now)))
            elif isinstance(effect, SubmitOrder):
                self.sent.append(effect)
                self._take(effect, now)

    def _take(self, order: SubmitOrder, now: int) -> None:
        if order.symbol == self.refused:
            reason = self.reason.format(order.symbol)
            self.answer(self.desk.put(ev.OrderRejected(now, order.client_order_id, reason)))
            return
        name = self.account.take(order, now)
        self.answer(self.desk.put(ev.OrderAccepted(now, name, f"id-{name}")))
        if not order.auction:
            self.answer(self.desk.put(self.account.fill(name, order.quantity, "100", now)))

    def sales(self, symbol: str) -> int:
        return sum(order.symbol == symbol and order.side < 0 for order in self.sent)


class ClosingAccount(Account):
    """The same account, whose broker's clock says whether its market is open."""

    def __init__(self, account: Account, *, is_open: bool) -> None:
        super().__init__()
        vars(self).update(vars(account))
        self.is_open = is_open

    def report(self, at_ns: int, *, blocked: str = "", account: str = NUMBER) -> ev.BrokerReported:
        return structs.replace(super().report(at_ns, blocked=blocked, account=account), market_open=self.is_open)


def minutes(d: Desk, broker: Broker, minutes: range, spy: float) -> None:
    """QQQ is bought and sold in turns of three minutes, `spy` is wished of SPY."""
    for minute in minutes:
        broker.answer(d.minute(minute))
        if d.state.ask is not None:
            broker.answer(d.answer(spy, float(minute // 3 % 2)))
        for second in (5, 25, 45):
            now = d.at(minute + 1, second)
            broker.answer(d.put(ev.QuotesReceived(now, 0, tuple(d.quote(symbol, now) for symbol in SYMBOLS))))
        broker.answer(d.put(d.account.report(d.at(minute + 1, 50))))


def daily(broker: Broker, d: DailyDesk, minutes: range) -> None:
    for minute in minutes:
        broker.answer(d.quotes(minute + 0.2, AAA="100", BBB="100", CCC="100"))
        broker.answer(d.put(broker.account.report(d.at(minute + 0.3))))


@pytest.mark.parametrize("words", WORDS)
def test_a_daily_desk_trades_the_others_while_one_cannot_be_sold(words: str) -> None:
    d = with_shares(account := Account(), AAA=60, BBB=10)  # 3,000 USD of cash
    broker = Broker(d, account, "AAA", f'422 asset "{{}}" is {words}')
    d.due()
    broker.answer(d.answer(0.0, KEEP, 30.0))
    daily(broker, d, range(100))
    assert d.state.risk.halt is None
    # the cash pays for 29 at a limit of 100.20: what AAA would bring is not waited for
    assert d.held == {"AAA": 60, "BBB": 10, "CCC": 29}
    assert broker.alarms.count("exit_stuck") == 1
    assert broker.sales("AAA") > 60  # about each minute
    assert d.state.risk.orders_today == 2  # the first sale, and the purchase


def test_what_is_traded_again_is_sold_and_may_be_bought_again() -> None:
    d = Desk()
    d.holds()
    broker = Broker(d, d.account, "SPY")
    minutes(d, broker, range(1, 30), spy=0.0)
    assert d.halted() == ""
    spy_sales, qqq_sales = broker.sales("SPY"), broker.sales("QQQ")
    assert (spy_sales > 20, qqq_sales >= 4) == (True, True)
    assert broker.alarms.count("exit_stuck") == 1
    broker.refused = ""
    minutes(d, broker, range(30, 33), spy=0.0)
    assert broker.sales("SPY") == spy_sales + 1
    assert "SPY" not in d.state.book.positions
    minutes(d, broker, range(33, 34), spy=1.0)
    assert d.state.book.positions["SPY"].quantity == 10


def test_what_the_broker_does_not_trade_is_ordered_once_and_the_others_go_on() -> None:
    d = Desk()
    broker = Broker(d, d.account, "SPY")
    minutes(d, broker, range(40), spy=1.0)
    assert d.halted() == ""
    assert [order.side for order in broker.sent if order.symbol == "SPY"] == [1]
    assert broker.alarms.count("order_rejected") == 1
    assert broker.sales("QQQ") >= 5


def test_a_refusal_for_another_reason_counts_and_halts_as_before() -> None:
    d = Desk()
    broker = Broker(d, d.account, "SPY", "403 account is not authorized to trade {}")
    minutes(d, broker, range(12), spy=1.0)
    assert d.halted().startswith("reject_rate")


@pytest.mark.parametrize(("is_open", "halts"), [(False, False), (True, True)])
def test_exits_that_a_closed_market_refuses_halt_nothing(is_open: bool, halts: bool) -> None:
    d = Desk()
    d.holds()
    d.account = ClosingAccount(d.account, is_open=is_open)
    broker = Broker(d, d.account, "SPY", "422 options market orders are only allowed during market hours")
    minutes(d, broker, range(1, 20), spy=0.0)
    assert broker.sales("SPY") > 10
    assert d.halted().startswith("reject_rate") == halts


def test_the_next_session_asks_again() -> None:
    d = with_shares(account := Account(), AAA=60)
    broker = Broker(d, account, "AAA")
    d.due()
    broker.answer(d.answer(0.0, KEEP, KEEP))
    assert d.state.session.trading_refusal("AAA") == '422 asset "AAA" is not tradable'
    d.end(**dict.fromkeys(("AAA", "BBB", "CCC"), 100.0))
    d.begin(d.state.session.upcoming[0])
    assert d.state.session.trading_refusal("AAA") == ""


def test_orders_of_what_is_traded_count_for_the_day() -> None:
    d = Desk()
    broker = Broker(d, d.account, "SPY")
    d.holds()
    before = d.state.risk.orders_today
    minutes(d, broker, range(1, 10), spy=0.0)
    qqq_orders = [order for order in broker.sent if order.symbol == "QQQ"]
    assert d.state.risk.orders_today == before + len(qqq_orders) + 1
    assert len(of([*broker.sent], SubmitOrder)) > len(qqq_orders) + 5
