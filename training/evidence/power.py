"""The power of promotion's criteria: how often simulated returns pass those that depend on returns alone.

Returns have fat tails (Student's t with 4 degrees of freedom), calm and wild weeks, and ten seeds whose leads share
half of their variance. A series without an edge stands for a choice by validation from noise. The criteria of seeds,
trades, random traders, costs and delay are not simulated; they could only lower the rates.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple, cast

import numpy as np

from training.evidence.criteria import CRITERIA, Criterion, passes
from training.evidence.findings import Findings
from training.evidence.lead import lead_of, lower_bound
from training.evidence.statistics import Series, max_drawdown, total
from training.study.study import SESSIONS_A_YEAR

SEEDS = 10
FREEDOM = 4  # of Student's t
WILD, TURN = 2.0, 0.05  # deviation as a multiple of the calm one; probability a session of a change
LINK = 0.5  # the shared part of the variance of the seeds' leads
OF_RETURNS = ("length", "profit", "baselines", "lead", "deflated lead", "overfitting", "drawdown")


@dataclass(frozen=True, slots=True)
class Cadence:
    """A kind of desk: its market's returns and its lead over the best baseline, per session."""

    name: str
    compounds: bool  # True: one invested account; False: an account for each session, flat overnight
    lead_deviation: float
    market_deviation: float = 0.011
    market_sharpe: float = 0.7  # a year

    @property
    def edge(self) -> str:
        """Words for what the ratio of an edge measures."""
        return "lead over the market" if self.compounds else "returns"


MINUTES = Cadence("minutes", compounds=False, lead_deviation=0.012)
DAYS = Cadence("days", compounds=True, lead_deviation=0.005)


class SimulatedTest(NamedTuple):
    """A simulated test: returns of the policy, the baselines and all trials."""

    policy: Series  # (sessions,)
    baselines: Mapping[str, Series]
    trials: Series  # (sessions, SEEDS); the policy is the first


class Rate(NamedTuple):
    """How many of the simulated tests passed, and which criteria the others failed first."""

    passed: int
    series: int
    failed: Mapping[str, int]

    @property
    def share(self) -> float:
        """The share of the tests that passed."""
        return self.passed / self.series


def simulate_test(cadence: Cadence, sessions: int, ratio: float, random: np.random.Generator) -> SimulatedTest:
    """Simulate a test of a policy whose edge has the annual ratio `ratio` of mean to deviation; 0 is noise."""
    wild = (random.random(sessions) < TURN).cumsum() % 2 == random.integers(2)
    scale = np.where(wild, WILD, 1.0) / math.sqrt((1.0 + WILD**2) / 2.0)

    def noise(count: int) -> Series:
        fat = random.standard_t(FREEDOM, (sessions, count)) / math.sqrt(FREEDOM / (FREEDOM - 2.0))
        return np.asarray(fat * scale[:, None], dtype=np.float64)

    year = math.sqrt(SESSIONS_A_YEAR)
    market = cadence.market_deviation * (noise(1)[:, 0] + cadence.market_sharpe / year)
    leads = math.sqrt(LINK) * noise(1) + math.sqrt(1.0 - LINK) * noise(SEEDS) + ratio / year
    trials = cadence.lead_deviation * leads
    baselines = {"always flat": np.zeros(sessions), "buy and hold": market}
    if cadence.compounds:
        trials = trials + market[:, None]
        baselines["equal weight"] = market + 0.2 * cadence.lead_deviation * noise(1)[:, 0]
    return SimulatedTest(trials[:, 0], baselines, trials)


def first_failed(test: SimulatedTest, compounds: bool) -> str:
    """The first criterion of `OF_RETURNS` that this test fails, in the table's order; "" where it passes all."""
    nets = {name: total(returns, compounds=compounds) for name, returns in test.baselines.items()}
    gap = test.policy - test.baselines[max(nets, key=lambda name: nets[name])]
    if lower_bound(gap, math.cbrt(len(gap))) <= 0.0:  # checked first, because most noise fails here
        return "lead"
    findings = SimpleNamespace(
        policy=_player(test.policy, compounds),
        rivals=[_player(returns, compounds) for returns in test.baselines.values()],
        lead=lead_of(test.policy, test.baselines, test.trials, compounds=compounds),
        compounds=compounds,
        imported=False,
    )
    return next(
        (criterion.name for criterion in _of_returns() if not passes(criterion, cast("Findings", findings))), ""
    )


def rate(cadence: Cadence, sessions: int, ratio: float, series: int, seed: int = 0) -> Rate:
    """How many of `series` simulated tests pass."""
    random = np.random.default_rng([seed, sessions, round(1000 * ratio)])
    failures = Counter(
        first_failed(simulate_test(cadence, sessions, ratio, random), cadence.compounds) for _ in range(series)
    )
    return Rate(failures.pop("", 0), series, dict(failures))


def _of_returns() -> list[Criterion]:
    return [criterion for criterion in CRITERIA if criterion.name in OF_RETURNS]


def _player(returns: Series, compounds: bool) -> SimpleNamespace:
    """The fields of a player that the criteria read."""
    return SimpleNamespace(
        figures=SimpleNamespace(
            sessions=len(returns),
            net_return=total(returns, compounds=compounds),
            max_drawdown=max_drawdown(returns, compounds=compounds),
        )
    )
