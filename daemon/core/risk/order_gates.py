"""Gates on one order that all desks share: the answer behind it, its quote, and the other orders.

Each is a function (view, intent) -> reason or None; unknown is a reason to deny.
"""

from __future__ import annotations

import math

from daemon.core.gate import Intent, RiskView
from daemon.core.instruments.option_market import parse_occ
from strategies.kit.units import SECOND_NS


def answer_not_finite(_: RiskView, intent: Intent) -> str | None:
    if math.isfinite(intent.confidence) and all(map(math.isfinite, intent.logits)):
        return None
    return "the policy's answer is not finite"


def stale_quote(view: RiskView, intent: Intent) -> str | None:
    quote = view.quotes.get(intent.symbol)
    if quote is None:
        return f"no quote for {intent.symbol}"
    age, limit = (view.now_ns - quote.quoted_ns) // SECOND_NS, view.limits.quote_age_max_s
    return f"quote is {age} s old, limit {limit} s" if age > limit else None


def owner_unknown(view: RiskView, intent: Intent) -> str | None:
    contract = parse_occ(intent.symbol)
    symbol = intent.symbol if contract is None else contract.root
    return f"a line of the ledger about {symbol} has no known owner" if symbol in view.disputed else None


def opposite_order(view: RiskView, intent: Intent) -> str | None:
    for order in view.orders.values():
        if order.symbol == intent.symbol and order.side == -intent.side:
            return f"order {order.client_order_id} works on the other side of {intent.symbol} (wash trade)"
    return None


def oversell(view: RiskView, intent: Intent) -> str | None:
    """Deny a sale above what is held and free, and a closing buy above what is short."""
    if intent.side > 0 and intent.purpose != "exit":
        return None
    held = view.book.positions.get(intent.symbol)
    working = sum(o.remaining for o in view.orders.values() if o.symbol == intent.symbol and o.side == intent.side)
    free = -intent.side * (held.quantity if held else 0) - working
    if intent.quantity <= free:
        return None
    return f"{'sells' if intent.side < 0 else 'buys back'} {intent.quantity} but only {free} are free"
