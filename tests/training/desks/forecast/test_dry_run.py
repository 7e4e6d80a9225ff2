"""The market of the agents and the desk itself, given the same decisions: the same money, to the cent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from daemon.core.limits import Trading
from daemon.core.strategy_rules import trading_for
from strategies import forecast_ensemble
from strategies.forecast_ensemble import SEQUENCE, ForecastEnsemble
from strategies.forecast_ensemble.features import COUNT, NAMES
from tests.support.training.made_up_days import walk
from training.data.daily_table import DailyTable, read_table, table_of
from training.desks.forecast.graph import size_of, weighted
from training.desks.forecast.market import ACCOUNT, Outlook
from training.desks.forecast.play import play
from training.evaluate.days import desk_before, dry_run, relay
from training.study.study import PlayResult, SessionResult

CENT = 0.01
SEEN = tuple(NAMES.index(name) for name in ("log_return_1", "log_return_20", "rsi14"))


def outlook(table: DailyTable) -> Outlook:
    """Three features of each symbol, a forecast that nobody asks for, and a variance that depends on a feature."""
    days, symbols = len(table.sessions), len(table.symbols)
    features = table.features.reshape(days, symbols, COUNT)[:, :, SEEN]
    confidence, variance = torch.full((days, symbols), 0.5), variance_of(torch.from_numpy(features[:, :, 0]))
    return Outlook(
        np.full((days, symbols, 3), 1 / 3, np.float32),
        confidence.numpy(),
        features,
        variance.double().numpy(),
        size_of(confidence, variance, RISK).numpy(),
    )


RISK = 0.011  # of sizing: below and above the forecast deviations


def variance_of(newest_return: Tensor) -> Tensor:
    """A forecast of each symbol's variance."""
    return 1e-4 + newest_return.square()


def rule(rows: Tensor) -> Tensor:
    """Final actions that depend on all of a row's numbers: any difference grows with the sessions."""
    features, account = rows[:, : len(SEEN)], rows[:, -ACCOUNT:]
    weight, gain, age, cash = account.unbind(1)
    wish = torch.tanh(25.0 * features[:, 0] + 4.0 * features[:, 1] + 0.05 * (features[:, 2] - 50.0))
    return (wish + cash - 4.0 * weight - gain + 0.1 * age).clamp(-1.0, 1.0)


def policy(observation: Tensor) -> tuple[Tensor, ...]:
    """The same rule as a policy of the desk."""
    newest = observation[:, SEQUENCE - COUNT : SEQUENCE][:, list(SEEN)]
    final = rule(torch.cat([newest, observation[:, SEQUENCE : SEQUENCE + ACCOUNT]], dim=1))
    return final, final.new_zeros(len(final), 3), final, variance_of(newest[:, 0]), *[final] * 4


def sized(observation: Tensor) -> tuple[Tensor, ...]:
    """The rule's wishes, of which inverse risk lets a part pass."""
    wish, probabilities, _, variance, *_ = policy(observation)
    size = size_of(torch.full_like(wish, 0.5), variance, RISK)
    final = weighted(wish, size)
    return final, probabilities, wish, variance, wish, wish, size, final


def rules(cash: int, band: float) -> Trading:
    """The desk's own rules, but that it never halts."""
    trading = trading_for(forecast_ensemble.SPEC.name)
    trading = replace(trading, risk=replace(trading.risk, daily_loss_max=1.0, drawdown_max=1.0))
    trading = replace(trading, basket=replace(trading.basket, band=band))
    return replace(trading, paper=replace(trading.paper, cash_usd=Decimal(cash)))


def agree(desk: PlayResult, market: Sequence[SessionResult]) -> None:
    """Both accounts are the same to the cent at every close, and traded as much."""
    assert desk.denials == {}
    assert [r.date for r in desk.sessions] == [r.date for r in market]
    assert [r.trades for r in desk.sessions] == [r.trades for r in market]
    for figure in ("capital_usd", "pnl_usd", "fees_usd", "premium_usd"):
        figures = [[getattr(r, figure) for r in results] for results in (desk.sessions, market)]
        assert figures[0] == pytest.approx(figures[1], rel=0, abs=CENT)
    assert [r.held_min for r in desk.sessions] == [r.held_min for r in market]


@cache
def made_up(missing: float) -> DailyTable:
    """Random walks of three symbols: the desk is warm after 360 sessions."""
    return walk(480, seed=5, spec=ForecastEnsemble(("AAA", "BBB", "CCC")).spec, missing=missing)


@pytest.mark.parametrize(
    ("cash", "band", "missing"), [(100_000, 0.0, 0.0), (100_000, 0.05, 0.0), (3_000, 0.02, 0.002), (500, 0.0, 0.002)]
)
def test_the_desk_and_the_market_earn_the_same_on_made_up_days(cash: int, band: float, missing: float) -> None:
    table, trading = made_up(missing), rules(cash, band)
    dates = table.dates[400:]
    desk = desk_before(table, dates, ForecastEnsemble(table.symbols), trading)
    market = play(lambda rows: rule(rows[:, [0, 1, 2, *range(-ACCOUNT, 0)]]), table, outlook(table), dates, trading)
    agree(dry_run(policy, desk), market)
    assert sum(result.trades for result in market) > 60


def test_they_earn_the_same_where_inverse_risk_sizes_what_is_wanted() -> None:
    table, trading = made_up(0.002), rules(100_000, 0.02)
    dates, wish = table.dates[400:], lambda rows: rule(rows[:, [0, 1, 2, *range(-ACCOUNT, 0)]])
    desk = dry_run(sized, desk_before(table, dates, ForecastEnsemble(table.symbols), trading))
    market = play(wish, table, outlook(table), dates, trading, sized=True)
    agree(desk, market)
    whole = play(wish, table, outlook(table), dates, trading)
    assert sum(result.held_min for result in market) > 0
    assert [result.pnl_usd for result in market] != [result.pnl_usd for result in whole]


@pytest.mark.parametrize("forecast", ["ewma", "har", "model"])
def test_they_earn_the_same_under_a_risk_overlay(forecast: Literal["ewma", "har", "model"]) -> None:
    table, trading = made_up(0.0005), rules(100_000, 0.02)
    basket = replace(trading.basket, weight_max=0.5)
    trading = replace(trading, basket=basket)
    capped = replace(trading, basket=replace(basket, volatility_target=0.1, volatility_forecast=forecast))
    dates = table.dates[400:]

    def market(trading: Trading) -> tuple[SessionResult, ...]:
        return play(lambda rows: rule(rows[:, [0, 1, 2, *range(-ACCOUNT, 0)]]), table, outlook(table), dates, trading)

    agree(dry_run(policy, desk_before(table, dates, ForecastEnsemble(table.symbols), capped)), market(capped))
    minutes = [sum(result.held_min for result in market(limits)) for limits in (capped, trading)]
    assert 0 < minutes[0] < 0.8 * minutes[1]


@pytest.mark.parametrize("forecast", ["", "ewma", "har", "model"])
def test_they_earn_the_same_after_a_session_without_any_bar(forecast: Literal["", "ewma", "har", "model"]) -> None:
    whole, trading = made_up(0.0), rules(100_000, 0.02)
    bars = whole.bars.copy()
    bars[:, 420] = np.nan  # each was refused
    table = table_of(bars, whole.sessions, ForecastEnsemble(whole.symbols).spec)
    if forecast:
        basket = replace(trading.basket, weight_max=0.5, volatility_target=0.1, volatility_forecast=forecast)
        trading = replace(trading, basket=basket)
    dates = table.dates[400:460]
    desk = dry_run(policy, desk_before(table, dates, ForecastEnsemble(table.symbols), trading))
    assert desk.denials == {"stale_history": 1}
    market = play(lambda rows: rule(rows[:, [0, 1, 2, *range(-ACCOUNT, 0)]]), table, outlook(table), dates, trading)
    agree(msgspec.structs.replace(desk, denials={}), market)
    assert sum(result.trades for result in market[22:30]) > 8


def test_they_earn_the_same_where_the_overlay_leaves_less_than_an_order_of_a_fraction() -> None:
    table, trading = made_up(0.0005), rules(300, 0.0)
    basket = replace(trading.basket, weight_max=0.5, volatility_target=0.1, min_order_usd=Decimal(20))
    trading, dates = replace(trading, basket=basket), table.dates[400:]
    market = play(lambda rows: rule(rows[:, [0, 1, 2, *range(-ACCOUNT, 0)]]), table, outlook(table), dates, trading)
    agree(dry_run(policy, desk_before(table, dates, ForecastEnsemble(table.symbols), trading)), market)
    assert sum(result.trades for result in market) > 20


def test_one_account_goes_through_spans_with_a_policy_each_and_earns_what_the_market_does() -> None:
    """The second policy wants the opposite: it begins with what the first one holds."""
    table, trading = made_up(0.002), rules(100_000, 0.02)
    spans = [table.dates[400:430], table.dates[430:450], table.dates[450:]]
    desk = desk_before(table, [date for dates in spans for date in dates], ForecastEnsemble(table.symbols), trading)

    def contrary(observation: Tensor) -> tuple[Tensor, ...]:
        final, probabilities, _, variance, *_ = policy(observation)
        return -final, probabilities, -final, variance, *[-final] * 4

    results = relay([policy, contrary, policy], desk, spans)
    assert [[session.date for session in one.sessions] for one in results] == [list(dates) for dates in spans]
    signs = iter([1.0] * 30 + [-1.0] * 20 + [1.0] * 30)
    market = play(
        lambda rows: next(signs) * rule(rows[:, [0, 1, 2, *range(-ACCOUNT, 0)]]),
        table,
        outlook(table),
        desk.table.dates[400:],
        trading,
    )
    agree(PlayResult(tuple(session for one in results for session in one.sessions)), market)
    began, last = results[1].sessions[0], results[0].sessions[-1]
    assert began.capital_usd == pytest.approx(last.capital_usd + last.pnl_usd)
    assert last.held_min > 0
    alone = relay([contrary], desk_before(table, spans[1], ForecastEnsemble(table.symbols), trading), spans[1:2])
    assert alone[0].sessions[0].capital_usd == 100_000.0
    with pytest.raises(ValueError, match=f"{spans[2][0]} is not the session after {spans[0][-1]}"):
        relay([policy, policy], desk, [spans[0], spans[2]])


def test_the_desk_and_the_market_earn_the_same_over_hundreds_of_real_days(data_dir: Path) -> None:
    table = read_table(data_dir / "stocks_daily_2010_2022.parquet", ForecastEnsemble())
    trading = rules(100_000, 0.01)
    dates = [date for date in table.dates if date >= "2021-01-01"][:260]
    desk = desk_before(table, dates, ForecastEnsemble(), trading)
    market = play(lambda rows: rule(rows[:, [0, 1, 2, *range(-ACCOUNT, 0)]]), table, outlook(table), dates, trading)
    agree(dry_run(policy, desk), market)
    assert sum(result.trades for result in market) > 1000
