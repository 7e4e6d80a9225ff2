"""A candidate's hypothetical profit: the desk's own machine with the candidate's journaled answers.

Where a candidate is first asked, two copies of the running desk begin, with its state and its account. One takes the
live model's answers, the other the candidate's. Both get all outside events, and each has its own orders, fills and
stops, at a paper broker. So only the answers differ. Invariant: the running desk never changes.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

from msgspec.structs import replace

from daemon.core.broker.fills import at_cost
from daemon.core.broker.ledger import SPLITS
from daemon.core.effects import AskPolicy
from daemon.core.events import (
    AcceptBrokerRequested,
    BrokerLost,
    BrokerReported,
    BrokerSnapshot,
    CandidateRefused,
    ClaimJudged,
    CodeChanged,
    Event,
    LadderMoved,
    OrderFound,
    OrderMissing,
    OrderUnknown,
    PanicNoticed,
    PolicyAnswered,
    PolicyFailed,
    Quote,
    QuotesReceived,
    RunStarted,
    SessionEnded,
    SessionScheduled,
    ShadowAnswered,
    ShadowFailed,
    TradeCorrected,
)
from daemon.core.instruments.option_market import bid_ask_cents, option_terms, parse_occ, price, years_to_expiry
from daemon.core.paper.paper import ORDER_NEWS
from daemon.core.paper.state import PaperPosition, PaperState, SharePaperState, broker_snapshot, usd
from daemon.core.records import ShadowRow
from daemon.core.risk.splits import ANNOUNCED
from daemon.core.state import BROKER_MODES, BrokerState, State
from daemon.core.step import ANSWERS, Core, Machine, PolicyEvent, QueueEntry, Step
from daemon.engine.recover import DRY_RUN, adopt_trading

RULE = (
    "Two copies of the desk, from where the candidate was first asked: the same rules, gates, sizes and stops, at the "
    "paper broker (with a real broker that of a dry run). One takes the live model's journaled answers, the other one "
    "the candidate's. A contract that only the candidate holds, and the journal does not quote, "
    "is quoted by Black and Scholes at the volatility that a quoted one of its expiry implies."
)
BACKLOG_MOST = 64  # events that wait for the candidate's answer
VOLATILITIES = (1e-4, 20.0)  # annualised range in which an implied one is searched
HALVINGS = 60
_OF_THE_ACCOUNT = frozenset(
    (
        *ORDER_NEWS,
        BrokerSnapshot,
        BrokerReported,
        BrokerLost,
        OrderUnknown,
        OrderFound,
        OrderMissing,
        TradeCorrected,
        LadderMoved,
        ClaimJudged,
        CandidateRefused,
        ShadowAnswered,
        ShadowFailed,
        *ANSWERS,
    )
)
"""Events about the running desk's own orders and models, which a copy does not have."""
_ENDS = frozenset((PanicNoticed, AcceptBrokerRequested, CodeChanged))
"""After these the desk no longer explains the account: the copies end, and new ones begin at a later question."""


class Parting(NamedTuple):
    """A machine at a question not answered yet, where copies begin."""

    core: Core
    state: State[Any]
    market_state: Any  # None with a real broker
    queue: tuple[QueueEntry, ...]


class CopyResult(NamedTuple):
    """Result of a copy: profit in USD, realised and not, its fills, and the quotes modelled for it."""

    gained: Decimal
    fills: int
    modelled: int

    def after(self, earlier: CopyResult) -> CopyResult:
        """Return the sum of both."""
        return CopyResult(self.gained + earlier.gained, self.fills + earlier.fills, self.modelled + earlier.modelled)

    def since(self, earlier: CopyResult) -> CopyResult:
        """Return the difference from `earlier`."""
        return CopyResult(self.gained - earlier.gained, self.fills - earlier.fills, self.modelled - earlier.modelled)


class ShadowSession(NamedTuple):
    """One session: results of the live model and the candidate, and the candidate's answers and failures."""

    live: CopyResult
    candidate: CopyResult
    answered: int
    failed: int

    def after(self, earlier: ShadowSession) -> ShadowSession:
        """Return the sum of both parts of a session."""
        results = self.live.after(earlier.live), self.candidate.after(earlier.candidate)
        return ShadowSession(*results, self.answered + earlier.answered, self.failed + earlier.failed)


class Copy:
    """A copy of a desk: `take` every event, with the running desk's state after it. `answer_of` selects its answers."""

    def __init__(self, at: Parting, answer_of: Callable[[Event], PolicyEvent | None]) -> None:
        core, state, market_state = Core(at.core.strategy, trades=False), at.state, at.market_state
        real = market_state is None
        if real:
            state = replace(state, identity=replace(state.identity, mode=DRY_RUN), orders={}, broker=BrokerState())
            market_state = _account_of(state, core)
        market = core.desk.paper(state.trading, state.identity.mode)
        assert market is not None
        self._emits = frozenset(market.EMITS)
        self._answer_of = answer_of
        self._machine = machine = Machine(core, state, market, market_state)
        self._model_count = 0
        machine.queue.extend(at.queue)
        if real:
            machine.apply(broker_snapshot(market_state, state.now_ns))

    @property
    def result(self) -> CopyResult:
        """The result so far. A transfer of cash is no gain."""
        state = self._machine.state
        gain = state.book.realized + state.book.equity - at_cost(state.book)
        return CopyResult(gain, state.stats.fills, self._model_count)

    @property
    def awaits_split(self) -> bool:
        """Whether bars show a split of what it holds."""
        return bool(self._machine.state.basket.splits)

    @property
    def symbols_used(self) -> frozenset[str]:
        """Return the symbols of its positions and working orders."""
        state = self._machine.state
        return frozenset((*state.book.positions, *(order.symbol for order in state.orders.values())))

    def take(self, event: Event, live: State[Any]) -> None:
        """Step an answer, or an outside event, and all that follows."""
        machine, answer = self._machine, self._answer_of(event)
        if answer is not None:
            self._answer(answer)
            return
        if type(event) in _OF_THE_ACCOUNT or type(event) in self._emits:
            return
        if machine.queue:
            self._answer(PolicyFailed(machine.state.now_ns, 0, "the journal has no answer to this question"))
        if isinstance(event, RunStarted):
            machine.apply(replace(event, mode=machine.state.identity.mode))
            adopt_trading(machine)
            event = broker_snapshot(machine.market_state, event.time_ns)
        elif isinstance(event, QuotesReceived) and event.closes_bar_ns and machine.core.desk.spec.chained:
            event = self._with_model_quotes(event, live)
        machine.apply(event)
        self._drain()

    def _answer(self, answer: PolicyEvent) -> None:
        """Answer the open question, which may have another number than the running desk's; do nothing without one."""
        machine = self._machine
        if machine.queue:
            machine.queue.popleft()
        if machine.state.ask is not None:
            machine.apply(replace(answer, decision=machine.state.ask.decision))
        self._drain()

    def _drain(self) -> None:
        """Step caused events, up to a question."""
        queue = self._machine.queue
        while queue and not isinstance(event := queue[0], AskPolicy):
            queue.popleft()
            self._machine.apply(event)

    def _with_model_quotes(self, event: QuotesReceived, live: State[Any]) -> QuotesReceived:
        """Add quotes of contracts that only this copy uses."""
        missing = self.symbols_used - live.quotes.keys() - {quote.symbol for quote in event.quotes}
        quotes = [modelled_quote(live, symbol) for symbol in sorted(missing) if parse_occ(symbol) is not None]
        model_quotes = [quote for quote in quotes if quote is not None]
        self._model_count += len(model_quotes)
        return replace(event, quotes=(*event.quotes, *model_quotes))


def _account_of(state: State[Any], core: Core) -> PaperState | SharePaperState:
    """Return a paper broker's books with the desk's account at a real broker, without working orders."""
    book, session = state.book, state.session
    positions = {p.symbol: PaperPosition(p.symbol, p.quantity, p.cost / p.quantity) for p in book.positions.values()}
    if core.desk.holds.by_basket:
        return SharePaperState(book.cash, holdings=positions, session=session.session)
    contracts = (*state.chain.calls, *state.chain.puts) if state.chain is not None else ()
    return PaperState(
        book.cash,
        holdings=tuple(positions.values()),
        session=session.session,
        upcoming=session.upcoming,
        listed=tuple(contract.symbol for contract in contracts),
    )


# --- a contract that is not quoted ------------------------------------------------------------------------------------


def modelled_quote(state: State[Any], symbol: str) -> Quote | None:
    """Return bid and ask of an unquoted contract from a quoted one of its expiry, as of now; None without one.

    Neighbours of the same right come first: by put-call parity (r = q = 0) the other right implies the same volatility
    at the same strike.
    """
    strike, right, expiry = option_terms(symbol)
    for neighbour in sorted(state.quotes.values(), key=lambda quote: option_terms(quote.symbol)[1] != right):
        volatility, years = _implied_volatility(state, neighbour, expiry)
        if volatility is not None:
            cents = bid_ask_cents(price(state.session.spot, strike, years, volatility, right), state.trading.paper)
            bid, ask = map(usd, cents)
            middle = (bid + ask) / 2
            return Quote(symbol, bid, ask, middle, middle, state.now_ns)
    return None


def _implied_volatility(state: State[Any], quote: Quote, expiry: str) -> tuple[float | None, float]:
    """Return the volatility implied by a quote's mid, and its years to expiry; None for another expiry."""
    strike, right, last_day = option_terms(quote.symbol)
    session, spot = state.session.session, state.session.spot
    if last_day != expiry or session is None or spot <= 0 or quote.bid <= 0 or quote.ask <= 0:
        return None, 0.0
    later = tuple(s for s in state.session.upcoming if s.date <= expiry)
    years, middle = years_to_expiry(quote.quoted_ns, session, later), float(quote.bid + quote.ask) / 2.0
    low, high = VOLATILITIES
    if not price(spot, strike, years, low, right) < middle < price(spot, strike, years, high, right):
        return None, years
    for _ in range(HALVINGS):
        half = (low + high) / 2.0
        low, high = (half, high) if price(spot, strike, years, half, right) < middle else (low, half)
    return low, years


# --- both of them -----------------------------------------------------------------------------------------------------


class Shadow:
    """The live model and a candidate, each on a copy of the desk. `observe` sees every step of the running one.

    `sessions` has each session in which the candidate was asked, by its New York date. After a session without a
    question the copies end, and new ones begin at the next question.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.sessions: dict[str, ShadowSession] = {}
        self.base_usd = 0.0  # the equity where the first copies began
        self._parting: Parting | None = None
        self._copies: tuple[Copy, Copy] | None = None
        self._results_before: tuple[CopyResult, CopyResult] | None = None
        self._backlog: list[tuple[Event, State[Any]]] = []
        self._date = ""  # date of the session, once the candidate was asked in it
        self._answers = self._failures = 0  # in that session

    @property
    def symbols_used(self) -> frozenset[str]:
        """Return the symbols that the copies hold or have orders for, as of the last answer stepped."""
        return frozenset().union(*(copy.symbols_used for copy in self._copies or ()))

    def observe(self, machine: Machine, event: Event, step: Step) -> None:
        """Take a step, after which `machine` stands. Copies are stepped after an answer: the real order left before."""
        event = _as_recorded(event, step)
        session = step.state.session.session
        if isinstance(event, SessionScheduled) and self._date not in ("", event.session.date):
            self.end_session()
        elif type(event) in _ENDS or self._is_split(event, step.state):
            self.end_session()
            self._part(None)
        if self._parting is not None or self._copies is not None:
            self._backlog.append((event, step.state))
        match event:
            case ShadowAnswered(model=self.model) if session is not None:
                self._answers += 1
                self._catch_up(session.date)
            case ShadowFailed(model=self.model) if session is not None:
                self._failures += 1
                self._catch_up(session.date)
            case SessionEnded():
                self.end_session()
            case _ if self._copies is not None and len(self._backlog) >= BACKLOG_MOST:
                self._step_copies()
            case _ if self._copies is None and any(type(effect) is AskPolicy for effect in step.effects):
                self._part(Parting(machine.core, step.state, machine.market_state, tuple(machine.queue)))
            case _:
                pass

    def _is_split(self, event: Event, state: State[Any]) -> bool:
        """Return whether shares at a real broker split: the paper brokers of the copies are not told of it."""
        if state.identity.mode not in BROKER_MODES:
            return False
        lines = event.activities if isinstance(event, BrokerReported) else ()
        split = any(line.kind in SPLITS and line.status != ANNOUNCED for line in lines)
        return split or bool(state.basket.splits) or any(copy.awaits_split for copy in self._copies or ())

    def end_session(self) -> None:
        """Count the copies' results of the session."""
        if not self._date or self._copies is None or self._results_before is None:
            self._part(None)
        else:
            self._step_copies()
            now, results_before = (self._copies[0].result, self._copies[1].result), self._results_before
            session_result = ShadowSession(
                now[0].since(results_before[0]), now[1].since(results_before[1]), self._answers, self._failures
            )
            earlier = self.sessions.get(self._date)
            self.sessions[self._date] = session_result if earlier is None else session_result.after(earlier)
            self._results_before = now
        self._date, self._answers, self._failures = "", 0, 0

    def _part(self, at: Parting | None) -> None:
        self._copies, self._parting, self._backlog = None, at, []

    def _catch_up(self, date: str) -> None:
        """Step the events that waited for the candidate's answer; at the first one the copies begin."""
        self._date = date
        if self._copies is None and self._parting is not None:
            self.base_usd = self.base_usd or float(self._parting.state.book.equity)
            self._copies = (Copy(self._parting, _live), Copy(self._parting, self._candidate))
            self._results_before = (self._copies[0].result, self._copies[1].result)
            self._parting = None
        self._step_copies()

    def _step_copies(self) -> None:
        backlog, self._backlog = self._backlog, []
        for copy in self._copies or ():
            for event, state in backlog:
                copy.take(event, state)

    def _candidate(self, event: Event) -> PolicyEvent | None:
        """Return the candidate's answer as a live answer."""
        match event:
            case ShadowAnswered(time_ns, decision, logits, hidden, model, heads) if model == self.model:
                return PolicyAnswered(time_ns, decision, logits, hidden, model, heads)
            case ShadowFailed(time_ns, decision, reason, model) if model == self.model:
                return PolicyFailed(time_ns, decision, reason)
            case _:
                return None


def _as_recorded(event: Event, step: Step) -> Event:
    """Return the recorded failure instead of a candidate's answer on which the strategy raised."""
    if isinstance(event, ShadowAnswered):
        for row in step.rows:
            if isinstance(row, ShadowRow) and row.problem:
                return ShadowFailed(event.time_ns, event.decision, row.problem, event.model)
    return event


def _live(event: Event) -> PolicyEvent | None:
    return event if isinstance(event, PolicyAnswered | PolicyFailed) else None
