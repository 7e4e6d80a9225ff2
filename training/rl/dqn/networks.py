"""The network of DQN and PQN: Q values of a few actions, and heads that predict what follows, with their labels.

The sources are those of `training.rl.dqn.coefficients`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from training.rl.off_policy.learner import Layers, activated
from training.rl.protocols import Environment

KINDS = ("probability", "positive")


@dataclass(frozen=True, slots=True)
class Head:
    """A further output: a "probability", or a "positive" number, which is learned in units of `scale`."""

    name: str
    kind: str
    scale: float = 1.0

    def answer(self, raw: Tensor) -> Tensor:
        """The exported answer, from the network's raw output."""
        return raw.sigmoid() if self.kind == "probability" else nn.functional.softplus(raw) * self.scale

    def losses(self, raw: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cross entropy, or half the squared error, of each row; the gradients by `raw`."""
        if self.kind == "probability":
            losses = nn.functional.binary_cross_entropy_with_logits(raw, labels, reduction="none")
            return losses, raw.sigmoid() - labels
        errors = nn.functional.softplus(raw) - labels / self.scale
        return 0.5 * errors.square(), errors * raw.sigmoid()


class QNetwork(nn.Module):
    """Raw observations to Q values and heads, as it is exported."""

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        *,
        actions: int,
        seed: int,
        dueling: bool = False,
        normalised: bool = False,
        heads: Sequence[Head] = (),
        scaling: nn.Module | None = None,
    ) -> None:
        """Draw the weights from `seed`, as torch draws those of its linear layers.

        Args:
            inputs: numbers of a prepared observation.
            widths: of the hidden layers; `dueling` has the last of them twice, for the value and for the advantages.
            scaling: raw observations to prepared ones, not trained; None leaves them as they are.

        Raises:
            ValueError: a head of an unknown kind.
        """
        super().__init__()
        unknown = [head.kind for head in heads if head.kind not in KINDS]
        if unknown:
            raise ValueError(f"a head's kind is {unknown[0]!r}: expected one of {', '.join(KINDS)}")
        self.inputs, self.actions, self.heads = inputs, actions, tuple(heads)
        self.streams, self._normalised = 2 if dueling else 1, normalised
        self.width = last_width = widths[-1]
        self.scaling = scaling if scaling is not None else nn.Identity()
        self.body = Layers((inputs, *widths[:-1], self.streams * last_width), seed=seed, normalised=normalised)
        self.advantages = Layers((last_width, actions), seed=seed + 1)
        self.value = Layers((last_width, 1), seed=seed + 2) if dueling else None
        self.of_heads = Layers((self.streams * last_width, len(heads)), seed=seed + 3) if heads else None

    def prepare(self, observations: Tensor) -> Tensor:
        """The untrained preprocessing (scaling), applied once to each observation."""
        prepared: Tensor = self.scaling(observations)
        return prepared

    def forward(self, observations: Tensor) -> tuple[Tensor, ...]:
        """Q values, float32 (n, actions), then the answer of each head, float32 (n,), of raw observations."""
        values, raw = self.answers(self.prepare(observations))
        return values, *(head.answer(raw[:, index]) for index, head in enumerate(self.heads))

    def values(self, prepared: Tensor, products: torch.dtype = torch.float32) -> Tensor:
        """Q values, float32 (n, actions)."""
        return self._values(self._hidden(prepared, products))

    def answers(self, prepared: Tensor, products: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Q values, and the heads' raw outputs, float32 (n, heads), before their output function."""
        hidden = self._hidden(prepared, products)
        values = self._values(hidden)
        if self.of_heads is None:
            return values, values[:, :0]
        return values, self.of_heads.answer(hidden.flatten(1), torch.float32)

    def _hidden(self, prepared: Tensor, products: torch.dtype) -> Tensor:
        """The last hidden layer, float32 (n, streams, width); each stream is normalised by itself."""
        outputs = self.body.answer(prepared, products, last=products)
        streams = outputs.view(-1, self.streams, self.width)
        return activated(streams, self._normalised).float()

    def _values(self, hidden: Tensor) -> Tensor:
        """The advantages alone or, with two streams, value + advantage less the mean advantage: [3], equation 9."""
        advantages = self.advantages.answer(hidden[:, -1], torch.float32)
        if self.value is None:
            return advantages
        return self.value.answer(hidden[:, 0], torch.float32) + advantages - advantages.mean(dim=1, keepdim=True)


def head_loss(heads: Sequence[Head], raw: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the heads' mean losses, each over the rows whose label is known, and the gradient by `raw`.

    Both arguments are float32 (n, heads); an unknown label is NaN.
    """
    is_known = ~labels.isnan()
    shares = is_known / is_known.sum(dim=0).clamp(min=1)
    columns = zip(heads, raw.unbind(dim=1), labels.nan_to_num().unbind(dim=1), strict=True)
    losses, by_raw = zip(*(head.losses(*column) for head, *column in columns), strict=True)
    return (torch.stack(losses, dim=1) * shares).sum(), torch.stack(by_raw, dim=1) * shares


@torch.no_grad()
def explore(values: Tensor, epsilon: float | Tensor, generator: torch.Generator) -> Tensor:
    """The best actions, int64 (n,); a share `epsilon` of them is uniform instead."""
    count, actions = values.shape
    random_actions = torch.randint(actions, (count,), generator=generator, device=values.device)
    uniform = torch.rand(count, generator=generator, device=values.device) < epsilon
    return torch.where(uniform, random_actions, values.argmax(dim=1))


@runtime_checkable
class Labelled(Protocol):
    """An environment whose observations have labels."""

    def labels(self) -> Tensor:
        """The target of each head for the current observations, float32 (n, heads); NaN where unknown."""


def labels_of(environment: Environment, heads: int, observations: Tensor) -> Tensor:
    """The labels of `observations`, float32 (n, heads).

    Raises:
        ValueError: there are heads, and the environment has no labels for as many.
    """
    if not heads:
        return observations.new_empty(len(observations), 0)
    labels = environment.labels() if isinstance(environment, Labelled) else torch.empty(len(observations), 0)
    if labels.shape != (len(observations), heads):
        raise ValueError(f"the environment has labels of {tuple(labels.shape)}: expected {(len(observations), heads)}")
    return labels
