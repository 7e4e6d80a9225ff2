"""What must hold of a gateway at any moment and in the end: each check compares server, gateway and journals.

Pure, but for a journal that is read. Whose an order is, its name says: a desk's begin with the epoch of its journal, a
person's are by hand. What each holds comes from the server's trades alone.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from daemon.gateway.events import MAIN
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from simulator.prices.tape import new_york_date
from simulator.trading.account import Account
from tests.chaos import verdict
from tests.chaos.verdict import ZERO
from tests.support.desks.live_desk import Books

Json = dict[str, Any]


def sum_apart(status: Json, account: Account) -> list[str]:
    """Where the sum of all sub-accounts is not what the broker has: cash to the cent, each share."""
    problems = []
    if Decimal(status["sum"]["cash"]) != account.cash:
        problems.append(f"cash: sub-accounts {status['sum']['cash']}, broker {account.cash}")
    sub_account_positions = {symbol: Decimal(text) for symbol, text in status["sum"]["positions"].items()}
    broker_positions = {symbol: position.qty for symbol, position in account.positions.items()}
    return problems + [
        f"{symbol}: sub-accounts {sub_account_positions.get(symbol, ZERO)}, broker {broker_positions.get(symbol, ZERO)}"
        for symbol in sorted(sub_account_positions.keys() | broker_positions.keys())
        if sub_account_positions.get(symbol, ZERO) != broker_positions.get(symbol, ZERO)
    ]


def part(status: Json, desk: str, account: Account) -> Any:
    """The broker's account as it were if it had the desk's sub-account alone: cash and holdings of the gateway."""
    (row,) = (row for row in status["accounts"] if row["name"] == desk)
    older = _amended_later(account)
    positions = {symbol: SimpleNamespace(qty=Decimal(text)) for symbol, text in row["positions"].items()}
    return SimpleNamespace(
        cash=Decimal(row["cash"]),
        positions=positions,
        orders={order_id: order for order_id, order in account.orders.items() if order_id not in older},
        trades=account.trades,
        activities=account.activities,
        by_client_id=account.by_client_id,
    )


def _amended_later(account: Account) -> set[str]:
    """Orders of which a fill was amended on a later date: a desk books the difference alone, in cash and positions."""
    rows = (row for row in account.activities if row.fields.get("status") in ("canceled", "correct"))
    amended = ((account.orders.get(str(row.fields.get("order_id"))), row.time_ns) for row in rows)
    return {
        order.id
        for order, at_ns in amended
        if order is not None and new_york_date(order.created_ns) != new_york_date(at_ns)
    }


def book_apart(books: Books, status: Json, desk: str, account: Account) -> list[str]:
    """Where a desk's book, or its fills, are not its sub-account's."""
    return verdict.disagreements(books, part(status, desk, account))


def owners(
    account: Account, epochs: Mapping[str, str], close_owners: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The owner of each order by its id: a desk, or `main`. `epochs` are the desks' by name.

    `close_owners` has the owners of orders of the broker's close call, which bear no name of theirs, by id. What the
    broker sells of its own accord is the one holder's.
    """
    result = {}
    for order in account.orders.values():
        desks = [desk for desk, epoch in epochs.items() if epoch and order.client_order_id.startswith(f"{epoch}-")]
        result[order.id] = desks[0] if desks else (close_owners or {}).get(order.id, MAIN)
    for order_id in account.sold_out & result.keys():
        quantities: dict[str, Decimal] = defaultdict(lambda: ZERO)
        for trade in account.trades:
            if trade.symbol == account.orders[order_id].symbol and trade.order_id not in account.sold_out:
                quantities[result.get(trade.order_id, MAIN)] += trade.quantity
        holders = [name for name, quantity in quantities.items() if quantity > 0]
        result[order_id] = holders[0] if len(holders) == 1 else MAIN
    return result


def closed_by(account: Account, calls: Mapping[str, set[tuple[str, Decimal]]]) -> dict[str, str]:
    """The desk of each order of the broker's close call, by the order's id: who called for this symbol and quantity."""
    return {
        order.id: desk
        for order in account.orders.values()
        for desk, its in calls.items()
        if order.side == "sell" and order.id not in account.by_hand and (order.symbol, order.qty or ZERO) in its
    }


def called_by(state_dir: Path) -> dict[str, str]:
    """The desk of each order that the gateway sent as a close call in a desk's place, by the order's id."""
    with closing(JournalReader(state_dir / FILE)) as reader:
        rows = reader.query("SELECT payload FROM events WHERE kind IN ('CloseTaken', 'OrderAnswered') ORDER BY id")
    events = [json.loads(row["payload"]) for row in rows]
    owner = {event["name"]: event["account"] for event in events if event.get("for_order")}
    return {event["row"]["id"]: owner[event["name"]] for event in events if "row" in event and event["name"] in owner}


def strangers(account: Account, epochs: Mapping[str, str], close_owners: Mapping[str, str] | None = None) -> list[str]:
    """Orders that nobody placed."""
    owner_by_order = owners(account, epochs, close_owners)
    return [
        f"{order.client_order_id}: nobody's order, {order.side} {order.symbol}"
        for order in account.orders.values()
        if owner_by_order[order.id] == MAIN
        and order.id not in account.by_hand | account.sold_out
        and order.id not in (close_owners or {})
    ]


def oversold(account: Account, epochs: Mapping[str, str], close_owners: Mapping[str, str] | None = None) -> list[str]:
    """Sales of more than their owner had: a desk's of what is another's or of `main`, or of nothing.

    What moves without an order (a split, an exercise) moves all that hold it; of such a symbol it looks no further.
    """
    owner_by_order = owners(account, epochs, close_owners)
    holdings: dict[tuple[str, str], Decimal] = defaultdict(lambda: ZERO)
    moved_symbols: set[str] = set()
    problems = []
    for trade in account.trades:
        if not trade.order_id:
            moved_symbols.add(trade.symbol)
            continue
        key = (owner_by_order[trade.order_id], trade.symbol)
        holdings[key] += trade.quantity
        if trade.symbol not in moved_symbols and holdings[key] < 0 and key[0] != MAIN:
            problems.append(f"{key[0]} sold {trade.symbol} of others: {holdings[key]} after order {trade.order_id}")
    return problems


def holdings_apart(
    status: Json, account: Account, epochs: Mapping[str, str], close_owners: Mapping[str, str] | None = None
) -> list[str]:
    """Sub-accounts that do not hold what their owner's own trades come to, of symbols that nothing else moved."""
    owner_by_order = owners(account, epochs, close_owners)
    moved_symbols = {trade.symbol for trade in account.trades if not trade.order_id}
    moved_symbols |= {
        str(row.fields.get("symbol")) for row in account.activities if row.fields["activity_type"] != "FILL"
    }
    holdings: dict[str, dict[str, Decimal]] = defaultdict(lambda: defaultdict(lambda: ZERO))
    for trade in account.trades:
        if trade.symbol not in moved_symbols:
            holdings[owner_by_order[trade.order_id]][trade.symbol] += trade.quantity
    problems = []
    for row in status["accounts"]:
        sub_account_positions = {
            symbol: Decimal(text) for symbol, text in row["positions"].items() if symbol not in moved_symbols
        }
        trade_positions = {symbol: quantity for symbol, quantity in holdings[row["name"]].items() if quantity}
        if sub_account_positions != trade_positions:
            problems.append(
                f"{row['name']} holds {sub_account_positions} by the gateway, {trade_positions} by its trades"
            )
    return problems


def worded(problems: Iterable[str]) -> str:
    """Some of them in one line."""
    return "; ".join(problems)[:1500]
