"""The step: (state, event) -> (state, effects, read-model rows). Pure; it raises only on a bug, changing nothing.

Each event kind has one handler; then follow the rules that any event past their time triggers: the open question's
deadline, the flatten before the close, the works' next attempts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core import handlers
from daemon.core.broker.exits import flatten_when_due
from daemon.core.broker.fills import on_order_filled
from daemon.core.broker.ledger import on_ledger_booked
from daemon.core.broker.on_broker import (
    HAPPENED,
    on_broker_lost,
    on_cash_transferred,
    on_contract_expired,
    on_order_found,
    on_order_missing,
    on_order_news,
    on_trade_corrected,
)
from daemon.core.broker.protection import protect
from daemon.core.broker.reconcile import (
    on_accept_broker,
    on_broker_reported,
    on_broker_snapshot,
    on_order_rejected,
)
from daemon.core.desks.registry import desk_of
from daemon.core.draft import ENTRY, EXIT, PROTECTION, DeskKind, Draft, Handler, PaperMarket, wording
from daemon.core.effects import AnyEffect, AskPolicy, CancelOrder, SubmitOrder
from daemon.core.events import FEED_EVENTS, Event, PolicyAnswered, PolicyFailed
from daemon.core.handlers import (
    on_clock_reset,
    on_ladder_moved,
    on_session_scheduled,
    on_shadow_answered,
    on_shadow_failed,
)
from daemon.core.limits import Trading
from daemon.core.moves import LEAVE, move_rows, round_trip
from daemon.core.orders import CANCELING, SUBMITTED, Order, Work, advance, parse_name
from daemon.core.records import MoveRow, RoundTripRow, Row
from daemon.core.risk.claim import on_claim_judged
from daemon.core.risk.guards import look_up_overdue
from daemon.core.risk.marks import guarded, position_price
from daemon.core.risk.splits import note_actions
from daemon.core.state import Ask, Identity, Position, State
from strategies.kit.contract import Answer, AnyStrategy
from strategies.kit.quantity import from_json


def trade_rows(draft: Draft, first_part: int) -> list[Row]:
    """Return the step's moves, and what they and new marks add to trades; `first_part` numbers the moves."""
    if not draft.moves:  # most steps, so this comes first
        return _profit_rows(draft, frozenset()) if draft.observed or _marks_differ(draft) else []
    moves = move_rows(draft.moves, draft.seq, draft.now_ns, first_part)
    rows: list[Row] = list(moves)
    rows.extend(round_trip(row) for row in moves if row.opened_ns)
    rows.extend(_profit_rows(draft, {(row.opened_ns, row.symbol) for row in moves}))
    rows.extend(_end_row(draft, row) for row in moves if row.step == LEAVE)
    return rows


def _profit_rows(draft: Draft, changed_keys: Collection[tuple[int, str]]) -> list[Row]:
    """Return the profit of each held position that was observed, is in `changed_keys` or has a new mark."""
    rows: list[Row] = []
    symbols_with_new_mark = _symbols_with_new_mark(draft)
    for symbol, position in draft.book.positions.items():
        if draft.observed or symbol in symbols_with_new_mark or (position.opened_ns, symbol) in changed_keys:
            price = position_price(draft, symbol)
            profit = None if price is None else _profit(position, price)
            if profit is not None or draft.observed:
                rows.append(_at_mark(draft, position.opened_ns, symbol, profit, draft.observed))
    return rows


def _marks_differ(draft: Draft) -> bool:
    former = draft.former
    return draft.marks is not former.marks or draft.quotes is not former.quotes


def _symbols_with_new_mark(draft: Draft) -> Collection[str]:
    """Return the held symbols with a new mark."""
    positions = draft.book.positions
    if guarded(draft):
        marks, old_marks = draft.marks, draft.former.marks
        return (
            () if marks is old_marks else {symbol for symbol in positions if marks.get(symbol) != old_marks.get(symbol)}
        )
    quotes, former = draft.quotes, draft.former.quotes
    return {symbol for symbol in positions if quotes.get(symbol) is not former.get(symbol)}


def _profit(position: Position, price: Decimal) -> float:
    """Return what the position realised, and would realise at `price`, in USD."""
    return float(position.pnl + (price * position.quantity - position.cost) * position.multiplier)


def _at_mark(draft: Draft, opened_ns: int, symbol: str, profit: float | None, bars: int) -> RoundTripRow:
    return RoundTripRow(
        opened_ns=opened_ns,
        symbol=symbol,
        time_ns=draft.now_ns,
        bars=bars,
        worst_usd=profit,
        best_usd=profit,
        now_usd=profit,
    )


def _end_row(draft: Draft, row: MoveRow) -> RoundTripRow:
    """Return the end of a trade, whose profit counts as an excursion too."""
    profit = None if row.pnl_usd is None else float(row.pnl_usd)
    return _at_mark(draft, row.opened_ns, row.symbol, profit, 0)


def on_policy_answered(draft: Draft, event: PolicyAnswered) -> None:
    ask = draft.ask
    if ask is None or ask.decision != event.decision:
        return
    if event.time_ns > ask.valid_until_ns:
        expire_ask(draft, ask)
        return
    if ask.served and draft.model is not None and event.model != draft.model.version:  # it was sized for another model
        _end_without_answer(
            draft, ask, f"{event.model} answered a question that was open when {draft.model.version} took over"
        )
        return
    draft.ask = None
    if draft.risk.alarms:
        draft.case_over("policy_late", "policy_failed", "served_late")
    answer = Answer(event.logits, event.hidden, event.heads)
    draft.desk.holds.act(draft, ask, answer, event.model)


def on_policy_failed(draft: Draft, event: PolicyFailed) -> None:
    ask = draft.ask
    if ask is not None and ask.decision == event.decision:
        _end_without_answer(draft, ask, event.reason)


def _end_without_answer(draft: Draft, ask: Ask, reason: str) -> None:
    """End the open question as one without a usable answer."""
    draft.count_denials(("answer_not_finite",))
    draft.alarm("policy_failed", reason, once=True, about=wording(reason))
    draft.end_question(ask, "failed")


def expire_ask(draft: Draft, ask: Ask) -> None:
    """End the open question past its deadline, with a record; a later answer finds no question."""
    if not ask.served:
        draft.alarm("policy_late", f"no answer to decision {ask.decision} in time", once=True)
    else:
        draft.count_denials(("served_late",))
        draft.alarm("served_late", f"no served answer to decision {ask.decision} in time", once=True)
    draft.end_question(ask, "expired")


def take_facts(draft: Draft, facts: Iterable[AnyEffect]) -> None:
    """Take recorded effects over as the desk's own where this code did not produce them."""
    for effect in facts:
        if isinstance(effect, SubmitOrder) and draft.find_order(effect.client_order_id) is None:
            _take_order(draft, effect)
        elif isinstance(effect, CancelOrder) and effect.client_order_id in draft.orders:
            order = advance(draft.orders[effect.client_order_id], "cancel_requested")
            if order.status == CANCELING and not order.cancel_asked_ns:
                draft.put_order(replace(order, cancel_asked_ns=draft.now_ns))


def _take_order(draft: Draft, submission: SubmitOrder) -> None:
    """Take over an order, as an attempt of a work of this code with the same goal, if there is one.

    Without a work, an entry is cancelled at this code's first decision, and an exit goes on.
    """
    name = parse_name(submission.client_order_id)
    assert name is not None  # a desk gave it
    opens = submission.intent.endswith("_to_open") or (not submission.intent and submission.side > 0)
    order = Order(
        client_order_id=submission.client_order_id,
        work=f"{name.decision}.{name.leg}",
        purpose=PROTECTION if submission.stop_price is not UNSET else ENTRY if opens else EXIT,
        reason="former code",
        symbol=submission.symbol,
        side=submission.side,
        quantity=submission.quantity,
        limit_price=submission.limit_price,
        status=SUBMITTED,
        submitted_ns=draft.now_ns,
        valid_until_ns=submission.valid_until_ns,
        auction=submission.auction,
        closing=submission.closing,
        stop_price=submission.stop_price,
    )
    draft.put_order(order)
    if order.purpose == PROTECTION:
        draft.decision = max(draft.decision, name.decision)
        return
    goal = draft.held(submission.symbol) + submission.side * submission.quantity
    draft.wanted = {**draft.wanted, submission.symbol: goal}  # wanted when sent, so its fill is no excess
    draft.count_order()
    draft.decision = max(draft.decision, name.decision)  # no later order may use its name
    if (work := draft.works.get(order.work)) is not None and work.attempt < name.attempt:
        draft.works = {**draft.works, work.key: _with_attempt(work, order, name.attempt)}


def _with_attempt(work: Work, order: Order, attempt: int) -> Work:
    """Return the work after an attempt that was sent; the order is its own where the goals agree."""
    same = (work.symbol, work.purpose) == (order.symbol, order.purpose)
    return replace(work, attempt=attempt, order_id=order.client_order_id if same else work.order_id)


HANDLERS: Mapping[type[ev.Event], Handler] = {
    ev.RunStarted: handlers.on_run_started,
    ev.CodeChanged: handlers.on_code_changed,
    ev.ModelVerified: handlers.on_model_verified,
    ev.ModelRefused: handlers.on_model_refused,
    ev.BrokerSnapshot: on_broker_snapshot,
    ev.SessionScheduled: on_session_scheduled,
    ev.BarRejected: handlers.on_bar_rejected,
    ev.TradingStatusChanged: handlers.on_trading_status,
    ev.ClockTicked: handlers.on_clock_ticked,
    ev.PolicyAnswered: on_policy_answered,
    ev.PolicyFailed: on_policy_failed,
    ev.OrderFilled: on_order_filled,
    ev.ContractExpired: on_contract_expired,
    ev.CashTransferred: on_cash_transferred,
    ev.LedgerBooked: on_ledger_booked,
    ev.ActionsAnnounced: note_actions,
    ev.HaltRequested: handlers.on_halt,
    ev.ResumeRequested: handlers.on_resume,
    ev.PauseRequested: handlers.on_pause,
    ev.FlattenRequested: handlers.on_flatten,
    ev.CloseRequested: handlers.on_close,
    ev.AcceptBrokerRequested: on_accept_broker,
    ev.PanicNoticed: handlers.on_panic,
    ev.PanicFailed: handlers.on_panic_failed,
    ev.StopRequested: handlers.on_stop,
    ev.ClockReset: on_clock_reset,
    ev.TroubleNoticed: handlers.on_trouble,
    ev.CommandRefused: handlers.on_command_refused,
    ev.ModelPromoted: handlers.on_model_promoted,
    ev.CandidateRefused: handlers.on_candidate_refused,
    ev.LadderMoved: on_ladder_moved,
    ev.ClaimJudged: on_claim_judged,
    ev.ShadowAnswered: on_shadow_answered,
    ev.ShadowFailed: on_shadow_failed,
    **dict.fromkeys((ev.ReloadRequested, ev.StatusRequested), handlers.on_nothing),
    ev.OrderFound: on_order_found,
    ev.OrderMissing: on_order_missing,
    ev.TradeCorrected: on_trade_corrected,
    ev.BrokerLost: on_broker_lost,
    ev.BrokerReported: on_broker_reported,
    **dict.fromkeys(HAPPENED, on_order_news),
    ev.OrderRejected: on_order_rejected,
    **dict.fromkeys(
        (ev.ContractsListed, ev.PartClosed, ev.PricesPrinted, ev.RebalanceDue, ev.HistoryAdjusted, ev.SharesSplit),
        handlers.on_nothing,
    ),
}
"""Handlers of every desk; those of bars, quotes and the end of a session belong to the desk."""

_STARTUP = frozenset(ev.STARTUP_EVENTS)
_FEED = frozenset(ev.FEED_EVENTS)
_QUIET = _STARTUP | {ev.BarClosed, ev.PartClosed, ev.ShadowAnswered, ev.ShadowFailed}
"""Events after which orders are not advanced: a bar's fills and quotes follow it, a restart must change nothing, and a
candidate must move nothing at all."""
STARTUP_PART = 1000  # first part number of a start-up event's moves, which has no sequence number of its own


class Step(msgspec.Struct, frozen=True, gc=False):
    """The result of one event."""

    state: State[Any]
    effects: tuple[AnyEffect, ...]
    rows: tuple[Row, ...]


class Core:
    """The pure core for one strategy. Two cores of the same strategy give equal steps for equal arguments.

    Without `trades` its steps leave out the rows of trades; all else is equal.
    """

    __slots__ = ("_drive", "_quiet", "_trades", "desk", "handlers", "strategy")

    def __init__(self, strategy: AnyStrategy, *, trades: bool = True) -> None:
        self.strategy = strategy
        self._trades = trades
        self.desk: DeskKind = desk_of(strategy)
        decides, holds = self.desk.decides, self.desk.holds
        self.handlers = {**HANDLERS, **holds.handlers, **decides.handlers}
        self._quiet = _QUIET | decides.quiet | holds.quiet
        self._drive = holds.drive

    def start(self, identity: Identity, trading: Trading) -> State[Any]:
        """Return the state before any event."""
        return State(self.strategy.start(), identity, trading)

    def step(self, state: State[Any], event: ev.Event, facts: tuple[AnyEffect, ...] | None = None) -> Step:
        """Apply one event. Raises TypeError for an unknown kind, ValueError for a broken invariant.

        `facts`: the effects that left the process when other code stepped this event.
        """
        draft, kind = Draft(state, self.desk, facts), type(event)
        handler = self.handlers.get(kind)
        if handler is None:
            raise TypeError(f"no handler for {kind.__name__}; the kinds are in daemon.core.events")
        draft.now_ns = max(draft.now_ns, event.time_ns)  # a clock that steps back never makes event time decrease
        if kind not in _STARTUP:
            draft.seq += 1
            if kind in _FEED:
                draft.fed += 1
        handler(draft, event)
        ask = draft.ask
        if ask is not None and draft.now_ns > ask.valid_until_ns:
            expire_ask(draft, ask)
        drives = kind not in self._quiet or (kind is ev.OrderCanceled and _ends_a_stop(draft, event))
        if drives and not (draft.pending_bars and self.desk.decides.fills_to_come(draft)):
            if draft.book.positions:
                flatten_when_due(draft)
            self._drive(draft)
            if draft.orders:
                look_up_overdue(draft)
        if kind not in _QUIET and (draft.trading.protection is not UNSET or (draft.orders and draft.rests())):
            protect(draft)
        if draft.facts is not None:
            take_facts(draft, draft.facts)
        if self._trades and (draft.moves or draft.book.positions):
            draft.records.extend(trade_rows(draft, STARTUP_PART if kind in _STARTUP else 0))
        return Step(draft.freeze(), tuple(draft.effects), tuple(draft.records))

    def decoder(self) -> msgspec.json.Decoder[State[Any]]:
        """Return a decoder of what `daemon.core.state.encode_state` wrote."""
        generic: Any = State  # its parameter is known only here, at run time
        return msgspec.json.Decoder(generic[self.strategy.state_type], dec_hook=from_json)


def _ends_a_stop(draft: Draft, event: Any) -> bool:
    """Return whether a resting stop ended for which a sale or a buy waits."""
    order = draft.closed.get(event.client_order_id)
    return order is not None and order.purpose == PROTECTION


QueueEntry = Event | AskPolicy
PolicyEvent = PolicyAnswered | PolicyFailed
ANSWERS = (PolicyAnswered, PolicyFailed)


class Divergence(ValueError):
    """A journaled event differs from the one that earlier events cause."""


class Machine:
    """One desk in memory: `state`, the paper broker's state (None with a real broker), and the queue."""

    __slots__ = ("core", "market", "market_state", "queue", "state")

    def __init__(
        self, core: Core, state: State[Any], market: PaperMarket | None = None, market_state: Any = None
    ) -> None:
        self.core = core
        self.state = state
        self.market = market
        self.market_state: Any = market_state  # returned by the market's `start` and `step`
        self.queue: deque[QueueEntry] = deque()

    @property
    def caused_events(self) -> tuple[type[Event], ...]:
        """The kinds of event that earlier events cause; all others come from outside."""
        return ANSWERS if self.market is None else (*self.market.EMITS, *ANSWERS)

    def apply(self, event: Event) -> Step:
        """Step one event and queue what it causes. When it raises, nothing has changed."""
        step = self.core.step(self.state, event)
        return self._move_on(event, step, step.effects)

    def _move_on(self, event: Event, step: Step, sent_effects: tuple[AnyEffect, ...]) -> Step:
        """Take the result of a step over, and step the market with `sent_effects`."""
        market, market_state = self.market, self.market_state
        if (
            market is not None
            and market_state is not None
            and (
                type(event) in market.MOVED_BY
                or (sent_effects and any(type(effect) is not AskPolicy for effect in sent_effects))
            )
        ):
            self.market_state, news = market.step(market_state, event, sent_effects)
            self.queue.extend(news)
        self.state = step.state
        for effect in step.effects:
            if type(effect) is AskPolicy and not effect.served:
                self.queue.append(effect)
        return step

    def reapply(self, event: Event) -> Step:
        """Apply a journaled event: caused events must come in their order.

        With a real broker only the answers to questions are caused, and a served one comes from outside. Raises
        Divergence when the journal holds another event than the paper broker emitted, or an answer without a question.
        """
        if isinstance(event, self.caused_events) and not self._is_served(event):
            expected = self.queue.popleft() if self.queue else None
            if expected is None or not _follows(expected, event):
                answer_text = "an answer" if isinstance(expected, AskPolicy) else repr(expected)
                raise Divergence(f"the journal holds {event!r} where {answer_text} follows from the events before it")
        return self.apply(event)

    def _is_served(self, event: Event) -> bool:
        """Return whether this answers an open question that went to another process."""
        ask = self.state.ask
        return isinstance(event, ANSWERS) and ask is not None and ask.served and ask.decision == event.decision

    def take(self, event: Event, sent_effects: tuple[AnyEffect, ...]) -> Step:
        """Apply a journaled event as other code stepped it: `sent_effects` left the process then.

        Expected events that did not come are dropped. When it raises, only the queue has changed.
        """
        if isinstance(event, FEED_EVENTS):
            self.queue.clear()  # an engine reads its source only when the queue is empty
        elif isinstance(event, self.caused_events):
            while self.queue and not _follows(self.queue.popleft(), event):
                pass
        step = self.core.step(self.state, event, sent_effects)
        return self._move_on(event, step, sent_effects)

    def run(
        self,
        feed: Iterable[Event],
        answer: Callable[[AskPolicy, int], PolicyEvent],
        watch: Callable[[Event, Step], None] | None = None,
    ) -> State[Any]:
        """Step a whole feed in memory; the next event enters when the queue of caused events is empty.

        `answer(question, now_ns)` is the policy. Returns the last state.
        """
        for feed_event in feed:
            event: Event = feed_event
            while True:
                step = self.apply(event)
                if watch is not None:
                    watch(event, step)
                if not self.queue:
                    break
                next_event = self.queue.popleft()
                event = answer(next_event, self.state.now_ns) if isinstance(next_event, AskPolicy) else next_event
        return self.state


def _follows(expected: QueueEntry, event: Event) -> bool:
    """Return whether `event` is the expected one: that very event, or an answer to that question."""
    if isinstance(expected, AskPolicy):
        return isinstance(event, ANSWERS) and event.decision == expected.decision
    return event == expected
