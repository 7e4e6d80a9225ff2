"""DQN that goes on learning from single experiences, half of each batch from the cold start.

The cold start keeps the learner from forgetting what recent days do not show. It is left out while experience
contradicts it. A CUSUM (Page 1954, "Continuous Inspection Schemes") watches the temporal-difference errors of the first
network: their mean now against their mean in the cold start, in units of their recent standard deviation. Everything
here is determined by the order of experiences and the seed: a resumed learner ends in the same bytes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from strategies.kit.contract import Float32Array
from training.rl.dqn.coefficients import DqnCoefficients
from training.rl.dqn.dqn import Dqn, values_at
from training.rl.dqn.networks import QNetwork
from training.rl.dqn.replay import ChoiceReplay, Choices, OneStep, Returns
from training.rl.kernels import keep_freed_memory
from training.rl.off_policy.trainer import due_steps

LOOKED_AT = 32
"""Transitions that are evaluated in one batch."""
MOST = 3.0
"""A transition's error is capped at this many deviations: a single shock is no change of the market."""
COLUMNS = tuple(field.name for field in fields(Choices) if field.name not in ("weights", "places"))


@dataclass(frozen=True, slots=True)
class OnlineCoefficients:
    """What the online learner adds to DQN's coefficients."""

    cold_share: float = 0.5  # of each batch, from the cold start
    importance: float = 0.6  # beta of prioritised replay; a stream has no end towards which it could rise
    slack: float = 0.25  # shift of the mean error, in standard deviations, that the CUSUM tolerates
    limit: float = 25.0  # CUSUM, in standard deviations, above which the cold start counts as contradicted
    memory: int = 64  # window, in transitions, of the recent mean and deviation (exponential)
    agreed: int = 256  # transitions in a row with a usual recent mean, after which the cold start is used again


class Agreement:
    """Detects whether experience still agrees with the cold start, by the errors of the network that it ended with.

    An error is rewards + discount x V(following) - Q(now, action). Its mean in the cold start is the usual one: no
    trained network fulfils Bellman's equation exactly. A mean that stays more than `slack` deviations away from the
    usual one is a change of the market. Larger price moves, or more time in a position, are not, so the deviation is
    the recent one. A recent mean that stays within `slack` for `agreed` transitions ends the contradiction. Transitions
    of several steps overlap, so only those that begin where the last counted one ended are counted.
    """

    def __init__(self, network: QNetwork, cold: ChoiceReplay, steps: int, coefficients: OnlineCoefficients) -> None:
        """Begin with the network and the transitions of the cold start; a transition has `steps` steps."""
        self._network = copy.deepcopy(network)
        self._steps, self._c = steps, coefficients
        self._usual, deviation = self._cold_moments(cold)
        self._mean, self._variance = self._usual, deviation**2  # recent mean and variance
        self._seen = self._agreed = 0
        self._waiting: list[Choices] = []
        self._above = self._below = 0.0
        self.broken = False

    def look(self, choices: Choices) -> None:
        """Count the next transition."""
        self._seen += 1
        if self._seen % self._steps or not self._variance:
            return
        self._waiting.append(choices)
        if len(self._waiting) < LOOKED_AT:
            return
        for difference in self._differences(joined(self._waiting)).tolist():
            self._count(difference)
        self._waiting.clear()

    def state_dict(self) -> dict[str, Any]:
        """The network, the usual and the recent moments, and the CUSUM's sums."""
        moments = {"usual": self._usual, "mean": self._mean, "variance": self._variance}
        counts = {"seen": self._seen, "agreed": self._agreed}
        sums = {"above": self._above, "below": self._below, "broken": self.broken}
        waiting = [{name: getattr(choices, name) for name in COLUMNS} for choices in self._waiting]
        return {"network": self._network.state_dict(), "waiting": waiting} | moments | counts | sums

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`. An earlier release's state has no recent moments: the usual ones take their place."""
        self._network.load_state_dict(state["network"])
        self._waiting = [Choices(**choices) for choices in state["waiting"]]
        self._mean, self._usual = state["mean"], state.get("usual", state["mean"])
        self._variance = state["variance"] if "variance" in state else state["deviation"] ** 2
        self._seen, self._agreed = state["seen"], state.get("agreed", 0)
        self._above, self._below, self.broken = state["above"], state["below"], state["broken"]

    def _count(self, difference: float) -> None:
        """Add one error to the recent moments, then to the CUSUM's sums."""
        share = 1.0 / self._c.memory
        apart = difference - self._mean
        self._mean += share * apart
        self._variance += share * (apart * apart * (1.0 - share) - self._variance)
        deviation = math.sqrt(self._variance)
        standard = max(-MOST, min(MOST, (difference - self._usual) / deviation)) if deviation else 0.0
        if self.broken:
            usual = abs(self._mean - self._usual) < self._c.slack * deviation
            self._agreed = self._agreed + 1 if usual else 0
            self.broken = self._agreed < self._c.agreed
            return
        self._agreed = 0
        self._above = max(0.0, self._above + standard - self._c.slack)
        self._below = max(0.0, self._below - standard - self._c.slack)
        if max(self._above, self._below) > self._c.limit:
            self.broken, self._above, self._below = True, 0.0, 0.0

    def _cold_moments(self, cold: ChoiceReplay) -> tuple[float, float]:
        """The mean and the deviation of the errors in the cold start; zeros without a cold start."""
        differences = self._differences(cold.all()).double() if cold.size > 1 else torch.zeros(2, dtype=torch.float64)
        return float(differences.mean()), float(differences.std())

    @torch.no_grad()
    def _differences(self, choices: Choices) -> Tensor:
        following = self._network.values(choices.following).amax(dim=1)
        goals = torch.addcmul(choices.rewards, choices.discounts, following)
        return goals - values_at(self._network.values(choices.observations), choices.actions)


class OnlineLearner:
    """Takes experiences one at a time, in the order of the stream, and learns from them."""

    def __init__(
        self,
        dqn: Dqn,
        coefficients: DqnCoefficients,
        cold: ChoiceReplay,
        *,
        fresh: ChoiceReplay | None = None,
        lanes: int = 1,
        seed: int,
        online: OnlineCoefficients | None = None,
    ) -> None:
        """Learn in place.

        Args:
            cold: transitions of the cold start; its priorities change, nothing is added.
            fresh: an empty replay for new experience, on disk for example; None makes one in memory.
            lanes: series of experiences that follow one another, such as symbols.
            seed: of the learner's own generator, from which minibatches are drawn.
        """
        self.dqn = dqn
        self._c, self._online = coefficients, online or OnlineCoefficients()
        c, network = coefficients, dqn.network
        if dqn.device.type == "cpu":
            keep_freed_memory()
        heads = len(network.heads)
        in_memory = partial(ChoiceReplay, c.capacity, 1, network.inputs, heads=heads, priority=c.priority)
        self._fresh = in_memory() if fresh is None else fresh
        self._cold = cold
        self._lanes = [Returns(c.returns, c.discount) for _ in range(lanes)]
        self._generator = torch.Generator().manual_seed(seed)
        self._agreement = Agreement(network, cold, c.returns, self._online)
        self.experiences = 0
        self.gradient_steps = 0
        dqn.set_learning_rate(c.learning_rate)

    @property
    def cold_share(self) -> float:
        """The share of each batch that comes from the cold start now."""
        return 0.0 if self._agreement.broken or not self._cold.size else self._online.cold_share

    @torch.no_grad()
    def take(
        self,
        lane: int,
        observation: Sequence[float] | Float32Array | Tensor,
        action: int,
        reward: float,
        following: Sequence[float] | Float32Array | Tensor,
        *,
        ended: bool,
        goes_on: bool,
        labels: Sequence[float] = (),
    ) -> None:
        """Keep an experience, with raw observations.

        Args:
            ended: the lane's next experience does not follow from this one (a session's end, or a gap).
            goes_on: whether the next state has a value; false at a terminal state.
            labels: what each head should have answered, NaN where it is not known.
        """
        prepared = self.dqn.network.prepare(torch.stack([torch.as_tensor(observation), torch.as_tensor(following)]))
        label_row = torch.tensor([labels], dtype=torch.float32)
        step = OneStep(
            prepared[:1],
            torch.tensor([action]),
            torch.tensor([reward * self._c.reward_scale], dtype=torch.float32),
            prepared[1:],
            torch.tensor([float(goes_on)]),
            torch.tensor([ended]),
            label_row.reshape(1, -1),
        )
        self.experiences += 1
        choices = self._lanes[lane].add(step)
        if choices is not None:
            self._agreement.look(choices)
            self._fresh.add(choices)

    def learn(self) -> dict[str, float]:
        """Take the gradient steps that are due; the mean of each figure, none where no step was due.

        Raises:
            ArithmeticError: a figure was not finite; no weight changed since.
        """
        rows: list[Tensor] = []
        due = due_steps(self._c, self.experiences, self.gradient_steps) if self._fresh.size else 0
        with self.dqn.products(self._c.batch):
            for _ in range(due):
                self.gradient_steps += 1
                rows.append(self._descend())
        if not rows:
            return {}
        means = torch.stack(rows).mean(dim=0)
        if not bool(torch.isfinite(means).all()):
            raise ArithmeticError(f"the learner's figures after {self.gradient_steps} gradient steps are not finite")
        return dict(zip(self.dqn.figures, means.tolist(), strict=True)) | {"cold share": self.cold_share}

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that the next weights depend on: tensors and plain values."""
        state = {
            "dqn": self.dqn.state_dict(),
            "fresh": self._fresh.state_dict(),
            "cold": self._cold.state_dict(),
            "lanes": [lane.state_dict() for lane in self._lanes],
            "generator": self._generator.get_state(),
            "agreement": self._agreement.state_dict(),
            "experiences": self.experiences,
            "gradient_steps": self.gradient_steps,
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, made by a learner with the same coefficients.

        Raises:
            ValueError: its replay has another shape.
        """
        state = copy.deepcopy(state)
        self._fresh.load_state_dict(state["fresh"])
        self._cold.load_state_dict(state["cold"])
        self.dqn.load_state_dict(state["dqn"])
        for lane, lane_state in zip(self._lanes, state["lanes"], strict=True):
            lane.load_state_dict(lane_state)
        self._generator.set_state(state["generator"])
        self._agreement.load_state_dict(state["agreement"])
        self.experiences, self.gradient_steps = state["experiences"], state["gradient_steps"]

    def _descend(self) -> Tensor:
        """Take one gradient step, and give each replay the errors of its own rows as priorities."""
        count = round(self._c.batch * self.cold_share)
        counts = ((self._cold, count), (self._fresh, self._c.batch - count))
        samples = [
            (replay, replay.sample(rows, self._generator, self._online.importance)) for replay, rows in counts if rows
        ]
        figures, errors = self.dqn.update(joined([part for _, part in samples]))
        for (replay, part), part_errors in zip(
            samples, torch.split(errors, [len(part.actions) for _, part in samples]), strict=True
        ):
            if part.places is not None:
                replay.reprioritise(part.places, part_errors)
        return figures


def joined(parts: Sequence[Choices]) -> Choices:
    """The transitions of all parts as one batch; its `places` are meaningless."""
    names = COLUMNS if parts[0].weights is None else (*COLUMNS, "weights")
    columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return replace(parts[0], **columns, places=None)
