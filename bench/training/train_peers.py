"""The other side of the benchmark of training: Stable-Baselines3 and sb3-contrib, with our networks and coefficients.

Torch is as it comes, but for the number of threads, and for `sb3_lifted`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from bench.training.train_work import Course, Noise, Rate, course, evaluated, market, measured, updates_between
from tests.support.planted.market import TensorVecEnv
from training.desks.scalper.network import FEATURE_VECTOR, FEATURES, IDENTITY, WINDOW, build
from training.rl.coefficients import Coefficients
from training.rl.kernels import use_fast_float32
from training.rl.process_group import ProcessGroup


class SameTrunk(BaseFeaturesExtractor):
    """Scaling and the trunk 460 -> 256 -> 128 -> 64 of our policy."""

    def __init__(self, space: gymnasium.spaces.Box) -> None:
        super().__init__(space, FEATURE_VECTOR)
        policy: Any = build("mlp", IDENTITY, 0).policy
        policy.actor = nn.Identity()
        self.policy = policy

    def forward(self, observations: Tensor) -> Tensor:
        """The feature vector (batch, 64)."""
        features: Tensor = self.policy.features(self.policy.prepare(observations))
        return features


class SameLstm(BaseFeaturesExtractor):
    """Scaling and an LSTM of two layers over the 20 rows, as torch has it: what anyone would write."""

    def __init__(self, space: gymnasium.spaces.Box) -> None:
        super().__init__(space, FEATURE_VECTOR)
        self.scaled = build("mlp", IDENTITY, 0).policy.prepare
        self.lstm = nn.LSTM(FEATURES, FEATURE_VECTOR, 2, batch_first=True)

    def forward(self, observations: Tensor) -> Tensor:
        """The last output (batch, 64)."""
        rows = self.scaled(observations).view(-1, WINDOW, FEATURES)
        outputs: Tensor = self.lstm(rows)[0][:, -1]
        return outputs


class SameEncoder(BaseFeaturesExtractor):
    """Linear 64 -> 128 and ReLU, what comes before the carried LSTM."""

    def __init__(self, space: gymnasium.spaces.Box) -> None:
        super().__init__(space, 128)
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU())

    def forward(self, observations: Tensor) -> Tensor:
        """Float32 (batch, 128)."""
        outputs: Tensor = self.encoder(observations)
        return outputs


def sb3(where: str, extractor: type[BaseFeaturesExtractor], c: Coefficients, threads: int, seed: int = 1) -> PPO:
    """Stable-Baselines3's PPO with our network and these coefficients, torch as it comes."""
    torch.set_num_threads(threads)
    kwargs = {
        "features_extractor_class": extractor,
        "net_arch": {"pi": [32], "vf": [32]},
        "activation_fn": nn.ReLU,
    }
    place = TensorVecEnv(market(where, c.environments, seed, c.discount), c.environments)
    return PPO("MlpPolicy", place, policy_kwargs=kwargs, seed=seed, device="cpu", **_named(c))


def _named(c: Coefficients) -> dict[str, Any]:
    return {
        "learning_rate": c.learning_rate,
        "n_steps": c.rollout_steps,
        "batch_size": c.batch,
        "n_epochs": c.epochs,
        "gamma": c.discount,
        "ent_coef": c.entropy,
    }


def _learned(model: PPO | RecurrentPPO, updates: int = 1) -> int:
    """Steps done so far, after some more updates."""
    steps_per_update = model.n_steps * model.n_envs
    model.learn(updates * steps_per_update, reset_num_timesteps=False)
    return int(model.num_timesteps)


def sb3_speed(where: str, extractor: type[BaseFeaturesExtractor], c: Coefficients, windows: int, threads: int) -> Rate:
    """Whole updates, rollout included."""
    return _speed(sb3(where, extractor, c, threads), windows)


def sb3_lifted(c: Coefficients, windows: int, threads: int) -> Rate:
    """The same with the kernels that ours uses, which nobody gets by installing it."""
    use_fast_float32()
    return sb3_speed("planted", SameTrunk, c, windows, threads)


def recurrent_speed(c: Coefficients, windows: int, threads: int) -> Rate:
    """sb3-contrib's RecurrentPPO at the shape of `regime_switcher`."""
    torch.set_num_threads(threads)
    kwargs = {
        "features_extractor_class": SameEncoder,
        "lstm_hidden_size": 128,
        "shared_lstm": True,
        "enable_critic_lstm": False,
        "net_arch": [],
    }
    place = TensorVecEnv(Noise(c.environments), c.environments, (64,), 16)
    model = RecurrentPPO("MlpLstmPolicy", place, policy_kwargs=kwargs, seed=1, device="cpu", **_named(c))
    return _speed(model, windows)


def _speed(model: PPO | RecurrentPPO, windows: int, cap_s: float = float("inf")) -> Rate:
    def work() -> int:
        steps_before = model.num_timesteps
        return _learned(model) - steps_before

    return measured(work, windows, cap_s=cap_s)


def sb3_course(c: Coefficients, threads: int, seed: int, steps: int, look_steps: int, cap_s: float) -> Course:
    """Train on the planted market until the score; evaluations are not timed."""
    model = sb3("planted", SameTrunk, c, threads, seed)

    def acting(observations: Tensor) -> Tensor:
        return model.policy.get_distribution(observations).mode()

    return course(
        partial(_learned, model, updates_between(c, look_steps)),
        lambda: evaluated(acting),
        steps,
        ProcessGroup(),
        cap_s=cap_s,
    )
