"""The daemon's clock, the only reader of the wall clock: nanoseconds UTC, real or simulated.

Invariant: `now_ns` never decreases within a process, whatever the host's clock does, except for a correction by the
broker's clock before the first event (`correct` with `at_once`).
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Self

from daemon.host.time import virtual_time
from daemon.host.time.virtual_time import Participant, VirtualLoop
from strategies.kit.units import SECOND_NS

LEAP_NS = 5_000_000_000  # a larger change between two readings is a leap, not a correction
SLEW_PARTS = 1000  # a slewed clock gains or loses at most one part in this many; Linux' own limit is half of that


class LeapWatch:
    """Compares both clocks at every reading, in either direction.

    `lead_ns` is how far the host's clock is ahead of the time used, `leaps` the number of leaps held back, `leap_ns`
    the newest of them. Differences below `LEAP_NS` pass, up to the total drift of a slewed clock. Thread-safe.
    """

    __slots__ = ("_host_ns", "_lock", "_slack_ns", "_steady_ns", "lead_ns", "leap_ns", "leaps")

    def __init__(self) -> None:
        self.lead_ns = 0
        self.leaps = 0
        self.leap_ns = 0
        self._host_ns: int | None = None
        self._steady_ns = 0
        self._slack_ns = LEAP_NS
        self._lock = threading.Lock()

    def taken(self, host_ns: int, steady_ns: int) -> int:
        """Return the time to use, from a reading of the host's clock and of the steady clock (nanoseconds)."""
        with self._lock:
            if self._host_ns is not None:
                passed_ns = steady_ns - self._steady_ns
                gained_ns = host_ns - self._host_ns - passed_ns
                if passed_ns or gained_ns:
                    self._judge(gained_ns, passed_ns)
            self._host_ns, self._steady_ns = host_ns, steady_ns
            return host_ns - self.lead_ns

    def _judge(self, gained_ns: int, passed_ns: int) -> None:
        self._slack_ns = min(LEAP_NS, self._slack_ns + max(passed_ns, 0) // SLEW_PARTS)
        if abs(gained_ns) > self._slack_ns:
            self.lead_ns += gained_ns
            self.leaps += 1
            self.leap_ns = gained_ns
        else:
            self._slack_ns -= abs(gained_ns)

    def go_on_by(self, ahead_ns: int) -> None:
        """Shift the time by `ahead_ns` (may be negative); a remainder below `LEAP_NS` follows the host."""
        self.lead_ns -= ahead_ns
        if abs(self.lead_ns) <= LEAP_NS:
            self.lead_ns = 0


NAP_VIRTUAL_S = 60.0  # each nap is a step of the virtual clock, which only tests use
NAP_S = 5.0  # longest sleep between readings of the clock: bounds the delay after a step or suspend

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def wall_ns() -> int:
    """Return the host's wall clock."""
    return time.time_ns()


def steady_ns() -> int:
    """Return the host's clock that is never set."""
    return time.monotonic_ns()


class Clock:
    """Time for one daemon. Simulated time is `sim_start_ns` + (real time - `anchor_ns`) x `rate`.

    `source` gives the real time in nanoseconds since 1970 UTC. When it steps back, time goes on at half the speed of
    `steady`, a clock that is never set, until `source` has caught up; `stepped_back_ns` is the largest step back seen.
    With a `watch` a leap of `source` in either direction is held back until `correct` settles it.
    """

    __slots__ = (
        "_anchor_ns",
        "_newest_ns",
        "_newest_steady_ns",
        "_rate_denominator",
        "_rate_numerator",
        "_sim_start_ns",
        "_source",
        "_steady",
        "is_simulated",
        "participant",
        "stepped_back_ns",
        "watch",
    )

    def __init__(
        self,
        source: Callable[[], int],
        anchor_ns: int = 0,
        sim_start_ns: int = 0,
        rate: float | None = None,
        steady: Callable[[], int] = steady_ns,
        watch: LeapWatch | None = None,
    ) -> None:
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            raise ValueError(f"the clock's rate is {rate}: expected a finite number above 0, such as 60")
        self._source = source
        self._anchor_ns = anchor_ns
        self._sim_start_ns = sim_start_ns
        # exact for any duration
        self._rate_numerator, self._rate_denominator = (1.0 if rate is None else rate).as_integer_ratio()
        self._steady = steady
        self.watch = watch
        self._newest_ns, self._newest_steady_ns = self._read()
        self.is_simulated = rate is not None
        self.participant: Participant | None = None  # of virtual time
        self.stepped_back_ns = 0

    @classmethod
    def real(
        cls,
        source: Callable[[], int] = wall_ns,
        steady: Callable[[], int] = steady_ns,
        watch: LeapWatch | None = None,
    ) -> Self:
        """Return the host's clock."""
        return cls(source, steady=steady, watch=watch)

    @classmethod
    def simulated(
        cls,
        anchor_unix_s: float,
        sim_start_ns: int,
        rate: float,
        source: Callable[[], int] = wall_ns,
        watch: LeapWatch | None = None,
    ) -> Self:
        """Return a clock that shows `sim_start_ns` at the real time `anchor_unix_s` and runs `rate` times as fast.

        Raises ValueError when the rate is not a finite number above 0.
        """
        return cls(source, round(anchor_unix_s * SECOND_NS), sim_start_ns, rate, watch=watch)

    @classmethod
    def virtual(cls, participant: Participant) -> Self:
        """Return the clock of virtual time that `participant` has joined; its event loop is that of `new_loop`."""
        clock = cls(partial(virtual_time.wall_ns, participant), 0, 0, 1.0, participant.now_ns, LeapWatch())
        clock.participant = participant
        return clock

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Return an event loop for this clock: uvloop's, or one on its virtual time."""
        import uvloop  # most readers of a clock run no loop of it

        return uvloop.new_event_loop() if self.participant is None else VirtualLoop(self.participant)

    def now_ns(self) -> int:
        """Return the time now. It never goes back."""
        return self._simulate(self.host_ns())

    def host_ns(self) -> int:
        """Return the real time now, without leaps of the host's clock. It never goes back."""
        real_ns, steady_ns = self._read()
        if real_ns < self._newest_ns:
            self.stepped_back_ns = max(self.stepped_back_ns, self._newest_ns - real_ns)
            half_ns = (steady_ns - self._newest_steady_ns) // 2
            real_ns = self._newest_ns + half_ns
            steady_ns = self._newest_steady_ns + 2 * half_ns  # an odd remainder counts at the next reading
        self._newest_ns, self._newest_steady_ns = real_ns, steady_ns
        return real_ns

    @property
    def held_back_ns(self) -> int:
        """How far the host's clock is ahead of this one, by leaps held back and by corrections."""
        return 0 if self.watch is None else self.watch.lead_ns * self._rate_numerator // self._rate_denominator

    def correct(self, ahead_ns: int, *, at_once: bool = False) -> None:
        """Follow a clock that is `ahead_ns` ahead of this one; needs a watch. It goes back at half speed, or `at_once`.

        `at_once` lets time decrease: only before any event was stamped.
        """
        assert self.watch is not None
        self.watch.go_on_by(ahead_ns * self._rate_denominator // self._rate_numerator)
        if at_once:
            self._newest_ns, self._newest_steady_ns = self._read()

    def real_s(self, sim_ns: int) -> float:
        """Return the real seconds of a simulated duration."""
        return sim_ns * self._rate_denominator / self._rate_numerator / SECOND_NS

    def to_real_datetime(self, sim_ns: int) -> datetime:
        """Return the real moment (UTC) at which this clock shows `sim_ns`, rounded up to the microsecond."""
        return _EPOCH + timedelta(microseconds=-(-self._real_ns(sim_ns) // 1000))

    async def sleep_until(self, sim_ns: int, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Sleep until this clock shows `sim_ns` or later."""
        while (left_ns := self._real_ns(sim_ns) - self.host_ns()) > 0:
            await sleep(min(left_ns / SECOND_NS, NAP_VIRTUAL_S if self.participant else NAP_S))

    def _read(self) -> tuple[int, int]:
        """Read both clocks, the host's through the watch."""
        real_ns, steady_ns = self._source(), self._steady()
        return (real_ns if self.watch is None else self.watch.taken(real_ns, steady_ns)), steady_ns

    def _simulate(self, real_ns: int) -> int:
        if not self.is_simulated:
            return real_ns
        return self._sim_start_ns + (real_ns - self._anchor_ns) * self._rate_numerator // self._rate_denominator

    def _real_ns(self, sim_ns: int) -> int:
        """Return the first real nanosecond at which `sim_ns` is shown."""
        if not self.is_simulated:
            return sim_ns
        return self._anchor_ns - (self._sim_start_ns - sim_ns) * self._rate_denominator // self._rate_numerator


def skew_ns(broker_ns: int, asked_ns: int, answered_ns: int) -> int:
    """Return how far the broker's clock is ahead of ours, negative when behind.

    Its time is compared with ours at the middle of the request (Cristian 1989), so the error is at most half of the
    request's duration.
    """
    return broker_ns - (asked_ns + answered_ns) // 2
