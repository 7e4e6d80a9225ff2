"""A policy trained by Stable-Baselines3 (`model.save("model.zip")`), read as a module that this package exports.

The file is read by `sb3_file`. Every layer of the module built here reads exactly what the one before it gives, from
the strategy's observation to its actions. Invariant: what is not understood in full is refused, with the reason and the
cure, and golden outputs of the original prove what the file does not contain.
"""

from __future__ import annotations

import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from strategies.kit.contract import AnyStrategy, Spec
from strategies.registry import strategy as registered
from training.export.sb3_file import (
    ACTIVATIONS,
    ImportSb3Error,
    members_of,
    plain_of,
    refuse_normalised,
    weights_of,
)

_KNOWN = re.compile(
    r"(mlp_extractor\.(shared_net|policy_net|value_net)\.\d+|action_net|value_net|critic)\.(weight|bias)"
    r"|lstm_(actor|critic)\.(weight|bias)_[ih]h_l\d+"
)
_DEVIATIONS = "log_std"  # deviations of continuous actions, used in training alone


class _OffPolicy(NamedTuple):
    """An off-policy algorithm: the names of its acting network's weights, and of the weights to ignore."""

    hidden: str  # prefix before the number of each layer
    action: str  # name of the last layer; "": the layer with the last number of `hidden`
    dropped: str  # pattern of the names of weights that only training needs


_OFF_POLICY = {
    "DQN": _OffPolicy("q_net.q_net", "", r"q_net_target\..*"),
    "SAC": _OffPolicy("actor.latent_pi", "actor.mu", r"actor\.log_std\.(weight|bias)|critic(_target)?\..*"),
    "TD3": _OffPolicy("actor.mu", "", r"(actor_target|critic|critic_target)\..*"),  # and DDPG
}


class FlatPolicy(nn.Module):
    """Flatten, hidden layers each with the activation, action layer; Stable-Baselines3's `MlpPolicy` without critic.

    A DQN's answers are Q values: the action with the largest value is chosen, as with logits.
    """

    def __init__(
        self,
        layers: list[nn.Linear],
        action: nn.Linear,
        activation: type[nn.Module],
        *,
        acts: bool = False,
        squashes: bool = False,
    ) -> None:
        """Join the layers; `acts`: its answers are actions in [-1, 1], clipped, or by tanh where it `squashes`."""
        super().__init__()
        self.acts, self.squashes = acts, squashes
        self.hidden = nn.Sequential(*[part for layer in layers for part in (layer, activation())])
        self.action = action

    def forward(self, observation: Tensor) -> Tensor:
        """Logits, or actions, float32 (batch, actions), of raw observations, float32 (batch, *observation shape)."""
        answer: Tensor = self.action(self.hidden(observation.flatten(1)))
        if self.squashes:
            return answer.tanh()
        return answer.clamp(-1.0, 1.0) if self.acts else answer


class ImportedLstmPolicy(nn.Module):
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


def in_sequence(policy: ImportedLstmPolicy, observations: Tensor) -> Tensor:
    """Logits (n, actions) of observations (n, *shape) that follow one another, from the zero state."""
    units, answers = policy.lstm.num_layers * policy.lstm.hidden_size, []
    hidden = observations.new_zeros(1, 2 * units)
    for place in range(len(observations)):
        logits, hidden = policy(observations[place : place + 1], hidden)
        answers.append(logits)
    return torch.cat(answers)


def built(
    path: Path, weights: dict[str, Tensor], spec: Spec, activation: type[nn.Module]
) -> FlatPolicy | ImportedLstmPolicy:
    """The module that the weights describe. Raises ImportSb3Error, which names `path`, when they are not understood."""
    if (algorithm := off_policy(weights)) and "action_net.weight" not in weights:
        return _built_off_policy(path, weights, spec, activation, algorithm)
    allowed = {_DEVIATIONS} if spec.continuous else set()
    strange = sorted(name for name in weights if name not in allowed and not _KNOWN.fullmatch(name))
    if strange or "action_net.weight" not in weights:
        raise ImportSb3Error(
            f"{path.name}: policy.pth has {strange[0] if strange else 'no action_net.weight'}; expected the layers of "
            "MlpPolicy or MlpLstmPolicy (mlp_extractor, action_net), or of the MlpPolicy of DQN, SAC or TD3: write any "
            "other one as ONNX and bring it in with --import-onnx"
        )
    lstm = _lstm(path, weights, spec)
    width = math.prod(spec.observation_shape) if lstm is None else lstm.hidden_size
    layers: list[nn.Linear] = []
    for net in ("shared_net", "policy_net"):
        layers += _in_a_row(path, weights, f"mlp_extractor.{net}", layers[-1].out_features if layers else width)
    action = _action_layer(path, weights, "action_net", layers[-1].out_features if layers else width, spec)
    head = FlatPolicy(layers, action, activation, acts=spec.continuous)
    return head if lstm is None else ImportedLstmPolicy(lstm, head, spec.recurrent_shape or ())


def off_policy(weights: dict[str, Tensor]) -> str:
    """Return DQN, SAC or TD3 (DDPG too) by the names of the weights, "" for none of them."""
    return next(
        (name for name, parts in _OFF_POLICY.items() if any(key.startswith(f"{parts.hidden}.") for key in weights)), ""
    )


def _built_off_policy(
    path: Path, weights: dict[str, Tensor], spec: Spec, activation: type[nn.Module], algorithm: str
) -> FlatPolicy:
    """The acting network of one that learns from a replay buffer. Raises ImportSb3Error."""
    parts = _OFF_POLICY[algorithm]
    if spec.continuous == (algorithm == "DQN") or spec.recurrent_shape is not None:
        cure = "SAC, TD3 or PPO" if spec.continuous else "RecurrentPPO" if spec.recurrent_shape else "DQN or PPO"
        kind = "continuous actions" if spec.continuous else "a choice among actions"
        memory = " and a memory" * (spec.recurrent_shape is not None)
        raise ImportSb3Error(
            f"{path.name}: its policy is that of {algorithm}, {spec.name} has {kind}{memory}: train it with {cure}"
        )
    pattern = rf"{re.escape(parts.hidden)}\.\d+\.(weight|bias)" + rf"|{re.escape(parts.action)}\.(weight|bias)"
    strange = sorted(name for name in weights if not re.fullmatch(rf"{pattern}|{parts.dropped}", name))
    if strange:
        raise ImportSb3Error(
            f"{path.name}: policy.pth has {strange[0]}; expected the layers of {algorithm}'s MlpPolicy alone: write "
            "another network as ONNX and bring it in with --import-onnx"
        )
    layers = _in_a_row(path, weights, parts.hidden, math.prod(spec.observation_shape))
    if parts.action:
        width = layers[-1].out_features
        action = _action_layer(path, weights, parts.action, width, spec)
    else:
        action = layers.pop()
        _check_actions(path, f"{parts.hidden}.{2 * len(layers)}", action, spec)
    return FlatPolicy(layers, action, activation, acts=spec.continuous, squashes=spec.continuous)


def _in_a_row(path: Path, weights: dict[str, Tensor], prefix: str, width: int) -> list[nn.Linear]:
    """The layers called `prefix` and an even number, the first of which reads `width` values."""
    matches = (re.fullmatch(rf"{re.escape(prefix)}\.(\d+)\.(weight|bias)", name) for name in weights)
    last_layer = max((int(match[1]) for match in matches if match), default=-1)
    layers: list[nn.Linear] = []
    for number in range(0, last_layer + 1, 2):  # the odd ones are the activations, which have no weights
        layers.append(_linear(path, weights, f"{prefix}.{number}", layers[-1].out_features if layers else width))
    return layers


def _action_layer(path: Path, weights: dict[str, Tensor], name: str, width: int, spec: Spec) -> nn.Linear:
    action = _linear(path, weights, name, width)
    _check_actions(path, name, action, spec)
    return action


def _check_actions(path: Path, name: str, action: nn.Linear, spec: Spec) -> None:
    if action.out_features != len(spec.actions):
        raise ImportSb3Error(
            f"{path.name}: {name} gives {action.out_features} numbers, {spec.name} has {len(spec.actions)} "
            "actions: train on the strategy's own environment (training.make_env)"
        )


def _linear(path: Path, weights: dict[str, Tensor], name: str, width: int) -> nn.Linear:
    """The layer called `name`, which must read `width` values."""
    weight, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
    shape, bias_shape = (None if tensor is None else tuple(tensor.shape) for tensor in (weight, bias))
    if weight is None or bias is None or shape is None or shape[1:] != (width,) or bias_shape != shape[:1]:
        raise ImportSb3Error(
            f"{path.name}: {name} has a weight {shape} and a bias {bias_shape}, expected (units, {width}) and "
            "(units,): the layers do not follow one another; save the model again"
        )
    layer = nn.Linear(width, shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def _lstm(path: Path, weights: dict[str, Tensor], spec: Spec) -> nn.LSTM | None:
    """The actor's LSTM; None for a policy that carries no state."""
    prefix = "lstm_actor."
    tensors = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    if not tensors and spec.recurrent_shape is None:
        return None
    if spec.recurrent_shape is None or not tensors:
        carries = "carries no hidden state" if spec.recurrent_shape is None else "carries a hidden state"
        raise ImportSb3Error(
            f"{path.name}: the policy is {'recurrent (lstm_actor)' if tensors else 'feed-forward'}, but {spec.name} "
            f"{carries} between decisions: train it with {'PPO' if tensors else 'sb3-contrib RecurrentPPO'} instead"
        )
    recurrent = tensors.get("weight_hh_l0")
    units, layers = recurrent.shape[-1] if recurrent is not None and recurrent.dim() else 0, len(tensors) // 4
    if 2 * layers * units != math.prod(spec.recurrent_shape):
        raise ImportSb3Error(
            f"{path.name}: the LSTM's state has h and c of {layers} layers x {units} units, {spec.name} carries "
            f"{spec.recurrent_shape}: expected 2 x layers x units = {math.prod(spec.recurrent_shape)}: train so"
        )
    lstm = nn.LSTM(math.prod(spec.observation_shape), units, layers)
    try:
        lstm.load_state_dict(tensors)
    except RuntimeError as error:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        raise ImportSb3Error(
            f"{path.name}: lstm_actor has {shapes}; expected an LSTM of {layers} layers x {units} units that reads "
            f"{math.prod(spec.observation_shape)} values: train on the strategy's own environment"
        ) from error
    return lstm


__all__ = ["ACTIVATIONS", "ImportSb3Error", "ImportedPolicy", "check_golden", "import_sb3", "read_sb3"]

"""By the last part of the class's name in small letters. MlpPolicy's are Tanh (PPO) or ReLU (DQN, SAC and TD3)."""
HYPERPARAMETERS = (
    "learning_rate", "n_steps", "batch_size", "n_epochs", "n_envs", "gamma", "gae_lambda", "ent_coef", "vf_coef",
    "max_grad_norm", "normalize_advantage", "target_kl", "num_timesteps", "seed", "buffer_size", "learning_starts",
    "tau", "gradient_steps", "target_update_interval", "exploration_fraction", "exploration_initial_eps",
    "exploration_final_eps",
)  # fmt: skip
TOLERANCE = 1e-5  # of a log-probability, between the golden outputs and the module's


@dataclass(frozen=True, slots=True)
class ImportedPolicy:
    """A policy from elsewhere: raw observations to logits, as `training.export.export` takes it, and facts about it."""

    module: FlatPolicy | ImportedLstmPolicy
    hyperparameters: dict[str, float | int | bool | None]  # those of `HYPERPARAMETERS` that are plain numbers
    activation: str  # a key of `ACTIVATIONS`
    version: str  # of Stable-Baselines3


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


def read_sb3(path: Path, strategy: AnyStrategy, *, activation: str | None = None) -> ImportedPolicy:
    """Read the `MlpPolicy` of PPO, A2C, DQN, SAC, TD3 or DDPG, or RecurrentPPO's `MlpLstmPolicy`, for `strategy`.

    For a continuous strategy the answer is the mean action, clipped to [-1, 1] (SAC and TD3: by tanh), like the
    original's deterministic prediction; for DQN it is the Q values in place of logits.

    Value networks are dropped. The weights do not show the activation; it is the `activation` given, else the name
    that the file has as plain text in its `policy_kwargs`, else the default of Stable-Baselines3 (`ACTIVATIONS`). That
    name is only a text in the file, so prove the import on outputs of the original, see `check_golden`.

    Raises:
        ImportSb3Error: not such a file, a member too large or unknown, a pickle where weights should be, observations
            or actions of another shape, layers that are not understood, a policy that needs VecNormalize, or a
            strategy whose rows are symbols.
        OSError: the file cannot be read.
    """
    spec = strategy.spec
    if spec.rows_are_symbols:
        raise ImportSb3Error(
            f"{path.name}: a policy that was trained elsewhere cannot be brought in for {strategy.spec.name}: train it "
            "with train-and-export"
        )
    members = members_of(path)
    plain = plain_of(path, members["data"])
    refuse_normalised(path, plain)
    _check_spaces(path, plain, strategy.spec)
    weights = weights_of(path, members["policy.pth"])
    kind = _activation(path, plain, activation, "relu" if off_policy(weights) else "tanh")
    module = built(path, weights, strategy.spec, getattr(nn, ACTIVATIONS[kind]))
    numbers = {name: plain[name] for name in HYPERPARAMETERS if _is_number(plain.get(name, ""))}
    version = members["_stable_baselines3_version"].decode("ascii", "replace").strip()
    return ImportedPolicy(module.eval(), numbers, kind, version)


def check_golden(module: nn.Module, golden: Path) -> None:
    """Compare the module with outputs of the original, made where the model was trained:

        observations = ...  # float32 (n, *observation shape), raw ones as the environment gave them
        with torch.no_grad():
            given = model.policy.get_distribution(torch.as_tensor(observations)).distribution.logits
        numpy.savez("golden.npz", observations=observations, logits=given.numpy())

    Both sides are taken as log-probabilities, so it does not matter whether the logits were normalised. A policy with a
    memory saw the observations one after the other from the zero state. A DQN has `model.q_net(observations)` as
    `logits`. A continuous one has `actions` in place of
    `logits`: `model.predict(observations, deterministic=True)[0]`.

    Raises:
        ImportSb3Error: the file has no such arrays, or a log-probability or an action differs by more than 1e-5.
    """
    acts = isinstance(module, FlatPolicy) and module.acts
    try:
        with np.load(golden, allow_pickle=False) as arrays:
            names = ("observations", "actions" if acts else "logits")
            observations, expected = (torch.from_numpy(arrays[name]).float() for name in names)
        with torch.no_grad():
            answers = (
                in_sequence(module, observations) if isinstance(module, ImportedLstmPolicy) else module(observations)
            )
        pair = (answers.double(), expected.double())
        ours, theirs = pair if acts else (torch.log_softmax(values, dim=1) for values in pair)
        difference = float((ours - theirs).abs().max())
    except (OSError, LookupError, TypeError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise ImportSb3Error(
            f"{golden.name}: {error}; expected an .npz with `observations` and `{'actions' if acts else 'logits'}`, a "
            "row for each observation: "
            "make it as the docstring of training.export.import_sb3.check_golden shows"
        ) from error
    if not difference <= TOLERANCE:
        raise ImportSb3Error(
            f"{golden.name}: {'actions' if acts else 'log-probabilities'} differ by {difference:.3g}, expected at most "
            f"{TOLERANCE}: check the "
            "activation (activation='relu'?), that the model is the same, and that the observations were raw"
        )


def _check_spaces(path: Path, plain: dict[str, Any], spec: Spec) -> None:
    """Check the spaces that the file states in plain text."""
    observed, acted = (plain.get(name) for name in ("observation_space", "action_space"))
    shape = observed.get("_shape") if isinstance(observed, dict) else None
    if shape != list(spec.observation_shape):
        raise ImportSb3Error(
            f"{path.name}: observations have the shape {shape}, {spec.name} has {list(spec.observation_shape)}: train "
            "on the strategy's own environment (training.make_env)"
        )
    if spec.continuous:
        _check_box(path, acted, spec)
        return
    count, start = (acted.get("n"), acted.get("start", "0")) if isinstance(acted, dict) else (None, None)
    if (str(count), str(start)) != (str(len(spec.actions)), "0"):
        kind = acted.get(":type:") if isinstance(acted, dict) else acted
        raise ImportSb3Error(
            f"{path.name}: the action space is {kind} with n {count} from {start}, {spec.name} has Discrete "
            f"{len(spec.actions)} from 0: train on the strategy's own environment (training.make_env)"
        )


def _check_box(path: Path, acted: object, spec: Spec) -> None:
    """The space of continuous actions, each within [-1, 1]."""
    space = acted if isinstance(acted, dict) else {}
    low, high = (", ".join(sorted(set(re.findall(r"[^\s\[\]]+", str(space.get(name)))))) for name in ("low", "high"))
    if (space.get("_shape"), low, high) != ([len(spec.actions)], "-1.", "1."):
        raise ImportSb3Error(
            f"{path.name}: the action space is {space.get(':type:', acted)} of shape {space.get('_shape')} from {low} "
            f"to {high}, {spec.name} has a Box of {len(spec.actions)} from -1.0 to 1.0: train on the strategy's own "
            "environment (training.make_env)"
        )


def _activation(path: Path, plain: dict[str, Any], requested: str | None, usual: str) -> str:
    """The activation given, else the one that the file states in plain, else the `usual` one of the algorithm."""
    keywords = plain.get("policy_kwargs") or {}
    text = str(keywords.get("activation_fn", "")) if isinstance(keywords, dict) else ""
    extractor = str(keywords.get("features_extractor_class", "")) if isinstance(keywords, dict) else ""
    if extractor and not extractor.endswith(".FlattenExtractor'>"):
        raise ImportSb3Error(
            f"{path.name}: the features extractor is {extractor[:100]}, expected MlpPolicy's FlattenExtractor: "
            "train without features_extractor_class"
        )
    if isinstance(keywords, dict) and keywords.get("squash_output"):
        raise ImportSb3Error(f"{path.name}: policy_kwargs has squash_output, expected none: train without it")
    from_file = re.sub(r".*\.|\W", "", text).lower() or None
    chosen = requested or from_file or usual
    if chosen not in ACTIVATIONS or (requested and from_file and requested != from_file):
        request_text = f", {requested} was asked for" if requested else ""
        raise ImportSb3Error(
            f"{path.name}: the activation is {text or 'not stated'}{request_text}; expected one of "
            f"{', '.join(ACTIVATIONS)}, the same in both places: leave `activation` out, or train with one of these"
        )
    return chosen


def _is_number(value: object) -> bool:
    """None, or a number that a manifest can hold."""
    return value is None or (isinstance(value, int | float) and abs(value) < 2**63)
