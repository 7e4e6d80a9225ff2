"""Notifications to systemd: ready, stopping, a status line, and the watchdog.

The watchdog is fed on progress. Invariant: no feeding without a probe that returned since the last one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from sdnotify import SystemdNotifier


class Service:
    """The process as systemd sees it (`sd_send(3)`). Does nothing without NOTIFY_SOCKET in the environment.

    No message waits for systemd: a refused one is dropped, except ready and stopping, which go with the next message.
    `interval_s` is half of the watchdog's time, as `sd_watchdog_enabled(3)` advises; None when systemd watches nothing
    or another process.
    """

    __slots__ = ("_notifier", "_pending", "interval_s")

    def __init__(self) -> None:
        self._notifier = _connect() if os.environ.get("NOTIFY_SOCKET") else None
        self._pending: tuple[str, ...] = ()
        self.interval_s = None if self._notifier is None else _interval_s()

    def ready(self) -> None:
        """Report that the start is complete: units ordered after this one may start."""
        self._send("READY=1", must=True)

    def status(self, text: str) -> None:
        """Set the status of `systemctl status`. Line breaks become blanks: each line would be a message of its own."""
        self._send(f"STATUS={' '.join(text.split())}")

    def stopping(self) -> None:
        """Report that the stop has begun."""
        self._send("STOPPING=1", must=True)

    def watchdog(self) -> None:
        """Feed the watchdog now."""
        self._send("WATCHDOG=1")

    def close(self) -> None:
        """Close the socket; later messages are dropped."""
        if self._notifier is not None:
            self._notifier.socket.close()
            self._notifier = None

    async def guard(self, probe: Callable[[], Awaitable[None]], every_s: float, deadline_s: float) -> None:
        """Feed the watchdog each time `probe` returned within `deadline_s`; return at once without a watchdog.

        The probe runs every `every_s` seconds, more often where the watchdog requires it. A late one is cancelled and
        feeds nothing, and the next one follows; one that raises ends the guard with its exception.
        """
        if self.interval_s is None:
            return
        loop, every_s = asyncio.get_running_loop(), min(every_s, self.interval_s)
        while True:
            due = loop.time() + every_s
            try:
                async with asyncio.timeout(deadline_s):
                    await probe()
            except TimeoutError:
                self.status(f"no progress within {deadline_s:g} s: the watchdog is not fed")
            else:
                self.watchdog()
            await asyncio.sleep(max(0.0, due - loop.time()))

    def _send(self, state: str, *, must: bool = False) -> None:
        """Send the message with unsent required ones, in one datagram or not at all."""
        if self._notifier is None:
            return
        lines = "\n".join((*self._pending, state))
        try:
            self._notifier.notify(lines.encode().decode("latin-1"))  # the library writes latin-1; the bytes are UTF-8
        except OSError:  # BlockingIOError: no reader now; a restarting systemd refuses
            self._pending += (state,) if must else ()
        else:
            self._pending = ()


def _connect() -> SystemdNotifier | None:
    """Return the library's socket, non-blocking: the event loop sends. None without a listener."""
    try:
        notifier = SystemdNotifier(debug=True)
    except OSError:
        return None
    notifier.socket.setblocking(False)
    return notifier


def _interval_s() -> float | None:
    """Return half of WATCHDOG_USEC in seconds; None when missing, zero, no number, or for another process."""
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not text.isdecimal() or int(text) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 1e6 / 2
