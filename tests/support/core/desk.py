"""A desk to play scenarios on: a real core, a scripted second implementation of the strategy contract, and its news.

Nothing here computes an expected value. Times are minutes and seconds after the session's open.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeVar

import msgspec
import numpy as np

from daemon.core.effects import AnyEffect, AskBroker, AskPolicy, CancelOrder, RaiseAlarm, SubmitOrder
from daemon.core.events import (
    BarClosed,
    BrokerPosition,
    BrokerSnapshot,
    ClockTicked,
    Contract,
    ContractsListed,
    Event,
    ModelVerified,
    OrderAccepted,
    OrderCanceled,
    OrderFilled,
    PolicyAnswered,
    Quote,
    QuotesReceived,
    SessionScheduled,
)
from daemon.core.limits import Trading
from daemon.core.orders import Order
from daemon.core.records import DecisionRow, MoveRow, Row
from daemon.core.state import Book, Identity, State, encode_state
from daemon.core.step import Core, Step
from strategies.kit.contract import Answer, Bar, Choice, Decision, Observation, Session, Spec, Target, View
from strategies.kit.quantity import Quantity

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
OPEN = 1_719_840_600 * SECOND  # 2024-07-01 09:30 in New York
DAY = 24 * 60 * MINUTE
MONDAY = Session("2024-07-01", OPEN, OPEN + 390 * MINUTE)
TUESDAY = Session("2024-07-02", OPEN + DAY, OPEN + DAY + 390 * MINUTE)
HALF_DAY = Session("2024-07-03", OPEN + 2 * DAY, OPEN + 2 * DAY + 210 * MINUTE)
FRIDAY = Session("2024-07-05", OPEN + 4 * DAY, OPEN + 4 * DAY + 390 * MINUTE)
SESSIONS = (MONDAY, TUESDAY, HALF_DAY, FRIDAY)

HOLD, BUY_CALL, BUY_PUT, TRIM_50, TRIM_70, EXIT = range(6)
CALL, PUT = "SPY240702C00500000", "SPY240702P00500000"
IDENTITY = Identity("replay", "desk-1", "pointer", "e1", "sip")
E = TypeVar("E", bound=AnyEffect)


class PointerState(msgspec.Struct, frozen=True):
    """The closes of the session's bars."""

    date: str = ""
    starts: tuple[int, ...] = ()
    closes: tuple[float, ...] = ()


class Pointer:
    """A strategy that takes the action its answer points at: the largest logit, whose value is the confidence.

    Unlike the scalper it resolves nothing, so that the core's own netting is what a test sees.
    """

    spec = Spec(
        name="pointer",
        revision=1,
        symbols=("SPY",),
        bar_interval_s=60,
        history_bars=0,
        window=20,
        observation_shape=(1, 2),
        dtype="float32",
        features=("close", "side"),
        actions=("HOLD", "BUY_CALL", "BUY_PUT", "TRIM_50", "TRIM_70", "EXIT"),
        temperature=1.0,
    )
    state_type = PointerState

    def __init__(self, warm_after: int = 1) -> None:
        self.warm_after = warm_after

    def start(self) -> PointerState:
        return PointerState()

    def observe(
        self, state: PointerState, bars: tuple[Bar, ...], view: View
    ) -> tuple[PointerState, Observation | None]:
        if state.date != view.session.date:
            state = PointerState(view.session.date)
        for bar in bars:
            state = PointerState(state.date, (*state.starts, bar.start_ns), (*state.closes, bar.close))
        if len(state.closes) < self.warm_after:
            return state, None
        row = np.array([state.closes[-1], view.side], dtype="<f4")
        return state, Observation(row.tobytes(), self.spec.observation_shape)

    def correct(self, state: PointerState, bar: Bar) -> PointerState:
        pairs = zip(state.starts, state.closes, strict=True)
        closes = tuple(bar.close if start == bar.start_ns else close for start, close in pairs)
        return PointerState(state.date, state.starts, closes)

    def decide(self, state: PointerState, answer: Answer, view: View) -> tuple[PointerState, Decision]:
        confidence = max(answer.logits)
        action = answer.logits.index(confidence)
        target = {
            HOLD: Target(view.side, 100, keep=True),
            BUY_CALL: Target(+1, 100),
            BUY_PUT: Target(-1, 100),
            TRIM_50: Target(view.side, 50),
            TRIM_70: Target(view.side, 30),
            EXIT: Target(0, 0),
        }[action]
        return state, Decision(Choice(answer.logits, action, confidence), action, target)


def contract(symbol: str, open_interest: int = 1000) -> Contract:
    """The contract that a 2024 OCC symbol of SPY names."""
    expiry = f"20{symbol[3:5]}-{symbol[5:7]}-{symbol[7:9]}"
    return Contract(symbol, expiry, 1 if symbol[9] == "C" else -1, Decimal(symbol[10:]) / 1000, open_interest)


def chain_of(expiry: str) -> tuple[Contract, ...]:
    """Calls and puts of one expiry at the whole dollars from 495 to 505."""
    stem = "SPY" + expiry[2:].replace("-", "")
    return tuple(contract(f"{stem}{right}{strike:05}000") for strike in range(495, 506) for right in "CP")


def quote(symbol: str, bid: str = "1.98", ask: str = "2.02", low: str = "", high: str = "", at_ns: int = OPEN) -> Quote:
    """A quote whose range is its mid unless `low` or `high` say otherwise."""
    middle = (Decimal(bid) + Decimal(ask)) / 2
    return Quote(
        symbol, Decimal(bid), Decimal(ask), Decimal(low) if low else middle, Decimal(high) if high else middle, at_ns
    )


def logits(action: int, confidence: float = 0.9) -> tuple[float, ...]:
    """An answer that points at `action`."""
    return tuple(confidence if i == action else 0.0 for i in range(6))


class PlayedDesk:
    """A core and its state. `put` steps events; what they cause is in `effects` and `rows`."""

    def __init__(self, strategy: Any, identity: Identity, trading: Trading | None) -> None:
        self.core = Core(strategy)
        self.state: State[Any] = self.core.start(identity, trading or Trading())
        self.session = MONDAY
        self.effects: list[AnyEffect] = []
        self.rows: list[Row] = []
        self.reload = False  # every state goes through JSON before the next step
        self.prompt: Callable[[int], Event] | None = None

    def put(self, *events: Event) -> list[AnyEffect]:
        """Step the events; returns the effects of all of them.

        Where an exit requests a report, `prompt` makes it, a nanosecond later; None: no report comes.
        """
        effects: list[AnyEffect] = []
        for event in events:
            stepped = self._step(event)
            while self.prompt is not None and any(effect.at_once for effect in of(stepped, AskBroker)):
                effects += stepped
                stepped = self._step(self.prompt(self.state.now_ns + 1))
            effects += stepped
        self.effects += effects
        return effects

    def _step(self, event: Event) -> list[AnyEffect]:
        step = self.core.step(self.state, event)
        adds_up(self.state, event, step.state)
        moves_add_up(self.state, event, step)
        self.state = step.state
        if self.reload:
            self.state = self.core.decoder().decode(encode_state(self.state))
        self.rows += step.rows
        return list(step.effects)

    def at(self, minute: float, second: int = 0) -> int:
        """Nanoseconds UTC that many minutes and seconds after the session's open."""
        return self.session.open_ns + round(minute * MINUTE) + second * SECOND

    def tick(self, minute: float, second: int = 0) -> list[AnyEffect]:
        return self.put(ClockTicked(self.at(minute, second)))

    @property
    def held(self) -> dict[str, Quantity]:
        return {symbol: position.quantity for symbol, position in self.state.book.positions.items()}

    def orders(self) -> dict[str, Order]:
        """Working orders and those that ended in this session."""
        return {**self.state.closed, **self.state.orders}

    def order(self, name: str) -> Order:
        return self.orders()[name]


class Desk(PlayedDesk):
    """A desk of options in one session."""

    def __init__(self, trading: Trading | None = None, *, mode: str = "replay", warm_after: int = 1) -> None:
        super().__init__(Pointer(warm_after), msgspec.structs.replace(IDENTITY, mode=mode), trading)

    # --- putting events in ----------------------------------------------------------------------------------------

    def fund(self, cash: str = "10000", model: str = "sip") -> Desk:
        """An empty account with this cash, and a verified model."""
        now = self.session.open_ns - MINUTE
        self.put(BrokerSnapshot(now, Decimal(cash), (), ()), ModelVerified(now, "v1", "d", promoted=True, feed=model))
        return self

    def begin(self, session: Session = MONDAY, expiry: str = "") -> Desk:
        """The session's start with one expiry listed: the next session's unless another is named."""
        self.session = session
        later = tuple(s for s in SESSIONS if s.date > session.date)
        now = session.open_ns - MINUTE
        self.put(
            SessionScheduled(now, session, later),
            ContractsListed(now, session.date, chain_of(expiry or later[0].date), 0.2),
        )
        return self

    def bar(self, minute: int, close: float = 500.0, quotes: tuple[Quote, ...] | None = None) -> list[AnyEffect]:
        """The bar that starts at `minute` and its quotes: of everything watched at 1.98 to 2.02 unless given."""
        start, end = self.at(minute), self.at(minute + 1)
        effects = self.put(BarClosed(end, Bar("SPY", start, close, close, close, close, 1000.0)))
        if quotes is None:
            quotes = tuple(quote(symbol) for symbol in self.state.watched)
        fresh = tuple(msgspec.structs.replace(q, quoted_ns=end) for q in quotes)
        return effects + self.put(QuotesReceived(end, start, fresh))

    def quotes(self, minute: float, *quotes: Quote, second: int = 0) -> list[AnyEffect]:
        """Quotes between two bars."""
        now = self.at(minute, second)
        return self.put(QuotesReceived(now, 0, tuple(msgspec.structs.replace(q, quoted_ns=now) for q in quotes)))

    def confirmed(self, minute: float, *quotes: Quote, second: int = 0) -> list[AnyEffect]:
        """The same quotes twice, a second apart: what a guarded desk believes."""
        return self.quotes(minute, *quotes, second=second) + self.quotes(minute, *quotes, second=second + 1)

    def answer(self, action: int, confidence: float = 0.9) -> list[AnyEffect]:
        """Answer the open question at once."""
        ask = self.state.ask
        assert ask is not None, "no question is open"
        return self.put(PolicyAnswered(self.state.now_ns, ask.decision, logits(action, confidence), b"", "v1"))

    def accept(self, order: str) -> list[AnyEffect]:
        return self.put(OrderAccepted(self.state.now_ns, order))

    def canceled(self, order: str) -> list[AnyEffect]:
        return self.put(OrderCanceled(self.state.now_ns, order))

    def fill(
        self,
        order: str,
        cumulative: Quantity,
        price: str = "2.00",
        *,
        cost: str = "",
        fees: str = "0",
        correction: int = 0,
        symbol: str = "",
        side: int = 0,
    ) -> list[AnyEffect]:
        """A fill of one of the desk's orders; all of it at `price` unless `cost` says otherwise."""
        known = self.orders().get(order)
        total = Decimal(cost) if cost else Decimal(price) * cumulative
        return self.put(
            OrderFilled(
                self.state.now_ns,
                order,
                symbol or (known.symbol if known else CALL),
                side or (known.side if known else 1),
                Decimal(price),
                self.state.now_ns,
                cumulative,
                total,
                Decimal(fees),
                cumulative - (known.filled if known and not correction else 0),
                correction,
            )
        )

    def buys(self, action: int = BUY_CALL, minute: int = 0) -> str:
        """A bar, the answer to buy, and the broker's acceptance; returns the order's id."""
        self.bar(minute)
        order = sent(self.answer(action)).client_order_id
        self.accept(order)
        return order

    def holds(self, action: int = BUY_CALL, minute: int = 0) -> str:
        """As `buys`, wholly filled at 2.00 without fees."""
        order = self.buys(action, minute)
        self.fill(order, self.order(order).quantity)
        return order

    # --- looking --------------------------------------------------------------------------------------------------

    def halted(self) -> str:
        """The halt's reason, "" when not halted."""
        halt = self.state.risk.halt
        return halt.reason if halt else ""

    def paused(self) -> str:
        """The pause's reason, "" when not paused."""
        pause = self.state.risk.pause
        return pause.reason if pause else ""

    def decisions(self) -> list[DecisionRow]:
        return [row for row in self.rows if isinstance(row, DecisionRow)]


def at_cost(book: Book) -> Decimal:
    """Cash and positions at what they cost."""
    return book.cash + sum((p.cost * p.multiplier for p in book.positions.values()), Decimal(0))


def adds_up(before: State[Any], event: Event, after: State[Any]) -> None:
    """Cash + positions at cost = start + transfers + realised, always: what one step changes on one side it changes on
    the other. A start sets the left side; a new session begins the count of the transfers again.
    """
    old, new = before.book, after.book
    if isinstance(event, BrokerSnapshot) or before.broker.began_ns != after.broker.began_ns:
        return
    again = isinstance(event, SessionScheduled) and not new.transfers
    transfers = Decimal(0) if again else new.transfers - old.transfers
    moved, explained = at_cost(new) - at_cost(old), transfers + new.realized - old.realized
    assert moved == explained, f"{event}: {moved} USD moved, {explained} explained"


def moves_add_up(before: State[Any], event: Event, step: Step) -> None:
    """A step's rows of `moves` are all that it did to positions, their cost, the realised profit and the fees."""
    old, new = before.book, step.state.book
    moves = [row for row in step.rows if isinstance(row, MoveRow)]
    for symbol in {*old.positions, *new.positions, *(row.symbol for row in moves)}:
        mine = [row for row in moves if row.symbol == symbol and row.opened_ns]
        ends = [book.positions.get(symbol) for book in (old, new)]
        held = [0 if end is None else end.quantity for end in ends]
        cost = [Decimal(0) if end is None else end.cost * end.multiplier for end in ends]
        assert sum(row.quantity for row in mine) == held[1] - held[0], f"{event}: {mine}"
        moved = sum(
            Decimal(row.entered_usd) - Decimal(row.left_usd) + Decimal(row.realized_usd) + Decimal(row.fees_usd)
            for row in mine
        )
        assert moved == cost[1] - cost[0], f"{event}: {mine}"
    assert sum(Decimal(row.realized_usd) for row in moves) == new.realized - old.realized, f"{event}: {moves}"
    assert sum(Decimal(row.fees_usd) for row in moves) == new.fees - old.fees, f"{event}: {moves}"
    assert len({(row.opened_ns, row.symbol, row.seq, row.part) for row in moves}) == len(moves)


def desk(trading: Trading | None = None, *, cash: str = "10000", mode: str = "replay", warm_after: int = 1) -> Desk:
    """A funded desk on Monday, its contracts expiring on Tuesday."""
    return Desk(trading, mode=mode, warm_after=warm_after).fund(cash).begin()


def of(effects: list[AnyEffect], kind: type[E]) -> list[E]:
    """The effects of one kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


def sent(effects: list[AnyEffect]) -> SubmitOrder:
    """The one order among the effects."""
    orders = of(effects, SubmitOrder)
    assert len(orders) == 1, f"{len(orders)} orders instead of one: {effects}"
    return orders[0]


def canceling(effects: list[AnyEffect]) -> list[str]:
    return [effect.client_order_id for effect in of(effects, CancelOrder)]


def alarms(effects: list[AnyEffect]) -> list[str]:
    return [effect.name for effect in of(effects, RaiseAlarm)]


def questions(effects: list[AnyEffect]) -> list[int]:
    return [effect.decision for effect in of(effects, AskPolicy)]


def snapshot_of(desk: Desk, cash: str | None = None, open_orders: tuple[str, ...] | None = None) -> BrokerSnapshot:
    """A broker's word that agrees with the book, except for what is given."""
    book = desk.state.book
    positions = tuple(BrokerPosition(s, Decimal(p.quantity), Decimal(1)) for s, p in book.positions.items())
    working = tuple(desk.state.orders) if open_orders is None else open_orders
    return BrokerSnapshot(desk.state.now_ns, book.cash if cash is None else Decimal(cash), positions, working)
