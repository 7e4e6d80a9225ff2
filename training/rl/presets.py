"""Named settings of PPO for each strategy: how many steps, and which coefficients.

Data only; a strategy's first preset is what it is trained with unless another is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from training.rl.ppo import Coefficients


@dataclass(frozen=True, slots=True)
class Preset:
    """What a run is trained with. `why` is one line for `--help` and the manual."""

    why: str
    steps: int  # transitions of each trial
    coefficients: Coefficients


SCALPER: Mapping[str, Preset] = {
    "standard": Preset("Stable-Baselines3's, over 256 environments", 2_000_000, Coefficients()),
}

REBALANCER: Mapping[str, Preset] = {
    "finrl": Preset(
        "those of FinRL's PPO: rollouts of 2,048 steps (8 environments of 256 each), minibatches of 64",
        500_000,
        Coefficients(schedule="constant", environments=8, rollout_steps=256, batch=64),
    ),
    "wide": Preset(
        "as many steps in large minibatches: 256 environments of 64 steps, batch 4,096, 4 epochs, a falling rate",
        500_000,
        Coefficients(environments=256, rollout_steps=64, batch=4096, epochs=4),
    ),
}
"""FinRL: learning rate 3e-4 constant, 10 epochs, discount 0.99, lambda 0.95, clip 0.2, entropy 0, value 0.5, gradient
norm 0.5, of which only the constant rate differs from our defaults. It does not say how many environments share 2,048
steps; eight take the same 320 minibatches of an update, and a rollout of each is a year long. `wide` earned more on the
validation sessions of 2020 with 4 epochs than with 10, at this rate as at 1e-4 (two seeds each)."""

REGIME: Mapping[str, Preset] = {
    "regime": Preset(
        "2,048 environments of 256 steps, 4 epochs, minibatches of 64 sequences of 32 steps, a cosine, entropy 0.01",
        5_000_000,
        Coefficients(
            schedule="cosine", entropy=0.01, epochs=4, environments=2048, rollout_steps=256, batch=2048, sequence=32
        ),
    ),
}
