"""Run the operator's program for alarms: JSON on standard input, no shell, a bare environment, a time limit.

The trading loop queues alarms by their urgency. The side thread starts the program, one run at a time. Grave alarms go
first, each in a run of its own, and again until one does not fail, or ten fail while others' do not; others above the
rate are counted in `missed` of the next run. A program that fails is logged; that never raises an alarm.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from asyncio.subprocess import Process
from collections import Counter, deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from daemon.config.tables import AlarmsTable
from daemon.core.draft import wording
from daemon.core.effects import RaiseAlarm
from daemon.core.events import Event
from daemon.core.state import State
from daemon.core.step import Step
from daemon.operator.log_events import LOG_EVENTS
from daemon.operator.urgency import Urgency, urgency_of
from daemon.pacing import TokenBucket, back_off_s
from strategies.kit.units import HOUR_NS, SECOND_NS

WAITING_MOST = 64  # alarms of each lesser urgency, and of each name of a grave one
RUNS_MOST = 10  # runs of one grave alarm that fail while those of others do not
AGAIN_S, AGAIN_MOST_S = 10.0, 300.0  # between runs of one grave alarm that fail, doubling
STDERR_MOST = 200  # characters of standard error that are logged
STDERR_KEPT = 4 * STDERR_MOST  # bytes kept: enough for these in any alphabet
REAPED_S = 1.0
NAP_S = 1.0  # longest sleep between checks of the rate
KEPT = ("PATH", "LANG", "HOME")  # variables that the program's environment keeps


class AlarmLine(msgspec.Struct, frozen=True):
    """An alarm as one line of JSON for the program. `missed` counts earlier alarms without a run."""

    v: int
    desk: str
    strategy: str
    mode: str
    alarm: str
    detail: str
    time_ns: int  # market time
    time: str  # the same, ISO 8601 UTC
    halted: bool
    missed: int


class _Queue:
    """Alarms waiting for a run. Filled by the trading loop, emptied by the side thread; calls are short and locked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._grave: dict[str, deque[AlarmLine]] = {}  # by name; the first name has the next turn
        self._lesser = {urgency: deque[AlarmLine](maxlen=WAITING_MOST) for urgency in (Urgency.WARNING, Urgency.NOTE)}
        self._put = self._done_count = 0  # alarms queued; of these, alarms run or counted as missed

    def __len__(self) -> int:
        with self._lock:
            return self._waiting()

    def put(self, line: AlarmLine, urgency: Urgency) -> None:
        """Queue an alarm. Above `WAITING_MOST` drop the oldest of its urgency, or of its name for a grave one."""
        with self._lock:
            self._put += 1
            if urgency is Urgency.GRAVE:
                self._grave.setdefault(line.alarm, deque(maxlen=WAITING_MOST)).append(line)
            else:
                self._lesser[urgency].append(line)

    def has_grave(self) -> bool:
        """Whether a grave alarm waits."""
        with self._lock:
            return bool(self._grave)

    def take(self, *, scarce: bool) -> tuple[AlarmLine, Urgency]:
        """Return the next alarm, the most urgent first, with the number of dropped ones as its `missed`.

        Grave names take turns, each with its oldest alarm first. Of the others, when `scarce`, the newest is taken and
        the rest dropped.
        """
        with self._lock:
            line, urgency = self._next(scarce=scarce)
            missed_count = self._put - self._done_count - 1 - self._waiting()
            self._done_count += 1 + missed_count
            return replace(line, missed=missed_count), urgency

    def _next(self, *, scarce: bool) -> tuple[AlarmLine, Urgency]:
        if self._grave:
            name = next(iter(self._grave))
            lines = self._grave.pop(name)
            line = lines.popleft()
            if lines:
                self._grave[name] = lines  # after the other names
            return line, Urgency.GRAVE
        urgency = next(urgency for urgency, lines in self._lesser.items() if lines)
        lines = self._lesser[urgency]
        line = lines.pop() if scarce else lines.popleft()
        if scarce:
            for alarms_waiting in self._lesser.values():
                alarms_waiting.clear()
        return line, urgency

    def _waiting(self) -> int:
        return sum(len(lines) for lines in (*self._grave.values(), *self._lesser.values()))


class _Retry(NamedTuple):
    """A grave alarm whose `runs` failed, `alone` of them while others' went well. `taken`: all good runs so far."""

    at_ns: int
    runs: int
    alone: int
    taken: int
    line: AlarmLine


class AlarmCommand:
    """`observe` on the trading loop, `run` on the side thread.

    `log("alarm_command_failed", alarm=, problem=)` is called on the side thread for a run that failed.
    `monotonic_ns` is the clock of the rate.
    """

    def __init__(
        self,
        command: tuple[str, ...],
        per_minute: int,
        timeout_s: float,
        desk: str,
        log: Callable[..., None],
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._command, self._timeout_s, self._desk = command, timeout_s, desk
        self._log, self._monotonic_ns = log, monotonic_ns
        self._bucket = TokenBucket(monotonic_ns, per_minute, per_minute)
        self._queue = _Queue()
        self._retries: list[_Retry] = []  # of grave ones, the next first
        self._taken_count = 0  # runs that did not fail
        self._wake: Callable[[], None] | None = None

    # --- the trading loop's thread --------------------------------------------------------------------------------

    def observe(self, _: Event, step: Step) -> None:
        """Queue the step's alarms."""
        for effect in step.effects:
            if type(effect) is RaiseAlarm:
                line, halts = _line_of(effect, step.state, self._desk)
                self.put(line, halts=halts)

    def raise_for(self, mode: str, alarm: str, detail: str, now_ns: int) -> None:
        """Queue an alarm of a program that has no desk's state, such as a guard; nothing without a command."""
        if self._command:
            self.put(line_for(self._desk, "", mode, alarm, detail, now_ns, halted=False))

    def put(self, line: AlarmLine, *, halts: bool = False) -> None:
        """Queue one alarm; `halts`: a halt began with it."""
        self._queue.put(line, urgency_of(line.alarm, halts=halts))
        if self._wake is not None:
            self._wake()

    # --- the side thread ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Start the program for each alarm, grave ones first, as often as the rate allows; until cancelled."""
        loop, arrival = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # this thread's loop has ended
                loop.call_soon_threadsafe(arrival.set)

        self._wake = wake
        try:
            while True:
                arrival.clear()
                if not self._queue and not self._is_due():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(NAP_S if self._retries else None):
                            await arrival.wait()
                    continue
                scarce = False
                while wait_ns := self._bucket.wait_ns():
                    scarce = True
                    await asyncio.sleep(min(wait_ns / 1e9, NAP_S))
                self._bucket.take()
                await self._run_next(scarce=scarce)
        finally:
            self._wake = None

    def _is_due(self) -> bool:
        """Return whether it is time for the next run of a grave alarm whose run failed."""
        return bool(self._retries) and self._retries[0].at_ns <= self._monotonic_ns()

    async def _run_next(self, *, scarce: bool) -> None:
        """Run the program for the next alarm. A grave one is kept for another run if it fails."""
        if self._is_due() and not self._queue.has_grave():
            _, runs, alone, taken, line = self._retries.pop(0)
            alone += self._taken_count > taken
            urgency = Urgency.GRAVE
        else:
            (line, urgency), runs, alone = self._queue.take(scarce=scarce), 0, 1
        problem = await self.run_for(line)
        if not problem:
            self._taken_count += 1
            return
        self._log("alarm_command_failed", alarm=line.alarm, problem=problem)
        if urgency is Urgency.GRAVE and alone < RUNS_MOST:
            again_ns = self._monotonic_ns() + round(back_off_s(runs + 1, AGAIN_S, AGAIN_MOST_S) * SECOND_NS)
            self._retries.append(_Retry(again_ns, runs + 1, alone, self._taken_count, line))
            alike = [retry for retry in self._retries if retry.line.alarm == line.alarm]
            if len(alike) > WAITING_MOST:
                self._retries.remove(min(alike, key=lambda retry: retry.line.time_ns))
            self._retries.sort(key=lambda retry: retry.at_ns)

    async def run_for(self, line: AlarmLine) -> str:
        """Run the program once; return the problem, "" for none."""
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env={**environment, "RLTRADER_DESK": line.desk, "RLTRADER_ALARM": line.alarm},
                start_new_session=True,  # a process group of its own, so that its children can be ended with it
            )
        )
        try:
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:  # asyncio would kill the program without its children
            with contextlib.suppress(OSError, ValueError):
                await _kill(await starting)
            raise
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            return f"alarms.command {self._command[0]!r} did not start: {reason}: name a program that may be run"
        output = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                await asyncio.gather(_feed(process, line), _read_stderr(process, output), process.wait())
        except TimeoutError:
            await _kill(process)
            return f"killed after alarms.timeout_s = {self._timeout_s}: it shall end sooner{_excerpt(output)}"
        except asyncio.CancelledError:
            await _kill(process)
            raise
        return f"exit code {process.returncode}, expected 0{_excerpt(output)}" if process.returncode else ""


def _line_of(effect: RaiseAlarm, state: State[Any], desk: str) -> tuple[AlarmLine, bool]:
    """Return the alarm's line, and whether the alarm is a halt that began with this step."""
    halt, about = state.risk.halt, state.identity
    line = line_for(desk, about.strategy, about.mode, effect.name, effect.detail, state.now_ns, halted=halt is not None)
    return line, halt is not None and (halt.reason, halt.detail) == (effect.name, effect.detail)


def tell_now(table: AlarmsTable, desk: str, alarm: str, detail: str, log: Callable[..., None], *, halted: bool) -> None:
    """Run the program once, outside of a running desk, and wait for its end; do nothing if none is configured."""
    if table.command:
        line = line_for(desk, "", "", alarm, detail, time.time_ns(), halted=halted)
        if problem := asyncio.run(AlarmCommand(table.command, 1, table.timeout_s, desk, log).run_for(line)):
            log("alarm_command_failed", alarm=alarm, problem=problem)


def line_for(desk: str, strategy: str, mode: str, alarm: str, detail: str, now_ns: int, *, halted: bool) -> AlarmLine:
    """Return an alarm's line at `now_ns`, nanoseconds UTC."""
    return AlarmLine(
        v=1,
        desk=desk,
        strategy=strategy,
        mode=mode,
        alarm=alarm,
        detail=detail,
        time_ns=now_ns,
        time=datetime.fromtimestamp(now_ns // SECOND_NS, UTC).isoformat(),
        halted=halted,
        missed=0,
    )


async def _feed(process: Process, line: AlarmLine) -> None:
    """Write the line; a program that does not read it is no fault."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(msgspec.json.encode(line) + b"\n")
        await process.stdin.drain()
    process.stdin.close()


async def _read_stderr(process: Process, output: bytearray) -> None:
    """Read standard error to its end, keep its beginning."""
    assert process.stderr is not None
    while chunk := await process.stderr.read(4096):
        if len(output) < STDERR_KEPT:
            output += chunk[: STDERR_KEPT - len(output)]


async def _kill(process: Process) -> None:
    """End the program and what it started: at a timeout, and when the daemon stops."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REAPED_S):
            await asyncio.gather(_read_stderr(process, bytearray()), process.wait())  # unread, its pipe stays open


def _excerpt(output: bytearray) -> str:
    """Return the first printable characters of the program's output."""
    text = " ".join("".join(c if c.isprintable() else " " for c in output.decode(errors="replace")).split())
    return f": {text[:STDERR_MOST]}" if text else ""


class AlarmedLog:
    """A log of a program without a desk's journal: its alarms also run the operator's program, each case once an hour.

    `plain` only logs, `tell` always runs the program too; `raised` counts the alarms by name.
    """

    def __init__(self, plain: Callable[..., None], command: AlarmCommand, mode: str, now_ns: Callable[[], int]) -> None:
        self.plain, self.command = plain, command
        self._mode, self._now_ns = mode, now_ns
        self._told_ns: dict[str, int] = {}  # time of the last alarm, by case
        self.raised: Counter[str] = Counter()

    def __call__(self, name: str, /, **fields: object) -> None:
        """Log an event; raise it where it is an alarm."""
        self.plain(name, **fields)
        if LOG_EVENTS[name].alarm:
            detail, now_ns = detail_of(fields), self._now_ns()
            case = f"{name} {wording(detail)}"
            if abs(now_ns - self._told_ns.get(case, -HOUR_NS)) >= HOUR_NS:
                self._told_ns[case] = now_ns
                self.raise_for(name, detail)

    def tell(self, name: str, /, **fields: object) -> None:
        """Log an event, and raise it every time."""
        self.plain(name, **fields)
        self.raise_for(name, detail_of(fields))

    def raise_for(self, name: str, detail: str) -> None:
        """Count an alarm, and start the program for it."""
        self.raised[name] += 1
        self.command.raise_for(self._mode, name, detail, self._now_ns())


def detail_of(fields: Mapping[str, object]) -> str:
    """Return an alarm's detail from the fields of a log event."""
    return ", ".join(str(value) if key == "detail" else f"{key} {value}" for key, value in fields.items())
