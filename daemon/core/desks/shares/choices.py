"""Choose an action for each symbol: ask the gates which are allowed, draw one, record it with its probabilities."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from daemon.core.desks.view import risk_view
from daemon.core.draft import Draft
from daemon.core.exploration import behaviour, draw
from daemon.core.gate import Intent, ask_gates
from daemon.core.records import ChoiceRow
from daemon.core.state import Ask
from strategies.kit.contract import Answer, Leg, RowOptions

_encode = msgspec.json.encode


def chosen(draft: Draft, ask: Ask, options: tuple[RowOptions, ...], answer: Answer) -> Answer:
    """Return the answer with the drawn actions; one row for each symbol.

    Without exploration the actions with the largest values are taken, and the gates are asked once, about them.
    """
    rules, names, drawn = draft.trading.exploring, draft.spec.actions, []
    exploring = rules.kind != "none"
    for place, option in enumerate(options):
        values = answer.logits[place * len(names) : (place + 1) * len(names)]
        allowed = [
            action == 0 or (leg is not None and (not exploring or _is_allowed(draft, leg, answer)))
            for action, leg in enumerate(option.legs)
        ]
        shares = behaviour(values, option.greedy, allowed, rules)
        action = draw(draft.identity.epoch, ask.decision, place, shares) if exploring else option.greedy
        drawn.append(action)
        draft.records.append(
            ChoiceRow(
                ask.decision,
                option.symbol,
                draft.now_ns,
                names[option.greedy],
                names[action],
                _encode(shares).decode(),
                _encode([name for name, free in zip(names, allowed, strict=True) if free]).decode(),
            )
        )
    return replace(answer, drawn=tuple(drawn))


def _is_allowed(draft: Draft, leg: Leg, answer: Answer) -> bool:
    """Return whether the gates would let this leg begin: an exit always, a buy where no gate denies it."""
    if leg.goal < draft.held(leg.symbol):
        return True
    intent = Intent("basket", None, "", 0, 0, None, logits=answer.logits, legs=(leg,))
    return not ask_gates(risk_view(draft), intent, draft.desk.gates).denials
