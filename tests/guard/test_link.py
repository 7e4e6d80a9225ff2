"""The desk's side: heartbeats go out over each path, and a guard that falls silent is an alarm."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from daemon.config.tables import GuardTable
from daemon.operator.guard_link import GuardLink
from daemon.operator.heartbeat import GuardBeat, Heartbeat, genuine, put, read_newest, sign
from daemon.operator.signing import parse_key
from daemon.operator.submitter import Submitter
from strategies.kit.contract import Session
from tests.support.core.resting import protected

KEY = parse_key("5a" * 32, "the key")
SECOND = 1_000_000_000
TABLE = GuardTable(prefix="guard", beat_s=10, silence_s=60)


class Desk:
    """A submitter of a desk that holds two shares, with a clock by hand, and what was logged and published."""

    def __init__(self, folder: Path | None = None) -> None:
        desk, _ = protected()
        self.now_s = 100.0
        self.machine = SimpleNamespace(core=desk.core)
        self.state = desk.state
        self.log: list[tuple[str, dict[str, Any]]] = []
        self.published: list[Heartbeat] = []
        table = TABLE if folder is None else GuardTable(prefix="guard", drop_dir=str(folder), beat_s=10, silence_s=60)
        self.link = GuardLink(
            table,
            "paper-1",
            KEY,
            cast(Submitter, self),
            self.published.append,
            self.noted,
            monotonic=lambda: self.now_s,
        )

    def now_ns(self) -> int:
        return round(self.now_s * SECOND)

    def noted(self, name: str, **fields: Any) -> None:
        self.log.append((name, fields))

    def guard_says(self, counter: int, life: int = 1, time_s: float | None = None) -> bytes:
        time_ns = round((self.now_s if time_s is None else time_s) * SECOND)
        beat = GuardBeat(desk="paper-1", life=life, counter=counter, time_ns=time_ns, state="hears")
        return msgspec.json.encode(sign(beat, KEY))


async def live(desk: Desk, seconds: float, each_beat: Callable[[], None] = lambda: None) -> None:
    """Let the link work while its clock passes, a beat at a time."""
    running = asyncio.ensure_future(desk.link.run())
    try:
        for _ in range(round(seconds / 10)):
            desk.now_s += 10
            each_beat()
            desk.link._look()
            desk.link._send(desk.link._beat(leaving=False))
            await asyncio.sleep(0)
            if desk.link._exchange is not None:  # on threads, whose time is no clock's
                await asyncio.wait({desk.link._exchange})
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_guard_that_is_heard_is_no_alarm_and_one_that_falls_silent_is_one_once() -> None:
    desk, counter = Desk(), iter(range(1, 1000))
    await live(desk, 300, lambda: desk.link.hear(desk.guard_says(next(counter))))
    assert desk.log == []
    await live(desk, 300)
    assert [name for name, _ in desk.log] == ["guard_silent"]
    await live(desk, 30, lambda: desk.link.hear(desk.guard_says(next(counter))))
    assert [name for name, _ in desk.log] == ["guard_silent", "guard_heard"]


async def test_a_guard_that_stays_silent_is_told_again_in_each_session() -> None:
    desk = Desk()
    sessions = (Session(f"2026-11-{day}", day, day + 1) for day in (23, 24, 25))
    for session in sessions:
        desk.state = replace(desk.state, session=replace(desk.state.session, session=session))
        await live(desk, 300)
    assert [name for name, _ in desk.log] == ["guard_silent"] * 3
    await live(desk, 30, lambda: desk.link.hear(desk.guard_says(round(desk.now_s))))
    assert [name for name, _ in desk.log][3:] == ["guard_heard"]


async def test_a_desk_whose_host_stood_still_gives_its_guard_the_whole_time_again() -> None:
    desk, counter = Desk(), iter(range(1, 1000))
    await live(desk, 100, lambda: desk.link.hear(desk.guard_says(next(counter))))
    desk.now_s += 3600  # the host was frozen, or the loop hung
    await live(desk, 50)
    assert desk.log == []
    await live(desk, 30)
    assert [name for name, _ in desk.log] == ["guard_silent"]


async def test_what_is_repeated_old_or_not_signed_is_no_guard() -> None:
    desk = Desk()
    once = desk.guard_says(1)
    desk.link.hear(once)
    await live(desk, 100, lambda: desk.link.hear(once))
    assert [name for name, _ in desk.log] == ["guard_silent"]
    other = Desk()
    await live(other, 100, lambda: other.link.hear(other.guard_says(int(other.now_s), time_s=other.now_s - 90)))
    assert [name for name, _ in other.log] == ["guard_silent"]
    forged = Desk()
    await live(forged, 100, lambda: forged.link.hear(forged.guard_says(int(forged.now_s)).replace(b"hears", b"hearx")))
    assert [name for name, _ in forged.log] == ["guard_silent"]


async def test_of_two_guards_either_is_enough_whichever_began_first() -> None:
    desk, counter = Desk(), iter(range(1, 1000))
    desk.link.hear(desk.guard_says(500, life=9))
    await live(desk, 300, lambda: desk.link.hear(desk.guard_says(next(counter), life=3)))
    assert desk.log == []


async def test_each_heartbeat_counts_one_more_and_is_signed() -> None:
    desk = Desk()
    await live(desk, 50)
    assert [beat.counter for beat in desk.published] == list(range(1, len(desk.published) + 1))
    for beat in desk.published:
        assert genuine(msgspec.json.encode(beat), Heartbeat, "paper-1", KEY) == beat
        assert set(beat.holds) == {"SPY", "QQQ"}
        assert not beat.leaving


async def test_by_a_folder_both_hear_each_other(tmp_path: Path) -> None:
    desk, counter = Desk(tmp_path), iter(range(1, 1000))

    def guard_writes() -> None:
        beat = GuardBeat(desk="paper-1", life=1, counter=next(counter), time_ns=desk.now_ns(), state="hears")
        put(tmp_path, sign(beat, KEY))

    await live(desk, 300, guard_writes)
    assert desk.log == []
    beat = read_newest(tmp_path, Heartbeat, "paper-1", KEY)
    assert beat is not None
    assert beat.counter > 20


async def test_a_folder_that_is_gone_is_told_once_and_ends_nothing(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "gone")
    await live(desk, 40)
    assert [name for name, _ in desk.log] == ["heartbeat_failed"]
    assert len(desk.published) >= 4


async def test_a_stop_by_a_person_is_said_and_a_crash_is_not(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    await live(desk, 20)
    assert [beat.leaving for beat in desk.published[-1:]] == [False]
    desk.state = replace(desk.state, risk=replace(desk.state.risk, stopping="SIGTERM"))
    await live(desk, 20)
    assert [beat.leaving for beat in desk.published[-1:]] == [True]
    beat = read_newest(tmp_path, Heartbeat, "paper-1", KEY)
    assert beat is not None
    assert beat.leaving
