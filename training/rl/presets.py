"""Named settings: how many steps, and which coefficients of PPO, or the plan of a procedure that is not PPO's."""

from __future__ import annotations

from dataclasses import dataclass, field

from training.rl.coefficients import Coefficients

RANDOM, PASSIVE = "random", "passive"
"""Where training begins: at weights that are drawn, or near the strategy's passive policy."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a procedure of its own is asked for: a strategy's class adds the fields, plain values only."""

    members: int = 1  # of a deep ensemble


@dataclass(frozen=True, slots=True)
class Preset:
    """What a run is trained with. `why` is one line for `--help` and the manual."""

    why: str
    steps: int  # transitions of each trial
    coefficients: Coefficients = field(default_factory=Coefficients)
    begins: str = RANDOM
    plan: Plan | None = None  # of a strategy with a procedure of its own, instead of coefficients
