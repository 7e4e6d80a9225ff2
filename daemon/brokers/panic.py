"""The way out that needs nothing else of the daemon: cancel every order, close every position, check that it is so.

No journal, no lock, no state. A step that fails is printed and the next is tried; what the broker then shows counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from daemon.brokers.api import Admin, Asked, BrokerError

Say = Callable[[str], None]


async def panic(
    admin: Admin,
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
        cancelled = await _order(admin.cancel_all, "cancel", say)
        closed = await _order(admin.close_all, "close", say)
        wait_s = round_s if cancelled and closed else pause_s  # what failed is tried again at once
        round_until_s = min(until_s, now_s() + wait_s)
        while True:
            left = await _left(admin, say)
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


async def _order(step: Callable[[], Awaitable[Asked]], what: str, say: Say) -> bool:
    """Ask for one step; print the answer, item by item. False when there was no answer."""
    try:
        asked = await step()
    except BrokerError as error:
        say(f"{what} all: failed: {error}")
        return False
    say(f"{what} all: asked for {asked.count}")
    for refused in asked.refused:
        say(f"{what} {refused}")
    return True


async def _left(admin: Admin, say: Say) -> tuple[str, ...] | None:
    """What is open still, a line each; None where the broker does not say."""
    try:
        return await admin.left()
    except BrokerError as error:
        say(f"asking what is left: failed: {error}")
        return None
