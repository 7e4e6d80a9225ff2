"""How fast the publisher brings a journal's experience into Redis, each entry synced before it counts. `make bench`.

A journal of a small desk that decides each minute, and a real Redis with the installed configuration (`appendfsync
always`). References of the same run and disk: a bare write with fsync, the same entries by a bare pipeline, and the
journal's steps without Redis.

The second table is the desk's side: how long a decision takes from its bar to the durable answer while the publisher, a
process of its own, follows the same journal, and while it is stopped, session by session in turns.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from daemon.core.events import BarClosed, SessionEnded
from daemon.experience.experience import Experience, to_entry
from daemon.experience.publisher import BATCH, Publisher
from tests.support.core.share_bars import SPEC, ShareBars
from tests.support.desks.desk_run import Desk, tape_rows, write_tape
from tests.support.desks.share_bar_run import toy_on
from tests.support.models.online_models import NAME, VERSION, put_momentum
from tests.support.models.swaps import running as running_desk
from tests.support.outside.redis_server import RedisServer, running
from tests.support.outside.stream import Logged, walked
from tests.support.paths import REPOSITORY
from tests.support.toy.registered import registered

SESSIONS, BARS = 10, 390
FSYNCS = 500
TURNS, EVERY_S = 12, 0.004  # sessions of the desk's side, and seconds between two bars


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
    entries = [(b"%d-0" % e.row, to_entry(e, 0)) for e in experiences]
    began = time.perf_counter()
    for start in range(0, len(entries), BATCH):
        pipeline = client.pipeline(transaction=True)
        for identifier, entry in entries[start : start + BATCH]:
            pipeline.xadd("bare", entry, id=identifier)
        pipeline.execute()
    return len(entries) / (time.perf_counter() - began)


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


def decisions(folder: Path, turns: int = TURNS, bars: int = BARS) -> dict[str, float]:
    """Microseconds of a decision next to the publisher and without it, and their ratios, of one run."""
    (folder / "own").mkdir()
    store, tape = put_momentum(folder / "store"), write_tape(folder / "tape.csv", tape_rows(turns, bars, stubs=2))
    desk = Desk(tape, desk__strategy=NAME, paths__models_dir=store, policy__version=VERSION)
    with running(folder / "redis") as server:
        took = asyncio.run(_decided(desk, folder, server))
    figures: dict[str, float] = {"decisions": sum(len(times) for times in took.values())}
    for side, seconds in took.items():
        p50, p99 = np.percentile(np.array(seconds) * 1e6, [50, 99]).tolist()
        figures |= {f"{side}_us_p50": round(p50), f"{side}_us_p99": round(p99)}
    for share in ("p50", "p99"):
        figures[f"with_over_without_{share}"] = round(figures[f"with_us_{share}"] / figures[f"without_us_{share}"], 3)
    return figures


async def _decided(desk: Desk, folder: Path, server: RedisServer) -> dict[str, list[float]]:
    """Feed bar by bar; the publisher is stopped in every other session. Seconds from a bar to its durable answer."""
    took: dict[str, list[float]] = {"with": [], "without": []}
    state, turn = folder / "state", 0
    async with running_desk(desk, state) as run:
        publisher = _publisher(folder, state, server)
        try:
            for event in run.tape:
                decisions_before, began = run.submitter.state.stats.decisions, time.perf_counter()
                run.intake.put(event)
                await run.quiet()
                if run.submitter.state.stats.decisions > decisions_before and isinstance(event, BarClosed):
                    took["without" if turn % 2 else "with"].append(time.perf_counter() - began)
                    await asyncio.sleep(EVERY_S)
                if isinstance(event, SessionEnded):
                    turn += 1
                    publisher.send_signal(signal.SIGSTOP if turn % 2 else signal.SIGCONT)
        finally:
            publisher.kill()
            publisher.wait()
    return took


def _publisher(folder: Path, state: Path, server: RedisServer) -> subprocess.Popen[bytes]:
    """The publisher as it is installed; it begins while the desk warms up."""
    folders = ["--state-dir", str(state), "--own-dir", str(folder / "own"), "--redis", f"unix://{server.socket}"]
    environment = {**os.environ, "REDIS_PASSWORD": server.passwords["rltrader-publisher"]}
    with (folder / "log").open("ab") as log:
        command = [sys.executable, "-m", "daemon.experience", *folders]
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=log)


def main() -> int:
    """Print the figures as JSON."""
    with registered(**{SPEC.name: ShareBars.__module__}), tempfile.TemporaryDirectory(prefix="r") as folder:
        figures = {"publisher": measured(Path(folder))}
    with tempfile.TemporaryDirectory(prefix="r") as folder:
        print(json.dumps({**figures, "decisions": decisions(Path(folder))}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
