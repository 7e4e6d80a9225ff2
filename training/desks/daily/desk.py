"""A daily desk just before a span of sessions, and the events that feed it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np

from daemon.core.effects import AskPolicy
from daemon.core.events import (
    BarClosed,
    Event,
    ModelVerified,
    PolicyAnswered,
    Price,
    PricesPrinted,
    RebalanceDue,
    RunStarted,
    SessionEnded,
    SessionScheduled,
)
from daemon.core.limits import Trading
from daemon.core.machine import Machine
from daemon.core.paper.shares import SharePaperBroker
from daemon.core.paper.state import SharePaperState, broker_snapshot
from daemon.core.state import Identity, State
from daemon.core.step import Core
from daemon.host.time.calendar import SESSIONS_AROUND
from daemon.tapes.days import SCHEDULED_BEFORE_NS
from strategies.kit.contract import DailySpec, DailyStrategy
from strategies.kit.units import MINUTE_NS
from training.desks.daily.markets.rebalancer import unit_usd
from training.desks.daily.table import DailyTable

MODEL, FEED = "candidate", "sip"


@dataclass(frozen=True, slots=True)
class Desk:
    """A desk just before the first session of a span, and the sessions to come. It stays as it is: many may play."""

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


def rules_for(trading: Trading, spec: DailySpec, variant: str = "shares") -> Trading:
    """The trading rules with the spec's capital as paper cash, and the variant's unit of action."""
    paper = replace(trading.paper, cash_usd=Decimal(spec.capital_usd))
    basket = replace(trading.basket, notional_per_unit_usd=unit_usd(trading, variant))
    return replace(trading, paper=paper, basket=basket)


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
    core = Core(strategy)
    market = SharePaperBroker(trading, strategy.spec.symbols)
    identity = Identity("replay", "evaluation", strategy.spec.name, "evaluation", FEED)
    machine = Machine(core, core.start(identity, trading), market, market.start())
    machine.apply(RunStarted(0, identity.mode, identity.account, identity.strategy, identity.epoch, "", FEED, trading))
    machine.apply(ModelVerified(0, MODEL, "", promoted=False, feed=FEED))
    machine.apply(broker_snapshot(machine.market_state, 0))
    for day in range(_remembered_from(table, first), first):
        machine.run(feed(table, day, trading, decide=False), _nobody)
    return Desk(table, first, last, strategy, trading, machine.state, machine.market_state)


def _remembered_from(table: DailyTable, first: int) -> int:
    """The session with the oldest bar that a symbol is remembered by: each keeps its newest W before `first`."""
    bars = (np.flatnonzero(own)[-table.history_bars :] for own in table.present[:first].T)
    return min((int(own[0]) for own in bars if own.size), default=first)


def under(desk: Desk, trading: Trading) -> Desk:
    """The same desk under other trading rules with the same paper cash: nothing was traded yet."""
    return replace(desk, trading=trading, state=msgspec.structs.replace(desk.state, trading=trading))


def feed(table: DailyTable, day: int, trading: Trading, *, decide: bool = True) -> Iterator[Event]:
    """The feed events of a session as a replay of daily bars has them; without `decide` nothing is due and printed.

    The sessions around it are those of the table.
    """
    session = table.sessions[day]
    before_ns = trading.basket.before_open_min * MINUTE_NS
    upcoming = table.sessions[day + 1 : day + 1 + SESSIONS_AROUND]
    previous = table.sessions[max(day - SESSIONS_AROUND, 0) : day]
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
    for bar in table.day_bars(day):
        yield BarClosed(session.close_ns, bar)
    yield SessionEnded(session.close_ns, session.date)


def _nobody(question: AskPolicy, _: int) -> PolicyAnswered:
    raise AssertionError(f"decision {question.decision} is asked for before the span begins")


def variant_of(trading: Trading) -> str:
    """Which preset of `daily_rebalancer` the rules are of: "notional" where a unit of action is dollars."""
    return "notional" if trading.basket.notional_per_unit_usd else "shares"
