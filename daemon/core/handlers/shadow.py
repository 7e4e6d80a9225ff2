"""What a candidate's answer does: one row, read as the live answer is, and its memory. It never reaches an order.

The strategy's decision about it is looked at and thrown away: its state, the book and the works stay as they are.
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
    """Record what the candidate would have chosen in the desk's place; an answer to no question says nothing.

    A rule's own decision, such as the flatten before the close, may have followed the question meanwhile.
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
    """Record that there is no answer; its memory begins anew."""
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
