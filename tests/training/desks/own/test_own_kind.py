"""Training a strategy of one's own: the desk as an environment, and hooks for reward, network and environment."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import gymnasium
import msgspec
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import NormalizeReward
from torch import Tensor

from daemon.cli import ctl
from daemon.core.strategy_rules import trading_for
from strategies import option_scalper, regime_switcher
from strategies.kit.manifest import MANIFEST_FILE, decode
from strategies.registry import add
from tests.support.own.files import HOOKS, forgotten_again, write_strategy
from tests.support.toy.strategy import SPEC
from tests.support.training.made_up_days import days, write_days
from training.cli.main import main
from training.desks.kind import EnvSettings, Span
from training.desks.own.environment import GymEnvironments
from training.desks.own.kind import own_kind
from training.desks.own.sessions import walk_of
from training.desks.registry import kind
from training.evaluate.players import CERTAIN, choosing
from training.kit.environments import own_env

KINDS = (("session", "shares"), ("bar", "shares"), ("bar", "option"))


class SeenTwice(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Sees everything twice."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = Box(-np.inf, np.inf, (2 * prod(env.observation_space.shape or ()),), np.float32)

    def observation(self, observation: Any) -> Any:
        """See `ObservationWrapper`."""
        return np.tile(observation.ravel(), 2)


class Fewer(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Lacks the last action."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.action_space = Discrete(3)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A written package of each kind, known to the registry."""
    folder = tmp_path_factory.mktemp("packages")
    with forgotten_again() as patch:
        patch.chdir(folder)
        for cadence, holds in KINDS:
            assert ctl.main(["new-strategy", f"env_{cadence}_{holds}", "--cadence", cadence, "--holds", holds]) == 0
            add(f"env_{cadence}_{holds}/env_{cadence}_{holds}.py")
        yield folder


def loaded(packages: Path, name: str) -> Any:
    """The package's tape made ready."""
    return kind(name).load(packages / name / "tape.csv.gz", trading_for(name))


@pytest.mark.parametrize(("cadence", "holds"), KINDS)
def test_the_environment_earns_what_the_dry_run_earns_with_the_same_actions(
    packages: Path, cadence: str, holds: str
) -> None:
    data = loaded(packages, f"env_{cadence}_{holds}")
    dates = tuple(data.days)[:3] if cadence == "bar" else tuple(data.days)[:20]
    span = Span(dates, "", data.trading)
    env, generator = data.desk_env(span), np.random.default_rng(3)
    actions: list[int] = []
    earned = []
    for episode in range(len(dates) if cadence == "bar" else 1):
        env.reset(options={"episode": episode})
        over, before = False, float(data.trading.paper.cash_usd)
        equity = before
        while not over:
            action = (
                actions[-1] if actions and generator.random() < 0.9 else int(generator.integers(env.action_space.n))
            )
            actions.append(action)
            _, _, over, _, info = env.step(action)
            equity = info["equity_usd"]
        earned.append(equity - before)
    again = iter(actions)

    def player(observations: Tensor) -> Tensor:
        return CERTAIN * torch.nn.functional.one_hot(torch.tensor([next(again)]), env.action_space.n).float()

    play = data.play(player, span)
    assert next(again, None) is None
    profits = [session.pnl_usd for session in play.sessions]
    assert sum(profits) == pytest.approx(sum(earned), abs=0.01)
    assert any(profits)
    if cadence == "bar":  # each session is alone: what traded held something, and the other way round
        assert [s.premium_usd > 0.0 for s in play.sessions] == [s.trades > 0 for s in play.sessions]
        assert [0 < s.held_min <= 390 for s in play.sessions] == [s.trades > 0 for s in play.sessions]
    assert sum(session.held_min for session in play.sessions) > 0


@pytest.mark.parametrize(("cadence", "holds"), KINDS)
def test_one_account_goes_through_two_spans_and_begins_as_the_first_of_them_alone(
    packages: Path, cadence: str, holds: str
) -> None:
    data = loaded(packages, f"env_{cadence}_{holds}")
    dates = tuple(data.days)[:4]
    first, second = (Span(part, "", data.trading) for part in (dates[:2], dates[2:]))
    player = choosing(1, len(data.spec.actions))
    result = data.relay([player, player], [first, second])
    sessions = [session for fold in result.folds for session in fold.sessions]
    assert tuple(session.date for session in sessions) == dates
    assert sessions[0].pnl_usd == data.play(player, first).sessions[0].pnl_usd != 0.0
    equity = float(data.trading.paper.cash_usd)
    for session in sessions:
        assert session.capital_usd == pytest.approx(equity, abs=0.01)
        equity += session.pnl_usd


def test_environments_go_on_from_a_state_as_if_they_had_not_stopped(packages: Path) -> None:
    data = loaded(packages, "env_session_shares")
    span = Span(tuple(data.days)[:40], "", data.trading)

    def new_environments() -> GymEnvironments:
        environments = data.environment(span, EnvSettings(count=2, seed=5, discount=0.99, device="cpu"))
        assert isinstance(environments, GymEnvironments)
        return environments

    generator = torch.Generator().manual_seed(1)
    actions = [torch.randint(4, (2,), generator=generator) for _ in range(70)]
    one = new_environments()
    for action in actions[:50]:
        one.step(action)
    other = new_environments()
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.observe(), other.observe())
    ends = 0
    for action in actions[50:]:
        step, other_step = one.step(action), other.step(action)
        assert torch.equal(step.rewards, other_step.rewards)
        ends += int(step.terminals.sum())
        assert torch.equal(one.observe(), other.observe())


def exported(*command: str) -> Path:
    """Run `train-and-export` in this process; returns the version's folder."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*command, "--processes", "1"])
    assert code == 0, err.getvalue()
    return Path(out.getvalue().strip().splitlines()[-1])


def test_an_own_reward_network_and_environment_are_what_ppo_trains_with(tmp_path: Path) -> None:
    after = "STRATEGY = STRATEGY._replace(training='hooks:KIND')\n"
    write_strategy(tmp_path / "mine_hooked.py", "mine_hooked", after=after)
    (tmp_path / "hooks.py").write_text(HOOKS)
    tape = write_days(tmp_path / "spy.csv", ("SPY",), days("2024-01-02", "2024-12-31", 40))
    with forgotten_again():
        arguments = ("--strategy", str(tmp_path / "mine_hooked.py"), "--bars", str(tape))
        version = exported(*arguments, "--models-dir", str(tmp_path / "store"), "--run-dir", str(tmp_path / "run"))
        import hooks  # type: ignore[import-not-found]

        assert hooks.USED["environment"] == 3  # one is tried first
        assert hooks.USED["reward"] > 64
        assert hooks.USED["network"] >= 1
    manifest = decode((version / MANIFEST_FILE).read_bytes())
    assert manifest.strategy == "mine_hooked"
    weights = msgspec.json.encode(manifest.hyperparameters).decode()
    assert "own" in weights


NO_ENVIRONMENTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "NormalizeReward": (NormalizeReward, "does not repeat an episode of one seed and the same actions"),
    "nothing": (lambda _: None, "is NoneType, expected a gymnasium.Env"),
    "observations": (SeenTwice, r"observations of shape \(8,\) .* expected those of the spec: \(4,\)"),
    "actions": (Fewer, r"the actions Discrete\(3\), expected .* Discrete\(4\)"),
}


@pytest.mark.parametrize("made", NO_ENVIRONMENTS)
def test_an_environment_with_which_no_stopped_training_can_go_on_or_of_other_spaces_is_refused(
    packages: Path, made: str
) -> None:
    data = loaded(packages, "env_session_shares")
    span = Span(tuple(data.days)[:40], "", data.trading)
    wrapper, error = NO_ENVIRONMENTS[made]
    other = replace(data, hooks=data.hooks._replace(environment=lambda data, span: wrapper(data.desk_env(span))))
    with pytest.raises(ValueError, match=f"the environment of env_session_shares .*{error}"):
        other.environment(span, EnvSettings(count=2, seed=5, discount=0.99, device="cpu"))


def test_whether_an_environment_repeats_is_tried_once_and_not_for_each_trial(packages: Path) -> None:
    data, made = loaded(packages, "env_session_shares"), []
    span = Span(tuple(data.days)[:40], "", data.trading)

    def environment(data: Any, span: Span) -> Any:
        made.append(span)
        return data.desk_env(span)

    other = replace(data, hooks=data.hooks._replace(environment=environment))
    for seed in (1, 2, 3):
        other.environment(span, EnvSettings(count=2, seed=seed, discount=0.99, device="cpu"))
    assert len(made) == 1 + 3 * 2  # one that is tried, and two of each trial


@pytest.mark.parametrize("reward", [None, float("nan"), float("inf"), np.ones(2), "much"], ids=str)
def test_a_reward_that_is_no_finite_number_is_named(packages: Path, reward: Any) -> None:
    data = loaded(packages, "env_session_shares")
    span = Span(tuple(data.days)[:5], "", data.trading)
    env = replace(data, hooks=data.hooks._replace(reward=lambda _: reward)).desk_env(span)
    env.reset(seed=1)
    with pytest.raises(ValueError, match=re.escape(f"a reward is {reward!r}, expected a finite number")):
        env.step(0)


def test_stable_baselines3_trains_on_the_desk_and_its_model_is_imported(packages: Path, tmp_path: Path) -> None:
    from gymnasium.utils.env_checker import check_env
    from stable_baselines3 import PPO

    folder = packages / "env_session_shares"
    env = own_env("env_session_shares", folder / "tape.csv.gz")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a raw observation has no limits
        check_env(env, skip_render_check=True)
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1, seed=1, device="cpu")
    model.learn(32)
    model.save(tmp_path / "model.zip")
    arguments = ("--strategy", "env_session_shares", "--bars", str(folder / "tape.csv.gz"))
    store = ("--models-dir", str(tmp_path / "store"), "--run-dir", str(tmp_path / "run"))
    version = exported(*arguments, *store, "--import-sb3", str(tmp_path / "model.zip"))
    manifest = decode((version / MANIFEST_FILE).read_bytes())
    assert (manifest.strategy, manifest.actions) == ("env_session_shares", ("CASH", "SPY", "QQQ", "BOTH"))
    assert "imported" in msgspec.json.encode(manifest.hyperparameters).decode()


def test_of_a_rule_no_training_is_searched_or_compared() -> None:
    own_kind(SPEC).check_trained("search")
    with pytest.raises(ValueError, match=f"search is not for {SPEC.name}: its policy is a rule"):
        own_kind(SPEC, rule=lambda observation: observation).check_trained("search")


def test_a_policy_of_another_shape_is_refused_with_the_names_of_the_actions(packages: Path) -> None:
    data = loaded(packages, "env_session_shares")
    span = Span(tuple(data.days)[:3], "", data.trading)
    expected = r"with \(2, 3\), expected a tensor of shape \(2, 4\): one number for each of CASH, SPY, QQQ, BOTH"
    with pytest.raises(ValueError, match=expected):
        data.play(torch.nn.Linear(4, 3), span)


def test_a_training_object_that_is_not_there_or_of_another_strategy_is_refused(tmp_path: Path) -> None:
    with forgotten_again():
        other = write_strategy(tmp_path / "mine_other.py", "mine_other")
        with pytest.raises(
            ValueError, match=r"training='tests.support.toy.desk:KIND' .* expected a TrainingKind of mine_other"
        ):
            kind(add(str(other)))
        after = "STRATEGY = STRATEGY._replace(training='')\n"
        without = write_strategy(tmp_path / "mine_without.py", "mine_without", after=after)
        with pytest.raises(ValueError, match=r"mine_without cannot be trained yet: name its `TrainingKind` in its"):
            kind(add(str(without)))
        after = "STRATEGY = STRATEGY._replace(training='no_such_training:KIND')\n"
        path = write_strategy(tmp_path / "mine_lost.py", "mine_lost", after=after)
        with pytest.raises(ValueError, match=r"ModuleNotFoundError: No module named 'no_such_training'"):
            kind(add(str(path)))


def test_the_look_back_lies_between_spans_in_sessions() -> None:
    bars = msgspec.structs.replace(option_scalper.SPEC, history_bars=391)  # one bar more than a session has
    assert walk_of(bars).purge == 22  # the volatility of options looks back further
    assert walk_of(msgspec.structs.replace(bars, history_bars=390 * 30)).purge == 31
    daily = walk_of(regime_switcher.SPEC)
    assert (daily.purge, daily.years) == (253, True)
