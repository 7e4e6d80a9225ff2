"""The operator's thread: what fails or hangs on it is reported, begun again or left behind, and never waited for."""

from __future__ import annotations

import asyncio
import errno
import threading

import pytest

from daemon.operator.side_thread import SideThread


def test_a_thread_without_a_loop_is_told_and_holds_up_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def runner() -> None:
        raise OSError(errno.EMFILE, "no file is left")

    monkeypatch.setattr(asyncio, "Runner", runner)
    problems: list[tuple[str, str]] = []

    async def idle() -> None:
        await asyncio.Event().wait()

    side = SideThread([("idle", idle)], lambda name, problem: problems.append((name, problem)))
    starting = threading.Thread(target=side.start, daemon=True)
    starting.start()
    starting.join(180)
    assert not starting.is_alive()
    assert side.stop(180)
    ((name, problem),) = problems
    assert name == "operator's thread"
    assert problem.startswith("OSError: [Errno 24]")


def test_what_ends_ends_and_what_hangs_is_left_behind() -> None:
    problems: list[tuple[str, str]] = []
    hung, free = threading.Event(), threading.Event()

    async def hangs() -> None:
        hung.set()
        free.wait(180)

    side = SideThread([("hangs", hangs)], lambda name, problem: problems.append((name, problem)))
    side.start()
    assert hung.wait(180)
    assert not side.stop(0.05)
    free.set()
    assert side.stop(180)
    assert problems == []
