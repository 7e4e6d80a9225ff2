"""The live market of a daily desk: sessions, final daily bars, decision times, quotes of traded symbols.

Every bar that a decision may use is emitted before its `RebalanceDue`. With an incomplete history none is due, and an
alarm names the cause. Market rules follow the daemon's clock, network timeouts real seconds. It decides nothing about
trading.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from operator import itemgetter
from typing import Any, Protocol

from daemon.brokers.alpaca.market.live_bars import BrokerDays, Timing
from daemon.brokers.alpaca.rest.client import Raw, RestError
from daemon.brokers.alpaca.wire import Malformed, decimal, time_ns
from daemon.brokers.api import EventLogger, Known, open_session
from daemon.core.desks.guarded import kept_bars
from daemon.core.events import (
    BarClosed,
    Event,
    HistoryAdjusted,
    Quote,
    QuotesReceived,
    RebalanceDue,
    SessionEnded,
    SessionScheduled,
    TroubleNoticed,
)
from daemon.core.instruments.quotes import fault_names, sides_fault, values_text
from daemon.core.limits import Basket
from daemon.core.risk.splits import undecidable
from daemon.core.session import as_traded
from daemon.core.state import State
from daemon.host.time.calendar import SessionCalendar, midnight_ns
from daemon.host.time.clock import Clock
from daemon.host.time.schedule import deadline_ns, decision_ns
from strategies.kit.contract import Bar, DailyStrategy, Session
from strategies.kit.units import MINUTE_NS, SECOND_NS

WORKING_NS = 5 * SECOND_NS
HELD_NS = MINUTE_NS
LEAST_NAP_S = 0.05  # least, however fast a simulated clock runs

Wanted = Callable[[], tuple[frozenset[str], frozenset[str]]]


class ShareQuotes:
    """Puts `QuotesReceived` between bars. `symbols_wanted`: those of orders and holdings. `counts`: quotes, bad."""

    def __init__(
        self,
        reads: DayReads,
        feed: str,
        clock: Clock,
        calendar: SessionCalendar,
        put: Callable[[Event], None],
        log: EventLogger,
        symbols_wanted: Wanted,
    ) -> None:
        self._reads = reads
        self._feed = feed
        self._clock = clock
        self._calendar = calendar
        self._put = put
        self._log = log
        self._symbols_wanted = symbols_wanted
        self._attended_symbols: frozenset[str] = frozenset()
        self._change = asyncio.Event()
        self._failing = False
        self.counts = {"quotes": 0, "quotes_bad": 0}

    def attend(self, symbols: frozenset[str]) -> None:
        """Poll now if the set of held or worked symbols changed."""
        if symbols != self._attended_symbols:
            self._attended_symbols = symbols
            self._change.set()

    async def ask(self, symbols: Iterable[str]) -> None:
        """Request the newest quotes of these symbols and emit them. Raises RestError."""
        names = tuple(symbols)
        raw = await self._reads.latest_quotes(names, self._feed)
        quotes = [quote for symbol in names if (quote := self._read(symbol, raw.get(symbol))) is not None]
        self.counts["quotes"] += len(quotes)
        if quotes:
            self._put(QuotesReceived(self._clock.now_ns(), 0, tuple(quotes)))

    def _read(self, symbol: str, row: Raw | None) -> Quote | None:
        """Return a usable quote, possibly one-sided; None for one that is missing, unreadable, empty or crossed."""
        if row is None:
            return None
        try:
            bid, ask = decimal(row.get("bp"), "bp"), decimal(row.get("ap"), "ap")
            quoted_ns = time_ns(row.get("t"), "t")
        except Malformed:
            self.counts["quotes_bad"] += 1
            return None
        if sides_fault(bid, ask):
            self.counts["quotes_bad"] += 1
            return None
        middle = (bid + ask) / 2 if bid and ask else max(bid, ask, Decimal(0))
        return Quote(symbol, bid, ask, middle, middle, quoted_ns)

    async def run(self) -> None:
        """Poll quotes until cancelled."""
        held_due_ns = 0
        while True:
            self._change.clear()  # later changes are seen after the nap
            now_ns = self._clock.now_ns()
            working, holdings = self._symbols_wanted()
            symbols = working | holdings if now_ns >= held_due_ns else working
            if symbols and self._calendar.at(now_ns) is not None:
                await self._ask_or_log(sorted(symbols))
                if now_ns >= held_due_ns:
                    held_due_ns = now_ns + HELD_NS
            await self._rest(now_ns, WORKING_NS if working else HELD_NS)

    async def _ask_or_log(self, symbols: list[str]) -> None:
        """Request quotes; log an outage once."""
        try:
            await self.ask(symbols)
        except RestError as error:
            if not self._failing:
                self._log("quotes_unavailable", symbols=symbols, problem=str(error))
            self._failing = True
        else:
            self._failing = False

    async def _rest(self, since_ns: int, every_ns: int) -> None:
        """Wait until the next poll is due, the market opens, or the wanted symbols change."""
        now_ns = self._clock.now_ns()
        due_ns = since_ns + every_ns
        if self._calendar.at(now_ns) is None:
            due_ns = min(self._calendar.next_after(now_ns).open_ns, now_ns + HELD_NS)
        await asyncio.sleep(LEAST_NAP_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(self._clock.real_s(due_ns - self._clock.now_ns()), 0.0)):
                await self._change.wait()


# after the close: the closing auction is in the day's bar; later changes are found by comparison
SETTLED_NS = 5 * MINUTE_NS
STALE_NS = 15 * MINUTE_NS  # a symbol without trades for this long has no running bar: it may be halted
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

    def __init__(self, reads: DayReads, feed: str, symbols: tuple[str, ...], log: EventLogger) -> None:
        self._reads = reads
        self._feed = feed
        self._symbols = symbols
        self._log = log

    async def fetched(self, sessions: Sequence[Session], symbols: tuple[str, ...]) -> dict[str, Bars]:
        """Return symbol -> its good bars of these sessions (oldest first, all final), without empty symbols."""
        starts = {midnight_ns(session.date): session for session in sessions}
        first, last = min(starts), max(starts)
        raw = await self._reads.day_bars(symbols, first, last, self._feed)
        history: dict[str, Bars] = {}
        for symbol in symbols:
            good_bars = self._good_bars(raw.get(symbol, ()), symbol)
            good = {bar.start_ns: bar for bar in good_bars if bar.start_ns in starts}
            if good:
                history[symbol] = tuple(good[start] for start in sorted(good))
        return history

    async def running(self, session: Session, now_ns: int) -> dict[str, Bar]:
        """Return symbol -> the bar of the session so far; absent without one, or without recent trades."""
        start_ns = midnight_ns(session.date)
        raw = await self._reads.snapshots(self._symbols, self._feed)
        bars: dict[str, Bar] = {}
        for symbol in self._symbols:
            snapshot = raw.get(symbol, {})
            row, trade = snapshot.get("dailyBar"), snapshot.get("latestTrade")
            if not isinstance(row, dict) or not isinstance(trade, dict):
                continue
            bar = next(iter(self._good_bars((row,), symbol)), None)
            try:
                traded_ns = time_ns(trade.get("t"), "t")
            except Malformed:
                continue
            if bar is not None and bar.start_ns == start_ns and now_ns - traded_ns <= STALE_NS:
                bars[symbol] = bar
        return bars

    def _good_bars(self, rows: Sequence[Raw], symbol: str) -> list[Bar]:
        """Return the good bars, in the order of rows; report each bad one. All are checked in one call."""
        read = [_read(row) for row in rows]
        reasons = iter(fault_names([it[1] for it in read if not isinstance(it, str)]))
        good: list[Bar] = []
        for row, it in zip(rows, read, strict=True):
            if isinstance(it, str):
                self._refuse(symbol, "", it)
            elif reason := next(reasons):
                self._refuse(symbol, str(row.get("t")), f"{reason}: {values_text(it[1])}")
            else:
                good.append(Bar(symbol, it[0], *it[1]))
        return good

    def _refuse(self, symbol: str, date: str, problem: str) -> None:
        self._log("history_bar_bad", symbol=symbol, date=date, problem=problem)


_PRICES = itemgetter("o", "h", "l", "c", "v")


def _read(row: Raw) -> tuple[int, list[float]] | str:
    """Parse a row as its start and open, high, low, close and volume, or return its fault."""
    try:
        prices = [value if type(value) is float else _number(value) for value in _PRICES(row)]
        return time_ns(row.get("t"), "t"), prices
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


def news(former: Mapping[str, Bars], new_bars: Mapping[str, Bars], keep: int, closing_from_ns: int) -> NewBars:
    """Compare by symbol. `keep` is how many bars the strategy keeps (W).

    Bars that begin after the newest known one are `closed`, unless they begin before `closing_from_ns`: then they are
    history, and like a changed history replace all known bars. Known bars older than all fetched ones stay.
    """
    adjusted_bars: dict[str, Bars] = {}
    closed_bars: list[Bar] = []
    for symbol, bars in new_bars.items():
        old = former.get(symbol, ())
        newest = max(old[-1].start_ns if old else 0, closing_from_ns - 1)
        past = tuple(bar for bar in bars if bar.start_ns <= newest)[-keep:]
        if past and not _same(tuple(bar for bar in old if bar.start_ns >= past[0].start_ns), past):
            adjusted_bars[symbol] = past
        closed_bars += (bar for bar in bars if bar.start_ns > newest)
    return NewBars(adjusted_bars, tuple(sorted(closed_bars, key=lambda bar: bar.start_ns)))


def _same(old: Bars, new: Bars) -> bool:
    """Return whether both hold the same sessions at the same prices, but for the source's rounding."""
    return old == new or (len(old) == len(new) and all(map(_alike, old, new)))


def _alike(old: Bar, new: Bar) -> bool:
    return old == new or (
        old.start_ns == new.start_ns
        and all(
            abs(a - b) <= GRID
            for a, b in ((old.open, new.open), (old.high, new.high), (old.low, new.low), (old.close, new.close))
        )
    )


@dataclass(frozen=True, slots=True)
class OwnDesk:
    """The desk as its feed sees it: strategy, state, and a wait until events are stepped."""

    strategy: DailyStrategy
    basket: Basket
    state: Callable[[], State[Any]]
    settled: Callable[[], Awaitable[None]]


def known_bars(strategy: DailyStrategy, state: State[Any]) -> dict[str, Bars]:
    """Return all bars that the desk knows, including the running session's: by symbol, oldest first.

    For a strategy that raises on `known`, only the running session's: then the whole history is emitted again, and the
    core's own call of the strategy raises where the error is journaled.
    """
    history: dict[str, Bars] = {}
    with contextlib.suppress(Exception):
        history = {symbol: tuple(bars) for symbol, bars in kept_bars(strategy, state.strategy).items() if bars}
    for pending in state.pending_bars:
        old = tuple(bar for bar in history.get(pending.symbol, ()) if bar.start_ns < pending.start_ns)
        history[pending.symbol] = (*old, pending)
    return history


MISSING_MAX = 0.2  # part of the symbols: with more of them without the last session's bar, nothing is decided
SESSIONS_BACK = 10  # missed sessions that are emitted one by one; older ones come as history
MARGIN = 10  # sessions requested beyond those that the strategy keeps
GRACE_NS = 2 * MINUTE_NS  # how late the day's bars may come after they should be final
READ_AGAIN_NS = MINUTE_NS  # while a decision only waits for the broker: late bars may show the split it waits for
UNRECONCILED = "book and broker did not agree"
LAST_ASK_NS = MINUTE_NS  # before the deadline, until which a decision waits for the broker


class DailyFeed:
    """History and quotes of a daily desk: events go to `put`, problems to `log`.

    Call `catch_up` first, then run `run` together with `schedule`, `decide` and `end` for each session.
    """

    def __init__(
        self,
        clock: Clock,
        calendar: SessionCalendar,
        desk: OwnDesk,
        put: Callable[[Event], None],
        log: EventLogger,
        *,
        history: DailyHistory,
        quotes: ShareQuotes,
        days: BrokerDays,
        timing: Timing,
    ) -> None:
        """`days` is the broker's own calendar."""
        self._days = days
        self.close_grace_s = SETTLED_NS // SECOND_NS
        self._clock = clock
        self._calendar = calendar
        self._desk = desk
        self._symbols = desk.strategy.spec.symbols
        self._keep = desk.strategy.spec.history_bars
        self._put = put
        self._log = log
        self._history = history
        self._quotes = quotes
        self._timing = timing
        self._rng = random.SystemRandom()
        self._one = asyncio.Lock()  # serialises fetch and emission: none is compared with an older state
        self._schedule_event: SessionScheduled | None = None
        self._complete_to = ""  # date of the newest session whose bars were fetched and emitted
        self._newest: dict[str, Bar] = {}  # their newest bars, as they were fetched
        self._missing: frozenset[str] = frozenset()  # symbols without a bar of that session
        self._named_in_alarm: frozenset[str] = frozenset()  # those of them that an alarm has named
        self._ended_sessions: set[str] = set()
        self._counts = {"bars": 0, "adjusted": 0, "missed": 0}

    # --- sessions -------------------------------------------------------------------------------------------------

    async def catch_up(self, known_bars: Known, *, exposed: bool = False) -> Session:
        """Emit what the recovered state lacks, then the running or next session's schedule; return that session.

        Missed sessions are emitted one by one with their bars, as far as REST returns them within `repair_s` real
        seconds; the rest comes before the next decision. No position waits for this.
        """
        del exposed  # a basket's orders rest at the broker, and nothing here waits long
        unfinished_session = open_session(known_bars, self._calendar, self._clock.now_ns())
        if unfinished_session is not None:
            await self._clock.sleep_until(unfinished_session.close_ns + SETTLED_NS)  # its bars are final then
        final = self._final(self._clock.now_ns())
        since_date = known_bars.session_date or (final[-2].date if len(final) > 1 else "")
        missed_sessions = [session for session in final if session.date > since_date][-SESSIONS_BACK:]
        past = ([] if unfinished_session is None else [unfinished_session]) + missed_sessions
        if past:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timing.repair_s):
                    await self._fetch_until_emitted(past)
            for session in past:
                if session.date not in self._ended_sessions:
                    self._announce(session)
                    self._end(session)
        now_ns = self._clock.now_ns()
        return self._announce(self._calendar.at(now_ns) or self._calendar.next_after(now_ns)).session

    async def _fetch_until_emitted(self, past: Sequence[Session]) -> None:
        """Fetch the bars of missed sessions until they are emitted."""
        tries = 0
        while not await self._update(past[-1], past):
            await self._pause(tries)
            tries += 1

    async def schedule(self, session: Session) -> None:
        """Emit the session's schedule and all bars before it; retry until every symbol is complete or the decision due.

        Returns when that is done; the decision does not rely on it.
        """
        self._announce(session)
        session_before, due_ns = self._session_before(session), decision_ns(session, self._desk.basket)
        tries = 0
        while not await self._update(session_before, again=tries > 0) or self._missing - self._named_in_alarm:
            if self._clock.now_ns() >= due_ns:
                return
            await self._pause(tries)
            tries += 1

    async def decide(self, session: Session) -> None:
        """Emit `RebalanceDue` in time and after everything it needs; else raise an alarm."""
        if self._desk.state().basket.date >= session.date:
            return  # an earlier run of this journal decided
        self._announce(session)
        until_ns = deadline_ns(session, self._desk.basket)
        problem, tries, read_ns = "its time was over when the daemon started", 0, 0
        while (now_ns := self._clock.now_ns()) < until_ns:
            waits = problem == UNRECONCILED and self._broker_may_agree(until_ns)
            if not waits or now_ns >= read_ns + READ_AGAIN_NS:
                running, problem = await self._data_for_decision(session, again=tries > 0)
                read_ns = now_ns
                problem = problem or undecidable(self._desk.state().basket)
                if not problem and self._broker_may_agree(until_ns):
                    problem = UNRECONCILED
                if not problem and self._clock.now_ns() < until_ns:
                    self._put(RebalanceDue(self._clock.now_ns(), session.date, running))
                    return
            await self._pause(tries)
            tries += 1
        self._counts["missed"] += 1
        problem = undecidable(self._desk.state().basket) or problem or "its bars came too late"
        self._notice("basket_missed", f"no basket for {session.date}: {problem}")

    def _broker_may_agree(self, until_ns: int) -> bool:
        """Return True while a basket would be denied only because a report is pending, and there is time for one.

        At the end the question is asked anyway: the gates deny it, and the policy's memory goes on.
        """
        return not self._desk.state().risk.reconciled and self._clock.now_ns() < until_ns - LAST_ASK_NS

    async def end(self, session: Session) -> None:
        """Emit the session's end, after its bars if they come in time; else they come before the next decision."""
        if session.date in self._ended_sessions:
            return
        until_ns = max(session.close_ns + SETTLED_NS + GRACE_NS, self._clock.now_ns())
        await self._clock.sleep_until(session.close_ns + SETTLED_NS)
        tries = 0
        while not await self._update(session, again=tries > 0) or self._missing - self._named_in_alarm:
            if self._clock.now_ns() >= until_ns:
                break
            await self._pause(tries)
            tries += 1
        self._end(session)
        self._log("feed_counts", date=session.date, counts=self._counts | self._quotes.counts)

    def _end(self, session: Session) -> None:
        self._ended_sessions.add(session.date)
        self._put(SessionEnded(self._clock.now_ns(), session.date))

    def _announce(self, session: Session) -> SessionScheduled:
        """Emit `SessionScheduled` once for each session."""
        if self._schedule_event is None or self._schedule_event.session.date != session.date:
            self._schedule_event = SessionScheduled(self._clock.now_ns(), *self._calendar.around(session.date))
            self._put(self._schedule_event)
        return self._schedule_event

    # --- the history ----------------------------------------------------------------------------------------------

    def _final(self, now_ns: int) -> list[Session]:
        running = self._desk.state().session.session
        return [session for session in self._calendar.sessions if is_final(as_traded(session, running), now_ns)]

    def _session_before(self, session: Session) -> Session:
        return self._calendar.around(session.date)[2][-1]

    async def _data_for_decision(self, session: Session, *, again: bool) -> tuple[Bars, str]:
        """Return the running bars where the desk decides on them, and what blocks a decision ("" for nothing)."""
        session_before = self._session_before(session)
        late = self._complete_to < session_before.date
        if (again or late) and not await self._update(session_before, again=again):
            return (), f"the daily bars up to {session_before.date} could not be fetched"
        if len(self._missing) == len(self._symbols) and await self._was_not_held(session_before, session):
            return await self._data_for_decision(session, again=False)
        self._name_missing(session_before)
        if len(self._missing) > int(MISSING_MAX * len(self._symbols)):
            return (), f"{len(self._missing)} of {len(self._symbols)} symbols have no bar of {session_before.date}"
        if self._desk.basket.decide == "after_close":
            return (), ""
        try:
            running = await self._history.running(session, self._clock.now_ns())
            await self._quotes.ask(self._symbols)
        except RestError as error:
            return (), f"the running bars could not be fetched: {error}"
        missing = len(self._symbols) - len(running)
        if missing > int(MISSING_MAX * len(self._symbols)):
            return (), f"{missing} of {len(self._symbols)} symbols have no running bar of {session.date}"
        return tuple(running.values()), ""

    async def _was_not_held(self, day: Session, session: Session) -> bool:
        """Leave out a day without bars that the broker's calendar lacks between its neighbours; True if so."""
        earlier = self._session_before(day).date
        try:
            held_dates = {row.get("date") for row in await self._days(earlier, session.date)}
        except RestError as error:
            self._log("history_unavailable", symbol="the calendar", date=day.date, problem=str(error), wait_s=0.0)
            return False
        if not {earlier, session.date} <= held_dates or day.date in held_dates:
            return False
        self._calendar = self._calendar.without(day.date)
        self._complete_to, self._missing, self._schedule_event = "", frozenset(), None
        self._announce(session)
        return True

    def _name_missing(self, session: Session) -> None:
        """Raise an alarm for each set of symbols without a bar; a symbol that recovered may alarm again."""
        if self._missing - self._named_in_alarm:
            names = ", ".join(sorted(self._missing))
            self._notice("symbols_missing", f"no bar of {session.date}: {names}: halted, delisted or not given")
        self._named_in_alarm = self._missing

    async def _update(self, newest: Session, past: Sequence[Session] = (), *, again: bool = False) -> bool:
        """Fetch the bars up to this session's and emit new ones; False when unavailable.

        `again`: fetch only symbols whose bar of this session has come or changed since: a split changes all bars.
        """
        async with self._one:
            sessions = [s for s in self._final(self._clock.now_ns()) if s.date <= newest.date]
            sessions = sessions[-(self._keep + MARGIN) :]
            if not sessions or sessions[-1].date != newest.date:
                return False
            symbols, rereads = self._symbols, again and self._complete_to == newest.date
            try:
                if rereads:
                    last_bars = await self._history.fetched(sessions[-1:], symbols)
                    symbols = tuple(symbol for symbol, it in last_bars.items() if it[-1] != self._newest.get(symbol))
                bars = await self._history.fetched(sessions, symbols) if symbols else {}
            except RestError as error:
                many = f"{len(self._symbols)} symbols"
                self._log("history_unavailable", symbol=many, date=newest.date, problem=str(error), wait_s=0.0)
                return False
            if rereads and not bars:
                return True
            await self._desk.settled()
            self._emit_news(sessions, bars, past)
            last_ns = midnight_ns(newest.date)
            newest_bars = {symbol: it[-1] for symbol, it in bars.items() if it[-1].start_ns == last_ns}
            self._newest = self._newest | newest_bars if rereads else newest_bars
            self._missing = frozenset(self._symbols) - self._newest.keys()
            self._complete_to = newest.date
        return True

    def _emit_news(self, sessions: Sequence[Session], fresh_bars: dict[str, Bars], past: Sequence[Session]) -> None:
        """Emit changed histories first, then new bars in order of time, each of the `past` sessions around its own."""
        history = known_bars(self._desk.strategy, self._desk.state())
        sessions_since = sessions[-SESSIONS_BACK:] if history else sessions[-1:]
        changes = news(history, fresh_bars, self._keep, midnight_ns(sessions_since[0].date))
        for symbol, bars in changes.adjusted.items():
            self._put(HistoryAdjusted(self._clock.now_ns(), symbol, bars))
            reason = "adjusted" if symbol in history else "history"
            self._log("repaired", symbol=symbol, reason=reason, fetched=len(fresh_bars[symbol]), given=len(bars))
        self._counts["adjusted"] += len(changes.adjusted)
        self._counts["bars"] += len(changes.closed)
        closings = list(changes.closed)
        for session in past:
            start_ns = midnight_ns(session.date)
            self._announce(session)
            self._emit_bars(bar for bar in closings if bar.start_ns <= start_ns)
            self._end(session)
            closings = [bar for bar in closings if bar.start_ns > start_ns]
        self._emit_bars(closings)

    def _emit_bars(self, bars: Iterable[Bar]) -> None:
        for bar in bars:
            self._put(BarClosed(self._clock.now_ns(), bar))

    async def _pause(self, tries: int) -> None:
        await asyncio.sleep(self._timing.retry_s(tries, self._rng.random()))

    def _notice(self, name: str, detail: str) -> None:
        """Raise an alarm through the step."""
        self._put(TroubleNoticed(self._clock.now_ns(), name, detail))

    # --- quotes and the run ---------------------------------------------------------------------------------------

    def watch(self, symbols: tuple[str, ...]) -> None:
        """Do nothing: quotes follow from holdings and works."""

    def attend(self, symbols: frozenset[str]) -> None:
        """Poll quotes now: the set of held or worked symbols changed."""
        self._quotes.attend(symbols)

    async def run(self) -> None:
        """Poll quotes of worked and held symbols until cancelled."""
        await self._quotes.run()
