"""What a run of `online_dqn` is asked for, and what a search may vary of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from training.desks.online.network import COLD_PRESETS, ColdPreset
from training.rl.dimensions import Dimension, Plan
from training.rl.presets import PASSIVE, Preset


@dataclass(frozen=True, slots=True)
class OnlinePlan(Plan):
    """The cold start, looked at on validation sessions; the steps of a trial take the place of the preset's."""

    members: int = 1  # it is one network: named in a run's settings alone
    cold: ColdPreset = field(default_factory=lambda: COLD_PRESETS["cold"])
    looks: int = 20  # at the validation sessions

    @property
    def searched(self) -> tuple[Dimension, ...]:
        """See `Plan`."""
        return SPACE


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "cold": Preset("Q(lambda) on history, as the trainer's cold start", 1_000_000, plan=OnlinePlan()),
        "passive": Preset(
            "the same, from a network that mostly holds nothing", 1_000_000, begins=PASSIVE, plan=OnlinePlan()
        ),
        "smoke": Preset("does it run? A tiny network", 8192, plan=OnlinePlan(cold=COLD_PRESETS["smoke"], looks=2)),
    }
)

SPACE = (
    Dimension("cold.pqn.learning_rate", "the one that matters most", 1e-4, 3e-3, log=True),
    Dimension("cold.pqn.discount", "0.9 looks 10 bars ahead, 0.995 two hundred", 0.9, 0.995),
    Dimension("cold.pqn.trace", "how much of what followed counts instead of its value", 0.3, 0.95),
    Dimension("cold.pqn.epochs", "how much is learnt from what was seen", choices=(1, 2, 4)),
)
