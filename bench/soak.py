"""Weeks in minutes: one `rltraderd` trades session after session at the loopback Alpaca: `make soak`.

The clock is linear and fast, so nights and weekends pass as they are. At the end of each session the process is looked
at from outside: memory, descriptors, threads, sockets; its tasks it tells itself when a signal asks. One line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from bench.tapes import recorded_minutes, synthetic_minutes
from simulator.clock import SimClock
from simulator.prices.market import Market
from simulator.server import RunningServer, serving
from simulator.trading.account import Account
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET
from strategies.kit.contract import Session
from strategies.kit.units import MINUTE_NS, SECOND_NS
from tests.support.desks.live_desk import LOOSE, books, differences, write_config

SESSIONS = 20
RATE = 2400.0  # simulated seconds a real one: a night of 17.5 hours passes in 26 seconds
WARM = 5  # sessions after which memory must be flat
HISTORY_SESSIONS = 2  # of the tape, before the first one traded
ESTABLISHED = "01"
PATIENT: dict[str, dict[str, object]] = {"broker": {"blind_min": 120}, "feed": {"silence_s": 1200}}
"""Five minutes of this clock are 125 ms, which a busy machine may take: then nothing would be traded any more."""
KEYS = {"APCA_API_KEY_ID": DEFAULT_KEY, "APCA_API_SECRET_KEY": DEFAULT_SECRET}


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the daemon's process, after the session of `date`. `sockets` are those connected to the server."""

    date: str
    resident_mb: float
    descriptors: int
    threads: int
    tasks: int
    sockets: int


class Watched:
    """`rltraderd` as a process that tells the number of its asyncio tasks when SIGUSR1 asks."""

    def __init__(self, config: Path, folder: Path) -> None:
        self._answer = folder / "tasks"
        self._log = folder / "log"
        self._answer.touch()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_become_rltraderd, args=(str(config), str(self._log), str(self._answer)), daemon=True
        )
        self._process.start()
        self.pid = int(self._process.pid or 0)

    @property
    def returncode(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.exitcode

    def stop(self, timeout_s: float = 30.0) -> int | None:
        """SIGTERM; the exit code, None when it still runs after `timeout_s` (it is killed then)."""
        self._process.terminate()
        self._process.join(timeout_s)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
        return code

    def last_words(self) -> str:
        """The end of its log."""
        return self._log.read_text()[-2000:]

    def look(self, date: str, port: int) -> Look:
        """What `/proc` and the process itself tell now. Raises ProcessLookupError when it has ended."""
        folder = Path(f"/proc/{self.pid}")
        pages = int((folder / "statm").read_text().split()[1])
        status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines())
        return Look(
            date=date,
            resident_mb=round(pages * resource.getpagesize() / 1e6, 1),
            descriptors=sum(1 for _ in (folder / "fd").iterdir()),
            threads=int(status["Threads"]),
            tasks=self._tasks(),
            sockets=connections(port),
        )

    def _tasks(self) -> int:
        written_before = self._answer.stat().st_mtime_ns
        os.kill(self.pid, signal.SIGUSR1)
        for _ in range(100):
            time.sleep(0.02)
            if self._answer.stat().st_mtime_ns != written_before:
                break
        return int(self._answer.read_text() or 0)


def _become_rltraderd(config: str, log: str, answer: str) -> None:
    """In the new process: take keys and standard error over, answer SIGUSR1, and run."""
    os.environ.update(KEYS)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    from daemon.cli.daemon import main

    def tell(_number: int, _frame: object) -> None:
        with suppress(RuntimeError):  # between two turns no loop runs
            Path(answer).write_text(str(len(asyncio.all_tasks())))

    signal.signal(signal.SIGUSR1, tell)
    sys.exit(main(["--config", config]))


def connections(port: int) -> int:
    """Established connections that end at this port of 127.0.0.1, seen from the server's side."""
    address = f"0100007F:{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1] == address and row[3] == ESTABLISHED for row in rows)


def taped_sessions(market: Market) -> list[Session]:
    """The sessions of which the tape has bars."""
    return [session for session in market.sessions if market.session_bars(session.date)]


def run(tape: Path, folder: Path, sessions: int, rate: float) -> dict[str, Any]:
    """Trade `sessions` sessions of the tape; returns the figures. Raises RuntimeError when the daemon ended early."""
    market = Market.from_bars(tape)
    days = taped_sessions(market)[HISTORY_SESSIONS : HISTORY_SESSIONS + sessions]
    clock = SimClock.starting_now(days[0].open_ns - 60 * MINUTE_NS, rate)
    began = time.monotonic()
    account = Account(DEFAULT_KEY, DEFAULT_SECRET, cash=Decimal(100_000))
    with serving(market, clock, accounts=(account,)) as server:
        config = write_config(folder / "config.toml", server, clock, folder / "state", LOOSE, PATIENT)
        daemon = Watched(config, folder)
        looks = [_after(session, daemon, server, clock) for session in days]
        code = daemon.stop()
        ours = books(folder / "state")
        unequal = differences(ours, account)
        requests = len(server.server.requests)
    stats = ours.state.stats
    return {
        "bench": "soak",
        "tape": tape.name,
        "rate": rate,
        "sessions": len(looks),
        "wall_s": round(time.monotonic() - began, 1),
        **growth(looks),
        "exit_code": code,
        "bars": stats.bars,
        "decisions": stats.decisions,
        "orders": stats.orders,
        "fills": stats.fills,
        "round_trips": stats.trades,
        "requests": requests,
        "books_differ": unequal[:3],
        "halt": None if ours.state.risk.halt is None else ours.state.risk.halt.reason,
        "journal_mb": round(sum(path.stat().st_size for path in (folder / "state").glob("journal*")) / 1e6, 1),
        "looks": [asdict(look) for look in looks],
    }


def _after(session: Session, daemon: Watched, server: RunningServer, clock: SimClock) -> Look:
    """The look at the daemon 40 simulated minutes after the session's close."""
    until_ns = session.close_ns + 40 * MINUTE_NS
    while clock.now_ns() < until_ns:
        if daemon.returncode is not None:
            raise RuntimeError(f"rltraderd ended with {daemon.returncode} during {session.date}: {daemon.last_words()}")
        time.sleep(min(1.0, max(0.0, (until_ns - clock.now_ns()) / SECOND_NS / clock.rate)))
    return daemon.look(session.date, server.server.port)


def growth(looks: list[Look]) -> dict[str, Any]:
    """Memory after the warm sessions and at the end, and the range of everything that must not grow."""
    warm, last = looks[min(WARM, len(looks)) - 1], looks[-1]
    figures: dict[str, Any] = {
        "resident_mb_warm": warm.resident_mb,
        "resident_mb_end": last.resident_mb,
        "memory_growth": round(last.resident_mb / warm.resident_mb - 1, 4),
    }
    for name in ("descriptors", "threads", "tasks", "sockets"):
        values = [int(getattr(look, name)) for look in looks]
        figures[name] = {"first": values[0], "least": min(values), "most": max(values), "last": values[-1]}
    return figures


def main() -> None:
    """Print all figures as one JSON object; exit code 1 when memory grew by 5 % or the desk did not trade cleanly."""
    line = argparse.ArgumentParser(prog="python -m bench.soak", description="Weeks of live trading in minutes.")
    line.add_argument("--sessions", type=int, default=SESSIONS, help="how many (%(default)s)")
    line.add_argument("--rate", type=float, default=RATE, help="simulated seconds a real one (%(default)s)")
    options = line.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tape = recorded_minutes() or synthetic_minutes(Path(folder) / "tape.parquet", 390 * (options.sessions + 5))
        figures = run(tape, Path(folder), options.sessions, options.rate)
    sys.stdout.write(json.dumps(figures) + "\n")
    wrong = (figures["memory_growth"] > 0.05, figures["books_differ"], figures["halt"], figures["exit_code"])
    if any(wrong):
        sys.exit("soak: memory grew, the books differ, the desk was halted or the stop not clean: see the figures")


if __name__ == "__main__":
    main()
