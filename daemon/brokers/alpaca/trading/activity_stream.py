"""The stream of the account's activities (server-sent events): a second source that only triggers reads of the ledger.

Its lines book nothing: their ULIDs are not the ledger's ids. A line makes the next report due at once, and names the
fill that a bust or correction amends. Losing the stream changes nothing. Deadlines are real seconds.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

import aiohttp
from sseclient import SSEClient

from daemon.brokers.alpaca.rest.client import Access
from daemon.brokers.alpaca.trading.report import BUST, CORRECTION
from daemon.brokers.alpaca.wire import Malformed, mapping, required_text, text, time_text
from daemon.host.safe_decode import Unreadable, json_value
from daemon.pacing import back_off_s
from strategies.kit.units import MILLISECOND_NS, MINUTE_NS

PATH = "/v2beta1/events/activities"
LINE_MAX = 1024 * 1024  # bytes of one event
AHEAD_NS = 2 * MINUTE_NS  # most that a line may be ahead of our clock: true lines look like repeats until then
UNREADABLE_MAX = 3  # unreadable events in a row after which the connection is given up
REFUSED = frozenset((400, 401, 403, 404, 405, 410, 501))  # not for these keys, or not at this address
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", re.ASCII)
_JITTER = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class ActivityDeadlines:
    """Real seconds. `idle_s` is how long a silent connection is trusted: no heartbeat is documented."""

    open_s: float = 10.0
    idle_s: float = 900.0
    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    refused_s: float = 900.0


@dataclass(frozen=True, slots=True)
class ActivityLine:
    """One event: its ULID, the order and the execution that it amends ("" where it amends none), its `ref_id`."""

    event_id: str
    kind: str
    order_id: str
    amends: str
    ref_id: str


class _Refused(Exception):
    """The service answered without a stream."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


class ActivityStream:
    """`on_line` gets each new line once, and None for one that cannot be read. It must not raise."""

    def __init__(
        self,
        access: Access,
        now_ns: Callable[[], int],
        deadlines: ActivityDeadlines,
        log: Callable[..., None],
        on_line: Callable[[ActivityLine | None], None],
    ) -> None:
        self._access = access
        self._on_line = on_line
        self._now_ns = now_ns
        self._deadlines = deadlines
        self._log = log
        self._since_ns = 0
        self._last = ""  # the newest ULID

    async def run(self) -> None:
        """Listen until cancelled. Raises nothing: a fault here must not end the daemon."""
        failures = 0
        self._since_ns = self._now_ns()
        while True:
            last_before = self._last
            try:
                detail, least_s = await self._visit(), 0.0
            except _Refused as refusal:
                detail, least_s = str(refusal), self._deadlines.refused_s if refusal.status in REFUSED else 0.0
            except Exception as error:  # whatever it is, it ends this connection only
                detail, least_s = f"{type(error).__name__}: {error}"[:200], 0.0
            failures = 1 if self._last != last_before else failures + 1
            waits = self._deadlines
            pause_s = max(least_s, back_off_s(failures, waits.first_pause_s, waits.longest_pause_s, _JITTER.random()))
            self._log("activity_stream_lost", detail=detail, retry_s=round(pause_s, 1))
            await asyncio.sleep(pause_s)

    async def _visit(self) -> str:
        """Run one connection to its end, from after the newest known line on; returns why it ended."""
        start = {"since_id": self._last} if self._last else {"since": time_text(self._since_ns)}
        unreadable = 0
        async for data in events(self._access, start, self._deadlines.open_s, self._deadlines.idle_s, self._log_open):
            try:
                line = activity_line(data, self._now_ns())
            except Malformed as odd:
                unreadable += 1
                self._log("activity_unreadable", problem=str(odd))
                self._on_line(None)
                if unreadable >= UNREADABLE_MAX:
                    return f"{unreadable} unreadable lines in a row"
                continue
            unreadable = 0
            if line.event_id > self._last:  # else a repeat
                self._last = line.event_id
                self._on_line(line)
        return "ended by the broker"

    def _log_open(self) -> None:
        self._log("activity_stream_listening")


async def events(
    access: Access, query: Mapping[str, str], open_s: float, idle_s: float, on_open: Callable[[], None] = lambda: None
) -> AsyncIterator[str]:
    """Yield the data of each event of the answer to `query`. Raises _Refused, aiohttp's errors, OSError, ValueError."""
    headers = {
        "APCA-API-KEY-ID": access.key,
        "APCA-API-SECRET-KEY": access.secret,
        "Accept": "text/event-stream",
    }
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=open_s, sock_read=idle_s)
    async with (
        aiohttp.ClientSession(timeout=timeout, read_bufsize=LINE_MAX // 2) as session,
        session.get(access.url + PATH, params=query, headers=headers, allow_redirects=False) as response,
    ):
        if response.status != 200 or response.content_type != "text/event-stream":
            raise _Refused(response.status)
        on_open()
        part, size = [], 0
        while line := await response.content.readline():
            part.append(line)
            size += len(line)
            if size > LINE_MAX:
                raise ValueError(f"an event above {LINE_MAX} bytes")
            if not line.strip(b"\r\n"):
                for event in SSEClient(iter(part)).events():
                    yield event.data
                part, size = [], 0


def activity_line(data: str, now_ns: int) -> ActivityLine:
    """Parse the data of one event. Raises Malformed, also for a ULID ahead of our clock by more than `AHEAD_NS`."""
    try:
        raw = mapping(json_value(data.encode()), "event")
    except Unreadable as odd:
        raise Malformed(f"event is no JSON: {odd}") from None
    event_id = required_text(raw, "event_id")
    if _ULID.fullmatch(event_id) is None:
        raise Malformed("event_id is no ULID: expected 26 characters")
    ahead_ns = ulid_ns(event_id) - now_ns
    if ahead_ns > AHEAD_NS:
        raise Malformed(f"event_id is {ahead_ns // MINUTE_NS} min ahead of our clock: expected the time of its line")
    details = raw.get("details")
    trade = details if isinstance(details, dict) else {}
    amends = trade.get("execution_type") in (BUST, CORRECTION)
    return ActivityLine(
        event_id=event_id,
        kind=required_text(raw, "activity_type"),
        order_id=text(trade.get("order_id")),
        amends=text(raw.get("previous_id")) if amends else "",
        ref_id=text(raw.get("ref_id")),
    )


def ulid_ns(ulid: str) -> int:
    """Return the moment in a ULID: 48 bits of milliseconds in its first ten characters (the ULID specification)."""
    ms = 0
    for letter in ulid[:10]:
        ms = ms * 32 + _CROCKFORD.index(letter)
    return ms * MILLISECOND_NS


async def probe(access: Access, since_ns: int, until_ns: int, deadline_s: float) -> list[ActivityLine] | str:
    """Return the lines between two times, or why there are none; the answer ends the stream. Raises nothing."""
    query = {"since": time_text(since_ns), "until": time_text(until_ns)}
    try:
        async with asyncio.timeout(deadline_s):
            return [activity_line(data, until_ns) async for data in events(access, query, deadline_s, deadline_s)]
    except _Refused as refusal:
        return str(refusal)
    except (aiohttp.ClientError, OSError, ValueError, Malformed) as error:  # TimeoutError is an OSError
        return f"{type(error).__name__}: {error}"[:200]
