"""Accept a signed command only if its key is known and may sign it, and it is for this desk, in time, and new.

`Judge` decides and sends nothing; the same one judges commands by MQTT and by the signed socket. A sender without a key
costs one HMAC and gets no answer.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from daemon.core.events import (
    ClockReset,
    CloseRequested,
    Event,
    FlattenRequested,
    HaltRequested,
    PauseRequested,
    ResumeRequested,
)
from daemon.core.step import Step
from daemon.host.safe_decode import Unreadable, decode_with_type
from daemon.journal.reader import JournalReader
from daemon.journal.rows import JournalError
from daemon.operator.commands import RESET_CLOCK, Command, CommandError, event_of
from daemon.operator.signing import SCOPES, Key, SignedCommand, is_genuine
from daemon.operator.submitter import EventAt
from strategies.kit.units import HOUR_NS, SECOND_NS

SIZE_MOST = 4096  # bytes of a command
FUTURE_MOST_NS = 5 * SECOND_NS  # the most that the sender's clock may be ahead
LIFETIME_MOST_NS = 60 * SECOND_NS
NONCES_MOST = 1000  # accepted commands within their lifetime
IDS_MOST = 10_000  # ids of commands by keys with a scope
WAIT_MOST_NS = 96 * HOUR_NS  # for a stopped desk's start: over a long weekend
IDS_KEPT_NS = WAIT_MOST_NS + HOUR_NS  # Telegram keeps an update for 24 hours
AT_START = ("pause", "halt", "close", "flatten")
"""Commands that may wait for the start: each reduces risk, at any time."""
CHANNEL = "mqtt"
_BY_PHONE = (CloseRequested, FlattenRequested, HaltRequested, PauseRequested, ResumeRequested)
_ID = re.compile(r"^[a-z]+/[a-z0-9._-]+ #([0-9a-f]{16})$")
ID_DIGITS = 16  # digits of a scoped key's nonce, journaled as `signed/NAME #DIGITS`


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
    """Takes a desk's commands that were issued from `since_ns` on; `now_ns` is this host's real time. Thread-safe.

    Nonces are kept until their command expires, but not over a restart. So a process accepts only commands issued after
    it began to listen, and executes none before its time of issue: no command is accepted by two processes. `known_ns`,
    the time of the journal's newest event, ensures that when the clock was set back in between. A clock reset lowers it
    (`lead_back`); only the start of listening bounds that command, because it has no effect when repeated.

    A key with a scope is held by a program that may ask twice for what a person asked once. The nonce of its commands
    names that wish, and its first digits stand in the journal: `done_ids` are earlier ones (`journaled_ids`), and none
    of them is taken again.
    """

    def __init__(
        self,
        desk: str,
        keys: Mapping[str, Key],
        now_ns: Callable[[], int],
        known_ns: int = 0,
        done_ids: Iterable[str] = (),
    ) -> None:
        self._desk, self._keys, self._clock = desk, keys, now_ns
        self._latest_ns = 0
        self._nonces: dict[str, int] = {}  # nonce -> the command's expiry
        self._done_ids = dict.fromkeys(done_ids)  # an ordered set
        self._lock = threading.Lock()
        self._decoder = msgspec.json.Decoder(SignedCommand)
        self.listens_ns = self._now_ns()
        self.since_ns = max(self.listens_ns, known_ns + 1)

    def lead_back(self) -> None:
        """Accept commands issued from now on: the desk's clock was reset."""
        with self._lock:
            self.since_ns = max(self.listens_ns, min(self.since_ns, self._clock()))

    def observe(self, event: Event, _: Step) -> None:
        """Observe every step: after a clock reset commands are accepted again."""
        if isinstance(event, ClockReset):
            self.lead_back()

    def judge(
        self, payload: bytes, *, retained: bool = False, channel: str = CHANNEL, waited: bool = False
    ) -> Accepted | CommandRefusal:
        """Accept or refuse a message; an accepted one's nonce is used up.

        A command that `waited` for this process's start may be older, if it is one of `AT_START` by a key with a scope.
        """
        with self._lock:
            return self._judge(payload, retained, channel, waited)

    def _judge(self, payload: bytes, retained: bool, channel: str, waited: bool) -> Accepted | CommandRefusal:
        if retained:
            return CommandRefusal("the message is retained: a command is sent once")
        if len(payload) > SIZE_MOST:
            return CommandRefusal(f"the message has {len(payload)} bytes: at most {SIZE_MOST} are read")
        try:
            request = decode_with_type(self._decoder.decode, payload)
            key = self._keys.get(request.key)
            genuine = key is not None and is_genuine(request, key)
        except (Unreadable, UnicodeError):
            return CommandRefusal("the message cannot be read")
        if key is None:
            return CommandRefusal("the key is not known here")
        if not genuine:
            return CommandRefusal(f"the signature is not that of key {request.key}")
        problem = self._untimely(request, waited)
        if waited and not (key.scope and request.command.partition(" ")[0] in AT_START):
            problem = f"only {', '.join(AT_START)} by a key with a scope may wait for a start"
        if not key.may(request.command):
            problem = f"its scope is {key.scope}, which has only {', '.join(sorted(SCOPES[key.scope]))}"
        if problem:
            return CommandRefusal(f"{request.command!r} by key {request.key}: {problem}", genuine=True)
        sender = f"{channel}/{request.key}" + (f" #{request.nonce[:ID_DIGITS]}" if key.scope else "")
        command = Command(request.command, request.reason, sender, key.scope)
        try:
            event_at = event_of(command)
        except CommandError as error:
            return CommandRefusal(f"by key {request.key}: {error}", genuine=True)
        self._nonces[request.nonce] = request.expires_ns
        if key.scope and command.name != "status":
            self._done_ids[request.nonce[:ID_DIGITS]] = None
            if len(self._done_ids) > IDS_MOST:
                del self._done_ids[next(iter(self._done_ids))]
        return Accepted(event_at, command, max(request.issued_ns - self._now_ns(), 0))

    def _now_ns(self) -> int:
        """Return the clock's time, never decreasing: a forgotten nonce stays expired."""
        self._latest_ns = max(self._latest_ns, self._clock())
        return self._latest_ns

    def _untimely(self, request: SignedCommand, waited: bool) -> str:
        """Return why a genuine command does not count now, "" where it does."""
        now_ns = self._now_ns()
        self._nonces = {nonce: expires_ns for nonce, expires_ns in self._nonces.items() if expires_ns >= now_ns}
        if request.desk != self._desk:
            return f"it is for desk {request.desk!r}, this is {self._desk!r}"
        most_ns = WAIT_MOST_NS if waited else LIFETIME_MOST_NS
        if request.expires_ns - request.issued_ns > most_ns or request.expires_ns < request.issued_ns:
            expected = f"expected 0 to {most_ns // SECOND_NS} s"
            return f"it is valid for {_seconds(request.expires_ns - request.issued_ns)}: {expected}"
        if request.expires_ns < now_ns:
            return f"it expired {_seconds(now_ns - request.expires_ns)} ago: send it again, compare the clocks"
        if request.issued_ns > now_ns + FUTURE_MOST_NS:
            return f"it was issued {_seconds(request.issued_ns - now_ns)} in the future: compare the clocks"
        if not waited and request.issued_ns < (self.listens_ns if request.command == RESET_CLOCK else self.since_ns):
            return "it was issued before the daemon began to listen, or before its journal's end: send it again"
        if request.nonce in self._nonces or request.nonce[:ID_DIGITS] in self._done_ids:
            return "it came before: each command has a nonce of its own"
        if len(self._nonces) >= NONCES_MOST:
            return f"more than {NONCES_MOST} commands within their lifetimes: wait a minute"
        return ""


def journaled_ids(journals: Iterable[Path]) -> Iterator[str]:
    """Yield the ids of commands by keys with a scope in the newest `IDS_KEPT_NS` of each file, oldest first."""
    damage = (sqlite3.DatabaseError, TypeError, JournalError, OSError)  # none must prevent a desk's start
    for journal in journals:
        with contextlib.suppress(*damage), contextlib.closing(JournalReader(journal)) as reader:
            yield from _ids(reader)


def _ids(reader: JournalReader) -> Iterator[str]:
    newest = reader.last_entry()
    if newest is None:
        return
    low, high = 0, newest.id  # bounds of a search for the last row before that time
    while low < high:
        middle = (low + high + 1) // 2
        rows = reader.query("SELECT time_ns FROM events WHERE id >= ? ORDER BY id LIMIT 1", (middle,))
        low, high = (middle, high) if rows[0]["time_ns"] < newest.time_ns - IDS_KEPT_NS else (low, middle - 1)
    kinds = ", ".join(f"'{kind.__name__}'" for kind in _BY_PHONE)
    for row in reader.query(f"SELECT payload FROM events WHERE id > ? AND kind IN ({kinds}) ORDER BY id", (low,)):
        match = None
        with contextlib.suppress(ValueError, AttributeError):
            match = _ID.search(str(json.loads(row["payload"]).get("who", "")))
        if match is not None:
            yield match[1]


def _seconds(duration_ns: int) -> str:
    return f"{duration_ns / SECOND_NS:.1f} s"
