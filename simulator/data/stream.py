"""The stock and option data streams of one server: their routes, the sessions on them, and who may have one.

The hub publishes to subscribers; the protocol is in `session.py`, the market's events are in `timeline.py`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from aiohttp import WSCloseCode, web

from simulator.data.messages import Message
from simulator.data.session import Session, log
from simulator.data.subscriptions import CHANNELS
from simulator.data.timeline import TEST_SYMBOL, Timeline
from strategies.kit.units import SECOND_NS

if TYPE_CHECKING:
    from simulator.server import AlpacaServer

AUTH_TIMEOUT_S = 10.0  # real seconds: the client's own waits are real too


class Hub:
    """The sessions of one server's data streams, and what is published to them."""

    def __init__(self, server: AlpacaServer) -> None:
        self.server = server
        self.auth_timeout_s = AUTH_TIMEOUT_S
        self.sessions: list[Session] = []
        self._held: dict[tuple[str, str], int] = {}  # (key, path) -> until when the vanished client's session lives

    def claim(self, session: Session, key: str) -> bool:
        """Whether `key` may have this session: one for each key and endpoint, dead ones count while they are held."""
        now_ns = self.server.clock.now_ns()
        for other in self.sessions:
            same = other is not session and (other.key, other.path) == (key, session.path)
            if same and not other.parted and (not other.dark or now_ns < other.dead_until_ns):
                return False
        return now_ns >= self._held.get((key, session.path), 0)

    def leave(self, session: Session) -> None:
        """A socket is gone; without a close frame its session is held for a while."""
        self.sessions.remove(session)
        if session.key and not session.parted:
            dead_ns = self.server.clock.now_ns() + int(self.server.rules.dead_session_s * SECOND_NS)
            self._held[session.key, session.path] = session.dead_until_ns or dead_ns
        log.info("%s stream %s: %s", session.stream, session.path, "closed" if session.parted else "vanished")

    def strike(self) -> None:
        """Let the armed faults of sockets befall the sessions."""
        if not self.server.faults.waiting(*SOCKET_FAULTS):
            return
        for session in [session for session in self.sessions if session.key and not session.dark]:
            if session.take("socket_drop"):
                session.close(WSCloseCode.ABNORMAL_CLOSURE)
            if fault := session.take("socket_close"):
                session.close(int(fault.get("code", 1000)))
            if fault := session.take("socket_black_hole"):
                hold_ns = int(float(fault.get("hold_s", self.server.rules.dead_session_s)) * SECOND_NS)
                session.dark, session.dead_until_ns = True, self.server.clock.now_ns() + hold_ns
                asyncio.get_running_loop().call_later(self.server.clock.real_s(hold_ns), session.cut)
            if fault := session.take("slow_client"):
                if not fault.get("silent", False):
                    session.error(407)
                session.close(WSCloseCode.POLICY_VIOLATION)

    async def watch(self) -> None:
        """Strike for ever, so that sockets fail outside of trading hours too."""
        while True:
            armed = self.server.faults.waiting(*SOCKET_FAULTS)
            await asyncio.sleep(self.server.clock.nap_s((5 if armed else 60) * SECOND_NS))
            self.strike()

    def publish(self, messages: list[Message]) -> None:
        """Send stock messages to the sessions that asked for them; the test stream has them under its own symbol."""
        if not messages:
            return
        market = self.server.market
        renamed = [message.renamed(TEST_SYMBOL) for message in messages if message.symbol == market.symbol]
        for session in list(self.sessions):
            if session.stream == "stock":
                session.deliver(renamed if session.path == "/v2/test" else messages)


SOCKET_FAULTS = ("socket_drop", "socket_close", "socket_black_hole", "slow_client")
_HUBS: WeakKeyDictionary[AlpacaServer, Hub] = WeakKeyDictionary()


def hub(server: AlpacaServer) -> Hub:
    """The data streams of this server."""
    if server not in _HUBS:
        _HUBS[server] = Hub(server)
    return _HUBS[server]


def routes(server: AlpacaServer) -> list[web.RouteDef]:
    """The stock and option streams; any path of CHANNELS."""

    async def connect(request: web.Request) -> web.StreamResponse:
        return await _connect(hub(server), request)

    return [web.get(path, connect) for path in CHANNELS]


async def run(server: AlpacaServer) -> None:
    """Publish the market on all data streams until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(Timeline(hub(server)).play(), name="alpaca-tape")
        tasks.create_task(hub(server).watch(), name="alpaca-strikes")


async def _connect(streams: Hub, request: web.Request) -> web.StreamResponse:
    """One socket from its upgrade to its end."""
    key = request.headers.get("APCA-API-KEY-ID", "")
    stream = "option" if request.path.startswith("/v1beta1") else "stock"
    context = {"stream": stream, "path": request.path, "key": key}
    if fault := streams.server.faults.take("upgrade_refused", context):
        return web.json_response({"message": "too many requests."}, status=int(fault.get("status", 429)))
    socket = web.WebSocketResponse(autoping=False, autoclose=False, compress=False, timeout=1.0)
    await socket.prepare(request)
    msgpack = request.headers.get("Content-Type") == "application/msgpack"
    session = Session(streams, request.path, msgpack, socket, request)
    streams.sessions.append(session)
    writer = asyncio.create_task(session.write(), name=f"alpaca-writer-{request.path}")
    try:
        session.mute = streams.server.faults.take("mute_after_connect", context) is not None
        if stream == "option" and not msgpack:
            session.error(412)
            session.close(WSCloseCode.POLICY_VIOLATION)
        else:
            session.control({"T": "success", "msg": "connected"})
        if key and session.closing is None:
            session.authenticate(key, request.headers.get("APCA-API-SECRET-KEY", ""))
        await session.read()
        if session.closing is not None:
            await writer
    except ConnectionError:
        log.info("%s stream %s: the client went while it was answered", stream, request.path)
    finally:
        writer.cancel()
        streams.leave(session)
    return socket
