"""A desk's machine on recorded events: a player as its policy, and the result of a session.

Core, gates, order life and paper broker are those of a dry run, in memory. `bars` plays desks that decide at each bar;
`training.evaluate.days` those that decide once a session.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np

from daemon.core.draft import PaperMarket
from daemon.core.effects import AskPolicy
from daemon.core.events import Event, ModelVerified, OrderFilled, PolicyAnswered, QuotesReceived, RunStarted
from daemon.core.limits import Trading
from daemon.core.paper.state import broker_snapshot
from daemon.core.records import DecisionRow
from daemon.core.state import Identity, State
from daemon.core.step import Core, Machine, Step
from strategies.kit.contract import AnyStrategy, Float32Array, Spec
from strategies.registry import configured
from training.study.study import AccountHalt, PlayResult

if TYPE_CHECKING:
    from torch import Tensor

MODEL, FEED = "candidate", "sip"
Player = Callable[..., Any]
"""Maps observations (rows, *shape) to answers, or to (answers, heads...); with a hidden state it takes the state as
well, and returns answers and the next state."""
Answering = Callable[[AskPolicy, int], PolicyAnswered]


def started(strategy: AnyStrategy, trading: Trading, market: PaperMarket, mode: str = "replay") -> Machine:
    """A desk on its first day: reconciled, with a verified model, and nothing but cash."""
    core, spec = Core(strategy, trades=False), strategy.spec
    identity = Identity(mode, "evaluation", spec.name, "evaluation", FEED, configured(spec), spec.config)
    machine = Machine(core, core.start(identity, trading), market, market.start())
    machine.apply(RunStarted(0, identity.mode, identity.account, identity.strategy, identity.epoch, "", FEED, trading))
    machine.apply(ModelVerified(0, MODEL, "", promoted=False, feed=FEED))
    machine.apply(broker_snapshot(machine.market_state, 0))
    return machine


# --- a player as the policy ---------------------------------------------------------------------------------------


class Numbers:
    """A player in numpy alone: from an observation, float32 of the spec's shape, to the numbers of an answer."""

    def __init__(self, answer: Callable[[Float32Array], Sequence[float]]) -> None:
        self._answer = answer

    def __call__(self, observation: Float32Array) -> Sequence[float]:
        """The numbers of the answer."""
        return self._answer(observation)


def answering(player: Player, spec: Spec) -> Answering:
    """The player as the policy of a machine; continuous answers are clipped to [-1, 1]."""
    if isinstance(player, Numbers):
        return _in_numbers(player, spec)
    if spec.rows_are_symbols:
        return _by_rows(player, spec)
    return _at_once(player, spec) if spec.recurrent_shape is None else _with_memory(player, spec.recurrent_shape)


def _in_numbers(player: Numbers, spec: Spec) -> Answering:
    low, high = (-1.0, 1.0) if spec.continuous else (-np.inf, np.inf)

    def answer(question: AskPolicy, now_ns: int) -> PolicyAnswered:
        values = [float(min(max(value, low), high)) for value in player(question.observation.array())]
        return PolicyAnswered(now_ns, question.decision, tuple(values), b"", MODEL)

    return answer


def _by_rows(player: Player, spec: Spec) -> Answering:
    """Answers for a spec with one row per symbol; a head that the player does not have is 0."""
    import torch

    none = tuple(torch.zeros(spec.rows) for _ in spec.heads)

    @torch.no_grad()
    def answer(question: AskPolicy, now_ns: int) -> PolicyAnswered:
        output = player(_observation_of(question))
        values, heads = (output[0], output[1:]) if isinstance(output, tuple) else (output, none)
        numbers = {head.name: _numbers(values) for head, values in zip(spec.heads, heads, strict=True)}
        return PolicyAnswered(now_ns, question.decision, _numbers(values), b"", MODEL, numbers)

    return answer


def _at_once(player: Player, spec: Spec) -> Answering:
    import torch

    @torch.no_grad()
    def answer(question: AskPolicy, now_ns: int) -> PolicyAnswered:
        output = player(_observation_of(question).unsqueeze(0))[0]
        values = output.clamp(-1.0, 1.0) if spec.continuous else output
        return PolicyAnswered(now_ns, question.decision, _numbers(values), b"", MODEL)

    return answer


def _with_memory(player: Player, shape: tuple[int, ...]) -> Answering:
    import torch

    @torch.no_grad()
    def answer(question: AskPolicy, now_ns: int) -> PolicyAnswered:
        logits, memory = player(_observation_of(question).unsqueeze(0), _memory(question.observation.hidden, shape))
        memory_after = memory[0].contiguous().numpy().astype("<f4").tobytes()
        return PolicyAnswered(now_ns, question.decision, _numbers(logits[0]), memory_after, MODEL)

    return answer


def holding(player: Player, spec: Spec) -> Answering:
    """The policy of a desk that only watches: always the player's answer to the first question."""
    policy, cached = answering(player, spec), list[PolicyAnswered]()

    def answer(question: AskPolicy, now_ns: int) -> PolicyAnswered:
        if not cached:
            cached.append(policy(question, now_ns))
        return PolicyAnswered(now_ns, question.decision, cached[0].logits, b"", MODEL, cached[0].heads)

    return answer


def remembering(answer: Answering) -> Answering:
    """The policy with a cache of its answers to equal observations and hidden states of the newest time.

    Only for a policy whose answer depends on these alone.
    """
    cache: dict[tuple[bytes, bytes], PolicyAnswered] = {}
    newest = -1

    def remembered(question: AskPolicy, now_ns: int) -> PolicyAnswered:
        nonlocal newest
        if now_ns != newest:
            cache.clear()
            newest = now_ns
        key = question.observation.data, question.observation.hidden
        if key not in cache:
            cache[key] = answer(question, now_ns)
        return msgspec.structs.replace(cache[key], time_ns=now_ns, decision=question.decision)

    return remembered


def _observation_of(question: AskPolicy) -> Tensor:
    import torch

    return torch.from_numpy(question.observation.array().copy())


def _numbers(values: Tensor) -> tuple[float, ...]:
    return tuple(values.flatten().tolist())


def _memory(carried: bytes, shape: tuple[int, ...]) -> Tensor:
    """The carried hidden state, float32 (1, *shape), or (1, members, *shape) for an ensemble; zeros at the start."""
    import torch

    values = torch.frombuffer(bytearray(carried), dtype=torch.float32) if carried else torch.zeros(math.prod(shape))
    return values.reshape(1, *shape) if values.numel() == math.prod(shape) else values.reshape(1, -1, *shape)


# --- what a session came to ---------------------------------------------------------------------------------------


class HasState(Protocol):
    """A desk whose state can be read."""

    @property
    def state(self) -> State[Any]: ...


class PlayTally:
    """Counts that the book does not keep: value of each order, bars with a position, confidence of each trade."""

    def __init__(self, machine: HasState | Machine) -> None:
        self._machine = machine
        self.bought: dict[str, Decimal] = {}  # cost of the filled part of each buy order
        self.sold: dict[str, Decimal] = {}
        self.held: set[int] = set()  # ends of the bars at whose close a position was held
        self.closed: list[tuple[float, float]] = []  # confidence of the entry, P&L in USD
        self._trades = machine.state.stats.trades
        self._flat_equity = machine.state.book.equity
        self._confidence = 0.0

    def __call__(self, event: Event, step: Step) -> None:
        """Note one event of the session."""
        book, stats = self._machine.state.book, self._machine.state.stats
        for row in step.rows:
            if isinstance(row, DecisionRow) and row.outcome == "ordered" and not book.positions:
                self._confidence = row.confidence or 0.0
        if stats.trades > self._trades:
            self._trades = stats.trades
            self.closed.append((self._confidence, float(book.equity - self._flat_equity)))
            self._flat_equity = book.equity
        if isinstance(event, QuotesReceived) and event.closes_bar_ns and book.positions:
            self.held.add(event.closes_bar_ns)
        elif isinstance(event, OrderFilled):
            (self.bought if event.side > 0 else self.sold)[event.client_order_id] = event.cumulative_cost

    def traded_usd(self, holds: str) -> float:
        """USD: the premium paid for options; the value of all trades in shares."""
        return _TRADED[holds](self.bought.values(), self.sold.values())


def _premium(bought: Iterable[Decimal], _: Iterable[Decimal]) -> float:
    return float(sum(float(cost) * 100 for cost in bought))


def _of_shares(bought: Iterable[Decimal], sold: Iterable[Decimal]) -> float:
    return float(sum((*bought, *sold), Decimal(0)))


_TRADED: dict[str, Callable[[Iterable[Decimal], Iterable[Decimal]], float]] = {
    "option": _premium,
    "shares": _of_shares,
}


def denied(before: State[Any], after: State[Any]) -> dict[str, int]:
    """The number of denials by each gate between two states."""
    earlier, later = before.stats.denials, after.stats.denials
    return {gate: count - earlier.get(gate, 0) for gate, count in later.items()}


def halts_of(date: str, before: State[Any], after: State[Any]) -> tuple[AccountHalt, ...]:
    """The halt raised in this session: an empty tuple or one entry."""
    halt = after.risk.halt
    if halt is None or halt == before.risk.halt:
        return ()
    return (AccountHalt(date, halt.reason, halt.detail),)


def joined(parts: Iterable[PlayResult]) -> PlayResult:
    """Consecutive results joined to one."""
    results: Sequence[PlayResult] = tuple(parts)
    denials: Counter[str] = Counter()
    for result in results:
        denials.update(result.denials)
    return PlayResult(
        tuple(session for result in results for session in result.sessions),
        {gate: count for gate, count in sorted(denials.items()) if count},
        tuple(entry for result in results for entry in result.entries),
        tuple(halt for result in results for halt in result.halts),
    )
