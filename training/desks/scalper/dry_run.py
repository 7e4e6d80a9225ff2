"""Evaluation on the desk itself: core, gates, order life and paper broker in memory, one account for each session.

This is where reported figures come from. Each session starts from the state that a desk has after holding through all
sessions before it, so nothing carries over from one session's trades to the next; `through` is the one account on which
everything does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import torch

from daemon.core.effects import AskPolicy
from daemon.core.events import Event, OrderFilled, PolicyAnswered, QuotesReceived
from daemon.core.limits import Trading
from daemon.core.machine import Machine
from daemon.core.paper.paper import PaperBroker
from daemon.core.records import DecisionRow
from daemon.core.step import Core, Step
from strategies.kit.contract import AnyStrategy
from training.desks.minutes import (
    MODEL,
    Answering,
    Desk,
    Venue,
    desks_before,
    feed_of,
    joined,
    relay,
    session_played,
    started,
)
from training.desks.scalper.play import Player, always_hold
from training.study.progress import counted
from training.study.study import Entry, PlayResult


class Modelled:
    """The option market of the paper broker, whose quotes follow from the bars. See `training.desks.minutes.Venue`."""

    mode: Final = "replay"

    def broker(self, trading: Trading, underlying: str) -> PaperBroker:
        """See `Venue`."""
        return PaperBroker(trading, underlying)

    def feed(self, _: Machine, events: Iterable[Event]) -> Iterable[Event]:
        """See `Venue`."""
        return events

    def widened(self, _: int) -> Modelled:
        """See `Venue`."""
        return self


MODELLED: Final = Modelled()


def desks(
    events: Iterable[Event],
    strategy: AnyStrategy,
    trading: Trading,
    dates: Sequence[str],
    venue: Venue = MODELLED,
) -> tuple[Desk, ...]:
    """As `desks_before`, after as many sessions as warm the strategy and give the volatility."""
    machine = started(strategy, trading, venue.broker(trading, strategy.spec.symbols[0]), venue.mode)
    return desks_before(events, machine, _holding(), dates, _warming(trading), venue)


def through(
    players: Sequence[Player],
    events: Iterable[Event],
    strategy: AnyStrategy,
    trading: Trading,
    spans: Sequence[Sequence[str]],
    venue: Venue = MODELLED,
) -> tuple[PlayResult, ...]:
    """Play one account through all `spans` of dates, each with its own player. See `training.desks.minutes.relay`."""
    machine = started(strategy, trading, venue.broker(trading, strategy.spec.symbols[0]), venue.mode)
    unused = _unused(strategy, trading)

    def play(nth: int, date: str, feed: Iterable[Event]) -> PlayResult:
        return _session(machine, date, feed, players[nth], unused)

    return relay(events, machine, _holding(), spans, _warming(trading), play, venue)


def dry_run(player: Player, ready: Sequence[Desk], strategy: AnyStrategy, trading: Trading) -> PlayResult:
    """Play one session on each desk; every desk stays as it is, so players can follow one another."""
    unused = _unused(strategy, trading)
    results: list[PlayResult] = []
    for desk in counted(ready, "sessions"):
        market = (desk.venue or MODELLED).broker(trading, strategy.spec.symbols[0])
        machine = Machine(Core(strategy), desk.state, market, desk.market_state)
        results.append(_session(machine, desk.date, feed_of(desk, machine), player, unused))
    return joined(results)


def _session(machine: Machine, date: str, feed: Iterable[Event], player: Player, unused: int) -> PlayResult:
    """Play one session on the machine as it stands, which goes on from there. `unused` are minutes never held in."""
    start, watch = machine.state, _Watch(machine)
    end = machine.run(feed, _answering(player), watch)
    entries = tuple(Entry(date, confidence, pnl_usd) for confidence, pnl_usd in watch.closed)
    return session_played(
        date, start, end, premium_usd=watch.premium_usd, held_min=watch.held_min, unused=unused, entries=entries
    )


def _unused(strategy: AnyStrategy, trading: Trading) -> int:
    """Minutes of a session in which no position can be held."""
    rules = trading.execution
    return strategy.spec.window + rules.flat_before_close_min + rules.flatten_lead_min


def _warming(trading: Trading) -> int:
    """Sessions that warm the strategy and give the volatility."""
    return trading.paper.volatility_sessions + 2


def _holding() -> Answering:
    """The policy of a desk that only watches."""
    logits = tuple(always_hold(torch.zeros(1))[0].tolist())  # whatever is observed
    return lambda question, now_ns: PolicyAnswered(now_ns, question.decision, logits, b"", MODEL)


class _Watch:
    """Counts what the books do not: premium paid, minutes with a position, each trade's confidence and its end."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.premium_usd = 0.0
        self.held_min = 0
        self.closed: list[tuple[float, float]] = []  # confidence of the entry, P&L in USD
        self._paid: dict[str, float] = {}
        self._trades = machine.state.stats.trades
        self._flat_equity = machine.state.book.equity
        self._confidence = 0.0

    def __call__(self, event: Event, step: Step) -> None:
        book = self._machine.state.book
        for row in step.rows:
            if isinstance(row, DecisionRow) and row.outcome == "ordered" and not book.positions:
                self._confidence = row.confidence or 0.0
        if self._machine.state.stats.trades > self._trades:
            self._trades = self._machine.state.stats.trades
            self.closed.append((self._confidence, float(book.equity - self._flat_equity)))
            self._flat_equity = book.equity
        if isinstance(event, QuotesReceived) and event.closes_bar_ns:
            self.held_min += bool(self._machine.state.book.positions)
        elif isinstance(event, OrderFilled) and event.side > 0:
            self._paid[event.client_order_id] = float(event.cumulative_cost) * 100
            self.premium_usd = sum(self._paid.values())


def _answering(player: Player) -> Answering:
    """The player as the policy of a machine."""

    @torch.no_grad()
    def answer(question: AskPolicy, now_ns: int) -> PolicyAnswered:
        observation = torch.from_numpy(question.observation.array().copy()).unsqueeze(0)
        logits = tuple(player(observation)[0].tolist())
        return PolicyAnswered(now_ns, question.decision, logits, b"", MODEL)

    return answer
