"""The panic against the loopback Alpaca: flat in the end whatever fails on the way, or what is left is printed.

Expected values: the server's own books.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal

import pytest

from daemon.brokers.api import BulkResult
from daemon.brokers.panic import panic
from daemon.core.effects import SubmitOrder
from daemon.host.time.clock import Clock
from simulator.trading.venue import Rules
from tests.support.alpaca.rest_desk import CALL, Desk, admin_of, buy, desk, eventually
from tests.support.toy_broker import ToyAccount

ALL_AT_ONCE = Rules(fill_sizes=(9, 9))


async def hold(it: Desk) -> None:
    """Three contracts held, one of them for sale at a price that nobody pays."""
    await it.orders.submit(buy(quantity=3))
    await eventually(lambda: CALL in it.server.account.positions)
    await eventually(lambda: not it.server.account.working)
    await it.orders.submit(SubmitOrder("e1-scalper-2-0-1", CALL, -1, 1, Decimal(900), "sell_to_close", 0))


async def end(it: Desk, lines: list[str], deadline_s: float = 10.0) -> bool:
    return await panic(admin_of(it.reads, it.orders), lines.append, deadline_s=deadline_s, round_s=0.3, pause_s=0.02)


async def test_orders_are_cancelled_and_positions_closed_until_nothing_is_open() -> None:
    async with desk(rules=ALL_AT_ONCE) as it:
        await hold(it)
        lines: list[str] = []
        assert await end(it, lines)
        assert (it.server.account.positions, it.server.account.working) == ({}, {})
    assert lines[-1] == "flat: no open order, no position"


async def test_an_account_that_is_flat_already_is_said_to_be_so() -> None:
    async with desk() as it:
        assert await end(it, [])


async def test_a_step_that_fails_is_said_and_the_next_is_tried() -> None:
    async with desk(rules=ALL_AT_ONCE) as it:
        await hold(it)
        it.server.faults.add("http_error", where={"method": "DELETE", "path": "/v2/orders"})
        it.server.faults.add("http_html", where={"method": "DELETE", "path": "/v2/positions"})
        it.server.faults.add("http_reset", where={"method": "GET", "path": "/v2/positions"})
        lines: list[str] = []
        assert await end(it, lines)
        assert (it.server.account.positions, it.server.account.working) == ({}, {})
    assert sum("failed" in line for line in lines) == 3


async def test_a_step_without_an_answer_does_not_wait_for_the_next_round() -> None:
    async with desk(rules=ALL_AT_ONCE) as it:
        await hold(it)
        it.server.faults.add("http_error", times=2, where={"method": "DELETE", "path": "/v2/positions"})
        assert await panic(admin_of(it.reads, it.orders), lambda _: None, deadline_s=10.0, round_s=1000.0, pause_s=0.02)


async def test_what_is_left_at_the_deadline_is_told() -> None:
    async with desk(rules=ALL_AT_ONCE) as it:
        await hold(it)
        it.server.faults.add("http_error", times=1000, where={"method": "DELETE"})
        lines: list[str] = []
        assert not await end(it, lines, deadline_s=0.5)
        assert CALL in it.server.account.positions
    assert f"NOT flat: position 3 {CALL}" in lines
    assert any(line.startswith("NOT flat: order ") for line in lines)


async def test_a_broker_that_says_nothing_is_not_believed_to_be_flat() -> None:
    async with desk() as it:
        it.server.faults.add("http_error", times=1000)
        lines: list[str] = []
        assert not await end(it, lines, deadline_s=0.3)
    assert "NOT flat: the broker does not say what is left: look at its web page" in lines


async def test_a_position_that_the_broker_will_not_close_is_said_with_its_reason() -> None:
    async with desk(rules=ALL_AT_ONCE) as it:
        await hold(it)
        it.server.faults.add("cancel_stuck")  # the order for sale stays pending_cancel and holds its contract
        lines: list[str] = []
        await asyncio.wait_for(end(it, lines, deadline_s=0.5), 10)
    assert any(line.startswith(f"close {CALL}: refused: 403 ") for line in lines)


def raise_a_bug() -> BulkResult:
    raise KeyError("orders")


def say_nothing() -> BulkResult:
    result: BulkResult | None = None
    return result  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [(raise_a_bug, "KeyError: 'orders'"), (say_nothing, "AttributeError"), (None, "no answer within 0.2 s")],
)
async def test_a_broker_with_a_bug_in_its_cancels_closes_all_the_same(
    answer: Callable[[], BulkResult] | None, problem: str
) -> None:
    class Buggy(ToyAccount):
        async def cancel_all(self) -> BulkResult:
            if answer is None:
                await asyncio.Event().wait()
            return (answer or raise_a_bug)()

    account, lines = Buggy(Clock.real()), list[str]()
    account.trade(CALL, 3, Decimal(2))
    async with asyncio.timeout(20):
        assert await panic(account, lines.append, deadline_s=10.0, round_s=0.3, pause_s=0.02, answer_s=0.2)
    assert account.held == {}
    assert lines[0].startswith(f"cancel all: failed: {problem}")
