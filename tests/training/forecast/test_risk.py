"""The variance: by hand, against scipy's optimum, and on a market whose volatility is known."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from strategies.forecast_ensemble.features import NAMES
from tests.support.planted.panels import PLAN, panel, walk_forward
from training.forecast.findings import Forecast, find
from training.forecast.folds import rows_of
from training.forecast.panel import Windows
from training.forecast.risk import (
    COLUMNS,
    FLOOR,
    SESSIONS,
    Known,
    RiskRows,
    day_variance,
    fitted,
    hold_logit,
    qlike,
    realised,
    references,
)
from training.forecast.stage import Material


def test_the_variance_that_came_is_the_mean_square_of_the_next_five_returns() -> None:
    close = np.exp(np.cumsum([0.0, 0.01, -0.02, 0.03, 0.0, 0.01, 0.05]))[:, None]
    variance = realised(close, np.zeros(close.shape, dtype=np.bool_))
    assert variance[0, 0] == pytest.approx((0.01**2 + 0.02**2 + 0.03**2 + 0.01**2) / 5)
    assert variance[1, 0] == pytest.approx((0.02**2 + 0.03**2 + 0.01**2 + 0.05**2) / 5)
    assert np.isnan(variance[2:]).all()  # fewer than five sessions follow
    split = np.zeros(close.shape, dtype=np.bool_)
    split[3] = True
    assert np.isnan(realised(close, split)[:2]).all()  # a return across a split is none


def test_a_days_variance_is_garman_and_klasss_with_the_night() -> None:
    """Of the prices, in logarithms; the features say the same in ATR."""
    before, open_price, high, low, close, atr = 99.0, 100.0, 103.0, 98.5, 102.0, 2.5
    names = [NAMES[column] for column in COLUMNS]
    assert names == ["gap", "body", "upper_wick", "lower_wick", "natr14", "stddev20"]
    row = torch.tensor(
        [
            np.log(open_price / before),
            (close - open_price) / atr,
            (high - close) / atr,
            (open_price - low) / atr,
            100 * atr / close,
        ],
        dtype=torch.float64,
    )
    expected = (
        np.log(open_price / before) ** 2
        + 0.5 * np.log(high / low) ** 2
        - (2 * np.log(2) - 1) * np.log(close / open_price) ** 2
    )
    assert float(day_variance(row)) == pytest.approx(expected, rel=1e-9)


def test_what_is_known_are_means_over_spans_and_the_newest_deviation() -> None:
    random = np.random.default_rng(1)
    rows = torch.from_numpy(random.uniform(0.1, 1.0, (3, 60, len(NAMES))).astype(np.float32))
    days = day_variance(rows[:, :, list(COLUMNS[:-1])]).double().numpy()
    features = Known(COLUMNS)(rows).double().numpy()
    for place, span in enumerate((1, 5, 22, 60)):
        assert features[:, place] == pytest.approx(np.log(days[:, -span:].mean(axis=1) + FLOOR), rel=1e-5)
    deviation = rows[:, -1, NAMES.index("stddev20")].double().numpy()
    assert features[:, 4] == pytest.approx(np.log(deviation**2 + FLOOR), rel=1e-5)
    assert Known()(rows).shape == (3, 0)


def test_hold_s_logit_is_that_of_its_probability() -> None:
    logits = torch.tensor([[0.3, -0.2, 1.1]])
    share = float(torch.softmax(logits, dim=1)[0, 0])
    assert float(hold_logit(logits)) == pytest.approx(np.log(share / (1.0 - share)), abs=1e-6)


def test_weights_have_the_least_qlike() -> None:
    random = np.random.default_rng(2)
    features = random.normal(size=(4000, 2))
    came = np.exp(-8.0 + features @ [0.7, -0.3]) * random.chisquare(5, 4000) / 5

    def loss(at: NDArray[np.float64]) -> float:
        logs = at[0] + features @ at[1:]
        return float((came * np.exp(-logs) + logs).mean())

    best = minimize(loss, np.array([-7.0, 0.0, 0.0]), method="BFGS", options={"gtol": 1e-9}).x
    weights = fitted(features, came, (-7.0, 0.0, 0.0))
    assert weights == pytest.approx(best, abs=1e-4)
    assert weights == pytest.approx([-8.0, 0.7, -0.3], abs=0.05)
    ridge_weights = fitted(features, came, (-8.0, 0.0, 0.0), ridge=1e6)
    assert ridge_weights == pytest.approx([-8.0, 0.0, 0.0], abs=1e-4)


def test_numbers_that_are_not_finite_and_no_row_are_refused() -> None:
    with pytest.raises(ValueError, match="0 rows to fit a variance on"):
        fitted(np.zeros((0, 1)), np.zeros(0), (-8.0, 0.0))
    with pytest.raises(ValueError, match="all finite: False"):
        fitted(np.full((3, 1), np.nan), np.ones(3), (-8.0, 0.0))


def test_references_are_the_exponential_mean_and_logarithms_of_means() -> None:
    random = np.random.default_rng(3)
    close = np.exp(np.cumsum(random.normal(0, 0.01, 80)))[:, None]
    ewma, means = references(close, np.zeros(close.shape, dtype=np.bool_))
    squares = np.square(np.diff(np.log(close[:, 0])))
    weights = 0.94 ** np.arange(59, -1, -1)
    assert ewma[70, 0] == pytest.approx((squares[10:70] * weights).sum() / weights.sum() + FLOOR)
    for place, span in enumerate((1, 5, 22)):
        assert means[70, 0, place] == pytest.approx(np.log(squares[70 - span : 70].mean() + FLOOR))
    assert np.isnan(ewma[:60]).all()


def test_scores_are_means_and_squared_correlations_over_all_rows() -> None:
    random = np.random.default_rng(4)
    sessions = np.repeat(np.arange(50), 6)
    came, forecast, har, ewma = np.exp(random.normal(-8, 0.7, (4, 300)))
    scores = RiskRows(sessions, came, forecast, har, ewma).scores()
    assert scores is not None
    assert (scores.rows, scores.sessions) == (300, 50)
    assert scores.qlike.estimate == pytest.approx(qlike(came, forecast).mean())
    assert scores.over_har.estimate == pytest.approx(qlike(came, forecast).mean() - qlike(came, har).mean())
    for one, name in ((forecast, "explained"), (har, "explained_har"), (ewma, "explained_ewma")):
        expected = np.corrcoef(np.log(came + FLOOR), np.log(one + FLOOR))[0, 1] ** 2
        assert getattr(scores, name).estimate == pytest.approx(expected)


def swinging(seed: int, *, planted: bool) -> tuple[Material, NDArray[np.float64]]:
    """Eight symbols that are quiet or wild for five sessions, of which a feature tells beforehand; the bars (5, d, n).

    The class is HOLD where most of the next five sessions are quiet. Not planted: all sessions are alike, and classes
    are drawn.
    """
    material, truth = panel(seed, planted=False)
    random, (days, symbols) = np.random.default_rng(seed + 100), truth.shape[:2]
    quiet = np.repeat(random.random((days // SESSIONS + 1, symbols)) > 0.5, SESSIONS, axis=0)[:days]
    soon = np.zeros((days, symbols))
    for ahead in range(1, SESSIONS + 1):
        soon[:-ahead] += quiet[ahead:] / SESSIONS
    features = random.normal(size=(days, symbols, PLAN.sizes.features)).astype(np.float32)
    if planted:
        features[:, :, 0] = 2.0 * soon - 1.0 + 0.1 * features[:, :, 0]
    still = soon > 0.5 if planted else random.random((days, symbols)) < 1 / 3
    classes = np.where(still, 0, 1 + (random.random((days, symbols)) > 0.5)).astype(np.int8)
    returns = random.normal(size=(days, symbols)) * (np.where(quiet, 0.005, 0.02) if planted else 0.01)
    close = 100.0 * np.exp(np.cumsum(returns, axis=0))
    return (
        replace(
            material,
            labels=replace(material.labels, classes=classes),
            windows=Windows(features, PLAN.sizes.window),
            variance=realised(close, np.zeros(close.shape, dtype=np.bool_)),
        ),
        np.stack([close, close, close, close, np.ones_like(close)]),
    )


@pytest.mark.parametrize("planted", [True, False])
def test_on_a_planted_market_the_variance_beats_har_and_on_a_steady_one_it_does_not(*, planted: bool) -> None:
    material, bars = swinging(5, planted=planted)
    recipe = msgspec.structs.replace(PLAN.recipe, epochs=8)
    _, (result,) = walk_forward(material, msgspec.structs.replace(PLAN, recipe=recipe))
    of = result.forecasts
    mask = of.rows[:, 0] < len(material.dates) - 1  # the last session is not followed by another
    forecast = Forecast(
        2013, of.rows[mask], of.probabilities[mask], of.confidence[mask], 1.0, 0, variance=of.variance[mask]
    )
    scores = find(
        material, bars, [forecast], [2013], 0.0, {"parameters": 1, "members": 1, "confidence": "calibrated"}
    ).risk
    assert scores is not None
    if planted:
        assert scores.over_har.high < 0.0
        assert scores.over_ewma.high < 0.0
        assert scores.explained_over_har.low > 0.0
    else:
        assert abs(scores.over_har.estimate) < 0.02


def test_a_calm_year_moves_the_weight_of_hold_and_a_constant_alone() -> None:
    material, _ = swinging(7, planted=True)
    assert material.variance is not None
    calm = np.array([date.startswith("2012") for date in material.dates])  # the year of calibration
    variance = np.where(calm[:, None], material.variance * 1e-3, material.variance)
    material = replace(material, variance=variance, risk_columns=tuple(range(6)))
    _, (result,) = walk_forward(
        material, msgspec.structs.replace(PLAN, recipe=msgspec.structs.replace(PLAN.recipe, epochs=2))
    )
    rows = rows_of(result.fold, material.labels, material.valid, PLAN.embargo)
    parts = [material.came(part, end) for part, end in zip((rows.train, rows.validate), rows.ends, strict=True)]
    places = [material.windows.places(part) for part, _ in parts]
    features = np.vstack([Known(range(6))(material.windows.gather(place)).double().numpy() for place in places])
    came = np.concatenate([came for _, came in parts])
    table = np.column_stack([np.ones(len(came)), features])

    def loss(at: NDArray[np.float64]) -> float:
        return float((came * np.exp(-(table @ at)) + table @ at).mean())

    best = minimize(loss, np.array([-8.0, *np.zeros(5)]), method="BFGS", options={"gtol": 1e-8}).x
    constant, *weights, of_hold = result.forecaster.risk.double().tolist()
    assert weights == pytest.approx(best[1:], abs=1e-3)
    assert constant < best[0] - 1.0  # the calm is a level
    assert of_hold < 0.0  # HOLD says that it stays still


def test_a_variance_that_reaches_into_the_next_span_trains_nothing() -> None:
    material, _ = swinging(6, planted=True)
    assert material.variance is not None
    rows = np.array([[day, 0] for day in range(100, 120)])
    early, came = material.came(rows, 115)
    assert early[:, 0].max() == 115 - SESSIONS - 1
    assert len(came) == len(early)
