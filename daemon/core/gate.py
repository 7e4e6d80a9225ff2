"""What a gate is: a function (view, intent) -> reason or None. All are asked, in one order, and all reasons are kept.

A gate sees these two and nothing else. Their table is `daemon.core.desks.gates`. Unknown is a denial, a gate that
raises is a denial, and orders that only reduce risk skip the gates that limit new risk.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from typing import NamedTuple

import msgspec

from daemon.core.events import Contract, Quote
from daemon.core.limits import Basket, Execution, Risk
from daemon.core.orders import Order
from daemon.core.state import ZERO, Book, Identity, Model, RiskState, SessionState
from strategies.kit.contract import Leg

OPTION_SHARES = 100


class Intent(msgspec.Struct, frozen=True, gc=False):
    """An order that the desk would like to send; or a whole basket, before its first order."""

    purpose: str  # entry, exit or basket
    contract: Contract | None
    symbol: str
    side: int
    quantity: int
    limit_price: Decimal | None  # None: a market order
    confidence: float = 1.0
    logits: tuple[float, ...] = ()
    legs: tuple[Leg, ...] = ()  # of a basket, whose symbol, side and quantity are empty
    auction: bool = False  # into the opening auction
    closing: bool = False  # by the broker's own call

    @property
    def notional(self) -> Decimal | None:
        """An option's premium in USD at the limit; None for a market order."""
        return None if self.limit_price is None else self.limit_price * self.quantity * OPTION_SHARES


class RiskView(msgspec.Struct, frozen=True, gc=False):
    """The state that gates may read, at the time when they are asked."""

    now_ns: int
    identity: Identity
    limits: Risk
    execution: Execution
    session: SessionState
    bar_interval_ns: int
    risk: RiskState
    model: Model | None
    book: Book
    orders: dict[str, Order]  # working
    quotes: dict[str, Quote]
    basket: Basket = Basket()  # from here on: desks of shares only
    symbols: tuple[str, ...] = ()  # that the desk trades
    marks: dict[str, Decimal] = {}  # USD a share
    newest_bar: str = ""  # date of the newest daily bar, for baskets only
    splits: tuple[str, ...] = ()  # held symbols whose split is not booked yet
    blocked: str = ""  # why the account may not trade, from the broker
    closed: bool = False  # the broker's market, in a session of our calendar
    spendable: Decimal | None = None  # USD, by the broker's last report; None when unknown
    deficit: Decimal = ZERO  # of margin, USD, by the broker's last report
    overnight: bool = False  # what is held is kept over night
    blind: str = ""  # what the desk does not see of what it holds
    cost_rate: Decimal = ZERO  # of the traded value, leaves the cash with each fill
    disputed: tuple[str, ...] = ()  # symbols with a line of the ledger whose owner is not known


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
