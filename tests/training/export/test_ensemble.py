"""Seeds as one graph: its answers are the mean of its members', each with a memory of its own; the daemon opens it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from torch import nn

from daemon.core.effects import AskPolicy
from daemon.core.events import PolicyAnswered
from daemon.models.graph_check import check_graph
from daemon.models.pointer import ModelError
from daemon.models.runtime import OnnxPolicy
from daemon.models.store import load
from strategies.kit.contract import AnyStrategy, Float32Array, Observation
from strategies.kit.manifest import MANIFEST_FILE, Training, decode, encode
from strategies.registry import strategy
from training.desks.daily.networks.rebalancer import RebalancerActorCritic
from training.desks.daily.networks.regime import RegimeActorCritic
from training.desks.scalper.network import IDENTITY, ActorCritic
from training.export.ensemble import SeedEnsemble, together
from training.export.export import Exported, Release, export, run_onnx
from training.rl.layers import Scaling as DailyScaling

TRAINED = Training("bars.csv", "0" * 64, "sip", synthetic=True, sessions=1, first_session="2024-01-02",
                   last_session="2024-01-02", splits={})  # fmt: skip
SEEDS = (1, 2, 3)
FLAT = DailyScaling((0.0,) * 803, (1.0,) * 803, (1e9,) * 803)


def lively(network: nn.Module, seed: int) -> nn.Module:
    """Its policy with answers that differ from observation to observation, as after training."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    policy = network.policy
    assert isinstance(policy, nn.Module)
    return policy.eval()


def exported(members: list[nn.Module], maker: AnyStrategy, store: Path, probes: Float32Array) -> Path:
    policy = together(members, maker.spec.recurrent_shape)
    return export(policy, maker, Release(TRAINED, {}, {}), out=store, probes=probes)


def test_the_graph_of_a_memory_carries_one_for_each_seed_and_the_daemon_answers_with_the_mean(tmp_path: Path) -> None:
    maker = strategy("regime_switcher")
    members = [lively(RegimeActorCritic(seed), seed) for seed in SEEDS]
    days = np.random.default_rng(1).normal(size=(12, 64)).astype(np.float32)
    folder = exported(members, maker, tmp_path, days)
    manifest = decode((folder / MANIFEST_FILE).read_bytes())
    assert manifest.members == 3
    data = (folder / "policy.onnx").read_bytes()
    check_graph(data)
    shapes = {
        item.name: [d.dim_value for d in item.type.tensor_type.shape.dim][1:]
        for item in onnx.load_from_string(data).graph.input
    }
    assert shapes == {"observation": [64], "hidden": [3, 128]}

    policy, hidden = OnnxPolicy.open(load(tmp_path, maker, folder.name), maker, "cpu"), b""
    states = [torch.zeros(1, 128) for _ in members]
    for day, row in enumerate(days):
        answer = policy.answer(AskPolicy(day, 0, Observation(row.tobytes(), (64,), hidden)), 0)
        with torch.no_grad():
            answers = [
                member(torch.from_numpy(row)[None], state) for member, state in zip(members, states, strict=True)
            ]
        states = [state for _, state in answers]
        assert isinstance(answer, PolicyAnswered)
        assert answer.logits == pytest.approx(torch.cat([logits for logits, _ in answers]).mean(0).tolist(), abs=1e-5)
        hidden = answer.hidden
        assert np.abs(np.frombuffer(hidden, "<f4").reshape(3, 128) - torch.cat(states).numpy()).max() < 1e-5
    again = Exported(folder / "policy.onnx")  # a memory of one member stands for that of each, as zeros do
    assert again(torch.from_numpy(days[:1]), torch.zeros(1, 128))[1].shape == (1, 3, 128)

    for count, check in ((1, "graph inputs"), (2, "graph inputs"), (0, "members"), (1000, "members")):
        (folder / MANIFEST_FILE).write_bytes(encode(msgspec.structs.replace(manifest, members=count)))
        with pytest.raises(ModelError, match=check):
            OnnxPolicy.open(load(tmp_path, maker, folder.name), maker, "cpu")


def test_a_policy_without_a_memory_answers_with_the_mean_of_its_actions(tmp_path: Path) -> None:
    maker = strategy("daily_rebalancer")
    members = [lively(RebalancerActorCritic(FLAT, seed), seed) for seed in SEEDS]
    observations = np.random.default_rng(2).normal(size=(20, 803)).astype(np.float32)
    folder = exported(members, maker, tmp_path, observations)
    with torch.no_grad():
        outputs = [member(torch.from_numpy(observations)).numpy() for member in members]
    assert np.abs(run_onnx(folder / "policy.onnx", observations) - np.mean(outputs, axis=0)).max() < 1e-5
    assert np.ptp(outputs, axis=0).max() > 1e-2
    weights = sum(4 * parameter.numel() for member in members for parameter in member.parameters())
    assert weights < (folder / "policy.onnx").stat().st_size < 1.2 * weights
    OnnxPolicy.open(load(tmp_path, maker, folder.name), maker, "cpu")


def test_an_ensemble_has_a_member_and_one_alone_stays_what_it_is() -> None:
    with pytest.raises(ValueError, match="has no member"):
        SeedEnsemble([])
    one = ActorCritic(IDENTITY, 1).policy
    assert together([one], None) is one
