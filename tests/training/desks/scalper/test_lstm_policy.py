"""The recurrent networks: their size, scaling, start, their ONNX graph, and what they carry from step to step."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from strategies.option_scalper import SPEC
from tests.support.rl.carrying_gru import CarryingGru
from tests.support.rl.trained import weight_bytes
from training.desks.scalper.network import CLIP, FEATURES, IDENTITY, LstmActorCritic, LstmPolicy, build, parameter_count
from training.export.export import TOLERANCE, onnx_bytes
from training.rl.layers import Scaling
from training.rl.protocols import CarryingNetwork, Network

SCALING = Scaling(mean=(0.5,) * FEATURES, scale=(2.0,) * FEATURES, clip=(CLIP,) * FEATURES)


def _observations(batch: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, 20, FEATURES, generator=torch.Generator().manual_seed(seed)) * 3.0


def _lively(scaling: Scaling) -> LstmActorCritic:
    """As it is after some training: logits of order 1, not of order 0.01."""
    network = LstmActorCritic(scaling, seed=1)
    weights = network.state_dict()
    weights["policy.actor.2.weight"].mul_(1000.0)
    return network


def test_actor_and_critic_have_60455_parameters_together() -> None:
    layers = 4 * 64 * (23 + 64 + 2) + 4 * 64 * (64 + 64 + 2)  # torch's LSTM has two biases a gate
    heads = (64 * 32 + 32 + 32 * 6 + 6) + (64 * 32 + 32 + 32 * 1 + 1)
    assert parameter_count(LstmActorCritic(IDENTITY, seed=0)) == layers + heads == 60_455


def test_the_exported_policy_holds_no_critic_and_is_what_build_calls_lstm() -> None:
    network = build("lstm", IDENTITY, seed=0)
    assert isinstance(network.policy, LstmPolicy)
    assert parameter_count(network.policy) == 60_455 - (64 * 32 + 32 + 32 * 1 + 1)


def test_the_logits_are_those_of_torch_modules_put_together() -> None:
    network = _lively(SCALING)
    raw = _observations(5)
    scaled = ((raw - 0.5) / 2.0).clamp(-CLIP, CLIP)
    lstm = nn.LSTM(FEATURES, 64, 2, batch_first=True)
    lstm.load_state_dict(network.policy.lstm.layers.state_dict())
    vector = lstm(scaled)[0][:, -1]
    prepared = network.prepare(raw)
    logits, values = network(prepared)
    torch.testing.assert_close(prepared, scaled, rtol=0.0, atol=1e-6)
    torch.testing.assert_close(logits, network.policy.actor(vector), rtol=0.0, atol=1e-5)
    torch.testing.assert_close(values, network.critic(vector).squeeze(-1), rtol=0.0, atol=1e-5)
    torch.testing.assert_close(network.policy(raw), logits, rtol=0.0, atol=1e-6)


def test_the_onnx_graph_is_one_standard_lstm_with_a_dynamic_batch_and_no_state_in_or_out() -> None:
    policy = _lively(SCALING).policy.eval()
    data = onnx_bytes(policy, _observations(3).numpy(), SPEC)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert [(item.name, item.shape[1:]) for item in session.get_inputs()] == [("observation", [20, FEATURES])]
    assert [(item.name, item.shape[1:]) for item in session.get_outputs()] == [("logits", [6])]
    nodes = onnx.load_from_string(data).graph.node
    assert [node.op_type for node in nodes].count("LSTM") == 2  # ONNX has one node a layer
    assert {node.domain for node in nodes} <= {"", "ai.onnx"}
    for batch in (1, 2, 70):
        raw = _observations(batch, seed=batch)
        for expected in (policy(raw).detach(), torch.no_grad()(policy)(raw)):  # ours, and torch's own kernel
            logits = session.run(["logits"], {"observation": raw.numpy()})[0]
            assert float(expected.abs().max()) > 0.1
            assert float(np.abs(logits - expected.numpy()).max()) <= TOLERANCE


@pytest.mark.parametrize("seed", [0, 1])
def test_weights_start_orthogonal_with_their_gains_and_biases_at_zero(seed: int) -> None:
    network = LstmActorCritic(IDENTITY, seed)
    weights = dict(network.named_parameters())
    gains = {f"policy.lstm.layers.weight_{kind}_l{layer}": 1.0 for kind in ("ih", "hh") for layer in (0, 1)}
    gains |= {"policy.actor.0.weight": math.sqrt(2), "policy.actor.2.weight": 0.01}
    gains |= {"critic.0.weight": math.sqrt(2), "critic.2.weight": 1.0}
    assert {name for name in weights if "weight" in name} == set(gains)
    for name, gain in gains.items():
        weight = weights[name].detach()
        wide = weight if weight.shape[0] <= weight.shape[1] else weight.T
        torch.testing.assert_close(wide @ wide.T, gain**2 * torch.eye(len(wide)), rtol=0.0, atol=1e-5)
    for name, parameter in network.named_parameters():
        assert "bias" not in name or not parameter.any()


def test_the_same_seed_starts_with_the_same_bytes_and_another_seed_with_others() -> None:
    for make in (lambda seed: LstmActorCritic(IDENTITY, seed), lambda seed: CarryingGru(3, 8, 2, seed)):
        first, again, other = (weight_bytes(make(seed)) for seed in (5, 5, 6))
        assert first == again != other


def test_a_trainer_can_tell_which_network_carries_a_state() -> None:
    window: object = LstmActorCritic(IDENTITY, 0)
    carrying: object = CarryingGru(3, 8, 2, seed=0)
    assert not isinstance(window, CarryingNetwork)
    assert isinstance(window, Network)
    assert isinstance(carrying, CarryingNetwork)


def test_a_carried_state_starts_at_zero_and_makes_the_same_observation_another() -> None:
    network = CarryingGru(inputs=3, hidden=8, outputs=2, seed=0)
    hidden = network.start(4)
    assert hidden.shape == (4, 8)
    assert hidden.dtype == torch.float32
    assert not hidden.any()
    observation = network.prepare(torch.ones(4, 3))
    first, values, after = network(observation, hidden)
    second, _, _ = network(observation, after)
    assert first.shape == (4, 2)
    assert values.shape == (4,)
    assert after.shape == hidden.shape
    assert not torch.equal(first, second)


def test_a_sequence_is_its_steps_one_after_the_other() -> None:
    network = CarryingGru(inputs=3, hidden=8, outputs=2, seed=0)
    generator = torch.Generator().manual_seed(1)
    prepared, hidden = torch.randn(6, 4, 3, generator=generator), torch.randn(4, 8, generator=generator)
    every, values = network.sequence(prepared, hidden, torch.zeros(6, 4, dtype=torch.bool))
    assert every.shape == (6, 4, 2)
    assert values.shape == (6, 4)
    for now, logits, value in zip(prepared, every, values, strict=True):
        one, estimate, hidden = network(now, hidden)
        torch.testing.assert_close(one, logits, rtol=0.0, atol=1e-6)
        torch.testing.assert_close(estimate, value, rtol=0.0, atol=1e-6)
