"""The loop around SAC and TD3: step all environments, keep the transitions, take the gradient steps that are due.

On a CPU the same seed gives the same weights, byte for byte, also when a run was stopped at any update and continued
from `OffPolicyTrainer.state_dict`, which holds the replay.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

from training.rl.coefficients import NotFiniteError, rate_at
from training.rl.kernels import keep_freed_memory
from training.rl.off_policy.coefficients import OffPolicyCoefficients, OffPolicyProgress
from training.rl.off_policy.learner import Agent
from training.rl.off_policy.replay import Replay, Transitions
from training.rl.protocols import Environment, Step


class OffPolicyTrainer:
    """Trains `agent` in place, one `update` at a time."""

    def __init__(
        self,
        agent: Agent,
        environment: Environment,
        coefficients: OffPolicyCoefficients,
        *,
        total_steps: int,
        seed: int,
    ) -> None:
        """Prepare to train for at least `total_steps` transitions (whole updates).

        Args:
            environment: `coefficients.environments` of them, whose tensors are on the agent's device.
            seed: of this trainer's own generator, from which actions, minibatches and noise are drawn.
        """
        self.agent = agent
        self.environment = environment
        self.coefficients = c = coefficients
        self.updates = 0
        self.gradient_steps = 0
        self._steps_each = -(-c.round_transitions // c.environments)  # steps of all environments in an update
        self.total_updates = max(1, -(-total_steps // (self._steps_each * c.environments)))
        device = next(agent.actor.parameters()).device
        if device.type == "cpu":
            keep_freed_memory()
        self._generator = torch.Generator(device).manual_seed(seed)
        self._replay = Replay(c.capacity, c.environments, agent.actor.inputs, agent.actor.actions, device)
        self._begun = 0  # transitions, those of the update under way included

    @property
    def steps(self) -> int:
        """Transitions seen so far, by this process."""
        return self.updates * self._steps_each * self.coefficients.environments

    @property
    def done(self) -> bool:
        """Whether all updates are done."""
        return self.updates >= self.total_updates

    @property
    def learning_rate(self) -> float:
        """The rate of the next update."""
        return rate_at(self.coefficients.learning_rate, self.coefficients.schedule, self.updates / self.total_updates)

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that the next updates depend on: tensors and plain values."""
        state = {
            "updates": self.updates,
            "gradient_steps": self.gradient_steps,
            "agent": self.agent.state_dict(),
            "replay": self._replay.state_dict(),
            "generator": self._generator.get_state(),
            "environment": self.environment.state_dict(),
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, made by a trainer with the same agent, environments and coefficients.

        Raises:
            ValueError: its replay has another shape.
        """
        state = copy.deepcopy(state)
        self._replay.load_state_dict(state["replay"])
        self.updates, self.gradient_steps = state["updates"], state["gradient_steps"]
        self._begun = self.steps
        self.agent.load_state_dict(state["agent"])
        self._generator.set_state(state["generator"].cpu())
        self.environment.load_state_dict(state["environment"])

    def update(self) -> OffPolicyProgress:
        """Some steps of all environments, and the gradient steps that became due on the way.

        Raises:
            NotFiniteError: an observation, a reward, a loss or a gradient norm was not finite; no step was taken from
                that gradient step on.
            ValueError: the environments are more or fewer than `coefficients.environments`.
        """
        rate = self.learning_rate
        self.agent.set_learning_rate(rate)
        rewards: list[Tensor] = []
        rows: tuple[list[Tensor], list[Tensor]] = ([], [])
        for _ in range(self._steps_each):
            rewards.append(self._step())
            for _ in range(self._due()):
                self._descend(rows)
        reward = float(torch.stack(rewards).mean())
        self._check("mean reward or an observation", 0, reward)
        figures = self._averages(self.agent.figures, rows[0]) | self._averages(self.agent.of_actor, rows[1])
        self.updates += 1
        ratio = self.gradient_steps / self.steps
        return OffPolicyProgress(self.steps, self.updates, self.gradient_steps, reward, rate, ratio, figures)

    def _due(self) -> int:
        """Gradient steps that are due by now: by whole numbers, so that the ratio holds at any number of rows."""
        c = self.coefficients
        learned_from = max(0, self._begun - max(c.learning_starts, 0))
        return learned_from * c.gradient_steps // c.per_transitions - self.gradient_steps

    def _descend(self, rows: tuple[list[Tensor], list[Tensor]]) -> None:
        batch = self._replay.sample(self.coefficients.batch, self._generator)
        self.gradient_steps += 1
        found, of_actor = self.agent.update(batch, self._generator)
        rows[0].append(found)
        if of_actor is not None:
            rows[1].append(of_actor)

    @torch.no_grad()
    def _step(self) -> Tensor:
        """One step of all environments into the replay; the mean reward, which is NaN after what is not finite."""
        c, actor = self.coefficients, self.agent.actor
        before = actor.prepare(self.environment.observe())
        if before.shape[0] != c.environments:
            raise ValueError(
                f"{before.shape[0]} environments are observed: expected coefficients.environments, {c.environments}"
            )
        actions = self._actions(before)
        step = self.environment.step(actions)
        following = self._following(step)
        goes_on = (~step.terminals).to(before.dtype)
        self._replay.add(Transitions(before, following, actions, step.rewards * c.reward_scale, goes_on))
        self._begun += c.environments
        return step.rewards.mean() + (0.0 * following).sum()

    def _actions(self, prepared: Tensor) -> Tensor:
        """Uniform ones at first, then the agent's."""
        if self._begun >= self.coefficients.learning_starts:
            return self.agent.act(prepared, self._generator)
        actions = torch.empty(prepared.shape[0], self.agent.actor.actions, device=prepared.device)
        return actions.uniform_(-1.0, 1.0, generator=self._generator)

    def _following(self, step: Step) -> Tensor:
        """What the step led to, prepared: at a time limit `last`; after a true end it does not count."""
        following = self.agent.actor.prepare(self.environment.observe())
        if step.truncated is None:
            return following
        if step.last is None:
            raise ValueError("a step has `truncated` without `last`: return the observations before the reset as well")
        return torch.where(step.truncated.unsqueeze(1), self.agent.actor.prepare(step.last), following)

    def _averages(self, names: tuple[str, ...], rows: list[Tensor]) -> dict[str, float]:
        """The mean of each figure; raises at the first that is not finite."""
        if not rows:
            return {}
        table = torch.stack(rows).tolist()
        for index, row in enumerate(table):
            for name, value in zip(names, row, strict=True):
                self._check(name, index, value)
        return {
            name: math.fsum(column) / len(table) for name, column in zip(names, zip(*table, strict=True), strict=True)
        }

    def _check(self, what: str, index: int, value: float) -> None:
        if not math.isfinite(value):
            raise NotFiniteError(self.updates, index, what, value)
