"""How fast the publisher brings a journal's experience into Redis, each entry synced before it counts. `make bench`.

A journal of a small desk that decides each minute, and a real Redis with the installed configuration (`appendfsync
always`). References of the same run and disk: a bare write with fsync, the same entries by a bare pipeline, and the
journal's steps without Redis.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from daemon.experience.experience import Experience, to_entry
from daemon.experience.publisher import BATCH, Publisher
from tests.support.core.share_bars import SPEC, ShareBars
from tests.support.desks.share_bar_run import toy_on
from tests.support.outside.redis_server import running
from tests.support.outside.stream import Logged, walked
from tests.support.toy.registered import registered

SESSIONS, BARS = 10, 390
FSYNCS = 500


def fsyncs_per_s(folder: Path, size: int) -> float:
    """Appended records of `size` bytes, each synced."""
    with (folder / "bare").open("ab") as file:
        began = time.perf_counter()
        for _ in range(FSYNCS):
            file.write(b"x" * size)
            file.flush()
            os.fsync(file.fileno())
        return FSYNCS / (time.perf_counter() - began)


def xadds_per_s(client: Any, experiences: list[Experience]) -> float:
    """The same entries, ready made, in transactions of the publisher's size."""
    made = [(b"%d-0" % e.row, to_entry(e, 0)) for e in experiences]
    began = time.perf_counter()
    for start in range(0, len(made), BATCH):
        pipeline = client.pipeline(transaction=True)
        for identifier, entry in made[start : start + BATCH]:
            pipeline.xadd("bare", entry, id=identifier)
        pipeline.execute()
    return len(made) / (time.perf_counter() - began)


def measured(folder: Path, sessions: int = SESSIONS, bars: int = BARS) -> dict[str, float]:
    """All figures of one run; rates are per second, one of them per second of the publisher's own CPU time."""
    state = folder / "state"
    toy_on(folder, sessions, bars).run(state, snapshots=5000)
    began = time.perf_counter()
    experiences = walked(state)
    stepped_s = time.perf_counter() - began
    size = sum(len(value) for value in to_entry(experiences[0], 0).values())
    with running(folder / "redis") as server, server.client() as client:
        bare = xadds_per_s(client, experiences)
        publisher = Publisher(state, folder, server.client("rltrader-publisher"), Logged().log)
        began, began_cpu = time.perf_counter(), time.process_time()
        while not publisher.caught_up:
            publisher.turn()
        published_s, published_cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
        publisher.close()
    return {
        "transitions": publisher.published,
        "bytes_each": size,
        "fsyncs_per_s": round(fsyncs_per_s(folder, size)),
        "bare_xadds_per_s": round(bare),
        "stepped_per_s": round(len(experiences) / stepped_s),
        "published_per_s": round(publisher.published / published_s),
        "published_per_cpu_s": round(publisher.published / published_cpu_s),
    }


def main() -> int:
    """Print the figures as JSON."""
    with registered(**{SPEC.name: ShareBars.__module__}), tempfile.TemporaryDirectory(prefix="r") as folder:
        print(json.dumps({"publisher": measured(Path(folder))}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
