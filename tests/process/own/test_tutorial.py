"""docs/TUTORIAL.md word for word: its commands typed into terminals, its promised output compared loosely."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.support.own.tutorial import Typed, blocks_of, missing
from tests.support.paths import REPOSITORY


def test_the_tutorial_does_what_it_promises(tmp_path: Path) -> None:
    home = tmp_path / "first"
    home.mkdir()
    known = {name: value for name, value in os.environ.items() if not name.startswith(("RLTRADER_", "APCA_"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = known | {"HOME": str(tmp_path), "PATH": path, "OMP_NUM_THREADS": "1"}
    running: list[Typed] = []
    wrong: dict[str, object] = {}
    place = home
    try:
        for block in blocks_of(REPOSITORY / "docs" / "TUTORIAL.md"):
            typed = Typed(block, place, environment)
            if block.until:
                running.append(typed)
            typed.wait()
            if lines := missing(block.promised, typed.shown):
                wrong[block.script] = (lines, typed.shown)
            if "cd " in block.script:
                place = home / "sma_cross"
    finally:
        for typed in reversed(running):
            typed.interrupt()
    assert wrong == {}
