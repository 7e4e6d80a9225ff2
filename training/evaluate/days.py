"""Desks that decide once a session: a desk just before a span of sessions, and one account played through it.

The desk gets the events that a replay of the same daily bars gives, and has W bars of each symbol before its first
decision. The figures of reports come from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np

from daemon.core.desks.shares.sizes import sells_after_open
from daemon.core.effects import AskPolicy
from daemon.core.events import (
    BarClosed,
    Event,
    PolicyAnswered,
    Price,
    PricesPrinted,
    RebalanceDue,
    SessionEnded,
    SessionScheduled,
)
from daemon.core.limits import Trading
from daemon.core.paper.shares import SharePaperBroker
from daemon.core.paper.state import SharePaperState
from daemon.core.state import Model, State
from daemon.core.step import Core, Machine
from daemon.tapes.days import SCHEDULED_BEFORE_NS
from strategies.kit.contract import DailyStrategy
from strategies.kit.units import MINUTE_NS
from training.data.daily_table import TICKS, DailyTable
from training.evaluate.machine import FEED, MODEL, Player, PlayTally, answering, denied, halts_of, joined, started
from training.evaluate.together import Differs, common_rules, parted
from training.study.progress import counted, report_piece
from training.study.study import PlayResult, SessionResult

SESSION_MIN = 390


@dataclass(frozen=True, slots=True)
class Desk:
    """A desk just before the first session of a span. It is immutable, so several players can start from it."""

    table: DailyTable
    first: int  # session (index into the table)
    last: int
    strategy: DailyStrategy
    trading: Trading
    state: State[Any]
    market_state: SharePaperState

    @property
    def dates(self) -> tuple[str, ...]:
        """New York dates of the sessions to come."""
        return self.table.dates[self.first : self.last + 1]


def desk_before(table: DailyTable, dates: Sequence[str], strategy: DailyStrategy, trading: Trading) -> Desk:
    """The desk before the first of `dates`: reconciled, nothing but the paper cash, W bars of each remembered.

    Raises:
        ValueError: a date is no session of the table, or the rule is `before_close`, which daily bars cannot answer.
    """
    if trading.basket.decide != "after_close":
        raise ValueError(
            f'basket.decide is "{trading.basket.decide}" and the bars are daily; expected "after_close": a running day '
            f"is known from minutes alone"
        )
    first, last = table.span(dates)
    machine = started(strategy, trading, SharePaperBroker(trading, strategy.spec.symbols))
    for day in range(_remembered_from(table, first), first):
        machine.run(feed(table, day, trading, decide=False), _nobody)
    return Desk(table, first, last, strategy, trading, machine.state, machine.market_state)


def _remembered_from(table: DailyTable, first: int) -> int:
    """The session with the oldest bar to remember: each symbol keeps its newest W bars before `first`."""
    bars = (np.flatnonzero(has_bar)[-table.history_bars :] for has_bar in table.present[:first].T)
    return min((int(rows[0]) for rows in bars if rows.size), default=first)


def under(desk: Desk, trading: Trading) -> Desk:
    """The same desk under other trading rules with the same paper cash: nothing was traded yet."""
    return replace(desk, trading=trading, state=msgspec.structs.replace(desk.state, trading=trading))


def feed(table: DailyTable, day: int, trading: Trading, *, decide: bool = True) -> Iterator[Event]:
    """A session's feed events, as in a replay of daily bars; without `decide` no decision and no opening prints.

    The sessions around it are those from the table's first to its last.
    """
    session = table.sessions[day]
    before_ns = trading.basket.before_open_min * MINUTE_NS
    upcoming, previous = table.around(day)
    scheduled_ns = session.open_ns - max(SCHEDULED_BEFORE_NS, before_ns)
    yield SessionScheduled(scheduled_ns, session, upcoming, previous)
    if decide:
        yield RebalanceDue(session.open_ns - before_ns, session.date)
        prices = tuple(
            Price(symbol, Decimal(int(ticks)).scaleb(-4))
            for symbol, ticks, present in zip(
                table.symbols, table.open_ticks[day].tolist(), table.present[day].tolist(), strict=True
            )
            if present
        )
        yield PricesPrinted(session.open_ns, session.date, opening=True, prices=prices)
        yield PricesPrinted(session.open_ns + MINUTE_NS, session.date, opening=False, prices=prices)
        dearest = float(table.close_ticks.max(initial=0)) / TICKS
        if sells_after_open(trading, dearest, len(table.symbols)):  # first the sells that the auction left, then buys
            yield PricesPrinted(session.open_ns + 2 * MINUTE_NS, session.date, opening=False, prices=prices)
    for bar in table.day_bars(day):
        yield BarClosed(session.close_ns, bar)
    yield SessionEnded(session.close_ns, session.date)


def _nobody(question: AskPolicy, _: int) -> PolicyAnswered:
    raise AssertionError(f"decision {question.decision} is asked for before the span begins")


def dry_run(policy: Player, desk: Desk) -> PlayResult:
    """Play one account from the desk's first session to its last, hidden state carried. `trades` are orders filled."""
    return play_to_desk(policy, desk)[0]


def relay(policies: Iterable[Player], desk: Desk, spans: Sequence[Sequence[str]]) -> tuple[PlayResult, ...]:
    """Play one account through spans that follow one another, each with its own policy; what is held goes on.

    As on a desk whose model changes, a new policy does not get the hidden state of the one before.

    Raises:
        ValueError: a span does not begin with the session after the one before.
    """
    results, next_one = [], desk.first
    previous: Player | None = None
    for nth, (policy, dates) in enumerate(zip(policies, spans, strict=True)):
        first, last = desk.table.span(dates)
        if first != next_one:
            raise ValueError(
                f"{dates[0]} is not the session after {desk.table.dates[next_one - 1]}: expected spans without "
                "sessions between them, because one account goes through all"
            )
        desk = replace(desk, first=first, last=last)
        if previous is not None and policy is not previous and desk.strategy.spec.recurrent_shape is not None:
            model = Model(f"{MODEL} {nth + 1}", promoted=False, feed=FEED)
            desk = replace(desk, state=msgspec.structs.replace(desk.state, model=model))
        previous = policy
        result, desk = play_to_desk(policy, desk)
        results.append(result)
        next_one = last + 1
    return tuple(results)


def relay_each(
    policy: Player,
    table: DailyTable,
    dates: Sequence[str],
    strategy: DailyStrategy,
    rules: Sequence[Trading],
    check_stop: Callable[[], None] = lambda: None,
) -> tuple[PlayResult, ...]:
    """`dry_run` on the desk before `dates` under each of these rules. Desks share steps while they are equal.

    Where a step reads a rule whose value differs, the session is played again for each value. `rules` must satisfy
    `playable_together`. Calls `check_stop` before each session; it may raise.

    Raises:
        ValueError: as `desk_before`.
    """
    last = table.span(dates)[1]
    results: dict[int, PlayResult] = {}
    waiting: list[tuple[list[int], Desk | None, list[PlayResult]]] = [(list(range(len(rules))), None, [])]
    while waiting:
        places, desk, parts = waiting.pop()
        theirs = [rules[place] for place in places]
        trading = common_rules(theirs)
        try:
            desk = desk_before(table, dates, strategy, trading) if desk is None else under(desk, trading)
            while desk.first <= last:
                check_stop()
                result, desk_after = play_to_desk(policy, replace(desk, last=desk.first))
                parts, desk = [*parts, result], replace(desk_after, last=last)
        except Differs as differs:
            groups = parted(theirs, differs.path)
            waiting += [([places[nth] for nth in group], desk, parts) for group in groups]
            continue
        results |= dict.fromkeys(places, joined(parts))
        report_piece(len(results), len(rules), "desks")
    return tuple(results[place] for place in range(len(rules)))


def play_to_desk(policy: Player, desk: Desk) -> tuple[PlayResult, Desk]:
    """Returns the result of `dry_run`, and the desk after its last session."""
    spec, table = desk.strategy.spec, desk.table
    market = SharePaperBroker(desk.trading, spec.symbols)
    machine = Machine(Core(desk.strategy, trades=False), desk.state, market, desk.market_state)
    answer = answering(policy, spec)
    parts: list[PlayResult] = []
    days = range(desk.first, desk.last + 1)
    for day in counted(days, "sessions") if len(days) > 1 else days:
        state_before, watch = machine.state, PlayTally(machine)
        state_after = machine.run(feed(table, day, desk.trading), answer, watch)
        date, equity = table.sessions[day].date, float(state_after.book.equity)
        invested = 1.0 - float(state_after.book.cash) / equity if equity > 0.0 else 0.0
        session = SessionResult(
            date=date,
            pnl_usd=float(state_after.book.equity - state_before.book.equity),
            trades=len({*watch.bought, *watch.sold}),
            wins=state_after.stats.wins - state_before.stats.wins,
            fees_usd=float(state_after.book.fees - state_before.book.fees),
            premium_usd=watch.traded_usd(spec.holds),
            held_min=round(SESSION_MIN * min(max(invested, 0.0), 1.0)),
            minutes=SESSION_MIN,
            capital_usd=float(state_before.book.equity),
        )
        parts.append(
            PlayResult((session,), denied(state_before, state_after), halts=halts_of(date, state_before, state_after))
        )
    after_it = replace(desk, first=desk.last + 1, state=machine.state, market_state=machine.market_state)
    return joined(parts), after_it
