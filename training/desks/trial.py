"""A trial as data: its request, its progress messages, its stop signal and its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from training.rl.dimensions import Plan
from training.rl.presets import AS_THE_DESK, RANDOM, Practice
from training.study.study import SessionResult, ValidationCheck

OWN, RLLIB = ENGINES = ("own", "rllib")
"""What a SAC is trained by."""


class Diverged(Exception):
    """A loss or a gradient was not finite. The text names trial, step, update, minibatch and last checkpoint."""


@dataclass(frozen=True, slots=True)
class Request:
    """The request of a trial."""

    fold: int
    seed: int
    reward: str
    network: str
    steps: int
    precision: str
    device: str
    patience: int  # looks at the validation sessions without a better one, after which it stops; 0 never
    plan: Plan
    engine: str = OWN
    runners: int = 1  # of RLlib, each of which steps its part of the environments
    begins: str = RANDOM
    practice: Practice = AS_THE_DESK
    burn_in: int = 0  # sessions before a look that a memory goes through
    starts: int = 0  # accounts that look at the validation span; 0: the strategy's
    refit: bool = False  # on all sessions, without validation and test

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"refit-{self.reward}-seed{self.seed}" if self.refit else trial_name(self.fold, self.reward, self.seed)


def trial_name(fold: int, reward: str, seed: int) -> str:
    """The name of one trial among those of its run; `fold` counts from 0, the name from 1."""
    return f"fold{fold + 1}-{reward}-seed{seed}"


@dataclass(frozen=True, slots=True)
class News:
    """Progress of a trial: after every update, with `point` after a validation check."""

    name: str
    steps: int
    total: int
    point: ValidationCheck | None = None
    best: bool = False
    began: int = 0  # steps that an earlier run of it had done


TRIALS = "trials"  # the name of the stage after all others


@dataclass(frozen=True, slots=True)
class Stage:
    """The work that later news are about: `tasks` pieces of about `steps` steps each, 0 where unknown."""

    name: str
    tasks: int
    steps: int = 0
    unit: str = "steps"  # what the news of the stage count


class Control(Protocol):
    """Asked after every update, in the first process of the group."""

    def stop(self) -> bool:
        """True once the run shall end at its next checkpoint, which is now."""

    def checkpoint_due(self) -> bool:
        """True when it is time for a checkpoint; true once for each."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of a trial. `weights` are those of the chosen checkpoint."""

    weights: dict[str, Any]
    validate: tuple[SessionResult, ...]
    chosen_steps: int
    steps: int
    seconds: float
    stopped: str
    curve: tuple[ValidationCheck, ...]
    gradient_steps: int = 0  # of the optimizer, until the chosen checkpoint; 0: not counted
    score: float | None = None  # what the checkpoint was chosen by; None: the net return of `validate`


Listener = Callable[[News], None]
