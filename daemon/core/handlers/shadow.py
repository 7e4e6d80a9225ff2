"""Handlers of a candidate's answer: one row, and its memory. It never reaches an order.

The strategy's decision about it is recorded and dropped: its state, the book and the works do not change.
"""

from __future__ import annotations

import msgspec

from daemon.core.draft import Draft
from daemon.core.events import ShadowAnswered, ShadowFailed
from daemon.core.records import ShadowRow
from daemon.core.state import ShadowState
from strategies.kit.contract import Answer

_encode = msgspec.json.encode


def on_shadow_answered(draft: Draft, event: ShadowAnswered) -> None:
    """Record what the candidate would have chosen; an answer to no question is ignored.

    A rule's own decision, such as the flatten before the close, may have come after the question.
    """
    if not 0 < event.decision <= draft.decision or draft.session.session is None:
        return
    if event.hidden:
        draft.shadow = ShadowState(event.model, event.hidden)
    answer = Answer(event.logits, event.hidden, event.heads)
    shown = draft.desk.holds.shown(draft, answer)
    choice = shown.choice
    draft.records.append(
        ShadowRow(
            decision=event.decision,
            model=event.model,
            bar_ns=draft.session.last_bar_ns,
            time_ns=draft.now_ns,
            action=shown.action,
            confidence=choice.confidence if choice is not None else None,
            probabilities=_encode(choice.probabilities).decode() if choice is not None else None,
            logits=_encode(event.logits).decode(),
            target=shown.target.decode(),
        )
    )


def on_shadow_failed(draft: Draft, event: ShadowFailed) -> None:
    """Record that there is no answer; its memory starts afresh."""
    if not 0 < event.decision <= draft.decision:
        return
    draft.shadow = ShadowState()
    draft.records.append(
        ShadowRow(
            decision=event.decision,
            model=event.model,
            bar_ns=draft.session.last_bar_ns,
            time_ns=draft.now_ns,
            problem=event.reason,
        )
    )
