"""Fractions of shares: what is taken and refused, fills, close calls, dividends, splits, cash and how all is written.

Expected values by hand from the rows of `share_days.py`: AAA opens at 100, is bought at 100.01 and sold at 100.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from decimal import Decimal
from typing import Any

import pytest

from simulator.faults import Faults
from simulator.prices.corporate_actions import Split
from simulator.trading.venue import Rules
from tests.support.simulator.share_days import OPENS, at, desks, shares
from tests.support.simulator.trading_tape import WHOLE, activities, cash, refused

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "websockets.legacy", DeprecationWarning)
    from alpaca.trading.client import TradingClient

OPEN_NS = OPENS["2024-06-03"]
BUY: dict[str, Any] = {"symbol": "AAA", "side": "buy", "type": "market", "time_in_force": "day"}


def rules(**changes: Any) -> Rules:
    """The rules of the other tests, some of them changed."""
    return dataclasses.replace(WHOLE, **changes)


def send_order(client: TradingClient, **fields: Any) -> dict[str, Any]:
    """Post an order for AAA; return it as REST shows it afterwards."""
    row: Any = client.post("/orders", {**BUY, **fields})
    order: Any = client.get(f"/orders/{row['id']}")
    return dict(order)


def position(client: TradingClient, symbol: str = "AAA") -> str:
    """The position's quantity as it is written, "" without one."""
    rows: Any = client.get("/positions")
    return next((row["qty"] for row in rows if row["symbol"] == symbol), "")


def test_a_fraction_is_bought_and_sold_to_the_ninth_decimal() -> None:
    with desks(OPEN_NS) as (_, (client, *_)):
        order = send_order(client, qty="2.123456789")
        assert (order["status"], order["qty"], order["filled_qty"]) == ("filled", "2.123456789", "2.123456789")
        assert position(client) == "2.123456789"
        assert cash(client) == 10_000 - Decimal("2.123456789") * Decimal("100.01")
        send_order(client, side="sell", qty="2.123456788")
        assert position(client) == "0.000000001"  # plain text, where a float has 1e-09
        (line, _) = activities(client)
        assert (line["qty"], line["cum_qty"], line["leaves_qty"]) == ("2.123456788", "2.123456788", "0")
        send_order(client, side="sell", qty="0.000000001")
        assert position(client) == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "limit", "limit_price": "101"},
        {"type": "stop", "stop_price": "99"},
        {"type": "stop_limit", "stop_price": "99", "limit_price": "101"},
    ],
)
def test_each_simple_type_of_order_takes_a_fraction(fields: dict[str, Any]) -> None:
    with desks(OPEN_NS) as (_, (client, *_)):
        assert send_order(client, qty="0.25", **fields)["filled_qty"] == "0.25"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"qty": "0.1234567891"}, "qty must be limited to 9 decimal places"),
        ({"qty": 0.1 + 0.2}, "qty must be limited to 9 decimal places"),  # binary noise of a client
        *(
            ({"qty": "0.5", "time_in_force": word}, "fractional orders must be DAY orders")
            for word in ("gtc", "opg", "cls", "ioc", "fok")
        ),
        ({"qty": "0.5", "type": "trailing_stop", "trail_price": "1"}, "fractional orders must be market, limit, stop"),
        ({"qty": "0.5", "order_class": "bracket"}, "fractional orders must be simple orders"),
        ({"notional": "50", "time_in_force": "gtc"}, "fractional orders must be DAY orders"),
    ],
)
def test_a_fraction_is_refused_with_422_outside_of_its_rules(fields: dict[str, Any], words: str) -> None:
    with desks(OPEN_NS) as (_, (client, *_)), refused(422, 42210000, words):
        client.post("/orders", {**BUY, **fields})


def test_whole_orders_keep_all_times_in_force() -> None:
    with desks(at("2024-06-03", 19)) as (_, (client, *_)):
        for word in ("day", "gtc", "opg", "cls"):
            assert send_order(client, qty="5.000000000", time_in_force=word)["status"] == "accepted"


def test_a_share_that_is_not_fractionable_trades_whole_alone() -> None:
    with desks(OPEN_NS, rules=rules(not_fractionable=frozenset({"AAA"}))) as (server, (client, *_)):
        flags: Any = [client.get(f"/assets/{name}") for name in ("AAA", "BBB")]
        assert [row["fractionable"] for row in flags] == [False, True]
        for fields in ({"qty": "1.5"}, {"notional": "50"}):
            with refused(403, 40310000, 'asset "AAA" is not fractionable'):
                client.post("/orders", {**BUY, **fields})
        send_order(client, qty="3")
        server.faults.add("split", symbol="AAA", ratio="1.5")
        server.jump_to(OPEN_NS + 60 * 10**9)
        assert position(client) == "4.5"
        with refused(403, 40310000, 'asset "AAA" is not fractionable'):
            client.delete("/positions/AAA", {"qty": "0.5"})
        client.delete("/positions/AAA")  # a call for all of it is the way out
        assert position(client) == ""


def test_an_account_without_fractional_trading_trades_whole_shares() -> None:
    with desks(OPEN_NS) as (_, (client, *_)):
        client.patch("/account/configurations", {"fractional_trading": False})
        with refused(403, 40310000, "account is not authorized to trade fractional shares"):
            client.post("/orders", {**BUY, "qty": "0.5"})
        assert send_order(client, qty="1")["status"] == "filled"


def test_no_fraction_is_sold_short_also_beyond_a_position() -> None:
    with desks(OPEN_NS) as (_, (client, *_)):
        with refused(403, 40310000, "account is not allowed to short"):
            client.post("/orders", {**BUY, "side": "sell", "qty": "0.5"})
        send_order(client, qty="0.5")
        with refused(403, 40310000, "insufficient qty available for order (requested: 0.500000001, available: 0.5)"):
            client.post("/orders", {**BUY, "side": "sell", "qty": "0.500000001"})


def test_what_is_worth_less_than_the_least_amount_is_refused_where_a_test_says_so() -> None:
    with desks(OPEN_NS, rules=rules(fraction_least_usd=Decimal(1))) as (_, (client, *_)):
        with refused(403, 40310000, "cost basis must be >= minimal amount of order 1"):
            client.post("/orders", {**BUY, "qty": "0.009"})
        assert send_order(client, qty="0.01")["status"] == "filled"  # 1.0001 USD


def test_a_fraction_may_fill_in_parts_of_up_to_nine_decimals() -> None:
    with desks(OPEN_NS, rules=rules(fractions_in_parts=True)) as (server, (client, *_)):
        row = send_order(client, qty="3.7")
        for _ in range(200):
            if row["status"] == "filled":
                break
            server.jump_to(server.call(lambda: server.server.matching.seen_ns) + 15 * 10**9)
            row = client.get(f"/orders/{row['id']}")  # type: ignore[assignment]
        lines = activities(client)
        assert len(lines) > 1
        assert sum(Decimal(line["qty"]) for line in lines) == Decimal("3.7") == Decimal(row["filled_qty"])
        assert all(re.fullmatch(r"\d+(\.\d{1,9})?", line[key]) for line in lines for key in ("qty", "leaves_qty"))


def test_a_partial_fill_may_be_a_fraction_and_a_replacement_has_the_rest() -> None:
    faults = Faults()
    faults.add("fill_partial", quantity="0.000000001", then_held=True)
    with desks(OPEN_NS, faults=faults) as (_, (client, *_)):
        row = send_order(client, qty="1.5", type="limit", limit_price="101")
        assert (row["status"], row["filled_qty"]) == ("partially_filled", "0.000000001")
        new: Any = client.patch(f"/orders/{row['id']}", {"qty": "1.75", "limit_price": "102"})
        assert (new["qty"], new["filled_qty"]) == ("1.749999999", "0")
        with refused(422, 42210000, "fractional orders must be DAY orders"):
            client.patch(f"/orders/{new['id']}", {"qty": "1.5", "time_in_force": "gtc"})


@pytest.mark.parametrize(
    ("query", "rest"),
    [
        ({"qty": "0.123456789"}, "0.876543211"),
        ({"percentage": "33.333333339"}, "0.666666667"),  # 0.33333333339 is cut at the ninth decimal
        ({"percentage": "100"}, ""),
        ({}, ""),
    ],
)
def test_the_close_call_has_all_nine_places(query: dict[str, str], rest: str) -> None:
    with desks(OPEN_NS) as (_, (client, *_)):
        send_order(client, qty="1")
        client.delete("/positions/AAA", query)
        assert position(client) == rest


def test_the_close_call_refuses_a_tenth_decimal() -> None:
    with desks(OPEN_NS) as (_, (client, *_)):
        send_order(client, qty="1")
        with refused(422, 42210000, "qty must be limited to 9 decimal places"):
            client.delete("/positions/AAA", {"qty": "0.1234567891"})


def test_a_close_call_leaves_dust_where_the_script_says_so() -> None:
    faults = Faults()
    faults.add("close_dust", where={"symbol": "AAA"})
    with desks(OPEN_NS, faults=faults) as (_, (client, *_)):
        send_order(client, qty="2.5")
        row: Any = client.delete("/positions/AAA")
        assert (row["qty"], position(client)) == ("2.499999999", "0.000000001")
        client.delete("/positions/AAA")
        assert position(client) == ""


def test_a_reinvested_dividend_leaves_a_fraction() -> None:
    with desks(OPEN_NS) as (server, (client, *_)):
        send_order(client, qty="3")
        server.faults.add("dividend", symbol="AAA", amount="1.00", reinvested=True)
        server.jump_to(OPEN_NS + 60 * 10**9)
        rows = activities(client)
        (dividend,) = [row for row in rows if row["activity_type"] == "DIV"]
        (purchase,) = [row for row in rows if row["activity_type"] == "FILL" and row["qty"] != "3"]
        assert (dividend["net_amount"], dividend["qty"], purchase["side"]) == ("3", "3", "buy")
        whole, fraction = position(client).split(".")
        assert (whole, purchase["qty"]) == ("3", f"0.{fraction}")
        assert 0.028 < Decimal(f"0.{fraction}") < 0.031  # 3 USD at 99 to 104 a share


@pytest.mark.parametrize(
    ("ratio", "quantity", "after"),
    [
        (Decimal(1) / 3, "9", "3"),
        (Decimal(1) / 3, "10", "3.333333333"),
        (Decimal("1.5"), "0.000000001", "0.000000002"),
        (Decimal(10), "0.123456789", "1.23456789"),
    ],
)
def test_a_split_leaves_a_fraction_to_nine_decimals(ratio: Decimal, quantity: str, after: str) -> None:
    market = shares(splits=[Split("AAA", "2024-06-05", ratio)])
    with desks(OPENS["2024-06-04"], market=market) as (server, (client, *_)):
        send_order(client, qty=quantity)
        server.jump_to(OPENS["2024-06-05"])
        assert position(client) == after
        lines = {line["qty"] for line in activities(client) if line["activity_type"] == "SPLIT"}
        assert lines == {after, f"-{quantity}"}


def test_a_dividend_pays_for_a_fraction() -> None:
    with desks(OPENS["2024-06-05"]) as (server, (client, *_)):
        send_order(client, symbol="BBB", qty="0.123456789")
        before = cash(client)
        server.jump_to(OPENS["2024-06-07"])
        (line, _) = activities(client)
        assert (line["activity_type"], line["qty"], line["net_amount"]) == ("DIV", "0.123456789", "0.123456789")
        assert cash(client) == before + Decimal("0.123456789")


@pytest.mark.parametrize(("how", "spent"), [("none", "24.692469"), ("fill", "24.70"), ("order", "24.69")])
def test_cash_is_rounded_by_fill_by_order_or_not_at_all(how: Any, spent: str) -> None:
    """An order's two fills of 0.12345 at 100.01 are 12.3462345 USD each, 24.692469 together."""
    faults = Faults()
    faults.add("fill_partial", quantity="0.12345")
    with desks(OPEN_NS, rules=rules(cash_rounding=how), faults=faults) as (server, (client, *_)):
        assert send_order(client, qty="0.2469", type="limit", limit_price="100.01")["filled_qty"] == "0.12345"

        def fill_the_rest() -> None:
            account = server.server.account
            (order,) = account.working.values()
            server.server.matching.fill(account, order, order.left, Decimal("100.01"), OPEN_NS)

        server.call(fill_the_rest)
        assert cash(client) == 10_000 - Decimal(spent)


def test_the_seed_decides_how_drawn_cash_is_rounded() -> None:
    roundings = {rules(cash_rounding="drawn", seed=seed).rounding for seed in range(40)}
    assert roundings == {"none", "fill", "order"}


@pytest.mark.parametrize(("kind", "text"), [("quantity_exponent", "5e-1"), ("quantity_too_fine", "0.5000000001")])
def test_a_report_writes_its_quantities_oddly_where_the_script_says_so(kind: str, text: str) -> None:
    with desks(OPEN_NS) as (server, (client, *_)):
        send_order(client, qty="0.5")
        server.faults.add(kind, where={"path": "/v2/positions"})
        assert [position(client), position(client)] == [text, "0.5"]
