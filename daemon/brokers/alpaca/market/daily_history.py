"""Daily bars of many symbols over REST: adjusted as of today, checked, and compared with known ones.

No events here. Only bars of requested sessions come back. Adjustments are found by comparing every bar that both sides
have, because no message reports a split or a dividend.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from daemon.brokers.alpaca.rest.rest import Raw
from daemon.brokers.alpaca.wire import Malformed, time_ns
from daemon.brokers.api import LogEvent
from daemon.core.desks.guarded import kept_bars
from daemon.core.limits import Basket
from daemon.core.state import State
from daemon.host.time.calendar import midnight_ns
from daemon.tapes.bar_check import fault_names, values_text
from strategies.kit.contract import Bar, DailyStrategy, Session
from strategies.kit.units import MINUTE_NS

# after the close: the closing auction is in the day's bar; later changes are found by comparison
SETTLED_NS = 5 * MINUTE_NS
STALE_NS = 15 * MINUTE_NS  # a symbol without trades for this long has no running bar: it may be halted
MARGIN = 10  # sessions fetched beyond those that a strategy keeps: holes in a symbol's history
GRID = 1.000001e-4  # USD: the source rounds; differences up to this do not count

Bars = tuple[Bar, ...]


class DayReads(Protocol):
    """Source of daily bars, snapshots and quotes. Every method raises RestError."""

    async def day_bars(
        self, symbols: tuple[str, ...], start_ns: int, end_ns: int, feed: str
    ) -> dict[str, list[Raw]]: ...

    async def snapshots(self, symbols: tuple[str, ...], feed: str) -> dict[str, Raw]: ...

    async def latest_quotes(self, symbols: tuple[str, ...], feed: str) -> dict[str, Raw]: ...


def is_final(session: Session, now_ns: int) -> bool:
    """Return whether the session's daily bars are final."""
    return now_ns >= session.close_ns + SETTLED_NS


class DailyHistory:
    """Daily bars of one feed's symbols. Raises RestError (from the reads)."""

    def __init__(self, reads: DayReads, feed: str, symbols: tuple[str, ...], log: LogEvent) -> None:
        self._reads = reads
        self._feed = feed
        self._symbols = symbols
        self._log = log

    async def fetched(self, sessions: Sequence[Session]) -> dict[str, Bars]:
        """Return symbol -> its good bars of these sessions (oldest first, all final), without empty symbols."""
        starts = {midnight_ns(session.date): session for session in sessions}
        first, last = min(starts), max(starts)
        raw = await self._reads.day_bars(self._symbols, first, last, self._feed)
        found: dict[str, Bars] = {}
        for symbol in self._symbols:
            judged = self._judged(raw.get(symbol, ()), symbol)
            good = {bar.start_ns: bar for bar in judged if bar.start_ns in starts}
            if good:
                found[symbol] = tuple(good[start] for start in sorted(good))
        return found

    async def running(self, session: Session, now_ns: int) -> dict[str, Bar]:
        """Return symbol -> the bar of the session so far; absent without one, or without recent trades."""
        start_ns = midnight_ns(session.date)
        raw = await self._reads.snapshots(self._symbols, self._feed)
        found: dict[str, Bar] = {}
        for symbol in self._symbols:
            snapshot = raw.get(symbol, {})
            row, trade = snapshot.get("dailyBar"), snapshot.get("latestTrade")
            if not isinstance(row, dict) or not isinstance(trade, dict):
                continue
            bar = next(iter(self._judged((row,), symbol)), None)
            try:
                traded_ns = time_ns(trade.get("t"), "t")
            except Malformed:
                continue
            if bar is not None and bar.start_ns == start_ns and now_ns - traded_ns <= STALE_NS:
                found[symbol] = bar
        return found

    def _judged(self, rows: Sequence[Raw], symbol: str) -> list[Bar]:
        """Return the good bars, in the order of rows; report each bad one. All are checked in one call."""
        read = [_read(row) for row in rows]
        reasons = iter(fault_names([it.prices for it in read if isinstance(it, _Row)]))
        good: list[Bar] = []
        for row, it in zip(rows, read, strict=True):
            if isinstance(it, str):
                self._refuse(symbol, "", it)
            elif reason := next(reasons):
                self._refuse(symbol, str(row.get("t")), f"{reason}: {values_text(it.prices)}")
            else:
                good.append(Bar(symbol, it.start_ns, *it.prices))
        return good

    def _refuse(self, symbol: str, date: str, problem: str) -> None:
        self._log("history_bar_bad", symbol=symbol, date=date, problem=problem)


@dataclass(frozen=True, slots=True)
class _Row:
    """A parsed row: open, high, low, close and volume."""

    start_ns: int
    prices: list[float]


def _read(row: Raw) -> _Row | str:
    """Parse a row, or return its fault."""
    try:
        return _Row(time_ns(row.get("t"), "t"), [_number(row[name]) for name in "ohlcv"])
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        return f"{type(error).__name__}: {error} in {str(row)[:200]}"


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


@dataclass(frozen=True, slots=True)
class NewBars:
    """Differences between fetched and known bars."""

    adjusted: dict[str, Bars]  # whole histories that changed, or were unknown
    closed: Bars  # bars of later sessions, by start, then in the order of symbols


def news(known: Mapping[str, Bars], fetched: Mapping[str, Bars], keep: int, closing_from_ns: int) -> NewBars:
    """Compare by symbol. `keep` is how many bars the strategy keeps (W).

    Bars that begin after the newest known one are `closed`, unless they begin before `closing_from_ns`: then they are
    history, and like a changed history replace all known bars. Known bars older than all fetched ones stay.
    """
    adjusted: dict[str, Bars] = {}
    closed: list[Bar] = []
    for symbol, bars in fetched.items():
        old = known.get(symbol, ())
        newest = max(old[-1].start_ns if old else 0, closing_from_ns - 1)
        past = tuple(bar for bar in bars if bar.start_ns <= newest)[-keep:]
        if past and not _same(tuple(bar for bar in old if bar.start_ns >= past[0].start_ns), past):
            adjusted[symbol] = past
        closed += (bar for bar in bars if bar.start_ns > newest)
    return NewBars(adjusted, tuple(sorted(closed, key=lambda bar: bar.start_ns)))


def _same(old: Bars, new: Bars) -> bool:
    """Return whether both hold the same sessions at the same prices, but for the source's rounding."""
    return len(old) == len(new) and all(map(_alike, old, new))


def _alike(old: Bar, new: Bar) -> bool:
    return old.start_ns == new.start_ns and all(
        abs(a - b) <= GRID
        for a, b in ((old.open, new.open), (old.high, new.high), (old.low, new.low), (old.close, new.close))
    )


@dataclass(frozen=True, slots=True)
class OwnDesk:
    """The desk as its feed sees it: strategy, state, and a wait until events are stepped."""

    strategy: DailyStrategy
    basket: Basket
    state: Callable[[], State[Any]]
    settled: Callable[[], Awaitable[None]]


def known_bars(strategy: DailyStrategy, state: State[Any]) -> dict[str, Bars]:
    """Return all bars that the desk knows, with the running session's: by symbol, oldest first.

    Of a strategy that cannot say what it keeps, the running session's alone: then the whole history is told anew, and
    the core's own call of the strategy, whose error is journaled, meets it.
    """
    known: dict[str, Bars] = {}
    with contextlib.suppress(Exception):
        known = {symbol: tuple(bars) for symbol, bars in kept_bars(strategy, state.strategy).items() if bars}
    for pending in state.pending_bars:
        old = tuple(bar for bar in known.get(pending.symbol, ()) if bar.start_ns < pending.start_ns)
        known[pending.symbol] = (*old, pending)
    return known
