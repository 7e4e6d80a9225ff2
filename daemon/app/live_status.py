"""Whether a clean stop may end a live desk, and what is open. Pure."""

from __future__ import annotations

from typing import Any

from daemon.core.state import State


def settled(state: State[Any], *, flatten: bool) -> bool:
    """Nothing is left that a clean stop waits for."""
    session = state.session.session
    trading = session is not None and session.open_ns <= state.now_ns < session.close_ns
    if flatten and trading:
        return (
            not state.orders
            and not state.works
            and not any(position.right for position in state.book.positions.values())
        )
    own = [order for order in state.orders.values() if order.purpose != "foreign"]
    return not any(order.purpose == "entry" or order.work not in state.works for order in own)


def open_things(state: State[Any]) -> list[str]:
    orders = [f"order {name} {order.status}" for name, order in state.orders.items()]
    return orders + [f"position {p.quantity} {p.symbol}" for p in state.book.positions.values()]
