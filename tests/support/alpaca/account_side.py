"""Alpaca's admin side and clock check around the doors of a test."""

from __future__ import annotations

from collections.abc import Callable

from daemon.brokers.alpaca.assemble import AlpacaAdmin
from daemon.brokers.alpaca.rest.market_data import MarketData
from daemon.brokers.alpaca.trading.trading import TradingOrders, TradingReads
from daemon.brokers.api import EventLogger
from daemon.brokers.clock_check import ClockCheck
from daemon.config.tables import DeskSettings
from daemon.host.time.clock import Clock

LIMIT_S = 2.0


def admin_of(reads: TradingReads, orders: TradingOrders | None = None, market: MarketData | None = None) -> AlpacaAdmin:
    """The admin side; what is left out is not to be used."""

    def given_orders() -> TradingOrders:
        assert orders is not None
        return orders

    def given_market() -> MarketData:
        assert market is not None
        return market

    return AlpacaAdmin(reads, given_market, given_orders, DeskSettings())


def clock_check(
    reads: TradingReads, clock: Clock, log: EventLogger, journal_ns: Callable[[], int] = lambda: 0
) -> ClockCheck:
    """Compares this clock with the server's."""
    return ClockCheck(admin_of(reads).clock, clock, log, LIMIT_S, journal_ns)
