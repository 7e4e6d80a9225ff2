"""The tasks of a year of forecasts: what a member has learnt goes with it, so a leak is seen where agents begin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from tests.support.planted.panels import PLAN, panel
from training.desks.forecast.kind import joined, member_task, year_task
from training.desks.forecast.plan import ForecastPlan
from training.desks.forecast.task_data import ForecastTaskData
from training.desks.kind import Keeper
from training.desks.trial import Control
from training.forecast.folds import LeakError, YearFold, by_years


def test_a_member_that_learnt_from_the_forecast_year_is_seen_before_an_agent_learns(tmp_path: Path) -> None:
    """Two members of a year: one is sound, the other was trained on half of the sessions that are forecast."""
    material, _ = panel(6, symbols=3)
    data = cast("ForecastTaskData", SimpleNamespace(material=material, panel=SimpleNamespace(valid=material.valid)))
    recipe = msgspec.structs.replace(PLAN.recipe, epochs=1)
    plan = ForecastPlan(
        forecaster=msgspec.structs.replace(PLAN, recipe=recipe), first_test=2013, last_test=2013, members=2
    )
    sound = by_years(material.dates, 2013, 2013)[0]
    middle, end = sum(sound.predict) // 2, sound.predict[1]
    leaky = YearFold(2013, (0, middle), (middle, end), (end, end))

    def member(number: int, fold: YearFold) -> Mapping[str, Any]:
        keeper = cast("Keeper", SimpleNamespace(path=tmp_path / f"{number}-{fold.train[1]}"))
        control = cast("Control", SimpleNamespace(stop=lambda: False))
        return member_task("", plan, fold, number, data, keeper, control, lambda _: None)

    members = {"forecaster-2013-1": member(0, sound), "forecaster-2013-2": member(1, sound)}
    assert joined(data, [year_task(plan, sound, data, members.__getitem__)]).known.any()
    members["forecaster-2013-2"] = member(1, leaky)
    leak = end - 1 - plan.forecast.embargo
    with pytest.raises(LeakError, match=f"learnt from sessions up to row {leak}, and"):
        joined(data, [year_task(plan, sound, data, members.__getitem__)])
