"""Whether memory stays bounded on a big file of option quotes: `python -m bench.quotes_memory --gb 1`.

Makes ThetaData's CSV of that size (one-to-four-day SPY chains, 512 contracts a minute), then converts, checks and
calibrates it, each in a process of its own. Prints rows, seconds and each process's peak of memory as JSON. A size of
10 has 120 million rows. The files need three times the size on the disk of `--folder` and are removed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from daemon.core.instruments.option_market import bid_ask_cents_array, price_array
from daemon.core.limits import Paper
from daemon.host.time.calendar import NEW_YORK, SessionCalendar
from strategies.kit.contract import Session
from strategies.kit.units import MINUTE_NS

STRIKES, EXPIRIES, FIRST, LAST = 64, 4, "2021-01-04", "2024-12-31"
VOLATILITY, GB = 0.18, 10**9
YEAR_MIN = 252 * 390  # minutes of trading
HEADER = (
    "symbol", "expiration", "strike", "right", "timestamp", "bid_size", "bid_exchange", "bid", "bid_condition",
    "ask_size", "ask_exchange", "ask", "ask_condition",
)  # fmt: skip


def day_table(session: Session, later: tuple[Session, ...], spot: float, random: np.random.Generator) -> pa.Table:
    """Return one session's rows as ThetaData's version 3 has them."""
    minutes = (session.close_ns - session.open_ns) // MINUTE_NS
    path = spot * np.exp(np.cumsum(random.normal(0, VOLATILITY / np.sqrt(YEAR_MIN), minutes)))
    strikes = round(spot) - STRIKES // 2 + np.arange(STRIKES, dtype=np.float64)
    rights = np.array([1.0, -1.0])
    minutes_left = np.arange(minutes)[::-1]
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in ("expiration", "strike", "right", "bid", "ask")}
    for number, expiry in enumerate(later[:EXPIRIES], start=1):
        years = (minutes_left + 390 * number)[None, None, :] / YEAR_MIN
        mids = price_array(path[None, None, :], strikes[None, :, None], years, VOLATILITY, rights[:, None, None])
        bid, ask = bid_ask_cents_array(mids, Paper())
        shape = bid.shape
        columns["bid"].append(bid.ravel() / 100)
        columns["ask"].append(ask.ravel() / 100)
        columns["strike"].append(np.broadcast_to(strikes[None, :, None], shape).ravel())
        columns["right"].append(np.broadcast_to(np.array(["CALL", "PUT"])[:, None, None], shape).ravel())
        columns["expiration"].append(np.full(bid.size, expiry.date))
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    count = arrays["bid"].size
    ends = np.datetime64(session.open_ns, "ns") + np.arange(1, minutes + 1) * np.timedelta64(MINUTE_NS, "ns")
    local = pa.array(ends).cast(pa.timestamp("ns", "UTC")).cast(pa.timestamp("ms", str(NEW_YORK)))
    texts = np.array(pa.compute.strftime(local, "%Y-%m-%dT%H:%M:%S").to_pylist())
    by_name = {
        **arrays,
        "symbol": np.full(count, "SPY"),
        "timestamp": np.tile(texts, count // minutes),
        **{name: random.integers(1, 500, count) for name in ("bid_size", "ask_size")},
        **{name: np.full(count, 7) for name in ("bid_exchange", "ask_exchange")},
        **{name: np.full(count, 50) for name in ("bid_condition", "ask_condition")},
    }
    return pa.table({name: by_name[name] for name in HEADER})


def make(out: Path, size_bytes: int) -> tuple[int, int]:
    """Write whole sessions until the file has this size; return rows and sessions."""
    sessions = SessionCalendar.load(FIRST, LAST).sessions
    random, spot, rows = np.random.default_rng(7), 400.0, 0
    with out.open("wb") as file:
        writer = None
        for number, session in enumerate(sessions[:-EXPIRIES]):
            table = day_table(session, sessions[number + 1 : number + 1 + EXPIRIES], spot, random)
            writer = writer or pa.csv.CSVWriter(file, table.schema)
            writer.write_table(table)
            rows += table.num_rows
            spot *= float(np.exp(random.normal(0, 0.01)))
            if file.tell() >= size_bytes:
                break
        assert writer is not None
        writer.close()
    return rows, number + 1


def measured(*arguments: str) -> dict[str, float]:
    """Run `train-and-export` with these arguments; return its seconds and its peak of memory in MiB."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "training", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    error_text = process.stderr.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 1):  # 1: faults were found
        raise SystemExit(f"{' '.join(arguments)}: exit code {code}: {error_text[-2000:]}")
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "processor_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_mib": round(used.ru_maxrss / 1024, 1),
    }


def main() -> int:
    """Make the file, run the commands, print the figures."""
    options = argparse.ArgumentParser(prog="python -m bench.quotes_memory", description=__doc__.partition("\n")[0])
    options.add_argument("--gb", type=float, default=1.0, help="size of the CSV in 10^9 bytes, up to 10 (%(default)s)")
    options.add_argument("--folder", type=Path, help="where the files lie meanwhile (the system's)")
    options.add_argument("--keep", type=Path, metavar="FILE", help="write the CSV there, and do nothing else")
    chosen = options.parse_args()
    if chosen.keep is not None:
        print(json.dumps(dict(zip(("rows", "sessions"), make(chosen.keep, int(chosen.gb * GB)), strict=True))))
        return 0
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        csv, quotes, fitted = (Path(folder) / name for name in ("quotes.csv", "quotes.parquet", "calibration.json"))
        rows, sessions = make(csv, int(chosen.gb * GB))
        figures: dict[str, object] = {"gb": round(csv.stat().st_size / GB, 3), "rows": rows, "sessions": sessions}
        figures["convert"] = measured("convert", "--from", "thetadata", str(csv), "--out", str(quotes))
        csv.unlink()
        figures["check"] = measured("check-quotes", str(quotes), "--json")
        figures["calibrate"] = measured("calibrate", "--quotes", str(quotes), "--out", str(fitted))
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
