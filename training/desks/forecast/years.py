"""The forecaster's tasks: a network of a year, the year's forecasts, and all years joined."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn

from training.desks.forecast import graph
from training.desks.forecast.plan import ForecastPlan
from training.desks.forecast.task_data import ForecastTaskData
from training.desks.kind import Keeper
from training.desks.trial import Control, Listener, News
from training.forecast.findings import Forecast
from training.forecast.folds import YearFold
from training.forecast.forecasts import FoldForecasts, Forecasts, assemble
from training.forecast.network import FeatureScaling, Forecaster, ForecastNet, Frozen
from training.forecast.recipe import Epoch, MemberProgress
from training.forecast.stage import finish_fold, train_member
from training.forecast.trainer import FittedWeights

DECISIONS = 30  # that are timed
MEMBER_TASK, YEAR_TASK = "forecaster-{year}-{member}", "forecast-{year}"


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


def forecast_of(year: Mapping[str, Any]) -> Forecast:
    """The forecasts of this year's task, for the report."""
    return Forecast(
        year["year"],
        year["rows"].numpy(),
        year["probabilities"].numpy(),
        year["confidence"].numpy(),
        float(year["forecaster"]["temperature"]),
        year["purged"],
        year["gradient_steps"],
    )


@torch.no_grad()
def milliseconds(policy: nn.Module, symbols: int) -> float:
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
    nets = [ForecastNet(sizes, Frozen(FeatureScaling.none(sizes.features)), 0) for _ in range(plan.members)]
    found = Forecaster(nets, plan.forecast.confidence)
    found.load_state_dict(year["forecaster"])
    return found.eval()


def member_task(
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

    steps = 1

    def tell(_year: int, _member: int, progress: MemberProgress) -> None:
        nonlocal steps
        steps = max(progress.batches, 1)
        listen(News(task, progress.batches, progress.total))

    fitted = train_member(data.material, plan.forecast, fold, member, folder=keeper.path, pause=control.stop, tell=tell)
    listen(News(task, steps, steps))  # it may have stopped early
    curve = msgspec.json.encode(fitted.curve).decode()
    return {"weights": fitted.weights, "curve": curve, "known_until": fitted.known_until} | {
        "steps": steps,
        "gradient_steps": fitted.gradient_steps,
    }


def year_task(
    plan: ForecastPlan, fold: YearFold, data: ForecastTaskData, done: Callable[[str], Mapping[str, Any]]
) -> dict[str, Any]:
    """Average and calibrate the members of a year, and forecast it."""
    kept = [done(MEMBER_TASK.format(year=fold.year, member=number)) for number in range(1, plan.members + 1)]
    members = [
        FittedWeights(one["weights"], msgspec.json.decode(one["curve"], type=tuple[Epoch, ...]), one["known_until"])
        for one in kept
    ]
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
        "gradient_steps": min(one["gradient_steps"] for one in kept),
    }
