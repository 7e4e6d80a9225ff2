"""A finished sweep, or a rule's search, read from its folder: many settings of one policy and their joint result.

One file, written at the end, holds it all: `sweep.json`, or `trials.json` of a rule. The result of the best of many is
shown only in its verdict: as a figure in a list it would flatter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from daemon.library.listed import FINISHED, STUDY, ListedRun, as_text
from daemon.library.run_files import read_whole

VALUES_SHOWN = 6  # values shown of one setting


class _Cell(msgspec.Struct):
    rules: dict[str, Any] = {}  # of a sweep
    values: dict[str, Any] = {}  # of a rule


class _Grid(msgspec.Struct):
    strategy: str
    bars: str
    words: str
    version: str = ""
    cells: tuple[_Cell, ...] = ()
    trials: tuple[_Cell, ...] = ()


def read_grid(file: Path, name: str) -> ListedRun:
    """Return the study. Raises ValueError for a damaged file, OSError."""
    grid, written_s = read_whole(file, _Grid), file.lstat().st_mtime
    variations = _variations(grid)
    return ListedRun(
        id=name,
        kind=STUDY,
        folder=str(file.parent),
        state=FINISHED,
        strategy=grid.strategy,
        version=grid.version,
        data=grid.bars,
        began_s=written_s,
        ended_s=written_s,
        verdict=grid.words,
        changed=variations,
        brief=(f"{len(grid.cells) or len(grid.trials)} sets", *(f"{key}={text}" for key, text in variations.items())),
    )


def read_parameters(file: Path) -> dict[str, str]:
    """Return the varied settings, by dotted key. Raises as `read_grid`."""
    return _variations(read_whole(file, _Grid))


def _variations(grid: _Grid) -> dict[str, str]:
    """Return the values of each setting in order: all if few, else the first and the last."""
    sets = [cell.rules or cell.values for cell in (*grid.cells, *grid.trials)]
    texts = {}
    for key in dict.fromkeys(key for one in sets for key in one):
        values = [as_text(value) for value in sorted({one[key] for one in sets if key in one}, key=_order)]
        few = values if len(values) <= VALUES_SHOWN else [values[0], "…", values[-1]]
        texts[key] = ", ".join(few)
    return texts


def _order(value: Any) -> tuple[bool, Any]:
    return (False, value) if isinstance(value, int | float) else (True, str(value))
