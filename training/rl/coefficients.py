"""Settings and reports of PPO: coefficients and their bounds, progress, the error of a loss that is not finite.

Sources: the numbers in the comments are those of `training.rl.ppo`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self

from training.rl.dimensions import Dimension, Plan, unknown, whole_rollouts

MANY = 1e9
SEARCH_STEPS, SEARCH_ROLLOUTS = 150_000, 4  # transitions of each training of a search: the larger of the two
SCHEDULES = ("linear", "cosine", "constant")
PRECISIONS = ("float32", "bf16")
FIGURES = ("policy loss", "value loss", "entropy", "KL", "clip fraction", "loss", "gradient norm")
"""The figures recorded for every minibatch, in this order."""


@dataclass(frozen=True, slots=True)
class Coefficients(Plan):
    """Defaults are those of [4], but for a rollout of many environments and a falling learning rate."""

    setting: ClassVar[str] = "coefficients"

    learning_rate: float = 3e-4
    schedule: str = "linear"  # to 0 over the run: [3] detail 4; "cosine" to 0; "constant"
    adam_epsilon: float = 1e-5  # [3] detail 3
    discount: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_clip: float | None = None  # [4] `clip_range_vf`; [3] detail 9
    entropy: float = 0.0
    value: float = 0.5
    max_grad_norm: float = 0.5
    target_kl: float | None = None  # nats; an update ends at the first minibatch whose KL > 1.5 x this: [4]
    normalize_advantage: bool = True
    epochs: int = 10
    environments: int = 256
    rollout_steps: int = 64  # of each environment
    batch: int = 1024  # transitions of a minibatch: 300,000 steps take 3,040 of them, with 4096 760
    weight_average: float | None = None  # decay of the moving average of weights, which is played and kept
    sequence: int = 32  # steps of a truncated back-propagation; only for networks that carry a state

    @property
    def rollout(self) -> int:
        """Transitions of all environments."""
        return self.environments * self.rollout_steps

    def trained_steps(self, steps: int, /) -> int:
        """See `Plan`."""
        return whole_rollouts(steps, self.rollout) * self.rollout

    def gradient_steps(self, steps: int, /) -> int:
        """How many steps of the optimizer a training of so many transitions takes."""
        return whole_rollouts(steps, self.rollout) * self.epochs * -(-self.rollout // self.batch)

    def search_steps(self, _steps: int, /) -> int:
        """See `Plan`: independent of the run's steps, and `SEARCH_ROLLOUTS` rollouts at least."""
        return max(SEARCH_STEPS, SEARCH_ROLLOUTS * self.rollout)

    @property
    def searched(self) -> tuple[Dimension, ...]:
        """`SPACE`, extended to include the values of these coefficients.

        A range is extended to the value. Choices of batch and rollout become half, once and twice the value; a rollout
        stays a multiple of `sequence`.
        """
        return tuple(_around(dimension, self) for dimension in SPACE)

    def changed(self, values: Mapping[str, Any], origin: str) -> Self:
        """See `Plan`: every field may be changed, within `BOUNDS`."""
        for name, value in values.items():
            if problem := _problem(name, value):
                raise ValueError(f"{origin}: {problem}")
        return replace(self, **values)

    def differences(self, usual: Self) -> dict[str, Any]:
        """See `Plan`: of all fields."""
        defaults = asdict(usual)
        return {name: value for name, value in asdict(self).items() if value != defaults[name]}


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Valid values: from `low` (excluded when `above`) to `high`; whole numbers if `whole`; also null if `optional`."""

    low: float = 0.0
    high: float = MANY
    above: bool = True
    whole: bool = False
    optional: bool = False

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        low = f"above {self.low:g}" if self.above else f"from {self.low:g}"
        high = "" if self.high == MANY else f" up to {self.high:g}"
        return f"{kind} {low}{high}{', or null' if self.optional else ''}"

    def hold(self, value: object) -> bool:
        """Whether `value` is such a number."""
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        return self.low <= value <= self.high and not (self.above and value == self.low)


_COUNT = _Bounds(1.0, above=False, whole=True)
_SHARE, _ANY_SHARE = _Bounds(high=1.0), _Bounds(high=1.0, above=False)
BOUNDS = {
    "learning_rate": _SHARE,
    "adam_epsilon": _SHARE,
    "discount": _SHARE,
    "gae_lambda": _ANY_SHARE,
    "clip": _SHARE,
    "value_clip": _Bounds(optional=True),
    "entropy": _ANY_SHARE,
    "value": _Bounds(above=False),
    "max_grad_norm": _Bounds(),
    "target_kl": _Bounds(optional=True),
    "weight_average": _Bounds(high=0.9999, optional=True),
    "epochs": _COUNT,
    "environments": _COUNT,
    "rollout_steps": _COUNT,
    "batch": _COUNT,
    "sequence": _COUNT,
}
"""Bounds of each numeric coefficient; `schedule` is a word, `normalize_advantage` a bool."""


def _problem(name: str, value: object) -> str:
    """What is wrong with a field; empty when nothing is."""
    defaults = asdict(Coefficients())
    if name not in defaults:
        return unknown(name, defaults)
    if name == "schedule":
        expected = f"one of {', '.join(map(repr, SCHEDULES))}"
        good = value in SCHEDULES
    elif name == "normalize_advantage":
        expected, good = "true or false", isinstance(value, bool)
    else:
        expected, good = str(BOUNDS[name]), BOUNDS[name].hold(value)
    return "" if good else f"{name} is {value!r}: expected {expected}"


SPACE = (
    Dimension("learning_rate", "the one that matters most; a factor, not a difference", 5e-5, 2e-3, log=True),
    Dimension("schedule", "whether the last steps are small", choices=SCHEDULES),
    Dimension("discount", "0.97 looks 30 decisions ahead, 0.999 a thousand", 0.97, 0.999),
    Dimension("gae_lambda", "trusts the critic or what was earned", 0.8, 0.99),
    Dimension("clip", "how far one rollout may move the policy", 0.1, 0.3),
    Dimension("entropy", "keeps trying when fees punish every trade", 1e-4, 3e-2, log=True, optional=True, off=0.0),
    Dimension("value_clip", "steadies the critic where rewards jump", 0.1, 0.4, optional=True),
    Dimension("target_kl", "ends an update that has moved far enough", 0.01, 0.05, log=True, optional=True),
    Dimension("epochs", "how often a rollout is learned from", 4, 10, whole=True),
    Dimension("batch", "noise of a gradient against the number of them", choices=(512, 1024, 2048, 4096)),
    Dimension("rollout_steps", "how much is collected between two updates", choices=(32, 64, 128)),
)
"""What is searched, and why; the first trial has the defaults."""


def _around(dimension: Dimension, start: Coefficients) -> Dimension:
    multiples = {"batch": 1, "rollout_steps": start.sequence}
    value = getattr(start, dimension.name)
    if dimension.name in multiples:
        if value in dimension.choices:
            return dimension
        near = [n for n in (value // 2, value * 2) if n > 0 and n % multiples[dimension.name] == 0]
        return replace(dimension, choices=tuple(sorted({value, *near})))
    if dimension.choices or (dimension.optional and value == dimension.off):
        return dimension
    return replace(dimension, low=min(dimension.low, value), high=max(dimension.high, value))


@dataclass(frozen=True, slots=True)
class Progress:
    """What one update did, averaged over its minibatches; reward, explained variance and steps are of this process."""

    steps: int
    updates: int
    reward: float  # mean of a step
    policy_loss: float
    value_loss: float
    entropy: float  # nats
    kl: float  # nats, the estimator (r - 1) - ln r of http://joschu.net/blog/kl-approx.html
    clip_fraction: float
    explained_variance: float
    gradient_norm: float  # gradient norm before clipping
    learning_rate: float
    epochs: int  # epochs begun: fewer than `Coefficients.epochs` where `target_kl` ended the update


def rate_at(rate: float, schedule: str, share: float) -> float:
    """The learning rate after `share` of a run that began with `rate`."""
    match schedule:
        case "linear":
            return rate * (1.0 - share)
        case "cosine":
            return rate * 0.5 * (1.0 + math.cos(math.pi * share))
        case _:
            return rate


class NotFiniteError(ArithmeticError):
    """A loss or a gradient norm is not finite; the weights are still those before that minibatch."""

    def __init__(self, update: int, minibatch: int, what: str, value: float) -> None:
        super().__init__(
            f"the {what} of minibatch {minibatch} in update {update} is {value}, expected a finite number; the weights "
            f"are those before it: look at rewards and observations, or lower learning_rate or max_grad_norm"
        )
        self.update = update
        self.minibatch = minibatch
        self.what = what


def check_coefficients(c: Coefficients, sequence: int, precision: str) -> None:
    """Raise where coefficients do not fit each other."""
    if c.schedule not in SCHEDULES:
        raise ValueError(f"schedule is {c.schedule!r}: expected one of {', '.join(SCHEDULES)}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}: expected one of {', '.join(PRECISIONS)}")
    if c.rollout_steps % sequence or c.batch % sequence:
        raise ValueError(
            f"rollout_steps is {c.rollout_steps} and batch {c.batch}: with a carried state expected multiples of "
            f"sequence, {sequence}"
        )
