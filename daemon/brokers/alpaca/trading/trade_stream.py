"""The socket of Alpaca's trade updates: connects, authenticates, listens, emits each update, and reconnects.

It has no memory and no cursor: updates during an outage are lost, so both edges are reported. One bad message is logged
and costs neither the connection nor the next message. Deadlines are real seconds.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from daemon.brokers.alpaca.wire import Malformed, mapping, text
from daemon.host.safe_decode import Unreadable, json_value
from daemon.pacing import back_off_s

STREAM = "trade_updates"
TAKEN = "HTTP 429 on the upgrade"  # the answer to a connection beyond the account's only one
OTHER_SESSION = "another connection has the account's trade updates"  # the same in the handshake
CONNECTION_LIMIT = 406  # the code that says so, as on the market-data streams
FRAME_MAX = 4 * 1024 * 1024  # bytes: an update beyond the library's 1 MiB costs no connection
_JITTER = random.SystemRandom()
_SILENT = logging.getLogger("daemon.brokers.alpaca.trading.trade_stream.frames")
_SILENT.disabled = True  # at debug level the library logs frames, and one of them holds the secret


@dataclass(frozen=True, slots=True)
class StreamDeadlines:
    """Real seconds. `throttled_s` is the least pause after a 429 on the upgrade: a dead session is held for ~90 s."""

    open_s: float = 10.0
    reply_s: float = 10.0
    ping_s: float = 10.0
    pong_s: float = 10.0
    close_s: float = 5.0
    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    throttled_s: float = 10.0
    unauthorized_s: float = 60.0


class Unauthorized(Exception):
    """The broker refused the keys, or to listen with them."""


class OtherSession(Exception):
    """The keys are right, and another connection of the account has its updates."""


class NotListening(Exception):
    """The broker sent an unexpected answer to the handshake."""


class TradeStream:
    """`on_update` gets the `data` of each trade update, `on_state` (listening, why) at both edges of listening.

    `on_taken` gets the cause each time that the broker refuses a connection because another one of the account has it;
    once the broker opens one, `on_state` tells what became of that.
    `on_update` may raise Malformed: it is logged. No text of this class contains the keys.
    """

    def __init__(
        self,
        url: str,
        key: str,
        secret: str,
        on_update: Callable[[object], None],
        on_state: Callable[[bool, str], None],
        on_taken: Callable[[str], None],
        deadlines: StreamDeadlines,
        log: Callable[..., None],
    ) -> None:
        self._url = url
        self._keys = (key, secret)
        self._on_update = on_update
        self._on_state = on_state
        self._on_taken = on_taken
        self._deadlines = deadlines
        self._log = log
        self._listening = False
        self._is_taken = False  # another connection has the account's updates

    async def run(self) -> None:
        """Listen until cancelled; then close the socket."""
        failures = 0
        now_s = asyncio.get_running_loop().time
        while True:
            began_s, was_taken = now_s(), self._is_taken
            detail, least_s = await self._visit()
            was_stable = self._listening and now_s() - began_s >= self._deadlines.longest_pause_s
            failures = 1 if was_stable else failures + 1
            if detail in (TAKEN, OTHER_SESSION):
                self._is_taken = True
                self._on_taken(detail)
            if self._listening or (was_taken and not self._is_taken):
                self._listening = False
                self._on_state(False, detail)
            pause_s = self._pause_s(failures, least_s)
            self._log("trade_stream_lost", detail=detail, retry_s=round(pause_s, 1))
            await asyncio.sleep(pause_s)

    def _pause_s(self, failures: int, least_s: float) -> float:
        """Return a doubling pause, half of it random, so that many daemons do not reconnect at once."""
        waits = self._deadlines
        return max(least_s, back_off_s(failures, waits.first_pause_s, waits.longest_pause_s, _JITTER.random()))

    async def _visit(self) -> tuple[str, float]:
        """Run one connection to its end. Return the cause and the least pause before the next."""
        waits = self._deadlines
        try:
            async with connect(
                self._url,
                open_timeout=waits.open_s,
                ping_interval=waits.ping_s,
                ping_timeout=waits.pong_s,
                close_timeout=waits.close_s,
                max_size=FRAME_MAX,
                proxy=None,
                logger=_SILENT,
            ) as socket:
                self._is_taken = False
                await self._shake_hands(socket)
                self._listening = True
                self._log("trade_stream_listening", url=self._url)
                self._on_state(True, "")
                async for frame in socket:
                    self._take(frame)
                return f"closed by the broker with code {socket.close_code}", 0.0
        except Unauthorized as refusal:
            self._log("trade_stream_unauthorized", detail=str(refusal))
            return str(refusal), waits.unauthorized_s
        except OtherSession:
            return OTHER_SESSION, waits.throttled_s
        except InvalidStatus as refusal:
            status = refusal.response.status_code
            return (TAKEN, waits.throttled_s) if status == 429 else (f"HTTP {status} on the upgrade", 0.0)
        except NotListening as odd:
            return str(odd), 0.0
        except (OSError, TimeoutError, WebSocketException) as error:
            return f"{type(error).__name__}: {error}"[:200], 0.0

    # --- the handshake --------------------------------------------------------------------------------------------

    async def _shake_hands(self, socket: ClientConnection) -> None:
        """Authenticate, then listen. Raises Unauthorized, OtherSession, NotListening."""
        key_id, secret_key = self._keys
        # the order that alpaca-py sends
        login = {"action": "authenticate", "data": {"key_id": key_id, "secret_key": secret_key}}
        await socket.send(msgspec.json.encode(login).decode())
        answer = await self._reply(socket, "authorization")
        if answer.get("code") == CONNECTION_LIMIT:
            raise OtherSession
        if text(answer.get("status")) != "authorized":
            raise Unauthorized("the trade stream refused the keys: check them and that they belong to this endpoint")
        await socket.send(msgspec.json.encode({"action": "listen", "data": {"streams": [STREAM]}}).decode())
        answer = await self._reply(socket, "listening")
        streams = answer.get("streams")
        if not isinstance(streams, list) or STREAM not in streams:
            raise NotListening(f"asked to listen to {STREAM}, the broker lists {str(streams)[:100]}")

    async def _reply(self, socket: ClientConnection, stream: str) -> Mapping[str, object]:
        """Return the data of the next message of `stream`; earlier messages are handled as usual."""
        try:
            async with asyncio.timeout(self._deadlines.reply_s):
                while True:
                    message = self._take(await socket.recv())
                    if message.get("stream") == stream and isinstance(message.get("data"), dict):
                        return mapping(message["data"], "data")
                    if message.get("stream") == "authorization":
                        raise Unauthorized("the trade stream refused to listen: not authorized")
        except TimeoutError:
            raise NotListening(f"no {stream} reply within {self._deadlines.reply_s} s") from None

    # --- messages -------------------------------------------------------------------------------------------------

    def _take(self, frame: str | bytes) -> Mapping[str, object]:
        """Handle the update of a frame, text or binary; return its message, empty when unreadable."""
        try:
            message = _message(frame)
            if message.get("stream") == STREAM:
                self._on_update(message.get("data"))
            elif message.get("action") == "error":
                problem = f"the broker sent an error: {self._hide(str(message.get('data')))[:200]}"
                self._log("trade_update_malformed", problem=problem)
        except Malformed as odd:
            self._log("trade_update_malformed", problem=str(odd))
            return {}
        return message

    def _hide(self, message: str) -> str:
        for secret in self._keys:
            message = message.replace(secret, "[hidden]")
        return message


def _message(frame: str | bytes) -> Mapping[str, object]:
    """Return a frame's JSON object. Raises Malformed."""
    try:
        return mapping(json_value(frame), "message")
    except Unreadable as error:
        raise Malformed(f"message of {len(frame)} bytes is no JSON: {error}") from None
