"""Named settings: how many steps, and which plan, such as the coefficients of PPO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from training.rl.coefficients import Coefficients
from training.rl.dimensions import Plan

RANDOM, PASSIVE = "random", "passive"
"""Where training begins: at weights that are drawn, or near the strategy's passive policy."""


@dataclass(frozen=True, slots=True)
class Practice:
    """How training environments differ from the desk. Validation, tests and export follow the desk.

    A strategy has some of these: see `training.desks.kind.Procedure.practised`.
    """

    permute: bool = False  # each episode shows the symbols in a random order
    universe: float = 1.0  # the share of the symbols, drawn for each episode, that the episode may trade
    fixed_start: bool = False  # every episode begins at the first session instead of a random one
    turnover: float = 0.0  # part of the value traded that is subtracted from the reward
    over_market: bool = False  # the market's return on the starting capital is subtracted from the reward
    from_date: str = ""  # training uses no session before this New York date

    @property
    def changes(self) -> dict[str, Any]:
        """The fields that are not the defaults, by name."""
        usual = asdict(AS_THE_DESK)
        return {name: value for name, value in asdict(self).items() if value != usual[name]}


AS_THE_DESK = Practice()
EVERYWHERE = ("from_date",)  # fields that every PPO strategy supports


@dataclass(frozen=True, slots=True)
class Preset:
    """What a run is trained with. `why` is one line for `--help` and the manual."""

    why: str
    steps: int  # transitions of each trial
    plan: Plan = field(default_factory=Coefficients)
    begins: str = RANDOM

    @property
    def gradient_steps(self) -> int | None:
        """How many steps of the optimizer a trial takes; None where that is not known."""
        return self.plan.gradient_steps(self.steps)


BOUNDS = {"universe": (0.02, 1.0), "turnover": (0.0, 1.0)}


def practice_of(texts: Sequence[str], keys: Sequence[str], strategy: str) -> Practice:
    """The practice given by `KEY=VALUE` texts; `keys` are those that the strategy supports.

    Raises:
        ValueError: a key is unknown or has two values, or a value is of the wrong type or out of bounds.
    """
    values: dict[str, str] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if key not in keys:
            expected = f"expected one of {', '.join(keys)}" if keys else "it has none"
            raise ValueError(f"--practice {text}: {strategy} has no {key!r}: {expected}")
        if values.setdefault(key, value) != value:
            raise ValueError(f"--practice {text}: {key} is {values[key]} as well: expected one value of it")
    return checked(values)


def checked(values: Mapping[str, Any]) -> Practice:
    """The practice of these values, as they are or as texts. Raises ValueError as `practice_of`."""
    try:
        practice = msgspec.convert(dict(values), type=Practice, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"--practice: {error}") from error
    for name, (low, high) in BOUNDS.items():
        if not low <= getattr(practice, name) <= high:
            raise ValueError(f"--practice {name} is {getattr(practice, name)}: expected {low:g} to {high:g}")
    return practice
