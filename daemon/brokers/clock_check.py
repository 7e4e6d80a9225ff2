"""Compares this host's clock with the broker's: with reports, at the start, and after a held-back leap.

It settles which of host and monotonic clock is right (`host/time/clock.py`). It sets no time that neither of them has,
except at a start without other evidence: what the broker said alone then ends once its clock and the host's agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from daemon.brokers.api import BrokerClock, BrokerError, EventLogger
from daemon.host.time.clock import LEAP_NS, skew_ns
from daemon.host.time.virtual_time import look_s
from daemon.pacing import back_off_s
from strategies.kit.units import SECOND_NS

if TYPE_CHECKING:
    from daemon.host.time.clock import Clock

# a start with a clock that is further off uses the broker's; a smaller difference is logged only
START_NS = 60 * SECOND_NS
LOOK_S = 1.0
LONGEST_PAUSE_S = 30.0


class ClockCheck:
    """`ask` returns the broker's clock, `journal_ns` the time of the newest event, 0 for none."""

    def __init__(
        self,
        ask: Callable[[], Awaitable[BrokerClock]],
        clock: Clock,
        log: EventLogger,
        limit_s: float,
        journal_ns: Callable[[], int],
    ) -> None:
        self._ask, self._clock, self._log = ask, clock, log
        self._limit_s, self._journal_ns = limit_s, journal_ns
        self._agrees = False  # whether the broker's clock agreed with ours at the last check
        self._unsettled = True  # not yet known which clock is right
        self._leaps = 0
        self._told_ns = 0  # when the broker last told its time
        self.lag_s = 0.0  # by which the time taken was ahead, and goes back slowly; a new start is right at once
        self._ahead_logged = False
        self.market_open: bool | None = None  # by the broker's clock, at the last check
        self.next_open_ns = 0
        self.next_close_ns = 0  # as the last two answers have it, 0 where they differ
        self._told_close_ns = 0

    def fault(self) -> str:
        """Return why the desk's time may be wrong; "" when the broker's clock agreed at the last check."""
        self._look_at_watch()
        if self._unsettled:
            return "the broker's clock could not be asked yet, or the host's leapt since: try again when it answers"
        return "" if self._agrees else "the broker's clock differs from this host's: mend the host's clock first"

    async def measure(self) -> None:
        """Compare once, log a difference above the limit, settle an open leap. Raises BrokerError."""
        ahead_ns, doubt_ns = await self._measure()
        if abs(ahead_ns) - doubt_ns > self._limit_s * SECOND_NS:
            skew_s, doubt_s = round(ahead_ns / SECOND_NS, 3), round(doubt_ns / SECOND_NS, 3)
            self._log("clock_skew", skew_s=skew_s, doubt_s=doubt_s, limit_s=self._limit_s)
        self._look_at_watch()
        self._agrees = abs(ahead_ns) - doubt_ns <= LEAP_NS
        far_ns = LEAP_NS if self._leaps else START_NS
        believes = self._unsettled and abs(ahead_ns) - doubt_ns > far_ns and self._clock.watch is not None
        if believes or (not self._agrees and abs(ahead_ns - self._clock.held_back_ns) - doubt_ns <= LEAP_NS):
            self._clock.correct(ahead_ns)
            self._agrees = ahead_ns > 0  # time goes back slowly
            self.lag_s = max(-ahead_ns / SECOND_NS, 0.0)
            self._log("clock_corrected", by_s=round(ahead_ns / SECOND_NS, 1))
        self._unsettled = False

    async def measure_when_due(self, every_s: float) -> None:
        """Measure where the newest answer is so old, or where it is not known which clock is right.

        Raises BrokerError for no answer, where that is not known.
        """
        self._look_at_watch()
        if self._unsettled or abs(self._clock.now_ns() - self._told_ns) >= every_s * SECOND_NS:
            try:
                await self.measure()
            except BrokerError:
                if self._unsettled:
                    raise

    async def at_start(self, within_s: float) -> None:
        """Before the first event: if the host's clock is far off, use the broker's. Without an answer go on."""
        try:
            async with asyncio.timeout(within_s):
                ahead_ns, doubt_ns = await self._measure()
        except (BrokerError, TimeoutError) as error:
            self._log("clock_unverified", problem=str(error) or f"no answer within {within_s:g} s")
            return
        self._unsettled = False
        self._agrees = abs(ahead_ns) - doubt_ns <= LEAP_NS
        if abs(ahead_ns) - doubt_ns > START_NS and self._clock.watch is not None:
            self._clock.correct(ahead_ns, at_once=True)
            self._agrees = True
            self._log("clock_wrong", by_s=round(-ahead_ns / SECOND_NS, 1))

    async def run(self) -> None:
        """Log leaps and a journal that is ahead, and read the broker's clock until they are settled; for ever."""
        failures, pause_s = 0, 0.0
        while True:
            self._look_at_watch()
            if self._unsettled and pause_s <= 0:
                try:
                    await self.measure()
                    failures = 0
                except BrokerError:
                    failures += 1
                    pause_s = back_off_s(failures, 2.0, LONGEST_PAUSE_S)
            ahead_ns = self._journal_ns() - self._clock.now_ns()
            if ahead_ns > LEAP_NS and self._agrees and not self._unsettled and not self._ahead_logged:
                self._log("clock_ahead", by_s=round(ahead_ns / SECOND_NS, 1))
            self._ahead_logged = ahead_ns > LEAP_NS
            nap_s = look_s(LOOK_S)
            await asyncio.sleep(nap_s)
            pause_s -= nap_s

    async def _measure(self) -> tuple[int, int]:
        """Return how far the broker's clock is ahead of ours, and the doubt: half of the request's duration."""
        asked_ns = self._clock.now_ns()
        broker_clock = await self._ask()
        answered_ns = self._told_ns = self._clock.now_ns()
        self.market_open = broker_clock.is_open
        self.next_open_ns = broker_clock.next_open_ns or self.next_open_ns
        same = broker_clock.next_close_ns == self._told_close_ns
        self.next_close_ns, self._told_close_ns = broker_clock.next_close_ns if same else 0, broker_clock.next_close_ns
        return skew_ns(broker_clock.now_ns, asked_ns, answered_ns), (answered_ns - asked_ns) // 2

    def _look_at_watch(self) -> None:
        self._clock.now_ns()
        watch = self._clock.watch
        if watch is not None and watch.leaps > self._leaps:
            self._leaps, self._unsettled = watch.leaps, True
            self._log("clock_leap", by_s=round(watch.leap_ns / SECOND_NS, 1))
