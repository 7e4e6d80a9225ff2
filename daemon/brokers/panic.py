"""The panic: cancel every order, close every position, check the result. Needs nothing else of the daemon.

No journal, no lock, no state. A failed step is printed and the next is tried; the broker's answer counts. So it is with
a step that raises what no broker may raise, or that has no answer in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from typing import TypeVar

from daemon.brokers.api import Admin, BrokerError, BulkResult

ANSWER_S = 60.0  # longest wait for one answer: longer than a broker's own deadlines
SAME_S = 10.0  # a line that was shown is not repeated before

Show = Callable[[str], None]
T = TypeVar("T")


async def panic(
    admin: Admin,
    show: Show,
    *,
    deadline_s: float = 240.0,
    round_s: float = 45.0,
    pause_s: float = 1.0,
    answer_s: float = ANSWER_S,
) -> bool:
    """Cancel and close all, again each `round_s` until the account is flat or `deadline_s` is over (real seconds).

    True when the broker shows no open order and no position. `show` gets one line for each step.
    """
    now_s = asyncio.get_running_loop().time
    until_s = now_s() + deadline_s
    show = _seldom(show, now_s)
    while True:
        is_cancelled = await _order(admin.cancel_all, "cancel", show, answer_s)
        is_closed = await _order(admin.close_all, "close", show, answer_s)
        wait_s = round_s if is_cancelled and is_closed else pause_s  # a failed step is repeated at once
        round_until_s = min(until_s, now_s() + wait_s)
        while True:
            remains = await _remains(admin, show, answer_s)
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


def _seldom(show: Show, now_s: Callable[[], float]) -> Show:
    """Return `show` without what it said in the last `SAME_S`: a broker that is away answers each second alike."""
    shown_s: dict[str, float] = {}

    def show_seldom(line: str) -> None:
        if now_s() - shown_s.get(line, -inf) >= SAME_S:
            shown_s[line] = now_s()
            show(line)

    return show_seldom


async def _order(step: Callable[[], Awaitable[BulkResult]], action: str, show: Show, answer_s: float) -> bool:
    """Request one step; print the answer, item by item. False when there was no answer."""
    try:
        result = await in_time(step, answer_s)
        show(f"{action} all: asked for {result.count}")
        for refusal in result.refused:
            show(f"{action} {refusal}")
    except Exception as error:
        show(f"{action} all: failed: {problem_of(error)}")
        return False
    return True


async def _remains(admin: Admin, show: Show, answer_s: float) -> tuple[str, ...] | None:
    """Return a line for each open order and position; None without an answer."""
    try:
        return tuple(await in_time(admin.left, answer_s))
    except Exception as error:
        show(f"asking what is left: failed: {problem_of(error)}")
        return None


async def in_time(ask: Callable[[], Awaitable[T]], answer_s: float = ANSWER_S) -> T:
    """Return the answer. Raises TimeoutError where none comes in time."""
    try:
        async with asyncio.timeout(answer_s):
            return await ask()
    except TimeoutError as error:
        raise TimeoutError(str(error) or f"no answer within {answer_s:g} s") from error


def problem_of(error: Exception) -> str:
    """Return why a request failed; of a bug its type too."""
    return str(error) if isinstance(error, (BrokerError, TimeoutError)) else f"{type(error).__name__}: {error}"
