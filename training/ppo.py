"""Proximal Policy Optimisation in one file: rollout, advantages, clipped loss, update.

Knows no market: an environment is whatever observes and steps. Same seed and data, same weights, byte for byte.

Sources, by number in the comments: [1] Schulman et al. 2017, "Proximal Policy Optimization Algorithms";
[2] Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation";
[3] Huang et al. 2022, "The 37 Implementation Details of Proximal Policy Optimization"; [4] Stable-Baselines3, `PPO`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from training.network import ActorCritic


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Defaults are those of [4], with a rollout of many environments and a linearly falling learning rate."""

    learning_rate: float = 3e-4
    linear_learning_rate: bool = True  # falls to 0 over the run: [3] detail 4
    adam_epsilon: float = 1e-5  # [3] detail 3
    discount: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy: float = 0.0
    value: float = 0.5
    max_grad_norm: float = 0.5
    epochs: int = 10
    environments: int = 256
    rollout_steps: int = 64  # of each environment
    batch: int = 4096


class Environment(Protocol):
    """Many environments stepped together; a finished one restarts at once."""

    def observe(self) -> Tensor:
        """Raw observations, float32 (environments, 20, 23)."""

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Take int64 actions (environments,); rewards float32 and true terminals bool, each (environments,)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Transitions of one minibatch; `log_probabilities` are of the sampled actions, before resolution."""

    observations: Tensor  # float32 (batch, 20, 23)
    actions: Tensor  # int64 (batch,)
    log_probabilities: Tensor  # float32 (batch,)
    advantages: Tensor  # float32 (batch,)
    returns: Tensor  # float32 (batch,)


@dataclass(frozen=True, slots=True)
class Progress:
    """What one update did, averaged over its minibatches."""

    steps: int
    updates: int
    reward: float  # mean of a step
    policy_loss: float
    value_loss: float
    entropy: float  # nats
    kl: float  # nats, the estimator (r - 1) - ln r of http://joschu.net/blog/kl-approx.html
    clip_fraction: float
    explained_variance: float


def generalized_advantages(
    rewards: Tensor, values: Tensor, terminals: Tensor, last_values: Tensor, *, discount: float, gae_lambda: float
) -> Tensor:
    """Advantages by [2], equation 16: A_t = d_t + (discount x lambda) A_{t+1}, d_t = r_t + discount V_{t+1} - V_t.

    Args:
        rewards, values: float32 (steps, environments).
        terminals: bool (steps, environments), true where the step ended its episode, so nothing follows it.
        last_values: float32 (environments,), the critic's value after the last step.
    """
    result = torch.empty_like(rewards)
    advantage = torch.zeros_like(last_values)
    following = last_values
    for index in range(rewards.shape[0] - 1, -1, -1):
        goes_on = (~terminals[index]).to(rewards.dtype)
        delta = rewards[index] + discount * following * goes_on - values[index]
        advantage = delta + discount * gae_lambda * goes_on * advantage
        result[index] = advantage
        following = values[index]
    return result


def losses(network: ActorCritic, batch: Batch, coefficients: Coefficients) -> tuple[Tensor, Tensor]:
    """The loss to descend and its figures, float32 (5,): policy, value, entropy, KL, clip fraction.

    Clipped surrogate of [1], equation 7; value error as the mean square without clipping, [4] `clip_range_vf=None`;
    the sum policy - entropy x H + value x error of [1], equation 9.
    """
    logits, values = network(batch.observations)
    log_all = torch.log_softmax(logits, dim=-1)
    log_taken = log_all.gather(1, batch.actions.unsqueeze(1)).squeeze(1)
    log_ratio = log_taken - batch.log_probabilities
    ratio = log_ratio.exp()
    advantages = batch.advantages
    if advantages.shape[0] > 1:  # per minibatch, sample deviation: [3] detail 7, [4]
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    clipped = ratio.clamp(1.0 - coefficients.clip, 1.0 + coefficients.clip)
    policy_loss = -torch.minimum(advantages * ratio, advantages * clipped).mean()
    value_loss = (batch.returns - values).square().mean()
    entropy = -(log_all.exp() * log_all).sum(dim=-1).mean()
    loss = policy_loss - coefficients.entropy * entropy + coefficients.value * value_loss
    with torch.no_grad():
        kl = ((ratio - 1.0) - log_ratio).mean()
        clip_fraction = ((ratio - 1.0).abs() > coefficients.clip).float().mean()
        figures = torch.stack([policy_loss, value_loss, entropy, kl, clip_fraction])
    return loss, figures


def make_deterministic(threads: int = 1) -> None:
    """Fix what would make two runs differ: the number of threads and torch's choice of algorithms (process-wide)."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)


def train(
    network: ActorCritic,
    environment: Environment,
    coefficients: Coefficients,
    *,
    total_steps: int,
    seed: int,
    on_update: Callable[[Progress], None] | None = None,
) -> None:
    """Train `network` in place for at least `total_steps` transitions (whole rollouts).

    `on_update` runs after every update, and may read the network (not change it). Actions and minibatches are drawn
    from a generator of this function's own, seeded with `seed`.
    """
    c = coefficients
    steps_per_update = c.environments * c.rollout_steps
    updates = max(1, -(-total_steps // steps_per_update))
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=c.learning_rate, eps=c.adam_epsilon)
    for update in range(updates):
        if c.linear_learning_rate:
            optimizer.param_groups[0]["lr"] = c.learning_rate * (1.0 - update / updates)
        rollout, reward, explained = _collect(network, environment, c, generator)
        figures = torch.zeros(5)
        minibatches = 0
        for _ in range(c.epochs):
            order = torch.randperm(steps_per_update, generator=generator)
            for first in range(0, steps_per_update, c.batch):
                loss, these = losses(network, _pick(rollout, order[first : first + c.batch]), c)
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                nn.utils.clip_grad_norm_(network.parameters(), c.max_grad_norm)  # [3] detail 11
                optimizer.step()
                figures += these
                minibatches += 1
        policy_loss, value_loss, entropy, kl, clip_fraction = (figures / minibatches).tolist()
        if on_update is not None:
            on_update(
                Progress(
                    steps=(update + 1) * steps_per_update,
                    updates=update + 1,
                    reward=reward,
                    policy_loss=policy_loss,
                    value_loss=value_loss,
                    entropy=entropy,
                    kl=kl,
                    clip_fraction=clip_fraction,
                    explained_variance=explained,
                )
            )


@torch.no_grad()
def _collect(
    network: ActorCritic, environment: Environment, c: Coefficients, generator: torch.Generator
) -> tuple[Batch, float, float]:
    """One rollout as a flat batch, the mean reward of a step, and the critic's explained variance."""
    shape = (c.rollout_steps, c.environments)
    first = environment.observe()
    observations = torch.empty((*shape, *first.shape[1:]), dtype=first.dtype)
    actions = torch.empty(shape, dtype=torch.int64)
    log_probabilities, values, rewards = torch.empty(shape), torch.empty(shape), torch.empty(shape)
    terminals = torch.empty(shape, dtype=torch.bool)
    current = first
    for index in range(c.rollout_steps):
        observations[index] = current
        logits, values[index] = network(current)
        log_all = torch.log_softmax(logits, dim=-1)
        taken = torch.multinomial(log_all.exp(), 1, generator=generator)
        actions[index] = taken.squeeze(1)
        log_probabilities[index] = log_all.gather(1, taken).squeeze(1)
        rewards[index], terminals[index] = environment.step(actions[index])
        current = environment.observe()
    last_values = network(current)[1]
    advantages = generalized_advantages(
        rewards, values, terminals, last_values, discount=c.discount, gae_lambda=c.gae_lambda
    )
    returns = advantages + values  # the TD(lambda) target: [3] detail 5, [4]
    explained = 1.0 - float((returns - values).var() / returns.var().clamp_min(1e-12))
    batch = Batch(
        observations.flatten(0, 1),
        actions.flatten(),
        log_probabilities.flatten(),
        advantages.flatten(),
        returns.flatten(),
    )
    return batch, float(rewards.mean()), explained


def _pick(rollout: Batch, indices: Tensor) -> Batch:
    return Batch(
        rollout.observations[indices],
        rollout.actions[indices],
        rollout.log_probabilities[indices],
        rollout.advantages[indices],
        rollout.returns[indices],
    )
