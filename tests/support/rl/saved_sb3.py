"""Models saved by the real Stable-Baselines3 for an environment in which nothing happens, and their zips rewritten."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from msgspec.structs import replace
from stable_baselines3 import PPO
from stable_baselines3.common.distributions import Distribution
from torch import Tensor, nn
from torch.distributions import Categorical

from strategies.option_scalper import SPEC, OptionScalper

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

    spec = replace(SPEC, recurrent_shape=(2, 2, 8))


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


def stored(content: object) -> bytes:
    """What torch.save writes."""
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()
