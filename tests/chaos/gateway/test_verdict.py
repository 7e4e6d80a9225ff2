"""Each verdict of the gateway's campaign finds the fault that it is for, in books by hand."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from daemon.alpaca_api.books import PositionChange
from simulator.trading.account import Account
from simulator.trading.orders import AlpacaOrder
from tests.chaos.gateway import verdict

NOW_NS = 1_732_199_400_000_000_000
EPOCHS = {"scalper": "e1", "rebalancer": "e2"}


def account() -> Account:
    """5 SPY of `e1`, 3 of `e2`, and half a share that a person bought; 1,000.125 USD left."""
    result = Account("key", "secret", cash=Decimal(1000) + Decimal("8.5") * 100 + Decimal("0.125"))
    for name, quantity in (("e1-x-1", "5"), ("e2-y-1", "3"), ("by hand", "0.5")):
        buy(result, name, quantity)
    return result


def buy(account: Account, name: str, quantity: str, symbol: str = "SPY") -> None:
    order = AlpacaOrder(
        account.new_id(), name, symbol, "buy", "market", "day", Decimal(quantity), None, NOW_NS, status="filled"
    )
    account.add(order)
    if name == "by hand":
        account.by_hand.add(order.id)
    account.trade(PositionChange(symbol, Decimal(quantity), Decimal(100), NOW_NS, order_id=order.id))


def status(main: str = "0.5", scalper: str = "5") -> verdict.Json:
    """What a gateway says that has it right, but for what is given."""
    rows: list[dict[str, Any]] = [
        {"name": name, "cash": "0", "positions": {} if quantity == "0" else {"SPY": quantity}}
        for name, quantity in (("main", main), ("scalper", scalper), ("rebalancer", "3"))
    ]
    whole = sum(Decimal(row["positions"].get("SPY", 0)) for row in rows)
    return {"sum": {"cash": "1000.125", "positions": {"SPY": str(whole)}}, "accounts": rows}


def test_equal_books_are_found_equal() -> None:
    assert verdict.sum_apart(status(), account()) == []
    assert verdict.holdings_apart(status(), account(), EPOCHS) == []
    assert verdict.oversold(account(), EPOCHS) == []
    assert verdict.strangers(account(), EPOCHS) == []


def test_a_part_of_a_cent_or_of_a_share_is_a_difference() -> None:
    other = account()
    other.cash += Decimal("0.005")
    assert verdict.sum_apart(status(), other) == ["cash: sub-accounts 1000.125, broker 1000.130"]
    assert verdict.sum_apart(status(main="0.6"), account()) == ["SPY: sub-accounts 8.6, broker 8.5"]


def test_a_share_in_the_wrong_sub_account_is_found_though_the_sum_is_right() -> None:
    wrong = status(main="1.5", scalper="4")
    assert verdict.sum_apart(wrong, account()) == []
    assert len(verdict.holdings_apart(wrong, account(), EPOCHS)) == 2


def test_a_desk_that_sells_what_is_another_s_is_found_though_the_account_is_not_short() -> None:
    broker_account = account()
    order = AlpacaOrder(broker_account.new_id(), "e1-x-2", "SPY", "sell", "market", "day", Decimal(6), None, NOW_NS)
    broker_account.add(order)
    broker_account.trade(PositionChange("SPY", Decimal(-6), Decimal(100), NOW_NS, order_id=order.id))
    assert [words.split(":")[0] for words in verdict.oversold(broker_account, EPOCHS)] == ["scalper sold SPY of others"]


def test_an_order_that_nobody_placed_is_found() -> None:
    broker_account = account()
    buy(broker_account, "close-77", "1")
    assert [words.split(":")[0] for words in verdict.strangers(broker_account, EPOCHS)] == ["close-77"]


def test_what_the_broker_sells_of_its_own_accord_is_its_one_holders() -> None:
    put = "SPY241108P00480000"
    for other_count in (0, 1):
        broker_account = account()
        for name in ("e1-x-3", "hand")[: 1 + other_count]:
            buy(broker_account, name, "2", put)
        sale = AlpacaOrder(broker_account.new_id(), "nobody", put, "sell", "market", "day", Decimal(2), None, NOW_NS)
        broker_account.add(sale)
        broker_account.sold_out.add(sale.id)
        broker_account.trade(PositionChange(put, Decimal(-2), Decimal(5), NOW_NS, order_id=sale.id))
        assert verdict.owners(broker_account, EPOCHS)[sale.id] == ("main" if other_count else "scalper")
        assert "nobody" not in {words.split(":")[0] for words in verdict.strangers(broker_account, EPOCHS)}
