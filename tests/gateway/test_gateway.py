"""The gateway in front of the loopback Alpaca: orders, fills, what each sees, and the sum against the broker."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from daemon.brokers.alpaca.wire import Malformed
from daemon.gateway.command import opening
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from tests.support.gateway_stage import CALL, stage, table


async def test_each_sub_account_sees_its_own_fills_and_the_sum_is_the_brokers(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        row = await s.place("a", 10, client_order_id="a-1")
        assert row["client_order_id"] == "a-1"
        await s.place("b", 4)
        await s.until(lambda: s.held("b") == {"SPY": Decimal(4)})
        assert s.held("a") == {"SPY": Decimal(10)}
        # 20,000 less 10 shares at 500.01
        assert (await s.ask("a", "GET", "/v2/account"))[1]["cash"] == "14999.90"
        assert [p["qty"] for p in (await s.ask("a", "GET", "/v2/positions"))[1]] == ["10"]
        assert [p["qty"] for p in (await s.ask("b", "GET", "/v2/positions"))[1]] == ["4"]
        assert [o["client_order_id"] for o in (await s.ask("a", "GET", "/v2/orders", status="all"))[1]] == ["a-1"]
        assert [r["qty"] for r in (await s.ask("a", "GET", "/v2/account/activities"))[1]] == ["10"]
        await s.settled()
    assert s.verified().difference == ""


async def test_what_was_there_before_is_mains_and_nobody_else_sells_it(tmp_path: Path) -> None:
    async with stage(
        tmp_path, prepared=lambda broker: broker.by_hand("place", symbol="SPY", qty="2.5", side="buy")
    ) as s:
        await s.until(lambda: s.held("main") == {"SPY": Decimal("2.5")})
        assert await s.refused("a", 1, "sell") == (403, 40310000, "account is not allowed to short")
        await s.place("a", 3)
        await s.until(lambda: s.held("a") == {"SPY": Decimal(3)})
        status, _, message = await s.refused("a", 4, "sell")
        assert (status, message) == (403, "insufficient qty available for order (requested: 4, available: 3)")
        assert (await s.ask("a", "DELETE", "/v2/positions/SPY"))[1]["qty"] == "3"
        await s.until(lambda: not s.held("a"))
        assert s.held("main") == {"SPY": Decimal("2.5")}
        await s.settled()


async def test_a_person_trades_in_main(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        s.broker.by_hand("place", symbol="SPY", qty="7", side="buy")
        await s.until(lambda: s.held("main") == {"SPY": Decimal(7)})
        assert (await s.ask("a", "GET", "/v2/orders", status="all"))[1] == []
        await s.settled()


async def test_a_sub_account_spends_no_more_than_it_has(tmp_path: Path) -> None:
    async with stage(tmp_path, table("a", "1000"), table("b")) as s:
        status, code, message = await s.refused("a", 2)
        assert (status, code, message) == (403, 40310000, "insufficient buying power")
        await s.place("a", 1, type="limit", limit_price="400")  # keeps 400
        status, row = await s.ask(
            "a",
            "POST",
            "/v2/orders",
            {"symbol": CALL, "qty": "7", "side": "buy", "type": "limit", "time_in_force": "day", "limit_price": "1.00"},
        )
        assert (status, row["message"]) == (403, "insufficient options buying power (required: 700, available: 600.00)")
        assert (await s.ask("a", "GET", "/v2/account"))[1]["buying_power"] == "600.00"


async def test_what_came_back_since_the_last_report_is_spent_again_at_once(tmp_path: Path) -> None:
    """All of the account's cash is the sub-account's, so each purchase needs what a cancel or a sale freed."""
    limit = {"type": "limit", "limit_price": "490"}
    async with stage(tmp_path, table("a"), cash="20000") as s:
        for _ in range(3):
            row = await s.place("a", 30, **limit)
            await s.ask("a", "DELETE", f"/v2/orders/{row['id']}")
            await s.until(lambda: not s.books.live)
            assert (await s.ask("a", "GET", "/v2/account"))[1]["buying_power"] == "20000.00"
        await s.settled()
        await s.place("a", 39)
        await s.until(lambda: bool(s.held("a")))
        await s.settled()
        await asyncio.sleep(60)  # the reads of the start are made up for
        await s.place("a", 39, "sell")
        await s.until(lambda: not s.held("a"))
        await s.place("a", 30, **limit)
        assert (await s.refused("a", 20, **limit))[2] == "insufficient buying power"
        await s.settled()


async def test_a_name_of_another_sub_account_is_refused_without_naming_it(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await s.place("a", 1, client_order_id="x-1")
        assert await s.refused("b", 1, client_order_id="x-1") == (422, 42210000, "client_order_id must be unique")
        order = (await s.ask("a", "GET", "/v2/orders", status="all"))[1][0]
        assert (await s.ask("b", "DELETE", f"/v2/orders/{order['id']}"))[0] == 404
        assert (await s.ask("b", "GET", f"/v2/orders/{order['id']}"))[0] == 404


@pytest.mark.parametrize("number", [None, "", 7])
async def test_an_account_without_its_number_ends_no_gateway(tmp_path: Path, number: object) -> None:
    async with stage(tmp_path) as s:
        reads, whole = s.gateway.upstream.reads, s.gateway.upstream.reads.account

        async def numberless() -> Any:
            return {**await whole(), "account_number": number}

        reads.account = numberless  # type: ignore[method-assign]
        await s.gateway._is_of_this_account()
        s.gateway._report_request.set()
        await s.until(lambda: any("account_number" in str(row["problem"]) for row in s.log.of("gateway_report_failed")))
        with pytest.raises(Malformed, match="account_number"):
            await opening(s.gateway.settings, s.gateway.upstream, s.gateway.now_ns())
        reads.account = whole  # type: ignore[method-assign]
        await s.place("a", 1)
        await s.until(lambda: bool(s.held("a")))
        await s.settled()


ODD_UPDATES: dict[str, Callable[[Any], Any]] = {
    "a status that is a list": lambda update: {**update, "order": {**update["order"], "status": []}},
    "a status that is an object": lambda update: {**update, "order": {**update["order"], "status": {}}},
    "a fill of nothing": lambda update: {**update, "qty": "0"},
    "a fill of less than nothing": lambda update: {**update, "qty": "-1"},
    "no order": lambda update: {**update, "order": None},
    "an order without an id": lambda update: {**update, "order": {**update["order"], "id": None}},
}


def fills(folder: Path) -> list[Any]:
    """The updates of fills that are in the journal."""
    with contextlib.closing(JournalReader(folder / FILE)) as reader:
        rows = [json.loads(entry.payload)["update"] for entry in reader.entries() if entry.kind == "Updated"]
    return [update for update in rows if update["event"] == "fill"]


async def test_keys_that_the_broker_refuses_are_the_accounts_and_not_a_desks(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await s.place("a", 5)
        await s.until(lambda: bool(s.held("a")))
        del s.broker.accounts[s.broker.account.key]
        words = f"gateway: the broker refuses the account's keys: 401 - unauthorized. at {s.broker.trading_url}"
        assert await s.refused("a", 5, "sell") == (403, 40310000, words)
        assert await s.ask("a", "GET", "/v2/clock") == (403, {"code": 40310000, "message": words})
        assert await s.ask("a", "DELETE", "/v2/positions/SPY") == (403, {"code": 40310000, "message": words})
        await s.until(lambda: not s.gateway.ready)
        status, body = await s.ask("a", "GET", "/v2/account")
        assert (status, body["message"]) == (503, f"gateway: no report: 401 - unauthorized. at {s.broker.trading_url}")


@pytest.mark.parametrize("odd", ODD_UPDATES)
async def test_an_update_that_cannot_be_read_asks_for_a_report_and_ends_nothing(tmp_path: Path, odd: str) -> None:
    async with stage(tmp_path) as s:
        await s.place("a", 1)
        await s.until(lambda: bool(s.held("a")))
        await s.until(lambda: bool(fills(tmp_path)))
        s.gateway._report_request.clear()
        with pytest.raises(Malformed):
            s.gateway._on_update(ODD_UPDATES[odd](fills(tmp_path)[0]))
        assert s.gateway._report_request.is_set()
        await s.settled()
        assert s.held("a") == {"SPY": Decimal(1)}


async def test_a_report_with_an_order_that_has_no_id_is_asked_for_again(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await s.place("b", 1, type="limit", limit_price="400")
        reads, whole = s.gateway.upstream.reads, s.gateway.upstream.reads.open_orders

        async def nameless() -> Any:
            return [{**row, "id": None} for row in await whole()]

        reads.open_orders = nameless  # type: ignore[method-assign]
        s.gateway._report_request.set()
        await s.until(lambda: any("id is None" in str(row["problem"]) for row in s.log.of("gateway_report_failed")))
        reads.open_orders = whole  # type: ignore[method-assign]
        await s.settled()


async def test_each_desk_is_told_its_own_guards_prefix(tmp_path: Path) -> None:
    async with stage(tmp_path, table("a", guard_prefix="watch"), table("b")) as s:
        rows = {name: (await s.ask(name, "GET", "/v2/account"))[1] for name in ("a", "b")}
        assert {name: row["gateway"]["guard_prefix"] for name, row in rows.items()} == {"a": "watch", "b": ""}
