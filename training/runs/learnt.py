"""How much a trial learned: what its answers are, and how far they are from those of the network that it began as."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from training.desks.trial import Request, Trained
from training.rl.coefficients import Coefficients
from training.runs.prepared import Prepared
from training.study.study import Fold, Learnt

OBSERVATIONS = 256
FEW_GRADIENT_STEPS = 2_000
FEWEST_VALUES = 2  # of answers that have a deviation


def learnt_by(prepared: Prepared, request: Request, trained: Trained, fold: Fold, policy: nn.Module) -> Learnt | None:
    """What the chosen checkpoint learned; None for a strategy with a procedure of its own, whose start is not known."""
    if prepared.kind.procedure is not None:
        return None
    start: Any = prepared.data.network(request.network, request.seed, fold.train)
    if (begin := prepared.begin(request)) is not None:
        begin(start)
    seen = torch.from_numpy(prepared.data.probes(fold, OBSERVATIONS, request.seed))
    continuous = prepared.machine.spec.continuous
    logs = next((found for name, found in trained.weights.items() if name.endswith("log_std")), torch.zeros(()))
    deviations = logs.float().exp().cpu() if continuous else None
    kl, size, variation = moved(_answers(start.policy, seen, prepared), _answers(policy, seen, prepared), deviations)
    explained = trained.curve[-1].explained_variance if trained.curve else 0.0
    return Learnt(trained.gradient_steps, kl, size, variation, explained)


def moved(before: Tensor, after: Tensor, deviations: Tensor | None) -> tuple[float, float, float]:
    """KL divergence of the answers from those before (nats), their size, and their variation over the observations.

    Args:
        before: float32 (n, actions), logits, or means of actions.
        after: the same of the policy itself.
        deviations: (actions,) of the actions that are drawn in training; None for logits.
    """
    if deviations is not None:
        kl = ((after - before) / deviations).square().sum(dim=1).mean() / 2.0
        shown, size = after, after.abs().mean()
    else:
        now, then = after.log_softmax(dim=1), before.log_softmax(dim=1)
        kl = (now.exp() * (now - then)).sum(dim=1).mean()
        shown, size = now.exp(), now.exp().max(dim=1).values.mean()
    spread = shown.std(dim=0).mean() if len(shown) >= FEWEST_VALUES else torch.zeros(())
    return float(kl), float(size), float(spread)


@torch.no_grad()
def _answers(policy: nn.Module, seen: Tensor, prepared: Prepared) -> Tensor:
    hidden = prepared.machine.spec.recurrent_shape
    found = policy(seen, torch.zeros(len(seen), *hidden)) if hidden else policy(seen)
    answers: Tensor = found[0] if isinstance(found, tuple) else found
    return answers.float()


def planned_gradient_steps(coefficients: Coefficients, steps: int) -> int:
    """How many steps of the optimizer a training of so many transitions takes."""
    c, rollout = coefficients, coefficients.environments * coefficients.rollout_steps
    return max(1, -(-steps // rollout)) * c.epochs * -(-rollout // c.batch)


def few_words(coefficients: Coefficients, steps: int) -> str:
    """A warning for a training that takes few steps of the optimizer; "" for others."""
    planned = planned_gradient_steps(coefficients, steps)
    if planned >= FEW_GRADIENT_STEPS:
        return ""
    return (
        f"{planned:,} gradient steps a trial are few (below {FEW_GRADIENT_STEPS:,}): the policy may stay close to the "
        "network that it began as; more --steps, more epochs or smaller minibatches take more"
    )
