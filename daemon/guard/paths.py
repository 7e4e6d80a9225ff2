"""The paths on which a guard hears its desk, and itself: MQTT, and a folder that both hosts see.

Each path sends the guard's own message and passes on what it receives: the desk's heartbeats, and that message as its
echo. A path that fails is retried for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from pathlib import Path
from typing import NoReturn, Protocol

from aiomqtt import Client, MqttError

from daemon.operator.heartbeat import (
    BYTES_MAX,
    FRESH_S,
    GuardBeat,
    Heartbeat,
    OtherRelease,
    genuine,
    payload_of,
    put,
    read_newest,
)
from daemon.operator.mqtt.connection import MqttBroker, connect, properties, safe_text, still_wanted
from daemon.operator.signing import Key
from daemon.pacing import back_off_s

PAUSE_LEAST_S, PAUSE_MOST_S = 1.0, 30.0
_DRAW = random.SystemRandom()
_PASSING = properties()


class Ears(Protocol):
    """Receives the messages of the paths, and provides the guard's own newest message."""

    def own_beat(self) -> GuardBeat:
        """Return the guard's message; each call makes the next one."""

    def take_beat(self, path: str, beat: Heartbeat) -> None:
        """Take a genuine heartbeat of the desk."""

    def take_unread(self, path: str, beat: OtherRelease) -> None:
        """Take a genuine heartbeat of the desk that this release cannot read."""

    def take_echo(self, path: str, beat: GuardBeat) -> None:
        """Take a genuine message of a guard of this desk: this one's own, or another's."""

    def note_loss(self, path: str, problem: str) -> None:
        """Note why a path cannot be used."""


class MqttPath:
    """Heartbeats by MQTT: `<prefix>/<desk>/heartbeat` is read, `<prefix>/<desk>/guard` is written and read."""

    name = "MQTT"

    def __init__(
        self, broker: MqttBroker, password: str | None, prefix: str, desk: str, key: Key, ears: Ears, beat_s: float
    ) -> None:
        self._broker, self._password, self._key, self._ears, self._beat_s = broker, password, key, ears, beat_s
        self._desk, self._below = desk, f"{prefix}/{desk}"
        self._identifier = f"guard-{desk}-{secrets.token_hex(8)}"

    async def run(self) -> NoReturn:
        """Connect, send and listen until cancelled."""
        failures = 0
        while True:
            try:
                link = connect(self._broker, self._password, self._identifier, incoming_bytes=BYTES_MAX)
                async with link as client:
                    for topic in ("heartbeat", "guard"):
                        await client.subscribe(f"{self._below}/{topic}")
                        still_wanted()
                    failures = 0
                    await self._session(client)
            except (MqttError, OSError, ValueError) as error:
                self._ears.note_loss(self.name, safe_text(error, self._password))
            failures += 1
            await asyncio.sleep(back_off_s(failures, PAUSE_LEAST_S, PAUSE_MOST_S, _DRAW.random()))

    async def _session(self, client: Client) -> None:
        sending = asyncio.create_task(self._send(client))
        try:
            async for message in client.messages:
                if sending.done():
                    break
                self._take(str(message.topic), bytes(message.payload))
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, MqttError):
                await sending
        still_wanted()

    async def _send(self, client: Client) -> NoReturn:
        while True:
            payload = payload_of(self._ears.own_beat())
            await client.publish(f"{self._below}/guard", payload, properties=_PASSING)
            await asyncio.sleep(self._beat_s)

    def _take(self, topic: str, payload: bytes) -> None:
        if topic.endswith("/heartbeat"):
            try:
                if (beat := genuine(payload, Heartbeat, self._desk, self._key)) is not None:
                    self._ears.take_beat(self.name, beat)
            except OtherRelease as unread:
                self._ears.take_unread(self.name, unread)
            return
        with contextlib.suppress(OtherRelease):  # another guard's
            if (guard_beat := genuine(payload, GuardBeat, self._desk, self._key)) is not None:
                self._ears.take_echo(self.name, guard_beat)


class FolderPath:
    """Heartbeats by files in a folder: `<desk>.heartbeat.json` is read, `<desk>.guard.json` is written and read."""

    name = "folder"

    def __init__(self, folder: Path, desk: str, key: Key, ears: Ears, beat_s: float) -> None:
        self._folder, self._desk, self._key, self._ears = folder, desk, key, ears
        self._look_s = min(beat_s, FRESH_S / 4)

    async def run(self) -> NoReturn:
        """Write and read until cancelled; a folder that hangs holds back this path only.

        A message that lay in the folder until it is nearly a minute old would count as late.
        """
        while True:
            try:
                guard_beat, beat = await asyncio.to_thread(self._exchange, self._ears.own_beat())
            except OSError as error:
                self._ears.note_loss(self.name, f"{self._folder}: {error.strerror or error}")
            else:
                if guard_beat is not None:
                    self._ears.take_echo(self.name, guard_beat)
                if isinstance(beat, OtherRelease):
                    self._ears.take_unread(self.name, beat)
                elif beat is not None:
                    self._ears.take_beat(self.name, beat)
            await asyncio.sleep(self._look_s)

    def _exchange(self, guard_beat: GuardBeat) -> tuple[GuardBeat | None, Heartbeat | OtherRelease | None]:
        put(self._folder, guard_beat)
        back = None
        with contextlib.suppress(OtherRelease):  # another guard's
            back = read_newest(self._folder, GuardBeat, self._desk, self._key)
        try:
            return back, read_newest(self._folder, Heartbeat, self._desk, self._key)
        except OtherRelease as unread:
            return back, unread
