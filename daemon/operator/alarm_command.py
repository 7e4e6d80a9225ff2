"""Run the operator's program for alarms: JSON on standard input, no shell, a bare environment, a time limit.

The trading loop puts alarms into a bounded queue. The side thread starts the program, one run at a time. Alarms above
the rate are counted in `missed` of the next run. A program that fails is logged; that never raises an alarm.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from asyncio.subprocess import Process
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec.structs import replace

from daemon.core.effects import RaiseAlarm
from daemon.core.events import Event
from daemon.core.state import State
from daemon.core.step import Step
from daemon.pacing.token_bucket import TokenBucket
from strategies.kit.units import SECOND_NS

WAITING_MOST = 64  # halts, and as many other alarms
STDERR_MOST = 200  # letters of it that are logged
STDERR_KEPT = 4 * STDERR_MOST  # bytes: enough for them in any alphabet
REAPED_S = 1.0
NAP_S = 1.0  # longest sleep before the rate is looked at again
KEPT = ("PATH", "LANG", "HOME")  # of the environment


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
        self._log = log
        self._bucket = TokenBucket(monotonic_ns, per_minute, per_minute)
        self._halts: deque[AlarmLine] = deque(maxlen=WAITING_MOST)
        self._others: deque[AlarmLine] = deque(maxlen=WAITING_MOST)
        self._put = 0  # alarms that came: counted by the trading loop alone
        self._settled = 0  # of these, run or counted as missed: by the side thread alone
        self._wake: Callable[[], None] | None = None

    # --- the trading loop's thread --------------------------------------------------------------------------------

    def observe(self, _: Event, step: Step) -> None:
        """Queue the step's alarms; above `WAITING_MOST` the oldest are dropped and counted."""
        for effect in step.effects:
            if type(effect) is RaiseAlarm:
                line, is_halt = _line_of(effect, step.state, self._desk)
                (self._halts if is_halt else self._others).append(line)
                self._put += 1
                if self._wake is not None:
                    self._wake()

    # --- the side thread ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Start the program for each alarm, halts first, as often as the rate allows; until cancelled."""
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # this thread's loop has ended
                loop.call_soon_threadsafe(arrived.set)

        self._wake = wake
        try:
            while True:
                arrived.clear()
                if not self._halts and not self._others:
                    await arrived.wait()
                scarce = False
                while wait_ns := self._bucket.wait_ns():
                    scarce = True
                    await asyncio.sleep(min(wait_ns / 1e9, NAP_S))
                self._bucket.take()
                line = self._choose(scarce=scarce)
                problem = await self._start(line)
                if problem:
                    self._log("alarm_command_failed", alarm=line.alarm, problem=problem)
        finally:
            self._wake = None

    def _choose(self, *, scarce: bool) -> AlarmLine:
        """Return the oldest halt, else the oldest alarm; when `scarce` the newest, and count the others as missed."""
        line = self._halts.popleft() if self._halts else self._others.pop() if scarce else self._others.popleft()
        if scarce:
            self._others.clear()
        missed = max(self._put - self._settled - 1 - len(self._halts) - len(self._others), 0)
        self._settled += 1 + missed
        return replace(line, missed=missed)

    async def _start(self, line: AlarmLine) -> str:
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
        except asyncio.CancelledError:  # asyncio would kill the program alone, without its children
            with contextlib.suppress(OSError, ValueError):
                await _kill(await starting)
            raise
        except (OSError, ValueError) as error:
            found = error.strerror if isinstance(error, OSError) else error
            return f"alarms.command {self._command[0]!r} did not start: {found}: name a program that may be run"
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
    halt = state.risk.halt
    line = AlarmLine(
        v=1,
        desk=desk,
        strategy=state.identity.strategy,
        mode=state.identity.mode,
        alarm=effect.name,
        detail=effect.detail,
        time_ns=state.now_ns,
        time=datetime.fromtimestamp(state.now_ns // SECOND_NS, UTC).isoformat(),
        halted=halt is not None,
        missed=0,
    )
    return line, halt is not None and (halt.reason, halt.detail) == (effect.name, effect.detail)


async def _feed(process: Process, line: AlarmLine) -> None:
    """Write the line; a program that does not read it is no error."""
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
            await process.wait()


def _excerpt(output: bytearray) -> str:
    """Return the first printable letters of the program's output."""
    text = " ".join("".join(c if c.isprintable() else " " for c in output.decode(errors="replace")).split())
    return f": {text[:STDERR_MOST]}" if text else ""
