"""How `toy_keeper` is trained: accounts that hold SPY or cash from open to open, without costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from daemon.core.limits import Trading
from strategies.kit.contract import Float32Array
from strategies.registry import daily_strategy
from tests.support.toy.strategy import CASH, SPEC, SPY
from training.data.daily_table import TICKS, DailyTable, read_table
from training.desks.daily.task_data import DailyTaskData
from training.desks.kind import EnvSettings, FoldComparison, Learner, Span, TrainingKind
from training.desks.ppo import Ppo
from training.evaluate.days import Desk, dry_run, under
from training.evaluate.players import Late, with_costs
from training.evidence.criteria import COSTS_TWICE, ONE_BAR_LATE
from training.export.reference import each_column
from training.rl.coefficients import Coefficients
from training.rl.presets import Preset
from training.rl.protocols import Step
from training.study.folds import Walk
from training.study.study import Fold, PlayResult

BASELINES = {"always flat": "Never trades.", "SPY": "All money in SPY.", "random": "A coin for each session."}


class Policy(nn.Module):
    """Three numbers to two logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, observation: Tensor) -> Tensor:
        """Logits, float32 (batch, 2)."""
        output: Tensor = self.layers(observation)
        return output


class ActorCritic(nn.Module):
    """The policy and a value."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.policy, self.critic = Policy(), nn.Linear(3, 1)

    def prepare(self, observations: Tensor) -> Tensor:
        """Observations as they are."""
        return observations

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and values."""
        return self.policy(prepared), self.critic(prepared).squeeze(-1)


class Accounts:
    """`count` accounts that begin at random sessions and go round the span; see `training.rl.ppo.Environment`."""

    def __init__(self, table: DailyTable, first: int, last: int, count: int, seed: int) -> None:
        opens = torch.from_numpy(table.open_ticks[first : last + 1, 0] / TICKS)
        self._gains = (opens[1:] / opens[:-1] - 1.0).float()
        self._seen = torch.from_numpy(table.features[first - 1 : last])
        generator = torch.Generator().manual_seed(seed)
        self._day = torch.randint(0, len(self._gains), (count,), generator=generator)
        self._weight = torch.zeros(count)

    def observe(self) -> Tensor:
        """Float32 (n, 3)."""
        return torch.cat([self._seen[self._day], self._weight.unsqueeze(1)], dim=1)

    def step(self, actions: Tensor) -> Step:
        """Pay the gain from this open to the next."""
        self._weight = (actions == SPY).float()
        rewards = self._weight * self._gains[self._day]
        self._day = (self._day + 1) % len(self._gains)
        return Step(rewards, self._day == 0)

    def state_dict(self) -> dict[str, Any]:
        """Where the accounts are."""
        return {"day": self._day, "weight": self._weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._day, self._weight = state["day"], state["weight"]


def always(action: int) -> Callable[[Tensor], Tensor]:
    """The policy that always answers the same."""
    return lambda observations: 50.0 * torch.eye(2)[torch.full((len(observations),), action)]


def coin(seed: int) -> Callable[[Tensor], Tensor]:
    """The policy that throws a coin."""
    generator = torch.Generator().manual_seed(seed)
    return lambda observations: torch.randn(len(observations), 2, generator=generator)


class ToyTaskData(DailyTaskData):
    """Daily bars of SPY made ready."""

    def network(self, name: str, seed: int, _train: Sequence[str]) -> Learner:
        """See `training.desks.ppo.PpoData`."""
        return ActorCritic(seed)

    def environment(self, span: Span, settings: EnvSettings) -> Accounts:
        """See `training.desks.ppo.PpoData`."""
        return Accounts(self.table, *self.table.span(span.dates), settings.count, settings.seed)

    def compare(
        self, policy: nn.Module, _: PlayResult, span: Span, seed: int, check_stop: Callable[[], None]
    ) -> FoldComparison:
        """See `training.desks.ppo.PpoData`."""
        desk = self.desk(span)
        baselines = {"always flat": dry_run(always(CASH), desk), "SPY": dry_run(always(SPY), desk)}
        coins = [dry_run(coin(seed + n), desk) for n in range(3)]
        check_stop()
        scenarios = {
            COSTS_TWICE: dry_run(policy, _dearer(desk)),
            ONE_BAR_LATE: dry_run(Late(policy, always(CASH)), desk),
        }
        return FoldComparison(
            baselines | {"random": coins[0]}, tuple(sum(s.pnl_usd for s in c.sessions) for c in coins), scenarios
        )

    def probes(self, fold: Fold, count: int, seed: int) -> Float32Array:
        """See `training.desks.kind.TaskData`."""
        first, last = self.table.span((*fold.train, *fold.validate, *fold.test))
        weights = np.random.default_rng(seed).integers(0, 2, (last - first + 1, 1))
        rows: Float32Array = np.hstack([self.table.features[first - 1 : last], weights]).astype(np.float32)
        return rows[:count]


def _dearer(desk: Desk) -> Desk:
    return under(desk, with_costs(desk.trading, 2))


def _read(path: Path, trading: Trading) -> ToyTaskData:
    strategy = daily_strategy(SPEC.name)
    return ToyTaskData(path, read_table(path, strategy), strategy, trading)


def _policy(network: str, seed: int, weights: Mapping[str, Any]) -> nn.Module:
    actor_critic = ActorCritic(seed)
    actor_critic.load_state_dict(weights)
    return actor_critic.eval().policy


KIND = TrainingKind(
    strategy=SPEC.name,
    networks=("tiny",),
    variants=("gain",),
    presets={"smoke": Preset("a few updates", 512, Coefficients(environments=8, rollout_steps=16, batch=64, epochs=2))},
    baselines=BASELINES,
    procedure=Ppo(_read),
    policy=_policy,
    inputs=each_column(SPEC, range(len(SPEC.features)), of_the_desk=("weight",)),
    walk=Walk(train=60, validate=20, test=20, purge=SPEC.history_bars + 1),
    unusable=f"that warm the desk up ({SPEC.history_bars})",
    compounds=True,
)
