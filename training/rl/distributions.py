"""Action distributions over the outputs of a network: categorical, or normal for real numbers.

No network and no loss here. The logarithms of the standard deviations are None for a discrete action.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG_ROOT_TWO_PI = 0.5 * math.log(2.0 * math.pi)


def log_deviations(network: object) -> Tensor | None:
    """A network's parameter `log_std`, float32 (actions,); None where its answers are logits of a choice.

    Raises:
        TypeError: `log_std` is something else than a tensor with one dimension.
    """
    log_std = getattr(network, "log_std", None)
    if log_std is not None and not (isinstance(log_std, Tensor) and log_std.dim() == 1):
        what = f"of shape {tuple(log_std.shape)}" if isinstance(log_std, Tensor) else f"a {type(log_std).__name__}"
        raise TypeError(f"log_std is {what}: expected an nn.Parameter of shape (actions,)")
    return log_std


def room_for_actions(rows: int, log_std: Tensor | None, device: torch.device) -> Tensor:
    """An unfilled tensor for drawn actions: int64 (rows,), or float32 (rows, actions)."""
    if log_std is None:
        return torch.empty(rows, dtype=torch.int64, device=device)
    return torch.empty((rows, log_std.shape[0]), device=device)


def within_bounds(actions: Tensor) -> Tensor:
    """What an environment is given: int64 (n,) choices as they are, float32 (n, actions) clipped to [-1, 1]."""
    return actions.clamp(-1.0, 1.0) if actions.is_floating_point() else actions


def sample(
    outputs: Tensor, log_std: Tensor | None, generator: torch.Generator, *, per_action: bool = False
) -> tuple[Tensor, Tensor]:
    """Draw actions, int64 (n,) or float32 (n, actions) unclipped, and return them with their log-probabilities (n,).

    Args:
        outputs: float32 (n, actions), logits, or the means of normal distributions.
        log_std: float32 (actions,); None: `outputs` are logits.
        per_action: for real-valued actions return the log-probability of each, (n, actions), instead of their sum.
    """
    if log_std is None:
        log_all = torch.log_softmax(outputs, dim=-1)
        noise = torch.empty_like(log_all).exponential_(generator=generator)
        winners = (log_all.exp() / noise).argmax(dim=-1, keepdim=True)  # the first of racing exponential clocks
        return winners.squeeze(1), log_all.gather(1, winners).squeeze(1)
    noise = torch.randn(outputs.shape, generator=generator, device=outputs.device)
    actions = torch.addcmul(outputs, noise, log_std.exp())
    return actions, evaluate(outputs, log_std, actions, per_action=per_action)[
        0
    ]  # computed from the stored actions, as in training


def evaluate(
    outputs: Tensor, log_std: Tensor | None, actions: Tensor, *, per_action: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (rows,) of actions drawn before, of `per_action` (rows, actions); the mean entropy, () in nats.

    For numbers the density of independent normal distributions, log p = -sum((z^2 / 2 + log std + log(2 pi) / 2)) with
    z = (action - mean) / std, and H = sum(log std + (1 + log(2 pi)) / 2).
    """
    if log_std is None:
        log_all = torch.log_softmax(outputs.T.contiguous(), dim=0)  # (actions, rows): five times as fast on a CPU
        log_taken = log_all.gather(0, actions.unsqueeze(0)).squeeze(0)
        return log_taken, -(log_all.exp() * log_all).sum(dim=0).mean()
    spread, count = log_std.sum(), log_std.shape[0]
    errors = (actions - outputs) * torch.exp(-log_std)
    if per_action:
        return -0.5 * errors.square() - (log_std + LOG_ROOT_TWO_PI), spread + count * (0.5 + LOG_ROOT_TWO_PI)
    squares = errors.square().sum(dim=1)
    return -0.5 * squares - (spread + count * LOG_ROOT_TWO_PI), spread + count * (0.5 + LOG_ROOT_TWO_PI)
