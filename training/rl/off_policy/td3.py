"""Twin Delayed DDPG in one file: a deterministic actor, twin critics, delayed and smoothed targets.

With the coefficients of the preset `textbook`, losses, gradients and weights equal those of Stable-Baselines3's TD3.
The sources are those of `training.rl.off_policy.coefficients`.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from training.rl.off_policy.coefficients import OffPolicyCoefficients
from training.rl.off_policy.learner import Actor, Agent, Average, TwinCritics, explained, follow, in_one_piece
from training.rl.off_policy.passes import LayersPass
from training.rl.off_policy.replay import Transitions

# Each loss comes with its gradient.


def critic_loss(values: Tensor, goals: Tensor) -> tuple[Tensor, Tensor]:
    """The mean squared error of each critic, summed: [2], algorithm 1; the gradient. Values (2, n), goals (n,)."""
    errors = values - goals
    by_values = errors * (2.0 / len(goals))
    return 0.5 * torch.dot(errors.view(-1), by_values.view(-1)), by_values


def actor_loss(values: Tensor) -> tuple[Tensor, Tensor]:
    """Minus the mean value of the first critic, (1, n): [2], algorithm 1; and its gradient."""
    return -values.mean(), torch.full_like(values, -1.0 / values.numel())


class Td3(Agent):
    """An agent with a deterministic actor that explores by noise."""

    of_actor = ("actor loss", "actor gradient norm")

    def __init__(
        self,
        actor: Actor,
        critics: TwinCritics,
        coefficients: OffPolicyCoefficients,
        *,
        precision: str = "float32",
        average: Average | None = None,
    ) -> None:
        """As `Agent`, with a target network of the actor too."""
        super().__init__(actor, critics, coefficients, precision=precision, average=average)
        self._target_actor = copy.deepcopy(actor)
        self._of_target_actor = in_one_piece(self._target_actor.parameters())
        self._modules["target_actor"] = self._target_actor
        self._target_actor_pass = LayersPass(self._target_actor, self._products)

    @torch.no_grad()
    def act(self, prepared: Tensor, generator: torch.Generator) -> Tensor:
        """The actor's actions with noise, within the bounds."""
        actions = self._actor_pass.answers(prepared).tanh_()
        noise = torch.randn(actions.shape, generator=generator, device=actions.device)
        return actions.add_(noise, alpha=self._c.exploration).clamp_(-1.0, 1.0)

    def update(self, batch: Transitions, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Draw the noise and descend."""
        shape = batch.actions.shape
        return self.descend(batch, torch.randn(shape, generator=generator, device=batch.actions.device))

    @torch.no_grad()
    def descend(self, batch: Transitions, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        """Take one gradient step. `noise`: standard normal (n, actions), added to the target's actions."""
        self.updates += 1
        goals = self._goals(batch, noise)
        values = self._critics_pass.values(batch.observations, batch.actions, keep=True)
        loss, by_values = critic_loss(values, goals)
        self._critics_pass.back(by_values)
        loss, norm = self._of_critics.take(loss)
        figures = torch.stack([loss, values.mean(), norm, explained(values, goals)])
        if self.updates % self._c.actor_delay:
            return figures, None
        of_actor = self._descend_actor(batch.observations)
        follow(self._of_targets, self._of_critics.numbers, self._c.smoothing)
        follow(self._of_target_actor, self._of_actor.numbers, self._c.smoothing)
        return figures, of_actor

    def _descend_actor(self, observations: Tensor) -> Tensor:
        """Take a gradient step of the actor; return the figures `of_actor`."""
        means = self._actor_pass.answers(observations, keep=True)
        actions = means.tanh()
        loss, by_values = actor_loss(self._critics_pass.values(observations, actions, twins=1, keep=True))
        by_means = self._critics_pass.back_to_actions(by_values) * (1.0 - actions.square())
        if self._c.saturation:
            loss = loss + self._c.saturation * means.square().mean()
            by_means.add_(means, alpha=2.0 * self._c.saturation / means.numel())
        self._actor_pass.back(by_means)
        return torch.stack(self._of_actor.take(loss))

    def _goals(self, batch: Transitions, noise: Tensor) -> Tensor:
        """The critics' targets, (n,): reward + discount x min Q' at the target's action with clipped noise."""
        c = self._c
        noise = (noise * c.target_noise).clamp_(-c.target_noise_clip, c.target_noise_clip)
        actions = self._target_actor_pass.answers(batch.following).tanh_().add_(noise).clamp_(-1.0, 1.0)
        values = self._targets_pass.values(batch.following, actions)
        return torch.addcmul(batch.rewards, batch.goes_on, values.amin(dim=0), value=c.discount)
