"""Where a gateway dies between two steps of its work: a word in shared memory names the boundary, SIGKILL comes there.

`arm` runs in the gateway's process before its `main`; the campaign sets the word from outside.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from tests.support.desks.warm import FORK

BOUNDARIES = (
    "an order is taken, and not on the disk",
    "an order is on the disk, and not sent",
    "an order is sent, and its answer not taken",
    "an answer is taken, and not on the disk",
    "a cancel is sent",
    "an update is taken, and not on the disk",
    "an update is on the disk, and not passed on",
    "a report is taken, and not on the disk",
)
TAKEN, UNSENT, SENT, ANSWERED, CANCELLED, UPDATED, UNTOLD, REPORTED = range(len(BOUNDARIES))
NONE = -1


class Deadly:
    """The boundary at which the gateway dies next. Shared with its process."""

    def __init__(self) -> None:
        self._word = FORK.Value("i", NONE)

    def set(self, boundary: int) -> None:
        """Let the gateway die when it next comes to this boundary (`NONE`: at none)."""
        self._word.value = boundary

    @property
    def waits(self) -> bool:
        """Whether a boundary was set and not met yet."""
        return bool(self._word.value != NONE)

    def arm(self) -> None:
        """Put the boundaries into the gateway of this process."""
        put(self.met)

    def met(self, boundary: int) -> None:
        """Die here where this is the one."""
        if self._word.value == boundary:
            self._word.value = NONE
            os.kill(os.getpid(), signal.SIGKILL)


def put(report: Callable[[int], None]) -> None:
    """Let the gateway of this process say each boundary that it meets."""
    from daemon.gateway.gateway import Gateway
    from daemon.gateway.journal import GatewayJournal
    from daemon.gateway.upstream import Upstream

    classes: tuple[Any, Any, Any] = (Gateway, GatewayJournal, Upstream)
    gateway, journal, upstream = classes
    journal.take = _taking(journal.take, report)
    gateway._act = _acting(gateway._act, report)
    for name in ("post", "replace", "close_position"):
        setattr(upstream, name, _sending(getattr(upstream, name), partial(report, UNSENT), partial(report, SENT)))
    upstream.cancel = _sending(upstream.cancel, lambda: None, partial(report, CANCELLED))


def _taking(take: Callable[..., Any], report: Callable[[int], None]) -> Callable[..., Any]:
    after = {
        "OrderTaken": TAKEN,
        "ReplaceTaken": TAKEN,
        "CloseTaken": TAKEN,
        "OrderAnswered": ANSWERED,
        "Refused": ANSWERED,
        "Updated": UPDATED,
        "Reported": REPORTED,
    }

    @wraps(take)
    def wrapper(self: Any, event: Any) -> Any:
        effects = take(self, event)
        if (boundary := after.get(type(event).__name__)) is not None:
            report(boundary)
        return effects

    return wrapper


def _acting(act: Callable[..., Any], report: Callable[[int], None]) -> Callable[..., Any]:
    @wraps(act)
    def wrapper(self: Any, effects: Any) -> Any:
        if any(type(effect).__name__ == "PassOn" for effect in effects):
            report(UNTOLD)
        return act(self, effects)

    return wrapper


def _sending(send: Callable[..., Any], before: Callable[[], None], after: Callable[[], None]) -> Callable[..., Any]:
    @wraps(send)
    async def wrapper(self: Any, *arguments: Any) -> Any:
        before()
        answer = await send(self, *arguments)
        after()
        return answer

    return wrapper
