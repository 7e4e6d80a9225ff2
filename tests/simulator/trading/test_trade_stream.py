"""The trading stream of the loopback Alpaca, driven by the unchanged alpaca-py `TradingStream` and by a bare websocket.

Expected values: the documented handshake and events, and the tape of `trade_listeners.py` (a share costs 500.01).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import warnings
from collections import Counter
from decimal import Decimal
from typing import Any

import msgspec
import pytest
import websockets
from websockets.asyncio.client import connect

from daemon.alpaca_api.refusals import Refusal
from simulator.faults import Faults
from simulator.server import AlpacaServer
from simulator.trading.account import Account
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET, Rules
from strategies.kit.units import SECOND_NS
from tests.support.simulator.trade_listeners import (
    AUTH,
    CALL,
    LISTEN,
    MINUTE_NS,
    OPEN_NS,
    UNKNOWN,
    buy,
    events,
    jump,
    listen_with,
    listening,
    receive,
    serving,
    until,
)

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "websockets.legacy", DeprecationWarning)
    from alpaca.trading.client import TradingClient
    from alpaca.trading.enums import OrderSide, TimeInForce, TradeEvent
    from alpaca.trading.models import TradeUpdate
    from alpaca.trading.requests import MarketOrderRequest


async def test_both_forms_of_auth_are_taken_and_the_frames_are_binary() -> None:
    old = {"action": "authenticate", "data": {"key_id": DEFAULT_KEY, "secret_key": DEFAULT_SECRET}}
    authorized = {"stream": "authorization", "data": {"status": "authorized", "action": "authenticate"}}
    for form in (AUTH, old):
        async with serving() as server, connect(server.trade_stream_url) as socket:
            await socket.send(json.dumps(form))
            frame = await socket.recv()
            assert isinstance(frame, bytes)
            assert json.loads(frame) == authorized


async def test_text_frames_and_msgpack_are_to_be_had() -> None:
    async with serving(rules=Rules(binary_trade_frames=False)) as server, connect(server.trade_stream_url) as socket:
        await socket.send(json.dumps(AUTH))
        assert isinstance(await socket.recv(), str)
    packed = {"Content-Type": "application/msgpack"}
    async with serving() as server, connect(server.trade_stream_url, additional_headers=packed) as socket:
        await socket.send(msgspec.msgpack.encode(AUTH))
        frame = await socket.recv()
        assert isinstance(frame, bytes)
        assert msgspec.msgpack.decode(frame)["data"]["status"] == "authorized"


async def test_wrong_keys_are_unauthorized_on_a_socket_that_stays_open() -> None:
    async with serving() as server, connect(server.trade_stream_url) as socket:
        await socket.send(json.dumps({**AUTH, "secret": "wrong"}))
        assert await receive(socket) == UNKNOWN
        await socket.send(json.dumps(LISTEN))
        assert await receive(socket) == {
            "stream": "authorization",
            "data": {"status": "unauthorized", "action": "listen"},
        }
        await socket.send(json.dumps(AUTH))
        assert (await receive(socket))["data"]["status"] == "authorized"


async def test_listen_is_the_whole_set_and_unknown_streams_are_left_out_of_the_ack() -> None:
    async with serving() as server, connect(server.trade_stream_url) as socket:
        await socket.send(json.dumps(AUTH))
        await receive(socket)
        await socket.send(json.dumps({"action": "listen", "data": {"streams": ["trade_updates", "dreams"]}}))
        assert await receive(socket) == {"stream": "listening", "data": {"streams": ["trade_updates"]}}
        await socket.send(json.dumps({"action": "listen", "data": {"streams": []}}))
        assert await receive(socket) == {"stream": "listening", "data": {"streams": []}}
        assert server.trade_stream.listeners(DEFAULT_KEY) == 0


async def test_what_is_no_message_is_an_internal_error_and_the_end() -> None:
    async with serving() as server, connect(server.trade_stream_url) as socket:
        await socket.send("not json")
        assert await receive(socket) == {"action": "error", "data": {"error_message": "internal server error"}}
        with pytest.raises(websockets.ConnectionClosed):
            await receive(socket)


async def test_a_second_connection_is_met_with_429_until_the_first_one_closed() -> None:
    async with serving() as server:
        async with connect(server.trade_stream_url) as first:
            await listen_with(first)
            with pytest.raises(websockets.InvalidStatus, match="429"):
                await connect(server.trade_stream_url)
        async with connect(server.trade_stream_url) as second:
            await listen_with(second)


async def test_a_client_that_vanished_without_a_close_frame_is_held_for_its_time() -> None:
    async with serving() as server:
        socket = await connect(server.trade_stream_url)
        await listen_with(socket)
        socket.transport.abort()
        await until(lambda: server.trade_stream.listeners(DEFAULT_KEY) == 0)
        with pytest.raises(websockets.InvalidStatus, match="429"):
            await connect(server.trade_stream_url)
        jump(server, OPEN_NS + 12 * MINUTE_NS)
        async with connect(server.trade_stream_url) as again:
            await listen_with(again)


# --- updates ----------------------------------------------------------------------------------------------------------


async def test_a_market_order_is_pending_new_then_new_then_filled_with_strings_on_the_wire() -> None:
    async with serving() as server, listening(server) as messages:
        order = buy(server, 2)
        await until(lambda: len(messages) == 3)
        assert events(messages) == ["pending_new", "new", "fill"]
        pending, new, fill = (message["data"] for message in messages)
        assert pending["execution_id"] is None
        assert new["execution_id"]
        assert (fill["price"], fill["qty"], fill["position_qty"]) == ("500.01", "2", "2")
        assert fill["order"]["id"] == order["id"]
        assert (fill["order"]["status"], fill["order"]["filled_qty"], fill["order"]["order_class"]) == (
            "filled",
            "2",
            "",
        )
        assert fill["timestamp"].endswith("Z")
        assert fill["order"]["filled_at"].endswith("-04:00")


async def test_alpaca_pys_own_model_reads_the_update_of_an_order_that_alpaca_pys_own_client_sent() -> None:
    async with serving() as server, listening(server, raw=False) as messages:
        client = TradingClient(DEFAULT_KEY, DEFAULT_SECRET, url_override=server.trading_url)
        with contextlib.closing(client._session):
            side, day = OrderSide.BUY, TimeInForce.DAY
            request = MarketOrderRequest(symbol=CALL, qty=2, side=side, time_in_force=day)
            await asyncio.to_thread(client.submit_order, request)
        await until(lambda: len(messages) == 3)
        update = messages[-1]
        assert isinstance(update, TradeUpdate)
        assert (update.event, update.qty, update.position_qty) == (TradeEvent.FILL, 2.0, 2.0)


async def test_parts_of_an_order_tell_this_execution_and_the_order_tells_the_sum() -> None:
    rules = Rules(fill_sizes=(2, 2))
    async with serving(rules=rules) as server, listening(server) as messages:
        buy(server, 5, symbol=CALL)
        for point in (1, 2):
            await asyncio.sleep(0.01)
            jump(server, OPEN_NS + 10 * MINUTE_NS + point * 15 * SECOND_NS)
        await until(lambda: len(messages) == 5)
        assert events(messages) == ["pending_new", "new", "partial_fill", "partial_fill", "fill"]
        parts = [(m["data"]["qty"], m["data"]["order"]["filled_qty"], m["data"]["position_qty"]) for m in messages[2:]]
        assert parts == [("2", "2", "2"), ("2", "4", "4"), ("1", "5", "5")]
        assert len({message["data"]["execution_id"] for message in messages[1:]}) == 4


async def test_a_cancellation_a_replacement_and_the_close_are_told() -> None:
    async with serving() as server, listening(server) as messages:
        limit: dict[str, Any] = {"type": "limit", "limit_price": "400"}
        cancelled = buy(server, **limit)
        server.by_hand("cancel", order_id=cancelled["id"])
        old = buy(server, **limit)
        await until(lambda: len(messages) >= 5)
        server.matching.replace(server.account, server.account.orders[old["id"]], {"limit_price": "401"})
        await until(lambda: len(messages) >= 9)
        jump(server, OPEN_NS + 391 * MINUTE_NS)
        await until(lambda: len(messages) >= 10)
        events_of = {
            order: [m["data"]["event"] for m in messages if m["data"]["order"]["id"] == order]
            for order in ids(messages)
        }
        assert list(events_of.values()) == [
            ["pending_new", "pending_cancel", "canceled"],  # cancelled before the venue had it
            ["pending_new", "new", "pending_replace", "replaced"],
            ["pending_new", "new", "expired"],
        ]
        assert messages[-1]["data"]["order"]["replaces"] == old["id"]


def ids(messages: list[Any]) -> list[str]:
    return list(dict.fromkeys(message["data"]["order"]["id"] for message in messages))


async def test_what_happened_while_nobody_listened_is_not_told_again() -> None:
    async with serving() as server:
        buy(server)
        await until(lambda: server.account.quantity("SPY") == 1)
        async with listening(server) as messages:
            buy(server)
            await until(lambda: len(messages) == 3)
            assert messages[-1]["data"]["position_qty"] == "2"
            assert len(ids(messages)) == 1


async def test_an_account_hears_nothing_of_another() -> None:
    accounts = [Account(DEFAULT_KEY, DEFAULT_SECRET), Account("PKTWO", "two", account_number="PA2")]
    async with serving(accounts=accounts) as server, listening(server) as messages:
        server.by_hand("place", key="PKTWO", symbol="SPY", qty="1", side="buy")
        buy(server, 3)
        await until(lambda: len(messages) == 3)
        assert {message["data"]["order"]["qty"] for message in messages} == {"3"}


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_is_done_orders_positions_cash_activities_and_updates_tell_the_same(seed: int) -> None:
    chance, faults = random.Random(seed), Faults(seed)
    for kind in ("fill_partial", "cancel_loses", "cancel_rejected", "replace_rejected", "order_rejected"):
        faults.add(kind, chance=0.2, until_ns=OPEN_NS + 380 * MINUTE_NS)
    async with serving(faults=faults, rules=Rules(fill_sizes=(1, 3))) as server, listening(server) as messages:
        account = server.account
        for step in range(120):
            await at_random(server, chance)
            jump(server, OPEN_NS + (10 + step) * MINUTE_NS + chance.randrange(60) * SECOND_NS)
        jump(server, OPEN_NS + 389 * MINUTE_NS)  # before the close: nothing has settled yet
        assert len(account.orders) > 40
        rows = [row.fields for row in account.activities]
        await until(lambda: sum(m["data"]["event"] in {"fill", "partial_fill"} for m in messages) == len(rows))
    fills = [m["data"] for m in messages if m["data"]["event"] in {"fill", "partial_fill"}]
    figures = [(fill["order"]["id"], fill["price"], fill["qty"], fill["order"]["filled_qty"]) for fill in fills]
    assert figures == [(row["order_id"], row["price"], row["qty"], row["cum_qty"]) for row in rows]
    cash, positions = Decimal(10_000), Counter[str]()
    for row in rows:
        signed = Decimal(row["qty"]) * (1 if row["side"] == "buy" else -1)
        cash -= signed * Decimal(row["price"]) * (1 if row["symbol"] == "SPY" else 100)
        positions[row["symbol"]] += int(signed)
    assert account.cash == cash
    assert {symbol: int(position.qty) for symbol, position in account.positions.items()} == {
        symbol: quantity for symbol, quantity in positions.items() if quantity
    }
    for order in account.orders.values():
        assert order.filled_qty == sum(Decimal(row["qty"]) for row in rows if row["order_id"] == order.id)
        assert order.filled_qty <= (order.qty or 0)
        assert (order.id in account.working) == order.open
        last = [m["data"]["order"] for m in messages if m["data"]["order"]["id"] == order.id][-1]
        assert last == order.shown()


async def at_random(server: AlpacaServer, chance: random.Random) -> None:
    """Place, cancel, replace or close something; refusals are part of it."""
    symbol = chance.choice(["SPY", CALL, "SPY250602P00500000"])
    working = list(server.account.working.values())
    with contextlib.suppress(Refusal):
        match chance.choice(["place", "place", "place", "cancel", "replace", "close"]):
            case "place":
                limit = chance.choice([{}, {"type": "limit", "limit_price": chance.choice(["0.5", "2", "3", "500"])}])
                quantity, side = chance.randint(1, 6), chance.choice(["buy", "sell"])
                server.by_hand("place", symbol=symbol, qty=str(quantity), side=side, **limit)
            case "cancel" if working:
                server.by_hand("cancel", order_id=chance.choice(working).id)
            case "replace" if working:
                server.matching.replace(server.account, chance.choice(working), {"qty": chance.randint(1, 9)})
            case "close":
                server.by_hand("close", symbol=symbol)
    await asyncio.sleep(0)
