"""The market socket against a small server that speaks the documented protocol and misbehaves where a test says so.

What is expected is the protocol's own: handshake, error codes, additive subscriptions with the whole set acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Any, Self

import msgpack
import pytest

from daemon.brokers.alpaca.market.socket import BackOff, Endpoint, MarketSocket, SocketDeadlines, State, instant_ns
from daemon.operator.log_events import LOG_EVENTS
from tests.support.alpaca.stream_server import KEY, PATIENCE_S, QUICK, SECRET, SOON, StreamServer, until


def timestamp(ns: int) -> msgpack.Timestamp:
    return msgpack.Timestamp.from_unix_nano(ns)


def quote(symbol: str = "SPY", ns: int = 1_700_000_000_123_456_789, **fields: Any) -> dict[str, Any]:
    return {"T": "q", "S": symbol, "bp": 1.0, "ap": 1.1, "t": timestamp(ns), **fields}


class Client:
    """A socket under test with its messages, states and log."""

    def __init__(
        self, url: str, deadlines: SocketDeadlines = QUICK, back_off: BackOff = SOON, *, sleep: Any = asyncio.sleep
    ) -> None:
        self.messages: list[dict[str, Any]] = []
        self.states: list[State] = []
        self.log: list[tuple[str, dict[str, object]]] = []
        self.take: Callable[[dict[str, Any]], None] = self.messages.append
        self.socket = MarketSocket(
            Endpoint(url, KEY, SECRET, deadlines, back_off),
            on_message=self._take,
            on_state=self.states.append,
            log=self._tell,
            rng=random.Random(7),
            sleep=sleep,
        )
        self.socket.subscribe("quotes", ["SPY"])

    def _take(self, message: dict[str, Any]) -> None:
        self.take(message)

    def _tell(self, name: str, /, **fields: object) -> None:
        assert set(fields) == set(LOG_EVENTS[name].fields), name
        self.log.append((name, fields))

    def names(self) -> list[str]:
        return [name for name, _ in self.log]

    def reasons(self, name: str) -> list[str]:
        return [str(fields.get("reason")) for event, fields in self.log if event == name]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        task = asyncio.create_task(self.socket.run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_after_the_handshake_messages_arrive_with_all_nine_digits() -> None:
    async with StreamServer() as server, Client(server.url).running() as client:
        await until(lambda: client.socket.up)
        await server.send(quote(ns=1_700_000_000_123_456_789), quote("QQQ"))
        await until(lambda: len(client.messages) == 2)
        assert client.messages[0]["t"].to_unix_nano() == 1_700_000_000_123_456_789
        assert server.asked == [{"quotes": ["SPY"]}]
        assert client.states == ["up"]


@pytest.mark.parametrize(
    ("stage", "reason"), [("connect", "the welcome"), ("auth", "authentication"), ("subscribe", "reply to subscribe")]
)
async def test_a_server_that_turns_mute_is_left_and_tried_again(stage: str, reason: str) -> None:
    async with StreamServer() as server:
        server.mute = stage
        async with Client(server.url).running() as client:
            await until(lambda: client.socket.counts["connects"] >= 2)
            server.mute = ""
            await until(lambda: client.socket.up)
        assert reason in client.reasons("stream_lost")[0]


async def test_one_bad_message_of_a_batch_is_counted_and_told_and_the_others_arrive() -> None:
    async with StreamServer() as server:
        client = Client(server.url)

        def take(message: dict[str, Any]) -> None:
            client.messages.append({"bid": message["bp"] + 0.0})

        client.take = take
        async with client.running():
            await until(lambda: client.socket.up)
            bad = quote()
            del bad["bp"]
            await server.send(quote(bp=1.0), bad, None, 7, quote(bp="x"), {"T": ["odd"], "bp": 3.0}, quote(bp=2.0))
            await until(lambda: len(client.messages) == 3)
        assert [m["bid"] for m in client.messages] == [1.0, 3.0, 2.0]
        assert client.socket.counts["bad"] == 4
        assert client.names().count("message_unreadable") == 2  # the two that are no map at once, and the 4th
        assert "stream_lost" not in client.names()


async def test_a_frame_that_is_no_msgpack_loses_nothing_else() -> None:
    async with StreamServer() as server, Client(server.url).running() as client:
        await until(lambda: client.socket.up)
        await server.connections[-1].send(b"\xc1\xc1\xc1")
        await server.connections[-1].send("no JSON either")
        for levels in (100_000, 900):
            await server.connections[-1].send("[" * levels + "]" * levels)
            await server.connections[-1].send(b"\x91" * levels + b"\x01")
        await server.send(quote())
        await until(lambda: client.messages)
        assert client.socket.counts["bad"] == 6
        assert client.socket.up


@pytest.mark.parametrize("binary", [False, True])
async def test_a_server_that_speaks_json_is_understood(binary: bool) -> None:
    async with StreamServer() as server, Client(server.url).running() as client:
        await until(lambda: client.socket.up)
        frame = '[{"T":"q","S":"SPY","t":"2024-07-03T13:30:00Z","bid":548.5}]'
        await server.connections[-1].send(frame.encode() if binary else frame)
        await until(lambda: client.messages)
        assert client.messages[0]["bid"] == 548.5
        assert instant_ns(client.messages[0]["t"]) == 1_720_013_400 * 10**9  # 13:30 UTC on the third of July 2024


async def test_after_a_reconnect_everything_is_subscribed_again_in_one_message() -> None:
    async with StreamServer() as server, Client(server.url).running() as client:
        await until(lambda: client.socket.up)
        client.socket.subscribe("quotes", ["QQQ"])
        client.socket.subscribe("bars", ["SPY"])
        await until(lambda: len(client.socket.granted) == 3)
        server.asked.clear()
        server.connections[-1].transport.abort()
        await until(lambda: client.states == ["up", "down", "up"])
        assert server.asked == [{"bars": ["SPY"], "quotes": ["QQQ", "SPY"]}]


async def test_what_is_no_longer_wanted_is_unsubscribed() -> None:
    async with StreamServer() as server, Client(server.url).running() as client:
        await until(lambda: client.socket.up)
        client.socket.subscribe("quotes", ["QQQ"])
        client.socket.unsubscribe("quotes", ["SPY"])
        await until(lambda: server.subscribed == {("quotes", "QQQ")})


async def test_a_symbol_limit_keeps_the_old_set_and_names_what_was_refused() -> None:
    async with StreamServer() as server, Client(server.url).running() as client:
        await until(lambda: client.socket.up)
        server.refuse = lambda pairs: 405 if len(pairs) > 2 else 0
        client.socket.subscribe("quotes", ["AAA", "BBB", "CCC"])
        await until(lambda: "subscription_refused" in client.names())
        assert ("quotes", "SPY") in server.subscribed
        assert server.subscribed == {("quotes", "SPY"), ("quotes", "AAA")}  # as much as fits
        (refusal,) = [fields for name, fields in client.log if name == "subscription_refused"]
        assert refusal["symbols"] == ["quotes:BBB", "quotes:CCC"]
        assert refusal["code"] == 405
        count = len(server.asked)
        await asyncio.sleep(0.1)
        assert len(server.asked) == count  # and it is not asked for again and again
        assert client.socket.up


async def test_at_the_limit_what_is_unwanted_makes_room_first() -> None:
    async with StreamServer() as server, Client(server.url).running() as client:
        await until(lambda: client.socket.up)
        server.refuse = lambda pairs: 405 if len(pairs) > 1 else 0
        client.socket.unsubscribe("quotes", ["SPY"])
        client.socket.subscribe("quotes", ["QQQ"])
        await until(lambda: server.subscribed == {("quotes", "QQQ")})
        assert "subscription_refused" not in client.names()


async def test_what_is_spare_comes_last_and_goes_first() -> None:
    async with StreamServer() as server, Client(server.url).running() as client:
        await until(lambda: client.socket.up)
        server.refuse = lambda pairs: 405 if len(pairs) > 3 else 0
        client.socket.spare("quotes", ["AAA", "BBB"])
        await until(lambda: len(server.subscribed) == 3)
        client.socket.subscribe("quotes", ["QQQ", "IWM"])
        await until(lambda: server.subscribed == {("quotes", name) for name in ("SPY", "QQQ", "IWM")})
        await until(lambda: len(client.socket.refused) == 2)
        assert client.socket.refused == {("quotes", "AAA"), ("quotes", "BBB")}
        assert "subscription_refused" not in client.names()
        client.socket.unsubscribe("quotes", ["IWM"])
        client.socket.spare("quotes", ["AAA"])
        await until(lambda: server.subscribed == {("quotes", name) for name in ("SPY", "QQQ", "AAA")})


@pytest.mark.parametrize("code", [400, 410, 413])
async def test_a_refused_symbol_is_named_and_the_others_are_subscribed(code: int) -> None:
    async with StreamServer() as server:
        server.refuse = lambda pairs: code if ("quotes", "BAD!") in pairs else 0
        client = Client(server.url)
        client.socket.subscribe("quotes", ["AAA", "BAD!", "CCC", "DDD"])
        async with client.running():
            await until(lambda: client.socket.up)
            assert {symbol for _, symbol in server.subscribed} == {"SPY", "AAA", "CCC", "DDD"}
        (refusal,) = [fields for name, fields in client.log if name == "subscription_refused"]
        assert (refusal["symbols"], refusal["code"]) == (["quotes:BAD!"], code)


async def test_a_symbol_missing_in_the_acknowledgement_is_told() -> None:
    async with StreamServer() as server:
        server.leave_out = {"SPY"}
        async with Client(server.url).running() as client:
            await until(lambda: client.socket.up)
        (refusal,) = [fields for name, fields in client.log if name == "subscription_refused"]
        assert refusal["symbols"] == ["quotes:SPY"]


async def test_a_connection_limit_is_waited_out_slowly() -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async with StreamServer() as server:
        server.entry = [406] * 5
        client = Client(server.url, back_off=BackOff(), sleep=sleep)
        async with client.running():
            await until(lambda: client.socket.up)
        assert client.names().count("stream_busy") == 5
        assert all(10.0 <= wait <= 30.0 for wait in waits[:5])  # five waits of 20 s on average go beyond 90 s


@pytest.mark.parametrize("code", [402, 409])
async def test_wrong_keys_or_a_feed_outside_of_the_plan_are_told_as_errors_and_tried_each_minute(code: int) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async with StreamServer() as server:
        server.entry = [code]
        async with Client(server.url, back_off=BackOff(), sleep=sleep).running() as client:
            await until(lambda: client.socket.up)
        assert client.reasons("stream_refused") == [f"error {code}: refused"]
        assert 45.0 <= waits[0] <= 75.0


async def test_an_upgrade_refused_for_too_many_connections_is_waited_out_slowly() -> None:
    async with StreamServer() as server:
        server.upgrade = [HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.UNAUTHORIZED]
        async with Client(server.url).running() as client:
            await until(lambda: client.socket.up)
        assert client.names()[:3] == ["stream_busy", "stream_lost", "stream_refused"]


async def test_a_half_open_connection_is_noticed_by_its_missing_pong() -> None:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward = await asyncio.open_connection("127.0.0.1", port)
        links.append((reader, onward[0]))

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                if not dark:
                    sink.write(data)

        with contextlib.suppress(ConnectionError):
            await asyncio.gather(pump(reader, onward[1]), pump(onward[0], writer))
        writer.close()
        onward[1].close()

    links: list[Any] = []
    dark: list[bool] = []
    async with StreamServer() as server:
        port = int(server.url.split(":")[2].split("/")[0])
        between = await asyncio.start_server(relay, "127.0.0.1", 0)
        url = f"ws://127.0.0.1:{between.sockets[0].getsockname()[1]}/v2/sip"
        async with Client(url).running() as client:
            await until(lambda: client.socket.up)
            dark.append(True)  # no byte passes any more, and nobody closes
            await until(lambda: client.states == ["up", "down"])
            dark.clear()
            await until(lambda: client.socket.up)
        between.close()


async def test_back_off_never_spins_when_nobody_listens() -> None:
    waits: list[float] = []
    enough = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 40:
            enough.set()
            await asyncio.Event().wait()

    async with StreamServer() as server:
        url = server.url
    client = Client(url, back_off=BackOff(), sleep=sleep)
    async with client.running():
        await asyncio.wait_for(enough.wait(), PATIENCE_S)
    assert client.socket.counts["connects"] == 40
    assert all(0.25 <= wait <= 30.0 for wait in waits)
    assert sum(waits) > 40 * 5  # half of 30 s on average, once the first few are over


async def test_a_server_that_accepts_and_closes_at_once_is_not_hammered() -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async with StreamServer() as server:
        client = Client(server.url, back_off=BackOff(), sleep=sleep)
        async with client.running():
            for _ in range(8):
                await until(lambda: client.socket.up)
                client.states.clear()
                await server.connections[-1].close(1001)
                await until(lambda: client.states == ["down", "up"])
    assert max(waits) > 2.0  # the waits grow although each connect succeeded
    assert "code 1001" in client.reasons("stream_lost")[0]


def test_the_wait_is_drawn_between_nothing_and_a_bound_that_doubles_up_to_thirty_seconds() -> None:
    rule = BackOff()
    assert [rule.wait_s("lost", n, 1.0) for n in (1, 2, 3, 6, 7, 50)] == [1.0, 2.0, 4.0, 30.0, 30.0, 30.0]
    assert rule.wait_s("lost", 50, 0.0) == 0.25


async def test_a_forced_reconnect_takes_a_new_connection() -> None:
    async with StreamServer() as server, Client(server.url).running() as client:
        client.socket.force_reconnect("too early: nothing happens")
        await until(lambda: client.socket.up)
        client.socket.force_reconnect("no bar came")
        await until(lambda: client.states == ["up", "down", "up"])
        assert client.reasons("stream_lost") == ["no bar came"]
        assert len(server.connections) == 2


async def test_on_a_stop_the_server_gets_a_close_frame() -> None:
    async with StreamServer() as server:
        async with Client(server.url).running() as client:
            await until(lambda: client.socket.up)
        await until(lambda: server.close_codes)
        assert server.close_codes == [1000]


async def test_an_error_of_the_session_ends_the_connection() -> None:
    async with StreamServer() as server, Client(server.url).running() as client:
        await until(lambda: client.socket.up)
        await server.send({"T": "error", "code": 407, "msg": "slow client"})
        await until(lambda: client.states[:2] == ["up", "down"])
        assert client.reasons("stream_lost") == ["error 407: slow client"]


async def test_what_the_intake_raises_is_not_swallowed() -> None:
    class Full(Exception):
        pass

    def full(message: dict[str, Any]) -> None:
        raise Full

    async with StreamServer() as server:
        client = Client(server.url)
        client.take = full
        running = asyncio.create_task(client.socket.run())
        await until(lambda: client.socket.up)
        await server.send(quote())
        with pytest.raises(Full):
            await asyncio.wait_for(running, PATIENCE_S)


async def test_keys_are_in_no_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with StreamServer() as server:
        server.entry = [402]
        async with Client(server.url).running() as client:
            await until(lambda: client.socket.up)
        endpoint = Endpoint(server.url, KEY, SECRET)
    own_lines = [record.getMessage() for record in caplog.records if not record.name.startswith("websockets.server")]
    for text in (repr(endpoint), repr(client.socket), str(client.log), "\n".join(own_lines)):
        assert KEY not in text
        assert SECRET not in text
