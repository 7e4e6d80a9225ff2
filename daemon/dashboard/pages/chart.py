"""The large chart: buckets of any span of a journal with its fills, and panes under the price.

The span is a session, the address's, the whole journal, or a trade with some bars around it.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from datetime import date, timedelta

import msgspec
import numpy as np

from daemon.core.session import new_york_date
from daemon.dashboard.bar_history import STEPS, Buckets, Float64Array, Series
from daemon.dashboard.desks import FollowedDesk
from daemon.dashboard.pages.price import (
    DAILY_BARS,
    NotThere,
    fill_rows,
    first_id,
    mark_of,
    midnight_ns,
    sessions_of,
    symbol_of,
)
from daemon.dashboard.pages.trades import trade_line
from daemon.dashboard.views import BarsPage, Candle, MarkGroup, Pane, TradeLine
from daemon.journal.reader import JournalReader
from daemon.journal.trades import LONGEST, trades_of_decision
from strategies.kit.contract import Spec
from strategies.kit.units import DAY_S, SECOND_NS
from strategies.registry import entry

FILLS_MOST = 200
BESIDE = 40  # bars shown before and after a trade chosen with next or previous
PANES_MOST = 6
QUOTE_ROWS_MOST = 20_000
VOLUME, CONTRACT = "volume", "contract"


class Wish(msgspec.Struct, frozen=True):
    """A request for the chart. Times are seconds UTC, 0 for not given; at most one span counts."""

    symbol: str = ""
    begin: float = 0.0
    end: float = 0.0
    session: str = ""
    trade: str = ""  # next or previous: the trade after or before `at`
    at: float = 0.0
    whole: bool = False
    points: int = 600
    step_s: int | None = None
    panes: tuple[str, ...] = ()
    sessions: bool = False


def chart_page(desk: FollowedDesk, reader: JournalReader, wish: Wish) -> BarsPage:
    """`GET /api/bars`. Raises NotThere for an unknown session, symbol, trade or pane, JournalError, sqlite3.Error."""
    picture = desk.picture
    spec = picture.spec
    if spec is None:
        return BarsPage("", (), 0.0, 0.0, 0.0, 0.0, 0, "", (), (), (), 0, (), ())
    symbol = symbol_of(picture, spec, wish.symbol)
    sessions = tuple(sessions_of(reader)) if wish.sessions and spec.bar_interval_s < DAY_S else ()
    names = (*_names(spec, symbol), *entry(spec.name).indicators)
    symbol_drawn = "" if spec.chained else symbol  # symbol of the fills to draw
    unknown_names = [name for name in wish.panes if name not in (VOLUME, CONTRACT, *names)]
    if unknown_names:
        raise NotThere(
            f"pane is {unknown_names[0][:40]!r}, expected one of {', '.join((VOLUME, CONTRACT, *names)[:60])}"
        )
    trade = _next_trade(reader, wish, symbol_drawn) if wish.trade else None
    with desk.bars.reading(symbol, picture.generation) as series:
        if not len(series):
            return BarsPage(symbol, spec.symbols, 0.0, 0.0, 0.0, 0.0, 0, "", (), (), (), 0, (), (), sessions)
        begin, end = _span(series, spec, wish, trade)
        buckets = series.buckets(begin, end, wish.points, wish.step_s)
        lines = _indicators(series, spec, buckets, wish.panes)
        first, last = series.times[0], series.times[-1]
        place_after = int(buckets.places[-1])
        beyond = series.times[place_after] if place_after < len(series) else last + spec.bar_interval_s
    times = buckets.values[:, 0]
    inside = times[(times >= begin) & (times <= end)]
    visible_span = (float(inside[0]), float(inside[-1])) if len(inside) else (begin, end)
    fills = fill_rows(reader, int(times[0]) * SECOND_NS, int(beyond) * SECOND_NS, symbol_drawn) if len(times) else []
    line_end = next((float(time) for time in times if time > visible_span[1]), beyond)
    inner = [fill for fill in fills if visible_span[0] <= fill["filled_ns"] / SECOND_NS < line_end]
    return BarsPage(
        symbol=symbol,
        symbols=spec.symbols,
        first=first,
        last=last,
        begin=visible_span[0],
        end=visible_span[1],
        step=buckets.step_s,
        length=STEPS.get(buckets.step_s or spec.bar_interval_s, ""),
        bars=tuple(Candle(*row) for row in buckets.values.tolist()),
        marks=tuple(_group(fills, times.tolist())),
        fills=tuple(map(mark_of, inner[: -FILLS_MOST - 1 : -1])),
        fills_seen=len(inner),
        panes=(*_features(reader, spec, symbol, buckets, beyond, wish.panes), *lines),
        names=names,
        sessions=sessions,
        trade=trade,
        contract=_contract(reader, times.tolist(), beyond) if CONTRACT in wish.panes and spec.chained else None,
        days=max(buckets.step_s, spec.bar_interval_s) >= DAY_S,
    )


# --- which span -------------------------------------------------------------------------------------------------------


def _span(series: Series, spec: Spec, wish: Wish, trade: TradeLine | None) -> tuple[float, float]:
    """Return the first and the last second of the visible span."""
    times = series.times
    if trade is not None:
        first, last = (bisect_right(times, at) - 1 for at in (trade.entered, trade.left or times[-1]))
        return times[max(first - BESIDE, 0)], times[min(max(last, 0) + BESIDE, len(times) - 1)]
    if wish.whole:
        return times[0], times[-1]
    if wish.end > wish.begin > 0:
        first, beyond = bisect_left(times, wish.begin), bisect_right(times, wish.end)
        if first < beyond:
            return wish.begin, wish.end
        return times[max(first - BESIDE, 0)], times[min(first + BESIDE, len(times)) - 1]  # in bars, as a night has none
    if wish.session:
        begin = midnight_ns(date.fromisoformat(wish.session)) / SECOND_NS
        end = midnight_ns(date.fromisoformat(wish.session) + timedelta(days=1)) / SECOND_NS - 1
        if not any(begin <= time <= end for time in times[bisect_right(times, begin - 1) :][:1]):
            raise NotThere(f"session is {wish.session!r}, expected a date with bars of this journal")
        return begin, end
    if spec.bar_interval_s == DAY_S:
        return times[max(len(times) - DAILY_BARS, 0)], times[-1]
    return midnight_ns(new_york_date(int(times[-1]) * SECOND_NS)) / SECOND_NS, times[-1]


def _next_trade(reader: JournalReader, wish: Wish, symbol: str) -> TradeLine:
    """Return the trade after or before a time. Raises NotThere, sqlite3.Error."""
    compare, order = (">", "ASC") if wish.trade == "next" else ("<", "DESC")
    at_ns = round(wish.at * SECOND_NS)
    try:
        rows = reader.query(
            f"SELECT opened_ns, symbol, entry_decision FROM round_trips WHERE opened_ns {compare} ? "
            f"AND (? = '' OR symbol = ?) ORDER BY opened_ns {order}, symbol LIMIT 1",
            (at_ns, symbol, symbol),
        )
    except sqlite3.OperationalError:
        rows = []
    if not rows:
        raise NotThere(f"there is no {'later' if wish.trade == 'next' else 'earlier'} trade")
    (row,) = rows
    for trade in trades_of_decision(reader, row["entry_decision"] or 0, 100):
        if (trade.opened_ns, trade.contract or trade.symbol) == (row["opened_ns"], row["symbol"]):
            return trade_line(trade)
    raise NotThere(f"the trade of {row['symbol']} has no decision")


# --- what is drawn ----------------------------------------------------------------------------------------------------


def _group(fills: Sequence[sqlite3.Row], times: list[float]) -> Iterator[MarkGroup]:
    """Merge the fills of one kind within one bucket, in the order of the buckets."""
    groups: dict[tuple[int, str], tuple[int, sqlite3.Row]] = {}
    for fill in fills:
        place = bisect_right(times, fill["filled_ns"] / SECOND_NS) - 1
        if place >= 0:
            key = place, fill["kind"]
            groups[key] = groups[key][0] + 1 if key in groups else 1, fill
    for (place, kind), (count, newest) in sorted(groups.items(), key=lambda group: group[0]):
        mark = mark_of(newest)
        yield MarkGroup(times[place], kind, count, mark.text, mark.decision)


def _names(spec: Spec, symbol: str) -> tuple[str, ...]:
    """Return the features that the policy saw of this symbol, and those without a symbol."""
    other_names = tuple(f" {name}" for name in spec.symbols if name != symbol) if len(spec.symbols) > 1 else ()
    return tuple(name.removesuffix(f" {symbol}") for name in spec.features if not name.endswith(other_names))


def _features(
    reader: JournalReader, spec: Spec, symbol: str, buckets: Buckets, beyond: float, column_names: Sequence[str]
) -> Iterator[Pane]:
    """Yield the features of the policy's newest observation within each bucket."""
    names = [name for name in _names(spec, symbol) if name in column_names]
    if not names or not len(buckets.values):
        return
    ends = [*buckets.values[1:, 0].tolist(), beyond]
    rows = list(_newest_observations(reader, buckets.values[:, 0].tolist(), ends))
    values = [np.frombuffer(row, dtype="<f4") for _, row in rows]
    width = len(spec.features)
    begin = spec.symbols.index(symbol) * width if spec.rows_are_symbols else 0
    for name in names:
        column = begin + spec.features.index(name if name in spec.features else f"{name} {symbol}")
        points = [(time, float(row[column])) for (time, _), row in zip(rows, values, strict=True) if len(row) > column]
        yield Pane(name, "as the policy saw it", tuple(time for time, _ in points), tuple(value for _, value in points))


def _newest_observations(
    reader: JournalReader, starts: Sequence[float], ends: Sequence[float]
) -> Iterator[tuple[float, bytes]]:
    """Yield the newest observation of each bucket that has one, with the bucket's time."""
    for begin, end in zip(starts, ends, strict=True):
        rows = reader.query(
            "SELECT row FROM decisions WHERE bar_ns >= ? AND bar_ns < ? AND row IS NOT NULL "
            "ORDER BY bar_ns DESC LIMIT 1",
            (int(begin) * SECOND_NS, int(end) * SECOND_NS),
        )
        if rows:
            yield begin, rows[0]["row"]


def _indicators(series: Series, spec: Spec, buckets: Buckets, names: Sequence[str]) -> tuple[Pane, ...]:
    """Return the strategy's indicators over all bars so far, at the end of each bucket."""
    lines = {name: line for name, line in entry(spec.name).indicators.items() if name in names}
    if not lines or not len(buckets.values):
        return ()
    rows: Float64Array = np.ascontiguousarray(series.rows(0, int(buckets.places[-1]))[:, 1:].T)
    ends, times = buckets.places[1:] - 1, buckets.values[:, 0]
    panes = []
    for name, line in lines.items():
        values = line.of(rows)[ends]
        is_known = np.isfinite(values)
        panes.append(
            Pane(name, line.meaning, tuple(times[is_known].tolist()), tuple(values[is_known].tolist()), line.overlay)
        )
    return tuple(panes)


def _contract(reader: JournalReader, times: list[float], beyond: float) -> Pane | None:
    """Return the mid of the held contract at the end of each bucket; None for a long span."""
    if not times:
        return None
    begin = times[0]
    first, last = (first_id(reader, int(second) * SECOND_NS) for second in (begin, beyond + 1))
    if last - first > QUOTE_ROWS_MOST:
        return None
    trips = reader.query(
        "SELECT symbol, opened_ns, coalesce(left_ns, ?) AS left_ns FROM round_trips "
        "WHERE opened_ns < ? AND coalesce(left_ns, ?) >= ? ORDER BY opened_ns",
        (LONGEST, int(beyond) * SECOND_NS, LONGEST, int(begin) * SECOND_NS),
    )
    points: dict[float, tuple[str, float]] = {}
    events = reader.query(
        "SELECT payload FROM events WHERE id >= ? AND id < ? AND kind = 'QuotesReceived' ORDER BY id", (first, last)
    )
    for event in events:
        try:
            quotes = _quotes.decode(event["payload"])
        except (msgspec.DecodeError, UnicodeError):
            continue  # a damaged row: the follower reports it
        symbols_held = {row["symbol"] for row in trips if row["opened_ns"] <= quotes.time_ns <= row["left_ns"]}
        for quote in quotes.quotes:
            if quote.symbol in symbols_held and float(quote.ask) > 0:
                middle = (float(quote.bid) + float(quote.ask)) / 2
                place = bisect_right(times, quotes.closes_bar_ns / SECOND_NS) - 1
                points[times[max(place, 0)]] = (quote.symbol, middle)
    names = list(dict.fromkeys(name for name, _ in points.values()))
    meaning = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return Pane(CONTRACT, meaning, tuple(points), tuple(middle for _, middle in points.values()))


class _Quote(msgspec.Struct):
    symbol: str
    bid: str
    ask: str


class _Quotes(msgspec.Struct):
    time_ns: int
    closes_bar_ns: int
    quotes: tuple[_Quote, ...]


_quotes = msgspec.json.Decoder(_Quotes)
