"""The loop of SAC and TD3: the ratio of updates to data, ends of episodes, resuming, stops, what is not finite."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.rl.planted_sizing import INPUTS, MDP, PlantedSizing
from tests.support.rl.trained import train_agent
from training.rl.coefficients import NotFiniteError
from training.rl.off_policy.coefficients import OffPolicyCoefficients, shared
from training.rl.off_policy.presets import RECIPES, build
from training.rl.off_policy.trainer import OffPolicyTrainer
from training.rl.ppo import make_deterministic
from training.rl.process_group import Collectives
from training.rl.protocols import Environment, Step

SMALL = OffPolicyCoefficients(
    environments=8,
    batch=32,
    gradient_steps=3,
    per_transitions=16,
    round_transitions=40,
    learning_starts=24,
    capacity=200,
    actor_delay=2,
    actor_widths=(16,),
    critic_widths=(16,),
    normalised=True,
)


def trainer(
    name: str = "sac", c: OffPolicyCoefficients = SMALL, place: Environment | None = None, seed: int = 1, **more: Any
) -> OffPolicyTrainer:
    make_deterministic()
    agent = build(name, INPUTS, c, seed=seed, **more)
    return OffPolicyTrainer(agent, place or PlantedSizing(MDP, c.environments, seed), c, total_steps=400, seed=seed)


def bits(learner: OffPolicyTrainer) -> list[bytes]:
    """Every weight and every moment, and what the generator draws next."""

    def tensors(value: Any) -> list[Tensor]:
        if isinstance(value, dict):
            return [tensor for _, item in sorted(value.items(), key=str) for tensor in tensors(item)]
        if isinstance(value, list | tuple):
            return [tensor for item in value for tensor in tensors(item)]
        return [value] if isinstance(value, Tensor) else [torch.tensor(float(value or 0))]

    return [tensor.numpy().tobytes() for tensor in tensors(learner.state_dict())]


def test_an_update_of_small_layers_uses_the_library_that_is_fast_for_them() -> None:
    mkldnn: Any = torch.backends.mkldnn
    switch = mkldnn.matmul
    used: list[str] = []

    class Noting(PlantedSizing):
        def step(self, actions: Tensor) -> Step:
            used.append(switch.fp32_precision)
            return super().step(actions)

    before, switch.fp32_precision = switch.fp32_precision, "bf16"
    try:
        trainer(place=Noting(MDP, SMALL.environments, 1)).update()
        assert {*used} == {"ieee"}
        assert switch.fp32_precision == "bf16"
    finally:
        switch.fp32_precision = before


@pytest.mark.parametrize("name", ["sac", "td3"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_same_seed_gives_the_same_weights_byte_for_byte(name: str, precision: str) -> None:
    first, second, other = (trainer(name, seed=seed, precision=precision) for seed in (1, 1, 2))
    for run in (first, second, other):
        train_agent(run)
    assert bits(first) == bits(second)
    assert bits(first) != bits(other)


@pytest.mark.parametrize("name", ["sac", "td3"])
@pytest.mark.parametrize("stop_after", [0, 1, 6])  # before learning, after a little, when old rows are replaced
def test_a_run_continued_from_its_state_ends_in_the_same_bytes(name: str, stop_after: int, tmp_path: Path) -> None:
    whole, before, after = trainer(name), trainer(name), trainer(name, seed=9)
    train_agent(whole)
    for _ in range(stop_after):
        before.update()
    torch.save(before.state_dict(), tmp_path / "state.pt")
    train_agent(before)  # which changes nothing of what was saved
    after.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert after.updates == stop_after
    train_agent(after)
    assert bits(after) == bits(whole) == bits(before)


def test_updates_are_due_by_the_stated_ratio() -> None:
    learner = trainer()
    progress = [learner.update() for _ in range(10)]
    assert learner.done
    assert [report.steps for report in progress] == list(range(40, 401, 40))
    due = [(steps - 24) * 3 // 16 for steps in range(40, 401, 40)]  # 3 for every 16 after the first 24
    assert [report.gradient_steps for report in progress] == due
    assert progress[-1].update_to_data == due[-1] / 400
    assert SMALL.update_to_data == 3 / 16


def test_the_first_actions_are_uniform() -> None:
    class Watching(PlantedSizing):
        def step(self, actions: Tensor) -> Step:
            batches.append(actions.clone())
            return super().step(actions)

    batches: list[Tensor] = []
    learner = trainer("td3", replace(SMALL, exploration=0.0), Watching(MDP, 8, 1))
    learner.update()
    assert len({tuple(actions.flatten().tolist()) for actions in batches}) == 5
    assert float(torch.cat(batches[:3]).abs().max()) > 0.8
    actor = trainer("td3", replace(SMALL, exploration=0.0)).agent.actor
    place = PlantedSizing(MDP, 8, 1)
    for actions in batches[:3]:  # 24 transitions, then the actor, which has not moved yet, without noise
        assert not torch.equal(actions, actor(place.observe()).detach())
        place.step(actions)
    assert torch.equal(batches[3], actor(place.observe()).detach())


class Scripted:
    """Two environments: the first ends truly at every third step, the second by a time limit at every second."""

    def __init__(self, reward: float = 1.0, observed: float = 0.0) -> None:
        self.clock = 0
        self.reward = reward
        self.observed = observed

    def observe(self) -> Tensor:
        return torch.full((2, INPUTS), float(self.clock) + self.observed)

    def step(self, actions: Tensor) -> Step:
        self.clock += 1
        terminals = torch.tensor([self.clock % 3 == 0, False])
        truncated = torch.tensor([False, self.clock % 2 == 0])
        return Step(torch.full((2,), self.reward), terminals, truncated, torch.full((2, INPUTS), -float(self.clock)))

    def state_dict(self) -> dict[str, Any]:
        return {"clock": self.clock}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.clock = state["clock"]


TWO = replace(SMALL, environments=2, round_transitions=12, learning_starts=100, reward_scale=10.0)


def test_after_a_time_limit_the_value_goes_on_and_after_a_true_end_it_does_not() -> None:
    learner = trainer("sac", TWO, Scripted())
    learner.update()
    rows = learner.state_dict()["replay"]["rows"].view(6, 2, -1)  # steps, environments
    following, rewards, goes_on = rows[:, :, INPUTS], rows[:, :, -2], rows[:, :, -1]
    assert following[:, 0].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert following[:, 1].tolist() == [1.0, -2.0, 3.0, -4.0, 5.0, -6.0]  # what was there before the reset
    assert goes_on[:, 0].tolist() == [1.0, 1.0, 0.0, 1.0, 1.0, 0.0]
    assert goes_on[:, 1].tolist() == [1.0] * 6
    assert rewards.unique().tolist() == [10.0]  # scaled


@pytest.mark.parametrize("name", ["sac", "td3"])
def test_a_reward_that_is_not_finite_ends_the_run_and_leaves_the_weights(name: str) -> None:
    place = Scripted()
    learner = trainer(name, replace(TWO, learning_starts=6), place)
    learner.update()
    assert learner.gradient_steps > 0
    place.reward = float("nan")
    before = {key: value.clone() for key, value in learner.agent.actor.state_dict().items()}
    with pytest.raises(NotFiniteError, match=r"mean reward or an observation .* in update 1 is nan"):
        learner.update()
    # the gradient steps before a bad row was drawn were taken; none of the weights is broken
    assert all(bool(torch.isfinite(value).all()) for value in learner.agent.actor.state_dict().values())
    assert all(bool(torch.isfinite(value).all()) for value in learner.agent.critics.state_dict().values())
    assert before.keys() == learner.agent.actor.state_dict().keys()


def test_an_observation_that_is_not_finite_ends_the_run() -> None:
    with pytest.raises(NotFiniteError, match="look at rewards and observations"):
        trainer("sac", TWO, Scripted(observed=float("inf"))).update()


@pytest.mark.parametrize("name", ["sac", "td3"])
def test_a_loss_that_is_not_finite_ends_the_run_and_no_weight_changes(name: str) -> None:
    learner = trainer(name, replace(TWO, learning_starts=2), Scripted(reward=1e30))  # its square is infinite
    weights = [parameter.clone() for parameter in learner.agent.critics.parameters()]
    with pytest.raises(NotFiniteError, match="critic loss of minibatch 0 in update 0 is inf"):
        learner.update()
    after = list(learner.agent.critics.parameters())
    assert all(torch.equal(weight, other) for weight, other in zip(weights, after, strict=True))


def test_a_pause_that_raises_leaves_a_state_to_go_on_from() -> None:
    class StopNow(Exception):
        pass

    def pause() -> None:
        if len(updates) == 3:
            raise StopNow

    updates: list[int] = []
    whole, learner, after = trainer(), trainer(), trainer()
    train_agent(whole)
    with pytest.raises(StopNow):
        train_agent(learner, on_update=lambda progress: updates.append(progress.updates), pause=pause)
    assert updates == [1, 2, 3]
    after.load_state_dict(learner.state_dict())
    train_agent(after)
    assert bits(after) == bits(whole)


def test_what_an_update_reports() -> None:
    for name, more in (("sac", {"entropy", "temperature loss", "temperature"}), ("td3", set())):
        learner = trainer(name)
        assert learner.update().figures.keys() == {
            "critic loss",
            "Q mean",
            "critic gradient norm",
            "explained variance",
            "actor loss",
            "actor gradient norm",
            *more,
        }


def test_gradients_are_clipped_to_the_norm_that_is_asked_for() -> None:
    c = replace(SMALL, max_grad_norm=1e-3)
    learner = trainer("td3", c)
    learner.update()
    norm = torch.nn.utils.get_total_norm(
        [parameter.grad for parameter in learner.agent.critics.parameters() if parameter.grad is not None]
    )
    assert float(norm) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"schedule": "steep"}, "schedule is 'steep'"),
        ({"batch": 0}, "batch is 0: expected at least 1"),
        ({"critic_widths": ()}, r"critic_widths is \(\): expected the width of one hidden layer at least"),
        ({"capacity": 4}, "capacity is 4"),
        ({"temperature": 0.0}, "temperature is 0.0"),
    ],
)
def test_coefficients_that_do_not_fit_are_refused(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build("sac", INPUTS, replace(SMALL, **wrong), seed=1)


def test_processes_that_share_environments_and_batches_keep_equal_weights(tmp_path: Path) -> None:
    c = shared(replace(SMALL, learning_starts=48, per_transitions=32), 2)
    assert (c.environments, c.batch, c.per_transitions, c.round_transitions, c.learning_starts) == (4, 16, 16, 20, 24)

    def work(rank: int) -> OffPolicyTrainer:
        group = Collectives(tmp_path, rank, 2)
        agent = build("sac", INPUTS, c, seed=1, average=group.average)
        member = OffPolicyTrainer(agent, PlantedSizing(MDP, 4, rank), c, total_steps=200, seed=rank)
        train_agent(member)
        return member

    make_deterministic()
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(work, range(2))
    assert first.gradient_steps == second.gradient_steps > 0
    for module, other in ((first.agent.actor, second.agent.actor), (first.agent.critics, second.agent.critics)):
        assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))
    assert first.state_dict()["replay"]["rows"].tolist() != second.state_dict()["replay"]["rows"].tolist()


def test_what_processes_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match="batch 33 cannot be shared by 2 processes"):
        shared(replace(SMALL, batch=33), 2)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="the agent is called 'ddpg': expected sac, td3"):
        build("ddpg", INPUTS, SMALL, seed=1)
    with pytest.raises(ValueError, match="the agent is called 'ppo'"):
        RECIPES["textbook"].of("ppo")
    with pytest.raises(ValueError, match="precision is 'int8'"):
        build("sac", INPUTS, SMALL, seed=1, precision="int8")


def test_another_number_of_environments_is_refused() -> None:
    with pytest.raises(ValueError, match="4 environments are observed"):
        trainer(place=PlantedSizing(MDP, 4, 1)).update()


def test_a_time_limit_without_the_last_observation_is_refused() -> None:
    class Forgetful(Scripted):
        def step(self, actions: Tensor) -> Step:
            return super().step(actions)._replace(last=None)

    with pytest.raises(ValueError, match="`truncated` without `last`"):
        trainer("sac", TWO, Forgetful()).update()


def test_an_environment_without_time_limits_needs_none() -> None:
    class Endless(Scripted):
        def step(self, actions: Tensor) -> Step:
            return super().step(actions)._replace(truncated=None, last=None)

    learner = trainer("sac", TWO, Endless())
    learner.update()
    assert learner.state_dict()["replay"]["rows"][1::2, INPUTS].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
