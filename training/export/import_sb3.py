"""A policy trained by Stable-Baselines3 (`model.save("model.zip")`), read as a module that this package exports.

The file is read by `sb3_file`, the module is built by `sb3_network`. Invariant: what is not understood in full is
refused, with the reason and the cure, and golden outputs of the original prove what the file does not contain.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from strategies.kit.contract import AnyStrategy, Spec
from strategies.registry import strategy as registered
from training.export.sb3_file import ImportSb3Error, members_of, plain_of, refuse_normalised, weights_of
from training.export.sb3_network import FlatPolicy, ImportedLstmPolicy, built, in_sequence

__all__ = ["ACTIVATIONS", "ImportSb3Error", "ImportedPolicy", "check_golden", "import_sb3", "read_sb3"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "leakyrelu": nn.LeakyReLU}
"""By the last part of the class's name in small letters. Tanh is the default of Stable-Baselines3's MlpPolicy."""
HYPERPARAMETERS = (
    "learning_rate", "n_steps", "batch_size", "n_epochs", "n_envs", "gamma", "gae_lambda", "ent_coef", "vf_coef",
    "max_grad_norm", "normalize_advantage", "target_kl", "num_timesteps", "seed",
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
    """Read the policy of a PPO or A2C `MlpPolicy`, or of a RecurrentPPO `MlpLstmPolicy`, for `strategy`.

    Of a continuous strategy its answer is the mean action, clipped to [-1, 1], as the original's own prediction is.

    The value network is dropped. The weights do not show the activation; it is the `activation` given, else the name
    that the file has as plain text in its `policy_kwargs`, else Tanh, the default of Stable-Baselines3. That name is
    only a text in the file, so prove the import on outputs of the original, see `check_golden`.

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
    kind = _activation(path, plain, activation)
    module = built(path, weights, strategy.spec, ACTIVATIONS[kind])
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
    memory saw the observations one after the other from the zero state. A continuous one has `actions` in place of
    `logits`: `model.predict(observations, deterministic=True)[0]`.

    Raises:
        ImportSb3Error: the file has no such arrays, or a log-probability or an action differs by more than 1e-5.
    """
    acts = isinstance(module, FlatPolicy) and module.acts
    try:
        with np.load(golden, allow_pickle=False) as arrays:
            names = ("observations", "actions" if acts else "logits")
            observations, given = (torch.from_numpy(arrays[name]).float() for name in names)
        with torch.no_grad():
            found = (
                in_sequence(module, observations) if isinstance(module, ImportedLstmPolicy) else module(observations)
            )
        pair = (found.double(), given.double())
        one, other = pair if acts else (torch.log_softmax(each, dim=1) for each in pair)
        difference = float((one - other).abs().max())
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
    """The spaces as the file states them in plain."""
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
    given = acted if isinstance(acted, dict) else {}
    low, high = (", ".join(sorted(set(re.findall(r"[^\s\[\]]+", str(given.get(name)))))) for name in ("low", "high"))
    if (given.get("_shape"), low, high) != ([len(spec.actions)], "-1.", "1."):
        raise ImportSb3Error(
            f"{path.name}: the action space is {given.get(':type:', acted)} of shape {given.get('_shape')} from {low} "
            f"to {high}, {spec.name} has a Box of {len(spec.actions)} from -1.0 to 1.0: train on the strategy's own "
            "environment (training.make_env)"
        )


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
    if isinstance(stated, dict) and stated.get("squash_output"):
        raise ImportSb3Error(f"{path.name}: policy_kwargs has squash_output, expected none: train without it")
    found = re.sub(r".*\.|\W", "", text).lower() or None
    chosen = given or found or "tanh"
    if chosen not in ACTIVATIONS or (given and found and given != found):
        asked = f", {given} was asked for" if given else ""
        raise ImportSb3Error(
            f"{path.name}: the activation is {text or 'not stated'}{asked}; expected one of {', '.join(ACTIVATIONS)}, "
            "the same in both places: leave `activation` out, or train with one of these"
        )
    return chosen


def _is_number(value: object) -> bool:
    """None, or a number that a manifest can hold."""
    return value is None or (isinstance(value, int | float) and abs(value) < 2**63)
