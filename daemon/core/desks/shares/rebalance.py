"""Act on the policy's answer at a desk of shares: a basket, the gates, works. One decision row each.

A basket denied by passing causes alone waits, and the gates are asked again.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import msgspec
from msgspec.structs import replace

from daemon.core.desks.heads import head_rows
from daemon.core.desks.shares.basket import works_of
from daemon.core.desks.shares.gates import PASSING
from daemon.core.desks.shares.orders import waits_for_resume
from daemon.core.desks.view import risk_view
from daemon.core.draft import Draft
from daemon.core.gate import Intent, Verdicts, ask_gates
from daemon.core.records import DecisionRow
from daemon.core.risk import splits
from daemon.core.session import new_york_text
from daemon.core.state import ZERO, Ask, Waiting
from strategies.kit.contract import Answer, Leg, Rebalance

_encode = msgspec.json.encode
BOUND = Decimal(str(splits.SPLIT_RATIO))  # times the decision's price: a dearer share was counted at a wrong price


def rebalance(draft: Draft, ask: Ask, decided: Rebalance, answer: Answer, model: str) -> None:
    """Turn the strategy's decision into works.

    A gate denies a basket as a whole. Where decisions are no rebalancing, its sales are exits: no gate on new risk
    keeps them back, and what a rule leaves already is left to it.
    """
    if answer.hidden and draft.model is not None:
        draft.basket = replace(draft.basket, memory_of=draft.model.version)
    legs = tuple(leg for leg in decided.basket.legs if leg.goal != draft.held(leg.symbol))
    if decided.notes:
        _report_notes(draft, decided.notes)
    leaving: tuple[Leg, ...] = ()
    if not draft.desk.decides.rebalances:
        legs = tuple(leg for leg in legs if draft.exit_of(leg.symbol) is None)
        leaving = tuple(leg for leg in legs if leg.goal < draft.held(leg.symbol))
    entering = tuple(leg for leg in legs if leg not in leaving)
    verdicts = _ask_for_basket(draft, decided, entering, answer) if entering else None
    denied = verdicts is not None and bool(verdicts.denials)
    begun = leaving if denied else legs
    outcome = "ordered" if begun else "denied" if denied else "hold"
    _count(draft, decided)
    choice = decided.choice
    row = DecisionRow(
        decision=ask.decision,
        kind="policy",
        bar_ns=ask.bar_ns,
        time_ns=draft.now_ns,
        action=decided.name,
        resolved=decided.name,
        confidence=choice.confidence if choice is not None else None,
        probabilities=_encode(choice.probabilities).decode() if choice is not None else None,
        logits=_encode(answer.logits).decode(),
        target=_encode(legs).decode(),
        gates=_encode(verdicts.by_gate).decode() if verdicts is not None else None,
        outcome=outcome,
        model=model,
        row=ask.row,
    )
    if begun:
        row = _begin_basket(draft, begun, row, _bounds(draft, begun))
    elif verdicts is not None and _may_pass(draft, verdicts):
        until_ns = draft.desk.decides.waits_until_ns(draft, ask)
        waiting = Waiting(entering, row, until_ns, _bounds(draft, entering), _quantities(draft))
        draft.basket = replace(draft.basket, waiting=waiting)
    draft.records.append(row)
    draft.records.extend(head_rows(draft, ask.decision, answer, decided))


def _report_notes(draft: Draft, notes: Mapping[str, str]) -> None:
    """Raise an alarm that names the symbols which the strategy leaves alone, by its reason."""
    by_reason: dict[str, list[str]] = {}
    for symbol, reason in notes.items():
        by_reason.setdefault(reason, []).append(symbol)
    named = "; ".join(f"{reason}: {', '.join(symbols)}" for reason, symbols in by_reason.items())
    text = f"{len(notes)} of {len(draft.spec.symbols)} left alone: {named}"
    draft.alarm("symbols_masked", text, once=True, about=named)


def _begin_basket(draft: Draft, legs: tuple[Leg, ...], row: DecisionRow, bounds: Mapping[str, Decimal]) -> DecisionRow:
    """Start the works of a basket that passed all gates; returns its row."""
    draft.desk.decides.begin(draft, legs)
    held_now = {leg.symbol: draft.held(leg.symbol) for leg in legs}
    works = works_of(row.decision, legs, held_now, draft.now_ns, bounds)
    draft.wanted = {**draft.wanted, **{leg.symbol: leg.goal for leg in legs}}
    draft.works = {**draft.works, **{work.key: work for work in works}}
    draft.basket = replace(draft.basket, decision=row.decision, waiting=None)
    return replace(row, outcome="ordered", work=f"{row.decision}.")


def _bounds(draft: Draft, legs: tuple[Leg, ...]) -> dict[str, Decimal]:
    """Return the highest price of each buy: its shares were counted at current prices. None for a replay's tape."""
    if draft.identity.by_tape:
        return {}
    known = {leg.symbol: draft.marks.get(leg.symbol, ZERO) for leg in legs}
    return {symbol: price * BOUND for symbol, price in known.items()}


def _may_pass(draft: Draft, verdicts: Verdicts) -> bool:
    """Return True while what denies a basket may end before its deadline."""
    passing = PASSING | {"halted", "paused"} if waits_for_resume(draft) else PASSING
    return all(denial.gate in passing for denial in verdicts.denials)


def _quantities(draft: Draft) -> dict[str, int]:
    return {symbol: position.quantity for symbol, position in draft.book.positions.items()}


def ask_again(draft: Draft) -> None:
    """Ask the gates again about the waiting basket.

    It ends at its deadline, with a lasting cause, or when the desk does not hold any more what the decision saw.
    """
    waiting = draft.basket.waiting
    if waiting is None:
        return
    intent = Intent("basket", None, "", 0, 0, None, legs=waiting.legs)
    newest = _date_of_ns(max(draft.basket.newest.values(), default=0))
    verdicts = ask_gates(replace(risk_view(draft), newest_bar=newest), intent, draft.desk.gates)
    row = replace(waiting.row, gates=_encode(verdicts.by_gate).decode())
    late = draft.now_ns >= waiting.until_ns
    other = waiting.held is not None and waiting.held != _quantities(draft)
    if not (verdicts.denials or late or other):
        draft.records.append(_begin_basket(draft, waiting.legs, row, waiting.bounds))
    elif late or other or not _may_pass(draft, verdicts):
        draft.basket = replace(draft.basket, waiting=None)
        draft.records.append(row)
        why = "; ".join(f"{denial.gate}: {denial.reason}" for denial in verdicts.denials)
        ended = f"denied: {why}" if why else "its time is over"
        if other:
            ended = "the desk holds other quantities than at the decision"
        draft.alarm("basket_missed", f"no basket for {draft.basket.date}: {ended}")


def _ask_for_basket(draft: Draft, decided: Rebalance, legs: tuple[Leg, ...], answer: Answer) -> Verdicts:
    """Ask the gates about the whole basket; report symbols without the newest bar."""
    newest = draft.desk.decides.newest(draft)
    last_ns = max(newest.values(), default=0)
    masked = [symbol for symbol in draft.spec.symbols if newest.get(symbol, 0) < last_ns]
    if masked and not decided.notes:  # with notes they are named already
        text = f"{len(masked)} of {len(draft.spec.symbols)} without a bar of the newest session: {', '.join(masked)}"
        draft.alarm("symbols_masked", text, once=True, about=", ".join(masked))
    date = _date_of_ns(last_ns)
    confidence = decided.choice.confidence if decided.choice is not None else 1.0
    intent = Intent("basket", None, "", 0, 0, None, confidence, answer.logits, legs)
    verdicts = ask_gates(replace(risk_view(draft), newest_bar=date), intent, draft.desk.gates)
    if verdicts.denials:
        draft.count_denials(denial.gate for denial in verdicts.denials)
    return verdicts


def _count(draft: Draft, decided: Rebalance) -> None:
    """Count the decision, and its action where the policy chose one."""
    stats, actions = draft.stats, draft.stats.actions
    chosen = decided.actions if decided.choice is None else (decided.choice.action,)
    if chosen:
        counts = list(actions or (0,) * len(draft.spec.actions))
        for action in chosen:
            counts[action] += 1
        actions = tuple(counts)
    draft.stats = replace(stats, decisions=stats.decisions + 1, actions=actions)


def _date_of_ns(start_ns: int) -> str:
    """Return the New York date of a daily bar's start, "" for 0."""
    return new_york_text(start_ns)[:10] if start_ns else ""
