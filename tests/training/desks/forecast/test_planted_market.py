"""The whole line on markets whose optimum is known: forecasters, their forecasts of later years, agents, one account.

Features tell tomorrow's class with a known probability, and prices do what the class names. Signals of two sessions are
independent, and costs are in proportion to what is traded; so the best rule buys the most that is allowed where the
expected return is above one threshold, sells all where it is below another, and stays as it is between. The thresholds
are the best ones of the year that the agents learn on, out of a grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from daemon.core.limits import Trading
from tests.support.planted.panels import PLAN, moving, panel, walk_forward
from tests.support.rl.trained import train_agent
from tests.support.training.made_up_days import trading
from training.data.daily_table import DailyTable
from training.desks.forecast.graph import RowScaling, size_of, weighted
from training.desks.forecast.market import ForecastMarket, Outlook
from training.forecast.labels import BUY, SELL
from training.forecast.stage import FoldResult
from training.rl.off_policy.coefficients import OffPolicyCoefficients
from training.rl.off_policy.presets import build
from training.rl.off_policy.trainer import OffPolicyTrainer
from training.rl.ppo import make_deterministic

MOVE = 0.02
NONE = torch.zeros(())  # a variance that sizing by confidence does not read
QUICK = OffPolicyCoefficients(
    learning_rate=3e-3,
    schedule="linear",
    environments=128,
    batch=512,
    gradient_steps=2,
    per_transitions=64,
    learning_starts=2048,
    discount=0.9,
    smoothing=0.02,
    actor_delay=2,
    temperature=0.1,
    target_entropy=-3.0,  # the optimum is at the bounds, where a squashed action has little entropy
    reward_scale=100.0,
    actor_widths=(32, 32),
    critic_widths=(48, 48),
    normalised=True,
)
SAC = replace(QUICK, learning_rate=6e-3, batch=256, discount=0.8)
Rule = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Line:
    """A market with the forecasts of two years, of which the agents learn on the first."""

    table: DailyTable
    outlook: Outlook
    truth: NDArray[np.float64]  # (d, n, 3)
    results: tuple[FoldResult, ...]
    rules: Trading

    def span(self, year: int) -> tuple[int, int]:
        """The sessions of a year, less the first, which was decided on in the year before."""
        days = [day for day, date in enumerate(self.table.dates) if date.startswith(str(year))]
        return days[1], days[-1]

    def play(self, rule: Rule, year: int) -> tuple[float, float]:
        """The logarithmic growth of one account that trades final actions (n,), and its turnover a session."""
        first, last = self.span(year)
        market = ForecastMarket(self.table, self.outlook, first, last, self.rules, count=1, draws=False)
        turned = 0.0
        for day in range(first, last + 1):
            market.trade(rule(market.observe()).unsqueeze(0))
            prices = torch.from_numpy(self.table.open_ticks[day] / 10_000)
            turned += float(((market.traded[0] + market.traded[1]) * prices).sum() / market.closing_usd[0])
        return math.log(float(market.closing_usd[0]) / 100_000.0), turned / (last - first + 1)

    def agent(self, name: str, coefficients: OffPolicyCoefficients) -> Rule:
        """One that learned on the first year, with what confidence takes."""
        make_deterministic()
        first, last = self.span(2012)
        market = ForecastMarket(
            self.table, self.outlook, first, last, self.rules, count=16, portfolio=8, seed=1, episode=40
        )
        scaling = RowScaling.of(torch.cat([_random_step(market, nth) for nth in range(40)]), 0.1)
        c = replace(coefficients, environments=market.rows)
        agent = build(name, self.outlook.width, c, seed=1, scaling=scaling)
        train_agent(OffPolicyTrainer(agent, market, c, total_steps=STEPS, seed=1))

        @torch.no_grad()
        def rule(rows: Tensor) -> Tensor:
            wish: Tensor = agent.actor(rows)[:, 0]
            return weighted(wish, size_of(rows[:, 3], NONE))

        return rule


STEPS = 60_000


def _random_step(market: ForecastMarket, nth: int) -> Tensor:
    observations = market.observe()
    market.step(torch.rand(market.rows, 1, generator=torch.Generator().manual_seed(nth)) * 2.0 - 1.0)
    return observations


@cache
def line(*, planted: bool) -> Line:
    """Three years of history, forecasts of 2012 and 2013."""
    material, truth = panel(3, planted=planted, strength=8.0)
    recipe = msgspec.structs.replace(PLAN.recipe, epochs=20, stride=1)
    forecasts, results = walk_forward(material, msgspec.structs.replace(PLAN, first_year=2012, recipe=recipe))
    table = moving(material, MOVE)
    rules = replace(trading("100000"), basket=replace(trading("100000").basket, weight_max=0.1))
    nothing = np.zeros((*truth.shape[:2], 0), dtype=np.float32)
    return Line(table, Outlook(forecasts.probabilities, forecasts.confidence, nothing), truth, results, rules)


@cache
def optimum(*, omniscient: bool = False) -> float:
    """The best of the rules with two thresholds on what is forecast, or on the true probabilities."""
    of = line(planted=True)
    probabilities = of.truth if omniscient else of.outlook.probabilities.astype(np.float64)
    expected = torch.from_numpy(MOVE * (probabilities[:, :, BUY] - probabilities[:, :, SELL]))

    def rule(enter: float, leave: float, year: int) -> Rule:
        days = itertools.count(of.span(year)[0] - 1)

        def final(rows: Tensor) -> Tensor:
            value = expected[next(days)]
            positions = (rows[:, -5] > 0.0).double()
            return weighted(
                torch.where(value > enter, 1.0, torch.where(value < leave, 0.0, positions)).float(),
                size_of(rows[:, 3], NONE),
            )

        return final

    grid = (-3e-3, -2e-3, -1e-3, 0.0, 5e-4, 1e-3, 2e-3)
    pairs = ((enter, leave) for enter in grid for leave in grid if leave <= enter)
    enter, leave = max(pairs, key=lambda pair: of.play(rule(pair[0], pair[1], 2012), 2012)[0])
    return of.play(rule(enter, leave, 2013), 2013)[0]


def test_forecasters_of_both_years_reach_95_percent_of_bayes_accuracy() -> None:
    of = line(planted=True)
    for result in of.results:
        days = [day for day, date in enumerate(of.table.dates) if date.startswith(str(result.fold.year))]
        best = float(of.truth[days].max(axis=2).mean())
        assert best > 0.9
        assert result.tested is not None
        assert result.tested.after.accuracy.estimate >= 0.95 * best


@pytest.mark.parametrize("name", ["sac", "td3"])
def test_agents_that_learned_on_forecasts_of_one_year_earn_95_percent_of_the_optimum_in_the_next(name: str) -> None:
    of = line(planted=True)
    earned = of.play(of.agent(name, SAC if name == "sac" else QUICK), 2013)[0]
    assert earned >= 0.95 * optimum()
    assert earned >= 0.9 * optimum(omniscient=True)


def test_noise_is_forecast_no_better_than_by_the_commonest_class() -> None:
    for result in line(planted=False).results:
        assert result.tested is not None
        scores = result.tested.after
        width = scores.accuracy.high - scores.accuracy.low
        assert scores.accuracy.estimate == pytest.approx(scores.base_rate.estimate, abs=width)


@pytest.mark.parametrize("name", ["sac", "td3"])
def test_on_noise_the_agents_learn_not_to_trade(name: str) -> None:
    of = line(planted=False)
    generator = torch.Generator().manual_seed(1)
    _, at_random = of.play(lambda rows: torch.rand(len(rows), generator=generator) * 2.0 - 1.0, 2013)
    growth, turnover = of.play(of.agent(name, QUICK), 2013)
    assert at_random > 0.2
    assert turnover < 0.1 * at_random
    assert abs(growth) < 0.01
