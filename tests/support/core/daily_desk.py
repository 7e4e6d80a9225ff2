"""A daily desk to play scenarios on: a real core, and a tiny strategy of three symbols that holds what is answered.

Nothing here computes an expected value. Days are those of `tests.support.core.desk`; times are minutes after the open.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import msgspec
import numpy as np

from daemon.core.effects import AnyEffect, SubmitOrder
from daemon.core.events import (
    BarClosed,
    BrokerSnapshot,
    ModelVerified,
    OrderFilled,
    PolicyAnswered,
    Price,
    PricesPrinted,
    Quote,
    QuotesReceived,
    RebalanceDue,
    SessionEnded,
    SessionScheduled,
)
from daemon.core.limits import Trading
from daemon.core.records import DecisionRow
from daemon.core.state import Identity
from strategies.kit.contract import (
    Answer,
    Bar,
    Basket,
    Choice,
    DailySpec,
    Leg,
    Observation,
    Portfolio,
    Rebalance,
    Session,
    View,
)
from strategies.kit.quantity import Quantity
from tests.support.core.desk import DAY, MINUTE, MONDAY, SESSIONS, TUESDAY, PlayedDesk, of

MIDNIGHT = 34_200 * 1_000_000_000  # from midnight in New York to the open
SYMBOLS = ("AAA", "BBB", "CCC")
LAST_FRIDAY = Session("2024-06-28", MONDAY.open_ns - 3 * DAY, MONDAY.close_ns - 3 * DAY)
IDENTITY = Identity("replay", "desk-1", "shelf", "e1", "sip")
KEEP = -1.0


class ShelfState(msgspec.Struct, frozen=True):
    """The bars by symbol, and how many decisions there were."""

    bars: dict[str, tuple[Bar, ...]] = {}
    decisions: int = 0
    hidden: bytes = b""


class Shelf:
    """A strategy whose answer is the number of shares to hold of each symbol, `KEEP` to leave one alone."""

    spec = DailySpec(
        name="shelf",
        revision=1,
        symbols=SYMBOLS,
        bar_interval_s=86_400,
        history_bars=2,
        window=1,
        observation_shape=(8,),
        dtype="float32",
        features=("cash", "equity", "AAA", "BBB", "CCC", "AAA price", "BBB price", "CCC price"),
        actions=SYMBOLS,
        temperature=1.0,
        recurrent_shape=(1,),
        continuous=True,
    )
    state_type = ShelfState

    def __init__(self, warm_after: int = 1, *, named: bool = False) -> None:
        self.warm_after = warm_after
        self.named = named  # answers as a policy that chooses one of its actions
        self.seen: list[Portfolio] = []

    def start(self) -> ShelfState:
        return ShelfState()

    def remember(self, state: ShelfState, bars: tuple[Bar, ...]) -> ShelfState:
        bars_by_symbol = dict(state.bars)
        for bar in bars:
            others = tuple(b for b in bars_by_symbol.get(bar.symbol, ()) if b.start_ns != bar.start_ns)
            bars_by_symbol[bar.symbol] = tuple(sorted((*others, bar), key=lambda b: b.start_ns))
        return msgspec.structs.replace(state, bars=bars_by_symbol)

    def readjust(self, state: ShelfState, symbol: str, bars: tuple[Bar, ...]) -> ShelfState:
        return msgspec.structs.replace(state, bars={**state.bars, symbol: bars})

    def known(self, state: ShelfState) -> Mapping[str, tuple[Bar, ...]]:
        return state.bars

    def observe(self, state: ShelfState, bars: tuple[Bar, ...], view: View) -> tuple[ShelfState, Observation | None]:
        portfolio = view.portfolio
        assert portfolio is not None
        self.seen.append(portfolio)
        state = msgspec.structs.replace(state, decisions=state.decisions + 1)
        if sum(len(bars) for bars in state.bars.values()) < self.warm_after:
            return state, None
        row = np.array([portfolio.cash, portfolio.equity, *portfolio.shares, *portfolio.prices], dtype="<f4")
        return state, Observation(row.tobytes() * self.spec.rows, self.spec.asked_shape, state.hidden)

    def decide(self, state: ShelfState, answer: Answer, view: View) -> tuple[ShelfState, Rebalance]:
        portfolio = view.portfolio
        assert portfolio is not None
        state = msgspec.structs.replace(state, hidden=answer.hidden)
        goals = zip(self.spec.symbols, answer.logits, strict=True)
        legs = tuple(Leg(symbol, goal) for symbol, goal in goals if goal != KEEP)
        choice = Choice((0.5, 0.3, 0.2), 1, 0.3) if self.named else None
        return state, Rebalance(choice, "rebalance" if legs else "hold", Basket(legs))


class Choosy(Shelf):
    """One that raises at some answers."""

    def decide(self, state: ShelfState, answer: Answer, view: View) -> tuple[ShelfState, Rebalance]:
        if answer.logits[0] > 50.0:
            raise ValueError(f"{answer.logits[0]} is too much")
        return super().decide(state, answer, view)


class DailyDesk(PlayedDesk):
    """A core and its state over the days. `put` steps events; what they cause is in `effects` and `rows`."""

    def __init__(self, trading: Trading | None = None, *, mode: str = "replay", strategy: Shelf | None = None) -> None:
        self.strategy = strategy or Shelf()
        super().__init__(self.strategy, msgspec.structs.replace(IDENTITY, mode=mode), trading)

    def fund(self, cash: str = "10000") -> DailyDesk:
        """An empty account with this cash, and a verified model."""
        now = MONDAY.open_ns - DAY
        self.put(BrokerSnapshot(now, Decimal(cash), (), ()), ModelVerified(now, "v1", "d", promoted=True, feed="sip"))
        return self

    def begin(self, session: Session = MONDAY) -> DailyDesk:
        self.session = session
        days = (LAST_FRIDAY, *SESSIONS)
        before = tuple(s for s in days if s.date < session.date)
        later = tuple(s for s in SESSIONS if s.date > session.date)
        self.put(SessionScheduled(session.open_ns - 30 * MINUTE, session, later, before))
        return self

    def bars(self, session: Session, **closes: float) -> list[AnyEffect]:
        """The daily bars of `session` at its close, or now when that is later."""
        now = max(session.close_ns, self.state.now_ns)
        return self.put(*(BarClosed(now, bar(symbol, session, close)) for symbol, close in closes.items()))

    def end(self, **closes: float) -> list[AnyEffect]:
        """The session's bars and its end."""
        return self.bars(self.session, **closes) + self.put(SessionEnded(self.session.close_ns, self.session.date))

    def due(self, minute: float = -15, running: tuple[Bar, ...] = ()) -> list[AnyEffect]:
        return self.put(RebalanceDue(self.at(minute), self.session.date, running))

    def answer(self, *goals: float, hidden: bytes = b"") -> list[AnyEffect]:
        """Answer the open question: the shares to hold of each symbol."""
        ask = self.state.ask
        assert ask is not None, "no question is open"
        return self.put(PolicyAnswered(self.state.now_ns, ask.decision, goals, hidden, "v1"))

    def prints(self, minute: float, **prices: str) -> list[AnyEffect]:
        """A print, at the open the opening one."""
        prints = tuple(Price(symbol, Decimal(price)) for symbol, price in prices.items())
        return self.put(PricesPrinted(self.at(minute), self.session.date, minute == 0, prints))

    def quotes(self, minute: float, **prices: str) -> list[AnyEffect]:
        """Quotes `bid` or `bid/ask` of some symbols."""
        now = self.at(minute)
        return self.put(QuotesReceived(now, 0, tuple(quote(s, price, now) for s, price in prices.items())))

    def fill(
        self, name: str, cumulative: Quantity, price: str, *, fees: str = "0", correction: int = 0
    ) -> list[AnyEffect]:
        """A fill of one of the desk's orders, all of it at `price`."""
        order = self.order(name)
        now, paid = self.state.now_ns, Decimal(price)
        news = cumulative - (0 if correction else order.filled)
        return self.put(
            OrderFilled(
                now, name, order.symbol, order.side, paid, now, cumulative, paid * cumulative, Decimal(fees), news,
                correction,
            )
        )  # fmt: skip

    def holds(self, **shares: int) -> DailyDesk:
        """A first day, Monday, on which these shares are bought at 100.00 each without costs; ended at that price."""
        self.begin(MONDAY)
        self.bars(LAST_FRIDAY, **dict.fromkeys(SYMBOLS, 100.0))
        self.due()
        self.answer(*(shares.get(symbol, KEEP) for symbol in SYMBOLS))
        for order in of(self.quotes(0, **dict.fromkeys(shares, "100")), SubmitOrder):
            self.fill(order.client_order_id, order.quantity, "100")
        self.quotes(1, **dict.fromkeys(shares, "100"))
        self.end(**dict.fromkeys(SYMBOLS, 100.0))
        assert self.held == shares
        return self

    # --- looking --------------------------------------------------------------------------------------------------

    def working(self) -> list[tuple[str, Quantity]]:
        """Symbol and signed remaining quantity of the working orders, oldest first."""
        return [(order.symbol, order.side * order.remaining) for order in self.state.orders.values()]

    def decisions(self) -> list[DecisionRow]:
        return [row for row in self.rows if isinstance(row, DecisionRow) and row.kind == "policy"]


def bar(symbol: str, session: Session, close: float) -> Bar:
    """A day's bar at one price."""
    return Bar(symbol, session.open_ns - MIDNIGHT, close, close, close, close, 1000.0)


def quote(symbol: str, price: str, at_ns: int) -> Quote:
    bid, _, ask = price.partition("/")
    sides = Decimal(bid), Decimal(ask or bid)
    middle = (sides[0] + sides[1]) / 2
    return Quote(symbol, *sides, middle, middle, at_ns)


def daily_desk(trading: Trading | None = None, *, cash: str = "10000", mode: str = "replay") -> DailyDesk:
    """A funded desk on Monday before the open, with bars of the session before it at 100.00."""
    d = DailyDesk(trading, mode=mode).fund(cash).begin(MONDAY)
    d.bars(LAST_FRIDAY, **dict.fromkeys(SYMBOLS, 100.0))
    return d


def orders(effects: list[AnyEffect]) -> list[tuple[str, Quantity, str | None]]:
    """Symbol, signed quantity and limit of the orders among the effects."""
    return [
        (o.symbol, o.side * o.quantity, None if o.limit_price is None else str(o.limit_price))
        for o in of(effects, SubmitOrder)
    ]


def tuesday(trading: Trading | None = None, mode: str = "replay", **shares: int) -> DailyDesk:
    """Tuesday before the open, with these shares bought on Monday at 100.00."""
    d = DailyDesk(trading, mode=mode).fund().holds(**shares)
    d.begin(TUESDAY)
    return d


def decided(d: DailyDesk, *goals: float, minute: float = -15) -> list[tuple[str, Quantity, str | None]]:
    """The orders that leave with the decision."""
    d.due(minute)
    return orders(d.answer(*goals))
