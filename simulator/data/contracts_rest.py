"""Reference data: option contracts with paging, assets, clock and calendar.

Read only, as of the simulated time. Everything comes from the market's sessions and listings; no account is known here.
"""

from __future__ import annotations

import base64
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Any

from aiohttp import web

from daemon.alpaca_api.queries import reply
from daemon.alpaca_api.wire import asset_id, stamp
from simulator.data.queries import BadRequest
from simulator.prices.market import Market
from simulator.prices.tape import NEW_YORK, new_york_date
from simulator.trading.venue import Brokerage
from strategies.kit.contract import Session
from strategies.kit.units import SECOND_NS

CONTRACTS_LIMIT, CONTRACTS_LIMIT_MAX = 100, 10_000
_AFTER_CLOSE_NS = 8 * 3_600 * SECOND_NS  # a session's listing is valid until midnight


def routes(venue: Brokerage) -> list[web.RouteDef]:
    """Return the routes of contracts, assets, clock and calendar under /v2."""

    async def contracts(request: web.Request) -> web.Response:
        return reply(_contracts_page(venue, request.query))

    async def contract(request: web.Request) -> web.Response:
        name = request.match_info["symbol"]
        rows = listing(venue.market, venue.clock.now_ns())
        chosen = next((row for row in rows if name in {row["symbol"], row["id"]}), None)
        chosen = chosen or venue.market.contract(name, venue.clock.now_ns())
        return _reply(chosen, f"option contract not found for {name}")

    async def assets(request: web.Request) -> web.Response:
        now_ns = venue.clock.now_ns()
        rows = [_asset(venue, symbol, now_ns) for symbol in venue.market.bars]
        filters = {key: request.query[key] for key in ("status", "exchange") if request.query.get(key)}
        if request.query.get("asset_class", "us_equity") != "us_equity":
            rows = []
        return reply([row for row in rows if all(row[key] == value for key, value in filters.items())])

    async def asset(request: web.Request) -> web.Response:
        name = request.match_info["symbol"]
        symbols = (symbol for symbol in venue.market.bars if name in {symbol, asset_id(symbol)})
        rows = (_asset(venue, symbol, venue.clock.now_ns()) for symbol in symbols)
        return _reply(next(rows, None), f"asset not found for {name}")

    async def clock(_: web.Request) -> web.Response:
        return reply(_clock(venue))

    async def calendar(request: web.Request) -> web.Response:
        return reply(_calendar(venue.market.sessions, request.query))

    return [
        web.get("/v2/options/contracts", contracts),
        web.get("/v2/options/contracts/{symbol}", contract),
        web.get("/v2/assets", assets),
        web.get("/v2/assets/{symbol}", asset),
        web.get("/v2/clock", clock),
        web.get("/v2/calendar", calendar),
    ]


def listing(market: Market, now_ns: int) -> list[dict[str, Any]]:
    """Return the contracts listed at `now_ns`: those of the day's session, or of the next one."""
    ended_count = bisect_right([session.close_ns + _AFTER_CLOSE_NS for session in market.sessions], now_ns)
    for session in market.sessions[ended_count:]:
        rows = market.listed(session.date)
        if rows:
            return rows
    return []


def matching(rows: Iterable[dict[str, Any]], query: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the contracts that match all filters of `query`: those of the contracts and the chain endpoint."""
    exact = {
        "expiration_date": "expiration_date",
        "root_symbol": "root_symbol",
        "type": "type",
        "style": "style",
        "status": "status",
    }
    filters = {field: query[name].lower() for name, field in exact.items() if query.get(name)}
    roots = [name for name in query.get("underlying_symbols", "").split(",") if name]
    first, last = query.get("expiration_date_gte", ""), query.get("expiration_date_lte") or "9999"
    low, high = float(query.get("strike_price_gte") or 0), float(query.get("strike_price_lte") or "inf")
    return [
        row
        for row in rows
        if (not roots or row["underlying_symbol"] in roots)
        and all(row[field].lower() == value for field, value in filters.items())
        and first <= row["expiration_date"] <= last
        and low <= float(row["strike_price"]) <= high
    ]


def _contracts_page(venue: Brokerage, query: Mapping[str, str]) -> object:
    now_ns = venue.clock.now_ns()
    fields = dict(query)
    if not any(name.startswith("expiration_date") for name in query):  # without a filter: up to the next weekend
        today = datetime.fromtimestamp(now_ns // SECOND_NS, NEW_YORK).date()
        fields["expiration_date_lte"] = (today + timedelta(days=(5 - today.weekday()) % 7)).isoformat()
    text = query.get("limit") or str(CONTRACTS_LIMIT)
    if not text.isdecimal() or not 1 <= int(text) <= CONTRACTS_LIMIT_MAX:
        raise BadRequest(f"invalid limit: {text!r}; expected 1 to {CONTRACTS_LIMIT_MAX}")
    limit = int(text)
    try:
        rows = matching(listing(venue.market, now_ns), fields)
        begin = int(base64.b64decode(query.get("page_token") or "MA=="))  # "0"
    except ValueError as error:
        raise BadRequest("invalid strike price or page_token") from error
    token = base64.b64encode(str(begin + limit).encode()).decode() if begin + limit < len(rows) else None
    return {"option_contracts": rows[begin : begin + limit], "next_page_token": token}


def _asset(venue: Brokerage, symbol: str, now_ns: int) -> dict[str, Any]:
    """Return the asset; a share that is halted, delisted or renamed is inactive."""
    active = venue.market.tradable(symbol, now_ns)
    return {
        "id": asset_id(symbol),
        "class": "us_equity",
        "exchange": "ARCA",
        "symbol": symbol,
        "name": f"{symbol} of the tape",
        "status": "active" if active else "inactive",
        "tradable": active,
        "marginable": True,
        "maintenance_margin_requirement": 30,
        "shortable": True,
        "easy_to_borrow": True,
        "fractionable": symbol not in venue.rules.not_fractionable,
        "attributes": ["fractional_eh_enabled", "has_options"],
    }


def _clock(venue: Brokerage) -> dict[str, Any]:
    now_ns = venue.now_ns()
    sessions = venue.market.sessions
    closed = venue.faults.take("market_closed") is not None
    if closed:
        sessions = [session for session in sessions if session.date != new_york_date(now_ns)]
    later = [session for session in sessions if session.open_ns > now_ns]
    ending = [session for session in sessions if session.close_ns > now_ns]
    if not later or not ending:
        raise BadRequest(f"the calendar of the tape ends on {sessions[-1].date}: load a longer one")
    return {
        "timestamp": stamp(now_ns, new_york=True),
        "is_open": not closed and venue.market.session_at(now_ns) is not None,
        "next_open": stamp(later[0].open_ns, new_york=True),
        "next_close": stamp(ending[0].close_ns, new_york=True),
    }


def _calendar(sessions: list[Session], query: Mapping[str, str]) -> list[dict[str, str]]:
    first, last = query.get("start", "")[:10], query.get("end", "")[:10] or "9999"
    dates_after = [session.date for session in sessions[1:]]
    dates_after.append((date.fromisoformat(sessions[-1].date) + timedelta(days=1)).isoformat())
    return [
        {
            "date": session.date,
            "open": _wall(session.open_ns),
            "close": _wall(session.close_ns),
            "session_open": "0400",
            "session_close": "2000",
            "settlement_date": settles,
        }
        for session, settles in zip(sessions, dates_after, strict=True)
        if first <= session.date <= last
    ]


def _wall(time_ns: int) -> str:
    """Return the New York time of day, HH:MM."""
    return f"{datetime.fromtimestamp(time_ns // SECOND_NS, NEW_YORK):%H:%M}"


def _reply(row: dict[str, Any] | None, message: str) -> web.Response:
    if row is not None:
        return reply(row)
    return web.json_response({"code": 40410000, "message": message}, status=404)
