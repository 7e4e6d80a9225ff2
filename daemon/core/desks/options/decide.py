"""Act on the policy's answer at an option desk: target, contract, size, gates, order. One decision row each."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from daemon.core.broker.exits import request_exit
from daemon.core.desks.heads import head_rows
from daemon.core.desks.options.execution import (
    contracts_for,
    entry_bound,
    entry_limit,
    open_entry,
    sold_by_trim,
)
from daemon.core.desks.view import risk_view
from daemon.core.draft import ENTRY, EXIT, Draft
from daemon.core.events import Contract
from daemon.core.gate import Denial, Intent, Verdicts, ask_gates
from daemon.core.instruments.contracts import candidates
from daemon.core.records import DecisionRow
from daemon.core.state import Ask, Position
from strategies.kit.contract import Answer, Choice, Decision, Target

_encode = msgspec.json.encode


def act(draft: Draft, ask: Ask, decision: Decision, answer: Answer, model: str) -> None:
    """Turn the strategy's decision into an entry, an exit or nothing, and record it."""
    _count_action(draft, decision.resolved)
    done = Done("hold")
    position = draft.holding
    if not _is_held(decision.target, position):
        if position is None:
            done = _enter(draft, ask.decision, decision.target, decision.choice, answer.logits)
        else:
            done = _reduce(draft, position, ask.decision, decision.target, decision.choice, answer.logits)
    choice, actions = decision.choice, draft.spec.actions
    draft.records.append(
        DecisionRow(
            decision=ask.decision,
            kind="policy",
            bar_ns=ask.bar_ns,
            time_ns=draft.now_ns,
            action=actions[choice.action],
            resolved=actions[decision.resolved],
            confidence=choice.confidence,
            probabilities=_encode(choice.probabilities).decode(),
            logits=_encode(answer.logits).decode(),
            target=_as_json(decision.target),
            gates=_encode(done.verdicts.by_gate).decode() if done.verdicts else None,
            work=done.work or None,
            outcome=done.outcome,
            model=model,
            row=ask.row,
        )
    )
    draft.records.extend(head_rows(draft, ask.decision, answer))


def _is_held(target: Target, position: Position | None) -> bool:
    """Return True when the target asks for no change of the position."""
    if target.keep:
        return True
    if position is None:
        return target.side == 0 or target.percent <= 0
    return target.side == position.right and target.percent >= 100


@lru_cache(maxsize=64)
def _as_json(target: Target) -> str:
    """Return the target as JSON, cached: there are few different ones."""
    return _encode(target).decode()


class Done(NamedTuple):
    """The outcome of a target: its name, the gates' verdicts, the key of the work it started."""

    outcome: str
    verdicts: Verdicts | None = None
    work: str = ""


def _enter(draft: Draft, decision: int, target: Target, choice: Choice, logits: tuple[float, ...]) -> Done:
    """Open the target's side with the candidate contract."""
    contract = _candidate(draft, target.side)
    quote = draft.quotes.get(contract.symbol) if contract is not None else None
    if contract is None or quote is None or quote.ask <= 0 or quote.bid <= 0:
        what = "no contract fits the limits" if contract is None else f"no two-sided quote for {contract.symbol}"
        return _denied(draft, Denial("no_quote", what))
    bound = entry_bound(quote, draft.trading.risk.price_collar)
    limit = entry_limit(quote, draft.trading.execution.entry_slack, bound)
    equity = draft.book.equity * Decimal(str(draft.size_share))
    size = contracts_for(equity, limit, draft.trading.sizing) * min(target.percent, 100) // 100
    intent = Intent(ENTRY, contract, contract.symbol, +1, size, limit, choice.confidence, logits)
    verdicts = ask_gates(risk_view(draft), intent, draft.desk.gates)
    if verdicts.denials:
        draft.count_denials(denial.gate for denial in verdicts.denials)
        return Done("denied", verdicts)
    return Done("ordered", verdicts, open_entry(draft, decision, intent))


def _reduce(
    draft: Draft, position: Position, decision: int, target: Target, choice: Choice, logits: tuple[float, ...]
) -> Done:
    """Sell down to what the target keeps; buy back a short (adopted) position whole.

    A trim during an exit under way is denied; a full exit takes it over.
    """
    keep = target.percent if target.side == position.right and position.quantity > 0 else 0
    goal = max(position.quantity - sold_by_trim(position.quantity, keep), 0)
    side = -1 if position.quantity > 0 else 1
    under_way = draft.exit_of(position.symbol)
    if under_way is not None and keep:
        return _denied(draft, Denial("duplicate_intent", f"an exit of {position.symbol} is under way"))
    contract = draft.contracts.get(position.symbol)
    intent = Intent(
        EXIT, contract, position.symbol, side, abs(position.quantity - goal), None, choice.confidence, logits
    )
    verdicts = ask_gates(risk_view(draft), intent, draft.desk.gates)
    request_exit(draft, decision, position.symbol, goal, "policy")
    work = draft.exit_of(position.symbol)
    return Done("exit", verdicts, work.key if work else "")


def _denied(draft: Draft, denial: Denial) -> Done:
    draft.count_denials((denial.gate,))
    return Done("denied", Verdicts({denial.gate: denial.reason}, (denial,)))


def _candidate(draft: Draft, side: int) -> Contract | None:
    if draft.chain is None:
        return None
    for contract in candidates(draft.chain, draft.session, draft.now_ns, draft.trading.contracts):
        if contract.right == side:
            return contract
    return None


def _count_action(draft: Draft, action: int) -> None:
    stats = draft.stats
    actions = list(stats.actions or (0,) * len(draft.spec.actions))
    actions[action] += 1
    draft.stats = replace(stats, decisions=stats.decisions + 1, actions=tuple(actions))
