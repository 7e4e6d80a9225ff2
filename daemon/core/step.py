"""The step: (state, event) -> (state, effects, read-model rows). Pure; it raises only on a bug, changing nothing.

Each event kind has one handler; after it come the rules that any event past their time triggers: the open question's
deadline, the flatten before the close, the works' next attempts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from daemon.core import events as ev
from daemon.core.broker.exits import flatten_when_due
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
from daemon.core.broker.reconciliation.reconcile import on_broker_reported, on_broker_snapshot
from daemon.core.broker.takeover import on_accept_broker
from daemon.core.desks.registry import desk_of
from daemon.core.draft import DeskKind, Draft, Handler
from daemon.core.effects import AnyEffect
from daemon.core.handlers import operator
from daemon.core.handlers.clock import on_clock_reset
from daemon.core.handlers.ladder import on_ladder_moved
from daemon.core.handlers.policy import expire_ask, on_policy_answered, on_policy_failed
from daemon.core.handlers.sessions import on_session_scheduled
from daemon.core.handlers.shadow import on_shadow_answered, on_shadow_failed
from daemon.core.handover import take_facts
from daemon.core.limits import Trading
from daemon.core.records import Row
from daemon.core.risk.guards import look_up_overdue
from daemon.core.risk.round_trips import trade_rows
from daemon.core.state import Identity, State
from strategies.kit.contract import AnyStrategy

HANDLERS: Mapping[type[ev.Event], Handler] = {
    ev.RunStarted: operator.on_run_started,
    ev.CodeChanged: operator.on_code_changed,
    ev.ModelVerified: operator.on_model_verified,
    ev.ModelRefused: operator.on_model_refused,
    ev.BrokerSnapshot: on_broker_snapshot,
    ev.SessionScheduled: on_session_scheduled,
    ev.BarRejected: operator.on_bar_rejected,
    ev.ClockTicked: operator.on_clock_ticked,
    ev.PolicyAnswered: on_policy_answered,
    ev.PolicyFailed: on_policy_failed,
    ev.OrderFilled: on_order_filled,
    ev.ContractExpired: on_contract_expired,
    ev.CashTransferred: on_cash_transferred,
    ev.HaltRequested: operator.on_halt,
    ev.ResumeRequested: operator.on_resume,
    ev.PauseRequested: operator.on_pause,
    ev.FlattenRequested: operator.on_flatten,
    ev.AcceptBrokerRequested: on_accept_broker,
    ev.PanicNoticed: operator.on_panic,
    ev.PanicFailed: operator.on_panic_failed,
    ev.StopRequested: operator.on_stop,
    ev.ClockReset: on_clock_reset,
    ev.TroubleNoticed: operator.on_trouble,
    ev.CommandRefused: operator.on_command_refused,
    ev.ModelPromoted: operator.on_model_promoted,
    ev.CandidateRefused: operator.on_candidate_refused,
    ev.LadderMoved: on_ladder_moved,
    ev.ShadowAnswered: on_shadow_answered,
    ev.ShadowFailed: on_shadow_failed,
    **dict.fromkeys((ev.ReloadRequested, ev.StatusRequested), operator.on_nothing),
    ev.OrderFound: on_order_found,
    ev.OrderMissing: on_order_missing,
    ev.TradeCorrected: on_trade_corrected,
    ev.BrokerLost: on_broker_lost,
    ev.BrokerReported: on_broker_reported,
    **dict.fromkeys(HAPPENED, on_order_news),
    **dict.fromkeys((ev.ContractsListed, ev.PricesPrinted, ev.RebalanceDue, ev.HistoryAdjusted), operator.on_nothing),
}
"""Handlers of every desk; those of bars, quotes and the end of a session belong to the desk."""

_STARTUP = frozenset(ev.STARTUP_EVENTS)
_FEED = frozenset(ev.FEED_EVENTS)
_QUIET = _STARTUP | {ev.BarClosed, ev.ShadowAnswered, ev.ShadowFailed}
"""Events after which orders do not move: a bar's fills and quotes follow it, a restart must change nothing, and a
candidate may move nothing at all."""
STARTUP_PART = 1000  # a start-up event has no sequence number of its own: its moves are numbered from here


class Step(msgspec.Struct, frozen=True, gc=False):
    """The result of one event."""

    state: State[Any]
    effects: tuple[AnyEffect, ...]
    rows: tuple[Row, ...]


class Core:
    """The pure core for one strategy. Two cores of the same strategy give equal steps for equal arguments."""

    __slots__ = ("_drive", "_quiet", "desk", "handlers", "strategy")

    def __init__(self, strategy: AnyStrategy) -> None:
        self.strategy = strategy
        self.desk: DeskKind = desk_of(strategy)
        decides, holds = self.desk.decides, self.desk.holds
        self.handlers = {**HANDLERS, **holds.handlers, **decides.handlers}
        self._quiet = _QUIET | decides.quiet | holds.quiet
        self._drive = holds.drive

    def start(self, identity: Identity, trading: Trading) -> State[Any]:
        """Return the state before any event."""
        return State(self.strategy.start(), identity, trading)

    def step(self, state: State[Any], event: ev.Event) -> Step:
        """Apply one event. Raises TypeError for an unknown kind, ValueError for a broken invariant."""
        return self._stepped(Draft(state, self.desk), event)

    def take(self, state: State[Any], event: ev.Event, facts: tuple[AnyEffect, ...]) -> Step:
        """Apply one event that other code stepped before; `facts` are what left the process then. Raises as `step`."""
        draft = Draft(state, self.desk)
        draft.facts = facts
        return self._stepped(draft, event)

    def _stepped(self, draft: Draft, event: ev.Event) -> Step:
        handler = self.handlers.get(type(event))
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
        if kind not in self._quiet and not self.desk.decides.fills_to_come(draft):
            if draft.book.positions:
                flatten_when_due(draft)
            self._drive(draft)
            if draft.orders:
                look_up_overdue(draft)
        if draft.facts is not None:
            take_facts(draft, draft.facts)
        if draft.moves or draft.book.positions:
            draft.records.extend(trade_rows(draft, STARTUP_PART if kind in _STARTUP else 0))
        return Step(draft.freeze(), tuple(draft.effects), tuple(draft.records))

    def decoder(self) -> msgspec.json.Decoder[State[Any]]:
        """Return a decoder of what `daemon.core.state.encode_state` wrote."""
        generic: Any = State  # its parameter is known only here, at run time
        return msgspec.json.Decoder(generic[self.strategy.state_type])
