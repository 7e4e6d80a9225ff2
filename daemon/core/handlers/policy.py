"""Handlers of the policy's answers. Every answer leaves one decision record.

A question with a late or missing answer is recorded as such; an answer to no open question changes nothing.
"""

from __future__ import annotations

from daemon.core.draft import Draft, wording
from daemon.core.events import PolicyAnswered, PolicyFailed
from strategies.kit.contract import Answer


def on_policy_answered(draft: Draft, event: PolicyAnswered) -> None:
    ask = draft.ask
    if ask is None or ask.decision != event.decision:
        return
    if event.time_ns > ask.valid_until_ns:
        expire_ask(draft)
        return
    draft.ask = None
    draft.case_over("policy_late", "policy_failed", "served_late")
    answer = Answer(event.logits, event.hidden, event.heads)
    draft.desk.holds.act(draft, ask, answer, event.model)


def on_policy_failed(draft: Draft, event: PolicyFailed) -> None:
    ask = draft.ask
    if ask is not None and ask.decision == event.decision:
        draft.count_denials(("answer_not_finite",))
        draft.alarm("policy_failed", event.reason, once=True, about=wording(event.reason))
        draft.end_unanswered(ask, "failed")


def expire_ask(draft: Draft) -> None:
    """End the open question at its deadline, recorded; a later answer finds no question."""
    ask = draft.ask
    if ask is None or draft.now_ns <= ask.valid_until_ns:
        return
    if not ask.served:
        draft.alarm("policy_late", f"no answer to decision {ask.decision} in time", once=True)
    else:
        draft.count_denials(("served_late",))
        draft.alarm("served_late", f"no served answer to decision {ask.decision} in time", once=True)
    draft.end_unanswered(ask, "expired")
