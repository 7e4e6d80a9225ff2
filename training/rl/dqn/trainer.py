"""The loop around DQN: step all environments, keep the transitions, take the gradient steps that are due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from training.rl.dqn.coefficients import DqnCoefficients, epsilon_at
from training.rl.dqn.dqn import Dqn
from training.rl.dqn.labels import labels_of
from training.rl.dqn.networks import explore
from training.rl.dqn.replay import ChoiceReplay, OneStep, Returns
from training.rl.off_policy.trainer import Figures, Part, Rounds, due_steps, following
from training.rl.protocols import Environment


class DqnTrainer(Rounds):
    """Trains `dqn` in place, one `update` at a time; its state holds the replay."""

    def __init__(
        self, dqn: Dqn, environment: Environment, coefficients: DqnCoefficients, *, total_steps: int, seed: int
    ) -> None:
        """As `Rounds`; actions and minibatches are drawn from `seed`."""
        self.dqn, self.coefficients = dqn, coefficients
        c, network = coefficients, dqn.network
        super().__init__(dqn, environment, c, c.round_transitions, total_steps=total_steps, seed=seed)
        self._returns = Returns(c.returns, c.discount)
        self._replay = ChoiceReplay(
            c.capacity,
            c.environments,
            network.inputs,
            heads=len(network.heads),
            priority=c.priority,
            device=dqn.device,
        )

    @property
    def progress(self) -> float:
        """Share of the run that is done."""
        return min(1.0, self._begun / (self.total_updates * self._steps_each * self.coefficients.environments))

    def _parts(self) -> Mapping[str, Part]:
        return {
            "replay": self._replay,
            "returns": self._returns,
            "agent": self.dqn,
            "environment": self.environment,
        }

    def _round(self) -> tuple[list[Tensor], Sequence[Figures]]:
        c = self.coefficients
        rewards: list[Tensor] = []
        figures = Figures(self.dqn.figures, [])
        for _ in range(self._steps_each):
            rewards.append(self._step())
            for _ in range(due_steps(c, self._begun, self.gradient_steps) if self._replay.size else 0):
                self.gradient_steps += 1
                importance = c.importance + (1.0 - c.importance) * self.progress
                batch = self._replay.sample(c.batch, self._generator, importance)
                found, errors = self.dqn.update(batch)
                assert batch.places is not None
                self._replay.reprioritise(batch.places, errors)
                figures.rows.append(found)
        return rewards, (figures,)

    @torch.no_grad()
    def _step(self) -> Tensor:
        """One step of all environments into the replay; the mean reward, which is NaN after what is not finite."""
        c, network = self.coefficients, self.dqn.network
        before = network.prepare(self.environment.observe())
        labels = labels_of(self.environment, len(network.heads), before)
        epsilon = epsilon_at(c, self.progress) if self._begun >= c.learning_starts else 1.0
        self._count(before)
        actions = explore(self.dqn.values(before), epsilon, self._generator)
        step = self.environment.step(actions)
        after = following(self.environment, network.prepare, step)
        ended = step.terminals if step.truncated is None else step.terminals | step.truncated
        goes_on = (~step.terminals).to(before.dtype)
        one = OneStep(before, actions, step.rewards * c.reward_scale, after, goes_on, ended, labels)
        choices = self._returns.add(one)
        if choices is not None:
            self._replay.add(choices)
        return step.rewards.mean() + (0.0 * after).sum()
