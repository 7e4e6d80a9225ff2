"""Six sessions of four shares that tests can compute by hand, on a server whose time stands still, and its clients.

Nothing is tested here. One share splits, one pays a dividend, one is halted and delisted, one gets a new name.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from simulator.clock import SimClock
from simulator.prices.corporate_actions import Dividend, Rename, Split
from simulator.prices.day_prices import DailyPrices
from simulator.prices.market import Market
from simulator.prices.tape import midnight_ns
from simulator.server import RunningServer, serving
from simulator.trading.account import Account
from strategies.kit.contract import Bar, Session
from strategies.kit.units import SECOND_NS
from tests.support.simulator.trading_tape import FROZEN, WHOLE

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "websockets.legacy", DeprecationWarning)
    from alpaca.data.historical import StockHistoricalDataClient
    from alpaca.trading.client import TradingClient

HOUR_NS = 3_600 * SECOND_NS
DATES = ("2024-06-03", "2024-06-04", "2024-06-05", "2024-06-06", "2024-06-07", "2024-06-10")
SESSIONS = [
    Session(day, midnight_ns(day) + 19 * HOUR_NS // 2, midnight_ns(day) + 16 * HOUR_NS)
    for day in (*DATES, "2024-06-11")
]
OPENS = {session.date: session.open_ns for session in SESSIONS}
ROWS = {
    "AAA": ((100, 104, 99, 102), (102, 106, 101, 104), (52, 54, 51, 53), (53, 55, 52, 54), (54, 56, 53, 55)),
    "BBB": ((50, 51, 49, 50), (50, 51, 49, 50), (50, 51, 49, 50), (49, 50, 48, 49), (49, 50, 48, 49)),
    "CCC": ((10, 11, 9, 10), (10, 11, 9, 10), (10, 11, 9, 10), (10, 11, 9, 10), (10, 11, 9, 10)),
    "OLD": ((20, 21, 19, 20), (20, 21, 19, 20), (20, 21, 19, 20), (20, 21, 19, 20), (20, 21, 19, 20)),
}
VOLUME = 390_000.0
ACTIONS: dict[str, Any] = {
    "splits": [Split("AAA", "2024-06-05", Decimal(2))],
    "dividends": [Dividend("BBB", "2024-06-06", Decimal(1), paid="2024-06-07")],
    "renames": [Rename("OLD", "2024-06-06", "NEW")],
    "halts": {"CCC": {"2024-06-06"}},
    "delisted": {"CCC": "2024-06-10"},
}
NAMES = ("ALPHA", "BETA", "GAMMA")


def accounts() -> list[Account]:
    """Three accounts without debt, each with 10,000.00 USD and keys of its own."""
    return [
        Account(f"PK{name}", f"{name.lower()}-secret", cash=Decimal(10_000), margin=1, account_number=f"PA3{name}")
        for name in NAMES
    ]


def shares(**changes: Any) -> Market:
    """The market of ROWS with ACTIONS, some of them changed; the last session repeats the row before."""
    bars = [
        Bar(symbol, midnight_ns(day), float(o), float(h), float(lo), float(c), VOLUME)
        for symbol, rows in ROWS.items()
        for day, (o, h, lo, c) in zip(DATES, (*rows, rows[-1]), strict=True)
    ]
    days = DailyPrices(bars, SESSIONS, **{**ACTIONS, **changes})
    return Market((), "AAA", sessions=SESSIONS, days=days)


@contextlib.contextmanager
def desks(
    at_ns: int, *, market: Market | None = None, **settings: Any
) -> Iterator[tuple[RunningServer, list[TradingClient]]]:
    """The server with three accounts, its time standing still at `at_ns`, and the real client of each account."""
    clock = SimClock.starting_now(at_ns, FROZEN)
    given = {"rules": WHOLE, "accounts": accounts(), **settings}
    with serving(market or shares(), clock, **given) as server, contextlib.ExitStack() as open_clients:
        clients = []
        for account in given["accounts"]:
            client = TradingClient(account.key, account.secret, url_override=server.trading_url)
            open_clients.enter_context(contextlib.closing(client._session))
            clients.append(client)
        yield server, clients


@contextlib.contextmanager
def history(server: RunningServer) -> Iterator[StockHistoricalDataClient]:
    """The real client of market data, with the first account's keys."""
    account = server.server.account
    client = StockHistoricalDataClient(account.key, account.secret, url_override=server.data_url)
    with contextlib.closing(client._session):
        yield client


def at(day: str, hour: int, minute: int = 0) -> int:
    """A New York time of day in ns UTC."""
    return midnight_ns(day) + hour * HOUR_NS + minute * 60 * SECOND_NS
