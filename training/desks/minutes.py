"""Desks that decide at each bar, just before sessions of a feed: core, gates, order life and paper broker in memory.

Each session is played from the state of a desk that held through all sessions before it, so nothing carries over from
one session's trades to the next; or one account goes through all of them (`relay`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec

from daemon.core.draft import PaperMarket
from daemon.core.effects import AskPolicy
from daemon.core.events import Event, ModelVerified, PolicyAnswered, RunStarted, SessionScheduled
from daemon.core.limits import Trading
from daemon.core.machine import Machine
from daemon.core.paper.state import broker_snapshot
from daemon.core.state import Identity, State
from daemon.core.step import Core
from strategies.kit.contract import AnyStrategy, configured
from training.desks.halts import halts_of
from training.study.evaluation import SessionResult
from training.study.progress import report_piece
from training.study.study import Entry, PlayResult

MODEL, FEED = "candidate", "sip"
Answering = Callable[[AskPolicy, int], PolicyAnswered]


class Venue(Protocol):
    """Where a desk trades: its paper broker, and what joins the bars of its feed."""

    @property
    def mode(self) -> str:
        """The mode of the desk."""

    def broker(self, trading: Trading, underlying: str, /) -> PaperMarket:
        """The paper broker."""

    def feed(self, machine: Machine, events: Iterable[Event], /) -> Iterable[Event]:
        """One session's bars as `machine` gets them."""

    def widened(self, times: int, /) -> Venue:
        """The same venue with `times` the half-spreads that do not follow from the rules."""


@dataclass(frozen=True, slots=True)
class Desk:
    """A desk just before a session, and the feed events of that session's bars."""

    date: str
    state: State[Any]
    market_state: Any  # of the paper broker
    feed: tuple[Event, ...]
    venue: Venue | None = None  # None: the bars are the whole feed


def under(ready: Sequence[Desk], trading: Trading, times: int = 1) -> tuple[Desk, ...]:
    """The same desks under other limits and costs: they held so far, so nothing depends on these.

    Recorded half-spreads are `times` what they were; those that are modelled follow from the rules.
    """
    return tuple(
        replace(
            desk,
            state=msgspec.structs.replace(desk.state, trading=trading),
            venue=None if desk.venue is None else desk.venue.widened(times),
        )
        for desk in ready
    )


def started(strategy: AnyStrategy, trading: Trading, market: PaperMarket, mode: str = "replay") -> Machine:
    """A desk on its first day: reconciled, with a verified model, and nothing but cash."""
    core, spec = Core(strategy), strategy.spec
    identity = Identity(mode, "evaluation", spec.name, "evaluation", FEED, configured(spec), spec.config)
    machine = Machine(core, core.start(identity, trading), market, market.start())
    machine.apply(RunStarted(0, identity.mode, identity.account, identity.strategy, identity.epoch, "", FEED, trading))
    machine.apply(ModelVerified(0, MODEL, "", promoted=False, feed=FEED))
    machine.apply(broker_snapshot(machine.market_state, 0))
    return machine


def desks_before(
    events: Iterable[Event],
    machine: Machine,
    answer: Answering,
    dates: Sequence[str],
    before: int,
    venue: Venue | None = None,
) -> tuple[Desk, ...]:
    """The desks before the sessions of `dates`, ascending, in one pass over the feed, read no further.

    `before` sessions before the first one are played too; `answer` holds.

    Raises:
        ValueError: a date of `dates` has no session in the feed.
    """
    if not dates:
        return ()
    wanted = frozenset(dates)
    found: list[Desk] = []
    for date, session in _sessions_from(dates[0], events, machine, answer, before, venue):
        if date in wanted:
            found.append(Desk(date, machine.state, machine.market_state, tuple(session), venue))
            report_piece(len(found), len(wanted), "sessions made ready")
            if len(found) == len(wanted):
                return tuple(found)
        machine.run(_feed(machine, session, venue), answer)
    raise _missing(wanted - {desk.date for desk in found})


def relay(
    events: Iterable[Event],
    machine: Machine,
    answer: Answering,
    spans: Sequence[Sequence[str]],
    before: int,
    play: Callable[[int, str, Iterable[Event]], PlayResult],
    venue: Venue | None = None,
) -> tuple[PlayResult, ...]:
    """Play all `spans` in their order on the account of `machine`, whose state goes on from session to session.

    `play` plays one session with the policy of the span of this number. `answer` holds: `before` sessions before the
    first one and those between two spans are only watched.

    Raises:
        ValueError: a date of a span has no session in the feed.
    """
    places = {date: nth for nth, dates in enumerate(spans) for date in dates}
    found: list[list[PlayResult]] = [[] for _ in spans]
    count = len(places)
    for date, session in _sessions_from(spans[0][0], events, machine, answer, before, venue):
        nth, feed = places.pop(date, None), _feed(machine, session, venue)
        if nth is None:
            machine.run(feed, answer)
            continue
        began = float(machine.state.book.equity)
        played = play(nth, date, feed)
        on_it = tuple(replace(one, capital_usd=began) for one in played.sessions)
        found[nth].append(msgspec.structs.replace(played, sessions=on_it))
        report_piece(count - len(places), count, "sessions")
        if not places:
            return tuple(joined(parts) for parts in found)
    raise _missing(places)


def session_played(
    date: str,
    start: State[Any],
    end: State[Any],
    *,
    premium_usd: float,
    held_min: int,
    minutes: int | None = None,
    unused: int = 0,
    entries: tuple[Entry, ...] = (),
    overnight: bool = False,
) -> PlayResult:
    """One session as a result, from the states around it; `overnight` where the desk keeps what it holds.

    Without `minutes` of its own it has as many as bars came, less the `unused` ones in which nothing can be held.
    """
    before, stats = start.stats, end.stats
    result = SessionResult(
        date=date,
        pnl_usd=float(end.book.equity - start.book.equity),
        trades=stats.trades - before.trades,
        wins=stats.wins - before.wins,
        fees_usd=float(end.book.fees - start.book.fees),
        premium_usd=premium_usd,
        held_min=held_min,
        minutes=stats.bars - before.bars - unused if minutes is None else minutes,
        over_night=0 if overnight else len(end.book.positions),
    )
    denials = {gate: count - before.denials.get(gate, 0) for gate, count in stats.denials.items()}
    return PlayResult((result,), denials, entries, halts_of(date, start, end))


def joined(parts: Iterable[PlayResult]) -> PlayResult:
    """Results that follow one another as one."""
    kept = tuple(parts)
    denials: Counter[str] = Counter()
    for one in kept:
        denials.update(one.denials)
    return PlayResult(
        tuple(session for one in kept for session in one.sessions),
        {gate: count for gate, count in sorted(denials.items()) if count},
        tuple(entry for one in kept for entry in one.entries),
        tuple(halt for one in kept for halt in one.halts),
    )


def _missing(dates: Iterable[str]) -> ValueError:
    return ValueError(f"no session {min(dates)} in the feed: check the dates against the file")


def feed_of(desk: Desk, machine: Machine) -> Iterable[Event]:
    """The feed of the desk's session for a machine that stands just before it."""
    return _feed(machine, desk.feed, desk.venue)


def _feed(machine: Machine, events: Iterable[Event], venue: Venue | None) -> Iterable[Event]:
    return events if venue is None else venue.feed(machine, events)


def _sessions_from(
    first: str, events: Iterable[Event], machine: Machine, answer: Answering, before: int, venue: Venue | None
) -> Iterator[tuple[str, list[Event]]]:
    """Each session from `first` on, once the machine has played the `before` sessions ahead of it."""
    earlier: deque[list[Event]] = deque(maxlen=before)
    for date, session in _sessions(events):
        if date < first:
            earlier.append(session)
            continue
        while earlier:
            machine.run(_feed(machine, earlier.popleft(), venue), answer)
        yield date, session


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
