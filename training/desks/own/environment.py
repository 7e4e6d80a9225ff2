"""The desk itself as a gymnasium environment: core, gates, order life and paper broker in memory.

A step is a decision. It is the real desk, so it is slower than a tensor market, but needs no code for the strategy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from daemon.core.effects import AskPolicy
from daemon.core.events import Event, PolicyAnswered
from daemon.core.step import Machine
from strategies.kit.contract import Float32Array, Spec
from training.evaluate.machine import MODEL
from training.evaluate.players import CERTAIN
from training.rl.protocols import Step


class Episode(NamedTuple):
    """A desk just before a session, and the events to come."""

    machine: Machine
    feed: Iterable[Event]


class Outcome(NamedTuple):
    """What happened between two decisions, for rewards. Money in USD."""

    action: int  # the index of the action taken; -1 of a continuous policy
    equity_before: float
    equity_after: float
    fees: float  # costs paid between the decisions
    trades: int  # trades closed between the decisions


def gain(outcome: Outcome) -> float:
    """The usual reward: the change of the equity in percent, after all costs."""
    return 100.0 * (outcome.equity_after / outcome.equity_before - 1.0) if outcome.equity_before > 0.0 else 0.0


class DeskEnv(gymnasium.Env[Float32Array, Any]):
    """One desk, one decision a step. `reset(options={"episode": n})` chooses the episode, else it is drawn.

    Actions are the indices of `spec.actions`, or numbers in [-1, 1] of a continuous policy. `terminated` is true at the
    end of an episode: one session for a desk that is flat at the close, a fixed number of sessions for a daily desk.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self, spec: Spec, begin: Callable[[int], Episode], episodes: int, reward: Callable[[Outcome], float] = gain
    ) -> None:
        if spec.rows_are_symbols or spec.recurrent_shape is not None:
            raise ValueError(f"{spec.name} has rows of symbols or a memory: give it an environment of its own")
        self._spec, self._begin, self._episodes, self._reward = spec, begin, episodes, reward
        self.observation_space = Box(-np.inf, np.inf, spec.observation_shape, np.float32)
        count = len(spec.actions)
        self.action_space = Box(-1.0, 1.0, (count,), np.float32) if spec.continuous else Discrete(count)
        self._machine: Machine | None = None
        self._questions: Generator[AskPolicy, PolicyAnswered, None] | None = None
        self._question: AskPolicy | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32Array, dict[str, Any]]:
        """The first observation of an episode. Raises ValueError where no episode has a decision."""
        super().reset(seed=seed)
        chosen = (options or {}).get("episode")
        number = int(self.np_random.integers(self._episodes) if chosen is None else chosen)
        for offset in range(self._episodes):
            self._machine, feed = self._begin((number + offset) % self._episodes)
            self._questions = questions(self._machine, feed)
            self._question = next(self._questions, None)
            if self._question is not None:
                return self._observation(self._question), {}
        raise ValueError(f"{self._spec.name} asks its policy in none of {self._episodes} episodes: look at `observe`")

    def step(self, action: Any) -> tuple[Float32Array, float, bool, bool, dict[str, Any]]:
        """Answer the open question, and go on to the next one."""
        machine, questions, question = self._machine, self._questions, self._question
        assert machine is not None
        assert questions is not None
        assert question is not None, "the episode is over: reset first"
        observation, state_before = self._observation(question), machine.state
        logits = answer_of(self._spec, action)
        try:
            self._question = questions.send(PolicyAnswered(machine.state.now_ns, question.decision, logits, b"", MODEL))
        except StopIteration:
            self._question = None
        state_after = machine.state
        outcome = Outcome(
            action=-1 if self._spec.continuous else int(action),
            equity_before=float(state_before.book.equity),
            equity_after=float(state_after.book.equity),
            fees=float(state_after.book.fees - state_before.book.fees),
            trades=state_after.stats.trades - state_before.stats.trades,
        )
        over = self._question is None
        following = observation if self._question is None else self._observation(self._question)
        return following, _number(self._reward(outcome)), over, False, {"equity_usd": outcome.equity_after}

    def _observation(self, question: AskPolicy) -> Float32Array:
        observation: Float32Array = question.observation.array().astype(np.float32)
        return observation


def _number(reward: Any) -> float:
    """Return a reward as a number. Raises ValueError for what is none, or not finite."""
    try:
        number = float(reward)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"a reward is {reward!r:.100}, expected a finite number: correct the reward of the training")
    return number


REPLAYED_STEPS = 256


def check_made(environment: Any, spec: Spec) -> None:
    """Raise ValueError where what a strategy's own function made is no environment with the spaces of its spec."""
    subject = f"the environment of {spec.name}"
    if not isinstance(environment, gymnasium.Env):
        kind = type(environment).__name__
        raise ValueError(f"{subject} is {kind}, expected a gymnasium.Env: correct what it returns")  # noqa: TRY004
    space, actions, count = environment.observation_space, environment.action_space, len(spec.actions)
    fits = isinstance(actions, Box) and actions.shape == (count,) if spec.continuous else actions == Discrete(count)
    if not fits or space.shape != spec.observation_shape:
        expected = f"Box of shape ({count},)" if spec.continuous else f"Discrete({count})"
        raise ValueError(
            f"{subject} has observations of shape {space.shape} and the actions {actions}, expected those of the spec: "
            f"{spec.observation_shape} and {expected}"
        )


def check_repeats(environment: gymnasium.Env[Any, Any], spec: Spec, seed: int) -> None:
    """Raise ValueError where an episode, played twice, differs: a stopped training could not go on with it."""
    first, again = (_played(environment, spec, seed) for _ in range(2))
    for place, (before, after) in enumerate(zip(first, again, strict=False)):
        if before != after:
            raise ValueError(
                f"the environment of {spec.name} does not repeat an episode of one seed and the same actions (step "
                f"{place}), as a stopped training does to go on: keep nothing from episode to episode, and draw from "
                "the seed alone; instead of NormalizeReward divide by a constant"
            )


def _played(environment: gymnasium.Env[Any, Any], spec: Spec, seed: int) -> list[tuple[bytes, float, bool]]:
    """The start of an episode: each observation, reward, and whether it ended."""
    generator, count = np.random.default_rng(seed), len(spec.actions)
    observation, over = environment.reset(seed=seed)[0], False
    steps = [(np.asarray(observation, dtype=np.float32).tobytes(), 0.0, over)]
    while not over and len(steps) <= REPLAYED_STEPS:
        action: Any = (
            generator.uniform(-1.0, 1.0, count).astype(np.float32)
            if spec.continuous
            else int(generator.integers(count))
        )
        observation, reward, terminated, truncated, _ = environment.step(action)
        over = bool(terminated or truncated)
        steps.append((np.asarray(observation, dtype=np.float32).tobytes(), _number(reward), over))
    return steps


def answer_of(spec: Spec, action: Any) -> tuple[float, ...]:
    """The answer of a policy that gives this action all the probability."""
    if spec.continuous:
        return tuple(np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0).tolist())
    return tuple(CERTAIN if place == int(action) else 0.0 for place in range(len(spec.actions)))


def questions(machine: Machine, feed: Iterable[Event]) -> Generator[AskPolicy, PolicyAnswered, None]:
    """Step the feed as `Machine.run` does, and yield each question to the policy; send its answer."""
    for fed in feed:
        event: Event = fed
        while True:
            machine.apply(event)
            if not machine.queue:
                break
            caused = machine.queue.popleft()
            event = (yield caused) if isinstance(caused, AskPolicy) else caused


class GymEnvironments:
    """Adapts gymnasium environments to our PPO; see `training.rl.protocols.Environment`.

    An episode's seed follows from the seed, the environment's index and the episode's number. A state holds the episode
    numbers and the actions taken; resuming takes the actions again, so an environment must depend on its seed and
    actions alone.
    """

    def __init__(self, make: Callable[[], gymnasium.Env[Any, Any]], count: int, seed: int) -> None:
        self._envs = [make() for _ in range(count)]
        self._seed = seed
        self._episodes = [0] * count
        self._taken: list[list[Any]] = [[] for _ in range(count)]
        self._seen = [self._reset(place) for place in range(count)]

    def observe(self) -> Tensor:
        """Float32 (n, *shape)."""
        return torch.from_numpy(np.stack(self._seen).astype(np.float32))

    def step(self, actions: Tensor) -> Step:
        """See `Environment`; a finished environment begins its next episode."""
        rewards, ends, limits = [], [], []
        last_observations = []
        for place, action in enumerate(actions.tolist()):
            self._taken[place].append(action)
            observation, reward, terminated, truncated, _ = self._envs[place].step(_of_gym(action))
            last_observations.append(np.asarray(observation, dtype=np.float32))
            rewards.append(_number(reward))
            ends.append(bool(terminated))
            limits.append(bool(truncated))
            if terminated or truncated:
                self._episodes[place] += 1
                self._taken[place] = []
                observation = self._reset(place)
            self._seen[place] = observation
        if not any(limits):
            return Step(torch.tensor(rewards), torch.tensor(ends))
        return Step(
            torch.tensor(rewards),
            torch.tensor(ends),
            torch.tensor(limits),
            torch.from_numpy(np.stack(last_observations)),
        )

    def state_dict(self) -> dict[str, Any]:
        """The episodes' numbers, and the actions taken in them."""
        return {"episodes": list(self._episodes), "taken": [list(actions) for actions in self._taken]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the same episodes and take the same actions."""
        self._episodes = list(state["episodes"])
        self._taken = [list(actions) for actions in state["taken"]]
        for place, actions in enumerate(self._taken):
            self._seen[place] = self._reset(place)
            for action in actions:
                self._seen[place] = self._envs[place].step(_of_gym(action))[0]

    def _reset(self, place: int) -> Any:
        entropy = np.random.SeedSequence([self._seed, place, self._episodes[place]]).generate_state(1)
        return self._envs[place].reset(seed=int(entropy[0]))[0]


def _of_gym(action: Any) -> Any:
    """Convert an action to the form of gymnasium's spaces."""
    return np.asarray(action, dtype=np.float32) if isinstance(action, list) else action
