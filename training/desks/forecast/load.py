"""Read the bars files of an open universe: the forecaster's panel, and the desk's table of the universe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from daemon.core.limits import Trading
from daemon.tapes.files import TapeError
from strategies import forecast_ensemble
from strategies.forecast_ensemble import features
from strategies.kit.contract import DailySpec
from strategies.registry import daily_strategy
from training.data.sessions import calendar_of
from training.desks.daily.table import DailyTable, read_table, table_cache, table_of
from training.desks.forecast.plan import ForecastPlan
from training.desks.forecast.task_data import ForecastTaskData
from training.desks.kind import Sources
from training.forecast.labels import triple_barrier
from training.forecast.panel import Panel
from training.forecast.stage import Material
from training.forecast.windows import Windows


def load(path: Path, trading: Trading, sources: Sources, plan: ForecastPlan) -> ForecastTaskData:
    """Read the files: all symbols for the forecaster, the universe for the desk.

    Raises:
        TapeError: as `Panel.load`, or no file holds a symbol of the universe.
    """
    strategy = daily_strategy(forecast_ensemble.SPEC.name, sources.symbols)
    panel = Panel.load((path, *sources.files), features.table)
    if absent := [symbol for symbol in strategy.spec.symbols if symbol not in panel.symbols]:
        files = ", ".join(source.file for source in panel.sources)
        raise TapeError(
            f"{files}: no row of {', '.join(absent)}, of the universe: give a further file that holds them by --bars, "
            "or other symbols by --symbols"
        )
    table = _joined(panel, strategy.spec) if sources.files else read_table(path, strategy, table_cache())
    windows = Windows(panel.features, features.WINDOW)
    labels = triple_barrier(panel.bars, plan.forecast.barriers, panel.broken)
    material = Material(panel.dates, windows, labels, panel.valid)
    return ForecastTaskData(
        path,
        table,
        strategy,
        trading,
        panel=panel,
        material=material,
        places=_found(table.symbols, panel.symbols),
        days_at=_found(table.dates, panel.dates),
    )


def _joined(panel: Panel, spec: DailySpec) -> DailyTable:
    """The universe's table of several files."""
    calendar = calendar_of(panel.dates[0], panel.dates[-1])
    known = {session.date: session for session in calendar.sessions}
    table = table_of(
        panel.bars[:, :, _found(spec.symbols, panel.symbols)],
        [known[date] for date in panel.dates],
        spec,
        file=", ".join(source.file for source in panel.sources),
        synthetic=next((source.synthetic for source in panel.sources if source.synthetic), ""),
    )
    return replace(table, sha256=panel.sha256)


def _found(wanted: Sequence[str], names: Sequence[str]) -> NDArray[np.int64]:
    """Where each of `wanted` stands among `names`."""
    at = {name: place for place, name in enumerate(names)}
    return np.array([at[name] for name in wanted], dtype=np.int64)
