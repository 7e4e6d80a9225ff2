"""PQN in one file: Q(lambda) on the newest rollout of many environments, without a replay and without a target.

Layer normalisation keeps it stable, [7]. The sources are those of `training.rl.dqn.coefficients`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from training.rl.dqn.coefficients import PqnCoefficients, epsilon_at
from training.rl.dqn.dqn import QLearner, into_taken, values_at
from training.rl.dqn.networks import QNetwork, explore, head_loss, labels_of
from training.rl.off_policy.learner import EXPLAINED, Average, explained
from training.rl.off_policy.trainer import Figures, Part, Rounds, last_of
from training.rl.protocols import Environment


def trace_returns(rewards: Tensor, ended: Tensor, next_values: Tensor, *, discount: float, trace: float) -> Tensor:
    """Q(lambda) targets G_t = r_t + discount x (trace x G_{t+1} + (1 - trace) x V_{t+1}), [7], section 3.3.

    Args:
        rewards: float32 (steps, environments).
        ended: bool (steps, environments): the episode ended at this step, so G_{t+1} belongs to another one.
        next_values: float32 (steps, environments): V_{t+1}, the best value of the observation that the step led to,
            before any reset; 0 after a terminal step. The last step has V_{t+1} in place of G_{t+1}.
    """
    goals = torch.addcmul(rewards, torch.full_like(next_values, discount), next_values)
    for index in range(len(rewards) - 2, -1, -1):
        more = discount * trace * (goals[index + 1] - next_values[index])
        goals[index] += torch.where(ended[index], 0.0, more)
    return goals


class Pqn(QLearner):
    """A Q network that learns from given target values."""

    def __init__(
        self,
        network: QNetwork,
        coefficients: PqnCoefficients,
        *,
        precision: str = "float32",
        average: Average | None = None,
    ) -> None:
        """Learn in place. The rest as `Learner`."""
        c = self._c = coefficients
        super().__init__(network, c.learning_rate, c.max_grad_norm, {}, precision=precision, average=average)
        self.figures = (
            "loss",
            "error",
            "Q mean",
            "gradient norm",
            EXPLAINED,
            *(("heads loss",) if network.heads else ()),
        )

    @torch.no_grad()
    def update(self, observations: Tensor, actions: Tensor, goals: Tensor, labels: Tensor) -> Tensor:
        """Take one gradient step on half the mean squared error, [7]. Returns `figures`."""
        self.updates += 1
        values, heads = self._pass.answers(observations)
        chosen = values_at(values, actions)
        errors = chosen - goals
        loss, by_heads, terms = 0.5 * errors.square().mean(), None, []
        if self.network.heads:
            term, by_heads = head_loss(self.network.heads, heads, labels)
            loss, by_heads = loss + self._c.heads * term, self._c.heads * by_heads
            terms.append(term)
        self._pass.back(into_taken(errors / len(errors), values, actions), by_heads)
        total_loss, norm = self._descend.take(loss)
        return torch.stack([total_loss, errors.abs().mean(), chosen.mean(), norm, explained(chosen, goals), *terms])


class PqnTrainer(Rounds):
    """Trains `pqn` in place, one `update` at a time: a rollout of all environments, then some epochs on it."""

    def __init__(
        self, pqn: Pqn, environment: Environment, coefficients: PqnCoefficients, *, total_steps: int, seed: int
    ) -> None:
        """As `Rounds`; actions and the order of transitions are drawn from `seed`."""
        self.pqn, self.coefficients = pqn, coefficients
        c = coefficients
        rollout = c.rollout_steps * c.environments
        super().__init__(pqn, environment, c, rollout, total_steps=total_steps, seed=seed)

    def _parts(self) -> Mapping[str, Part]:
        return {"agent": self.pqn, "environment": self.environment}

    def _round(self) -> tuple[list[Tensor], Sequence[Figures]]:
        c, network = self.coefficients, self.pqn.network
        observed = network.prepare(self.environment.observe())
        values, steps = self.pqn.values(observed), []
        for _ in range(c.rollout_steps):
            step, observed, values = self._step(observed, values)
            steps.append(step)
        observations, actions, rewards, ended, next_values, labels = (
            torch.stack(column) for column in zip(*steps, strict=True)
        )
        goals = trace_returns(rewards * c.reward_scale, ended, next_values, discount=c.discount, trace=c.trace)
        flat = [tensor.flatten(0, 1) for tensor in (observations, actions, goals, labels)]
        figures = Figures(self.pqn.figures, [])
        for _ in range(c.epochs):
            order = torch.randperm(len(flat[1]), generator=self._generator, device=flat[1].device)
            for rows in torch.split(order, c.batch):
                self.gradient_steps += 1
                figures.rows.append(self.pqn.update(*(tensor[rows] for tensor in flat)))
        finite = 0.0 * (next_values.sum() + observations.sum())
        return [rewards.mean() + finite], (figures,)

    @torch.no_grad()
    def _step(self, observations: Tensor, values: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """Step all environments by `values`. Returns the stored tensors, the next observations and their values."""
        network = self.pqn.network
        labels = labels_of(self.environment, len(network.heads), observations)
        self._count(observations)
        epsilon = epsilon_at(self.coefficients, self.updates / self.total_updates)
        actions = explore(values, epsilon, self._generator)
        step = self.environment.step(actions)
        observed = network.prepare(self.environment.observe())
        following = self.pqn.values(observed)
        best = following.amax(dim=1)
        ended = step.terminals
        if step.truncated is not None:
            at_limit = self.pqn.values(network.prepare(last_of(step))).amax(dim=1)
            best, ended = torch.where(step.truncated, at_limit, best), ended | step.truncated
        best = torch.where(step.terminals, 0.0, best)
        return (observations, actions, step.rewards, ended, best, labels), observed, following
