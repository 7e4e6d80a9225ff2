"""The tutorials word for word: their commands typed into terminals, their promised output compared loosely."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.support.own.tutorial import Typed, blocks_of, missing
from tests.support.paths import REPOSITORY


def followed(page: str, home: Path, package: str = "") -> dict[str, object]:
    """Type the page's blocks in `home`, and in its folder `package` from the first `cd` on.

    Returns what was promised and not shown, by block.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("RLTRADER_", "APCA_"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = variables | {"HOME": str(home.parent), "PATH": path, "OMP_NUM_THREADS": "1"}
    running: list[Typed] = []
    wrong: dict[str, object] = {}
    place = home
    try:
        for block in blocks_of(REPOSITORY / "docs" / page):
            typed = Typed(block, place, environment)
            if block.until:
                running.append(typed)
            typed.wait()
            if lines := missing(block.promised, typed.shown):
                wrong[block.script] = (lines, typed.shown)
            if "cd " in block.script:
                place = home / package
    finally:
        for typed in reversed(running):
            typed.interrupt()
    return wrong


def test_the_tutorial_does_what_it_promises(tmp_path: Path) -> None:
    home = tmp_path / "first"
    home.mkdir()
    assert followed("TUTORIAL.md", home, "sma_cross") == {}


def test_two_strategies_trade_one_account_as_the_page_promises(tmp_path: Path) -> None:
    home = tmp_path / "two"
    for store in (REPOSITORY / "onnx_models", REPOSITORY / "tests" / "fixture_policy" / "onnx_models"):
        shutil.copytree(store, home / "onnx_models", dirs_exist_ok=True)
    assert followed("TWO_STRATEGIES.md", home) == {}
