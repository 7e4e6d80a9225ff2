"""The panic: cancel every order, close every position, check the result. Needs nothing else of the daemon.

No journal, no lock, no state. A failed step is printed and the next is tried; the broker's answer counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from daemon.brokers.api import Admin, BrokerError, BulkResult

Show = Callable[[str], None]


async def panic(
    admin: Admin,
    show: Show,
    *,
    deadline_s: float = 240.0,
    round_s: float = 45.0,
    pause_s: float = 1.0,
) -> bool:
    """Cancel and close all, again each `round_s` until the account is flat or `deadline_s` is over (real seconds).

    True when the broker shows no open order and no position. `show` gets one line for each step.
    """
    now_s = asyncio.get_running_loop().time
    until_s = now_s() + deadline_s
    while True:
        is_cancelled = await _order(admin.cancel_all, "cancel", show)
        is_closed = await _order(admin.close_all, "close", show)
        wait_s = round_s if is_cancelled and is_closed else pause_s  # a failed step is repeated at once
        round_until_s = min(until_s, now_s() + wait_s)
        while True:
            remains = await _remains(admin, show)
            if remains == ():
                show("flat: no open order, no position")
                return True
            if now_s() >= round_until_s:
                break
            await asyncio.sleep(pause_s)
        if now_s() >= until_s:
            for line in remains or ("the broker does not say what is left: look at its web page",):
                show(f"NOT flat: {line}")
            return False


async def _order(step: Callable[[], Awaitable[BulkResult]], action: str, show: Show) -> bool:
    """Request one step; print the answer, item by item. False when there was no answer."""
    try:
        result = await step()
    except BrokerError as error:
        show(f"{action} all: failed: {error}")
        return False
    show(f"{action} all: asked for {result.count}")
    for refusal in result.refused:
        show(f"{action} {refusal}")
    return True


async def _remains(admin: Admin, show: Show) -> tuple[str, ...] | None:
    """Return a line for each open order and position; None without an answer."""
    try:
        return await admin.left()
    except BrokerError as error:
        show(f"asking what is left: failed: {error}")
        return None
