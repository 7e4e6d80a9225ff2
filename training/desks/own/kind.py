"""The training object of a user's own strategy: `own_kind(SPEC)` and its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
from torch import Tensor, nn

from daemon.core.limits import Trading
from strategies.kit.contract import Spec
from strategies.registry import strategy as registered
from training.data.daily_table import read_table
from training.desks.kind import Span, TrainingKind
from training.desks.own.data import RANDOM, Hooks, OwnData, OwnDays, OwnMinutes, constant_players, learner
from training.desks.own.environment import Outcome, gain
from training.desks.own.sessions import minutes_of, walk_of
from training.desks.ppo import Ppo
from training.export.reference import Input, each_column
from training.rl.coefficients import Coefficients
from training.rl.presets import Preset

QUICK = Preset(
    "a first look: some minutes", 20_480, Coefficients(environments=16, rollout_steps=64, batch=256, epochs=4)
)


class Rule(nn.Module):
    """A policy that is a function of observations, without training."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, observation: Tensor) -> Tensor:
        """Logits, float32 (batch, actions)."""
        return self._function(observation)


def own_kind(
    spec: Spec,
    *,
    rule: Callable[[Tensor], Tensor] | None = None,
    reward: Callable[[Outcome], float] = gain,
    network: Callable[[Spec], nn.Module] | None = None,
    environment: Callable[[OwnData, Span], gymnasium.Env[Any, Any]] | None = None,
    presets: Mapping[str, Preset] | None = None,
    of_the_desk: tuple[str, ...] = (),
) -> TrainingKind:
    """Return the training object of a strategy; by default our PPO trains on the desk itself.

    Args:
        rule: the policy itself: observations, float32 (batch, *shape), to logits, float32 (batch, actions), or to
            actions in [-1, 1] for a continuous policy. Only torch operations that ONNX supports. Nothing is trained
            then.
        reward: function of what happened between two decisions; by default the change of the equity in percent.
        network: makes the policy, a module as `rule`; by default two layers of 64 units.
        environment: makes a gymnasium environment of the bars made ready and the sessions to train on; its spaces are
            those of the spec. By default the desk itself (`training.desks.own.environment.DeskEnv`).
        presets: steps and coefficients of PPO, the first is the default.
        of_the_desk: prefixes of the names of features that depend on the desk's holdings.
    """
    hooks = Hooks(reward, network, environment)
    return _kind(spec, hooks, rule, presets, of_the_desk, "")


def rule_kind(spec: Spec) -> TrainingKind:
    """The training object of a strategy whose own answer is the policy: the last numbers of its observation."""
    count = len(spec.actions)
    return own_kind(spec, rule=lambda observation: observation.flatten(1)[:, -count:], of_the_desk=spec.actions)


def _kind(
    spec: Spec,
    hooks: Hooks,
    rule: Callable[[Tensor], Tensor] | None,
    presets: Mapping[str, Preset] | None,
    of_the_desk: tuple[str, ...],
    config: str,
) -> TrainingKind:
    """The training object for parameters given as canonical text."""
    network, reward = hooks.network, hooks.reward
    descriptions = {name: f"Takes {name.removeprefix('always ')} at each decision." for name in constant_players(spec)}

    def policy(_network: str, seed: int, weights: Mapping[str, Any]) -> nn.Module:
        network = learner(spec, seed, hooks)
        network.load_state_dict(weights)
        return network.eval().policy

    return TrainingKind(
        strategy=spec.name,
        networks=("rule" if rule is not None else "own" if network is not None else "small",),
        variants=("own" if reward is not gain else "gain",),
        presets=presets or {"quick": QUICK},
        baselines=descriptions | {RANDOM: "Draws each action."},
        procedure=Ppo(lambda path, trading: load(spec.name, path, trading, hooks, config)),
        policy=policy,
        inputs=_inputs(spec, of_the_desk),
        walk=walk_of(spec),
        unusable=f"that warm the desk up ({spec.history_bars} bars, and of options the volatility)",
        compounds=spec.compounds,
        imports=True,
        rule=None if rule is None else lambda: Rule(rule),
        with_config=lambda text: _kind(registered(spec.name, (), text).spec, hooks, rule, presets, of_the_desk, text),
    )


def _inputs(spec: Spec, of_the_desk: tuple[str, ...]) -> tuple[Input, ...]:
    """The features of the newest row, one by one."""
    width = spec.observation_shape[-1]
    return each_column(spec, range(min(width, len(spec.features))), of_the_desk)


# Read a bars file for a strategy of one's own.


def load(name: str, path: Path, trading: Trading, hooks: Hooks, config: str = "") -> OwnDays | OwnMinutes:
    """Read a bars file for the strategy of this name, with the parameters of the canonical text `config`.

    Raises:
        TapeError, CalendarError: the file cannot be read; the text gives reason and cure.
        ValueError: the strategy is of a kind that is not trained here.
    """
    strategy: Any = registered(name, (), config)
    spec = strategy.spec
    if spec.rows_are_symbols or spec.recurrent_shape is not None:
        raise ValueError(f"{name} has rows of symbols or a memory: give it a TrainingKind of its own")
    return _LOADS[spec.decides](strategy, path, trading, hooks)


def _days(strategy: Any, path: Path, trading: Trading, hooks: Hooks) -> OwnDays:
    return OwnDays(read_table(path, strategy), strategy, trading, hooks)


def _minutes(strategy: Any, path: Path, trading: Trading, hooks: Hooks) -> OwnMinutes:
    minutes = minutes_of(path, strategy.spec, trading)
    return OwnMinutes(*minutes, strategy, trading, hooks)


_LOADS: dict[str, Callable[[Any, Path, Trading, Hooks], OwnDays | OwnMinutes]] = {"bar": _minutes, "session": _days}
