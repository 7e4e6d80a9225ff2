"""The arithmetic of the risk overlay against pandas, numpy and hand calculation; numpy and torch to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.risk.overlay import HAR_SESSIONS, cap_goals, exposure_cap, return_count, volatility, without_new_risk
from tests.support.examples import examples

ROOT_YEAR = 252**0.5


def moves(seed: int, count: int, symbols: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(0.0, 0.01, (1, count, symbols))


def test_the_moving_average_is_that_of_pandas() -> None:
    returns, mix = moves(1, 60, 3), np.array([[0.5, 0.3, 0.2]])
    portfolio = returns[0] @ mix[0]
    expected = pd.Series(portfolio**2).ewm(span=20).mean().iloc[-1] ** 0.5 * ROOT_YEAR
    assert volatility(np, mix, returns, "ewma", 20)[0] == pytest.approx(expected, rel=1e-12)
    assert (return_count("ewma", 20), return_count("model", 30), return_count("har", 20)) == (60, 90, 250)


def test_har_is_least_squares_on_the_averages_of_a_day_a_week_and_a_month() -> None:
    scales = np.exp(np.sin(np.arange(HAR_SESSIONS) / 25.0))
    returns = moves(2, HAR_SESSIONS, 1) * scales[None, :, None]
    squares = pd.Series(returns[0, :, 0] ** 2)
    rows = pd.DataFrame(
        {"one": 1.0, "day": squares, "week": squares.rolling(5).mean(), "month": squares.rolling(22).mean()}
    )
    target = squares.rolling(5).mean().shift(-5)
    usable = rows.notna().all(axis=1) & target.notna()
    slopes = np.linalg.lstsq(rows[usable].to_numpy(), target[usable].to_numpy(), rcond=None)[0]
    expected = np.clip(rows.iloc[-1].to_numpy() @ slopes, target.min(), target.max())
    result = volatility(np, np.ones((1, 1)), returns, "har", 20)[0]
    assert result == pytest.approx(expected**0.5 * ROOT_YEAR, rel=1e-9)


def test_a_head_gives_the_variances_and_the_past_gives_the_correlations() -> None:
    returns, mix = moves(3, 60, 2), np.array([[0.6, 0.4]])
    weights = (1 - 2 / 21) ** np.arange(60)[::-1]
    weights /= weights.sum()
    past = np.einsum("t,ti,tj->ij", weights, returns[0], returns[0])
    correlation = past[0, 1] / (past[0, 0] * past[1, 1]) ** 0.5
    ahead = np.array([[4e-4, 1e-4]])  # 2 % and 1 % a day
    variance = 0.36 * 4e-4 + 0.16 * 1e-4 + 2 * 0.24 * correlation * 0.02 * 0.01
    result = volatility(np, mix, returns, "model", 20, ahead)[0]
    assert result == pytest.approx(variance**0.5 * ROOT_YEAR, rel=1e-12)


def test_what_is_not_known_is_no_number() -> None:
    flat = np.zeros((1, 60, 1))
    with np.errstate(all="ignore"):
        assert volatility(np, np.ones((1, 1)), flat, "ewma", 20)[0] == 0.0
        assert np.isnan(volatility(np, np.ones((1, 1)), np.zeros((1, 250, 1)), "har", 20)[0])
        assert not np.isfinite(volatility(np, np.ones((1, 1)), flat, "model", 20, np.array([[1e-4]]))[0])
    assert np.isnan(exposure_cap(0.1, np.array([np.nan]))[0])


@pytest.mark.parametrize("forecast", ["ewma", "har", "model"])
def test_torch_gives_the_bits_of_numpy(forecast: str) -> None:
    count = return_count(forecast, 20)
    returns = np.concatenate([moves(seed, count, 4) for seed in range(5)])
    mix = np.random.default_rng(9).dirichlet(np.ones(4), 5)
    variances = np.random.default_rng(8).uniform(1e-5, 1e-3, (5, 4))
    result = volatility(np, mix, returns, forecast, 20, variances)
    tensors = [torch.from_numpy(values) for values in (mix, returns, variances)]
    same = volatility(torch, tensors[0], tensors[1], forecast, 20, tensors[2])
    assert same.numpy().tobytes() == result.tobytes()


shares = st.lists(st.integers(0, 1000), min_size=3, max_size=3)


@settings(max_examples=examples(200))
@given(
    quantities=shares,
    goals=shares,
    prices=st.lists(st.floats(0.5, 500.0), min_size=3, max_size=3),
    most=st.floats(0.0, 300_000.0),
    band=st.sampled_from((0.0, 0.1, 0.5)),
    whole=st.booleans(),
)
def test_no_goal_is_ever_raised_no_sale_kept_back_and_no_buy_ends_above_the_cap(
    quantities: list[int], goals: list[int], prices: list[float], most: float, band: float, whole: bool
) -> None:
    arrays = [np.array([values], dtype=np.float64) for values in (quantities, goals, prices)]
    after = cap_goals(np, *arrays, most=np.array([most]), band=band, whole=whole)
    worth = float((after * arrays[2]).sum())
    assert (after <= arrays[1]).all()
    assert (after >= 0.0).all()
    assert (after == np.floor(after)).all()
    assert worth <= most * (1.0 + band) + 1e-6
    if (after > arrays[0]).any():
        assert worth <= most + 1e-6
    tensors = [torch.from_numpy(values) for values in arrays]
    same = cap_goals(torch, *tensors, most=torch.tensor([most], dtype=torch.float64), band=band, whole=whole)
    assert same.numpy().tobytes() == after.tobytes()
    unknown = without_new_risk(np, arrays[0], arrays[1])
    assert (unknown == np.minimum(arrays[0], arrays[1])).all()
