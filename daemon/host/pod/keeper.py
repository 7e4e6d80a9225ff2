"""Keep one program running as the systemd unit does, and only while the Lease is held.

Invariant: the child runs only before `Tenure.until`; it is killed `MARGIN_S` earlier, and asked to stop `stop_s` before
that. So an unavailable API server does not disturb trading for most of the Lease's duration.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemon.host.pod.lease import ApiError, Tenure

NOTICE_BYTES = 4096


class Notices:
    """A notification socket for successive children. `read` takes the messages there are; it never waits."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))
        self.ready, self.progress_s = False, time.monotonic()
        self.stopping_s: float | None = None  # since when the child is stopping

    def begin(self) -> None:
        """Forget the former child."""
        self.read()
        self.ready, self.progress_s, self.stopping_s = False, time.monotonic(), None

    def read(self) -> None:
        """Take every notice that has come."""
        with contextlib.suppress(BlockingIOError):
            while True:
                for line in self._socket.recv(NOTICE_BYTES).split(b"\n"):
                    if line in (b"READY=1", b"WATCHDOG=1"):
                        self.progress_s = time.monotonic()
                    if line in (b"READY=1", b"STOPPING=1"):
                        self.ready = line == b"READY=1"
                        self.stopping_s = None if self.ready else time.monotonic()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


OPERATOR_ERRED = 2  # exit code of a refusal: a restart would change nothing
MARGIN_S = 5.0
RENEWAL_MOST_S = 20.0  # for one attempt
READY_FILE, ALIVE_FILE, NOTIFY_SOCKET = "ready", "alive", "notify"


@dataclass(frozen=True, slots=True)
class Times:
    """Durations in seconds; the defaults are those of systemd/rltraderd.service."""

    start_s: float = 900.0  # until READY=1
    watchdog_s: float = 60.0
    stop_s: float = 90.0
    restart_s: float = 5.0
    renew_s: float = 10.0
    look_s: float = 0.25


def boot_time() -> float:
    """Seconds of this machine, suspended ones included: a lease runs out while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Supervisor:
    """Run `command` again and again until a signal or a refusal. `folder` has the files for probes.

    The Lease counts by `clock`, which goes on while the machine sleeps; the child's times do not.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        times: Times,
        tenure: Tenure | None = None,
        clock: Callable[[], float] = boot_time,
    ) -> None:
        """Raise ValueError where there is no such program, OSError for a folder that takes no socket."""
        if shutil.which(command[0]) is None:
            raise ValueError(f"{command[0]}: there is no such program in this image")
        self._command, self._folder, self._times, self._tenure, self._clock = command, folder, times, tenure, clock
        self._stop, self._end_event = threading.Event(), threading.Event()
        self._notices = Notices(folder / NOTIFY_SOCKET)
        self._child: subprocess.Popen[bytes] | None = None
        self._renewing = threading.Thread(target=self._renew, name="lease", daemon=True)

    def stop(self) -> None:
        """Stop the child cleanly and end; a signal handler may call it."""
        self._stop.set()

    def run(self) -> int:
        """Run until the end; returns 0 after `stop`, 2 where the child refused its settings."""
        if self._tenure is not None:
            self._renewing.start()
        try:
            while not self._stop.is_set():
                if not self._may_run():
                    self._look()
                    continue
                if self._one_child() == OPERATOR_ERRED:
                    return OPERATOR_ERRED
                self._rest()
        finally:
            self._end()
        return 0

    def _may_run(self) -> bool:
        """Return whether there is time left to run and to stop before the Lease ends."""
        tenure = self._tenure
        return tenure is None or self._clock() < tenure.until - MARGIN_S - self._times.stop_s

    def _must_end(self) -> bool:
        return self._tenure is not None and self._clock() >= self._tenure.until - MARGIN_S

    def _one_child(self) -> int:
        """Start the child, watch it to its end, return its exit code; minus the signal that ended it."""
        self._notices.begin()
        began = time.monotonic()
        environment = {
            "NOTIFY_SOCKET": str(self._folder / NOTIFY_SOCKET),
            "WATCHDOG_USEC": str(round(self._times.watchdog_s * 1e6)),
        }
        self._child = child = subprocess.Popen(self._command, env=os.environ | environment)
        try:
            self._watch(child, began)
        finally:
            child.kill()  # in any case: the lease is released only without a child
            code = child.wait()
        _print(f"the child ended with {code}")
        return code

    def _watch(self, child: subprocess.Popen[bytes], began: float) -> None:
        """Return when the child has ended or must be killed; ask it to stop first where there is time."""
        asked_at: float | None = None
        while child.poll() is None:
            now = time.monotonic()  # sleep of the machine must not count as a child without progress
            if reason := self._reason_to_kill(now, began, asked_at):
                _print(f"the child is killed: {reason}")
                return
            if asked_at is None and (self._stop.is_set() or not self._may_run()):
                _print("the child is asked to stop: " + ("a signal" if self._stop.is_set() else self._lease_state()))
                asked_at = now
                child.terminate()
            self._look(ready=asked_at is None)

    def _reason_to_kill(self, now: float, began: float, asked_at: float | None) -> str:
        self._notices.read()
        if self._must_end():
            return self._lease_state()
        if (stops_since := asked_at if asked_at is not None else self._notices.stopping_s) is not None:
            return "it did not stop in time" if now - stops_since > self._times.stop_s else ""
        if now - self._notices.progress_s > self._times.watchdog_s and self._notices.ready:
            return "its watchdog was not fed"
        if now - began > self._times.start_s and not self._notices.ready:
            return "it was not ready in time"
        return ""

    def _look(self, *, ready: bool = False) -> None:
        """Wait a moment; update the probes' files."""
        self._notices.read()
        if os.getpid() == INIT:
            reap_orphans(self._child)
        (self._folder / ALIVE_FILE).touch()
        if ready and self._notices.ready:
            (self._folder / READY_FILE).touch()
        else:
            (self._folder / READY_FILE).unlink(missing_ok=True)
        time.sleep(self._times.look_s)

    def _rest(self) -> None:
        """Wait before the next start; a stop ends it."""
        end = time.monotonic() + self._times.restart_s
        while time.monotonic() < end and not self._stop.is_set():
            self._look()

    def _renew(self) -> None:
        """Acquire the Lease and renew it until the end, in a thread: the API server must delay nothing else."""
        tenure, former = self._tenure, ""
        while tenure is not None and not self._end_event.is_set():
            try:
                state = "the lease is held" if tenure.attempt() else self._lease_state()
            except ApiError as error:
                state = str(error)
            if state != former:
                _print(state)
                former = state
            self._end_event.wait(self._times.renew_s)

    def _lease_state(self) -> str:
        other = self._tenure.other if self._tenure is not None else ""
        return f"the lease is held by {other}" if other else "the lease could not be renewed"

    def _end(self) -> None:
        self._end_event.set()
        self._notices.close()
        for name in (READY_FILE, ALIVE_FILE):
            (self._folder / name).unlink(missing_ok=True)
        if self._tenure is None:
            return
        self._renewing.join(RENEWAL_MOST_S)
        if not self._renewing.is_alive():  # else a request under way could take the Lease again
            with contextlib.suppress(ApiError):  # it expires by itself
                self._tenure.release()


INIT = 1  # process id in a container to which orphans are reparented


def reap_orphans(child: subprocess.Popen[bytes] | None) -> None:
    """Reap children other than `child`, left by a killed program, since each keeps a process number.

    Docker's limit of processes counts them, so that after enough crashes no program could be started.
    """
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if child is not None and ended.si_pid == child.pid and child.returncode is None:
                return  # `child.poll` takes this one
            os.waitpid(ended.si_pid, os.WNOHANG)


def handle_signals(keeper: Supervisor) -> None:
    """Let SIGTERM and SIGINT stop the keeper."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: keeper.stop())


def _print(text: str) -> None:
    sys.stderr.write(f"rltrader-pod: {text}\n")
    sys.stderr.flush()
