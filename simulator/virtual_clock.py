"""Virtual time of a loopback Alpaca and its clients: the clock advances when every participant is done.

`daemon.host.time.virtual_time` has the participant's side. The clock releases one participant at a time, the earliest
first and at the same time those that joined first, so that a run is a function of the tape and the seeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import mmap
import os
import random
import select
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from daemon.host.time.virtual_time import GO, NEVER_NS, QUIET, SEAT, WORD, Participant, VirtualLoop
from simulator.clock import SimClock
from strategies.kit.units import SECOND_NS

WORDS = 512  # the time, and one word for each participant that ever joined
STEP_S = 0.25  # virtual seconds between two checks of the driver
GRACE_S = 0.005  # real seconds for processes outside the clock: one that has ended and is not yet reaped
MANY = 1_000_000  # more clients than can ever wait
HANG_S = 300.0  # real seconds without any progress: a participant waits for something that never comes
LATEST_US = 40_000  # virtual microseconds: longest latency of a message
PATIENCE_S = 5.0  # virtual seconds after which a client has given up: its own timeout is in real time
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class Member:
    """One participant, seen by the clock."""

    word: int
    socket: socket.socket
    pid: int
    name: str
    last: bool  # released after all others of the same time
    epoll: int = -1
    turn: int = 0  # of its newest word
    until_ns: int = 0
    outside: int = 0
    released: bool = True  # the clock believes that it works


class ClockService:
    """Serves virtual time on a thread of its own, on the socket `path`, from `start_ns` on."""

    def __init__(self, path: Path, start_ns: int) -> None:
        memory = os.memfd_create("virtual-time")
        os.ftruncate(memory, WORDS * WORD)
        self._memory_fd = memory
        self._words = memoryview(mmap.mmap(memory, WORDS * WORD)).cast("q")
        self._words[0] = start_ns
        self.path = str(path)
        self.steps = 0
        self._members: dict[int, Member] = {}
        self._expected: dict[int, int] = {}  # by the descriptor of a process that has not joined yet: its pid
        self._left_out: set[int] = set()  # pids
        self.look_ns = 0  # the driver checks for a change at multiples of this; 0: it waits for a time
        self._changed = True  # whether any other participant did anything since the driver last worked
        self._join_count = 0
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(self.path)
        self._listener.listen(64)
        self._wake_r, self._wake_w = os.pipe()
        self._poll = select.epoll()
        for descriptor in (self._listener.fileno(), self._wake_r):
            self._poll.register(descriptor, select.EPOLLIN)
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="virtual-time", daemon=True)
        self._thread.start()

    # --- for any thread of this process -------------------------------------------------------------------------------

    def now_ns(self) -> int:
        """Return the virtual time in nanoseconds UTC."""
        return self._words[0]

    def expect(self, pid: int) -> None:
        """Stop time until this process has joined, or has ended."""
        with contextlib.suppress(ProcessLookupError), self._lock:
            if all(member.pid != pid for member in self._members.values()):
                descriptor = os.pidfd_open(pid)
                self._expected[descriptor] = pid
                self._poll.register(descriptor, select.EPOLLIN)

    def leave_out(self, pid: int, *, out: bool) -> None:
        """Let time pass without a process, joined or expected, as for a stopped one; or wait for it again."""
        with self._lock:
            (self._left_out.add if out else self._left_out.discard)(pid)
            self._changed = True
        os.write(self._wake_w, b".")

    def left(self, pid: int) -> bool:
        """Return whether time no longer waits for this process."""
        with self._lock:
            return pid not in {*self._expected.values(), *(member.pid for member in self._members.values())}

    def jump_to(self, ns: int) -> None:
        """Set the time. The caller must be a participant that is not quiet."""
        self._words[0] = ns

    def described(self) -> str:
        """Return the participants and the times until which they are quiet, for messages."""
        with self._lock:
            rows = [
                f"{m.name} ({m.pid}): {'works' if m.released else f'quiet until {m.until_ns}'}, outside {m.outside}"
                + (", left out" if m.pid in self._left_out else "")
                for m in self._members.values()
            ]
            return f"{self.now_ns()}; " + "; ".join([*rows, *(f"expected {pid}" for pid in self._expected.values())])

    def close(self) -> None:
        """End the thread; a remaining participant finds its clock gone."""
        self._ended = True
        os.write(self._wake_w, b".")
        self._thread.join()
        for member in list(self._members.values()):
            self._forget(member)
        for descriptor in (*self._expected, self._wake_r, self._wake_w, self._memory_fd):
            os.close(descriptor)
        self._listener.close()
        self._poll.close()

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ended:
            ready = self._poll.poll()
            with self._lock:
                for descriptor, _ in ready:
                    self._take(descriptor)
                if not self._ended:
                    self._move()

    def _take(self, descriptor: int) -> None:
        if descriptor == self._listener.fileno():
            self._admit()
        elif descriptor == self._wake_r:
            os.read(self._wake_r, 64)
        elif descriptor in self._expected:  # it ended before it joined
            self._drop_expected(descriptor)
        elif (member := self._members.get(descriptor)) is not None:
            self._read(member)

    def _admit(self) -> None:
        joining, _ = self._listener.accept()
        pid = int.from_bytes(joining.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], "little")
        name = joining.recv(64).decode()
        self._join_count += 1
        self._changed = True
        member = Member(self._join_count, joining, pid, name, name.startswith("last:"))
        self._words[member.word] = 0
        socket.send_fds(joining, [SEAT.pack(member.word, WORDS)], [self._memory_fd])
        self._members[joining.fileno()] = member
        self._poll.register(joining.fileno(), select.EPOLLIN)
        for descriptor, expected in list(self._expected.items()):
            if expected == pid:
                self._drop_expected(descriptor)

    def _drop_expected(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        self._changed = True
        del self._expected[descriptor]
        os.close(descriptor)

    def _read(self, member: Member) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(member.socket, 64, 1)
        except ConnectionError:
            message, descriptors = b"", []
        if descriptors:
            member.epoll = descriptors[0]
        elif len(message) == QUIET.size:
            member.turn, until_ns, outside = QUIET.unpack(message)
            # the server answers the driver's own requests, and no other due time has changed
            self._changed |= not member.last and (until_ns, outside) != (member.until_ns, member.outside)
            member.until_ns, member.outside, member.released = until_ns, outside, False
        elif not message:
            self._forget(member)

    def _forget(self, member: Member) -> None:
        self._poll.unregister(member.socket.fileno())
        self._changed = True
        del self._members[member.socket.fileno()]
        member.socket.close()
        if member.epoll >= 0:
            os.close(member.epoll)

    def _move(self) -> None:
        """Release the next participant once no other has earlier work."""
        members = [member for member in self._members.values() if member.pid not in self._left_out]
        outside = sum(min(m.outside, 0) if m.pid in self._left_out else m.outside for m in self._members.values())
        is_complete = self._left_out.issuperset(self._expected.values())
        if not is_complete or outside > 0 or any(member.released for member in members):
            return
        waiting = select.poll()  # data first, then who woke: a participant reports waking before it reads
        for member in members:
            if member.epoll >= 0:
                waiting.register(member.epoll, select.POLLIN)
        if waiting.poll(0) or any(self._words[member.word] != member.turn for member in members):
            return
        due = _first(members)
        if due is not None and due.last and self.look_ns and not self._changed:
            others_ns = min((member.until_ns for member in members if member is not due), default=NEVER_NS)
            if others_ns != NEVER_NS:  # it would find nothing new: it checks after the others have worked
                due.until_ns += -(-(others_ns - due.until_ns) // self.look_ns) * self.look_ns
                due = _first(members)
        if due is None or due.until_ns == NEVER_NS:
            return
        self._words[0] = max(self._words[0], due.until_ns)
        self.steps += 1
        self._changed = not due.last
        due.released = True
        with contextlib.suppress(OSError):  # it ended at this moment
            due.socket.send(GO.pack(due.turn))


def _least_tied(processors: set[int]) -> int:
    """Return the processor with the fewest pinned processes, such as other clocks'; any of several."""
    tie_counts = dict.fromkeys(sorted(processors), 0)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError):
            processors_allowed = os.sched_getaffinity(int(process.name))
            if len(processors_allowed) == 1 and processors_allowed <= processors:
                tie_counts[processors_allowed.pop()] += 1
    return min(tie_counts, key=lambda processor: (tie_counts[processor], random.random()))


def _first(members: list[Member]) -> Member | None:
    """Return the next participant to release: the earliest, at the same time the one that joined first."""
    return min(members, key=lambda member: (member.until_ns, member.last, member.word), default=None)


class VirtualClock(SimClock):
    """The server's clock in virtual time. The thread that made it drives: time passes only in its `pass_until`."""

    def __init__(self, start_ns: int, seed: object = 0) -> None:
        super().__init__(0.0, start_ns, 1.0)
        self._processors = os.sched_getaffinity(0)  # one works at a time: switching is fastest on one
        os.sched_setaffinity(0, {_least_tied(self._processors)})
        self._folder = tempfile.TemporaryDirectory(prefix="virtual-time.")
        self.service = ClockService(Path(self._folder.name) / "clock", start_ns)
        self.socket = self.service.path
        self._driver = Participant(self.socket, "last:driver")
        self._server: Participant | None = None
        self._seed = seed
        self._sent_counts: dict[str, int] = {}

    # --- for the server -----------------------------------------------------------------------------------------------

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Return a loop for the server, in this process, on virtual time."""
        self._server = Participant(self.socket, "server")
        return VirtualLoop(self._server)

    def now_ns(self) -> int:
        """Return the virtual time in nanoseconds UTC."""
        return self.service.now_ns()

    def jump_to(self, ns: int) -> None:
        """Show `ns` from now on."""
        self.service.jump_to(ns)

    def nap_s(self, sim_ns: int) -> float:
        """Return the seconds of the loop's time to sleep between two checks."""
        return sim_ns / SECOND_NS

    async def sleep_until(self, ns: int) -> None:
        """Return once the virtual time is `ns`."""
        left_ns = 1
        while left_ns > 0:  # a timer may be due slightly early, by the loop's resolution
            left_ns = ns - self.now_ns()
            await asyncio.sleep(max(left_ns, 0) / SECOND_NS)

    def end_serving(self) -> None:
        """Release clients that wait for the server's answers, as it ends."""
        if self._server is not None:
            self._server.outside -= MANY

    def leave(self) -> None:
        """Leave virtual time after the server's end."""
        if self._server is not None:
            self._server.leave()
            self._server = None

    async def hold(self, seconds: float) -> None:
        """Let a client wait for its answer, in virtual seconds, while time passes; never without end."""
        server = self._server
        if server is None:
            raise RuntimeError("no server runs on this clock")
        server.outside -= 1
        try:
            await asyncio.sleep(min(seconds, PATIENCE_S))
        finally:
            server.outside += 1

    async def on_the_way(self, key: str, *, asked: bool) -> None:
        """Delay a message by some milliseconds, drawn from seed, key and the count of messages before it."""
        number = self._sent_counts[key] = self._sent_counts.get(key, 0) + 1
        digest = hashlib.blake2b(f"{self._seed}:{key}:{number}".encode(), digest_size=4).digest()
        way_s = (1_000 + int.from_bytes(digest, "little") % LATEST_US) / 1e6
        await (self.hold(way_s) if asked else asyncio.sleep(way_s))

    # --- for the thread that drives -----------------------------------------------------------------------------------

    def pass_until(self, ns: int) -> None:
        """Let virtual time pass until `ns`. Raises AssertionError when nothing moves any more."""
        if not self._driver.sleep_until(ns, HANG_S):
            raise AssertionError(f"virtual time stands still: {self.service.described()}")

    def pass_s(self, seconds: float) -> None:
        """Let virtual seconds pass."""
        self.pass_until(self.now_ns() + int(seconds * SECOND_NS))

    def pass_look(self, seconds: float) -> None:
        """Let virtual seconds pass, in repeated steps while no other participant does anything."""
        self.service.look_ns = int(seconds * SECOND_NS)
        try:
            self.pass_s(seconds)
        finally:
            self.service.look_ns = 0

    def settings(self) -> dict[str, object]:
        """Return the table `[clock]` of a daemon on this clock."""
        return {"socket": self.socket}

    def expect(self, pid: int) -> None:
        """Stop time until this process has joined, or ended."""
        self.service.expect(pid)

    def leave_out(self, pid: int, *, out: bool) -> None:
        """Let time pass without a stopped process; or wait for it again."""
        self.service.leave_out(pid, out=out)

    def left(self, pid: int) -> bool:
        """Return whether a process that joined has left: it ends in real time."""
        return self.service.left(pid)

    def wait(self, real: Callable[[float], None], reached: Callable[[], bool], limit_s: float) -> bool:
        """Let time pass until `reached`, for `limit_s` virtual seconds at most."""
        until_ns = self.now_ns() + int(limit_s * SECOND_NS)
        real(GRACE_S)
        while not reached() and self.now_ns() < until_ns:
            self.pass_s(STEP_S)
            real(GRACE_S)
        return reached()

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        """Let time pass, as fast as possible, while this thread waits for something real."""
        self._driver.quiet(NEVER_NS)
        try:
            yield
        finally:
            self._driver.wake()

    def close(self) -> None:
        """End the clock, after the server and every daemon."""
        self._driver.leave()
        self.service.close()
        self._folder.cleanup()
        os.sched_setaffinity(0, self._processors)


@contextlib.contextmanager
def virtual_clock(start_ns: int, seed: object = 0) -> Iterator[VirtualClock]:
    """Yield a clock for the duration of a `with`, driven by this thread."""
    clock = VirtualClock(start_ns, seed)
    try:
        yield clock
    finally:
        clock.close()
