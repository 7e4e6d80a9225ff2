"""Simulated time: the one place where the loopback Alpaca reads the machine's clock.

Everything else asks `SimClock`. The anchor is Unix time, so that two processes with the same numbers agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from strategies.kit.units import SECOND_NS

NAP_S = 0.5  # real seconds, the longest sleep before the clock is read again: a jump delays a sleeper by no more


class SimClock:
    """Simulated nanoseconds UTC = `sim_start_ns` + (now - `anchor_unix_s`) x `rate`.

    `rate` is simulated seconds in one real second (above 0); 1 runs in step with the machine. Raises ValueError for
    a rate that is not above 0.
    """

    def __init__(self, anchor_unix_s: float, sim_start_ns: int, rate: float = 1.0) -> None:
        if not rate > 0:
            raise ValueError(f"rate: found {rate}; expected simulated seconds a real second, above 0, such as 600")
        self.anchor_unix_s = anchor_unix_s
        self.sim_start_ns = sim_start_ns
        self.rate = rate

    @classmethod
    def starting_now(cls, sim_start_ns: int, rate: float = 1.0) -> SimClock:
        """A clock that shows `sim_start_ns` at this moment."""
        return cls(time.time(), sim_start_ns, rate)

    def unix_s(self) -> float:
        """The time that simulated time is made of: seconds of the machine."""
        return self.real_ns() / SECOND_NS

    def real_ns(self) -> int:
        """The same in nanoseconds."""
        return time.time_ns()

    def now_ns(self) -> int:
        """The simulated time in nanoseconds UTC."""
        return self.sim_start_ns + int((self.unix_s() - self.anchor_unix_s) * self.rate * SECOND_NS)

    def jump_to(self, ns: int) -> None:
        """Show `ns` from now on; tasks that sleep on this clock notice within `NAP_S`."""
        self.anchor_unix_s, self.sim_start_ns = self.unix_s(), ns

    def real_s(self, sim_ns: int) -> float:
        """How many real seconds a simulated span of `sim_ns` nanoseconds lasts (a duration, not a point in time)."""
        return sim_ns / SECOND_NS / self.rate

    async def sleep_until(self, ns: int) -> None:
        """Return as soon as the simulated time is `ns` or later; at once (after one loop turn) when it already is."""
        left_ns = 1
        while left_ns > 0:  # it may have been moved; and the loop's clock and Unix time differ by a little
            left_ns = ns - self.now_ns()
            await asyncio.sleep(min(max(self.real_s(left_ns), 0.0), NAP_S))

    def nap_s(self, sim_ns: int) -> float:
        """Seconds to sleep between two looks that shall be `sim_ns` apart: often enough, and not without pause."""
        return min(max(self.real_s(sim_ns), 0.02), 0.25)

    def settings(self) -> dict[str, object]:
        """The table `[clock]` of a daemon on this clock."""
        start = datetime.fromtimestamp(self.sim_start_ns / SECOND_NS, UTC).isoformat()
        return {"anchor_unix_s": self.anchor_unix_s, "sim_start": start, "rate": self.rate}

    def expect(self, pid: int) -> None:
        """Let time wait for a process that is about to join it. Here time waits for none."""

    def leave_out(self, pid: int, *, out: bool) -> None:
        """Let time pass without a process that is stopped. Here it does so anyway."""

    def left(self, pid: int) -> bool:
        """Whether a process has left the clock that waited for it. Here none waits."""
        return False

    def wait(self, real: Callable[[float], None], reached: Callable[[], bool], limit_s: float) -> bool:
        """Let time pass until `reached`, for `limit_s` at most; `real` waits for that, so many real seconds."""
        real(limit_s)
        return reached()

    def pass_s(self, seconds: float) -> None:
        """Let simulated seconds pass."""
        time.sleep(seconds / self.rate)

    def pass_look(self, seconds: float) -> None:
        """Let time pass until the next of many looks for a change, simulated seconds later where any could be."""
        self.pass_s(seconds)

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """An event loop for a server with this clock."""
        return asyncio.new_event_loop()

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        """While this thread waits for something real, time passes: here it does so anyway."""
        yield

    def end_serving(self) -> None:
        """The server ends: who waits for its answers holds nothing up any more."""

    def leave(self) -> None:
        """The server has ended."""

    async def on_the_way(self, key: str, *, asked: bool) -> None:
        """Let a message be under way, `asked` where a client waits for it. Here it comes when it comes."""

    async def hold(self, seconds: float) -> None:
        """Let a client wait for its answer, in real seconds: its own patience is real too."""
        await asyncio.sleep(seconds)

    async def sleep(self, sim_ns: int) -> None:
        """Sleep for a simulated span of `sim_ns` nanoseconds."""
        await self.sleep_until(self.now_ns() + sim_ns)
