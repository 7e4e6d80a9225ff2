"""A task that needs memory, with a known best score: a cue is shown once, and must be repeated some steps later.

An episode is a cue of +1 or -1 (each with probability 1/2), `DELAY` empty observations, and a question that looks the
same after either cue. The reward is +1 there where the action names the cue and -1 where it does not, else 0. So the
best score of an episode is 1. A policy without memory sees the question alone: it answers "+1" with a probability p
that does not depend on the cue, and earns 1/2 (p - (1 - p)) + 1/2 ((1 - p) - p) = 0, whatever p is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.rl.carrying_gru import CarryingGru
from training.rl.coefficients import Coefficients
from training.rl.ppo import Trainer, losses, make_deterministic
from training.rl.protocols import Batch, CarryingNetwork, Network, Step

DELAY = 4
LENGTH = DELAY + 2
EPISODES = 4000
CHANCE = 4.0 / math.sqrt(EPISODES)
"""Four standard deviations of the mean of `EPISODES` rewards of +1 or -1."""
COEFFICIENTS = Coefficients(
    learning_rate=1e-2, entropy=0.01, epochs=4, environments=64, rollout_steps=32, batch=512, sequence=16
)
BUDGET = 40 * 64 * 32


@pytest.fixture(autouse=True)
def repeatable() -> Iterator[None]:
    """One thread, and deterministic algorithms."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    make_deterministic()
    yield
    torch.set_num_threads(before[0])
    torch.use_deterministic_algorithms(before[1])


class Recall:
    """`count` episodes side by side; observations are (cue, question).

    With `across`, the cue that is asked for is shown with the question of the episode before, and not in its own.
    """

    def __init__(self, count: int, seed: int, *, across: bool = False) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.across = across
        self.step_in_episode = torch.arange(count) % LENGTH  # so that segments cut episodes everywhere
        self.cue = self._draw(count)
        self.following = self._draw(count)
        self.score = torch.zeros(())
        self.episodes = 0

    def _draw(self, count: int) -> Tensor:
        return torch.randint(0, 2, (count,), generator=self.generator)

    def observe(self) -> Tensor:
        at_end = self.step_in_episode == LENGTH - 1
        visible = at_end if self.across else self.step_in_episode == 0
        cue = self.following if self.across else self.cue
        return torch.stack([(cue * 2 - 1) * visible, at_end], dim=1).float()

    def step(self, actions: Tensor) -> Step:
        ends = self.step_in_episode == LENGTH - 1
        rewards = torch.where(actions == self.cue, 1.0, -1.0) * ends
        self.score += rewards.sum()
        self.episodes += int(ends.sum())
        self.cue = torch.where(ends, self.following, self.cue)
        self.following = torch.where(ends, self._draw(len(ends)), self.following)
        self.step_in_episode = (self.step_in_episode + 1) % LENGTH
        return Step(rewards, ends)

    def state_dict(self) -> dict[str, Any]:
        generator = self.generator.get_state()
        return {"step": self.step_in_episode, "cue": self.cue, "following": self.following, "generator": generator}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step_in_episode, self.cue, self.following = state["step"], state["cue"], state["following"]
        self.generator.set_state(state["generator"])


class Feedforward(nn.Module):
    """No memory."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.heads = nn.Linear(32, 3)

    def prepare(self, observations: Tensor) -> Tensor:
        return observations

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        outputs: Tensor = self.heads(self.trunk(prepared))
        return outputs[:, :2], outputs[:, 2]


def _train(network: Network | CarryingNetwork, environment: Recall, precision: str = "float32") -> None:
    trainer = Trainer(network, environment, COEFFICIENTS, total_steps=BUDGET, seed=1, precision=precision)
    while not trainer.done:
        trainer.update()


@torch.no_grad()
def _score(network: Network | CarryingNetwork, environment: Recall) -> float:
    """Mean reward of an episode, of at least `EPISODES` whole ones, by the likeliest actions."""
    count = len(environment.cue)
    environment.step_in_episode = torch.zeros(count, dtype=torch.int64)
    hidden = network.start(count) if isinstance(network, CarryingNetwork) else None
    while environment.episodes < EPISODES:
        prepared = network.prepare(environment.observe())
        if isinstance(network, CarryingNetwork):
            logits, _, hidden = network.forward(prepared, hidden if hidden is not None else network.start(count))
        else:
            logits, _ = network.forward(prepared)
        if bool(environment.step(logits.argmax(dim=1)).terminals.any()) and isinstance(network, CarryingNetwork):
            hidden = network.start(count)
    return float(environment.score) / environment.episodes


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_policy_that_carries_its_state_repeats_the_cue(precision: str) -> None:
    network = CarryingGru(inputs=2, hidden=32, outputs=2, seed=0)
    _train(network, Recall(64, seed=2), precision)
    assert _score(network, Recall(500, seed=3)) >= 0.95


def test_a_policy_without_memory_stays_at_chance() -> None:
    network = Feedforward()
    _train(network, Recall(64, seed=2))
    assert abs(_score(network, Recall(500, seed=3))) <= CHANCE


def test_nothing_is_carried_from_one_episode_into_the_next() -> None:
    network = CarryingGru(inputs=2, hidden=32, outputs=2, seed=0)
    environment = Recall(64, seed=2, across=True)
    _train(network, environment)
    assert environment.episodes > EPISODES
    assert abs(float(environment.score)) / environment.episodes <= 4.0 / math.sqrt(environment.episodes)


def test_a_run_with_a_carried_state_goes_on_bit_for_bit() -> None:
    def trainer() -> Trainer:
        network = CarryingGru(inputs=2, hidden=8, outputs=2, seed=0)
        return Trainer(network, Recall(64, seed=2), COEFFICIENTS, total_steps=3 * 64 * 32, seed=1)

    whole, first, second = trainer(), trainer(), trainer()
    for _ in range(3):
        whole.update()
    first.update()
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        second.update()
    weights, expected = second.network.state_dict(), whole.network.state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_after_a_reset_the_outputs_are_those_of_a_fresh_start() -> None:
    network = CarryingGru(inputs=2, hidden=8, outputs=2, seed=0)
    generator = torch.Generator().manual_seed(0)
    prepared = torch.randn(7, 3, 2, generator=generator)
    stale = torch.randn(3, 8, generator=generator)
    starts = torch.zeros(7, 3, dtype=torch.bool)
    starts[4] = True
    logits, values = network.sequence(prepared, stale, starts)
    fresh_logits, fresh_values = network.sequence(prepared[4:], network.start(3), torch.zeros(3, 3, dtype=torch.bool))
    torch.testing.assert_close(logits[4:], fresh_logits, rtol=0.0, atol=1e-6)  # other sizes may round otherwise
    torch.testing.assert_close(values[4:], fresh_values, rtol=0.0, atol=1e-6)
    hidden = network.start(3)
    for now, expected in zip(prepared[4:], fresh_logits, strict=True):
        one, _, hidden = network(now, hidden)
        torch.testing.assert_close(one, expected, rtol=0.0, atol=1e-6)


def test_segments_that_cover_their_episodes_have_the_gradient_of_the_whole_rollout() -> None:
    network = CarryingGru(inputs=2, hidden=8, outputs=3, seed=0)
    generator = torch.Generator().manual_seed(0)
    steps, count = 2 * LENGTH, 3

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    starts = torch.zeros(steps, count, dtype=torch.bool)
    starts[0] = starts[LENGTH] = True
    actions = torch.randint(0, 3, (steps, count), generator=generator)
    whole = _Rollout(draw(steps, count, 2), actions, starts, draw(steps, count), draw(steps, count), draw(count, 8))
    halves = whole.segments(LENGTH, stale=draw(2 * count, 8))
    coefficients = Coefficients(normalize_advantage=False, entropy=0.1)
    parameters = list(network.parameters())
    expected = torch.autograd.grad(losses(network, whole.batch(), coefficients)[0], parameters)
    gradients = torch.autograd.grad(losses(network, halves.batch(), coefficients)[0], parameters)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@dataclass(frozen=True, slots=True)
class _Rollout:
    """What a minibatch is made of, each (steps, segments, ...), and the state before each segment."""

    observations: Tensor
    actions: Tensor
    starts: Tensor
    advantages: Tensor
    returns: Tensor
    hidden: Tensor

    def segments(self, length: int, stale: Tensor) -> _Rollout:
        """The same steps in segments of `length`, side by side; `stale` is the state before each."""

        def cut(values: Tensor) -> Tensor:
            return torch.cat(values.chunk(len(values) // length), dim=1)

        return _Rollout(
            cut(self.observations), cut(self.actions), cut(self.starts), cut(self.advantages), cut(self.returns), stale
        )

    def batch(self) -> Batch:
        rows = self.actions.numel()
        return Batch(
            observations=self.observations.flatten(0, 1),
            actions=self.actions.flatten(),
            log_probabilities=torch.full((rows,), -1.1),
            advantages=self.advantages.flatten(),
            returns=self.returns.flatten(),
            values=torch.zeros(rows),
            hidden=self.hidden,
            starts=self.starts.flatten(),
        )
