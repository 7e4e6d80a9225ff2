"""What the dashboard costs: its first answers, following, and twenty pages that read slowly. Prints JSON.

    .venv/bin/python -m bench.bench_dashboard [--state-dir DIR]

Without a state directory the bundled tape of 30 sessions is played first. Times are wall time in ms unless named `cpu`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import resource
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from bench.bench_replay import VERSION, trading_version
from daemon.dashboard.desks import FollowedDesk
from daemon.engine.follow import Follower
from daemon.journal.journal import FILE

REPOSITORY = Path(__file__).resolve().parent.parent
SLOW = 20
MIB = 2**20


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state-dir", type=Path, help="a journal of your own")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        state_dir = options.state_dir or play(Path(temporary) / "desk")
        figures = {
            **of_journal(state_dir),
            **following(state_dir, Path(temporary)),
            **serving(state_dir, Path(temporary)),
        }
    print(json.dumps(figures, indent=1))
    return 0


def play(state_dir: Path) -> Path:
    """The bundled tape, played to its end."""
    command = [sys.executable, "-m", "daemon", "--dry-run", "--state-dir", str(state_dir)]
    subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | {VERSION: trading_version()}, check=True, capture_output=True
    )
    return state_dir


def of_journal(state_dir: Path) -> dict[str, Any]:
    """How much there is."""
    with closing(sqlite3.connect(f"{(state_dir / FILE).resolve().as_uri()}?mode=ro", uri=True)) as db:
        events, decisions = (
            db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("events", "decisions")
        )
    return {"events": events, "decisions": decisions, "journal_mib": round((state_dir / FILE).stat().st_size / MIB, 1)}


def following(state_dir: Path, folder: Path) -> dict[str, Any]:
    """Catching up from the newest snapshot; a look that finds nothing new; the whole journal stepped again, by row."""
    desk, began = FollowedDesk("desk", state_dir), time.perf_counter()
    while not desk.look().caught_up:
        pass
    caught_up = time.perf_counter() - began
    looks = []
    for _ in range(200):
        began = time.process_time()
        desk.look()
        looks.append(time.process_time() - began)
    whole = folder / "whole"
    whole.mkdir()
    shutil.copyfile(state_dir / FILE, whole / FILE)
    with closing(sqlite3.connect(whole / FILE, isolation_level=None)) as db:
        db.execute("DELETE FROM snapshots")  # so that it begins at the first row
    follower, rows, began = Follower(whole), 0, time.process_time()
    while not follower.caught_up and (stepped := follower.advance(2000)):
        rows += len(stepped)
    spent = time.process_time() - began
    follower.close()
    return {
        "catch_up_ms": round(caught_up * 1e3, 1),
        "idle_look_cpu_ms": round(statistics.median(looks) * 1e3, 3),
        "follow_rows": rows,
        "follow_row_cpu_us": round(spent / max(rows, 1) * 1e6, 1),
    }


def serving(state_dir: Path, folder: Path) -> dict[str, Any]:
    """A dashboard of its own: the first answers from its start on, then pages that do not read what they are told."""
    copy = folder / "served"
    copy.mkdir()
    shutil.copyfile(state_dir / FILE, copy / FILE)
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "daemon.dashboard", "--state-dir", str(copy), "--port", "0"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().split("http://127.0.0.1:")[1].split("/")[0])
        figures: dict[str, Any] = {"start_to_listen_ms": _since(began)}
        for name, path in (("page", "/"), ("now", "/api/now"), ("price", "/api/price"), ("equity", "/api/equity")):
            figures[f"first_{name}_ms"] = _timed(port, path)
        figures["start_to_first_now_ms"] = _since(began)
        figures["next_now_ms"] = statistics.median(_timed(port, "/api/now") for _ in range(50))
        figures["page_and_files_ms"] = _whole_page(port)
        figures.update(_slow_pages(port, process.pid, copy / FILE))
        decision = json.loads(_get(port, "/api/decisions?limit=1"))["lines"][0]["decision"]
        figures["newest_observation_ms"] = _observation(port, decision)
        figures["oldest_observation_ms"] = _observation(port, 1)
        figures["rss_mib"] = _rss_mib(process.pid)
    finally:
        process.terminate()
        process.wait(10)
    figures["cpu_s_of_all_this"] = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime, 2)
    return figures


def _whole_page(port: int) -> float:
    """The page and every file that it names, one after another."""
    began = time.perf_counter()
    page = _get(port, "/").decode()
    for part in page.split('"'):
        if part.startswith("/static/"):
            _get(port, part)
    return _since(began)


def _slow_pages(port: int, pid: int, file: Path) -> dict[str, Any]:
    """SLOW pages ask for the stream and read nothing while the state changes: how much memory that takes."""
    rss_before = _rss_mib(pid)
    with ExitStack() as stack:
        for _ in range(SLOW):
            page = stack.enter_context(closing(socket.socket()))
            page.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            page.connect(("127.0.0.1", port))
            page.sendall(f"GET /api/stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        with closing(sqlite3.connect(file, isolation_level=None)) as db:
            for number in range(20):  # each look finds another newest decision, so that all are told something new
                db.execute(
                    "UPDATE decisions SET action = ? WHERE decision = (SELECT max(decision) FROM decisions)",
                    (f"{number}",),
                )
                time.sleep(0.5)
        during = _rss_mib(pid)
        streams = json.loads(_get(port, "/api/health"))["clients"]
        beside = statistics.median(_timed(port, "/api/now") for _ in range(20))
    return {
        "slow_pages": SLOW,
        "slow_pages_told_still": streams,
        "slow_pages_rss_growth_mib": round(during - rss_before, 1),
        "now_beside_them_ms": beside,
    }


def _observation(port: int, decision: int) -> float:
    """Milliseconds from the first question until observation and contributions are there."""
    began = time.perf_counter()
    while json.loads(_get(port, f"/api/decision/{decision}"))["pending"]:
        time.sleep(0.01)
    return _since(began)


def _get(port: int, path: str) -> bytes:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status} {body[:200]!r}")
    return body


def _timed(port: int, path: str) -> float:
    began = time.perf_counter()
    _get(port, path)
    return _since(began)


def _since(began: float) -> float:
    return round((time.perf_counter() - began) * 1e3, 1)


def _rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0


if __name__ == "__main__":
    sys.exit(main())
