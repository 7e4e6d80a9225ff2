"""Replays by this checkout and another one, in alternation: `python -m bench.trees ../other --pairs 5`.

For a change that must not change a byte: each pair replays one tape by both, and compares the heads of the journals and
the states' digests. Seconds are of the processor, of all threads, without start and end of the process, so that other
programs on the machine disturb little; the ratio is the other's over ours, the median of the pairs with their range.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STRATEGIES = ("option_scalper", "daily_rebalancer", "regime_switcher", "forecast_ensemble", "online_dqn")
OURS = Path(__file__).parents[1]
BARS = 12_000  # of the recorded minutes


def main() -> None:
    """Print one JSON object. Ends with code 1 where two replays of one tape differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="another checkout of this repository")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", choices=("recorded", *STRATEGIES), help="one tape instead of all")
    chosen = parser.parse_args()
    names = (chosen.only,) if chosen.only else ("recorded", *STRATEGIES)
    figures = {name: compared(name, chosen.other.resolve(), chosen.pairs) for name in names}
    sys.stdout.write(json.dumps({"bench": "trees", "pairs": chosen.pairs, "tapes": figures}) + "\n")
    if not all(figure["same"] for figure in figures.values()):
        sys.exit("bench: the replays differ")


def compared(name: str, other_tree: Path, pairs: int) -> dict[str, Any]:
    """The figures of one tape. The first pair warms up and is not counted."""
    ratios, ours_us, is_same = [], [], True
    for number in range(pairs + 1):
        trees = (OURS, other_tree) if number % 2 else (other_tree, OURS)
        replays = {tree: replayed(name, tree) for tree in trees}
        ours, theirs = replays[OURS], replays[other_tree]
        is_same &= (ours["head"], ours["digest"]) == (theirs["head"], theirs["digest"])
        if number:
            ratios.append(theirs["cpu_s"] / ours["cpu_s"])
            ours_us.append(ours["cpu_s"] / ours["bars"] * 1e6)
    return {
        "ratio": round(statistics.median(ratios), 3),
        "range": [round(min(ratios), 3), round(max(ratios), 3)],
        "us_per_bar": round(statistics.median(ours_us), 1),
        "same": is_same,
    }


def replayed(name: str, tree: Path) -> dict[str, Any]:
    """One replay by the code in `tree`, by a process of its own. Raises RuntimeError where it fails."""
    variables = {key: value for key, value in os.environ.items() if key[:9] != "RLTRADER_" or key == "RLTRADER_DATA"}
    command = [sys.executable, __file__, name]
    process = subprocess.run(
        command, cwd=tree, env={**variables, "PYTHONPATH": str(tree)}, capture_output=True, text=True, check=False
    )
    if process.returncode != 0:
        raise RuntimeError(f"the replay by {tree} ended with {process.returncode}: {process.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return figures


def replay(name: str) -> dict[str, Any]:
    """Replay in this process: `recorded` is the scalper's trading version over recorded (or synthetic) minutes."""
    from bench.bench_replay import trading_version
    from daemon.app.replay import run_replay
    from daemon.app.replay_start import prepare_replay
    from daemon.config.load import load
    from daemon.journal.journal import FILE
    from daemon.journal.reader import JournalReader
    from daemon.operator.log import Log
    from daemon.tapes import bundled_tape
    from strategies.registry import strategy

    with tempfile.TemporaryDirectory() as folder:
        state_dir, recorded = Path(folder) / "state", name == "recorded"
        settings: dict[str, object] = {"paths.state_dir": state_dir, "log.level": "error"}
        settings |= {"policy.version": trading_version()} if recorded else {"desk.strategy": name}
        tape = _minutes(Path(folder) / "tape.parquet") if recorded else bundled_tape(strategy(name).spec)
        prepared = prepare_replay(load(None, settings), tape)
        began = time.process_time()
        summary, _ = asyncio.run(run_replay(prepared, Log("error"), None))
        cpu_s = time.process_time() - began
        head = JournalReader(state_dir / FILE).chain_head().hex()
    return {"bars": summary.bars, "cpu_s": cpu_s, "head": head, "digest": summary.state_digest}


def _minutes(path: Path) -> Path:
    import pyarrow.parquet as pq

    from bench.tapes import recorded_minutes, synthetic_minutes

    tape = recorded_minutes() or synthetic_minutes(path, BARS)
    table = pq.read_table(tape)
    pq.write_table(table.slice(0, BARS), path)
    return path


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1] in ("recorded", *STRATEGIES):
        sys.stdout.write(json.dumps(replay(sys.argv[1])) + "\n")
    else:
        main()
