"""Soft Actor-Critic in one file: squashed normal actions, twin critics with smoothed targets, learned temperature.

With the coefficients of `textbook` losses, gradients and weights are those of Stable-Baselines3's SAC.
The sources are those of `training.rl.off_policy.coefficients`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from training.rl.distributions import LOG_ROOT_TWO_PI
from training.rl.off_policy.coefficients import OffPolicyCoefficients
from training.rl.off_policy.learner import Actor, Agent, Average, TwinCritics, explained, follow
from training.rl.off_policy.replay import Transitions

EDGE = 1e-6
"""Added to 1 - action^2, whose logarithm would not be finite at the bounds: [3]."""


def squashed(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions tanh(mean + std x noise), and their log-probabilities (n,): [1], appendix C, equation 26."""
    actions = torch.addcmul(mean, log_std.exp(), noise).tanh()
    inner = -0.5 * noise.square() - log_std - LOG_ROOT_TWO_PI
    return actions, (inner - torch.log(1.0 - actions.square() + EDGE)).sum(dim=1)


def critic_loss(values: Tensor, targets: Tensor) -> Tensor:
    """Half the mean squared error of each critic, summed: [1], equation 5. Values (2, n), targets (n,)."""
    return 0.5 * (values - targets).square().mean(dim=1).sum()


def actor_loss(log_probabilities: Tensor, values: Tensor, temperature: Tensor) -> Tensor:
    """Mean of alpha x log pi - min Q: [1], equation 7. Log-probabilities (n,), values (2, n)."""
    return (temperature * log_probabilities - torch.minimum(values[0], values[1])).mean()


def temperature_loss(log_temperature: Tensor, log_probabilities: Tensor, target_entropy: float) -> Tensor:
    """As [1], equation 18, with log alpha for alpha, as [3] has it."""
    return -(log_temperature * (log_probabilities + target_entropy).detach()).mean()


class Sac(Agent):
    """An agent that seeks reward and entropy."""

    of_actor = ("actor loss", "entropy", "actor gradient norm", "temperature loss", "temperature")

    def __init__(
        self,
        actor: Actor,
        critics: TwinCritics,
        coefficients: OffPolicyCoefficients,
        *,
        precision: str = "float32",
        average: Average | None = None,
    ) -> None:
        """As every agent, with a temperature that is learned too."""
        super().__init__(actor, critics, coefficients, precision=precision, average=average)
        c, device = coefficients, next(actor.parameters()).device
        start = torch.full((1,), math.log(c.temperature), device=device)
        self._target_entropy = -float(actor.actions) if c.target_entropy is None else c.target_entropy
        self._temperature = nn.ParameterList([start])
        self._of_temperature = self._descent("of_temperature", self._temperature.parameters())
        self._modules["temperature"] = self._temperature

    @torch.no_grad()
    def act(self, prepared: Tensor, generator: torch.Generator) -> Tensor:
        """Draw actions from the actor's distribution."""
        mean, log_std = self.actor.spread(prepared, self._products)
        return squashed(mean, log_std, torch.randn(mean.shape, generator=generator, device=mean.device))[0]

    def update(self, batch: Transitions, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Draw the noise and descend."""
        shape = (2, *batch.actions.shape)
        return self.descend(batch, torch.randn(shape, generator=generator, device=batch.actions.device))

    def descend(self, batch: Transitions, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        """One gradient step with this noise, standard normal (2, n, actions): at the observations, and after them.

        In the order of [3]: temperature, critics, actor, targets; all with the temperature from before.
        """
        temperature = self._temperature[0].detach().exp()
        self.updates += 1
        moves = self.updates % self._c.actor_delay == 0
        actions = log_probabilities = loss_of_temperature = temperature
        if moves:
            actions, log_probabilities = squashed(*self.actor.spread(batch.observations, self._products), noise[0])
            loss = temperature_loss(self._temperature[0], log_probabilities, self._target_entropy)
            loss_of_temperature, _ = self._of_temperature.step(loss)
        values = self.critics(batch.observations, batch.actions, self._products)
        goals = self._goals(batch, noise[1], temperature)
        loss, norm = self._of_critics.step(critic_loss(values, goals))
        found = torch.stack([loss, values.detach().mean(), norm, explained(values, goals)])
        of_actor = None
        if moves:
            values = self.critics(batch.observations, actions, self._products)
            loss, norm = self._of_actor.step(actor_loss(log_probabilities, values, temperature))
            entropy = -log_probabilities.detach().mean()
            of_actor = torch.stack([loss, entropy, norm, loss_of_temperature, temperature.squeeze(0)])
        follow(self._of_targets, self._of_critics.numbers, self._c.smoothing)
        return found, of_actor

    @torch.no_grad()
    def _goals(self, batch: Transitions, noise: Tensor, temperature: Tensor) -> Tensor:
        """What the critics shall answer, (n,): reward + discount x (min Q' - alpha x log pi'), [1], equation 6."""
        actions, log_probabilities = squashed(*self.actor.spread(batch.following, self._products), noise)
        values = self.targets(batch.following, actions, self._products)
        soft = torch.minimum(values[0], values[1]) - temperature * log_probabilities
        return torch.addcmul(batch.rewards, batch.goes_on, soft, value=self._c.discount)
