"""The market on a device without one: fake CUDA tensors know shapes, types and devices, and refuse to be looked at.

A tensor left on the CPU raises "found two different devices", and whatever would wait for a result (`item`, `bool`, a
mask as an index) raises a data-dependent error. So a green test says that nothing in a step synchronises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

from daemon.core.limits import Trading
from strategies.option_scalper import SPEC
from tests.support.training.made_up import random_walk
from tests.support.training.scalper_markets import same_to_the_bit
from training.desks.scalper.history import price_table, read_history
from training.desks.scalper.market import Market
from training.desks.scalper.network import IDENTITY, build
from training.rl.coefficients import Coefficients
from training.rl.ppo import Trainer

TRADING = Trading()
HISTORY = read_history(random_walk(26), SPEC, TRADING)
PRICES = price_table(HISTORY, HISTORY.usable, TRADING)
COUNT = 64
DEVICE = "cuda:0"


UNGUARDED: dict[Any, Callable[..., Any]] = {
    torch.Tensor.copy_: torch.ops.aten.copy_.default,
    torch.Tensor.__invert__: torch.bitwise_not,
}


class WithoutGuard(TorchFunctionMode):
    """Some methods of Tensor ask for CUDA's device guard, which torch without CUDA lacks; their operators do not."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return UNGUARDED.get(func, func)(*args, **(kwargs or {}))


@contextmanager
def fake_device() -> Iterator[None]:
    with FakeTensorMode(allow_non_fake_inputs=True), WithoutGuard():
        yield


def fake_market(reward_name: str = "potential") -> Market:
    return Market(HISTORY, PRICES, HISTORY.usable, TRADING, count=COUNT, seed=1, reward_name=reward_name, device=DEVICE)


def test_fake_tensors_do_refuse_to_be_looked_at_and_to_meet_another_device() -> None:
    with fake_device():
        there = torch.zeros(3, device=DEVICE)
        with pytest.raises(DataDependentOutputException):
            bool(there.any())
        with pytest.raises(RuntimeError, match="device"):
            there + torch.zeros(3)


@pytest.mark.parametrize("reward_name", ["potential", "reference"])
def test_64_environments_step_and_begin_again_on_a_device_without_waiting_for_it(reward_name: str) -> None:
    with fake_device():
        market = fake_market(reward_name)
        for _ in range(3):
            step = market.step(torch.zeros(COUNT, dtype=torch.int64, device=DEVICE))
            observations = market.observe()
        market.begin(torch.zeros(COUNT, dtype=torch.int64), market.active)
        for tensor, shape in ((observations, (COUNT, 20, 23)), (step.rewards, (COUNT,)), (step.terminals, (COUNT,))):
            assert isinstance(tensor, FakeTensor)
            assert (tensor.device.type, tuple(tensor.shape)) == ("cuda", shape)
        tensors = [value for value in market.state_dict().values() if isinstance(value, torch.Tensor)]
        assert {tensor.device.type for tensor in tensors} == {"cuda"}


def test_masked_for_all_rows_or_done_for_a_few_a_step_is_the_same_to_the_bit() -> None:
    few = Market(HISTORY, PRICES, HISTORY.usable, TRADING, count=COUNT, seed=1)
    every = Market(HISTORY, PRICES, HISTORY.usable, TRADING, count=COUNT, seed=1)
    every._looks = False  # as on a device
    generator = torch.Generator().manual_seed(1)
    choices = (torch.randint(0, 6, (COUNT,), generator=generator) for _ in range(400))
    assert same_to_the_bit(few, every, choices) > COUNT


def test_the_network_plays_on_the_market_s_device() -> None:
    network = build("mlp", IDENTITY, 1)
    with fake_device():
        market, there = fake_market(), {k: v.to(DEVICE) for k, v in network.state_dict().items()}
        for _ in range(2):
            prepared = (market.observe() - there["policy.mean"]) / there["policy.scale"]
            hidden = torch.relu(prepared.flatten(1) @ there["policy.trunk.0.weight"].T)
            market.step(hidden.argmax(dim=1) % 6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; fake tensors stand in elsewhere")
def test_on_a_real_device_nothing_waits_and_the_account_is_the_cpu_s_to_the_cent() -> None:
    here = Market(HISTORY, PRICES, HISTORY.usable, TRADING, count=COUNT, seed=1)
    there = Market(HISTORY, PRICES, HISTORY.usable, TRADING, count=COUNT, seed=1, device="cuda")
    generator = torch.Generator().manual_seed(1)
    actions = torch.randint(0, 6, (400, COUNT), generator=generator)
    copied = actions.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for index in range(400):
            there.step(copied[index])
            there.observe()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for index in range(400):
        here.step(actions[index])
    assert torch.equal(here.account.cash, there.account.cash.cpu())
    assert torch.equal(here.observe(), there.observe().cpu())
    small = Coefficients(environments=COUNT, rollout_steps=2, batch=64, epochs=1)
    Trainer(build("mlp", IDENTITY, 1), there, small, total_steps=128, seed=1, device="cuda").update()
