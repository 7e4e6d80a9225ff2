"""Write standard error of a live daemon in a separate thread, so that a stalled reader stalls nothing else.

Bounded and lossy: without a reader the newest lines are dropped. One line reports their count once the stream flows
again. The event loop never waits for it.
"""

from __future__ import annotations

import io
import json
import queue
import threading
from typing import TextIO

CAPACITY = 10_000  # lines
SHUTDOWN_TIMEOUT_S = 2.0  # for the last lines


class LossyStream(io.TextIOBase):
    """A text stream that passes its lines to another one."""

    def __init__(self, target: TextIO, capacity: int = CAPACITY) -> None:
        self._target = target
        self._lines: queue.Queue[str | None] = queue.Queue(capacity)
        self._part = ""
        self._lost = 0  # counted by the writers
        self._reported = 0  # counted by the thread
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were lost and not reported yet."""
        return self._lost - self._reported

    def isatty(self) -> bool:
        """Return what the stream behind it returns."""
        return self._target.isatty()

    def write(self, text: str) -> int:
        """Accept text; whole lines go to the thread, or are dropped when too many wait."""
        *lines, self._part = (self._part + text).split("\n")
        for line in lines:
            try:
                self._lines.put_nowait(line + "\n")
            except queue.Full:
                self._lost += 1
        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread flushes."""

    def finish(self, deadline_s: float = SHUTDOWN_TIMEOUT_S) -> None:
        """Write the waiting lines and end, at the latest at the deadline."""
        try:
            self._lines.put(None, timeout=deadline_s)
        except queue.Full:
            return
        self._thread.join(deadline_s)

    def _run(self) -> None:
        while True:
            line = self._lines.get()
            try:
                if line is not None:
                    self._target.write(line)
                if lost := self.dropped:
                    self._reported += lost
                    self._target.write(json.dumps({"event": "log_dropped", "lines": lost, "level": "warning"}) + "\n")
                self._target.flush()
            except (OSError, ValueError):  # no reader is left: that stops no trading
                pass
            if line is None:
                return
