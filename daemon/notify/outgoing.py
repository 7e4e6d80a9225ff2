"""Messages on their way: not more than a rate, and what was held back is summed up in the next one.

Grave alarms go first, each as a message of its own, and are never held back in a sum.

A service that does not answer delays this process alone.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

from daemon.notify.news import ALARMS, Message
from daemon.operator.urgency import Urgency, urgency_of
from daemon.pacing.token_bucket import TokenBucket

WAITING_MOST = 200  # messages that are not grave, and as many grave ones of one name; older ones are counted only
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
        self._grave: deque[Message] = deque()
        self._waiting: deque[Message] = deque()  # the others
        self._dropped: Counter[str] = Counter()

    def put(self, message: Message) -> None:
        """Take a message; above `WAITING_MOST` the oldest of the least urgent goes first."""
        if _urgency(message) == Urgency.GRAVE:
            queue = self._grave
            alike = [other for other in queue if other.what == message.what]
        else:
            queue = self._waiting
            alike = list(queue)
        queue.append(message)
        if len(alike) >= WAITING_MOST:
            oldest = min((*alike, message), key=_urgency)  # the first of equals
            queue.remove(oldest)
            self._dropped[oldest.what] += 1

    def turn(self) -> None:
        """Send what may be sent now: one by one while the rate allows, the rest as one summary with the last of it."""
        while (self._grave or self._waiting) and not self._bucket.wait_ns():
            self._bucket.take()
            if self._bucket.wait_ns() and (len(self._waiting) + bool(self._grave) > 1 or self._dropped):
                self._summary()
                return
            message = (self._grave or self._waiting).popleft()
            self._out(message.title, message.body)

    def _summary(self) -> None:
        """One message in full, the oldest grave one or the newest of the most urgent; the others counted.

        Grave ones wait for the next that may be sent.
        """
        waiting, self._waiting = list(self._waiting), deque()
        if self._grave:
            shown = self._grave.popleft()
        else:
            shown = max(reversed(waiting), key=_urgency)  # the newest of equals
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


def _urgency(message: Message) -> int:
    """How urgent a message is: an alarm by the table, any other less than each alarm."""
    return urgency_of(message.what) if message.kind == ALARMS else min(Urgency) - 1
