"""Exits by a rule: requested once, recorded as a decision of their own, for every kind of desk."""

from __future__ import annotations

from msgspec.structs import replace

from daemon.core.draft import ENTRY, EXIT, Draft
from daemon.core.orders import Work
from daemon.core.records import DecisionRow

EXIT_LEG = 1  # an exit's leg; entries have leg 0


def request_exit(draft: Draft, decision: int, symbol: str, goal: int, reason: str) -> bool:
    """Request to hold at most `goal` of `symbol`: entries end, an exit under way takes the lower goal.

    A rule takes over a basket's sale even for the same goal, because an exit by a rule does not wait for a quote.

    Returns True when this requested something new.
    """
    work = draft.exit_of(symbol)
    if work is not None:
        urgent = draft.desk.holds.by_basket and work.reason == "policy"
        if work.goal <= goal and not urgent:
            return False
        goal = min(goal, work.goal)
        draft.works = {**draft.works, work.key: replace(work, goal=goal, reason=reason)}
        draft.wanted = {**draft.wanted, symbol: goal}
        return True
    draft.works = {k: w for k, w in draft.works.items() if not (w.purpose == ENTRY and w.symbol == symbol)}
    draft.wanted = {**draft.wanted, symbol: goal}
    key = f"{decision}.{EXIT_LEG}"
    draft.works = {**draft.works, key: Work(key, decision, EXIT, reason, symbol, goal, -1, "", draft.now_ns, None)}
    return True


def exit_by_rule(draft: Draft, symbol: str, reason: str, goal: int = 0) -> None:
    """Reduce the position to `goal` for a reason other than the policy; recorded as a decision of its own."""
    number = draft.decision + 1
    if request_exit(draft, number, symbol, goal, reason):
        draft.decision = number
        work = draft.exit_of(symbol)
        draft.records.append(
            DecisionRow(
                decision=number,
                kind="rule",
                bar_ns=draft.session.last_bar_ns,
                time_ns=draft.now_ns,
                action=reason,
                resolved="EXIT",
                work=work.key if work else None,
                outcome="exit",
            )
        )


def flatten_when_due(draft: Draft) -> None:
    """Leave positions whose time is over; called after every event.

    A flatten halt, a daily-loss halt (where configured) and a stop that leaves positions leave them at once, including
    late fills.
    """
    session = draft.session.session
    if session is None or draft.session.ended:
        return
    holds, halted = draft.desk.holds, draft.risk.halt
    if halted is not None and draft.leaves_all():
        for symbol in holds.risked(draft):
            exit_by_rule(draft, symbol, halted.reason)
    if draft.risk.stop_flat:
        for symbol in holds.risked(draft):
            exit_by_rule(draft, symbol, "stop")
    holds.flatten(draft, session)
