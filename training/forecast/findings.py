"""A run's results on its forecasters, as data for the report: by year, and over all tested years together.

All forecasts are out of sample. The profit of a row is that of a share bought at the next open and sold at the close of
the session that decides the row's label, so anybody could have traded it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from strategies.forecast_ensemble.masks import jumps
from training.forecast.figures import ForecasterPlots, figures
from training.forecast.labels import Barriers, Float64Array
from training.forecast.risk import SESSIONS, UNKNOWN_LOG, RiskRows, RiskScores, fitted, references
from training.forecast.scores import Calibrated, Skill, compared, skill

if TYPE_CHECKING:
    from training.forecast.stage import Material

SEVERAL = 0.0  # value of `temperature` where each year has its own
SMALLEST = 1e-30  # lower bound of probabilities in logarithms


class Year(msgspec.Struct, frozen=True, kw_only=True):
    """The forecaster of one year on that year; without labels in the year there are no scores."""

    year: int
    tested: bool  # True: the account of all tests trades in this year
    purged: int  # training and validation rows purged, because their labels reach into the next span
    scores: Calibrated | None
    figures: ForecasterPlots | None
    skill: Skill | None = None
    gradient_steps: int = 0  # gradient steps to the chosen epoch, of the member with the fewest; 0: not counted
    converged: bool | None = None  # whether all members stopped improving before their last epoch; None: unknown
    risk: RiskScores | None = None


class ForecasterFindings(msgspec.Struct, frozen=True, kw_only=True):
    """All that the report shows of a forecaster."""

    parameters: int  # parameters of one network
    members: int
    confidence: str
    barriers: Barriers
    symbols: int
    cost: float  # of buying and selling, as a fraction of the value
    years: tuple[Year, ...]
    scores: Calibrated | None  # of the tested years together; each year has its own temperature
    figures: ForecasterPlots | None
    skill: Skill | None = None  # of the tested years together
    risk: RiskScores | None = None  # of the tested years together


@dataclass(frozen=True, slots=True)
class Forecast:
    """A year's forecasts: probabilities (k, 3) after its temperature and confidence (k,) of rows (k, 2)."""

    year: int
    rows: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    confidence: NDArray[np.float32]
    temperature: float
    purged: int
    gradient_steps: int = 0
    converged: bool | None = None
    variance: NDArray[np.float32] | None = None  # (k,); None: not forecast


KEY = "forecaster"  # of a study's `extra`


def read(extra: Mapping[str, Any]) -> ForecasterFindings | None:
    """The results in a study's `extra`; None without a forecaster."""
    return msgspec.convert(extra[KEY], ForecasterFindings) if KEY in extra else None


def find(
    material: Material,
    bars: Float64Array,
    forecasts: Sequence[Forecast],
    tested: Sequence[int],
    cost: float,
    facts: Mapping[str, Any],
) -> ForecasterFindings:
    """Score each year and the tested years together.

    Args:
        bars: float64 (5, d, n) open, high, low, close, volume, of the material's sessions and symbols.
        tested: years that the account goes through.
        cost: of buying and selling, as a fraction of the value.
        facts: `parameters`, `members` and `confidence` of `ForecasterFindings`.
    """
    parts = {forecast.year: _ForecastRows.of(material, bars, forecast) for forecast in forecasts}
    risks = risk_rows(material, bars, forecasts)
    years = [
        Year(
            year=forecast.year,
            tested=forecast.year in tested,
            purged=forecast.purged,
            scores=parts[forecast.year].scores(forecast.temperature),
            figures=parts[forecast.year].figures(cost),
            skill=parts[forecast.year].skill(),
            gradient_steps=forecast.gradient_steps,
            converged=forecast.converged,
            risk=risks[forecast.year].scores() if forecast.year in risks else None,
        )
        for forecast in forecasts
    ]
    rows = _ForecastRows.joined([parts[year] for year in tested])
    return ForecasterFindings(
        **facts,
        barriers=material.labels.barriers,
        symbols=material.valid.shape[1],
        cost=cost,
        years=tuple(years),
        scores=rows.scores(SEVERAL),
        figures=rows.figures(cost),
        skill=rows.skill(),
        risk=RiskRows.joined([risks[year] for year in tested]).scores() if set(tested) <= set(risks) else None,
    )


def risk_rows(material: Material, bars: Float64Array, forecasts: Sequence[Forecast]) -> dict[int, RiskRows]:
    """Forecast and reference variances by year, of rows with a known variance; HAR is fitted on earlier rows."""
    if material.variance is None:
        return {}
    broken = jumps(bars)
    ewma, means = references(bars[3], broken)
    rows_by_year = {}
    usable = material.valid & np.isfinite(material.variance) & np.isfinite(means).all(axis=2) & np.isfinite(ewma)
    for forecast in forecasts:
        if forecast.variance is None:
            continue
        earlier = usable.copy()
        earlier[max(int(forecast.rows[:, 0].min()) - SESSIONS, 0) :] = False
        weights = (UNKNOWN_LOG, *(0.0,) * means.shape[2])
        if earlier.any():
            weights = fitted(means[earlier], material.variance[earlier], weights)
        day, place = forecast.rows[usable[tuple(forecast.rows.T)]].T
        rows_by_year[forecast.year] = RiskRows(
            day,
            material.variance[day, place],
            forecast.variance[usable[tuple(forecast.rows.T)]].astype(np.float64),
            np.exp(weights[0] + means[day, place] @ np.array(weights[1:])),
            ewma[day, place],
        )
    return rows_by_year


@dataclass(frozen=True, slots=True)
class _ForecastRows:
    """Labelled rows with their forecasts."""

    before: Float64Array  # (k, 3), without the temperature
    after: Float64Array  # (k, 3)
    confidence: Float64Array
    classes: NDArray[np.int64]
    sessions: NDArray[np.int64]
    returns: Float64Array

    @classmethod
    def of(cls, material: Material, bars: Float64Array, forecast: Forecast) -> _ForecastRows:
        labelled = material.labels.known[tuple(forecast.rows.T)]
        day, place = forecast.rows[labelled].T
        calibrated = forecast.probabilities[labelled].astype(np.float64)
        grown = np.power(
            np.maximum(calibrated, SMALLEST), forecast.temperature
        )  # softmax(z) of log p = z / temperature
        bought, sold = bars[0, day + 1, place], bars[3, material.labels.end[day, place], place]
        return cls(
            grown / grown.sum(axis=1, keepdims=True),
            calibrated,
            forecast.confidence[labelled].astype(np.float64),
            material.labels.classes[day, place].astype(np.int64),
            day,
            sold / bought - 1.0,
        )

    @classmethod
    def joined(cls, parts: Sequence[_ForecastRows]) -> _ForecastRows:
        names = ("before", "after", "confidence", "classes", "sessions", "returns")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def scores(self, temperature: float) -> Calibrated | None:
        """Scores before and after the temperature, with block-bootstrap intervals; None without a row."""
        if not len(self.classes):
            return None
        return compared(self.before, self.after, self.classes, self.sessions, temperature)

    def skill(self) -> Skill | None:
        """The skill of the probabilities; None without a row, or where a class does not occur."""
        return skill(self.after, self.classes, self.sessions) if len(self.classes) else None

    def figures(self, cost: float) -> ForecasterPlots | None:
        """What the report draws; `cost` is of one trade there and back, a fraction. None without a row."""
        if not len(self.classes):
            return None
        return figures(self.after, self.confidence, self.classes, self.returns, cost=cost)
