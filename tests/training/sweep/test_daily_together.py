"""Daily desks that differ in their rules share a run up to their first difference, and end as each does by itself."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from daemon.core.limits import Trading
from strategies.daily_rebalancer import DailyRebalancer
from tests.support.training.changed_rules import with_rule
from tests.support.training.daily_accounts import made_up_stocks, stocks_rules, trend
from training.evaluate import days
from training.evaluate.days import desk_before, dry_run, relay_each
from training.rl.pool import Stopped

KEYS: dict[str, tuple[Any, ...]] = {
    "basket.band": (0.001, 0.01),
    "basket.before_open_min": (40,),
    "basket.auction": (False,),
    "basket.shares_per_unit": (50,),
    "basket.turnover_max": (0.05,),
    "basket.order_weight_max": (0.01,),
    "basket.fractions": ("on", "off"),
    "basket.volatility_target": (0.1,),
    "risk.drawdown_max": (0.001, 0.9),
    "risk.daily_loss_max": (0.001, 0.9),
    "risk.orders_per_day": (3,),
    "paper.share_cost_rate": (Decimal(0), Decimal("0.002")),
    "paper.share_fees_below_usd": (Decimal(10_000_000),),
}


def usual() -> Trading:
    return stocks_rules("notional", 60_000)


def test_each_key_gives_together_what_it_gives_alone() -> None:
    table = made_up_stocks()
    dates = table.dates[402:408]
    rules = {"as configured": usual()}
    for key, values in KEYS.items():
        rules |= {f"{key} {value}": with_rule(key, value, usual()) for value in values}
    results = relay_each(trend, table, dates, DailyRebalancer(), list(rules.values()))
    for (name, trading), result in zip(rules.items(), results, strict=True):
        assert result == dry_run(trend, desk_before(table, dates, DailyRebalancer(), trading)), name
    assert sum(session.trades for session in results[0].sessions) > 50
    assert len({repr(result) for result in results}) > 8


def test_limits_that_are_not_met_cost_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    table, sessions = made_up_stocks(), list[int]()
    dates = table.dates[402:406]
    play = days.play_to_desk

    def count_runs(policy: Any, desk: days.Desk) -> Any:
        sessions.append(desk.first)
        return play(policy, desk)

    monkeypatch.setattr(days, "play_to_desk", count_runs)
    rules = [with_rule("risk.drawdown_max", most, usual()) for most in (0.5, 0.6, 0.7, 0.8)]
    results = relay_each(trend, table, dates, DailyRebalancer(), rules)
    assert len(sessions) == len(dates)
    assert all(result == results[0] for result in results)


def test_it_stops_between_sessions() -> None:
    table = made_up_stocks()

    def stop() -> None:
        raise Stopped("as asked")

    with pytest.raises(Stopped):
        relay_each(trend, table, table.dates[402:404], DailyRebalancer(), [usual(), usual()], stop)
