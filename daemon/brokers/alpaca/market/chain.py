"""The option chain of one underlying over REST: the contracts within the trading rules, and their implied volatility.

It chooses nothing to trade: the step takes the nearest expiry and the strikes from the listing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from statistics import median
from typing import Any

from daemon.brokers.alpaca.rest.client import RestError
from daemon.brokers.alpaca.rest.market_data import MarketData
from daemon.brokers.alpaca.trading.trading import TradingReads
from daemon.brokers.api import EventLogger
from daemon.core.events import Contract, ContractsListed, SessionScheduled
from daemon.core.instruments.option_market import parse_occ
from daemon.core.limits import Contracts

LISTED_SPAN = Decimal("0.06")  # of the spot, on each side: range of listed strikes
MONEY_SPAN = Decimal("0.02")  # of the spot, on each side: range for the implied volatility
DIGITS_MOST = 12  # digits of an open interest
SHARES = 100  # shares of an ordinary contract; others are adjusted


class ChainReader:
    """Reads the chain of one underlying by the trading rules."""

    def __init__(
        self,
        contracts: TradingReads,
        market: MarketData,
        underlying: str,
        rule: Contracts,
        feed: str,
        log: EventLogger,
    ) -> None:
        self._contracts = contracts
        self._market = market
        self._underlying = underlying
        self._rule = rule
        self._feed = feed
        self._log = log

    async def listed(self, session: SessionScheduled, spot: float, now_ns: Callable[[], int]) -> ContractsListed | None:
        """Return the contracts for a session around `spot` (USD); None without any. Raises RestError.

        `now_ns` is called after the last read and gives the event's time.
        """
        days = (session.session, *session.upcoming)[self._rule.min_days : self._rule.max_days + 1]
        expiries = [session.date for session in days]
        if not expiries or not math.isfinite(spot) or spot <= 0:
            return None
        low, high = strikes_around(spot, LISTED_SPAN)
        raw = await self._contracts.option_contracts(self._underlying, expiries[0], expiries[-1], low, high)
        contracts, odd = read_contracts(raw, self._underlying, expiries)
        if odd:
            self._log("contracts_left_out", underlying=self._underlying, count=len(odd), first=odd[:5])
        expiry = nearest_expiry(contracts)
        if expiry is None:
            return None
        volatility = await self._volatility(expiry, spot)
        return ContractsListed(now_ns(), session.session.date, contracts, volatility)

    async def _volatility(self, expiry: str, spot: float) -> float | None:
        low, high = strikes_around(spot, MONEY_SPAN)
        try:
            snapshots = await self._market.option_chain(self._underlying, expiry, expiry, low, high, self._feed)
        except RestError as error:
            self._log("volatility_unknown", underlying=self._underlying, expiry=expiry, problem=str(error))
            return None
        volatility = implied_volatility(snapshots)
        if volatility is None:
            problem = f"none of {len(snapshots)} snapshots has one"
            self._log("volatility_unknown", underlying=self._underlying, expiry=expiry, problem=problem)
        return volatility


def strikes_around(spot: float, span: Decimal) -> tuple[Decimal, Decimal]:
    """Return whole dollars that enclose `span` of the spot on each side."""
    middle = Decimal(repr(spot))
    low = (middle * (1 - span)).to_integral_value(ROUND_FLOOR)
    return low, (middle * (1 + span)).to_integral_value(ROUND_CEILING)


def read_contracts(
    raw: Iterable[object], underlying: str, expiries: Collection[str]
) -> tuple[tuple[Contract, ...], list[str]]:
    """Return the ordinary, tradable contracts by expiry, strike, right; and the names of the others."""
    good: dict[str, Contract] = {}
    odd: list[str] = []
    for item in raw:
        contract = _contract(item, underlying)
        if contract is None:
            odd.append(str(item.get("symbol")) if isinstance(item, Mapping) else type(item).__name__)
        elif contract.expiry in expiries:
            good[contract.symbol] = contract
    contracts = sorted(good.values(), key=lambda c: (c.expiry, c.strike, -c.right))
    return tuple(contracts), odd


def _contract(item: object, underlying: str) -> Contract | None:
    if not isinstance(item, Mapping):
        return None
    symbol = item.get("symbol")
    occ = parse_occ(symbol) if isinstance(symbol, str) else None
    if occ is None or occ.root != underlying or not isinstance(symbol, str):
        return None
    if item.get("tradable") is not True or item.get("status", "active") != "active":
        return None
    if str(item.get("size", SHARES)) != str(SHARES) or item.get("underlying_symbol", underlying) != underlying:
        return None
    interest = str(item.get("open_interest"))
    count = int(interest) if interest.isdecimal() and len(interest) <= DIGITS_MOST else 0
    return Contract(symbol, occ.expiry, occ.right, occ.strike, count)


def nearest_expiry(contracts: Iterable[Contract]) -> str | None:
    """Return the first expiry that has a strike with both rights."""
    strikes: dict[tuple[str, Decimal], set[int]] = {}
    for contract in contracts:
        strikes.setdefault((contract.expiry, contract.strike), set()).add(contract.right)
    return min((expiry for (expiry, _), rights in strikes.items() if len(rights) > 1), default=None)


def implied_volatility(snapshots: Mapping[str, Any]) -> float | None:
    """Return the median of sane implied volatilities (annualised); None without any."""
    values = [item.get("impliedVolatility") for item in snapshots.values() if isinstance(item, Mapping)]
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and 0 < v < 10]
    return median(numbers) if numbers else None
