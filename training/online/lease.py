"""One trainer per desk: the trainer holds a lease in Redis, whatever its folder or host.

The lease is a consumer group of the key `rltrader:DESK:trainer`, in which nothing is ever delivered. Each trainer is a
consumer there, and Redis counts how long it was silent: no clock of a host matters. A full server takes this too.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from daemon.experience.link import RedisError, ResponseError
from daemon.host.whole_files import write_whole

FOLDER_FILE = "lease.id"  # holds the folder's name, so that a restart in it is the same trainer
LEASE_S = 60.0  # silence, in seconds, after which a trainer has lost its lease
RENEW_S = 5.0
LOOK_S = 1.0  # seconds between two attempts of a waiting trainer
GROUP = "lease"
NOTHING = b"18446744073709551615-0"  # an id beyond every entry: reading there only marks the consumer as alive

Log = Callable[..., None]


class LeaseTaken(Exception):
    """Another trainer learns from this desk; the text names it and the cure."""


class Lease:
    """The lease of one desk. Within a `with` a thread renews it, and work of minutes loses nothing.

    Take it with `take` until that returns True. After that `check` says at any time whether it still holds. A trainer
    that was stopped for longer than `LEASE_S` takes it again, unless another one has it.
    """

    def __init__(
        self,
        client: Any,
        desk: str,
        folder: Path,
        *,
        lease_s: float = LEASE_S,
        renew_s: float = RENEW_S,
        steady: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        """Raises OSError where the folder's name cannot be read or written."""
        self._redis, self._desk, self._key = client, desk, f"rltrader:{desk}:trainer"
        self._lease_s, self._renew_s, self._steady = lease_s, renew_s, steady
        self._folder = _folder_id(folder)
        since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self._name = f"{since} {socket.gethostname()} {os.getpid()} {self._folder}"
        self._held_at = -lease_s  # monotonic time of the newest renewal
        self._seen: dict[str, tuple[float, int]] = {}  # others: time of their newest sign of life, count of new ones
        self._lost = self.awaited = ""
        self._lock, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def take(self) -> bool:
        """Take the lease; False while it is not known yet whether its last holder lives: try again in `LOOK_S`.

        Raises:
            LeaseTaken: another trainer lives.
            RedisError: Redis is away.
        """
        with self._lock:
            other_consumers = self._of_other_folders()
            if not other_consumers:
                began = self._steady()
                self._beat()
                other_consumers = self._of_other_folders()
                if not other_consumers:  # a trainer that starts at the same moment sees this one and waits
                    self._held_at = began
                    self._tidy()
                    return True
            if alive := self._renewed(other_consumers):
                raise LeaseTaken(self._words(alive))
            self.awaited = self._words(list(other_consumers))
            return False

    def check(self) -> None:
        """Check that the lease holds, and renew it once half of its time is over.

        Raises:
            LeaseTaken: it was lost to another trainer.
            RedisError: whether it holds cannot be said.
        """
        if self._lost:
            raise LeaseTaken(self._lost)
        if self._steady() - self._held_at >= self._lease_s / 2:
            self._keep()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back: another trainer may begin at once."""
        self._end.set()
        self._thread.join()
        with suppress(RedisError):
            self._redis.xgroup_delconsumer(self._key, GROUP, self._name)

    def _run(self) -> None:
        while not self._end.wait(self._renew_s) and not self._lost:
            with suppress(RedisError, LeaseTaken):  # `check` meets both
                self._keep()

    def _keep(self) -> None:
        """Renew the lease. Of two holders (one of which was suspended for long) the later one gives up."""
        with self._lock:
            began = self._steady()
            other_consumers = self._others()
            expired = began - self._held_at >= self._lease_s
            rivals = (
                list(other_consumers)
                if expired
                else [name for name in self._renewed(other_consumers) if name < self._name]
            )
            if rivals:
                self._lost = self._words(rivals)
                raise LeaseTaken(self._lost)
            self._beat()
            self._held_at = began

    # --- Redis --------------------------------------------------------------------------------------------------------

    def _others(self) -> dict[str, float]:
        """Return the other trainers that may live, by name how long each was silent, in seconds."""
        try:
            consumers = self._redis.xinfo_consumers(self._key, GROUP)
        except ResponseError as error:
            if "no such key" not in str(error).lower() and "NOGROUP" not in str(error):
                raise
            with suppress(ResponseError):  # another one made it meanwhile
                self._redis.xgroup_create(self._key, GROUP, id="0", mkstream=True)
            consumers = self._redis.xinfo_consumers(self._key, GROUP)
        silent = {consumer["name"].decode(errors="replace"): consumer["idle"] / 1000 for consumer in consumers}
        return {name: idle for name, idle in silent.items() if name != self._name and idle < self._lease_s}

    def _beat(self) -> None:
        self._redis.xreadgroup(GROUP, self._name, {self._key: NOTHING}, count=1)

    def _of_other_folders(self) -> dict[str, float]:
        return {name: idle for name, idle in self._others().items() if not name.endswith(f" {self._folder}")}

    def _renewed(self, idle_by_name: dict[str, float]) -> list[str]:
        """Return the trainers with two new signs of life since this one began to watch.

        A trainer that only tries to take the lease gives one in `lease_s` seconds, and a restart of Redis looks like
        one.
        """
        now, signs = self._steady(), {}
        for name, idle in idle_by_name.items():
            at, newer = self._seen.get(name, (now - idle, 0))
            later = now - idle > at + self._renew_s / 2
            signs[name] = (now - idle, newer + 1) if later else (at, newer)
        self._seen = signs
        return [name for name, (_, newer) in signs.items() if newer > 1]

    def _tidy(self) -> None:
        """Forget the trainers that are gone. Nothing was ever delivered to them."""
        with suppress(RedisError):
            for consumer in self._redis.xinfo_consumers(self._key, GROUP):
                name = consumer["name"].decode(errors="replace")
                is_gone = consumer["idle"] >= 1000 * self._lease_s or name.endswith(f" {self._folder}")
                if is_gone and name != self._name:
                    self._redis.xgroup_delconsumer(self._key, GROUP, consumer["name"])

    def _words(self, names: list[str]) -> str:
        since, host, pid = [*min(names).split(" "), "?", "?"][:3]
        return (
            f"another trainer learns from {self._desk}: host {host}, pid {pid}, since {since}: run one for each desk: "
            f"stop that one or this one; a trainer that died is forgotten after {self._lease_s:g} s"
        )


def _folder_id(folder: Path) -> str:
    """Return the folder's name, made at the first time."""
    path = folder / FOLDER_FILE
    text = path.read_text(errors="replace").strip() if path.exists() else ""
    if len(text) != 16 or not text.isalnum():
        text = secrets.token_hex(8)
        write_whole(path, text.encode() + b"\n", 0o640)
    return text
