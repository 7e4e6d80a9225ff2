"""Orders in shares on daily prices, and what corporate actions do to three accounts' books, by the unchanged clients.

Expected values by hand from the rows of `share_days.py`: a share is bought a cent above the price.
"""

from __future__ import annotations

import asyncio
import json
import warnings
from decimal import Decimal
from typing import Any

import pytest
import websockets

from daemon.alpaca_api.books import PositionChange
from simulator.faults import Faults
from simulator.prices.corporate_actions import Merger, SpinOff, Split
from simulator.server import AlpacaServer, RunningServer
from simulator.trading.account import Account
from simulator.trading.venue import Rules
from strategies.kit.units import SECOND_NS
from tests.support.simulator.lone_loop import clock_of_loop
from tests.support.simulator.share_days import OPENS, accounts, at, desks, shares
from tests.support.simulator.trading_tape import activities, buy, buy_limit, cash, found, held, refused, sell, submitted

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "websockets.legacy", DeprecationWarning)
    from alpaca.common.exceptions import APIError
    from alpaca.trading.enums import OrderSide, OrderStatus, TimeInForce
    from alpaca.trading.models import Order
    from alpaca.trading.requests import MarketOrderRequest, StopOrderRequest


def auction(symbol: str, quantity: int, side: OrderSide = OrderSide.BUY, **fields: Any) -> MarketOrderRequest:
    """A market order for the opening auction."""
    return MarketOrderRequest(symbol=symbol, qty=quantity, side=side, time_in_force=TimeInForce.OPG, **fields)


def give_shares(server: RunningServer, symbol: str, quantity: int, price: int, which: int = 0) -> None:
    """Shares in an account's books from the start, at no cost of cash."""

    def give() -> None:
        account = list(server.server.accounts.values())[which]
        account.trade(PositionChange(symbol, Decimal(quantity), Decimal(price), 0))
        account.cash += quantity * price

    server.call(give)


# --- the opening auction ------------------------------------------------------------------------------------------


def test_orders_for_the_opening_auction_trade_at_the_official_open() -> None:
    with desks(at("2024-06-03", 19)) as (server, (client, *_)):
        give_shares(server, "BBB", 10, 40)
        purchase, sale = (
            submitted(client, auction("AAA", 5)),
            submitted(client, auction("BBB", 10, OrderSide.SELL)),
        )
        server.jump_to(OPENS["2024-06-04"] - SECOND_NS)
        assert found(client, purchase).status == OrderStatus.ACCEPTED
        server.jump_to(OPENS["2024-06-04"])
        for order, price in ((purchase, "102"), (sale, "50")):
            now = found(client, order)
            assert (now.status, now.filled_avg_price) == (OrderStatus.FILLED, price)
            assert now.filled_at is not None
            assert int(now.filled_at.timestamp()) == OPENS["2024-06-04"] // SECOND_NS
        assert cash(client) == 10_000 - 5 * 102 + 10 * 50


@pytest.mark.parametrize(
    ("moment", "is_taken"),
    [
        (at("2024-06-04", 9, 28) - SECOND_NS, True),
        (at("2024-06-04", 9, 28), False),
        (at("2024-06-04", 12), False),
        (at("2024-06-04", 19) - SECOND_NS, False),
        (at("2024-06-04", 19), True),
    ],
)
def test_the_auction_takes_orders_from_seven_in_the_evening_until_two_minutes_before_the_open(
    moment: int, is_taken: bool
) -> None:
    with desks(moment) as (_, (client, *_)):
        if is_taken:
            assert submitted(client, auction("AAA", 1)).status == OrderStatus.ACCEPTED
        else:
            with refused(403, 40310000, "opg orders are not accepted at this time"):
                client.submit_order(auction("AAA", 1))


def test_an_auction_order_waits_for_its_auction_even_where_fills_come_before_the_reply() -> None:
    faults = Faults()
    faults.add("fill_before_reply")
    with desks(at("2024-06-04", 9, 15), faults=faults) as (server, (client, *_)):
        order = submitted(client, auction("AAA", 1))
        assert (order.status, found(client, order).status) == (OrderStatus.ACCEPTED, OrderStatus.ACCEPTED)
        server.jump_to(OPENS["2024-06-04"])
        assert found(client, order).status == OrderStatus.FILLED


def test_an_auction_order_without_an_opening_print_is_canceled_after_the_open() -> None:
    with desks(at("2024-06-05", 20)) as (server, (client, *_)):
        order = submitted(client, auction("CCC", 1))  # trades are halted on the next day
        server.jump_to(OPENS["2024-06-06"])
        assert found(client, order).status == OrderStatus.CANCELED
        with refused(422, 42210000, 'asset "CCC" is not tradable'):
            client.submit_order(buy("CCC", 1))


# --- the day ------------------------------------------------------------------------------------------------------


def test_a_market_order_trades_at_once_at_the_ask_or_bid() -> None:
    with desks(OPENS["2024-06-03"]) as (server, (client, *_)):
        order = submitted(client, buy("AAA", 10))
        assert found(client, order).filled_avg_price == "100.01"
        give_shares(server, "BBB", 5, 50)
        assert found(client, submitted(client, sell("BBB", 5))).filled_avg_price == "50"


def test_a_limit_order_waits_for_the_path_to_touch_it() -> None:
    with desks(OPENS["2024-06-03"]) as (server, (client, *_)):
        order = submitted(client, buy_limit("AAA", 10, 99.01))  # the day's low and a cent
        never = submitted(client, buy_limit("AAA", 10, 99.00))
        server.jump_to(at("2024-06-03", 16))
        assert (found(client, order).status, found(client, order).filled_avg_price) == (OrderStatus.FILLED, "99.01")
        assert found(client, never).status == OrderStatus.EXPIRED


def test_a_stop_sells_at_the_first_point_of_the_path_that_touches_it() -> None:
    with desks(OPENS["2024-06-03"]) as (server, (client, *_)):
        give_shares(server, "AAA", 20, 100)
        stop, never = (
            submitted(
                client,
                StopOrderRequest(
                    symbol="AAA", qty=10, side=OrderSide.SELL, time_in_force=TimeInForce.DAY, stop_price=price
                ),
            )
            for price in (99.01, 99.00)  # the day's low is 99, half a cent below the middle
        )
        server.jump_to(at("2024-06-03", 16))
        market, points = server.server.market, range(OPENS["2024-06-03"], at("2024-06-03", 16), 15 * SECOND_NS)
        touched_ns = next(ns for ns in points if market.price(ns, "AAA") == 99)
        sold = found(client, stop)
        assert sold.filled_at is not None
        assert (sold.filled_avg_price, int(sold.filled_at.timestamp()) * SECOND_NS) == ("99", touched_ns)
        assert touched_ns % (60 * SECOND_NS)  # not with a minute's first price
        assert found(client, never).status == OrderStatus.EXPIRED


def test_an_order_fills_in_parts_where_the_script_or_the_size_says_so() -> None:
    with desks(OPENS["2024-06-03"], rules=Rules(fill_sizes=(1, 1))) as (server, (client, *_)):
        server.faults.add("fill_partial", quantity=7)
        order = submitted(client, buy("CCC", 300))
        assert found(client, order).filled_qty == "7"
        server.jump_to(OPENS["2024-06-03"] + 15 * SECOND_NS)
        assert found(client, order).filled_qty == "107"
        server.jump_to(OPENS["2024-06-03"] + 45 * SECOND_NS)
        assert found(client, order).status == OrderStatus.FILLED
        assert [row["cum_qty"] for row in activities(client, direction="asc")] == ["7", "107", "207", "300"]


def test_a_fill_is_a_row_of_the_activities_and_a_position() -> None:
    with desks(OPENS["2024-06-03"]) as (_, (client, *_)):
        order = submitted(client, buy("AAA", 10))
        (row,) = activities(client)
        assert (row["activity_type"], row["symbol"], row["qty"], row["price"]) == ("FILL", "AAA", "10", "100.01")
        assert row["order_id"] == str(order.id)
        position = held(client, "AAA")
        assert (position.qty, position.qty_available, position.avg_entry_price) == ("10", "10", "100.01")


def test_shares_are_refused_as_the_broker_refuses_them() -> None:
    with desks(OPENS["2024-06-03"]) as (server, (client, *_)):
        give_shares(server, "AAA", 10, 100)
        with refused(403, 40310000, "insufficient buying power"):
            client.submit_order(buy("CCC", 1_000))  # 10,010.00 USD
        submitted(client, buy_limit("CCC", 400, 9.00))
        with refused(403, 40310000, "insufficient buying power"):
            client.submit_order(buy("CCC", 641))  # the other order holds 3,600.00 USD
        submitted(client, MarketOrderRequest(symbol="AAA", qty=6, side=OrderSide.SELL, time_in_force=TimeInForce.CLS))
        with refused(403, 40310000, "insufficient qty available for order (requested: 5, available: 4)"):
            client.submit_order(sell("AAA", 5))
        with refused(403, 40310000, "potential wash trade detected"):
            client.submit_order(buy("AAA", 1))
        with refused(422, 42210000, 'asset "ZZZ" not found'):
            client.submit_order(buy("ZZZ", 1))


def test_a_reply_that_never_comes_leaves_the_auction_order_alive() -> None:
    with desks(at("2024-06-03", 20)) as (server, (client, *_)):
        server.faults.add("http_reset", where={"path": "/v2/orders", "method": "POST", "key": "PKALPHA"})
        with pytest.raises(Exception, match="Connection"):
            client.submit_order(auction("AAA", 3, client_order_id="desk-1"))
        server.jump_to(OPENS["2024-06-04"])
        order = client.get_order_by_client_id("desk-1")
        assert isinstance(order, Order)
        assert order.filled_qty == "3"


# --- companies ----------------------------------------------------------------------------------------------------


def test_a_split_multiplies_the_shares_on_its_morning_and_leaves_their_value() -> None:
    with desks(OPENS["2024-06-04"]) as (server, (client, *_)):
        submitted(client, buy("AAA", 10))
        server.jump_to(at("2024-06-05", 4) - SECOND_NS)
        assert (held(client, "AAA").qty, held(client, "AAA").current_price) == ("10", "104.005")
        server.jump_to(at("2024-06-05", 4))
        position = held(client, "AAA")
        assert (position.qty, position.avg_entry_price, position.cost_basis) == ("20", "51.005", "1020.1")
        assert position.current_price == "52.005"
        old_row, come = sorted(activities(client, activity_types="SPLIT"), key=lambda row: int(row["qty"]))
        assert (old_row["qty"], come["qty"], old_row["symbol"], come["symbol"]) == ("-10", "20", "AAA", "AAA")
        assert old_row["date"] == come["date"] == "2024-06-05"
        assert cash(client) == 10_000 - Decimal("1020.10")


def test_a_split_cancels_the_orders_in_its_share() -> None:
    with desks(at("2024-06-04", 20)) as (server, (client, *_)):
        order, other = submitted(client, auction("AAA", 1)), submitted(client, auction("BBB", 1))
        server.jump_to(at("2024-06-05", 4))
        assert found(client, order).status == OrderStatus.CANCELED
        assert found(client, other).status == OrderStatus.ACCEPTED


@pytest.mark.parametrize(("in_cash", "quantity"), [(False, "3.5"), (True, "3")])
def test_a_reverse_split_leaves_a_fraction_or_pays_it(in_cash: bool, quantity: str) -> None:
    halved = shares(splits=[Split("BBB", "2024-06-05", Decimal("0.5"), fraction_in_cash=in_cash)])
    with desks(OPENS["2024-06-04"], market=halved) as (server, (client, *_)):
        give_shares(server, "BBB", 7, 40)
        server.jump_to(at("2024-06-05", 4))
        assert held(client, "BBB").qty == quantity
        assert held(client, "BBB").avg_entry_price == "80"
        rows = activities(client, activity_types="CIL")
        assert [(row["qty"], row["net_amount"]) for row in rows] == ([("-0.5", "50.005")] if in_cash else [])
        assert cash(client) == Decimal(10_000) + (Decimal("50.005") if in_cash else 0)


def test_a_dividend_is_paid_on_its_day_for_the_shares_held_before_the_ex_date() -> None:
    with desks(OPENS["2024-06-05"]) as (server, (client, other, _)):
        give_shares(server, "BBB", 40, 50)
        server.jump_to(OPENS["2024-06-06"])
        submitted(client, sell("BBB", 40))
        submitted(other, buy("BBB", 40))
        server.jump_to(at("2024-06-07", 4))
        (row,) = activities(client, activity_types="DIV")
        assert (row["net_amount"], row["qty"], row["per_share_amount"]) == ("40", "40", "1")
        assert row["date"] == "2024-06-07"
        assert cash(client) == 10_000 + 40 * 49 + 40
        assert activities(other, activity_types="DIV") == []


def test_a_new_name_is_two_rows_and_a_position_under_it() -> None:
    with desks(OPENS["2024-06-05"]) as (server, (client, *_)):
        give_shares(server, "OLD", 5, 18)
        server.jump_to(at("2024-06-06", 4))
        old_row, come = sorted(activities(client, activity_types="NC"), key=lambda row: int(row["qty"]))
        assert (old_row["symbol"], old_row["qty"], come["symbol"], come["qty"]) == ("OLD", "-5", "NEW", "5")
        assert held(client, "NEW").avg_entry_price == "18"
        with pytest.raises(APIError):
            client.get_open_position("OLD")
        server.jump_to(OPENS["2024-06-06"])
        assert found(client, submitted(client, sell("NEW", 5))).filled_avg_price == "20"
        with refused(422, 42210000, 'asset "OLD" not found'):
            client.submit_order(buy("OLD", 1))


def test_a_merger_takes_the_shares_and_brings_its_cash_and_its_shares() -> None:
    market = shares(
        mergers=[
            Merger("BBB", "2024-06-05", cash=Decimal("30.25")),
            Merger("OLD", "2024-06-05", Decimal(2), "AAA", Decimal("0.15"), fraction_in_cash=True, cash_apart=True),
        ],
        renames=(),
        dividends=(),
        splits=(),
    )
    with desks(at("2024-06-04", 20), market=market) as (server, (client, *_)):
        give_shares(server, "BBB", 7, 40)
        give_shares(server, "OLD", 10, 18)
        give_shares(server, "AAA", 1, 90)
        waiting = submitted(client, auction("BBB", 1))
        server.jump_to(at("2024-06-05", 4))
        assert found(client, waiting).status == OrderStatus.CANCELED
        assert len(client.get_all_positions()) == 1
        position = held(client, "AAA")
        assert (position.qty, position.avg_entry_price) == ("2", "100")  # (90 + 10 * (18 - 2)) / 2.5
        rows = [(row["symbol"], row["qty"], row["net_amount"]) for row in activities(client, activity_types="MA")]
        assert sorted(rows) == [
            ("AAA", "1.5", "0"), ("BBB", "-7", "211.75"), ("OLD", "-10", "0"), ("OLD", "0", "20"),
        ]  # fmt: skip
        (fraction,) = activities(client, activity_types="CIL")  # at the close before the merger
        assert (fraction["symbol"], fraction["qty"], fraction["net_amount"]) == ("AAA", "-0.5", "52")
        assert cash(client) == 10_000 + Decimal("211.75") + 20 + 52
        with refused(422, 42210000, 'asset "BBB" is not tradable'):
            client.submit_order(buy("BBB", 1))


@pytest.mark.parametrize(("in_cash", "quantity"), [(False, "2.5"), (True, "2")])
def test_a_spin_off_brings_shares_of_another_name_and_leaves_the_old_ones(in_cash: bool, quantity: str) -> None:
    spin_off = SpinOff("AAA", "2024-06-05", "KID", Decimal("0.25"), part=0.2, fraction_in_cash=in_cash)
    with desks(OPENS["2024-06-04"], market=shares(spin_offs=[spin_off], splits=())) as (server, (client, *_)):
        give_shares(server, "AAA", 10, 90)
        server.jump_to(at("2024-06-05", 4))
        assert (held(client, "AAA").qty, held(client, "AAA").avg_entry_price) == ("10", "90")
        (row,) = activities(client, activity_types="SPIN")
        assert (row["symbol"], row["qty"], row["net_amount"]) == ("KID", "2.5", "0")
        assert held(client, "KID").qty == quantity
        # the parent opens at 52, four fifths of what it was worth; a quarter of a share has the fifth: 52 / 4 * 4
        assert cash(client) == 10_000 + (Decimal(26) if in_cash else 0)
        server.jump_to(OPENS["2024-06-05"])
        assert found(client, submitted(client, sell("KID", 2))).filled_avg_price == "52"


# --- several accounts ---------------------------------------------------------------------------------------------


def test_the_accounts_of_one_server_share_its_market_and_nothing_else() -> None:
    with desks(OPENS["2024-06-03"], rules=Rules(rate_limit=4, fill_sizes=(1000, 1000))) as (server, clients):
        first, second, third = clients
        submitted(first, buy("AAA", 10))
        submitted(second, buy("BBB", 20))
        assert (cash(first), cash(second), cash(third)) == (Decimal("8999.90"), Decimal("8999.80"), Decimal(10_000))
        first._retry_codes = []
        for _ in range(2):
            first.get_all_positions()
        with pytest.raises(APIError) as raised:
            first.get_all_positions()
        assert raised.value.status_code == 429
        assert third.get_all_positions() == []
        books = server.server.accounts
        assert {key: sorted(account.positions) for key, account in books.items()} == {
            "PKALPHA": ["AAA"],
            "PKBETA": ["BBB"],
            "PKGAMMA": [],
        }


async def listen(server: AlpacaServer, account: Account) -> websockets.ClientConnection:
    """A session on the trading stream of this account."""
    socket = await websockets.connect(server.trade_stream_url_of(account))
    keys = {"key_id": account.key, "secret_key": account.secret}
    await socket.send(json.dumps({"action": "authenticate", "data": keys}))
    assert b'"authorized"' in await socket.recv(decode=False)
    return socket


async def test_each_account_has_one_session_of_the_trading_stream_and_its_own_dead_one() -> None:
    three = accounts()
    async with AlpacaServer(shares(), clock_of_loop(OPENS["2024-06-03"], 1e-6), accounts=three) as server:
        first, second = await listen(server, three[0]), await listen(server, three[1])
        with pytest.raises(websockets.InvalidStatus, match="429"):
            await listen(server, three[0])
        first.transport.abort()
        await asyncio.sleep(0.05)
        with pytest.raises(websockets.InvalidStatus, match="429"):
            await listen(server, three[0])  # the dead session is held
        third = await listen(server, three[2])
        await second.close()
        again = await listen(server, three[1])
        with pytest.raises(websockets.InvalidStatus, match="404"):
            await websockets.connect(f"{server.trade_stream_url}/PA0NOBODY")
        await third.close()
        await again.close()


def test_a_split_is_announced_by_its_ex_date() -> None:
    ask = {"ca_types": "split,merger", "date_type": "ex_date", "since": "2024-06-05", "until": "2024-06-05"}
    with desks(at("2024-06-05", 8)) as (_, clients):
        (row,) = clients[0].get("/corporate_actions/announcements", ask)
        other = clients[0].get(
            "/corporate_actions/announcements", {**ask, "since": "2024-06-06", "until": "2024-06-09"}
        )
    assert (row["ca_type"], row["initiating_symbol"], row["old_rate"], row["new_rate"]) == ("split", "AAA", "1", "2")
    assert other == []


def test_mergers_and_spin_offs_are_announced_with_both_parties_and_their_rates() -> None:
    market = shares(
        mergers=[
            Merger("CCC", "2024-06-07", cash=Decimal("9.5")),
            Merger("OLD", "2024-06-06", new="BBB", ratio=Decimal("0.4")),
        ],
        spin_offs=[SpinOff("AAA", "2024-06-05", "KID", Decimal("0.25"), part=0.2)],
        renames=(),
    )
    ask = {"ca_types": "spinoff,merger", "date_type": "ex_date", "since": "2024-06-05", "until": "2024-06-07"}
    with desks(at("2024-06-05", 8), market=market) as (_, (client, *_)):
        rows = client.get("/corporate_actions/announcements", ask)
        (of_kid,) = client.get("/corporate_actions/announcements", {**ask, "symbol": "KID"})
    told = [[row.get(name) for name in ("initiating_symbol", "target_symbol", "new_rate", "old_rate")] for row in rows]
    assert sorted(told, key=str) == [["AAA", "KID", "1", "4"], ["BBB", "OLD", "2", "5"], ["CCC", "CCC", None, None]]
    assert [row["cash"] for row in rows if row["target_symbol"] == "CCC"] == ["9.5"]
    assert (of_kid["ca_type"], of_kid["ex_date"]) == ("spinoff", "2024-06-05")
