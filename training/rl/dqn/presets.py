"""Named settings of DQN and PQN, and learners built by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from torch import nn

from training.rl.dqn.coefficients import DqnCoefficients, PqnCoefficients, check_dqn, check_pqn
from training.rl.dqn.dqn import Dqn
from training.rl.dqn.networks import Head, QNetwork
from training.rl.dqn.pqn import Pqn
from training.rl.off_policy.learner import Average

RECIPES: Mapping[str, DqnCoefficients] = MappingProxyType(
    {
        # PQN: many environments, few and large gradient steps
        "few_large": DqnCoefficients(
            learning_rate=3e-3,
            schedule="linear",
            environments=256,
            batch=512,
            gradient_steps=4,
            per_transitions=1024,
            learning_starts=2048,
            capacity=200_000,
            target_every=1,
            smoothing=0.05,
            widths=(128, 128),
            normalised=True,
            double=True,
            dueling=True,
            returns=3,
            priority=0.5,
            epsilon_share=0.3,
        ),
        # learning from a stream: one experience at a time, from a policy that explores little
        "online": DqnCoefficients(
            learning_rate=5e-4,
            batch=256,
            gradient_steps=1,
            per_transitions=4,
            learning_starts=256,
            capacity=3900,
            target_every=1,
            smoothing=0.02,
            widths=(128, 128),
            normalised=True,
            double=True,
            dueling=True,
            returns=3,
            priority=0.5,
        ),
        # Stable-Baselines3's DQN
        "textbook": DqnCoefficients(),
    }
)


def build(
    inputs: int,
    coefficients: DqnCoefficients,
    *,
    actions: int,
    seed: int,
    heads: Sequence[Head] = (),
    scaling: nn.Module | None = None,
    champion: QNetwork | None = None,
    precision: str = "float32",
    average: Average | None = None,
    device: str = "cpu",
) -> Dqn:
    """A new DQN with weights drawn from `seed`; the arguments are those of `QNetwork` and `Dqn`.

    Raises:
        ValueError: coefficients that do not fit each other.
    """
    c = coefficients
    check_dqn(c, precision)
    network = _network(inputs, c, actions, seed, heads, scaling).to(device)
    return Dqn(network, c, champion=champion, precision=precision, average=average)


def build_pqn(
    inputs: int,
    coefficients: PqnCoefficients,
    *,
    actions: int,
    seed: int,
    heads: Sequence[Head] = (),
    scaling: nn.Module | None = None,
    precision: str = "float32",
    average: Average | None = None,
    device: str = "cpu",
) -> Pqn:
    """A new PQN, as `build`."""
    c = coefficients
    check_pqn(c, precision)
    network = _network(inputs, c, actions, seed, heads, scaling).to(device)
    return Pqn(network, c, precision=precision, average=average)


def _network(
    inputs: int,
    c: DqnCoefficients | PqnCoefficients,
    actions: int,
    seed: int,
    heads: Sequence[Head],
    scaling: nn.Module | None,
) -> QNetwork:
    shape = {"dueling": c.dueling, "normalised": c.normalised}
    return QNetwork(inputs, c.widths, actions=actions, seed=seed, heads=heads, scaling=scaling, **shape)
