"""How `forecast_ensemble` is trained: members of each year's forecaster, their forecasts, then a trial for each year.

Stages: one task for each member and year; one for each year that averages, calibrates and forecasts it. A trial learns
agents on the forecasts of the years before, so what an agent sees was out of sample when it was said.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import torch
from torch import nn

from daemon.core.limits import Trading
from training.desks.forecast import graph
from training.desks.forecast.agents import Work
from training.desks.forecast.baselines import players
from training.desks.forecast.claims import DECISION_MS
from training.desks.forecast.graph import Policy, made_weights
from training.desks.forecast.load import load
from training.desks.forecast.market import BONUS
from training.desks.forecast.plan import ForecastPlan, folds_of
from training.desks.forecast.task_data import ForecastTaskData
from training.desks.kind import Keeper, Played, Sources, Span
from training.desks.trial import Control, Listener, News, Request, Trained
from training.forecast.findings import KEY, Forecast, find
from training.forecast.folds import YearFold, by_years
from training.forecast.forecasts import FoldForecasts, Forecasts, assemble
from training.forecast.network import Forecaster, ForecastNet, Frozen, Scaling
from training.forecast.recipe import Epoch, Progress
from training.forecast.stage import finish_fold, train_member
from training.forecast.trainer import Fitted
from training.rl.presets import Plan
from training.study.study import Fold

MEMBERS, FORECASTS = "forecaster folds", "forecasts"
DECISIONS = 30  # that are timed
_MEMBER, _YEAR = "forecaster-{year}-{member}", "forecast-{year}"
ALPHA_IS = "given, not chosen: no action changes the bonus, so no choice depends on alpha"


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
        members = [_MEMBER.format(year=y, member=m) for y in own.years for m in range(1, own.members + 1)]
        return {MEMBERS: members, FORECASTS: [_YEAR.format(year=year) for year in own.years]}

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
        if keeper.checkpoint() is not None:
            return
        plan = _own(request.plan)
        kind, year, *member = task.split("-")
        fold = {fold.year: fold for fold in by_years(data.panel.dates, plan.years[0], plan.last_test)}[int(year)]
        if kind == "forecaster":
            keeper.save(_member(task, plan, fold, int(member[0]) - 1, data, keeper, control, listen))
        else:
            keeper.save(_forecast(plan, fold, data, done))
            listen(News(task, 1, 1))

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
        test = int(fold.test[0][:4])
        forecasts = joined(data, [done(_YEAR.format(year=year)) for year in range(plan.years[0], test)])
        work = Work(request, data, data.outlook(forecasts), fold, keeper, plan)
        work.run(control, listen)
        chosen = work.choose()
        policy = Policy(forecaster_of(plan, done(_YEAR.format(year=test))), chosen.agents, chosen.threshold)
        return Trained(
            weights=made_weights(policy),
            validate=chosen.validate,
            chosen_steps=chosen.chosen_steps,
            steps=chosen.steps,
            seconds=work.seconds,
            stopped="",
            curve=chosen.curve,
        )

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
        self, plan: Plan, policy: nn.Module, data: ForecastTaskData, done: Callable[[str], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """See `Procedure`: how good the forecasts of all years were, and how long a decision takes."""
        own, paper = _own(plan), data.rules.paper
        cost = float(2 * paper.share_cost_rate + paper.share_wait_rate)
        net = cast("Policy", policy).forecaster
        facts = {
            "parameters": sum(one.numel() for one in net.members[0].parameters()),
            "members": len(net.members),
            "confidence": net.confidence,
        }
        years = [_forecast_of(done(_YEAR.format(year=year))) for year in own.years]
        found = find(data.material, data.panel.bars, years, own.tests, cost, facts)
        sizes = {str(count): _milliseconds(policy, count) for count in (1, len(data.table.symbols))}
        return {KEY: msgspec.to_builtins(found), DECISION_MS: sizes}

    def figures(
        self, plan: Plan, weights: Mapping[str, Any], done: Callable[[str], Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """See `Procedure`: what validation chose, and how good each year's forecasts were, calibrated or not."""
        own, state = _own(plan), weights["state"]
        years = {year: done(_YEAR.format(year=year)) for year in own.years}
        return {
            "chosen": {
                "alpha": own.alpha,
                "alpha_is": ALPHA_IS,
                "bonus": BONUS,
                "shares": dict(zip(graph.MEMBERS, state["agents.weights"].tolist(), strict=True)),
                "threshold": float(state["threshold"]),
            },
            "forecaster": {
                str(year): {"purged": found["purged"]}
                | {name: msgspec.json.decode(found[name]) for name in ("validated", "tested")}
                for year, found in years.items()
            },
        }


def joined(data: ForecastTaskData, years: Sequence[Mapping[str, Any]]) -> Forecasts:
    """The forecasts of these years, each of which its fold could not have learnt from. Raises LeakError."""
    days, symbols = data.panel.valid.shape
    folds = [
        FoldForecasts(
            year["year"],
            year["known_until"],
            year["rows"].numpy(),
            year["probabilities"].numpy(),
            year["confidence"].numpy(),
        )
        for year in years
    ]
    return assemble(days, symbols, folds)


def _forecast_of(year: Mapping[str, Any]) -> Forecast:
    return Forecast(
        year["year"],
        year["rows"].numpy(),
        year["probabilities"].numpy(),
        year["confidence"].numpy(),
        float(year["forecaster"]["temperature"]),
        year["purged"],
    )


@torch.no_grad()
def _milliseconds(policy: nn.Module, symbols: int) -> float:
    """The median of the graph's answers to so many symbols."""
    rows, times = torch.zeros(symbols, graph.SEQUENCE + 6), []
    for _ in range(DECISIONS):
        began = time.perf_counter()
        policy(rows)
        times.append(time.perf_counter() - began)
    return round(1000.0 * statistics.median(times), 3)


def forecaster_of(plan: ForecastPlan, year: Mapping[str, Any]) -> Forecaster:
    """The forecaster that this year's task ended with."""
    sizes = plan.forecast.sizes
    nets = [ForecastNet(sizes, Frozen(Scaling.none(sizes.features)), 0) for _ in range(plan.members)]
    found = Forecaster(nets, plan.forecast.confidence)
    found.load_state_dict(year["forecaster"])
    return found.eval()


def _member(
    task: str,
    plan: ForecastPlan,
    fold: YearFold,
    member: int,
    data: ForecastTaskData,
    keeper: Keeper,
    control: Control,
    listen: Listener,
) -> dict[str, Any]:
    """Train one network of a year, or go on with it."""

    def tell(_year: int, _member: int, progress: Progress) -> None:
        listen(News(task, progress.batches, progress.total))

    fitted = train_member(data.material, plan.forecast, fold, member, folder=keeper.path, pause=control.stop, tell=tell)
    return {"weights": fitted.weights, "curve": msgspec.json.encode(fitted.curve).decode()}


def _forecast(
    plan: ForecastPlan, fold: YearFold, data: ForecastTaskData, done: Callable[[str], Mapping[str, Any]]
) -> dict[str, Any]:
    """Average and calibrate the members of a year, and forecast it."""
    kept = [done(_MEMBER.format(year=fold.year, member=number)) for number in range(1, plan.members + 1)]
    members = [Fitted(one["weights"], msgspec.json.decode(one["curve"], type=tuple[Epoch, ...])) for one in kept]
    result = finish_fold(data.material, plan.forecast, fold, members)
    found = result.forecasts
    return {
        "year": fold.year,
        "known_until": found.known_until,
        "rows": torch.from_numpy(np.ascontiguousarray(found.rows)),
        "probabilities": torch.from_numpy(found.probabilities),
        "confidence": torch.from_numpy(found.confidence),
        "forecaster": result.forecaster.cpu().state_dict(),
        "validated": msgspec.json.encode(result.validated).decode(),
        "tested": msgspec.json.encode(result.tested).decode(),
        "purged": result.purged,
    }


def _own(plan: Plan | None) -> ForecastPlan:
    return cast("ForecastPlan", plan)
