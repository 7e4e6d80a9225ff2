"""Read a stream of experience as its one consumer group, in the stream's order.

What was delivered and not acknowledged comes first, whoever it was delivered to. Nothing new is read before: an entry
never overtakes an older one.
"""

from __future__ import annotations

from typing import Any

from daemon.experience.link import GROUP, ResponseError, row_of

CONSUMER = "trainer"  # one name wherever it runs: what a dead one left is this one's own
CLAIM_MS = 60_000  # another consumer that was silent for this long is dead
PAGE = 100

Entry = tuple[int, dict[bytes, bytes]]  # row and fields; without any where it was deleted since it was delivered


class NotReady(Exception):
    """The stream cannot be read in its order now: it does not exist yet, or another consumer holds entries of it."""


class Consumer:
    """The entries of a stream, each once after a `begin`. Every method may raise RedisError: then `begin` again."""

    def __init__(self, client: Any, stream: str, claim_ms: int = CLAIM_MS) -> None:
        self._redis, self._stream, self._claim_ms = client, stream, claim_ms
        self._own: bytes | None = b"0"  # where own pending entries go on; None: all of them came

    def begin(self, row: int) -> None:
        """Go on after row `row`, with a group that begins there if there is none. Raises NotReady."""
        try:
            self._redis.xgroup_create(self._stream, GROUP, id=b"%d-0" % row)
        except ResponseError as error:
            if "requires the key to exist" in str(error):
                raise NotReady(f"{self._stream} does not exist yet") from None
            if "BUSYGROUP" not in str(error):
                raise
        self._take_over()
        self._own = b"%d-0" % row

    def read(self, wait_ms: int) -> list[Entry]:
        """Return the next entries, none where no new one comes within `wait_ms`."""
        if self._own is not None:
            found = self._redis.xreadgroup(GROUP, CONSUMER, {self._stream: self._own}, count=PAGE)
            entries = found[0][1] if found else []
            self._own = entries[-1][0] if entries else None
            if entries:
                return [(row_of(identifier), fields) for identifier, fields in entries]
        found = self._redis.xreadgroup(GROUP, CONSUMER, {self._stream: ">"}, count=PAGE, block=wait_ms)
        return [(row_of(identifier), fields) for identifier, fields in found[0][1]] if found else []

    def acknowledge(self, row: int) -> None:
        """Acknowledge all entries up to row `row` that were delivered to this consumer."""
        upto = b"%d-0" % row
        while True:
            found = self._redis.xpending_range(
                self._stream, GROUP, min="-", max=upto, count=PAGE, consumername=CONSUMER
            )
            if not found:
                return
            self._redis.xack(self._stream, GROUP, *(entry["message_id"] for entry in found))

    def refuse(self, row: int) -> None:
        """Acknowledge one entry from which nothing can be learned."""
        self._redis.xack(self._stream, GROUP, b"%d-0" % row)

    def _take_over(self) -> None:
        """Claim what dead consumers left. Raises NotReady while another one may live and holds entries."""
        start: bytes = b"0-0"
        while True:
            start = self._redis.xautoclaim(self._stream, GROUP, CONSUMER, self._claim_ms, start, count=PAGE)[0]
            if start == b"0-0":
                break
        others = [
            holder["name"].decode()
            for holder in self._redis.xpending(self._stream, GROUP)["consumers"]
            if holder["name"] != CONSUMER.encode()
        ]
        if others:
            raise NotReady(f"{self._stream}: {', '.join(others)} holds entries: they are taken over once it is silent")
