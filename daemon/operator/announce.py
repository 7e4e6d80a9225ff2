"""What of a step is told to the world: frozen things picked out of it on the trading loop, made messages elsewhere.

It runs after every step, so it does little: no encoding, no copy, no lock. It decides nothing and must not raise.
"""

from __future__ import annotations

from typing import Any

from daemon.core.effects import RaiseAlarm
from daemon.core.events import BarClosed, CandidateRefused, Event, ModelPromoted, ModelRefused, ModelVerified
from daemon.core.records import DecisionRow, EquityRow, FillRow, OrderRow, Row
from daemon.core.state import State
from daemon.core.step import Step
from daemon.operator.mqtt.messages import Alarm
from daemon.operator.mqtt.outbox import Outbox

_MODEL_NEWS = frozenset((ModelVerified, ModelPromoted, ModelRefused, CandidateRefused))
_TOPIC: dict[type[Row], str] = {DecisionRow: "decisions", OrderRow: "orders", FillRow: "fills"}


class Announcer:
    """`observe` after every step, on the thread that alone puts into `outbox`."""

    __slots__ = ("_outbox", "_told")

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._told: State[Any] | None = None  # the state whose status was told last

    def observe(self, event: Event, step: Step) -> None:
        """Leave what this step came to."""
        kind, outbox = type(event), self._outbox
        if kind is BarClosed:
            outbox.put("bars", event)
        elif kind in _MODEL_NEWS:
            outbox.put("models", event)
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
                outbox.put("alarms", Alarm(effect, state.seq, state.now_ns, state.risk.halt is not None))
        if self._told is None or _differs(self._told, state):
            self._told = state
            outbox.put_retained("status", state)


def _differs(told: State[Any], state: State[Any]) -> bool:
    """Whether halt, pause, session, model, agreement with the broker or the end differ from what was told."""
    if told.model is not state.model:
        return True
    if told.session is not state.session and (
        told.session.session is not state.session.session or told.session.ended is not state.session.ended
    ):
        return True
    before, now = told.risk, state.risk
    return before is not now and (
        before.halt is not now.halt
        or before.pause is not now.pause
        or before.reconciled is not now.reconciled
        or before.stopping != now.stopping
    )
