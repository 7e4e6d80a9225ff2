"""The desk's side of its guard: sends the heartbeat over each path, and alarms when the guard falls silent.

The heartbeat is made on the trading loop, so it stops where that loop hangs. A path that hangs or fails loses only its
own messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from daemon.config.tables import GuardTable
from daemon.operator.heartbeat import (
    FRESH_S,
    GuardBeat,
    Heartbeat,
    OtherRelease,
    genuine,
    heartbeat_of,
    put,
    read_newest,
    sign,
)
from daemon.operator.signing import Key
from daemon.operator.submitter import Submitter
from strategies.kit.units import SECOND_NS

LAST_S = 1.0  # for the last heartbeat
LIVES_MAX = 7
STALLED_BEATS = 3  # a pause this long between two checks means that this host stood still and heard nothing


class GuardLink:
    """Create it on the trading loop; `publish` puts a heartbeat into the MQTT outbox, None without MQTT.

    `notify` logs, and raises an alarm where the event is one; `rate` is the speed of the desk's time.
    """

    def __init__(
        self,
        table: GuardTable,
        desk: str,
        key: Key,
        submitter: Submitter,
        publish: Callable[[Heartbeat], None] | None,
        notify: Callable[..., None],
        rate: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table, self._desk, self._key = table, desk, key
        self._submitter, self._publish, self._notify, self._monotonic = submitter, publish, notify, monotonic
        self._fresh_ns = FRESH_S * max(rate, 1.0) * SECOND_NS
        self._folder = Path(table.drop_dir) if table.drop_dir else None
        self._life, self._counter = submitter.now_ns(), 0
        self._heard_s = self._looked_s = monotonic()
        self._counters: dict[int, int] = {}  # newest counter of each process of a guard; there may be two guards
        self._told: str | None = None  # session of the last alarm on its silence; None while it is heard
        self._exchange: asyncio.Task[None] | None = None
        self._problem = ""

    def hear(self, payload: bytes) -> None:
        """Take a message of the guard's topic, on any thread."""
        with contextlib.suppress(OtherRelease):  # counts as silence, which raises its own alarm
            self._take(genuine(payload, GuardBeat, self._desk, self._key))

    def _take(self, beat: GuardBeat | None) -> None:
        """Note that the guard lives, if the message is recent and newer than the last one of its process."""
        if beat is None or abs(self._submitter.now_ns() - beat.time_ns) > self._fresh_ns:
            return
        if beat.counter > self._counters.get(beat.life, 0):
            self._counters = {**dict(list(self._counters.items())[-LIVES_MAX:]), beat.life: beat.counter}
            self._heard_s = self._monotonic()

    async def run(self) -> None:
        """Send and listen until cancelled; then announce a person's stop, if it is one."""
        try:
            while True:
                self._send(self._beat(leaving=False))
                self._look()
                await asyncio.sleep(self._table.beat_s)
        finally:
            if self._submitter.state.risk.stopping:
                self._send_last(self._beat(leaving=True))

    def _beat(self, *, leaving: bool) -> Heartbeat:
        self._counter += 1
        submitter = self._submitter
        kind, now_ns = submitter.machine.core.desk, submitter.now_ns()
        beat = heartbeat_of(submitter.state, kind, self._desk, self._life, self._counter, now_ns, leaving=leaving)
        return sign(beat, self._key)

    def _send(self, beat: Heartbeat) -> None:
        if self._publish is not None:
            self._publish(beat)
        if self._folder is not None and (self._exchange is None or self._exchange.done()):
            self._exchange = asyncio.get_running_loop().create_task(self._by_folder(self._folder, beat))

    async def _by_folder(self, folder: Path, beat: Heartbeat) -> None:
        """Write the heartbeat, read the guard's; a folder that hangs delays only later ones."""
        problem = ""
        try:
            await asyncio.to_thread(put, folder, beat)
            self._take(await asyncio.to_thread(read_newest, folder, GuardBeat, self._desk, self._key))
        except OSError as error:
            problem = f"{error.strerror or error}: {folder}"
        except OtherRelease as error:
            problem = f"the guard's is {error}: {folder}"
        if problem and problem != self._problem:
            self._notify("heartbeat_failed", problem=problem)
        self._problem = problem

    def _send_last(self, beat: Heartbeat) -> None:
        """Send the last one without a loop."""
        if self._publish is not None:
            self._publish(beat)
        if self._folder is not None:
            writing = threading.Thread(target=_put_if_possible, args=(self._folder, beat), daemon=True)
            writing.start()
            writing.join(LAST_S)

    def _look(self) -> None:
        """Alarm once a session while the guard is silent, unless the loop itself stood still."""
        now_s = self._monotonic()
        if now_s - self._looked_s > STALLED_BEATS * self._table.beat_s:
            self._heard_s = now_s
        self._looked_s, silent_s = now_s, now_s - self._heard_s
        session = self._submitter.state.session.session
        date = "" if session is None else session.date
        if silent_s > self._table.silence_s:
            if self._told != date:
                self._told = date
                self._notify("guard_silent", silent_s=round(silent_s), limit_s=self._table.silence_s)
        elif self._told is not None:
            self._told = None
            self._notify("guard_heard")


def _put_if_possible(folder: Path, beat: Heartbeat) -> None:
    with contextlib.suppress(OSError):
        put(folder, beat)
