"""Whole days at a broker that loses, delays, repeats and refuses: the desk and the account end with one book.

A seeded simulation; a failure names its seed. The account (tests/support/core/account.py) is the truth, this file the
weather.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from decimal import Decimal

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import AnyEffect, AskBroker, CancelOrder, LookUpOrder, SubmitOrder
from daemon.core.limits import Broker, Execution, Risk, Sizing, Trading
from daemon.core.records import FillRow
from strategies.kit.quantity import Quantity
from tests.support.core.account import Account, at_broker
from tests.support.core.desk import BUY_CALL, BUY_PUT, CALL, EXIT, HOLD, PUT, TRIM_50, quote

RULES = Trading(
    sizing=Sizing(stop_loss=0.5, take_profit=1.0),
    execution=Execution(entry_reprice_s=40, exit_reprice_s=40),
    risk=Risk(
        cooldown_trade_s=0, cooldown_loss_s=0, orders_per_minute=50, orders_per_day=2000, reject_rate_max=1.0,
        consecutive_losses_max=1000, daily_loss_max=1.0, drawdown_max=1.0,
    ),
)  # fmt: skip
FIRST = 270  # the day's first minute: two hours are enough
WORKING = ("new", "partially_filled")
OWN = ev.OrderMissing | ev.BrokerReported | ev.OrderUnknown | ev.OrderAccepted | ev.OrderRejected | ev.RunStarted


class Day:
    """One day: the desk's effects reach the account through bad weather, and its news the desk."""

    def __init__(self, seed: int, weather: float, broker: Broker | None = None) -> None:
        self.random = random.Random(seed)
        self.weather = weather  # how often something goes wrong
        self.account = Account()
        self.desk = at_broker(self.account, trading=dataclasses.replace(RULES, broker=broker or Broker()))
        self.desk.put(self.account.report(self.desk.at(FIRST - 1)))
        self.by_hand = Counter[str]()  # what a person bought in the same account
        self.news: list[ev.Event | tuple[ev.Event, ...]] = []
        self.oversold = 0
        self.refused: set[str] = set()

    def bad(self) -> bool:
        return self.random.random() < self.weather

    @property
    def now(self) -> int:
        return self.desk.state.now_ns

    def put(self, *events: ev.Event) -> None:
        """Step the events and carry out what they cause, and what that causes."""
        self.carry_out(self.desk.put(*events))

    def carry_out(self, effects: list[AnyEffect]) -> None:
        for effect in effects:
            match effect:
                case SubmitOrder():
                    self.submit(effect)
                case CancelOrder(client_order_id=name):
                    self.cancel(name)
                case LookUpOrder(client_order_id=name):
                    self.look_up(name)
                case AskBroker():
                    self.news.append(self.account.report(self.now))
                case _:
                    pass

    def look_up(self, name: str) -> None:
        """One look-up of a name at a time, as the shell does it."""
        if any(isinstance(n, ev.OrderMissing) and n.client_order_id == name for n in self.news):
            return
        is_known = name in self.account.orders
        self.news.append(self.account.found(name, self.now) if is_known else ev.OrderMissing(self.now, name))

    def submit(self, order: SubmitOrder) -> None:
        name, account = order.client_order_id, self.account
        if name in account.orders:
            self.news.append(ev.OrderUnknown(self.now, name))  # 422: the name is taken
            return
        fate = self.random.choice(["lost", "unanswered", "crash", "refused"]) if self.bad() else "accepted"
        if order.side < 0 and order.quantity > self.free(order.symbol):  # fills that the desk has not heard of
            self.oversold += 1
            fate = "refused"
        if fate == "refused" or name in self.refused:
            self.refused.add(name)
            self.news.append(ev.OrderRejected(self.now, name, "no"))
            return
        if fate in ("accepted", "unanswered") or (fate == "crash" and self.random.random() < 0.5):
            account.take(order, self.now)
        if fate in ("lost", "unanswered"):
            self.news.append(ev.OrderUnknown(self.now, name))
        elif fate == "accepted":
            self.news.append(ev.OrderAccepted(self.now, name, f"id-{name}"))
        elif fate == "crash":  # between journal and answer: nothing but the next start tells
            rules = self.desk.state.trading
            self.news.append(ev.RunStarted(self.now, "live", "desk-1", "pointer", "e1", "c", "sip", rules))

    def cancel(self, name: str) -> None:
        order = self.account.orders.get(name)
        if order is None or self.bad():
            return
        if order.status not in WORKING:
            self.news.append(ev.CancelRejected(self.now, name, "not cancelable"))
            return
        self.account.end(name)
        self.news.append((self.account.found(name, self.now), ev.OrderCanceled(self.now, name)))  # with its figures

    def market(self) -> None:
        """Executions of what works at the account."""
        for name, order in list(self.account.orders.items()):
            if order.status in WORKING and self.random.random() < 0.4:
                remaining = int(order.quantity - order.filled)
                price = order.limit_price or Decimal("1.95")
                count = self.random.randint(1, remaining)
                self.news.append(self.account.fill(name, count, str(price), self.now))

    def deliver(self) -> None:
        """Tell the desk what waits, in some order, some of it twice, some never (then the link was lost).

        What the link itself has to say, such as how a post ended, is never lost.
        """
        waiting, self.news = self.news, []
        if self.bad():
            self.random.shuffle(waiting)
        for news in waiting:
            if self.bad() and not isinstance(news, OWN):
                self.put(ev.BrokerLost(self.now, "stream ended"))
            else:
                together = news if isinstance(news, tuple) else (news,)
                self.put(*together * (2 if self.bad() else 1))

    def free(self, symbol: str) -> int:
        """What the account holds and no working order sells."""
        quantity, _ = self.account.positions.get(symbol, (0, Decimal(0)))
        working = [o for o in self.account.orders.values() if o.symbol == symbol and o.side < 0 and o.status in WORKING]
        return quantity - sum(int(o.quantity - o.filled) for o in working)

    def person(self) -> None:
        """Somebody buys, or sells what is theirs."""
        symbol = self.random.choice([CALL, PUT])
        quantity = min(self.by_hand[symbol], self.free(symbol))
        side = self.random.choice([1, -1]) if quantity else 1
        count = self.random.randint(1, quantity if side < 0 else 3)
        name = self.account.by_hand(f"ann-{len(self.account.orders)}", symbol, side, count, self.now)
        fill_quantity = self.random.randint(0, count)
        if fill_quantity:
            self.account.fill(name, fill_quantity, "2.00", self.now)
        self.account.fills = [fill for fill in self.account.fills if fill.client_order_id != name]
        self.account.end(name, "filled" if fill_quantity == count else "canceled")
        self.by_hand[symbol] += side * fill_quantity
        self.news.append(self.account.found(name, self.now))

    def minute(self, minute: int) -> None:
        middle = Decimal(self.random.randint(160, 240)) / 100
        symbols = self.desk.state.watched
        quotes = tuple(quote(s, str(middle - Decimal("0.02")), str(middle + Decimal("0.02"))) for s in symbols)
        self.carry_out(self.desk.bar(minute, quotes=quotes))
        self.deliver()
        if self.desk.state.ask is not None:
            self.carry_out(self.desk.answer(self.random.choice([HOLD, BUY_CALL, BUY_PUT, TRIM_50, EXIT])))
        for second in (5, 15, 30, 45, 55):
            self.market()
            self.deliver()
            self.put(ev.ClockTicked(self.desk.at(minute + 1, second)))
            if second == 30 and not self.bad():
                report = self.account.report(self.now)
                if self.bad():  # its cash was read a moment before the last fill
                    report = replace(report, cash=report.cash + self.random.randint(2, 900))
                self.put(report)

    def resume(self) -> None:
        """The person says of what they did themselves that it was them."""
        if self.desk.halted() == "foreign_order":
            self.put(ev.ResumeRequested(self.now, "it was me", "ann"))

    def end(self) -> None:
        """The close, and then a calm evening in which the broker tells all."""
        self.put(ev.SessionEnded(self.desk.at(390), self.desk.session.date))
        for name, order in list(self.account.orders.items()):
            if order.status in WORKING:
                self.account.end(name, "expired")
        self.weather = 0.0
        for minute in range(391, 396):
            self.put(ev.ClockTicked(self.desk.at(minute)), self.account.report(self.desk.at(minute)))
            self.deliver()


@pytest.mark.parametrize("weather", [0.0, 0.02, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_after_a_day_of_any_weather_book_and_account_are_one(seed: int, weather: float) -> None:
    day = Day(seed, weather)
    for minute in range(FIRST, 390):
        day.minute(minute)
    day.end()
    d, account = day.desk, day.account
    assert d.held == {s: q for s, (q, _) in account.positions.items()}, f"seed {seed}"
    assert (d.state.book.cash, d.state.risk.reconciled, d.state.orders) == (account.cash, True, {}), f"seed {seed}"
    assert d.halted() in ("", "blind"), f"seed {seed}"  # blind: five reports in a row were lost or odd
    rows = Counter((r.client_order_id, r.correction, r.cumulative) for r in d.rows if isinstance(r, FillRow))
    assert rows == Counter({(f.client_order_id, 0, f.cumulative_quantity) for f in account.fills}), f"seed {seed}"
    assert weather or (day.oversold == 0 and len(account.fills) > 20)


@pytest.mark.parametrize("weather", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_a_person_in_the_same_account_is_ignored_to_the_last_contract(seed: int, weather: float) -> None:
    day = Day(seed, weather, Broker(foreign_orders="ignore"))
    for minute in range(FIRST, 390):
        day.minute(minute)
        if day.random.random() < 0.2:
            day.person()
        day.resume()
    day.end()
    d, account = day.desk, day.account
    assert d.state.broker.foreign_held == {s: q for s, q in day.by_hand.items() if q}, f"seed {seed}"
    holdings = Counter(d.held) + Counter(d.state.broker.foreign_held)
    assert holdings == Counter({s: q for s, (q, _) in account.positions.items()}), f"seed {seed}"
    assert (d.state.book.cash, d.state.risk.reconciled) == (account.cash, True), f"seed {seed}"
    assert d.halted() in ("", "blind", "foreign_order"), f"seed {seed}"


@pytest.mark.parametrize("weather", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_a_person_in_the_same_account_is_adopted_to_the_last_contract(seed: int, weather: float) -> None:
    day = Day(seed, weather, Broker(foreign_orders="adopt"))
    for minute in range(FIRST, 390):
        day.minute(minute)
        if day.random.random() < 0.2:
            day.person()
        day.resume()
    day.end()
    d, account = day.desk, day.account
    assert d.held == {s: q for s, (q, _) in account.positions.items()}, f"seed {seed}"
    assert (d.state.book.cash, d.state.risk.reconciled) == (account.cash, True), f"seed {seed}"
    assert d.halted() in ("", "blind", "foreign_order"), f"seed {seed}"


def same(day: Day) -> tuple[Decimal, dict[str, Quantity], int]:
    """What a day came to."""
    return day.account.cash, day.desk.held, len(day.desk.effects)


def test_the_same_seed_is_the_same_day() -> None:
    days = [Day(7, 0.3), Day(7, 0.3)]
    for day in days:
        for minute in range(FIRST, FIRST + 20):
            day.minute(minute)
    assert same(days[0]) == same(days[1])
