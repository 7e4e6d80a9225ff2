"""A fold from rows to forecasts: members trained, averaged, calibrated on the validation year.

A member is a task of its own (`train_member`), so members and folds can run in as many processes as there are; what a
fold ends with does not depend on who trained them. Same settings, same data and one CPU type: the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from training.forecast.folds import FIRST_YEAR, LAST_YEAR, FoldForecasts, FoldRows, YearFold, last_known, rows_of
from training.forecast.labels import CLASSES, Barriers, BoolArray, Float64Array, Labels, class_weights
from training.forecast.network import FeatureScaling, Forecaster, ForecastNet, Frozen, Sizes, confidence_of
from training.forecast.panel import Windows
from training.forecast.risk import RIDGE, SESSIONS, UNKNOWN_LOG, Known, fitted
from training.forecast.scores import Calibrated, compared
from training.forecast.trainer import (
    FittedWeights,
    MemberProgress,
    MemberRecipe,
    MemberTrainer,
    Samples,
    answers,
    fit,
    identity_of,
)

# Temperature scaling: dividing the logits by one number calibrates the probabilities.
#
# Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2. It changes no predicted class.

COLDEST, HOTTEST = 0.05, 20.0
_HALVINGS = 55  # bisections of the logarithm's range, 6: the rest is below the last digit


def best_temperature(logits: Float64Array, classes: NDArray[np.int64]) -> float:
    """The temperature from 0.05 to 20 with the least log loss, which is convex in 1 / temperature.

    Args:
        logits: (n, 3), of rows that trained nothing.
        classes: (n,) of them.

    Raises:
        ValueError: there is no row, or a logit is not finite.
    """
    if not len(classes) or not np.isfinite(logits).all():
        raise ValueError(
            f"{len(classes)} rows to find a temperature on, all finite: {bool(np.isfinite(logits).all())}; expected "
            "labelled rows in the validation year with finite logits: check the features and the labels"
        )
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    mean_taken = float(exact[np.arange(len(classes)), classes].mean())

    def slope(log_cold: float) -> float:
        """The slope of the log loss along 1 / temperature, in which the loss is convex."""
        shares = np.exp(exact * math.exp(log_cold))
        return float(((shares * exact).sum(axis=1) / shares.sum(axis=1)).mean()) - mean_taken

    low, high = -math.log(HOTTEST), -math.log(COLDEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        if slope(middle) < 0.0:
            low = middle
        else:
            high = middle
    return math.exp(-(low + high) / 2.0)


class ForecasterSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of the forecaster; recorded in the manifest."""

    barriers: Barriers = Barriers()
    sizes: Sizes = Sizes()
    recipe: MemberRecipe = MemberRecipe()
    embargo: int = 5  # sessions between a label's end and the next span
    members: int = 1
    confidence: str = "calibrated"  # or "entropy"
    weighted: bool = True  # the classes in the loss
    first_year: int = FIRST_YEAR
    last_year: int = LAST_YEAR
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Material:
    """The data from which folds are cut. `valid` bool (d, n): rows with a whole sequence."""

    dates: tuple[str, ...]
    windows: Windows  # of raw features
    labels: Labels
    valid: BoolArray
    variance: Float64Array | None = None  # (d, n) of the sessions that follow, NaN where unknown; None: not looked at
    risk_columns: tuple[int, ...] = ()  # features that say what is known of it beforehand

    def samples(self, rows: NDArray[np.int64]) -> Samples:
        """Rows (k, 2) with their classes."""
        return Samples(rows, self.labels.classes[rows[:, 0], rows[:, 1]])

    def came(self, rows: NDArray[np.int64], session: int) -> tuple[NDArray[np.int64], Float64Array]:
        """Rows, of (k, 2), whose realised variance is known before `session`, and these variances."""
        if self.variance is None:
            return rows[:0], np.zeros(0)
        early = rows[rows[:, 0] + SESSIONS < session]
        variances = self.variance[early[:, 0], early[:, 1]]
        return early[np.isfinite(variances)], variances[np.isfinite(variances)]


@dataclass(frozen=True, slots=True)
class FoldResult:
    """The result of a fold."""

    fold: YearFold
    forecaster: Forecaster
    forecasts: FoldForecasts
    validated: Calibrated  # on the validation year, on which the temperature was found
    tested: Calibrated | None  # on the predicted year; None without a label there
    purged: int


Tell = Callable[[int, int, MemberProgress], object]
"""Called with the predicted year, the member from 0, and its progress."""


def frozen_of(material: Material, rows: FoldRows, plan: ForecasterSettings) -> Frozen:
    """Scaling and class weights, of the training rows alone."""
    places = material.windows.places(rows.train)
    scaling = FeatureScaling.of(material.windows.rows[places].cpu().numpy())
    classes = material.samples(rows.train).classes
    return Frozen(scaling, class_weights(classes)) if plan.weighted else Frozen(scaling)


def train_member(
    material: Material,
    plan: ForecasterSettings,
    fold: YearFold,
    member: int,
    *,
    folder: Path | None = None,
    pause: Callable[[], bool] = lambda: False,
    tell: Tell = lambda *_: None,
) -> FittedWeights:
    """Train one member of a fold, or go on with it. Raises what `fit` raises."""
    rows = _rows(material, plan, fold)
    train, validate = material.samples(rows.train), material.samples(rows.validate)
    seed = _seed(plan, fold, member)
    network = ForecastNet(plan.sizes, frozen_of(material, rows, plan), seed)
    trainer = MemberTrainer(network, material.windows, train, validate, plan.recipe, seed)
    checkpoint = None if folder is None else folder / f"forecaster-{fold.year}-{member + 1}.pt"
    identity = "" if folder is None else identity_of(trainer, material.windows, train, validate, seed)
    trained = fit(
        trainer,
        checkpoint=checkpoint,
        identity=identity,
        pause=pause,
        tell=lambda progress: tell(fold.year, member, progress),
    )
    return replace(trained, known_until=last_known(material.labels, rows.train, rows.validate))


def finish_fold(
    material: Material, plan: ForecasterSettings, fold: YearFold, members: Sequence[FittedWeights]
) -> FoldResult:
    """Average the members, calibrate them on the validation year, forecast the predicted year."""
    rows = _rows(material, plan, fold)
    frozen = frozen_of(material, rows, plan)
    networks = []
    for number, member in enumerate(members):
        network = ForecastNet(plan.sizes, frozen, _seed(plan, fold, number))
        network.load_state_dict(member.weights)
        networks.append(network.to(material.windows.rows.device))
    forecaster = Forecaster(networks, plan.confidence, material.risk_columns).to(material.windows.rows.device).eval()
    validate, classes = _exact(_raw(forecaster, material, rows.validate)[0]), material.samples(rows.validate).classes
    temperature = best_temperature(validate, classes.astype(np.int64))
    forecaster.temperature.fill_(temperature)
    calibrate_risk(forecaster, material, rows)
    predicted, variance_inputs = _raw(forecaster, material, rows.predict)
    probabilities = (predicted / forecaster.temperature).softmax(dim=-1)
    confidence = confidence_of(probabilities, forecaster.confidence)
    known_until = max(last_known(material.labels, rows.validate), *(member.known_until for member in members))
    for part, end in zip((rows.train, rows.validate), rows.ends, strict=True):
        known_until = max(known_until, int(material.came(part, end)[0][:, 0].max(initial=-1 - SESSIONS)) + SESSIONS)
    forecasts = FoldForecasts(
        fold.year,
        known_until,
        rows.predict,
        probabilities.cpu().numpy(),
        confidence.cpu().numpy(),
        forecaster.variance(variance_inputs).cpu().numpy(),
    )
    return FoldResult(
        fold=fold,
        forecaster=forecaster,
        forecasts=forecasts,
        validated=_compared(validate, material, rows.validate, temperature, plan.seed),
        tested=_tested(_exact(predicted), material, rows.predict, temperature, plan.seed),
        purged=rows.purged,
    )


def _rows(material: Material, plan: ForecasterSettings, fold: YearFold) -> FoldRows:
    return rows_of(fold, material.labels, material.valid, plan.embargo)


def _seed(plan: ForecasterSettings, fold: YearFold, member: int) -> int:
    """A member's seed, which follows from the plan's seed, the fold's year and the member's number."""
    return int(np.random.SeedSequence((plan.seed, fold.year, member)).generate_state(1)[0])


def calibrate_risk(forecaster: Forecaster, material: Material, rows: FoldRows) -> None:
    """Fit the weights of the variance forecast; without known variances the forecaster's weights stay.

    The weights of past variance minimise QLIKE on all rows before the predicted ones. HOLD's weight and a constant are
    fitted on the validation year alone, whose forecasts are out of sample.
    """
    (train, of_train), (validate, of_validate) = (
        material.came(part, end) for part, end in zip((rows.train, rows.validate), rows.ends, strict=True)
    )
    if not len(train) or not len(validate):
        return
    of_earlier = answers(Known(material.risk_columns), material.windows, material.windows.places(train))
    known, hold = np.split(_exact(_raw(forecaster, material, validate)[1]), [-1], axis=1)
    inputs, came = np.vstack([_exact(of_earlier), known]), np.concatenate([of_train, of_validate])
    constant, *weights = fitted(inputs, came, (UNKNOWN_LOG, *(0.0,) * inputs.shape[1]))
    expected = np.exp(constant + known @ np.array(weights))
    shift, of_hold = fitted(hold, of_validate / expected, (0.0, 0.0), RIDGE)
    forecaster.risk.copy_(torch.tensor((constant + shift, *weights, of_hold)))


def _raw(forecaster: Forecaster, material: Material, rows: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (k, 3), and the inputs of the variance forecast, both before calibration."""

    def outputs_of(sequences: torch.Tensor) -> torch.Tensor:
        logits = forecaster.logits(sequences)
        return torch.cat([logits, forecaster.variance_inputs(sequences, logits)], dim=1)

    outputs = answers(outputs_of, material.windows, material.windows.places(rows))
    return outputs[:, : len(CLASSES)], outputs[:, len(CLASSES) :]


def _exact(values: torch.Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = values.double().cpu().numpy()
    return array


def _compared(
    logits: NDArray[np.float64], material: Material, rows: NDArray[np.int64], temperature: float, seed: int
) -> Calibrated:
    classes = material.samples(rows).classes.astype(np.int64)
    raw, calibrated = _softmax(logits), _softmax(logits / temperature)
    return compared(raw, calibrated, classes, rows[:, 0], temperature, seed=seed)


def _tested(
    logits: NDArray[np.float64], material: Material, rows: NDArray[np.int64], temperature: float, seed: int
) -> Calibrated | None:
    labelled = material.labels.known[rows[:, 0], rows[:, 1]]
    if not labelled.any():
        return None
    return _compared(logits[labelled], material, rows[labelled], temperature, seed)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = grown / grown.sum(axis=1, keepdims=True)
    return probabilities
