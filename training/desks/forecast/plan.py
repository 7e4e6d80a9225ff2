"""What a run of `forecast_ensemble` is asked for, and its folds: walk-forward by years."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import msgspec

from training.forecast.labels import TOUCHES, Barriers
from training.forecast.network import CONFIDENCES, Sizes, confidence_at
from training.forecast.stage import ForecasterSettings as ForecasterPlan
from training.forecast.trainer import MemberRecipe
from training.rl.coefficients import PRECISIONS
from training.rl.dimensions import Dimension, Plan, with_values
from training.rl.off_policy.coefficients import OffPolicyCoefficients
from training.rl.off_policy.presets import RECIPES
from training.rl.presets import PASSIVE, Preset
from training.study.folds import HistoryError, Walk, walk
from training.study.study import SESSIONS_A_YEAR, Fold

FEW_LARGE, TEXTBOOK = RECIPES["few_large"], RECIPES["textbook"]
CAPACITY = 1 << 18  # transitions of a replay: of the millions that an agent sees, old ones are as valid as new ones
SCALE = 100.0  # factor on a reward, which is a day's return, about 0.01
SAC = replace(FEW_LARGE.sac, capacity=CAPACITY, reward_scale=SCALE)
SATURATION = 0.01  # without it 90 % of TD3's actions are at the bounds, whatever the observation: docs/FORECAST.md
TD3 = replace(FEW_LARGE.td3, capacity=CAPACITY, reward_scale=SCALE, saturation=SATURATION)

PURGE = 60 + 100 + 5  # sessions between spans: rows of a sequence, longest window of a feature, horizon of a label
WALK = Walk(train=100, validate=SESSIONS_A_YEAR, test=SESSIONS_A_YEAR, purge=PURGE, years=True)


@dataclass(frozen=True, slots=True)
class ForecastPlan(Plan):
    """The forecaster of year y trains up to y - 2, is calibrated on y - 1 and forecasts y.

    The agents tested on year y learn from and are chosen on forecasts of earlier years, with sessions left out between
    the spans (`WALK`): no forecast they see is of a session that its forecaster has learnt from.
    """

    members: int = 1  # of a deep ensemble
    forecaster: ForecasterPlan = field(default_factory=ForecasterPlan)
    first_test: int = 2017
    last_test: int = 2022
    sac: OffPolicyCoefficients = SAC
    td3: OffPolicyCoefficients = TD3
    portfolio: int = 16  # symbols of an account while agents learn
    episode: int = 126  # sessions
    alpha: float = 1.0  # weight of the bonus, which no action changes, so it is not searched
    looks: int = 20  # validation checks of each agent
    thresholds: tuple[float, ...] = (0.0, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)  # probabilities; for the forecaster alone
    risk_target: float = 0.0  # deviation of a session's return, for sizing; 0: the source's min(2 x confidence, 1)
    sessions: int | None = None  # most sessions of a validation or test span; None: the whole year

    def at(self, precision: str, /) -> Self:
        """The same with the forecaster in bf16 where the run is; see `ForecasterSettings.at`."""
        return with_values(self, {"forecaster.recipe.precision": precision}) if precision != PRECISIONS[0] else self

    @property
    def forecast(self) -> ForecasterPlan:
        """The settings of the forecast."""
        years = {"first_year": self.forecaster.first_year, "last_year": self.last_test}
        return msgspec.structs.replace(self.forecaster, members=self.members, **years)

    @property
    def least(self) -> tuple[float, ...]:
        """The thresholds in the unit of the confidence."""
        return tuple(confidence_at(threshold, self.forecaster.confidence) for threshold in self.thresholds)

    @property
    def years(self) -> range:
        """The years that are forecast."""
        return range(self.forecaster.first_year, self.last_test + 1)

    @property
    def tests(self) -> range:
        """The years that are tested, a fold each."""
        return range(self.first_test, self.last_test + 1)

    @property
    def folds(self) -> int:
        """See `ForecasterSettings`: one for each tested year."""
        return len(self.tests)

    @property
    def searched(self) -> tuple[Dimension, ...]:
        """See `ForecasterSettings`: of the forecaster, and of each agent."""
        batch = self.forecaster.recipe.batch
        dimensions = [
            Dimension("forecaster.recipe.learning_rate", "the one that matters most", 2e-4, 5e-3, log=True),
            Dimension("forecaster.recipe.weight_decay", "against learning by heart", 1e-6, 1e-2, log=True),
            Dimension("forecaster.recipe.batch", "noise of a gradient", choices=(batch // 2, batch, batch * 2)),
        ]
        for agent in ("sac", "td3"):
            coefficients = self.coefficients(agent)
            steps = tuple(sorted({1, 2, 4, coefficients.gradient_steps}))
            dimensions += [
                Dimension(f"{agent}.learning_rate", "the one that matters most", 1e-4, 1e-2, log=True),
                Dimension(f"{agent}.discount", "0.9 looks 10 sessions ahead, 0.995 two hundred", 0.9, 0.995),
                Dimension(f"{agent}.smoothing", "how fast targets follow", 2e-3, 0.1, log=True),
                Dimension(f"{agent}.gradient_steps", "how much is learnt from what was seen", choices=steps),
            ]
        return (*dimensions, Dimension("td3.exploration", "noise on the actions", 0.05, 0.5))

    @property
    def settable(self) -> tuple[Dimension, ...]:
        """See `ForecasterSettings`: what is searched, and what no search chooses."""
        return (
            *self.searched,
            Dimension("forecaster.confidence", "of the predicted class, or of all three", choices=CONFIDENCES),
            Dimension("forecaster.barriers.up", "width of the upper barrier, in deviations", 0.1, 10.0),
            Dimension("forecaster.barriers.down", "width of the lower barrier", 0.1, 10.0),
            Dimension("forecaster.barriers.horizon", "sessions until a label is HOLD", 1, 60, whole=True),
            Dimension("forecaster.barriers.volatility_rows", "of the deviation", 5, 250, whole=True),
            Dimension("forecaster.barriers.touch", "what touches a barrier", choices=TOUCHES),
            Dimension("forecaster.embargo", "sessions after a label", 0, 60, whole=True),
            Dimension("forecaster.recipe.epochs", "at most", 1, 1000, whole=True),
            Dimension("forecaster.recipe.patience", "epochs without a better one; 0 never stops", 0, 1000, whole=True),
            Dimension("forecaster.recipe.stride", "sessions between the rows of an epoch", 1, 60, whole=True),
            Dimension("forecaster.recipe.precision", "of products, whatever --precision says", choices=PRECISIONS),
            Dimension("forecaster.seed", "of the forecaster's weights: --seed is the agents'", 0, 2**31, whole=True),
            *(
                Dimension(name, why, 1990, 2100, whole=True)
                for name, why in (
                    ("forecaster.first_year", "that is forecast: two years before the first test"),
                    ("first_test", "the first tested year"),
                    ("last_test", "the last tested year"),
                )
            ),
            Dimension("alpha", "of the bonus, which no action changes", 0.0, 100.0),
            Dimension("risk_target", "sizes by it over the forecast deviation; 0: by confidence", 0.0, 0.1),
            Dimension("portfolio", "symbols of an account while agents learn", 1, 500, whole=True),
            Dimension("episode", "sessions of such an account", 5, 2520, whole=True),
            Dimension("looks", "at the validation sessions, by each agent", 1, 1000, whole=True),
        )

    @property
    def common(self) -> Any:
        """See `ForecasterSettings`: the forecaster, whatever the agents."""
        return msgspec.to_builtins(self.forecast)

    def coefficients(self, agent: str) -> OffPolicyCoefficients:
        """The coefficients of an agent, "sac" or "td3"."""
        return {"sac": self.sac, "td3": self.td3}[agent]


def folds_of(dates: Sequence[str], plan: ForecastPlan) -> tuple[Fold, ...]:
    """A fold for each tested year: see `WALK`. Agents learn on forecasts alone, so from the first forecast year on.

    The first session of the first forecast year is left out: a decision before its open needs a forecast at the close
    before, and none was made out of sample.

    Raises:
        HistoryError: a year has no session that can be decided on.
        ValueError: no year is tested, or `sessions` would cut holes into the account that goes through all tests.
    """
    if not plan.tests:
        raise ValueError(f"first_test is {plan.first_test}: expected {plan.last_test}, last_test, at most")
    if plan.sessions is not None and len(plan.tests) > 1:
        raise ValueError(
            f"sessions is {plan.sessions} and {len(plan.tests)} years are tested by one account: expected whole years, "
            "or one tested year"
        )
    by_year: dict[int, list[str]] = {}
    for date in dates:
        by_year.setdefault(int(date[:4]), []).append(date)
    first = plan.years[0]
    missing = [year for year in plan.years if year not in by_year]
    if missing or first > plan.first_test - 2:
        raise HistoryError(
            f"no session of {missing or 'a year that the agents could learn on'} can be decided on; expected all of "
            f"{first} to {plan.last_test}, the first two years before {plan.first_test}: give a longer file"
        )
    forecast = [date for year in plan.years for date in by_year[year]][1:]
    folds = walk(forecast, _walk_of(plan), len(plan.tests))
    return tuple(Fold(fold.train, fold.validate, fold.test[: plan.sessions]) for fold in folds)


def _walk_of(plan: ForecastPlan) -> Walk:
    """The rule of the spans; a longer label leaves out more sessions between them."""
    horizons = plan.forecaster.barriers.horizon - Barriers().horizon
    rule = WALK._replace(purge=WALK.purge + horizons)
    return rule if plan.sessions is None else rule._replace(validate=plan.sessions)


def search_folds(dates: Sequence[str], plan: ForecastPlan, count: int) -> tuple[Fold, ...]:
    """See `Procedure.search_folds`: the years before the first tested one, as if each were tested: for validation."""
    fold_list = []
    for test in range(plan.first_test - count + 1, plan.first_test + 1):
        fold = folds_of(dates, replace(plan, first_test=test, last_test=test))[0]
        fold_list.append(Fold(fold.train, fold.validate, ()))
    return tuple(fold_list)


def _smoke() -> ForecastPlan:
    def small(agent: OffPolicyCoefficients) -> OffPolicyCoefficients:
        return replace(
            agent,
            environments=64,
            batch=64,
            per_transitions=64,
            round_transitions=1024,
            learning_starts=1024,
            actor_widths=(16, 16),
            critic_widths=(16, 16),
            capacity=4096,
            reward_scale=SCALE,
        )

    return ForecastPlan(
        forecaster=ForecasterPlan(
            sizes=Sizes(channels=(4, 4), hidden=8, attention=8),
            recipe=MemberRecipe(epochs=2, batch=64, stride=10, patience=0),
            first_year=2020,
        ),
        first_test=2022,
        sac=small(FEW_LARGE.sac),
        td3=small(TD3),
        portfolio=4,
        looks=2,
        sessions=12,
    )


PRESETS = {
    "walk": Preset(
        "walk-forward by years, tested on 2017 to 2022; few and large updates on 1,024 rows",
        2_000_000,
        plan=ForecastPlan(),
    ),
    "passive": Preset(
        "as `walk`, from agents that want nearly as much of every stock as one may weigh",
        2_000_000,
        begins=PASSIVE,
        plan=ForecastPlan(),
    ),
    "textbook": Preset(
        "the same with SAC and TD3 as Stable-Baselines3 has them: an update for each transition",
        100_000,
        plan=ForecastPlan(
            sac=replace(TEXTBOOK.sac, environments=16, gradient_steps=16, per_transitions=16, reward_scale=SCALE),
            td3=replace(TEXTBOOK.td3, environments=16, gradient_steps=16, per_transitions=16, reward_scale=SCALE),
        ),
    ),
    "smoke": Preset("does it run? A tiny network, 12 sessions of 2022", 8192, plan=_smoke()),
}
