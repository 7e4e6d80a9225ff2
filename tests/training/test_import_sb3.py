"""Policies saved by the real Stable-Baselines3 and sb3-contrib, read back without unpickling, against their own logits.

Files that are broken, hostile or of another kind are refused, and a payload in them is never run.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gymnasium import spaces
from msgspec.structs import replace
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.distributions import Distribution
from torch import Tensor, nn
from torch.distributions import Categorical

from strategies.contract import Spec, Strategy
from strategies.manifest import Training
from strategies.option_scalper import SPEC, OptionScalper
from training.export import Release, export, run_onnx
from training.import_sb3 import ImportSb3Error, check_golden, import_sb3, read_sb3
from training.sb3_network import FlatPolicy, LstmPolicy

Float32Array = npt.NDArray[np.float32]


class Still(gymnasium.Env[Float32Array, np.int64]):
    """An environment of the given spaces in which nothing happens: what is tested here is the file of a policy."""

    def __init__(self, shape: tuple[int, ...] = (20, 23), actions: int = 6) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.action_space = spaces.Discrete(actions)
        self._nothing = np.zeros(shape, dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32Array, dict[str, Any]]:
        super().reset(seed=seed)
        return self._nothing, {}

    def step(self, action: np.int64) -> tuple[Float32Array, float, bool, bool, dict[str, Any]]:
        return self._nothing, 0.0, False, False, {}


class Carrying(OptionScalper):
    """The option scalper's shape with a carried state of one LSTM layer of 8 units, h and c."""

    @property
    def spec(self) -> Spec:
        return replace(SPEC, recurrent_shape=(2, 2, 8))


def observations(count: int = 5, shape: tuple[int, ...] = (20, 23)) -> Tensor:
    return torch.randn((count, *shape), generator=torch.Generator().manual_seed(1))


def saved(path: Path, **policy_kwargs: Any) -> tuple[PPO, Path]:
    model = PPO("MlpPolicy", Still(), n_steps=4, batch_size=4, device="cpu", seed=1, policy_kwargs=policy_kwargs)
    stir(model.policy)
    model.save(path)
    return model, path


def stir(policy: nn.Module) -> None:
    """Weights and biases of a trained size (fresh biases and logits are about 0)."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def log_probabilities(given: Distribution) -> Tensor:
    """Of each action; Stable-Baselines3 calls them logits, because they are normalised ones."""
    assert isinstance(given.distribution, Categorical)
    return given.distribution.logits


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The zip again with other members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def with_data(path: Path, **changes: Any) -> Path:
    def change(members: dict[str, bytes]) -> None:
        members["data"] = json.dumps(json.loads(members["data"]) | changes).encode()

    return rewritten(path, change)


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
        ({}, "tanh"),  # what Stable-Baselines3 takes when nothing is said
        ({"net_arch": [8, 4, 4]}, "tanh"),
        ({"net_arch": {"pi": [8], "vf": [4, 4]}, "activation_fn": nn.ReLU}, "relu"),
        ({"net_arch": [], "activation_fn": nn.ELU}, "elu"),
    ],
)
def test_logits_are_those_of_the_policy_that_was_saved(kwargs: dict[str, Any], activation: str, tmp_path: Path) -> None:
    model, path = saved(tmp_path / "model.zip", **kwargs)
    imported = import_sb3(path, "option_scalper")
    seen = observations()
    with torch.no_grad():
        given = log_probabilities(model.policy.get_distribution(seen))
        found = imported.module(seen)
    assert isinstance(imported.module, FlatPolicy)
    assert imported.activation == activation
    assert torch.allclose(torch.log_softmax(found, dim=1), given, atol=1e-6, rtol=0)
    assert float(given.std()) > 0.1


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
    seen = observations()
    with torch.no_grad():
        found = torch.log_softmax(read_sb3(tmp_path / "a2c.zip", OptionScalper()).module(seen), dim=1)
        assert torch.allclose(found, log_probabilities(model.policy.get_distribution(seen)), atol=1e-6, rtol=0)


def test_shared_layers_of_versions_before_1_8_come_before_the_policy_s_own(model_zip: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    shared, own, action = (torch.randn(shape, generator=generator) / 20 for shape in ((7, 460), (5, 7), (6, 5)))
    weights = {
        "mlp_extractor.shared_net.0.weight": shared, "mlp_extractor.shared_net.0.bias": torch.ones(7),
        "mlp_extractor.policy_net.0.weight": own, "mlp_extractor.policy_net.0.bias": torch.ones(5),
        "action_net.weight": action, "action_net.bias": torch.ones(6),
    }  # fmt: skip
    seen = observations()
    expected = torch.tanh(torch.tanh(seen.flatten(1) @ shared.T + 1) @ own.T + 1) @ action.T + 1
    path = rewritten(model_zip, lambda members: members.update({"policy.pth": stored(weights)}))
    assert torch.allclose(read_sb3(path, OptionScalper()).module(seen), expected, atol=1e-6, rtol=0)


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
    assert isinstance(module, LstmPolicy)
    hidden = torch.zeros(3, 2, 2, 8)
    states = (torch.zeros(layers, 3, units), torch.zeros(layers, 3, units))
    with torch.no_grad():
        for step in range(4):
            seen = observations(12)[3 * step : 3 * step + 3]
            begins = torch.full((3,), float(step == 0))
            distribution, states = policy.get_distribution(seen, states, begins)
            logits, hidden = module(seen, hidden)
            given = log_probabilities(distribution)
            assert torch.allclose(torch.log_softmax(logits, dim=1), given, atol=1e-6, rtol=0)
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
    seen = observations()
    with torch.no_grad():
        given = log_probabilities(default[0].policy.get_distribution(seen))
    np.savez(tmp_path / "golden.npz", observations=seen.numpy(), logits=given.numpy())
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


def test_an_algorithm_without_such_a_policy_is_refused(tmp_path: Path) -> None:
    model = DQN("MlpPolicy", Still(), buffer_size=10, device="cpu", policy_kwargs={"net_arch": [4]})
    model.save(tmp_path / "dqn.zip")
    with pytest.raises(ImportSb3Error, match=r"dqn.zip: policy.pth has q_net.*expected the layers of MlpPolicy"):
        read_sb3(tmp_path / "dqn.zip", OptionScalper())


def test_a_policy_that_needs_vec_normalize_is_refused_with_the_reason(model_zip: Path, tmp_path: Path) -> None:
    (tmp_path / "vecnormalize.pkl").write_bytes(b"never opened")
    with pytest.raises(ImportSb3Error, match=r"file vecnormalize.pkl beside it says that VecNormalize .* never opened"):
        read_sb3(model_zip, OptionScalper())
    (tmp_path / "vecnormalize.pkl").unlink()
    with pytest.raises(ImportSb3Error, match="`env_wrapper` in its data says that VecNormalize"):
        read_sb3(with_data(model_zip, env_wrapper="VecNormalize(DummyVecEnv)"), OptionScalper())
    rewritten(model_zip, lambda members: members.update({"vecnormalize.pkl": b"never opened"}))
    with pytest.raises(ImportSb3Error, match=r"member 'vecnormalize.pkl' says that VecNormalize"):
        read_sb3(model_zip, OptionScalper())


class Payload:
    """Creates a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def stored(content: object) -> bytes:
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def test_a_payload_is_never_run_wherever_it_is(model_zip: Path, tmp_path: Path) -> None:
    mark = tmp_path / "was_run"
    payload = pickle.dumps(Payload(mark))
    pickle.loads(payload)
    assert mark.exists()  # it does work
    mark.unlink()
    good = model_zip.read_bytes()
    for content in (stored(Payload(mark)), stored({"action_net.weight": Payload(mark)}), payload):
        model_zip.write_bytes(good)
        rewritten(model_zip, partial(dict.update, **{"policy.pth": content}))
        with pytest.raises(ImportSb3Error, match=r"policy.pth is (refused|no zip)"):
            read_sb3(model_zip, OptionScalper())
        assert not mark.exists()
    model_zip.write_bytes(good)
    serialized = {":type:": "x", ":serialized:": base64.b64encode(payload).decode()}
    with_data(model_zip, clip_range=serialized, lr_schedule=serialized, policy_class=serialized)
    rewritten(model_zip, lambda m: m.update({"policy.optimizer.pth": payload, "pytorch_variables.pth": payload}))
    read_sb3(model_zip, OptionScalper())  # reads, because none of these is looked at
    assert not mark.exists()


def _bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"0" * 20_000_000)
    return out.getvalue()


@pytest.mark.parametrize(
    ("members", "text"),
    [
        (
            {"_stable_baselines3_version": b"2" * 200},
            "_stable_baselines3_version unpacks to 200 bytes, expected at most",
        ),
        ({"../../evil.py": b""}, "among its 7 members is '../../evil.py'; expected"),
        ({"policy.pth": _bomb()}, "policy.pth has 1 records of 20,000,000 bytes, compressed: True"),
        ({"policy.pth": stored([1, 2])}, "policy.pth holds a list, expected tensors by name"),
        ({"policy.pth": stored({"action_net.weight": torch.full((6, 8), torch.nan)})}, "expected finite float32"),
        ({"policy.pth": stored({"action_net.weight": torch.zeros(1, 1).expand(10**6, 10**6)})}, "contiguous: False"),
        ({"policy.pth": stored({"log_std": torch.zeros(2)})}, "policy.pth has log_std; expected the layers"),
        ({"data": b"[" * 100_000}, "`data` is no JSON"),
        ({"data": b"[]"}, "`data` is a list, expected an object"),
    ],
)
def test_a_hostile_or_broken_member_is_refused(members: dict[str, bytes], text: str, model_zip: Path) -> None:
    rewritten(model_zip, lambda found: found.update(members))
    with pytest.raises(ImportSb3Error, match=text):
        read_sb3(model_zip, OptionScalper())


def test_a_number_that_no_manifest_holds_is_left_out(model_zip: Path) -> None:
    imported = read_sb3(with_data(model_zip, num_timesteps=10**400, n_steps=64, gamma=float("nan")), OptionScalper())
    assert imported.hyperparameters["n_steps"] == 64
    assert not {"num_timesteps", "gamma"} & set(imported.hyperparameters)


def test_a_recurrent_weight_without_any_axis_is_refused(model_zip: Path) -> None:
    weights = {"action_net.weight": torch.zeros(6, 8), "lstm_actor.weight_hh_l0": torch.tensor(0.0)}
    rewritten(model_zip, lambda found: found.update({"policy.pth": stored(weights)}))
    with pytest.raises(ImportSb3Error, match="the LSTM's state has h and c of 0 layers x 0 units"):
        read_sb3(model_zip, Carrying())


def test_a_member_whose_compressed_bytes_are_damaged_is_refused(model_zip: Path) -> None:
    with zipfile.ZipFile(model_zip) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(model_zip, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        begin = archive.getinfo("data").header_offset + 30 + len("data")  # a local header has 30 bytes and the name
    damaged = bytearray(model_zip.read_bytes())
    damaged[begin] = 0xFF  # no kind of deflate block
    model_zip.write_bytes(bytes(damaged))
    with pytest.raises(ImportSb3Error, match=r"expected the zip that model\.save writes"):
        read_sb3(model_zip, OptionScalper())


def test_a_member_that_comes_twice_is_refused(model_zip: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(model_zip, "a") as archive:
        archive.writestr("policy.pth", b"")
    with pytest.raises(ImportSb3Error, match="among its 7 members is 'one twice'; expected those of a saved model"):
        read_sb3(model_zip, OptionScalper())


def test_a_file_that_is_no_model_is_refused(tmp_path: Path, model_zip: Path) -> None:
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(ImportSb3Error, match=r"text.zip: File is not a zip file; expected the zip that model.save"):
        read_sb3(tmp_path / "text.zip", OptionScalper())
    with pytest.raises(ImportSb3Error, match=r"no member policy.pth"):
        read_sb3(rewritten(model_zip, lambda members: members.__delitem__("policy.pth")), OptionScalper())


def test_an_imported_policy_is_exported_like_our_own_and_answers_in_onnxruntime_as_the_original_did(
    default: tuple[PPO, bytes], model_zip: Path, tmp_path: Path
) -> None:
    imported = import_sb3(model_zip, "option_scalper")
    origin = Training("bars.csv", "0" * 64, "sip", True, 10, "2024-01-02", "2024-01-16", {})
    release = Release(origin, dict(imported.hyperparameters), {})
    seen = observations().numpy()
    folder = export(imported.module, OptionScalper(), release, out=tmp_path / "models", probes=seen)
    answered = torch.log_softmax(torch.from_numpy(run_onnx(folder / "policy.onnx", seen)), dim=1)
    with torch.no_grad():
        given = log_probabilities(default[0].policy.get_distribution(torch.from_numpy(seen)))
    assert torch.allclose(answered, given, atol=1e-5, rtol=0)


def test_strategies_are_found_by_name(model_zip: Path) -> None:
    with pytest.raises(ValueError, match="option_scalper"):
        import_sb3(model_zip, "option_scalpel")
    strategy: Strategy = OptionScalper()
    assert read_sb3(model_zip, strategy).activation == "tanh"
