"""Simulated time; only here does the loopback Alpaca read the machine's clock.

Everything else uses `SimClock`. The anchor is Unix time, so that two processes with the same numbers agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from strategies.kit.units import SECOND_NS

NAP_S = 0.5  # real seconds: the longest sleep between two readings of the clock, so a jump delays a sleeper by no more


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
        """Return a clock that shows `sim_start_ns` at this moment."""
        return cls(time.time(), sim_start_ns, rate)

    def unix_s(self) -> float:
        """Return the machine's time in seconds, the base of simulated time."""
        return self.real_ns() / SECOND_NS

    def real_ns(self) -> int:
        """Return the machine's time in nanoseconds."""
        return time.time_ns()

    def now_ns(self) -> int:
        """Return the simulated time in nanoseconds UTC."""
        return self.sim_start_ns + int((self.unix_s() - self.anchor_unix_s) * self.rate * SECOND_NS)

    def jump_to(self, ns: int) -> None:
        """Show `ns` from now on; tasks that sleep on this clock notice within `NAP_S`."""
        self.anchor_unix_s, self.sim_start_ns = self.unix_s(), ns

    def real_s(self, sim_ns: int) -> float:
        """Return the real seconds of a simulated duration of `sim_ns` nanoseconds."""
        return sim_ns / SECOND_NS / self.rate

    async def sleep_until(self, ns: int) -> None:
        """Return as soon as the simulated time is `ns` or later; at once (after one loop turn) when it already is."""
        left_ns = 1
        while left_ns > 0:  # the clock may have jumped; and the loop's clock and Unix time differ slightly
            left_ns = ns - self.now_ns()
            await asyncio.sleep(min(max(self.real_s(left_ns), 0.0), NAP_S))

    def nap_s(self, sim_ns: int) -> float:
        """Return the seconds to sleep between two checks about `sim_ns` apart, within 0.02 to 0.25."""
        return min(max(self.real_s(sim_ns), 0.02), 0.25)

    def settings(self) -> dict[str, object]:
        """Return the table `[clock]` for a daemon on this clock."""
        start = datetime.fromtimestamp(self.sim_start_ns / SECOND_NS, UTC).isoformat()
        return {"anchor_unix_s": self.anchor_unix_s, "sim_start": start, "rate": self.rate}

    def expect(self, pid: int) -> None:
        """Let time wait for a process that is about to join it. This clock waits for none."""

    def leave_out(self, pid: int, *, out: bool) -> None:
        """Let time pass without a process that is stopped. This clock always does."""

    def left(self, pid: int) -> bool:
        """Return whether a process has left the clock that waited for it. This clock waits for none."""
        return False

    def wait(self, real: Callable[[float], None], reached: Callable[[], bool], limit_s: float) -> bool:
        """Let time pass until `reached`, for `limit_s` at most; `real` waits that many real seconds."""
        real(limit_s)
        return reached()

    def pass_s(self, seconds: float) -> None:
        """Let simulated seconds pass."""
        time.sleep(seconds / self.rate)

    def pass_look(self, seconds: float) -> None:
        """Let time pass until the next check for a change, in simulated seconds."""
        self.pass_s(seconds)

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Return an event loop for a server with this clock."""
        return asyncio.new_event_loop()

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        """Let time pass while this thread waits for something real; this clock always does."""
        yield

    def end_serving(self) -> None:
        """Release clients that wait for the server's answers, as it ends."""

    def leave(self) -> None:
        """Leave virtual time after the server's end."""

    async def on_the_way(self, key: str, *, asked: bool) -> None:
        """Delay a message by its latency; `asked`: a client waits for it. This clock adds none."""

    async def hold(self, seconds: float) -> None:
        """Let a client wait for its answer, in real seconds, as its own timeout is real too."""
        await asyncio.sleep(seconds)

    async def sleep(self, sim_ns: int) -> None:
        """Sleep for a simulated duration of `sim_ns` nanoseconds."""
        await self.sleep_until(self.now_ns() + sim_ns)
