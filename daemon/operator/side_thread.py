"""A thread with an event loop of its own for what talks to the world beside trading: MQTT, the alarm command.

What raises here is told and begun again, later each time; what hangs here hangs alone. The trading loop never waits for
this thread: it leaves things in bounded queues.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Sequence

from daemon.pacing.back_off import back_off_s

PAUSE_MOST_S = 60.0

Work = Callable[[], Awaitable[None]]


class SideThread:
    """Runs named works side by side until `stop`. `told(name, problem)` is called on this thread for each failure."""

    def __init__(self, works: Sequence[tuple[str, Work]], told: Callable[[str, str], None]) -> None:
        self._works = works
        self._told = told
        self._loop: asyncio.AbstractEventLoop | None = None
        self._root: asyncio.Task[None] | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="operator", daemon=True)

    def start(self) -> None:
        """Begin. Returns when the thread's loop runs, or was told not to. Raises RuntimeError without a thread."""
        self._thread.start()
        self._ready.wait()

    def stop(self, within_s: float) -> bool:
        """End all works; False when one of them did not end in time and is left behind (the thread is a daemon)."""
        loop, root = self._loop, self._root
        if loop is not None and root is not None and not loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it ended this moment
                loop.call_soon_threadsafe(root.cancel)
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError), asyncio.Runner() as runner:
                runner.run(self._main())
        except Exception as error:  # no file is left for a loop
            self._told("operator's thread", f"{type(error).__name__}: {error}")
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop, self._root = asyncio.get_running_loop(), asyncio.current_task()
        self._ready.set()
        async with asyncio.TaskGroup() as group:
            for name, work in self._works:
                group.create_task(supervised(name, work, self._told), name=name)


async def supervised(name: str, work: Work, told: Callable[[str, str], None]) -> None:
    """Run what only watches. Reports an error to `told(name, problem)` and restarts with exponential back-off."""
    failures = 0
    while True:
        try:
            await work()
        except Exception as error:  # whatever it is, the others go on
            told(name, f"{type(error).__name__}: {error}")
        else:
            return
        failures += 1
        await asyncio.sleep(back_off_s(failures, 1.0, PAUSE_MOST_S))
