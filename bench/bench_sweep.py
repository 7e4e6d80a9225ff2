"""What a sweep of fifty cells costs, next to one replay and to the same cells each by itself; core-seconds, as JSON.

    python -m bench.bench_sweep [--last 2024-12-31] [--alone 50]

A year of recorded minutes (RLTRADER_DATA; else synthetic ones) and the shipped policy of `option_scalper` that trades;
starts and reading are left out. A cell played both ways must be the same to the last digit, else this ends with 1.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.bench_replay import REPOSITORY, machine, trading_version
from bench.tapes import recorded_minutes, synthetic_minutes
from training.studies.grid import GridCell, Value, axis_of, cells_of
from training.studies.sweep import SweepRequest, SweepSetup, make_ready, play_cells

STRATEGY = "option_scalper"
SWEEPS: Mapping[str, tuple[str, ...]] = {
    "entries and exits": ("risk.confidence_min=0.3:0.75:10", "sizing.stop_loss=0.1:0.5:5"),
    "sizes and costs": ("sizing.max_contracts=1:10:10", "paper.commission_usd=0,0.25,0.5,0.65,1"),
    "limits seldom met": ("risk.orders_per_day=20:110:10", "risk.daily_loss_max=0.08,0.1,0.12,0.16,0.2"),
}


def core_seconds() -> float:
    """Processor time of this process and its children so far."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def timed(ready: SweepSetup, batch: Sequence[Mapping[str, Value]]) -> tuple[tuple[GridCell, ...], float]:
    """The cells, and the core-seconds that they took."""
    gc.collect()
    began = core_seconds()
    cells = play_cells(ready, batch, threading.Event(), lambda _: None)
    return cells, core_seconds() - began


def measured(ready: SweepSetup, axes: Sequence[str], alone: int) -> tuple[dict[str, Any], int]:
    """One sweep both ways; how many cells differ."""
    batch = cells_of([axis_of(text) for text in axes])
    together, seconds = timed(ready, batch)
    chosen = [round(place * (len(batch) - 1) / max(alone - 1, 1)) for place in range(min(alone, len(batch)))]
    single = {place: timed(ready, [batch[place]]) for place in dict.fromkeys(chosen)}
    replay = sum(took for _, took in single.values()) / len(single)
    differ = sum(cells != (together[place],) for place, (cells, _) in single.items())
    return {
        "axes": list(axes),
        "cells": len(batch),
        "core_s_together": round(seconds, 1),
        "core_s_of_a_replay": round(replay, 2),
        "replays_that_the_cells_cost": round(seconds / replay, 1),
        "cells_played_both_ways": len(single),
        "of_these_different": differ,
        "trades": [min(cell.trades for cell in together), max(cell.trades for cell in together)],
        "different_results": len({cell.returns for cell in together}),
    }, differ


def main() -> int:
    """Print one JSON line for each sweep."""
    parser = argparse.ArgumentParser(description="a sweep of fifty cells, together and each by itself")
    parser.add_argument("--last", default="", metavar="DATE", help="last session (that of the file)")
    parser.add_argument("--alone", type=int, default=50, metavar="COUNT", help="cells also played alone (%(default)s)")
    chosen = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        bars = recorded_minutes() or synthetic_minutes(Path(folder) / "bars.parquet", 100_000)
        request = SweepRequest(
            STRATEGY, bars, REPOSITORY / "onnx_models", (), trading_version(), first="2000-01-01", last=chosen.last
        )
        ready = make_ready(request)
        about = {"bars": bars.name, "sessions": len(ready.dates), "first": ready.dates[0], "last": ready.dates[-1]}
        sys.stdout.write(json.dumps({**about, **machine()}) + "\n")
        for name, axes in SWEEPS.items():
            figures, differ = measured(ready, axes, chosen.alone)
            wrong += differ
            sys.stdout.write(json.dumps({"sweep": name, **figures}) + "\n")
            sys.stdout.flush()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
