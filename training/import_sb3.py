"""A policy trained by Stable-Baselines3 (`model.save("model.zip")`), read as a module that this package exports.

Nothing of the zip is unpickled: weights pass torch's weights-only reader, of the JSON only what is written in plain is
read, never its base64 fields. Invariant: what is not understood in full is refused, with the reason and the cure.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strategies.contract import Spec, Strategy
from strategies.registry import strategy as registered

MEMBERS = {  # of the zip, and the most bytes each may have unpacked
    "data": 64_000_000,
    "policy.pth": 256_000_000,
    "policy.optimizer.pth": 1_000_000_000,  # never read
    "pytorch_variables.pth": 1_000_000_000,  # never read
    "_stable_baselines3_version": 100,
    "system_info.txt": 100_000,  # never read
}
RECORDS_MAX = 1_000  # files inside of policy.pth, which is a zip itself
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "leakyrelu": nn.LeakyReLU}
"""By the last part of the class's name in small letters. Tanh is the default of Stable-Baselines3's MlpPolicy."""
HYPERPARAMETERS = (
    "learning_rate", "n_steps", "batch_size", "n_epochs", "n_envs", "gamma", "gae_lambda", "ent_coef", "vf_coef",
    "max_grad_norm", "normalize_advantage", "target_kl", "num_timesteps", "seed",
)  # fmt: skip
TOLERANCE = 1e-5  # of a log-probability, between the golden outputs and the module's

_KNOWN = re.compile(
    r"(mlp_extractor\.(shared_net|policy_net|value_net)\.\d+|action_net|value_net|critic)\.(weight|bias)"
    r"|lstm_(actor|critic)\.(weight|bias)_[ih]h_l\d+"
)


class ImportSb3Error(Exception):
    """The file cannot be imported; the text names the file, what was found, what was expected, and the cure."""


@dataclass(frozen=True, slots=True)
class ImportedPolicy:
    """A policy from elsewhere: raw observations to logits, as `training.export.export` takes it, and what it says."""

    module: FlatPolicy | LstmPolicy
    hyperparameters: dict[str, float | int | bool | None]  # those of `HYPERPARAMETERS` that are plain numbers
    activation: str  # a key of `ACTIVATIONS`
    version: str  # of Stable-Baselines3


class FlatPolicy(nn.Module):
    """Flatten, hidden layers each with the activation, action layer; Stable-Baselines3's `MlpPolicy` without critic."""

    def __init__(self, layers: list[nn.Linear], action: nn.Linear, activation: type[nn.Module]) -> None:
        super().__init__()
        self.hidden = nn.Sequential(*[part for layer in layers for part in (layer, activation())])
        self.action = action

    def forward(self, observation: Tensor) -> Tensor:
        """Logits, float32 (batch, actions), of raw observations, float32 (batch, *observation shape)."""
        logits: Tensor = self.action(self.hidden(observation.flatten(1)))
        return logits


class LstmPolicy(nn.Module):
    """Flatten, LSTM for one step, hidden layers, action layer; sb3-contrib's `MlpLstmPolicy` without critic."""

    def __init__(self, lstm: nn.LSTM, head: FlatPolicy, recurrent_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.lstm = lstm
        self.head = head
        self._shape = recurrent_shape

    def forward(self, observation: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (batch, actions) and the next hidden state, of observations (batch, *shape) and the hidden state.

        The state, float32 (batch, *recurrent_shape), holds the LSTM's h and then its c, each by layer and unit, in C
        order; zeros start an episode.
        """
        state = hidden.reshape(-1, 2, self.lstm.num_layers, self.lstm.hidden_size).permute(1, 2, 0, 3).contiguous()
        output, following = self.lstm(observation.flatten(1).unsqueeze(0), (state[0], state[1]))
        logits: Tensor = self.head(output.squeeze(0))
        return logits, torch.stack(following).permute(2, 0, 1, 3).reshape(-1, *self._shape)


def import_sb3(
    path: Path, strategy_name: str, *, activation: str | None = None, golden: Path | None = None
) -> ImportedPolicy:
    """`read_sb3` for the strategy called `strategy_name`, proven by `golden` where it is given (`check_golden`).

    Raises:
        ImportSb3Error: see `read_sb3` and `check_golden`.
        ValueError: no strategy has that name.
    """
    imported = read_sb3(path, registered(strategy_name), activation=activation)
    if golden is not None:
        check_golden(imported.module, golden)
    return imported


def read_sb3(path: Path, strategy: Strategy, *, activation: str | None = None) -> ImportedPolicy:
    """Read the policy of a PPO or A2C `MlpPolicy`, or of a RecurrentPPO `MlpLstmPolicy`, for `strategy`.

    The value network is dropped. The weights do not tell the activation; it is the `activation` given, else the name
    that the file states in plain beside its `policy_kwargs`, else Tanh, the default of Stable-Baselines3. That name is
    only a text in the file, so prove the import on outputs of the original, see `check_golden`.

    Raises:
        ImportSb3Error: not such a file, a member too large or unknown, a pickle where weights should be, observations
            or actions of another shape, layers that are not understood, or a policy that needs VecNormalize.
        OSError: the file cannot be read.
    """
    members = _members(path)
    plain = _plain(path, members["data"])
    _refuse_normalised(path, plain)
    _check_spaces(path, plain, strategy.spec)
    weights = _weights(path, members["policy.pth"])
    kind = _activation(path, plain, activation)
    module = _built(path, weights, strategy.spec, ACTIVATIONS[kind])
    numbers = {name: plain[name] for name in HYPERPARAMETERS if _is_number(plain.get(name, ""))}
    version = members["_stable_baselines3_version"].decode("ascii", "replace").strip()
    return ImportedPolicy(module.eval(), numbers, kind, version)


def check_golden(module: nn.Module, golden: Path) -> None:
    """Compare the module with outputs of the original, made where the model was trained:

        observations = ...  # float32 (n, *observation shape), raw ones as the environment gave them
        with torch.no_grad():
            given = model.policy.get_distribution(torch.as_tensor(observations)).distribution.logits
        numpy.savez("golden.npz", observations=observations, logits=given.numpy())

    Both sides are taken as log-probabilities, so it does not matter whether the logits were normalised.

    Raises:
        ImportSb3Error: the file has no such arrays, or a log-probability differs by more than 1e-5.
    """
    try:
        with np.load(golden, allow_pickle=False) as arrays:
            observations, logits = (torch.from_numpy(arrays[name]).float() for name in ("observations", "logits"))
        with torch.no_grad():
            found = torch.log_softmax(module(observations).double(), dim=1)
        difference = float((found - torch.log_softmax(logits.double(), dim=1)).abs().max())
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise ImportSb3Error(
            f"{golden.name}: {error}; expected an .npz with `observations` and `logits`, a row for each observation: "
            "make it as the docstring of training.import_sb3.check_golden shows"
        ) from error
    if not difference <= TOLERANCE:
        raise ImportSb3Error(
            f"{golden.name}: log-probabilities differ by {difference:.3g}, expected at most {TOLERANCE}: check the "
            "activation (activation='relu'?), that the model is the same, and that the observations were raw"
        )


def _members(path: Path) -> dict[str, bytes]:
    """The three members that are read, after the sizes and names of all were checked."""
    wanted = ("data", "policy.pth", "_stable_baselines3_version")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            unknown = sorted(name for name in names if name not in MEMBERS)
            if any("normalize" in name.lower() for name in unknown):
                raise _needs_normalisation(path, f"the member {unknown[0]!r}")
            if unknown or len(set(names)) != len(names):
                raise ImportSb3Error(
                    f"{path.name}: among its {len(names)} members is {unknown[0] if unknown else 'one twice'!r}; "
                    f"expected those of a saved model: {', '.join(MEMBERS)}: save it with model.save"
                )
            for entry in entries:
                if entry.file_size > MEMBERS[entry.filename]:
                    raise ImportSb3Error(
                        f"{path.name}: member {entry.filename} unpacks to {entry.file_size:,} bytes, expected at most "
                        f"{MEMBERS[entry.filename]:,}: this is no model for this desk"
                    )
            missing = [name for name in wanted if name not in names]
            if missing:
                raise ImportSb3Error(
                    f"{path.name}: no member {missing[0]}, expected a model saved by Stable-Baselines3 1.0 or later: "
                    "save it with model.save"
                )
            return {name: archive.read(name) for name in wanted}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ImportSb3Error(
            f"{path.name}: {error}; expected the zip that model.save writes: save the model again"
        ) from error


def _plain(path: Path, data: bytes) -> dict[str, Any]:
    """The JSON of a model. Its ":serialized:" fields stay base64 text that nobody decodes."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImportSb3Error(
            f"{path.name}: `data` is no JSON ({error}); expected model.save's: save it again"
        ) from error
    if not isinstance(found, dict):
        raise ImportSb3Error(f"{path.name}: `data` is a {type(found).__name__}, expected an object: save it again")
    return found


def _needs_normalisation(path: Path, where: str) -> ImportSb3Error:
    return ImportSb3Error(
        f"{path.name}: {where} says that VecNormalize scaled the observations; expected a policy that reads raw ones, "
        "because those statistics live in a pickle that is never opened: train with the scaling inside of the policy"
    )


def _refuse_normalised(path: Path, plain: dict[str, Any]) -> None:
    """VecNormalize keeps no trace in `data` that is sure, so a mention there or its file beside the zip counts."""
    for name, value in plain.items():
        texts = [name, value, *value.values()] if isinstance(value, dict) else [name, value]
        if any(isinstance(text, str) and re.search("vec_?normalize", text, re.IGNORECASE) for text in texts):
            raise _needs_normalisation(path, f"`{name}` in its data")
    for beside in sorted(path.parent.glob("*.pkl")):
        if re.search("vec_?normalize", beside.name, re.IGNORECASE):
            raise _needs_normalisation(path, f"the file {beside.name} beside it")


def _check_spaces(path: Path, plain: dict[str, Any], spec: Spec) -> None:
    """The spaces as the file states them in plain."""
    observed, acted = (plain.get(name) for name in ("observation_space", "action_space"))
    shape = observed.get("_shape") if isinstance(observed, dict) else None
    if shape != list(spec.observation_shape):
        raise ImportSb3Error(
            f"{path.name}: observations have the shape {shape}, {spec.name} has {list(spec.observation_shape)}: train "
            "on the strategy's own environment (training.gym)"
        )
    count, start = (acted.get("n"), acted.get("start", "0")) if isinstance(acted, dict) else (None, None)
    if (str(count), str(start)) != (str(len(spec.actions)), "0"):
        kind = acted.get(":type:") if isinstance(acted, dict) else acted
        raise ImportSb3Error(
            f"{path.name}: the action space is {kind} with n {count} from {start}, {spec.name} has Discrete "
            f"{len(spec.actions)} from 0: train on the strategy's own environment (training.gym)"
        )


def _weights(path: Path, data: bytes) -> dict[str, Tensor]:
    """The tensors of policy.pth through torch's weights-only reader, which runs no code of the file."""
    _refuse_packed(path, data)
    try:
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        first = str(error).partition("\n")[0][:200]
        raise ImportSb3Error(
            f"{path.name}: policy.pth is refused by torch's weights-only reader ({first}); expected tensors alone, "
            "anything else could run code: save the model with model.save of an unmodified Stable-Baselines3"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ImportSb3Error(f"{path.name}: policy.pth holds a {type(found).__name__}, expected tensors by name")
    for name, value in found.items():
        usable = isinstance(value, Tensor) and value.dtype == torch.float32 and value.is_contiguous()
        if not usable or not bool(torch.isfinite(value).all()):
            raise ImportSb3Error(
                f"{path.name}: {name} of policy.pth is {_described(value)}; expected finite float32: train again"
            )
    return found


def _refuse_packed(path: Path, data: bytes) -> None:
    """policy.pth is a zip of stored records; a packed one could unpack to anything."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as records:
            entries = records.infolist()
    except zipfile.BadZipFile as error:
        raise ImportSb3Error(
            f"{path.name}: policy.pth is no zip ({error}), expected what torch.save writes since 1.6: save it again"
        ) from error
    unpacked = sum(entry.file_size for entry in entries)
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or unpacked > MEMBERS["policy.pth"] or len(entries) > RECORDS_MAX:
        raise ImportSb3Error(
            f"{path.name}: policy.pth has {len(entries)} records of {unpacked:,} bytes, compressed: {packed}; "
            f"expected stored ones of at most {MEMBERS['policy.pth']:,} bytes: save it with model.save"
        )


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}, contiguous: {value.is_contiguous()}"
    return f"a {type(value).__name__}"


def _activation(path: Path, plain: dict[str, Any], given: str | None) -> str:
    """The activation given, else the one that the file states in plain, else Tanh."""
    stated = plain.get("policy_kwargs") or {}
    text = str(stated.get("activation_fn", "")) if isinstance(stated, dict) else ""
    extractor = str(stated.get("features_extractor_class", "")) if isinstance(stated, dict) else ""
    if extractor and not extractor.endswith(".FlattenExtractor'>"):
        raise ImportSb3Error(
            f"{path.name}: the features extractor is {extractor[:100]}, expected MlpPolicy's FlattenExtractor: "
            "train without features_extractor_class"
        )
    found = re.sub(r".*\.|\W", "", text).lower() or None
    chosen = given or found or "tanh"
    if chosen not in ACTIVATIONS or (given and found and given != found):
        asked = f", {given} was asked for" if given else ""
        raise ImportSb3Error(
            f"{path.name}: the activation is {text or 'not stated'}{asked}; expected one of {', '.join(ACTIVATIONS)}, "
            "the same in both places: leave `activation` out, or train with one of these"
        )
    return chosen


def _built(path: Path, weights: dict[str, Tensor], spec: Spec, activation: type[nn.Module]) -> FlatPolicy | LstmPolicy:
    """The module that the weights describe."""
    strange = sorted(name for name in weights if not _KNOWN.fullmatch(name))
    if strange or "action_net.weight" not in weights:
        raise ImportSb3Error(
            f"{path.name}: policy.pth has {strange[0] if strange else 'no action_net.weight'}; expected the layers of "
            "MlpPolicy or MlpLstmPolicy with discrete actions (mlp_extractor, action_net): train one of these with PPO"
        )
    lstm = _lstm(path, weights, spec)
    width = math.prod(spec.observation_shape) if lstm is None else lstm.hidden_size
    layers: list[nn.Linear] = []
    for net in ("shared_net", "policy_net"):
        found = (re.fullmatch(rf"mlp_extractor\.{net}\.(\d+)\.weight", name) for name in weights)
        for number in sorted(int(match[1]) for match in found if match):
            layers.append(_linear(path, weights, f"mlp_extractor.{net}.{number}", width))
            width = layers[-1].out_features
    action = _linear(path, weights, "action_net", width)
    if action.out_features != len(spec.actions):
        raise ImportSb3Error(
            f"{path.name}: action_net gives {action.out_features} logits, {spec.name} has {len(spec.actions)} actions: "
            "train on the strategy's own environment (training.gym)"
        )
    head = FlatPolicy(layers, action, activation)
    return head if lstm is None else LstmPolicy(lstm, head, spec.recurrent_shape or ())


def _linear(path: Path, weights: dict[str, Tensor], name: str, width: int) -> nn.Linear:
    """The layer called `name`, which must read `width` values."""
    weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    shape = tuple(weight.shape)
    if bias is None or len(shape) != 2 or shape[1] != width or tuple(bias.shape) != shape[:1]:
        found = None if bias is None else tuple(bias.shape)
        raise ImportSb3Error(
            f"{path.name}: {name} has a weight {shape} and a bias {found}, expected (units, {width}) and (units,): the "
            "layers do not follow one another; save the model again"
        )
    layer = nn.Linear(width, shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def _lstm(path: Path, weights: dict[str, Tensor], spec: Spec) -> nn.LSTM | None:
    """The actor's LSTM; None for a policy that carries no state."""
    prefix = "lstm_actor."
    found = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    if not found and spec.recurrent_shape is None:
        return None
    if spec.recurrent_shape is None or not found:
        carries = "carries no hidden state" if spec.recurrent_shape is None else "carries a hidden state"
        raise ImportSb3Error(
            f"{path.name}: the policy is {'recurrent (lstm_actor)' if found else 'feed-forward'}, but {spec.name} "
            f"{carries} between decisions: train it with {'PPO' if found else 'sb3-contrib RecurrentPPO'} instead"
        )
    units, layers = found["weight_hh_l0"].shape[-1] if "weight_hh_l0" in found else 0, len(found) // 4
    if 2 * layers * units != math.prod(spec.recurrent_shape):
        raise ImportSb3Error(
            f"{path.name}: the LSTM's state has h and c of {layers} layers x {units} units, {spec.name} carries "
            f"{spec.recurrent_shape}: expected 2 x layers x units = {math.prod(spec.recurrent_shape)}: train so"
        )
    lstm = nn.LSTM(math.prod(spec.observation_shape), units, layers)
    try:
        lstm.load_state_dict(found)
    except RuntimeError as error:
        shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
        raise ImportSb3Error(
            f"{path.name}: lstm_actor has {shapes}; expected an LSTM of {layers} layers x {units} units that reads "
            f"{math.prod(spec.observation_shape)} values: train on the strategy's own environment"
        ) from error
    return lstm


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and math.isfinite(value))
