"""The option contracts that a session lists, as the contracts endpoint has them. Pure functions of the market."""

from __future__ import annotations

import uuid
import zlib
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from daemon.core.instruments import option_market
from strategies.kit.contract import Session

if TYPE_CHECKING:
    from simulator.prices.market import Market

EXPIRIES = 10  # dates listed after a session's own


def contracts(market: Market, index: int, centre: int) -> list[dict[str, Any]]:
    """All contracts of the session of this index: its date and EXPIRIES later ones, strikes around `centre` USD."""
    strikes = range(max(1, centre - market.strikes_each_side), centre + market.strikes_each_side + 1)
    return [
        contract(market, index, expiry, right, strike)
        for expiry in market.sessions[index : index + EXPIRIES + 1]
        for right in (1, -1)
        for strike in strikes
    ]


def contract(market: Market, index: int, expiry: Session, right: int, strike: int) -> dict[str, Any]:
    """One contract as of the session of this index."""
    symbol = option_market.occ_symbol(market.symbol, expiry.date, right, Decimal(strike))
    before = market.sessions[index - 1] if index else None
    old = before is not None and market.is_listed(symbol, before.close_ns - 1)  # what is new today has no history
    quote = market.quote(symbol, before.close_ns - 1) if before is not None and old else None
    kind = "Call" if right > 0 else "Put"
    return {
        "id": asset_id(symbol),
        "symbol": symbol,
        "name": f"{market.symbol} {date.fromisoformat(expiry.date):%b %d %Y} {strike} {kind}",
        "status": "active",
        "tradable": True,
        "expiration_date": expiry.date,
        "root_symbol": market.symbol,
        "underlying_symbol": market.symbol,
        "underlying_asset_id": asset_id(market.symbol),
        "type": kind.lower(),
        "style": "american",
        "strike_price": str(strike),
        "multiplier": "100",
        "size": "100",
        "open_interest": str(500 + zlib.crc32(f"{market.seed}:{symbol}".encode()) % 20_000),
        "open_interest_date": before.date if before is not None else None,
        "close_price": None if quote is None else str((quote[0] + quote[1]) / 2),
        "close_price_date": before.date if before is not None and quote is not None else None,
    }


@lru_cache(maxsize=65_536)
def asset_id(symbol: str) -> str:
    """The UUID of a symbol: always the same."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, symbol))
