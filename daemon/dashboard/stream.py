"""One desk for all pages, and the streams of its state.

A page that follows a stream gets only the newest state: one message is in flight, never a queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec
from starlette.types import Receive, Scope, Send

from daemon.dashboard import api
from daemon.dashboard.desks import FollowedDesk
from daemon.dashboard.pages.history import DecisionHistory
from daemon.dashboard.queries import RefusedRequest, guard_answer
from daemon.dashboard.views import Now
from daemon.journal.rows import JournalError
from strategies.kit.quantity import to_json

BETWEEN_S = 0.5  # between looks, and messages of a stream: at most two a second
IDLE_S = 5.0  # between two looks while no page is open
HEARTBEAT_S = 15.0
WRITE_S = 15.0  # a page that reads nothing for this time is dropped
RETRY_MS = 2000
STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]


class Channel:
    """One desk, read once for all pages, and the newest message of its streams."""

    def __init__(self, desk: FollowedDesk, pool: ThreadPoolExecutor, digging: ThreadPoolExecutor) -> None:
        self.desk = desk
        self.history = DecisionHistory(desk, digging)
        self.clients = 0
        self.message = b""  # the newest state as an event of the stream
        self.changed = asyncio.Event()  # replaced at each change
        self._pool = pool
        self._digging = digging
        self._lock = asyncio.Lock()
        self._last_look_s = 0.0
        self._last_now: Now | None = None

    async def fresh(self) -> None:
        """Renew the picture if it is older than BETWEEN_S."""
        async with self._lock:
            if time.monotonic() - self._last_look_s < BETWEEN_S:
                return
            loop = asyncio.get_running_loop()
            now = await loop.run_in_executor(self._pool, self._look)
            self._last_look_s = time.monotonic()
            if now is not None and (self._last_now is None or _same(now) != _same(self._last_now)):
                self._last_now = now
                self.message = b"event: now\ndata: " + msgspec.json.encode(now, enc_hook=to_json) + b"\n\n"
                former, self.changed = self.changed, asyncio.Event()
                former.set()

    def _look(self) -> Now | None:
        self.desk.look()
        try:
            now: Now = guard_answer(partial(api.now, self.desk))
        except RefusedRequest:
            return None
        return now

    async def keep_looking(self) -> None:
        """Follow the journal: often while a page is open, rarely otherwise. Its bars are read once before that."""
        warm = False
        while True:
            look = asyncio.ensure_future(self.fresh())
            await asyncio.wait({look})
            if not look.cancelled() and look.exception() is not None:  # a bug: report it and go on
                sys.stderr.write(f"rltrader-dashboard: a look at {self.desk.name!r} failed: {look.exception()!r}\n")
            if not warm and self.desk.picture.readable:
                warm = True
                self._digging.submit(self._read_bars)
            behind = not self.desk.picture.caught_up and not self.desk.picture.problem
            await asyncio.sleep(BETWEEN_S if self.clients or behind else IDLE_S)

    def _read_bars(self) -> None:
        with (
            contextlib.suppress(JournalError, sqlite3.Error, OSError),
            self.desk.bars.reading("", self.desk.picture.generation),
        ):
            pass


def _same(now: Now) -> Now:
    return msgspec.structs.replace(now, read_at=0.0)


class OpenStreams:
    """Streams of all pages: their number, and whether the process was asked to end."""

    def __init__(self) -> None:
        self.count = 0
        self.ending: Callable[[], bool] = bool


class Stream:
    """ASGI application: send the newest state of one desk, then each change, until either side ends."""

    def __init__(self, streams: OpenStreams, channel: Channel) -> None:
        self._streams = streams
        self._channel = channel

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send the states until the page closes or the process ends."""
        streams, channel = self._streams, self._channel
        streams.count += 1
        channel.clients += 1
        disconnect = asyncio.ensure_future(_wait_for_disconnect(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
            await _put(send, b"retry: %d\n\n" % RETRY_MS)
            await channel.fresh()
            last_message = b""
            while not disconnect.done() and not streams.ending():
                change, message = channel.changed, channel.message
                if message != last_message:
                    last_message = message
                    await _put(send, message)
                    await asyncio.sleep(BETWEEN_S)
                elif not await _wait(change, disconnect, streams):
                    await _put(send, b": still here\n\n")
            await _put(send, b"", more=False)
        except (TimeoutError, OSError):
            pass  # the page read nothing for too long, or is gone
        finally:
            streams.count -= 1
            channel.clients -= 1
            disconnect.cancel()


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _put(send: Send, body: bytes, *, more: bool = True) -> None:
    async with asyncio.timeout(WRITE_S):
        await send({"type": "http.response.body", "body": body, "more_body": more})


async def _wait(change: asyncio.Event, disconnect: asyncio.Future[None], streams: OpenStreams) -> bool:
    """Wait for a change or the end of either side; False after HEARTBEAT_S."""
    deadline = time.monotonic() + HEARTBEAT_S
    while time.monotonic() < deadline:
        if disconnect.done() or streams.ending():
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BETWEEN_S):
                await change.wait()
            return True
    return False
