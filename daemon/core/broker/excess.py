"""Sell what an entry bought beyond the desk's goal or limit: a cancelled order may fill late."""

from __future__ import annotations

from daemon.core.broker.exits import exit_by_rule
from daemon.core.draft import ENTRY, Draft
from daemon.core.orders import Order


def reduce_excess(draft: Draft, order: Order, quantity: int) -> None:
    """Sell what the entry's new fill of `quantity` exceeds the goal or the limit by, and report it.

    Adopted, assigned or split contracts are not counted.
    """
    if order.purpose != ENTRY or order.side < 0 or quantity <= 0:
        return
    symbol, holding = order.symbol, draft.held(order.symbol)
    over = max(holding - draft.wanted.get(symbol, holding), draft.desk.holds.beyond_limit(draft))
    excess, work = min(over, quantity), draft.exit_of(symbol)
    if excess > 0 and (work is None or work.goal > holding - excess):  # else it is being sold
        why = f"{order.client_order_id} filled {quantity} {symbol}, {excess} more than wanted; {holding} are held"
        draft.alarm("excess_filled", why)
        exit_by_rule(draft, symbol, "excess", holding - excess)
