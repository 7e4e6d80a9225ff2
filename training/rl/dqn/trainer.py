"""The loop around DQN: step all environments, keep the transitions, take the gradient steps that are due."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from training.rl.dqn.coefficients import DqnCoefficients, epsilon_at
from training.rl.dqn.dqn import Dqn
from training.rl.dqn.labels import labels_of
from training.rl.dqn.networks import explore
from training.rl.dqn.replay import ChoiceReplay, Choices, OneStep, Returns
from training.rl.off_policy.trainer import Figures, Part, Rounds, due_steps, following, in_place_of
from training.rl.protocols import Environment


class DqnTrainer(Rounds):
    """Trains `dqn` in place, one `update` at a time; its state holds the replay."""

    def __init__(
        self,
        dqn: Dqn,
        environment: Environment,
        coefficients: DqnCoefficients,
        *,
        total_steps: int,
        seed: int,
        record: bool = True,
    ) -> None:
        """As `Rounds`; actions and minibatches are drawn from `seed`."""
        self.dqn, self.coefficients = dqn, coefficients
        c, network = coefficients, dqn.network
        super().__init__(dqn, environment, c, c.round_transitions, total_steps=total_steps, seed=seed, record=record)
        self._epsilon = torch.ones((), device=dqn.device)  # tensors that a recorded step reads
        self._batch: Choices | None = None
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
                figures.rows.append(self._gradient_step().clone())
        return rewards, (figures,)

    def _gradient_step(self) -> Tensor:
        c, dqn, number = self.coefficients, self.dqn, self.dqn.updates + 1
        importance = c.importance + (1.0 - c.importance) * self.progress
        batch = self._replay.sample(c.batch, self._generator, importance)
        assert batch.places is not None
        if self._record:
            static_batch = self._batch = in_place_of(self._batch, batch)
            figures, errors = self._launch(number % c.target_every, lambda: dqn.update(static_batch))
            dqn.updates = number  # a replayed graph does not run Python code
        else:
            figures, errors = dqn.update(batch)
        self._replay.reprioritise(batch.places, errors)
        return figures

    @torch.no_grad()
    def _step(self) -> Tensor:
        """Step all environments into the replay. Returns the mean reward, (); NaN where a number was not finite."""
        c = self.coefficients
        epsilon = epsilon_at(c, self.progress) if self._begun >= c.learning_starts else 1.0
        if self._record:
            self._epsilon.fill_(epsilon)
            step, reward = copy.deepcopy(self._launch("step", lambda: self._moved(self._epsilon), self.environment))
        else:
            step, reward = self._moved(epsilon)
        self._count(step.observations)
        choices = self._returns.add(step)
        if choices is not None:
            self._replay.add(choices)
        return reward

    def _moved(self, epsilon: float | Tensor) -> tuple[OneStep, Tensor]:
        """Step with this share of uniform actions; return the step and its mean reward before scaling."""
        c, network = self.coefficients, self.dqn.network
        observations = network.prepare(self.environment.observe())
        labels = labels_of(self.environment, len(network.heads), observations)
        actions = explore(self.dqn.values(observations), epsilon, self._generator)
        step = self.environment.step(actions)
        next_observations = following(self.environment, network.prepare, step)
        ended = step.terminals if step.truncated is None else step.terminals | step.truncated
        goes_on = (~step.terminals).to(observations.dtype)
        one_step = OneStep(
            observations, actions, step.rewards * c.reward_scale, next_observations, goes_on, ended, labels
        )
        return one_step, step.rewards.mean() + (0.0 * next_observations).sum()
