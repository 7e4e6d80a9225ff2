"""Daily bars of an open universe made ready: the panel that the forecaster learns from, and the desk's table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from daemon.core.limits import Trading
from daemon.tapes.files import TapeError
from strategies import forecast_ensemble
from strategies.forecast_ensemble import features
from strategies.kit.contract import DailySpec, Float32Array
from strategies.registry import daily_strategy
from training.data.daily_table import DailyTable, read_table, table_cache, table_of
from training.data.sessions import calendar_of
from training.desks.daily.task_data import DailyTaskData
from training.desks.forecast import baselines
from training.desks.forecast.graph import COLUMNS, SEQUENCE, Answers, Policy, size_of
from training.desks.forecast.market import Outlook
from training.desks.forecast.plan import ForecastPlan
from training.desks.kind import Sources, Span
from training.evaluate.days import dry_run
from training.export.reference import AnswerRecorder, Watched
from training.forecast import risk
from training.forecast.folds import Forecasts
from training.forecast.labels import triple_barrier
from training.forecast.panel import Panel, Windows
from training.forecast.stage import Material
from training.study.study import Fold


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastTaskData(DailyTaskData):
    """See `training.desks.kind.TaskData`; the rows of the panel are those of the table."""

    panel: Panel
    material: Material
    places: NDArray[np.int64]  # of the universe's symbols in the panel
    days_at: NDArray[np.int64]  # of the table's sessions in the panel; of one without bars, of the session before it
    heard: dict[str, baselines.Memory] = field(default_factory=dict)  # cached forecasts, for the players

    def outlook(self, forecasts: Forecasts, risk_target: float = 0.0) -> Outlook:
        """The agents' view of the universe after each session's close; `risk_target`: see `size_of`."""
        at = np.ix_(self.days_at, self.places)
        features = self.panel.features[np.ix_(self.days_at, self.places, np.array(COLUMNS))]
        confidence, variance = (torch.from_numpy(values[at]) for values in (forecasts.confidence, forecasts.variance))
        sizes = size_of(confidence, variance, risk_target).numpy()
        variances = forecasts.variance[at].astype(np.float64)
        return Outlook(forecasts.probabilities[at], forecasts.confidence[at], features, variances, sizes)

    def watch(self, policy: nn.Module, span: Span) -> Watched:
        """See `TaskData`: of each session a row for each symbol, the newest features and the account."""
        recorder, width = AnswerRecorder(), len(self.strategy.spec.features)

        def recorded(observation: Tensor) -> Answers:
            answers: Answers = policy(observation)
            recorder.keep(observation[:, -width:], answers.actions.unsqueeze(1))
            return answers

        dry_run(recorded, self.desk(span))
        return recorder.watched()

    def account(
        self, policies: Sequence[nn.Module], spans: Sequence[Span], seed: int, check_stop: Callable[[], None]
    ) -> baselines.Account:
        """The account of all tests; SPY comes from the file of ETFs beside the bars, where there is one."""
        tests = [tuple(span.dates) for span in spans]
        desk = self.desk(replace(spans[0], dates=[date for dates in tests for date in dates]))
        trained = [policy for policy in policies if isinstance(policy, Policy)]
        return baselines.Account(
            trained, desk, tests, path=self.path, seed=seed, memories=self.heard, check_stop=check_stop
        )

    def probes(self, fold: Fold, count: int, seed: int) -> Float32Array:
        """See `TaskData`: sequences of the universe drawn from the fold's sessions, of accounts drawn at random."""
        first, last = self.table.span((*fold.train, *fold.validate, *fold.test))
        random = np.random.default_rng(seed)
        rows = np.argwhere(self.table.tradable[first - 1 : last] > 0)
        rows = rows[np.sort(random.choice(len(rows), min(count, len(rows)), replace=False))]
        panel = np.stack([self.days_at[rows[:, 0] + first - 1], self.places[rows[:, 1]]], axis=1)
        windows = self.material.windows
        sequences = windows.gather(windows.places(panel)).reshape(len(rows), SEQUENCE).cpu().numpy()
        account = random.uniform(0.0, 1.0, (len(rows), 6)).astype(np.float32)
        account[:, 5] = 1.0
        rows_made: Float32Array = np.concatenate([sequences, account], axis=1)
        return rows_made


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
    table = _join_tables(panel, strategy.spec) if sources.files else read_table(path, strategy, table_cache())
    places = _indices_of(table.symbols, panel.symbols)
    days_at = np.maximum(np.searchsorted(panel.dates, table.dates, side="right") - 1, 0)
    has_forecast = panel.valid[np.ix_(days_at, places)]  # a session of other symbols alone is a gap in the panel
    table = replace(table, tradable=table.tradable * has_forecast)
    windows = Windows(panel.features, features.WINDOW)
    labels = triple_barrier(panel.bars, plan.forecast.barriers, panel.broken)
    variance = risk.realised(panel.bars[3], panel.broken)
    material = Material(panel.dates, windows, labels, panel.valid, variance, risk.COLUMNS)
    return ForecastTaskData(
        path,
        table,
        strategy,
        trading,
        panel=panel,
        material=material,
        places=places,
        days_at=days_at,
    )


def _join_tables(panel: Panel, spec: DailySpec) -> DailyTable:
    """The universe's table of several files."""
    calendar = calendar_of(panel.dates[0], panel.dates[-1])
    sessions = {session.date: session for session in calendar.sessions}
    table = table_of(
        panel.bars[:, :, _indices_of(spec.symbols, panel.symbols)],
        [sessions[date] for date in panel.dates],
        spec,
        file=", ".join(source.file for source in panel.sources),
        synthetic=next((source.synthetic for source in panel.sources if source.synthetic), ""),
    )
    return replace(table, sha256=panel.sha256)


def _indices_of(chosen: Sequence[str], names: Sequence[str]) -> NDArray[np.int64]:
    """Index of each of `chosen` in `names`, int64 (len(chosen),)."""
    at = {name: place for place, name in enumerate(names)}
    return np.array([at[name] for name in chosen], dtype=np.int64)
