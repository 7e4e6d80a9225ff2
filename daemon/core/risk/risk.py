"""The risk gates: functions (view, intent) -> reason or None in one ordered tuple, all asked, all reasons kept.

Their table is `daemon.core.desks.gates`. Unknown is a denial, a gate that raises is a denial, and orders
that only reduce risk skip the gates that limit new risk.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

import msgspec

from daemon.core.risk.view import Intent, RiskView


class Denial(msgspec.Struct, frozen=True, gc=False):
    gate: str
    reason: str


class Applies(Enum):
    """The intents to which a gate applies."""

    NEW_RISK = "new_risk"  # entries, and baskets as a whole
    EVERY_ORDER = "every_order"
    ENTRY = "entry"
    BASKET = "basket"


_PUT: dict[str, tuple[Applies, ...]] = {
    "entry": (Applies.NEW_RISK, Applies.EVERY_ORDER, Applies.ENTRY),
    "exit": (Applies.EVERY_ORDER,),
    "basket": (Applies.NEW_RISK, Applies.BASKET),
}


class Gate(NamedTuple):
    """A gate with its facts: where it applies, whether it depends on the order, when it ends by itself."""

    name: str
    check: Callable[[RiskView, Intent], str | None]
    applies: Applies = Applies.NEW_RISK
    decides: str = ""  # asked at desks that decide so (`Spec.decides`), "" at all
    holds: str = ""  # asked at desks that hold this (`Spec.holds`), "" at all
    needs_order: bool = False  # its answer differs from order to order
    ends_ns: Callable[[RiskView], int] | None = None  # when it ends by itself, 0 when unknown


class Verdicts(msgspec.Struct, frozen=True, gc=False):
    """The verdict of every gate, by name: "" passed, a text denied, None was not asked for this intent."""

    by_gate: dict[str, str | None]
    denials: tuple[Denial, ...]


def ask_gates(view: RiskView, intent: Intent, gates: tuple[Gate, ...]) -> Verdicts:
    """Ask every gate that applies to the intent; an exit skips those that limit new risk. A raising gate denies."""
    put = _PUT[intent.purpose]
    by_gate: dict[str, str | None] = {}
    denials: list[Denial] = []
    for gate in gates:
        if gate.applies not in put:
            by_gate[gate.name] = None
            continue
        try:
            reason = gate.check(view, intent)
        except Exception as error:  # whatever is raised, the order is not sent
            reason = f"the gate failed: {type(error).__name__}: {error}"
        by_gate[gate.name] = reason or ""
        if reason:
            denials.append(Denial(gate.name, reason))
    return Verdicts(by_gate, tuple(denials))
