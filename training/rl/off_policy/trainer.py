"""The loop around SAC and TD3: step all environments, keep the transitions, take the gradient steps that are due."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, cast

import torch
from torch import Tensor

from training.rl.coefficients import NotFiniteError, rate_at
from training.rl.dimensions import whole_rollouts
from training.rl.graphs import Recorded, replayable
from training.rl.kernels import keep_freed_memory
from training.rl.off_policy.coefficients import OffPolicyCoefficients, OffPolicyProgress
from training.rl.off_policy.learner import Agent, Learner
from training.rl.off_policy.replay import Replay, Transitions
from training.rl.protocols import Environment, Step

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")

# The loop around a learner: rounds of steps and gradient steps, what they report, and the state to go on from.
#
# On a CPU the same seed gives the same weights, byte for byte, also when a run was stopped at any update and continued
# from `Rounds.state_dict`.


class Part(Protocol):
    """An object whose state is part of the trainer's state."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""


class Rates(Protocol):
    """The coefficients that every loop reads."""

    @property
    def learning_rate(self) -> float:
        """The learning rate at the start."""

    @property
    def schedule(self) -> str:
        """How the learning rate falls; see `OffPolicyCoefficients`."""

    @property
    def environments(self) -> int:
        """How many environments are stepped together."""

    @property
    def batch(self) -> int:
        """Transitions of a gradient step."""


class Due(Protocol):
    """The coefficients that say how many gradient steps are due."""

    @property
    def learning_starts(self) -> int:
        """Transitions before the first one."""

    @property
    def gradient_steps(self) -> int:
        """Due for every `per_transitions`."""

    @property
    def per_transitions(self) -> int:
        """See `gradient_steps`."""


class Figures(NamedTuple):
    """Figures of several gradient steps, a row each."""

    names: tuple[str, ...]
    rows: list[Tensor]


def due_steps(c: Due, transitions: int, steps_taken: int) -> int:
    """The gradient steps that are due. Integer arithmetic keeps the ratio exact for any number of rows."""
    learned_from = max(0, transitions - max(c.learning_starts, 0))
    return learned_from * c.gradient_steps // c.per_transitions - steps_taken


class Rounds(ABC):
    """Trains a learner in place, one `update` at a time."""

    def __init__(
        self,
        learner: Learner,
        environment: Environment,
        coefficients: Rates,
        round_transitions: int,
        *,
        total_steps: int,
        seed: int,
        record: bool = True,
    ) -> None:
        """Prepare to train for at least `total_steps` transitions (whole updates).

        Args:
            environment: `coefficients.environments` of them, whose tensors are on the learner's device.
            round_transitions: of one update, rounded up to whole steps of all environments.
            seed: of this trainer's own generator.
            record: on a GPU a step of all environments, where they allow it, and a gradient step are CUDA graphs;
                False launches every kernel by itself, with the same numbers.
        """
        self.environment = environment
        self.updates = 0
        self.gradient_steps = 0
        self._learner = learner
        self._rates = coefficients
        self._steps_each = -(-round_transitions // coefficients.environments)  # steps of all environments in an update
        self.total_updates = whole_rollouts(total_steps, self._steps_each * coefficients.environments)
        if learner.device.type == "cpu":
            keep_freed_memory()
        self._generator = torch.Generator(learner.device).manual_seed(seed)
        self._record = record and learner.device.type == "cuda"
        self._recorded: dict[Hashable, Recorded[Any]] = {}
        self._begun = 0  # transitions, those of the update under way included

    @property
    def steps(self) -> int:
        """Transitions seen so far, by this process."""
        return self.updates * self._steps_each * self._rates.environments

    @property
    def done(self) -> bool:
        """Whether all updates are done."""
        return self.updates >= self.total_updates

    @property
    def learning_rate(self) -> float:
        """The rate of the next update."""
        return rate_at(self._rates.learning_rate, self._rates.schedule, self.updates / self.total_updates)

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that the next updates depend on: tensors and plain values."""
        state = {
            "updates": self.updates,
            "gradient_steps": self.gradient_steps,
            "generator": self._generator.get_state(),
            **{name: part.state_dict() for name, part in self._parts().items()},
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, made by a trainer with the same learner, environments and coefficients.

        Raises:
            ValueError: its replay has another shape.
        """
        state = copy.deepcopy(state)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.updates, self.gradient_steps = state["updates"], state["gradient_steps"]
        self._begun = self.steps
        self._generator.set_state(state["generator"].cpu())
        self._recorded.clear()  # the tensors of the environments are others

    def update(self) -> OffPolicyProgress:
        """Some steps of all environments, and the gradient steps that became due on the way.

        Raises:
            NotFiniteError: an observation, a reward, a loss or a gradient norm was not finite; no step was taken from
                that gradient step on.
            ValueError: the environments are more or fewer than `coefficients.environments`.
        """
        rate = self.learning_rate
        self._learner.set_learning_rate(rate)
        with self._learner.products(self._rates.batch):
            rewards, figures = self._round()
        reward = float(torch.stack(rewards).mean())
        self._check("mean reward or an observation", 0, reward)
        averages = {name: value for figure in figures for name, value in self._averages(figure).items()}
        self.updates += 1
        ratio = self.gradient_steps / self.steps
        return OffPolicyProgress(self.steps, self.updates, self.gradient_steps, reward, rate, ratio, averages)

    @abstractmethod
    def _parts(self) -> Mapping[str, Part]:
        """The parts with a state, in loading order: first those that may reject a state."""

    @abstractmethod
    def _round(self) -> tuple[list[Tensor], Sequence[Figures]]:
        """Run an update; return each step's mean reward (NaN once not finite) and the gradient steps' figures."""

    def _launch(self, kind: Hashable, work: Callable[[], T], *owners: object) -> T:
        """Run `work`; on a GPU record it as a CUDA graph, once for each `kind`, if its owners allow it."""
        if not self._record or not all(replayable(owner) for owner in owners):
            return work()
        if kind not in self._recorded:
            self._recorded[kind] = Recorded(work, self._learner.device, owners=owners, generators=(self._generator,))
        result: T = self._recorded[kind]()
        return result

    def _count(self, observations: Tensor) -> None:
        """Count a step; raise where the number of environments is not the expected one."""
        if observations.shape[0] != self._rates.environments:
            raise ValueError(
                f"{observations.shape[0]} environments are observed: expected coefficients.environments, "
                f"{self._rates.environments}"
            )
        self._begun += self._rates.environments

    def _averages(self, figures: Figures) -> dict[str, float]:
        """The mean of each figure; raises at the first that is not finite."""
        if not figures.rows:
            return {}
        table = torch.stack(figures.rows).tolist()
        for index, row in enumerate(table):
            for name, value in zip(figures.names, row, strict=True):
                self._check(name, index, value)
        columns = zip(figures.names, zip(*table, strict=True), strict=True)
        return {name: math.fsum(column) / len(table) for name, column in columns}

    def _check(self, what: str, index: int, value: float) -> None:
        if not math.isfinite(value):
            raise NotFiniteError(self.updates, index, what, value)


def following(environment: Environment, prepare: Callable[[Tensor], Tensor], step: Step) -> Tensor:
    """The next observations, prepared; at a time limit `last`. After a terminal state their value is not used."""
    observations = prepare(environment.observe())
    if step.truncated is None:
        return observations
    return torch.where(step.truncated.unsqueeze(1), prepare(last_of(step)), observations)


def last_of(step: Step) -> Tensor:
    """The observations before the reset of a step that has time limits. Raises `ValueError` where there are none."""
    if step.last is None:
        raise ValueError("a step has `truncated` without `last`: return the observations before the reset as well")
    return step.last


def in_place_of(place: T | None, batch: T) -> T:
    """Copy `batch` into the tensors of an earlier batch, or into new ones where there is none; return them."""
    if place is None:
        return copy.deepcopy(batch)
    for field in fields(cast("DataclassInstance", batch)):
        value = getattr(batch, field.name)
        if value is not None:
            getattr(place, field.name).copy_(value)
    return place


class OffPolicyTrainer(Rounds):
    """Trains `agent` in place, one `update` at a time; its state holds the replay."""

    def __init__(
        self,
        agent: Agent,
        environment: Environment,
        coefficients: OffPolicyCoefficients,
        *,
        total_steps: int,
        seed: int,
        record: bool = True,
    ) -> None:
        """As `Rounds`; actions, minibatches and noise are drawn from `seed`."""
        self.agent = agent
        self.coefficients = c = coefficients
        super().__init__(agent, environment, c, c.round_transitions, total_steps=total_steps, seed=seed, record=record)
        self._batch: Transitions | None = None  # tensors that a recorded gradient step reads
        self._replay = Replay(c.capacity, c.environments, agent.actor.inputs, agent.actor.actions, agent.device)

    def _parts(self) -> Mapping[str, Part]:
        return {"replay": self._replay, "agent": self.agent, "environment": self.environment}

    def _round(self) -> tuple[list[Tensor], Sequence[Figures]]:
        rewards: list[Tensor] = []
        of_critics, of_actor = Figures(self.agent.figures, []), Figures(self.agent.of_actor, [])
        for _ in range(self._steps_each):
            rewards.append(self._step())
            for _ in range(due_steps(self.coefficients, self._begun, self.gradient_steps)):
                self.gradient_steps += 1
                critics, actor = self._gradient_step()
                of_critics.rows.append(critics.clone())
                if actor is not None:
                    of_actor.rows.append(actor.clone())
        return rewards, (of_critics, of_actor)

    def _gradient_step(self) -> tuple[Tensor, Tensor | None]:
        agent, number = self.agent, self.agent.updates + 1
        batch = self._replay.sample(self.coefficients.batch, self._generator)
        if not self._record:
            return agent.update(batch, self._generator)
        static_batch = self._batch = in_place_of(self._batch, batch)
        figures = self._launch(
            number % self.coefficients.actor_delay, lambda: agent.update(static_batch, self._generator)
        )
        agent.updates = number  # a replayed graph does not run Python code
        return figures

    @torch.no_grad()
    def _step(self) -> Tensor:
        """Step all environments into the replay. Returns the mean reward, (); NaN where a number was not finite."""
        c = self.coefficients
        if self._begun < c.learning_starts:
            moved, reward = self._moved(self._uniform)
        else:
            act = partial(self.agent.act, generator=self._generator)
            moved, reward = self._launch("step", lambda: self._moved(act), self.environment)
        self._count(moved.observations)
        self._replay.add(moved)
        return reward.clone()

    def _moved(self, act: Callable[[Tensor], Tensor]) -> tuple[Transitions, Tensor]:
        """Step the environments by `act`. Returns the transitions and the mean reward before scaling, ()."""
        c, prepare = self.coefficients, self.agent.actor.prepare
        observations = prepare(self.environment.observe())
        actions = act(observations)
        step = self.environment.step(actions)
        next_observations = following(self.environment, prepare, step)
        goes_on = (~step.terminals).to(observations.dtype)
        moved = Transitions(observations, next_observations, actions, step.rewards * c.reward_scale, goes_on)
        return moved, step.rewards.mean() + (0.0 * next_observations).sum()

    def _uniform(self, prepared: Tensor) -> Tensor:
        """Uniform actions, for the first steps."""
        actions = torch.empty(prepared.shape[0], self.agent.actor.actions, device=prepared.device)
        return actions.uniform_(-1.0, 1.0, generator=self._generator)
