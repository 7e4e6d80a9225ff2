"""How long the dashboard's pages take on a long journal: opening, and each page's query. Prints JSON.

    .venv/bin/python -m bench.pages.long [--events 1000000] [--state-dir DIR]

The journal is the bundled tape's, played once and then repeated with later times until it has that many events; with a
state directory it is that one. Milliseconds: the first answer's wall time, and
wall and processor time of five more on average.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from bench.bench_dashboard import REPOSITORY, play
from daemon.journal.journal import FILE

AGAIN = 5
PAGES = {
    "now": "now",
    "fleet": "fleet",
    "price": "price",
    "bars": "bars",
    "bars_all": "bars?view=all&points=650&sessions=1",
    "equity": "equity",
    "performance": "performance?range=ALL",
    "performance_month": "performance?range=1M",
    "trades": "trades?limit=50",
    "trades_by_profit": "trades?limit=50&sort=pnl&result=loss",
    "decisions": "decisions?outcome=acted",
    "decisions_denied": "decisions?outcome=denied",
    "decisions_expired": "decisions?outcome=expired",
    "decision": "decision/{decision}",
    "around": "around/{decision}",
    "models": "models",
    "risk": "risk",
    "learning": "learning",
    "health": "health",
}
SHIFTED = {  # the columns of each table that hold a time, and those that number a decision
    "events": (("time_ns",), ()),
    "decisions": (("bar_ns", "time_ns"), ("decision",)),
    "orders": (("submitted_ns", "updated_ns"), ()),
    "fills": (("filled_ns", "time_ns"), ()),
    "equity": (("time_ns",), ()),
    "moves": (("opened_ns", "at_ns", "time_ns"), ("decision",)),
    "round_trips": (("opened_ns", "time_ns", "left_ns"), ("entry_decision", "exit_decision")),
}
WEEK_NS = 7 * 86_400 * 10**9


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--state-dir", type=Path, help="a journal of your own")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        state_dir = options.state_dir or repeated(play(Path(folder) / "desk"), options.events)
        print(json.dumps(measured(state_dir), indent=1))
    return 0


def repeated(state_dir: Path, events: int) -> Path:
    """Repeat the journal's rows, each time some weeks later, until it has that many events. The chain is not kept."""
    with closing(sqlite3.connect(state_dir / FILE, isolation_level=None)) as db:
        rows, first, last, decisions = db.execute(
            "SELECT max(id), min(nullif(time_ns, 0)), max(time_ns), (SELECT max(decision) FROM decisions) FROM events"
        ).fetchone()
        step_ns = -(-(last - first) // WEEK_NS) * WEEK_NS
        db.execute("BEGIN")
        for table in SHIFTED:
            db.execute(f"CREATE TEMP TABLE once_{table} AS SELECT * FROM {table}")
        for number in range(1, -(-events // rows)):
            for table, (times, numbers) in SHIFTED.items():
                by_ns, by = number * step_ns, number * decisions
                columns = [
                    _later(table, name, by_ns * (name in times), by * (name in numbers), by, number * rows)
                    for _, name, *_ in db.execute(f"PRAGMA table_info({table})").fetchall()
                ]
                db.execute(f"INSERT INTO {table} SELECT {', '.join(columns)} FROM once_{table}")
        newest = db.execute("SELECT max(id) FROM events").fetchone()[0]
        db.execute("UPDATE snapshots SET event_id = -event_id")
        db.execute("UPDATE snapshots SET event_id = ? - event_id", (newest - rows,))
        db.execute("COMMIT")
    return state_dir


def _later(table: str, name: str, by_ns: int, by: int, decisions: int, rows: int) -> str:
    """Return a column of the repeated rows: later by so much, with decisions and events numbered on."""
    if by_ns:
        return f"iif({name} > 0, {name} + {by_ns}, {name})"
    if by:
        return f"{name} + {by}"
    if name == "client_order_id":
        return f"'{decisions}-' || {name}"
    if name == "work":  # it begins with the decision's number
        return (
            f"iif({name} GLOB '[0-9]*', (CAST({name} AS INTEGER) + {decisions}) || ltrim({name}, '0123456789'), {name})"
        )
    return f"{name} + {rows}" if table == "events" and name in ("id", "seq") else name


def measured(state_dir: Path) -> dict[str, Any]:
    """Start a dashboard on it and ask for each page."""
    with closing(sqlite3.connect(f"{(state_dir / FILE).resolve().as_uri()}?mode=ro", uri=True)) as db:
        counted = {name: db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in SHIFTED}
        decision = db.execute("SELECT max(decision) FROM decisions WHERE outcome = 'ordered'").fetchone()[0]
    began = time.perf_counter()
    command = [sys.executable, "-m", "daemon.dashboard", "--state-dir", str(state_dir), "--port", "0"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().split("http://127.0.0.1:")[1].split("/")[0])
        listens_ms = _since(began)
        _ask(port, "now")
        figures: dict[str, Any] = {"rows": counted, "starts_to_listen_ms": listens_ms, "opens_ms": _since(began)}
        figures["opens_cpu_ms"] = _cpu_ms(process.pid)
        figures["pages"] = {
            name: _page(port, process.pid, path.format(decision=decision)) for name, path in PAGES.items()
        }
    finally:
        process.terminate()
        process.wait(10)
    return figures


def _ask(port: int, path: str) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", f"/api/{path}")
        answer = connection.getresponse()
        body = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status} {body[:200]!r}")


def _page(port: int, pid: int, path: str) -> dict[str, float]:
    began = time.perf_counter()
    _ask(port, path)
    first, spent, began = _since(began), _cpu_ms(pid), time.perf_counter()
    for _ in range(AGAIN):
        _ask(port, path)
    return {
        "first_ms": first,
        "next_ms": round(_since(began) / AGAIN, 1),
        "next_cpu_ms": round((_cpu_ms(pid) - spent) / AGAIN, 1),
    }


def _cpu_ms(pid: int) -> float:
    """Processor time of a process so far, to 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1e3 / os.sysconf("SC_CLK_TCK")


def _since(began: float) -> float:
    return round((time.perf_counter() - began) * 1e3, 1)


if __name__ == "__main__":
    sys.exit(main())
