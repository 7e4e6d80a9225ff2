"""What must hold after every session, whatever happened: each check compares server and journal.

Pure: each function takes both sides and returns sentences, none when all is well. What is expected is the server's.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from msgspec import UnsetType

from simulator.prices.market import Market
from simulator.prices.tape import NEW_YORK, new_york_date
from simulator.server import LoggedRequest
from simulator.trading.account import Account
from simulator.trading.orders import AlpacaOrder
from tests.support.desks.live_desk import Books

MINUTE_NS = 60_000_000_000
ZERO = Decimal(0)
DONE = frozenset({"filled", "canceled", "expired", "rejected", "replaced"})
Limits = Mapping[str, Decimal]


def ours(account: Account, epoch: str) -> list[AlpacaOrder]:
    """The orders of this journal's desk in the order of their arrival."""
    return sorted(
        (order for order in account.orders.values() if order.client_order_id.startswith(f"{epoch}-")),
        key=lambda order: order.created_ns,
    )


def disagreements(books: Books, account: Account) -> list[str]:
    """Where cash, positions and fills differ; empty when they agree. Fills of corrected orders are in the totals."""
    differences = []
    state = books.state
    if Decimal(account.cash) != state.book.cash:
        differences.append(f"cash: server {account.cash}, daemon {state.book.cash}")
    server_positions = {symbol: position.qty for symbol, position in account.positions.items() if position.qty}
    desk_positions = known(state)
    if server_positions != desk_positions:
        differences.append(f"positions: server {server_positions}, daemon {desk_positions}")
    return differences + fills_apart(books, account, whole=True)


def known(state: Any) -> dict[str, Decimal]:
    """What the account holds by all that the desk's state knows: its own, others', and fractions that lie beside."""
    beside = state.broker.beside
    quantities: dict[str, Decimal] = defaultdict(lambda: ZERO)
    desk_positions = {symbol: position.quantity for symbol, position in state.book.positions.items()}
    for holdings in (desk_positions, state.broker.foreign_held, {} if isinstance(beside, UnsetType) else beside):
        for symbol, quantity in holdings.items():
            quantities[symbol] += quantity
    return {symbol: Decimal(quantity) for symbol, quantity in quantities.items() if quantity}


def fills_apart(books: Books, account: Account, *, whole: bool) -> list[str]:
    """Fills that are not exactly once in the journal; unless `whole`, those that it does not have yet are left out.

    A fill that was corrected on a later day than its order's last is no part of its order's row: the desk books the
    correction as a line of the ledger, which cash and positions are compared by.
    """
    names = {order.id: order.client_order_id for order in ours(account, books.state.identity.epoch)}
    amending = {"canceled", "correct"}
    rows = [row.fields for row in account.activities if row.fields.get("status") in amending]
    corrected = {names[row["order_id"]] for row in rows if row.get("order_id") in names}
    executed: dict[tuple[str, Decimal], tuple[Decimal, Decimal]] = {}
    total: dict[str, Decimal] = defaultdict(lambda: ZERO)
    for trade in account.trades:
        if trade.order_id in names:
            total[trade.order_id] += abs(trade.quantity)
            executed[names[trade.order_id], total[trade.order_id]] = (abs(trade.quantity), trade.price)
    journaled: dict[tuple[str, Decimal], list[tuple[Decimal, Decimal]]] = defaultdict(list)
    for row in books.fills:
        if row["client_order_id"] in names.values():
            key = (row["client_order_id"], Decimal(row["cumulative"]))
            journaled[key].append((Decimal(row["quantity"]), Decimal(row["price"])))
    older = {names[row["order_id"]] for row in rows if row.get("order_id") in names and _later(row, account)}
    problems = _totals_apart(books, account, corrected - older) if whole else []
    for key in sorted(executed.keys() | journaled.keys()):
        if key[0] in corrected or (not whole and key not in journaled):
            continue
        if journaled.get(key, []) != [executed.get(key)]:
            problems.append(f"fill {key}: server {executed.get(key)}, journal {journaled.get(key)}")
    return problems


def _later(row: Mapping[str, Any], account: Account) -> bool:
    """Whether a correction is of an order that was last filled on a day before."""
    came = datetime.fromisoformat(row["transaction_time"]).astimezone(NEW_YORK).date().isoformat()
    return came > new_york_date(account.orders[row["order_id"]].filled_ns)


AVERAGE_OFF, COST_OFF = Decimal("5e-7"), Decimal("5e-5")
"""USD by which a cost from an order's average price is off: it has six decimals, and a desk's cost four."""


def _totals_apart(books: Books, account: Account, names: Iterable[str]) -> list[str]:
    """Of orders with a corrected fill what stands of their executions, whatever was heard or their order shows."""
    problems = []
    for name in sorted(names):
        order, row = account.by_client_id[name], books.orders[name]
        stand = [trade for trade in account.trades if trade.order_id == order.id]
        filled_quantity = sum((abs(trade.quantity) for trade in stand), ZERO)
        cost = sum((abs(trade.quantity) * trade.price for trade in stand), ZERO)
        if (
            filled_quantity != Decimal(row["filled"])
            or abs(cost - Decimal(row["cost"])) > filled_quantity * AVERAGE_OFF + COST_OFF
        ):
            problems.append(f"{name}: server {filled_quantity} for {cost}, journal {row['filled']}, {row['cost']}")
    return problems


def posts_apart(requests: Iterable[LoggedRequest], account: Account) -> list[str]:
    """Client order ids of which more than one POST was accepted: answered with 200 while the order was there."""
    accepted: Counter[str] = Counter()
    for request in requests:
        if request.method == "POST" and request.path == "/v2/orders" and request.status == 200:
            name = json.loads(request.body).get("client_order_id", "")
            order = account.by_client_id.get(name)
            accepted[name] += order is not None and request.time_ns >= order.created_ns
    return [f"{name}: {count} accepted POSTs" for name, count in accepted.items() if count > 1]


def _at(order: AlpacaOrder, ns: int) -> tuple[Decimal, Decimal]:
    """What of an order was filled, and what could still fill, at `ns`; nothing before it was there."""
    row = order.shown_at(ns)
    if row is None or order.qty is None:
        return ZERO, ZERO
    filled_quantity = Decimal(row["filled_qty"])
    return filled_quantity, ZERO if row["status"] in DONE else order.qty - filled_quantity


def overtaken(order: AlpacaOrder) -> bool:
    """True for an order that filled after its cancel was confirmed: the desk could not know, and sells it again."""
    return bool(order.canceled_ns and order.filled_ns and order.filled_ns > order.canceled_ns)


def intents_exceeded(books: Books, account: Account) -> list[str]:
    """Entry decisions whose live plus filled quantity at the server was ever above what the decision meant to hold."""
    problems = []
    works: dict[str, list[AlpacaOrder]] = defaultdict(list)
    for order in ours(account, books.state.identity.epoch):
        row = books.orders.get(order.client_order_id)
        if row is None:
            problems.append(f"{order.client_order_id}: at the server, not in the journal")
        elif row["purpose"] == "entry" and not overtaken(order):
            works[row["work"]].append(order)
    for work, orders in works.items():
        first = min((row for row in books.orders.values() if row["work"] == work), key=lambda row: row["submitted_ns"])
        intent = Decimal(first["quantity"])
        for newest in orders:
            sums = [_at(order, newest.created_ns) for order in orders]
            if sum((sum(pair, ZERO) for pair in sums), ZERO) > intent:
                problems.append(f"decision {work}: live and filled {sums}, intent {intent}")
        if sum((order.filled_qty for order in orders), ZERO) > intent:
            problems.append(f"decision {work}: filled above its intent {intent}")
    return problems


def oversold(account: Account) -> list[str]:
    """Positions that a trade made negative."""
    quantities: dict[str, Decimal] = defaultdict(lambda: ZERO)
    problems = []
    for trade in account.trades:
        quantities[trade.symbol] += trade.quantity
        if quantities[trade.symbol] < 0:
            problems.append(f"{trade.symbol}: sold below zero, {quantities[trade.symbol]} after order {trade.order_id}")
    return problems


def entered_while_halted(books: Books, account: Account) -> list[str]:
    """Entries at the server that were decided after the halt."""
    halt = books.state.risk.halt
    if halt is None:
        return []
    return [
        f"{order.client_order_id}: an entry decided after the halt {halt.reason}"
        for order in ours(account, books.state.identity.epoch)
        if (row := books.orders.get(order.client_order_id)) is not None
        and row["purpose"] == "entry"
        and row["submitted_ns"] > halt.since_ns
    ]


def limits_exceeded(books: Books, account: Account, market: Market, limits: Limits, quote_age_s: int) -> list[str]:
    """Risk limits that the orders of the desk at the server went above. `limits` by their keys of [risk]."""
    orders = ours(account, books.state.identity.epoch)
    entries = [order for order in orders if order.side == "buy" and order.qty is not None]
    problems = []
    for order in entries:
        assert order.qty is not None
        about = order.client_order_id
        premium = (order.limit_price or ZERO) * order.qty * 100
        if order.qty > limits["order_contracts_max"]:
            problems.append(f"{about}: {order.qty} contracts, limit {limits['order_contracts_max']}")
        if order.limit_price is None or premium > limits["order_notional_max_usd"]:
            problems.append(f"{about}: {premium} USD, limit {limits['order_notional_max_usd']}")
        day_ns = market.session_at(order.created_ns)
        earlier = [other for other in orders if other.created_ns < order.created_ns and not _rests(other)]
        today = sum(day_ns is not None and other.created_ns >= day_ns.open_ns for other in earlier)
        if today >= limits["orders_per_day"]:
            problems.append(f"{about}: {today} orders before it, limit {limits['orders_per_day']} a day")
        row = books.orders.get(about)
        decided_ns = row["submitted_ns"] if row is not None else order.created_ns
        names = [o.client_order_id for o in orders if not _rests(o)]  # a resting stop counts for no limit
        submissions_ns = (books.orders[name]["submitted_ns"] for name in names if name in books.orders)
        recent = sum(decided_ns - MINUTE_NS < moment < decided_ns for moment in submissions_ns)
        if recent >= limits["orders_per_minute"]:
            problems.append(f"{about}: {recent} orders within a minute, limit {limits['orders_per_minute']}")
        coming = [other for other in entries if other is not order]
        working = sum((_at(other, order.created_ns)[1] * (other.limit_price or ZERO) * 100 for other in coming), ZERO)
        low = _least_value(account, market, order.created_ns, quote_age_s)
        if low + working + premium > limits["gross_exposure_max_usd"]:
            problems.append(
                f"{about}: exposure {low + working + premium} USD, limit {limits['gross_exposure_max_usd']}"
            )
    surprise = sum((order.filled_qty for order in entries if overtaken(order)), ZERO)
    return problems + [
        f"position: {quantity} contracts at {ns}, limit {limits['position_contracts_max']}"
        for ns, quantity in _contracts(account, {order.id for order in orders})
        if quantity > limits["position_contracts_max"] + surprise
    ]


def _rests(order: AlpacaOrder) -> bool:
    return order.type.startswith("stop")


def stops_twice(account: Account) -> list[str]:
    """Stops of one symbol that worked at the same time."""
    problems = []
    stops = sorted((order for order in account.orders.values() if _rests(order)), key=lambda order: order.created_ns)
    for nth, order in enumerate(stops):
        problems += [
            f"{order.client_order_id}: sent while {other.client_order_id} rested"
            for other in stops[:nth]
            if other.symbol == order.symbol and _at(other, order.created_ns)[1]
        ]
    return problems


def _contracts(account: Account, order_ids: set[str]) -> Iterator[tuple[int, Decimal]]:
    """The desk's contracts after each trade; nothing where somebody else traded too."""
    quantity = ZERO
    if any(trade.order_id not in order_ids for trade in account.trades):
        return
    for trade in account.trades:
        if trade.order_id in order_ids:
            quantity += trade.quantity
            yield trade.time_ns, quantity


def _least_value(account: Account, market: Market, at_ns: int, age_s: int) -> Decimal:
    """The least that the contracts of `at_ns` were worth by any quote that was young enough to count then.

    Shares count for nothing: a desk of options buys none, so they are a person's.
    """
    quantities: dict[str, Decimal] = defaultdict(lambda: ZERO)
    for trade in account.trades:
        if trade.time_ns < at_ns:
            quantities[trade.symbol] += trade.quantity
    value = ZERO
    for symbol, quantity in quantities.items():
        if quantity and symbol not in market.bars:
            points = range(at_ns - (age_s + 60) * 1_000_000_000, at_ns + 1, 15_000_000_000)
            quotes = [quote for ns in points if (quote := market.quote(symbol, ns)) is not None]
            value += min(((bid + ask) / 2 for bid, ask in quotes), default=ZERO) * quantity * 100
    return value


def leaks(folder: Path, secrets: Iterable[str]) -> list[str]:
    """Files below `folder` that hold one of the planted secrets; the secret itself is not printed."""
    problems = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            problems += [
                f"{path.name} holds planted secret {n}" for n, s in enumerate(secrets) if s.encode() in content
            ]
    return problems
