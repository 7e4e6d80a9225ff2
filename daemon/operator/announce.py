"""Select from each step what MQTT publishes; the side thread makes the messages.

It runs on the trading loop after every step: no encoding, no copy, no lock. It decides nothing and must not raise.
"""

from __future__ import annotations

from typing import Any

from daemon.core.effects import RaiseAlarm
from daemon.core.events import (
    BarClosed,
    CandidateRefused,
    Event,
    LadderMoved,
    ModelPromoted,
    ModelRefused,
    ModelVerified,
)
from daemon.core.records import DecisionRow, EquityRow, FillRow, OrderRow, Row
from daemon.core.session import bar_end_ns
from daemon.core.state import State
from daemon.core.step import Step
from daemon.operator.mqtt.messages import Alarm, KnownBar
from daemon.operator.mqtt.outbox import Outbox
from strategies.kit.units import MINUTE_NS

_MODEL_NEWS = frozenset((ModelVerified, ModelPromoted, ModelRefused, CandidateRefused))
_TOPIC: dict[type[Row], str] = {DecisionRow: "decisions", OrderRow: "orders", FillRow: "fills"}


class Announcer:
    """`observe` after every step, on the only thread that puts into `outbox`. A bar has `bar_ns` nanoseconds."""

    __slots__ = ("_bar_ns", "_last_state", "_outbox")

    def __init__(self, outbox: Outbox, bar_ns: int = MINUTE_NS) -> None:
        self._outbox, self._bar_ns = outbox, bar_ns
        self._last_state: State[Any] | None = None  # the state of the last status

    def observe(self, event: Event, step: Step) -> None:
        """Put the step's rows, events and alarms into the outbox."""
        kind, outbox = type(event), self._outbox
        if isinstance(event, BarClosed):
            end_ns = bar_end_ns(event.bar.start_ns, self._bar_ns, step.state.session.session)
            outbox.put("bars", KnownBar(event, end_ns))
        elif kind in _MODEL_NEWS:
            outbox.put("models", event)
        elif kind is LadderMoved:
            outbox.put("ladder", event)
        for row in step.rows:
            topic = _TOPIC.get(type(row))
            if topic is not None:
                outbox.put(topic, row)
                if type(row) is DecisionRow and row.outcome == "denied":
                    outbox.put("denials", row)
            elif type(row) is EquityRow:
                outbox.put_retained("equity", row)
        state = step.state
        for effect in step.effects:
            if type(effect) is RaiseAlarm:
                halted = state.risk.halt is not None
                outbox.put("alarms", Alarm(effect.name, effect.detail, state.seq, state.now_ns, halted))
        if self._last_state is None or _differs(self._last_state, state):
            self._last_state = state
            outbox.put_retained("status", state)


def _differs(last_state: State[Any], state: State[Any]) -> bool:
    """Whether halt, pause, session, model, ladder, claim, reconciliation or stop changed since `last_state`."""
    last_parts = (last_state.model, last_state.ladder, last_state.claim)
    if any(
        last_part is not now
        for last_part, now in zip(last_parts, (state.model, state.ladder, state.claim), strict=True)
    ):
        return True
    if last_state.session is not state.session and (
        last_state.session.session is not state.session.session or last_state.session.ended is not state.session.ended
    ):
        return True
    risk_before, now = last_state.risk, state.risk
    return risk_before is not now and (
        risk_before.halt is not now.halt
        or risk_before.pause is not now.pause
        or risk_before.reconciled is not now.reconciled
        or risk_before.stopping != now.stopping
    )
