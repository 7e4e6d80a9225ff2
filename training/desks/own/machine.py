"""The machine of a desk within sessions: its paper broker, a player as its policy, and what its orders traded."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import torch

from daemon.core.effects import AskPolicy
from daemon.core.events import Event, OrderFilled, PolicyAnswered, QuotesReceived
from daemon.core.limits import Trading
from daemon.core.machine import Machine
from daemon.core.paper.paper import PaperBroker
from daemon.core.paper.shares import SharePaperBroker
from daemon.core.step import Step
from strategies.kit.contract import Spec
from training.desks.own.environment import MODEL
from training.desks.own.players import Player


class Watch:
    """The value that each order traded, and the bars at whose close something was held."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._bought: dict[str, Decimal] = {}
        self._sold: dict[str, Decimal] = {}
        self.held: set[int] = set()

    def __call__(self, event: Event, _: Step) -> None:
        """Note one event of the session."""
        if isinstance(event, OrderFilled):
            (self._bought if event.side > 0 else self._sold)[event.client_order_id] = event.cumulative_cost
        elif isinstance(event, QuotesReceived) and event.closes_bar_ns and self._machine.state.book.positions:
            self.held.add(event.closes_bar_ns)

    def traded_usd(self, spec: Spec) -> float:
        """USD: of options the premium paid, of shares all that was traded."""
        bought, sold = sum(self._bought.values(), Decimal(0)), sum(self._sold.values(), Decimal(0))
        return _TRADED[spec.holds](bought, sold)


_TRADED: dict[str, Callable[[Decimal, Decimal], float]] = {
    "option": lambda bought, _: 100.0 * float(bought),
    "shares": lambda bought, sold: float(bought + sold),
}
_BROKERS: dict[str, Callable[[Spec, Trading], Any]] = {
    "option": lambda spec, trading: PaperBroker(trading, spec.symbols[0]),
    "shares": lambda spec, trading: SharePaperBroker(trading, spec.symbols, by_bar=True),
}


def broker_for(spec: Spec, trading: Trading) -> Any:
    """Return the paper broker of a desk that decides at each bar."""
    return _BROKERS[spec.holds](spec, trading)


def as_policy(player: Player, spec: Spec) -> Callable[[AskPolicy, int], PolicyAnswered]:
    """The player as the policy of a machine."""

    @torch.no_grad()
    def answer(question: AskPolicy, now_ns: int) -> PolicyAnswered:
        given = player(torch.from_numpy(question.observation.array().copy()).unsqueeze(0))[0]
        answered = given.clamp(-1.0, 1.0) if spec.continuous else given
        return PolicyAnswered(now_ns, question.decision, tuple(answered.tolist()), b"", MODEL)

    return answer
