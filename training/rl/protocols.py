"""The interfaces of PPO: environment, network, and the transitions that it learns from.

Shapes and types only; nothing here computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class Step(NamedTuple):
    """The result of a step of `n` environments. Where both flags are true, the episode counts as terminated."""

    rewards: Tensor  # float32 (n,); (n, actions) for a network with `each`: see `Network`
    terminals: Tensor  # bool (n,): the episode terminated: no state follows
    truncated: Tensor | None = (
        None  # bool (n,): a time limit: the value of `last` is bootstrapped; None: there are no limits
    )
    last: Tensor | None = None  # float32 (n, *shape): the observations before the reset; required where `truncated`


class Environment(Protocol):
    """Many environments stepped together on one device; a finished one restarts at once.

    With an attribute `replayable` that is true, `observe` and `step` promise to be tensor operations alone, the same at
    every call, that never wait for the device and change nothing but tensors: a GPU then repeats them as a CUDA graph
    (`training.rl.graphs`). Without it every call is made.
    """

    def observe(self) -> Tensor:
        """Raw observations, float32 (n, *shape). Asking twice changes nothing."""

    def step(self, actions: Tensor) -> Step:
        """Take int64 actions (n,); from a network with `log_std` float32 actions (n, actions) within [-1, 1]."""

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on: tensors and plain numbers only (`torch.load` with weights_only)."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""


@runtime_checkable
class Network(Protocol):
    """An `nn.Module` whose answer depends on one observation alone.

    With a parameter `log_std`, float32 (actions,), what is called logits here are the means of normal distributions
    with that logarithm of their standard deviations (`training.rl.distributions`). Where an attribute `each` is true,
    every action has a reward and a value of its own: its values, and the environment's rewards, have the shape (batch,
    actions).
    """

    def prepare(self, observations: Tensor) -> Tensor:
        """The untrained preprocessing (scaling), applied once to each observation; (n, *shape) to (n, *prepared)."""

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (batch, actions) and values (batch,), or (batch, actions)."""


@runtime_checkable
class CarryingNetwork(Protocol):
    """An `nn.Module` that carries a hidden state from step to step; `log_std` as in `Network`."""

    def prepare(self, observations: Tensor) -> Tensor:
        """As in `Network`."""

    def start(self, count: int) -> Tensor:
        """The zero state, float32 (count, *hidden)."""

    def forward(self, prepared: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step: logits (n, actions), values (n,), the next state (n, *hidden)."""

    def sequence(self, prepared: Tensor, hidden: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (steps, n, actions) and values (steps, n) of prepared observations (steps, n, *prepared).

        `hidden` (n, *hidden) is the state before the first step; where `starts`, bool (steps, n), the state is zero
        before that step.
        """


@dataclass(frozen=True, slots=True)
class Batch:
    """Transitions of a rollout or a minibatch. `log_probabilities` and `values` are those at the time of acting.

    A rollout's rows are steps x environments, flattened. With a carried state a minibatch's rows are steps x segments,
    flattened; `hidden` is each segment's state before its first step, `starts` is true where an episode began. For a
    network with `each`, all but `observations` have the shape (rows, actions).
    """

    observations: Tensor  # prepared, float32 or bfloat16 (rows, *prepared)
    actions: Tensor  # int64 (rows,), or float32 (rows, actions) as they were drawn, not clipped
    log_probabilities: Tensor  # float32 (rows,), of the sampled actions, before resolution
    advantages: Tensor  # float32 (rows,)
    returns: Tensor  # float32 (rows,)
    values: Tensor  # float32 (rows,)
    hidden: Tensor | None = None  # float32 (segments, *hidden)
    starts: Tensor | None = None  # bool (rows,)
