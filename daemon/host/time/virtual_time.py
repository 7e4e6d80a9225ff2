"""Virtual time: a clock that advances only when every joined process has finished its work.

For a server on this machine only (`[clock] socket`). A participant joins over a Unix socket, reads the time from shared
memory, and reports until when it is idle. Nothing here decides.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import mmap
import os
import selectors
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar, TypeVarTuple

from strategies.kit.units import SECOND_NS

NEVER_NS = 2**63 - 1
QUIET = struct.Struct("<qqq")  # participant to clock: turn, idle until (nanoseconds), work outside
GO = struct.Struct("<q")  # clock to participant: the turn that is over
SEAT = struct.Struct("<qq")  # clock to participant when it joins: its word and the number of words; one descriptor
WORD = 8
LOOK_S = 15.0
GRID_NS = 1_000  # timers end on it: those for one time, computed as floats, then do end at one time
T = TypeVar("T")
Args = TypeVarTuple("Args")


class ClockGone(RuntimeError):
    """The process that serves virtual time has ended: no time passes any more."""


class Participant:
    """One event loop, or one thread without a loop, that virtual time waits for.

    Time stands still from the moment of joining until `quiet`, and again from `wake` on. The clock's memory has the
    time in its first word; each participant has a word of its own with the turn in which it is quiet, 0 while it works.
    """

    look_s = LOOK_S
    alone = False  # whether all clients are on its own loop

    def __init__(self, path: str, name: str) -> None:
        """Join the clock at `path`. Raises OSError without one."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.socket.connect(path)
            self.socket.send(name.encode())
            seat, descriptors, _, _ = socket.recv_fds(self.socket, SEAT.size, 1)
            self._word, words = SEAT.unpack(seat)
        except BaseException:
            self.socket.close()
            raise
        self._memory = mmap.mmap(descriptors[0], words * WORD)
        os.close(descriptors[0])
        self._words = memoryview(self._memory).cast("q")
        self._turn = 0
        self.outside = 0  # work of threads that time waits for; below 0: what others await here until a time

    def now_ns(self) -> int:
        """Return the time now, in nanoseconds UTC."""
        return self._words[0]

    def watch(self, selector: selectors.EpollSelector) -> None:
        """Let the clock see input that waits for this participant."""
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [selector.fileno()]))
        self.socket.sendmsg([b"epoll"], [rights])

    def quiet(self, until_ns: int) -> None:
        """Report that nothing is to be done before `until_ns`, unless input comes."""
        self._turn += 1
        self._words[self._word] = self._turn
        try:
            self.socket.send(QUIET.pack(self._turn, until_ns, self.outside))
        except OSError as error:
            raise ClockGone("the process that serves virtual time has ended") from error

    def wake(self) -> None:
        """Report work: time stands still. Call this before reading any input."""
        self._words[self._word] = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                if not self.socket.recv(64, socket.MSG_DONTWAIT):
                    raise ClockGone("the process that serves virtual time has ended")

    def sleep_until(self, time_ns: int, limit_s: float | None = None) -> bool:
        """Let time pass until `time_ns`, on a thread without a loop; False after `limit_s` real seconds.

        Time stands still again in both cases.
        """
        if time_ns <= self.now_ns():
            return True
        self.quiet(time_ns)
        self.socket.settimeout(limit_s)
        try:
            while (data := self.socket.recv(64)) and GO.unpack(data)[0] != self._turn:
                pass
        except TimeoutError:
            return False
        finally:
            self.socket.settimeout(None)
            self._words[self._word] = 0
        if not data:
            raise ClockGone("the process that serves virtual time has ended")
        return True

    def leave(self) -> None:
        """Leave virtual time: it no longer waits for this participant."""
        self.socket.close()


def wall_ns(participant: Participant) -> int:
    """Return the host's wall clock in virtual time: the time, unless it is set."""
    return participant.now_ns()


class _Selector(selectors.EpollSelector):
    """Waits for files like any selector; waits for time through the clock."""

    def __init__(self, participant: Participant) -> None:
        super().__init__()
        self._participant = participant
        self.register(participant.socket, selectors.EVENT_READ)
        participant.watch(self)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now, else wait for input or until virtual time is `timeout` seconds later."""
        ready = self._ready(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        participant = self._participant
        until_ns = NEVER_NS
        if timeout is not None:
            until_ns = participant.now_ns() - int(-timeout * SECOND_NS // 1)
            until_ns += -until_ns % GRID_NS
        participant.quiet(until_ns)
        ready = self._ready(None)
        participant.wake()
        return ready

    def _ready(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        socket = self._participant.socket
        return [(key, mask) for key, mask in super().select(timeout) if key.fileobj is not socket]


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time: sleeps, timeouts and timers. Time waits for the work of its threads."""

    def __init__(self, participant: Participant) -> None:
        self.participant = participant
        self._began_ns = participant.now_ns()
        super().__init__(_Selector(participant))
        self._threads = ThreadPoolExecutor(thread_name_prefix="asyncio")
        self.set_default_executor(self._threads)

    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return (self.participant.now_ns() - self._began_ns) / SECOND_NS

    def now_ns(self) -> int:
        """Return the virtual time, nanoseconds since 1970 UTC."""
        return self.participant.now_ns()

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Args], T], *args: *Args) -> asyncio.Future[T]:
        """Run as any loop does; time waits for it."""
        work = (executor or self._threads).submit(func, *args)
        answer = asyncio.wrap_future(work, loop=self)
        self._count(work)  # after the answer's own callback: the answer is there before time may pass
        return answer

    def wait_for(self, pool: Executor) -> None:
        """Let time wait until the one thread of `pool` has done its work and its waiters are notified."""
        self._count(pool.submit(int))

    def wait_for_work(self, work: Future[Any]) -> None:
        """Let time wait until this work, which another thread does, is done."""
        self._count(work)

    def _count(self, work: Future[Any]) -> None:
        self.participant.outside += 1

        def on_end(_work: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed before
                self.call_soon_threadsafe(self._fewer)

        work.add_done_callback(on_end)

    def _fewer(self) -> None:
        self.participant.outside -= 1


def look_s(real_s: float) -> float:
    """Return the seconds to the next poll.

    In virtual time each poll stops the clock. So they are rarer there, and those of all processes are at one time.
    """
    participant: Participant | None = getattr(asyncio.get_running_loop(), "participant", None)
    if participant is None:
        return real_s
    step_ns = int(max(real_s, participant.look_s) * SECOND_NS)
    return (step_ns - participant.now_ns() % step_ns) / SECOND_NS


@contextlib.contextmanager
def while_clients_wait() -> Iterator[None]:
    """Answer a client whose thread holds virtual time, if the running loop has it: time passes for the answer."""
    participant: Participant | None = getattr(asyncio.get_running_loop(), "participant", None)
    if participant is None or participant.alone:
        yield
        return
    participant.outside -= 1
    try:
        yield
    finally:
        participant.outside += 1


def one_thread(name: str) -> Executor:
    """Return an executor of one thread; a loop without threads gives its own (`one_thread`)."""
    try:
        make: Callable[[str], Executor] | None = getattr(asyncio.get_running_loop(), "one_thread", None)
    except RuntimeError:
        make = None
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix=name) if make is None else make(name)


def time_waits_for(pool: Executor) -> None:
    """Let virtual time, if the running loop has it, wait until the one thread of `pool` has done its work."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualLoop):
        loop.wait_for(pool)


def time_waits_until_done(work: Future[Any]) -> None:
    """Let virtual time, if the running loop has it, wait until this work, which another thread does, is done."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualLoop):
        loop.wait_for_work(work)
