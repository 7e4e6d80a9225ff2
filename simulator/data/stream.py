"""Stock and option data streams with scripted faults; see `daemon.alpaca_api.data_stream`.

The market's events are in `timeline.py`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Iterator

import msgspec
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from daemon.alpaca_api.data_stream import DataSessions, DataStreamClient
from daemon.alpaca_api.messages import DataMessage, frame, timestamp
from daemon.alpaca_api.wire import stamp
from simulator.faults import NESTED, Fault
from simulator.trading.venue import Brokerage, Listed
from strategies.kit.units import SECOND_NS

log = logging.getLogger("simulator.data.stream")
TEST_SYMBOL = "FAKEPACA"  # symbol of the underlying on the test stream
OVERSIZE = 1_100_000  # bytes, above alpaca-py's limit of 1 MiB
SOCKET_FAULTS = ("socket_drop", "socket_close", "socket_black_hole", "slow_client")
BY_SUBSCRIPTION = ("/v2/sip", "/v1beta1/opra")


@dataclasses.dataclass(slots=True, eq=False)
class FaultyClient(DataStreamClient):
    """One socket of a data stream, from the upgrade to its end."""

    hub: FaultyHub
    mute: bool = False  # nothing is sent any more
    deaf: bool = False  # data are dropped, control messages continue
    dark: bool = False  # half-open: nothing is read or sent
    silent: bool = False  # pings are not answered
    stalled: bool = False

    def context(self, **more: object) -> dict[str, object]:
        """Return the context of faults at this socket."""
        return {"stream": self.stream, "path": self.path, "key": self.key, **more}

    def take(self, name: str, /, **more: object) -> Fault | None:
        """Return the fault `name` if it is armed for this socket."""
        faults = self.hub.venue.faults
        return faults.take(name, self.context(**more)) if faults.waiting(name) else None

    # --- out --------------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Queue a frame, unless the client is mute or dark."""
        if not self.mute and not self.dark:
            super(FaultyClient, self).send(data)

    def frames(self, messages: list[DataMessage]) -> Iterator[bytes]:
        """Yield the frames of these messages, spoilt by scripted faults; none for a deaf client."""
        if self.deaf or self.mute or self.dark:
            return iter(())
        faults = self.hub.venue.faults
        if not faults.waiting():
            return super(FaultyClient, self).frames(messages)
        if faults.active("socket_stall", self.context()) is not None:
            if not self.stalled:
                self.take("socket_stall")
            self.stalled = True
            return iter(())
        self.stalled = False
        return self._spoilt(messages)

    def _spoilt(self, messages: list[DataMessage]) -> Iterator[bytes]:
        """Yield the frames sent for one frame of messages under the scripted faults."""
        first = messages[0]
        about = {"message": first.fields["T"], "symbol": first.symbol}
        if fault := self.take("malformed_json", **about):
            broken_frame = b"\xc1\xff" if self.msgpack else b'[{"T":"q","S":'
            yield NESTED if fault.get("nested", False) else broken_frame
            return
        if self.take("data_null", **about):
            yield frame([b"\xc0" if self.msgpack else b"null"], msgpack=self.msgpack)
            return
        rows = [dict(message.fields) for message in messages]
        if fault := self.take("unknown_event", **about):
            strange = {**rows[0], "T": "zz"}
            rows = [strange, *rows] if fault.get("extra", False) else [strange, *rows[1:]]
            messages = [first, *messages] if fault.get("extra", False) else messages
        if fault := self.take("unknown_enum", **about):
            rows[0][str(fault.get("field", "z"))] = "of tomorrow"
        if self.take("unknown_field", **about):
            rows[0]["field_of_tomorrow"] = {"value": [1, None]}
        as_text = not self.msgpack or self.take("string_time", **about) is not None
        encode = msgspec.msgpack.encode if self.msgpack else msgspec.json.encode
        data = [
            encode({**row, "t": stamp(message.time_ns) if as_text else timestamp(message.time_ns)})
            for row, message in zip(rows, messages, strict=True)
        ]
        whole = frame(data, msgpack=self.msgpack)
        if self.take("oversize_frame", **about):
            whole = frame(data[:1] * (OVERSIZE // len(data[0]) + 1), msgpack=self.msgpack)
        yield whole
        if self.take("frame_duplicated", **about):
            yield whole

    # --- in ---------------------------------------------------------------------------------------------------------

    def must_authenticate(self) -> bool:
        """Return whether the client must authenticate in time; not if it is mute."""
        return not self.mute and super(FaultyClient, self).must_authenticate()

    def ignores(self, message: WSMessage) -> bool:
        """Return whether to ignore this message: half-open, or an unanswered ping."""
        if not self.dark and message.type is WSMsgType.PING:
            self.silent = self.silent or self.take("ping_silence") is not None
            return self.silent
        return self.dark

    async def authenticate(self, key: str, secret: str) -> None:
        """Check the credentials, or fall silent."""
        context = {"stream": self.stream, "path": self.path, "key": key}
        if not self.key and self.hub.venue.faults.take("mute_after_auth", context):
            self.mute = True
        else:
            await super(FaultyClient, self).authenticate(key, secret)

    def acknowledge(self) -> None:
        """Send the complete subscription; or fall silent, or follow it with an error and no data."""
        if self.take("mute_after_subscribe"):
            self.mute = True
        super(FaultyClient, self).acknowledge()
        if self.take("symbol_limit"):
            self.error(405)
            self.deaf = True

    def ended(self, now_ns: int) -> bool:
        """Return whether this session frees its place: also a half-open one after its holding time."""
        return super(FaultyClient, self).ended(now_ns) or (self.dark and now_ns >= self.dead_until_ns)


class FaultyHub(DataSessions[FaultyClient]):
    """Sessions of one server's data streams, and the messages published to them."""

    def __init__(self, venue: Brokerage) -> None:
        super().__init__(Listed(venue), FaultyClient)
        self.venue = venue

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve one socket from its upgrade, which the script may refuse, to its end."""
        key = request.headers.get("APCA-API-KEY-ID", "")
        stream = "option" if request.path.startswith("/v1beta1") else "stock"
        context = {"stream": stream, "path": request.path, "key": key}
        if fault := self.venue.faults.take("upgrade_refused", context):
            return web.json_response({"message": "too many requests."}, status=int(fault.get("status", 429)))
        return await super().serve(request)

    def came(self, session: FaultyClient, key: str) -> None:
        """Handle an opened socket, mute under that fault."""
        session.mute = self._takes("mute_after_connect", session, key)

    def authentic(self, session: FaultyClient, key: str, secret: str) -> bool:
        """Return whether these are an account's credentials, unless the script refuses them."""
        return super().authentic(session, key, secret) and not self._takes("auth_failed", session, key)

    def permitted(self, session: FaultyClient, key: str) -> bool:
        """Return whether the plan includes the stream: the free one excludes paid streams."""
        if self._takes("insufficient_subscription", session, key):
            return False
        return not self.venue.rules.free_plan or session.path not in BY_SUBSCRIPTION

    def claim(self, session: FaultyClient, key: str) -> bool:
        """Return whether `key` may have this session, unless the script refuses it."""
        return not self._takes("connection_limit", session, key) and super().claim(session, key)

    def _takes(self, kind: str, session: FaultyClient, key: str) -> bool:
        context = {"stream": session.stream, "path": session.path, "key": key}
        return self.venue.faults.take(kind, context) is not None

    async def on_the_way(self, session: FaultyClient) -> None:
        """Delay a message by the clock's latency."""
        await self.venue.clock.on_the_way(f"{session.path} {session.key}", asked=False)

    def say(self, words: str) -> None:
        """Write the text to the log."""
        log.info(words)

    def strike(self) -> None:
        """Apply the armed faults of sockets to the sessions."""
        if not self.venue.faults.waiting(*SOCKET_FAULTS):
            return
        for session in [session for session in self.sessions if session.key and not session.dark]:
            if session.take("socket_drop"):
                session.close(WSCloseCode.ABNORMAL_CLOSURE)
            if fault := session.take("socket_close"):
                session.close(int(fault.get("code", 1000)))
            if fault := session.take("socket_black_hole"):
                hold_ns = int(float(fault.get("hold_s", self.venue.rules.dead_session_s)) * SECOND_NS)
                session.dark, session.dead_until_ns = True, self.venue.clock.now_ns() + hold_ns
                asyncio.get_running_loop().call_later(self.venue.clock.real_s(hold_ns), session.cut)
            if fault := session.take("slow_client"):
                if not fault.get("silent", False):
                    session.error(407)
                session.close(WSCloseCode.POLICY_VIOLATION)

    async def watch(self) -> None:
        """Apply socket faults for ever, so that sockets fail outside of trading hours too."""
        while True:
            faults_waiting = self.venue.faults.waiting(*SOCKET_FAULTS)
            await asyncio.sleep(self.venue.clock.nap_s((5 if faults_waiting else 60) * SECOND_NS))
            self.strike()

    def publish_stocks(self, messages: list[DataMessage]) -> None:
        """Send stock messages to the subscribed sessions; the test stream uses its own symbol."""
        if not messages:
            return
        market = self.venue.market
        test_messages = [message.renamed(TEST_SYMBOL) for message in messages if message.symbol == market.symbol]
        for session in list(self.sessions):
            if session.stream == "stock":
                session.deliver(test_messages if session.path == "/v2/test" else messages)
