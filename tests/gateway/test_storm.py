"""Two sub-accounts and a person trade one share by chance under faults: each ends with the fills of its own orders."""

from __future__ import annotations

import asyncio
import contextlib
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from daemon.alpaca_api.refusals import Refusal
from daemon.gateway.events import MAIN
from simulator.trading.venue import Rules
from strategies.kit.quantity import exact
from tests.support.gateway_stage import PATIENCE_S, Stage, broker, gateway_on

SEEDS = [*((seed, False) for seed in range(10)), *((seed, True) for seed in range(8))]
FAULTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("fill_partial", {"quantity": 1}),
    ("fill_before_reply", {}),
    ("fill_unheard", {}),
    ("cancel_loses", {}),
    ("cancel_overtaken", {"delay_s": 3}),
    ("cancel_rejected", {}),
    ("replace_rejected", {}),
    ("order_rejected", {}),
    ("update_duplicated", {}),
    ("update_reordered", {}),
    ("update_replayed", {}),
    ("update_lost", {}),
    ("update_late", {"delay_s": 3}),
    ("socket_drop", {"where": {"stream": "trade"}}),
    ("trade_bust", {}),
    ("trade_correct", {}),
    ("split", {"symbol": "SPY", "ratio": "2"}),
    ("dividend", {"symbol": "SPY", "amount": "0.37"}),
    ("transfer", {"amount": "-1.23"}),
    ("http_error", {"where": {"path": "/v2/orders", "method": "POST"}, "status": 504, "moment": "after"}),
    ("http_error", {"where": {"path": "/v2/orders", "method": "POST"}, "status": 504, "moment": "before"}),
    ("http_error", {"where": {"path": "/v2/positions/SPY", "method": "DELETE"}, "status": 504, "moment": "after"}),
    ("http_error", {"where": {"path": "/v2/positions/SPY", "method": "DELETE"}, "status": 504, "moment": "before"}),
    ("http_reset", {"where": {"path": "/v2/orders*", "method": "PATCH"}}),
    ("http_slow", {"where": {"path": "/v2/account/activities"}, "seconds": 2}),
    ("stale_read", {"age_s": 2}),
)
OF_PARTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("fill_partial", {"quantity": "0.000000001"}),
    ("quantity_exponent", {"where": {"stream": "trade"}}),
    ("quantity_too_fine", {"where": {"stream": "trade"}}),
    ("quantity_exponent", {"where": {"path": "/v2/positions"}}),
    ("quantity_too_fine", {"where": {"path": "/v2/account/activities"}}),
    ("close_dust", {}),
    ("dividend", {"symbol": "SPY", "amount": "0.37", "reinvested": True}),
    ("split", {"symbol": "SPY", "ratio": "1.5"}),
)
EXCLUSIVE = (("split",), ("trade_bust", "trade_correct"))  # the simulator's amendments know no split of before


def draw_quantity(chance: random.Random, most: int, *, parts: bool) -> str:
    """A quantity: a whole one, or `parts` with up to nine decimals."""
    return str(exact(Decimal(chance.randint(1, most * 10**9)).scaleb(-9))) if parts else str(chance.randint(1, most))


async def act(s: Stage, name: str, chance: random.Random, *, parts: bool) -> None:
    """One request of a client, whatever comes of it."""
    holding = s.held(name).get("SPY", Decimal(0))
    orders = [order for order in s.books.open_orders() if order.account == name and order.known]
    order_name = f"{name}-{chance.getrandbits(64)}"
    body: dict[str, object] = {"symbol": "SPY", "qty": draw_quantity(chance, 4, parts=parts), "time_in_force": "day"}
    body["client_order_id"] = order_name
    match chance.randrange(8):
        case 0 | 1:
            await s.ask(name, "POST", "/v2/orders", {**body, "side": "buy", "type": "market"})
        case 2:
            price = str(chance.choice((480, 499, 501)))
            await s.ask(name, "POST", "/v2/orders", {**body, "side": "buy", "type": "limit", "limit_price": price})
        case 3 if holding > 0:
            body["qty"] = str(min(holding, Decimal(draw_quantity(chance, 4, parts=parts))))
            await s.ask(name, "POST", "/v2/orders", {**body, "side": "sell", "type": "market"})
        case 4 if holding > 0:
            await s.ask(name, "DELETE", "/v2/positions/SPY")
        case 5 if orders:
            await s.ask(name, "DELETE", f"/v2/orders/{chance.choice(orders).id}")
        case 6 if orders:
            changes = {"limit_price": str(chance.choice((481, 498, 502))), "qty": draw_quantity(chance, 5, parts=parts)}
            changes["client_order_id"] = order_name
            await s.ask(name, "PATCH", f"/v2/orders/{chance.choice(orders).id}", changes)
        case _:
            await asyncio.sleep(1)


def by_hand(s: Stage, chance: random.Random) -> None:
    """What a person does in the account meanwhile: a stop keeps sales back, which then leave by the close call."""
    account, quantity = s.broker.account, str(chance.randint(1, 2))
    stops = [order.id for order in account.working.values() if order.id in account.by_hand]
    with contextlib.suppress(Refusal):
        if stops and chance.random() < 0.6:
            s.broker.by_hand("cancel", order_id=chance.choice(stops))
        elif chance.random() < 0.5:
            s.broker.by_hand("place", symbol="SPY", qty=quantity, side="buy", type="stop", stop_price="900")
        else:
            s.broker.by_hand("place", symbol="SPY", qty=quantity, side=chance.choice(("buy", "buy", "sell")))


async def storm(
    s: Stage, chance: random.Random, steps: int, kinds: tuple[tuple[str, dict[str, Any]], ...], *, parts: bool
) -> None:
    """Let everybody act, each step under a fault."""
    for _ in range(steps):
        kind, fields = chance.choice(kinds)
        s.broker.faults.add(kind, **fields)
        acts = [act(s, name, chance, parts=parts) for name in ("a", "b") for _ in range(chance.randint(1, 2))]
        if chance.random() < 0.4:
            by_hand(s, chance)
        async with asyncio.timeout(PATIENCE_S * 4):
            await asyncio.gather(*acts)
        await asyncio.sleep(chance.random() * 2)


@pytest.mark.parametrize(("seed", "parts"), SEEDS)
async def test_each_has_the_fills_of_its_own_orders(tmp_path: Path, seed: int, parts: bool) -> None:
    chance = random.Random(seed)
    owners: dict[str, str] = {}
    rules = Rules(
        fill_sizes=(1000, 1000),
        dead_session_s=1.0,
        calls_cross=True,
        seed=seed,
        cash_rounding="drawn" if parts else "none",
    )
    async with broker("200000", rules) as alpaca:
        for _ in range(2):  # lives of the gateway
            async with gateway_on(alpaca, tmp_path) as s:
                kinds = tuple(
                    fault for fault in (*FAULTS, *(OF_PARTS if parts else ())) if fault[0] not in EXCLUSIVE[seed % 2]
                )
                await storm(s, chance, 12, kinds, parts=parts)
                alpaca.faults.clear()
                await asyncio.sleep(8)
                await s.gateway.wait_for_report(60)
                await s.until(lambda s=s: all(order.known for order in s.books.open_orders()))  # type: ignore[misc]
                owners |= {order.id: order.account for order in s.books.orders.values()}
                owners |= {
                    order.id: order.client_order_id[0]
                    for order in alpaca.account.orders.values()
                    if order.client_order_id[:2] in ("a-", "b-")
                }
            by_hand(s, chance)
        async with gateway_on(alpaca, tmp_path) as s:
            await asyncio.sleep(61)  # an order that the broker does not know is given up after a minute
            await s.settled()
            assert s.books.doubts == ()
            assert {o.id for o in s.books.open_orders()} == set(alpaca.account.working)
            orders = [order for order in s.books.orders.values() if order.name[:2] in ("a-", "b-")]
            assert all(order.account == order.name[0] for order in orders)
            assert s.verified().difference == ""
            spent = {name: Decimal(0) for name in ("a", "b", MAIN)}
            for trade in alpaca.account.trades:
                if trade.order_id:
                    spent[owners.get(trade.order_id, MAIN)] += trade.quantity * trade.price
            cash_moves = {name: Decimal(0) for name in spent}
            for name in cash_moves:
                for line in s.books.accounts[name].activities:
                    if line.fields["activity_type"] in ("DIV", "CSD", "CSW"):
                        cash_moves[name] += Decimal(line.fields["net_amount"])
            for name in ("a", "b"):
                assert s.books.accounts[name].cash == 20000 - spent[name] + cash_moves[name], name
