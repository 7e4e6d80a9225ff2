"""The live market of a desk that decides at each bar: emits sessions, bars, quotes and contracts, without gaps.

Each session's bars follow its `SessionScheduled`, each `BarClosed` is followed at once by the `QuotesReceived` that
closes it, and a symbol's gap is filled over REST before its later bars go on. Quotes are conflated: the newest of each
contract or share, with the extremes of its mids since; crossed, negative, early or non-numeric ones are counted and
dropped. Market rules follow the daemon's clock, network timeouts real seconds. It decides nothing about trading: the
step judges the age of quotes and bars.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import replace

from daemon.brokers.alpaca.market.chain import ChainReader
from daemon.brokers.alpaca.market.history import BarHistory
from daemon.brokers.alpaca.market.live_bars import BrokerDays, Minutes, StockBars, Timing
from daemon.brokers.alpaca.market.socket import QUOTES, Endpoint, MarketSocket, Silence, State, instant_ns
from daemon.brokers.alpaca.rest.client import RestError
from daemon.brokers.alpaca.wire import text
from daemon.brokers.api import EventLogger, Known, open_session, sessions_before
from daemon.core.book import CENT
from daemon.core.events import (
    Contract,
    Event,
    HaltRequested,
    Quote,
    QuotesReceived,
    SessionEnded,
    SessionScheduled,
    SharesSplit,
)
from daemon.core.instruments.option_market import is_contract
from daemon.core.instruments.quotes import FUTURE_NS, sides_fault
from daemon.host.time.calendar import SessionCalendar
from daemon.host.time.clock import Clock
from strategies.kit.contract import Session, Spec
from strategies.kit.units import SECOND_NS

if TYPE_CHECKING:
    from daemon.brokers.alpaca.market.recorder import OptionRecorder

FINE = Decimal("0.0001")  # USD: shares below a dollar
_ZERO = Decimal(0)
_HIGHEST = Decimal(1_000_000)

TakeMessage = Callable[[dict[str, Any]], None]
OpenSocket = Callable[[TakeMessage], MarketSocket]
"""Returns the socket of the quotes, whose messages go to the argument."""
ReadQuotes = Callable[[tuple[str, ...]], Awaitable[dict[str, dict[str, Any]]]]
"""Reads the newest quotes over REST, by symbol; those without one are absent. Raises RestError."""
SIDE_STRIKES = 2  # neighbours that are streamed on each side of a contract


def with_neighbours(contracts: Iterable[Contract], symbols: Collection[str]) -> frozenset[str]:
    """Return these contracts with both rights of SIDE_STRIKES strikes on each side, of the same expiry.

    A contract outside of the listing has no neighbours.
    """
    strikes: dict[str, dict[Decimal, list[str]]] = {}
    place: dict[str, Contract] = {}
    for contract in contracts:
        strikes.setdefault(contract.expiry, {}).setdefault(contract.strike, []).append(contract.symbol)
        if contract.symbol in symbols:
            place[contract.symbol] = contract
    chosen = set(symbols)
    for contract in place.values():
        ladder = strikes[contract.expiry]
        rungs = sorted(ladder)
        at = rungs.index(contract.strike)
        for strike in rungs[max(0, at - SIDE_STRIKES) : at + SIDE_STRIKES + 1]:
            chosen.update(ladder[strike])
    return frozenset(chosen)


class QuoteBook:
    """The newest quote of each symbol, on a grid of prices. `take` returns quotes and resets their range of mids."""

    def __init__(self, now_ns: Callable[[], int] | None = None, grid: Decimal = CENT) -> None:
        """With `now_ns`, drop quotes from the future: one would stay fresh and outdate all later ones."""
        self.counts: Counter[str] = Counter()  # dropped quotes by reason
        self._now_ns = now_ns
        self._grid = grid
        self._quotes: dict[str, Quote] = {}
        self._news: set[str] = set()  # quoted since the last `take`

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._quotes

    def add(self, symbol: str, bid: object, ask: object, quoted_ns: int) -> str:
        """Add a quote (USD a share, 0 no such side); return the reason when it is dropped, else ""."""
        low, high, last = _price(bid, self._grid), _price(ask, self._grid), self._quotes.get(symbol)
        if low is None or high is None:
            return self._drop("not_finite")
        if fault := sides_fault(low, high):
            return self._drop(fault)
        if self._now_ns is not None and quoted_ns > self._now_ns() + FUTURE_NS:
            return self._drop("early")
        if last is not None and quoted_ns < last.quoted_ns:
            return self._drop("older")
        middle = (low + high) / 2
        lowest = middle if last is None else min(last.low, middle)
        highest = middle if last is None else max(last.high, middle)
        self._quotes[symbol] = Quote(symbol, low, high, lowest, highest, quoted_ns)
        self._news.add(symbol)
        return ""

    def _drop(self, reason: str) -> str:
        self.counts[reason] += 1
        return reason

    def take(self, symbols: Iterable[str] | None = None) -> tuple[Quote, ...]:
        """Return the newest quotes of these symbols (None: all), in their order, and reset their ranges."""
        chosen = sorted(self._quotes if symbols is None else self._quotes.keys() & set(symbols))
        quotes = tuple([self._quotes[symbol] for symbol in chosen])
        for quote in quotes:
            middle = (quote.bid + quote.ask) / 2
            self._quotes[quote.symbol] = Quote(quote.symbol, quote.bid, quote.ask, middle, middle, quote.quoted_ns)
        self._news -= set(chosen)
        return quotes

    def news(self, symbols: Collection[str]) -> set[str]:
        """Return those of these symbols that were quoted since the last `take`."""
        return self._news & set(symbols)

    def keep_only(self, symbols: Collection[str]) -> None:
        """Drop symbols that are no longer watched."""
        for symbol in self._quotes.keys() - set(symbols):
            del self._quotes[symbol]
            self._news.discard(symbol)


def _price(value: object, grid: Decimal) -> Decimal | None:
    """Return a price from the wire (a number, by its shortest text) on the grid; None unless it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = Decimal(repr(value))
    if not number.is_finite() or abs(number) > _HIGHEST:
        return None
    return number.quantize(grid) if number else _ZERO.quantize(grid)


class LiveQuotes:
    """Selects what is streamed, and emits quotes between bars. `run` together with the socket's run.

    `shares` are always streamed; a desk of contracts has none and streams those it watches. Attended symbols are
    streamed too, and quoted between bars.
    """

    def __init__(
        self,
        open_socket: OpenSocket,
        read: ReadQuotes,
        put: Callable[[Event], None],
        log: EventLogger,
        *,
        clock: Clock,
        expects_quotes: Callable[[str], bool],
        conflate_ns: int,
        silence_ns: int,
        breath_s: float,
        shares: tuple[str, ...],
        recorder: OptionRecorder | None,
    ) -> None:
        self.book = QuoteBook(clock.now_ns, FINE if shares else CENT)
        self.socket = open_socket(self._take)
        self._read = read
        self._put = put
        self._log = log
        self._clock = clock
        self._expects_quotes = expects_quotes
        self._conflate_ns = conflate_ns
        self._silence_ns = silence_ns
        self._breath_s = breath_s
        self._shares = shares
        self._recorder = recorder
        self._streamed_symbols: frozenset[str] = frozenset()
        self._came_ns: dict[str, int] = {}  # when the newest streamed quote of each share came; of contracts under ""
        self._contracts: tuple[Contract, ...] = ()
        self._watched_symbols: tuple[str, ...] = ()
        self._watched_near: frozenset[str] = frozenset()  # with their neighbours in the listing
        self._attended_symbols: frozenset[str] = frozenset()
        self._unasked_symbols: set[str] = set()
        self._quote_came = asyncio.Event()
        self._request = asyncio.Event()
        self._restream()

    def note_listed(self, contracts: tuple[Contract, ...]) -> None:
        """Set the listing, which defines neighbours."""
        self._contracts = contracts
        self._watched_near = with_neighbours(contracts, self._watched_symbols)
        self._restream()

    def watch(self, symbols: tuple[str, ...]) -> None:
        """Stream these contracts and their neighbours, so that a quote precedes the answer that needs it."""
        if symbols != self._watched_symbols:
            self._watched_symbols = symbols
            self._watched_near = with_neighbours(self._contracts, symbols)
            self._restream()

    def attend(self, symbols: frozenset[str]) -> None:
        """Stream these too, and emit their quotes between bars."""
        if symbols == self._attended_symbols:
            return  # called at every step
        self._attended_symbols = symbols
        self._restream()
        if self.book.news(symbols):
            self._quote_came.set()

    async def run(self) -> None:
        """Emit attended quotes and request first quotes, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._conflate(), name="quote conflater")
            tasks.create_task(self._ask_first_quotes(), name="first quotes")
            tasks.create_task(self._watch_silence(), name="quote silence watch")

    def _restream(self) -> None:
        """Stream exactly what is wanted now; request first quotes of new symbols.

        On a desk of contracts none for shares, such as those of an exercise, which have no quote there.
        """
        symbols = self._watched_near | self._attended_symbols | frozenset(self._shares)
        if not self._shares:
            symbols = frozenset(filter(is_contract, symbols))
        if symbols == self._streamed_symbols:
            return
        new, old = symbols - self._streamed_symbols, self._streamed_symbols - symbols
        self._streamed_symbols = symbols
        if new:
            self.socket.subscribe(QUOTES, new)
        if old:
            self.socket.unsubscribe(QUOTES, old)
            self.book.keep_only(symbols)
        if self._recorder is not None:
            self._recorder.streamed(symbols)
        self._ask_for({symbol for symbol in new if symbol not in self.book})

    def _ask_for(self, symbols: Collection[str]) -> None:
        self._unasked_symbols |= set(symbols)
        if self._unasked_symbols:
            self._request.set()

    def _take(self, message: dict[str, Any]) -> None:
        if message["T"] != "q":
            return
        symbol = str(message["S"])
        if self._recorder is not None:
            self._recorder.take(symbol, message)
        if symbol not in self._streamed_symbols:
            return  # buffered from before an unsubscribe
        if not self.book.add(symbol, message["bp"], message["ap"], instant_ns(message["t"])):
            self._came_ns[symbol if self._shares else ""] = self._clock.now_ns()
            self._on_quote(symbol)

    def _on_quote(self, symbol: str) -> None:
        if symbol in self._attended_symbols:
            self._quote_came.set()

    async def _conflate(self) -> None:
        while True:
            await self._quote_came.wait()
            self._quote_came.clear()
            news = self.book.news(self._attended_symbols)
            if news:
                now_ns = self._clock.now_ns()
                self._put(QuotesReceived(now_ns, 0, self.book.take(news)))
                await self._clock.sleep_until(now_ns + self._conflate_ns)

    async def _watch_silence(self) -> None:
        """After a silence in session: log, reconnect (less and less often) and read REST each minute.

        Each share is expected to be quoted; of contracts any one.
        """
        silence = Silence(self._silence_ns, self._clock.now_ns())
        while True:
            now_ns, names = self._clock.now_ns(), self._shares or ("",)
            expected = {name for name in names if self._streamed_symbols and self._expects_quotes(name)}
            self._came_ns |= {name: now_ns for name in names if name not in expected}  # its silence begins here
            newest_ns = min((self._came_ns.get(name, 0) for name in expected), default=None)
            again_ns = silence.look(now_ns, newest_ns)
            if silence.looks:
                self._ask_for(self._streamed_symbols)
            if silence.loud:
                quiet_s = silence.quiet_ns // SECOND_NS
                self._log("quotes_silent", contracts=len(self._streamed_symbols), quiet_s=quiet_s)
                self.socket.force_reconnect("no quote came")
            await asyncio.sleep(self._breath_s)
            await self._clock.sleep_until(again_ns)

    async def _ask_first_quotes(self) -> None:
        """Request a first quote over REST for newly streamed symbols; for all while the stream is silent."""
        while True:
            await self._request.wait()
            self._request.clear()
            symbols = tuple(sorted(self._unasked_symbols & self._streamed_symbols))
            self._unasked_symbols.clear()
            if not symbols:
                continue
            try:
                answer = await self._read(symbols)
            except RestError as error:
                self._log("quotes_unavailable", symbols=symbols, problem=str(error))
                continue
            odd = [symbol for symbol in symbols if symbol in answer and not self._note(symbol, answer[symbol])]
            if odd:
                self._log("quotes_unavailable", symbols=odd, problem="the answer has no bid, ask or time for them")

    def _note(self, symbol: str, raw: dict[str, Any]) -> bool:
        """Add REST's quote unless the stream's is newer; False when it cannot be read."""
        if symbol not in self._streamed_symbols:
            return True
        try:
            self.book.add(symbol, raw["bp"], raw["ap"], instant_ns(raw["t"]))
        except (LookupError, TypeError, ValueError):
            return False
        self._on_quote(symbol)
        return True


# --- the feed -------------------------------------------------------------------------------------------------------

SHORTEST_S = 210 * 60  # a session's: a half day
CLOSE_GRACE_S = 10  # after the close: the last bar comes about a second after its minute
AGAIN_NS = 60 * SECOND_NS  # before the open, when splits are read once more
MOST_SESSIONS_BACK = 10  # how far back missing bars are requested, at least


class Options(NamedTuple):
    """Further needs of a desk of options: the chain, and the stream of the contracts' quotes."""

    chain: ChainReader
    stream: Endpoint
    recorder: OptionRecorder | None = None


class LiveFeed:
    """Streams and history of one desk: events go to `put`, problems to `log`.

    With `options` it quotes contracts of the one symbol; without, the shares of all symbols, on the stream of their
    bars. `read_quotes` is the REST side of the same quotes. Call `catch_up` first, then run `run` together with
    `schedule` and `end` for each session.
    """

    def __init__(
        self,
        clock: Clock,
        calendar: SessionCalendar,
        spec: Spec,
        put: Callable[[Event], None],
        log: EventLogger,
        *,
        history: BarHistory,
        read_quotes: ReadQuotes,
        stock: Endpoint,
        options: Options | None,
        timing: Timing,
        as_traded: Callable[[Session], Session],
        is_closed: Callable[[], bool],
        days: BrokerDays,
    ) -> None:
        """`days` is the broker's own calendar.

        `as_traded` gives a session of the calendar the close that it has by now. `is_closed` says whether the broker's
        market is closed within it.
        """
        self.close_grace_s = CLOSE_GRACE_S
        self._clock = clock
        self._calendar = calendar
        self._days = days
        self._symbols = spec.symbols
        self._history_bars = spec.history_bars
        self._sessions_back = MOST_SESSIONS_BACK + spec.history_bars * spec.bar_interval_s // SHORTEST_S
        self._put = put
        self._log = log
        self._options = options
        self._history = history
        self._recorder = None if options is None else options.recorder
        self._timing = timing
        self._rng = random.SystemRandom()
        self._schedule_event: SessionScheduled | None = None
        self._bars = StockBars(
            clock,
            calendar,
            spec.symbols,
            put,
            log,
            history=history,
            endpoint=stock,
            timing=self._timing,
            rng=self._rng,
            announce=self._announce,
            as_traded=as_traded,
            is_closed=is_closed,
            take_quotes=self._closing,
            grid=spec.grid,
        )
        self._quotes = LiveQuotes(
            self._quote_socket,
            read_quotes,
            put,
            log,
            clock=clock,
            expects_quotes=self._expects_quotes,
            conflate_ns=self._timing.conflate_ns,
            silence_ns=self._timing.silence_ns,
            breath_s=self._timing.breath_s,
            shares=spec.symbols if options is None else (),
            recorder=self._recorder,
        )
        if self._recorder is not None:
            self._recorder.attach(self._quotes.socket, lambda: self._bars.newest)

    def _quote_socket(self, take: TakeMessage) -> MarketSocket:
        """Return the socket of the quotes: of shares that of the bars, of contracts one of their own."""
        if self._options is None:
            return self._bars.stream.quoted_to(take)
        return MarketSocket(self._options.stream, on_message=take, on_state=self._on_state, log=self._log)

    def _on_state(self, state: State) -> None:
        if self._recorder is not None:
            self._recorder.on_state(state)

    def _closing(self, symbol: str) -> tuple[Quote, ...]:
        """Return the quotes that close a bar of `symbol`: its own, or those of all contracts."""
        return self._quotes.book.take((symbol,) if self._options is None else None)

    def _expects_quotes(self, symbol: str) -> bool:
        return self._bars.expects_quotes(symbol)

    # --- sessions -------------------------------------------------------------------------------------------------

    async def catch_up(self, known_bars: Known, *, exposed: bool = False) -> Session:
        """Emit what the recovered state lacks, then the running session so far, or the next one's schedule.

        Returns the last scheduled session; if it is over by then, the caller ends it. REST is retried until it answers.
        If the desk is `exposed`, only until the open, or for `repair_s` within a session, because positions can be left
        only in a running session: it begins without the missing bars, and a halt keeps new risk off incomplete
        features. Raises CalendarError when the calendar is too short.
        """
        until_s = asyncio.get_running_loop().time() + self._catch_up_s() if exposed else None
        await self._learn_closes()
        while True:
            now_ns = self._clock.now_ns()
            known_bars = await self._catch_up_past(known_bars, now_ns, until_s)
            if open_session(known_bars, self._calendar, self._clock.now_ns()) is None and not sessions_before(
                known_bars, self._calendar, self._clock.now_ns()
            ):
                break  # else a session ended meanwhile
        running = self._calendar.at(now_ns)
        schedule_event = self._announce(running or self._calendar.next_after(now_ns))
        with contextlib.suppress(TimeoutError):  # no start waits for it: the session's job repeats it
            async with asyncio.timeout(self._timing.repair_s):
                await self._tell_splits(schedule_event.session)
        if running is not None:
            self._bars.put_past(await self._bars.fetched(running, until_s), known_bars)
        if self._options is not None and not self._bars.spot:  # the state has all bars; the chain needs the last price
            past = sessions_before(Known("", True, 0), self._calendar, now_ns)
            if past:
                self._bars.learn_spot(await self._bars.fetched(past[0], until_s))
        if self._bars.abandoned:
            detail = f"no bars of {', '.join(self._bars.abandoned)} could be had at the start"
            self._put(HaltRequested(self._clock.now_ns(), "history_missing", detail, "feed"))
        return schedule_event.session

    async def _learn_closes(self) -> None:
        """Let past sessions close with the broker's market: later trades of that day are not in their bars.

        No start waits for it: where the broker does not answer, they close by the calendar.
        """
        past = sessions_before(Known("", True, 0), self._calendar, self._clock.now_ns())[: self._sessions_back]
        if not past:
            return
        try:
            async with asyncio.timeout(self._timing.repair_s):
                rows = await self._days(past[-1].date, past[0].date)
        except (RestError, TimeoutError) as error:
            problem = str(error) or "no answer in time"
            self._log("history_unavailable", symbol="the calendar", date=past[0].date, problem=problem, wait_s=0.0)
            return
        close_times = {text(row.get("date")): text(row.get("close")) for row in rows}
        self._calendar = self._calendar.closed_by({session.date: close_times.get(session.date, "") for session in past})

    def _catch_up_s(self) -> float:
        """Return real seconds to wait for past bars while exposed: until the open, at least `repair_s`."""
        now_ns = self._clock.now_ns()
        running = self._calendar.at(now_ns) is not None
        until_open_s = 0.0 if running else self._clock.real_s(self._calendar.next_after(now_ns).open_ns - now_ns)
        return max(until_open_s, self._timing.repair_s)

    async def _catch_up_past(self, known_bars: Known, now_ns: int, until_s: float | None) -> Known:
        """Finish the state's open session, then the latest ones that a warm strategy needs, oldest first."""
        unfinished_session = open_session(known_bars, self._calendar, now_ns)
        missed_sessions = sessions_before(known_bars, self._calendar, now_ns)
        session_minutes: list[tuple[Session, Minutes]] = []
        count = 0
        for session in missed_sessions[: self._sessions_back]:
            if count >= self._history_bars or self._bars.abandoned:
                break
            bars = await self._bars.fetched(session, until_s)
            session_minutes.append((session, bars))
            count += self._bars.count(bars)
        else:
            if not known_bars.session_date and count < self._history_bars:
                self._log("history_short", symbol=", ".join(self._symbols), bars=count, expected=self._history_bars)
        if unfinished_session is not None:
            session_minutes.append((unfinished_session, await self._bars.fetched(unfinished_session, until_s)))
        for session, bars in reversed(session_minutes):
            self._announce(session)
            known_bars = self._bars.put_past(bars, known_bars)
            self._put(SessionEnded(self._clock.now_ns(), session.date))
        newest = missed_sessions[0] if missed_sessions else unfinished_session
        return known_bars if newest is None else replace(known_bars, session_date=newest.date, ended=True)

    async def schedule(self, session: Session) -> None:
        """Emit the session's schedule once, and its contracts when they are listed, or for shares their splits."""
        schedule_event = self._announce(session)
        if self._options is None:
            await self._tell_splits(session)
            if self._clock.now_ns() < session.open_ns - AGAIN_NS:  # day bars may be adjusted late
                await self._clock.sleep_until(session.open_ns - AGAIN_NS)
                await self._tell_splits(session)
            return
        tries = 0
        while self._clock.now_ns() < session.close_ns and self._schedule_event is schedule_event:
            try:
                listing = await self._options.chain.listed(schedule_event, self._bars.spot, self._clock.now_ns)
                problem = "no contract of the configured expiries" if self._bars.spot else "no bar so far, so no price"
            except RestError as error:
                listing, problem = None, str(error)
            if listing is not None and self._schedule_event is schedule_event:
                self._put(listing)
                self._quotes.note_listed(listing.contracts)
                if self._recorder is not None:
                    self._recorder.listed(listing.contracts)
                return
            wait_s = self._timing.retry_s(tries, self._rng.random())
            tries += 1
            self._log("chain_unlisted", date=session.date, problem=problem, wait_s=round(wait_s, 2))
            await asyncio.sleep(wait_s)

    async def _tell_splits(self, session: Session) -> None:
        """Emit splits of shares up to this session, whose earlier bars are as traded. Retry until REST answers.

        Before the session's day its own split is not known: its job asks again.
        """
        past = sessions_before(Known("", True, 0), self._calendar, session.open_ns)[: self._sessions_back]
        if self._options is not None or not past:
            return

        async def read() -> list[SharesSplit]:
            over = self._clock.now_ns() >= session.close_ns
            return [] if over else await self._history.splits(self._symbols, past[::-1], session)

        def log(error: RestError, wait_s: float) -> None:
            many, wait_s = ", ".join(self._symbols), round(wait_s, 2)
            self._log("history_unavailable", symbol=many, date=session.date, problem=str(error), wait_s=wait_s)

        for split in await self._timing.until_answered(read, self._rng, log):
            self._put(replace(split, time_ns=self._clock.now_ns()))

    async def decide(self, session: Session) -> None:
        """Do nothing: this desk decides at each bar."""

    async def end(self, session: Session) -> None:
        """Emit the session's end, after its last bar if available."""
        await self._bars.finish(session)
        self._put(SessionEnded(self._clock.now_ns(), session.date))
        if self._recorder is not None:
            self._recorder.end(session)
        drop_counts = {f"quote_{reason}": count for reason, count in self._quotes.book.counts.items()}
        self._log("feed_counts", date=session.date, counts=dict(self._bars.counts) | drop_counts)

    def _announce(self, session: Session) -> SessionScheduled:
        """Emit `SessionScheduled` once for each session and begin its sequence of bars."""
        if self._schedule_event is not None and self._schedule_event.session.date == session.date:
            return self._schedule_event
        self._schedule_event = SessionScheduled(self._clock.now_ns(), *self._calendar.around(session.date))
        self._bars.begin(session)
        self._quotes.note_listed(())
        if self._recorder is not None:
            self._recorder.begin(session)
        self._put(self._schedule_event)
        return self._schedule_event

    # --- quotes ---------------------------------------------------------------------------------------------------

    def watch(self, symbols: tuple[str, ...]) -> None:
        """Stream quotes of these option contracts and their neighbours, besides the attended ones and the shares."""
        self._quotes.watch(symbols)

    def attend(self, symbols: frozenset[str]) -> None:
        """Emit quotes of these held or worked symbols between bars too, at most once a second of the clock."""
        self._quotes.attend(symbols)

    # --- the run --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Stream until cancelled; then close each socket with a close frame."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._bars.run(), name="bars")
            if self._options is not None:
                tasks.create_task(self._run_option_stream(), name="option stream")
            tasks.create_task(self._quotes.run(), name="quotes")
            if self._recorder is not None:
                tasks.create_task(self._recorder.run(), name="recorder")

    async def _run_option_stream(self) -> None:
        await asyncio.sleep(self._timing.stagger_s)  # simultaneous connects would be refused with 429
        await self._quotes.socket.run()
