"""Independent tasks over several processes, one thread each, with progress messages and a common stop flag.

A task that is asked to stop raises `Stopped`. Then all others are asked too, and the pool raises `Stopped` once they
have ended. A process whose parent has died ends at once, so that it never writes into a folder that another run has
taken over.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.context import SpawnContext
from typing import Any, Protocol, TypeVar

from daemon.core.desks.guarded import blame, strategy_failed
from strategies.kit.own.load import line_of_own

T = TypeVar("T")
POLL_S = 0.2
TERMINATED = 128 + signal.SIGTERM
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
QUIET_TRACKER = "ignore:resource_tracker:UserWarning"
ENDED = (
    "a training process ended by itself, perhaps for lack of memory; what it had kept is there: give the same command "
    "again, with fewer --processes"
)


class Stopped(Exception):
    """The work stopped as asked, at a point from which it can continue."""


class Flag(Protocol):
    """True once the work shall stop."""

    def is_set(self) -> bool: ...

    def set(self) -> None: ...


Emit = Callable[[Any], None]
Work = Callable[[Any, Any, Flag, Emit], T]
"""(result of `prepare`, task, stop flag, callback for messages) -> result of the task; all of it picklable."""


@contextmanager
def stop_on_signals(flag: Flag | None = None) -> Iterator[Flag]:
    """`flag`, or a new one; SIGTERM and SIGINT set it while this lasts (in the main thread; elsewhere they do not)."""
    stop = flag or threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def set_flag(_number: int, _frame: object) -> None:
        stop.set()

    handlers = {number: signal.signal(number, set_flag) for number in STOP_SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Processes started while this lasts get SIGINT and SIGTERM only after `unblock_stop_signals`."""
    mask_before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask_before)


def spawning() -> SpawnContext:
    """What starts further processes. A kill of this one leaves semaphores, which Python removes without a warning."""
    if QUIET_TRACKER not in sys.warnoptions:  # Python's process that removes them is started with these options
        sys.warnoptions.append(QUIET_TRACKER)
    return multiprocessing.get_context("spawn")


def unblock_stop_signals() -> None:
    """Undo `stop_signals_blocked` in the child, once its handlers are set."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def work_through(
    work: Work[T],
    tasks: Sequence[Any],
    *,
    prepare: Callable[[Any], Any],
    argument: Any,
    processes: int,
    flag: Flag,
    emit: Emit,
) -> list[T]:
    """The results of `work` on each task, in their order. `prepare(argument)` runs once in every process.

    With one process everything runs in this one. The first task that fails stops the others.

    Raises:
        Stopped: `flag` was set. Finished tasks are complete, the others can be continued.
        RuntimeError: a process died, for lack of memory for example.
        Exception: what `prepare` or `work` raised.
    """
    if processes == 1 or len(tasks) <= 1:
        prepared = prepare(argument)
        return [_alone(work, prepared, task, flag, emit) for task in tasks]
    with closing(ProcessPool(prepare, argument, processes)) as pool:
        return pool.work_through(work, tasks, flag=flag, emit=emit)


class ProcessPool:
    """Processes of this machine that tasks are given to; they stay for further tasks until it is closed."""

    def __init__(self, prepare: Callable[[Any], Any], argument: Any, processes: int) -> None:
        """Start none yet; `prepare(argument)` will run once in every process, at its first task."""
        self._given, self._most = (prepare, argument), processes
        self._begun: _Workers | None = None

    def work_through(self, work: Work[T], tasks: Sequence[Any], *, flag: Flag, emit: Emit) -> list[T]:
        """See the function `work_through`. An exception ends the processes."""
        if flag.is_set():
            raise Stopped("before it began")
        try:
            return self._worked_through(work, tasks, flag, emit)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop what is under way, and end the processes."""
        if self._begun is not None:
            self._begun.stop.set()
            self._begun.executor.shutdown(cancel_futures=True)
            self._begun = None

    def _worked_through(self, work: Work[T], tasks: Sequence[Any], flag: Flag, emit: Emit) -> list[T]:
        stayed = self._begun is not None
        try:
            running, futures = self._submitted(work, tasks)
        except BrokenProcessPool:
            if not stayed:
                raise
            self.close()  # an idle process ended
            running, futures = self._submitted(work, tasks)
        _listen(futures, running.news, flag, running.stop, emit)
        failures = [error for error in map(_error_of, futures) if error is not None]
        for error in failures:
            if not isinstance(error, Stopped | CancelledError | BrokenProcessPool):
                raise error
        if any(isinstance(error, BrokenProcessPool) for error in failures) and not flag.is_set():
            raise RuntimeError(ENDED)
        if failures:
            raise Stopped("as asked")
        return [future.result() for future in futures]

    def _submitted(self, work: Work[T], tasks: Sequence[Any]) -> tuple[_Workers, list[Future[T]]]:
        """Submit the tasks; a process is started for each task that finds no idle one."""
        running = self._begun = self._begun or self._start()
        with stop_signals_blocked():
            return running, [running.executor.submit(_carry_out, work, task) for task in tasks]

    def _start(self) -> _Workers:
        context = spawning()
        news, stop = context.Queue(), SharedFlag()
        arguments = (*self._given, news, stop)
        return _Workers(ProcessPoolExecutor(self._most, context, initializer=_begin, initargs=arguments), news, stop)


@dataclass(frozen=True, slots=True)
class _Workers:
    """Processes, what they report by, and the flag that stops them all."""

    executor: ProcessPoolExecutor
    news: multiprocessing.Queue[Any]
    stop: SharedFlag


def _alone(work: Work[T], prepared: Any, task: Any, flag: Flag, emit: Emit) -> T:
    if flag.is_set():
        raise Stopped("before it began")
    return work(prepared, task, flag, emit)


class SharedFlag:
    """A flag that several processes see. One byte without a lock: a process killed while reading blocks no other."""

    def __init__(self) -> None:
        self._byte = multiprocessing.get_context("spawn").RawValue("b", 0)

    def is_set(self) -> bool:
        """Whether any process has set it."""
        return bool(self._byte.value)

    def set(self) -> None:
        """Set it for all; it stays set."""
        self._byte.value = 1


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _listen(
    futures: Sequence[Future[Any]], news: multiprocessing.Queue[Any], flag: Flag, shared: Flag, emit: Emit
) -> None:
    """Pass messages on until all tasks are done. After a stop or a failure no further task begins.

    The flag is looked at after each message: quick tasks send them without a pause.
    """
    while True:
        done = all(future.done() for future in futures)
        try:
            emit(news.get(timeout=POLL_S))
        except queue.Empty:
            if done:
                return
        if flag.is_set() or any(_error_of(future) for future in futures):
            shared.set()
            for future in futures:
                future.cancel()


def _error_of(future: Future[Any]) -> BaseException | None:
    """The exception of a finished future; None if it has a result or still runs."""
    if future.cancelled():
        return CancelledError()
    return future.exception() if future.done() else None


_PROCESS: dict[str, Any] = {}  # the state this worker process was started with


def _begin(prepare: Callable[[Any], Any], argument: Any, news: multiprocessing.Queue[Any], flag: Flag) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it and sets the flag
    _PROCESS.update(news=news, flag=flag, prepare=prepare, argument=argument, at_work=False, terminated=False)

    def terminated(_number: int, _frame: object) -> None:
        if not _PROCESS["at_work"]:
            os._exit(TERMINATED)
        _PROCESS["terminated"] = True
        flag.set()

    signal.signal(signal.SIGTERM, terminated)
    unblock_stop_signals()


def own_fault(error: Exception) -> str:
    """Return what a strategy of one's own, or what trains it, did wrong, with its line; "" for another error."""
    what, by_strategy = blame(error)
    line = "" if by_strategy else line_of_own(error)
    return strategy_failed(f"{what} ({line})" if line else what) if by_strategy or line else ""


@contextmanager
def blamed_here() -> Iterator[None]:
    """Let own code's error leave in words: its frames do not reach another process, and a class of its own may not."""
    try:
        yield
    except Exception as error:
        if fault := own_fault(error):
            raise RuntimeError(fault) from None
        raise


def _carry_out(work: Work[T], task: Any) -> T:
    _PROCESS["at_work"] = True
    try:
        if _PROCESS["flag"].is_set():
            raise Stopped("before it began")
        with blamed_here():
            if "prepared" not in _PROCESS:  # not in `_begin`, so that its exceptions reach the parent
                _PROCESS["prepared"] = _PROCESS["prepare"](_PROCESS["argument"])
            return work(_PROCESS["prepared"], task, _PROCESS["flag"], _PROCESS["news"].put)
    finally:
        _PROCESS["at_work"] = False
        if _PROCESS["terminated"]:  # the parent may be gone
            os._exit(TERMINATED)
