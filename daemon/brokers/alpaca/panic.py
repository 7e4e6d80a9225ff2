"""The way out that needs nothing else of the daemon: cancel every order, close every position, see that it is so.

No journal, no lock, no state. A step that fails is said and the next is tried; only what the broker then says counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from daemon.brokers.alpaca.rest.errors import RestError
from daemon.brokers.alpaca.wire import text

if TYPE_CHECKING:
    from daemon.brokers.alpaca.rest.rest import Raw
    from daemon.brokers.alpaca.trading.trading import TradingOrders, TradingReads

Say = Callable[[str], None]


async def panic(
    orders: TradingOrders,
    reads: TradingReads,
    say: Say,
    *,
    deadline_s: float = 240.0,
    round_s: float = 45.0,
    pause_s: float = 1.0,
) -> bool:
    """Cancel and close all, again each `round_s` until the account is flat or `deadline_s` is over (real seconds).

    True when the broker shows no open order and no position. `say` gets one line for each thing done or failed.
    """
    now_s = asyncio.get_running_loop().time
    until_s = now_s() + deadline_s
    while True:
        cancelled = await _order(orders.cancel_all, "cancel", say)
        closed = await _order(orders.close_all, "close", say)
        wait_s = round_s if cancelled and closed else pause_s  # what failed is tried again at once
        round_until_s = min(until_s, now_s() + wait_s)
        while True:
            left = await _left(reads, say)
            if left == ():
                say("flat: no open order, no position")
                return True
            if now_s() >= round_until_s:
                break
            await asyncio.sleep(pause_s)
        if now_s() >= until_s:
            for line in left or ("the broker does not say what is left: look at its web page",):
                say(f"NOT flat: {line}")
            return False


async def _order(step: Callable[[], Awaitable[list[Raw]]], what: str, say: Say) -> bool:
    """Ask for one step; say what it was answered, item by item. False when there was no answer."""
    try:
        rows = await step()
    except RestError as error:
        say(f"{what} all: failed: {error}")
        return False
    say(f"{what} all: asked for {len(rows)}")
    for row in rows:
        if str(row.get("status")) not in ("200", "204", "207"):
            body = row.get("body")
            message = text(body.get("message")) if isinstance(body, dict) else ""
            say(f"{what} {row.get('symbol') or row.get('id')}: refused: {row.get('status')} {message}")
    return True


async def _left(reads: TradingReads, say: Say) -> tuple[str, ...] | None:
    """What is open still, a line each; None where the broker does not say."""
    try:
        open_orders = await reads.open_orders()
        positions = await reads.positions()
    except (RestError, ValueError) as error:
        say(f"asking what is left: failed: {error}")
        return None
    return (
        *(f"order {row.get('id')} {row.get('side')} {row.get('qty')} {row.get('symbol')}" for row in open_orders),
        *(f"position {row.get('qty')} {row.get('symbol')}" for row in positions),
    )
