"""Each symbol's bars of the running session: streamed, merged with REST's where some are missing, with a silence watch.

A bar goes out once, in order, followed at once by the quotes that close it; bars missing from the stream are read over
REST before later bars go on. `begin` and `finish` set the running session. Stream and REST have minutes; wider bars are
built of them.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from msgspec.structs import replace

from daemon.brokers.alpaca.market.history import BarHistory
from daemon.brokers.alpaca.market.socket import Endpoint, Silence, State, StockStream, TradingStatus
from daemon.brokers.alpaca.rest.client import Raw, Refused, RestError
from daemon.brokers.api import EventLogger, Known
from daemon.core.events import (
    BarClosed,
    BarCorrected,
    BarRejected,
    Event,
    Quote,
    QuotesReceived,
    TradingStatusChanged,
)
from daemon.host.time.calendar import CalendarError, SessionCalendar
from daemon.host.time.clock import Clock
from daemon.pacing import back_off_s
from strategies.kit.contract import Bar, Grid, Session
from strategies.kit.timeframes import joined
from strategies.kit.units import MINUTE_NS, SECOND_NS

LACKING_NS = 3 * SECOND_NS  # after a bar's end REST is asked for its last minute, which the stream has after one second
TORN_NS = 4 * SECOND_NS  # after its end a bar goes out without its last minute: a second before the desk stops waiting
MOST_HELD = 400  # more than a session's minutes

T = TypeVar("T")
Given = BarClosed | BarCorrected | BarRejected


class BarMerge:
    """Bars in, events out. `last_ns` is the start of the last emitted bar, or the time before the first one.

    `now_ns` of each call becomes the events' time. Whatever the order and number of incoming bars, `BarClosed` goes out
    in strictly ascending order of start.
    """

    def __init__(self, last_ns: int, most_waiting: int = MOST_HELD) -> None:
        self.last_ns = last_ns
        self.holding = False
        self.counts: Counter[str] = Counter()  # duplicate, overflow
        self._most_waiting = most_waiting
        self._bars_emitted: dict[int, Bar] = {}  # the session's, to distinguish a repeat from a correction
        self._waiting_bars: dict[int, Bar] = {}

    def know(self, bars: Iterable[Bar], last_ns: int = 0) -> None:
        """Note bars emitted before this merge began; none up to `last_ns` is emitted again."""
        for bar in bars:
            self._bars_emitted[bar.start_ns] = bar
        self.last_ns = max(self.last_ns, last_ns, *self._bars_emitted)

    def hold(self) -> None:
        """Begin a repair: hold new bars until `repaired` or `release`."""
        self.holding = True

    def add(self, bar: Bar, now_ns: int) -> list[Given]:
        """Add a streamed bar, first or updated: both are treated alike."""
        if bar.start_ns <= self.last_ns:
            return self._correct(bar, now_ns)
        if not self.holding:
            return [self._give(bar, now_ns)]
        if bar.start_ns not in self._waiting_bars and len(self._waiting_bars) >= self._most_waiting:
            del self._waiting_bars[min(self._waiting_bars)]
            self.counts["overflow"] += 1
        self._waiting_bars[bar.start_ns] = bar
        return []

    def repaired(self, bars: Sequence[Bar], now_ns: int) -> list[Given]:
        """Emit REST's bars, in any order, together with the held ones, which take precedence; then go on."""
        late = [bar for bar in bars if bar.start_ns <= self.last_ns]
        newer = {bar.start_ns: bar for bar in bars if bar.start_ns > self.last_ns} | self._waiting_bars
        events = [event for bar in late if bar.start_ns in self._bars_emitted for event in self._correct(bar, now_ns)]
        self._waiting_bars = {}
        self.holding = False
        return [*events, *(self._give(newer[start], now_ns) for start in sorted(newer))]

    def release(self, now_ns: int) -> list[Given]:
        """Go on without REST's bars."""
        return self.repaired((), now_ns)

    def _give(self, bar: Bar, now_ns: int) -> BarClosed:
        self.last_ns = bar.start_ns
        self._bars_emitted[bar.start_ns] = bar
        return BarClosed(now_ns, bar)

    def _correct(self, bar: Bar, now_ns: int) -> list[Given]:
        earlier = self._bars_emitted.get(bar.start_ns)
        if earlier == bar:
            self.counts["duplicate"] += 1
            return []
        if earlier is None:
            detail = f"the bar came after a later one was given: its minute is {bar.start_ns}, the last {self.last_ns}"
            return [BarRejected(now_ns, bar.symbol, bar.start_ns, "out_of_order", detail)]
        self._bars_emitted[bar.start_ns] = bar
        return [BarCorrected(now_ns, bar)]


class BarBuilder:
    """Minutes in, bars of the grid out; where a bar is one minute each minute is its bar.

    A bar goes out with its last minute, with the first minute of a later one, or by `torn` some seconds after its end.
    A minute that comes after that, or changes, corrects it.
    """

    def __init__(self, session: Session, grid: Grid) -> None:
        self.session = session
        self._grid = grid
        self._out_ns = session.open_ns - 1  # start of the newest bar that went out
        self._minutes: dict[int, dict[int, Bar]] = {}  # by the bar's start
        self._complete_bars: set[int] = set()  # emitted bars with all their minutes

    def know(self, minutes: Iterable[Bar], last_ns: int, now_ns: int) -> list[Bar]:
        """Note the session's minutes so far; return their complete bars that began after `last_ns`."""
        for minute in minutes:
            self._note(minute)
        self._out_ns = max(self._out_ns, last_ns)
        self._complete_bars.update(start for start in self._minutes if start <= self._out_ns)
        whole = [start for start in self._waiting() if self._is_whole(start) or start < max(self._minutes)]
        return [*(self._close(start) for start in whole), *self.torn(now_ns)]

    def take(self, event: BarClosed | BarCorrected) -> list[BarClosed | BarCorrected]:
        """Add a minute, first or corrected; return what it closes or corrects: itself, if bars are one minute wide."""
        if self._grid.length_ns == MINUTE_NS:
            self._out_ns = max(self._out_ns, event.bar.start_ns)
            return [event]
        time_ns, start = event.time_ns, self._note(event.bar)
        out: list[BarClosed | BarCorrected] = []
        if start in self._complete_bars:
            out.append(BarCorrected(time_ns, self._bar(start)))
        closing = [other for other in self._waiting() if other < start or (other == start and self._is_whole(start))]
        return [*out, *(BarClosed(time_ns, self._close(other)) for other in closing)]

    def lacks(self, now_ns: int) -> bool:
        """Return whether a bar lacks its last minute `LACKING_NS` after its end."""
        return any(self._end_ns(start) + LACKING_NS <= now_ns for start in self._waiting())

    def torn(self, now_ns: int) -> list[Bar]:
        """Return the bars that ended `TORN_NS` ago without their last minute, unchanged."""
        return [self._close(start) for start in self._waiting() if self._end_ns(start) + TORN_NS <= now_ns]

    def _note(self, minute: Bar) -> int:
        start = self._grid.at(minute.start_ns, self.session)[0]
        self._minutes.setdefault(start, {})[minute.start_ns] = minute
        return start

    def _waiting(self) -> list[int]:
        return sorted(start for start in self._minutes if start > self._out_ns)

    def _is_whole(self, start: int) -> bool:
        return self._end_ns(start) - MINUTE_NS in self._minutes[start]

    def _end_ns(self, start: int) -> int:
        return self._grid.at(start, self.session)[1]

    def _close(self, start: int) -> Bar:
        self._out_ns = start
        self._complete_bars.add(start)
        return self._bar(start)

    def _bar(self, start: int) -> Bar:
        return joined(start, [bar for _, bar in sorted(self._minutes[start].items())])


LATE_NS = 10 * SECOND_NS  # a bar comes about a second after its minute's end; one empty minute is no silence
EARLY_NS = MINUTE_NS  # a bar whose minute ends further ahead of our clock is refused: none could follow it
NOT_FOUND = frozenset((400, 404, 422))
BrokerDays = Callable[[str, str], Awaitable[list[Raw]]]
"""The broker's rows of its sessions between two New York dates, both included. Raises RestError."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Timeouts of the feed. `_s` are real seconds, `_ns` the clock's nanoseconds."""

    silence_ns: int = 2 * MINUTE_NS  # after the newest bar's end or the open, plus LATE_NS: two bars are missing
    conflate_ns: int = SECOND_NS  # between two quotes of a contract that is held
    repair_s: float = 15.0  # after this, streamed bars go on without REST's
    retry_first_s: float = 0.5
    retry_most_s: float = 30.0
    stagger_s: float = 0.5  # between the connects of the two streams
    breath_s: float = 0.2  # at least, between two repairs or rounds of the silence watch, however fast the clock runs

    def retry_s(self, tries: int, random_unit: float) -> float:
        """Return the wait after this many tries (from 0), drawn with `random_unit` in [0, 1)."""
        return back_off_s(tries + 1, self.retry_first_s, self.retry_most_s, random_unit)

    async def until_answered(
        self, read: Callable[[], Awaitable[T]], rng: random.Random, on_error: Callable[[RestError, float], None]
    ) -> T:
        """Return what `read` does, tried until REST answers; `on_error` gets each error and the seconds to wait."""
        tries = 0
        while True:
            try:
                return await read()
            except RestError as error:
                wait_s = self.retry_s(tries, rng.random())
                tries += 1
                on_error(error, wait_s)
            await asyncio.sleep(wait_s)


class LiveBars:
    """One symbol's bars. `announce` is called when a bar of a session later than the running one comes.

    `take_quotes` returns the quotes that close a bar, `reconnect` drops the stream's connection. `counts` are of
    minutes: bars, corrected, rejected, repairs, silences, late.
    """

    def __init__(
        self,
        clock: Clock,
        symbol: str,
        put: Callable[[Event], None],
        log: EventLogger,
        *,
        history: BarHistory,
        timing: Timing,
        rng: random.Random,
        announce: Callable[[Session], object],
        as_traded: Callable[[Session], Session],
        is_closed: Callable[[], bool],
        take_quotes: Callable[[str], tuple[Quote, ...]],
        reconnect: Callable[[str], None],
        grid: Grid,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.spot = 0.0  # the last close known, 0 for none
        self.abandoned: list[str] = []  # dates of sessions whose bars did not come in time
        self.symbol = symbol
        self._clock = clock
        self._put = put
        self._log = log
        self._history = history
        self._timing = timing
        self._rng = rng
        self._announce = announce
        self._as_traded = as_traded
        self._is_closed = is_closed
        self._take_quotes = take_quotes
        self._reconnect = reconnect
        self._grid = grid
        self._session: Session | None = None
        self._over = False  # the session was ended
        self._merge = BarMerge(0)
        self._builder = BarBuilder(Session("", 0, 0), grid)
        self._streamed_ns = 0  # end of the newest streamed bar
        self._halted_ns = 0  # since when its exchange halts it, by the stream
        self._repair_request = asyncio.Event()
        self._repair_reason = ""
        self._repairing = asyncio.Lock()

    @property
    def in_session(self) -> bool:
        """Return whether the begun session is running now, and the broker's market is open."""
        session = self._running_session()
        if session is None or self._over or self._is_closed():
            return False
        return session.open_ns <= self._clock.now_ns() < session.close_ns

    @property
    def expects_quotes(self) -> bool:
        """Return whether quotes should come now: in a session, outside of a trading halt."""
        return self.in_session and not self._halted_ns

    @property
    def newest(self) -> tuple[int, float]:
        """Return start and close of the newest minute of the session; the last close known before there is one."""
        return self._merge.last_ns, self.spot

    def _running_session(self) -> Session | None:
        """Return the begun session, with its present close."""
        if self._session is not None:
            self._session = self._builder.session = self._as_traded(self._session)
        return self._session

    def begin(self, session: Session) -> None:
        """Emit bars of this session from now on."""
        self._session = session
        self._over, self._halted_ns = False, 0
        self._merge = BarMerge(session.open_ns - MINUTE_NS)
        self._builder = BarBuilder(session, self._grid)

    async def finish(self, session: Session) -> None:
        """Emit no bar of the session after this; first fetch its last one if missing."""
        running_session = self._running_session()
        if running_session is not None and running_session.date == session.date:
            if self._merge.holding or self._merge.last_ns < running_session.close_ns - MINUTE_NS:
                await self._repair("end of session")
            self._close_torn_bar()  # also without a repair
            self._over = True

    def know(self, minutes: tuple[Bar, ...], last_ns: int) -> list[Bar]:
        """Note the session's minutes so far; return to the caller their complete bars that began after `last_ns`."""
        if minutes:
            self.spot = minutes[-1].close
        self._merge.know(minutes, last_ns)
        return self._builder.know(minutes, last_ns, self._clock.now_ns())

    async def fetched(self, session: Session, until_s: float | None = None) -> tuple[Bar, ...]:
        """Fetch all bars of a session up to now; retry until REST answers, or until loop time `until_s`: then none."""
        try:
            async with asyncio.timeout_at(until_s):
                return await self._retry(
                    session, lambda: self._history.session(self.symbol, session, self._clock.now_ns())
                )
        except TimeoutError:
            self.abandoned.append(session.date)
            return ()

    async def run(self) -> None:
        """Repair and watch for silence until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repair_on_request(), name="bar repair")
            tasks.create_task(self._watch_silence(), name="silence watch")
            if self._grid.length_ns > MINUTE_NS:
                tasks.create_task(self._watch_torn_bars(), name="torn bars")

    # --- streamed -----------------------------------------------------------------------------------------------------

    def on_bar(self, bar: Bar, session: Session) -> None:
        """Handle a streamed bar, first or updated, of regular hours; one from the future is refused."""
        now_ns = self._clock.now_ns()
        if bar.start_ns + MINUTE_NS > now_ns + EARLY_NS:  # it is not current, and none could follow it
            detail = f"its minute begins at {bar.start_ns}, now is {now_ns}"
            self._give([BarRejected(now_ns, bar.symbol, bar.start_ns, "early", detail)])
            return
        self._streamed_ns = max(self._streamed_ns, bar.start_ns + MINUTE_NS)
        current = self._session
        if current is None or session.date > current.date:  # the schedule's job did not run
            try:
                self._announce(session)
            except CalendarError as error:
                raise ValueError(str(error)) from error  # counted and reported by the socket
        elif session.date < current.date:
            self.counts["late"] += 1
            return
        merge = self._merge
        if bar.start_ns > merge.last_ns + MINUTE_NS and not merge.holding:
            merge.hold()
            self._ask_repair("a minute is missing")
        self._give(merge.add(bar, now_ns))

    def on_rejected(self, event: BarRejected) -> None:
        """Handle a refused bar of the stream: REST may have a good one."""
        early = event.start_ns + MINUTE_NS > self._clock.now_ns() + EARLY_NS
        if event.reason != "wrong_symbol" and not early:
            self._streamed_ns = max(self._streamed_ns, event.start_ns)
            if event.start_ns > self._merge.last_ns:
                self._ask_repair("a bar was refused")
        self._give([event])

    def on_status(self, status: TradingStatus) -> None:
        """Log a change of the trading status, and emit a halt and its end: meanwhile silence is no fault."""
        if status.halted is not None:
            self._halted_ns = self._clock.now_ns() if status.halted else 0
            words = " ".join(part for part in (status.text, status.reason) if part)
            self._put(TradingStatusChanged(self._clock.now_ns(), self.symbol, status.halted, words))
        self._log(
            "trading_status",
            symbol=status.symbol,
            code=status.code,
            text=status.text,
            reason=status.reason,
            halted=status.halted,
        )

    def on_state(self, state: State) -> None:
        """Handle a connect: bars may be missing, so new ones wait until REST was read.

        A halt is known only as long as the connection that reported it: news of its end may be lost with it.
        """
        if state == "down" and self._halted_ns:
            self._halted_ns = 0
            words = "the stream that told the halt is gone"
            self._put(TradingStatusChanged(self._clock.now_ns(), self.symbol, False, words))
        if state == "up":
            self._merge.hold()
            self._ask_repair("connected")

    def _give(self, events: list[Given]) -> None:
        for event in events:
            match event:
                case BarClosed() if self._over:
                    self.counts["late"] += 1  # its session ended without it
                    self._log("bar_late", symbol=event.bar.symbol, start_ns=event.bar.start_ns)
                case BarClosed():
                    if event.bar.start_ns >= self._halted_ns:
                        self._halted_ns = 0  # it trades
                    self.counts["bars"] += 1
                    self.spot = event.bar.close
                    self._emit(self._builder.take(event))
                case BarCorrected():
                    self.counts["corrected"] += 1
                    self._emit(self._builder.take(event))
                case _:
                    self.counts["rejected"] += 1
                    self._put(event)

    def _emit(self, events: Sequence[BarClosed | BarCorrected]) -> None:
        """Emit bars of the desk's interval, each closed one with its quotes."""
        for event in events:
            self._put(event)
            if isinstance(event, BarClosed):
                self._put(QuotesReceived(event.time_ns, event.bar.start_ns, self._take_quotes(self.symbol)))

    async def _watch_torn_bars(self) -> None:
        """Look some seconds after each minute for a bar that lacks its last minute.

        Nothing was traded in it, or the stream lost it: REST is read. Then the bar goes out as it is.
        """
        while True:
            now_ns = self._clock.now_ns()
            lacking_ns = now_ns + MINUTE_NS - (now_ns - LACKING_NS) % MINUTE_NS
            await self._clock.sleep_until(lacking_ns)
            if self._builder.lacks(self._clock.now_ns()):
                await self._repair("a bar lacks its last minute")
            await self._clock.sleep_until(lacking_ns + TORN_NS - LACKING_NS)
            if not self._merge.holding:  # else its minutes may be on their way
                self._close_torn_bar()

    def _close_torn_bar(self) -> None:
        if not self._over:
            now_ns = self._clock.now_ns()
            self._emit([BarClosed(now_ns, bar) for bar in self._builder.torn(now_ns)])

    # --- repair and silence ---------------------------------------------------------------------------------------

    def _ask_repair(self, reason: str) -> None:
        self._repair_reason = reason
        self._repair_request.set()

    async def _repair(self, reason: str) -> None:
        """Fill the gap between the last emitted bar and now from REST, then release held bars."""
        async with self._repairing:
            merge, session = self._merge, self._running_session()
            if session is None or self._over:
                return
            merge.hold()
            bars: tuple[Bar, ...] = ()
            count_before = self.counts["bars"]
            try:
                async with asyncio.timeout(self._timing.repair_s):
                    bars = await self._retry(
                        session,
                        lambda: self._history.so_far(self.symbol, session, merge.last_ns, self._clock.now_ns()),
                    )
            except TimeoutError:
                self._log("repair_abandoned", symbol=self.symbol, reason=reason, after_s=self._timing.repair_s)
            if merge is not self._merge:
                return  # the next session began meanwhile
            self._give(merge.repaired(bars, self._clock.now_ns()))
            self.counts["repairs"] += 1
            self._close_torn_bar()
            count = self.counts["bars"] - count_before
            if count:
                self._log("repaired", symbol=self.symbol, reason=reason, fetched=len(bars), given=count)

    async def _retry(self, session: Session, read: Callable[[], Awaitable[tuple[Bar, ...]]]) -> tuple[Bar, ...]:
        return await self._timing.until_answered(read, self._rng, partial(self._log_no_answer, session))

    def _log_no_answer(self, session: Session, error: RestError, wait_s: float) -> None:
        if isinstance(error, Refused) and error.status in NOT_FOUND:
            self._log("symbol_refused", symbol=self.symbol, problem=str(error))
            return
        problem, wait_s = str(error), round(wait_s, 2)
        self._log("history_unavailable", symbol=self.symbol, date=session.date, problem=problem, wait_s=wait_s)

    async def _repair_on_request(self) -> None:
        while True:
            await self._repair_request.wait()
            self._repair_request.clear()
            await self._repair(self._repair_reason)
            await asyncio.sleep(self._timing.breath_s)

    async def _watch_silence(self) -> None:
        """After two minutes without a streamed bar in session: log, reconnect (less and less often), read REST each
        minute."""
        silence = Silence(self._timing.silence_ns + LATE_NS, self._clock.now_ns())
        while True:
            session = self._running_session()
            newest_ns = max(session.open_ns, self._streamed_ns) if session is not None and self.in_session else None
            silent = silence.looks
            again_ns = silence.look(self._clock.now_ns(), newest_ns)
            if silence.looks:
                self.counts["silences"] += 1
                self._ask_repair("silence")
            elif silent and newest_ns is not None:
                self._log("feed_heard_again", symbol=self.symbol, minutes=silent)
            if silence.loud and not self._halted_ns:
                self._log("feed_silent", symbol=self.symbol, quiet_s=silence.quiet_ns // SECOND_NS)
                self._reconnect("no bar came although its minute is over")
            await asyncio.sleep(self._timing.breath_s)
            await self._clock.sleep_until(again_ns)


Minutes = Mapping[str, tuple[Bar, ...]]


class StockBars:
    """All symbols' bars on the grid. See `LiveBars` for the arguments; `stream` carries their quotes too."""

    def __init__(
        self,
        clock: Clock,
        calendar: SessionCalendar,
        symbols: tuple[str, ...],
        put: Callable[[Event], None],
        log: EventLogger,
        *,
        history: BarHistory,
        endpoint: Endpoint,
        timing: Timing,
        rng: random.Random,
        announce: Callable[[Session], object],
        as_traded: Callable[[Session], Session],
        is_closed: Callable[[], bool],
        take_quotes: Callable[[str], tuple[Quote, ...]],
        grid: Grid,
    ) -> None:
        self._clock = clock
        self._put = put
        self._grid = grid
        self.stream = StockStream(
            endpoint,
            symbols,
            MINUTE_NS // SECOND_NS,
            calendar=calendar,
            now_ns=clock.now_ns,
            on_bar=self._on_bar,
            on_rejected=self._on_rejected,
            on_status=self._on_status,
            on_state=self._on_state,
            log=log,
        )
        self._bars_by_symbol = {
            symbol: LiveBars(
                clock,
                symbol,
                put,
                log,
                history=history,
                timing=timing,
                rng=rng,
                announce=announce,
                as_traded=as_traded,
                is_closed=is_closed,
                take_quotes=take_quotes,
                reconnect=self.stream.socket.force_reconnect,
                grid=grid,
            )
            for symbol in symbols
        }
        self._first = self._bars_by_symbol[symbols[0]]

    @property
    def spot(self) -> float:
        """The last close known of the first symbol, 0 for none."""
        return self._first.spot

    @property
    def newest(self) -> tuple[int, float]:
        """Return start and close of the first symbol's newest minute (see `LiveBars.newest`)."""
        return self._first.newest

    def expects_quotes(self, symbol: str) -> bool:
        """Return whether quotes of a share, or of the first one's contracts, should come now."""
        return self._bars_by_symbol.get(symbol, self._first).expects_quotes

    @property
    def counts(self) -> Counter[str]:
        """The counts of all symbols together."""
        return sum((bars.counts for bars in self._bars_by_symbol.values()), Counter())

    @property
    def abandoned(self) -> list[str]:
        """Dates of sessions whose bars did not come in time, each once."""
        return list(dict.fromkeys(date for bars in self._bars_by_symbol.values() for date in bars.abandoned))

    def begin(self, session: Session) -> None:
        """Emit bars of this session from now on."""
        for bars in self._bars_by_symbol.values():
            bars.begin(session)

    async def finish(self, session: Session) -> None:
        """Emit no bar of the session after this; first fetch the last ones where missing."""
        await asyncio.gather(*(bars.finish(session) for bars in self._bars_by_symbol.values()))

    async def fetched(self, session: Session, until_s: float | None = None) -> Minutes:
        """Fetch all minutes of a session up to now, by symbol. See `LiveBars.fetched`."""
        return {symbol: await bars.fetched(session, until_s) for symbol, bars in self._bars_by_symbol.items()}

    def count(self, minutes: Minutes) -> int:
        """Return about how many bars every symbol has of these minutes."""
        return min(map(len, minutes.values())) * MINUTE_NS // self._grid.length_ns

    def put_past(self, minutes: Minutes, known_bars: Known) -> Known:
        """Emit the bars that the state lacks, without quotes, which are unknown; return the bars that it then knows."""
        now_ns, newest = self._clock.now_ns(), {}
        past: list[Bar] = []
        for symbol, live in self._bars_by_symbol.items():
            own_bars = live.know(minutes[symbol], known_bars.last_of(symbol))
            past += own_bars
            newest[symbol] = max([known_bars.last_of(symbol), *(bar.start_ns for bar in own_bars)])
        for bar in sorted(past, key=lambda bar: bar.start_ns):
            self._put(BarClosed(now_ns, bar))
            self._put(QuotesReceived(now_ns, bar.start_ns, ()))
        return replace(known_bars, last_bar_ns=max(newest.values()), newest=newest)

    def learn_spot(self, minutes: Minutes) -> None:
        """Take the first symbol's last close from past minutes."""
        rows = minutes[self._first.symbol]
        self._first.spot = rows[-1].close if rows else 0.0

    async def run(self) -> None:
        """Stream, repair and watch for silence until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.stream.socket.run(), name="stock stream")
            for symbol, bars in self._bars_by_symbol.items():
                tasks.create_task(bars.run(), name=f"bars of {symbol}")

    # --- streamed -----------------------------------------------------------------------------------------------------

    def _on_bar(self, bar: Bar, session: Session) -> None:
        self._bars_by_symbol[bar.symbol].on_bar(bar, session)

    def _on_rejected(self, event: BarRejected) -> None:
        self._bars_by_symbol.get(event.symbol, self._first).on_rejected(event)

    def _on_status(self, status: TradingStatus) -> None:
        if (bars := self._bars_by_symbol.get(status.symbol)) is not None:
            bars.on_status(status)

    def _on_state(self, state: State) -> None:
        for bars in self._bars_by_symbol.values():
            bars.on_state(state)
