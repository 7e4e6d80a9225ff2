"""What a search is asked for: the searched coefficients, and the training that each trial is worth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from training.rl.coefficients import SCHEDULES, Coefficients
from training.rl.dimensions import Dimension, value_of, with_values
from training.rl.presets import Plan
from training.runs.settings import Settings
from training.studies.search.coefficients_file import differences

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
    """`SPACE`, and around the first trial's values where they are not in it.

    A range reaches to that value; choices of batch and rollout are half, once and twice it, a rollout a multiple of
    `start.sequence`.
    """
    return tuple(_around(dimension, start) for dimension in SPACE)


def _around(dimension: Dimension, start: Coefficients) -> Dimension:
    multiples = {"batch": 1, "rollout_steps": start.sequence}
    value = getattr(start, dimension.name)
    if dimension.name in multiples:
        if value in dimension.choices:
            return dimension
        near = [n for n in (value // 2, value * 2) if n > 0 and n % multiples[dimension.name] == 0]
        return replace(dimension, choices=tuple(sorted({value, *near})))
    if dimension.choices or (dimension.optional and value == getattr(Coefficients(), dimension.name)):
        return dimension
    return replace(dimension, low=min(dimension.low, value), high=max(dimension.high, value))


Recipe = Coefficients | Plan
"""What a trial is trained with."""


@dataclass(frozen=True, slots=True)
class Search:
    """The settings of a search. `run` describes one training; its coefficients are those of the first trial."""

    run: Settings  # `run_folder` is the study's folder, `processes` share the trials
    trials: int = 50
    seed: int = 1  # of the suggestions
    space: tuple[Dimension, ...] = SPACE
    ray: str = ""  # "auto", "local", an address; "" is Optuna in this machine's processes
    preset: str = ""  # whose plan the first trial has; "" the strategy's first

    def identity(self, bars_sha256: str) -> dict[str, Any]:
        """What decides which trials there are; more of them may be asked for later."""
        space = [{**asdict(dimension), "why": ""} for dimension in self.space]
        run = replace(self.run, processes=1).identity(bars_sha256)
        normal: dict[str, Any] = json.loads(json.dumps({**run, "suggestions_seed": self.seed, "space": space}))
        return normal

    @property
    def usual(self) -> Coefficients:
        """Those of the preset, which a file of coefficients changes."""
        known = self.run.kind
        return known.preset(self.preset or next(iter(known.presets))).coefficients

    @property
    def start(self) -> Recipe:
        """What the first trial is trained with."""
        return self.run.plan or self.run.coefficients

    def recipe(self, values: Mapping[str, Any]) -> Recipe:
        """The first trial's with these values."""
        return with_values(self.start, values)

    def encoded(self, recipe: Recipe) -> dict[str, Any]:
        """A recipe as JSON, for `decoded`."""
        return asdict(recipe) if isinstance(recipe, Coefficients) else self.described(recipe)

    def decoded(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe that `encoded` gave."""
        return Coefficients(**values) if self.run.plan is None else self.recipe(values)

    def described(self, recipe: Recipe) -> dict[str, Any]:
        """Where it differs from the preset's."""
        if isinstance(recipe, Coefficients):
            return differences(recipe, self.usual)
        values = {each.name: value_of(recipe, each.name) for each in self.space}
        return {name: value for name, value in values.items() if value != value_of(self.start, name)}

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Fold and seed of each training of a trial, in their order."""
        return tuple((fold, seed) for seed in self.run.seeds for fold in range(self.run.folds))
