"""Replays against NautilusTrader's backtest of the same bars, in alternation: `make bench-nautilus`.

The same for both: the recorded SPY minutes (`--bars` of them, all by default), the same ONNX graph asked at each bar
by one thread, a softmax over its answer at the same temperature, about as many orders (the peer sends one every so many
bars as our run has on average), one process each. Start-up and ending are left out of both figures.

Different, in the peer's favour: six indicators instead of our twenty features; bars are loaded and converted before the
clock starts, where ours are read and checked within; its orders are for shares, ours for options whose market is priced
each bar; no journal, no gates, no stops, no recovery, where ours journals each event with its effects and hashes. In
ours: the journal is committed by a second thread. So the ratio compares what users wait for, not engines of one kind.
Bars a second are of wall time and hold for a quiet machine; `cpu` counts the processor time of all threads, which other
processes disturb less.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from bench.bench_replay import VERSION, trading_version
from bench.tapes import recorded_minutes, synthetic_minutes

ROOT = Path(__file__).parents[2]
PEER = ROOT / ".venv" / "peers" / "nautilus" / "bin" / "python"
SCRIPT = Path(__file__).with_name("nautilus_run.py")


def main() -> None:
    """Print one JSON object. The first pair warms up and is not counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--bars", type=int, default=0, help="the tape's first bars; 0: all")
    chosen = parser.parse_args()
    if not PEER.is_file():
        sys.exit(f"bench: {PEER} is missing: run `make bench-nautilus`, which installs it")
    shelf = ROOT / "onnx_models" / "option_scalper"
    model = shelf / trading_version() / "policy.onnx"
    with tempfile.TemporaryDirectory() as folder:
        tape = _tape(Path(folder), chosen.bars)
        idle_s = _replay(_head(tape, Path(folder) / "short.parquet", 1), Path(folder) / "idle")["cpu_s"]
        pairs = []
        for number in range(chosen.pairs + 1):
            ours = _replay(tape, Path(folder) / str(number))
            ours["cpu_s"] -= idle_s  # of the process's start and end
            every = max(ours["decisions"] // max(ours["orders"], 1), 1)
            pairs.append((ours, _json([str(PEER), str(SCRIPT), str(tape), str(model), str(every)])))
    sys.stdout.write(json.dumps({"bench": "nautilus", "tape": tape.name, **_figures(pairs[1:])}) + "\n")


def _figures(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    ours, theirs = [ours for ours, _ in pairs], [theirs for _, theirs in pairs]
    ratios = {
        "ratio": [theirs["wall_s"] / ours["wall_s"] for ours, theirs in pairs],
        "ratio_cpu": [theirs["cpu_s"] / ours["cpu_s"] for ours, theirs in pairs],
    }
    return {
        "pairs": len(pairs),
        "bars": ours[0]["bars"],
        "orders": [ours[0]["orders"], theirs[0]["orders"]],
        "bars_per_s": round(statistics.median(run["bars"] / run["wall_s"] for run in ours)),
        "peer_bars_per_s": round(statistics.median(run["bars"] / run["wall_s"] for run in theirs)),
        "bars_per_cpu_s": round(statistics.median(run["bars"] / run["cpu_s"] for run in ours)),
        "peer_bars_per_cpu_s": round(statistics.median(run["bars"] / run["cpu_s"] for run in theirs)),
        **{name: round(statistics.median(found), 3) for name, found in ratios.items()},
        "ratio_range": [round(min(ratios["ratio"]), 3), round(max(ratios["ratio"]), 3)],
        "decision_us_p50": statistics.median(run["decision_us_p50"] for run in ours),
        "decision_us_p99": statistics.median(run["decision_us_p99"] for run in ours),
    }


def _tape(folder: Path, bars: int) -> Path:
    """The recorded minutes, or synthetic ones, cut to `bars`."""
    tape = recorded_minutes() or synthetic_minutes(folder / "synthetic.parquet", bars or 75_000)
    return _head(tape, folder / f"{bars}_of_{tape.name}", bars) if bars else tape


def _head(tape: Path, path: Path, bars: int) -> Path:
    pq.write_table(pq.read_table(tape).slice(0, bars), path)
    return path


def _replay(tape: Path, state_dir: Path) -> dict[str, Any]:
    """Our run under the defaults and the shipped policy, with the processor seconds of its whole process."""
    command = [sys.executable, "-m", "daemon", "--dry-run", "--bars", str(tape), "--state-dir", str(state_dir)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    summary = _json(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {**summary, "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def _json(command: list[str]) -> dict[str, Any]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RLTRADER_", "APCA_"))}
    done = subprocess.run(
        command,
        env={**kept, VERSION: trading_version(), "RLTRADER_LOG__LEVEL": "error"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[:2]} ended with {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
