"""A desk of two shares by the minute at a real broker, event by event. Nothing here computes an expected value."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import AnyEffect, AskBroker, SubmitOrder
from daemon.core.limits import Execution, Risk, Trading
from daemon.core.state import Identity
from daemon.core.step import Core
from strategies.kit.contract import Answer, Bar, Basket, Leg, Observation, Rebalance, View
from tests.support.core.account import Account
from tests.support.core.desk import MINUTE, MONDAY, SESSIONS, of
from tests.support.core.share_bars import SPEC, ShareBars, ShareBarState

SECOND = 1_000_000_000
SYMBOLS = ("SPY", "QQQ")
RULES = Trading(risk=Risk(gap_min=400, cooldown_trade_s=0), execution=Execution(entry_deadline_s=180))


class TwoShares(ShareBars):
    """Asks at each minute; holds ten shares of each symbol whose answer is positive."""

    spec = replace(SPEC, symbols=SYMBOLS)

    def __init__(self, interval_s: int = 60, *, overnight: bool = False) -> None:
        self.spec = replace(type(self).spec, bar_interval_s=interval_s, holds_overnight=overnight)

    def observe(self, state: ShareBarState, bars: tuple[Bar, ...], view: View) -> tuple[ShareBarState, Any]:
        return state, Observation(bytes(4 * 6), self.spec.observation_shape)

    def correct(self, state: ShareBarState, bar: Bar) -> ShareBarState:
        return replace(state, rows=(*state.rows, (bar.close, 0.0)))

    def decide(self, state: ShareBarState, answer: Answer, view: View) -> tuple[ShareBarState, Rebalance]:
        legs = [Leg(symbol, 10 if wish > 0 else 0) for symbol, wish in zip(SYMBOLS, answer.logits, strict=True)]
        return state, Rebalance(None, "as wished", Basket(tuple(legs)))


class Desk:
    """The desk since a minute before the open, reconciled with `account`."""

    def __init__(self, rules: Trading = RULES, interval_s: int = 60, *, overnight: bool = False) -> None:
        self.core = Core(TwoShares(interval_s, overnight=overnight))
        self.state = self.core.start(Identity("live", "d", "share_bars", "e1", "sip"), rules)
        self.account = Account()
        now = MONDAY.open_ns - MINUTE
        self.put(
            ev.ModelVerified(now, "v1", "d", promoted=True, feed="sip"),
            ev.SessionScheduled(now, MONDAY, SESSIONS[1:]),
            self.account.report(now),
        )

    def put(self, *events: ev.Event) -> list[AnyEffect]:
        effects: list[AnyEffect] = []
        for event in events:
            step = self.core.step(self.state, event)
            self.state = step.state
            effects += step.effects
            if any(effect.at_once for effect in of([*step.effects], AskBroker)):
                effects += self.put(self.account.report(self.state.now_ns + 1))
        return effects

    def at(self, minute: int, second: float = 0.0) -> int:
        return MONDAY.open_ns + minute * MINUTE + int(second * SECOND)

    def quote(self, symbol: str, at_ns: int, price: str = "100") -> ev.Quote:
        bid = Decimal(price)
        return ev.Quote(symbol, bid, bid + Decimal("0.02"), bid + Decimal("0.01"), bid + Decimal("0.01"), at_ns)

    def bar(self, minute: int, symbol: str, price: float = 100.0, *, quoted: bool = True) -> list[AnyEffect]:
        """A minute's bar a second after its end, followed by the quotes that close it."""
        now, start = self.at(minute + 1, 1.0), self.at(minute)
        closing = (self.quote(symbol, now - SECOND),) if quoted else ()
        return self.put(
            ev.BarClosed(now, Bar(symbol, start, price, price, price, price, 1000.0)),
            ev.QuotesReceived(now, start, closing),
        )

    def minute(self, minute: int, *, quoted: bool = True) -> list[AnyEffect]:
        return [effect for symbol in SYMBOLS for effect in self.bar(minute, symbol, quoted=quoted)]

    def tick(self, minute: int, second: float) -> list[AnyEffect]:
        return self.put(ev.ClockTicked(self.at(minute, second)))

    def answer(self, *wishes: float) -> list[AnyEffect]:
        assert self.state.ask is not None
        return self.put(ev.PolicyAnswered(self.state.now_ns, self.state.ask.decision, wishes, b"", "v1"))

    def take(self, effects: list[AnyEffect]) -> list[str]:
        """The broker has every order among the effects; their names."""
        names = [self.account.take(order, self.state.now_ns) for order in of(effects, SubmitOrder)]
        for name in names:
            self.put(self.account.found(name, self.state.now_ns))
        return names

    def halted(self) -> str:
        """Reason and detail of the halt, "" without one."""
        halt = self.state.risk.halt
        return "" if halt is None else f"{halt.reason}: {halt.detail}"

    def holds(self) -> None:
        """Both symbols are bought at the first minute."""
        self.minute(0)
        sent = self.answer(1.0, 1.0)
        for order in of(sent, SubmitOrder):
            name = self.account.take(order, self.state.now_ns)
            self.put(self.account.fill(name, order.quantity, "100", self.state.now_ns))
        self.put(self.account.report(self.state.now_ns))
        assert {s: p.quantity for s, p in self.state.book.positions.items()} == dict.fromkeys(SYMBOLS, 10)
