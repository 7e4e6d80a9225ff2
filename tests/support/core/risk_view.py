"""What the gates of an option desk look at, in a good state, and changes of it. It computes no expected value."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from daemon.core.gates import Intent, RiskView
from daemon.core.limits import Execution, Risk
from daemon.core.orders import Order
from daemon.core.state import Book, Model, Position, RiskState, SessionState
from strategies.kit.contract import Grid
from tests.support.core.desk import CALL, IDENTITY, MINUTE, MONDAY, SECOND, contract, quote

NOW = MONDAY.open_ns + 60 * MINUTE
MONDAY_CALL = "SPY240701C00500000"
replace = msgspec.structs.replace


def bars(*minutes: int) -> dict[str, Any]:
    starts = tuple(MONDAY.open_ns + m * MINUTE for m in minutes)
    return {"starts": starts, "last_bar_ns": starts[-1]}


def held(quantity: int, symbol: str = CALL, right: int = 1) -> dict[str, Position]:
    return {symbol: Position(symbol, right, quantity, Decimal(2 * quantity), 100 if right else 1, 0, "2024-07-02")}


def order(status: str = "accepted", side: int = 1, symbol: str = CALL, quantity: int = 2, filled: int = 0) -> Order:
    purpose = "entry" if side > 0 else "exit"
    return Order("o1", "1.0", purpose, "policy", symbol, side, quantity, Decimal("2.00"), status, 0, filled)


BOOK = Book(cash=Decimal(10000), equity=Decimal(10000), peak=Decimal(10000), session_start_equity=Decimal(10000))
VIEW = RiskView(
    now_ns=NOW,
    identity=replace(IDENTITY, mode="live"),
    limits=Risk(),
    execution=Execution(),
    session=SessionState(session=MONDAY, spot=500.0, warm=True, **bars(*range(40, 60))),
    grid=Grid(MINUTE),
    risk=RiskState(reconciled=True),
    model=Model("v1", promoted=True, feed="sip"),
    book=BOOK,
    orders={},
    quotes={CALL: quote(CALL, at_ns=NOW)},
)
ENTRY = Intent("entry", contract(CALL), CALL, 1, 5, Decimal("2.12"), 0.9, (0.0, 0.9))
COVER = Intent("exit", None, "SPY", 1, 100, None)  # shares owed are bought back
LEAVE = Intent("exit", contract(CALL), CALL, -1, 5, Decimal("1.90"))


class At(NamedTuple):
    """A moment at a gate: the view and the intent that are put to it."""

    view: RiskView
    intent: Intent


def at(intent: Intent = ENTRY, /, **changes: Any) -> At:
    """The good view with changes; a dict changes fields of that part, everything else replaces the part."""
    parts: dict[str, Any] = {}
    for name, change in changes.items():
        part = getattr(VIEW, name)
        if name in {"limits", "execution"}:
            parts[name] = dataclasses.replace(part, **change)
        elif isinstance(change, dict) and isinstance(part, msgspec.Struct):
            parts[name] = replace(part, **change)
        else:
            parts[name] = change
    return At(replace(VIEW, **parts), intent)


def intent(**changes: Any) -> Intent:
    return replace(ENTRY, **changes)


def quoted(bid: str, ask: str, age_s: int = 0) -> dict[str, Any]:
    return {CALL: quote(CALL, bid, ask, at_ns=NOW - age_s * SECOND)}


HALF_PAST_ONE_LIMIT = {"no_trade_windows": ("12:00-13:00",)}  # the open is at 09:30, so noon is minute 150
NEAR_OPEN = {"no_entry_after_open_min": 15}
