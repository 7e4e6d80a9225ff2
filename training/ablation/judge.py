"""Keep or drop: each setting less the run as asked, paired by fold and seed, and by session. Pure.

A setting is kept where both lower bounds are above 0: that over other seeds, and that over other sessions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from training.ablation.arms import BASE
from training.ablation.cells import Measured
from training.desks.kind import Arm
from training.evidence.resampling import FEWEST, Interval, paired_difference, seeds_interval

YEAR = 252  # sessions


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One setting. Growth is logarithmic, a year, on the validation sessions."""

    arm: str
    why: str
    growth: float  # the mean of its trainings
    over_starts: float  # deviation of a training's accounts that begin on different days; the mean of its trainings
    seeds: Interval | None = None  # of the difference, over seeds: interquartile mean; None of the run as asked
    sessions: Interval | None = None  # of the mean difference of returns, over sessions
    keep: bool = False
    words: str = ""


def judged(measured: Sequence[Measured], arms: Mapping[str, Arm]) -> tuple[Verdict, ...]:
    """The verdict on each setting, the run as asked first."""
    return tuple(_verdict(name, arm, measured) for name, arm in arms.items())


def _verdict(name: str, arm: Arm, measured: Sequence[Measured]) -> Verdict:
    own, base = (_of(which, measured) for which in (name, BASE))
    growth = float(np.mean([np.mean(one.growth) for one in own])) * YEAR
    deviation = float(np.mean([np.std(one.growth) for one in own])) * YEAR
    plain = Verdict(arm=name, why=arm.why, growth=growth, over_starts=deviation)
    if name == BASE:
        return plain
    gaps: dict[int, list[float]] = {}
    for ours, theirs in zip(own, base, strict=True):
        gaps.setdefault(ours.fold, []).append((float(np.mean(ours.growth)) - float(np.mean(theirs.growth))) * YEAR)
    seeds = seeds_interval([np.array(each) for each in gaps.values()])
    sessions = _a_year(paired_difference(_returns(own), _returns(base)))
    if min(map(len, gaps.values())) < 2 or len(_returns(own)) < FEWEST:
        words = f"drop: not known from one seed, or from fewer than {FEWEST} sessions"
        return msgspec.structs.replace(plain, seeds=seeds, sessions=sessions, words=words)
    keep = seeds.low > 0.0 and sessions.low > 0.0
    worse = seeds.high < 0.0 or sessions.high < 0.0
    words = "keep: better over seeds and over sessions" if keep else "drop: worse" if worse else "drop: not proven"
    return msgspec.structs.replace(plain, seeds=seeds, sessions=sessions, keep=keep, words=words)


def _of(name: str, measured: Sequence[Measured]) -> list[Measured]:
    """A setting's trainings, by fold and seed."""
    return sorted((one for one in measured if one.arm == name), key=lambda one: (one.fold, one.seed))


def _returns(trainings: Sequence[Measured]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Returns of all sessions, fold by fold, each the mean over seeds."""
    folds = sorted({one.fold for one in trainings})
    means = [np.mean([one.returns for one in trainings if one.fold == fold], axis=0) for fold in folds]
    return np.concatenate(means)


def _a_year(found: Interval) -> Interval:
    return msgspec.structs.replace(found, estimate=found.estimate * YEAR, low=found.low * YEAR, high=found.high * YEAR)
