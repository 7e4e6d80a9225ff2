"""The risk overlay: desk and tensor markets, given the same decisions, hold the same and earn the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Literal

import numpy as np
import pytest
import torch

from daemon.core.limits import Trading
from daemon.core.strategy_rules import trading_for
from strategies import daily_rebalancer
from strategies.daily_rebalancer import DailyRebalancer
from strategies.regime_switcher import RegimeSwitcher
from tests.support.training.daily_accounts import agree, ends, made_up_funds, made_up_stocks, stocks_rules, trend
from tests.support.training.made_up_days import walk
from training.desks.daily.overlay import Overlay
from training.desks.daily.play import RandomSwitcher, play_rebalancer, play_regime
from training.evaluate.days import desk_before, dry_run
from training.study.study import SessionResult

Forecast = Literal["ewma", "har"]


def under(rules: Trading, target: float, forecast: Forecast = "ewma") -> Trading:
    return replace(rules, basket=replace(rules.basket, volatility_target=target, volatility_forecast=forecast))


def invested(results: Sequence[SessionResult]) -> float:
    """The mean part of the equity that was invested at the close."""
    return float(np.mean([result.held_min for result in results])) / 390


@pytest.mark.parametrize(
    ("variant", "forecast", "target"),
    [("shares", "ewma", 0.02), ("notional", "ewma", 0.01), ("notional", "har", 0.015)],
)
def test_the_desk_and_the_tensor_market_agree_to_the_cent(variant: str, forecast: Forecast, target: float) -> None:
    table, rules = made_up_stocks(), under(stocks_rules(variant), target, forecast)
    dates = table.dates[402:]
    market = play_rebalancer(trend, table, dates, rules, variant=variant)
    agree(dry_run(trend, desk_before(table, dates, DailyRebalancer(), rules)), market)
    free = play_rebalancer(trend, table, dates, stocks_rules(variant), variant=variant)
    assert 0.0 < invested(market) < 0.9 * invested(free)


def test_they_agree_where_the_cap_leaves_less_than_an_order_of_a_fraction() -> None:
    rules = under(stocks_rules("notional", 20_000), 0.01)
    rules = replace(rules, basket=replace(rules.basket, fractions="on", min_order_usd=Decimal(25)))
    table = made_up_stocks()
    dates = table.dates[402:440]
    market = play_rebalancer(trend, table, dates, rules, variant="notional")
    agree(dry_run(trend, desk_before(table, dates, DailyRebalancer(), rules)), market)
    assert sum(result.trades for result in market) > 20


def test_they_agree_where_stocks_have_no_bar_on_some_days_and_nothing_is_bought_then() -> None:
    table = walk(500, seed=3, spec=daily_rebalancer.SPEC, missing=0.002)
    rules, dates = under(stocks_rules("notional"), 0.02), table.dates[460:]
    market = play_rebalancer(trend, table, dates, rules, variant="notional")
    agree(dry_run(trend, desk_before(table, dates, DailyRebalancer(), rules)), market)
    missing = [not table.present[day - 1].all() for day in range(460, 500)]
    assert 0 < sum(missing) < len(missing)


def test_weights_in_training_stay_close_to_the_desk_s_whole_shares() -> None:
    """As without the overlay: 2 bp of waiting, and 0.3 % of what was bought."""
    table = made_up_funds()
    rules = under(trading_for("regime_switcher"), 0.08)
    dates = table.dates[260:]
    desk = dry_run(RandomSwitcher(4, 0.3), desk_before(table, dates, RegimeSwitcher(), rules))
    weights = play_regime(RandomSwitcher(4, 0.3), table, dates, rules)
    purchases = sum(r.premium_usd for r in weights) / 2
    assert abs(ends(desk.sessions)[-1] - ends(weights)[-1]) < 0.005 * purchases
    assert invested(desk.sessions) == pytest.approx(invested(weights), abs=0.01)
    free = play_regime(RandomSwitcher(4, 0.3), table, dates, under(rules, 0.0))
    assert invested(weights) < 0.8 * invested(free)


def test_a_forecast_by_a_head_is_refused_where_nothing_forecasts_a_variance() -> None:
    rules = trading_for("regime_switcher")
    rules = replace(rules, basket=replace(rules.basket, volatility_target=0.1, volatility_forecast="model"))
    with pytest.raises(ValueError, match="volatility_forecast"):
        Overlay(made_up_funds(), 260, 280, rules, "cpu")


def test_the_variances_of_a_head_scale_what_the_moving_average_says() -> None:
    """One stock with four times the variance that it had: half of it is held. What it had comes from numpy."""
    table, day = made_up_funds(), 300
    closes = table.bars[3, day - 61 : day, 0]
    weights = (1 - 2 / 21) ** np.arange(60)[::-1]
    past = float(np.sum(weights * (closes[1:] / closes[:-1] - 1.0) ** 2) / weights.sum())
    rules = trading_for("regime_switcher")
    rules = replace(
        rules, basket=replace(rules.basket, volatility_target=(252 * past) ** 0.5, volatility_forecast="model")
    )
    overlay = Overlay(table, day, day + 5, rules, "cpu", np.full((len(table.sessions), 3), 4 * past))
    price = torch.tensor([[100.0, 100.0, 100.0]], dtype=torch.float64)
    goals = torch.tensor([[1000.0, 0.0, 0.0]], dtype=torch.float64)
    equity = torch.tensor([100_000.0], dtype=torch.float64)
    after = overlay(torch.tensor([0]), torch.zeros_like(goals), goals, price, equity, whole=True)
    assert after[0].tolist() in ([500.0, 0.0, 0.0], [499.0, 0.0, 0.0])  # a rounding apart
