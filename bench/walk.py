"""How far one reads to follow a bar, a fill, a daily decision, a start and a training run: `python -m bench.walk`.

A live desk runs against the loopback broker in virtual time under `sys.setprofile`, and each call of the product's
functions is noted in its order, on every thread. A walk is cut at the borders of the product: from a frame of a stream,
or the event of the core, to the request that carries the order, or to the commit of the journal. Prints the files,
functions and changes of file of each walk, and with `--list` each file in its order. Figures of two trees compare;
they are the same on any machine but for a few calls that depend on the order of threads.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from daemon.tapes import BUNDLED_TAPE
from simulator.clock import SimClock
from simulator.prices.tape import calendar_sessions, new_york_date, read_bars
from strategies.kit.units import SECOND_NS
from tests.support.desks.daily_day import BEGIN, bought
from tests.support.desks.daily_stage import HALF_DAY, NEXT_DAY, daily_stage, jump, swapping
from tests.support.desks.live_desk import LOOSE, Daemon, write_config
from tests.support.desks.lively_policy import store
from tests.support.desks.stage import KEYS, UNENDING, Stage, Tape, stage

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("daemon", "strategies", "training")
OBSERVERS = ("daemon/operator/", "daemon/experience/", "daemon/host/", "daemon/app/operator_side.py")
"""Rooms whose calls, with all below them, are left out of a walk without observers: logs, status, metrics; clocks."""
CLOCKS = ("event ClockTicked",)
TIMERS = ("daemon/models/", "daemon/brokers/clock_check.py")
"""Whose tasks wake by themselves, now and then: called by nothing of the product but by `main`, which runs them all."""
MINUTE_DAY = "2024-11-01"
FILLS = ("frame fill", "frame partial_fill")
COMMANDS = {"rltraderd": "daemon.__main__:main", "train-and-export": "training.__main__:main"}
COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
WRITER, REST = "journal-writer", "queue-"
Row = tuple[str, str, str]  # thread; "c" call, "r" return or "m" mark; `file:line:function`, or the mark


# --- in the traced process ------------------------------------------------------------------------------------------


class Trace:
    """Notes calls and returns of the product's functions on all threads, and the marks between them."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, str, CodeType | str]] = []
        self._ours: dict[CodeType, bool] = {}
        self._threads: dict[int, str] = {}
        self._prefixes = tuple(f"{ROOT}/{room}/" for room in PRODUCT)

    def begin(self) -> None:
        """Note from now on, on this thread and on those that begin later."""
        threading.setprofile(self._note)
        sys.setprofile(self._note)

    def end(self) -> None:
        """Note no more on this thread and on those that begin later."""
        sys.setprofile(None)
        threading.setprofile(None)

    def mark(self, name: str) -> None:
        """Note that the product's border was crossed here."""
        self._rows.append((threading.get_ident(), "m", name))

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        if event not in ("call", "return"):
            return
        code = frame.f_code
        ours = self._ours.get(code)
        if ours is None:
            function = bool(code.co_flags & CO_OPTIMIZED) and code.co_name not in COMPREHENSIONS  # no body of a class
            ours = function and code.co_filename.startswith(self._prefixes)
            self._ours[code] = ours
        if ours:
            thread = threading.get_ident()
            if thread not in self._threads:
                self._threads[thread] = threading.current_thread().name
            self._rows.append((thread, event[0], code))

    def rows(self) -> list[Row]:
        """All that was noted, in its order."""
        names = {code: _name(code) for _, _, code in self._rows if isinstance(code, CodeType)}
        return [
            (self._threads.get(thread, ""), kind, what if isinstance(what, str) else names[what])
            for thread, kind, what in self._rows
        ]


def _name(code: CodeType) -> str:
    return f"{Path(code.co_filename).relative_to(ROOT)}:{code.co_firstlineno}:{code.co_qualname}"


def mark_borders(trace: Trace) -> None:
    """Mark each frame that a stream receives, each order that leaves, each event of the core."""
    connection = importlib.import_module("websockets.asyncio.connection").Connection
    pool = importlib.import_module("urllib3").PoolManager
    core = importlib.import_module("daemon.core.step").Core
    receive, send, step = connection.recv, pool.urlopen, core.step

    async def receiving(socket: Any, *arguments: Any, **more: Any) -> Any:
        frame = await receive(socket, *arguments, **more)
        trace.mark(f"frame {_content(frame)}")
        return frame

    def sending(http: Any, method: str, url: str, **how: Any) -> Any:
        if method == "POST" and url.endswith("/orders"):
            order = json.loads(how["body"])
            trace.mark(f"order {order['side']} {order['symbol']}")
        return send(http, method, url, **how)

    def stepping(machine: Any, state: Any, event: Any, *facts: Any) -> Any:
        trace.mark(f"event {type(event).__name__}")
        return step(machine, state, event, *facts)

    connection.recv, pool.urlopen, core.step = receiving, sending, stepping


def _content(frame: str | bytes) -> str:
    """What a frame brings: `b:SPY`, `q:SPY…`, `fill`, … each once."""
    try:
        messages = json.loads(frame)
    except ValueError:
        messages = importlib.import_module("msgpack").unpackb(frame, timestamp=0)
    if isinstance(messages, dict):
        return str(messages.get("data", {}).get("event", messages.get("stream", "")))
    return " ".join(dict.fromkeys(f"{message.get('T')}:{message.get('S', '')}" for message in messages))


def traced(path: Path, command: Callable[[], int]) -> int:
    """Run the command; all that it called is in `path` then."""
    trace = Trace()
    mark_borders(trace)
    trace.begin()
    try:
        return command()
    finally:
        trace.end()
        path.write_bytes(pickle.dumps(trace.rows()))


# --- walks ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Walk:
    """A part of a trace: its files and functions in their order, and how often each is entered."""

    name: str
    files: dict[str, int] = field(default_factory=dict)
    functions: dict[str, int] = field(default_factory=dict)
    changes: int = 0

    def figures(self) -> str:
        return f"{self.name:52} {len(self.files):5} files {len(self.functions):6} functions {self.changes:7} changes"


def walk(name: str, rows: Iterator[tuple[str, str, str | None]]) -> Walk:
    """Follow (thread, kind, what is read next: a function or None) one after the other."""
    result, last = Walk(name), ""
    for _, kind, what in rows:
        if what is None:
            continue
        file = what.partition(":")[0]
        if kind == "c":
            result.functions[what] = result.functions.get(what, 0) + 1
        if file != last:
            result.changes += bool(last)
            result.files[file] = result.files.get(file, 0) + 1
            last = file
    return result


def path_of(
    rows: list[Row],
    begin: int,
    end: int,
    *,
    threads: Callable[[str], bool],
    leave_out: Callable[[str, int], bool] | None = None,
) -> Iterator[tuple[str, str, str | None]]:
    """What is read from row `begin` to row `end` on these threads, without what `leave_out` says of a call or a mark.

    A call that is left out takes all below it along; a mark all until its thread's stack is as before it.
    """
    stacks: dict[str, list[str]] = {}
    hidden: dict[str, int] = {}  # thread -> the depth at which the hidden part began
    for number in range(end):
        thread, kind, what = rows[number]
        stack = stacks.setdefault(thread, [])
        is_reading = number >= begin and threads(thread)
        if number == begin:
            yield from ((thread, "c", function) for function in stack)
        if kind == "m":
            if thread not in hidden and leave_out is not None and number > begin and leave_out(what, len(stack)):
                hidden[thread] = 0
            continue
        if kind == "c":
            stack.append(what)
            if thread not in hidden and leave_out is not None and leave_out(what, len(stack)):
                hidden[thread] = len(stack)
            elif is_reading and thread not in hidden:
                yield thread, "c", what
        elif stack:
            stack.pop()
            if thread in hidden:
                if len(stack) < max(hidden[thread], 1):
                    del hidden[thread]
            elif is_reading:
                yield thread, "r", stack[-1] if stack else None


def minute_walks(folder: Path) -> Iterator[Walk]:
    """Of an option desk by the minute: its start, a bar that becomes an order, and a fill that becomes a row."""
    bars = tuple(read_bars(BUNDLED_TAPE, "SPY"))
    first, last = (new_york_date(bar.start_ns) for bar in (bars[0], bars[-1]))
    with stage(
        Tape(bars, tuple(calendar_sessions(first, last))),
        MINUTE_DAY,
        "10:05",
        folder / "minute",
        store(folder / "models"),
    ) as played:
        rows = _run(played, lambda: len(played.journaled("OrderFilled")) > 0)
    running = next(n for n, (_, kind, what) in enumerate(rows) if kind == "c" and what.endswith(":Engine.run"))
    yield walk("start -> Engine.run", path_of(rows, 0, running + 1, threads=_any))

    order = next(n for n, (_, kind, what) in enumerate(rows) if kind == "m" and what.startswith("order buy"))
    symbol = rows[order][2].rpartition(" ")[2]
    bar = max(n for n in range(order) if rows[n][1] == "m" and rows[n][2].startswith("frame ") and "b:" in rows[n][2])
    yield walk("bar -> order, all threads", path_of(rows, bar, order, threads=_computing))

    def beside(what: str, depth: int) -> bool:
        return _beside(what, depth) or (what.startswith("frame q:") and symbol not in what)

    yield walk("bar -> order, nothing beside", path_of(rows, bar, order, threads=_computing, leave_out=beside))

    fill = next(n for n in range(order, len(rows)) if rows[n][1] == "m" and rows[n][2] in FILLS)
    booked = next(n for n in range(fill, len(rows)) if rows[n][1:] == ("m", "event OrderFilled"))
    row = next(n for n in range(booked, len(rows)) if rows[n][1] == "r" and rows[n][2].endswith(":Journal.commit"))
    yield walk("fill -> journal's row", path_of(rows, fill, row, threads=_own, leave_out=beside))


def daily_walks(folder: Path) -> Iterator[Walk]:
    """Of a daily desk: from the moment at which a decision is due to the first order."""
    with daily_stage(HALF_DAY, BEGIN, folder / "daily", swapping(folder / "swapping")) as played:
        bought(played)
        orders = len(played.posts())
        jump(played, NEXT_DAY, BEGIN)
        rows = _run(played, lambda: len(played.posts()) > orders)
    due = next(n for n, (_, kind, what) in enumerate(rows) if (kind, what) == ("m", "event RebalanceDue"))
    order = next(n for n in range(due, len(rows)) if rows[n][1] == "m" and rows[n][2].startswith("order "))
    yield walk("daily decision -> first order, all threads", path_of(rows, due, order, threads=_computing))
    name = "daily decision -> first order, nothing beside"
    yield walk(name, path_of(rows, due, order, threads=_computing, leave_out=_beside))


def training_walk(folder: Path) -> Iterator[Walk]:
    """Of one short run of the first strategy's training, from the command to the exported model."""
    path = folder / "training"
    command = ["train-and-export", "--strategy", "option_scalper", "--steps", "8192", "--bars", str(BUNDLED_TAPE)]
    log = folder / "training.log"
    if code := _process(path, [*command, "--models-dir", str(folder / "trained")], log, {}).wait():
        raise RuntimeError(f"the training ended with {code}: {log.read_text()[-2000:]}")
    rows = pickle.loads(path.read_bytes())
    yield walk("train-and-export of a short run", path_of(rows, 0, len(rows), threads=_any))


def _beside(what: str, depth: int) -> bool:
    """What runs beside each walk: observers, and what the clock alone calls."""
    by_clock = depth <= 2 and (what.startswith(TIMERS) or ":Ticks." in what)
    return what.startswith(OBSERVERS) or what in CLOCKS or by_clock


def _any(_: str) -> bool:
    return True


def _own(thread: str) -> bool:
    """Whether it is no thread of requests: what is read over REST meanwhile is by chance."""
    return not thread.startswith(REST)


def _computing(thread: str) -> bool:
    return not thread.startswith((WRITER, REST))


class Traced(Daemon):
    """One `rltraderd` that notes what it calls, in a process of its own."""

    def __init__(
        self, arguments: list[str], environment: Mapping[str, str], log: Path, clock: SimClock, path: Path
    ) -> None:
        self.log = log
        self._popen = _process(path, ["rltraderd", *arguments], log, environment)
        clock.expect(self._popen.pid)

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._popen.poll()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    def kill(self) -> None:
        """SIGKILL."""
        self._popen.kill()

    def wait(self, timeout_s: float) -> int | None:
        """The exit code; None when it still runs after `timeout_s` real seconds."""
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None


def _process(path: Path, command: list[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a command of the product that leaves what it called in `path`."""
    words = [sys.executable, "-m", "bench.walk", "--traced", str(path), *command]
    with log.open("ab") as output:
        return subprocess.Popen(words, cwd=ROOT, env={**os.environ, **environment}, stderr=output, stdout=output)


def _run(played: Stage, reached: Callable[[], bool]) -> list[Row]:
    """Run a traced daemon on the stage until `reached` and a minute longer, stop it, and return what it called."""
    path, config = played.folder / "trace", played.folder / "config.toml"
    tables = (LOOSE, UNENDING, *played.tables)
    write_config(config, played.server, played.clock, played.state_dir, *tables, models_dir=played.models_dir)
    environment = {"RUNTIME_DIRECTORY": str(played.folder / "run"), **KEYS}
    daemon = Traced(["--config", str(config)], environment, played.folder / "log", played.clock, path)
    played.daemons.append(daemon)
    played.until_true(reached, "what is followed has happened")
    played.until_time(played.clock.now_ns() + 60 * SECOND_NS)
    os.kill(daemon.pid, signal.SIGTERM)
    while daemon.returncode is None:
        played.clock.pass_s(1.0)
    rows: list[Row] = pickle.loads(path.read_bytes())
    return rows


def main() -> int:
    """Print the figures of every walk; with `--list` the files too, each with how often it is entered."""
    if sys.argv[1:2] == ["--traced"]:
        path, command = Path(sys.argv[2]), sys.argv[3]
        sys.argv = [command, *sys.argv[4:]]
        module, _, function = COMMANDS[command].partition(":")
        return traced(path, lambda: int(getattr(importlib.import_module(module), function)() or 0))
    parser = argparse.ArgumentParser("python -m bench.walk", description=__doc__)
    parser.add_argument("--list", action="store_true", help="each file of each walk, in the order in which it is met")
    parser.add_argument("--without-training", action="store_true", help="leave out the run of a training")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rltrader-walk.") as name:
        folder = Path(name)
        walks = [minute_walks, daily_walks, *([] if options.without_training else [training_walk])]
        for walked in (walk_done for walk_of in walks for walk_done in walk_of(folder)):
            print(walked.figures(), flush=True)
            if options.list:
                for number, (file, entered) in enumerate(walked.files.items(), 1):
                    print(f"    {number:3} {file} {entered}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
