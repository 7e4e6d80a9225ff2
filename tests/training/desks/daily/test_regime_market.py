"""The tensor market of weights against hand calculation, and what must hold whatever is chosen."""

from __future__ import annotations

from dataclasses import replace
from math import nan
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.kit.contract import Answer, Portfolio, View
from strategies.regime_switcher import REGIMES, SPEC, RegimeSwitcher, performance, spec_of, vector
from tests.support.examples import examples
from tests.support.training.made_up_days import trading, walk, written
from training.data.daily_table import TICKS, table_of
from training.desks.daily.markets.regime import REWARD_COST, RegimeMarket

FUNDS = msgspec.structs.replace(SPEC, history_bars=2)
HAND = {
    "SPY": [(100.0, 100.0), (102.0, 101.0), (100.0, 103.0)],
    "QQQ": [(200.0, 200.0), (190.0, 200.0), (210.0, 205.0)],
    "IWM": [(50.0, 50.0), (50.0, 51.0), (52.0, 50.0)],
}
HOLD, ALL_CASH, ALL_SPY, EQUAL_WEIGHT, SPY_QQQ = 0, 1, 2, 5, 6


def choose(regime: int, count: int = 1) -> torch.Tensor:
    """The same regime for all."""
    return torch.full((count,), regime)


def test_three_funds_over_two_sessions_come_out_as_calculated_by_hand() -> None:
    desk = RegimeMarket(written(HAND, FUNDS), 1, 2, trading("100000"), count=1, episode=None, draws=False)
    step = desk.step(choose(SPY_QQQ))
    # 100,000 in cash; at the open 1 of turnover: 100 paid; the day gives (101/102 + 200/190) / 2 = 1.0214138
    day = (101 / 102 + 200 / 190) / 2
    assert float(desk.equity_usd) == pytest.approx(99_900 * day, rel=1e-12)
    equal = (1.01 + 1.0 + 1.02) / 3 - 1
    assert float(step.rewards) == pytest.approx(day - 1 - equal - 0.001, rel=1e-5)
    spy, qqq = 0.5 * 101 / 102 / day, 0.5 * 200 / 190 / day
    torch.testing.assert_close(desk.weights, torch.tensor([[spy, qqq, 0.0]], dtype=torch.float64))
    step = desk.step(choose(ALL_SPY))
    # the night earns the old weights: 100/101 and 210/200; then QQQ is sold for SPY
    night = spy * 100 / 101 + qqq * 210 / 200
    drifted = qqq * 210 / 200 / night
    assert float(desk.turnover) == pytest.approx(2 * drifted, rel=1e-12)
    equity = 99_900 * day * night * (1 - 0.001 * 2 * drifted) * 1.03
    assert float(desk.closing_usd[0]) == pytest.approx(equity, rel=1e-12)
    equal = (103 / 101 + 205 / 200 + 50 / 51) / 3 - 1
    assert float(step.rewards) == pytest.approx(night * 1.03 - 1 - equal - 0.001 * 2 * drifted, rel=1e-5)
    assert step.truncated is not None
    assert step.truncated.tolist() == [True]


def test_hold_keeps_the_drifted_weights_and_costs_nothing() -> None:
    table = walk(12, seed=1, spec=FUNDS)
    desk = RegimeMarket(table, 2, 11, trading("100000"), count=1, episode=None, draws=False)
    desk.step(choose(EQUAL_WEIGHT))
    before, weights = float(desk.equity_usd), desk.weights[0]
    desk.step(choose(HOLD))
    close = torch.from_numpy(table.close_ticks)
    grown = weights * close[3] / close[2]
    assert float(desk.costs_usd) == float(desk.turnover) == 0.0
    total = float(grown.sum() + 1 - weights.sum())
    assert float(desk.equity_usd) == pytest.approx(before * total, rel=1e-12)
    torch.testing.assert_close(desk.weights[0], grown / total)


@settings(max_examples=examples(30))
@given(seed=st.integers(0, 2**31), band=st.sampled_from([0.0, 0.1, 0.4]))
def test_weights_with_cash_sum_to_one_and_costs_are_paid_once(seed: int, band: float) -> None:
    table = walk(10, seed, spec=FUNDS)
    desk = RegimeMarket(table, 2, 9, trading("100000", band=band), count=64, episode=None, draws=False)
    generator = torch.Generator().manual_seed(seed)
    open_ticks, close = torch.from_numpy(table.open_ticks), torch.from_numpy(table.close_ticks)
    for day in range(2, 9):
        before, weights = desk.equity_usd, desk.weights
        desk.step(torch.randint(0, len(REGIMES), (64,), generator=generator))
        assert bool((desk.weights >= 0).all())
        assert bool((desk.weights.sum(1) <= 1 + 1e-12).all())
        torch.testing.assert_close(desk.observe()[:, 9:13].sum(1), torch.ones(64))
        night = before * (1 + (weights * (open_ticks[day] / close[day - 1] - 1)).sum(1))
        torch.testing.assert_close(desk.costs_usd, night * desk.turnover * REWARD_COST)
        purchases = desk.weights / (close[day] / open_ticks[day])  # the weights at the open, but for their sum
        at_open = purchases / (purchases.sum(1) + 1 - desk.weights.sum(1)).unsqueeze(1)
        grown = 1 + (at_open * (close[day] / open_ticks[day] - 1)).sum(1)
        torch.testing.assert_close(desk.equity_usd, (night - desk.costs_usd) * grown)


def test_changing_places_of_funds_changes_places_of_weights() -> None:
    table = walk(6, seed=8, spec=FUNDS)
    swapped = table_with_funds_swapped(table)
    markets = [RegimeMarket(t, 2, 5, trading("100000"), count=1, episode=None, draws=False) for t in (table, swapped)]
    for regime, mirrored in ((2, 3), (6, 6), (7, 8), (0, 0)):  # ALL_SPY, ALL_QQQ; SPY_QQQ; SPY_IWM, QQQ_IWM
        markets[0].step(choose(regime))
        markets[1].step(choose(mirrored))
        torch.testing.assert_close(markets[0].closing_usd[0], markets[1].closing_usd[0], rtol=1e-14, atol=0)


def table_with_funds_swapped(table: Any) -> Any:
    """SPY under the name of QQQ and the other way round."""
    return table_of(table.bars[:, :, [1, 0, 2]], table.sessions, FUNDS)


def test_the_observation_is_the_one_that_the_live_strategy_assembles() -> None:
    table = walk(300, seed=3, spec=FUNDS)
    desk = RegimeMarket(table, 2, 299, trading("100000"), count=1, episode=None, draws=False)
    generator = torch.Generator().manual_seed(0)
    equities = [100_000.0]
    for day in range(2, 299):
        desk.step(torch.randint(0, 16, (1,), generator=generator))
        equities.append(float(desk.equity_usd))
        weights = desk.weights[0].numpy()
        expected = vector(table.features[day], (1.0 - weights.sum(), *weights), *performance(equities[-257:]))
        np.testing.assert_array_equal(desk.observe()[0].numpy(), expected)


def test_episodes_have_their_full_length_and_begin_anew_in_cash() -> None:
    table = walk(60, seed=3, spec=FUNDS)
    desk = RegimeMarket(table, 2, 59, trading("100000"), count=32, seed=5, episode=20)
    first = desk.day
    assert int(first.min()) >= 2
    assert int(first.max()) <= 40
    assert len(set(first.tolist())) > 5
    for number in range(20):
        step = desk.step(choose(ALL_SPY, 32))
        assert (step.truncated is None) == (number < 19)
    assert step.truncated is not None
    assert bool(step.truncated.all())
    assert not bool(step.terminals.any())
    assert step.last is not None
    assert float(step.last[0, 9]) < 1.0
    assert bool((desk.observe()[:, 9] == 1.0).all())
    assert bool((desk.observe()[:, 13:15] == 0.0).all())


def test_a_market_goes_on_from_its_state_to_the_bit() -> None:
    table = walk(60, seed=3, spec=FUNDS)
    markets = [RegimeMarket(table, 2, 59, trading("100000"), count=8, seed=s, episode=7) for s in (5, 6)]
    generator = torch.Generator().manual_seed(0)
    actions = [torch.randint(0, 16, (8,), generator=generator) for _ in range(40)]
    for action in actions[:20]:
        markets[0].step(action)
    markets[1].load_state_dict(markets[0].state_dict())
    for action in actions[20:]:
        assert torch.equal(markets[0].step(action).rewards, markets[1].step(action).rewards)
        assert torch.equal(markets[0].observe(), markets[1].observe())
    with pytest.raises(ValueError, match="environments"):
        RegimeMarket(table, 2, 59, trading("100000"), count=7).load_state_dict(markets[0].state_dict())


def test_a_span_outside_of_the_table_or_before_all_funds_is_refused() -> None:
    table = walk(10, seed=3, spec=FUNDS)
    with pytest.raises(ValueError, match="1 <= first"):
        RegimeMarket(table, 2, 10, trading("100000"), count=1)
    late = written({"SPY": HAND["SPY"], "QQQ": HAND["QQQ"]}, FUNDS)
    with pytest.raises(ValueError, match="no close before"):
        RegimeMarket(late, 1, 2, trading("100000"), count=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_plays_the_same() -> None:
    table = walk(60, seed=3, spec=FUNDS)
    markets = [RegimeMarket(table, 2, 59, trading("100000"), count=64, episode=9, device=d) for d in ("cpu", "cuda")]
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        action = torch.randint(0, 16, (64,), generator=generator)
        first, second = markets[0].step(action), markets[1].step(action.cuda())
        torch.testing.assert_close(first.rewards, second.rewards.cpu(), rtol=0, atol=1e-6)
        torch.testing.assert_close(markets[0].observe(), markets[1].observe().cpu(), rtol=0, atol=1e-6)


FIVE = ("SPY", "QQQ", "IWM", "TLT", "GLD")


def test_weights_by_volatility_are_those_of_the_desk_for_five_funds() -> None:
    """The desk's whole shares of a huge equity are its weights; the market's, before the day changes them, the same."""
    desk, rich = RegimeSwitcher(FIVE), 1e15
    table, regime = walk(300, seed=4, spec=desk.spec, missing=0.02), desk.spec.actions.index("HALF_INVERSE")
    first = 270
    market = RegimeMarket(table, first, 299, trading("100000"), count=1, episode=None, draws=False)
    answer = Answer(tuple(float(place == regime) for place in range(16)))
    state = desk.start()
    for day in range(300):
        if day >= first:
            prices = tuple((table.close_ticks[day - 1] / TICKS).tolist())
            view = View(0, table.sessions[day], portfolio=Portfolio(rich, rich, (0,) * 5, prices))
            legs = {leg.symbol: leg.goal for leg in desk.decide(state, answer, view)[1].basket.legs}
            goals = [legs[symbol] * price / rich for symbol, price in zip(FIVE, prices, strict=True)]
            market.step(choose(regime))
            opens = np.where(table.present[day], table.open_ticks[day], table.close_ticks[day - 1])
            grown = np.array(goals) * table.close_ticks[day] / opens
            weights = market.closing_usd[1] / market.closing_usd[0]
            assert float(weights) == pytest.approx(0.5 / (0.5 + grown.sum()), rel=1e-9)
            if day < 299:
                assert market.weights[0].tolist() == pytest.approx((grown / (0.5 + grown.sum())).tolist(), rel=1e-9)
        state = desk.remember(state, table.day_bars(day))


def test_a_fund_that_does_not_move_leaves_all_as_it_is() -> None:
    two = spec_of(("SPY", "TLT"))
    prices = {"SPY": [(100.0, 100.0 + day % 3) for day in range(300)], "TLT": [(50.0, 50.0)] * 300}
    desk = RegimeMarket(written(prices, two), 290, 299, trading("100000"), count=1, episode=None, draws=False)
    desk.step(choose(two.actions.index("ALL_SPY")))
    before = float(desk.weights[0, 0])
    desk.step(choose(two.actions.index("INVERSE_VOLATILITY")))
    assert (before, float(desk.turnover), float(desk.weights[0, 0])) == (1.0, 0.0, 1.0)


def test_on_the_day_after_a_session_without_a_bar_everything_stays() -> None:
    """The desk denies every basket of that day: the newest bar is not of the session before."""
    whole = walk(20, seed=3, spec=FUNDS)
    kept = [day for day in range(20) if day != 12]
    table = table_of(whole.bars[:, kept], [whole.sessions[day] for day in kept], FUNDS)
    table = replace(table, calendar=whole.sessions)
    desk = RegimeMarket(table, 10, 18, trading("100000"), count=1, episode=None, draws=False)
    turnovers = []
    for regime in (ALL_SPY, EQUAL_WEIGHT, ALL_SPY, EQUAL_WEIGHT):
        desk.step(choose(regime))
        turnovers.append(float(desk.turnover))
    assert turnovers[2] == 0.0
    assert min(turnovers[0], turnovers[1]) > 0.5


def test_a_fund_without_a_print_keeps_its_shares_and_what_it_was_to_pay_for_is_not_bought() -> None:
    still = {"SPY": [(100.0, 100.0)] * 3, "IWM": [(50.0, 50.0)] * 3}
    halted = {**still, "QQQ": [(200.0, 200.0), (nan, nan), (100.0, 100.0)]}
    first = {**still, "QQQ": [(200.0, 200.0), (200.0, 200.0), (nan, nan)]}
    bought = RegimeMarket(written(halted, FUNDS), 1, 2, trading("100000"), count=1, episode=None, draws=False)
    bought.step(choose(SPY_QQQ))  # no share of QQQ trades: half stays in cash, and its fall costs nothing
    assert (float(bought.turnover), bought.weights[0].tolist()[1:]) == (0.5, [0.0, 0.0])
    bought.step(choose(HOLD))
    assert float(bought.closing_usd[0]) == pytest.approx(99_950, rel=1e-12)
    sold = RegimeMarket(written(first, FUNDS), 1, 2, trading("100000"), count=1, episode=None, draws=False)
    sold.step(choose(SPY_QQQ))
    sold.step(choose(ALL_SPY))  # to be paid for by QQQ, which finds no buyer
    assert float(sold.turnover) == 0.0
