"""Desks that decide at each bar, on the sessions of a feed.

Each session starts from a desk that only watched all earlier sessions, so no trade affects a later session. Or one
account goes through all sessions (`BarDesk.relay`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import msgspec

from daemon.core.draft import PaperMarket
from daemon.core.events import Event, SessionScheduled
from daemon.core.limits import Trading
from daemon.core.paper.paper import PaperBroker
from daemon.core.paper.shares import SharePaperBroker
from daemon.core.state import State
from daemon.core.step import Core, Machine
from strategies.kit.contract import AnyStrategy, Spec
from training.evaluate.machine import (
    Answering,
    Player,
    PlayTally,
    answering,
    denied,
    halts_of,
    holding,
    joined,
    remembering,
    started,
)
from training.evaluate.together import Together, playable_together
from training.study.progress import counted, report_piece
from training.study.study import ClosedTrade, PlayResult, SessionResult


class Venue(Protocol):
    """Where a desk trades: its paper broker, and its feed of bars with or without quotes."""

    @property
    def mode(self) -> str:
        """The mode of the desk."""

    def broker(self, trading: Trading, spec: Spec, /) -> PaperMarket:
        """The paper broker."""

    def feed(self, machine: Machine, events: Iterable[Event], /) -> Iterable[Event]:
        """Yield one session's bars as `machine` gets them."""

    def widened(self, times: int, /) -> Venue:
        """The same venue with its recorded half-spreads multiplied by `times`."""


class Modelled:
    """The paper broker's own market, whose quotes follow from the bars. See `Venue`."""

    mode: Final = "replay"

    def broker(self, trading: Trading, spec: Spec) -> PaperMarket:
        """See `Venue`."""
        return _BROKERS[spec.holds](trading, spec)

    def feed(self, _: Machine, events: Iterable[Event]) -> Iterable[Event]:
        """See `Venue`."""
        return events

    def widened(self, _: int) -> Modelled:
        """See `Venue`."""
        return self


_BROKERS: dict[str, Callable[[Trading, Spec], PaperMarket]] = {
    "option": lambda trading, spec: PaperBroker(trading, spec.symbols[0]),
    "shares": lambda trading, spec: SharePaperBroker(trading, spec.symbols, by_bar=True),
}
MODELLED: Final = Modelled()


@dataclass(frozen=True, slots=True)
class SessionStart:
    """A desk just before a session, and the feed events of that session's bars."""

    date: str
    state: State[Any]
    market_state: Any  # of the paper broker
    feed: tuple[Event, ...]
    venue: Venue


def under(ready: Sequence[SessionStart], trading: Trading, times: int = 1) -> tuple[SessionStart, ...]:
    """The same desks under other limits and costs: so far they only watched, so their state does not depend on these.

    Recorded half-spreads are multiplied by `times`; modelled ones follow from the rules.
    """
    return tuple(
        replace(
            start,
            state=msgspec.structs.replace(start.state, trading=trading),
            venue=start.venue.widened(times),
        )
        for start in ready
    )


Minutes = Callable[[str, int, Trading], int]
"""(date, number of bars, rules) of a session -> minutes in which a position can be held."""


@dataclass(frozen=True, slots=True)
class BarDesk:
    """A strategy's desk that decides at each bar, and the sessions of a file that it is played on."""

    strategy: AnyStrategy
    events: Callable[[str, Trading], tuple[Iterable[Event], int]]
    """(first date to play, rules) -> a feed, and the number of its sessions before that date that the desk watches."""
    hold: Player  # player of a desk that only watches
    venue: Venue = MODELLED
    minutes: Minutes = lambda _date, bars, _trading: bars
    entries: bool = False  # True: results hold each trade's confidence

    def before(self, dates: Sequence[str], trading: Trading) -> tuple[SessionStart, ...]:
        """The desk before each session of `dates`, ascending, in one pass over the feed, read no further.

        Raises:
            ValueError: a date of `dates` has no session in the feed.
        """
        if not dates:
            return ()
        chosen = frozenset(dates)
        starts: list[SessionStart] = []
        machine, hold = self._first_day(trading), holding(self.hold, self.strategy.spec)
        for date, session in self._sessions_from(dates[0], self._watching(machine, hold), trading):
            if date in chosen:
                starts.append(SessionStart(date, machine.state, machine.market_state, tuple(session), self.venue))
                report_piece(len(starts), len(chosen), "sessions made ready")
                if len(starts) == len(chosen):
                    return tuple(starts)
            machine.run(self.venue.feed(machine, session), hold)
        raise _missing(chosen - {start.date for start in starts})

    def machine(self, start: SessionStart, trading: Trading) -> Machine:
        """The machine of a desk before its session."""
        market = start.venue.broker(trading, self.strategy.spec)
        return Machine(Core(self.strategy, trades=False), start.state, market, start.market_state)

    def play(self, player: Player, ready: Sequence[SessionStart], trading: Trading) -> PlayResult:
        """Play one session on each desk; every desk stays as it is, so players can follow one another."""
        return self.play_each(lambda: player, ready, trading)

    def play_each(
        self,
        make: Callable[[], Player],
        ready: Sequence[SessionStart],
        trading: Trading,
        check_stop: Callable[[], None] = lambda: None,
    ) -> PlayResult:
        """As `play`, with a new player for each session. Calls `check_stop` before each; it may raise."""
        results: list[PlayResult] = []
        for start in counted(ready, "sessions"):
            check_stop()
            machine = self.machine(start, trading)
            feed, policy = start.venue.feed(machine, start.feed), answering(make(), self.strategy.spec)
            results.append(self._session(machine, start.date, feed, policy, trading))
        return joined(results)

    def relay(
        self, players: Sequence[Player], spans: Sequence[Sequence[str]], trading: Trading
    ) -> tuple[PlayResult, ...]:
        """Play all `spans` in their order on one account, whose state goes on from session to session.

        Each span has its own player. Sessions before the first span and between two spans are only watched.

        Raises:
            ValueError: a date of a span has no session in the feed.
        """
        spec = self.strategy.spec
        places = {date: nth for nth, dates in enumerate(spans) for date in dates}
        parts: list[list[PlayResult]] = [[] for _ in spans]
        policies = [answering(player, spec) for player in players]
        machine, hold, count = self._first_day(trading), holding(self.hold, spec), len(places)
        for date, session in self._sessions_from(spans[0][0], self._watching(machine, hold), trading):
            nth, feed = places.pop(date, None), self.venue.feed(machine, session)
            if nth is None:
                machine.run(feed, hold)
                continue
            start = machine.state
            parts[nth].append(_of_account(start, self._session(machine, date, feed, policies[nth], trading)))
            report_piece(count - len(places), count, "sessions")
            if not places:
                return tuple(map(joined, parts))
        raise _missing(places)

    def relay_each(
        self,
        player: Player,
        dates: Sequence[str],
        rules: Sequence[Trading],
        check_stop: Callable[[], None] = lambda: None,
    ) -> list[PlayResult]:
        """`relay` of one player and one span under each of these rules, in one pass over the feed.

        Desks share equal steps: see `training.evaluate.together`. Calls `check_stop` before each session.

        Raises:
            ValueError: as `relay`; or the rules cannot be played together (`together`).
        """
        spec, remaining = self.strategy.spec, dict.fromkeys(dates)
        parts: list[list[PlayResult]] = [[] for _ in rules]
        machines = [self._first_day(trading) for trading in rules]
        desks = Together(machines[0].core, lambda trading: self.venue.broker(trading, spec), machines, rules)
        policy, hold = remembering(answering(player, spec)), holding(self.hold, spec)
        for date, session in self._sessions_from(dates[0], lambda events: desks.run(events, hold), rules[0]):
            check_stop()
            if date not in remaining:
                desks.run(session, hold)
                continue
            del remaining[date]
            starts = [(member, member.state, PlayTally(member)) for member in desks.members]
            for member, _, watch in starts:
                member.watch = watch
            desks.run(session, policy)
            for (member, start, watch), trading, results in zip(starts, rules, parts, strict=True):
                results.append(_of_account(start, self._result(date, start, member.state, watch, trading)))
            report_piece(len(dates) - len(remaining), len(dates), "sessions")
            if not remaining:
                return [joined(results) for results in parts]
        raise _missing(remaining)

    def together(self, rules: Sequence[Trading]) -> bool:
        """Whether `relay_each` can play these rules: only paper options, and rules that differ in allowed keys."""
        warmed = {self.events("", trading)[1] for trading in rules}
        options = self.venue is MODELLED and type(MODELLED.broker(rules[0], self.strategy.spec)) is PaperBroker
        return options and len(warmed) == 1 and playable_together(rules)

    def _first_day(self, trading: Trading) -> Machine:
        return started(self.strategy, trading, self.venue.broker(trading, self.strategy.spec), self.venue.mode)

    def _session(
        self, machine: Machine, date: str, feed: Iterable[Event], policy: Answering, trading: Trading
    ) -> PlayResult:
        """Play one session on the machine from its present state, which advances."""
        start, watch = machine.state, PlayTally(machine)
        end = machine.run(feed, policy, watch)
        return self._result(date, start, end, watch, trading)

    def _result(self, date: str, start: State[Any], end: State[Any], watch: PlayTally, trading: Trading) -> PlayResult:
        """The result of a session, from the states before and after it."""
        spec, stats_before, stats = self.strategy.spec, start.stats, end.stats
        result = SessionResult(
            date=date,
            pnl_usd=float(end.book.equity - start.book.equity),
            trades=stats.trades - stats_before.trades,
            wins=stats.wins - stats_before.wins,
            fees_usd=float(end.book.fees - start.book.fees),
            premium_usd=watch.traded_usd(spec.holds),
            held_min=len(watch.held) * spec.bar_interval_s // 60,
            minutes=self.minutes(date, stats.bars - stats_before.bars, trading),
            over_night=0 if spec.overnight else len(end.book.positions),
        )
        entries = tuple(ClosedTrade(date, *closed) for closed in watch.closed) if self.entries else ()
        return PlayResult((result,), denied(start, end), entries, halts_of(date, start, end))

    def _watching(self, machine: Machine, hold: Answering) -> Callable[[list[Event]], object]:
        return lambda session: machine.run(self.venue.feed(machine, session), hold)

    def _sessions_from(
        self, first: str, watch: Callable[[list[Event]], object], trading: Trading
    ) -> Iterator[tuple[str, list[Event]]]:
        """Yield each session from `first` on, after watching the sessions before it."""
        events, warmup = self.events(first, trading)
        earlier: deque[list[Event]] = deque(maxlen=warmup)
        for date, session in _sessions(events):
            if date < first:
                earlier.append(session)
                continue
            while earlier:
                watch(earlier.popleft())
            yield date, session


def _of_account(start: State[Any], played: PlayResult) -> PlayResult:
    """The result with the equity of `start` as its capital, for an account that goes through several sessions."""
    capital = float(start.book.equity)
    sessions = tuple(replace(session, capital_usd=capital) for session in played.sessions)
    return msgspec.structs.replace(played, sessions=sessions)


def _missing(dates: Iterable[str]) -> ValueError:
    return ValueError(f"no session {min(dates)} in the feed: check the dates against the file")


def _sessions(events: Iterable[Event]) -> Iterator[tuple[str, list[Event]]]:
    """Each session's date and events; no more than one session is kept."""
    date, feed = "", list[Event]()
    for event in events:
        if isinstance(event, SessionScheduled):
            if date:
                yield date, feed
            date, feed = event.session.date, []
        feed.append(event)
    if date:
        yield date, feed
