"""A daily desk in a dry run on the live feed: what is announced of its shares, its paper broker's ledger, and the book.

Expected values: ten shares bought at 100 USD; a split changes their number and price, and their worth by nothing.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from daemon.core import events as ev
from daemon.core.effects import AnyEffect, RaiseAlarm
from daemon.core.limits import Basket, Paper, Trading
from daemon.core.paper.state import broker_snapshot
from daemon.core.records import MoveRow
from strategies.kit.contract import Session
from strategies.kit.quantity import Quantity, exact
from tests.support.core.daily_desk import KEEP, LAST_FRIDAY, SYMBOLS, DailyDesk, bar
from tests.support.core.desk import FRIDAY, HALF_DAY, MONDAY, TUESDAY, of

RULES = Trading(paper=Paper(cash_usd=Decimal(10_000), share_cost_rate=Decimal(0), share_fees_below_usd=Decimal(0)))
FRACTIONS = Trading(paper=RULES.paper, basket=Basket(fractions="on"))


class Dry(DailyDesk):
    """A desk with its paper broker; on Tuesday before the open it holds shares of AAA, bought on Monday at 100."""

    def __init__(self, quantity: Quantity = 10, trading: Trading = RULES) -> None:
        super().__init__(trading, mode="dry_run")
        market: Any = self.core.desk.paper(self.state.trading, "dry_run")
        self.market, self.paper = market, market.start()
        self.snapshot(MONDAY.open_ns - 3_600_000_000_000)
        self.put(ev.ModelVerified(self.state.now_ns, "v1", "d", promoted=True, feed="sip"))
        self.begin(MONDAY)
        self.read()
        self.bars(LAST_FRIDAY, **dict.fromkeys(SYMBOLS, 100.0))
        self.due()
        self.answer(float(quantity), KEEP, KEEP)
        for minute in (0.1, 0.2, 0.3):
            self.quotes(minute, AAA="100")
        self.end(**dict.fromkeys(SYMBOLS, 100.0))
        assert self.held == {"AAA": quantity}
        self.begin(TUESDAY)

    def put(self, *events: ev.Event) -> list[AnyEffect]:
        effects: list[AnyEffect] = []
        for event in events:
            own_effects = super().put(event)
            self.paper, news = self.market.step(self.paper, event, own_effects)
            effects += [*own_effects, *self.put(*news)]
        return effects

    def snapshot(self, now_ns: int) -> list[AnyEffect]:
        """Compare book and paper broker as a start does."""
        return super().put(broker_snapshot(self.paper, now_ns))

    def read(self, *actions: ev.Announcement, minute: float = -25) -> list[AnyEffect]:
        return self.put(ev.ActionsAnnounced(self.at(minute), self.session.date, actions))

    def adjusted(self, close: float) -> None:
        """The bars of AAA as adjusted over night."""
        days = [day for day in (LAST_FRIDAY, MONDAY, TUESDAY, HALF_DAY) if day.date < self.session.date]
        bars = tuple(bar("AAA", day, close) for day in days[-2:])
        self.put(ev.HistoryAdjusted(max(self.state.now_ns, self.at(-24)), "AAA", bars))

    def agrees(self) -> bool:
        """Whether book and paper broker are equal."""
        self.snapshot(self.state.now_ns)
        return self.state.risk.halt is None and self.state.risk.reconciled

    def asked(self, minute: float = -15) -> bool:
        self.due(minute)
        return self.state.ask is not None


def split(new: int, old: int, day: Session = TUESDAY) -> ev.Announcement:
    return ev.Announcement("AAA", "split", day.date, Decimal(new), Decimal(old), price=Decimal(100))


def worth(d: Dry) -> Decimal:
    return d.state.book.equity


@pytest.mark.parametrize("history_first", [True, False])
def test_an_announced_split_changes_the_number_of_shares_and_nothing_of_their_worth(history_first: bool) -> None:
    d = Dry()
    if history_first:
        d.adjusted(50.0)
    d.read(split(2, 1))
    if not history_first:
        assert not d.asked(-20)  # the bars are of the old shares
        d.adjusted(50.0)
    assert (d.held, worth(d), d.state.marks["AAA"]) == ({"AAA": 20}, Decimal(10_000), Decimal(50))
    assert d.agrees()
    assert d.asked()
    d.answer(KEEP, KEEP, KEEP)
    d.quotes(1, AAA="50")
    d.end(**dict.fromkeys(SYMBOLS, 50.0))
    assert (worth(d), d.state.book.max_drawdown) == (Decimal(10_000), 0.0)


@pytest.mark.parametrize(
    ("trading", "bought", "held", "cash"),
    [
        (RULES, 11, 16, Decimal("33.33")),  # of 16.5 a half at 100 / 1.5, which is no gain
        (FRACTIONS, 11, 16, Decimal("33.33")),
        (FRACTIONS, exact("10.5"), exact("15.75"), Decimal(0)),
    ],
)
def test_a_fraction_comes_as_cash_unless_fractions_are_held(
    trading: Trading, bought: Quantity, held: Quantity, cash: Decimal
) -> None:
    d = Dry(bought, trading)
    cash_before = d.state.book.cash
    d.read(split(3, 2))
    assert d.held == {"AAA": held}
    assert d.state.book.cash - cash_before == cash
    assert abs(worth(d) - 10_000) <= Decimal("0.01")
    assert d.agrees()


def test_a_reverse_split_that_leaves_no_whole_share_is_paid_in_cash() -> None:
    d = Dry(5)
    d.read(split(1, 10))
    assert (d.held, d.state.book.cash) == ({}, Decimal(10_000))  # half a share at 1,000
    assert d.agrees()


def test_bars_that_show_a_split_which_nothing_announces_keep_the_desk_from_deciding_until_something_does() -> None:
    d = Dry()
    d.read()
    d.adjusted(50.0)
    for day in (TUESDAY, HALF_DAY):
        if day == HALF_DAY:
            d.begin(HALF_DAY)
            d.read()
        assert not d.asked()
        d.quotes(1, AAA="50")
        effects = d.end(**dict.fromkeys(SYMBOLS, 50.0))
        (alarm,) = [it for it in of(effects, RaiseAlarm) if it.name == "split_awaited"]
        assert alarm.detail.startswith("AAA: its bars show a split")
        assert worth(d) == 10_000
    d.begin(FRIDAY)
    d.read(split(2, 1))
    assert (d.held, worth(d)) == ({"AAA": 20}, Decimal(10_000))
    assert d.agrees()
    assert d.asked()


def test_what_is_sold_while_a_split_is_waited_for_ends_the_wait() -> None:
    d = Dry()
    d.read()
    d.adjusted(50.0)
    d.put(ev.CloseRequested(d.at(-10), "AAA", 0, "by hand", "ann"))
    for minute in (1, 2, 3):
        d.quotes(minute, AAA="50")
        d.tick(minute, 5)
    assert d.held == {}
    d.end(**dict.fromkeys(SYMBOLS, 50.0))
    d.begin(HALF_DAY)
    assert d.asked()


def test_a_dividend_is_cash_on_its_day_of_payment() -> None:
    d = Dry()
    d.read(ev.Announcement("AAA", "dividend", TUESDAY.date, cash=Decimal("0.75"), paid=HALF_DAY.date))
    assert d.state.book.cash == 9_000
    d.end(**dict.fromkeys(SYMBOLS, 100.0))
    d.begin(HALF_DAY)
    assert (d.state.book.cash, d.state.book.realized) == (Decimal("9007.50"), Decimal("7.50"))
    assert d.agrees()
    assert [row.reason for row in d.rows if isinstance(row, MoveRow) and row.left_usd == "7.500000"] == ["dividend"]


@pytest.mark.parametrize("history_first", [True, False])
@pytest.mark.parametrize("kind", ["dividend", "spinoff (spinoff)"])
def test_bars_that_changed_by_what_is_no_split_are_not_waited_for(kind: str, history_first: bool) -> None:
    d = Dry()
    if history_first:
        d.adjusted(75.0)
    cash = Decimal(25 if kind == "dividend" else 0)
    effects = d.read(ev.Announcement("AAA", kind, TUESDAY.date, cash=cash, paid="2024-07-20"))
    if not history_first:
        d.adjusted(75.0)
    assert d.asked()
    alarms = [(it.name, "does not book its spinoff" in it.detail) for it in of(effects, RaiseAlarm)]
    assert alarms == ([] if cash else [("shares_renamed", True)])
