"""The other end of `sd_notify(3)`: whether the child is ready, and when it last fed its watchdog."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

NOTICE_BYTES = 4096


class Notices:
    """A notification socket for one child after another. `read` takes what has come; it never waits."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))
        self.ready, self.progress_s = False, time.monotonic()

    def begin(self) -> None:
        """Forget the former child."""
        self.read()
        self.ready, self.progress_s = False, time.monotonic()

    def read(self) -> None:
        """Take every notice that has come."""
        with contextlib.suppress(BlockingIOError):
            while True:
                for line in self._socket.recv(NOTICE_BYTES).split(b"\n"):
                    if line in (b"READY=1", b"WATCHDOG=1"):
                        self.progress_s = time.monotonic()
                    if line in (b"READY=1", b"STOPPING=1"):
                        self.ready = line == b"READY=1"

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
