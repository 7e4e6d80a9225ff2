"""Policies of the daily strategies that Stable-Baselines3 and sb3-contrib saved, against their own answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DDPG, PPO, SAC, TD3

from tests.support.rl.saved_sb3 import Still, log_probabilities, observations, stir
from training.export.import_sb3 import FlatPolicy, ImportedLstmPolicy, ImportSb3Error, check_golden, import_sb3


class Acting(Still):
    """The same with continuous actions within these bounds."""

    def __init__(self, low: float = -1.0) -> None:
        super().__init__((803,))
        self.action_space = spaces.Box(low, 1.0, (50,), np.float32)  # type: ignore[assignment]


def test_a_policy_of_continuous_actions_answers_as_its_own_prediction_and_proves_it(tmp_path: Path) -> None:
    model = PPO("MlpPolicy", Acting(), n_steps=4, batch_size=4, device="cpu", policy_kwargs={"net_arch": [8]})
    stir(model.policy)
    with torch.no_grad():
        model.policy.get_parameter("action_net.weight").mul_(10.0)
    model.save(tmp_path / "model.zip")
    probes = observations(30, (803,)).numpy()
    actions, _ = model.predict(probes, deterministic=True)
    assert 0 < (np.abs(actions) == 1.0).sum() < actions.size  # some are clipped
    np.savez(tmp_path / "golden.npz", observations=probes, actions=actions)
    imported = import_sb3(tmp_path / "model.zip", "daily_rebalancer", golden=tmp_path / "golden.npz").module
    assert isinstance(imported, FlatPolicy)
    with torch.no_grad():
        assert np.abs(imported(torch.from_numpy(probes)).numpy() - actions).max() < 1e-5
    np.savez(tmp_path / "golden.npz", observations=probes, actions=actions * 0.9)
    with pytest.raises(ImportSb3Error, match=r"actions differ by 0\.1"):
        check_golden(imported, tmp_path / "golden.npz")


@pytest.mark.parametrize("algorithm", [SAC, TD3, DDPG])
def test_an_actor_of_a_replay_buffer_answers_as_its_own_prediction(algorithm: type[SAC], tmp_path: Path) -> None:
    model = algorithm("MlpPolicy", Acting(), buffer_size=10, device="cpu", policy_kwargs={"net_arch": [8, 6]})
    stir(model.policy)
    model.save(tmp_path / "model.zip")
    probes = observations(30, (803,)).numpy()
    actions, _ = model.predict(probes, deterministic=True)
    assert actions.std() > 0.05
    imported = import_sb3(tmp_path / "model.zip", "daily_rebalancer")
    with torch.no_grad():
        answers = imported.module(torch.from_numpy(probes)).numpy()
    assert np.abs(answers - actions).max() < 1e-5
    assert imported.activation == "relu"
    with pytest.raises(ImportSb3Error, match=r"observations have the shape \[803\]"):
        import_sb3(tmp_path / "model.zip", "regime_switcher")


def test_actions_of_other_bounds_and_choices_are_refused(tmp_path: Path) -> None:
    for name, environment, message in (
        ("wide", Acting(low=-2.0), r"of shape \[50\] from -2\. to 1\., daily_rebalancer has a Box of 50 from -1\.0 to"),
        ("choice", Still((803,)), r"discrete.Discrete'> of shape .* has a Box of 50"),
    ):
        PPO("MlpPolicy", environment, n_steps=4, batch_size=4, device="cpu").save(tmp_path / f"{name}.zip")
        with pytest.raises(ImportSb3Error, match=message):
            import_sb3(tmp_path / f"{name}.zip", "daily_rebalancer")


def test_a_recurrent_policy_goes_on_from_day_to_day_and_its_golden_outputs_are_a_sequence(tmp_path: Path) -> None:
    model = RecurrentPPO(
        "MlpLstmPolicy", Still((64,), 16), n_steps=4, batch_size=4, device="cpu",
        policy_kwargs={"lstm_hidden_size": 64, "net_arch": [6]},
    )  # fmt: skip
    policy: Any = model.policy
    stir(policy)
    model.save(tmp_path / "lstm.zip")
    probes, states, expected = observations(6, (64,)), (torch.zeros(1, 1, 64), torch.zeros(1, 1, 64)), []
    with torch.no_grad():
        for day in range(6):
            distribution, states = policy.get_distribution(
                probes[day : day + 1], states, torch.tensor([float(day == 0)])
            )
            expected.append(log_probabilities(distribution))
    logits = torch.cat(expected).numpy()
    np.savez(tmp_path / "golden.npz", observations=probes.numpy(), logits=logits)
    imported = import_sb3(tmp_path / "lstm.zip", "regime_switcher", golden=tmp_path / "golden.npz").module
    assert isinstance(imported, ImportedLstmPolicy)
    with torch.no_grad():
        assert imported(probes[:1], torch.zeros(1, 128))[1].shape == (1, 128)
    np.savez(tmp_path / "golden.npz", observations=probes.numpy()[::-1].copy(), logits=logits)
    with pytest.raises(ImportSb3Error, match="log-probabilities differ by"):
        check_golden(imported, tmp_path / "golden.npz")
