"""`rltrader-notify listen`: polls a Telegram bot for requests of listed senders, and answers them.

A process of its own, so that the key of the desks' commands is kept apart from the addresses of other services. Ends by
a signal, or with exit code `TOKEN_REFUSED` when Telegram no longer knows the token.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import time
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from daemon.host.credential import CredentialProblem, credential
from daemon.host.service import Service
from daemon.notify.desk_line import LocalDesk
from daemon.notify.phone import CONFIRM_S, DeskLine, Incoming, Outgoing, Phone, Sender
from daemon.notify.telegram import API, Bot, NotTaken, TelegramError, TokenRefused, Update
from daemon.operator.signing import PHONE, Key, KeyRefused, parse_keys
from daemon.pacing import back_off_s

TOKEN, KEYS = "TELEGRAM_TOKEN", "PHONE_KEYS"
TOKEN_REFUSED = 3
FIRST_S, MOST_S = 1.0, 60.0  # bounds of the back-off
KEPT_S = 900.0  # seconds in which an answer is worth sending
WAITING_MOST = 100  # answers; later ones are dropped
SEEN_MOST = 1000  # updates remembered
LOOPBACK = ("127.0.0.1", "localhost", "::1")
T = TypeVar("T")
NAMED = "1 to 40 letters, digits, '.', '_' and '-'"
_PATTERN = re.compile("`str` matching regex '.*'")
_DRAW = random.SystemRandom()


class ListenProblem(Exception):
    """The configuration cannot be used. The text names the problem and its cure, and no secret."""


class _Telegram(msgspec.Struct, forbid_unknown_fields=True):
    api: str = API


class _Sender(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern=r"^[\w .-]{1,40}$")]
    chat: int
    user: int


class _Desk(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,40}$")]
    state_dir: str
    key: str = ""  # name of its key, if the credential has several


class _File(msgspec.Struct, forbid_unknown_fields=True):
    sender: list[_Sender]
    desk: list[_Desk]
    telegram: _Telegram = msgspec.field(default_factory=_Telegram)


class Listening(NamedTuple):
    """The bot, the people who may write to it, and their desks."""

    bot: Bot
    senders: tuple[Sender, ...]
    desks: tuple[DeskLine, ...]


def listening(file: Path) -> Listening:
    """Read the configuration and the credentials. Raises ListenProblem."""
    try:
        table = msgspec.convert(tomllib.loads(file.read_text()), _File)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        why = error.strerror if isinstance(error, OSError) else _PATTERN.sub(NAMED, str(error))
        raise ListenProblem(f"{file}: {why}: docs/MONITORING.md shows such a file") from None
    for table_name, entries in (("[[sender]]", table.sender), ("[[desk]]", table.desk)):
        if not entries:
            raise ListenProblem(f"{file}: no {table_name}: expected one at least")
    names = [desk.name for desk in table.desk]
    if len(set(names)) < len(names):
        raise ListenProblem(f"{file}: two desks have one name, of {', '.join(names)}: expected each once")
    address = urlsplit(table.telegram.api)
    if address.scheme != "https" and not (address.scheme == "http" and address.hostname in LOOPBACK):
        raise ListenProblem(
            f"{file}: telegram.api is {table.telegram.api!r}: expected https://, the token travels there"
        )
    keys = _keys()
    bot = _bot(table.telegram.api)
    senders = tuple(Sender(sender.name, sender.chat, sender.user) for sender in table.sender)
    desks: list[DeskLine] = []
    for desk in table.desk:
        name = desk.key or next(iter(keys))
        if name not in keys or (not desk.key and len(keys) > 1):
            raise ListenProblem(f"{file}: desk {desk.name}: key is {desk.key!r}: expected one of {', '.join(keys)}")
        desks.append(LocalDesk(desk.name, Path(desk.state_dir), name, keys[name], bot.id))
    return Listening(bot, senders, tuple(desks))


def _keys() -> Mapping[str, Key]:
    """Return the signing keys, each of the scope of a phone. Raises ListenProblem."""
    try:
        text, origin = credential(KEYS)
        keys = parse_keys(text)
    except (CredentialProblem, KeyRefused) as error:
        raise ListenProblem(f"{KEYS}: {error}") from None
    if not text:
        raise ListenProblem(_absent(KEYS, f"NAME:HEX:{PHONE}, the same line that the desk has"))
    if not keys:
        raise ListenProblem(f"{origin} holds no key: expected NAME:HEX:{PHONE}, the same line that the desk has")
    for name, key in keys.items():
        if key.scope != PHONE:
            raise ListenProblem(
                f"{origin}: key {name} may do everything: expected NAME:HEX:{PHONE}, here and at the desk: "
                f"no key that can do more belongs here"
            )
    return keys


def _bot(api: str) -> Bot:
    try:
        token, origin = credential(TOKEN)
    except CredentialProblem as error:
        raise ListenProblem(f"{TOKEN}: {error}") from None
    if not token:
        raise ListenProblem(_absent(TOKEN, "the token that Telegram's BotFather gave"))
    try:
        return Bot(token, api)
    except ValueError as error:
        raise ListenProblem(f"{origin}: {error}") from None


def _absent(name: str, content: str) -> str:
    """Return the cure for a credential that is in no file and in no variable."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    where = f"{folder} has no file {name}" if folder else f"there is no {name}"
    return (
        f"{where}, and the environment has none: write {content}, into a file {name} of a folder that this user alone "
        f"may read, and name the folder: CREDENTIALS_DIRECTORY=FOLDER (a unit does it: docs/MONITORING.md)"
    )


def listen(chosen: Listening, say: Callable[[str], None], complain: Callable[[str], None]) -> int:
    """Listen until a signal; returns the exit code."""
    return asyncio.run(_until_signal(chosen, say, complain))


async def _until_signal(chosen: Listening, say: Callable[[str], None], complain: Callable[[str], None]) -> int:
    service, loop, stop = Service(), asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with chosen.bot:
        listener = Listener(chosen, say, complain, service)
        works = [loop.create_task(work) for work in (listener.poll(), listener.post(), stop.wait())]
        try:
            ended_works, _ = await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
            service.stopping()
            for work in ended_works:
                work.result()
        except TokenRefused as error:
            complain(f"{error}: nothing is heard until {TOKEN} is replaced and this program started again")
            return TOKEN_REFUSED
        finally:
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)
    return 0


class Listener:
    """Polls the bot, passes messages to the phone, and sends its answers. `poll` and `post` run concurrently."""

    def __init__(
        self, chosen: Listening, say: Callable[[str], None], complain: Callable[[str], None], service: Service
    ) -> None:
        self._chosen, self._bot, self._say, self._complain, self._service = (
            chosen, chosen.bot, say, complain, service,
        )  # fmt: skip
        self._update_ids: dict[int, None] = {}
        self._out: asyncio.Queue[tuple[float, Outgoing]] = asyncio.Queue(WAITING_MOST)  # with the deadline of each

    async def poll(self) -> None:
        """Ask for updates until cancelled. Raises TokenRefused."""
        self._service.ready()
        name = await self._retry(self._bot.username)
        names = ", ".join(desk.name for desk in self._chosen.desks)
        self._say(f"listens as bot {name} for {names}")
        phone = Phone(self._chosen.senders, self._chosen.desks, name, boot_s, self._complain)
        offset = 0
        while True:
            updates, now_s = await self._retry(partial(self._bot.updates, offset))
            self._service.watchdog()
            for update in updates:
                offset = update.update_id + 1
                if update.update_id in self._update_ids:
                    continue
                self._update_ids[update.update_id] = None
                if len(self._update_ids) > SEEN_MOST:
                    del self._update_ids[next(iter(self._update_ids))]
                incoming = incoming_of(update, now_s)
                if incoming is not None:
                    for outgoing in await self._answer(phone, incoming):
                        self._put(outgoing)

    async def _answer(self, phone: Phone, incoming: Incoming) -> list[Outgoing]:
        """Return the messages to send; none if an error occurs, which does not stop the listener."""
        try:
            return await asyncio.to_thread(phone.take, incoming)
        except Exception as error:
            self._complain(f"update {incoming.update_id} gave no answer: {type(error).__name__}")
            return []

    def _put(self, outgoing: Outgoing) -> None:
        until_s = boot_s() + (CONFIRM_S if outgoing.buttons or outgoing.press else KEPT_S)
        try:
            self._out.put_nowait((until_s, outgoing))
        except asyncio.QueueFull:
            self._complain("Telegram takes no answers: some are left out")

    async def post(self) -> None:
        """Send the answers until cancelled. Raises TokenRefused."""
        while True:
            until_s, outgoing = await self._out.get()
            failures = 0
            while boot_s() <= until_s:
                try:
                    await self._send(outgoing)
                    break
                except TokenRefused:
                    raise
                except NotTaken as error:
                    self._complain(f"an answer was not taken: {error}")
                    break
                except TelegramError as error:
                    failures += 1
                    self._complain(f"an answer is delayed: {error}")
                    await asyncio.sleep(_wait_s(error, failures))

    async def _send(self, outgoing: Outgoing) -> None:
        if outgoing.press:
            await self._bot.answer(outgoing.press, outgoing.text)
        else:
            await self._bot.send(outgoing.chat, outgoing.text, outgoing.buttons)

    async def _retry(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Repeat a request until it succeeds, with growing waits. Raises TokenRefused."""
        failures = 0
        while True:
            try:
                return await ask()
            except TokenRefused:
                raise
            except TelegramError as error:
                failures += 1
                self._complain(f"{error}; it is tried again")
                await asyncio.sleep(_wait_s(error, failures))
                self._service.watchdog()


def _wait_s(error: TelegramError, failures: int) -> float:
    backed_off_s = back_off_s(failures, FIRST_S, MOST_S, _DRAW.random())
    return backed_off_s if error.retry_s is None else max(error.retry_s, 0.0)


def incoming_of(update: Update, now_s: float) -> Incoming | None:
    """Return a person's text or press on a button; None for all else. `now_s` is Telegram's time."""
    message, press = update.message, update.callback_query
    if press is not None and press.message is not None:
        return Incoming(update.update_id, press.message.chat.id, press.sender.id, press.data, press=press.id)
    if message is None or message.sender is None or not message.text:
        return None
    if message.sender.is_bot or message.sender_chat is not None:
        return None
    if message.forward_origin is not None or message.via_bot is not None:
        return None  # the words of someone else
    return Incoming(update.update_id, message.chat.id, message.sender.id, message.text, now_s - message.date)


def boot_s() -> float:
    """Return seconds since this machine's boot, suspended ones included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
