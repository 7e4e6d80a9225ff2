"""The file of a panic: whatever stands in its place, the desk stands down once and follows no link."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from daemon.host import panic_marker
from daemon.host.panic_marker import (
    ASIDE,
    FLAT,
    LETTERS_MOST,
    MARKER,
    Notice,
    leave,
    obey,
    outcome,
    panic_asker,
    set_aside,
)
from tests.support.alpaca.rest_desk import eventually


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panic_marker, "LOOK_S", 0.001)


class Followed:
    """What `obey` did, and whether the file was there: (what, present)."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, list[tuple[str, bool]]()

    async def durable(self) -> None:
        self.note("durable")

    def note(self, what: str) -> None:
        self.seen.append((what, (self.folder / MARKER).exists()))

    async def __aenter__(self) -> Self:
        def failed(why: str) -> None:
            self.note(f"failed: {why}")

        self.task = asyncio.create_task(obey(Notice(self.folder), self.note, failed, self.durable))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    def what(self) -> list[str]:
        return [what for what, _ in self.seen]

    async def gone(self) -> bool:
        await eventually(lambda: self.seen != [] and not any(self.folder.iterdir()))
        return True


def test_what_was_left_is_noticed_and_set_aside(tmp_path: Path) -> None:
    assert panic_asker(tmp_path) == ""
    first = leave(tmp_path, "ann")
    second = leave(tmp_path, "bob")  # while the first one lives it says the same
    assert panic_asker(tmp_path) == "ann"
    set_aside(tmp_path)
    set_aside(tmp_path)
    assert (panic_asker(tmp_path), outcome(tmp_path)) == ("", None)
    second.end(FLAT)
    assert outcome(tmp_path) is None
    first.end("not flat")
    first.end(FLAT)
    assert outcome(tmp_path) == "ann: not flat"


def test_of_two_panics_one_after_the_other_the_last_one_counts(tmp_path: Path) -> None:
    leave(tmp_path, "ann").end("not flat")
    leave(tmp_path, "bob").end(FLAT)
    assert panic_asker(tmp_path) == "bob"
    set_aside(tmp_path)
    assert outcome(tmp_path) == FLAT


def test_a_link_in_its_place_is_neither_written_through_nor_read_and_counts_as_a_panic(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("secret")
    (tmp_path / MARKER).symlink_to(victim)
    leave(tmp_path, "ann").end(FLAT)
    assert victim.read_text() == "secret"
    assert "secret" not in panic_asker(tmp_path)
    assert panic_asker(tmp_path)
    set_aside(tmp_path)
    assert (panic_asker(tmp_path), victim.read_text(), outcome(tmp_path)) == ("", "secret", None)


def living_panic(folder: Path) -> subprocess.Popen[bytes]:
    """A process that has left its file and lives."""
    script = "import sys, time, pathlib; from daemon.host.panic_marker import leave; "
    script += "kept = leave(pathlib.Path(sys.argv[1]), 'ann'); print('left', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as output:
        assert output.readline() == b"left\n"
    return process


@pytest.mark.usefixtures("quick")
async def test_a_panic_that_was_killed_has_failed_as_soon_as_it_is_gone(tmp_path: Path) -> None:
    panic = living_panic(tmp_path)
    async with Followed(tmp_path) as followed:
        await eventually((tmp_path / ASIDE).exists)
        await asyncio.sleep(0.05)
        assert followed.what() == ["ann", "durable"]
        panic.kill()
        panic.wait(10)
        assert await followed.gone()
    assert followed.what() == ["ann", "durable", "failed: ann: ended without a result", "durable"]


@pytest.mark.usefixtures("quick")
async def test_a_panic_that_succeeded_leaves_nothing_to_do(tmp_path: Path) -> None:
    marker = leave(tmp_path, "ann")
    async with Followed(tmp_path) as followed:
        await eventually((tmp_path / ASIDE).exists)
        marker.end(FLAT)
        assert await followed.gone()
    assert followed.what() == ["ann", "durable"]


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file of this process takes a byte more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("quick", "full_disk")
@pytest.mark.parametrize(("result", "told"), [(FLAT, []), ("not flat", ["failed: somebody: ended without a result"])])
async def test_on_a_full_disk_a_panic_is_alive_until_it_ends_and_then_flat_or_not(
    tmp_path: Path, result: str, told: list[str]
) -> None:
    marker = leave(tmp_path, "ann")
    an_age_ago = time.time() - panic_marker.UNLOCKED_S - 1
    os.utime(tmp_path / MARKER, (an_age_ago, an_age_ago))
    async with Followed(tmp_path) as followed:
        await eventually((tmp_path / ASIDE).exists)
        await asyncio.sleep(0.05)
        assert followed.what() == ["somebody", "durable"]
        marker.end(result)
        assert await followed.gone()
    assert followed.what()[2:3] == told


@pytest.mark.usefixtures("quick")
async def test_a_desk_that_starts_later_learns_of_the_panic_and_of_its_result(tmp_path: Path) -> None:
    leave(tmp_path, "ann").end("not flat")
    async with Followed(tmp_path) as followed:
        assert await followed.gone()
    assert followed.what() == ["ann", "durable", "failed: ann: not flat", "durable"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("clock", [1, -1])  # -1: set back since
@pytest.mark.parametrize("text", [b"rltraderctl panic, user id 0", b"", b"\xff\xfe"])
async def test_a_file_of_an_older_version_or_a_damaged_one_has_failed_once_no_panic_lives_that_long(
    tmp_path: Path, text: bytes, clock: int
) -> None:
    (tmp_path / MARKER).write_bytes(text)
    async with Followed(tmp_path) as followed:
        await eventually((tmp_path / ASIDE).exists)
        await asyncio.sleep(0.05)
        assert len(followed.seen) == 2
        an_age_ago = time.time() - clock * (panic_marker.UNLOCKED_S + 10)
        os.utime(tmp_path / ASIDE, (an_age_ago, an_age_ago))
        assert await followed.gone()
    assert followed.what()[2].endswith("ended without a result")


@pytest.mark.parametrize("text", [b"", b"\x1b[2Jann\n", b"\xff\xfe" * 5000])
def test_what_stands_in_it_is_shown_in_short_and_printable(tmp_path: Path, text: bytes) -> None:
    (tmp_path / MARKER).write_bytes(text)
    notice = panic_asker(tmp_path)
    assert notice
    assert notice.isprintable()
    assert len(notice) <= LETTERS_MOST


def test_a_pipe_in_its_place_stops_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / MARKER)
    assert panic_asker(tmp_path)


@pytest.mark.usefixtures("quick")
async def test_the_desk_stands_down_before_the_file_goes_and_for_what_cannot_go_once(tmp_path: Path) -> None:
    async with Followed(tmp_path) as followed:
        leave(tmp_path, "ann").end(FLAT)
        assert await followed.gone()
        assert followed.seen == [("ann", True), ("durable", True)]
        (tmp_path / MARKER).mkdir()  # which unlink leaves there
        an_age_ago = time.time() - panic_marker.UNLOCKED_S - 1
        os.utime(tmp_path / MARKER, (an_age_ago, an_age_ago))
        await eventually(lambda: len(followed.seen) == 6)
        await asyncio.sleep(0.05)
        assert len(followed.seen) == 6
