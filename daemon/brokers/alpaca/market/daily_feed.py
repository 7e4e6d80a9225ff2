"""The live market of a daily desk: sessions, final daily bars, the moment of a decision, quotes of what it works on.

Every bar that a decision may use is told before its `RebalanceDue`, and none is due when the history is incomplete:
then an alarm names why. Market rules follow the daemon's clock, waits for the network real seconds. It decides nothing
about trading.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from daemon.brokers.alpaca.market.daily_history import SETTLED_NS, Bars, DailyHistory, is_final, news
from daemon.brokers.alpaca.market.live_bars import Timing
from daemon.brokers.alpaca.market.share_quotes import ShareQuotes
from daemon.brokers.alpaca.rest.errors import RestError
from daemon.brokers.api import Known, LogEvent
from daemon.brokers.sessions import open_session
from daemon.core.events import (
    BarClosed,
    Event,
    HistoryAdjusted,
    RebalanceDue,
    SessionEnded,
    SessionScheduled,
    TroubleNoticed,
)
from daemon.core.limits import Basket
from daemon.core.risk.splits import undecidable
from daemon.core.state import State
from daemon.host.time.calendar import SessionCalendar, midnight_ns
from daemon.host.time.clock import Clock
from daemon.host.time.schedule import decision_ns
from strategies.kit.contract import Bar, DailyStrategy, Session
from strategies.kit.units import MINUTE_NS, SECOND_NS

MISSING_MAX = 0.2  # of the symbols: when more of them have no bar of the last session, nothing is decided
SESSIONS_BACK = 10  # missed sessions that are told one by one; what is older comes as history
MARGIN = 10  # sessions asked for beyond those that the strategy keeps
GRACE_NS = 2 * MINUTE_NS  # the day's bars may come so late after they should be final
LAST_ASK_NS = MINUTE_NS  # before the deadline, from when on a decision waits for the broker no longer


def _deadline_ns(session: Session, basket: Basket) -> int:
    """From when on nothing is decided for this session any more."""
    if basket.decide == "before_close":
        end_ns = session.close_ns - basket.end_before_close_min * MINUTE_NS
        return max(end_ns, decision_ns(session, basket) + MINUTE_NS)
    return session.open_ns


@dataclass(frozen=True, slots=True)
class Desk:
    """What the feed looks at of its own desk: its strategy, its state, and a wait until what was put is stepped."""

    strategy: DailyStrategy
    basket: Basket
    state: Callable[[], State[Any]]
    settled: Callable[[], Awaitable[None]]


class DailyFeed:
    """History and quotes of a daily desk behind one door: events go out by `put`, problems by `tell`.

    `catch_up` comes first, then `run` beside `schedule`, `decide` and `end` for each session.
    """

    def __init__(
        self,
        clock: Clock,
        calendar: SessionCalendar,
        desk: Desk,
        put: Callable[[Event], None],
        tell: LogEvent,
        *,
        history: DailyHistory,
        quotes: ShareQuotes,
        timing: Timing | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.close_grace_s = SETTLED_NS // SECOND_NS
        self._clock = clock
        self._calendar = calendar
        self._desk = desk
        self._symbols = desk.strategy.spec.symbols
        self._keep = desk.strategy.spec.history_bars
        self._put = put
        self._tell = tell
        self._history = history
        self._quotes = quotes
        self._timing = timing or Timing()
        self._rng = rng or random.SystemRandom()
        self._one = asyncio.Lock()  # of a fetch and what is told of it: none is compared with an older state
        self._scheduled: SessionScheduled | None = None
        self._complete_to = ""  # date of the newest session whose bars were fetched and told
        self._missing: frozenset[str] = frozenset()  # symbols without a bar of that session
        self._named: frozenset[str] = frozenset()  # of these, what an alarm has named
        self._ended: set[str] = set()
        self._counts = {"bars": 0, "adjusted": 0, "missed": 0}

    # --- sessions -------------------------------------------------------------------------------------------------

    async def catch_up(self, known: Known, *, exposed: bool = False) -> Session:
        """Put what the recovered state lacks, then the running session's schedule, or the next one's; returns that one.

        Sessions that were missed are told one by one with their bars, as far as REST gives them within `repair_s` real
        seconds; what it does not give then comes before the next decision. What is held waits for nothing here.
        """
        del exposed  # a basket's orders rest at the broker, and nothing here waits long
        unfinished = open_session(known, self._calendar, self._clock.now_ns())
        if unfinished is not None:
            await self._clock.sleep_until(unfinished.close_ns + SETTLED_NS)  # its bars are final then
        final = self._final(self._clock.now_ns())
        since = known.session_date or (final[-2].date if len(final) > 1 else "")
        missed = [session for session in final if session.date > since][-SESSIONS_BACK:]
        past = ([] if unfinished is None else [unfinished]) + missed
        if past:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timing.repair_s):
                    await self._fetched_until_told(past)
            for session in past:
                if session.date not in self._ended:
                    self._announce(session)
                    self._end(session)
        now_ns = self._clock.now_ns()
        return self._announce(self._calendar.at(now_ns) or self._calendar.next_after(now_ns)).session

    async def _fetched_until_told(self, past: Sequence[Session]) -> None:
        """Ask for the bars of missed sessions until they are told."""
        tries = 0
        while not await self._update(past[-1], past):
            await self._pause(tries)
            tries += 1

    async def schedule(self, session: Session) -> None:
        """Put the session's schedule, and all bars before it: again until every symbol has the last one, or it is due.

        Returns when that is done; the decision does not rely on it.
        """
        self._announce(session)
        before, due_ns = self._before(session), decision_ns(session, self._desk.basket)
        tries = 0
        while not await self._update(before) or self._missing - self._named:
            if self._clock.now_ns() >= due_ns:
                return
            await self._pause(tries)
            tries += 1

    async def decide(self, session: Session) -> None:
        """Put `RebalanceDue` in time and after all that it needs; an alarm where that cannot be."""
        if self._desk.state().basket.date >= session.date:
            return  # an earlier run of this journal decided
        self._announce(session)
        deadline_ns = _deadline_ns(session, self._desk.basket)
        problem, tries = "the daemon started too late", 0
        while self._clock.now_ns() < deadline_ns:
            running, problem = await self._all_that_is_needed(session, again=tries > 0)
            problem = problem or undecidable(self._desk.state().basket)
            if not problem and self._broker_may_agree(deadline_ns):
                problem = "book and broker did not agree"
            if not problem and self._clock.now_ns() < deadline_ns:
                self._put(RebalanceDue(self._clock.now_ns(), session.date, running))
                return
            await self._pause(tries)
            tries += 1
        self._counts["missed"] += 1
        detail = f"no basket for {session.date}: {problem or 'its bars came too late'}"
        alarm(self._notice, "basket_missed", detail)

    def _broker_may_agree(self, deadline_ns: int) -> bool:
        """True while a basket would be denied because a report is awaited, and there is time for one.

        At last the question is put all the same: the gates deny what it comes to, and the policy's memory goes on.
        """
        return not self._desk.state().risk.reconciled and self._clock.now_ns() < deadline_ns - LAST_ASK_NS

    async def end(self, session: Session) -> None:
        """Put the session's end, after its bars where these come in time, else they come before the next decision."""
        if session.date in self._ended:
            return
        until_ns = max(session.close_ns + SETTLED_NS + GRACE_NS, self._clock.now_ns())
        await self._clock.sleep_until(session.close_ns + SETTLED_NS)
        tries = 0
        while not await self._update(session) or self._missing - self._named:
            if self._clock.now_ns() >= until_ns:
                break
            await self._pause(tries)
            tries += 1
        self._end(session)
        self._tell("feed_counts", date=session.date, counts=self._counts | self._quotes.counts)

    def _end(self, session: Session) -> None:
        self._ended.add(session.date)
        self._put(SessionEnded(self._clock.now_ns(), session.date))

    def _announce(self, session: Session) -> SessionScheduled:
        """Put `SessionScheduled` once for each session."""
        if self._scheduled is None or self._scheduled.session != session:
            self._scheduled = SessionScheduled(self._clock.now_ns(), *self._calendar.around(session.date))
            self._put(self._scheduled)
        return self._scheduled

    # --- the history ----------------------------------------------------------------------------------------------

    def _final(self, now_ns: int) -> list[Session]:
        return [session for session in self._calendar.sessions if is_final(session, now_ns)]

    def _before(self, session: Session) -> Session:
        return self._calendar.around(session.date)[2][-1]

    async def _all_that_is_needed(self, session: Session, *, again: bool) -> tuple[Bars, str]:
        """The running bars where the desk decides on them, and what stands against a decision ("" nothing)."""
        before = self._before(session)
        if (again or self._complete_to < before.date) and not await self._update(before):
            return (), f"the daily bars up to {before.date} could not be fetched"
        self._name_missing(before)
        if len(self._missing) > int(MISSING_MAX * len(self._symbols)):
            return (), f"{len(self._missing)} of {len(self._symbols)} symbols have no bar of {before.date}"
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

    def _name_missing(self, session: Session) -> None:
        """An alarm for each set of symbols without a bar; one that has bars again is told anew when they end."""
        if self._missing - self._named:
            names = ", ".join(sorted(self._missing))
            alarm(self._notice, "symbols_missing", f"no bar of {session.date}: {names}: halted, delisted or not given")
        self._named = self._missing

    async def _update(self, newest: Session, past: Sequence[Session] = ()) -> bool:
        """Fetch the bars up to this session's and tell what is new; False where they could not be had."""
        async with self._one:
            sessions = [s for s in self._final(self._clock.now_ns()) if s.date <= newest.date]
            sessions = sessions[-(self._keep + MARGIN) :]
            if not sessions or sessions[-1].date != newest.date:
                return False
            try:
                fetched = await self._history.fetched(sessions)
            except RestError as error:
                many = f"{len(self._symbols)} symbols"
                self._tell("history_unavailable", symbol=many, date=newest.date, problem=str(error), wait_s=0.0)
                return False
            await self._desk.settled()
            self._tell_news(sessions, fetched, past)
            last_ns = midnight_ns(newest.date)
            have = {symbol for symbol, bars in fetched.items() if bars[-1].start_ns == last_ns}
            self._missing = frozenset(self._symbols) - have
            self._complete_to = newest.date
        return True

    def _tell_news(self, sessions: Sequence[Session], fetched: dict[str, Bars], past: Sequence[Session]) -> None:
        """Changed histories first, then new bars in the order of time, each of the `past` sessions around its own."""
        known = known_bars(self._desk.strategy, self._desk.state())
        since = sessions[-SESSIONS_BACK:] if known else sessions[-1:]
        found = news(known, fetched, self._keep, midnight_ns(since[0].date))
        for symbol, bars in found.adjusted.items():
            self._put(HistoryAdjusted(self._clock.now_ns(), symbol, bars))
            reason = "adjusted" if symbol in known else "history"
            self._tell("repaired", symbol=symbol, reason=reason, fetched=len(fetched[symbol]), given=len(bars))
        self._counts["adjusted"] += len(found.adjusted)
        self._counts["bars"] += len(found.closed)
        left = list(found.closed)
        for session in past:
            start_ns = midnight_ns(session.date)
            self._announce(session)
            self._tell_bars(bar for bar in left if bar.start_ns <= start_ns)
            self._end(session)
            left = [bar for bar in left if bar.start_ns > start_ns]
        self._tell_bars(left)

    def _tell_bars(self, bars: Iterable[Bar]) -> None:
        for bar in bars:
            self._put(BarClosed(self._clock.now_ns(), bar))

    async def _pause(self, tries: int) -> None:
        await asyncio.sleep(self._timing.retry_s(tries, self._rng.random()))

    def _notice(self, name: str, detail: str) -> None:
        self._put(TroubleNoticed(self._clock.now_ns(), name, detail))

    # --- quotes and the run ---------------------------------------------------------------------------------------

    def watch(self, symbols: tuple[str, ...]) -> None:
        """Nothing: what is quoted follows from what the desk holds and works on."""

    def attend(self, symbols: frozenset[str]) -> None:
        """The desk began or ended to hold or work on these: it is looked at now."""
        self._quotes.attend(symbols)

    async def run(self) -> None:
        """Ask for the quotes of what is worked on or held, until cancelled."""
        await self._quotes.run()


def alarm(notice: Callable[[str, str], None], name: str, detail: str) -> None:
    """Raise an alarm of this name, which has its heading in docs/OPERATIONS.md, through the step."""
    notice(name, detail)


def known_bars(strategy: DailyStrategy, state: State[Any]) -> dict[str, Bars]:
    """All bars that the desk knows, those of the session under way too: by symbol, oldest first."""
    known = {symbol: tuple(bars) for symbol, bars in strategy.known(state.strategy).items() if bars}
    for pending in state.pending_bars:
        old = tuple(bar for bar in known.get(pending.symbol, ()) if bar.start_ns < pending.start_ns)
        known[pending.symbol] = (*old, pending)
    return known
