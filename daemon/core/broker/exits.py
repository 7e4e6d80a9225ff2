"""Positions left by a rule: asked for once, recorded as a decision of its own, for every kind of desk."""

from __future__ import annotations

from msgspec.structs import replace

from daemon.core.draft import ENTRY, EXIT, Draft
from daemon.core.orders import Work
from daemon.core.records import DecisionRow

EXIT_LEG = 1  # an exit's leg; entries have leg 0


def request_exit(draft: Draft, decision: int, symbol: str, goal: int, reason: str) -> bool:
    """Hold at most `goal` of `symbol`. Entries into it end, an exit under way takes the lower goal.

    A rule takes a basket's sale over even for the same goal: what leaves by a rule waits for no quote.

    Returns True when this asked for something new.
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
    """Leave the position, down to `goal`, for a reason that is not the policy's; recorded as a decision of its own."""
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
    """On any event past its time: leave what must not be held any longer.

    A halt for the daily loss (where configured) or to flatten, and a stop that leaves positions, leave them at once,
    also what still fills after it.
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
