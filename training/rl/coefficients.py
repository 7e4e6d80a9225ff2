"""Settings and reports of PPO: coefficients, progress, the error of a loss that is not finite.

Sources: the numbers in the comments are those of `training.rl.ppo`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SCHEDULES = ("linear", "cosine", "constant")
PRECISIONS = ("float32", "bf16")
FIGURES = ("policy loss", "value loss", "entropy", "KL", "clip fraction", "loss", "gradient norm")
"""What is recorded of every minibatch, in this order."""


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Defaults are those of [4], but for a rollout of many environments and a falling learning rate."""

    learning_rate: float = 3e-4
    schedule: str = "linear"  # to 0 over the run: [3] detail 4; "cosine" to 0; "constant"
    adam_epsilon: float = 1e-5  # [3] detail 3
    discount: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_clip: float | None = None  # [4] `clip_range_vf`; [3] detail 9
    entropy: float = 0.0
    value: float = 0.5
    max_grad_norm: float = 0.5
    target_kl: float | None = None  # nats; an update ends at the first minibatch whose KL > 1.5 x this: [4]
    normalize_advantage: bool = True
    epochs: int = 10
    environments: int = 256
    rollout_steps: int = 64  # of each environment
    batch: int = 1024  # transitions of a minibatch: 300,000 steps take 3,040 of them, with 4096 760
    weight_average: float | None = None  # decay at each gradient step of the mean weights that are played and kept
    sequence: int = 32  # steps of a truncated back-propagation; only for networks that carry a state

    def gradient_steps(self, steps: int) -> int:
        """How many steps of the optimizer a training of so many transitions takes."""
        rollout = self.environments * self.rollout_steps
        return max(1, -(-steps // rollout)) * self.epochs * -(-rollout // self.batch)


@dataclass(frozen=True, slots=True)
class Progress:
    """What one update did, averaged over its minibatches; reward, explained variance and steps are of this process."""

    steps: int
    updates: int
    reward: float  # mean of a step
    policy_loss: float
    value_loss: float
    entropy: float  # nats
    kl: float  # nats, the estimator (r - 1) - ln r of http://joschu.net/blog/kl-approx.html
    clip_fraction: float
    explained_variance: float
    gradient_norm: float  # before clipping
    learning_rate: float
    epochs: int  # begun: fewer than asked for where `target_kl` ended the update


def rate_at(rate: float, schedule: str, share: float) -> float:
    """The learning rate after `share` of a run that began with `rate`."""
    match schedule:
        case "linear":
            return rate * (1.0 - share)
        case "cosine":
            return rate * 0.5 * (1.0 + math.cos(math.pi * share))
        case _:
            return rate


class NotFiniteError(ArithmeticError):
    """A loss or a gradient norm is not finite; the weights are still those before that minibatch."""

    def __init__(self, update: int, minibatch: int, what: str, value: float) -> None:
        super().__init__(
            f"the {what} of minibatch {minibatch} in update {update} is {value}, expected a finite number; the weights "
            f"are those before it: look at rewards and observations, or lower learning_rate or max_grad_norm"
        )
        self.update = update
        self.minibatch = minibatch
        self.what = what


def check_coefficients(c: Coefficients, sequence: int, precision: str) -> None:
    """Raise where coefficients do not fit each other."""
    if c.schedule not in SCHEDULES:
        raise ValueError(f"schedule is {c.schedule!r}: expected one of {', '.join(SCHEDULES)}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}: expected one of {', '.join(PRECISIONS)}")
    if c.rollout_steps % sequence or c.batch % sequence:
        raise ValueError(
            f"rollout_steps is {c.rollout_steps} and batch {c.batch}: with a carried state expected multiples of "
            f"sequence, {sequence}"
        )
