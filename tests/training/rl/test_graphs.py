"""What is recorded on a GPU computes what its calls compute; where its tensors stay can be seen anywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from daemon.core.limits import Trading
from strategies.option_scalper import SPEC
from strategies.regime_switcher import SPEC as SWITCHER
from tests.support.training.made_up import random_walk
from tests.support.training.made_up_days import trading, walk
from training.desks.daily.markets.rebalancer import RebalancerMarket
from training.desks.daily.markets.regime import RegimeMarket
from training.desks.daily.networks.regime import RegimeActorCritic
from training.desks.scalper.history import price_table, read_history
from training.desks.scalper.market import Market
from training.desks.scalper.network import IDENTITY, build
from training.rl.coefficients import Coefficients
from training.rl.dqn.dqn import DqnTrainer
from training.rl.dqn.presets import RECIPES as DQN_RECIPES
from training.rl.dqn.presets import build as dqn_of
from training.rl.graphs import NotRecordableError, Recorded, keep_places
from training.rl.off_policy.presets import RECIPES
from training.rl.off_policy.presets import build as agent_of
from training.rl.off_policy.trainer import OffPolicyTrainer
from training.rl.ppo import Trainer
from training.rl.protocols import Step

DEVICE = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Account:
    """Something with a state of tensors that a step binds anew."""

    def __init__(self, device: str = "cpu") -> None:
        self.cash = torch.zeros(3, device=device)
        self.before = torch.zeros(3, device=device)
        self.number = 0

    def earn(self, by: Tensor) -> Tensor:
        self.before = self.cash
        self.cash = self.cash + by
        return self.cash - self.before


def test_tensors_that_were_bound_anew_are_in_their_old_places_even_one_that_is_another_s_old_one() -> None:
    account = Account()
    cash, before = account.cash, account.before
    attributes = dict(vars(account))
    account.earn(torch.tensor([1.0, 2.0, 3.0]))
    assert account.before is cash
    keep_places([account], [attributes])
    assert account.cash is cash
    assert account.before is before
    assert cash.tolist() == [1.0, 2.0, 3.0]
    assert before.tolist() == [0.0, 0.0, 0.0]


def test_what_a_replay_cannot_repeat_is_refused_by_its_name() -> None:
    account = Account()
    attributes = dict(vars(account))
    account.number = 1
    with pytest.raises(NotRecordableError, match=r"Account\.number changes from 0 to 1"):
        keep_places([account], [attributes])
    account = Account()
    account.before = account.cash
    attributes = dict(vars(account))
    account.cash, account.before = torch.ones(3), torch.zeros(3)
    with pytest.raises(NotRecordableError, match="began as one tensor"):
        keep_places([account], [attributes])


def test_on_a_cpu_every_call_does_the_work() -> None:
    account = Account()
    earn = Recorded(lambda: account.earn(torch.ones(3)), torch.device("cpu"), owners=(account,))
    for number in range(1, 6):
        assert earn().tolist() == [1.0, 1.0, 1.0]
        assert account.cash.tolist() == [float(number)] * 3


@DEVICE
def test_replays_go_on_from_the_state_and_draw_the_numbers_of_the_calls() -> None:
    draws: dict[bool, list[list[float]]] = {}
    for record in (False, True):
        account, generator = Account("cuda"), torch.Generator("cuda").manual_seed(5)

        def work(account: Account = account, generator: torch.Generator = generator) -> Tensor:
            return account.earn(torch.rand(3, generator=generator, device="cuda"))

        earn: Callable[[], Tensor] = work
        if record:
            earn = Recorded(work, torch.device("cuda"), owners=(account,), generators=(generator,))
        draws[record] = [[*earn().tolist(), *account.cash.tolist()] for _ in range(7)]
        draws[record].append(torch.rand(2, generator=generator, device="cuda").tolist())
    assert draws[True] == draws[False]


SMALL = Coefficients(environments=32, rollout_steps=16, batch=96, epochs=2, sequence=8, entropy=0.01)


def switcher(**how: Any) -> Trainer:
    funds = msgspec.structs.replace(SWITCHER, history_bars=2)
    market = RegimeMarket(
        walk(60, seed=3, spec=funds), 2, 59, trading("100000"), count=32, seed=1, episode=9, device="cuda"
    )
    return Trainer(RegimeActorCritic(1), market, SMALL, total_steps=10_000, seed=1, device="cuda", **how)


def scalper(**how: Any) -> Trainer:
    history = read_history(random_walk(26), SPEC, Trading())
    prices = price_table(history, history.usable, Trading())
    market = Market(history, prices, history.usable, Trading(), count=32, seed=1, device="cuda")
    return Trainer(build("mlp", IDENTITY, 1), market, SMALL, total_steps=10_000, seed=1, device="cuda", **how)


@DEVICE
@pytest.mark.parametrize("maker", [switcher, scalper])
def test_a_training_that_is_recorded_ends_with_the_weights_of_one_that_is_not(maker: Callable[..., Trainer]) -> None:
    with_graph, plain = maker(), maker(record=False)
    for _ in range(5):
        assert with_graph.update() == plain.update()
    for weight, other in zip(with_graph.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(weight, other)
    again = maker()
    again.load_state_dict(with_graph.state_dict())
    for _ in range(5):
        assert again.update() == with_graph.update()


@DEVICE
def test_a_market_that_does_not_promise_it_is_stepped_by_calls() -> None:
    class Counted(RegimeMarket):
        replayable, calls = False, 0

        def step(self, actions: Tensor) -> Step:
            self.calls += 1
            return super().step(actions)

    funds = msgspec.structs.replace(SWITCHER, history_bars=2)
    market = Counted(walk(60, seed=3, spec=funds), 2, 59, trading("100000"), count=32, episode=9, device="cuda")
    trainer = Trainer(RegimeActorCritic(1), market, SMALL, total_steps=10_000, seed=1, device="cuda")
    for _ in range(4):
        trainer.update()
    assert market.calls == 4 * SMALL.rollout_steps


class Plain(nn.Module):
    """Observations of a size that a network can take."""

    def forward(self, rows: Tensor) -> Tensor:
        return torch.tanh(rows * 1e-3)


def agent(name: str, **how: Any) -> OffPolicyTrainer:
    c = replace(RECIPES["few_large"].of(name), environments=32, batch=64, per_transitions=32, round_transitions=128)
    c = replace(c, learning_starts=64, reward_scale=1e-6, actor_widths=(16,), critic_widths=(16,))
    place = RebalancerMarket(walk(40, seed=2), 3, 39, trading("50000"), count=32, seed=4, episode=9, device="cuda")
    inputs = place.observe().shape[1]
    learner = agent_of(name, inputs, c, seed=1, actions=50, scaling=Plain(), device="cuda")
    return OffPolicyTrainer(learner, place, c, total_steps=10_000, seed=1, **how)


def chooser(**how: Any) -> DqnTrainer:
    c = replace(DQN_RECIPES["few_large"], environments=32, batch=64, per_transitions=32, round_transitions=128)
    c = replace(c, learning_starts=64, capacity=4096, widths=(16,), target_every=3, smoothing=1.0)
    funds = msgspec.structs.replace(SWITCHER, history_bars=2)
    place = RegimeMarket(walk(60, seed=3, spec=funds), 2, 59, trading("100000"), count=32, episode=9, device="cuda")
    return DqnTrainer(dqn_of(64, c, actions=16, seed=1, device="cuda"), place, c, total_steps=10_000, seed=1, **how)


@DEVICE
@pytest.mark.parametrize("maker", [partial(agent, "sac"), partial(agent, "td3"), chooser], ids=["sac", "td3", "dqn"])
def test_an_agent_whose_steps_are_recorded_is_the_one_whose_steps_are_not(maker: Callable[..., Any]) -> None:
    with_graph, plain = maker(), maker(record=False)
    for _ in range(6):
        assert with_graph.update() == plain.update()
    assert with_graph.gradient_steps > 40
    again = maker()
    again.load_state_dict(with_graph.state_dict())
    for _ in range(4):
        assert again.update() == with_graph.update()


@DEVICE
def test_work_that_waits_for_the_device_is_refused() -> None:
    account = Account("cuda")
    waits = Recorded(lambda: account.cash.sum().item(), torch.device("cuda"))
    assert [waits() for _ in range(2)] == [0.0, 0.0]
    with pytest.raises(NotRecordableError, match="waits for the device"):
        waits()
    assert account.cash.tolist() == [0.0, 0.0, 0.0]
