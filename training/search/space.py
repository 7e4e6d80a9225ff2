"""What a search is asked for: the searched coefficients, and the training that each trial is worth."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from optuna.trial import BaseTrial

from training.rl.coefficients import SCHEDULES, Coefficients
from training.runs.settings import Settings


@dataclass(frozen=True, slots=True)
class Dimension:
    """One searched field of `Coefficients`: a number from `low` to `high`, or one of `choices`."""

    name: str
    why: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[str | int | float, ...] = ()
    optional: bool = False  # may also be switched off: 0 or None, as in the defaults

    @property
    def switch(self) -> str:
        """The name of the choice between off and on."""
        return f"{self.name}_on"

    def suggest(self, trial: BaseTrial) -> Any:
        """The value that this trial is to have."""
        if self.optional and not trial.suggest_categorical(self.switch, (False, True)):
            return getattr(Coefficients(), self.name)
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def fixed(self, value: Any) -> dict[str, Any]:
        """What makes `suggest` answer `value`. Raises `ValueError` for a value outside."""
        if self.optional and value == getattr(Coefficients(), self.name):
            return {self.switch: False}
        within = value in self.choices if self.choices else self.low <= value <= self.high
        if not within:
            among = self.choices or f"{self.low:g} to {self.high:g}"
            raise ValueError(f"{self.name} begins at {value!r}: expected {among}, which is searched")
        return {self.name: value} | ({self.switch: True} if self.optional else {})


SPACE = (
    Dimension("learning_rate", "the one that matters most; a factor, not a difference", 5e-5, 2e-3, log=True),
    Dimension("schedule", "whether the last steps are small", choices=SCHEDULES),
    Dimension("discount", "0.97 looks 30 decisions ahead, 0.999 a thousand", 0.97, 0.999),
    Dimension("gae_lambda", "trusts the critic or what was earned", 0.8, 0.99),
    Dimension("clip", "how far one rollout may move the policy", 0.1, 0.3),
    Dimension("entropy", "keeps trying when fees punish every trade", 1e-4, 3e-2, log=True, optional=True),
    Dimension("value_clip", "steadies the critic where rewards jump", 0.1, 0.4, optional=True),
    Dimension("target_kl", "ends an update that has moved far enough", 0.01, 0.05, log=True, optional=True),
    Dimension("epochs", "how often a rollout is learned from", 4, 10, whole=True),
    Dimension("batch", "noise of a gradient against the number of them", choices=(512, 1024, 2048, 4096)),
    Dimension("rollout_steps", "how much is collected between two updates", choices=(32, 64, 128)),
)
"""What is searched, and why; the first trial has the defaults."""


def space_around(start: Coefficients) -> tuple[Dimension, ...]:
    """`SPACE`, with choices around the first trial's batch and rollout where they are not among those there.

    Such choices are half, once and twice the number; a rollout stays a multiple of `start.sequence`.
    """
    return tuple(_around(dimension, start) for dimension in SPACE)


def _around(dimension: Dimension, start: Coefficients) -> Dimension:
    multiples = {"batch": 1, "rollout_steps": start.sequence}
    value = getattr(start, dimension.name)
    if dimension.name not in multiples or value in dimension.choices:
        return dimension
    near = [n for n in (value // 2, value * 2) if n > 0 and n % multiples[dimension.name] == 0]
    return replace(dimension, choices=tuple(sorted({value, *near})))


@dataclass(frozen=True, slots=True)
class Search:
    """The settings of a search. `run` describes one training; its coefficients are those of the first trial."""

    run: Settings  # `run_folder` is the study's folder, `processes` share the trials
    trials: int = 50
    seed: int = 1  # of the suggestions
    space: tuple[Dimension, ...] = SPACE
    ray: str = ""  # "auto", "local", an address; "" is Optuna in this machine's processes

    def identity(self, bars_sha256: str) -> dict[str, Any]:
        """What decides which trials there are; more of them may be asked for later."""
        space = [{**asdict(dimension), "why": ""} for dimension in self.space]
        run = replace(self.run, processes=1).identity(bars_sha256)
        normal: dict[str, Any] = json.loads(json.dumps({**run, "suggestions_seed": self.seed, "space": space}))
        return normal

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Fold and seed of each training of a trial, in their order."""
        return tuple((fold, seed) for seed in self.run.seeds for fold in range(self.run.folds))
