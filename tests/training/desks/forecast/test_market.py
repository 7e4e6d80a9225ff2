"""The market of the agents against hand calculation, and against the rule of the desk with purchases in Decimal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.limits import Trading
from strategies.kit.quantity import steps_of
from tests.support.examples import examples
from tests.support.models import faulty_days
from tests.support.training.ledger import Ledger
from tests.support.training.made_up_days import trading, walk, written
from training.data.daily_table import DailyTable
from training.desks.forecast.market import ForecastMarket, Outlook, right
from training.desks.forecast.plan import ForecastPlan
from training.desks.forecast.task_data import load
from training.desks.kind import Sources
from training.forecast.labels import BUY, HOLD, SELL

HAND = {
    "AAPL": [(100.0, 100.0), (100.0, 100.0), (101.0, 102.0), (103.0, 99.0)],
    "ADBE": [(50.0, 50.0), (50.0, 50.0), (49.0, 48.0), (47.5, 49.5)],
}


def outlook(table: DailyTable, probabilities: Sequence[float] = (0.2, 0.5, 0.3)) -> Outlook:
    """The same forecast for all symbols and days, with two features that tell them apart."""
    days, symbols = len(table.sessions), len(table.symbols)
    probable = np.tile(np.array(probabilities, dtype=np.float32), (days, symbols, 1))
    features = np.arange(days * symbols * 2, dtype=np.float32).reshape(days, symbols, 2)
    return Outlook(probable, probable.max(axis=2), features)


def whole(table: DailyTable, first: int, rules: Trading, **more: Any) -> ForecastMarket:
    """One account of all symbols from `first` to the table's end."""
    forecast = more.pop("outlook", outlook(table))
    more = {"most": 0.1, **more}
    return ForecastMarket(table, forecast, first, len(table.sessions) - 1, rules, count=1, draws=False, **more)


def finals(table: DailyTable, **actions: float) -> torch.Tensor:
    """One account's final actions, 0 where none is named."""
    return torch.tensor([[actions.get(symbol, 0.0) for symbol in table.symbols]])


def test_two_symbols_over_two_sessions_come_out_as_calculated_by_hand() -> None:
    table = written(HAND)
    desk = whole(table, 2, trading("100000"))
    rewards = desk.trade(finals(table, AAPL=1.0, ADBE=0.5)).rewards
    # a tenth and a twentieth of 100,000 at closes of 100 and 50: 100 and 100 shares
    # asks 101 x 1.0002 = 101.0202 and 49 x 1.0002 = 49.0098; cost 0.1 %: 10.10202 and 4.90098
    assert desk.shares[0, :2].tolist() == [100.0, 100.0]
    assert float(desk.cash_usd) == 84_981.997  # 100,000 - 10,102.02 - 4,900.98 - 10.10202 - 4.90098
    assert float(desk.equity_usd) == pytest.approx(84_981.997 + 100 * 102 + 100 * 48, abs=1e-9)
    # in parts of 10,000: 100 x (102 - 101), and 100 x (48 - 49); fees and 2 basis points of waiting; BUY is right
    # where the close rises by more than 0.1 %: AAPL, with confidence 0.5
    gain, cost, bonus = (term[:2].tolist() for term in desk.terms)
    assert gain == pytest.approx([100 / 10_000, -100 / 10_000])
    assert cost == pytest.approx([-(10.10202 + 2.02) / 10_000, -(4.90098 + 0.98) / 10_000])
    assert bonus == pytest.approx([0.5e-3, 0.0])
    assert rewards[:2].tolist() == pytest.approx([0.01 - 0.001212202 + 0.0005, -0.01 - 0.000588098])
    step = desk.trade(finals(table, AAPL=-1.0, ADBE=0.5))
    # AAPL is sold at 103, which earned the night from 102; a negative action means none
    # ADBE: 0.05 x 99,981.997 / 48 = 104.1: 4 more at 47.5 x 1.0002 = 47.5095
    assert desk.traded[0][0, :2].tolist() == [100.0, 0.0]
    assert desk.traded[1][0, :2].tolist() == [0.0, 4.0]
    assert desk.terms.gain[:2].tolist() == pytest.approx(
        [100.0 / 9_998.1997, (100 * (49.5 - 48) + 4 * (49.5 - 47.5)) / 9_998.1997]
    )
    assert step.truncated is not None
    assert bool(step.truncated.all())
    assert not bool(step.terminals.any())


def test_the_rows_of_an_account_sum_up_to_its_change_of_value() -> None:
    table = walk(30, seed=4)
    desk = whole(table, 3, trading("100000"), alpha=0.0)
    generator = torch.Generator().manual_seed(1)
    for _ in range(25):
        before = float(desk.equity_usd)
        rewards = desk.trade(torch.rand(1, 50, generator=generator)).rewards
        assert float(rewards.double().sum()) * 0.1 * before == pytest.approx(
            float(desk.closing_usd[0]) - before, abs=0.02
        )


def test_weights_are_scaled_down_where_they_sum_to_more_than_all_money() -> None:
    table = written({name: [(100.0, 100.0)] * 5 for name in ("AAPL", "ADBE")})
    rules = trading("100000")
    desk = whole(table, 2, rules, most=0.8)
    desk.trade(finals(table, AAPL=1.0, ADBE=0.5))
    # 0.8 and 0.4 sum to 1.2: two thirds and one third, 666 and 333, which cost 99,999.90 at the closes. At a limit of
    # 100.02 x 1.002 = 100.2201 (rounded up) they hold back 100,220; 0.9978 of each are 664.5 and 332.3
    assert desk.shares[0, :2].tolist() == [664.0, 332.0]


def test_a_weight_that_would_change_by_less_than_the_band_stays_but_zero_sells_all() -> None:
    table = written({"AAPL": [(100.0, 100.0)] * 8})
    desk = whole(table, 2, trading("100000", band=0.02))
    desk.trade(finals(table, AAPL=0.5))
    assert desk.shares[0, 0] == 50.0
    desk.trade(finals(table, AAPL=0.6))
    assert desk.shares[0, 0] == 50.0
    desk.trade(finals(table, AAPL=0.8))
    assert desk.shares[0, 0] == 79.0
    desk.trade(finals(table, AAPL=0.15))
    desk.trade(finals(table, AAPL=0.0))
    assert desk.shares[0, 0] == 0.0


def test_confidence_takes_its_part_of_an_action() -> None:
    table = written(HAND)
    forecast = outlook(table)
    forecast.confidence[:, 0], forecast.confidence[:, 1] = 0.4, 0.75
    desk = whole(table, 2, trading("100000"), outlook=forecast)
    actions = torch.full((50, 1), 0.5)
    assert desk.final_of(actions)[0, :2].tolist() == pytest.approx([0.4, 0.5])
    trusting = whole(table, 2, trading("100000"), outlook=forecast, trusting=True)
    assert trusting.final_of(actions)[0, :2].tolist() == [0.5, 0.5]


def test_a_row_shows_features_forecast_and_account() -> None:
    table = written(HAND)
    desk = whole(table, 2, trading("100000"))
    desk.trade(finals(table, AAPL=1.0))
    observation = desk.observe()
    assert observation.shape == (50, 10)
    day, equity = 2, float(desk.equity_usd)
    row = [day * 100.0, day * 100.0 + 1.0, 0.2, 0.5, 0.3, 0.5]
    account = [10_200 / equity, 0.02, 1 / 20, float(desk.cash_usd) / equity]
    assert observation[0].tolist() == pytest.approx([*row, *account])
    assert observation[2].tolist() == pytest.approx([0.0] * 6 + [0.0, 0.0, 0.0, account[3]])  # it may not be traded


def test_the_basis_is_the_mean_price_of_the_decisions_and_ages_count_sessions() -> None:
    table = written({"AAPL": [(100.0, 100.0), (100.0, 100.0), (100.0, 110.0), (100.0, 120.0), (100.0, 132.0)]})
    desk = whole(table, 2, trading("100000"))
    desk.trade(finals(table, AAPL=0.5))
    shares = float(desk.shares[0, 0])
    desk.trade(finals(table, AAPL=1.0))
    more = float(desk.shares[0, 0]) - shares
    assert (shares, more) == (50.0, 41.0)
    observation = desk.observe()[0]
    assert float(observation[7]) == pytest.approx(120.0 / ((50 * 100 + 41 * 110) / 91) - 1.0)
    assert float(observation[8]) == pytest.approx(2 / 20)


def test_a_prediction_is_right_beyond_the_cost_of_a_trade() -> None:
    closes = (100.0, 100.05, 100.2, 100.0, 100.0)
    table = written({"AAPL": [(100.0, close) for close in closes]})
    sides = {}
    for name, place in (("HOLD", HOLD), ("BUY", BUY), ("SELL", SELL)):
        probable = [0.2, 0.2, 0.2]
        probable[place] = 0.6
        sides[name] = right(table, outlook(table, probable), trading("100000"))[:, 0].tolist()
    assert sides == {
        "HOLD": [True, False, False, True, False],
        "BUY": [False, True, False, False, False],
        "SELL": [False, False, True, False, False],
    }


def test_no_action_changes_a_bonus_and_alpha_changes_nothing_else() -> None:
    table = walk(40, seed=8)
    rules, generator = trading("100000"), torch.Generator().manual_seed(5)
    without, one, three = (
        ForecastMarket(table, outlook(table), 3, 39, rules, alpha=alpha, count=6, portfolio=7, seed=3, episode=9)
        for alpha in (0.0, 1.0, 3.0)
    )
    bonuses = []
    for _ in range(30):  # over the ends of episodes, after which other symbols and sessions are drawn
        action, other = (torch.rand(42, 1, generator=generator) * 2 - 1 for _ in range(2))
        for market, actions in ((without, action), (one, action), (three, other)):
            market.step(actions)
        assert bool((without.terms.bonus == 0.0).all())
        assert torch.equal(one.terms.bonus * 3.0, three.terms.bonus)
        assert torch.equal(without.terms.gain + without.terms.cost, one.terms.gain + one.terms.cost)
        assert torch.equal(without.observe(), one.observe())
        bonuses.append(float(one.terms.bonus.sum()))
    assert not torch.equal(one.equity_usd, three.equity_usd)
    assert sum(amount > 0.0 for amount in bonuses) > 5


def goals_of(ledger: Ledger, day: int, final: list[float], weight_max: float) -> dict[int, int]:
    """What the rule of weights in plain floats wants to hold before session `day`, in steps by place."""
    equity, band = float(ledger.equity(day - 1)), ledger.rules.basket.band
    prices = [float(tick) / 10_000 for tick in ledger.table.close_ticks[day - 1]]
    flags = ledger.table.tradable[day - 1].tolist()
    present = [shares * price / equity for shares, price in zip(ledger.held, prices, strict=True)]
    room = max(1.0 - sum(weight for weight, flag in zip(present, flags, strict=True) if not flag), 0.0)
    weights = [max(a, 0.0) * weight_max if flag else 0.0 for a, flag in zip(final, flags, strict=True)]
    if (total := sum(weights)) > room:
        weights = [weight * (room / total) for weight in weights]
    return {
        place: steps_of(weight * equity / prices[place], ledger.per_share)
        for place, weight in enumerate(weights)
        if flags[place] and not (weight > 0.0 and abs(weight - present[place]) < band)
    }


@settings(max_examples=examples(40))
@given(
    seed=st.integers(0, 2**31),
    cash=st.sampled_from(["900", "25000", "1000000"]),
    most=st.sampled_from([0.02, 0.1, 0.7]),
    band=st.sampled_from([0.0, 0.01]),
    missing=st.sampled_from([0.0, 0.2]),
    per_share=st.sampled_from([1, 10_000]),
)
def test_the_tensor_rule_is_the_rule_of_the_desk_with_purchases_in_proportion(
    seed: int, cash: str, most: float, band: float, missing: float, per_share: int
) -> None:
    table, rules = walk(9, seed, missing=missing), trading(cash, band=band, fractions=per_share > 1)
    desk, ledger = whole(table, 3, rules, most=most), Ledger(table, rules, per_share)
    random = np.random.default_rng(seed)
    for day in range(3, 9):
        final = random.uniform(-1, 1, 50).round(1 if seed % 2 else 7).astype(np.float32)
        desk.trade(torch.from_numpy(final).unsqueeze(0))
        ledger.trade(day, goals_of(ledger, day, final.tolist(), most))
        equity, closing_cash = desk.closing_usd
        assert float(closing_cash) == float(ledger.cash) >= 0.0
        assert float(equity) == float(ledger.equity(day))


def test_portfolios_are_drawn_anew_for_each_episode_and_every_account() -> None:
    table = walk(40, seed=9)
    rules = trading("100000")
    desk = ForecastMarket(table, outlook(table), 3, 39, rules, count=30, portfolio=5, seed=4, episode=6)
    assert desk.rows == 150
    portfolios: set[tuple[int, ...]] = set()
    episode_ends = 0
    for _ in range(20):
        places = desk.state_dict()["places"]
        assert bool((places[:, 1:] > places[:, :-1]).all())
        portfolios.update(map(tuple, places.tolist()))
        step = desk.step(torch.full((150, 1), 0.3))
        assert not bool(step.terminals.any())
        if step.truncated is not None and bool(step.truncated.any()):
            assert step.last is not None
            episode_ends += int(step.truncated.sum())
            over = step.truncated.view(30, 5)
            assert bool((over.all(1) == over.any(1)).all())
            assert bool((desk.cash_usd[over[:, 0]] == 100_000.0).all())
    assert len(portfolios) > 60
    assert episode_ends >= 150 * 3
    # rows of one symbol are seen alike, in whatever account they are
    assert torch.equal(desk.observe()[:, 0], desk.observe()[:, 1] - 1.0)


def test_a_market_goes_on_from_its_state_to_the_bit() -> None:
    table = walk(40, seed=2)
    rules = trading("50000")
    markets = [
        ForecastMarket(table, outlook(table), 3, 39, rules, count=6, portfolio=8, seed=s, episode=9) for s in (4, 5)
    ]
    generator = torch.Generator().manual_seed(3)
    actions = [torch.rand(48, 1, generator=generator) * 2 - 1 for _ in range(60)]
    for action in actions[:30]:
        markets[0].step(action)
    markets[1].load_state_dict(markets[0].state_dict())
    for action in actions[30:]:
        first, second = markets[0].step(action), markets[1].step(action)
        assert torch.equal(first.rewards, second.rewards)
        assert torch.equal(markets[0].observe(), markets[1].observe())


def test_a_universe_that_lacks_a_session_of_the_file_is_masked_where_the_forecaster_has_a_gap(tmp_path: Path) -> None:
    path = faulty_days.faulty_tape(tmp_path / "days.csv")
    loaded = load(path, trading("100000"), Sources(symbols=(faulty_days.HOLE,)), ForecastPlan())
    first_gap = loaded.table.dates.index(loaded.panel.dates[faulty_days.AT - 1]) + 1
    tradable = loaded.table.tradable[:, 0].tolist()
    assert loaded.panel.dates[faulty_days.HOLE_TO] == loaded.table.dates[first_gap]
    assert tradable[first_gap - 1 : first_gap + 60] == [1.0, *[0.0] * 59, 1.0]


def test_a_row_without_a_forecast_of_its_own_is_refused() -> None:
    table = walk(12, seed=1)
    forecast = outlook(table)
    forecast.probabilities[5, 7] = np.nan
    with pytest.raises(ValueError, match=f"1 rows have no forecast.*{table.symbols[7]} after {table.dates[5]}"):
        whole(table, 4, trading("50000"), outlook=forecast)
    assert whole(table, 7, trading("50000"), outlook=forecast).rows == 50
    with pytest.raises(ValueError, match="forecasts have the shape"):
        whole(table, 4, trading("50000"), outlook=replace(forecast, probabilities=forecast.probabilities[1:]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_plays_the_same_to_the_bit() -> None:
    table, rules = walk(40, seed=2, missing=0.05), trading("50000")
    markets = [
        ForecastMarket(table, outlook(table), 3, 39, rules, count=16, portfolio=9, seed=4, device=d)
        for d in ("cpu", "cuda")
    ]
    generator = torch.Generator().manual_seed(3)
    for _ in range(60):
        action = torch.rand(144, 1, generator=generator) * 2 - 1
        first, second = markets[0].step(action), markets[1].step(action.cuda())
        assert torch.equal(first.rewards, second.rewards.cpu())
        assert torch.equal(markets[0].observe(), markets[1].observe().cpu())
