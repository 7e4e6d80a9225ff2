"""A market whose best policy is known: a hidden drift of two states, seen only through the noise of the volume.

Holds the market as tensors, the same tensors as Stable-Baselines3 wants them, and the optimum by dynamic programming.
Invariant: what the market draws never depends on the actions, so two policies on one seed meet the same paths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from training.desks.scalper.network import ACTIONS, FEATURES, WINDOW
from training.rl.protocols import Environment, Step

Float64Array = npt.NDArray[np.float64]
Actor = Callable[[Tensor], Tensor]
"""Observations float32 (n, 20, 23) to actions int64 (n,)."""

SIDES = (0, 1, -1)
"""What the actions mean: be flat, long, short; the network's other three actions mean the same again."""
RETURN, VOLUME, ELAPSED, POSITION = 0, 5, 18, 20  # columns; the option scalper has its own of that kind there


@dataclass(frozen=True, slots=True)
class Planted:
    """A market. The state z = +-1 stays with `stay` from bar to bar; a bar's return is N(drift z, return_deviation).

    Its volume is N(volume z, 1), in logarithms. A decision at bar t is paid position x return of bar t + 1 less `cost`
    for each unit of position changed, all in percent; what is held at the end is marked, not sold.
    """

    stay: float = 0.97
    volume: float = 0.8
    drift: float = 0.2
    return_deviation: float = 0.8
    cost: float = 0.1
    steps: int = 128  # decisions of an episode

    @property
    def information(self) -> float:
        """What a bar tells of its state, D: its log-likelihood ratio, + against -, is N(2D z, 4D)."""
        return self.volume**2 + (self.drift / self.return_deviation) ** 2


RANDOM_WALK = Planted(drift=0.0)
"""The same volume and the same costs, but the return is noise: no policy earns anything."""


class PlantedMarket:
    """`count` markets, each on a path of its own. Implements `training.rl.ppo.Environment`; episodes end truly.

    `scattered` starts the first episodes in their middle, so that they do not end all at once.
    """

    def __init__(self, planted: Planted, count: int, seed: int, *, scattered: bool = True) -> None:
        self.count = count
        self._planted = planted
        self._generator = torch.Generator().manual_seed(seed)
        self._sides = torch.tensor(SIDES * (ACTIONS // len(SIDES)), dtype=torch.float32)
        self._length = WINDOW + planted.steps
        self._rows = torch.zeros(count * self._length, FEATURES)
        self._windows = self._rows.as_strided(
            (count * self._length - WINDOW + 1, WINDOW, FEATURES), (FEATURES, FEATURES, 1)
        )
        self._paths = self._rows.view(count, self._length, FEATURES)
        self._first = torch.arange(count) * self._length
        self._elapsed = torch.zeros(count, dtype=torch.int64)
        self._position = torch.zeros(count)
        self._begin(torch.arange(count))
        if scattered:
            self._elapsed = torch.randint(0, planted.steps, (count,), generator=self._generator)

    def observe(self) -> Tensor:
        """The last 20 bars, float32 (n, 20, 23): return / deviation, volume, share of the episode, position."""
        return self._windows[self._first + self._elapsed]

    def step(self, actions: Tensor) -> Step:
        """Take int64 actions (n,) at the bar's close; rewards are net returns of the next bar in percent."""
        side = self._sides[actions]
        row = self._first + self._elapsed + WINDOW
        gained = side * self._rows[row, RETURN] * self._planted.return_deviation
        rewards = gained - self._planted.cost * (side - self._position).abs()
        self._rows[row, POSITION] = side
        self._position = side
        self._elapsed = self._elapsed + 1
        terminals = self._elapsed == self._planted.steps
        ended = terminals.nonzero().squeeze(1)
        if len(ended):
            self._begin(ended)
        return Step(rewards, terminals)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next steps depend on; tensors only."""
        return {
            "rows": self._rows.clone(),
            "elapsed": self._elapsed.clone(),
            "position": self._position.clone(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._rows.copy_(state["rows"])
        self._elapsed, self._position = state["elapsed"].clone(), state["position"].clone()
        self._generator.set_state(state["generator"])

    def _begin(self, which: Tensor) -> None:
        """Write new paths for the markets `which`, int64 (k,)."""
        p, shape = self._planted, (len(which), self._length)
        moves = torch.rand(shape, generator=self._generator)
        threshold = torch.full((self._length,), p.stay)
        threshold[0] = 0.5  # the first state is either, as the chain is in the long run
        state = torch.where(moves < threshold, 1.0, -1.0).cumprod(dim=1)
        noise = torch.randn((2, *shape), generator=self._generator)
        paths = torch.zeros(*shape, FEATURES)
        paths[:, :, RETURN] = p.drift / p.return_deviation * state + noise[0]
        paths[:, :, VOLUME] = p.volume * state + noise[1]
        paths[:, :, ELAPSED] = (torch.arange(self._length) - WINDOW + 1).clamp(min=0) / p.steps
        self._paths[which] = paths
        self._elapsed[which] = 0
        self._position[which] = 0.0


@torch.no_grad()
def play(planted: Planted, actor: Actor, *, episodes: int, seed: int) -> Tensor:
    """The net return of each of `episodes` whole episodes, percent, float64 (episodes,)."""
    market = PlantedMarket(planted, episodes, seed, scattered=False)
    total = torch.zeros(episodes, dtype=torch.float64)
    for _ in range(planted.steps):
        total += market.step(actor(market.observe())).rewards
    return total


def greedy(policy: Callable[[Tensor], Tensor]) -> Actor:
    """The actor that takes the largest of a policy's logits, as the live path does."""
    return lambda observations: policy(observations).argmax(dim=1)


@dataclass(frozen=True, slots=True)
class Plan:
    """The optimum: `actions` int64 (steps, beliefs, 3 positions in the order of `SIDES`), and its expected return."""

    actions: npt.NDArray[np.int64]
    values: Float64Array  # (steps + 1, beliefs, 3), percent still to come
    net_return: float  # percent an episode, before the first bar is seen


def solve(planted: Planted, *, beliefs: int = 801, nodes: int = 48) -> Plan:
    """The best decisions by backward induction over the belief b = P(z = +1 | bars seen) and the position p.

    V_T = 0;  V_t(b, p) = max over p' of  -cost |p' - p| + p' drift (2 pi - 1) + E V_{t+1}(b', p'),
    pi = stay b + (1 - stay)(1 - b), logit b' = logit pi + L, L ~ N(2D z, 4D) with z = +1 in pi of the cases: Bayes'
    filter, the expectation by Gauss-Hermite quadrature and linear interpolation on an even grid of b. What is paid at
    once is an expectation too, since p' (a number of z's past) and the next return share nothing but z. An episode's
    value is V_0(b, flat) over the b that the first 20 bars lead to, from 1/2.
    Source: Astrom 1965, "Optimal control of Markov processes with incomplete state information".
    """
    grid = np.linspace(0.0, 1.0, beliefs)
    predicted = planted.stay * grid + (1.0 - planted.stay) * (1.0 - grid)
    following = _belief_moves(planted, predicted, nodes)
    sides = np.array(SIDES, dtype=np.float64)
    fees = planted.cost * np.abs(sides[:, None] - sides[None, :])  # from, to
    paid = planted.drift * (2.0 * predicted - 1.0)[:, None, None] * sides - fees
    values = np.zeros((planted.steps + 1, beliefs, len(SIDES)))
    actions = np.zeros((planted.steps, beliefs, len(SIDES)), dtype=np.int64)
    for step in range(planted.steps - 1, -1, -1):
        choices = paid + (following @ values[step + 1])[:, None, :]
        actions[step], values[step] = choices.argmax(axis=2), choices.max(axis=2)
    before = values[0, :, 0]
    for _ in range(WINDOW):
        before = following @ before
    return Plan(actions, values, float(np.interp(0.5, grid, before)))


def _belief_moves(planted: Planted, predicted: Float64Array, nodes: int) -> Float64Array:
    """P(belief j next | belief i now) on the grid, (beliefs, beliefs)."""
    count, information = len(predicted), planted.information
    points, weights = np.polynomial.hermite.hermgauss(nodes)
    result = np.zeros((count, count))
    here = np.arange(count)
    with np.errstate(divide="ignore", over="ignore"):  # with stay = 1 a belief of 0 or 1 stays
        odds = np.log(predicted) - np.log1p(-predicted)
        for point, weight in zip(points, weights / math.sqrt(math.pi), strict=True):
            for state, chance in ((1.0, predicted), (-1.0, 1.0 - predicted)):
                ratio = 2.0 * information * state + math.sqrt(8.0 * information) * point
                place = (count - 1) / (1.0 + np.exp(-(odds + ratio)))
                low = np.minimum(place.astype(np.int64), count - 2)
                np.add.at(result, (here, low), weight * chance * (low + 1 - place))
                np.add.at(result, (here, low + 1), weight * chance * (place - low))
    return result


class BeliefActor:
    """Plays a plan: Bayes' filter over every bar of the episode, or (`windowed`) over the 20 bars of the observation.

    The filter that goes on is for episodes that run side by side from their first decision, as in `play`.
    """

    def __init__(self, planted: Planted, plan: Plan, *, windowed: bool) -> None:
        self._planted = planted
        self._actions = torch.from_numpy(plan.actions)
        self._windowed = windowed
        self._belief = torch.empty(0, dtype=torch.float64)

    def __call__(self, observations: Tensor) -> Tensor:
        """The best actions, int64 (n,)."""
        p = self._planted
        step = int((observations[0, -1, ELAPSED] * p.steps).round())
        fresh = self._windowed or step == 0
        belief = torch.full((len(observations),), 0.5, dtype=torch.float64) if fresh else self._belief
        bars = observations if fresh else observations[:, -1:]
        ratios = 2.0 * (p.volume * bars[:, :, VOLUME] + p.drift / p.return_deviation * bars[:, :, RETURN]).double()
        for ratio in ratios.unbind(dim=1):
            predicted = p.stay * belief + (1.0 - p.stay) * (1.0 - belief)
            belief = torch.sigmoid(torch.logit(predicted) + ratio)
        self._belief = belief
        position = observations[:, -1, POSITION].long() % len(SIDES)  # 0, 1, -1 to 0, 1, 2
        index = (belief * (self._actions.shape[1] - 1)).round().long()
        return self._actions[step, index, position]


class TensorVecEnv(VecEnv):
    """An `Environment` as Stable-Baselines3 steps it: the same tensors, seen through NumPy without a copy."""

    def __init__(
        self, environment: Environment, count: int, shape: tuple[int, ...] = (WINDOW, FEATURES), actions: int = ACTIONS
    ) -> None:
        self._environment = environment
        self._actions = torch.zeros(count, dtype=torch.int64)
        super().__init__(
            count,
            gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32),
            gymnasium.spaces.Discrete(actions),
        )

    def reset(self) -> npt.NDArray[np.float32]:
        """The observations as they are; finished episodes restart by themselves."""
        return self._environment.observe().numpy()

    def step_async(self, actions: npt.NDArray[np.int64]) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = torch.from_numpy(actions)

    def step_wait(
        self,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.bool_], list[dict[str, Any]]]:
        """Observations (of the new episode where one ended), rewards, ends, and nothing else to tell."""
        step = self._environment.step(self._actions)
        return self._environment.observe().numpy(), step.rewards.numpy(), step.terminals.numpy(), [{}] * self.num_envs

    def close(self) -> None:
        """Nothing is open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Nothing can be read but the render mode, which is none."""
        if attr_name != "render_mode":
            raise AttributeError(f"TensorVecEnv has no attribute {attr_name!r} for its environments")
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Nothing can be set."""
        raise AttributeError(f"TensorVecEnv has no attribute {attr_name!r} for its environments")

    def env_method(self, method_name: str, *arguments: Any, indices: Any = None, **named: Any) -> list[Any]:
        """Nothing can be called."""
        raise AttributeError(f"TensorVecEnv has no method {method_name!r} for its environments")

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: Any = None
    ) -> list[bool]:
        """Nothing is wrapped."""
        return [False] * self.num_envs

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """The market has its own seed already."""
        return [None] * self.num_envs
