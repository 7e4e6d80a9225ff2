"""Training from the first update to the last, in one call; and the weights that it leaves."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from training.rl.coefficients import Coefficients, Progress
from training.rl.off_policy.coefficients import OffPolicyProgress
from training.rl.off_policy.trainer import OffPolicyTrainer
from training.rl.ppo import Trainer
from training.rl.protocols import CarryingNetwork, Environment, Network


def train(
    network: Network | CarryingNetwork,
    environment: Environment,
    coefficients: Coefficients,
    *,
    total_steps: int,
    seed: int,
    on_update: Callable[[Progress], None] = lambda _: None,
) -> None:
    """Train `network` by PPO; `on_update` runs after every update, and may read the network (not change it)."""
    trainer = Trainer(network, environment, coefficients, total_steps=total_steps, seed=seed)
    while not trainer.done:
        on_update(trainer.update())


def train_agent(
    trainer: OffPolicyTrainer,
    *,
    on_update: Callable[[OffPolicyProgress], None] = lambda _: None,
    pause: Callable[[], None] = lambda: None,
) -> None:
    """Train an agent; both run after every update. `pause` may raise, then the trainer's state is whole."""
    while not trainer.done:
        on_update(trainer.update())
        pause()


def weight_bytes(network: nn.Module) -> bytes:
    """All weights, as they lie in memory."""
    return b"".join(parameter.detach().numpy().tobytes() for parameter in network.parameters())
