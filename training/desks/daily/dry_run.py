"""Evaluation on the daily desk itself: core, gates, order life and paper broker in memory, one account over a span.

This is where reported figures come from. The desk is fed with the events that a replay of the same daily bars gives,
and has remembered W bars of each symbol before its first decision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import msgspec
import torch
from torch import Tensor

from daemon.core.effects import AskPolicy
from daemon.core.events import (
    Event,
    OrderFilled,
    PolicyAnswered,
)
from daemon.core.machine import Machine
from daemon.core.paper.shares import SharePaperBroker
from daemon.core.state import Model
from daemon.core.step import Core, Step
from strategies.kit.contract import DailySpec
from training.desks.daily.desk import FEED, MODEL, Desk, feed
from training.desks.daily.play import SESSION_MIN
from training.desks.halts import halts_of
from training.study.evaluation import SessionResult
from training.study.progress import counted
from training.study.study import AccountHalt, PlayResult

Policy = Callable[..., Any]
"""A `Rebalancer` of `training.desks.daily.play`, or its `Switcher` for a spec with a hidden state; batches of one."""


def dry_run(policy: Policy, desk: Desk) -> PlayResult:
    """Play one account from the desk's first session to its last, hidden state carried. `trades` are orders filled."""
    return played(policy, desk)[0]


def relay(policies: Iterable[Policy], desk: Desk, spans: Sequence[Sequence[str]]) -> tuple[PlayResult, ...]:
    """Play one account through spans that follow one another, each with its own policy; what is held goes on.

    As on a desk whose model changes, the memory of one policy is not given to the next one.

    Raises:
        ValueError: a span does not begin with the session after the one before.
    """
    found, next_one = [], desk.first
    before: Policy | None = None
    for nth, (policy, dates) in enumerate(zip(policies, spans, strict=True)):
        first, last = desk.table.span(dates)
        if first != next_one:
            raise ValueError(
                f"{dates[0]} is not the session after {desk.table.dates[next_one - 1]}: expected spans without "
                "sessions between them, because one account goes through all"
            )
        desk = replace(desk, first=first, last=last)
        if before is not None and policy is not before and desk.strategy.spec.recurrent_shape is not None:
            model = Model(f"{MODEL} {nth + 1}", promoted=False, feed=FEED)
            desk = replace(desk, state=msgspec.structs.replace(desk.state, model=model))
        before = policy
        result, desk = played(policy, desk)
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
    halts: list[AccountHalt] = []
    for day in counted(range(desk.first, desk.last + 1), "sessions"):
        before = machine.state
        watch.orders.clear()
        after = machine.run(feed(table, day, desk.trading), answer, watch)
        halts += halts_of(table.sessions[day].date, before, after)
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
    return PlayResult(tuple(results), denials, halts=tuple(halts)), after_it


class _Watch:
    """The value traded in USD by each order that was filled, by its name."""

    def __init__(self) -> None:
        self.orders: dict[str, Decimal] = {}

    def __call__(self, event: Event, _: Step) -> None:
        if isinstance(event, OrderFilled):
            self.orders[event.client_order_id] = event.cumulative_cost


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
