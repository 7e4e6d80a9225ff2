"""Virtual time: it passes when everybody has done what was due, in one order, and waits for what is under way.

Expected values are sums of the sleeps that are asked for, worked out by hand.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.host.time.virtual_time import ClockGone, Participant, VirtualLoop
from simulator.virtual_clock import VirtualClock, virtual_clock

START_NS = 1_730_206_200_000_000_000
SECOND_NS = 1_000_000_000
HOUR_S = 3600.0
_SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    with virtual_clock(START_NS) as new_clock:
        yield new_clock


def run_on(clock: VirtualClock, name: str, work: Callable[[Participant], Any]) -> threading.Thread:
    """Join in the name of a thread and run a coroutine there, on a loop in virtual time."""
    joined = Participant(clock.socket, name)

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: VirtualLoop(joined)) as runner:
            runner.run(work(joined))
        joined.leave()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def since_start(clock: VirtualClock) -> float:
    return (clock.now_ns() - START_NS) / SECOND_NS


def test_an_hour_passes_at_once_and_stands_still_while_its_driver_works(clock: VirtualClock) -> None:
    clock.pass_s(HOUR_S)
    assert since_start(clock) == HOUR_S
    time.sleep(0.01)
    assert since_start(clock) == HOUR_S


def test_two_loops_wake_in_the_order_of_their_times_and_at_one_time_in_the_order_in_which_they_joined(
    clock: VirtualClock,
) -> None:
    woke: list[tuple[str, float]] = []

    def every(name: str, seconds: float) -> threading.Thread:
        async def work(_joined: Participant) -> None:
            for _ in range(3):
                await asyncio.sleep(seconds)
                woke.append((name, since_start(clock)))

        return run_on(clock, name, work)

    threads = [every("two", 2.0), every("three", 3.0)]
    clock.pass_s(100.0)
    for thread in threads:
        thread.join()
    assert woke == [("two", 2.0), ("three", 3.0), ("two", 4.0), ("two", 6.0), ("three", 6.0), ("three", 9.0)]


def test_looks_for_a_change_pass_over_the_time_in_which_nobody_does_anything(clock: VirtualClock) -> None:
    async def work(_joined: Participant) -> None:
        for seconds in (100.2, 0.1, 900.45, 0.75):
            await asyncio.sleep(seconds)

    thread = run_on(clock, "works", work)
    looks = []
    while since_start(clock) < 1001.5:
        clock.pass_look(0.5)
        looks.append(since_start(clock))
    thread.join()
    assert looks == [0.5, 100.5, 1001.0, 1001.5]
    clock.pass_look(0.5)  # nobody is left who could change anything
    assert since_start(clock) == 1002.0


def test_time_waits_for_a_thread_that_works_and_for_bytes_that_nobody_has_read(clock: VirtualClock) -> None:
    here, there = socket.socketpair()
    arrivals: list[tuple[bytes, float]] = []

    def answer() -> None:  # on a thread that time knows of, and slow
        time.sleep(0.05)
        here.sendall(b"x")

    async def asks(_joined: Participant) -> None:
        await asyncio.sleep(5.0)
        await asyncio.to_thread(answer)

    async def hears(_joined: Participant) -> None:
        there.setblocking(False)
        arrivals.append((await asyncio.get_running_loop().sock_recv(there, 1), since_start(clock)))

    threads = [run_on(clock, "hears", hears), run_on(clock, "asks", asks)]
    clock.pass_s(HOUR_S)
    for thread in threads:
        thread.join()
    assert arrivals == [(b"x", 5.0)]
    here.close()
    there.close()


def look_on(path: str, file_name: str) -> None:
    """A further process: it looks at the time every quarter of an hour and writes it down."""
    joined = Participant(path, "looks on")
    with Path(file_name).open("a") as file:
        while joined.sleep_until(joined.now_ns() + 900 * SECOND_NS):
            file.write(f"{joined.now_ns()}\n")
            file.flush()


def joining(clock: VirtualClock, output: Path) -> Any:
    process = _SPAWN.Process(target=look_on, args=(clock.socket, str(output)), daemon=True)
    process.start()
    clock.expect(int(process.pid or 0))
    return process


def test_a_further_process_joins_and_time_waits_for_it(clock: VirtualClock, tmp_path: Path) -> None:
    process = joining(clock, tmp_path / "times")
    assert not clock.left(process.pid)  # it is expected
    clock.pass_s(HOUR_S)
    assert not clock.left(process.pid)
    process.kill()
    process.join()
    clock.pass_s(HOUR_S)  # without it
    assert clock.left(process.pid)
    times = [int(line) - START_NS for line in (tmp_path / "times").read_text().split()]
    assert [ns / SECOND_NS for ns in times] == [900.0, 1800.0, 2700.0, 3600.0]


@pytest.mark.parametrize(("before_s", "seen_s"), [(900.0, [900.0, 4500.0, 5400.0]), (0.0, [4500.0])])
def test_time_passes_without_a_process_that_is_stopped_when_it_is_left_out(
    clock: VirtualClock, tmp_path: Path, before_s: float, seen_s: list[float]
) -> None:
    process = joining(clock, tmp_path / "times")
    if before_s:  # else it is stopped before it has joined
        clock.pass_s(before_s)
    os.kill(int(process.pid or 0), signal.SIGSTOP)
    clock.leave_out(int(process.pid or 0), out=True)
    clock.pass_s(HOUR_S)
    os.kill(int(process.pid or 0), signal.SIGCONT)
    clock.leave_out(int(process.pid or 0), out=False)
    clock.pass_s(900.0)
    process.kill()
    process.join()
    times = [int(line) - START_NS for line in (tmp_path / "times").read_text().split()]
    assert [ns / SECOND_NS for ns in times] == seen_s


def test_a_process_that_ends_before_it_joins_holds_nothing_up(clock: VirtualClock) -> None:
    process = _SPAWN.Process(target=time.sleep, args=(0.0,), daemon=True)
    process.start()
    clock.expect(int(process.pid or 0))
    clock.pass_s(HOUR_S)
    assert process.exitcode == 0 or not process.is_alive()


def test_a_clock_takes_the_processor_to_which_the_fewest_processes_are_tied(monkeypatch: pytest.MonkeyPatch) -> None:
    affinities: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2} if pid == 0 else {2 * (pid % 2)})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _pid, processors: affinities.append(set(processors)))
    with virtual_clock(START_NS):
        assert affinities == [{1}]
    assert affinities == [{1}, {0, 1, 2}]  # at its end it may run anywhere again


def test_a_participant_whose_clock_has_gone_hears_of_it() -> None:
    with virtual_clock(START_NS) as clock:
        joined = Participant(clock.socket, "left behind")
        joined.quiet(START_NS + SECOND_NS)
    with pytest.raises(ClockGone):
        joined.sleep_until(START_NS + 2 * SECOND_NS)
    joined.leave()


def test_the_way_of_a_message_is_drawn_from_the_seed_and_its_key(clock: VirtualClock) -> None:
    def ways(seed: int) -> list[int]:
        moments: list[int] = []

        async def send(_joined: Participant) -> None:
            for key in ("bars", "bars", "orders"):
                start_ns = seeded_clock.now_ns()
                await seeded_clock.on_the_way(key, asked=False)
                moments.append(seeded_clock.now_ns() - start_ns)

        with virtual_clock(START_NS, seed) as seeded_clock:
            thread = run_on(seeded_clock, "sends", send)
            seeded_clock.pass_s(1.0)
            thread.join()
        return moments

    first = ways(7)
    assert first == ways(7) != ways(8)
    assert len(set(first)) == 3
    assert all(1_000_000 <= way <= 41_001_000 for way in first)
