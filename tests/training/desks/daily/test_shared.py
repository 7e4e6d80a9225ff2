"""The network `shared` of `daily_rebalancer`: an order of the stocks is an order of the answers, whatever their number.

And what it learns from: a reward of each stock, and advantages of each action.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from daemon.core.strategy_rules import trading_for
from daemon.models.store import exported_as, load, versions
from strategies.daily_rebalancer import (
    INDICATORS,
    SYMBOLS,
    DailyRebalancer,
    account_scale,
    basket_of,
    columns_for,
    spec_of,
    vector,
)
from strategies.kit.contract import Portfolio
from tests.support.models.torch_graph import graph_of
from tests.support.paths import REPOSITORY
from tests.support.training.made_up_days import trading, walk, written
from training.data.daily_table import DailyTable
from training.desks.daily.markets.rebalancer import EACH, RebalancerMarket
from training.desks.daily.networks.rebalancer import (
    FEATURES,
    FLAG,
    SharedActorCritic,
    fit_shared_scaling,
)
from training.desks.daily.rebalancer import RebalancerTaskData
from training.desks.registry import kind
from training.export.export import Exported
from training.rl.coefficients import Coefficients
from training.rl.distributions import evaluate, sample
from training.rl.ppo import Trainer, actions_judged, generalized_advantages, make_deterministic
from training.rl.presets import Practice
from training.rl.protocols import Network, Step

NAME = "daily_rebalancer"
STORE = REPOSITORY / "onnx_models"


def observations(rows: int, stocks: int, seed: int = 1) -> Tensor:
    """Made-up raw observations of so many stocks, all tradable."""
    generator = torch.Generator().manual_seed(seed)
    at = columns_for(stocks)
    out = torch.zeros(rows, at.width)
    out[:, at.closes] = 80.0 + 40.0 * torch.rand(rows, stocks, generator=generator)
    out[:, at.indicators] = 60.0 + 50.0 * torch.rand(rows, stocks * len(INDICATORS), generator=generator)
    out[:, at.cash], out[:, at.value] = 400_000.0, 1_000_000.0
    out[:, at.holdings] = torch.randint(0, 200, (rows, stocks), generator=generator).float()
    out[:, at.weekday] = torch.arange(rows) % 5
    out[:, at.tradable] = 1.0
    return out


def reordered(raw: Tensor, order: Tensor) -> Tensor:
    """The same days with the stocks in another order."""
    at = columns_for(len(order))
    out = raw.clone()
    for part in (at.closes, at.holdings, at.tradable):
        out[:, part] = raw[:, part][:, order]
    of_stocks = raw[:, at.indicators].reshape(len(raw), at.stocks, -1)
    out[:, at.indicators] = of_stocks[:, order].flatten(1)
    return out


def network_of(stocks: int, seed: int = 1) -> SharedActorCritic:
    """A network whose answers are far from 0, as after training."""
    network = SharedActorCritic(fit_shared_scaling(observations(64, stocks)), seed, stocks)
    last: Any = network.policy.actor[-1]
    nn.init.normal_(last.weight, std=0.4, generator=torch.Generator().manual_seed(seed))
    return network


@pytest.mark.parametrize("stocks", [5, 50, 100])
def test_another_order_of_the_stocks_is_the_same_order_of_actions_and_values(stocks: int) -> None:
    network, raw = network_of(stocks), observations(12, stocks, seed=3)
    at = columns_for(stocks)
    raw[3, at.tradable.start + 1] = 0.0
    order = torch.randperm(stocks, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        means, values = network(network.prepare(raw))
        other_means, worths = network(network.prepare(reordered(raw, order)))
    assert means.shape == values.shape == (12, stocks)
    assert float(means.std()) > 0.05
    assert torch.allclose(means[:, order], other_means, atol=1e-5)
    assert torch.allclose(values[:, order], worths, atol=1e-5)


def test_the_same_weights_answer_for_any_number_of_stocks() -> None:
    of_five, of_fifty = network_of(5), SharedActorCritic(fit_shared_scaling(observations(64, 50)), 2, 50)
    names = {name: tuple(weight.shape) for name, weight in of_five.state_dict().items()}
    assert names == {name: tuple(weight.shape) for name, weight in of_fifty.state_dict().items()}
    # two encoders of 19 x 32 + 32 + 19 x 32 + 32 x 32 + 32 + 32 x 32 + 32 + 1, and a deviation
    assert sum(weight.numel() for weight in of_five.parameters()) == 2 * 3361 + 1
    assert isinstance(of_five, Network)
    assert actions_judged(of_five) == (5,)


def test_a_stock_that_cannot_be_traded_is_left_alone_and_moves_no_other_answer() -> None:
    network, raw = network_of(8), observations(2, 8, seed=5)
    at = columns_for(8)
    raw[:, at.tradable.start + 2] = 0.0
    raw[1] = raw[0]
    raw[1, at.closes.start + 2] = 500.0
    raw[1, at.indicators.start + 2 * len(INDICATORS)] = -3.0
    with torch.no_grad():
        answers = network.policy(raw)
    assert answers[:, 2].tolist() == [0.0, 0.0]
    # two rows of one batch may differ in the last bits, by processor
    assert torch.allclose(answers[0], answers[1], rtol=0.0, atol=1e-6)
    raw[1, at.tradable.start + 2] = 1.0
    with torch.no_grad():
        before = network.policy(raw)[1, :2]  # part of the others' mean now
    assert not torch.allclose(before, answers[1, :2], rtol=0.0, atol=1e-6)


def test_the_scaling_pools_all_tradable_stocks_and_fixes_the_account() -> None:
    raw = observations(3, 5)
    at = columns_for(5)
    raw[0, at.tradable.start] = 0.0
    raw[0, at.closes.start] = 1e6
    scaling = fit_shared_scaling(raw)
    sma = raw[:, at.indicators][:, INDICATORS.index("sma200") :: len(INDICATORS)]
    closes = (raw[:, at.closes] / sma).flatten()[1:].double().numpy()
    assert scaling.mean[0] == pytest.approx(closes.mean(), rel=1e-6)
    assert scaling.scale[0] == pytest.approx(closes.std(ddof=1), rel=1e-6)
    assert len(scaling.mean) == FEATURES == 19
    network = SharedActorCritic(scaling, 1, 5)
    prepared = network.prepare(raw)
    worth = raw[1, at.holdings][3] * raw[1, at.closes][3]
    assert float(prepared[1, 3, 14]) == pytest.approx(float(worth) / 1e6 * 5 - 1.0, rel=1e-4)  # an equal part is 0
    assert prepared[0, :, FLAG].tolist() == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert prepared[2, 4, 16:].tolist() == pytest.approx([0.4, 0.0, 0.0])  # cash, value, a Wednesday


def test_it_answers_alike_in_onnxruntime(tmp_path: Path) -> None:
    raw = observations(4, 7, seed=9)
    at = columns_for(7)
    raw[1, at.tradable.start + 3] = raw[2, at.value] = raw[3, at.closes.start] = 0.0
    raw[3, at.tradable] = 0.0  # none at all
    policy = network_of(7).policy
    graph = graph_of(policy, (raw,), ["observation"], ["actions"], tmp_path / "b.onnx")
    with torch.no_grad():
        expected = policy(raw).numpy()
    assert np.abs(graph.run(None, {"observation": raw.numpy()})[0] - expected).max() < 1e-5
    assert not expected[3].any()


# --- a reward of each stock -----------------------------------------------------------------------------------------

HAND = {
    "AAPL": [(100.0, 100.0), (100.0, 100.0), (101.0, 102.0), (103.0, 99.0)],
    "ADBE": [(50.0, 50.0), (50.0, 50.0), (49.0, 48.0), (47.5, 49.5)],
}


def market_by_stock(table: DailyTable, cash: str, practice: Practice | None = None) -> RebalancerMarket:
    last, rules = len(table.sessions) - 1, trading(cash, day_fees=False)
    return RebalancerMarket(
        table, 2, last, rules, count=1, draws=False, practice=practice or Practice(), reward_per_stock=True
    )


def test_a_day_s_fees_are_borne_by_the_stocks_that_were_traded_and_are_the_account_s_together() -> None:
    table = written(HAND)
    free, paying = (
        RebalancerMarket(table, 2, 3, trading("20000", day_fees=fees), count=1, draws=False, reward_per_stock=True)
        for fees in (False, True)
    )
    actions = torch.zeros(1, 50)
    actions[0, 0], actions[0, 1] = 1.0, 0.5
    less = (free.step(actions).rewards - paying.step(actions).rewards).double() * 400.0 / EACH
    # CAT of 150 shares is a cent, of which AAPL bears 10,102.02 of 12,552.51 USD that were traded
    assert less[0, :2].tolist() == pytest.approx([0.00804781, 0.00195219], abs=2e-5)
    assert not less[0, 2:].any()


def test_a_stock_s_reward_is_its_own_profit_after_costs_over_an_equal_part_of_the_account() -> None:
    table = written(HAND)
    desk, actions = market_by_stock(table, "20000"), torch.zeros(1, 50)
    actions[0, 0], actions[0, 1] = 1.0, 0.5
    rewards = desk.step(actions).rewards
    # AAPL: 100 x 102 - 10,102.02 - 10.10202 = 87.87798; ADBE: 50 x 48 - 2,450.49 - 2.45049 = -52.94049
    part = 20_000 / 50
    assert rewards.shape == (1, 50)
    assert rewards[0, :2].tolist() == pytest.approx([87.87798 / part * EACH, -52.94049 / part * EACH], rel=1e-6)
    assert not rewards[0, 2:].any()
    actions[0, 0], actions[0, 1] = -0.5, 0.0
    rewards = desk.step(actions).rewards
    # AAPL: 50 sold at 103 for 5.15 USD, 50 kept to 99, from 102: 50 x 1 - 5.15 - 50 x 3; ADBE: 50 x 1.5
    part = 20_034.93749 / 50
    assert rewards[0, :2].tolist() == pytest.approx([-105.15 / part * EACH, 75.0 / part * EACH], rel=1e-6)


def test_less_the_market_a_stock_pays_for_its_money_as_far_as_the_account_is_invested() -> None:
    table = written(HAND)
    desk, actions = market_by_stock(table, "20000", Practice(over_market=True)), torch.zeros(1, 50)
    actions[0, 0], actions[0, 1] = 1.0, 0.5
    rewards = desk.step(actions).rewards[0] / EACH * 400.0
    market = (102 / 100 + 48 / 50 - 2) / 2  # -1 %: the two that have bars
    exposed = torch.tensor([100 * 100.0, 50 * 50.0])  # at the closes before
    invested = 12_500 / 20_000
    otherwise = (invested * exposed + (1 - invested) * 400.0) * market
    expected = torch.tensor([87.87798, -52.94049]) - otherwise
    assert rewards[:2].tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert float(rewards[2]) == pytest.approx(-(1 - invested) * 400.0 * market, rel=1e-5)


def test_all_stocks_together_earn_what_the_account_earns() -> None:
    table, generator = walk(12, seed=4, missing=0.1), torch.Generator().manual_seed(1)
    desk, plain = (
        market_by_stock(table, "300000"),
        RebalancerMarket(table, 2, 11, trading("300000"), count=1, draws=False),
    )
    for _ in range(9):
        actions = torch.rand(1, 50, generator=generator) * 2 - 1
        before = float(desk.equity_usd)
        stock_rewards, whole = desk.step(actions).rewards, plain.step(actions).rewards
        assert float(stock_rewards.double().sum()) * before / 50 / EACH * 1e-4 == pytest.approx(float(whole), abs=1e-5)


def test_a_permuted_episode_rewards_the_place_at_which_a_stock_is_shown() -> None:
    table = walk(8, 3)
    desk = market_by_stock(table, "1000000", Practice(permute=True))
    actions = torch.zeros(1, 50)
    actions[0, 7] = 1.0
    assert desk.step(actions).rewards[0].nonzero().flatten().tolist() == [7]


# --- advantages of each action --------------------------------------------------------------------------------------


def test_each_action_has_the_advantages_of_its_own_rewards() -> None:
    generator = torch.Generator().manual_seed(3)
    rewards, values = torch.randn(2, 6, 4, 3, generator=generator)
    last, ends = torch.randn(4, 3, generator=generator), torch.rand(6, 4, generator=generator) < 0.3
    together = generalized_advantages(rewards, values, ends, last, discount=0.8, gae_lambda=0.7)
    for action in range(3):
        alone = generalized_advantages(
            rewards[..., action], values[..., action], ends, last[:, action], discount=0.8, gae_lambda=0.7
        )
        assert torch.allclose(together[..., action], alone)


def test_the_log_probability_of_each_action_is_its_part_of_that_of_all() -> None:
    outputs, log_std = torch.tensor([[0.1, -0.4]]), torch.tensor([-0.5, 0.2])
    actions, densities = sample(outputs, log_std, torch.Generator().manual_seed(2), per_action=True)
    expected = [
        -0.5 * ((float(a) - float(m)) / math.exp(float(s))) ** 2 - float(s) - 0.5 * math.log(2 * math.pi)
        for a, m, s in zip(actions[0], outputs[0], log_std, strict=True)
    ]
    assert densities[0].tolist() == pytest.approx(expected, rel=1e-5)
    whole, entropy = evaluate(outputs, log_std, actions)
    assert float(whole) == pytest.approx(sum(expected), rel=1e-5)
    assert float(evaluate(outputs, log_std, actions, per_action=True)[1]) == float(entropy)


class Signals:
    """Accounts whose stocks each pay for an action of the sign that their close shows, and for nothing else."""

    def __init__(self, count: int, stocks: int) -> None:
        self._count, self._stocks, self._step = count, stocks, 0

    def observe(self) -> Tensor:
        return observations(self._count, self._stocks, seed=self._step)

    def step(self, actions: Tensor) -> Step:
        at = columns_for(self._stocks)
        raw = self.observe()
        ways = (raw[:, at.closes] > 100.0).float() * 2 - 1
        self._step += 1
        over = torch.full((self._count,), self._step % 5 == 0)
        return Step(actions * ways, torch.zeros_like(over), over, self.observe())

    def state_dict(self) -> dict[str, int]:
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._step = state["step"]


def test_it_learns_what_each_stock_shows_and_what_it_learned_serves_other_stocks() -> None:
    make_deterministic()
    network = SharedActorCritic(fit_shared_scaling(observations(64, 6)), 1, 6)
    c = Coefficients(environments=16, rollout_steps=8, batch=32, epochs=4, learning_rate=1e-2, discount=0.5)
    trainer = Trainer(network, Signals(16, 6), c, total_steps=16 * 8 * 60, seed=1)
    figures = [trainer.update() for _ in range(60)]
    assert figures[-1].reward > figures[0].reward + 0.3
    other = observations(200, 30, seed=999)
    with torch.no_grad():
        answers = network.policy(other)
    ways = (other[:, columns_for(30).closes] > 100.0).float() * 2 - 1
    assert (
        float((answers.sign() == ways).float().mean()) > 0.8
    )  # by chance a half; the average beside the close hides a part


def test_a_choice_among_actions_cannot_be_judged_one_by_one() -> None:
    class Chooses(nn.Linear):
        each = True

    with pytest.raises(TypeError, match="no log_std"):
        actions_judged(Chooses(2, 3))


# --- any stocks, any size of account --------------------------------------------------------------------------------


def test_other_numbers_of_stocks_than_50_are_for_the_shared_network_alone(tmp_path: Path) -> None:
    symbols = ("AAPL", "MSFT", "JPM", "XOM", "KO")
    table = walk(4, 1, spec=spec_of(symbols))
    data = RebalancerTaskData(tmp_path, table, DailyRebalancer(symbols), trading_for(NAME))
    training_kind = kind(NAME, symbols=symbols)
    assert training_kind.networks == ("shared",)
    assert kind(NAME, symbols=tuple(f"S{n}" for n in range(50))).networks == kind(NAME).networks == ("mlp", "shared")
    with pytest.raises(ValueError, match="the network is called 'mlp': expected shared for daily_rebalancer"):
        training_kind.check((), "mlp")
    assert [len(one.columns) for one in training_kind.inputs] == [5] * len(training_kind.inputs)
    learner: Any = data.network("shared", 1, table.dates[2:])
    policy = kind(NAME).policy("shared", 1, learner.state_dict())
    with torch.no_grad():
        assert policy(observations(2, 5)).shape == (2, 5)


@pytest.mark.parametrize("count", [4, 101])
def test_fewer_than_5_or_more_than_100_stocks_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"given {count} symbols: expected 5 to 100"):
        DailyRebalancer(tuple(f"S{n}" for n in range(count)))


def shipped_policy() -> nn.Module:
    """What was learned, of the store that is shipped."""
    maker = DailyRebalancer()
    models = [load(STORE, maker, version) for version in versions(STORE, NAME)]
    (unproven,) = [model for model in models if exported_as(model.manifest) == "unproven"]
    return Exported(unproven.path / "policy.onnx")


@pytest.mark.parametrize("made_by", [lambda: network_of(50, seed=4).policy, shipped_policy], ids=["drawn", "trained"])
def test_each_size_of_account_is_seen_alike_and_wants_the_same_money(made_by: Callable[[], nn.Module]) -> None:
    """The same weights for 5,000 to 1,000,000 USD: equal answers, and each goal the same part but for one share."""
    table = walk(9, 2)
    sizes = (5_000, 25_000, 100_000, 1_000_000)
    policy = made_by()
    prices = table.close_ticks[7] / 10_000
    weights = np.random.default_rng(1).uniform(0.0, 0.03, 50)
    answers = []
    for size in sizes:
        shares: Any = tuple((weights * size / prices).tolist())  # as fractions would be held
        portfolio = Portfolio(
            (1.0 - weights.sum()) * size,
            float(size),
            shares,
            tuple(prices.tolist()),
            equity_per_unit=0.01,
        )
        assert portfolio.unit_usd == size / 100
        with torch.no_grad():
            answers.append(policy(_row(table, portfolio)))
    for answer in answers[:-1]:
        assert torch.allclose(answer, answers[-1], atol=1e-5)
    target_weights = answers[-1][0].clamp(min=0.0).double().numpy() * 0.01
    for size in sizes:
        empty = Portfolio(float(size), float(size), (0,) * 50, tuple(prices.tolist()), equity_per_unit=0.01)
        goals = {leg.symbol: leg.goal for leg in basket_of(answers[-1][0].tolist(), [True] * 50, empty).legs}
        parts = np.array([goals.get(symbol, 0) for symbol in SYMBOLS]) * prices / size
        assert ((parts <= target_weights + 1e-9) & (parts > target_weights - prices / size)).all()


def _row(table: DailyTable, portfolio: Portfolio) -> Tensor:
    raw = vector(
        table.features[7],
        np.ones(50, dtype=np.float32),
        cash=portfolio.cash,
        value=portfolio.equity,
        shares=portfolio.shares,
        weekday=1,
        scale=account_scale(portfolio, 1_000_000),
    )
    assert raw[columns_for(50).value] == 1_000_000.0
    return torch.from_numpy(raw[None])


def test_the_market_that_trains_shows_each_size_alike_and_trades_the_same_part() -> None:
    table = walk(12, 5)
    worth: dict[str, tuple[np.ndarray[Any, Any], float]] = {}
    for cash in ("100000000", "1000000"):
        desk = RebalancerMarket(table, 2, 11, trading(cash), count=1, draws=False, variant="account")
        generator = torch.Generator().manual_seed(8)
        rewards = 0.0
        for _ in range(6):
            rewards += float(desk.step(torch.rand(1, 50, generator=generator) - 0.3).rewards)
        prices = table.close_ticks[7] / 10_000
        worth[cash] = (desk.shares[0].numpy() * prices / float(desk.equity_usd), rewards)
        assert float(desk.observe()[0, columns_for(50).value]) == 1_000_000.0
    (large, reward), (small, other) = worth.values()
    assert np.abs(large - small).max() < 6 * 300 / 1_000_000  # a share of at most 300 USD for each of six decisions
    assert large.sum() > 0.2
    assert other == pytest.approx(reward, rel=0.05)  # in units of the contract's capital
