"""SAC trained by RLlib: runners of a Ray cluster step the environments, this process learns.

It takes the place of `OffPolicyTrainer` with an agent "sac": the same coefficients, networks and answers. What differs
is RLlib's: episodes in place of rows, a Huber loss of the critics, an actor that moves at every gradient step, and no
uniform actions at the start. A stopped trainer begins anew, because RLlib's runners do not expose their state.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.rl.coefficients import NotFiniteError
from training.rl.dimensions import whole_rollouts
from training.rl.off_policy.coefficients import OffPolicyCoefficients, OffPolicyProgress, check_off_policy
from training.rl.off_policy.learner import Actor
from training.rl.protocols import Environment

# An environment of ours as gymnasium's vector environment, as RLlib steps it.
#
# RLlib expects an extra step between the last observation of an episode and the first of the next one, in which an
# action is ignored; ours begin anew at once, all rows together. In that step the row takes action 0, and the episode
# that RLlib sees begins after it.

Array = NDArray[Any]


class TensorVectorEnv(gymnasium.vector.VectorEnv[Array, Array, Array]):
    """Rows of one of our environments as gymnasium environments."""

    def __init__(self, make: Callable[[int], Environment], scaling: nn.Module, reward_scale: float) -> None:
        """Wrap the environment that `make` makes from a seed; `scaling` prepares each raw observation once."""
        self._make, self._scaling, self._scale = make, scaling, reward_scale
        self._environment = make(0)
        rows, width = self._prepared(self._environment.observe()).shape
        self.num_envs = rows
        self.metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float32)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, rows)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, rows)
        self._ended = torch.zeros(rows, dtype=torch.bool)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Array, dict[str, Any]]:
        """Make the environment anew with the runner's seed; without a seed the environment stays as it is."""
        super().reset(seed=seed, options=options)
        if seed is not None:
            self._environment = self._make(int(seed))
        self._ended = torch.zeros(self.num_envs, dtype=torch.bool)
        return self._seen(self._environment.observe()), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Step all rows; those whose episode ended in the last step begin a new one."""
        action_rows = torch.as_tensor(np.asarray(actions, dtype=np.float32)).reshape(self.num_envs, -1)
        step = self._environment.step(torch.where(self._ended.unsqueeze(1), 0.0, action_rows))
        nothing = torch.zeros(self.num_envs, dtype=torch.bool)
        restarted, truncated = self._ended, nothing if step.truncated is None else step.truncated
        rewards = torch.where(restarted, 0.0, step.rewards * self._scale)
        terminals, truncated = step.terminals & ~restarted, truncated & ~restarted
        observations = self._environment.observe()
        if step.last is not None:
            observations = torch.where(truncated.unsqueeze(1), step.last, observations)
        self._ended = terminals | truncated
        return self._seen(observations), rewards.numpy(), terminals.numpy(), truncated.numpy(), {}

    def _prepared(self, observations: Tensor) -> Tensor:
        with torch.no_grad():
            scaled: Tensor = self._scaling(observations)
        return scaled

    def _seen(self, observations: Tensor) -> Array:
        return self._prepared(observations).numpy().copy()


Make = Callable[[int, int], Environment]
"""(rows, seed) -> the environments of one runner; picklable. It may round rows to whole accounts."""
ACTOR = "pi.actor."  # where our actor stands in RLlib's module
PLACE = "rltrader"  # the environment's name in RLlib
NAMES = {"qf_loss": "critic loss", "qf_mean": "Q mean", "policy_loss": "actor loss", "alpha_value": "temperature"}


@dataclass(frozen=True, slots=True)
class Learnt:
    """The trained actor in the place of our own trainer's agent."""

    actor: Actor


class RllibSac:
    """Trains a SAC with RLlib, one `update` at a time; Ray is connected. `close` ends its runners."""

    def __init__(
        self,
        make: Make,
        coefficients: OffPolicyCoefficients,
        *,
        scaling: nn.Module | None,
        total_steps: int,
        seed: int,
        runners: int = 2,
    ) -> None:
        """Start the runners.

        Args:
            make: each runner has its part of `coefficients.environments` rows.
            scaling: raw observations to prepared ones; it becomes a part of the exported actor.

        Raises:
            ValueError: a coefficient that RLlib does not support.
        """
        check_off_policy(coefficients, "float32")
        if coefficients.schedule not in {"constant", "linear"}:
            raise ValueError(f"schedule is {coefficients.schedule!r}: RLlib is given constant or linear ones")
        self.coefficients = c = coefficients
        self.updates, self.gradient_steps, self.steps = 0, 0, 0
        self.total_updates = whole_rollouts(total_steps, c.round_transitions)
        self._rate = c.learning_rate
        rows, prepare = -(-c.environments // runners), scaling or nn.Identity()

        def environment(_context: Any) -> TensorVectorEnv:
            return TensorVectorEnv(functools.partial(make, rows), prepare, c.reward_scale)

        place = environment(None)
        inputs = place.single_observation_space.shape
        assert inputs is not None
        self.agent = Learnt(
            Actor(inputs[0], c.actor_widths, seed=seed, spread=True, normalised=c.normalised, scaling=scaling)
        )
        for name in ("ray.rllib", "ray.tune", "ray._common"):
            logging.getLogger(name).setLevel(logging.ERROR)  # deprecation warnings about RLlib's own code
        config = _config(c, place, environment, runners, self.total_updates * c.round_transitions, seed)
        self._algorithm = config.algo_class(config=config)

    @property
    def done(self) -> bool:
        """Whether all updates are done."""
        return self.updates >= self.total_updates

    def update(self) -> OffPolicyProgress:
        """Let the runners take `round_transitions` more steps, then take the gradient steps that became due.

        Raises:
            NotFiniteError: a loss was not finite.
        """
        result: dict[str, Any] = {}
        while self.steps < (self.updates + 1) * self.coefficients.round_transitions:
            result = self._algorithm.train()
            self.steps = int(result["env_runners"]["num_env_steps_sampled_lifetime"])
        learnt = result.get("learners", {}).get("default_policy", {})
        figures = {ours: float(learnt[name]) for name, ours in NAMES.items() if name in learnt}
        for name, value in figures.items():
            if not math.isfinite(value):
                raise NotFiniteError(self.updates, 0, name, value)
        trained = learnt.get("num_module_steps_trained_lifetime", 0.0)
        self.gradient_steps = round(trained / self.coefficients.batch)
        self.updates += 1
        self.agent.actor.load_state_dict(self.weights(), strict=False)  # no scaling: RLlib's rows are prepared
        ratio = self.gradient_steps / self.steps
        reward = _mean_reward(result["env_runners"]) / self.coefficients.reward_scale
        return OffPolicyProgress(self.steps, self.updates, self.gradient_steps, reward, self._rate, ratio, figures)

    def weights(self) -> dict[str, Any]:
        """The layers of the actor as RLlib has learnt them."""
        learnt = self._algorithm.learner_group.get_weights()["default_policy"]
        actor_weights = {name: value for name, value in learnt.items() if name.startswith(ACTOR)}
        return {name.removeprefix(ACTOR): torch.as_tensor(value) for name, value in actor_weights.items()}

    def close(self) -> None:
        """End the runners."""
        folder = Path(self._algorithm.logdir)  # remove the folder that RLlib makes and leaves empty
        self._algorithm.stop()
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()  # unless others are there


def _mean_reward(result: dict[str, Any]) -> float:
    """The mean reward of a step in the last episodes that ended; 0 before one has."""
    earned, steps = (float(result.get(name, math.nan)) for name in ("episode_return_mean", "episode_len_mean"))
    return earned / steps if math.isfinite(earned) and steps > 0.0 else 0.0


def _config(
    c: OffPolicyCoefficients, place: TensorVectorEnv, environment: Callable[[Any], Any], runners: int, total: int,
    seed: int,
) -> Any:  # fmt: skip
    """RLlib's configuration of the same recipe."""
    sac: Any = importlib.import_module("ray.rllib.algorithms.sac")
    specs: Any = importlib.import_module("ray.rllib.core.rl_module.rl_module")
    module: Any = importlib.import_module("training.rl.rllib.module")
    rate = c.learning_rate if c.schedule == "constant" else [[0, c.learning_rate], [total, 0.0]]
    importlib.import_module("ray.tune.registry").register_env(PLACE, environment)
    rows = place.num_envs
    steps = max(1, c.per_transitions // (rows * runners))  # transitions between two rounds of gradient steps
    model_config = {
        "seed": seed, "normalised": c.normalised, "actor_widths": c.actor_widths, "critic_widths": c.critic_widths,
    }  # fmt: skip
    return (
        sac.SACConfig()
        .environment(
            env=PLACE, observation_space=place.single_observation_space, action_space=place.single_action_space,
            disable_env_checking=True,
        )
        .env_runners(
            num_env_runners=runners, num_envs_per_env_runner=rows, rollout_fragment_length=steps,
            gym_env_vectorize_mode="vector_entry_point", num_cpus_per_env_runner=1,
        )
        .learners(num_learners=0)
        .rl_module(rl_module_spec=specs.RLModuleSpec(module_class=module.SacModule, model_config=model_config))
        .training(
            gamma=c.discount, tau=c.smoothing, initial_alpha=c.temperature, target_network_update_freq=0,
            target_entropy="auto" if c.target_entropy is None else c.target_entropy, n_step=1,
            actor_lr=rate, critic_lr=rate, alpha_lr=rate, grad_clip=c.max_grad_norm, grad_clip_by="norm",
            train_batch_size_per_learner=c.batch,
            training_intensity=c.batch * c.gradient_steps / c.per_transitions * runners / (runners + 1),
            num_steps_sampled_before_learning_starts=c.learning_starts,
            replay_buffer_config={"type": "EpisodeReplayBuffer", "capacity": c.capacity},
        )
        .reporting(
            min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=0, min_train_timesteps_per_iteration=0
        )
        .debugging(seed=seed, log_level="ERROR")
    )  # fmt: skip
