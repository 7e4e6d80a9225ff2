"""The tape, the clients and the short forms that the tests of the trading REST share.

Nothing is tested here. The tape writes its own bars, so that each price of a test can be computed by hand.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import requests

from simulator.clock import SimClock
from simulator.prices.market import Market
from simulator.server import RunningServer, serving
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET, Rules
from strategies.kit.contract import Bar, Session
from strategies.kit.units import SECOND_NS

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "websockets.legacy", DeprecationWarning)
    from alpaca.common.exceptions import APIError
    from alpaca.trading import models
    from alpaca.trading.client import TradingClient
    from alpaca.trading.enums import OrderSide, OrderStatus, TimeInForce
    from alpaca.trading.requests import LimitOrderRequest, MarketOrderRequest


MINUTE_NS = 60 * SECOND_NS
OPEN_NS = 1_748_871_000 * SECOND_NS  # 2025-06-02 13:30 UTC, 09:30 in New York
CLOSE_NS = OPEN_NS + 390 * MINUTE_NS
DAY_NS = 1440 * MINUTE_NS
SESSIONS = [
    Session("2025-06-02", OPEN_NS, CLOSE_NS),
    Session("2025-06-03", OPEN_NS + DAY_NS, OPEN_NS + DAY_NS + 210 * MINUTE_NS),  # a half day
]
FROZEN = 1e-6  # simulated seconds a second: time stands still until the test moves it
CALL, PUT = "SPY250602C00500000", "SPY250602P00500000"
WHOLE = Rules(fill_sizes=(1000, 1000))
PENDING = {OrderStatus.PENDING_NEW, OrderStatus.ACCEPTED}


class Impatient(requests.adapters.HTTPAdapter):
    """Waits a fifth of a second for a reply; alpaca-py by itself waits for ever."""

    def send(self, *given: Any, **named: Any) -> requests.Response:
        return super().send(*given, **{**named, "timeout": 0.2})


def tape() -> list[Bar]:
    """500.00 for an hour, 498.00 for an hour, then 503.00; the next session stands at 503.00."""
    prices = [500.0] * 60 + [498.0] * 60 + [503.0] * 270
    first = [(OPEN_NS + minute * MINUTE_NS, price) for minute, price in enumerate(prices)]
    second = [(OPEN_NS + DAY_NS + minute * MINUTE_NS, 503.0) for minute in range(210)]
    return [Bar("SPY", start_ns, p, p, p, p, 1000.0) for start_ns, p in first + second]


MARKET = Market.from_bars(tape(), sessions=SESSIONS)


@contextlib.contextmanager
def broker(
    *, at_ns: int = OPEN_NS + 10 * MINUTE_NS, rules: Rules = WHOLE, **settings: Any
) -> Iterator[tuple[RunningServer, TradingClient]]:
    """A server whose time stands still at `at_ns`, ten minutes after the open, and the real client."""
    with serving(MARKET, SimClock.starting_now(at_ns, FROZEN), rules=rules, **settings) as server:
        client = TradingClient(DEFAULT_KEY, DEFAULT_SECRET, url_override=server.trading_url)
        with contextlib.closing(client._session):
            yield server, client


def buy(symbol: str, quantity: float, **fields: Any) -> MarketOrderRequest:
    """A market order of the day to buy; `fields` go over the others."""
    return MarketOrderRequest(symbol=symbol, qty=quantity, side=OrderSide.BUY, time_in_force=TimeInForce.DAY, **fields)


def sell(symbol: str, quantity: float, **fields: Any) -> MarketOrderRequest:
    """A market order of the day to sell."""
    return MarketOrderRequest(symbol=symbol, qty=quantity, side=OrderSide.SELL, time_in_force=TimeInForce.DAY, **fields)


def buy_limit(symbol: str, quantity: float, price: float, **fields: Any) -> LimitOrderRequest:
    """A limit order of the day to buy at `price` USD; `fields` go over the others."""
    side, day = OrderSide.BUY, TimeInForce.DAY
    return LimitOrderRequest(
        symbol=symbol, qty=quantity, side=side, **{"time_in_force": day, "limit_price": price, **fields}
    )


def sell_limit(symbol: str, quantity: float, price: float) -> LimitOrderRequest:
    """A limit order of the day to sell at `price` USD."""
    day = TimeInForce.DAY
    return LimitOrderRequest(symbol=symbol, qty=quantity, side=OrderSide.SELL, time_in_force=day, limit_price=price)


def submitted(client: TradingClient, request: Any) -> models.Order:
    """The order as the reply to its submission shows it."""
    order = client.submit_order(request)
    assert isinstance(order, models.Order)
    return order


def found(client: TradingClient, order: models.Order) -> models.Order:
    """The order as it is now."""
    again = client.get_order_by_id(order.id)
    assert isinstance(again, models.Order)
    return again


def held(client: TradingClient, symbol: str) -> models.Position:
    """The open position of `symbol`. Raises APIError where there is none."""
    position = client.get_open_position(symbol)
    assert isinstance(position, models.Position)
    return position


def quoted(symbol: str, server: RunningServer) -> tuple[Decimal, Decimal]:
    """Bid and ask of `symbol` now, in USD."""
    quote = MARKET.quote(symbol, server.server.clock.now_ns())
    assert quote is not None
    return quote


def cash(client: TradingClient) -> Decimal:
    """The account's cash in USD."""
    account = client.get_account()
    assert isinstance(account, models.TradeAccount)
    assert account.cash is not None
    return Decimal(account.cash)


def activities(client: TradingClient, **query: Any) -> list[dict[str, Any]]:
    """The raw rows of the activities that `query` asks for."""
    rows = client.get("/account/activities", query)
    assert isinstance(rows, list)
    return rows


@contextlib.contextmanager
def refused(status: int, code: int, words: str) -> Iterator[None]:
    """The broker refuses what is inside with this status, code and words in its message."""
    with pytest.raises(APIError) as raised:
        yield
    assert raised.value.status_code == status
    assert raised.value.code == code
    assert words in raised.value.message
