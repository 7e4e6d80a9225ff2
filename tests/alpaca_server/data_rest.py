"""Market-data REST: history with paging, latest quotes, trades and bars, snapshots, the option chain with its Greeks.

Read only, as of the simulated time: a bar is there one second after its end. `*_fields` are the wire form of a bar, a
trade and a quote without type, symbol and time, so that streams and REST never differ.
"""

from __future__ import annotations

import base64
import re
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary
from zoneinfo import ZoneInfo

import msgspec
from aiohttp import web

from strategies.contract import Bar
from tests.alpaca_server import contracts_rest
from tests.alpaca_server.market import BAR_DELAY_NS, MINUTE_NS, SECOND_NS, Market
from tests.alpaca_server.tape import midnight_ns, new_york_date

if TYPE_CHECKING:
    from tests.alpaca_server.server import AlpacaServer

Fields = dict[str, Any]
Corrections = dict[tuple[str, int], tuple[int, Bar]]  # (symbol, start) -> (known from, the bar as corrected)

BARS_LIMIT, BARS_LIMIT_MAX = 1_000, 10_000
CHAIN_LIMIT, CHAIN_LIMIT_MAX = 100, 1_000
SYMBOLS_MAX = 100  # of one request for options
RECENT_NS = 15 * MINUTE_NS  # what a Basic plan may not ask of SIP
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMEFRAME = re.compile(r"([1-9]\d?)(Min|T|Hour|H|Day|D|Week|W|Month|M)")
_CORRECTIONS: WeakKeyDictionary[AlpacaServer, Corrections] = WeakKeyDictionary()


class BadRequest(web.HTTPBadRequest):
    """HTTP 400 with a message and no code, as market data has it."""

    def __init__(self, message: str) -> None:
        super().__init__(text=msgspec.json.encode({"message": message}).decode(), content_type="application/json")


def routes(server: AlpacaServer) -> list[web.RouteDef]:
    """The routes under /v2/stocks and /v1beta1/options."""

    def get(path: str, answer: Callable[[AlpacaServer, Mapping[str, str]], object]) -> web.RouteDef:
        async def handler(request: web.Request) -> web.Response:
            return reply(answer(server, {**request.query, **request.match_info}))

        return web.get(path, handler)

    return [
        get("/v2/stocks/bars", _bars),
        get("/v2/stocks/bars/latest", _latest("bars", _latest_bar)),
        get("/v2/stocks/quotes/latest", _latest("quotes", quote_row)),
        get("/v2/stocks/trades/latest", _latest("trades", trade_row)),
        get("/v2/stocks/snapshots", _stock_snapshots),
        get("/v1beta1/options/quotes/latest", _latest("quotes", quote_row)),
        get("/v1beta1/options/trades/latest", _latest("trades", trade_row)),
        get("/v1beta1/options/snapshots", _option_snapshots),
        get("/v1beta1/options/snapshots/{underlying}", _chain),
    ]


def reply(body: object) -> web.Response:
    """`body` as JSON."""
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


def corrections(server: AlpacaServer) -> Corrections:
    """The bars that were corrected after the fact: history has them from then on."""
    return _CORRECTIONS.setdefault(server, {})


# --- the wire form ------------------------------------------------------------------------------------------------


def rfc3339(time_ns: int, zone: ZoneInfo | None = None) -> str:
    """A time as text with up to 9 fractional digits, trailing zeros dropped: `Z`, or the offset of `zone`."""
    seconds, fraction = divmod(time_ns, SECOND_NS)
    text = datetime.fromtimestamp(seconds, zone or UTC).isoformat()
    body, offset = text[:19], text[19:] if zone is not None else "Z"
    if not fraction:
        return body + offset
    return f"{body}.{fraction:09d}".rstrip("0") + offset


def bar_fields(bar: Bar) -> Fields:
    """`o h l c v n vw` of a bar; count and VWAP are made up from volume and prices."""
    typical = round((bar.open + bar.high + bar.low + bar.close) / 4, 6)
    return {
        "o": bar.open,
        "h": bar.high,
        "l": bar.low,
        "c": bar.close,
        "v": int(bar.volume),
        "n": max(1, int(bar.volume) // 100),
        "vw": typical,
    }


def quote_fields(market: Market, symbol: str, at_ns: int) -> Fields | None:
    """`bx bp bs ax ap as c` (and `z` of a stock) of the quote; a side without a price has price and size 0."""
    quote = market.quote(symbol, at_ns)
    if quote is None:
        return None
    bid, ask = quote
    chance = zlib.crc32(f"{symbol}{market.last_change(symbol, at_ns)}".encode())
    bids, asks = 1 + chance % 50 if bid else 0, 1 + (chance >> 8) % 50
    if symbol in market.bars:  # shares; lots of a hundred
        sides = {"bx": "Q", "bp": float(bid), "bs": 100 * bids, "ax": "P", "ap": float(ask), "as": 100 * asks}
        return {**sides, "c": ["R"], "z": "B"}
    return {"bx": "C", "bp": float(bid), "bs": bids, "ax": "C", "ap": float(ask), "as": asks, "c": "A"}


def trade_fields(market: Market, symbol: str, at_ns: int) -> Fields | None:
    """A trade at the path point's price, or at an option's mid: `i x p s c z` of a stock, `p s x c` of an option."""
    quote = market.quote(symbol, at_ns)
    if quote is None:
        return None
    chance = zlib.crc32(f"{market.last_change(symbol, at_ns)}{symbol}".encode())
    if symbol not in market.bars:
        return {"p": float(sum(quote) / 2), "s": 1 + chance % 10, "x": "N", "c": "S"}
    shares = {"i": 52_983_525_000_000 + chance, "x": "P", "p": float(quote[0]), "s": 1 + chance % 300}
    return {**shares, "c": ["@"], "z": "B"}


def never_trades(symbol: str) -> bool:
    """Whether an option is one of the third that never trade, so that snapshots have no `latestTrade`."""
    return zlib.crc32(symbol.encode()) % 3 == 0


def bar_row(bar: Bar, start_ns: int | None = None) -> Fields:
    """A bar as REST shows it."""
    return {"t": rfc3339(bar.start_ns if start_ns is None else start_ns), **bar_fields(bar)}


def quote_row(server: AlpacaServer, symbol: str, now_ns: int) -> Fields | None:
    """The latest quote as REST shows it."""
    at_ns = server.market.last_change(symbol, now_ns)
    fields = quote_fields(server.market, symbol, now_ns)
    return None if at_ns is None or fields is None else {"t": rfc3339(at_ns), **fields}


def trade_row(server: AlpacaServer, symbol: str, now_ns: int) -> Fields | None:
    """The latest trade as REST shows it; None for a third of the options, which never traded."""
    if symbol not in server.market.bars and never_trades(symbol):
        return None
    at_ns = server.market.last_change(symbol, now_ns)
    fields = trade_fields(server.market, symbol, now_ns)
    return None if at_ns is None or fields is None else {"t": rfc3339(at_ns), **fields}


def merged(bars: Iterable[Bar], start_ns: int) -> Bar | None:
    """One bar of many in time order, labelled `start_ns`; None of none."""
    rows = list(bars)
    if not rows:
        return None
    high, low = max(bar.high for bar in rows), min(bar.low for bar in rows)
    volume = sum(bar.volume for bar in rows)
    return Bar(rows[0].symbol, start_ns, rows[0].open, high, low, rows[-1].close, volume)


# --- history ------------------------------------------------------------------------------------------------------


def _bars(server: AlpacaServer, query: Mapping[str, str]) -> object:
    now_ns = server.clock.now_ns()
    symbols = sorted(set(_symbols(query)))
    start_ns = _time(query, "start", midnight_ns(new_york_date(now_ns)))
    end_ns = _time(query, "end", now_ns)
    _check_plan(server, query, end_ns, now_ns)
    limit = _limit(query, BARS_LIMIT, BARS_LIMIT_MAX)
    newest_first = query.get("sort", "asc") == "desc"
    after = _after(query)
    found: dict[str, list[Fields]] = {}
    token: str | None = None
    for symbol in symbols:
        if after is not None and symbol < after[0]:
            continue
        rows = _aggregated(server, symbol, query.get("timeframe", ""), start_ns, end_ns, now_ns)
        if newest_first:
            rows.reverse()
        if after is not None and symbol == after[0]:
            last = int(after[1])
            rows = [bar for bar in rows if (bar.start_ns < last if newest_first else bar.start_ns > last)]
        page = rows[:limit]
        if page:
            found[symbol] = [bar_row(bar) for bar in page]
            token = _token(symbol, str(page[-1].start_ns))
        limit -= len(page)
        if len(page) < len(rows):
            return {"bars": found, "next_page_token": token}
    return {"bars": found, "next_page_token": None}


def _aggregated(
    server: AlpacaServer, symbol: str, timeframe: str, start_ns: int, end_ns: int, now_ns: int
) -> list[Bar]:
    """The bars of a timeframe whose labels lie from `start_ns` to `end_ns`, of the minutes that are known by now."""
    match = _TIMEFRAME.fullmatch(timeframe)
    if match is None:
        raise BadRequest(f"invalid timeframe: {timeframe!r}")
    count, unit = int(match[1]), match[2]
    groups: dict[int, list[Bar]] = {}
    if unit in {"Min", "T", "Hour", "H"}:
        width = count * MINUTE_NS * (60 if unit in {"Hour", "H"} else 1)
        rows = known_bars(server, symbol, start_ns, end_ns + width - MINUTE_NS, now_ns)
        if width == MINUTE_NS:
            return rows
        for bar in rows:
            groups.setdefault(bar.start_ns // width * width, []).append(bar)
    else:  # of regular hours
        for session in server.market.sessions:
            label = _period_ns(session.date, unit, count)
            if start_ns <= label <= end_ns and session.open_ns < now_ns:
                rows = known_bars(server, symbol, session.open_ns, session.close_ns - 1, now_ns)
                groups.setdefault(label, []).extend(rows)
    bars = (merged(rows, start) for start, rows in groups.items() if start_ns <= start <= end_ns)
    return [bar for bar in bars if bar is not None]


def _period_ns(day: str, unit: str, count: int) -> int:
    first = date.fromisoformat(day)
    if unit in {"Week", "W"}:
        first -= timedelta(days=first.weekday())
    elif unit in {"Month", "M"}:
        first = first.replace(month=(first.month - 1) // count * count + 1, day=1)
    return midnight_ns(first.isoformat())


def known_bars(server: AlpacaServer, symbol: str, start_ns: int, end_ns: int, now_ns: int) -> list[Bar]:
    """The minute bars that start from `start_ns` to `end_ns` and are known at `now_ns`, corrected where they were."""
    starts = server.market.starts.get(symbol, [])
    newest_ns = min(end_ns, now_ns - MINUTE_NS - BAR_DELAY_NS)
    rows = server.market.bars.get(symbol, [])[bisect_left(starts, start_ns) : bisect_right(starts, newest_ns)]
    changed = corrections(server)
    if not changed:
        return rows
    late = ((bar, changed.get((symbol, bar.start_ns))) for bar in rows)
    return [bar if new is None or now_ns < new[0] else new[1] for bar, new in late]


# --- the newest ---------------------------------------------------------------------------------------------------


def _latest(
    name: str, row: Callable[[AlpacaServer, str, int], Fields | None]
) -> Callable[[AlpacaServer, Mapping[str, str]], object]:
    def answer(server: AlpacaServer, query: Mapping[str, str]) -> object:
        now_ns = server.clock.now_ns()
        rows = {symbol: row(server, symbol, now_ns) for symbol in _symbols(query)}
        return {name: {symbol: found for symbol, found in rows.items() if found is not None}}

    return answer


def _latest_bar(server: AlpacaServer, symbol: str, now_ns: int) -> Fields | None:
    starts = server.market.starts.get(symbol, [])
    index = bisect_right(starts, now_ns - MINUTE_NS - BAR_DELAY_NS) - 1
    if index < 0:
        return None
    return bar_row(known_bars(server, symbol, starts[index], starts[index], now_ns)[0])


def _stock_snapshots(server: AlpacaServer, query: Mapping[str, str]) -> object:
    now_ns = server.clock.now_ns()
    found: dict[str, Fields] = {}
    for symbol in _symbols(query):
        if symbol in server.market.bars:
            begun = [session.date for session in server.market.sessions if session.open_ns <= now_ns][-2:]
            days = [_daily_row(server, symbol, day, now_ns) for day in reversed(begun)] + [None, None]
            found[symbol] = {
                "latestTrade": trade_row(server, symbol, now_ns),
                "latestQuote": quote_row(server, symbol, now_ns),
                "minuteBar": _latest_bar(server, symbol, now_ns),
                "dailyBar": days[0],
                "prevDailyBar": days[1],
            }
    return found


def _daily_row(server: AlpacaServer, symbol: str, day: str, now_ns: int) -> Fields | None:
    session = server.market.session_of(day)
    rows = [] if session is None else known_bars(server, symbol, session.open_ns, session.close_ns - 1, now_ns)
    bar = merged(rows, midnight_ns(day))
    return None if bar is None else bar_row(bar)


# --- options ------------------------------------------------------------------------------------------------------


def _option_snapshots(server: AlpacaServer, query: Mapping[str, str]) -> object:
    symbols = _symbols(query)
    if len(symbols) > SYMBOLS_MAX:
        raise BadRequest(f"too many symbols: {len(symbols)}, the maximum is {SYMBOLS_MAX}")
    return _snapshot_page(
        server, [symbol for symbol in sorted(symbols) if server.market.quote(symbol, server.clock.now_ns())], query
    )


def _chain(server: AlpacaServer, query: Mapping[str, str]) -> object:
    underlying = {"underlying_symbols": query["underlying"]}
    contracts = contracts_rest.matching(
        contracts_rest.listing(server.market, server.clock.now_ns()), {**query, **underlying}
    )
    return _snapshot_page(server, [contract["symbol"] for contract in contracts], query)


def _snapshot_page(server: AlpacaServer, symbols: list[str], query: Mapping[str, str]) -> object:
    limit, after = _limit(query, CHAIN_LIMIT, CHAIN_LIMIT_MAX), _after(query)
    rest = symbols if after is None else [symbol for symbol in symbols if symbol > after[0]]
    context = {"path": "/v1beta1/options/snapshots"}
    bare = server.faults.take("greeks_missing", context) is not None
    page = {symbol: _option_snapshot(server, symbol, bare=bare) for symbol in rest[:limit]}
    token = _token(rest[limit - 1], "") if len(rest) > limit else None
    if page and server.faults.take("odd_symbol", context) is not None:
        page["XOM2241220P00280000"] = {"latestQuote": next(iter(page.values()))["latestQuote"]}
    return {"snapshots": page, "next_page_token": token}


def _option_snapshot(server: AlpacaServer, symbol: str, *, bare: bool) -> Fields:
    now_ns = server.clock.now_ns()
    found: Fields = {"latestQuote": quote_row(server, symbol, now_ns)}
    trade = trade_row(server, symbol, now_ns)
    if trade is not None:
        found["latestTrade"] = trade
    greeks = None if bare else server.market.greeks(symbol, now_ns)
    if greeks is not None:
        found |= {"greeks": greeks, "impliedVolatility": server.market.volatility}
    return found


# --- the query ----------------------------------------------------------------------------------------------------


def _symbols(query: Mapping[str, str]) -> list[str]:
    symbols = [name.strip() for name in query.get("symbols", "").split(",") if name.strip()]
    if not symbols:
        raise BadRequest("symbols is required")
    if any(re.fullmatch(r"[A-Z0-9./]{1,25}", symbol) is None for symbol in symbols):
        raise BadRequest(f"invalid symbol: {','.join(symbols)}")
    return symbols


def _time(query: Mapping[str, str], name: str, default_ns: int) -> int:
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


def _limit(query: Mapping[str, str], default: int, most: int) -> int:
    text = query.get("limit", str(default))
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise BadRequest(f"invalid limit: {text!r}; expected 1 to {most}")
    return int(text)


def _token(symbol: str, last: str) -> str:
    return base64.urlsafe_b64encode(f"{symbol}|M|{last}".encode()).decode()


def _after(query: Mapping[str, str]) -> tuple[str, str] | None:
    """Symbol and label of the last point of the page before; None on the first page."""
    token = query.get("page_token")
    if not token:
        return None
    try:
        symbol, _, last = base64.urlsafe_b64decode(token.encode()).decode().split("|")
    except ValueError as error:
        raise BadRequest(f"invalid page_token: {token!r}") from error
    return symbol, last


def _check_plan(server: AlpacaServer, query: Mapping[str, str], end_ns: int, now_ns: int) -> None:
    """HTTP 403 where the script says that the plan is Basic: recent SIP data are not for it."""
    recent = end_ns > now_ns - RECENT_NS and query.get("feed", "sip") == "sip"
    basic = [
        fault for fault in server.faults.waiting("insufficient_subscription") if fault.where.get("stream") == "rest"
    ]
    if recent and basic and server.faults.take("insufficient_subscription", {"stream": "rest"}) is not None:
        message = {"message": "subscription does not permit querying recent SIP data"}
        raise web.HTTPForbidden(text=msgspec.json.encode(message).decode(), content_type="application/json")
