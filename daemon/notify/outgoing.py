"""Messages on their way: not more than a rate, and what was held back is summed up in the next one.

A service that does not answer delays this process alone.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

from daemon.notify.news import ALARMS, Message
from daemon.pacing.token_bucket import TokenBucket

WAITING_MOST = 200  # messages; older ones are counted only
NAMED_MOST = 8  # kinds of messages that a summary names


class Send(Protocol):
    """Sends a message; returns the kinds of services that did not take it."""

    def __call__(self, title: str, body: str) -> list[str]: ...


class Outgoing:
    """Holds messages until they may be sent. `problem(kinds)` is called for services that took none."""

    def __init__(
        self, send: Send, per_minute: int, monotonic_ns: Callable[[], int], problem: Callable[[list[str]], None]
    ) -> None:
        self._send, self._problem = send, problem
        self._bucket = TokenBucket(monotonic_ns, per_minute, per_minute)
        self._waiting: deque[Message] = deque()
        self._dropped: Counter[str] = Counter()

    def put(self, message: Message) -> None:
        """Take a message; above `WAITING_MOST` the oldest that is no alarm goes first."""
        self._waiting.append(message)
        if len(self._waiting) > WAITING_MOST:
            oldest = next((one for one in self._waiting if one.kind != ALARMS), self._waiting[0])
            self._waiting.remove(oldest)
            self._dropped[oldest.what] += 1

    def turn(self) -> None:
        """Send what may be sent now: one by one while the rate allows, the rest as one summary with the last of it."""
        while self._waiting and not self._bucket.wait_ns():
            self._bucket.take()
            if self._bucket.wait_ns() and (len(self._waiting) > 1 or self._dropped):
                self._summary()
                return
            message = self._waiting.popleft()
            self._out(message.title, message.body)

    def _summary(self) -> None:
        """All that waits as one message: the newest alarm in full, the others counted."""
        waiting, self._waiting = list(self._waiting), deque()
        alarms = [message for message in waiting if message.kind == ALARMS]
        shown = (alarms or waiting)[-1]
        waiting.remove(shown)
        counts = Counter(message.what for message in waiting) + self._dropped
        self._dropped.clear()
        body = shown.body
        if counts:
            named = [f"{count} x {what}" for what, count in counts.most_common(NAMED_MOST)]
            more = len(counts) - NAMED_MOST
            body += f"\nHeld back: {', '.join(named + [f'{more} other kinds'] * (more > 0))}"
        self._out(shown.title, body)

    def _out(self, title: str, body: str) -> None:
        failed = self._send(title, body)
        if failed:
            self._problem(failed)
