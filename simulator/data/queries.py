"""Parse a query of market data: symbols, times, limits and the page token; HTTP 400 if invalid."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import msgspec
from aiohttp import web

from simulator.trading.venue import Brokerage
from strategies.kit.units import MINUTE_NS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RECENT_NS = 15 * MINUTE_NS  # age of SIP data below which a Basic plan is refused


class BadRequest(web.HTTPBadRequest):
    """HTTP 400 with a message and no code, as in Alpaca's market data."""

    def __init__(self, message: str) -> None:
        super().__init__(text=msgspec.json.encode({"message": message}).decode(), content_type="application/json")


def symbols_of(query: Mapping[str, str]) -> list[str]:
    """Return the symbols, at least one. Raises BadRequest."""
    symbols = [name.strip() for name in query.get("symbols", "").split(",") if name.strip()]
    if not symbols:
        raise BadRequest("symbols is required")
    if any(re.fullmatch(r"[A-Z0-9./]{1,25}", symbol) is None for symbol in symbols):
        raise BadRequest(f"invalid symbol: {','.join(symbols)}")
    return symbols


def time_of(query: Mapping[str, str], name: str, default_ns: int) -> int:
    """Return the time under `name` in ns UTC, `default_ns` if missing. Raises BadRequest."""
    text = query.get(name)
    if not text:
        return default_ns
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadRequest(f"invalid {name}: {text!r}; expected RFC 3339 or YYYY-MM-DD") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1_000


def limit_of(query: Mapping[str, str], default: int, most: int) -> int:
    """Return the limit, 1 to `most`. Raises BadRequest."""
    text = query.get("limit", str(default))
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise BadRequest(f"invalid limit: {text!r}; expected 1 to {most}")
    return int(text)


def page_token(symbol: str, last: str) -> str:
    """Return the token of the page that follows this symbol and label."""
    return base64.urlsafe_b64encode(f"{symbol}|M|{last}".encode()).decode()


def page_after(query: Mapping[str, str]) -> tuple[str, str] | None:
    """Return symbol and label of the last row of the previous page; None on the first page."""
    token = query.get("page_token")
    if not token:
        return None
    try:
        symbol, _, last = base64.urlsafe_b64decode(token.encode()).decode().split("|")
    except ValueError as error:
        raise BadRequest(f"invalid page_token: {token!r}") from error
    return symbol, last


def check_plan(venue: Brokerage, query: Mapping[str, str], end_ns: int, now_ns: int) -> None:
    """Refuse recent SIP data with HTTP 403 under a Basic plan."""
    recent = end_ns > now_ns - RECENT_NS and query.get("feed", "sip") == "sip"
    if recent and venue.rules.free_plan:
        raise not_in_plan("SIP")
    basic = [
        fault for fault in venue.faults.waiting("insufficient_subscription") if fault.where.get("stream") == "rest"
    ]
    if recent and basic and venue.faults.take("insufficient_subscription", {"stream": "rest"}) is not None:
        raise not_in_plan("SIP")


def check_feed(venue: Brokerage, query: Mapping[str, str], paid_feed: str) -> None:
    """Refuse the newest data of the paid feed with HTTP 403 on a free plan."""
    if venue.rules.free_plan and query.get("feed", paid_feed) == paid_feed:
        raise not_in_plan(paid_feed.upper())


def not_in_plan(feed: str) -> web.HTTPForbidden:
    """Return the refusal of data outside the plan; that of OPRA is worded as SIP's, as its own is unknown."""
    message = {"message": f"subscription does not permit querying recent {feed} data"}
    return web.HTTPForbidden(text=msgspec.json.encode(message).decode(), content_type="application/json")
