"""Clock ticks of a live desk, and probes that show that intake, step and journal still make progress."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from daemon.core.events import ClockTicked, Event
from daemon.core.state import State
from daemon.engine.intake import Intake
from daemon.host.time.clock import Clock
from daemon.journal.writer import JournalWriter
from strategies.kit.units import SECOND_NS

BUSY_TICK_NS = SECOND_NS  # while something works at the broker or the policy
HOLDING_TICK_NS = 5 * SECOND_NS
IDLE_TICK_NS = 60 * SECOND_NS
AROUND_NS = 1800 * SECOND_NS  # before an open and after a close a position is looked at as within the session
LEAST_NAP_S = 0.02  # however fast a simulated clock runs


class Ticks:
    """Puts `ClockTicked` into the intake and waits for its results. `state()` is the newest state."""

    def __init__(self, clock: Clock, intake: Intake, writer: JournalWriter, state: Callable[[], State[Any]]) -> None:
        self._clock, self._intake, self._writer, self._state = clock, intake, writer, state
        self._probes: dict[int, asyncio.Future[None]] = {}  # by the identity of their ticks
        self._stepped = asyncio.Event()
        self._tick_ns, self._busier = IDLE_TICK_NS, asyncio.Event()

    def observe(self, event: Event, state: State[Any]) -> None:
        """Must see every step."""
        self._stepped.set()
        if _tick_ns(state, event.time_ns) < self._tick_ns:
            self._busier.set()
        if self._probes and (probed := self._probes.get(id(event))) is not None and not probed.done():
            probed.set_result(None)

    async def run(self) -> None:
        """Tick often while something waits for the time, else seldom."""
        last_ns = 0
        while True:
            now_ns = self._clock.now_ns()
            every_ns = self._tick_ns = _tick_ns(self._state(), now_ns)
            if now_ns - last_ns >= every_ns and len(self._intake) == 0:
                last_ns = now_ns
                self._intake.put(ClockTicked(now_ns))
            await self._nap(last_ns + every_ns - now_ns)

    async def _nap(self, left_ns: int) -> None:
        """Wait a second of the clock. Virtual time: wait until a step needs a tick sooner, or the next one is due."""
        if self._clock.participant is None:
            await asyncio.sleep(max(self._clock.real_s(BUSY_TICK_NS), LEAST_NAP_S))
            return
        self._busier.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(left_ns, BUSY_TICK_NS) / SECOND_NS):
                await self._busier.wait()

    async def probe(self) -> None:
        """Return when a tick was stepped and everything before it is in the journal."""
        tick = ClockTicked(self._clock.now_ns())
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._probes[id(tick)] = done  # the watchdog and a stop may probe at the same time
        try:
            self._intake.put(tick)
            await done
        finally:
            del self._probes[id(tick)]
        await self._writer.beat()

    async def until(self, reached: Callable[[State[Any]], bool]) -> None:
        """Return after the first step whose state satisfies `reached`."""
        while not reached(self._state()):
            self._stepped.clear()
            await self._stepped.wait()


def _tick_ns(state: State[Any], now_ns: int) -> int:
    """The interval of ticks in this state at this time."""
    waits = state.ask is not None or state.basket.waiting is not None or bool(state.pending_bars)
    if state.orders or state.works or waits or state.risk.stopping:
        return BUSY_TICK_NS
    session = state.session.session
    near = session is None or session.open_ns - AROUND_NS <= now_ns < session.close_ns + AROUND_NS
    return HOLDING_TICK_NS if state.book.positions and near else IDLE_TICK_NS
