"""Read a stream of experience as its one consumer group, in the stream's order.

Entries that were delivered but not acknowledged come first, whichever consumer got them. New entries are read after
them: an entry never overtakes an older one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from daemon.experience.experience import ForeignEntry, of_entry, row_of, stream_name
from daemon.experience.link import GROUP, ResponseError
from strategies.kit.units import MINUTE_NS

CONSUMER = "trainer"  # one name on every host, so that a dead trainer's entries belong to its successor
CLAIM_MS = 60_000  # another consumer that was silent for this long is dead
PAGE = 100
AHEAD_NS = 5 * MINUTE_NS  # decisions further ahead of this host's clock do not tell which stream is newest

Entry = tuple[int, dict[bytes, bytes]]  # (row, fields); fields are empty where the entry was deleted after its delivery


class NotReady(Exception):
    """The stream cannot be read in its order now: it does not exist yet, or another consumer holds entries of it."""


def later_streams(client: Any, desk: str, current: str, newest_ns: int, now_ns: int) -> tuple[list[str], bool]:
    """Return the desk's streams that come after the known one, the newest last, and whether the known one exists.

    A journal of another epoch has another stream, and several may begin while no trainer runs. A stream is later if its
    newest decision is newer than the known stream's newest, and newer than `newest_ns`, the newest bar seen of the
    known stream (whose entry may be trimmed). If the known stream is gone, or none is known, only the newest stream is
    returned. Decisions more than `AHEAD_NS` after `now_ns` are ignored. Raises RedisError.
    """
    bars = newest_bars_ns(client, desk)
    latest = now_ns + AHEAD_NS
    own_bars = (newest_ns, bars[current]) if current in bars else ()
    least = max((bar for bar in own_bars if bar < latest), default=-1)
    other_streams = sorted((bar, name) for name, bar in bars.items() if name != current and least < bar < latest)
    return [name for _, name in (other_streams if current in bars else other_streams[-1:])], current in bars


def stream_ahead(client: Any, desk: str, current: str, now_ns: int) -> str:
    """Return a stream that `later_streams` ignores because its newest decision is ahead of the clock, or "".

    Raises RedisError.
    """
    other_streams = (name for name in _names(client, desk) if name != current)
    return next((name for name in other_streams if _newest_bar_ns(client, name) >= now_ns + AHEAD_NS), "")


class StreamsAtWork:
    """Detects two desks of one name: both streams get decisions. A single desk's old stream gets no more.

    A stream that got a decision within `within_s` seconds is active.
    """

    def __init__(self, within_s: float, steady: Callable[[], float] = time.monotonic) -> None:
        self._within_s, self._steady = within_s, steady
        self._bars_ns: Mapping[str, int] = {}
        self._seen_at: dict[str, float] = {}  # for the first time
        self._grew_at: dict[str, float] = {}

    def other_than(self, current: str, bars_ns: Mapping[str, int]) -> str:
        """Return a stream that is at work beside the current one, "" for none; `bars_ns` as `newest_bars_ns` now."""
        now = self._steady()
        for name, bar_ns in bars_ns.items():
            self._seen_at.setdefault(name, now)
            if bar_ns > self._bars_ns.get(name, bar_ns):
                self._grew_at[name] = now
        self._bars_ns = bars_ns
        others = sorted(bars_ns.keys() - {current}) if current in bars_ns else []
        return next((name for name in others if self._are_at_work(current, name, now)), "")

    def grew(self, name: str) -> bool:
        """Whether a stream got a decision while this looked."""
        return name in self._grew_at

    def _are_at_work(self, current: str, other: str, now: float) -> bool:
        """Whether both got decisions after both were there, and not long ago."""
        both_there = max(self._seen_at[current], self._seen_at[other])
        grew_at = min(self._grew_at.get(name, both_there) for name in (current, other))
        return grew_at > both_there and now - grew_at < self._within_s


def newest_bars_ns(client: Any, desk: str) -> dict[str, int]:
    """Return the bar of the newest decision of each stream of the desk, -1 without one. Raises RedisError."""
    return {name: _newest_bar_ns(client, name) for name in _names(client, desk)}


def _names(client: Any, desk: str) -> list[str]:
    keys = client.scan_iter(match=stream_name(desk, "*"), count=1000, _type="stream")
    return [name.decode(errors="replace") for name in keys if name.count(b":") == stream_name(desk, "").count(":")]


def backlog(client: Any, stream: str) -> tuple[int | None, int | None]:
    """Return the number of unread entries, and of read entries without a checkpoint; None for unknown.

    Raises RedisError.
    """
    for group in client.xinfo_groups(stream):
        if group["name"] == GROUP.encode():
            return group["lag"], group["pending"]
    return None, None


def _newest_bar_ns(client: Any, stream: str) -> int:
    """Return the bar of a stream's newest decision; -1 where it holds none that can be read."""
    for identifier, fields in client.xrevrange(stream, count=1):
        with suppress(ForeignEntry):
            return of_entry(row_of(identifier), fields)[0].bar_ns
    return -1


class Consumer:
    """Yields a stream's entries, each once after a `begin`. Every method may raise RedisError; then call `begin` again.

    A second consumer that reads concurrently takes entries away; `missed` finds them.
    """

    def __init__(self, client: Any, stream: str, claim_ms: int = CLAIM_MS) -> None:
        self._redis, self._stream, self._claim_ms = client, stream, claim_ms
        self._own: bytes | None = b"0"  # id from which own pending entries continue; None: all were read

    def begin(self, row: int) -> None:
        """Go on after row `row`, with a group that begins there if there is none. Raises NotReady.

        An existing group is not created again: a full server refuses that, and only reading frees its memory.
        """
        try:
            exists = self._group() is not None
        except ResponseError as error:
            if "no such key" not in str(error):
                raise
            raise NotReady(f"{self._stream} does not exist yet") from None
        if not exists:
            self._redis.xgroup_create(self._stream, GROUP, id=b"%d-0" % row)
        self._take_over()
        self._own = b"%d-0" % row

    def read(self, wait_ms: int) -> list[Entry]:
        """Return the next entries, none where no new one comes within `wait_ms`; 0 waits for none.

        An idle Redis ends a wait up to 100 ms late.
        """
        if self._own is not None:
            replies = self._redis.xreadgroup(GROUP, CONSUMER, {self._stream: self._own}, count=PAGE)
            entries = replies[0][1] if replies else []
            self._own = entries[-1][0] if entries else None
            if entries:
                return [(row_of(identifier), fields) for identifier, fields in entries]
        replies = self._redis.xreadgroup(GROUP, CONSUMER, {self._stream: ">"}, count=PAGE, block=wait_ms or None)
        return [(row_of(identifier), fields) for identifier, fields in replies[0][1]] if replies else []

    def missed(self, after_row: int, before_row: int | None) -> tuple[list[Entry], str]:
        """Return entries between two rows that were not delivered to this consumer, and who holds any of them.

        Args:
            after_row: all entries up to this row were seen.
            before_row: the row of a delivered entry; None: up to the last entry delivered to any consumer.

        Returns:
            The first `PAGE` of them, oldest first, and the names of the consumers that hold them; "" where who read
            them acknowledged them.
        """
        upto = (before_row or self._delivered() + 1) - 1
        if upto <= after_row:
            return [], ""
        first, last_id = b"%d-0" % (after_row + 1), b"%d-0" % upto
        entries = self._redis.xrange(self._stream, first, last_id, count=PAGE)
        if not entries:
            return [], ""
        pending = self._redis.xpending_range(self._stream, GROUP, min=entries[0][0], max=entries[-1][0], count=PAGE)
        holders = {entry["consumer"].decode(errors="replace") for entry in pending} - {CONSUMER}
        return [(row_of(identifier), fields) for identifier, fields in entries], ", ".join(sorted(holders))

    def _delivered(self) -> int:
        group = self._group()
        return 0 if group is None else row_of(group["last-delivered-id"])

    def _group(self) -> dict[str, Any] | None:
        groups: list[dict[str, Any]] = self._redis.xinfo_groups(self._stream)
        return next((group for group in groups if group["name"] == GROUP.encode()), None)

    def acknowledge(self, row: int) -> None:
        """Acknowledge all entries up to row `row` that were delivered to this consumer."""
        upto = b"%d-0" % row
        while True:
            pending = self._redis.xpending_range(
                self._stream, GROUP, min="-", max=upto, count=PAGE, consumername=CONSUMER
            )
            if not pending:
                return
            self._redis.xack(self._stream, GROUP, *(entry["message_id"] for entry in pending))

    def refuse(self, row: int) -> None:
        """Acknowledge one entry from which nothing can be learned."""
        self._redis.xack(self._stream, GROUP, b"%d-0" % row)

    def _take_over(self) -> None:
        """Claim the entries of dead consumers. Raises NotReady while another one that may be alive holds entries."""
        start: bytes = b"0-0"
        while True:
            start = self._redis.xautoclaim(self._stream, GROUP, CONSUMER, self._claim_ms, start, count=PAGE)[0]
            if start == b"0-0":
                break
        consumers = [
            holder["name"].decode(errors="replace")
            for holder in self._redis.xpending(self._stream, GROUP)["consumers"]
            if holder["name"] != CONSUMER.encode()
        ]
        if consumers:
            raise held_by(self._stream, ", ".join(consumers))


def held_by(stream: str, names: str) -> NotReady:
    """Return the NotReady to raise while other consumers hold entries that come before the next one."""
    return NotReady(f"{stream}: {names} holds entries: they are taken over once it is silent")
