"""Twin Delayed DDPG in one file: a deterministic actor, twin critics, delayed and smoothed targets.

With the coefficients of `textbook` losses, gradients and weights are those of Stable-Baselines3's TD3.
The sources are those of `training.rl.off_policy.coefficients`.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from training.rl.off_policy.coefficients import OffPolicyCoefficients
from training.rl.off_policy.learner import Actor, Agent, Average, TwinCritics, explained, follow, in_one_piece
from training.rl.off_policy.replay import Transitions


def critic_loss(values: Tensor, targets: Tensor) -> Tensor:
    """The mean squared error of each critic, summed: [2], algorithm 1. Values (2, n), targets (n,)."""
    return (values - targets).square().mean(dim=1).sum()


def actor_loss(values: Tensor) -> Tensor:
    """Less the mean value of the first critic: [2], algorithm 1."""
    return -values.mean()


class Td3(Agent):
    """An agent with one action for each observation, that explores by noise."""

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
        """As every agent, with a target of the actor too."""
        super().__init__(actor, critics, coefficients, precision=precision, average=average)
        self._target_actor = copy.deepcopy(actor)
        self._of_target_actor = in_one_piece(self._target_actor.parameters())
        self._modules["target_actor"] = self._target_actor

    @torch.no_grad()
    def act(self, prepared: Tensor, generator: torch.Generator) -> Tensor:
        """The actor's actions with noise, within the bounds."""
        actions = self.actor.mean(prepared, self._products).tanh()
        noise = torch.randn(actions.shape, generator=generator, device=actions.device)
        return actions.add_(noise, alpha=self._c.exploration).clamp_(-1.0, 1.0)

    def update(self, batch: Transitions, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Draw the noise and descend."""
        shape = batch.actions.shape
        return self.descend(batch, torch.randn(shape, generator=generator, device=batch.actions.device))

    def descend(self, batch: Transitions, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        """One gradient step with this noise, standard normal (n, actions), on the target's actions."""
        self.updates += 1
        values = self.critics(batch.observations, batch.actions, self._products)
        goals = self._goals(batch, noise)
        loss, norm = self._of_critics.step(critic_loss(values, goals))
        found = torch.stack([loss, values.detach().mean(), norm, explained(values, goals)])
        if self.updates % self._c.actor_delay:
            return found, None
        means = self.actor.mean(batch.observations, self._products)
        values = self.critics(batch.observations, means.tanh(), self._products, twins=1)
        loss = actor_loss(values)
        if self._c.saturation:
            loss = loss + self._c.saturation * means.square().mean()
        of_actor = torch.stack(self._of_actor.step(loss))
        follow(self._of_targets, self._of_critics.numbers, self._c.smoothing)
        follow(self._of_target_actor, self._of_actor.numbers, self._c.smoothing)
        return found, of_actor

    @torch.no_grad()
    def _goals(self, batch: Transitions, noise: Tensor) -> Tensor:
        """What the critics shall answer, (n,): reward + discount x min Q' at the target's action with clipped noise."""
        c = self._c
        noise = (noise * c.target_noise).clamp(-c.target_noise_clip, c.target_noise_clip)
        actions = (self._target_actor.mean(batch.following, self._products).tanh() + noise).clamp(-1.0, 1.0)
        values = self.targets(batch.following, actions, self._products)
        lower = torch.minimum(values[0], values[1])
        return torch.addcmul(batch.rewards, batch.goes_on, lower, value=c.discount)
