"""Policies saved by the real Stable-Baselines3 and sb3-contrib, read back, against their own logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import QRDQN, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from torch import nn

from strategies.kit.contract import Strategy
from strategies.kit.manifest import Training
from strategies.option_scalper import OptionScalper
from tests.support.rl.saved_sb3 import (
    Carrying,
    Still,
    log_probabilities,
    observations,
    rewritten,
    saved,
    stir,
    stored,
    with_data,
)
from training.export.export import Release, export, run_onnx
from training.export.import_sb3 import (
    FlatPolicy,
    ImportedLstmPolicy,
    ImportSb3Error,
    check_golden,
    import_sb3,
    read_sb3,
)


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> tuple[PPO, bytes]:
    model, path = saved(tmp_path_factory.mktemp("default") / "model.zip", net_arch=[8])
    return model, path.read_bytes()


@pytest.fixture
def model_zip(default: tuple[PPO, bytes], tmp_path: Path) -> Path:
    path = tmp_path / "model.zip"
    path.write_bytes(default[1])
    return path


@pytest.mark.parametrize(
    ("kwargs", "activation"),
    [
        ({}, "tanh"),  # what Stable-Baselines3 takes by default
        ({"net_arch": [8, 4, 4]}, "tanh"),
        ({"net_arch": {"pi": [8], "vf": [4, 4]}, "activation_fn": nn.ReLU}, "relu"),
        ({"net_arch": [], "activation_fn": nn.ELU}, "elu"),
    ],
)
def test_logits_are_those_of_the_policy_that_was_saved(kwargs: dict[str, Any], activation: str, tmp_path: Path) -> None:
    model, path = saved(tmp_path / "model.zip", **kwargs)
    imported = import_sb3(path, "option_scalper")
    probes = observations()
    with torch.no_grad():
        expected = log_probabilities(model.policy.get_distribution(probes))
        logits = imported.module(probes)
    assert isinstance(imported.module, FlatPolicy)
    assert imported.activation == activation
    assert torch.allclose(torch.log_softmax(logits, dim=1), expected, atol=1e-6, rtol=0)
    assert float(expected.std()) > 0.1


def test_hyperparameters_are_the_plain_numbers_and_the_version_is_said(model_zip: Path) -> None:
    imported = read_sb3(model_zip, OptionScalper())
    assert imported.hyperparameters["n_steps"] == 4
    assert imported.hyperparameters["gamma"] == 0.99
    assert imported.hyperparameters["target_kl"] is None
    assert "clip_range" not in imported.hyperparameters  # a pickled schedule
    assert imported.version.startswith("2.")


def test_a_policy_of_a2c_has_the_same_layers_and_is_read_alike(tmp_path: Path) -> None:
    model = A2C("MlpPolicy", Still(), device="cpu", policy_kwargs={"net_arch": [8]})
    model.save(tmp_path / "a2c.zip")
    probes = observations()
    with torch.no_grad():
        logits = torch.log_softmax(read_sb3(tmp_path / "a2c.zip", OptionScalper()).module(probes), dim=1)
        assert torch.allclose(logits, log_probabilities(model.policy.get_distribution(probes)), atol=1e-6, rtol=0)


def test_shared_layers_of_versions_before_1_8_come_before_the_policy_s_own(model_zip: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    shared, hidden, action = (torch.randn(shape, generator=generator) / 20 for shape in ((7, 460), (5, 7), (6, 5)))
    weights = {
        "mlp_extractor.shared_net.0.weight": shared, "mlp_extractor.shared_net.0.bias": torch.ones(7),
        "mlp_extractor.policy_net.0.weight": hidden, "mlp_extractor.policy_net.0.bias": torch.ones(5),
        "action_net.weight": action, "action_net.bias": torch.ones(6),
    }  # fmt: skip
    probes = observations()
    expected = torch.tanh(torch.tanh(probes.flatten(1) @ shared.T + 1) @ hidden.T + 1) @ action.T + 1
    path = rewritten(model_zip, lambda members: members.update({"policy.pth": stored(weights)}))
    assert torch.allclose(read_sb3(path, OptionScalper()).module(probes), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_recurrent_policy_gives_its_logits_and_carries_its_state_step_by_step(layers: int, tmp_path: Path) -> None:
    units = 16 // layers  # the state has 2 x 2 x 8 values either way
    model = RecurrentPPO(
        "MlpLstmPolicy", Still(), n_steps=4, batch_size=4, device="cpu",
        policy_kwargs={"lstm_hidden_size": units, "n_lstm_layers": layers, "net_arch": [6]},
    )  # fmt: skip
    policy: Any = model.policy
    stir(policy)
    model.save(tmp_path / "lstm.zip")
    module = read_sb3(tmp_path / "lstm.zip", Carrying()).module
    assert isinstance(module, ImportedLstmPolicy)
    hidden = torch.zeros(3, 2, 2, 8)
    states = (torch.zeros(layers, 3, units), torch.zeros(layers, 3, units))
    with torch.no_grad():
        for step in range(4):
            probes = observations(12)[3 * step : 3 * step + 3]
            begins = torch.full((3,), float(step == 0))
            distribution, states = policy.get_distribution(probes, states, begins)
            logits, hidden = module(probes, hidden)
            expected = log_probabilities(distribution)
            assert torch.allclose(torch.log_softmax(logits, dim=1), expected, atol=1e-6, rtol=0)
            assert torch.allclose(hidden.reshape(3, -1)[:, : layers * units], states[0].transpose(0, 1).flatten(1))


def test_recurrence_must_be_the_strategy_s(tmp_path: Path, model_zip: Path) -> None:
    model = RecurrentPPO(
        "MlpLstmPolicy", Still(), n_steps=4, batch_size=4, device="cpu", policy_kwargs={"lstm_hidden_size": 8}
    )
    model.save(tmp_path / "lstm.zip")
    with pytest.raises(ImportSb3Error, match=r"lstm.zip: the policy is recurrent .*option_scalper carries no hidden"):
        read_sb3(tmp_path / "lstm.zip", OptionScalper())
    with pytest.raises(ImportSb3Error, match=r"1 layers x 8 units, option_scalper carries \(2, 2, 8\)"):
        read_sb3(tmp_path / "lstm.zip", Carrying())
    with pytest.raises(ImportSb3Error, match=r"feed-forward, but option_scalper carries a hidden state"):
        read_sb3(model_zip, Carrying())


def test_golden_outputs_of_the_original_prove_the_import_and_a_wrong_activation_does_not_pass(
    default: tuple[PPO, bytes], model_zip: Path, tmp_path: Path
) -> None:
    probes = observations()
    with torch.no_grad():
        expected = log_probabilities(default[0].policy.get_distribution(probes))
    np.savez(tmp_path / "golden.npz", observations=probes.numpy(), logits=expected.numpy())
    import_sb3(model_zip, "option_scalper", golden=tmp_path / "golden.npz")
    silent = with_data(model_zip, policy_kwargs={"net_arch": [8]})  # says nothing of the activation
    wrong = read_sb3(silent, OptionScalper(), activation="relu").module
    with pytest.raises(ImportSb3Error, match="log-probabilities differ by"):
        check_golden(wrong, tmp_path / "golden.npz")


def test_golden_logits_of_another_shape_are_refused_with_the_cure(model_zip: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "golden.npz", observations=observations().numpy(), logits=np.zeros(6, dtype=np.float32))
    with pytest.raises(ImportSb3Error, match=r"golden.npz: .*expected an .npz with `observations` and `logits`"):
        import_sb3(model_zip, "option_scalper", golden=tmp_path / "golden.npz")


def test_an_activation_that_contradicts_the_file_or_is_unknown_is_refused(tmp_path: Path) -> None:
    _, relu = saved(tmp_path / "relu.zip", net_arch=[4], activation_fn=nn.ReLU)
    with pytest.raises(ImportSb3Error, match=r"ReLU.*tanh was asked for.*expected one of"):
        read_sb3(relu, OptionScalper(), activation="tanh")
    _, hard = saved(tmp_path / "hard.zip", net_arch=[4], activation_fn=nn.Hardswish)
    with pytest.raises(ImportSb3Error, match=r"Hardswish.*expected one of tanh, relu"):
        read_sb3(hard, OptionScalper())


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        (Still((23, 20)), r"observations have the shape \[23, 20\], option_scalper has \[20, 23\]"),
        (Still((460,)), r"observations have the shape \[460\]"),
        (Still(actions=5), r"Discrete.*with n 5 from 0, option_scalper has Discrete 6"),
    ],
)
def test_other_spaces_are_refused_with_both_named(environment: Still, text: str, tmp_path: Path) -> None:
    model = PPO("MlpPolicy", environment, n_steps=4, batch_size=4, device="cpu", policy_kwargs={"net_arch": [4]})
    model.save(tmp_path / "model.zip")
    with pytest.raises(ImportSb3Error, match=text):
        read_sb3(tmp_path / "model.zip", OptionScalper())


def test_spaces_that_are_claimed_but_not_those_of_the_weights_are_refused(tmp_path: Path) -> None:
    model = PPO("MlpPolicy", Still((3,), 2), n_steps=4, batch_size=4, device="cpu", policy_kwargs={"net_arch": [4]})
    model.save(tmp_path / "model.zip")
    claims: dict[str, Any] = {"observation_space": {"_shape": [20, 23]}, "action_space": {"n": "6", "start": "0"}}
    with pytest.raises(ImportSb3Error, match=r"policy_net.0 has a weight \(4, 3\).*expected \(units, 460\)"):
        read_sb3(with_data(tmp_path / "model.zip", **claims), OptionScalper())


def a_dqn(path: Path, **kwargs: Any) -> DQN:
    model = DQN("MlpPolicy", Still(), buffer_size=10, device="cpu", policy_kwargs=kwargs)
    stir(model.policy)
    model.save(path)
    return model


@pytest.mark.parametrize(
    ("kwargs", "activation"),
    [({}, "relu"), ({"net_arch": [8, 4], "activation_fn": nn.Tanh}, "tanh"), ({"net_arch": []}, "relu")],
)
def test_a_dqn_answers_its_values_and_chooses_as_the_original_does(
    kwargs: dict[str, Any], activation: str, tmp_path: Path
) -> None:
    model, probes = a_dqn(tmp_path / "dqn.zip", **kwargs), observations()
    with torch.no_grad():
        values = model.q_net(probes)
    np.savez(tmp_path / "golden.npz", observations=probes.numpy(), logits=values.numpy())
    imported = import_sb3(tmp_path / "dqn.zip", "option_scalper", golden=tmp_path / "golden.npz")
    with torch.no_grad():
        answers = imported.module(probes)
    assert torch.allclose(answers, values, atol=1e-6, rtol=0)
    assert answers.argmax(1).tolist() == model.predict(probes.numpy(), deterministic=True)[0].tolist()
    assert len(set(answers.argmax(1).tolist())) > 1
    assert (imported.activation, imported.hyperparameters["buffer_size"]) == (activation, 10)


def test_an_algorithm_without_such_a_policy_is_refused_with_the_way_that_any_takes(tmp_path: Path) -> None:
    model = QRDQN("MlpPolicy", Still(), buffer_size=10, device="cpu", policy_kwargs={"net_arch": [4]})
    model.save(tmp_path / "qr.zip")
    with pytest.raises(ImportSb3Error, match=r"qr.zip: policy.pth has quantile_net.*bring it in with --import-onnx"):
        read_sb3(tmp_path / "qr.zip", OptionScalper())


def test_a_dqn_that_lost_a_layer_is_refused(tmp_path: Path) -> None:
    weights = a_dqn(tmp_path / "dqn.zip", net_arch=[8, 4]).policy.state_dict()
    del weights["q_net.q_net.2.bias"]
    short = rewritten(tmp_path / "dqn.zip", lambda members: members.update({"policy.pth": stored(weights)}))
    with pytest.raises(ImportSb3Error, match=r"q_net.q_net.2 has a weight \(4, 8\) and a bias None"):
        read_sb3(short, OptionScalper())


def test_an_imported_policy_is_exported_like_our_own_and_answers_in_onnxruntime_as_the_original_did(
    default: tuple[PPO, bytes], model_zip: Path, tmp_path: Path
) -> None:
    imported = import_sb3(model_zip, "option_scalper")
    origin = Training("bars.csv", "0" * 64, "sip", True, 10, "2024-01-02", "2024-01-16", {})
    release = Release(origin, dict(imported.hyperparameters), {})
    probes = observations().numpy()
    folder = export(imported.module, OptionScalper(), release, out=tmp_path / "models", probes=probes)
    answers = torch.log_softmax(torch.from_numpy(run_onnx(folder / "policy.onnx", probes)), dim=1)
    with torch.no_grad():
        expected = log_probabilities(default[0].policy.get_distribution(torch.from_numpy(probes)))
    assert torch.allclose(answers, expected, atol=1e-5, rtol=0)


def test_strategies_are_found_by_name(model_zip: Path) -> None:
    with pytest.raises(ValueError, match="option_scalper"):
        import_sb3(model_zip, "option_scalpel")
    strategy: Strategy = OptionScalper()
    assert read_sb3(model_zip, strategy).activation == "tanh"


@pytest.mark.parametrize("name", ["forecast_ensemble", "online_dqn"])
def test_a_strategy_whose_rows_are_symbols_is_refused_before_the_file_is_opened(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        ImportSb3Error, match=f"missing.zip: a policy .* cannot be brought in for {name}: train it with"
    ):
        import_sb3(tmp_path / "missing.zip", name)
