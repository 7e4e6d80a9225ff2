"""What an ablation is asked for: a run, and the settings that each change it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from training.desks.kind import Arm
from training.runs.settings import Settings

BASE = "as asked"
GENERAL: Mapping[str, Arm] = {
    "target_kl": Arm("an update ends once it has moved 0.02 nats", {"target_kl": 0.02}),
    "weight_average": Arm("plays the running mean of its weights, decay 0.99", {"weight_average": 0.99}),
}
"""For every strategy that trains by PPO."""


@dataclass(frozen=True, slots=True)
class Ablation:
    """The run that every training is of, and the settings that each change it."""

    run: Settings
    arms: Mapping[str, Arm]

    @property
    def all(self) -> dict[str, Arm]:
        """The run as it is asked for, then the others."""
        return {BASE: Arm("the run as it is asked for"), **self.arms}

    def identity(self, bars_sha256: str) -> dict[str, Any]:
        """What decides the result, as JSON."""
        return {**self.run.identity(bars_sha256), "arms": {name: asdict(arm) for name, arm in self.arms.items()}}
