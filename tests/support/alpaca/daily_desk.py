"""A daily desk's feed beside a made-up source: what the feed's tests share.

The source speaks the protocol of the reads (Alpaca's JSON) and its calls take as long as a test says; the book does
with bars what the contract of a daily strategy says, by the strategy itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from msgspec.structs import replace

from daemon.brokers.alpaca.market.daily_feed import DailyFeed, DailyHistory, OwnDesk, ShareQuotes
from daemon.brokers.alpaca.market.live_bars import Timing
from daemon.brokers.alpaca.rest.client import Unanswered
from daemon.brokers.alpaca.wire import time_text
from daemon.core.events import BarClosed, Event, HistoryAdjusted, RebalanceDue, SessionEnded
from daemon.core.limits import Basket, Trading
from daemon.core.state import BasketState, Identity, RiskState, State
from daemon.host.time.calendar import SessionCalendar, midnight_ns
from daemon.host.time.clock import Clock
from daemon.operator.log_events import LOG_EVENTS
from strategies.kit.contract import Bar, Session
from strategies.registry import daily_strategy

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
SYMBOLS = ("SPY", "QQQ", "IWM")
W = 252
DAY = "2024-07-05"  # a Friday after a holiday and a half day
BEFORE = "2024-07-03"
TIMING = Timing(repair_s=0.2, retry_first_s=0.005, retry_most_s=0.01)


@cache
def calendar() -> SessionCalendar:
    """The real sessions around the summer of 2024."""
    return SessionCalendar.load("2023-01-01", "2024-07-20")


def session(date: str) -> Session:
    return calendar().around(date)[0]


def price(symbol: str, date: str) -> float:
    """A made-up close in whole cents."""
    index = next(i for i, s in enumerate(calendar().sessions) if s.date == date)
    return round(100 + 50 * SYMBOLS.index(symbol) + (index % 17) / 4, 2)


def row(symbol: str, date: str, factor: float = 1.0) -> dict[str, Any]:
    """A day's bar as Alpaca tells it."""
    close = price(symbol, date) * factor
    prices = {"o": close, "h": close + factor, "l": close - factor, "c": close}
    return {"t": time_text(midnight_ns(date)), **prices, "v": 1000, "n": 10, "vw": close}


@dataclass(slots=True)
class Source:
    """Alpaca's data service: `asked` are the newest dates of its calls for bars, `given` how many each returned."""

    now_ns: int
    takes_ns: int = 0
    failing: int = 0  # so many calls are not answered
    holes: set[tuple[str, str]] = field(default_factory=set)  # (symbol, date) without a bar
    factors: dict[str, float] = field(default_factory=dict)  # of a symbol's earlier prices
    running: dict[str, dict[str, Any]] = field(default_factory=dict)
    quotes: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)
    given: list[int] = field(default_factory=list)
    quoted: list[tuple[str, ...]] = field(default_factory=list)
    not_held: set[str] = field(default_factory=set)  # sessions that the broker's own calendar lacks

    def _answer(self) -> None:
        self.now_ns += self.takes_ns
        if self.failing:
            self.failing -= 1
            raise Unanswered("HTTP 503")

    async def day_bars(
        self, symbols: tuple[str, ...], start_ns: int, end_ns: int, feed: str
    ) -> dict[str, list[dict[str, Any]]]:
        self.asked.append(end_ns)
        self._answer()
        dates = [s.date for s in calendar().sessions if start_ns <= midnight_ns(s.date) <= end_ns]
        bars = {
            symbol: [
                row(symbol, date, self.factors.get(symbol, 1.0)) for date in dates if (symbol, date) not in self.holes
            ]
            for symbol in symbols
        }
        self.given.append(sum(map(len, bars.values())))
        return bars

    async def days(self, first: str, last: str) -> list[dict[str, Any]]:
        self._answer()
        dates = [s.date for s in calendar().sessions if first <= s.date <= last]
        return [{"date": date} for date in dates if date not in self.not_held]

    async def snapshots(self, symbols: tuple[str, ...], feed: str) -> dict[str, dict[str, Any]]:
        self._answer()
        return {symbol: self.running[symbol] for symbol in symbols if symbol in self.running}

    async def latest_quotes(self, symbols: tuple[str, ...], feed: str) -> dict[str, dict[str, Any]]:
        self._answer()
        self.quoted.append(symbols)
        return {symbol: self.quotes[symbol] for symbol in symbols if symbol in self.quotes}


class Played:
    """A feed on its source, and the book of a desk that hears it. `events` are all that were put, in order."""

    def __init__(self, now_ns: int, rules: Basket | None = None, state: State[Any] | None = None) -> None:
        self.strategy = daily_strategy("regime_switcher")
        self.source = Source(now_ns)
        self.events: list[Event] = []
        self.log: list[tuple[str, Mapping[str, object]]] = []
        self.working: frozenset[str] = frozenset()
        self.held: frozenset[str] = frozenset()
        identity = Identity("paper", "paper", "regime_switcher", "e", "iex")
        agreed = RiskState(reconciled=True)
        self.state = state or State(self.strategy.start(), identity=identity, trading=Trading(), risk=agreed)
        self._clock = Clock.real(lambda: self.source.now_ns, time.monotonic_ns)
        self._rules = rules or Basket()
        self.quotes = ShareQuotes(
            self.source, "iex", self._clock, calendar(), self.put, self.tell, lambda: (self.working, self.held)
        )
        self.feed = self.feed_of(self.strategy)

    def feed_of(self, strategy: Any) -> DailyFeed:
        """A feed on this source whose desk has this strategy."""
        return DailyFeed(
            self._clock,
            calendar(),
            OwnDesk(strategy, self._rules, lambda: self.state, self.settled),
            self.put,
            self.tell,
            history=DailyHistory(self.source, "iex", SYMBOLS, self.tell),
            quotes=self.quotes,
            days=self.source.days,
            timing=TIMING,
        )

    async def settled(self) -> None:
        """The book steps at once."""

    def put(self, event: Event) -> None:
        """Do with the bars what a daily desk does."""
        self.events.append(event)
        state = self.state
        if isinstance(event, BarClosed):
            self.state = replace(state, pending_bars=(*state.pending_bars, event.bar))
        elif isinstance(event, HistoryAdjusted):
            self.state = replace(state, strategy=self.strategy.readjust(state.strategy, event.symbol, event.bars))
        elif isinstance(event, SessionEnded | RebalanceDue):
            remembered = self.strategy.remember(state.strategy, state.pending_bars)
            self.state = replace(state, strategy=remembered, pending_bars=())
            if isinstance(event, RebalanceDue):
                self.state = replace(self.state, basket=BasketState(date=event.date))

    def tell(self, name: str, /, **fields: object) -> None:
        assert set(fields) == set(LOG_EVENTS[name].fields), name
        self.log.append((name, fields))

    def of(self, kind: type[Event]) -> list[Any]:
        """The events of one kind."""
        return [event for event in self.events if type(event) is kind]

    def known(self) -> Mapping[str, tuple[Bar, ...]]:
        return self.strategy.known(self.state.strategy)


def morning(date: str = DAY, minutes_before: int = 15) -> int:
    """So long before the open."""
    return session(date).open_ns - minutes_before * MINUTE
