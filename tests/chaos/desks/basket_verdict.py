"""What must hold for several desks and their baskets: each check compares server and journal and returns sentences.

Pure. The server's own trades say what cash there was at any moment; only orders and decisions come from the desks.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal

from daemon.alpaca_api.wire import multiplier
from simulator.prices.tape import new_york_date
from simulator.server import LoggedRequest
from simulator.trading.account import Account
from simulator.trading.orders import AlpacaOrder
from tests.chaos.verdict import DONE, ZERO
from tests.support.desks.live_desk import Books

IN_TRADES = frozenset({"FILL", "CIL", "SPLIT", "NC"})  # rows whose cash a trade has booked, or that move none
CENT = Decimal("0.01")
CALL_NS = 60 * 1_000_000_000  # from an order to the answer of the call that made it, a hanging one too


def baskets(books: Books) -> dict[str, str]:
    """The outcome of each date's decision of a daily desk; dates with more than one say all of them."""
    by_date: dict[str, list[str]] = {}
    for row in books.decisions:
        if row["kind"] == "policy":
            by_date.setdefault(new_york_date(row["time_ns"]), []).append(row["outcome"])
    return {date: ", ".join(outcomes) for date, outcomes in by_date.items()}


def baskets_doubled(books: Books) -> list[str]:
    """Dates on which a daily desk decided more than once."""
    return [
        f"{date}: more than one basket: {outcomes}" for date, outcomes in baskets(books).items() if ", " in outcomes
    ]


def _movements(account: Account) -> Iterator[tuple[int, Decimal, str]]:
    """What moved the cash: time, USD, and the order's id ("" without one). Trades are in the order of their booking."""
    for row in account.activities:
        fields = row.fields
        if fields["activity_type"] not in IN_TRADES and Decimal(fields.get("net_amount", "0")):
            yield row.time_ns, Decimal(fields["net_amount"]), ""
    for trade in account.trades:
        yield trade.time_ns, -trade.cost, trade.order_id


def overdrawn(account: Account, start: Decimal) -> list[str]:
    """Moments at which the cash fell below 0, but by an order of a person; each moment once."""
    cash = start
    for time_ns, amount, order_id in sorted(_movements(account), key=lambda movement: movement[0]):
        cash += amount
        if cash < 0 <= cash - amount and order_id not in account.by_hand:
            return [f"cash {cash} USD at {time_ns}"]
    return []


def uncovered(account: Account, start: Decimal, from_ns: int) -> list[str]:
    """Buys since `from_ns` for which the cash of their moment, less what other buys kept back, was too little.

    A buy keeps back its limit times its open quantity; sales count once they are filled, never before.
    """
    movements = sorted(_movements(account), key=lambda movement: movement[0])
    buys = [order for order in account.orders.values() if order.side == "buy" and order.created_ns >= from_ns]
    fills: dict[str, list[tuple[int, Decimal]]] = {}
    for trade in account.trades:
        fills.setdefault(trade.order_id, []).append((trade.time_ns, trade.quantity))
    problems = []
    for order in (order for order in buys if order.id not in account.by_hand):
        at_ns = order.created_ns
        cash = start + sum((amount for time_ns, amount, _ in movements if time_ns < at_ns), ZERO)
        reserved = sum(
            (_reserve_of(other, fills.get(other.id, []), at_ns) for other in buys if other is not order), ZERO
        )
        needed = (order.limit_price or ZERO) * (order.qty or ZERO) * multiplier(order.symbol)
        if order.limit_price is None or needed + reserved > cash + CENT:
            problems.append(
                f"{order.client_order_id}: {needed} USD of {order.symbol}, cash {cash}, others keep {reserved}"
            )
    return problems


def _reserve_of(order: AlpacaOrder, fills: list[tuple[int, Decimal]], at_ns: int) -> Decimal:
    """What this buy kept back just before `at_ns`, with its fills as (time, quantity)."""
    row = order.shown_at(at_ns - 1) if order.created_ns < at_ns else None
    if row is None or order.qty is None or order.limit_price is None or row["status"] in DONE - {"filled"}:
        return ZERO
    filled_quantity = sum((quantity for time_ns, quantity in fills if time_ns < at_ns), ZERO)
    return (order.qty - filled_quantity) * order.limit_price * multiplier(order.symbol)


def strangers(
    accounts: Mapping[str, tuple[Account, str, frozenset[str]]], requests: Iterable[LoggedRequest]
) -> list[str]:
    """Orders in an account that are not its desk's, by name or symbol, and requests with names of other desks.

    What a person placed by hand is the account's own trouble: it is no order of another desk. An order that the
    broker's call to close made has the broker's own name: it is the desk's whose key asked for it.
    `accounts`: by desk its account, the epoch of its journal, and the symbols that it may trade (empty: any).
    """
    problems = []
    requests = list(requests)
    by_key = {account.key: (desk, epoch) for desk, (account, epoch, _) in accounts.items()}
    for desk, (account, epoch, symbols) in accounts.items():
        closings = [it for it in requests if it.method == "DELETE" and it.key == account.key]
        for order in account.orders.values():
            if order.id in account.by_hand:
                continue
            is_own = order.client_order_id.startswith(f"{epoch}-{desk}")
            if not is_own and not any(_closed_by(order, it) for it in closings):
                problems.append(f"{desk}: order {order.client_order_id} in its account is not its own")
            if symbols and order.symbol not in symbols:
                problems.append(f"{desk}: order of {order.symbol}, which it does not trade")
    for request in requests:
        if request.method == "POST" and request.path == "/v2/orders":
            desk, epoch = by_key.get(request.key, ("nobody", "?"))
            name = json.loads(request.body).get("client_order_id", "")
            if not name.startswith(f"{epoch}-"):
                problems.append(f"{desk}: a request for {name} with its key")
    return problems


def _closed_by(order: AlpacaOrder, request: LoggedRequest) -> bool:
    """Whether this call to close a position made the order: it came before the call was answered."""
    place = request.path.partition("?")[0]
    return place == f"/v2/positions/{order.symbol}" and 0 <= request.time_ns - order.created_ns <= CALL_NS


def names_twice(accounts: Iterable[Account]) -> list[str]:
    """Client order ids that are in more than one account."""
    counts = Counter(name for account in accounts for name in account.by_client_id)
    return [f"{name}: in {count} accounts" for name, count in counts.items() if count > 1]
