"""The loop's lag against hand calculation on a played clock, and once against a loop that is really held up."""

from __future__ import annotations

import asyncio
import time

import pytest

from daemon.operator.metrics.loop_lag import BOUNDS_S, LoopLag


class PlayedTime:
    """A clock that a sleep moves on by what it was asked for and the next of `late`; ends the run after the last."""

    def __init__(self, late: list[float]) -> None:
        self.now = 1000.0
        self.asked: list[float] = []
        self._late = late

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        if not self._late:
            raise asyncio.CancelledError
        self.asked.append(seconds)
        self.now += seconds + self._late.pop(0)


async def measure(late: list[float]) -> tuple[LoopLag, PlayedTime]:
    clock = PlayedTime(late)
    lag = LoopLag(clock.monotonic, clock.sleep)
    with pytest.raises(asyncio.CancelledError):
        await lag.run()
    return lag, clock


async def test_what_a_sleep_lasted_too_long_is_the_lag() -> None:
    lag, _ = await measure([0.0001, 0.0301, 0.7])
    counts = dict(zip((*BOUNDS_S, "all"), lag.buckets.cumulative(), strict=True))
    assert counts[0.0005] == 1
    assert counts[0.025] == 1
    assert counts[0.05] == 2
    assert counts[0.5] == 2
    assert counts[1.0] == counts["all"] == 3
    assert lag.buckets.total_s == pytest.approx(0.7302)


async def test_the_maximum_is_that_of_the_last_minute() -> None:
    lag, clock = await measure([0.9, 0.2, 0.3, *[0.0] * 10])
    assert lag.newest_max_s() == pytest.approx(0.9)
    clock.now = 1000.0 + 0.1 + 0.9 + 60.05  # a minute after the first, not yet one after the others
    assert lag.newest_max_s() == pytest.approx(0.3)
    clock.now += 60.0
    assert lag.newest_max_s() == 0.0


async def test_memory_stays_bounded_while_hours_pass() -> None:
    lag, _ = await measure([0.001 * (n % 7) for n in range(20_000)])
    assert lag.buckets.cumulative()[-1] == 20_000
    assert len(lag._peaks) <= 700


async def test_the_loop_is_never_woken_more_than_ten_times_a_second() -> None:
    _, clock = await measure([0.0] * 50)
    assert min(clock.asked) >= 0.1


async def test_a_loop_that_is_held_up_is_seen_to_be_late() -> None:
    lag = LoopLag()
    watching = asyncio.create_task(lag.run())
    await asyncio.sleep(0)
    time.sleep(0.3)  # noqa: ASYNC251
    await asyncio.sleep(0.01)
    watching.cancel()
    assert lag.newest_max_s() > 0.15
