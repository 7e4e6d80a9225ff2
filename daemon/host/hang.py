"""End a process whose step hangs, and leave a record of where it hung or crashed for the next start.

A thread watches the step in real time. Where C code holds the interpreter, no Python thread runs: then `faulthandler`'s
own thread ends the process, later, but before systemd's watchdog would and with the same record. A signal from C code
that ends the process (a bad address, an abort) leaves the stack of its thread there, too. An end without a stack
(`os._exit`, SIGKILL, out of memory) leaves the name of the call that was under way.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import re
import resource
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from daemon.host.own_files import open_own

FILE = "hung"  # in the state directory: stacks of the run that hung, emptied by a start that recorded it
ENDS_MAX = 2  # runs of a day that end in a call of the strategy before it is not called again
CALL_FILE = "call"  # the strategy's call under way, and the day's number of runs that ended in one
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
UNSTOPPED_MAX = 3  # runs of a day that end, unstopped, after a call before it is not imported again
_CALL_BYTES = 16
_AFTER = "-"  # stands for a call: there were calls, and none is under way
LOOK_S = 0.5
LAST_S = 50.0  # for a step that lets no thread run: below systemd's watchdog of 60 s
SHOWN = 3  # number of innermost frames shown
_FATAL = re.compile(r"^Fatal Python error: (.*)$", re.MULTILINE)
_FRAME = re.compile(r'^  File "([^"]*)", line (\d+) in (.*)$', re.MULTILINE)


class HangGuard:
    """Ends the process with exit code 1 when one step takes longer than `limit_s` seconds of real time.

    `stepping` returns a number that differs from step to step, 0 between two steps. Looks at the same step count, and
    between two what the thread that called `start` computed, or this one waited for the interpreter: C code that keeps
    it makes looks rare. So the time for which a process was stopped or suspended does not count. A crash leaves the
    same record as a hang, unless Python's own `-X faulthandler` writes it elsewhere. Where `file` in `folder` cannot be
    opened, `unrecorded` says why, and the next start learns nothing of a hang. `last_words` go to standard error before
    the end, a line.
    """

    def __init__(
        self, folder: Path, limit_s: float, stepping: Callable[[], int], file: str = FILE, last_words: str = ""
    ) -> None:
        self._stepping, self._limit_s, self._last_words = stepping, max(LOOK_S, limit_s), last_words
        self.unrecorded = ""
        try:
            self._file = _record(folder, os.O_WRONLY | os.O_CREAT | os.O_APPEND, file)
        except OSError as error:
            self.unrecorded = f"{folder / file}: {error.strerror}"
            self._file = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        self._ends = threading.Event()
        self._records_crashes = False
        self._thread = threading.Thread(target=self._watch, name="hang", daemon=True)

    def start(self) -> None:
        """Watch from now on."""
        self._arm()
        self._cpu_clock = time.pthread_getcpuclockid(threading.get_ident())
        self._wake_s = sys.getswitchinterval()  # a thread that waits for the interpreter wakes up so often
        if not faulthandler.is_enabled():
            faulthandler.enable(self._file, all_threads=False)
            self._records_crashes = True
        self._thread.start()

    def forget(self) -> None:
        """Empty the record of an earlier run, which is in the journal."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)

    def close(self) -> None:
        """End the watch."""
        self._ends.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._records_crashes:
            faulthandler.disable()
        os.close(self._file)

    def _watch(self) -> None:
        last_turn, last, spent_s = 0, self._clocks(), 0.0
        try:
            while not self._ends.wait(LOOK_S):
                self._arm()
                step, now = self._stepping(), self._clocks()
                cpu_s, waited_s, real_s = (after - before for after, before in zip(now, last, strict=True))
                passed_s = max(LOOK_S, cpu_s, min(waited_s, real_s))
                spent_s = spent_s + passed_s if step and step == last_turn else 0.0
                last_turn, last = step, now
                if spent_s >= self._limit_s:
                    self._end()
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _clocks(self) -> tuple[float, float, float]:
        """Return the watched thread's processor time, this thread's wake-ups as time, and real time, in seconds."""
        wakes = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        try:
            cpu_s = time.clock_gettime(self._cpu_clock)
        except OSError:  # the thread has ended
            cpu_s = 0.0
        return cpu_s, wakes * self._wake_s, time.monotonic()

    def _arm(self) -> None:
        faulthandler.dump_traceback_later(LAST_S, exit=True, file=self._file)

    def _end(self) -> None:
        try:
            faulthandler.dump_traceback(self._file, all_threads=True)
            os.fsync(self._file)
            os.write(2, self._last_words.encode())
        finally:  # even if the disk refuses the record
            os._exit(1)


class CallMark:
    """Notes each call of the strategy while it runs: the next start knows if the process ended in or after one.

    A call costs two writes without a flush, a microsecond or two: they survive the process, not the host. So notes of
    an earlier boot do not count, nor do a missing or damaged file, or those of a `day` (date) other than today. Where
    the file in `folder` cannot be used, nothing is noted; nor where exclusive use is requested (`alone`) and another
    process has it; nor calls of another thread than the one that made this.
    """

    def __init__(self, folder: Path, day: str, file: str = CALL_FILE, *, alone: bool = False) -> None:
        self.ended_in = ""
        """The call in which the last run ended; "" for none."""
        self.times = 0
        """Number of this day's runs that ended in a call, since a `forget`."""
        self.ended_after = False
        """Whether the last run ended after a call without being stopped."""
        self.unstopped = 0
        """Number of this day's runs that did, since a `forget`."""
        self._call, self._stopped, self._calls = "", False, 0
        self._thread = threading.get_ident()
        try:
            self._file = _record(folder, os.O_RDWR | os.O_CREAT, file)
            if alone:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        with contextlib.suppress(OSError, ValueError):
            text = os.pread(self._file, 200, 0).decode(errors="replace")
            boot, noted_day, *counts = text[_CALL_BYTES:].split()
            times, unstopped = map(int, counts)
            if boot == _boot():
                if noted_day != day:
                    times = unstopped = 0
                last = text[:_CALL_BYTES].strip()
                self.ended_in, self.ended_after = last.replace(_AFTER, ""), last == _AFTER
                self.times, self.unstopped = times + bool(self.ended_in), unstopped + self.ended_after
        self._day = day
        self._write()

    def note(self, call: str) -> None:
        """Note the call that begins; "" once it returned or raised."""
        if threading.get_ident() != self._thread:
            return
        self._calls += bool(call)
        self._call = call
        if not self._stopped:
            self._put(call or _AFTER)

    @property
    def under_way(self) -> int:
        """The number of the call under way, 0 between two calls."""
        return self._calls if self._call else 0

    def stopped(self) -> None:
        """Note that the process was asked to end, so that its end is not blamed on a call, except one under way."""
        if not self._stopped and not self._call:
            self._put("")
        self._stopped = True

    def _put(self, word: str) -> None:
        try:
            os.pwrite(self._file, _place_of(word), 0)
        except OSError:  # a full disk
            return

    def forget(self) -> None:
        """Restart the counts: the halt is in the journal."""
        self.times = self.unstopped = 0
        self._write()

    def close(self) -> None:
        """End the notes."""
        os.close(self._file)

    def _write(self) -> None:
        text = f"{'':{_CALL_BYTES}}{_boot()} {self._day} {self.times} {self.unstopped}\n"
        with contextlib.suppress(OSError):
            os.pwrite(self._file, text.encode(), 0)
            os.ftruncate(self._file, len(text))


@cache
def _place_of(call: str) -> bytes:
    return f"{call:{_CALL_BYTES}.{_CALL_BYTES}}".encode("ascii", "replace")


def _boot() -> str:
    """Return the id of this boot of the host; a different text each time if the kernel names none."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return os.urandom(8).hex()


def _record(folder: Path, flags: int, name: str = FILE) -> int:
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_own(directory, name, flags)
    finally:
        os.close(directory)


def last_hang(folder: Path, file: str = FILE) -> str:
    """Return the stack in which the last run hung, innermost frame first; "" without a hang."""
    try:
        with os.fdopen(_record(folder, os.O_RDONLY, file), errors="replace") as record:
            return record.read()[-100_000:]
    except OSError:
        return ""


def crash_of(stack: str) -> str:
    """Return what ended the run that left this stack, such as "Segmentation fault"; "" for a hang."""
    fatal_lines: list[str] = _FATAL.findall(stack)
    return fatal_lines[-1] if fatal_lines else ""


def shown_stack(stack: str, *within: str) -> str:
    """Return the innermost frames of the thread that was in one of the files `within`, in one line.

    "" where no thread was in any.
    """
    for thread in stack.split("\n\n"):
        frames = _FRAME.findall(thread)
        if any(path.endswith(within) for path, _, _ in frames):
            return ", from ".join(f"{Path(path).name}:{line} {name}" for path, line, name in frames[:SHOWN])
    return ""
