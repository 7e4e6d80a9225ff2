"""The trade stream's socket against a scripted server and the loopback Alpaca: handshake, hostile frames, coming back.

Expected values: the documented protocol. The scripted server counts what it was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Response

from daemon.brokers.alpaca.trading.trade_stream import StreamDeadlines, TradeStream
from daemon.brokers.alpaca.wire import Malformed
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET
from tests.support.alpaca.linked import QUICK
from tests.support.alpaca.rest_desk import desk

AUTHORIZED = {"stream": "authorization", "data": {"status": "authorized", "action": "authenticate"}}
LISTENING = {"stream": "listening", "data": {"streams": ["trade_updates"]}}

Script = Callable[[ServerConnection, "Heard"], Awaitable[None]]


class Heard:
    """All messages, events and log entries of both sides."""

    def __init__(self) -> None:
        self.updates: list[Any] = []
        self.states: list[bool] = []
        self.taken: list[str] = []
        self.log: list[tuple[str, dict[str, Any]]] = []
        self.sent: list[Any] = []  # by the client
        self.visits = 0
        self._changed = asyncio.Event()

    def on_update(self, data: object) -> None:
        self._changed.set()
        if not isinstance(data, dict):
            raise Malformed(f"data is {data!r}: expected a JSON object")
        self.updates.append(data)

    def on_state(self, listening: bool, detail: str) -> None:
        self.states.append(listening)
        self._changed.set()

    def tell(self, name: str, **fields: Any) -> None:
        self.log.append((name, fields))
        self._changed.set()

    def names(self) -> list[str]:
        return [name for name, _ in self.log]

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not reached():
                self._changed.clear()
                await self._changed.wait()


def stream(url: str, listener: Heard, deadlines: StreamDeadlines = QUICK) -> TradeStream:
    return TradeStream(
        url,
        DEFAULT_KEY,
        DEFAULT_SECRET,
        listener.on_update,
        listener.on_state,
        listener.taken.append,
        deadlines,
        listener.tell,
    )


@contextlib.asynccontextmanager
async def running(trade_stream: TradeStream) -> AsyncIterator[None]:
    task = asyncio.create_task(trade_stream.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[Heard]:
    """A server that follows `script` at every visit, and the stream that visits it."""
    listener = Heard()

    async def visit(socket: ServerConnection) -> None:
        listener.visits += 1
        await script(socket, listener)

    async with serve(visit, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with running(stream(f"ws://127.0.0.1:{port}/stream", listener)):
            yield listener


async def shake(socket: ServerConnection, listener: Heard) -> None:
    """The documented handshake, answered."""
    listener.sent.append(json.loads(await socket.recv()))
    await socket.send(json.dumps(AUTHORIZED).encode())
    listener.sent.append(json.loads(await socket.recv()))
    await socket.send(json.dumps(LISTENING).encode())


def update(number: int) -> str:
    return json.dumps({"stream": "trade_updates", "data": {"number": number}})


async def test_the_client_authenticates_listens_and_takes_text_and_binary_frames() -> None:
    async def script(socket: ServerConnection, listener: Heard) -> None:
        await shake(socket, listener)
        await socket.send(update(1))
        await socket.send(update(2).encode())
        await socket.wait_closed()

    async with scripted(script) as listener:
        await listener.until(lambda: len(listener.updates) == 2)
    assert listener.updates == [{"number": 1}, {"number": 2}]
    assert listener.sent == [
        {"action": "authenticate", "data": {"key_id": DEFAULT_KEY, "secret_key": DEFAULT_SECRET}},
        {"action": "listen", "data": {"streams": ["trade_updates"]}},
    ]
    assert listener.states == [True]


HOSTILE: list[str | bytes] = [
    "",
    "nonsense",
    "[]",
    "null",
    "7",
    "{",
    b"\xff\x00\x81",
    "[" * 100_000,
    '{"stream":"trade_updates"}',
    '{"stream":"trade_updates","data":null}',
    '{"stream":"trade_updates","data":[]}',
    '{"action":"error","data":{"error_message":"internal server error"}}',
]


@pytest.mark.parametrize("frame", HOSTILE)
async def test_one_bad_message_is_told_and_loses_neither_the_connection_nor_another(frame: str | bytes) -> None:
    async def script(socket: ServerConnection, listener: Heard) -> None:
        listener.sent.append(await socket.recv())
        await socket.send(frame)  # even before the first reply
        await socket.send(json.dumps(AUTHORIZED))
        listener.sent.append(await socket.recv())
        await socket.send(json.dumps(LISTENING))
        await socket.send(update(1))
        await socket.send(frame)
        await socket.send(update(2))
        await socket.wait_closed()

    async with scripted(script) as listener:
        await listener.until(lambda: len(listener.updates) == 2)
    assert listener.visits == 1
    assert listener.names().count("trade_update_malformed") == 2


async def test_a_frame_above_a_mebibyte_is_an_update_as_any_other() -> None:
    async def script(socket: ServerConnection, listener: Heard) -> None:
        await shake(socket, listener)
        await socket.send(json.dumps({"stream": "trade_updates", "data": {"padding": "x" * 2**20}}))
        await socket.wait_closed()

    async with scripted(script) as listener:
        await listener.until(lambda: len(listener.updates) == 1)
    assert listener.states == [True]


async def test_messages_of_streams_that_nobody_asked_for_are_passed_over() -> None:
    async def script(socket: ServerConnection, listener: Heard) -> None:
        await shake(socket, listener)
        await socket.send('{"stream":"news_of_tomorrow","data":{}}')
        await socket.send(update(1))
        await socket.wait_closed()

    async with scripted(script) as listener:
        await listener.until(lambda: len(listener.updates) == 1)
    assert "trade_update_malformed" not in listener.names()


async def test_a_lost_connection_is_told_and_taken_up_again() -> None:
    async def script(socket: ServerConnection, listener: Heard) -> None:
        await shake(socket, listener)
        if listener.visits < 3:
            await socket.close(1011 if listener.visits == 1 else 1000)
        await socket.wait_closed()

    async with scripted(script) as listener:
        await listener.until(lambda: listener.states.count(True) == 3)
    assert listener.states == [True, False, True, False, True]
    details = [fields["detail"] for name, fields in listener.log if name == "trade_stream_lost"]
    assert any("1011" in detail for detail in details)


async def test_keys_that_are_refused_once_the_connection_is_free_are_not_told_as_another_connection() -> None:
    listener = Heard()

    def busy(socket: ServerConnection, _: object) -> Response | None:
        listener.visits += 1
        return socket.respond(HTTPStatus.TOO_MANY_REQUESTS, "") if listener.visits < 3 else None

    async def refuse(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send('{"stream":"authorization","data":{"status":"unauthorized","action":"authenticate"}}')

    async with serve(refuse, "127.0.0.1", 0, process_request=busy) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with running(stream(f"ws://127.0.0.1:{port}/stream", listener)):
            await listener.until(lambda: listener.visits >= 5)
    assert len(listener.taken) == 2
    assert listener.states == [False]


async def test_right_keys_whose_account_has_another_connection_are_not_told_as_refused() -> None:
    async def script(socket: ServerConnection, listener: Heard) -> None:
        await socket.recv()
        if listener.visits < 3:
            data = {"status": "unauthorized", "action": "authenticate", "code": 406}
            await socket.send(json.dumps({"stream": "authorization", "data": data}))
        else:
            await socket.send(json.dumps(AUTHORIZED))
            await socket.recv()
            await socket.send(json.dumps(LISTENING))
        await socket.wait_closed()

    async with scripted(script) as listener:
        await listener.until(lambda: listener.states == [True])
    assert listener.taken == ["another connection has the account's trade updates"] * 2
    assert "trade_stream_unauthorized" not in listener.names()


async def test_a_server_that_says_nothing_is_left_at_the_deadline() -> None:
    async def script(socket: ServerConnection, listener: Heard) -> None:
        if listener.visits == 1:  # mute after connect
            await socket.wait_closed()
        elif listener.visits == 2:  # mute after the authorization
            await socket.recv()
            await socket.send(json.dumps(AUTHORIZED))
            await socket.wait_closed()
        await shake(socket, listener)
        await socket.wait_closed()

    async with scripted(script) as listener:
        await listener.until(lambda: listener.states == [True])
    details = [fields["detail"] for name, fields in listener.log if name == "trade_stream_lost"]
    assert details == ["no authorization reply within 0.1 s", "no listening reply within 0.1 s"]


async def test_an_ack_without_the_stream_is_no_listening() -> None:
    async def script(socket: ServerConnection, listener: Heard) -> None:
        await socket.recv()
        await socket.send(json.dumps(AUTHORIZED))
        await socket.recv()
        await socket.send('{"stream":"listening","data":{"streams":[]}}')
        await socket.wait_closed()

    async with scripted(script) as listener:
        await listener.until(lambda: listener.visits == 2)
    assert listener.states == []


async def test_refused_keys_are_told_loudly_and_tried_again() -> None:
    async def script(socket: ServerConnection, listener: Heard) -> None:
        await socket.recv()
        await socket.send('{"stream":"authorization","data":{"status":"unauthorized","action":"authenticate"}}')
        await socket.wait_closed()

    async with scripted(script) as listener:
        await listener.until(lambda: listener.visits == 2)
    assert listener.names()[0] == "trade_stream_unauthorized"
    assert DEFAULT_SECRET not in str(listener.log)


async def test_no_key_is_told_or_logged_even_when_the_server_repeats_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def script(socket: ServerConnection, listener: Heard) -> None:
        message = await socket.recv()
        await socket.send(json.dumps({"action": "error", "data": {"error_message": str(message)}}))
        await socket.close(1008, "no")

    async with scripted(script) as listener:
        await listener.until(lambda: "trade_stream_lost" in listener.names())
    client_side = [record.getMessage() for record in caplog.records if record.name != "websockets.server"]
    assert DEFAULT_SECRET not in str(listener.log) + str(client_side)
    assert DEFAULT_KEY not in str(listener.log) + str(client_side)


# --- against the loopback Alpaca ----------------------------------------------------------------------------------


async def test_the_pause_doubles_to_its_longest_and_a_429_waits_longer() -> None:
    waits = StreamDeadlines()
    trade_stream = stream("ws://127.0.0.1:1", Heard(), waits)
    for failures, full_s in ((1, 0.5), (2, 1.0), (4, 4.0), (7, 30.0), (1000, 30.0)):
        pauses = [trade_stream._pause_s(failures, 0.0) for _ in range(50)]
        assert full_s / 2 <= min(pauses) <= max(pauses) <= full_s
    assert trade_stream._pause_s(1, waits.throttled_s) == 10.0
    assert trade_stream._pause_s(1, waits.unauthorized_s) == 60.0


async def test_a_second_connection_is_met_with_429_and_comes_in_when_the_first_has_left() -> None:
    async with desk() as it:
        first, second = Heard(), Heard()
        async with running(stream(it.server.trade_stream_url, first)):
            await first.until(lambda: first.states == [True])
            async with running(stream(it.server.trade_stream_url, second)):
                await second.until(lambda: "trade_stream_lost" in second.names())
                assert second.log[0][1]["detail"] == "HTTP 429 on the upgrade"
                assert second.states == []
                assert second.taken == ["HTTP 429 on the upgrade"]
        assert first.taken == []
        third = Heard()
        async with running(stream(it.server.trade_stream_url, third)):  # the first closed cleanly: nothing is held
            await third.until(lambda: third.states == [True])


async def test_a_server_that_stops_answering_pings_is_left() -> None:
    async with desk() as it:
        listener = Heard()
        async with running(stream(it.server.trade_stream_url, listener)):
            await listener.until(lambda: listener.states == [True])
            it.server.faults.add("socket_black_hole", hold_s=0)
            it.server.by_hand("place", symbol="SPY", qty="1", side="buy", type="market", time_in_force="day")
            await listener.until(lambda: listener.states[:3] == [True, False, True])
