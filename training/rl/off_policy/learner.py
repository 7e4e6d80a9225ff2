"""Shared by SAC, TD3 and DQN: layers, actors and critics, guarded Adam steps, target updates, state.

Weights are drawn from a seed. Matrix products run in the requested type, the last layer in float32: a bfloat16 value
has only 2 to 3 digits. The sources are those of `training.rl.off_policy.coefficients`.
"""

from __future__ import annotations

import copy
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from training.rl.kernels import products_of
from training.rl.off_policy.coefficients import OffPolicyCoefficients
from training.rl.off_policy.passes import CriticsPass, LayersPass
from training.rl.off_policy.replay import Transitions

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # [3]
PRODUCTS = {"float32": torch.float32, "bf16": torch.bfloat16}


class Layers(nn.Module):
    """A sequence of linear layers, with an activation after each but the last."""

    def __init__(self, sizes: Sequence[int], *, seed: int, normalised: bool = False) -> None:
        """Draw the weights from `seed`, as torch draws those of its linear layers; `sizes` begins with the inputs."""
        super().__init__()
        self.normalised = normalised
        pairs = list(itertools.pairwise(sizes))
        self.weights = nn.ParameterList(torch.empty(width, size) for size, width in pairs)
        self.biases = nn.ParameterList(torch.empty(width) for _, width in pairs)
        _draw(self.weights, self.biases, sizes, seed)

    def answer(self, prepared: Tensor, products: torch.dtype, last: torch.dtype = torch.float32) -> Tensor:
        """The last layer's outputs in the type `last`, for (n, inputs); the other layers multiply in `products`."""
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
        """Add `by` to the biases of the means, before tanh."""
        self.biases[-1][: self.actions] += by

    def prepare(self, observations: Tensor) -> Tensor:
        """The untrained preprocessing (scaling), applied once to each observation."""
        prepared: Tensor = self.scaling(observations)
        return prepared

    def forward(self, observations: Tensor) -> Tensor:
        """Actions, float32 (n, actions), of raw observations."""
        return self.mean(self.prepare(observations)).tanh()

    def mean(self, prepared: Tensor) -> Tensor:
        """The means before tanh, float32 (n, actions)."""
        return self.answer(prepared, torch.float32)[:, : self.actions]

    def spread(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Means and logarithms of standard deviations, float32 (n, actions) each, before tanh."""
        mean, log_std = self.answer(prepared, torch.float32).chunk(2, dim=1)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)


class TwinCritics(nn.Module):
    """Two critics of prepared observations and actions; corresponding layers are multiplied in one batched product."""

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

    def forward(self, prepared: Tensor, actions: Tensor, twins: int = 2) -> Tensor:
        """Values, float32 (2, n); with `twins` 1 those of the first network alone, (1, n)."""
        hidden = torch.cat([prepared, actions], dim=1).expand(twins, -1, -1)
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias[:twins], hidden, weight[:twins])
            if index < last:
                hidden = activated(hidden, self.normalised)
        return hidden.squeeze(2)


def activated(hidden: Tensor, normalised: bool) -> Tensor:
    """ReLU, after layer normalisation if `normalised`."""
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


EXPLAINED, TINY = "explained variance", 1e-12
Average = Callable[[Sequence[Tensor]], None]
"""For several processes with equal weights: replace all tensors by their means over the processes, in place."""


class FiniteCheck:
    """A tensor that becomes 1 once a loss or gradient is not finite; checking never waits for the device."""

    def __init__(self, device: torch.device | str) -> None:
        self.broken = torch.zeros((), device=device)
        self._zero = torch.zeros_like(self.broken)  # a Python number becomes a tensor at every call

    def look(self, *values: Tensor) -> None:
        """Remember that a value is not finite: 0 times their sum is NaN, which counts as true."""
        self.broken.logical_or_(sum(values[1:], values[0]) * self._zero)


@torch.no_grad()
def in_one_piece(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Move parameters of one type into one tensor (numbers,), in their order; each is a view of it from then on."""
    tensors = list(parameters)
    numbers = torch.cat([tensor.flatten() for tensor in tensors])
    for parameter, view in zip(tensors, shaped(numbers, tensors), strict=True):
        parameter.data = view
    return numbers


def shaped(numbers: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Views of `numbers`, one after the other in the shapes of these parameters."""
    parts = torch.split(numbers, [parameter.numel() for parameter in parameters])
    return [part.view(parameter.shape) for part, parameter in zip(parts, parameters, strict=True)]


class Descent:
    """Adam on some parameters of a learner; takes no step once its guard is broken.

    Weights, gradients and moments are one tensor each, because a small network's step is dominated by call overhead.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        rate: float,
        guard: FiniteCheck,
        average: Average | None = None,
        max_grad_norm: float | None = None,
    ) -> None:
        self._parameters = list(parameters)
        self.numbers = in_one_piece(self._parameters)
        """The weights, (numbers,), in the order of the parameters."""
        self._on_device = None if self.numbers.device.type == "cpu" else self.numbers.new_zeros(())
        self.rate = rate
        self.gradient, self._mean, self._square = (torch.zeros_like(self.numbers) for _ in range(3))
        self._steps = self.numbers.new_zeros(())
        for parameter, gradient in zip(self._parameters, shaped(self.gradient, self._parameters), strict=True):
            parameter.grad = gradient
        self._guard = guard
        self._average = average
        self._one = torch.ones_like(self._steps)
        self._max = None if max_grad_norm is None else torch.full_like(self._steps, max_grad_norm)

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return self._rate

    @rate.setter
    def rate(self, rate: float) -> None:
        self._rate = rate
        if self._on_device is not None:  # a recorded step reads it there
            self._on_device.fill_(rate)

    def take(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Take a step with the gradients in the parameters' `grad`.

        Returns the loss (its mean over the processes) and the norm of the gradients before clipping.
        """
        if self._average is not None:
            loss = loss.clone()
            self._average([self.gradient, loss])
        norm = torch.linalg.vector_norm(self.gradient)
        self._guard.look(loss, norm)
        self._adam(None if self._max is None else torch.maximum(norm / self._max, self._one))
        return loss, norm

    def state_dict(self) -> dict[str, Any]:
        """The state as `torch.optim.Adam` has it for the same parameters, not copied."""
        moments = zip(*(shaped(moment, self._parameters) for moment in (self._mean, self._square)), strict=True)
        state = {
            index: {"step": self._steps, "exp_avg": mean, "exp_avg_sq": square}
            for index, (mean, square) in enumerate(moments)
        }
        return {"state": state, "param_groups": [{"lr": self.rate}]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`; that of `torch.optim.Adam` before its first step has no moments."""
        self.rate = state["param_groups"][0]["lr"]
        for name, moment in (("exp_avg", self._mean), ("exp_avg_sq", self._square)):
            moment.zero_()
            for index, view in enumerate(shaped(moment, self._parameters)):
                if index in state["state"]:
                    view.copy_(state["state"][index][name])
        self._steps.copy_(state["state"][0]["step"] if state["state"] else self._steps.new_zeros(()))

    def _adam(self, divisor: Tensor | None) -> None:
        """The computation of `torch.optim.Adam(fused=True)` with its defaults, in a sixth of its call time.

        Gradients are first divided by `divisor`, (), which bounds their norm.
        """
        torch._fused_adam_(
            [self.numbers],
            [self.gradient],
            [self._mean],
            [self._square],
            [],
            [self._steps.add_(self._one).sub_(self._guard.broken)],
            lr=self._rate if self._on_device is None else self._on_device,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
            grad_scale=divisor,
            found_inf=self._guard.broken,
        )


def follow(target: Tensor, source: Tensor, share: float) -> None:
    """Move weights, each in one piece, by `share` of the way to the source's: Polyak averaging, [2] and [3]."""
    target.lerp_(source, share)


@torch.no_grad()
def explained(values: Tensor, goals: Tensor) -> Tensor:
    """Explained variance of `goals` (n,) by `values` (..., n), at most 1, averaged over the leading dimensions."""
    missed = (values - goals).var(dim=-1, correction=0).mean()
    return 1.0 - missed / goals.var(correction=0).clamp_min(TINY)


class Learner:
    """Base of all learners: precision, guard, and the state of its modules and Adam steps."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        learning_rate: float,
        *,
        precision: str = "float32",
        average: Average | None = None,
    ) -> None:
        """Take the modules that are part of its state, by their names there; all are on one device.

        Args:
            precision: "float32", or "bf16" for the products; weights, losses and moments stay float32.
            average: see `Average`; gradients and losses go through it.
        """
        self.updates = 0
        self._modules = dict(modules)
        self._rate = learning_rate
        self._products = PRODUCTS[precision]
        self._average = average
        self.device = next(parameter.device for module in modules.values() for parameter in module.parameters())
        self._guard = FiniteCheck(self.device)
        self._descents: dict[str, Descent] = {}

    def set_learning_rate(self, rate: float) -> None:
        """The rate of the next gradient steps."""
        for descent in self._descents.values():
            descent.rate = rate

    def products(self, rows: int) -> AbstractContextManager[None]:
        """The context in which gradient steps of so many rows are fastest; see `products_of`."""
        weights = (weight for module in self._modules.values() for weight in module.parameters() if weight.dim() > 1)
        return products_of(rows * max(weight.shape[-2:].numel() for weight in weights))

    def state_dict(self) -> dict[str, Any]:
        """All that the next gradient steps depend on: tensors and plain values, not copied."""
        modules = {name: module.state_dict() for name, module in self._modules.items()}
        descents = {name: descent.state_dict() for name, descent in self._descents.items()}
        return {"updates": self.updates, "modules": modules, "descents": descents}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.updates = state["updates"]
        for name, module in self._modules.items():
            module.load_state_dict(state["modules"][name])
        for name, descent in self._descents.items():
            descent.load_state_dict(state["descents"][name])

    def _descent(self, name: str, parameters: Iterable[nn.Parameter], max_grad_norm: float | None = None) -> Descent:
        descent = Descent(parameters, self._rate, self._guard, self._average, max_grad_norm)
        self._descents[name] = descent
        return descent


class Agent(Learner, ABC):
    """An actor and twin critics that learn from transitions, on one device; subclasses define `update`."""

    figures: tuple[str, ...] = ("critic loss", "Q mean", "critic gradient norm", EXPLAINED)
    """Names of the figures that `update` returns for each gradient step."""
    of_actor: tuple[str, ...]
    """Figures added when the actor was updated."""

    def __init__(
        self,
        actor: Actor,
        critics: TwinCritics,
        coefficients: OffPolicyCoefficients,
        *,
        precision: str = "float32",
        average: Average | None = None,
    ) -> None:
        """Learn in place: `actor` and `critics` are on the device where transitions will be. The rest as `Learner`."""
        self.actor, self.critics, self.targets = actor, critics, copy.deepcopy(critics)
        self._c = c = coefficients
        modules = {"actor": actor, "critics": critics, "targets": self.targets}
        super().__init__(modules, c.learning_rate, precision=precision, average=average)
        self._of_critics = self._descent("of_critics", critics.parameters(), c.max_grad_norm)
        self._of_actor = self._descent("of_actor", actor.parameters(), c.max_grad_norm)
        self._of_targets = in_one_piece(self.targets.parameters())
        self._actor_pass = LayersPass(actor, self._products)
        self._critics_pass, self._targets_pass = (
            CriticsPass(network, self._products) for network in (critics, self.targets)
        )

    @abstractmethod
    def act(self, prepared: Tensor, generator: torch.Generator) -> Tensor:
        """Actions to explore with, float32 (n, actions) within [-1, 1]."""

    @abstractmethod
    def update(self, batch: Transitions, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Take one gradient step of the critics. Returns `figures`, and `of_actor` where the actor moved.

        After a loss or a gradient that is not finite no weight of actor and critics changes.
        """
