"""How much a trial learned: what its answers are, and how far they are from those of the network that it began as."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.desks.trial import Request, Trained
from training.export.ensemble import together
from training.runs.prepared import Prepared
from training.study.study import Fold, NetworkChange, SeedAgreement, Trial

OBSERVATIONS = 256
SHUFFLES = 200
TINY = 1e-12  # of answers whose deviations are rounding
FEWEST_VALUES = 2  # of answers that have a deviation


def learnt_by(
    prepared: Prepared, request: Request, trained: Trained, fold: Fold, policy: nn.Module
) -> NetworkChange | None:
    """What the chosen checkpoint learned; None where another engine drew the weights that it began with."""
    start = prepared.kind.procedure.start(prepared.task(request), fold, policy, trained.weights)
    if start is None:
        return None
    kl, size, variation = compared(prepared, fold, request.seed, start.policy, policy, start.deviations)
    last = {point.agent: point.explained_variance for point in trained.curve}  # of the critics of each agent
    explained = math.fsum(last.values()) / len(last) if last else 0.0
    return NetworkChange(trained.gradient_steps, kl, size, variation, explained)


def learnt_together(
    prepared: Prepared,
    requests: Sequence[Request],
    trials: Sequence[Trial],
    weights: Sequence[Mapping[str, Any]],
    policy: nn.Module,
) -> NetworkChange | None:
    """What the mean of trials learned, against the mean of what they began as; steps are the fewest of one."""
    fold, learnt = prepared.folds[requests[0].fold], [trial.learnt for trial in trials]
    known = [one for one in learnt if one is not None]
    if len(known) < len(learnt):
        return None
    procedure = prepared.kind.procedure
    begun = [
        procedure.start(prepared.task(request), fold, policy, one)
        for request, one in zip(requests, weights, strict=True)
    ]
    starts = [start for start in begun if start is not None]
    start = together([one.policy for one in starts], prepared.machine.spec.recurrent_shape)
    explored = [one.deviations for one in starts if one.deviations is not None]
    deviations = torch.stack(explored).mean(dim=0) if explored else None
    kl, size, variation = compared(prepared, fold, requests[0].seed, start, policy, deviations)
    steps = min(one.gradient_steps for one in known)
    explained = math.fsum(one.explained_variance for one in known) / len(known)
    return NetworkChange(steps, kl, size, variation, explained)


def agreement_of(
    prepared: Prepared, requests: Sequence[Request], weights: Sequence[Mapping[str, Any]]
) -> SeedAgreement:
    """Whether the seeds of a fold answer its observations in the same way."""
    first = requests[0]
    seen = torch.from_numpy(prepared.data.probes(prepared.folds[first.fold], OBSERVATIONS, first.seed))
    answers = [
        _answers(prepared.policy(request, own), seen, prepared) for request, own in zip(requests, weights, strict=True)
    ]
    if not prepared.machine.spec.continuous:
        answers = [each.softmax(dim=1) for each in answers]
    return agreement([each.double().numpy() for each in answers], first.seed)


def agreement(answers: Sequence[NDArray[np.float64]], seed: int) -> SeedAgreement:
    """Mean correlation over pairs of what the answers of each deviate from their own means.

    Chance is found by a permutation test: the observations of each second one of a pair are shuffled (Good 2005).

    Args:
        answers: for each of at least two seeds (n, actions), to the same observations; constant ones agree with none.
        seed: of the shuffling.
    """
    random, apart = np.random.default_rng(seed), []
    for each in answers:
        deviations = each - each.mean(axis=0)
        apart.append(deviations / max(float(np.linalg.norm(deviations)), TINY))
    pairs = list(combinations(range(len(apart)), 2))

    def mean(shuffled: bool) -> float:
        order = [random.permutation(len(each)) if shuffled else slice(None) for each in apart]
        return math.fsum(float((apart[a] * apart[b][order[b]]).sum()) for a, b in pairs) / len(pairs)

    by_chance = [mean(shuffled=True) for _ in range(SHUFFLES)]
    return SeedAgreement(mean(shuffled=False), float(np.quantile(by_chance, 0.95)))


def compared(
    prepared: Prepared, fold: Fold, seed: int, start: nn.Module, policy: nn.Module, deviations: Tensor | None
) -> tuple[float, float, float]:
    """`moved` over observations of a fold that are drawn by a seed."""
    seen = torch.from_numpy(prepared.data.probes(fold, OBSERVATIONS, seed))
    return moved(_answers(start, seen, prepared), _answers(policy, seen, prepared), deviations)


def moved(before: Tensor, after: Tensor, deviations: Tensor | None) -> tuple[float, float, float]:
    """KL divergence of the answers from those before (nats), their size, and their variation over the observations.

    Args:
        before: float32 (n, actions), logits, or means of actions.
        after: the same of the policy itself.
        deviations: (actions,), or one for all, of the actions that are drawn in training; None for logits.
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
    return answers.float().reshape(len(seen), -1)  # of a row for each symbol a single action
