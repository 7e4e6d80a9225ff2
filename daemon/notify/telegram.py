"""Client of Telegram's Bot API, as far as a desk's bot needs it (core.telegram.org/bots/api).

The token is part of the address of every request. Invariant: no exception, text or log of this module holds an address.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, Self, TypeVar

import aiohttp
import msgspec

from daemon.host.safe_decode import Unreadable, decode_with_type

API = "https://api.telegram.org"
POLL_S = 50  # seconds for which Telegram holds a request for updates
ANSWER_S = 15.0  # seconds for a request, beyond the time that Telegram holds it
BYTES_MOST = 1 << 20  # bytes of an answer; it has up to 100 updates with texts of at most 4,096 characters
TEXT_MOST = 4096  # characters of a message
TOAST_MOST = 200  # characters of the answer to a button
RETRY_MOST_S = 3600.0
_TOKEN = re.compile(r"[0-9]{1,20}:[A-Za-z0-9_-]{20,100}")
T = TypeVar("T")
_ALLOWED = ("message", "callback_query")  # no edited messages: an edit does not repeat a request


class TelegramError(Exception):
    """A failed request; retry after `retry_s`, None: at any time. The text holds no address and no token."""

    def __init__(self, problem: str, retry_s: float | None = None) -> None:
        super().__init__(problem)
        self.retry_s = retry_s


class TokenRefused(TelegramError):
    """Telegram does not know the token; nothing works until it is replaced."""


class NotTaken(TelegramError):
    """Telegram refuses this very request, so that repeating it would not help."""


class User(msgspec.Struct, frozen=True):
    """A person or a bot."""

    id: int
    is_bot: bool = False
    username: str = ""


class Chat(msgspec.Struct, frozen=True):
    """A conversation: `type` is private, group, supergroup or channel."""

    id: int
    type: str = ""


class Message(msgspec.Struct, frozen=True, rename={"sender": "from"}):
    """A message. `date` is seconds since 1970 UTC of Telegram's clock, 0 for one that it no longer has."""

    chat: Chat
    date: int = 0
    sender: User | None = None
    sender_chat: Chat | None = None  # set if sent in a chat's name
    text: str = ""
    forward_origin: msgspec.Raw | None = None
    via_bot: User | None = None


class Press(msgspec.Struct, frozen=True, rename={"sender": "from"}):
    """A press on a button (Telegram's CallbackQuery); `message` is the one with the button."""

    id: str
    sender: User
    message: Message | None = None
    data: str = ""


class Update(msgspec.Struct, frozen=True):
    """One update; only its number if it is of another kind than these."""

    update_id: int
    message: Message | None = None
    callback_query: Press | None = None


class Updates(NamedTuple):
    """Updates, oldest first, and Telegram's clock when it sent them, seconds since 1970 UTC."""

    updates: tuple[Update, ...]
    now_s: float


class _Parameters(msgspec.Struct, frozen=True):
    retry_after: float | None = None


class _Answer(msgspec.Struct, frozen=True):
    ok: bool
    result: msgspec.Raw = msgspec.Raw(b"null")
    error_code: int = 0
    parameters: _Parameters = _Parameters()


_answer = msgspec.json.Decoder(_Answer).decode
_raw_updates = msgspec.json.Decoder(list[msgspec.Raw]).decode
_update = msgspec.json.Decoder(Update).decode
_user = msgspec.json.Decoder(User).decode
Buttons = Sequence[tuple[str, str]]
"""Texts of buttons, and the data that a press on each sends back (at most 64 bytes)."""


class _Number(msgspec.Struct, frozen=True):
    update_id: int


_number = msgspec.json.Decoder(_Number).decode


class Bot:
    """A bot by its token, used as an asynchronous context. Only one at a time may ask for its updates."""

    def __init__(self, token: str, api: str = API) -> None:
        """Keep the token. Raises ValueError for an invalid one, without showing it."""
        if not _TOKEN.fullmatch(token):
            raise ValueError("this is no token of a bot: expected digits, a colon and letters, as BotFather wrote it")
        self.id = int(token.partition(":")[0])
        self._base = f"{api.rstrip('/')}/bot{token}/"
        logging.getLogger("aiohttp").setLevel(logging.CRITICAL + 1)  # its lines may hold an address
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"Bot({self.id})"

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(trust_env=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def username(self) -> str:
        """Return the bot's name. Raises TelegramError."""
        result, _ = await self._call("getMe", {})
        return _decode(_user, result).username

    async def updates(self, offset: int, poll_s: int = POLL_S) -> Updates:
        """Return the updates from `offset` on, after at most `poll_s` seconds; confirm all before it.

        An unreadable update has only its number. Raises TelegramError.
        """
        fields = {"offset": offset, "timeout": poll_s, "allowed_updates": _ALLOWED}
        result, now_s = await self._call("getUpdates", fields, poll_s)
        return Updates(tuple(map(_readable, _decode(_raw_updates, result))), now_s)

    async def send(self, chat: int, text: str, buttons: Buttons = ()) -> None:
        """Send a message to a chat. Raises TelegramError."""
        fields: dict[str, Any] = {"chat_id": chat, "text": text[:TEXT_MOST]}
        if buttons:
            row = [{"text": label, "callback_data": data} for label, data in buttons]
            fields["reply_markup"] = {"inline_keyboard": [row]}
        await self._call("sendMessage", fields)

    async def answer(self, press: str, text: str) -> None:
        """Answer a press on a button, which ends its spinner. Raises TelegramError."""
        await self._call("answerCallbackQuery", {"callback_query_id": press, "text": text[:TOAST_MOST]})

    async def _call(self, method: str, fields: dict[str, Any], hold_s: float = 0.0) -> tuple[bytes, float]:
        """Return the result as JSON, and Telegram's time."""
        assert self._session is not None
        try:
            async with self._session.post(
                self._base + method,
                json=fields,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=hold_s + ANSWER_S),
            ) as response:
                body = await response.content.read(BYTES_MOST + 1)
                while len(body) <= BYTES_MOST and (more := await response.content.read(BYTES_MOST + 1 - len(body))):
                    body += more
                status, date = response.status, response.headers.get("Date", "")
        except TimeoutError:
            raise TelegramError(f"{method}: no answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:  # its text may hold the address
            raise TelegramError(f"{method}: {type(error).__name__}: Telegram was not reached") from None
        if len(body) > BYTES_MOST:
            raise TelegramError(f"{method}: an answer of more than {BYTES_MOST} bytes")
        try:
            answer = decode_with_type(_answer, body)
        except Unreadable:  # answered by a proxy: no judgement of the token
            raise TelegramError(f"{method}: an answer that is none of Telegram's ({status})") from None
        if not answer.ok or status != 200:
            raise _problem(method, answer.error_code or status, answer.parameters.retry_after)
        return bytes(answer.result), _seconds(date)


def _problem(method: str, status: int, retry_s: float | None) -> TelegramError:
    """Return the error for an HTTP status, or Telegram's own."""
    if status in (401, 404):
        return TokenRefused(f"Telegram refuses the bot's token ({status})")
    if status == 409:
        return TelegramError(f"{method}: another program asks for this bot's updates, or it has a webhook (409)")
    if status == 429:
        return TelegramError(f"{method}: too many requests (429)", min(max(retry_s or 1.0, 1.0), RETRY_MOST_S))
    if 400 <= status < 500:
        return NotTaken(f"{method}: refused ({status})")
    return TelegramError(f"{method}: Telegram has trouble ({status})")


def _decode(decode: Callable[[bytes], T], result: bytes) -> T:
    try:
        return decode_with_type(decode, result)
    except Unreadable:
        raise TelegramError("an answer that cannot be read") from None


def _readable(raw: msgspec.Raw) -> Update:
    try:
        return decode_with_type(_update, bytes(raw))
    except Unreadable:
        return Update(_decode(_number, bytes(raw)).update_id)


def _seconds(date: str) -> float:
    """Return the time of an HTTP header Date; this host's if there is none."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return time.time()
