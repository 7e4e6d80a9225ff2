"""The step: (state, event) -> (state, effects, read-model rows). Pure; it raises on a bug alone, changing nothing.

Each event kind has one handler; after it come the rules that any event past their time triggers: the open question's
deadline, the flatten before the close, the works' next attempts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.book import begin_session
from daemon.core.broker.fills import on_order_filled
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
from daemon.core.broker.reconcile import on_broker_reported, on_broker_snapshot
from daemon.core.broker.takeover import on_accept_broker
from daemon.core.desks.options.execution import drive
from daemon.core.desks.options.on_bars import on_bar_closed, on_bar_corrected, on_bar_quotes, on_bar_rejected
from daemon.core.desks.options.on_market import (
    exit_by_rule,
    flatten_when_due,
    on_contracts_listed,
    on_session_ended,
    on_session_scheduled,
    risked_symbols,
)
from daemon.core.desks.shares.on_daily import (
    ask_again,
    on_daily_bar,
    on_daily_bar_corrected,
    on_daily_session_ended,
    on_history_adjusted,
    on_prices_printed,
    on_rebalance_due,
    on_share_quotes,
)
from daemon.core.desks.shares.orders import drive_shares
from daemon.core.draft import Draft, as_daily, wording
from daemon.core.effects import AnyEffect
from daemon.core.handover import take_facts
from daemon.core.limits import Trading
from daemon.core.on_clock import on_clock_reset
from daemon.core.on_policy import expire_ask, on_policy_answered, on_policy_failed
from daemon.core.on_shadow import on_shadow_answered, on_shadow_failed
from daemon.core.orders import advance
from daemon.core.records import Row
from daemon.core.risk.guards import chase, check_blind
from daemon.core.risk.view import SECOND_NS
from daemon.core.state import BROKER_MODES, Identity, Model, Pause, State
from strategies.kit.contract import DailyStrategy, Strategy

Handler = Callable[[Draft, Any], None]
HOUR_NS = 3600 * SECOND_NS
ACCEPT = "rltraderctl accept-broker --reason TEXT"
_STARTUP = frozenset(ev.STARTUP_EVENTS)
_FEED = frozenset(ev.FEED_EVENTS)
_QUIET = _STARTUP | {ev.BarClosed, ev.ShadowAnswered, ev.ShadowFailed}
"""Events after which orders do not move: a bar's fills and quotes follow it, a restart must change nothing, and a
candidate may move nothing at all."""
_QUIET_DAILY = _QUIET | {ev.PricesPrinted, ev.RebalanceDue, ev.OrderFilled, *HAPPENED}
"""A daily desk's: one print fills many orders, and what these are told to do next takes the news of all of them."""


class Step(msgspec.Struct, frozen=True, gc=False):
    """What one event came to."""

    state: State[Any]
    effects: tuple[AnyEffect, ...]
    rows: tuple[Row, ...]


class Core:
    """The pure middle for one strategy. Two cores of the same strategy give equal steps for equal arguments."""

    __slots__ = ("_daily", "_handlers", "_quiet", "strategy")

    def __init__(self, strategy: Strategy | DailyStrategy) -> None:
        self.strategy = strategy
        self._daily = as_daily(strategy) is not None
        self._handlers = DAILY_HANDLERS if self._daily else HANDLERS
        self._quiet = _QUIET_DAILY if self._daily else _QUIET

    def start(self, identity: Identity, trading: Trading) -> State[Any]:
        """The state before any event."""
        return State(self.strategy.start(), identity, trading)

    def step(self, state: State[Any], event: ev.Event) -> Step:
        """Apply one event. Raises TypeError for an unknown kind, ValueError for a broken invariant."""
        return self._stepped(Draft(state, self.strategy), event)

    def take(self, state: State[Any], event: ev.Event, facts: tuple[AnyEffect, ...]) -> Step:
        """Apply one event that other code stepped before; `facts` are what left the process then. Raises as `step`."""
        draft = Draft(state, self.strategy)
        draft.facts = facts
        return self._stepped(draft, event)

    def _stepped(self, draft: Draft, event: ev.Event) -> Step:
        handler = self._handlers.get(type(event))
        if handler is None:
            raise TypeError(f"no handler for {type(event).__name__}; the kinds are in daemon.core.events")
        draft.now_ns = max(draft.now_ns, event.time_ns)  # a clock that steps back never makes event time decrease
        kind = type(event)
        if kind not in _STARTUP:
            draft.seq += 1
            if kind in _FEED:
                draft.fed += 1
        handler(draft, event)
        if draft.ask is not None:
            expire_ask(draft)
        if kind not in self._quiet:
            if draft.book.positions:
                flatten_when_due(draft)
            if draft.basket.waiting is not None:
                ask_again(draft)
            if draft.orders or draft.works:
                (drive_shares if self._daily else drive)(draft)
            if draft.orders:
                chase(draft)
        if draft.facts is not None:
            take_facts(draft, draft.facts)
        return Step(draft.freeze(), tuple(draft.effects), tuple(draft.records))

    def decoder(self) -> msgspec.json.Decoder[State[Any]]:
        """Reads back what `daemon.core.state.encode_state` wrote."""
        generic: Any = State  # its parameter is known only here, at run time
        return msgspec.json.Decoder(generic[self.strategy.state_type])


def _on_run_started(draft: Draft, event: ev.RunStarted) -> None:
    draft.trading = event.trading
    draft.risk = replace(draft.risk, stopping="", stop_flat=False)
    draft.broker = replace(draft.broker, expected=event.account_number)
    if event.mode != "replay":  # a broker outside may have moved on; the replay's market lives in this journal
        draft.broker = replace(draft.broker, started_ns=draft.now_ns)
        draft.risk = replace(draft.risk, reconciled=False)
    if event.mode in BROKER_MODES:
        for order in tuple(draft.orders.values()):
            if order.in_hand:  # the process that had it is gone: whether it left is unknown
                draft.put_order(advance(order, "unknown"))


def _on_code_changed(draft: Draft, event: ev.CodeChanged) -> None:
    """This code took over what other code left: exits go on, new risk waits for a person."""
    draft.decision = max(draft.decision, event.decision)
    if event.damaged:
        draft.halt("journal_damaged", event.detail)
    else:
        draft.halt("code_changed", event.detail)


def _on_model_verified(draft: Draft, event: ev.ModelVerified) -> None:
    draft.model = Model(event.version, event.promoted, event.feed)


def _on_model_refused(draft: Draft, event: ev.ModelRefused) -> None:
    draft.model = None
    draft.alarm("model_refused", event.reason)


def _on_clock_ticked(draft: Draft, _: ev.ClockTicked) -> None:
    """Time itself only shows what did not come: the rules after every handler do the rest."""
    check_blind(draft)


def _on_halt(draft: Draft, event: ev.HaltRequested) -> None:
    draft.halt(event.reason, f"{event.detail} (by {event.who})")


def _on_resume(draft: Draft, event: ev.ResumeRequested) -> None:
    """Ends halt and pause. The drawdown guard starts again from the equity of now, or it would halt at once."""
    if not event.reason.strip():
        draft.alarm("resume_refused", "a resume must state its reason")
        return
    if draft.broker.stood_down and not draft.broker.accept_ns:
        draft.alarm("resume_refused", f"after a panic the broker's word comes first: {ACCEPT}")
        return
    if draft.risk.halt is not None:
        draft.book = begin_session(replace(draft.book, peak=draft.book.equity))
    draft.risk = replace(draft.risk, halt=None, pause=None, outcomes=(), consecutive_losses=0)


def _on_pause(draft: Draft, event: ev.PauseRequested) -> None:
    draft.risk = replace(draft.risk, pause=Pause(f"{event.reason} (by {event.who})", 0))
    draft.end_trading()


def _on_flatten(draft: Draft, event: ev.FlattenRequested) -> None:
    draft.halt("flatten", f"{event.reason} (by {event.who})")
    for symbol in risked_symbols(draft):
        exit_by_rule(draft, symbol, "operator")


def _on_panic(draft: Draft, event: ev.PanicNoticed) -> None:
    """Send nothing more, exits neither: the account is being flattened by other hands, and the book is old.

    What a person accepted before is no word about the account that the panic leaves.
    """
    draft.halt("panic", event.detail)
    draft.works = {}
    for name, order in draft.orders.items():
        if order.purpose != "foreign":
            draft.cancel(name)
    draft.broker = replace(draft.broker, stood_down=True, accept_ns=0)


def _on_stop(draft: Draft, event: ev.StopRequested) -> None:
    """The daemon ends: no new risk until its next start; positions are left where that is asked for."""
    draft.risk = replace(draft.risk, stopping=event.reason, stop_flat=event.flatten)
    draft.end_trading(leaving=event.flatten)


def _on_model_promoted(draft: Draft, event: ev.ModelPromoted) -> None:
    draft.model = Model(event.version, event.promoted, event.feed)


def _on_candidate_refused(draft: Draft, event: ev.CandidateRefused) -> None:
    draft.alarm("candidate_refused", f"{event.version}: {event.reason}")


def _on_command_refused(draft: Draft, event: ev.CommandRefused) -> None:
    draft.alarm("command_refused", f"{event.channel}: {event.reason}")


def _on_trouble(draft: Draft, event: ev.TroubleNoticed) -> None:
    """Raise it once an hour for each case: nothing here notices when it is over, and it may come again."""
    draft.alarm(event.name, event.detail, once=True, about=f"{draft.now_ns // HOUR_NS} {wording(event.detail)}")


def _on_nothing(_: Draft, __: ev.Event) -> None:
    """What means something to the other kind of desk alone, or to the shell."""


HANDLERS: dict[type[ev.Event], Handler] = {
    ev.RunStarted: _on_run_started,
    ev.CodeChanged: _on_code_changed,
    ev.ModelVerified: _on_model_verified,
    ev.ModelRefused: _on_model_refused,
    ev.BrokerSnapshot: on_broker_snapshot,
    ev.SessionScheduled: on_session_scheduled,
    ev.ContractsListed: on_contracts_listed,
    ev.BarClosed: on_bar_closed,
    ev.BarCorrected: on_bar_corrected,
    ev.BarRejected: on_bar_rejected,
    ev.QuotesReceived: on_bar_quotes,
    ev.ClockTicked: _on_clock_ticked,
    ev.SessionEnded: on_session_ended,
    ev.PolicyAnswered: on_policy_answered,
    ev.PolicyFailed: on_policy_failed,
    ev.OrderFilled: on_order_filled,
    ev.ContractExpired: on_contract_expired,
    ev.CashTransferred: on_cash_transferred,
    ev.HaltRequested: _on_halt,
    ev.ResumeRequested: _on_resume,
    ev.PauseRequested: _on_pause,
    ev.FlattenRequested: _on_flatten,
    ev.AcceptBrokerRequested: on_accept_broker,
    ev.PanicNoticed: _on_panic,
    ev.StopRequested: _on_stop,
    ev.ClockReset: on_clock_reset,
    ev.TroubleNoticed: _on_trouble,
    ev.CommandRefused: _on_command_refused,
    ev.ModelPromoted: _on_model_promoted,
    ev.CandidateRefused: _on_candidate_refused,
    ev.ShadowAnswered: on_shadow_answered,
    ev.ShadowFailed: on_shadow_failed,
    **dict.fromkeys((ev.ReloadRequested, ev.StatusRequested), _on_nothing),
    ev.OrderFound: on_order_found,
    ev.OrderMissing: on_order_missing,
    ev.TradeCorrected: on_trade_corrected,
    ev.BrokerLost: on_broker_lost,
    ev.BrokerReported: on_broker_reported,
    **dict.fromkeys(HAPPENED, on_order_news),
    **dict.fromkeys((ev.PricesPrinted, ev.RebalanceDue, ev.HistoryAdjusted), _on_nothing),
}

DAILY_HANDLERS: dict[type[ev.Event], Handler] = {
    **HANDLERS,
    ev.ContractsListed: _on_nothing,
    ev.BarClosed: on_daily_bar,
    ev.BarCorrected: on_daily_bar_corrected,
    ev.QuotesReceived: on_share_quotes,
    ev.PricesPrinted: on_prices_printed,
    ev.RebalanceDue: on_rebalance_due,
    ev.HistoryAdjusted: on_history_adjusted,
    ev.SessionEnded: on_daily_session_ended,
}
"""A daily desk's, where they differ."""
