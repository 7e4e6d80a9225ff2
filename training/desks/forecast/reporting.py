"""What a run of `forecast_ensemble` has for the report and the manifest: its forecasts and what validation chose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import msgspec
from torch import nn

from training.desks.forecast import graph
from training.desks.forecast.claims import DECISION_MS
from training.desks.forecast.graph import Policy
from training.desks.forecast.market import BONUS
from training.desks.forecast.plan import ForecastPlan
from training.desks.forecast.task_data import ForecastTaskData
from training.desks.forecast.years import (
    YEAR_TASK,
    forecast_of,
    milliseconds,
)
from training.forecast.findings import KEY, find

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
