from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.years import __main__ as command
from tests.years.__main__ import Running
from tests.years.loop import DAY_NS, Endless, Process, YearsLoop, running


async def _asks_at_once() -> None:
    while True:  # noqa: ASYNC110 (it is what this does)
        await asyncio.sleep(0)


async def _nears_a_moment() -> None:
    while True:  # noqa: ASYNC110
        await asyncio.sleep(1e-6)


async def _rings_by_timers() -> None:
    loop = asyncio.get_running_loop()

    def ring() -> None:
        loop.call_later(1e-6, ring)

    ring()
    await asyncio.sleep(3600.0)


async def _a_year() -> None:
    for _ in range(400):
        for _ in range(200):
            await asyncio.sleep(60.0)
        await asyncio.sleep(DAY_NS / 1e9)


async def _main(spins: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await asyncio.sleep(3600.0)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, YearsLoop)
    await loop.spawn(Process("desk"), spins())


def _live(spins: Callable[[], Coroutine[Any, Any, None]], _: Path) -> str:
    loop = YearsLoop(0, 1)
    loop.turns_a_day = 50_000
    loop.allow_a_day()
    with running(loop):
        try:
            loop.run_until_complete(_main(spins))
        except Endless as error:
            return str(error)
    return "it ended"


@pytest.mark.parametrize(
    ("spins", "told_of"),
    [
        (_asks_at_once, "_asks_at_once test_loop.py:"),
        (_nears_a_moment, "_nears_a_moment test_loop.py:"),
        (_rings_by_timers, "_rings_by_timers.<locals>.ring"),
    ],
)
def test_a_run_without_an_end_says_so_with_what_it_did(
    spins: Callable[[], Coroutine[Any, Any, None]], told_of: str
) -> None:
    text, _ = Running(partial(_live, spins)).result()
    assert "50000 turns within a day, at 1970-01-01 01:00:0" in text
    assert "time went on by 0.00" in text
    assert f"x desk: {told_of}" in text


def test_many_turns_over_many_days_are_no_endless_run() -> None:
    loop = YearsLoop(0, 1)
    loop.turns_a_day = 1_000
    loop.allow_a_day()
    with closing(loop), running(loop):
        loop.run_until_complete(_a_year())
    assert loop.turns > 50 * loop.turns_a_day


class _Run:
    """A run that does not return, though it says that it began; to be pickled."""

    def __init__(self, began: Path, call: Callable[[], None]) -> None:
        self.began, self.call = began, call

    def __call__(self, _: Path) -> None:
        self.began.touch()
        self.call()


def _never_comes() -> None:
    threading.Event().wait()


def _goes_in_a_circle() -> None:
    while True:
        math.sqrt(2.0)


def _start(folder: Path, call: Callable[[], None]) -> Running:
    it = Running(_Run(folder / "began", call))
    while not (folder / "began").exists():
        time.sleep(0.05)
    return it


@pytest.mark.parametrize(
    ("call", "limit", "words"),
    [(_never_comes, "IDLE_S", "s without any"), (_goes_in_a_circle, "LIMIT_S", "s of the processor, at")],
)
def test_a_call_that_does_not_return_is_named_and_its_process_ends(
    call: Callable[[], None], limit: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, limit, 0.5)
    monkeypatch.setattr(command, "STEP_S", 0.2)
    monkeypatch.setattr(command, "LAST_WORDS_S", 1.0)
    it = _start(tmp_path, call)
    text, _ = it.result()
    assert text.startswith("no end after ")
    assert words in text
    assert f"in {call.__name__}\n" in text
    assert not it.process.is_alive()


def test_a_machine_that_slept_makes_no_run_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = _start(tmp_path, _goes_in_a_circle)
    now = time.monotonic()
    with monkeypatch.context() as patch:
        for hours in range(1, 4):
            patch.setattr(time, "monotonic", lambda later=hours: now + 3600.0 * later)
            assert not it.late()
    it.process.kill()
    it.process.join()
