"""The actor of a Stable-Baselines3 policy as a module of our own, built from its named weights.

Knows no file. Invariant: every layer reads exactly what the one before it gives, from the strategy's observation to its
actions; names and shapes that do not are refused.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from strategies.kit.contract import Spec
from training.export.sb3_file import ImportSb3Error

_KNOWN = re.compile(
    r"(mlp_extractor\.(shared_net|policy_net|value_net)\.\d+|action_net|value_net|critic)\.(weight|bias)"
    r"|lstm_(actor|critic)\.(weight|bias)_[ih]h_l\d+"
)
_DEVIATIONS = "log_std"  # of continuous actions, which only training draws


class FlatPolicy(nn.Module):
    """Flatten, hidden layers each with the activation, action layer; Stable-Baselines3's `MlpPolicy` without critic."""

    def __init__(
        self, layers: list[nn.Linear], action: nn.Linear, activation: type[nn.Module], *, acts: bool = False
    ) -> None:
        """Join the layers; `acts` is true of one whose answers are actions in [-1, 1]."""
        super().__init__()
        self.acts = acts
        self.hidden = nn.Sequential(*[part for layer in layers for part in (layer, activation())])
        self.action = action

    def forward(self, observation: Tensor) -> Tensor:
        """Logits, or actions, float32 (batch, actions), of raw observations, float32 (batch, *observation shape)."""
        answer: Tensor = self.action(self.hidden(observation.flatten(1)))
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
    units, found = policy.lstm.num_layers * policy.lstm.hidden_size, []
    hidden = observations.new_zeros(1, 2 * units)
    for place in range(len(observations)):
        logits, hidden = policy(observations[place : place + 1], hidden)
        found.append(logits)
    return torch.cat(found)


def built(
    path: Path, weights: dict[str, Tensor], spec: Spec, activation: type[nn.Module]
) -> FlatPolicy | ImportedLstmPolicy:
    """The module that the weights describe. Raises ImportSb3Error, which names `path`, when they are not understood."""
    known = {_DEVIATIONS} if spec.continuous else set()
    strange = sorted(name for name in weights if name not in known and not _KNOWN.fullmatch(name))
    if strange or "action_net.weight" not in weights:
        raise ImportSb3Error(
            f"{path.name}: policy.pth has {strange[0] if strange else 'no action_net.weight'}; expected the layers of "
            "MlpPolicy or MlpLstmPolicy (mlp_extractor, action_net): train one of these with PPO on the strategy's own "
            "environment"
        )
    lstm = _lstm(path, weights, spec)
    width = math.prod(spec.observation_shape) if lstm is None else lstm.hidden_size
    layers: list[nn.Linear] = []
    for net in ("shared_net", "policy_net"):
        found = (re.fullmatch(rf"mlp_extractor\.{net}\.(\d+)\.(weight|bias)", name) for name in weights)
        last = max((int(match[1]) for match in found if match), default=-1)
        for number in range(0, last + 1, 2):  # the odd ones are the activations, which have no weights
            layers.append(_linear(path, weights, f"mlp_extractor.{net}.{number}", width))
            width = layers[-1].out_features
    action = _linear(path, weights, "action_net", width)
    if action.out_features != len(spec.actions):
        raise ImportSb3Error(
            f"{path.name}: action_net gives {action.out_features} numbers, {spec.name} has {len(spec.actions)} "
            "actions: train on the strategy's own environment (training.make_env)"
        )
    head = FlatPolicy(layers, action, activation, acts=spec.continuous)
    return head if lstm is None else ImportedLstmPolicy(lstm, head, spec.recurrent_shape or ())


def _linear(path: Path, weights: dict[str, Tensor], name: str, width: int) -> nn.Linear:
    """The layer called `name`, which must read `width` values."""
    weight, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
    shape, found = (None if tensor is None else tuple(tensor.shape) for tensor in (weight, bias))
    if weight is None or bias is None or shape is None or shape[1:] != (width,) or found != shape[:1]:
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
    recurrent = found.get("weight_hh_l0")
    units, layers = recurrent.shape[-1] if recurrent is not None and recurrent.dim() else 0, len(found) // 4
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
