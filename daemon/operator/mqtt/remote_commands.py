"""Accept a command from MQTT only when it is signed by a known key, for this desk, in time, and new.

`Judge` decides and sends nothing. A sender without a key costs one HMAC and gets no answer. A refusal is journaled at
most once in ten seconds, with a count of the others, so that a flood fills no journal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from daemon.core.events import CommandRefused, Event
from daemon.host.safe_decode import Unreadable, typed
from daemon.operator.commands import RESET_CLOCK, Command, CommandError, event_of
from daemon.operator.signing import Key, SignedCommand, is_genuine
from strategies.kit.units import SECOND_NS

SIZE_MOST = 4096  # bytes of a command
FUTURE_MOST_NS = 5 * SECOND_NS  # the most that the sender's clock may be ahead
LIFETIME_MOST_NS = 60 * SECOND_NS
NONCES_MOST = 1000  # commands taken within their lifetime
REFUSAL_EVERY_NS = 10 * SECOND_NS
CHANNEL = "mqtt"

EventAt = Callable[[int], Event]


class Accepted(NamedTuple):
    """A command to carry out after `wait_ns`: never before the time at which it was issued, see `Judge`."""

    event_at: EventAt
    command: Command
    wait_ns: int


class CommandRefusal(NamedTuple):
    """Why a command is refused. `genuine`: the sender is known, so it may get an answer."""

    reason: str
    genuine: bool = False


class Judge:
    """Takes a desk's commands that were issued from `since_ns` on; `now_ns` is this host's real time.

    Nonces are kept until their command expires, but not over a restart. So a process accepts only commands issued after
    it began to listen, and executes none before its time of issue: no command is accepted by two processes. `known_ns`,
    the time of the journal's newest event, ensures that when the clock was set back in between. A clock reset lowers it
    (`lead_back`); only the start of listening bounds that command, because it has no effect when repeated.
    """

    def __init__(self, desk: str, keys: Mapping[str, Key], now_ns: Callable[[], int], known_ns: int = 0) -> None:
        self._desk, self._keys, self._clock = desk, keys, now_ns
        self._latest_ns = 0
        self._nonces: dict[str, int] = {}  # to the command's expiry
        self._decoder = msgspec.json.Decoder(SignedCommand)
        self.listens_ns = self._now_ns()
        self.since_ns = max(self.listens_ns, known_ns + 1)

    def lead_back(self) -> None:
        """Accept what is issued from now on: the desk's clock was reset."""
        self.since_ns = max(self.listens_ns, min(self.since_ns, self._clock()))

    def judge(self, payload: bytes, *, retained: bool) -> Accepted | CommandRefusal:
        """Accept or refuse a message; an accepted one's nonce is used up."""
        if retained:
            return CommandRefusal("the message is retained: a command is sent once")
        if len(payload) > SIZE_MOST:
            return CommandRefusal(f"the message has {len(payload)} bytes: at most {SIZE_MOST} are read")
        try:
            signed = typed(self._decoder.decode, payload)
            key = self._keys.get(signed.key)
            genuine = key is not None and is_genuine(signed, key)
        except (Unreadable, UnicodeError):
            return CommandRefusal("the message cannot be read")
        if key is None:
            return CommandRefusal("the key is not known here")
        if not genuine:
            return CommandRefusal(f"the signature is not that of key {signed.key}")
        problem = self._untimely(signed)
        if problem:
            return CommandRefusal(f"{signed.command!r} by key {signed.key}: {problem}", genuine=True)
        command = Command(signed.command, signed.reason, f"{CHANNEL}/{signed.key}")
        try:
            event_at = event_of(command)
        except CommandError as error:
            return CommandRefusal(f"by key {signed.key}: {error}", genuine=True)
        self._nonces[signed.nonce] = signed.expires_ns
        return Accepted(event_at, command, max(signed.issued_ns - self._now_ns(), 0))

    def _now_ns(self) -> int:
        """Return the clock's time, never decreasing: a forgotten nonce stays expired."""
        self._latest_ns = max(self._latest_ns, self._clock())
        return self._latest_ns

    def _untimely(self, signed: SignedCommand) -> str:
        """Return why a genuine command does not count now, "" when it does."""
        now_ns = self._now_ns()
        self._nonces = {nonce: expires_ns for nonce, expires_ns in self._nonces.items() if expires_ns >= now_ns}
        if signed.desk != self._desk:
            return f"it is for desk {signed.desk!r}, this is {self._desk!r}"
        if signed.expires_ns - signed.issued_ns > LIFETIME_MOST_NS or signed.expires_ns < signed.issued_ns:
            return f"it is valid for {_seconds(signed.expires_ns - signed.issued_ns)}: expected 0 to 60 s"
        if signed.expires_ns < now_ns:
            return f"it expired {_seconds(now_ns - signed.expires_ns)} ago: send it again, compare the clocks"
        if signed.issued_ns > now_ns + FUTURE_MOST_NS:
            return f"it was issued {_seconds(signed.issued_ns - now_ns)} in the future: compare the clocks"
        if signed.issued_ns < (self.listens_ns if signed.command == RESET_CLOCK else self.since_ns):
            return "it was issued before the daemon began to listen, or before its journal's end: send it again"
        if signed.nonce in self._nonces:
            return "it came before: each command has a nonce of its own"
        if len(self._nonces) >= NONCES_MOST:
            return f"more than {NONCES_MOST} commands within their lifetimes: wait a minute"
        return ""


class Refusals:
    """Journals refusals through `submit`, at most one in ten seconds; the next one counts those in between.

    `now_ns` may be any clock that goes forward.
    """

    def __init__(self, submit: Callable[[EventAt], object], now_ns: Callable[[], int]) -> None:
        self._submit, self._now_ns = submit, now_ns
        self._next_ns = 0
        self._pending: deque[str] = deque(maxlen=1)  # the newest
        self._others = 0

    def note(self, reason: str) -> None:
        """Count a refused command and report it when due."""
        self._others += len(self._pending)
        self._pending.append(reason)
        self.report_when_due()

    def due_ns(self) -> int | None:
        """Return nanoseconds until `report_when_due` journals, None when nothing waits."""
        return max(self._next_ns - self._now_ns(), 0) if self._pending else None

    def report_when_due(self) -> None:
        """Journal the waiting refusals, unless the last report is too recent."""
        now_ns = self._now_ns()
        if not self._pending or now_ns < self._next_ns:
            return
        reason, others = self._pending.pop(), self._others
        self._others, self._next_ns = 0, now_ns + REFUSAL_EVERY_NS
        text = f"{reason} (and {others} others)" if others else reason
        self._submit(lambda at_ns: CommandRefused(at_ns, CHANNEL, text))


def _seconds(duration_ns: int) -> str:
    return f"{duration_ns / SECOND_NS:.1f} s"
