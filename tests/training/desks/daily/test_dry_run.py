"""The tensor markets and the desk itself, given the same decisions: the same money.

`daily_rebalancer` trades whole shares in both, so its accounts are equal to the cent (they are to the micro-dollar).
`regime_switcher` trains on weights, so its desk differs by what whole shares, waiting and reserved cash cost.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from daemon.core.strategy_rules import trading_for
from strategies import daily_rebalancer, regime_switcher
from strategies.daily_rebalancer import DailyRebalancer
from strategies.regime_switcher import HIDDEN, RegimeSwitcher
from strategies.registry import daily_strategy
from tests.support.training.daily_accounts import agree, ends, made_up_funds, made_up_stocks, stocks_rules, trend
from tests.support.training.made_up_days import walk, written
from training.data.daily_table import DailyTable, read_table
from training.desks.daily import baselines
from training.desks.daily.play import (
    MemoryResetSwitcher,
    RandomSwitcher,
    StartingRegime,
    always,
    flat,
    play_rebalancer,
    play_regime,
)
from training.desks.daily.rebalancer import RebalancerTaskData
from training.desks.daily.regime import RegimeTaskData
from training.desks.kind import Span
from training.evaluate.days import desk_before, dry_run, relay, under

ALL_CASH, ALL_SPY, EQUAL_WEIGHT = 1, 2, 5


@pytest.mark.parametrize(
    ("variant", "cash", "band", "fractions"),
    [
        ("shares", 1_000_000, 0.0, "auto"),
        ("notional", 60_000, 0.0, "off"),
        ("notional", 60_000, 0.0, "auto"),  # fifty equal parts pay for fewer than 20 shares of some
        ("shares", 1_000_000, 0.001, "auto"),
        ("account", 5_000, 0.0, "auto"),
        ("account", 1_000_000, 0.001, "on"),
    ],
)
def test_the_desk_and_the_tensor_market_earn_the_same_on_made_up_days(
    variant: str, cash: int, band: float, fractions: Literal["auto", "on", "off"]
) -> None:
    table, rules = made_up_stocks(), stocks_rules(variant, cash)
    rules = replace(rules, basket=replace(rules.basket, band=band, fractions=fractions))
    dates = table.dates[402:]
    desk = desk_before(table, dates, DailyRebalancer(), rules)
    market = play_rebalancer(trend, table, dates, rules, variant=variant)
    agree(dry_run(trend, desk), market)
    assert sum(result.trades for result in market) > 300
    assert max(result.held_min for result in market) > 385  # the money runs out
    if band:
        always = replace(rules, basket=replace(rules.basket, band=0.0))
        without = play_rebalancer(trend, table, dates, always, variant=variant)
        assert sum(result.trades for result in market) < 0.95 * sum(result.trades for result in without)


@pytest.mark.parametrize(
    ("variant", "cash", "fractions"),
    [("shares", 1_000_000, "auto"), ("notional", 60_000, "off"), ("account", 9_000, "on")],
)
def test_they_also_earn_the_same_where_stocks_have_no_bar_on_some_days(
    variant: str, cash: int, fractions: Literal["auto", "on", "off"]
) -> None:
    """A sale without a print brings no cash, and the buys share what there is."""
    table, rules = walk(500, seed=3, spec=daily_rebalancer.SPEC, missing=0.06), stocks_rules(variant, cash)
    rules = replace(rules, basket=replace(rules.basket, fractions=fractions))
    dates = table.dates[470:]
    desk = desk_before(table, dates, DailyRebalancer(), rules)
    agree(dry_run(trend, desk), play_rebalancer(trend, table, dates, rules, variant=variant))


@pytest.mark.parametrize("fractions", ["off", "on"])
def test_they_also_earn_the_same_where_nothing_is_sold_in_the_auction(fractions: Literal["on", "off"]) -> None:
    """Sales trade after the open, and buys for their cash after them: none is given up for want of a later print."""
    table, usual = made_up_stocks(), stocks_rules("notional", 60_000)
    dates, results = table.dates[402:], {}
    for auction in (True, False):
        rules = replace(usual, basket=replace(usual.basket, auction=auction, fractions=fractions))
        desk = dry_run(trend, desk_before(table, dates, DailyRebalancer(), rules))
        agree(desk, play_rebalancer(trend, table, dates, rules, variant="notional"))
        results[auction] = sum(result.premium_usd for result in desk.sessions)
    assert results[False] == pytest.approx(results[True], rel=0.01)


@pytest.mark.parametrize("variant", ["shares", "notional"])
def test_the_desk_and_the_tensor_market_earn_the_same_over_hundreds_of_real_days(
    variant: str, stocks: DailyTable
) -> None:
    rules = stocks_rules(variant)
    dates = [date for date in stocks.dates if date >= "2021-01-01"][:260]
    desk = desk_before(stocks, dates, DailyRebalancer(), rules)
    agree(dry_run(trend, desk), play_rebalancer(trend, stocks, dates, rules, variant=variant))


@pytest.fixture(scope="module")
def stocks(data_dir: Path) -> DailyTable:
    return read_table(data_dir / "stocks_daily_2010_2022.parquet", DailyRebalancer())


@pytest.fixture(scope="module")
def funds(data_dir: Path) -> DailyTable:
    return read_table(data_dir / "etf_daily_2010_2022.parquet", RegimeSwitcher())


def test_holding_funds_whole_shares_stay_close_to_weights_over_real_years(funds: DailyTable) -> None:
    """What one purchase loses: 2 bp of waiting, and up to 0.3 % of the money that is reserved and stays cash."""
    dates = [date for date in funds.dates if date >= "2020-01-01"]
    rules = trading_for("regime_switcher")
    desk = dry_run(StartingRegime(ALL_SPY), desk_before(funds, dates, RegimeSwitcher(), rules))
    weights = play_regime(StartingRegime(ALL_SPY), funds, dates, rules)
    assert desk.denials == {}
    assert ends(desk.sessions) == pytest.approx(ends(weights), rel=4e-3)
    assert ends(weights)[-1] > 110_000.0


def test_switching_loses_to_weights_what_waiting_and_whole_shares_cost(funds: DailyTable) -> None:
    """Each day within 2 bp and 0.3 % of what was bought, and the nights' moves of what could not be bought."""
    dates = [date for date in funds.dates if date >= "2021-01-01"][:250]
    rules = trading_for("regime_switcher")
    desk = dry_run(RandomSwitcher(4, 0.1), desk_before(funds, dates, RegimeSwitcher(), rules))
    weights = play_regime(RandomSwitcher(4, 0.1), funds, dates, rules)
    purchases = sum(r.premium_usd for r in weights) / 2
    assert purchases > 100_000.0
    assert abs(ends(desk.sessions)[-1] - ends(weights)[-1]) < 0.005 * purchases


def test_no_trade_changes_no_money() -> None:
    table = made_up_stocks()
    dates = table.dates[402:410]
    play = dry_run(flat, desk_before(table, dates, DailyRebalancer(), stocks_rules("shares")))
    assert ends(play.sessions) == [1_000_000.0] * 8
    assert sum(result.trades for result in play.sessions) == 0
    table = made_up_funds()
    rules = trading_for("regime_switcher")
    desk = desk_before(table, table.dates[260:268], RegimeSwitcher(), rules)
    assert ends(dry_run(always(0), desk).sessions) == [100_000.0] * 8


def test_a_position_closed_with_a_gain_is_a_win_and_the_desk_itself_stays_as_it_is() -> None:
    table = made_up_funds()
    rules = trading_for("regime_switcher")
    desk = desk_before(table, table.dates[260:330], RegimeSwitcher(), rules)
    before = desk.state

    def in_and_out(observations: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        has_position = bool(observations[0, 10] > 0.0)
        logits, after = always(ALL_CASH if has_position else ALL_SPY)(observations, hidden)
        return logits, after

    play = dry_run(in_and_out, desk)
    close, open_ticks = table.close_ticks[:, 0], table.open_ticks[:, 0]
    purchase_days = range(260, 329, 2)  # at one open, sold at the next; the purchase waits and both cost 0.1 %
    wins = sum(open_ticks[day + 1] * 0.999 > open_ticks[day] * 1.0002 * 1.001 for day in purchase_days)
    assert sum(result.wins for result in play.sessions) == wins
    assert 0 < wins < len(purchase_days)
    assert len(close) == 330
    assert desk.state is before
    assert dry_run(in_and_out, desk) == play


def test_the_hidden_state_is_carried_from_session_to_session() -> None:
    table = made_up_funds()
    rules = trading_for("regime_switcher")
    dates = table.dates[260:266]
    memories: list[float] = []

    def counting(observations: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        assert hidden.shape == (1, HIDDEN)
        memories.append(float(hidden[0, 0]))
        return always(0)(observations, hidden)[0], hidden + 1.0

    desk = desk_before(table, dates, RegimeSwitcher(), rules)
    dry_run(counting, desk)
    assert memories == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    memories.clear()
    play_regime(MemoryResetSwitcher(counting, 4), table, dates, rules)
    assert memories == [0.0, 1.0, 2.0, 3.0, 0.0, 1.0]


def test_other_costs_are_those_of_a_desk_made_with_them() -> None:
    table = made_up_funds()
    rules = trading_for("regime_switcher")
    dear = replace(rules, paper=replace(rules.paper, share_cost_rate=Decimal("0.01")))
    dates = table.dates[260:280]
    result = dry_run(always(EQUAL_WEIGHT), desk_before(table, dates, RegimeSwitcher(), dear))
    expected = dry_run(always(EQUAL_WEIGHT), under(desk_before(table, dates, RegimeSwitcher(), rules), dear))
    assert result == expected


def test_a_desk_that_decides_on_the_running_day_is_not_evaluated_on_daily_bars() -> None:
    table = made_up_funds()
    rules = trading_for("regime_switcher")
    with pytest.raises(ValueError, match="before_close"):
        desk_before(
            table,
            table.dates[260:],
            RegimeSwitcher(),
            replace(rules, basket=replace(rules.basket, decide="before_close")),
        )


def test_an_account_through_two_spans_halts_at_its_drawdown_and_trades_nothing_more() -> None:
    """Everything lost 4 % a session: 0.96 ** 8 is 0.721, 0.96 ** 9 is 0.693, under the 70 % that the limit leaves."""
    falls = [(100.0, 100.0)] * 253 + [(100.0 * 0.96**n, 100.0 * 0.96 ** (n + 1)) for n in range(14)]
    table = written(dict.fromkeys(regime_switcher.SYMBOLS, falls), regime_switcher.SPEC)
    dates = table.dates[253:]
    rules = trading_for("regime_switcher")
    rules = replace(rules, risk=replace(rules.risk, drawdown_max=0.3))
    desk = desk_before(table, dates, RegimeSwitcher(), rules)
    spans = dates[:6], dates[6:10], dates[10:]
    results = relay([always(ALL_SPY), always(EQUAL_WEIGHT), always(ALL_CASH)], desk, spans)
    assert [[(halt.date, halt.reason) for halt in one.halts] for one in results] == [[], [(dates[8], "drawdown")], []]
    trades = {session.date: session.trades for one in results for session in one.sessions}
    assert trades[dates[0]] > 0 < trades[dates[6]]
    assert sum(trades[date] for date in dates[9:]) == 0
    assert results[2].denials["halted"] == len(spans[2])  # it does not even sell


def test_the_memory_of_one_policy_is_not_given_to_the_next() -> None:
    """A memory that counts the sessions; the same policy in the next span goes on with it."""
    table = made_up_funds()
    dates = table.dates[300:306]
    memories: list[float] = []

    def counting(observations: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        memories.append(float(hidden.max()))
        return torch.eye(len(regime_switcher.SPEC.actions))[[EQUAL_WEIGHT]], hidden + 1.0

    desk = desk_before(table, dates, RegimeSwitcher(), trading_for("regime_switcher"))
    relay([counting, counting, partial(counting)], desk, [dates[:2], dates[2:4], dates[4:]])
    assert memories == [0.0, 1.0, 2.0, 3.0, 0.0, 1.0]


@pytest.mark.parametrize("name", ["daily_rebalancer", "regime_switcher"])
def test_two_folds_of_the_same_policy_are_one_long_dry_run_next_to_one_passive_account(name: str) -> None:
    table, kind, player, passive = {
        "daily_rebalancer": (made_up_stocks(), RebalancerTaskData, trend, baselines.HOLD_ALL),
        "regime_switcher": (made_up_funds(), RegimeTaskData, always(EQUAL_WEIGHT), regime_switcher.EQUAL_WEIGHT),
    }[name]
    dates, trading = table.dates[-12:], trading_for(name)
    data = kind(Path("made up"), table, daily_strategy(name), trading)
    variant = "notional" if name == "daily_rebalancer" else "alpha"
    policy: Any = player
    result = data.relay([policy, policy], [Span(part, variant, trading) for part in (dates[:5], dates[5:])])
    straight = data.test(policy, Span(dates, variant, trading)).sessions
    assert (*result.folds[0].sessions, *result.folds[1].sessions) == straight
    assert sum(session.trades for session in straight) > 0
    assert result.passive == passive
    assert [session.date for session in result.held] == list(dates)
    if name == "regime_switcher":  # it is the passive policy itself
        assert result.held == straight
