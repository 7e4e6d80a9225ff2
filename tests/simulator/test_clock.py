"""The simulated clock: who sleeps on it wakes when it is moved, though it stands still otherwise."""

from __future__ import annotations

import asyncio

from simulator.clock import SimClock
from strategies.kit.units import SECOND_NS

LIMIT_S = 30.0  # generous: nothing here is measured


async def test_who_sleeps_on_a_clock_that_stands_still_wakes_when_it_is_moved() -> None:
    clock = SimClock.starting_now(0, 1e-6)
    sleeper = asyncio.create_task(clock.sleep_until(3_600 * SECOND_NS))
    await asyncio.sleep(0)
    clock.jump_to(3_600 * SECOND_NS)
    await asyncio.wait_for(sleeper, LIMIT_S)
    assert clock.now_ns() >= 3_600 * SECOND_NS
