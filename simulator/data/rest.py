"""Market-data REST: the routes, the newest quotes, trades and bars, snapshots, the option chain with its Greeks.

Read only, as of the simulated time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping

from aiohttp import web

from simulator.data import contracts_rest
from simulator.data.bar_history import day_bar, known_bars, stock_bars
from simulator.data.fields import Fields, bar_row, quote_row, trade_row
from simulator.data.queries import BadRequest, check_feed, limit_of, page_after, page_token, reply, symbols_of
from simulator.prices.market import BAR_DELAY_NS
from simulator.trading.venue import Brokerage
from strategies.kit.units import MINUTE_NS

CHAIN_LIMIT, CHAIN_LIMIT_MAX = 100, 1_000
SYMBOLS_MAX = 100  # of one request for options


def routes(venue: Brokerage) -> list[web.RouteDef]:
    """The routes under /v2/stocks and /v1beta1/options."""

    def get(path: str, answer: Callable[[Brokerage, Mapping[str, str]], object]) -> web.RouteDef:
        async def handler(request: web.Request) -> web.Response:
            if path != "/v2/stocks/bars":  # whose age decides
                check_feed(venue, request.query, "sip" if path.startswith("/v2/stocks") else "opra")
            return reply(answer(venue, {**request.query, **request.match_info}))

        return web.get(path, handler)

    return [
        get("/v2/stocks/bars", stock_bars),
        get("/v2/stocks/bars/latest", _latest("bars", _latest_bar)),
        get("/v2/stocks/quotes/latest", _latest("quotes", quote_row)),
        get("/v2/stocks/trades/latest", _latest("trades", trade_row)),
        get("/v2/stocks/snapshots", _stock_snapshots),
        get("/v1beta1/options/quotes/latest", _latest("quotes", quote_row)),
        get("/v1beta1/options/trades/latest", _latest("trades", trade_row)),
        get("/v1beta1/options/snapshots", _option_snapshots),
        get("/v1beta1/options/snapshots/{underlying}", _chain),
    ]


# --- the newest ---------------------------------------------------------------------------------------------------


def _latest(
    name: str, row: Callable[[Brokerage, str, int], Fields | None]
) -> Callable[[Brokerage, Mapping[str, str]], object]:
    def answer(venue: Brokerage, query: Mapping[str, str]) -> object:
        now_ns = venue.clock.now_ns()
        rows = {symbol: row(venue, symbol, now_ns) for symbol in symbols_of(query)}
        return {name: {symbol: row_of for symbol, row_of in rows.items() if row_of is not None}}

    return answer


def _latest_bar(venue: Brokerage, symbol: str, now_ns: int) -> Fields | None:
    starts = venue.market.starts.get(symbol, [])
    index = bisect_right(starts, now_ns - MINUTE_NS - BAR_DELAY_NS) - 1
    if index < 0:
        return None
    return bar_row(known_bars(venue, symbol, starts[index], starts[index], now_ns)[0])


def _stock_snapshots(venue: Brokerage, query: Mapping[str, str]) -> object:
    now_ns = venue.clock.now_ns()
    snapshots: dict[str, Fields] = {}
    for symbol in symbols_of(query):
        if symbol in venue.market.bars and venue.market.is_listed(symbol, now_ns):
            days = _daily_rows(venue, symbol, now_ns)
            snapshots[symbol] = {
                "latestTrade": trade_row(venue, symbol, now_ns),
                "latestQuote": quote_row(venue, symbol, now_ns),
                "minuteBar": _latest_bar(venue, symbol, now_ns),
                "dailyBar": days[0],
                "prevDailyBar": days[1],
            }
    return snapshots


def _daily_rows(venue: Brokerage, symbol: str, now_ns: int) -> list[Fields | None]:
    """The two newest daily bars as traded, newest first, None where there is none.

    Those of the last two sessions; of a share that does not trade (halted, delisted) the last there are, however old.
    """
    begun = [session for session in venue.market.sessions if session.open_ns <= now_ns]
    if symbol not in venue.market.derived:
        bars = [day_bar(venue, symbol, session, now_ns) for session in reversed(begun[-2:])]
        return [None if bar is None else bar_row(bar) for bar in bars] + [None, None]
    rows: list[Fields | None] = []
    for session in reversed(begun):
        bar = day_bar(venue, symbol, session, now_ns)
        rows += [] if bar is None else [bar_row(bar)]
        if len(rows) == 2:
            break
    return [*rows, None, None]


# --- options ------------------------------------------------------------------------------------------------------


def _option_snapshots(venue: Brokerage, query: Mapping[str, str]) -> object:
    symbols = symbols_of(query)
    if len(symbols) > SYMBOLS_MAX:
        raise BadRequest(f"too many symbols: {len(symbols)}, the maximum is {SYMBOLS_MAX}")
    return _snapshot_page(
        venue, [symbol for symbol in sorted(symbols) if venue.market.quote(symbol, venue.clock.now_ns())], query
    )


def _chain(venue: Brokerage, query: Mapping[str, str]) -> object:
    underlying = {"underlying_symbols": query["underlying"]}
    contracts = contracts_rest.matching(
        contracts_rest.listing(venue.market, venue.clock.now_ns()), {**query, **underlying}
    )
    return _snapshot_page(venue, [contract["symbol"] for contract in contracts], query)


def _snapshot_page(venue: Brokerage, symbols: list[str], query: Mapping[str, str]) -> object:
    limit, after = limit_of(query, CHAIN_LIMIT, CHAIN_LIMIT_MAX), page_after(query)
    rest = symbols if after is None else [symbol for symbol in symbols if symbol > after[0]]
    context = {"path": "/v1beta1/options/snapshots"}
    bare = venue.faults.take("greeks_missing", context) is not None
    page = {symbol: _option_snapshot(venue, symbol, bare=bare) for symbol in rest[:limit]}
    token = page_token(rest[limit - 1], "") if len(rest) > limit else None
    if page and venue.faults.take("odd_symbol", context) is not None:
        page["XOM2241220P00280000"] = {"latestQuote": next(iter(page.values()))["latestQuote"]}
    return {"snapshots": page, "next_page_token": token}


def _option_snapshot(venue: Brokerage, symbol: str, *, bare: bool) -> Fields:
    now_ns = venue.clock.now_ns()
    fields: Fields = {"latestQuote": quote_row(venue, symbol, now_ns)}
    trade = trade_row(venue, symbol, now_ns)
    if trade is not None:
        fields["latestTrade"] = trade
    greeks = None if bare else venue.market.greeks(symbol, now_ns)
    if greeks is not None:
        fields |= {"greeks": greeks, "impliedVolatility": venue.market.volatility}
    return fields
