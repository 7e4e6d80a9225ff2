"""How soon the daemon is ready again: after SIGKILL late in a long day, and on a year's journal: part of `make bench`.

The day has 30,000 events. It ends by SIGKILL where most is to be done again: as many events after the newest snapshot
as the defaults ever leave. A start lasts from that of the process to its first line of log, where everything is checked
and recovered. References: an interpreter that imports numpy and onnxruntime, and a start in a new folder.

The year is the tape played to its end, the week its first five sessions; both are opened in alternation. Prints JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from bench.bench_replay import environment, machine, run_daemon
from bench.tapes import recorded_minutes, synthetic_minutes
from daemon.config.load import load
from daemon.engine.engine import SNAPSHOT_DELAY
from daemon.journal.journal import FILE

EVENTS = 30_000
GROUP_EVENTS = 64  # so the kill comes within as many events of where it should
RUNS = 5
WEEK_BARS = 5 * 390


def after_a_kill(tape: Path, folder: Path, events: int, since: int, runs: int) -> dict[str, Any]:
    """Seconds of starts on a journal of `events` events, `since` of them after its newest snapshot."""
    folder.mkdir()
    process = multiprocessing.get_context("spawn").Process(
        target=_until_killed, args=(str(tape), str(folder / "day"), events, since)
    )
    process.start()
    process.join()
    if process.exitcode != -signal.SIGKILL:
        raise RuntimeError(f"rltraderd ended with {process.exitcode} before its kill")
    took, fresh = [], []
    for run in range(runs):
        shutil.copytree(folder / "day", folder / str(run), ignore=shutil.ignore_patterns("*.sock"))
        again, seconds, started_event = started(tape, folder / str(run))
        killed(again)
        took.append(seconds)
        again, seconds, _ = started(tape, folder / f"fresh{run}")
        killed(again)
        fresh.append(seconds)
    with closing(sqlite3.connect(folder / "day" / FILE)) as db:
        newest, last_event = db.execute("SELECT (SELECT max(seq) FROM snapshots), max(seq) FROM events").fetchone()
    return {
        "events": last_event,
        "events_after_the_snapshot": last_event - newest,
        "resumed_at_event": started_event["resumed_at_event"],
        "start_s": [round(seconds, 3) for seconds in sorted(took)],
        "start_s_median": round(statistics.median(took), 3),
        "reference_fresh_start_s": round(statistics.median(fresh), 3),
        "reference_python_start_s": python_start(),
    }


def _until_killed(tape: str, state_dir: str, events: int, since: int) -> None:
    """Play the tape; a SIGKILL follows the first commit that holds so many events, so many of them after a snapshot."""
    from daemon.cli.daemon import main as rltraderd
    from daemon.journal.journal import Journal
    from daemon.journal.rows import CommitBatch

    os.environ.update(environment())
    os.environ["RLTRADER_JOURNAL__SNAPSHOT_EVENTS"] = str(since)
    os.environ["RLTRADER_JOURNAL__GROUP_EVENTS"] = str(GROUP_EVENTS)
    commit, newest = Journal.commit, 0

    def committed(journal: Journal, batch: CommitBatch) -> None:
        nonlocal newest
        commit(journal, batch)
        newest = max([newest, *(snapshot.seq for snapshot in batch.snapshots)])
        last_event = max((entry.seq or 0 for entry in batch.entries), default=0)
        if last_event >= events and last_event - newest >= since - GROUP_EVENTS:
            os.kill(os.getpid(), signal.SIGKILL)

    Journal.commit = committed  # type: ignore[method-assign,assignment]
    rltraderd(["--dry-run", "--bars", tape, "--state-dir", state_dir])


def year_and_week(tape: Path, folder: Path, runs: int) -> dict[str, Any]:
    """Seconds of starts on both journals, in alternation."""
    folder.mkdir()
    short = folder / "week.parquet"
    pq.write_table(pq.read_table(tape).slice(0, WEEK_BARS), short)
    tapes = {"week": short, "year": tape}
    took: dict[str, list[float]] = {name: [] for name in tapes}
    for name, path in tapes.items():
        run_daemon(path, folder / name, environment())
    for _ in range(runs):
        for name, path in tapes.items():
            again, seconds, _ = started(path, folder / name)
            killed(again)
            took[name].append(seconds)
    figures: dict[str, Any] = {}
    for name, open_times in took.items():
        with closing(sqlite3.connect(folder / name / FILE)) as db:
            figures[f"{name}_events"] = db.execute("SELECT max(seq) FROM events").fetchone()[0]
        figures[f"{name}_mb"] = round((folder / name / FILE).stat().st_size / 1e6, 1)
        figures[f"{name}_opens_s"] = round(statistics.median(open_times), 3)
    return figures


def started(tape: Path, state_dir: Path) -> tuple[subprocess.Popen[str], float, dict[str, Any]]:
    """A daemon under way, the seconds until it said so, and what it said."""
    command = [sys.executable, "-m", "daemon", "--dry-run", "--bars", str(tape), "--state-dir", str(state_dir)]
    began = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment(level="info"), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    line = process.stderr.readline() if process.stderr else ""
    seconds = time.perf_counter() - began
    event: dict[str, Any] = json.loads(line or "{}")
    if event.get("event") != "run_started":
        raise RuntimeError(f"rltraderd did not start: {line}")
    return process, seconds, event


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def python_start() -> float:
    """The reference: an interpreter that imports numpy and onnxruntime and ends."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import numpy, onnxruntime"], check=True)
    return round(time.perf_counter() - began, 3)


def main() -> None:
    """Print all figures as one JSON object."""
    since = SNAPSHOT_DELAY * load(None, {}).journal.snapshot_events
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tape = recorded_minutes() or synthetic_minutes(folder / "tape.parquet", 98_000)
        figures_of_kill = after_a_kill(tape, folder / "killed", EVENTS, since, RUNS)
        opened = year_and_week(tape, folder / "opened", RUNS)
    figures = {"bench": "recovery", "tape": tape.name, **machine(), "after_a_kill": figures_of_kill, "opened": opened}
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
