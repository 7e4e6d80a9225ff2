"""Evaluation on the daily desk itself: core, gates, order life and paper broker in memory, one account over a span.

This is where reported figures come from. The desk is fed with the events that a replay of the same daily bars gives,
and has remembered W bars of each symbol before its first decision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from daemon.core.effects import AskPolicy
from daemon.core.events import (
    BarClosed,
    Event,
    ModelVerified,
    OrderFilled,
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
from daemon.core.step import Core, Step
from daemon.host.time.calendar import SESSIONS_AROUND
from daemon.tapes.days import SCHEDULED_BEFORE_NS
from strategies.kit.contract import DailySpec, DailyStrategy
from strategies.kit.units import MINUTE_NS
from training.desks.daily.play import SESSION_MIN
from training.desks.daily.rebalancer_market import unit_usd
from training.desks.daily.table import DailyTable
from training.study.evaluation import SessionResult
from training.study.progress import counted
from training.study.study import PlayResult

MODEL, FEED = "candidate", "sip"
Policy = Callable[..., Any]
"""A `Rebalancer` of `training.desks.daily.play`, or its `Switcher` for a spec with a hidden state; batches of one."""


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


def dry_run(policy: Policy, desk: Desk) -> PlayResult:
    """Play one account from the desk's first session to its last, hidden state carried. `trades` are orders filled."""
    return played(policy, desk)[0]


def relay(policies: Iterable[Policy], desk: Desk, spans: Sequence[Sequence[str]]) -> tuple[PlayResult, ...]:
    """Play one account through spans that follow one another, each with its own policy; what is held goes on.

    Raises:
        ValueError: a span does not begin with the session after the one before.
    """
    found, next_one = [], desk.first
    for policy, dates in zip(policies, spans, strict=True):
        first, last = desk.table.span(dates)
        if first != next_one:
            raise ValueError(
                f"{dates[0]} is not the session after {desk.table.dates[next_one - 1]}: expected spans without "
                "sessions between them, because one account goes through all"
            )
        result, desk = played(policy, replace(desk, first=first, last=last))
        found.append(result)
        next_one = last + 1
    return tuple(found)


def played(policy: Policy, desk: Desk) -> tuple[PlayResult, Desk]:
    """As `dry_run`, and the desk after its last session."""
    spec, table = desk.strategy.spec, desk.table
    market = SharePaperBroker(desk.trading, spec.symbols)
    machine = Machine(Core(desk.strategy), desk.state, market, desk.market_state)
    answer, watch = _answering(policy, spec), _Watch()
    results: list[SessionResult] = []
    for day in counted(range(desk.first, desk.last + 1), "sessions"):
        before = machine.state
        watch.orders.clear()
        after = machine.run(feed(table, day, desk.trading), answer, watch)
        equity = float(after.book.equity)
        invested = 1.0 - float(after.book.cash) / equity if equity > 0.0 else 0.0
        results.append(
            SessionResult(
                date=table.sessions[day].date,
                pnl_usd=float(after.book.equity - before.book.equity),
                trades=len(watch.orders),
                wins=after.stats.wins - before.stats.wins,
                fees_usd=float(after.book.fees - before.book.fees),
                premium_usd=float(sum(watch.orders.values(), Decimal(0))),
                held_min=round(SESSION_MIN * min(max(invested, 0.0), 1.0)),
                minutes=SESSION_MIN,
                capital_usd=float(before.book.equity),
            )
        )
    was, now = desk.state.stats.denials, machine.state.stats.denials
    denials = {gate: count - was.get(gate, 0) for gate, count in sorted(now.items()) if count > was.get(gate, 0)}
    after_it = replace(desk, first=desk.last + 1, state=machine.state, market_state=machine.market_state)
    return PlayResult(tuple(results), denials), after_it


class _Watch:
    """The value traded in USD by each order that was filled, by its name."""

    def __init__(self) -> None:
        self.orders: dict[str, Decimal] = {}

    def __call__(self, event: Event, _: Step) -> None:
        if isinstance(event, OrderFilled):
            self.orders[event.client_order_id] = event.cumulative_cost


def _nobody(question: AskPolicy, _: int) -> PolicyAnswered:
    raise AssertionError(f"decision {question.decision} is asked for before the span begins")


def _of_rows(answered: Sequence[Tensor], spec: DailySpec, decision: int, now_ns: int) -> PolicyAnswered:
    """The answer and the heads of a policy for which each symbol is a row."""
    actions, *heads = (tuple(values.flatten().tolist()) for values in answered)
    return PolicyAnswered(
        now_ns, decision, actions, b"", MODEL, {head.name: found for head, found in zip(spec.heads, heads, strict=True)}
    )


def _memory(carried: bytes, shape: tuple[int, ...]) -> Tensor:
    """The memory that was carried, float32 (1, *shape), or (1, members, *shape) of an ensemble; zeros at the start."""
    found = torch.frombuffer(bytearray(carried), dtype=torch.float32) if carried else torch.zeros(math.prod(shape))
    return found.reshape(1, *shape) if found.numel() == math.prod(shape) else found.reshape(1, -1, *shape)


def _answering(policy: Policy, spec: DailySpec) -> Callable[[AskPolicy, int], PolicyAnswered]:
    """The policy as that of a machine; those of a continuous one are clipped to [-1, 1]."""
    shape = spec.recurrent_shape

    @torch.no_grad()
    def answer(question: AskPolicy, now_ns: int) -> PolicyAnswered:
        rows = torch.from_numpy(question.observation.array().copy())
        if spec.rows_are_symbols:
            return _of_rows(policy(rows), spec, question.decision, now_ns)
        observation = rows.unsqueeze(0)
        if shape is None:
            answered = policy(observation)[0]
            actions = answered.clamp(-1.0, 1.0) if spec.continuous else answered
            return PolicyAnswered(now_ns, question.decision, tuple(actions.tolist()), b"", MODEL)
        logits, hidden = policy(observation, _memory(question.observation.hidden, shape))
        after = hidden[0].contiguous().numpy().astype("<f4").tobytes()
        return PolicyAnswered(now_ns, question.decision, tuple(logits[0].tolist()), after, MODEL)

    return answer
