"""How fast the daily desks train, ours and Stable-Baselines3 on the same markets with the same coefficients.

The peers see prepared observations, so that nobody scales a row twice; their networks are the same layers, but for
the recurrent one: sb3-contrib has an LSTM of the same width, no GRU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from bench.tapes import DATA
from bench.training.train_peers import _named, _speed
from bench.training.train_work import PROCESSES, TINY, WORK, Noise, Rate, measured, progress
from daemon.core.limits import Trading
from strategies.daily_rebalancer import SPEC as REBALANCER
from strategies.daily_rebalancer import STOCKS, TRADABLE, WIDTH
from strategies.regime_switcher import HIDDEN
from strategies.regime_switcher import SPEC as SWITCHER
from strategies.registry import daily_strategy
from tests.support.planted.market import TensorVecEnv
from training.data.daily_table import DailyTable, read_table
from training.desks.daily.markets.rebalancer import RebalancerMarket
from training.desks.daily.markets.regime import RegimeMarket
from training.desks.daily.networks.rebalancer import RebalancerActorCritic, fit_scaling
from training.desks.daily.networks.regime import RegimeActorCritic
from training.rl.coefficients import Coefficients
from training.rl.kernels import use_fast_float32
from training.rl.ppo import Trainer, make_deterministic
from training.rl.process_group import ProcessGroup, run_group
from training.rl.protocols import Environment, Step

FILES = {REBALANCER.name: DATA / "stocks_daily_2010_2022.parquet", SWITCHER.name: DATA / "etf_daily_2010_2022.parquet"}
FINRL = replace(WORK, environments=8, rollout_steps=256, batch=64)
SWITCHING = replace(WORK, environments=512, rollout_steps=256, batch=2048, epochs=4, sequence=32, entropy=0.01)
"""`regime_switcher`'s own coefficients, but for a quarter of its environments."""


@dataclass(frozen=True, slots=True)
class DailySize:
    """How much is measured."""

    windows: int = 2
    cap_s: float = 8.0  # after which a measurement of one process begins no further window
    wide: Coefficients = WORK
    finrl: Coefficients = FINRL
    switching: Coefficients = SWITCHING
    threads: tuple[int, ...] = (1, 2)  # of Stable-Baselines3
    recurrent: tuple[tuple[str, int, float], ...] = (("preset", 2, 1.0), ("small", 8, 0.25), ("large", 2, 4.0))
    """Of sb3-contrib: which of our environments, and how many of our minibatches together."""
    recorded: bool = True
    rows: int | None = None  # only so many of each kind of measurement; None: all


QUICK = DailySize(1, 8.0, TINY, TINY, TINY, (1,), recorded=False, rows=1)
_tables: dict[str, DailyTable] = {}


def table(name: str) -> DailyTable:
    """The recorded bars of a strategy's symbols, read once."""
    if name not in _tables:
        _tables[name] = read_table(FILES[name], daily_strategy(name))
    return _tables[name]


def tables(size: DailySize) -> dict[str, DailyTable]:
    """All of them, for processes that are not copies of this one; none where they are missing."""
    return {name: table(name) for name in FILES} if size.recorded else {}


def recorded() -> bool:
    """Whether the bars are there."""
    return all(file.exists() for file in FILES.values())


class Shaped:
    """The shape of `daily_rebalancer` where its bars are missing. Nothing can be learned."""

    def __init__(self, count: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._table = 1.0 + torch.rand(8, count, WIDTH, generator=generator)
        self._table[:, :, TRADABLE] = 1.0
        self._step = 0

    def observe(self) -> Tensor:
        """Float32 (n, 803)."""
        return self._table[self._step % 8]

    def step(self, actions: Tensor) -> Step:
        """Pay what nobody could foresee."""
        self._step += 1
        rewards = (self._table[self._step % 8, :, :STOCKS] * actions).mean(dim=1)
        return Step(rewards, torch.zeros(len(actions), dtype=torch.bool))

    def state_dict(self) -> dict[str, Any]:
        """Only the clock moves."""
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._step = state["step"]


class Prepared:
    """An environment whose observations are prepared once, as our trainer does it."""

    def __init__(self, environment: Environment, network: RebalancerActorCritic) -> None:
        self._environment, self._network = environment, network
        self.step, self.state_dict = environment.step, environment.state_dict
        self.load_state_dict = environment.load_state_dict

    @torch.no_grad()
    def observe(self) -> Tensor:
        """Float32 (n, 803)."""
        return self._network.prepare(self._environment.observe())


def stocks(real: bool, count: int, seed: int) -> Environment:
    """`count` accounts of `daily_rebalancer`."""
    if not real:
        return Shaped(count, seed)
    bars = table(REBALANCER.name)
    return RebalancerMarket(bars, bars.first_decision + 1, len(bars.sessions) - 1, Trading(), count=count, seed=seed)


def funds(real: bool, count: int, seed: int) -> Environment:
    """`count` accounts of `regime_switcher`."""
    if not real:
        return Noise(count, seed)
    bars = table(SWITCHER.name)
    return RegimeMarket(bars, bars.first_decision + 1, len(bars.sessions) - 1, Trading(), count=count, seed=seed)


def trainer(group: ProcessGroup, name: str, c: Coefficients, precision: str, size: DailySize) -> Trainer:
    """A trainer of a strategy, with this group's share."""
    make_deterministic()
    use_fast_float32()
    share = replace(c, environments=c.environments // group.size, batch=c.batch // group.size)
    place: Environment
    network: RebalancerActorCritic | RegimeActorCritic
    if name == REBALANCER.name:
        place = stocks(size.recorded, share.environments, 1 + group.rank)
        network = RebalancerActorCritic(fit_scaling(stocks(size.recorded, 64, 0).observe()), 1)
    else:
        place, network = funds(size.recorded, share.environments, 1 + group.rank), RegimeActorCritic(1)
    average = group.average if group.size > 1 else None
    seed = 1 + group.rank
    return Trainer(network, place, share, total_steps=10**9, seed=seed, precision=precision, average=average)


def ours(group: ProcessGroup, name: str, c: Coefficients, precision: str, size: DailySize) -> Rate:
    """Whole updates of a strategy, this group's share."""
    ppo_trainer = trainer(group, name, c, precision, size)

    def work() -> int:
        ppo_trainer.update()
        return c.environments * c.rollout_steps

    return measured(work, size.windows, group.size, float("inf") if group.size > 1 else size.cap_s)


def team_work(group: ProcessGroup, size: DailySize, tables_given: dict[str, DailyTable]) -> dict[str, Rate]:
    """All that is measured with several processes, in one group: they start once."""
    if group.rank:
        torch.set_num_threads(1)
    _tables.update(tables_given)
    rates = {}
    for name, c in ((REBALANCER.name, size.wide), (SWITCHER.name, size.switching)):
        for precision in ("float32", "bf16"):
            if not group.rank:
                progress(f"ours, {precision}, {group.size} processes, {name}")
            rates[f"{name} {precision}"] = ours(group, name, c, precision, size)
    return rates


def lead(size: DailySize) -> dict[str, Rate]:
    """`team_work` in this process and its others."""
    tables_given = tables(size)
    return run_group(PROCESSES, partial(team_work, size=size, tables_given=tables_given), team_work, size, tables_given)


def stocks_peer(c: Coefficients, size: DailySize, threads: int) -> Rate:
    """Stable-Baselines3's PPO with separate networks of 64 and 64."""
    torch.set_num_threads(threads)
    network = RebalancerActorCritic(fit_scaling(stocks(size.recorded, 64, 0).observe()), 1)
    place = TensorVecEnv(Prepared(stocks(size.recorded, c.environments, 1), network), c.environments, (WIDTH,))
    place.action_space = gymnasium.spaces.Box(-1.0, 1.0, (STOCKS,), np.float32)
    policy = {"net_arch": {"pi": [64, 64], "vf": [64, 64]}, "activation_fn": nn.ReLU}
    return _speed(
        PPO("MlpPolicy", place, policy_kwargs=policy, seed=1, device="cpu", **_named(c)), size.windows, size.cap_s
    )


class SameEncoder(BaseFeaturesExtractor):
    """Linear 64 -> 128, ReLU and LayerNorm, what comes before the GRU."""

    def __init__(self, space: gymnasium.spaces.Box) -> None:
        super().__init__(space, HIDDEN)
        self.encoder = nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.LayerNorm(HIDDEN))

    def forward(self, observations: Tensor) -> Tensor:
        """Float32 (batch, 128)."""
        outputs: Tensor = self.encoder(observations)
        return outputs


def funds_peer(c: Coefficients, size: DailySize, threads: int) -> Rate:
    """sb3-contrib's RecurrentPPO with the same encoder and an LSTM of 128."""
    torch.set_num_threads(threads)
    policy = {
        "features_extractor_class": SameEncoder,
        "lstm_hidden_size": HIDDEN,
        "shared_lstm": True,
        "enable_critic_lstm": False,
        "net_arch": [],
    }
    place = TensorVecEnv(funds(size.recorded, c.environments, 1), c.environments, (64,), 16)
    model = RecurrentPPO("MlpLstmPolicy", place, policy_kwargs=policy, seed=1, device="cpu", **_named(c))
    return _speed(model, size.windows, size.cap_s)
