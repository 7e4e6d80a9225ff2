"""A listener on a loopback Telegram, on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from daemon.host.service import Service
from daemon.notify.listen import Listener, Listening
from daemon.notify.phone import DeskLine, Sender
from daemon.notify.telegram import Bot, TokenRefused
from daemon.operator.signing import parse_keys
from tests.support.outside.telegram import ANN, Telegram

HEX = "5a" * 32
KEYS = parse_keys(f"handset:{HEX}:phone\nops:{'6b' * 32}")
SENDER = Sender("ann", ANN, ANN)


@dataclass(slots=True)
class Heard:
    """What a listener said and complained about; `refused` once Telegram no longer knew its token."""

    said: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    refused: bool = False


@contextmanager
def heard(server: Telegram, desks: Sequence[DeskLine], senders: Sequence[Sender] = (SENDER,)) -> Iterator[Heard]:
    """Listen for the time of a `with`."""
    heard_by, ready = Heard(), threading.Event()
    ends: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        ended = asyncio.Event()
        ends.append((asyncio.get_running_loop(), ended))
        ready.set()
        async with Bot(server.token, server.api) as bot:
            listener = Listener(
                Listening(bot, tuple(senders), tuple(desks)),
                heard_by.said.append,
                heard_by.complaints.append,
                Service(),
            )
            works = [asyncio.ensure_future(work) for work in (listener.poll(), listener.post(), ended.wait())]
            done, _ = await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)
            for work in done:
                try:
                    work.result()
                except TokenRefused:
                    heard_by.refused = True

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield heard_by
    finally:
        for loop, ended in ends:
            if not loop.is_closed():
                loop.call_soon_threadsafe(ended.set)
        thread.join()
