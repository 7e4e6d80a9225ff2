"""The settings of a search: the searched coefficients, and the training of each trial."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from training.rl.coefficients import SPACE
from training.rl.dimensions import Dimension, Plan, value_of, with_values
from training.runs.settings import Settings


@dataclass(frozen=True, slots=True)
class Search:
    """The settings of a search. `run` describes one training; its plan is that of the first trial."""

    run: Settings  # `run_folder` is the study's folder; `processes` work on the trials
    trials: int = 50
    seed: int = 1  # seed of the suggestions
    space: tuple[Dimension, ...] = SPACE
    ray: str = ""  # "auto", "local", an address; "" is Optuna in this machine's processes
    preset: str = ""  # preset whose plan the first trial has; "": the strategy's first

    def identity(self, bars_sha256: str) -> dict[str, Any]:
        """The settings that determine the trials. Their number is left out: more may be added later."""
        space = [
            {name: value for name, value in asdict(dimension).items() if name != "off"} | {"why": ""}
            for dimension in self.space
        ]
        run = replace(self.run, processes=1).identity(bars_sha256)
        normal: dict[str, Any] = json.loads(json.dumps({**run, "suggestions_seed": self.seed, "space": space}))
        return normal

    @property
    def usual(self) -> Plan:
        """The preset's plan, to which a file of coefficients is applied."""
        training_kind = self.run.kind
        return training_kind.preset(self.preset or next(iter(training_kind.presets))).plan.at(self.run.precision)

    @property
    def start(self) -> Plan:
        """The plan of the first trial."""
        return self.run.plan

    def recipe(self, values: Mapping[str, Any]) -> Plan:
        """The first trial's plan with these values of searched fields."""
        return with_values(self.start, values)

    def encoded(self, recipe: Plan) -> dict[str, Any]:
        """The searched fields of a plan, as JSON, for `recipe`."""
        return {dimension.name: value_of(recipe, dimension.name) for dimension in self.space}

    def described(self, recipe: Plan) -> dict[str, Any]:
        """The fields of a recipe that differ from the preset's, as JSON."""
        return recipe.differences(self.usual)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Fold and seed of each training of a trial, in their order."""
        return tuple((fold, seed) for seed in self.run.seeds for fold in range(self.run.folds))
