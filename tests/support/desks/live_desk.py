"""A live desk to test: a configuration for the loopback Alpaca, `rltraderd` as a process, both books compared.

The process is forked from a warm server (`tests.support.desks.warm`), so that hundreds of starts cost little; it is a
real process all the same: it can be killed. Nothing here computes an expected value.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from daemon.engine.recover import recovered_desk
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from simulator.clock import SimClock
from simulator.server import RunningServer
from simulator.trading.account import Account
from tests.support.desks.warm import FORK, PRELOAD
from tests.support.paths import FIXTURE_MODELS, REPOSITORY

LOOSE: dict[str, dict[str, object]] = {
    "risk": {
        "cooldown_trade_s": 0,
        "cooldown_loss_s": 0,
        "consecutive_losses_max": 1000,
        "daily_loss_max": 1.0,
        "drawdown_max": 1.0,
        "orders_per_day": 10_000,
    }
}
"""Limits that a lively fixture policy does not meet by itself."""
SIZE = "min(int(budget / (limit_price * OPTION_MULTIPLIER)), sizing.max_contracts)"
"""How many contracts this release buys (daemon/core/desks/options.py); another release may differ."""


def write_config(
    path: Path,
    serving: RunningServer,
    clock: SimClock,
    state_dir: Path,
    *tables: Mapping[str, Mapping[str, object]],
    models_dir: Path = FIXTURE_MODELS,
) -> Path:
    """A configuration for a daemon at this server; later `tables` win over earlier ones."""
    merged: dict[str, dict[str, object]] = {
        "paths": {"state_dir": str(state_dir), "models_dir": str(models_dir)},
        "alpaca": {
            "trading_url": serving.trading_url,
            "data_url": serving.data_url,
            "stream_url": serving.stream_url,
            "trade_stream_url": serving.trade_stream_url,
            "option_stream_url": serving.option_stream_url,
        },
        "clock": clock.settings(),
        "feed": {"name": "sip", "options": "indicative"},
        "log": {"format": "json"},
    }
    for table in tables:
        for section, keys in table.items():
            merged.setdefault(section, {}).update(keys)
    lines = []
    for section, keys in merged.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""]
    path.write_text("\n".join(lines))
    return path


ENDING_S = 120.0  # real seconds, for a process that was killed or has only to end


class Daemon:
    """One `rltraderd` process with these arguments and keys; its standard error goes to `log`, behind what is there.

    `leap` sets its host's wall clock, `ahead_s` as it is from the beginning. `clock` waits for it, where it is virtual.
    `release` is the folder of another release (`another_release`), which runs instead of this one. `program` is the
    module whose `main` runs, and `prepare` is called in the process before it.
    """

    def __init__(
        self,
        arguments: list[str],
        environment: Mapping[str, str],
        log: Path,
        ahead_s: float = 0.0,
        clock: SimClock | None = None,
        release: Path | None = None,
        program: str = "daemon.cli.daemon",
        prepare: Callable[[], object] | None = None,
    ) -> None:
        self.log = log
        self._ahead_ns = FORK.Value("q", round(ahead_s * 1e9))
        self._clock = clock
        self._killed = False
        FORK.set_forkserver_preload(PRELOAD)
        self._process = FORK.Process(
            target=_become,
            args=(arguments, dict(environment), str(log), self._ahead_ns, os.sched_getaffinity(0), str(release or "")),
            kwargs={"program": program, "prepare": prepare},
            daemon=True,
        )
        self._process.start()
        if clock is not None:
            clock.expect(self.pid)

    @property
    def returncode(self) -> int | None:
        """None while it runs; the exit code, or minus the signal that ended it.

        What it does after its last word with a virtual clock takes real time: hours of that clock would pass meanwhile.
        """
        if self._clock is not None and self._process.exitcode is None and self._clock.left(self.pid):
            self._process.join(ENDING_S)
        return self._process.exitcode

    @property
    def pid(self) -> int:
        """The process id."""
        return int(self._process.pid or 0)

    def terminate(self) -> None:
        """SIGTERM; returns when the process has it, so that virtual time waits for what it does then."""
        self._process.terminate()
        pending = 1 << (signal.SIGTERM - 1)
        while int(self._status("ShdPnd") or "0", 16) & pending:
            time.sleep(0.001)

    def kill(self) -> None:
        """SIGKILL."""
        self._killed = True
        self._process.kill()

    def pause(self, *, stopped: bool) -> None:
        """SIGSTOP or SIGCONT. Virtual time passes without a process that is stopped."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGSTOP if stopped else signal.SIGCONT)
        while stopped and self._status("State")[:1] not in ("", "T", "Z"):
            time.sleep(0.001)
        if self._clock is not None:
            self._clock.leave_out(self.pid, out=stopped)

    def _status(self, name: str) -> str:
        """What the kernel says of the process; "" where there is none."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith(f"{name}:"):
                    return line.partition(":")[2].strip()
        return ""

    def leap(self, by_s: float) -> None:
        """Set the host's wall clock by real seconds, as this process sees it; its monotonic clock goes on."""
        self._ahead_ns.value += round(by_s * 1e9)

    def wait(self, timeout_s: float) -> int | None:
        """The exit code, None when it still runs after `timeout_s`, virtual where its clock is.

        What it does after its last word with that clock takes real time, on a busy machine seconds.
        """
        if self._clock is None or self._killed:
            self._process.join(max(timeout_s, ENDING_S) if self._killed else timeout_s)
        else:
            self._clock.wait(self._process.join, lambda: self._process.exitcode is not None, timeout_s)
        return self.returncode

    def read_log(self) -> list[dict[str, Any]]:
        """The log's events so far; lines that are no JSON as `{"event": "", "text": line}`."""
        entries = []
        for line in self.log.read_text(errors="replace").splitlines():
            try:
                entries.append(json.loads(line))
            except json.JSONDecodeError:
                entries.append({"event": "", "text": line})
        return entries


EXECUTION = "daemon/core/desks/options.py"


def another_release(folder: Path, rule: str = "", otherwise: str = "", file: str = EXECUTION) -> Path:
    """Make a copy of this program in `folder` with another digest; returns `folder`.

    In `file` it has `otherwise` where this one has `rule`; without one it decides the same.
    """
    for package in ("daemon", "rltrader", "strategies"):
        shutil.copytree(REPOSITORY / package, folder / package)
    rules = folder / file
    text = rules.read_text()
    if rule and text.count(rule) != 1:
        raise ValueError(f"{rule!r} stands {text.count(rule)} times in {rules}")
    rules.write_text(f"{text.replace(rule, otherwise) if rule else text}# another release\n")
    return folder


def _become(
    arguments: list[str],
    environment: dict[str, str],
    log: str,
    ahead_ns: Any,
    processors: set[int],
    release: str,
    *,
    program: str,
    prepare: Callable[[], object] | None,
) -> None:
    """In the forked process: take environment, processors, standard error and wall clock over, and run."""
    os.environ.update(environment)
    os.sched_setaffinity(0, processors)
    if release:
        sys.path.insert(0, release)
        for name in [name for name in sys.modules if name.partition(".")[0] in ("daemon", "strategies")]:
            del sys.modules[name]
    true_ns = time.time_ns
    time.time_ns = lambda: true_ns() + ahead_ns.value
    virtual_time: Any = importlib.import_module("daemon.host.time.virtual_time")
    virtual_time.wall_ns = lambda joined: joined.now_ns() + ahead_ns.value
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(target, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    if prepare is not None:
        prepare()
    sys.exit(importlib.import_module(program).main(arguments))


@dataclass(frozen=True, slots=True)
class Books:
    """What a journal says: the state after its last event, and its read models' rows."""

    state: Any
    fills: list[dict[str, Any]] = field(default_factory=list)
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    moves: list[dict[str, Any]] = field(default_factory=list)


def books(state_dir: Path) -> Books:
    """Recover the journal of a daemon that does not run. Raises JournalError for a damaged one."""
    reader = JournalReader(state_dir / FILE)
    try:
        return Books(
            recovered_desk(reader).machine.state,
            [dict(row) for row in reader.query("SELECT * FROM fills ORDER BY client_order_id, correction, cumulative")],
            {row["client_order_id"]: dict(row) for row in reader.query("SELECT * FROM orders")},
            [dict(row) for row in reader.query("SELECT * FROM decisions ORDER BY decision")],
            [dict(row) for row in reader.query("SELECT * FROM moves ORDER BY seq, part")],
        )
    finally:
        reader.close()


def differences(ours: Books, account: Account) -> list[str]:
    """Where the daemon's book and the server's differ: cash, positions, fills (each exactly once); empty when equal."""
    problems = []
    book = ours.state.book
    if Decimal(account.cash) != book.cash:
        problems.append(f"cash: server {account.cash}, daemon {book.cash}")
    theirs = {symbol: position.qty for symbol, position in account.positions.items()}
    held = {symbol: Decimal(position.quantity) for symbol, position in book.positions.items()}
    if theirs != held:
        problems.append(f"positions: server {theirs}, daemon {held}")
    moved = sum((Decimal(row["realized_usd"]) for row in ours.moves), Decimal(0))
    if moved != book.realized:
        problems.append(f"moves: they realised {moved}, the book {book.realized}")
    names = {order.id: order.client_order_id for order in account.orders.values()}
    executed: dict[tuple[str, Decimal], tuple[Decimal, Decimal]] = {}
    cumulative: dict[str, Decimal] = {}
    for trade in account.trades:
        if trade.order_id:
            size = abs(trade.quantity)
            total = cumulative[trade.order_id] = cumulative.get(trade.order_id, Decimal(0)) + size
            executed[names[trade.order_id], total] = (size, trade.price)
    journaled: dict[tuple[str, Decimal], list[tuple[Decimal, Decimal]]] = {}
    for row in ours.fills:
        if row["correction"] == 0:
            key = (row["client_order_id"], Decimal(row["cumulative"]))
            journaled.setdefault(key, []).append((Decimal(row["quantity"]), Decimal(row["price"])))
    return problems + [
        f"fill {key}: server {executed.get(key)}, journal {journaled.get(key)}"
        for key in sorted(executed.keys() | journaled.keys())
        if journaled.get(key, []) != [executed.get(key)]
    ]
