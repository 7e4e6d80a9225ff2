"""The risk overlay: desk and tensor markets, given the same decisions, hold the same and earn the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from daemon.core.limits import Trading
from strategies import daily_rebalancer, regime_switcher
from strategies.daily_rebalancer import DailyRebalancer
from strategies.regime_switcher import RegimeSwitcher
from tests.support.training.made_up_days import walk
from tests.training.desks.daily.test_dry_run import agree, ends, made_up_funds, made_up_stocks, stocks_rules, trend
from training.data.daily_table import DailyTable
from training.desks.daily.markets.rebalancer import rules_for
from training.desks.daily.play import RandomSwitcher, play_rebalancer, play_regime
from training.evaluate.days import desk_before, dry_run


def under(rules: Trading, target: float, forecast: str = "ewma") -> Trading:
    return replace(rules, basket=replace(rules.basket, volatility_target=target, volatility_forecast=forecast))


@pytest.mark.parametrize(
    ("variant", "forecast", "target"),
    [("shares", "ewma", 0.02), ("notional", "ewma", 0.01), ("notional", "har", 0.015)],
)
def test_the_desk_and_the_tensor_market_agree_to_the_cent(variant: str, forecast: str, target: float) -> None:
    table, rules = made_up_stocks(), under(stocks_rules(variant), target, forecast)
    dates = table.dates[402:]
    market = play_rebalancer(trend, table, dates, rules, variant=variant)
    agree(dry_run(trend, desk_before(table, dates, DailyRebalancer(), rules)), market)
    free = play_rebalancer(trend, table, dates, stocks_rules(variant), variant=variant)
    assert np.mean([r.held_min for r in market]) < 0.9 * np.mean([r.held_min for r in free])
    assert market[-1].held_min > 0
