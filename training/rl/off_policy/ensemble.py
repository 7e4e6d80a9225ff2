"""Several actors as one: the weighted mean of their actions, with weights chosen on validation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """Raw observations to each member's action and to their weighted mean, all in [-1, 1]."""

    weights: Tensor

    def __init__(self, members: Sequence[nn.Module], weights: Sequence[float] | None = None) -> None:
        """Take any number of actors; without weights all count the same.

        Raises:
            ValueError: no member, or weights that are not as many, negative or all 0.
        """
        super().__init__()
        self.members = nn.ModuleList(members)
        found = torch.tensor([1.0] * len(members) if weights is None else list(weights))
        if not members or len(found) != len(members) or bool((found < 0.0).any()) or float(found.sum()) <= 0.0:
            raise ValueError(
                f"the weights of {len(members)} members are {found.tolist()}: expected one for each member, at least "
                "one member, none below 0 and not all 0"
            )
        self.register_buffer("weights", found / found.sum())

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """The mean (n, actions), and each member's actions (members, n, actions)."""
        actions = torch.stack([member(observations) for member in self.members])
        return (self.weights.view(-1, 1, 1) * actions).sum(dim=0), actions


def simplex(members: int, parts: int) -> list[tuple[float, ...]]:
    """All weights of `members` in steps of 1 / `parts`, equal or nearly equal ones first."""
    splits = (counts for counts in itertools.product(range(parts + 1), repeat=members) if sum(counts) == parts)
    ordered = sorted(splits, key=lambda counts: (sum(count * count for count in counts), counts))
    return [tuple(count / parts for count in counts) for counts in ordered]


def choose_weights(
    score: Callable[[Sequence[float]], float], members: int, *, parts: int = 4
) -> tuple[tuple[float, ...], float]:
    """The weights with the highest score on validation, and that score; on a tie those nearest to equal ones.

    Args:
        score: what the ensemble earns on the validation span with these weights, by member.
        parts: weights are tried in steps of 1 / `parts`, more of which fit the validation span better than the truth.
    """
    best = max(simplex(members, parts), key=score)
    return best, score(best)
