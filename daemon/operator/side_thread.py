"""A thread with its own event loop for work outside trading: MQTT, the alarm command.

Work that raises is reported and restarted with back-off; work that hangs delays nothing else. The trading loop never
waits for this thread: it uses bounded queues.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Sequence

from daemon.pacing import back_off_s

PAUSE_MOST_S = 60.0

Work = Callable[[], Awaitable[None]]


class SideThread:
    """Runs named works concurrently until `stop`; calls `report(name, problem)` on this thread for each failure."""

    def __init__(self, works: Sequence[tuple[str, Work]], report: Callable[[str, str], None]) -> None:
        self._works = works
        self._report = report
        self._loop: asyncio.AbstractEventLoop | None = None
        self._root: asyncio.Task[None] | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="operator", daemon=True)

    def start(self) -> None:
        """Start; return once the loop runs or is stopped. Raises RuntimeError without a thread."""
        self._thread.start()
        self._ready.wait()

    def stop(self, within_s: float) -> bool:
        """Stop all works; False when one did not end in time and was abandoned (the thread is a daemon)."""
        loop, root = self._loop, self._root
        if loop is not None and root is not None and not loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it has just ended
                loop.call_soon_threadsafe(root.cancel)
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError), asyncio.Runner() as runner:
                runner.run(self._main())
        except Exception as error:  # no file descriptor is left for a loop
            self._report("operator's thread", f"{type(error).__name__}: {error}")
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop, self._root = asyncio.get_running_loop(), asyncio.current_task()
        self._ready.set()
        async with asyncio.TaskGroup() as group:
            for name, work in self._works:
                group.create_task(supervise(name, work, self._report), name=name)


async def supervise(name: str, work: Work, report: Callable[[str, str], None]) -> None:
    """Run `work`; report an error and restart it with exponential back-off."""
    failures = 0
    while True:
        try:
            await work()
        except Exception as error:  # the other works go on
            report(name, f"{type(error).__name__}: {error}")
        else:
            return
        failures += 1
        await asyncio.sleep(back_off_s(failures, 1.0, PAUSE_MOST_S))
