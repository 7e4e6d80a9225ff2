"""Virtual time within one event loop: server, daemon's parts and test share it, and none waits for a machine.

Time moves to the next timer when nothing is ready, no thread works for the loop and no socket has unread bytes. So a
test ends the same however slow the machine is. Clients whose deadlines are real run beside it in true time.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import selectors
import socket
import threading
from collections.abc import Callable

import pytest

from daemon.host.time.virtual_time import NEVER_NS, Participant, VirtualLoop
from simulator.clock import SimClock
from strategies.kit.units import SECOND_NS

HANG_S = 300.0  # real seconds in which nothing comes: it never will
PATIENCE_S = 5.0  # virtual seconds after which a client has given up: its own deadline is for real time


class Alone(Participant):
    """A participant that is its own clock: when it is quiet, the time that it waits for has come."""

    alone = True

    def __init__(self) -> None:
        self.socket, self._bell = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._now_ns = 0
        self._ready = select.poll()
        self.outside = 0

    def now_ns(self) -> int:
        """Nanoseconds since the loop was made."""
        return self._now_ns

    def watch(self, selector: selectors.EpollSelector) -> None:
        """Know what the loop waits for."""
        self._ready.register(selector.fileno(), select.POLLIN)

    def quiet(self, until_ns: int) -> None:
        """Nothing is ready: go to `until_ns` and ring, unless a thread works, which rings when it is done."""
        if self.outside <= 0 and until_ns != NEVER_NS:
            self._now_ns = max(self._now_ns, until_ns)
            self._bell.send(b".")
        elif not self._ready.poll(HANG_S * 1000):
            raise AssertionError(f"virtual time stands still: threads that work: {self.outside}")

    def wake(self) -> None:
        """Take the ring away."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.recv(1, socket.MSG_DONTWAIT)

    def leave(self) -> None:
        """The loop is closed."""
        self.socket.close()
        self._bell.close()


class LoneLoop(VirtualLoop):
    """An event loop in a virtual time of its own."""

    def __init__(self) -> None:
        self.alone = Alone()
        super().__init__(self.alone)

    def close(self) -> None:
        """Close it, and its bell."""
        super().close()
        self.alone.leave()


class LoneClock(SimClock):
    """The server's clock by the time of a `LoneLoop`."""

    def __init__(self, loop: LoneLoop, sim_start_ns: int, rate: float) -> None:
        self._loop = loop
        super().__init__(self.unix_s(), sim_start_ns, rate)

    def unix_s(self) -> float:
        """The loop's time."""
        return self.real_ns() / SECOND_NS

    def real_ns(self) -> int:
        """The loop's time in nanoseconds."""
        return self._loop.alone.now_ns()

    async def hold(self, seconds: float) -> None:
        """Let a client wait for its answer, in virtual seconds: time passes all the same. None waits for ever."""
        self._loop.alone.outside -= 1
        try:
            await asyncio.sleep(min(seconds, PATIENCE_S))
        finally:
            self._loop.alone.outside += 1


class Gate:
    """What a thread waits for until the test opens it, on a `LoneLoop`: time passes meanwhile."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LoneLoop)
        self._alone = loop.alone
        self._alone.outside -= 1
        self._opened = threading.Event()

    def wait(self) -> bool:
        """Return when it is open. For the thread."""
        return self._opened.wait()

    def set(self) -> None:
        """Open it. For the loop."""
        self._alone.outside += 1
        self._opened.set()


def clock_of_loop(sim_start_ns: int, rate: float = 1.0) -> SimClock:
    """A clock that shows `sim_start_ns` now and gains `rate` seconds in one of the running loop, virtual or not."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, LoneLoop):
        return LoneClock(loop, sim_start_ns, rate)
    return SimClock.starting_now(sim_start_ns, rate)


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """A `LoneLoop` for each test, but for those marked `host_time`. For a folder's conftest."""
    if item.get_closest_marker("host_time") is not None:
        return {"host": asyncio.new_event_loop}
    return {"virtual": LoneLoop}
