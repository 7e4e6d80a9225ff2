"""The tensor market of whole shares against hand calculation and against the live rule with purchases in Decimal."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.limits import Trading
from strategies.daily_rebalancer import SYMBOLS, WEEKDAY, basket_of, vector
from strategies.kit.contract import Portfolio
from strategies.kit.quantity import steps_of
from tests.support.examples import examples
from tests.support.training.ledger import Ledger
from tests.support.training.made_up_days import trading, walk, written
from training.data.daily_table import DailyTable
from training.desks.daily.markets.rebalancer import RebalancerMarket

HAND = {
    "AAPL": [(100.0, 100.0), (100.0, 100.0), (101.0, 102.0), (103.0, 99.0)],
    "ADBE": [(50.0, 50.0), (50.0, 50.0), (49.0, 48.0), (47.5, 49.5)],
}


def acting(**actions: float) -> torch.Tensor:
    """One account's actions, 0 where none is named."""
    return torch.tensor([[actions.get(symbol, 0.0) for symbol in SYMBOLS]])


def market(table: DailyTable, first: int, rules: Trading, **more: Any) -> RebalancerMarket:
    """One account from `first` to the table's end."""
    return RebalancerMarket(table, first, len(table.sessions) - 1, rules, count=1, draws=False, **more)


def test_two_stocks_over_two_sessions_come_out_as_calculated_by_hand() -> None:
    desk = market(written(HAND), 2, trading("20000"))
    rewards = desk.step(acting(AAPL=1.0, ADBE=0.5)).rewards
    # asks 101 x 1.0002 = 101.0202 and 49 x 1.0002 = 49.0098; cost 0.1 %
    # 20,000 - 10,102.02 - 10.10202 - 2,450.49 - 2.45049 = 7,434.93749; CAT 150 x 0.000048, a cent
    assert float(desk.cash_usd) == 7434.92749
    assert float(desk.equity_usd) == 20034.92749  # + 100 x 102 + 50 x 48
    assert float(rewards) == pytest.approx(0.003492749, rel=1e-6)
    assert float(desk.costs_usd) == 12.56251
    assert float(desk.traded_usd) == 12552.51
    step = desk.step(acting(AAPL=-0.5, ADBE=1.0))
    # + 50 x 103 - 5.15 = 12,579.77749; ask 47.5 x 1.0002 = 47.5095: - 4,750.95 - 4.75095
    # SEC 0.0000278 x 5,150 = 0.14317, TAF 0.000166 x 50 = 0.0083, CAT 0.0072: 0.15, 0.01 and 0.01
    equity, cash = desk.closing_usd
    assert float(cash) == 7823.90654
    assert float(equity) == 20198.90654  # + 50 x 99 + 150 x 49.5
    assert float(step.rewards) == pytest.approx(0.016397905, rel=1e-6)
    assert step.truncated is not None
    assert step.truncated.tolist() == [True]
    assert step.terminals.tolist() == [False]


def test_who_goes_short_of_cash_buys_the_same_part_of_all() -> None:
    desk = market(written(HAND), 2, trading("10000"))
    desk.step(acting(AAPL=1.0, ADBE=0.5))
    # a share holds back 101.323523 and 49.157008: 12,590.20 for 100 and 50, so 79.43 and 39.71 are paid for; 79 and 39
    # leave 78.32, of which ADBE's larger remainder takes a share
    assert desk.shares[0, :2].tolist() == [79.0, 40.0]
    desk = market(written(HAND), 2, trading("10000"))
    desk.step(acting(AAPL=1.0, ADBE=1.0))
    # 66.45 of each; 66 and 66 leave 68.28, which pays for ADBE alone
    assert desk.shares[0, :2].tolist() == [66.0, 67.0]


def test_what_opens_too_dear_for_the_cash_is_cut() -> None:
    table = written({"AAPL": [(100.0, 100.0)] * 2 + [(120.0, 120.0)] * 2, "ADBE": [(50.0, 50.0)] * 4})
    desk = market(table, 2, trading("10000"))
    desk.step(acting(AAPL=0.5, ADBE=1.0))
    # 50 and 100 were worth 10,000 at the closes; a share then costs 120.384365 and 50.160211 at most, together
    # 11,035.24: 45.31 and 90.62 are paid for; 45 and 90 leave 68.28, which ADBE's larger remainder takes
    assert desk.shares[0, :2].tolist() == [45.0, 91.0]


def test_with_fractions_the_crumbs_stay_cash() -> None:
    desk = market(written(HAND), 2, trading("10", fractions=True), variant="notional")
    desk.step(acting(AAPL=0.001, ADBE=0.0005))
    # 10 and 5 USD are wanted: 0.1 shares each, which hold back 15.05. Of the 10 USD 2e-6 are kept for the rounding of
    # the costs, so 999 of 1,505 whole cents are paid for: 0.0663 of a share each
    assert desk.shares[0, :2].tolist() == [0.0663, 0.0663]
    spent = 0.0663 * 101.0202 + 0.0663 * 49.0098
    assert float(desk.closing_usd[1]) == pytest.approx(10.0 - spent - float(desk.costs_usd), abs=1e-9)
    assert float(desk.costs_usd) == pytest.approx(0.006698 + 0.003249 + 0.01, abs=1e-9)  # micro-dollars; a cent for CAT


@pytest.mark.parametrize(("opens", "left"), [(100.0, 2.0), (97.0, 2.2)])
def test_what_the_auction_leaves_of_a_sale_stays_where_it_is_too_small_for_an_order_after_the_open(
    opens: float, left: float
) -> None:
    """Of 3.2 shares at 100 USD the answer sells 1.2: a fifth of one is 20 USD at the close, 19.40 at an open of 97."""
    rules = trading("1000", fractions=True)
    rules = replace(rules, basket=replace(rules.basket, min_order_usd=Decimal("19.50")))
    table = written({"AAPL": [(100.0, 100.0)] * 3 + [(opens, opens)]})
    desk = market(table, 2, rules, variant="notional")
    desk.step(acting(AAPL=0.032))
    assert desk.shares[0, 0].item() == 3.2
    desk.step(acting(AAPL=-0.375))
    sold, _ = desk.traded
    assert sold[0, 0].item() == pytest.approx(3.2 - left, abs=1e-12)


def test_zero_actions_trade_nothing_and_the_value_stays() -> None:
    desk = market(written(HAND), 2, trading("20000"))
    desk.step(acting())
    assert float(desk.cash_usd) == float(desk.equity_usd) == 20000.0
    assert float(desk.costs_usd) == float(desk.traded_usd) == 0.0


def test_a_fill_at_the_close_of_the_decision_pays_that_close_and_no_waiting() -> None:
    desk = market(written(HAND), 2, trading("20000"), fill="same_close")
    desk.step(acting(AAPL=1.0))
    assert float(desk.cash_usd) == 20000.0 - 10000.0 - 10.0 - 0.01  # CAT


def test_the_notional_unit_buys_shares_for_its_dollars_at_the_last_close() -> None:
    desk = market(written(HAND), 2, trading("50000"), variant="notional")
    desk.step(acting(AAPL=0.5, ADBE=1.0))
    assert desk.shares[0, :2].tolist() == [50.0, 200.0]  # 5,000 / 100 and 10,000 / 50


def test_the_observation_is_the_one_that_the_live_strategy_assembles() -> None:
    table = walk(12, seed=3)
    desk = market(table, 5, trading("100000"))
    desk.step(acting(AAPL=1.0, XOM=0.7))
    observation = desk.observe()[0].numpy()
    expected = vector(
        table.features[5],
        table.tradable[5],
        cash=float(desk.cash_usd),
        value=float(desk.equity_usd),
        shares=desk.shares[0].numpy(),
        weekday=table.weekday(6),
    )
    assert observation.tobytes() == expected.tobytes()
    assert observation[WEEKDAY] == 1  # the seventh session after a Monday is a Tuesday


def goals_of(ledger: Ledger, day: int, actions: list[float], variant: str) -> dict[int, int]:
    """What the live rule (`basket_of`) wants to hold before session `day`, in steps by place."""
    prices = tuple(float(tick) / 10_000 for tick in ledger.table.close_ticks[day - 1])
    portfolio = Portfolio(
        float(ledger.cash),
        float(ledger.equity(day - 1)),
        ledger.held,
        prices,
        notional_per_unit=10_000.0 if variant == "notional" else 0.0,
        equity_per_unit=0.01 if variant == "account" else 0.0,
        band=ledger.rules.basket.band,
        per_share=ledger.per_share,
    )
    basket = basket_of(actions, ledger.table.tradable[day - 1].tolist(), portfolio)
    return {SYMBOLS.index(leg.symbol): steps_of(leg.goal, ledger.per_share) for leg in basket.legs}


@settings(max_examples=examples(40))
@given(
    seed=st.integers(0, 2**31),
    cash=st.sampled_from(["900", "25000", "1000000"]),
    variant=st.sampled_from(["shares", "notional", "account"]),
    missing=st.sampled_from([0.0, 0.2]),
    bias=st.sampled_from([0.0, 0.5]),
    band=st.sampled_from([0.0, 0.002]),
    per_share=st.sampled_from([1, 10_000]),
)
def test_the_tensor_rule_is_the_live_rule_with_purchases_in_proportion(
    seed: int, cash: str, variant: str, missing: float, bias: float, band: float, per_share: int
) -> None:
    table, rules = walk(8, seed, missing=missing), trading(cash, band=band, fractions=per_share > 1)
    desk = market(table, 3, rules, variant=variant)
    ledger = Ledger(table, rules, per_share)
    random = np.random.default_rng(seed)
    for day in range(3, 8):
        actions = np.clip(random.uniform(-1, 1, 50) + bias, -1, 1).round(1 if seed % 2 else 7).astype(np.float32)
        desk.step(torch.from_numpy(actions).unsqueeze(0))
        ledger.trade(day, goals_of(ledger, day, actions.tolist(), variant))
        equity, closing_cash = desk.closing_usd
        assert float(closing_cash) == float(ledger.cash) >= -0.05  # a day's fees may take what is not there
        assert float(equity) == float(ledger.equity(day))


@given(seed=st.integers(0, 2**31))
@settings(max_examples=examples(15))
def test_cash_is_never_negative_and_costs_are_paid_once(seed: int) -> None:
    table, rules = walk(8, seed), trading("30000")
    rules = replace(rules, paper=replace(rules.paper, share_fees_below_usd=Decimal(0)))
    desk = RebalancerMarket(table, 3, 7, rules, count=20, draws=False)
    generator = torch.Generator().manual_seed(seed)
    for day in range(3, 8):
        cash, shares = desk.cash_usd, desk.shares
        desk.step(torch.rand(20, 50, generator=generator) * 2 - 1)
        cash_after = desk.closing_usd[1]
        assert bool((cash_after >= 0).all())
        sales, buys = desk.traded
        assert bool((sales <= shares).all())
        open_prices = torch.from_numpy(table.open_ticks[day]) / 10_000
        asks = torch.ceil(torch.from_numpy(table.open_ticks[day]) * 1.0002 - 1e-6) / 10_000
        flow = (sales * open_prices).sum(1) - (buys * asks).sum(1)
        torch.testing.assert_close(cash_after, cash + flow - desk.costs_usd, rtol=0, atol=1e-6)
        value = (sales * open_prices).sum(1) + (buys * asks).sum(1)
        torch.testing.assert_close(desk.costs_usd, 0.001 * value, rtol=0, atol=1e-4)


def test_changing_places_of_stocks_changes_places_of_what_happens() -> None:
    table, rules = walk(8, seed=5), trading("1000000")
    order = np.random.default_rng(0).permutation(50)
    other = walk(8, seed=5)
    other_table = written_anew(other, order)
    desk, mirrored = market(table, 3, rules), market(other_table, 3, rules)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        actions = torch.rand(1, 50, generator=generator) * 2 - 1
        desk.step(actions)
        mirrored.step(actions[:, torch.from_numpy(order)])
        assert torch.equal(desk.shares[:, torch.from_numpy(order)], mirrored.shares)
        assert torch.equal(desk.cash_usd, mirrored.cash_usd)


def written_anew(table: DailyTable, order: np.ndarray[Any, Any]) -> DailyTable:
    """The same prices under other names."""
    from tests.support.training.made_up_days import SHORT
    from training.data.daily_table import table_of

    return table_of(table.bars[:, :, order], table.sessions, SHORT)


def test_an_episode_ends_by_time_alone_and_the_next_begins_with_fresh_money() -> None:
    table = walk(30, seed=9)
    desk = RebalancerMarket(table, 3, 29, trading("50000"), count=8, seed=4, episode=5)
    episode_ends = torch.zeros(8, dtype=torch.int64)
    for _ in range(40):
        step = desk.step(torch.full((8, 50), 0.3))
        assert not bool(step.terminals.any())
        if step.truncated is not None:
            assert step.last is not None
            assert step.last.shape == (8, 803)
            episode_ends += step.truncated
            assert bool((desk.cash_usd[step.truncated] == 50000.0).all())
            assert bool((desk.shares[step.truncated] == 0).all())
    assert bool((episode_ends >= 8).all())


def test_a_market_goes_on_from_its_state_to_the_bit() -> None:
    table = walk(40, seed=2)
    markets = [RebalancerMarket(table, 3, 39, trading("50000"), count=6, seed=s) for s in (4, 4, 5)]
    generator = torch.Generator().manual_seed(3)
    actions = [torch.rand(6, 50, generator=generator) * 2 - 1 for _ in range(60)]
    for action in actions[:30]:
        markets[0].step(action)
    markets[2].load_state_dict(markets[0].state_dict())
    for action in actions[30:]:
        first, second = markets[0].step(action), markets[2].step(action)
        assert torch.equal(first.rewards, second.rewards)
        assert torch.equal(markets[0].observe(), markets[2].observe())
    with pytest.raises(ValueError, match="environments"):
        RebalancerMarket(table, 3, 39, trading("50000"), count=7).load_state_dict(markets[0].state_dict())


def test_an_action_beyond_its_bounds_is_clipped() -> None:
    desk = market(written(HAND), 2, trading("20000"))
    desk.step(acting(AAPL=3.0))
    assert desk.shares[0, 0] == 100.0
    desk.step(acting(AAPL=-1.7))
    assert desk.traded[0][0, 0] == 100.0


def test_a_span_without_a_session_before_it_and_unknown_names_are_refused() -> None:
    table = walk(8, seed=1)
    with pytest.raises(ValueError, match="1 <= first"):
        RebalancerMarket(table, 0, 7, trading("50000"), count=1)
    with pytest.raises(ValueError, match="variant is 'dollars'"):
        RebalancerMarket(table, 3, 7, trading("50000"), count=1, variant="dollars")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_plays_the_same_to_the_bit() -> None:
    table, rules = walk(40, seed=2, missing=0.05), trading("50000")
    markets = [RebalancerMarket(table, 3, 39, rules, count=64, seed=4, device=d) for d in ("cpu", "cuda")]
    generator = torch.Generator().manual_seed(3)
    for _ in range(60):
        action = torch.rand(64, 50, generator=generator) * 2 - 1
        first, second = markets[0].step(action), markets[1].step(action.cuda())
        assert torch.equal(first.rewards, second.rewards.cpu())
        assert torch.equal(markets[0].observe(), markets[1].observe().cpu())
