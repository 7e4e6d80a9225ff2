"""The trading stream of several accounts without a simulator: who hears what, and what garbage does."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import websockets

from daemon.alpaca_api.trade_stream import TradeStreamServer
from tests.alpaca_api.serving import KEYS, Two, served
from tests.support.simulator.stream_clients import Socket, connected, eventually

UPDATE: dict[str, Any] = {"event": "new", "order": {"id": "1", "client_order_id": "a"}}


@contextlib.asynccontextmanager
async def listening(url: str, key: str) -> AsyncIterator[Socket]:
    """A bare client that listens to trade updates."""
    async with connected(url) as socket:
        await socket.ask({"action": "auth", "key": key, "secret": KEYS[key][0]})
        await socket.ask({"action": "listen", "data": {"streams": ["trade_updates"]}})
        yield socket


async def test_an_update_reaches_its_account_alone_and_each_has_an_id_of_its_own_at_one_time() -> None:
    server = TradeStreamServer(Two())
    async with (
        served(server.routes()) as address,
        listening(f"ws://{address}/stream", "PKONE") as one,
        listening(f"ws://{address}/stream", "PKTWO") as two,
    ):
        server.publish("PKONE", UPDATE)
        server.publish("PKONE", UPDATE)
        server.publish("PKTWO", {**UPDATE, "event_id": "of the broker"})
        first, second, other = await one.hear(), await one.hear(), await two.hear()
    assert [message["data"]["order"]["id"] for message in (first, second)] == ["1", "1"]
    assert first["data"]["event_id"] < second["data"]["event_id"]
    assert other == {"stream": "trade_updates", "data": {**UPDATE, "event_id": "of the broker"}}


GARBAGE = ["no JSON", "[1]", '{"action": "listen", "data": 7}', "[" * 100_000, b"\xff\xfe"]


@pytest.mark.parametrize("garbage", GARBAGE, ids=["text", "list", "fields", "deep", "bytes"])
async def test_garbage_ends_the_session_that_sent_it_and_no_other(garbage: str | bytes) -> None:
    server = TradeStreamServer(Two())
    async with (
        served(server.routes()) as address,
        listening(f"ws://{address}/stream", "PKONE") as one,
        listening(f"ws://{address}/stream", "PKTWO") as two,
    ):
        await two.socket.send(garbage)
        assert await two.hear() == {"action": "error", "data": {"error_message": "internal server error"}}
        with pytest.raises(websockets.ConnectionClosed):
            await two.hear()
        server.publish("PKONE", UPDATE)
        assert (await one.hear())["data"]["event"] == "new"


async def test_an_account_has_one_session_and_the_place_is_free_again_after_its_close_frame() -> None:
    server = TradeStreamServer(Two())
    async with served(server.routes()) as address:
        async with listening(f"ws://{address}/stream/PA1", "PKONE"):
            with pytest.raises(websockets.InvalidStatus, match="429"):
                async with connected(f"ws://{address}/stream/PA1"):
                    pass
        assert server.listeners("PKTWO") == 0

        async def gone() -> bool:
            return not server.connections

        await eventually(gone)
        async with listening(f"ws://{address}/stream/PA1", "PKONE"):
            assert server.listeners("PKONE") == 1


@pytest.mark.parametrize("path", ["/stream", "/stream/PA1"])
async def test_sockets_that_do_not_authenticate_take_nobodys_place_and_are_cut_in_time(path: str) -> None:
    server = TradeStreamServer(Two(), auth_timeout_s=0.5)
    async with served(server.routes()) as address, contextlib.AsyncExitStack() as stack:
        strangers = [await stack.enter_async_context(connected(f"ws://{address}{path}")) for _ in range(40)]
        async with listening(f"ws://{address}{path}", "PKONE") as one:
            for stranger in strangers:
                with pytest.raises(websockets.ConnectionClosed):
                    await stranger.hear()
            server.publish("PKONE", UPDATE)
            assert (await one.hear())["data"]["event"] == "new"
        assert len(server.connections) <= 1


async def test_a_second_session_of_an_account_is_unauthorized_while_the_first_listens() -> None:
    server = TradeStreamServer(Two())
    async with served(server.routes()) as address, listening(f"ws://{address}/stream", "PKONE"):
        async with connected(f"ws://{address}/stream") as second:
            told = await second.ask({"action": "auth", "key": "PKONE", "secret": "one"})
            wrong = await second.ask({"action": "auth", "key": "PKONE", "secret": "two"})
        assert (told["data"]["status"], told["data"]["code"]) == ("unauthorized", 406)
        assert wrong["data"] == {"status": "unauthorized", "action": "authenticate"}
        assert server.listeners("PKONE") == 1
