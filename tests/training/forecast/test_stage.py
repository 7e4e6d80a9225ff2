"""From rows to forecasts: a planted market is learnt, noise is not, and a leak is seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.support.planted.panels import PLAN, panel, walk_forward
from training.forecast.folds import (
    FoldForecasts,
    Forecasts,
    LeakError,
    YearFold,
    assemble,
    by_years,
    last_known,
    rows_of,
)
from training.forecast.stage import FoldResult, Material, finish_fold, train_member
from training.forecast.trainer import MemberProgress


def _accuracy(result: FoldResult) -> float:
    assert result.tested is not None
    return result.tested.after.accuracy.estimate


def _assembled(material: Material, folds: list[FoldForecasts]) -> Forecasts:
    days, symbols = material.valid.shape
    return assemble(days, symbols, folds)


def test_features_that_tell_the_class_are_learnt_to_95_percent_of_bayes() -> None:
    material, truth = panel(3)
    forecasts, (result,) = walk_forward(material, PLAN)
    year = forecasts.known
    best = float(truth[year].max(axis=1).mean())
    assert best > 0.7
    assert _accuracy(result) >= 0.95 * best
    assert np.abs(forecasts.probabilities[year] - truth[year]).mean() < 0.12
    assert result.tested is not None
    assert result.tested.after.expected_calibration_error.estimate < 0.05


def test_noise_is_not_learnt() -> None:
    material, _ = panel(4, planted=False)
    _, (result,) = walk_forward(material, PLAN)
    assert result.tested is not None
    scores = result.tested.after
    width = scores.accuracy.high - scores.accuracy.low  # twice the interval: a true one misses in 1 run of 10,000
    assert scores.accuracy.estimate == pytest.approx(1 / 3, abs=width)
    assert scores.log_loss.estimate == pytest.approx(np.log(3), abs=0.01)


def test_forecasts_are_of_the_predicted_year_and_nan_elsewhere() -> None:
    material, _ = panel(5, symbols=3)
    quick = msgspec.structs.replace(PLAN, recipe=msgspec.structs.replace(PLAN.recipe, epochs=1), first_year=2012)
    forecasts, results = walk_forward(material, quick)
    years = np.array([int(date[:4]) for date in material.dates])
    assert [result.fold.year for result in results] == [2012, 2013]
    assert np.array_equal(forecasts.fold, np.where(years >= 2012, years, 0)[:, None].repeat(3, axis=1))
    assert np.array_equal(np.isfinite(forecasts.probabilities).all(axis=2), forecasts.known)
    assert np.allclose(forecasts.probabilities[forecasts.known].sum(axis=1), 1.0, atol=1e-6)
    assert np.array_equal(np.isnan(forecasts.confidence), ~forecasts.known)
    day = np.arange(len(years))[:, None].repeat(3, axis=1)
    assert (forecasts.known_until < day)[forecasts.known].all()


def test_a_planted_leak_is_seen() -> None:
    """A member that was trained on half of the predicted year forecasts what it has learnt."""
    material, _ = panel(6, symbols=3)
    quick = msgspec.structs.replace(PLAN, recipe=msgspec.structs.replace(PLAN.recipe, epochs=1))
    fold = by_years(material.dates, 2013, 2013)[0]
    middle, end = sum(fold.predict) // 2, fold.predict[1]
    leaky = YearFold(2014, (0, middle), (middle, end), (end, end))
    sound, knowing = (train_member(material, quick, variant, 0) for variant in (fold, leaky))
    assert sound.known_until < fold.predict[0]
    assert knowing.known_until == end - 1 - quick.embargo
    assert _assembled(material, [finish_fold(material, quick, fold, [sound]).forecasts]).known.sum() == 261 * 3
    with pytest.raises(LeakError, match=f"learnt from sessions up to row {end - 1 - quick.embargo}, and"):
        _assembled(material, [finish_fold(material, quick, fold, [sound, knowing]).forecasts])


def test_a_forecast_of_a_calibration_row_is_a_leak() -> None:
    material, _ = panel(6, symbols=3)
    fold = by_years(material.dates, 2013, 2013)[0]
    rows = rows_of(fold, material.labels, material.valid, 2)
    last_day = last_known(material.labels, rows.train, rows.validate)
    assert fold.validate[1] - 4 <= last_day < fold.predict[0]
    for day, allowed in ((fold.train[0] + 20, False), (last_day, False), (last_day + 1, True)):
        part = FoldForecasts(
            2013, last_day, np.array([[day, 0]]), np.full((1, 3), 1 / 3, np.float32), *np.ones((2, 1), np.float32)
        )
        if allowed:
            assert _assembled(material, [part]).known.sum() == 1
        else:
            with pytest.raises(LeakError, match=f"from {day} on"):
                _assembled(material, [part])


def test_a_row_is_forecast_by_one_fold_alone() -> None:
    part = FoldForecasts(2013, 3, np.array([[5, 0]]), np.full((1, 3), 1 / 3, np.float32), *np.ones((2, 1), np.float32))
    with pytest.raises(LeakError, match="the folds 2013 and 2014 forecast the same 1 rows"):
        assemble(9, 1, [part, replace(part, year=2014)])


def test_a_walk_that_was_killed_between_members_ends_in_the_same_forecasts(tmp_path: Path) -> None:
    material, _ = panel(7, symbols=3)
    quick = msgspec.structs.replace(PLAN, members=2, recipe=msgspec.structs.replace(PLAN.recipe, epochs=2))
    expected, _ = walk_forward(material, quick)
    fold = by_years(material.dates, 2013, 2013)[0]
    train_member(material, quick, fold, 0, folder=tmp_path)
    messages: list[tuple[int, int, MemberProgress]] = []
    again, _ = walk_forward(material, quick, folder=tmp_path, tell=lambda *news: messages.append(news))
    assert again.probabilities.tobytes() == expected.probabilities.tobytes()
    assert {(year, member) for year, member, _ in messages} == {(2013, 1)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["forecaster-2013-1.pt", "forecaster-2013-2.pt"]


def test_what_is_exported_forecasts_what_was_forecast() -> None:
    material, _ = panel(8, symbols=3)
    quick = msgspec.structs.replace(PLAN, recipe=msgspec.structs.replace(PLAN.recipe, epochs=1), confidence="entropy")
    forecasts, (result,) = walk_forward(material, quick)
    rows = np.argwhere(forecasts.known)[:50]
    probabilities, confidence, variance = result.forecaster(material.windows.gather(material.windows.places(rows)))
    assert np.allclose(probabilities.detach(), forecasts.probabilities[tuple(rows.T)], atol=1e-6)
    assert np.allclose(confidence.detach(), forecasts.confidence[tuple(rows.T)], atol=1e-6)
    assert np.allclose(variance.detach(), forecasts.variance[tuple(rows.T)], rtol=1e-5)


def test_scaling_and_class_weights_come_from_training_rows_alone() -> None:
    material, _ = panel(9, symbols=3)
    other_material = replace(material, windows=material.windows.mapped(lambda rows: rows.clone()))
    fold = by_years(material.dates, 2013, 2013)[0]
    days = material.windows.days
    for place in range(3):
        other_material.windows.rows[place * days + fold.validate[0] : (place + 1) * days] *= 100.0
    quick = msgspec.structs.replace(PLAN, recipe=msgspec.structs.replace(PLAN.recipe, epochs=1))
    one, other = (train_member(rows, quick, fold, 0).weights for rows in (material, other_material))
    assert np.array_equal(one["mean"], other["mean"])
    assert np.array_equal(one["scale"], other["scale"])
