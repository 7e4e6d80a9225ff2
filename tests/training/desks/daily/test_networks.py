"""The two daily networks: sizes, scaling by hand, what a flag of 0 does, memory, and what is exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from strategies.daily_rebalancer import CASH, CLOSES, HOLDINGS, INDICATORS, STOCKS, TRADABLE, VALUE, WEEKDAY, WIDTH
from tests.support.models.torch_graph import graph_of
from tests.support.rl.trained import weight_bytes
from training.desks.daily.networks.rebalancer import CLIP, LOG_STD, Policy, RebalancerActorCritic, fit_scaling
from training.desks.daily.networks.regime import LEFT_OUT, RegimeActorCritic
from training.desks.scalper.network import parameter_count
from training.rl.coefficients import Coefficients
from training.rl.layers import Scaling
from training.rl.ppo import Trainer, make_deterministic
from training.rl.protocols import CarryingNetwork, Network, Step

IDENTITY = Scaling.identity(WIDTH)


def _observations(rows: int, seed: int = 1) -> Tensor:
    """Made-up days: closes around 100, indicators near them, some money and holdings, all flags 1."""
    generator = torch.Generator().manual_seed(seed)
    observations = torch.zeros(rows, WIDTH)
    observations[:, CLOSES] = 80.0 + 40.0 * torch.rand(rows, STOCKS, generator=generator)
    observations[:, 50:700] = 60.0 + 50.0 * torch.rand(rows, 650, generator=generator)
    observations[:, CASH], observations[:, VALUE] = 400_000.0, 1_000_000.0
    observations[:, HOLDINGS] = torch.randint(0, 200, (rows, STOCKS), generator=generator).float()
    observations[:, WEEKDAY] = torch.arange(rows) % 5
    observations[:, TRADABLE] = 1.0
    return observations


def _indicator(stock: int, name: str) -> int:
    return 50 + len(INDICATORS) * stock + INDICATORS.index(name)


class Still:
    """The shape of `regime_switcher` that nothing happens in; every account begins anew after 12 steps."""

    def __init__(self, count: int) -> None:
        self._count, self._step = count, 0

    def observe(self) -> Tensor:
        return torch.randn(self._count, 64, generator=torch.Generator().manual_seed(self._step))

    def step(self, actions: Tensor) -> Step:
        self._step += 1
        rewards = (actions == 3).float()
        over = torch.full((self._count,), self._step % 12 == 0)
        return Step(rewards, torch.zeros_like(over), over, self.observe())

    def state_dict(self) -> dict[str, int]:
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._step = state["step"]


def test_the_rebalancer_has_114547_parameters_without_its_deviations() -> None:
    network = RebalancerActorCritic(IDENTITY, seed=1)
    actor = 803 * 64 + 64 + 64 * 64 + 64 + 64 * 50 + 50
    critic = 803 * 64 + 64 + 64 * 64 + 64 + 64 + 1
    assert parameter_count(network) - 50 == actor + critic == 114_547
    assert parameter_count(network.policy) == actor
    assert network.log_std.tolist() == [LOG_STD] * 50
    assert isinstance(network, Network)
    assert not hasattr(network, "start")  # each day is complete, so no state is carried


def test_the_switcher_has_109841_parameters() -> None:
    network = RegimeActorCritic(seed=1)
    gru = 3 * (128 * 128 + 128 * 128 + 2 * 128)
    assert parameter_count(network) == 64 * 128 + 128 + 2 * 128 + gru + 128 * 16 + 16 + 128 + 1 == 109_841
    assert isinstance(network, CarryingNetwork)


def test_prices_are_divided_by_the_close_it_by_its_long_average_and_money_by_the_value() -> None:
    raw = _observations(1)
    raw[0, 7] = 50.0  # close of the eighth stock
    for name, value in (("sma200", 40.0), ("macd", -2.0), ("atr14", 1.0), ("bollinger_upper", 60.0), ("sma20", 55.0)):
        raw[0, _indicator(7, name)] = value
    for name, value in (("rsi14", 30.0), ("cci20", -150.0), ("dx14", 20.0), ("williams_r14", -80.0)):
        raw[0, _indicator(7, name)] = value
    raw[0, 702 + 7] = 300.0
    raw[0, VALUE] = 1_500_000.0
    raw[0, 753 + 9] = 0.0
    row = Policy(IDENTITY).normalise(raw)[0]
    assert row.shape == (WIDTH,)
    assert float(row[7]) == pytest.approx(50 / 40)
    names = ("macd", "atr14", "bollinger_upper", "sma20", "sma200", "rsi14", "cci20", "dx14", "williams_r14")
    expected = [-2 / 50, 1 / 50, 60 / 50, 55 / 50, 40 / 50, 0.30, -0.75, 0.20, -0.80]
    assert [float(row[_indicator(7, name)]) for name in names] == pytest.approx(expected)
    assert float(row[702 + 7]) == pytest.approx(300 * 50 / 1_500_000)
    assert [float(row[CASH]), float(row[VALUE])] == pytest.approx([400 / 1500, 1.5])
    assert torch.equal(row[WEEKDAY:], raw[0, WEEKDAY:])


def test_a_missing_price_or_a_value_of_zero_gives_zeros_and_finite_answers() -> None:
    raw = _observations(3)
    raw[:, 4] = 0.0
    raw[0, VALUE] = 0.0
    raw[:, _indicator(5, "sma200")] = 0.0
    policy = Policy(IDENTITY)
    rows = policy.normalise(raw)
    assert bool(torch.isfinite(rows).all())
    assert not rows[:, 4].any()
    assert not rows[:, _indicator(4, "sma20")].any()
    assert not rows[:, 5].any()
    assert not rows[0, HOLDINGS].any()
    assert float(rows[0, CASH]) == 0.0
    assert bool(torch.isfinite(policy(raw)).all())
    assert bool(torch.isfinite(policy(torch.zeros(1, WIDTH))).all())


def test_scaling_is_of_the_days_on_which_a_stock_could_be_traded() -> None:
    raw = _observations(4)
    column = _indicator(2, "rsi14")
    raw[:, column] = torch.tensor([10.0, 20.0, 60.0, 99.0])
    raw[3, 753 + 2] = 0.0
    raw[:, _indicator(3, "dx14")] = 25.0
    scaling = fit_scaling(raw)
    assert scaling.mean[column] == pytest.approx(0.3)
    assert scaling.scale[column] == pytest.approx(0.07**0.5)  # (0.04 + 0.01 + 0.09) / 2
    assert scaling.mean[_indicator(3, "dx14")] == pytest.approx(0.25)
    assert scaling.scale[_indicator(3, "dx14")] == 1.0  # it never changed
    assert scaling.clip[column] == CLIP
    assert scaling.mean[WEEKDAY:] == (0.0,) * 51
    assert scaling.scale[WEEKDAY:] == (1.0,) * 51
    assert scaling.scale[HOLDINGS] == (0.02,) * 50  # an equal share counts as 1


def test_a_scaled_price_beyond_the_clip_counts_as_the_clip_and_a_large_holding_stays_large() -> None:
    network = RebalancerActorCritic(fit_scaling(_observations(50)), seed=1)
    raw = _observations(1, seed=2)
    raw[0, _indicator(0, "rsi14")] = 1e6
    raw[0, 702], raw[0, 0], raw[0, VALUE] = 9_000.0, 100.0, 1_000_000.0
    prepared = network.prepare(raw)[0]
    assert float(prepared[_indicator(0, "rsi14")]) == CLIP
    assert float(prepared[702]) == pytest.approx(0.9 / 0.02)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scaling_refuses_observations_that_are_not_finite_or_too_few(value: float) -> None:
    raw = _observations(3)
    raw[1, 60] = value
    with pytest.raises(ValueError, match="found 3 rows of which 1 are not finite"):
        fit_scaling(raw)
    with pytest.raises(ValueError, match="found 1 rows of which 0 are not finite"):
        fit_scaling(_observations(1))


def test_what_is_trained_answers_as_what_is_exported_and_a_flag_of_zero_leaves_a_stock_alone() -> None:
    network = RebalancerActorCritic(fit_scaling(_observations(50)), seed=3)
    _decided(network)
    raw = _observations(9, seed=2)
    raw[2, 753 + 11] = 0.0
    means, values = network(network.prepare(raw))
    assert means.shape == (9, 50)
    assert values.shape == (9,)
    assert float(means.detach().abs().max()) <= 1.0
    assert float(means[2, 11].detach()) == 0.0
    assert bool(means[0, 11] != 0.0)
    torch.testing.assert_close(network.policy(raw), means)
    torch.testing.assert_close(network.critic(network.prepare(raw)).squeeze(1), values)


def test_weights_saved_with_their_scaling_answer_alike_in_a_network_made_without_it() -> None:
    saved = RebalancerActorCritic(fit_scaling(_observations(50)), seed=3)
    other = RebalancerActorCritic(IDENTITY, seed=4)
    other.load_state_dict(saved.state_dict())
    raw = _observations(5, seed=6)
    assert torch.equal(saved.policy(raw), other.policy(raw))


@pytest.mark.parametrize(
    ("resets", "lacks"), [(False, ""), (True, ""), *((True, lacks) for lacks in LEFT_OUT.values())]
)
def test_a_sequence_of_days_is_the_same_as_day_by_day(resets: bool, lacks: str) -> None:
    network = RegimeActorCritic(seed=1, lacks=lacks)
    generator = torch.Generator().manual_seed(2)
    observations = torch.randn(40, 5, 64, generator=generator)
    observations[..., 15:] = 0.0  # reserved
    prepared = network.prepare(observations)
    hidden = torch.randn(5, 128, generator=generator).tanh()
    starts = torch.zeros(40, 5, dtype=torch.bool)
    starts[17, 2] = resets
    with torch.no_grad():
        logits, values = network.sequence(prepared, hidden, starts)
        for day in range(40):
            hidden = torch.where(starts[day].unsqueeze(1), 0.0, hidden)
            answer = network.policy(observations[day], hidden)[0]
            of_day, value, hidden = network(prepared[day], hidden)
            assert float((answer - of_day).abs().max()) < 1e-6
            assert float((of_day - logits[day]).abs().max()) < 1e-6
            assert float((value - values[day]).abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("network", "unseen"),
    [("gru", None), ("gru_no_memory", None), ("gru_no_market", slice(0, 15)), ("gru_no_account", slice(15, 23))],
)
def test_a_network_of_an_ablation_answers_alike_whatever_it_does_without(network: str, unseen: slice | None) -> None:
    """Of five funds: 15 columns of the market, then six weights, return and drawdown."""
    policy = RegimeActorCritic(1, 5, LEFT_OUT[network]).policy
    observation = torch.randn(3, 64, generator=torch.Generator().manual_seed(2))
    hidden = torch.rand(3, 128, generator=torch.Generator().manual_seed(3))
    for columns in (slice(0, 15), slice(15, 23)):
        other = observation.clone()
        other[:, columns] += 1.0
        same = torch.equal(policy(other, hidden)[0], policy(observation, hidden)[0])
        assert same == (columns == unseen)
    assert torch.equal(policy(observation, hidden)[0], policy(observation, hidden + 1.0)[0]) == (
        network == "gru_no_memory"
    )


def test_the_switcher_learns_which_portfolio_pays_and_starts_anew_with_each_episode() -> None:
    make_deterministic()
    network = RegimeActorCritic(seed=1)
    c = Coefficients(environments=16, rollout_steps=16, batch=128, sequence=8, epochs=4, learning_rate=3e-3)
    trainer = Trainer(network, Still(16), c, total_steps=16 * 16 * 12, seed=1)
    rewards = [trainer.update().reward for _ in range(12)]
    assert rewards[0] < 0.2  # 1/16 by chance
    assert rewards[-1] > 0.8


def test_the_same_seed_starts_with_the_same_bytes_and_another_seed_with_others() -> None:
    for first, again, other in (
        [RebalancerActorCritic(IDENTITY, seed) for seed in (5, 5, 6)],
        [RegimeActorCritic(seed) for seed in (5, 5, 6)],
    ):
        assert weight_bytes(first) == weight_bytes(again) != weight_bytes(other)


@pytest.mark.parametrize("lacks", LEFT_OUT.values())
def test_both_policies_answer_alike_in_onnxruntime_and_the_memory_goes_on(tmp_path: Path, lacks: str) -> None:
    rebalancer = RebalancerActorCritic(fit_scaling(_observations(50)), seed=1)
    _decided(rebalancer)
    switcher = RegimeActorCritic(seed=1, lacks=lacks)
    raw = _observations(4, seed=3)
    raw[1, 20], raw[1, 753 + 20], raw[2, VALUE] = 0.0, 0.0, 0.0
    graph = graph_of(rebalancer.policy, (raw,), ["observation"], ["logits"], tmp_path / "b.onnx")
    with torch.no_grad():
        expected = rebalancer.policy(raw)
    answer = graph.run(None, {"observation": raw.numpy()})[0]
    assert float(np.abs(answer - expected.numpy()).max()) < 1e-5
    days = torch.randn(30, 3, 64, generator=torch.Generator().manual_seed(4))
    hidden = torch.zeros(3, 128)
    names = (["observation", "hidden"], ["logits", "next_hidden"])
    session = graph_of(switcher.policy, (days[0], hidden), *names, tmp_path / "c.onnx")
    carried = hidden.numpy()
    with torch.no_grad():
        for day in days:
            logits, hidden = switcher.policy(day, hidden)
            answer, carried = session.run(None, {"observation": day.numpy(), "hidden": carried})
            assert float(np.abs(answer - logits.numpy()).max()) < 1e-5
            assert float(np.abs(carried - hidden.numpy()).max()) < 1e-5


def _decided(network: RebalancerActorCritic) -> None:
    """Means far from 0, as after training."""
    last = network.policy.actor[-1]
    assert isinstance(last, nn.Linear)
    nn.init.normal_(last.weight, std=0.2, generator=torch.Generator().manual_seed(1))
