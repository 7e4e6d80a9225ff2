"""Market columns: by hand, by pandas, and the same bytes from a prefix and from the whole."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from strategies.online_dqn.model_config import PORTFOLIO, ModelConfig
from strategies.online_dqn.state_vector import history_bars, market_rows, parse, portfolio_fields, shipped


def config(indicators: str, window: int = 3, more: str = "") -> ModelConfig:
    return parse(f"version: 1\nwindow: {window}\nindicators: [{indicators}]\n{more}".encode(), "m.yaml")


def walk(count: int, seed: int = 5) -> npt.NDArray[np.float64]:
    draw = np.random.default_rng(seed)
    close = 400.0 * np.exp(np.cumsum(draw.normal(0.0, 5e-4, count)))
    open_ = np.r_[400.0, close[:-1]]
    spread = np.abs(draw.normal(0.0, 2e-4, (2, count))) * close
    high, low = np.maximum(open_, close) + spread[0], np.minimum(open_, close) - spread[1]
    return np.ascontiguousarray(np.stack((open_, high, low, close, draw.uniform(1e3, 1e5, count))))


def test_a_prefix_gives_the_same_bytes_as_the_whole_at_every_bar() -> None:
    bars, settings = walk(500), shipped()
    whole = market_rows(settings, bars)
    first = history_bars(settings)
    for count in range(first, 500, 13):
        prefix = np.ascontiguousarray(bars[:, :count])
        assert (
            market_rows(settings, prefix, settings.window).tobytes() == whole[count - settings.window : count].tobytes()
        )
        assert market_rows(settings, prefix).tobytes() == whole[:count].tobytes()


def test_every_scale_is_what_pandas_gives() -> None:
    bars = walk(300)
    close, volume = pd.Series(bars[3]), pd.Series(bars[4])
    average = close.rolling(10).mean()
    smooth = volume.rolling(3).mean()
    rolled = smooth.rolling(20)
    expected = np.stack(
        (
            close.pct_change(5) / 0.001,
            average / close / 0.2 - 0.5 / 0.2,
            (average / close - 1.0) / 0.001,
            (smooth - rolled.mean()) / rolled.std(ddof=0),
        ),
        axis=1,
    )
    rows = market_rows(
        config(
            "{name: ROCP, parameters: {timeperiod: 5}, scale: {divide_by: 0.001}},"
            "{name: SMA, parameters: {timeperiod: 10}, scale: {by: price, center: 0.5, divide_by: 0.2}},"
            "{name: SMA, parameters: {timeperiod: 10}, scale: {by: distance, divide_by: 0.001}},"
            "{name: SMA, inputs: [volume], parameters: {timeperiod: 3}, scale: {by: zscore, window: 20}}",
            more="scaling: {clip: 50}",
        ),
        bars,
    )
    assert np.allclose(rows[40:], expected[40:], rtol=1e-6, atol=1e-6)
    assert not rows[:1].any()  # nothing is known at the first bar


def test_a_feature_is_clipped_and_a_constant_has_no_z_score() -> None:
    bars = np.ascontiguousarray(np.tile([[100.0], [101.0], [99.0], [100.0], [500.0]], 60))
    bars[3, -1] = 110.0
    settings = config(
        "{name: ROCP, parameters: {timeperiod: 1}, scale: {divide_by: 0.001}},"
        "{name: SMA, inputs: [volume], parameters: {timeperiod: 2}, scale: {by: zscore, window: 5}}"
    )
    assert market_rows(settings, bars, 2).tolist() == [[0.0, 0.0], [5.0, 0.0]]


def test_several_outputs_and_several_inputs_are_taken_by_name() -> None:
    bars = walk(200)
    high, low, close = (pd.Series(bars[row]) for row in (1, 2, 3))
    fast = 100.0 * (close - low.rolling(5).min()) / (high.rolling(5).max() - low.rolling(5).min())
    slow = fast.rolling(3).mean()
    rows = market_rows(
        config(
            "{name: STOCH, output: slowk, scale: {center: 50, divide_by: 20}},"
            "{name: STOCH, output: slowd, scale: {center: 50, divide_by: 20}}"
        ),
        bars,
    )
    assert np.allclose(rows[20:, 0], (slow[20:] - 50.0) / 20.0)
    assert np.allclose(rows[20:, 1], (slow.rolling(3).mean()[20:] - 50.0) / 20.0)


def fields(**changes: float) -> dict[str, float]:
    defaults = {"shares": 10, "price": 105.0, "cash": 8_950.0, "equity": 10_000.0, "cost": 100.0, "age_min": 30}
    return dict(zip(PORTFOLIO, portfolio_fields(PORTFOLIO, **{**defaults, **changes}).tolist(), strict=True))


def test_the_portfolio_fields_by_hand() -> None:
    """10 shares at 105, bought for 100 half an hour ago, and 8,950 USD of cash: 10,000 USD in all."""
    assert fields() == pytest.approx(
        {"position": 1.0, "cash_share": 0.895, "inventory_value": 0.105, "unrealised_return": 0.05, "age": 0.5}
    )
    flat = fields(shares=0, cost=0.0, age_min=0)
    assert (flat["position"], flat["inventory_value"], flat["unrealised_return"], flat["age"]) == (0.0, 0.0, 0.0, 0.0)
    assert fields(age_min=1000)["age"] == 6.5
    assert fields(price=1000.0)["unrealised_return"] == 3.0
    assert fields(price=0.0)["unrealised_return"] == 0.0
    assert fields(equity=0.0)["cash_share"] == fields(equity=-5.0)["inventory_value"] == 0.0


def test_the_portfolio_fields_of_many_rows_are_those_of_each() -> None:
    many = portfolio_fields(
        ("age", "position"), shares=[0, 10], price=[1.0, 2.0], cash=5.0, equity=25.0, cost=[0.0, 1.0], age_min=[9, 60]
    )
    assert many.tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert portfolio_fields((), shares=[1, 2], price=1.0, cash=1.0, equity=1.0, cost=1.0, age_min=1).shape == (2, 0)
