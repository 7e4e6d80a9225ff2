"""The same policy on small and large accounts: how far what is held is from what is wanted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from daemon.core.strategy_rules import trading_for
from strategies.daily_rebalancer import DailyRebalancer
from strategies.regime_switcher import RegimeSwitcher
from tests.support.training.daily_accounts import made_up_funds, made_up_stocks, stocks_rules, trend
from training.desks.daily.play import StartingRegime, flat
from training.evaluate.days import desk_before, dry_run, under
from training.evaluate.sizes import at_size, at_sizes

ALL_SPY = 2


def test_one_purchase_is_off_by_what_a_share_cannot_be_cut_to() -> None:
    table = made_up_funds()
    rules = trading_for("regime_switcher")
    rules = replace(rules, basket=replace(rules.basket, fractions="off"))
    desk = desk_before(table, table.dates[260:261], RegimeSwitcher(), rules)
    price, open_price = table.close_ticks[259, 0] / 1e4, table.open_ticks[260, 0] / 1e4
    usd = 10.5 * price
    figures = at_size(StartingRegime(ALL_SPY), desk, usd)
    limit = open_price * 1.0002 * 1.002 * 1.001  # what a share holds back, cost included
    shares = min(int(usd / (price * 1.001)), int(usd / limit))
    assert 8 <= shares <= 10
    assert figures.off == figures.off_most == pytest.approx((10.5 - shares) / 10.5, rel=1e-9)
    assert (figures.sessions, figures.orders, figures.denials, figures.fractions) == (1, 1.0, 0, False)
    assert figures.costs == pytest.approx((shares * open_price * 1.0002 * 0.001 + 0.01) / usd, rel=1e-3)
    assert figures.day_fees == pytest.approx(0.01 / usd, rel=1e-3)  # CAT
    with_fractions = at_size(
        StartingRegime(ALL_SPY), under(desk, replace(rules, basket=replace(rules.basket, fractions="on"))), usd
    )
    assert with_fractions.fractions
    assert with_fractions.off == pytest.approx(
        1.0 - min(price / limit, 1.0), abs=2e-5
    )  # cash is short by what buys hold back


def test_a_large_account_holds_what_is_wanted_and_a_small_one_does_not() -> None:
    table = made_up_stocks()
    rules = stocks_rules("notional", 1_000_000)
    rules = replace(rules, basket=replace(rules.basket, fractions="off"))
    desk = desk_before(table, table.dates[402:420], DailyRebalancer(), rules)
    small, large = at_sizes(trend, desk, (20_000, 1_000_000))
    assert large.off < 0.01
    assert small.off > 0.1
    assert large.off_most < small.off_most <= small.off


def test_the_size_of_the_desk_is_its_dry_run() -> None:
    table = made_up_stocks()
    desk = desk_before(table, table.dates[402:410], DailyRebalancer(), stocks_rules("shares"))
    (figures,) = at_sizes(trend, desk, (1_000_000,))
    sessions = dry_run(trend, desk).sessions
    end = (sessions[-1].capital_usd + sessions[-1].pnl_usd) / 1_000_000
    assert figures.net_return == pytest.approx(end - 1.0, rel=1e-12)
    assert figures.orders == sum(one.trades for one in sessions) / 8
    assert figures.costs == pytest.approx(sum(one.fees_usd for one in sessions) / 1e6)
    assert at_size(flat, desk, 5_000).off == 0.0
