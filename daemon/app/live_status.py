"""What a live desk's state comes to in words, and whether a stop may end it. Pure: a state in, text out."""

from __future__ import annotations

from typing import Any

from daemon.core.state import Position, State

NAMED_MOST = 5  # positions that a line names one by one


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


def in_one_line(state: State[Any]) -> str:
    """One line for `systemctl status`."""
    halt = state.risk.halt
    trading = f"halted: {halt.reason}" if halt else "reconciled" if state.risk.reconciled else "not reconciled"
    basket = f"; last basket {state.basket.date}" if state.basket.date else ""
    open_orders = f"; {len(state.orders)} orders" if state.orders else ""
    held = _held(list(state.book.positions.values()))
    return f"{trading}; {held}; equity {state.book.equity:.2f} USD{basket}{open_orders}; {state.stats.bars} bars"


def _held(positions: list[Position]) -> str:
    if len(positions) > NAMED_MOST:
        first = ", ".join(f"{position.quantity} {position.symbol}" for position in positions[:NAMED_MOST])
        return f"{len(positions)} positions: {first}, ..."
    return ", ".join(f"{position.quantity} {position.symbol}" for position in positions) or "flat"
