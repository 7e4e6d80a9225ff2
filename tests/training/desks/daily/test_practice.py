"""What training may do otherwise than the desk: other layouts of the stocks, a penalty, a memory that was burnt in."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch import Tensor

from strategies.daily_rebalancer import CLOSES, HOLDINGS, INDICATOR_COLUMNS, STOCKS, TRADABLE
from strategies.regime_switcher import SPEC
from tests.support.training.made_up_days import trading, walk, written
from training.desks.daily.markets.rebalancer import RebalancerMarket
from training.desks.daily.markets.regime import RegimeMarket
from training.desks.daily.play import one_hot_logits, play_regime
from training.rl.presets import Practice, practice_of

FUNDS = msgspec.structs.replace(SPEC, history_bars=2)
RULES = trading("1000000")


def markets(practice: Practice, count: int = 3) -> tuple[RebalancerMarket, RebalancerMarket]:
    """The same accounts as the desk has them, and under a practice."""
    table = walk(8, 3)
    plain, other = (
        RebalancerMarket(table, 2, 7, RULES, count=count, seed=5, draws=False, episode=2, practice=variant)
        for variant in (Practice(), practice)
    )
    for market in (plain, other):  # eight bars give no indicator: numbers that tell them apart
        market._seen[:, INDICATOR_COLUMNS] = torch.arange(1.0, 651.0)
    return plain, other


def test_a_permuted_episode_shows_each_stock_whole_and_trades_the_one_that_is_shown() -> None:
    plain, other = markets(Practice(permute=True))
    plain_rows, after = plain.observe(), other.observe()
    orders = []
    for account in range(3):
        closes, places = plain_rows[account, CLOSES], after[account, CLOSES]
        order = [int((closes == close).nonzero()) for close in places]  # of made-up prices each is another
        assert sorted(order) == list(range(STOCKS))
        blocks = plain_rows[account, INDICATOR_COLUMNS].view(STOCKS, -1)
        assert torch.equal(after[account, INDICATOR_COLUMNS].view(STOCKS, -1), blocks[order])
        orders.append(order)
    assert orders[0] != orders[1]
    actions = torch.zeros(3, STOCKS)
    actions[:, 7] = 1.0  # whatever stock is shown there
    other.step(actions)
    for account, order in enumerate(orders):
        holdings = other.shares[account].nonzero().flatten().tolist()
        assert holdings == [order[7]]
        assert other.observe()[account, HOLDINGS].nonzero().flatten().tolist() == [7]


def test_a_part_of_the_universe_hides_the_other_stocks_and_trades_none_of_them() -> None:
    _, other = markets(Practice(universe=0.5))
    after = other.observe()
    flags = after[:, TRADABLE]
    assert flags.sum(1).tolist() == [25.0] * 3
    assert not torch.equal(flags[0], flags[1])
    assert torch.equal(after[:, CLOSES] > 0, flags > 0)
    assert torch.equal(after[:, INDICATOR_COLUMNS].view(3, STOCKS, -1).abs().sum(2) > 0, flags > 0)
    other.step(torch.full((3, STOCKS), 0.1))
    assert torch.equal(other.shares > 0, flags > 0)


def test_each_episode_has_a_layout_of_its_own_and_a_state_that_goes_on_has_the_same() -> None:
    _, other = markets(Practice(permute=True, universe=0.4))
    first = other.observe()[:, TRADABLE]
    for _ in range(2):
        other.step(torch.zeros(3, STOCKS))
    again = other.observe()[:, TRADABLE]
    assert not torch.equal(first, again)
    _, later = markets(Practice(permute=True, universe=0.4))
    later.load_state_dict(other.state_dict())
    assert torch.equal(later.observe(), other.observe())


def test_a_penalty_of_turnover_is_taken_from_the_reward_and_from_no_account() -> None:
    stocks = written({"AAPL": [(100.0, 100.0), (100.0, 100.0), (101.0, 102.0)]})
    rules, practice = trading("20000", day_fees=False), Practice(turnover=0.01)
    market = RebalancerMarket(stocks, 2, 2, rules, count=1, draws=False, practice=practice)
    action = torch.zeros(1, STOCKS)
    action[0, 0] = 1.0
    reward = market.step(action).rewards
    # 100 at 101.0202 and 0.1 % of it: 10,112.12202 paid, worth 10,200; 1 % of 10,102.02 is 101.0202
    assert float(market.closing_usd[0]) == 20087.87798
    assert float(reward) == pytest.approx((87.87798 - 101.0202) * 1e-4, rel=1e-6)
    flat = {name: [(100.0, 100.0)] * 3 for name in ("SPY", "QQQ", "IWM")}
    funds = RegimeMarket(written(flat, FUNDS), 2, 2, RULES, count=1, episode=None, draws=False, turnover=0.01)
    assert float(funds.step(torch.tensor([2])).rewards) == pytest.approx(-0.011)  # all into SPY: a turnover of 1


def test_the_market_s_return_is_taken_from_the_reward_alike_whatever_is_done() -> None:
    prices = {
        "AAPL": [(100.0, 100.0), (100.0, 100.0), (101.0, 102.0), (102.0, 102.0)],
        "AMGN": [(200.0, 200.0), (200.0, 200.0), (200.0, 198.0), (198.0, 198.0)],
    }
    for day, market_usd in ((2, 100.0), (3, 0.0)):  # of 20,000: (2 % - 1 %) / 2; no price moves on the day after
        for first in (1.0, 0.0, -1.0):
            plain, over = (
                RebalancerMarket(
                    written(prices), 2, 3, trading("20000"), count=1, draws=False, practice=Practice(over_market=flag)
                )
                for flag in (False, True)
            )
            actions = torch.zeros(1, STOCKS)
            actions[0, 0] = first
            for _ in range(day - 2):
                plain.step(actions), over.step(actions)
            gap = plain.step(actions).rewards - over.step(actions).rewards
            assert float(gap) == pytest.approx(market_usd * 1e-4, abs=1e-7)
            assert torch.equal(plain.closing_usd[0], over.closing_usd[0])  # no account is another


def test_a_memory_is_burnt_in_before_the_span_with_an_account_of_its_own() -> None:
    rising = {name: [(100.0 + 5 * day, 104.0 + 5 * day) for day in range(9)] for name in ("SPY", "QQQ", "IWM")}
    table, memories = written(rising, FUNDS), []

    def policy(observations: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        memories.append(float(hidden[0, 0]))
        return one_hot_logits(torch.tensor([2])), hidden + 1.0

    dates = table.dates[6:]
    plain = play_regime(policy, table, dates, RULES)
    assert memories == [0.0, 1.0, 2.0]
    memories.clear()
    burnt = play_regime(policy, table, dates, RULES, burn_in=3)
    assert memories == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert burnt == plain  # the account begins anew: the same money for the same decisions


def test_a_practice_is_read_within_bounds_and_only_what_the_strategy_has() -> None:
    practice = practice_of(["permute=true", "universe=0.5"], ("permute", "universe"), "mine")
    assert practice == Practice(permute=True, universe=0.5)
    assert practice.changes == {"permute": True, "universe": 0.5}
    for text, words in (
        ("turnover=1", "mine has no 'turnover': expected one of permute, universe"),
        ("universe=2", "universe is 2.0: expected 0.02 to 1"),
        ("permute=often", "Expected `bool`"),
    ):
        with pytest.raises(ValueError, match="--practice") as refused:
            practice_of([text], ("permute", "universe"), "mine")
        assert words in str(refused.value)
    with pytest.raises(
        ValueError, match=r"--practice universe=0\.4: universe is 0\.5 as well: expected one value of it"
    ):
        practice_of(["universe=0.5", "universe=0.4"], ("permute", "universe"), "mine")
