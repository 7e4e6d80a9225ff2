"""A trial as data: its request, its progress messages, its stop signal and its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from training.rl.dimensions import Plan
from training.rl.presets import AS_THE_DESK, RANDOM, Practice
from training.study.study import SessionResult, ValidationCheck

OWN, RLLIB = ENGINES = ("own", "rllib")
"""The engines that can train SAC."""


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
    patience: int  # validation checks without improvement after which it stops; 0: never
    plan: Plan
    engine: str = OWN
    runners: int = 1  # RLlib's environment runners, which share the environments
    begins: str = RANDOM
    practice: Practice = AS_THE_DESK
    burn_in: int = 0  # sessions before a validation span through which the hidden state passes
    starts: int = 0  # accounts that play the validation span; 0: the strategy's number
    refit: bool = False  # train on all sessions, without validation and test

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
    began: int = 0  # steps done before the trial was resumed


TRIALS = "trials"  # the name of the stage after all others


@dataclass(frozen=True, slots=True)
class Stage:
    """The stage that later news belong to: `tasks` tasks of about `steps` steps each, 0 where unknown."""

    name: str
    tasks: int
    steps: int = 0
    unit: str = "steps"  # what the news of the stage count


class Control(Protocol):
    """Stop and checkpoint signals, read after every update in the group's first process."""

    def stop(self) -> bool:
        """True once the trial should write a checkpoint now and end."""

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
    gradient_steps: int = 0  # optimizer steps until the chosen checkpoint; 0: not counted
    score: float | None = None  # the figure by which the checkpoint was chosen; None: the net return of `validate`


Listener = Callable[[News], None]
