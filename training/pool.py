"""Independent tasks over several processes, one thread each, with news on the way and a stop that all hear.

A task that was asked to stop raises `Stopped`; all others are asked too, and the pool raises it once they have ended.
A process whose parent died ends at once, so that nobody writes into a folder that was taken over.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
POLL_S = 0.2
TERMINATED = 128 + signal.SIGTERM


class Stopped(Exception):
    """The work was asked to stop, and did so where it can be gone on from."""


class Flag(Protocol):
    """Set once the work shall stop."""

    def is_set(self) -> bool: ...

    def set(self) -> None: ...


Tell = Callable[[Any], None]
Work = Callable[[Any, Any, Flag, Tell], T]
"""(what was prepared, the task, when to stop, whom to tell) -> result; a function of a module, as all it is given."""


@contextmanager
def stop_on_signals(flag: Flag) -> Iterator[None]:
    """SIGTERM and SIGINT set `flag` while this lasts (in the main thread; elsewhere nothing changes)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def asked(_number: int, _frame: object) -> None:
        flag.set()

    before = {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def work_through(
    work: Work[T],
    tasks: Sequence[Any],
    *,
    prepare: Callable[[Any], Any],
    argument: Any,
    processes: int,
    flag: Flag,
    tell: Tell,
) -> list[T]:
    """The results of `work` on each task, in their order. `prepare(argument)` runs once in every process.

    With one process everything runs in this one.

    Raises:
        Stopped: `flag` was set; finished tasks have done what they do, the others can be gone on with.
        RuntimeError: a process ended by itself, for lack of memory perhaps.
    """
    if processes == 1 or len(tasks) <= 1:
        prepared = prepare(argument)
        return [work(prepared, task, flag, tell) for task in tasks]
    context = multiprocessing.get_context("spawn")
    news: multiprocessing.Queue[Any] = context.Queue()
    shared = context.Event()
    with ProcessPoolExecutor(
        min(processes, len(tasks)), context, initializer=_begin, initargs=(prepare, argument, news, shared)
    ) as pool:
        futures = [pool.submit(_carry_out, work, task) for task in tasks]
        try:
            _listen(futures, news, flag, shared, tell)
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a training process ended by itself, perhaps for lack of memory; what it had kept is there: give the "
                "same command again, with fewer --processes"
            ) from error
        except BaseException:
            shared.set()
            pool.shutdown(cancel_futures=True)
            raise


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
    futures: Sequence[Future[Any]], news: multiprocessing.Queue[Any], flag: Flag, shared: Flag, tell: Tell
) -> None:
    """Pass news on until all tasks are done or one has failed."""
    while True:
        done = all(future.done() for future in futures)
        try:
            while True:
                tell(news.get(timeout=0.0 if done else POLL_S))
        except queue.Empty:
            pass
        if flag.is_set():
            shared.set()
        if done or any(future.done() and future.exception() is not None for future in futures):
            return


_PROCESS: dict[str, Any] = {}  # what this worker process was begun with


def _begin(prepare: Callable[[Any], Any], argument: Any, news: multiprocessing.Queue[Any], flag: Flag) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and says so by the flag

    def terminated(_number: int, _frame: object) -> None:
        _PROCESS["terminated"] = True
        flag.set()

    signal.signal(signal.SIGTERM, terminated)
    _PROCESS.update(news=news, flag=flag, prepared=prepare(argument))


def _carry_out(work: Work[T], task: Any) -> T:
    flag: Flag = _PROCESS["flag"]
    try:
        return work(_PROCESS["prepared"], task, flag, _PROCESS["news"].put)
    except Stopped:
        if _PROCESS.get("terminated"):
            os._exit(TERMINATED)
        raise
