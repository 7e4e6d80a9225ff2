"""The live market of one desk: puts sessions, bars, quotes and contracts into the intake, in order and without holes.

Each session's bars follow its `SessionScheduled`, each `BarClosed` is followed at once by the `QuotesReceived` that
closes it, and a hole is filled over REST before later bars go on. Market rules follow the daemon's clock, waits for the
network real seconds. It decides nothing about trading: how old a quote or a bar may be is judged by the step.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from daemon.core.events import (
    BarClosed,
    BarCorrected,
    BarRejected,
    Event,
    QuotesReceived,
    SessionEnded,
    SessionScheduled,
)
from daemon.shell.alpaca.chain import Chain
from daemon.shell.alpaca.history import MINUTE_NS, History, Known, open_session, sessions_before
from daemon.shell.alpaca.market_socket import Endpoint, State, Tell
from daemon.shell.alpaca.merge import BarMerge, Given
from daemon.shell.alpaca.option_stream import LiveQuotes, QuoteReads
from daemon.shell.alpaca.rest import Refused, RestError
from daemon.shell.alpaca.silence import Silence
from daemon.shell.alpaca.stock_stream import StockStream, TradingStatus
from daemon.shell.calendar import CalendarError, SessionCalendar
from daemon.shell.clock import SECOND_NS, Clock
from strategies.contract import Bar, Session, Spec

MOST_SESSIONS_BACK = 10  # further back a feed that has no bars is not asked
LATE_NS = 10 * SECOND_NS  # a bar comes about a second after its minute's end; one empty minute is no silence
NOT_FOUND = frozenset((400, 404, 422))


@dataclass(frozen=True, slots=True)
class Timing:
    """When the feed loses its patience. `_s` are real seconds, `_ns` the clock's nanoseconds."""

    silence_ns: int = 2 * MINUTE_NS  # after the newest bar's end or the open, and LATE_NS more: two bars are missing
    conflate_ns: int = SECOND_NS  # between two quotes of a contract that is held
    repair_s: float = 15.0  # then streamed bars go on without REST's
    retry_first_s: float = 0.5
    retry_most_s: float = 30.0
    stagger_s: float = 0.5  # between the connects of the two streams
    breath_s: float = 0.2  # at least, between two repairs or rounds of the silence watch, however fast the clock runs


class LiveFeed:
    """Both streams, history and chain behind one door: events go out by `put`, problems by `tell`.

    `catch_up` comes first, then `run` beside `schedule` and `end` for each session. Raises ValueError for a strategy of
    several symbols or of other than minute bars, which this feed cannot serve.
    """

    def __init__(
        self,
        clock: Clock,
        calendar: SessionCalendar,
        spec: Spec,
        put: Callable[[Event], None],
        tell: Tell,
        *,
        history: History,
        chain: Chain,
        quotes: QuoteReads,
        option_feed: str,
        stock: Endpoint,
        option: Endpoint,
        timing: Timing | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if len(spec.symbols) != 1 or spec.bar_interval_s != 60:
            raise ValueError(
                f"the live feed serves one symbol with bars of 60 s, {spec.name} has {', '.join(spec.symbols)} with "
                f"{spec.bar_interval_s} s: run it in a replay"
            )
        self.counts: Counter[str] = Counter()  # bars, corrected, rejected, repairs, silences, late
        self._clock = clock
        self._calendar = calendar
        self._symbol = spec.symbols[0]
        self._history_bars = spec.history_bars
        self._put = put
        self._tell = tell
        self._history = history
        self._chain = chain
        self._timing = timing or Timing()
        self._rng = rng or random.SystemRandom()
        self._scheduled: SessionScheduled | None = None
        self._merge = BarMerge(0)
        self._over = ""  # date of the session that was ended
        self._spot = 0.0
        self._heard_ns = 0  # end of the newest streamed bar
        self._repair_asked = asyncio.Event()
        self._repair_reason = ""
        self._repairing = asyncio.Lock()
        self._stock = StockStream(
            stock,
            self._symbol,
            spec.bar_interval_s,
            calendar=calendar,
            now_ns=clock.now_ns,
            on_bar=self._on_bar,
            on_rejected=self._on_rejected,
            on_status=self._on_status,
            on_state=self._on_stock_state,
            tell=tell,
        )
        self._quotes = LiveQuotes(
            option,
            quotes,
            option_feed,
            put,
            tell,
            clock=clock,
            in_session=self._in_session,
            conflate_ns=self._timing.conflate_ns,
            silence_ns=self._timing.silence_ns,
            breath_s=self._timing.breath_s,
        )

    # --- sessions -------------------------------------------------------------------------------------------------

    async def catch_up(self, known: Known) -> None:
        """Put what the recovered state lacks, then the running session so far, or the next one's schedule.

        REST is asked until it answers. Raises CalendarError when the calendar does not hold what is needed.
        """
        while True:
            now_ns = self._clock.now_ns()
            known = await self._catch_up_past(known, now_ns)
            if open_session(known, self._calendar, self._clock.now_ns()) is None and not sessions_before(
                known, self._calendar, self._clock.now_ns()
            ):
                break  # else a session ended meanwhile
        running = self._calendar.at(now_ns)
        self._announce(running or self._calendar.next_after(now_ns))
        if running is not None:
            bars = await self._fetched(running)
            self._merge.know(bars, known.last_bar_ns)
            self._put_past(bars, known)
        if not self._spot:  # the state has all bars already; the chain needs the last price
            past = sessions_before(Known("", True, 0), self._calendar, now_ns)
            bars = await self._fetched(past[0]) if past else ()
            self._spot = bars[-1].close if bars else 0.0

    async def _catch_up_past(self, known: Known, now_ns: int) -> Known:
        """Finish the session the state has open, then the latest ones that a warm strategy needs, oldest first."""
        unfinished = open_session(known, self._calendar, now_ns)
        missed = sessions_before(known, self._calendar, now_ns)
        needed: list[tuple[Session, tuple[Bar, ...]]] = []
        count = 0
        for session in missed[:MOST_SESSIONS_BACK]:
            if count >= self._history_bars:
                break
            bars = await self._fetched(session)
            needed.append((session, bars))
            count += len(bars)
        else:
            if not known.session_date and count < self._history_bars:
                self._tell("history_short", symbol=self._symbol, bars=count, expected=self._history_bars)
        if unfinished is not None:
            needed.append((unfinished, await self._fetched(unfinished)))
        for session, bars in reversed(needed):
            self._announce(session)
            known = self._put_past(bars, known)
            self._put(SessionEnded(self._clock.now_ns(), session.date))
            self._over = session.date
        newest = missed[0] if missed else unfinished
        return known if newest is None else replace(known, session_date=newest.date, ended=True)

    async def schedule(self, session: Session) -> None:
        """Put the session's schedule, unless it was put, and its contracts as soon as they are listed."""
        scheduled = self._announce(session)
        tries = 0
        while self._clock.now_ns() < session.close_ns and self._scheduled is scheduled:
            try:
                listed = await self._chain.listed(scheduled, self._spot, self._clock.now_ns)
                problem = "no contract of the configured expiries" if self._spot else "no bar so far, so no price"
            except RestError as error:
                listed, problem = None, str(error)
            if listed is not None and self._scheduled is scheduled:
                self._put(listed)
                self._quotes.note_listed(listed.contracts)
                return
            wait_s = self._retry_s(tries)
            tries += 1
            self._tell("chain_unlisted", date=session.date, problem=problem, wait_s=round(wait_s, 2))
            await asyncio.sleep(wait_s)

    async def end(self, session: Session) -> None:
        """Put the session's end, after its last bar where that can be had."""
        if self._current() == session and (self._merge.holding or self._merge.last_ns < session.close_ns - MINUTE_NS):
            await self._repair("end of session")
        self._over = session.date
        self._put(SessionEnded(self._clock.now_ns(), session.date))
        dropped = {f"quote_{reason}": count for reason, count in self._quotes.book.counts.items()}
        bars = {f"bar_{reason}": count for reason, count in self._merge.counts.items()}
        self._tell("feed_counts", date=session.date, counts=dict(self.counts) | bars | dropped)

    def _announce(self, session: Session) -> SessionScheduled:
        """Put `SessionScheduled` once for each session and begin its sequence of bars."""
        if self._scheduled is not None and self._scheduled.session == session:
            return self._scheduled
        self._scheduled = SessionScheduled(self._clock.now_ns(), *self._calendar.around(session.date))
        self._merge = BarMerge(session.open_ns - MINUTE_NS)
        self._quotes.note_listed(())
        self._put(self._scheduled)
        return self._scheduled

    def _in_session(self) -> bool:
        current, now_ns = self._current(), self._clock.now_ns()
        return current is not None and current.date != self._over and current.open_ns <= now_ns < current.close_ns

    def _current(self) -> Session | None:
        return None if self._scheduled is None else self._scheduled.session

    # --- bars -----------------------------------------------------------------------------------------------------

    def _on_bar(self, bar: Bar, session: Session) -> None:
        """A streamed bar, first or updated, of regular hours."""
        self._heard_ns = max(self._heard_ns, bar.start_ns + MINUTE_NS)
        current = self._current()
        if current is None or session.date > current.date:  # the schedule's job did not run
            try:
                self._announce(session)
            except CalendarError as error:
                raise ValueError(str(error)) from error  # counted and told by the socket
        elif session.date < current.date:
            self.counts["late"] += 1
            return
        merge = self._merge
        if bar.start_ns > merge.last_ns + MINUTE_NS and not merge.holding:
            merge.hold()
            self._ask_repair("a minute is missing")
        self._give(merge.add(bar, self._clock.now_ns()))

    def _on_rejected(self, rejected: BarRejected) -> None:
        if rejected.reason != "wrong_symbol":
            self._heard_ns = max(self._heard_ns, rejected.start_ns)
            if rejected.start_ns > self._merge.last_ns:
                self._ask_repair("a bar was refused")
        self._give([rejected])

    def _on_status(self, status: TradingStatus) -> None:
        self._tell(
            "trading_status",
            symbol=status.symbol,
            code=status.code,
            text=status.text,
            reason=status.reason,
            halted=status.halted,
        )

    def _on_stock_state(self, state: State) -> None:
        """After every connect bars may be missing: new ones wait until REST was asked."""
        if state == "up":
            self._merge.hold()
            self._ask_repair("connected")

    def _give(self, events: list[Given]) -> None:
        for event in events:
            match event:
                case BarClosed() if self._current_over():
                    self.counts["late"] += 1  # its session was ended without it
                    self._tell("bar_late", symbol=event.bar.symbol, start_ns=event.bar.start_ns)
                case BarClosed():
                    self.counts["bars"] += 1
                    self._spot = event.bar.close
                    self._put(event)
                    self._put(QuotesReceived(event.time_ns, event.bar.start_ns, self._quotes.book.take()))
                case BarCorrected():
                    self.counts["corrected"] += 1
                    self._put(event)
                case _:
                    self.counts["rejected"] += 1
                    self._put(event)

    def _current_over(self) -> bool:
        current = self._current()
        return current is not None and current.date == self._over

    def _put_past(self, bars: tuple[Bar, ...], known: Known) -> Known:
        """Put those that the state does not know, without quotes, because nobody can say what they were."""
        now_ns = self._clock.now_ns()
        for bar in bars:
            self._spot = bar.close
            if bar.start_ns > known.last_bar_ns:
                self._put(BarClosed(now_ns, bar))
                self._put(QuotesReceived(now_ns, bar.start_ns, ()))
                known = replace(known, last_bar_ns=bar.start_ns)
        return known

    async def _fetched(self, session: Session) -> tuple[Bar, ...]:
        """All bars of a session up to now, asked for until REST answers."""
        tries = 0
        while True:
            try:
                return await self._history.session(self._symbol, session, self._clock.now_ns())
            except RestError as error:
                wait_s = self._retry_s(tries)
                tries += 1
                self._tell_unanswered(error, session, wait_s)
            await asyncio.sleep(wait_s)

    def _tell_unanswered(self, error: RestError, session: Session, wait_s: float) -> None:
        if isinstance(error, Refused) and error.status in NOT_FOUND:
            self._tell("symbol_refused", symbol=self._symbol, problem=str(error))
            return
        problem, wait_s = str(error), round(wait_s, 2)
        self._tell("history_unavailable", symbol=self._symbol, date=session.date, problem=problem, wait_s=wait_s)

    def _retry_s(self, tries: int) -> float:
        most = min(self._timing.retry_most_s, self._timing.retry_first_s * 2.0 ** min(tries, 16))
        return most * (0.5 + 0.5 * self._rng.random())

    # --- repair and silence ---------------------------------------------------------------------------------------

    def _ask_repair(self, reason: str) -> None:
        self._repair_reason = reason
        self._repair_asked.set()

    async def _repair(self, reason: str) -> None:
        """Fill from REST what lies between the last bar given and now, then let held bars go on."""
        async with self._repairing:
            merge, session = self._merge, self._current()
            if session is None or self._current_over():
                return
            merge.hold()
            bars: tuple[Bar, ...] = ()
            before = self.counts["bars"]
            try:
                async with asyncio.timeout(self._timing.repair_s):
                    bars = await self._fetched_from(session, merge.last_ns)
            except TimeoutError:
                self._tell("repair_abandoned", symbol=self._symbol, reason=reason, after_s=self._timing.repair_s)
            if merge is not self._merge:
                return  # the next session began meanwhile
            self._give(merge.repaired(bars, self._clock.now_ns()))
            self.counts["repairs"] += 1
            given = self.counts["bars"] - before
            if given:
                self._tell("repaired", symbol=self._symbol, reason=reason, fetched=len(bars), given=given)

    async def _fetched_from(self, session: Session, from_ns: int) -> tuple[Bar, ...]:
        tries = 0
        while True:
            try:
                return await self._history.so_far(self._symbol, session, from_ns, self._clock.now_ns())
            except RestError as error:
                wait_s = self._retry_s(tries)
                tries += 1
                self._tell_unanswered(error, session, wait_s)
            await asyncio.sleep(wait_s)

    async def _repair_when_asked(self) -> None:
        while True:
            await self._repair_asked.wait()
            self._repair_asked.clear()
            await self._repair(self._repair_reason)
            await asyncio.sleep(self._timing.breath_s)

    async def _watch_silence(self) -> None:
        """No streamed bar for two minutes in session: tell, reconnect (ever more seldom) and read REST each minute."""
        silence = Silence(self._timing.silence_ns + LATE_NS, self._clock.now_ns())
        while True:
            session = self._current()
            newest_ns = max(session.open_ns, self._heard_ns) if session is not None and self._in_session() else None
            silent = silence.looks
            again_ns = silence.look(self._clock.now_ns(), newest_ns)
            if silence.looks:
                self.counts["silences"] += 1
                self._ask_repair("silence")
            elif silent and newest_ns is not None:
                self._tell("feed_heard_again", symbol=self._symbol, minutes=silent)
            if silence.loud:
                self._tell("feed_silent", symbol=self._symbol, quiet_s=silence.quiet_ns // SECOND_NS)
                self._stock.socket.force_reconnect("no bar came although its minute is over")
            await asyncio.sleep(self._timing.breath_s)
            await self._clock.sleep_until(again_ns)

    # --- quotes ---------------------------------------------------------------------------------------------------

    def watch(self, symbols: tuple[str, ...]) -> None:
        """Stream quotes of these option contracts and their neighbours, and of no others beside the attended ones."""
        self._quotes.watch(symbols)

    def attend(self, symbols: frozenset[str]) -> None:
        """Contracts held or worked on: their quotes go out between bars too, at most once a second of the clock."""
        self._quotes.attend(symbols)

    # --- the run --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Stream until cancelled; then both sockets are closed with a close frame."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._stock.socket.run(), name="stock stream")
            tasks.create_task(self._run_option_stream(), name="option stream")
            tasks.create_task(self._repair_when_asked(), name="bar repair")
            tasks.create_task(self._watch_silence(), name="silence watch")
            tasks.create_task(self._quotes.run(), name="option quotes")

    async def _run_option_stream(self) -> None:
        await asyncio.sleep(self._timing.stagger_s)  # connects at once would be refused with 429
        await self._quotes.stream.socket.run()
