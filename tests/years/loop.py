"""One event loop for a whole world: virtual time, one seed, no threads, and processes that can be killed.

Time moves to the next event when nothing is ready. What a real loop leaves open is drawn from the seed: when a packet
comes, when a thread is done, and in which order the loop sees what is due. The order that asyncio promises (callbacks
first come first served, bytes of one connection in their order) is kept.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple, cast

from greenlet import getcurrent, greenlet

from daemon.host.time.virtual_time import Participant
from strategies.kit.units import SECOND_NS

GRID_NS = 1_000  # timers end on it
LEAST_S = 2e-6  # of a wait
WORK_US = (20, 2_000)  # of a thread: how long its work takes
LATER = 0.3  # of what is due: the loop sees it one turn later
DAY_NS = 24 * 3600 * SECOND_NS
TURNS_A_DAY = 2_000_000  # of virtual time; see `Endless`
LAST_TURNS = 2_000  # that an endless run tells of
T = TypeVar("T")
Args = TypeVarTuple("Args")


class Killed(BaseException):
    """The process was killed inside this call. It must not be caught: nothing of that process goes on."""


class StandsStill(AssertionError):
    """Nothing is left to happen, and somebody waits."""


class Endless(StandsStill):
    """More turns within a virtual day than any life of a desk takes: time goes on too slowly, or not at all.

    The text says when and where: what ran in the last turns, most often first, and how far time went on by them.
    """


class Process:
    """A process of this world. What its callbacks begin belongs to it; once it is dead none of that runs again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.turns = 0  # callbacks that ran, but for partials: `asyncio.wait_for` ends by one on Python 3.11 alone
        self.kill_at = 0  # the turn before which it dies; 0: none
        self.on_death: list[Callable[[], None]] = []  # what its kernel does
        self.when_killed: Callable[[], None] = lambda: None
        self.threads: list[LoopThread] = []
        self.signals: dict[int, tuple[Callable[..., object], tuple[Any, ...]]] = {}

    def die(self) -> None:
        """SIGKILL."""
        if self.alive:
            self.end()
            self.when_killed()

    def end(self) -> None:
        """It is over: its kernel closes what it left open."""
        self.alive = False
        for happen in self.on_death:
            happen()


OWNER: contextvars.ContextVar[Process | None] = contextvars.ContextVar("owner", default=None)


class _Task(asyncio.Task[Any]):
    """A task whose place in a set does not depend on its address: it has a number once it is in one.

    None begins at once, as aiohttp asks from Python 3.12 on: each has its first turn where 3.11 has it.
    """

    _numbers = itertools.count()
    _number: int | None = None

    def __init__(self, coroutine: Any, *, eager_start: bool = False, **kwargs: Any) -> None:
        del eager_start
        super().__init__(coroutine, **kwargs)

    def __hash__(self) -> int:
        if self._number is None:
            self._number = next(self._numbers)
        return self._number


class _Future(asyncio.Future[Any]):
    """The same for a future."""

    _numbers = itertools.count()
    _number: int | None = None

    def __hash__(self) -> int:
        if self._number is None:
            self._number = next(self._numbers)
        return self._number


class _Handle(asyncio.Handle):
    """As asyncio's, without what is for its debug mode."""

    __slots__ = ()

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        self._callback, self._args, self._loop = callback, args, loop
        self._context = contextvars.copy_context() if context is None else context
        self._cancelled = False
        self._repr = None
        self._source_traceback = None

    def cancel(self) -> None:
        """Call it off."""
        self._cancelled = True
        self._callback = self._args = None  # type: ignore[assignment]


class _Timer(_Handle, asyncio.TimerHandle):
    """The same for a timer."""

    __slots__ = ()

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        _Handle.__init__(self, callback, args, loop, context)
        self._when = when
        self._scheduled = True


class LoopTime(Participant):
    """The loop's time, as a process that has joined a virtual clock sees it."""

    look_s = 60.0

    def __init__(self, loop: YearsLoop) -> None:
        self._loop = loop
        self.outside = 0

    def now_ns(self) -> int:
        """Nanoseconds since 1970 UTC."""
        return self._loop.now_ns


class YearsLoop(asyncio.BaseEventLoop):
    """The loop. `outside` is how the world reaches it; `chance` draws all that a real machine decides."""

    def __init__(self, start_ns: int, seed: object) -> None:
        super().__init__()
        self.now_ns = self._began_ns = start_ns
        self.chance = random.Random(f"loop {seed}")
        self.turns = 0
        self.turns_a_day = TURNS_A_DAY
        self.allow_a_day()
        self._told_from_ns = 0
        self.graveyard: list[object] = []  # what died must not be collected: a dead process closes nothing
        self._came: list[tuple[int, float, int, asyncio.Handle]] = []
        self._timers: list[tuple[int, int, _Timer]] = []  # when they end, first asked first ended
        self._number = itertools.count()
        self._clock_resolution = 1e-6
        self.get_debug = bool  # type: ignore[method-assign]  # never: each future asks, and this answers without a frame
        self.participant = LoopTime(self)
        self.ahead_ns = 0  # of the desk's host's wall clock
        self.listeners: dict[int, Any] = {}  # by port
        self.create_connection = self._no_network  # type: ignore[method-assign]
        self.set_task_factory(cast("Any", self._new_task))
        asyncio.Task = _Task  # type: ignore[assignment, misc]  # what aiohttp makes past the loop

    def _no_network(self, *_args: Any, **_kwargs: Any) -> Any:
        raise OSError("no network was laid in this world")

    def _new_task(self, _loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
        return _Task(coroutine, loop=self, **kwargs)

    def create_future(self) -> asyncio.Future[Any]:
        """A future whose place in a set is the seed's."""
        return _Future(loop=self)

    # --- time ---------------------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Seconds since the world began."""
        return (self.now_ns - self._began_ns) / SECOND_NS

    def outside(
        self,
        delay_ns: int,
        callback: Callable[[*Args], object],
        *args: *Args,
        context: contextvars.Context | None = None,
    ) -> None:
        """Let the world call the loop after `delay_ns`: a packet, a thread that is done, a person."""
        handle = _Handle(callback, args, self, context)
        due_ns = self.now_ns + max(delay_ns, 0)
        heapq.heappush(self._came, (due_ns, self.chance.random(), next(self._number), handle))

    def _run_once(self) -> None:
        """One turn: what came from outside, the timers that are due, then all that is ready."""
        ready, came, timers = self._ready, self._came, self._timers  # type: ignore[attr-defined]
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not ready:
            self._advance(timers, came)
        now_ns, chance = self.now_ns, self.chance
        if came and came[0][0] <= now_ns:
            later: list[tuple[int, float, int, asyncio.Handle]] = []
            while came and came[0][0] <= now_ns:
                entry = heapq.heappop(came)
                if (ready or later) and chance.random() < LATER:
                    later.append((entry[0], chance.random(), entry[2], entry[3]))
                else:
                    ready.append(entry[3])
            for entry in later:
                heapq.heappush(came, entry)
        while timers and timers[0][0] <= now_ns:
            timer = heapq.heappop(timers)[2]
            if not timer._cancelled:
                ready.append(timer)
        if self.turns >= self._day_ends_turn:
            self._bound(ready)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            context = handle._context
            owner = context.get(OWNER)
            if owner is not None:
                if not owner.alive:
                    self.graveyard.append(handle)
                    continue
                owner.turns += type(handle._callback) is not partial
                if owner.turns == owner.kill_at:
                    owner.die()
                    self.graveyard.append(handle)
                    continue
            self.turns += 1
            try:
                context.run(handle._callback, *handle._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 (as asyncio does)
                text = f"Exception in callback {handle._callback}"
                self.call_exception_handler({"message": text, "exception": error, "handle": handle})

    def call_soon(
        self,
        callback: Callable[[*Args], object],
        *args: *Args,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """As asyncio's, without its checks."""
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Args], object],
        *args: *Args,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """As asyncio's. A wait ends later than it began, however short: who waits for a moment nears it."""
        return self.call_at(
            self.time() + (max(delay, LEAST_S) if delay > 0 else delay), callback, *args, context=context
        )

    def call_at(
        self,
        when: float,
        callback: Callable[[*Args], object],
        *args: *Args,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """As asyncio's; a timer ends on the grid, never before its time."""
        due_ns = self._began_ns + int(when * SECOND_NS)
        due_ns += -due_ns % GRID_NS
        timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._timers, (due_ns, next(self._number), timer))
        return timer

    def _advance(self, timers: list[tuple[int, int, _Timer]], came: list[Any]) -> None:
        """Go to the next event."""
        next_ns = came[0][0] if came else None
        if timers:
            timer_ns = timers[0][0]
            next_ns = timer_ns if next_ns is None else min(next_ns, timer_ns)
        if next_ns is None:
            if self._stopping:  # type: ignore[attr-defined]
                return
            raise StandsStill("nothing is left to happen")
        self.now_ns = max(self.now_ns, next_ns)

    def allow_a_day(self) -> None:
        """Let a day begin, with its turns."""
        self._day_ends_ns, self._day_ends_turn = self.now_ns + DAY_NS, self.turns + self.turns_a_day
        self._told: Counter[str] | None = None  # what runs, once the day has too many turns

    def _bound(self, ready: deque[Any]) -> None:
        """Begin the next day, or note what a day runs that has too many turns. Raises Endless with these notes."""
        if self.now_ns >= self._day_ends_ns:
            self.allow_a_day()
            return
        if self._told is None:
            self._told, self._told_from_ns = Counter(), self.now_ns
        self._told.update(_words_of(handle) for handle in ready if not handle._cancelled)
        if self._told.total() < LAST_TURNS:
            return
        moment = datetime.fromtimestamp(self.now_ns / SECOND_NS, UTC).isoformat(" ", "milliseconds")
        went_on_s = (self.now_ns - self._told_from_ns) / SECOND_NS
        most = ", ".join(f"{times} x {text}" for text, times in self._told.most_common(5))
        raise Endless(
            f"no end: {self.turns_a_day} turns within a day, at {moment}; "
            f"in the last {self._told.total()} time went on by {went_on_s:.6f} s: {most}"
        )

    def _write_to_self(self) -> None:
        """Nobody sleeps in this loop."""

    def _process_events(self, event_list: Any) -> None:
        """No files are watched."""

    # --- threads ------------------------------------------------------------------------------------------------------

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Args], T], *args: *Args) -> asyncio.Future[T]:
        """Run `func` as a thread would, some time later; it may wait (`wait_in_work`)."""
        answer: asyncio.Future[T] = self.create_future()
        context = contextvars.copy_context()

        def finish(task: asyncio.Task[T]) -> None:
            if answer.cancelled():
                task.exception()
            elif (error := task.exception()) is not None:
                answer.set_exception(error)
            else:
                answer.set_result(task.result())

        def begin() -> None:
            work = greenlet(func)
            work.gr_context = contextvars.copy_context()
            try:
                came = work.switch(*args)
            except Exception as error:  # noqa: BLE001  # it goes to who waits
                if not answer.done():
                    answer.set_exception(error)
                return
            if not work.dead:
                self.create_task(_driven(work, came), context=context).add_done_callback(finish, context=context)
            elif not answer.done():
                answer.set_result(came)

        self.outside(self.chance.randint(*WORK_US) * 1_000, begin, context=context)
        return answer

    def one_thread(self, name: str) -> LoopThread:
        """A thread of one process, as an executor: its work runs on this loop, one after the other."""
        return LoopThread(self, name)

    # --- processes ----------------------------------------------------------------------------------------------------

    def add_signal_handler(  # type: ignore[override]
        self, sig: int, callback: Callable[..., object], *args: Any
    ) -> None:
        """Keep the handler with the process that sets it."""
        owner = OWNER.get()
        if owner is not None:
            owner.signals[sig] = (callback, args)

    def spawn(self, process: Process, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as the main work of a process."""
        context = contextvars.copy_context()
        context.run(OWNER.set, process)
        return self.create_task(coroutine, name=process.name, context=context)

    def signal(self, process: Process, number: int) -> None:
        """Send a signal; one without a handler kills."""
        if not process.alive:
            return
        if number not in process.signals:
            process.die()
            return
        callback, args = process.signals[number]
        context = contextvars.copy_context()
        context.run(OWNER.set, process)
        self.outside(0, callback, *args, context=context)


def _words_of(handle: Any) -> str:
    """What a turn runs, and whose it is: a task by its coroutine and the line at which it waits."""
    task = getattr(handle._callback, "__self__", None)
    owner = handle._context.get(OWNER)
    prefix = "" if owner is None else f"{owner.name}: "
    if not isinstance(task, asyncio.Task):
        return f"{prefix}{getattr(handle._callback, '__qualname__', type(handle._callback).__name__)}"
    waits = [f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" for frame in task.get_stack(limit=1)]
    return f"{prefix}{getattr(task.get_coro(), '__qualname__', task.get_name())} {' '.join(waits)}".rstrip()


async def _driven(work: Any, answer: Any) -> Any:
    """Run the rest of a blocking function that waits for `answer`; whenever it waits, await in its place."""
    while not work.dead:
        try:
            came = await answer
        except BaseException as error:  # noqa: BLE001 (the work gets it)
            answer = work.throw(error)
        else:
            answer = work.switch(came)
    return answer


def wait_in_work(awaitable: Awaitable[T]) -> T:
    """Wait for something within work of a thread. Raises what it raises."""
    parent = getcurrent().parent
    if parent is None:
        raise RuntimeError("this waits, and it is no work of a thread")
    return cast("T", parent.switch(awaitable))


class LoopThread(Executor):
    """An executor of one thread whose work the loop runs. Work that waits longer than others comes later."""

    def __init__(self, loop: YearsLoop, name: str) -> None:
        self._loop, self.name = loop, name
        self._free_ns = 0
        self._closed = False
        self._context = contextvars.copy_context()
        self._waiting: deque[Callable[[], None]] = deque()
        owner = OWNER.get()
        if owner is not None:
            owner.threads.append(self)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Queue work."""
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        work: Future[T] = Future()
        loop = self._loop
        self._free_ns = max(self._free_ns, loop.now_ns) + loop.chance.randint(*WORK_US) * 1_000

        def run() -> None:
            if not work.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except Killed:
                raise
            except BaseException as error:  # noqa: BLE001 (as an executor does)
                work.set_exception(error)
            else:
                work.set_result(result)

        self._waiting.append(run)
        loop.outside(self._free_ns - loop.now_ns, self._in_turn, context=self._context)
        return work

    def _in_turn(self) -> None:
        """Run the oldest: what the loop sees later is not done out of order."""
        if self._waiting:
            self._waiting.popleft()()

    def do_one(self) -> bool:
        """Do the oldest work that waits, now; False for none. For a process that is dead: it was at it."""
        waits = bool(self._waiting)
        self._in_turn()
        return waits

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Finish what waits, at once."""
        self._closed = True
        if cancel_futures:
            self._waiting.clear()
        while wait and self._waiting:
            self._waiting.popleft()()


@contextmanager
def running(loop: YearsLoop) -> Iterator[YearsLoop]:
    """Make the loop the current one; close it in the end without closing what is dead."""
    asyncio.set_event_loop(loop)
    try:
        yield loop
    finally:
        asyncio.set_event_loop(None)
