"""Charts of one session's bars with its fills, and of the equity, all from the journal.

`events` is ordered by time as by id: a session's rows are found by binary search, and no table is scanned whole.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import date, datetime, timedelta
from itertools import accumulate
from typing import Any

import msgspec

from daemon.core.session import NEW_YORK, new_york_date, new_york_text
from daemon.core.state import State
from daemon.dashboard.desks import Picture
from daemon.dashboard.views import Candle, EquityPage, FillMark, PricePage
from daemon.engine.state_dir import former_rows_text, part_of
from daemon.journal.reader import JournalReader
from daemon.journal.trades import LONGEST
from strategies.kit.contract import Bar, Spec
from strategies.kit.units import DAY_NS, SECOND_NS
from strategies.registry import daily_strategy

DAILY_BARS = 250
POINTS = 1000
SPARK_POINTS = 40
CENT = 0.005
OPEN_NS = int(9.5 * 3600) * SECOND_NS


class NotThere(LookupError):
    """The journal lacks the requested data."""


class _BarEvent(msgspec.Struct):
    """The part of an event that a candle needs."""

    bar: Bar


_bar_event = msgspec.json.Decoder(_BarEvent)


def midnight_ns(day: date) -> int:
    """Return the start of the New York day."""
    return int(datetime(day.year, day.month, day.day, tzinfo=NEW_YORK).timestamp()) * SECOND_NS


def sessions_of(reader: JournalReader) -> list[str]:
    """Return the dates with a recorded equity, oldest first: one look-up each, no scan."""
    dates: list[str] = []
    after_id = 0
    while True:
        first_ns = reader.query("SELECT min(time_ns) AS t FROM equity WHERE time_ns >= ?", (after_id,))[0]["t"]
        if first_ns is None:
            return dates
        day = new_york_date(first_ns)
        dates.append(day.isoformat())
        after_id = midnight_ns(day + timedelta(days=1))


def first_id(reader: JournalReader, time_ns: int) -> int:
    """Return the first event row not older than `time_ns`, else one past the newest. Skips start-up rows."""
    low, high = 1, (reader.query("SELECT max(id) AS id FROM events")[0]["id"] or 0) + 1
    while low < high:
        middle = (low + high) // 2
        rows = reader.query(
            "SELECT id, time_ns FROM events WHERE id >= ? AND id < ? AND seq IS NOT NULL ORDER BY id LIMIT 1",
            (middle, high),
        )
        if rows and rows[0]["time_ns"] < time_ns:
            low = rows[0]["id"] + 1
        else:
            high = middle
    return low


def price_page(picture: Picture, reader: JournalReader, session: str = "", symbol: str = "") -> PricePage:
    """`GET /api/price`. Raises NotThere for an unknown session or symbol, sqlite3.Error."""
    spec = picture.spec
    if spec is None:
        return PricePage("", (), "", (), (), ())
    return _PAGES[spec.decides](picture, reader, spec, symbol_of(picture, spec, symbol), session)


def _of_session(_: Picture, reader: JournalReader, spec: Spec, symbol: str, session: str) -> PricePage:
    """Return the bars of one session: the chosen one, or the newest."""
    sessions = sessions_of(reader)
    if not sessions:
        return PricePage(symbol, spec.symbols, "", (), (), ())
    chosen = session or sessions[-1]
    if chosen not in sessions:
        raise NotThere(f"session is {chosen!r}, expected a date of this journal, {sessions[0]} to {sessions[-1]}")
    day = date.fromisoformat(chosen)
    from_ns, until_ns = midnight_ns(day), midnight_ns(day + timedelta(days=1))
    bars = _bars_of(reader, symbol, from_ns, until_ns)
    return PricePage(symbol, spec.symbols, chosen, tuple(sessions), bars, fill_marks(reader, from_ns, until_ns))


def symbol_of(picture: Picture, spec: Spec, symbol_wanted: str) -> str:
    """Return the requested symbol; for "" the largest held, else the first. Raises NotThere if it is not the desk's."""
    symbol = symbol_wanted or _largest_held(picture, spec) or spec.symbols[0]
    if symbol not in spec.symbols:
        raise NotThere(f"symbol is {symbol!r}, expected one of this desk: {', '.join(spec.symbols[:60])}")
    return symbol


def _largest_held(picture: Picture, spec: Spec) -> str:
    """Return the symbol of the desk with the most at cost, "" for none."""
    state: State[Any] | None = picture.state
    book_positions = state.book.positions.values() if state is not None else ()
    positions = [position for position in book_positions if position.symbol in spec.symbols]
    return max(positions, key=lambda position: abs(position.cost)).symbol if positions else ""


def _bars_of(reader: JournalReader, symbol: str, from_ns: int, until_ns: int) -> tuple[Candle, ...]:
    """Return a day's bars from the file that holds it. Raises NotThere if it was moved away."""
    noon_ns = (from_ns + until_ns) // 2
    path = part_of(reader.path, noon_ns)
    with closing(JournalReader(path)) as part:
        bars = _bars(part, symbol, from_ns, until_ns)
        first = part.query("SELECT time_ns FROM events ORDER BY id LIMIT 1")
        if not bars and first and first[0]["time_ns"] > noon_ns and (where := former_rows_text(part)):
            raise NotThere(f"the events of this session are not in {path.name}{where}")
    return bars


def bars_between(reader: JournalReader, symbol: str, from_ns: int, until_ns: int) -> tuple[Candle, ...]:
    """Return the bars of a symbol that start in the span, from the file that holds its middle."""
    with closing(JournalReader(part_of(reader.path, (from_ns + until_ns) // 2))) as part:
        return _bars(part, symbol, from_ns, until_ns)


def _bars(reader: JournalReader, symbol: str, from_ns: int, until_ns: int) -> tuple[Candle, ...]:
    """Return the bars that start in the span; corrections count until the next day's open."""
    first, beyond = first_id(reader, from_ns), first_id(reader, until_ns + OPEN_NS)
    rows = reader.query(
        "SELECT kind, payload FROM events WHERE id >= ? AND id < ? AND kind IN ('BarClosed', 'BarCorrected') "
        "AND payload LIKE ? ORDER BY id",
        (first, beyond, f'%"{symbol}"%'),
    )
    bars: dict[int, Bar] = {}
    for row in rows:
        try:
            bar = _bar_event.decode(row["payload"]).bar
        except (msgspec.DecodeError, UnicodeError):
            continue  # a damaged row: the follower reports it
        if bar.symbol == symbol and from_ns <= bar.start_ns < until_ns:
            if row["kind"] == "BarCorrected":
                bars[bar.start_ns] = bar
            else:
                bars.setdefault(bar.start_ns, bar)
    return tuple(_candle(bars[start]) for start in sorted(bars))


def _of_days(picture: Picture, reader: JournalReader, spec: Spec, symbol: str, _: str) -> PricePage:
    """Return the bars that the strategy keeps, with its adjustments."""
    state: State[Any] | None = picture.state
    history: tuple[Bar, ...] = ()
    if state is not None:
        strategy = daily_strategy(state.identity.strategy, state.identity.symbols)
        history = strategy.known(state.strategy).get(symbol, ())
    bars = tuple(_candle(bar) for bar in history[-DAILY_BARS:])
    marks = fill_marks(reader, history[-len(bars)].start_ns, 2**62, symbol) if bars else ()
    session = new_york_text(history[-1].start_ns)[:10] if history else ""
    return PricePage(symbol, spec.symbols, session, (), bars, marks)


_PAGES = {"bar": _of_session, "session": _of_days}


def _candle(bar: Bar) -> Candle:
    return Candle(bar.start_ns / 1e9, bar.open, bar.high, bar.low, bar.close, bar.volume)


KNOWN_LATE_NS = 40 * DAY_NS  # a fill may be older than its row by this much


def fill_marks(reader: JournalReader, from_ns: int, until_ns: int, symbol: str = "") -> tuple[FillMark, ...]:
    """Return the fills in the span, oldest first, of one symbol or of all."""
    return tuple(mark_of(row) for row in fill_rows(reader, from_ns, until_ns, symbol))


def fill_rows(reader: JournalReader, from_ns: int, until_ns: int, symbol: str = "") -> list[sqlite3.Row]:
    """Return the fills in the span as rows, each with its `kind`: entry or exit. Raises sqlite3.Error."""
    return reader.query(
        "SELECT f.filled_ns, f.side, f.quantity, f.price, f.symbol, o.work, o.reason, "
        "CASE WHEN o.purpose IN ('entry', 'exit') THEN o.purpose WHEN f.side > 0 THEN 'entry' ELSE 'exit' END AS kind "
        "FROM fills f LEFT JOIN orders o USING (client_order_id) "
        "WHERE f.time_ns >= ? AND f.time_ns < ? AND f.filled_ns >= ? AND f.filled_ns < ? AND (? = '' OR f.symbol = ?) "
        "ORDER BY f.filled_ns, f.cumulative + 0",
        (from_ns, min(until_ns + KNOWN_LATE_NS, LONGEST), from_ns, until_ns, symbol, symbol),
    )


def mark_of(row: sqlite3.Row) -> FillMark:
    """Return a row of `fill_rows` as a mark with a text."""
    verb = "buy" if row["side"] > 0 else "sell"
    why = f" ({row['reason'].replace('_', ' ')})" if row["reason"] not in (None, "", "policy") else ""
    text = f"{verb} {row['quantity']} {row['symbol']} at {row['price']}{why}"
    return FillMark(row["filled_ns"] / 1e9, row["kind"], row["side"], text, decision_of(row["work"]))


def decision_of(work: str | None) -> int:
    """Return the decision number of a work, 0 for none (a foreign order)."""
    number = (work or "").partition(".")[0]
    return int(number) if number.isdecimal() else 0


def equity_page(reader: JournalReader, state: State[Any] | None = None) -> EquityPage:
    """`GET /api/equity`: at most POINTS points; of each stretch its lowest one and its last. Raises sqlite3.Error.

    It begins with the last record before the first trade, as it is flat until then, and ends with the desk's newest
    state. The drawdown is from the highest value before, which the desk sees at each mark.
    """
    begin = 0
    if reader.query("SELECT 1 FROM sqlite_schema WHERE name = 'round_trips'"):
        first = "SELECT min(opened_ns) FROM round_trips"
        begin = reader.query(f"SELECT max(time_ns) AS t FROM equity WHERE time_ns < ({first})")[0]["t"] or 0
    rows = reader.query("SELECT time_ns, equity_usd FROM equity WHERE time_ns >= ? ORDER BY time_ns", (begin,))
    times, equity = [row["time_ns"] for row in rows], [float(row["equity_usd"]) for row in rows]
    if state is not None and rows and state.now_ns > times[-1]:
        times.append(state.now_ns)
        equity.append(round(float(state.book.equity), 2))
    peaks = peaks_of(equity, float(state.book.peak) if state is not None else 0.0)
    drawdown = [max(peak - value, 0.0) / peak if peak > 0 else 0.0 for value, peak in zip(equity, peaks, strict=True)]
    chosen = thin_indices(equity)
    return EquityPage(
        tuple(times[i] / 1e9 for i in chosen),
        tuple(equity[i] for i in chosen),
        tuple(drawdown[i] for i in chosen),
    )


def spark_of(reader: JournalReader) -> tuple[float, ...]:
    """Return the equity in USD at SPARK_POINTS times of even distance, from the first record on."""
    ends = reader.query("SELECT min(time_ns) AS first, max(time_ns) AS last FROM equity")[0]
    if ends["first"] is None:
        return ()
    span_ns = ends["last"] - ends["first"]
    times = [ends["first"] + span_ns * point // (SPARK_POINTS - 1) for point in range(SPARK_POINTS)]
    query = "SELECT equity_usd FROM equity WHERE time_ns <= ? ORDER BY time_ns DESC LIMIT 1"
    return tuple(float(reader.query(query, (time_ns,))[0]["equity_usd"]) for time_ns in times)


def peaks_of(equity: list[float], peak: float) -> list[float]:
    """Return the highest value so far at each index; `peak` is the desk's own at the end, 0 for unknown.

    Recorded values above `peak` are from before a withdrawal, which lowers it: the maximum restarts after the last of
    them. If `peak` is above all later values, it occurred between two records, at the highest.
    """
    peaks = list(accumulate(equity, max))
    if peak <= 0 or not equity:
        return peaks
    begin = 1 + max((place for place, value in enumerate(equity) if value > peak + CENT), default=-1)
    recent_equity = equity[begin:]
    if recent_equity:
        top = recent_equity.index(max(recent_equity))
        peaks[begin:] = [*accumulate(recent_equity[:top], max), *[peak] * (len(recent_equity) - top)]
    return peaks


def thin_indices(equity: list[float]) -> list[int]:
    """Return the indices of at most POINTS values."""
    count = len(equity)
    if count <= POINTS:
        return list(range(count))
    stretches, chosen = POINTS // 2, set[int]()
    for stretch in range(stretches):
        first, beyond = stretch * count // stretches, (stretch + 1) * count // stretches
        chosen.add(min(range(first, beyond), key=equity.__getitem__))
        chosen.add(beyond - 1)
    return sorted(chosen)
