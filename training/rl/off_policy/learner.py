"""What SAC, TD3 and DQN share: guarded steps of Adam, targets that follow smoothly, and what is saved of an agent."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.rl.layers.adam import Adam
from training.rl.off_policy.coefficients import OffPolicyCoefficients
from training.rl.off_policy.networks import PRODUCTS, Actor, TwinCritics
from training.rl.off_policy.replay import Transitions

Average = Callable[[Sequence[Tensor]], None]
"""For several processes with equal weights: replace all tensors by their means over the processes, in place."""


class Guard:
    """1 once any loss or gradient was not finite, without waiting for the device; shared by the steps of a learner."""

    def __init__(self, device: torch.device | str) -> None:
        self.broken = torch.zeros((), device=device)

    def look(self, *values: Tensor) -> None:
        """Remember that a value is not finite."""
        for value in values:
            torch.maximum(self.broken, (~torch.isfinite(value)).float(), out=self.broken)


class Descent:
    """Adam on some parameters of a learner; takes no step once its guard is broken."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        rate: float,
        guard: Guard,
        average: Average | None = None,
        max_grad_norm: float | None = None,
    ) -> None:
        self._parameters = list(parameters)
        self.optimizer = Adam(self._parameters, lr=rate, fused=True)
        self._guard = guard
        self._average = average
        self._max = max_grad_norm

    def step(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Descend `loss`; returns it (its mean over the processes) and the norm of the gradients before clipping.

        Gradients reach these parameters alone, whatever else the loss went through.
        """
        gradients = torch.autograd.grad(loss, self._parameters)
        found = loss.detach().clone()
        if self._average is not None:
            self._average([*gradients, found])
        norm = nn.utils.get_total_norm(gradients)
        if self._max is not None:
            torch._foreach_mul_(gradients, (self._max / (norm + 1e-6)).clamp(max=1.0))
        self._guard.look(found, norm)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        vars(self.optimizer)["found_inf"] = self._guard.broken  # as `training.rl.ppo` leaves a step out
        self.optimizer.step()
        return found, norm


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, share: float) -> None:
    """Move the target's weights by `share` of the way to the source's: Polyak averaging, [2] and [3]."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), share)


class Learner:
    """What every learner has: its precision, its guard, and the state of its modules and of its steps of Adam."""

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
        self._guard = Guard(self.device)
        self._descents: dict[str, Descent] = {}

    def set_learning_rate(self, rate: float) -> None:
        """The rate of the next gradient steps."""
        for descent in self._descents.values():
            descent.optimizer.param_groups[0]["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """All that the next gradient steps depend on: tensors and plain values, not copied."""
        modules = {name: module.state_dict() for name, module in self._modules.items()}
        descents = {name: descent.optimizer.state_dict() for name, descent in self._descents.items()}
        return {"updates": self.updates, "modules": modules, "descents": descents}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.updates = state["updates"]
        for name, module in self._modules.items():
            module.load_state_dict(state["modules"][name])
        for name, descent in self._descents.items():
            descent.optimizer.load_state_dict(state["descents"][name])

    def _descent(self, name: str, parameters: Iterable[nn.Parameter], max_grad_norm: float | None = None) -> Descent:
        found = Descent(parameters, self._rate, self._guard, self._average, max_grad_norm)
        self._descents[name] = found
        return found


class Agent(Learner, ABC):
    """An actor and twin critics that learn from transitions, on one device; how they learn is the subclass's."""

    figures: tuple[str, ...] = ("critic loss", "Q mean", "critic gradient norm")
    """What `update` returns of each gradient step."""
    of_actor: tuple[str, ...]
    """And what of those in which the actor moved."""

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

    @abstractmethod
    def act(self, prepared: Tensor, generator: torch.Generator) -> Tensor:
        """Actions to explore with, float32 (n, actions) within [-1, 1]."""

    @abstractmethod
    def update(self, batch: Transitions, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """One gradient step of the critics: `figures`, and `of_actor` where the actor moved.

        After a loss or a gradient that is not finite no weight of actor and critics changes.
        """
