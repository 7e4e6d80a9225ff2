"""Plain layers, with layer normalisation where asked for, and the actors and twin critics made of them.

Weights are drawn from a seed.

Products run in the type that is asked for, the last layer in float32: a value in bfloat16 has 2 to 3 digits alone.
The sources are those of `training.rl.off_policy.coefficients`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # [3]
PRODUCTS = {"float32": torch.float32, "bf16": torch.bfloat16}


class Layers(nn.Module):
    """Linear layers one after the other; all but the last are activated."""

    def __init__(self, sizes: Sequence[int], *, seed: int, normalised: bool = False) -> None:
        """Draw the weights from `seed`, as torch draws those of its linear layers; `sizes` begins with the inputs."""
        super().__init__()
        self.normalised = normalised
        pairs = list(itertools.pairwise(sizes))
        self.weights = nn.ParameterList(torch.empty(width, size) for size, width in pairs)
        self.biases = nn.ParameterList(torch.empty(width) for _, width in pairs)
        _draw(self.weights, self.biases, sizes, seed)

    def answer(self, prepared: Tensor, products: torch.dtype, last: torch.dtype = torch.float32) -> Tensor:
        """The last layer's numbers in the type `last`, of (n, inputs); the other layers multiply in `products`."""
        hidden, end = prepared.to(products), len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            kind = last if index == end else products
            hidden = nn.functional.linear(hidden.to(kind), weight.to(kind), bias.to(kind))
            if index < end:
                hidden = activated(hidden, self.normalised)
        return hidden


class Actor(Layers):
    """Raw observations to actions in [-1, 1], as it is exported: prepare, layers, tanh of the mean."""

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        *,
        seed: int,
        actions: int = 1,
        spread: bool,
        normalised: bool = False,
        scaling: nn.Module | None = None,
    ) -> None:
        """Draw the weights from `seed`, as torch draws those of its linear layers.

        Args:
            inputs: numbers of a prepared observation.
            spread: whether it answers a standard deviation as well (SAC), which is not exported.
            scaling: raw observations to prepared ones, not trained; None leaves them as they are.
        """
        super().__init__((inputs, *widths, actions * (2 if spread else 1)), seed=seed, normalised=normalised)
        self.actions = actions
        self.inputs = inputs
        self.scaling = scaling if scaling is not None else nn.Identity()

    @torch.no_grad()
    def lift(self, by: float) -> None:
        """Add to the biases of the means, before they are squashed."""
        self.biases[-1][: self.actions] += by

    def prepare(self, observations: Tensor) -> Tensor:
        """What does not change in training, once for each observation."""
        prepared: Tensor = self.scaling(observations)
        return prepared

    def forward(self, observations: Tensor) -> Tensor:
        """Actions, float32 (n, actions), of raw observations."""
        return self.mean(self.prepare(observations)).tanh()

    def mean(self, prepared: Tensor, products: torch.dtype = torch.float32) -> Tensor:
        """What is squashed to actions, float32 (n, actions)."""
        return self.answer(prepared, products)[:, : self.actions]

    def spread(self, prepared: Tensor, products: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Means and logarithms of standard deviations, float32 (n, actions) each, before the squashing."""
        mean, log_std = self.answer(prepared, products).chunk(2, dim=1)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)


class TwinCritics(nn.Module):
    """Two values of prepared observations with actions, by two networks whose layers are multiplied together."""

    def __init__(
        self, inputs: int, widths: Sequence[int], *, seed: int, actions: int = 1, normalised: bool = False
    ) -> None:
        """Draw the weights from `seed`, both networks' apart."""
        super().__init__()
        self.normalised = normalised
        sizes = (inputs + actions, *widths, 1)
        pairs = list(itertools.pairwise(sizes))
        self.weights = nn.ParameterList(torch.empty(2, size, width) for size, width in pairs)
        self.biases = nn.ParameterList(torch.empty(2, 1, width) for _, width in pairs)
        _draw(self.weights, self.biases, sizes, seed)

    def forward(
        self, prepared: Tensor, actions: Tensor, products: torch.dtype = torch.float32, twins: int = 2
    ) -> Tensor:
        """Values, float32 (2, n); with `twins` 1 those of the first network alone, (1, n)."""
        hidden = torch.cat([prepared, actions], dim=1).to(products).expand(twins, -1, -1)
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            kind = torch.float32 if index == last else products
            hidden = torch.baddbmm(bias[:twins].to(kind), hidden.to(kind), weight[:twins].to(kind))
            if index < last:
                hidden = activated(hidden, self.normalised)
        return hidden.squeeze(2)


def activated(hidden: Tensor, normalised: bool) -> Tensor:
    """Rectified, after layer normalisation where asked for."""
    if normalised:
        hidden = nn.functional.layer_norm(hidden, hidden.shape[-1:])
    return hidden.relu()


@torch.no_grad()
def _draw(weights: Iterable[Tensor], biases: Iterable[Tensor], sizes: Sequence[int], seed: int) -> None:
    """Uniform within 1 / sqrt(inputs) of 0: what `nn.Linear` does with weights and biases."""
    generator = torch.Generator().manual_seed(seed)
    for weight, bias, size in zip(weights, biases, sizes[:-1], strict=True):
        bound = 1.0 / math.sqrt(size)
        weight.uniform_(-bound, bound, generator=generator)
        bias.uniform_(-bound, bound, generator=generator)
