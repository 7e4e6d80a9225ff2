"""One policy of the store under many desk rules: each cell is a dry run, and all of them are judged together.

Nothing is written into a configuration.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from daemon.host.whole_files import write_whole
from training.rl.pool import Flag, stop_on_signals
from training.runs.desk_rules import trading_of
from training.runs.folder import alone, code_version
from training.runs.ledger import settings_digest
from training.study.progress import phase, reported
from training.sweep.cells import Cell, Swept
from training.sweep.grid import Value, cells_of
from training.sweep.judge import judged
from training.sweep.page import page
from training.sweep.play import play_cells
from training.sweep.ready import Asked, Ready, make_ready

RUNS = Path("runs")
CELLS_FILE, SWEEP_FILE, PAGE_FILE, LOCK_FILE = "cells.jsonl", "sweep.json", "sweep.html", ".lock"
Listener = Callable[[Any], None]


def run_sweep(asked: Asked, listen: Listener, flag: Flag | None = None) -> tuple[Swept, Path]:
    """Play all cells, or those that a stopped sweep left; the result, also written, and its folder.

    Raises:
        Stopped: SIGTERM, SIGINT or `flag`; the same call goes on.
        LedgerError, RunFolderError, and what `make_ready` raises.
    """
    stop, cells = flag or threading.Event(), cells_of(asked.axes)
    for rules in cells:  # a value out of bounds is reported before anything long begins
        trading_of(asked.strategy, asked.config, rules)
    with stop_on_signals(stop):
        with reported("", listen), phase(f"reading {asked.bars.name}"):
            ready = make_ready(asked)
        digest = settings_digest(ready.identity())
        folder = asked.folder or RUNS / f"sweep-{asked.strategy}-{digest[:8]}"
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / LOCK_FILE, f"{folder} is in use by another sweep: wait for it, or use --out"):
            played = _played(ready, cells, digest, folder, listen, stop)
            swept = judged(ready, played, digest)
            write_whole(folder / SWEEP_FILE, msgspec.json.format(msgspec.json.encode(swept), indent=1) + b"\n")
            write_whole(folder / PAGE_FILE, page(swept, asked.axes).encode())
    return swept, folder


def _played(
    ready: Ready, cells: Sequence[Mapping[str, Value]], digest: str, folder: Path, listen: Listener, stop: Flag
) -> list[Cell]:
    """The cell without any change, then all cells in their order; each is kept as soon as it is done."""
    path, wanted = folder / CELLS_FILE, [{}, *map(dict, cells)]
    made = settings_digest({"sweep": digest, "code": code_version(ready.asked.strategy)})
    kept = {_key(cell.rules): cell for cell in _kept(path) if cell.sweep == made}
    left = [rules for rules in wanted if _key(rules) not in kept]
    listen(f"{len(cells)} cells over {len(ready.dates)} sessions, {len(wanted) - len(left)} of them done; {folder}")
    with path.open("a+b", buffering=0) as book:
        if book.tell() and not path.read_bytes().endswith(b"\n"):  # a line that a kill cut off
            book.write(b"\n")

        def keep(news: Any) -> None:
            if isinstance(news, Cell):
                cell = msgspec.structs.replace(news, sweep=made)
                kept[_key(cell.rules)] = cell
                book.write(msgspec.json.encode(cell) + b"\n")
            listen(news)

        play_cells(ready, left, keep, stop)
    return [kept[_key(rules)] for rules in wanted]


def _key(rules: Mapping[str, Value]) -> str:
    return msgspec.json.encode(dict(rules), order="deterministic").decode()


def _kept(path: Path) -> list[Cell]:
    """The cells of an earlier start; a line that was cut off does not count."""
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with contextlib.suppress(msgspec.DecodeError):
            found.append(msgspec.json.decode(line, type=Cell))
    return found
