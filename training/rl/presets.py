"""Named settings of PPO: how many steps, and which coefficients."""

from __future__ import annotations

from dataclasses import dataclass

from training.rl.coefficients import Coefficients


@dataclass(frozen=True, slots=True)
class Preset:
    """What a run is trained with. `why` is one line for `--help` and the manual."""

    why: str
    steps: int  # transitions of each trial
    coefficients: Coefficients
