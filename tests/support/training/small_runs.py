"""Small runs of `option_scalper`'s training: settings, a flag that stops a trial, and what a trial left behind.

Nothing here computes an expected value.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch

from strategies.kit.synthetic import synthetic_sessions
from tests.support.training.made_up import sessions, write_csv
from training.desks.trial import News
from training.rl.coefficients import Coefficients
from training.runs.settings import Settings
from training.study.study import Trial

SMALL = Coefficients(environments=16, rollout_steps=16, batch=128, epochs=2)
UPDATE = 256  # transitions
TRIAL = "trials/fold1-potential-seed2"

Train = Callable[..., Trial]


def small_settings(home: Path) -> Settings:
    """Six updates on 27 sessions of a random walk, of which six can be traded; all files are in `home`."""
    bars = write_csv(home / "walk.csv", synthetic_sessions(3, sessions(27)))
    return Settings(
        "option_scalper", bars, home / "store", steps=6 * UPDATE, seeds=(2,), plan=SMALL, processes=1,
        run_folder=home / "run", allow_unproven=True,
    )  # fmt: skip


def quiet(_: object) -> None:
    """Nothing is reported."""


class StopAfter:
    """A flag that is set once `updates` updates were reported."""

    def __init__(self, updates: int) -> None:
        self._left = updates

    def __call__(self, news: object) -> None:
        """Listen to a run."""
        self._left -= isinstance(news, News)

    def is_set(self) -> bool:
        """Whether the trial is to stop."""
        return self._left <= 0

    def set(self) -> None:
        """Stop the trial at once."""
        self._left = 0


def weights(run: Path, trial: str = TRIAL) -> dict[str, Any]:
    """The chosen weights of a trial."""
    checkpoint: dict[str, Any] = torch.load(run / trial / "best.pt", weights_only=True)
    return checkpoint


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Equal to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def timeless(trial: Trial) -> Trial:
    """A trial without what the clock says."""
    return msgspec.structs.replace(trial, seconds=0.0)
