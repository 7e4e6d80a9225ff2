"""The loop around SAC and TD3: step all environments, keep the transitions, take the gradient steps that are due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from training.rl.off_policy.coefficients import OffPolicyCoefficients
from training.rl.off_policy.learner import Agent
from training.rl.off_policy.replay import Replay, Transitions
from training.rl.off_policy.rounds import Figures, Part, Rounds, due_steps, following
from training.rl.protocols import Environment


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
    ) -> None:
        """As `Rounds`; actions, minibatches and noise are drawn from `seed`."""
        self.agent = agent
        self.coefficients = c = coefficients
        super().__init__(agent, environment, c, c.round_transitions, total_steps=total_steps, seed=seed)
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
                batch = self._replay.sample(self.coefficients.batch, self._generator)
                critics, actor = self.agent.update(batch, self._generator)
                of_critics.rows.append(critics)
                if actor is not None:
                    of_actor.rows.append(actor)
        return rewards, (of_critics, of_actor)

    @torch.no_grad()
    def _step(self) -> Tensor:
        """One step of all environments into the replay; the mean reward, which is NaN after what is not finite."""
        c, actor = self.coefficients, self.agent.actor
        before = actor.prepare(self.environment.observe())
        uniform = self._begun < c.learning_starts
        self._count(before)
        actions = self._uniform(before) if uniform else self.agent.act(before, self._generator)
        step = self.environment.step(actions)
        after = following(self.environment, actor.prepare, step)
        goes_on = (~step.terminals).to(before.dtype)
        self._replay.add(Transitions(before, after, actions, step.rewards * c.reward_scale, goes_on))
        return step.rewards.mean() + (0.0 * after).sum()

    def _uniform(self, prepared: Tensor) -> Tensor:
        """The first actions."""
        actions = torch.empty(prepared.shape[0], self.agent.actor.actions, device=prepared.device)
        return actions.uniform_(-1.0, 1.0, generator=self._generator)
