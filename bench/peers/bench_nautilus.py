"""Replays against NautilusTrader's backtest of the same bars, in alternation: `make bench-nautilus`.

The same for all: the recorded SPY minutes (`--bars` of them, all by default), the same ONNX graph asked at each bar by
one thread, a softmax over its answer at the same temperature, about as many orders (a peer sends one every so many
bars as our run has on average), one process each. Start-up and ending are left out of all figures.

Each peer runs twice a round: as it comes, and with its own record of events, which is what ours never leaves out. That
record is its stream of Feather files, flushed as often as a replay of ours commits; a record in memory, or one that a
database in another process keeps, is not compared. `killed` tells what each has on its disk after SIGKILL.

Different, in a peer's favour: six indicators instead of our twenty features; bars are loaded and converted before the
clock starts, where ours are read and checked within; its orders are for shares, ours for options whose market is priced
each bar; no gates, no stops, no hashes, no start from the record. In ours: the journal is committed by a second thread.
So the ratio compares what users wait for, not engines of one kind. Bars a second are of wall time and hold for a quiet
machine; those of processor time, of all threads, are less disturbed by other processes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from bench.bench_replay import VERSION, trading_version
from bench.tapes import recorded_minutes, synthetic_minutes

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("nautilus_run.py")
SHELF = ROOT / "onnx_models" / "option_scalper"
PYTHON = "import json, platform; print(json.dumps({'python': platform.python_version()}))"


def main() -> None:
    """Print one JSON object. The first round warms up and is not counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--bars", type=int, default=0, help="the tape's first bars; 0: all")
    parser.add_argument("--ours", type=Path, default=Path(sys.executable), help="the Python that our replay runs on")
    parser.add_argument("peers", type=Path, nargs="+", metavar="PYTHON", help="one with NautilusTrader installed")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        round_ = Round(Path(folder), chosen.ours, chosen.peers, chosen.bars)
        rounds = [round_.run() for _ in range(chosen.pairs + 1)][1:]
        figures = {"bench": "nautilus", "pairs": chosen.pairs, "tape": round_.tape.name, **summarize(rounds)}
        sys.stdout.write(json.dumps({**figures, "killed": round_.killed()}) + "\n")


class Round:
    """Our replay, then each peer without and with its record, over the same tape."""

    def __init__(self, folder: Path, ours: Path, peers: list[Path], bars: int) -> None:
        self._folder, self._ours, self._peers = folder, ours, peers
        self.tape = _tape(folder, bars)
        self._count = 0
        self._version, self._every = _json([str(ours), "-c", PYTHON])["python"], 0
        self._idle_s = self._replay(_head(self.tape, folder / "short.parquet", 1))["cpu_s"]

    def run(self) -> dict[str, dict[str, Any]]:
        """Label -> the figures of one run. Raises RuntimeError when one fails, or trades otherwise than ours."""
        ours = self._replay(self.tape)
        ours["cpu_s"] -= self._idle_s  # of the process's start and end
        self._every = max(ours["decisions"] // max(ours["orders"], 1), 1)
        runs = {"rltrader": {**ours, "python": self._version}}
        for peer in self._peers:
            for recorded in (False, True):
                figures = _json(self._command(peer, 0, str(self._next()) if recorded else ""))
                label = f"NautilusTrader {figures['version']}" + (", recorded" if recorded else "")
                if (figures["bars"], figures["fills"]) != (ours["bars"], figures["answers"] // self._every):
                    raise RuntimeError(f"{label} did other work: {figures}, ours {ours['bars']} bars")
                runs[label] = figures
        return runs

    def killed(self) -> dict[str, int]:
        """Label -> bars on the disk after SIGKILL at the last bar but one of the tape."""
        last = pq.read_metadata(self.tape).num_rows - 1
        rows_kept = {"bars": last}
        for peer in self._peers:
            record = self._next()
            process = subprocess.run(
                self._command(peer, last, str(record)), capture_output=True, text=True, check=False
            )
            if process.returncode != -signal.SIGKILL:
                raise RuntimeError(f"{peer} did not kill itself: {process.returncode}, {process.stderr[-2000:]}")
            rows_kept[peer.parents[1].name] = sum(_rows(path) for path in record.rglob("bar*/**/*.feather"))
        return rows_kept

    def _command(self, peer: Path, last: int, record: str) -> list[str]:
        model = SHELF / trading_version() / "policy.onnx"
        arguments = [str(self.tape), str(model), str(self._every), str(last), record]
        return [str(peer), "-W", "ignore", str(SCRIPT), *arguments]

    def _next(self) -> Path:
        self._count += 1
        return self._folder / str(self._count)

    def _replay(self, tape: Path) -> dict[str, Any]:
        """Our run under the defaults and the shipped policy, with the processor seconds of its whole process."""
        command = [str(self._ours), "-m", "daemon", "--dry-run", "--bars", str(tape), "--state-dir", str(self._next())]
        usage_before = resource.getrusage(resource.RUSAGE_CHILDREN)
        summary = _json(command)
        usage_after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            **summary,
            "cpu_s": usage_after.ru_utime + usage_after.ru_stime - usage_before.ru_utime - usage_before.ru_stime,
        }


def summarize(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """`runs`: medians by label; `ratio` is our bars a second over the run's of the same round, with its range."""
    runs = {}
    for label, first in rounds[0].items():
        same = [figures[label] for figures in rounds]
        ratios = [figures[label]["wall_s"] / figures["rltrader"]["wall_s"] for figures in rounds]
        of_cpu = [figures[label]["cpu_s"] / figures["rltrader"]["cpu_s"] for figures in rounds]
        runs[label] = {
            "python": first["python"],
            "bars": first["bars"],
            "orders": first["orders"],
            "bars_per_s": round(statistics.median(run["bars"] / run["wall_s"] for run in same)),
            "bars_per_cpu_s": round(statistics.median(run["bars"] / run["cpu_s"] for run in same)),
            "ratio": round(statistics.median(ratios), 3),
            "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
            "ratio_cpu": round(statistics.median(of_cpu), 3),
        }
    ours = [figures["rltrader"] for figures in rounds]
    decision = {name: statistics.median(run[name] for run in ours) for name in ("decision_us_p50", "decision_us_p99")}
    return {"runs": runs, **decision}


def _tape(folder: Path, bars: int) -> Path:
    """The recorded minutes, or synthetic ones, cut to `bars`."""
    tape = recorded_minutes() or synthetic_minutes(folder / "synthetic.parquet", bars or 75_000)
    return _head(tape, folder / f"{bars}_of_{tape.name}", bars) if bars else tape


def _head(tape: Path, path: Path, bars: int) -> Path:
    pq.write_table(pq.read_table(tape).slice(0, bars), path)
    return path


def _rows(feather: Path) -> int:
    """The rows that can be read of a stream without an end."""
    rows = 0
    with feather.open("rb") as source, pa.ipc.open_stream(source) as stream:
        try:
            for batch in stream:
                rows += batch.num_rows
        except (OSError, pa.ArrowInvalid):
            pass  # it ends within a message
    return rows


def _json(command: list[str]) -> dict[str, Any]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("RLTRADER_", "APCA_"))}
    process = subprocess.run(
        command,
        env={**variables, VERSION: trading_version(), "RLTRADER_LOG__LEVEL": "error"},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode != 0:
        raise RuntimeError(f"{command[:2]} ended with {process.returncode}: {process.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    main()
