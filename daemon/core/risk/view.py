"""The gates' input: the intended order and the desk at that moment.

Values only, no decisions. Invariant: a gate sees these two and nothing else.
"""

from __future__ import annotations

from decimal import Decimal

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
