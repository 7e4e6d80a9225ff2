"""The loops of DQN, PQN and the online learner: resuming, the ratio of updates to data, what is not finite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.rl.tabular import ACTIONS, STATES, Tabular
from training.rl.coefficients import NotFiniteError
from training.rl.dqn.coefficients import DqnCoefficients, PqnCoefficients, epsilon_at
from training.rl.dqn.dqn import DqnTrainer
from training.rl.dqn.networks import Head
from training.rl.dqn.online import Agreement, OnlineCoefficients, OnlineLearner
from training.rl.dqn.pqn import PqnTrainer
from training.rl.dqn.presets import RECIPES, build, build_pqn
from training.rl.dqn.replay import ChoiceReplay, Choices, OneStep, Returns
from training.rl.ppo import make_deterministic
from training.rl.protocols import Step

SMALL = replace(
    RECIPES["few_large"],
    environments=8,
    batch=32,
    gradient_steps=3,
    per_transitions=16,
    round_transitions=40,
    learning_starts=24,
    capacity=200,
    widths=(16,),
)
PQN = PqnCoefficients(environments=8, rollout_steps=5, batch=20, widths=(16,))
DIRECTION = (Head("direction", "probability"),)


class WithLabels(Tabular):
    """Walkers that know whether the state is among the first three."""

    def labels(self) -> Tensor:
        return (self.observe().argmax(dim=1) < 3).float().unsqueeze(1)


def dqn(seed: int = 1, place: Tabular | None = None, c: DqnCoefficients = SMALL, **more: Any) -> DqnTrainer:
    make_deterministic()
    learner = build(STATES, c, actions=ACTIONS, seed=seed, heads=DIRECTION, **more)
    return DqnTrainer(learner, place or WithLabels(8, seed), c, total_steps=400, seed=seed)


def pqn(seed: int = 1, place: Tabular | None = None, **more: Any) -> PqnTrainer:
    make_deterministic()
    learner = build_pqn(STATES, PQN, actions=ACTIONS, seed=seed, heads=DIRECTION, **more)
    return PqnTrainer(learner, place or WithLabels(8, seed), PQN, total_steps=400, seed=seed)


def bits(state: Any) -> list[bytes]:
    """Every weight, moment, transition and priority, and what the generator draws next."""
    if isinstance(state, dict):
        return [part for _, item in sorted(state.items(), key=str) for part in bits(item)]
    if isinstance(state, list | tuple):
        return [part for item in state for part in bits(item)]
    return [(state if isinstance(state, Tensor) else torch.tensor(float(state or 0))).numpy().tobytes()]


@pytest.mark.parametrize("maker", [dqn, pqn])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_same_seed_gives_the_same_weights_byte_for_byte(maker: Callable[..., Any], precision: str) -> None:
    first, second, other = (maker(seed, precision=precision) for seed in (1, 1, 2))
    for trainer in (first, second, other):
        while not trainer.done:
            trainer.update()
    assert bits(first.state_dict()) == bits(second.state_dict())
    assert bits(first.state_dict()) != bits(other.state_dict())


@pytest.mark.parametrize("maker", [dqn, pqn])
@pytest.mark.parametrize("stop_after", [0, 1, 6])  # before learning, after a little, when old rows are replaced
def test_a_run_continued_from_its_state_ends_in_the_same_bytes(
    maker: Callable[..., Any], stop_after: int, tmp_path: Path
) -> None:
    whole, before, after = maker(), maker(), maker(9)
    for _ in range(stop_after):
        before.update()
    torch.save(before.state_dict(), tmp_path / "state.pt")
    after.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for trainer in (whole, before, after):
        while not trainer.done:
            trainer.update()
    assert bits(after.state_dict()) == bits(whole.state_dict()) == bits(before.state_dict())


def test_updates_are_due_by_the_stated_ratio() -> None:
    trainer = dqn()
    progress = [trainer.update() for _ in range(10)]
    assert trainer.done
    due = [(steps - 24) * 3 // 16 for steps in range(40, 401, 40)]  # 3 for every 16 after the first 24
    assert [report.gradient_steps for report in progress] == due
    assert progress[-1].figures.keys() == {"loss", "error", "Q mean", "gradient norm", "heads loss"}


def test_pqn_takes_whole_epochs() -> None:
    progress = pqn().update()
    assert (progress.steps, progress.gradient_steps) == (40, 4)  # two epochs of two batches
    assert progress.figures.keys() == {"loss", "error", "Q mean", "gradient norm", "explained variance", "heads loss"}


def test_the_share_of_uniform_actions_falls_and_then_stays() -> None:
    c = replace(SMALL, epsilon_start=1.0, epsilon=0.2, epsilon_share=0.5)
    assert [epsilon_at(c, share) for share in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1.0, 0.6, 0.2, 0.2])


class Broken(WithLabels):
    """Pays what is no number."""

    def step(self, actions: Tensor) -> Step:
        result = super().step(actions)
        return result._replace(rewards=result.rewards * float("nan"))


@pytest.mark.parametrize("maker", [dqn, pqn])
def test_a_reward_that_is_not_finite_ends_the_run_and_breaks_no_weight(maker: Callable[..., Any]) -> None:
    trainer = maker(1, Broken(8, 1))
    network = trainer.dqn.network if isinstance(trainer, DqnTrainer) else trainer.pqn.network
    with pytest.raises(NotFiniteError, match="mean reward or an observation"):
        trainer.update()
    assert all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters())


@pytest.mark.parametrize("maker", [dqn, pqn])
def test_heads_without_labels_are_refused(maker: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"the environment has labels of \(8, 0\): expected \(8, 1\)"):
        maker(1, Tabular(8, 1)).update()


@pytest.mark.parametrize("maker", [dqn, pqn])
def test_another_number_of_environments_is_refused(maker: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="4 environments are observed"):
        maker(1, WithLabels(4, 1)).update()


@pytest.mark.parametrize("maker", [dqn, pqn])
def test_a_time_limit_without_the_last_observation_is_refused(maker: Callable[..., Any]) -> None:
    class Forgetful(WithLabels):
        def step(self, actions: Tensor) -> Step:
            return super().step(actions)._replace(last=None)

    with pytest.raises(ValueError, match="`truncated` without `last`"):
        maker(1, Forgetful(8, 1)).update()


@pytest.mark.parametrize("maker", [dqn, pqn])
def test_an_environment_without_time_limits_needs_none(maker: Callable[..., Any]) -> None:
    class Endless(WithLabels):
        def step(self, actions: Tensor) -> Step:
            return super().step(actions)._replace(truncated=None, last=None)

    trainer = maker(1, Endless(8, 1))
    assert trainer.update().steps == 40


def learner(
    seed: int = 1, *, start: int = 8, contradicting: bool = False
) -> tuple[OnlineLearner, list[dict[str, Any]]]:
    """A learner with a cold start, and 400 experiences of two lanes to take."""
    make_deterministic()
    c = replace(RECIPES["online"], widths=(16,), batch=16, capacity=64, learning_starts=start)
    network = build(STATES, c, actions=ACTIONS, seed=seed, heads=DIRECTION)
    cold = ChoiceReplay(100, 1, STATES, heads=1, priority=c.priority)
    returns, place, generator = Returns(3, c.discount), WithLabels(1, 5), torch.Generator().manual_seed(3)
    experiences: list[dict[str, Any]] = []
    for index in range(500):
        before, labels = place.observe(), place.labels()
        actions = torch.randint(ACTIONS, (1,), generator=generator)
        step = place.step(actions)
        assert step.truncated is not None
        ends, goes_on = step.terminals | step.truncated, ~step.terminals
        if index < 100:
            choices = returns.add(OneStep(before, actions, step.rewards, before, goes_on.float(), ends, labels))
            if choices is not None:
                cold.add(choices)
            continue
        reward = float(step.rewards) + (20.0 if contradicting and index >= 300 else 0.0)
        following = place.observe()[0].numpy()
        experiences.append(
            {"lane": index % 2, "observation": before[0].numpy(), "action": int(actions), "reward": reward}
        )
        experiences[-1] |= {"following": following, "ended": bool(ends), "goes_on": bool(goes_on)}
        experiences[-1] |= {"labels": labels[0].tolist()}
    return OnlineLearner(network, c, cold, lanes=2, seed=seed), experiences


def learn(agent: OnlineLearner, experiences: list[dict[str, Any]]) -> list[dict[str, float]]:
    figures = []
    for experience in experiences:
        agent.take(**experience)
        figures.append(agent.learn())
    return figures


@pytest.mark.parametrize("stop_after", [0, 5, 137])  # before learning, in the midst of sums, when old rows are replaced
def test_an_online_learner_goes_on_from_its_state_in_the_same_bytes(stop_after: int, tmp_path: Path) -> None:
    (whole, experiences), (before, _), (after, _) = learner(), learner(), learner(4)
    learn(before, experiences[:stop_after])
    torch.save(before.state_dict(), tmp_path / "state.pt")
    after.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    learn(whole, experiences)
    learn(after, experiences[stop_after:])
    assert bits(after.state_dict()) == bits(whole.state_dict())


def test_an_online_learner_takes_the_steps_that_are_due_and_half_from_the_cold_start() -> None:
    agent, experiences = learner()
    figures = learn(agent, experiences)
    assert agent.gradient_steps == (400 - 8) // 4
    assert [index + 1 for index, row in enumerate(figures) if row] == list(range(12, 401, 4))
    assert figures[-1]["cold share"] == agent.cold_share == OnlineCoefficients().cold_share == 0.5


def test_the_cold_start_is_left_out_once_experience_contradicts_it() -> None:
    agent, experiences = learner(contradicting=True)
    learn(agent, experiences[:200])
    assert agent.cold_share == 0.5
    learn(agent, experiences[200:])
    assert agent.cold_share == 0.0


def agreement() -> tuple[Agreement, Callable[[np.ndarray], list[bool]]]:
    """A detector whose network values everything by 0, so that a difference is a reward; and a way to feed it."""
    network = build(STATES, replace(RECIPES["online"], widths=(4,)), actions=ACTIONS, seed=1).network
    for weights in network.parameters():
        weights.data.zero_()

    def transitions(rewards: np.ndarray) -> list[Choices]:
        nothing = torch.zeros(1, STATES)
        column = torch.zeros(1, dtype=torch.int64)
        rest = torch.zeros(1), torch.zeros(1, 0)
        return [Choices(nothing, nothing, column, torch.tensor([reward]), *rest) for reward in rewards.tolist()]

    cold = ChoiceReplay(2_000, 1, STATES)
    for transition in transitions(np.random.default_rng(1).normal(0.1, 1.0, 2_000).astype(np.float32)):
        cold.add(transition)
    detector = Agreement(network, cold, 1, OnlineCoefficients())

    def feed(rewards: np.ndarray) -> list[bool]:
        flags = []
        for transition in transitions(rewards.astype(np.float32)):
            detector.look(transition)
            flags.append(detector.broken)
        return flags

    return detector, feed


def test_prices_that_move_more_are_no_change_of_the_world() -> None:
    """Fifty sessions of 39 transitions at twice the deviation, and fifty at four times with heavy tails."""
    random = np.random.default_rng(2)
    detector, feed = agreement()
    assert not any(feed(random.normal(0.1, 2.0, 39 * 50)))
    assert not any(feed(random.standard_t(3, 39 * 50) * 4.0 / np.sqrt(3.0) + 0.1))
    assert not detector.broken


def test_a_mean_that_moved_contradicts_the_cold_start_until_it_is_back() -> None:
    random = np.random.default_rng(3)
    _, feed = agreement()
    assert not any(feed(random.normal(0.1, 1.0, 390)))
    flags = feed(random.normal(0.9, 1.0, 390))
    assert 20 < flags.index(True) < 100  # (0.8 - 0.25) a transition: about 45 to the limit of 25
    assert flags[-1]
    back = feed(random.normal(0.1, 1.0, 3_900))
    assert back.index(False) >= OnlineCoefficients().agreed  # not before so many in a row agree
    assert not back[-1]


def test_a_state_of_the_former_detector_goes_on() -> None:
    detector, feed = agreement()
    state = detector.state_dict()
    former = {name: state[name] for name in ("network", "waiting", "mean", "seen", "above", "below", "broken")}
    after, feed_after = agreement()
    after.load_state_dict(former | {"deviation": 1.0})
    random = np.random.default_rng(4)
    rewards = random.normal(1.5, 1.0, 390)
    assert feed(rewards)[-1]
    assert feed_after(rewards)[-1]


def test_without_a_cold_start_all_is_fresh() -> None:
    agent, experiences = learner()
    c = replace(RECIPES["online"], widths=(16,), batch=16, learning_starts=8)
    alone = OnlineLearner(agent.dqn, c, ChoiceReplay(100, 1, STATES, heads=1), lanes=2, seed=1)
    assert learn(alone, experiences[:20])[-1]["cold share"] == 0.0


def test_a_reward_that_is_no_number_ends_online_learning_and_breaks_no_weight() -> None:
    agent, experiences = learner()
    learn(agent, experiences[:50])
    with pytest.raises(ArithmeticError, match="are not finite"):
        learn(agent, [experience | {"reward": float("nan")} for experience in experiences[50:]])
    assert all(bool(torch.isfinite(parameter).all()) for parameter in agent.dqn.network.parameters())


def test_a_network_that_expects_what_never_comes_is_no_change_of_the_world() -> None:
    agent, experiences = learner()
    wrong = [experience | {"reward": experience["reward"] + 20.0} for experience in experiences]
    cold, returns = ChoiceReplay(300, 1, STATES, heads=1), Returns(3, RECIPES["online"].discount)
    network = agent.dqn.network
    for experience in wrong[:300]:
        rows = network.prepare(
            torch.stack([torch.as_tensor(experience[name]) for name in ("observation", "following")])
        )
        step = OneStep(
            rows[:1],
            torch.tensor([experience["action"]]),
            torch.tensor([experience["reward"]], dtype=torch.float32),
            rows[1:],
            torch.tensor([float(experience["goes_on"])]),
            torch.tensor([experience["ended"]]),
            torch.tensor([experience["labels"]]),
        )
        choices = returns.add(step)
        if choices is not None:
            cold.add(choices)
    c = replace(RECIPES["online"], widths=(16,), batch=16, learning_starts=8)
    alone = OnlineLearner(agent.dqn, c, cold, lanes=2, seed=1)
    for _ in range(4):
        learn(alone, wrong)
    assert alone.cold_share == 0.5
