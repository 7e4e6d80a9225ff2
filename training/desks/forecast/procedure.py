"""What a run of `forecast_ensemble` has for the report and the manifest: its forecasts and what validation chose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
from torch import nn

from daemon.core.limits import Trading
from training.desks.forecast import graph
from training.desks.forecast.agents import Work, first_agents
from training.desks.forecast.baselines import players
from training.desks.forecast.claims import DECISION_MS
from training.desks.forecast.graph import Policy, made_weights
from training.desks.forecast.market import BONUS
from training.desks.forecast.plan import ForecastPlan, folds_of, search_folds, settable_of, space_of
from training.desks.forecast.task_data import ForecastTaskData, load
from training.desks.forecast.years import (
    MEMBER_TASK,
    YEAR_TASK,
    forecast_of,
    forecaster_of,
    joined,
    member_task,
    milliseconds,
    year_task,
)
from training.desks.kind import Keeper, Played, Sources, Span
from training.desks.trial import RLLIB, Control, Listener, News, Request, Trained
from training.forecast.findings import KEY, find
from training.forecast.folds import by_years
from training.rl.dimensions import Dimension
from training.rl.presets import Plan
from training.study.study import Fold

# What a run of `forecast_ensemble` has for the report and the manifest: its forecasts and what validation chose.

ALPHA_IS = "given, not chosen: no action changes the bonus, so no choice depends on alpha"


def for_report(
    own: ForecastPlan,
    policies: Sequence[nn.Module],
    data: ForecastTaskData,
    done: Callable[[str], Mapping[str, Any]],
) -> dict[str, Any]:
    """See `Procedure.for_report`: how good the forecasts of all years were, and how long a decision takes."""
    paper = data.rules.paper
    cost = float(2 * paper.share_cost_rate + paper.share_wait_rate)
    of_folds = [cast("Policy", policy) for policy in policies]
    net = of_folds[-1].forecaster
    facts = {
        "parameters": sum(one.numel() for one in net.members[0].parameters()),
        "members": len(net.members),
        "confidence": net.confidence,
    }
    years = [forecast_of(done(YEAR_TASK.format(year=year))) for year in own.years]
    found = find(data.material, data.panel.bars, years, own.tests, cost, facts)
    sizes = {str(count): milliseconds(of_folds[-1], count) for count in (1, len(data.table.symbols))}
    chosen = [_shares(each.state_dict()) | {"threshold": float(each.threshold)} for each in of_folds]
    return {KEY: msgspec.to_builtins(found), DECISION_MS: sizes, "chosen": chosen}


def figures(
    own: ForecastPlan, weights: Mapping[str, Any], done: Callable[[str], Mapping[str, Any]]
) -> Mapping[str, Any]:
    """See `Procedure.figures`: what validation chose, and how good each year's forecasts were, calibrated or not."""
    state = weights["state"]
    years = {year: done(YEAR_TASK.format(year=year)) for year in own.years}
    return {
        "chosen": {
            "alpha": own.alpha,
            "alpha_is": ALPHA_IS,
            "bonus": BONUS,
            "shares": _shares(state),
            "threshold": float(state["threshold"]),
        },
        "forecaster": {
            str(year): {"purged": found["purged"]}
            | {name: msgspec.json.decode(found[name]) for name in ("validated", "tested")}
            for year, found in years.items()
        },
    }


def _shares(state: Mapping[str, Any]) -> dict[str, float]:
    """The weight of each agent in a policy's state."""
    return dict(zip(graph.MEMBERS, state["agents.weights"].tolist(), strict=True))


MEMBERS, FORECASTS = "forecaster folds", "forecasts"
FEW_FORECASTER_STEPS = (
    200  # Adam moves a weight by its rate at most: 200 x 0.001, where those of the LSTM begin within 1/16
)


class WalkByYears:
    """See `training.desks.kind.Procedure`."""

    def load(self, path: Path, trading: Trading, sources: Sources, plan: Plan) -> ForecastTaskData:
        """See `Procedure`."""
        return load(path, trading, sources, _own(plan))

    def folds(self, dates: Sequence[str], plan: Plan) -> tuple[Fold, ...]:
        """See `Procedure`."""
        return folds_of(dates, _own(plan))

    def count(self, plan: Plan) -> int:
        """See `Procedure`."""
        return len(_own(plan).tests)

    def stages(self, plan: Plan) -> Mapping[str, Sequence[str]]:
        """See `Procedure`."""
        own = _own(plan)
        members = [MEMBER_TASK.format(year=y, member=m) for y in own.years for m in range(1, own.members + 1)]
        return {MEMBERS: members, FORECASTS: [YEAR_TASK.format(year=year) for year in own.years]}

    def prior(
        self,
        task: str,
        request: Request,
        data: ForecastTaskData,
        keeper: Keeper,
        done: Callable[[str], Mapping[str, Any]],
        control: Control,
        listen: Listener,
    ) -> None:
        """See `Procedure`."""
        kept = keeper.checkpoint()
        if kept is not None:
            listen(News(task, kept["steps"], kept["steps"], began=kept["steps"]))
            return
        plan = _own(request.plan)
        kind, year, *member = task.split("-")
        fold = {fold.year: fold for fold in by_years(data.panel.dates, plan.years[0], plan.last_test)}[int(year)]
        if kind == "forecaster":
            keeper.save(member_task(task, plan, fold, int(member[0]) - 1, data, keeper, control, listen))
        else:
            keeper.save(year_task(plan, fold, data, done) | {"steps": 1})
            listen(News(task, 1, 1))

    def concerns(self, plan: Plan, done: Callable[[str], Mapping[str, Any]]) -> Sequence[str]:
        """See `Procedure`: forecasters that hardly moved from their first weights."""
        few = {year: done(YEAR_TASK.format(year=year))["gradient_steps"] for year in _own(plan).years}
        few = {year: steps for year, steps in few.items() if steps < FEW_FORECASTER_STEPS}
        if not few:
            return ()
        years = ", ".join(f"{year}: {steps:,}" for year, steps in few.items())
        least = f"below {FEW_FORECASTER_STEPS:,}"
        words = (
            f"few gradient steps of forecasters to their chosen epoch ({least}): {years}; they may forecast little "
            "more than how often each class comes; more epochs, smaller batches, a smaller stride or more symbols help"
        )
        return (words,)

    def trial(
        self,
        request: Request,
        data: ForecastTaskData,
        fold: Fold,
        keeper: Keeper,
        done: Callable[[str], Mapping[str, Any]],
        control: Control,
        listen: Listener,
    ) -> Trained:
        """See `Procedure`."""
        plan = _own(request.plan)
        last = int(fold.validate[-1][:4])
        forecasts = joined(data, [done(YEAR_TASK.format(year=year)) for year in range(plan.years[0], last + 1)])
        work = Work(request, data, data.outlook(forecasts), fold, keeper, plan)
        work.run(control, listen)
        chosen = work.choose()
        weights: dict[str, Any] = {}
        if fold.test:
            year = done(YEAR_TASK.format(year=int(fold.test[0][:4])))
            policy = Policy(forecaster_of(plan, year), chosen.agents, chosen.threshold)
            weights = made_weights(policy)
        return Trained(
            weights=weights,
            validate=chosen.validate,
            chosen_steps=chosen.chosen_steps,
            steps=chosen.steps,
            seconds=work.seconds,
            stopped="",
            curve=chosen.curve,
            gradient_steps=chosen.gradient_steps,
        )

    def start(
        self, request: Request, _: ForecastTaskData, __: Fold, trained: nn.Module
    ) -> tuple[nn.Module, float] | None:
        """See `Procedure`: the agents as they are drawn, on the forecasts of the trained policy.

        Their actions explore by TD3's noise. RLlib draws the weights of its SAC itself.
        """
        if request.engine == RLLIB:
            return None
        plan, policy = _own(request.plan), cast("Policy", trained)
        return Policy(policy.forecaster, first_agents(plan, request, policy.agents)).eval(), plan.td3.exploration

    def players(self, _: Plan) -> Sequence[str]:
        """See `Procedure`."""
        return players()

    def play(
        self,
        player: str,
        policies: Sequence[nn.Module],
        data: ForecastTaskData,
        spans: Sequence[Span],
        seed: int,
        check_stop: Callable[[], None],
    ) -> Played:
        """See `Procedure`."""
        return data.account(policies, spans, seed, check_stop).play(player)

    def for_report(
        self,
        plan: Plan,
        policies: Sequence[nn.Module],
        data: ForecastTaskData,
        done: Callable[[str], Mapping[str, Any]],
    ) -> dict[str, Any]:
        """See `Procedure`: how good the forecasts of all years were, and how long a decision takes."""
        return for_report(_own(plan), policies, data, done)

    def searched(self, plan: Plan) -> tuple[Dimension, ...]:
        """See `Procedure`."""
        return space_of(_own(plan))

    def settable(self, plan: Plan) -> tuple[Dimension, ...]:
        """See `Procedure`."""
        return settable_of(_own(plan))

    def search_folds(self, dates: Sequence[str], plan: Plan, count: int) -> tuple[Fold, ...]:
        """See `Procedure`: the years before the first tested one, as if each were tested: for validation."""
        return search_folds(dates, _own(plan), count)

    def needed(self, plan: Plan, fold: Fold) -> Sequence[str]:
        """See `Procedure`: the forecasts up to the validation year."""
        last = int(fold.validate[-1][:4])
        tasks = (task for stage in self.stages(plan).values() for task in stage)
        return [task for task in tasks if int(task.split("-")[1]) <= last]

    def common(self, plan: Plan) -> Any:
        """See `Procedure`: the forecaster, whatever the agents."""
        return msgspec.to_builtins(_own(plan).forecast)

    def figures(
        self, plan: Plan, weights: Mapping[str, Any], done: Callable[[str], Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """See `Procedure`: what validation chose, and how good each year's forecasts were, calibrated or not."""
        return figures(_own(plan), weights, done)


def _own(plan: Plan | None) -> ForecastPlan:
    return cast("ForecastPlan", plan)
