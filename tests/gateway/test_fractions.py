"""Fractions of shares through the gateway, in both directions, and whose each part of one is.

A share costs 500.01 USD and brings 500.00; parts are worked out by hand.
"""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from daemon.core.session import new_york_date
from simulator.prices.corporate_actions import Split
from simulator.trading.settlement import _book_split
from simulator.trading.venue import Rules
from tests.support.gateway_stage import CALL, Stage, broker, gateway_on, stage

HALF = Decimal("0.5")


async def buys(s: Stage, name: str, quantity: str) -> Any:
    """Buy, and wait until the books have it."""
    before = s.held(name).get("SPY", Decimal(0))
    row = await s.place(name, quantity)
    await s.until(lambda: s.held(name).get("SPY", Decimal(0)) == before + Decimal(quantity))
    return row


def requests_of(s: Stage, method: str) -> list[str]:
    """What the gateway sent to the broker by this method: path and body."""
    return [f"{r.path} {r.body}" for r in s.broker.requests if r.method == method]


async def test_a_fraction_passes_in_both_directions(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        row = await buys(s, "a", "1.250000001")
        assert (row["qty"], row["time_in_force"]) == ("1.250000001", "day")
        await buys(s, "b", "0.000000001")
        (position,) = (await s.ask("b", "GET", "/v2/positions"))[1]
        assert (position["qty"], position["qty_available"]) == ("0.000000001", "0.000000001")
        (fill,) = (await s.ask("a", "GET", "/v2/account/activities"))[1]
        assert (fill["qty"], fill["cum_qty"], fill["leaves_qty"]) == ("1.250000001", "1.250000001", "0")
        assert s.books.accounts["a"].cash == s.books.accounts["a"].capital - Decimal("1.250000001") * Decimal("500.01")
        await s.settled()
        assert s.verified().difference == ""


@pytest.mark.parametrize("quantity", ["0.50", "5e-1", 0.5, "0.500000000"])
async def test_a_quantity_reaches_the_broker_as_its_one_plain_text(tmp_path: Path, quantity: object) -> None:
    async with stage(tmp_path) as s:
        await s.place("a", quantity, type="limit", limit_price="490")
        assert '"qty":"0.5"' in requests_of(s, "POST")[-1].replace(" ", "")


async def test_changes_and_close_calls_have_all_nine_places(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        row = await s.place("a", "0.5", type="limit", limit_price="490")
        _, new = await s.ask("a", "PATCH", f"/v2/orders/{row['id']}", {"qty": "0.1234567890"})
        assert new["qty"] == "0.123456789"
        assert '"qty":"0.123456789"' in requests_of(s, "PATCH")[-1].replace(" ", "")
        await s.ask("a", "DELETE", f"/v2/orders/{new['id']}")
        await buys(s, "a", "2.5")
        await s.ask("a", "DELETE", "/v2/positions/SPY", qty="0.000000001")
        await s.until(lambda: s.held("a") == {"SPY": Decimal("2.499999999")})
        await s.ask("a", "DELETE", "/v2/positions/SPY", percentage="50")  # 1.2499999995, cut at the ninth place
        await s.until(lambda: s.held("a") == {"SPY": Decimal("1.25")})
        await s.ask("a", "DELETE", "/v2/positions/SPY")
        await s.until(lambda: not s.held("a"))
        queries = [path.split("?")[1].strip() for path in requests_of(s, "DELETE") if "?" in path]
        assert queries == ["qty=0.000000001", "qty=1.249999999", "qty=1.25"]
        await s.settled()
        assert s.verified().difference == ""


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"quantity": "0.1234567891"}, "qty must be limited to 9 decimal places"),
        ({"quantity": "0.5", "time_in_force": "opg"}, "fractional orders must be DAY orders"),
        ({"quantity": "0.5", "time_in_force": "gtc"}, "fractional orders must be DAY orders"),
    ],
)
async def test_what_alpaca_refuses_of_a_fraction_does_not_leave(
    tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    async with stage(tmp_path) as s:
        before = len(requests_of(s, "POST"))
        assert await s.refused("a", **fields) == (422, 42210000, words)
        assert len(requests_of(s, "POST")) == before


async def test_a_share_that_is_not_fractionable_is_refused_as_the_broker_does(tmp_path: Path) -> None:
    async with stage(tmp_path, rules=Rules(fill_sizes=(1000, 1000), not_fractionable=frozenset({"SPY"}))) as s:
        assert await s.refused("a", "0.5") == (403, 40310000, 'asset "SPY" is not fractionable')
        asset = (await s.ask("a", "GET", "/v2/assets/SPY"))[1]
        assert asset["fractionable"] is False


async def test_a_sub_account_sells_no_more_than_its_own_fraction(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await buys(s, "a", "0.5")
        await buys(s, "b", "3")
        status, code, words = await s.refused("a", "0.500000001", "sell")
        assert (status, code) == (403, 40310000)
        assert words == "insufficient qty available for order (requested: 0.500000001, available: 0.5)"


async def test_a_split_leaves_each_its_own_fraction_where_it_trades_fractions(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        s.broker.by_hand("place", symbol="SPY", qty="1", side="buy")
        await buys(s, "a", "2.5")
        await buys(s, "b", "3")
        s.broker.faults.add("split", symbol="SPY", ratio="1.5")
        await s.until(lambda: s.broker.account.quantity("SPY") == Decimal("9.75"))
        await s.gateway.wait_for_report(30)
        # 3 for 2 of 2.5, 3 and 1: 3.75, 4.5 and 1.5; b trades whole shares, so main has its half
        assert (s.held("a"), s.held("b"), s.held("main")) == (
            {"SPY": Decimal("3.75")},
            {"SPY": Decimal(4)},
            {"SPY": Decimal(2)},
        )
        await s.settled()


async def test_cash_for_a_fraction_that_is_told_before_its_split_waits_for_it(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await buys(s, "a", "2.5")
        cash = s.books.accounts["a"].cash
        late = s.broker.faults.add("action_line_late", until_ns=2**62, where={"symbol": "SPY"})
        now_ns = s.broker.clock.now_ns()
        split = Split("SPY", new_york_date(now_ns).isoformat(), Decimal("1.5"), fraction_in_cash=True)
        _book_split(s.broker.matching, s.broker.account, split, "SPY", now_ns)  # 3.75: 3 stay, 0.75 are paid out
        await s.gateway.wait_for_report(30)
        assert (s.held("a"), s.books.accounts["a"].cash) == ({"SPY": Decimal("2.5")}, cash)
        s.broker.faults.remove(late)
        await s.gateway.wait_for_report(30)
        await s.settled()
        payment = s.broker.account.cash - s.books.main.cash - s.books.accounts["b"].cash - cash
        assert payment > 0
        assert (s.held("a"), s.books.accounts["a"].cash) == ({"SPY": Decimal(3)}, cash + payment)
        assert s.verified().difference == ""


@pytest.mark.parametrize("how", ["none", "fill", "order"])
async def test_how_the_broker_rounds_cash_is_no_difference_of_the_sums(tmp_path: Path, how: Any) -> None:
    rules = Rules(fill_sizes=(1000, 1000), fractions_in_parts=True, cash_rounding=how)
    async with stage(tmp_path, rules=rules) as s:
        for quantity in ("0.123456789", "0.987654321", "0.333333333"):
            await s.place("a", quantity)
        for _ in range(200):
            if s.held("a") == {"SPY": Decimal("1.444444443")}:
                break
            s.broker.clock.jump_to(s.broker.clock.now_ns() + 15 * 10**9)
            s.broker.back_office.advance(s.broker.clock.now_ns())
            await s.gateway.wait_for_report(30)
        await s.settled()
        account = s.books.accounts["a"]
        assert account.cash == account.capital - Decimal("1.444444443") * Decimal(
            "500.01"
        )  # exact, whatever the broker does
        assert s.books.sums()[0] == s.broker.account.cash
        assert (s.books.doubts, s.verified().difference) == ((), "")


@pytest.mark.parametrize("kind", ["quantity_exponent", "quantity_too_fine"])
async def test_an_update_that_is_written_oddly_loses_no_fill(tmp_path: Path, kind: str) -> None:
    async with stage(tmp_path) as s:
        s.broker.faults.add(kind, where={"stream": "trade", "event": "fill"})
        await buys(s, "a", "0.000000005")
        assert s.broker.faults.met[kind] == 1
        await s.settled()
        assert s.verified().difference == ""


async def test_a_fraction_is_moved_to_who_trades_fractions(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        s.broker.by_hand("place", symbol="SPY", qty="1.5", side="buy")
        await s.until(lambda: s.held("main") == {"SPY": Decimal("1.5")})
        move = s.gateway.transfer
        with pytest.raises(ValueError, match=r"0\.5 SPY: a trades whole shares alone"):
            await move("main", "a", Decimal(0), "SPY", HALF, "me", "try")
        await move("main", "b", Decimal(0), "SPY", Decimal(1), "me", "try")
        with pytest.raises(ValueError, match=r"0\.5 SPY: b trades whole shares alone"):
            await move("b", "main", Decimal(0), "SPY", HALF, "me", "try")
        await move("b", "main", Decimal(0), "SPY", Decimal(1), "me", "try")
        await buys(s, "a", "0.25")
        with pytest.raises(ValueError, match="expected at most 9 decimals"):
            await move("main", "a", Decimal(0), "SPY", Decimal("0.1234567891"), "me", "try")
        await move("main", "a", Decimal(0), "SPY", HALF, "me", "try")
        assert (s.held("a"), s.held("main")) == ({"SPY": Decimal("0.75")}, {"SPY": Decimal(1)})


async def test_a_part_of_a_contract_moves_to_nobody(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await s.place("a", 1, symbol=CALL, type="limit", limit_price="99")
        await s.until(lambda: s.held("a") == {CALL: Decimal(1)})
        with pytest.raises(ValueError, match="contracts move whole"):  # nobody could sell the rest
            await s.gateway.transfer("a", "main", Decimal(0), CALL, HALF, "me", "try")


async def test_a_bust_whose_lines_cannot_be_read_at_once_is_booked_when_they_can(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await buys(s, "a", "1.5")
        s.broker.faults.add("quantity_too_fine", times=3, where={"path": "/v2/account/activities"})
        s.broker.faults.add("trade_bust")
        await s.until(lambda: not s.held("a"))
        assert s.broker.faults.met["quantity_too_fine"] > 0
        s.broker.faults.clear()
        await s.settled()
        assert s.verified().difference == ""


async def test_a_correction_that_is_not_read_yet_is_no_rounding(tmp_path: Path) -> None:
    async with broker() as alpaca:
        async with gateway_on(alpaca, tmp_path) as s:
            for quantity in ("0.3", "0.7", "2.5"):  # each of no whole cents: the broker may have rounded three
                await buys(s, "a", quantity)
            before = s.books.main.cash
        alpaca.faults.add("trade_correct", shift="-0.01")  # 0.025 USD come back
        await asyncio.sleep(5)
        async with gateway_on(alpaca, tmp_path) as s:
            await s.until(lambda: s.books.accounts["a"].cash == 20000 - Decimal("500.01") - Decimal("2.5") * 500)
            await asyncio.sleep(15)
            await s.settled()
            assert (s.books.main.cash, s.books.doubts) == (before, ())
            assert s.verified().difference == ""
