"""A load for benchmarks that shall say what a busy machine does to them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def load(folder: Path) -> Iterator[None]:
    """A machine with other work: a process for each core that computes, and one that writes and syncs 256 KiB."""
    spawn = multiprocessing.get_context("spawn")
    works = [spawn.Process(target=_compute, daemon=True) for _ in range(os.cpu_count() or 1)]
    works.append(spawn.Process(target=_write, args=(str(folder / "load"),), daemon=True))
    for work in works:
        work.start()
    try:
        yield
    finally:
        for work in works:
            work.kill()
            work.join()


def _compute() -> None:
    while True:
        sum(range(100_000))


def _write(path: str) -> None:
    with Path(path).open("wb", buffering=0) as file:
        while True:
            file.seek(0)
            file.write(bytes(1 << 18))
            os.fsync(file.fileno())
