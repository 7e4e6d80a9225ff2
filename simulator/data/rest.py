"""Market-data REST: pages of bars of any timeframe, newest quotes and trades, snapshots, chains with Greeks.

Read only, as of the simulated time. A bar is available one second after its end, and corrected once the correction is
known. Adjustments are as of today.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from functools import lru_cache

import msgspec
from aiohttp import web

from daemon.alpaca_api.queries import reply
from simulator.data import contracts_rest
from simulator.data.fields import Fields, bar_row, merge_bars, quote_row, trade_row
from simulator.data.queries import (
    BadRequest,
    check_feed,
    check_plan,
    limit_of,
    page_after,
    page_token,
    symbols_of,
    time_of,
)
from simulator.prices.corporate_actions import ADJUSTMENTS, BackAdjustment, adjust_bar, effective_day
from simulator.prices.market import BAR_DELAY_NS
from simulator.prices.tape import midnight_ns, new_york_date
from simulator.trading.venue import Brokerage
from strategies.kit.contract import Bar, Session
from strategies.kit.units import MINUTE_NS

BARS_LIMIT, BARS_LIMIT_MAX = 1_000, 10_000
_TIMEFRAME = re.compile(r"([1-9]\d?)(Min|T|Hour|H|Day|D|Week|W|Month|M)")


def stock_bars(venue: Brokerage, query: Mapping[str, str]) -> object:
    """GET /v2/stocks/bars: one page of the history. Raises BadRequest."""
    now_ns = venue.clock.now_ns()
    symbols = sorted(set(symbols_of(query)))
    start_ns = time_of(query, "start", midnight_ns(new_york_date(now_ns)))
    end_ns = time_of(query, "end", now_ns)
    check_plan(venue, query, end_ns, now_ns)
    limit = limit_of(query, BARS_LIMIT, BARS_LIMIT_MAX)
    adjustment = query.get("adjustment") or "raw"
    if adjustment not in ADJUSTMENTS:
        raise BadRequest(f"invalid adjustment: {adjustment!r}; expected one of {', '.join(ADJUSTMENTS)}")
    newest_first = query.get("sort", "asc") == "desc"
    page_start = page_after(query)
    bars: dict[str, list[msgspec.Raw]] = {}
    token: str | None = None
    for symbol in symbols:
        if (page_start is not None and symbol < page_start[0]) or not _known(venue, symbol, query, now_ns):
            continue
        steps = _steps(venue, symbol, adjustment, now_ns)
        rows = _aggregate(venue, symbol, query.get("timeframe", ""), start_ns, end_ns, now_ns, steps)
        if newest_first:
            rows.reverse()
        if page_start is not None and symbol == page_start[0]:
            last = int(page_start[1])
            rows = [bar for bar in rows if (bar.start_ns < last if newest_first else bar.start_ns > last)]
        page = rows[:limit]
        if page:
            bars[symbol] = [_row(bar) for bar in page]
            token = page_token(symbol, str(page[-1].start_ns))
        limit -= len(page)
        if len(page) < len(rows):
            return {"bars": bars, "next_page_token": token}
    return {"bars": bars, "next_page_token": None}


def _known(venue: Brokerage, symbol: str, query: Mapping[str, str], now_ns: int) -> bool:
    """Return whether the share has this name on the query's `asof` (today); its history includes older names."""
    days = venue.market.days
    return days is None or symbol not in days.names or days.called(symbol, query.get("asof") or effective_day(now_ns))


def _steps(venue: Brokerage, symbol: str, adjustment: str, now_ns: int) -> list[BackAdjustment]:
    days, today = venue.market.days, effective_day(now_ns)
    if days is None:
        return []
    steps = days.steps(symbol, adjustment, today)
    steps_before = [step for step in steps if step.date < today]
    if len(steps_before) < len(steps) and venue.faults.waiting("day_bars_unadjusted"):
        where = {"stream": "rest", "symbol": symbol}
        return steps_before if venue.faults.take("day_bars_unadjusted", where) is not None else steps
    return steps


def _aggregate(
    venue: Brokerage,
    symbol: str,
    timeframe: str,
    start_ns: int,
    end_ns: int,
    now_ns: int,
    steps: Sequence[BackAdjustment],
) -> list[Bar]:
    """Return the known bars of a timeframe with labels from `start_ns` to `end_ns`."""
    match = _TIMEFRAME.fullmatch(timeframe)
    if match is None:
        raise BadRequest(f"invalid timeframe: {timeframe!r}")
    count, unit = int(match[1]), match[2]
    groups: dict[int, list[Bar]] = {}
    if unit in {"Min", "T", "Hour", "H"}:
        width = count * MINUTE_NS * (60 if unit in {"Hour", "H"} else 1)
        rows = list(known_bars(venue, symbol, start_ns, end_ns + width - MINUTE_NS, now_ns))
        if steps:
            rows = [adjust_bar(bar, new_york_date(bar.start_ns), steps) for bar in rows]
        if width == MINUTE_NS:
            return rows
        for bar in rows:
            groups.setdefault(bar.start_ns // width * width, []).append(bar)
    elif count == 1 and unit in {"D", "Day"}:
        return _days(venue, symbol, start_ns, end_ns, now_ns, steps)
    else:  # regular hours
        for session in venue.market.sessions:
            label = _period_ns(session.date, unit, count)
            if start_ns <= label <= end_ns and session.open_ns < now_ns:
                day = day_bar(venue, symbol, session, now_ns)
                if day is not None:
                    groups.setdefault(label, []).append(adjust_bar(day, session.date, steps))
    bars = (merge_bars(rows, start) for start, rows in groups.items() if start_ns <= start <= end_ns)
    return [bar for bar in bars if bar is not None]


def _days(
    venue: Brokerage, symbol: str, start_ns: int, end_ns: int, now_ns: int, steps: Sequence[BackAdjustment]
) -> list[Bar]:
    """Return daily bars, labelled by their midnights."""
    sessions = venue.market.sessions
    first = bisect_left(sessions, start_ns, key=_midnight_ns)
    sessions_asked = sessions[first : bisect_right(sessions, min(end_ns, now_ns), lo=first, key=_midnight_ns)]
    days = (
        (session.date, day_bar(venue, symbol, session, now_ns))
        for session in sessions_asked
        if session.open_ns < now_ns
    )
    return [adjust_bar(bar, day, steps) if steps else bar for day, bar in days if bar is not None]


def _midnight_ns(session: Session) -> int:
    return midnight_ns(session.date)


@lru_cache(maxsize=65_536)
def _row(bar: Bar) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(bar_row(bar)))


@lru_cache(maxsize=4096)  # every symbol requests the same days
def _period_ns(day: str, unit: str, count: int) -> int:
    first = date.fromisoformat(day)
    if unit in {"Week", "W"}:
        first -= timedelta(days=first.weekday())
    elif unit in {"Month", "M"}:
        first = first.replace(month=(first.month - 1) // count * count + 1, day=1)
    return midnight_ns(first.isoformat())


def day_bar(venue: Brokerage, symbol: str, session: Session, now_ns: int) -> Bar | None:
    """Return a session's bar as traded, as known now: a running one grows with its minutes."""
    market = venue.market
    if venue.faults.waiting("day_bar_missing"):
        late = {"stream": "rest", "symbol": symbol, "date": session.date}
        if venue.faults.take("day_bar_missing", late) is not None:
            return None
    if market.days is not None and now_ns >= session.close_ns + BAR_DELAY_NS:
        taped = symbol in market.bars and symbol not in market.derived
        if not (taped and market.session_bars(session.date, symbol)):
            return market.days.bar(symbol, session.date)
    return merge_bars(
        known_bars(venue, symbol, session.open_ns, session.close_ns - 1, now_ns), midnight_ns(session.date)
    )


def known_bars(venue: Brokerage, symbol: str, start_ns: int, end_ns: int, now_ns: int) -> Sequence[Bar]:
    """Return the minute bars from `start_ns` to `end_ns` that are known at `now_ns`, with known corrections."""
    starts = venue.market.starts.get(symbol, [])
    newest_ns = min(end_ns, now_ns - MINUTE_NS - BAR_DELAY_NS)
    rows = venue.market.bars.get(symbol, [])[bisect_left(starts, start_ns) : bisect_right(starts, newest_ns)]
    if symbol in venue.market.halts:
        rows = [bar for bar in rows if venue.market.has_bar(symbol, bar.start_ns)]
    corrections = venue.corrections
    if not corrections:
        return rows
    late = ((bar, corrections.get((symbol, bar.start_ns))) for bar in rows)
    return [bar if new is None or now_ns < new[0] else new[1] for bar, new in late]


ACTIONS_LIMIT, ACTIONS_LIMIT_MAX = 100, 1_000
ACTION_TYPES = (
    "cash_dividend", "forward_split", "reverse_split",
    "cash_merger", "stock_merger", "stock_and_cash_merger", "spin_off",
)  # fmt: skip


def _corporate_actions(venue: Brokerage, query: Mapping[str, str]) -> object:
    """GET /v1/corporate-actions: a page of corporate actions, by process date."""
    symbols, days = symbols_of(query), venue.market.days
    begin, limit = int(query.get("page_token") or 0), limit_of(query, ACTIONS_LIMIT, ACTIONS_LIMIT_MAX)
    if days is None:
        return {"corporate_actions": {}, "next_page_token": None}
    first, last = query.get("start") or "", query.get("end") or "9999"
    types = query["types"].split(",") if "types" in query else ACTION_TYPES
    rows: list[tuple[str, str, dict[str, object]]] = []
    for dividend in days.dividends:
        payment_date = dividend.paid or dividend.date
        row: dict[str, object] = {"symbol": dividend.symbol, "ex_date": dividend.date, "rate": float(dividend.amount)}
        row |= {"special": False, "foreign": False, "payable_date": payment_date, "process_date": payment_date}
        rows.append((payment_date, "cash_dividend", row))
    for split in days.splits:
        new, old = split.ratio.as_integer_ratio()
        row = {"symbol": split.symbol, "ex_date": split.date, "process_date": split.date}
        kind = "forward_split" if split.ratio > 1 else "reverse_split"
        rows.append((split.date, kind, {**row, "new_rate": new, "old_rate": old}))
    for merger in days.mergers:
        row = {"acquirer_symbol": merger.new, "acquiree_symbol": merger.symbol, "effective_date": merger.date}
        row["process_date"] = merger.date
        new, old = merger.ratio.as_integer_ratio()
        shares = {"acquirer_rate": new, "acquiree_rate": old}
        if not merger.ratio:
            rows.append((merger.date, "cash_merger", {**row, "rate": float(merger.cash)}))
        elif not merger.cash:
            rows.append((merger.date, "stock_merger", {**row, **shares}))
        else:
            rows.append((merger.date, "stock_and_cash_merger", {**row, **shares, "cash_rate": float(merger.cash)}))
    for spin_off in days.spin_offs:
        new, old = spin_off.ratio.as_integer_ratio()
        row = {"source_symbol": spin_off.symbol, "source_rate": old, "new_symbol": spin_off.new, "new_rate": new}
        rows.append((spin_off.date, "spin_off", {**row, "ex_date": spin_off.date, "process_date": spin_off.date}))
    rows.sort(key=lambda entry: entry[:2])
    rows = [e for e in rows if first <= e[0] <= last and e[1] in types and any(it in symbols for it in _parties(e[2]))]
    actions_by_kind: dict[str, list[object]] = {}
    for _, kind, row in rows[begin : begin + limit]:
        actions_by_kind.setdefault(f"{kind}s", []).append(row)
    token = str(begin + limit) if begin + limit < len(rows) else None
    return {"corporate_actions": actions_by_kind, "next_page_token": token}


def _parties(row: Mapping[str, object]) -> list[object]:
    """Return the symbols of a corporate action."""
    return [value for name, value in row.items() if name == "symbol" or name.endswith("_symbol")]


CHAIN_LIMIT, CHAIN_LIMIT_MAX = 100, 1_000
SYMBOLS_MAX = 100  # most symbols in one options request


def routes(venue: Brokerage) -> list[web.RouteDef]:
    """Return the routes under /v2/stocks, /v1/corporate-actions and /v1beta1/options."""

    def get(path: str, answer: Callable[[Brokerage, Mapping[str, str]], object]) -> web.RouteDef:
        async def handler(request: web.Request) -> web.Response:
            if path not in {"/v2/stocks/bars", "/v1/corporate-actions"}:  # bars are refused by their age
                check_feed(venue, request.query, "sip" if path.startswith("/v2/stocks") else "opra")
            return reply(answer(venue, {**request.query, **request.match_info}))

        return web.get(path, handler)

    return [
        get("/v2/stocks/bars", stock_bars),
        get("/v2/stocks/bars/latest", _latest("bars", _latest_bar)),
        get("/v2/stocks/quotes/latest", _latest("quotes", quote_row)),
        get("/v2/stocks/trades/latest", _latest("trades", trade_row)),
        get("/v2/stocks/snapshots", _stock_snapshots),
        get("/v1/corporate-actions", _corporate_actions),
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
    while index >= 0 and not venue.market.has_bar(symbol, starts[index]):
        index -= 1
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
    """Return the two newest daily bars as traded, newest first, None if missing.

    They are those of the last two sessions; of a share that does not trade (halted, delisted) the last ones, however
    old.
    """
    begun_sessions = [session for session in venue.market.sessions if session.open_ns <= now_ns]
    if symbol not in venue.market.derived:
        bars = [day_bar(venue, symbol, session, now_ns) for session in reversed(begun_sessions[-2:])]
        return [None if bar is None else bar_row(bar) for bar in bars] + [None, None]
    rows: list[Fields | None] = []
    for session in reversed(begun_sessions):
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
    limit, page_start = limit_of(query, CHAIN_LIMIT, CHAIN_LIMIT_MAX), page_after(query)
    rest = symbols if page_start is None else [symbol for symbol in symbols if symbol > page_start[0]]
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
