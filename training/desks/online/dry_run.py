"""Evaluation on the desk itself: core, gates, order life and paper broker in memory, one account for each session.

This is where reported figures come from; `through` is the one account that goes through all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import chain

import torch

from daemon.core.effects import AskPolicy
from daemon.core.events import Event, OrderFilled, PolicyAnswered, QuotesReceived
from daemon.core.limits import Trading
from daemon.core.machine import Machine
from daemon.core.paper.shares import SharePaperBroker
from daemon.core.step import Core, Step
from strategies.kit.contract import ShareSpec
from training.desks.minutes import MODEL, Answering, Desk, desks_before, joined, relay, session_played, started
from training.desks.online.data import OnlineData
from training.desks.online.play import Player, flat
from training.study.progress import counted
from training.study.study import PlayResult


def desks(data: OnlineData, trading: Trading, dates: Sequence[str]) -> tuple[Desk, ...]:
    """As `desks_before`, after as many sessions as warm the strategy."""
    if not dates:
        return ()
    events, before = _warmed(data, dates[0])
    machine = started(data.strategy, trading, _broker(trading, data.spec))
    return desks_before(events, machine, _answering(flat, data.spec), dates, before)


def through(
    players: Sequence[Player], data: OnlineData, trading: Trading, spans: Sequence[Sequence[str]]
) -> tuple[PlayResult, ...]:
    """Play one account through all `spans` of dates, each with its own player. See `training.desks.minutes.relay`."""
    events, before = _warmed(data, spans[0][0])
    machine = started(data.strategy, trading, _broker(trading, data.spec))

    def play(nth: int, date: str, feed: Iterable[Event]) -> PlayResult:
        return _session(machine, date, feed, players[nth], data)

    return relay(events, machine, _answering(flat, data.spec), spans, before, play)


def _warmed(data: OnlineData, date: str) -> tuple[Iterable[Event], int]:
    """The feed from the session on that warms the strategy for this one, and how many sessions lie before it."""
    spec, bars = data.spec, data.bars
    first = data.days[date]
    opening = bars.scheduled[first].session.open_ns
    begins = [int(series.start_ns[series.start_ns < opening][-spec.history_bars]) for series in data.bars.series]
    start = sum(scheduled.session.close_ns <= min(begins) for scheduled in bars.scheduled)
    return chain.from_iterable(bars.feed(index) for index in range(start, len(bars.scheduled))), first - start


def dry_run(player: Player, ready: Sequence[Desk], data: OnlineData, trading: Trading) -> PlayResult:
    """Play one session on each desk; every desk stays as it is, so players can follow one another."""
    results: list[PlayResult] = []
    for desk in counted(ready, "sessions"):
        machine = Machine(Core(data.strategy), desk.state, _broker(trading, data.spec), desk.market_state)
        results.append(_session(machine, desk.date, desk.feed, player, data))
    return joined(results)


def _session(machine: Machine, date: str, feed: Iterable[Event], player: Player, data: OnlineData) -> PlayResult:
    """Play one session on the machine as it stands, which goes on from there."""
    start, watch = machine.state, _Watch(machine)
    end = machine.run(feed, _answering(player, data.spec), watch)
    traded = float(sum(watch.traded.values(), Decimal(0)))
    held_min = len(watch.held) * data.history.bar_min
    return session_played(date, start, end, premium_usd=traded, held_min=held_min, minutes=data.minutes(date))


class _Watch:
    """The value traded in USD by each order, and the bars at whose close something was held."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.traded: dict[str, Decimal] = {}
        self.held: set[int] = set()

    def __call__(self, event: Event, _: Step) -> None:
        if isinstance(event, OrderFilled):
            self.traded[event.client_order_id] = event.cumulative_cost
        elif isinstance(event, QuotesReceived) and self._machine.state.book.positions:
            self.held.add(event.closes_bar_ns)


def _broker(trading: Trading, spec: ShareSpec) -> SharePaperBroker:
    return SharePaperBroker(trading, spec.symbols, by_bar=True)


def _answering(player: Player, spec: ShareSpec) -> Answering:
    """The player as the policy of a machine; heads that it does not have are 0."""
    none = tuple(torch.zeros(spec.rows) for _ in spec.heads)

    @torch.no_grad()
    def answer(question: AskPolicy, now_ns: int) -> PolicyAnswered:
        found = player(torch.from_numpy(question.observation.array().copy()))
        values, heads = (found[0], found[1:]) if isinstance(found, tuple) else (found, none)
        numbers = {head.name: tuple(given.flatten().tolist()) for head, given in zip(spec.heads, heads, strict=True)}
        return PolicyAnswered(now_ns, question.decision, tuple(values.flatten().tolist()), b"", MODEL, numbers)

    return answer
