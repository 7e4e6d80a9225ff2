"""The file of a panic: whatever stands in its place, the desk stands down once and follows no link."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from daemon.host import panic_marker
from daemon.host.panic_marker import LETTERS_MOST, MARKER, clear, leave, noticed, obey
from tests.support.alpaca.rest_desk import eventually


def test_what_was_left_is_noticed_and_taken_away(tmp_path: Path) -> None:
    assert noticed(tmp_path) == ""
    leave(tmp_path, "ann")
    leave(tmp_path, "bob")  # it says the same
    assert noticed(tmp_path) == "ann"
    clear(tmp_path)
    clear(tmp_path)
    assert noticed(tmp_path) == ""


def test_a_link_in_its_place_is_neither_written_through_nor_read_and_counts_as_a_panic(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("secret")
    (tmp_path / MARKER).symlink_to(victim)
    leave(tmp_path, "ann")
    assert victim.read_text() == "secret"
    assert "secret" not in noticed(tmp_path)
    assert noticed(tmp_path)
    clear(tmp_path)
    assert (noticed(tmp_path), victim.read_text()) == ("", "secret")


@pytest.mark.parametrize("text", [b"", b"\x1b[2Jann\n", b"\xff\xfe" * 5000])
def test_what_stands_in_it_is_shown_in_short_and_printable(tmp_path: Path, text: bytes) -> None:
    (tmp_path / MARKER).write_bytes(text)
    told = noticed(tmp_path)
    assert told
    assert told.isprintable()
    assert len(told) <= LETTERS_MOST


def test_a_pipe_in_its_place_stops_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / MARKER)
    assert noticed(tmp_path)


async def test_the_desk_stands_down_before_the_file_goes_and_for_what_cannot_go_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panic_marker, "LOOK_S", 0.001)
    seen: list[tuple[str, bool]] = []

    async def durable() -> None:
        seen.append(("durable", (tmp_path / MARKER).exists()))

    def stand_down(who: str) -> None:
        seen.append((who, (tmp_path / MARKER).exists()))

    task = asyncio.create_task(obey(tmp_path, stand_down, durable))
    leave(tmp_path, "ann")
    await eventually(lambda: len(seen) == 2 and not (tmp_path / MARKER).exists())
    assert seen == [("ann", True), ("durable", True)]
    (tmp_path / MARKER).mkdir()  # which unlink leaves there
    await eventually(lambda: len(seen) == 4)
    for _ in range(50):
        await asyncio.sleep(0.001)
    assert len(seen) == 4
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
