"""PPO's arithmetic against hand-worked numbers, what it refuses, and that a run repeats itself and can be continued."""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.rl.noise import NOISY, Noise
from tests.support.rl.trained import train, weight_bytes
from training.desks.scalper.network import IDENTITY, ActorCritic
from training.rl.coefficients import Coefficients, NotFiniteError, Progress
from training.rl.ppo import Trainer, generalized_advantages, losses, make_deterministic, minibatch
from training.rl.protocols import Batch, CarryingNetwork, Step

SMALL = Coefficients(environments=16, rollout_steps=8, batch=64, epochs=4, learning_rate=3e-3)


class Signpost:
    """A one-step game: the last row's first feature names the action that pays 1; others pay 0."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._generator = torch.Generator().manual_seed(seed)
        self._draw()

    def _draw(self) -> None:
        self._answer = torch.randint(0, 2, (self._count,), generator=self._generator)

    def observe(self) -> Tensor:
        observation = torch.zeros(self._count, 20, 23)
        observation[:, -1, 0] = self._answer.float() * 2.0 - 1.0
        return observation

    def step(self, actions: Tensor) -> Step:
        rewards = (actions == self._answer).float()
        self._draw()
        return Step(rewards, torch.ones(self._count, dtype=torch.bool))

    def state_dict(self) -> dict[str, Any]:
        return {"answer": self._answer, "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._answer = state["answer"]
        self._generator.set_state(state["generator"])


class Reactive(nn.Module):
    """Five numbers to three logits and a value."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.heads = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))
        _draw_weights(self, seed)

    def prepare(self, observations: Tensor) -> Tensor:
        return observations * 2.0

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        answer = self.heads(prepared)
        return answer[:, :3], answer[:, 3]


class Remembering(nn.Module):
    """The same with a GRU of 8 in between."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.memory = nn.GRUCell(5, 8)
        self.heads = nn.Linear(8, 4)
        _draw_weights(self, seed)

    def prepare(self, observations: Tensor) -> Tensor:
        return observations * 2.0

    def start(self, count: int) -> Tensor:
        return torch.zeros(count, 8)

    def forward(self, prepared: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.memory(prepared, hidden)
        answer = self.heads(hidden)
        return answer[:, :3], answer[:, 3], hidden

    def sequence(self, prepared: Tensor, hidden: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        logits, values = [], []
        for observation, start in zip(prepared, starts, strict=True):
            of_actions, value, hidden = self(observation, torch.where(start.unsqueeze(1), 0.0, hidden))
            logits.append(of_actions)
            values.append(value)
        return torch.stack(logits), torch.stack(values)


KINDS = [Reactive, Remembering]


def test_advantages_of_a_hand_worked_example_with_a_terminal_in_the_middle() -> None:
    # discount 1/2, lambda 1/2:  step 2: 2 + 0.5 x 2 - 1.5 = 1.5;  step 1 ends: 0 - 1 = -1;
    # step 0: delta 1 + 0.5 x 1 - 0.5 = 1, and 1 + 0.25 x (-1) = 0.75
    advantages = generalized_advantages(
        rewards=torch.tensor([[1.0], [0.0], [2.0]]),
        values=torch.tensor([[0.5], [1.0], [1.5]]),
        ends=torch.tensor([[False], [True], [False]]),
        last_values=torch.tensor([2.0]),
        discount=0.5,
        gae_lambda=0.5,
    )
    assert advantages.squeeze(1).tolist() == [0.75, -1.0, 1.5]


def test_with_lambda_one_advantages_are_discounted_returns_less_the_value() -> None:
    advantages = generalized_advantages(
        rewards=torch.tensor([[1.0], [2.0]]),
        values=torch.tensor([[10.0], [20.0]]),
        ends=torch.tensor([[False], [False]]),
        last_values=torch.tensor([4.0]),
        discount=0.5,
        gae_lambda=1.0,
    )
    assert advantages.squeeze(1).tolist() == [1 + 0.5 * 2 + 0.25 * 4 - 10, 2 + 0.5 * 4 - 20]


def test_the_loss_of_a_hand_worked_batch() -> None:
    network = ActorCritic(IDENTITY, seed=0)
    for layer, bias in ((network.policy.actor[-1], [0.0] * 6), (network.critic[-1], [2.0])):
        assert isinstance(layer, torch.nn.Linear)
        torch.nn.init.zeros_(layer.weight)
        layer.bias.data = torch.tensor(bias)
    batch = Batch(  # all logits 0, so every probability is 1/6: the ratios are 1.5 and 0.5
        observations=torch.zeros(2, 460),
        actions=torch.tensor([1, 5]),
        log_probabilities=torch.tensor([math.log(1 / 6 / 1.5), math.log(1 / 6 / 0.5)]),
        advantages=torch.tensor([1.0, -1.0]),  # normalised: +-1 / sqrt(2)
        returns=torch.tensor([3.0, 0.0]),
        values=torch.tensor([2.0, 2.0]),
    )
    loss, figures = losses(network, batch, Coefficients(entropy=0.1, value=0.5))
    policy_loss = -(1.2 - 0.8) / math.sqrt(2) / 2  # both ratios are clipped, at 1.2 and 0.8
    value_loss = (1.0 + 4.0) / 2
    kl = ((0.5 - math.log(1.5)) + (-0.5 - math.log(0.5))) / 2
    total = policy_loss - 0.1 * math.log(6) + 0.5 * value_loss
    assert figures.tolist() == pytest.approx([policy_loss, value_loss, math.log(6), kl, 1.0, total], rel=1e-6)
    assert float(loss.detach()) == pytest.approx(total, rel=1e-6)


def test_the_defaults_are_those_of_stable_baselines3_and_the_strategy() -> None:
    c = Coefficients()
    assert (c.learning_rate, c.gae_lambda, c.clip, c.entropy, c.value, c.max_grad_norm, c.epochs) == (
        3e-4, 0.95, 0.2, 0.0, 0.5, 0.5, 10,
    )  # fmt: skip
    assert c.discount == 0.99


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("linear", [1.0, 0.75, 0.5, 0.25]),
        ("cosine", [1.0, 0.5 + 0.5 * math.sqrt(0.5), 0.5, 0.5 - 0.5 * math.sqrt(0.5)]),
        ("constant", [1.0] * 4),
    ],
)
def test_the_learning_rate_follows_its_schedule(schedule: str, rates: list[float]) -> None:
    trainer = _trainer(Reactive(1), replace(NOISY, schedule=schedule, learning_rate=1.0), total_steps=4 * 72)
    assert trainer.total_updates == 4
    assert [trainer.update().learning_rate for _ in range(4)] == pytest.approx(rates)
    assert trainer.done
    assert trainer.steps == 4 * 72


def test_a_time_limit_pays_the_discounted_value_of_the_last_observation_and_a_true_end_pays_nothing() -> None:
    class OneStep(Noise):
        def step(self, actions: Tensor) -> Step:
            terminals, truncated = torch.tensor([[True, False, True], [False, True, True]])
            return Step(torch.ones(3), terminals, truncated, last=torch.full((3, 5), 3.0))

    class Constant(Reactive):
        def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(prepared)[0], prepared[:, 0]  # the value is the prepared observation: twice the raw

    c = Coefficients(environments=3, rollout_steps=1, batch=3, epochs=1, discount=0.5)
    rollout, _ = _trainer(Constant(1), c, environment=OneStep(3, 1))._collect()
    assert rollout.returns.tolist() == pytest.approx([1.0, 1.0 + 0.5 * 2.0 * 3.0, 1.0])


@pytest.mark.parametrize("kind", KINDS)
def test_before_any_step_every_ratio_is_one(kind: type[Reactive | Remembering]) -> None:
    """Stored states, resets and the choice of rows are right: what acted is what is trained ([3], debugging advice)."""
    trainer = _trainer(kind(1), replace(NOISY, learning_rate=0.0, clip=1e-5))
    for _ in range(3):  # later rollouts begin from carried states
        progress = trainer.update()
        assert progress.clip_fraction == 0.0  # no ratio is further from 1 than the clip
        assert progress.gradient_norm > 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_sees_every_transition_once_and_segments_whole(kind: type[Reactive | Remembering]) -> None:
    trainer = _trainer(kind(1), NOISY)
    rollout, _ = trainer._collect()
    rollout.values.copy_(torch.arange(72.0))  # row = step x 6 + environment
    values: list[float] = []
    for order in trainer._orders():
        batch = minibatch(rollout, order, NOISY.environments, trainer._sequence)
        values += batch.values.tolist()
        if batch.hidden is not None:
            segments = batch.values.view(4, 6)
            assert bool((segments[1:] - segments[:-1] == 6).all())  # the same environment, a step later
            assert bool((segments[0] // 6 % 4 == 0).all())
    assert sorted(values) == list(range(72))
    assert values != list(range(72))


def test_an_update_ends_at_the_first_minibatch_whose_kl_is_one_and_a_half_times_the_target() -> None:
    wild = replace(NOISY, learning_rate=0.5, epochs=8)
    assert _trainer(Reactive(1), wild).update().epochs == 8
    progress = _trainer(Reactive(1), replace(wild, target_kl=0.01)).update()
    assert progress.epochs == 1  # the first step of such a rate is seen in the second minibatch
    assert progress.kl > 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_not_finite_is_named_and_leaves_the_weights_alone(kind: type[Reactive | Remembering]) -> None:
    class Broken(Noise):
        def step(self, actions: Tensor) -> Step:
            step = super().step(actions)
            step.rewards[0] = float("nan") if self.is_broken else 0.0
            return step

        is_broken = False

    network, environment = kind(1), Broken(6, 1)
    trainer = _trainer(network, NOISY, environment=environment)
    trainer.update()
    before = weight_bytes(network)
    environment.is_broken = True
    with pytest.raises(NotFiniteError, match="loss of minibatch 0 in update 1 is nan") as raised:
        trainer.update()
    assert (raised.value.update, raised.value.minibatch) == (1, 0)
    assert weight_bytes(network) == before


def test_a_gradient_that_is_not_finite_is_named_and_its_step_is_not_taken() -> None:
    def explode(tensors: Sequence[Tensor]) -> None:
        calls.append(len(tensors))
        if len(calls) == 2:
            before.append(weight_bytes(network))
            tensors[0].fill_(float("inf"))

    calls: list[int] = []
    before: list[bytes] = []
    network = Reactive(1)
    with pytest.raises(NotFiniteError, match="gradient norm of minibatch 1 in update 0"):
        _trainer(network, NOISY, average=explode).update()
    assert weight_bytes(network) == before[0]


def test_two_trainers_that_average_stay_equal_though_their_environments_differ() -> None:
    """As two processes would: each adds its own and takes the mean."""
    meeting, snapshots = threading.Barrier(2, timeout=300), {}

    def work(index: int, network: Reactive) -> None:
        def average(tensors: Sequence[Tensor]) -> None:
            snapshots[index] = [tensor.clone() for tensor in tensors]
            meeting.wait()
            for tensor, one, other in zip(tensors, snapshots[0], snapshots[1], strict=True):
                tensor.copy_((one + other) / 2)
            meeting.wait()

        trainer = _trainer(network, NOISY, environment=Noise(6, index), seed=index, average=average)
        progress[index] = trainer.update()

    networks, progress = [Reactive(1), Reactive(1)], dict[int, Progress]()
    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(networks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert weight_bytes(networks[0]) == weight_bytes(networks[1]) != weight_bytes(Reactive(1))
    assert progress[0].policy_loss == progress[1].policy_loss
    assert progress[0].reward != progress[1].reward


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"schedule": "steep"}, "schedule is 'steep': expected one of linear, cosine, constant"),
        ({"sequence": 5}, "rollout_steps is 12 and batch 24: .* multiples of sequence, 5"),
    ],
)
def test_coefficients_that_do_not_fit_are_refused(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        _trainer(Remembering(1), replace(NOISY, **wrong))


def test_a_state_of_other_environments_is_refused() -> None:
    state = _trainer(Reactive(1), NOISY).state_dict()
    with pytest.raises(ValueError, match="of 6 environments without a carried state, expected 3 without"):
        _trainer(Reactive(1), replace(NOISY, environments=3)).load_state_dict(state)
    with pytest.raises(ValueError, match="of 6 environments without a carried state, expected 6 with:"):
        _trainer(Remembering(1), NOISY).load_state_dict(state)


def test_another_number_of_environments_than_the_coefficients_say_is_refused() -> None:
    with pytest.raises(ValueError, match=r"4 environments are observed: expected coefficients\.environments, 6"):
        _trainer(Reactive(1), NOISY, environment=Noise(4, 1)).update()


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision is 'fp8': expected one of float32, bf16"):
        _trainer(Reactive(1), NOISY, precision="fp8")


def test_a_network_that_carries_a_state_is_told_by_its_methods() -> None:
    assert isinstance(Remembering(1), CarryingNetwork)
    assert not isinstance(Reactive(1), CarryingNetwork)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [1, 4])
def test_a_run_continued_from_a_file_ends_with_the_bytes_of_an_undisturbed_one(
    kind: type[Reactive | Remembering], precision: str, stop: int
) -> None:
    undisturbed, disturbed = kind(1), kind(1)
    whole = _trainer(undisturbed, NOISY, precision=precision)
    for _ in range(6):
        whole.update()
    first = _trainer(disturbed, NOISY, precision=precision)
    for _ in range(stop):
        first.update()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    first.update()  # what the file holds does not follow
    file.seek(0)
    other = kind(2)
    second = _trainer(other, NOISY, environment=Noise(6, 9), seed=9, precision=precision)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.updates == stop
    last = [second.update() for _ in range(6 - stop)][-1]
    assert weight_bytes(other) == weight_bytes(undisturbed) != weight_bytes(kind(1))
    assert second.done == whole.done
    assert last.steps == whole.steps


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_trainers_with_one_seed_end_with_the_same_bytes(kind: type[Reactive | Remembering], precision: str) -> None:
    def weights_of(seed: int) -> bytes:
        network = kind(1)
        trainer = _trainer(network, NOISY, seed=seed, precision=precision)
        for _ in range(3):
            trainer.update()
        return weight_bytes(network)

    assert weights_of(3) == weights_of(3) != weights_of(4)


def test_bf16_rounds_what_the_network_computes_and_nothing_else() -> None:
    fine, coarse = (_trainer(Reactive(1), NOISY, precision=precision) for precision in ("float32", "bf16"))
    for trainer in (fine, coarse):
        trainer.update()
        assert all(parameter.dtype == torch.float32 for parameter in trainer.network.parameters())
        moments = trainer.state_dict()["optimizer"]["state"][0]
        assert moments["exp_avg"].dtype == torch.float32
    of_fine, of_coarse = (trainer._collect()[0] for trainer in (fine, coarse))
    assert of_coarse.observations.dtype == torch.bfloat16
    assert of_coarse.values.dtype == of_coarse.log_probabilities.dtype == torch.float32
    assert not torch.equal(of_fine.values, of_coarse.values)


def test_two_runs_with_one_seed_end_with_the_same_bytes() -> None:
    assert _weights_of(seed=3) == _weights_of(seed=3) != _weights_of(seed=4)


def test_it_learns_to_read_a_signpost() -> None:
    make_deterministic()
    network = ActorCritic(IDENTITY, seed=1)
    updates: list[Progress] = []
    train(network, Signpost(16, seed=1), SMALL, total_steps=4_000, seed=1, on_update=updates.append)
    assert updates[0].reward < 0.35  # six actions, one right: 1/6 by chance
    assert updates[-1].reward > 0.9
    assert updates[-1].steps >= 4_000


def _weights_of(seed: int) -> bytes:
    make_deterministic()
    network = ActorCritic(IDENTITY, seed)
    train(network, Signpost(16, seed), SMALL, total_steps=512, seed=seed)
    return weight_bytes(network)


def _trainer(
    network: Reactive | Remembering,
    c: Coefficients,
    *,
    environment: Noise | None = None,
    seed: int = 1,
    total_steps: int = 6 * 72,
    **more: Any,
) -> Trainer:
    make_deterministic()
    return Trainer(network, environment or Noise(c.environments, 1), c, total_steps=total_steps, seed=seed, **more)


def _draw_weights(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)


def test_the_running_mean_of_the_weights_is_played_and_goes_on_from_its_state() -> None:
    one_step = replace(SMALL, epochs=1, batch=128, weight_average=0.75)

    def new_trainer() -> Trainer:
        return Trainer(ActorCritic(IDENTITY, 1), Signpost(16, 2), one_step, total_steps=3 * 128, seed=3)

    trainer, weights, plain = new_trainer(), [], []
    assert trainer.answering is not trainer.network
    for _ in range(3):
        trainer.update()
        plain.append(_flat(trainer.network))
        weights.append(_flat(trainer.answering))
        if len(plain) == 2:
            state = trainer.state_dict()
    torch.testing.assert_close(weights[0], plain[0])  # it begins with the weights after the first step
    torch.testing.assert_close(weights[1], 0.75 * weights[0] + 0.25 * plain[1])
    torch.testing.assert_close(weights[2], 0.75 * weights[1] + 0.25 * plain[2])
    again = new_trainer()
    again.load_state_dict(state)
    again.update()
    assert torch.equal(_flat(again.answering), weights[2])
    usual = Trainer(ActorCritic(IDENTITY, 1), Signpost(16, 2), SMALL, total_steps=1, seed=3)
    assert usual.answering is usual.network


def _flat(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])
