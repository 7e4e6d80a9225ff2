"""Soft Actor-Critic in one file: squashed normal actions, twin critics with smoothed targets, learned temperature.

With the coefficients of the preset `textbook`, losses, gradients and weights equal those of Stable-Baselines3's SAC.
The sources are those of `training.rl.off_policy.coefficients`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from training.rl.distributions import LOG_ROOT_TWO_PI
from training.rl.off_policy.coefficients import OffPolicyCoefficients
from training.rl.off_policy.learner import (
    LOG_STD_MAX,
    LOG_STD_MIN,
    Actor,
    Agent,
    Average,
    TwinCritics,
    explained,
    follow,
)
from training.rl.off_policy.replay import Transitions

EDGE = 1e-6
"""Added to 1 - action^2, whose logarithm would not be finite at the bounds: [3]."""


_ONE, _EDGE, _HALF_LOG = torch.ones(()), torch.tensor(EDGE), torch.tensor(LOG_ROOT_TWO_PI)
"""Constants as tensors: converting a Python number at every call takes longer than the operation itself."""


def squashed(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions tanh(mean + std x noise), and their log-probabilities (n,): [1], appendix C, equation 26."""
    actions = torch.addcmul(mean, log_std.exp(), noise).tanh()
    less = torch.addcmul(log_std, noise, noise, value=0.5) + (_tanh_slope(actions) + _EDGE).log()
    return actions, less.sum(dim=1).add(_HALF_LOG, alpha=actions.shape[1]).neg()


def _tanh_slope(actions: Tensor) -> Tensor:
    """1 - action^2, the slope of the tanh. A GPU's `addcmul` takes no number of the host, a difference does."""
    return _ONE - actions.square()


# Each backward function returns the gradient of the forward function above it.


def back_through_squash(
    log_std: Tensor, noise: Tensor, actions: Tensor, by_actions: Tensor, by_each: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients by mean and log_std, given those by the actions and by each log-probability, (1,)."""
    slack = _tanh_slope(actions)
    by_mean = torch.addcmul(by_actions, actions / (slack + _EDGE), by_each, value=2.0) * slack
    return by_mean, by_mean * log_std.exp() * noise - by_each


def critic_loss(values: Tensor, goals: Tensor) -> tuple[Tensor, Tensor]:
    """Half the mean squared error of each critic, summed: [1], equation 5; the gradient. Values (2, n), goals (n,)."""
    errors = values - goals
    by_values, flat = errors / len(goals), errors.view(-1)
    return 0.5 * torch.dot(flat, by_values.view(-1)), by_values


def actor_loss(log_probabilities: Tensor, values: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of alpha x log pi - min Q: [1], equation 7; the gradient by the values.

    Log-probabilities (n,), values (2, n). The gradient by each log-probability is alpha / n.
    """
    loss = (temperature * log_probabilities - values.amin(dim=0)).mean()
    twice = torch.sign(values.flip(0) - values).add_(_ONE)  # 2 for the smaller value, 1 for each where they are equal
    return loss, twice.div_(-2 * values.shape[1])


def temperature_loss(
    log_temperature: Tensor, log_probabilities: Tensor, target_entropy: float
) -> tuple[Tensor, Tensor]:
    """The loss of [1], equation 18, by log alpha instead of alpha, as in [3]; and its gradient by log alpha, ()."""
    by_log = -(log_probabilities.mean() + target_entropy)
    return (log_temperature * by_log).squeeze(0), by_log


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
        """As `Agent`, with a temperature that is learned too."""
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
        mean, log_std = self._actor_pass.answers(prepared).chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return squashed(mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX), noise)[0]

    def update(self, batch: Transitions, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Draw the noise and descend."""
        shape = (2, *batch.actions.shape)
        return self.descend(batch, torch.randn(shape, generator=generator, device=batch.actions.device))

    @torch.no_grad()
    def descend(self, batch: Transitions, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        """Take one gradient step. `noise`: standard normal (2, n, actions), for observations and next observations.

        In the order of [3]: temperature, critics, actor, targets; all with the temperature from before.
        """
        temperature = self._temperature[0].exp()
        self.updates += 1
        goals = self._goals(batch, noise[1], temperature)
        values = self._critics_pass.values(batch.observations, batch.actions, keep=True)
        loss, by_values = critic_loss(values, goals)
        self._critics_pass.back(by_values)
        loss, norm = self._of_critics.take(loss)
        figures = torch.stack([loss, values.mean(), norm, explained(values, goals)])
        of_actor = None
        if self.updates % self._c.actor_delay == 0:
            of_actor = self._descend_actor(batch.observations, noise[0], temperature)
        follow(self._of_targets, self._of_critics.numbers, self._c.smoothing)
        return figures, of_actor

    def _descend_actor(self, observations: Tensor, noise: Tensor, temperature: Tensor) -> Tensor:
        """Take a gradient step of actor and temperature; return the figures `of_actor`."""
        answers = self._actor_pass.answers(observations, keep=True)
        mean, log_std = answers.chunk(2, dim=1)
        bounded = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
        actions, log_probabilities = squashed(mean, bounded, noise)
        loss_of_temperature, by_log = temperature_loss(self._temperature[0], log_probabilities, self._target_entropy)
        self._of_temperature.gradient.copy_(by_log)
        loss_of_temperature, _ = self._of_temperature.take(loss_of_temperature)
        values = self._critics_pass.values(observations, actions, keep=True)
        loss, by_values = actor_loss(log_probabilities, values, temperature)
        by_actions = self._critics_pass.back_to_actions(by_values)
        by_mean, by_log_std = back_through_squash(bounded, noise, actions, by_actions, temperature / len(actions))
        self._actor_pass.back(torch.cat([by_mean, by_log_std * (bounded == log_std)], dim=1))
        loss, norm = self._of_actor.take(loss)
        return torch.stack([loss, -log_probabilities.mean(), norm, loss_of_temperature, temperature.squeeze(0)])

    def _goals(self, batch: Transitions, noise: Tensor, temperature: Tensor) -> Tensor:
        """The critics' targets, (n,): reward + discount x (min Q' - alpha x log pi'), [1], equation 6."""
        mean, log_std = self._actor_pass.answers(batch.following).chunk(2, dim=1)
        actions, log_probabilities = squashed(mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX), noise)
        values = self._targets_pass.values(batch.following, actions)
        soft = torch.addcmul(values.amin(dim=0), temperature, log_probabilities, value=-1.0)
        return torch.addcmul(batch.rewards, batch.goes_on, soft, value=self._c.discount)
