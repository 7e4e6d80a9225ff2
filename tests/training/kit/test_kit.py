"""The calls of the façade `training`: what they give is what the pipeline, the store and other libraries say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pandas as pd
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from torch import nn

import training
from strategies.registry import STRATEGIES
from tests.support.models.tested_desk import desk_config_of
from tests.support.paths import REPOSITORY
from training.gym import OptionScalperEnv
from training.study.study import as_metrics

STORE = REPOSITORY / "onnx_models"
SCALPER = "2024-12-04-ef2af89f"


def test_an_environment_by_name_is_the_registered_one() -> None:
    env = training.make_env("option_scalper", split="test")
    environment = gymnasium.make(
        "rltrader/OptionScalper-v0", bars=training.bundled_bars("option_scalper"), split="test"
    )
    assert type(env) is OptionScalperEnv
    check_env(env, skip_render_check=True)
    for one in (env, environment.unwrapped):
        observation, info = one.reset(seed=3)
        after = one.step(np.int64(1))
        assert observation.tobytes() == env.reset(seed=3)[0].tobytes()
        assert after[1] == env.step(np.int64(1))[1]
        assert info["session"] in training.folds("option_scalper")[0].test


def test_each_seat_of_a_vector_plays_what_a_single_environment_plays() -> None:
    many = training.make_vec("option_scalper", 3).reset(seed=5)[0]
    for place in range(3):
        one = training.make_env("option_scalper").reset(seed=5 + place)[0]
        assert one.tobytes() == many[place].tobytes()


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: training.make_env("option_scaler"), ValueError, "did you mean 'option_scalper'"),
        (lambda: training.make_env("online_dqn"), ValueError, "online_dqn has no environment.*expected option_scalper"),
        (lambda: training.make_env("option_scalper", "gone.csv"), training.TapeError, "gone.csv: no such file"),
        (lambda: training.make_env("option_scalper", split="val"), ValueError, "expected one of train, validate, test"),
        (lambda: training.load_report("gone"), ValueError, "gone is not there: give the folder of a finished run"),
        (lambda: training.load_study(STORE), ValueError, "study.json is not there"),
        (lambda: training.load_metrics(STORE), ValueError, "holds no run.json"),
        (lambda: training.load_ledger(STORE), training.LedgerError, "no ledger here"),
        (lambda: training.load_version(STORE, "option_scalper", "x"), ValueError, "version x cannot be read"),
        (lambda: training.export_policy(3, "option_scalper", "b", "s"), ValueError, "the policy is a int"),
        (lambda: training.export_policy(nn.Flatten(), "online_dqn", "b", "s"), ValueError, "takes no policy"),
        (lambda: training.train("option_scalper", "b", "s", steps=0), ValueError, "steps is 0: expected"),
        (lambda: training.train("option_scalper", "b", "s", seeds=()), ValueError, "seeds are none"),
        (lambda: training.train("option_scalper", "b", "s", foo=1), ValueError, "there is no setting 'foo'"),
        (lambda: training.train("option_scalper", "b", "s", preset="fast"), ValueError, "preset is called 'fast'"),
    ],
)
def test_what_cannot_be_is_refused_with_its_cure(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_bars_are_those_that_pandas_reads() -> None:
    path = training.bundled_bars("daily_rebalancer")
    bars, read = training.load_bars(path), pd.read_csv(path, comment="#")
    assert len(bars) == len(read)
    frame = bars.frame().reset_index()
    spy, expected = bars.of("SPY"), read[read["symbol"] == "SPY"]
    assert spy.close.tolist() == expected["close"].tolist()
    assert spy.start_ns.tolist() == expected["timestamp"].tolist()
    assert set(bars.symbols) == set(read["symbol"])
    assert frame["volume"].sum() == read["volume"].sum()
    assert (np.diff(bars.start_ns) >= 0).all()
    with pytest.raises(ValueError, match="no bar of 'SPX'"):
        bars.of("SPX")


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_a_stored_policy_gives_the_golden_answers_of_its_manifest(name: str) -> None:
    policy = training.load_policy(STORE, name)
    golden, shape = policy.version.manifest.golden, policy.spec.observation_shape
    state = None
    for data, logits in zip(golden.observations, golden.logits, strict=True):
        observations = np.frombuffer(data, np.float32).reshape(-1, *shape)
        actions, state = policy.predict(observations, state)
        expected = np.array(logits).reshape(len(observations), -1)
        if state is None:
            assert np.abs(policy.answers(observations).reshape(expected.shape) - expected).max() < 1e-4
        if policy.spec.continuous:
            assert np.abs(actions.reshape(expected.shape) - expected).max() < 1e-4
        else:
            assert actions.tolist() == expected.argmax(axis=1).tolist()


def test_a_stored_policy_takes_one_observation_or_several_and_its_memory_back() -> None:
    policy = training.load_policy(STORE, "regime_switcher")
    observations = np.random.default_rng(1).normal(size=(2, 64)).astype(np.float32)
    _, state = policy.predict(observations)
    single, of_one = policy.predict(observations[0])
    assert np.array_equal(of_one[0], state[0])
    assert single == policy.predict(observations)[0][0]
    again, fresh = policy.predict(observations, state, episode_start=np.array([True, False]))
    assert np.array_equal(fresh[0], state[0])  # begun anew
    assert again[0] == single
    with pytest.raises(ValueError, match=r"the observation has the shape \(3,\), expected \(64,\)"):
        policy.predict(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="deterministic is False"):
        policy.predict(observations, deterministic=False)


def test_a_version_earns_on_its_test_sessions_what_its_manifest_states(data_dir: Path, tmp_path: Path) -> None:
    bars = data_dir / "etf_daily_2010_2022.parquet"
    for version in sorted(path.name for path in (STORE / "regime_switcher").glob("2022-*")):
        manifest = training.load_version(STORE, "regime_switcher", version).manifest
        config, metrics = desk_config_of(manifest, tmp_path), manifest.metrics["test"]
        evaluation = training.evaluate_version(STORE, "regime_switcher", bars, version, config=config)
        assert {name: as_metrics(evaluation.figures)[name] for name in metrics} == metrics


def test_the_passive_version_plays_by_its_own_size_of_an_action(data_dir: Path, tmp_path: Path) -> None:
    (version,) = (path.name for path in (STORE / "daily_rebalancer").glob("*passive*"))
    bars = data_dir / "stocks_daily_2010_2022.parquet"
    manifest = training.load_version(STORE, "daily_rebalancer", version).manifest
    config, metrics = desk_config_of(manifest, tmp_path), manifest.metrics["test"]
    evaluation = training.evaluate_version(STORE, "daily_rebalancer", bars, version, config=config)
    assert as_metrics(evaluation.figures)["net_return"] == metrics["net_return"]


def test_a_model_of_stable_baselines3_comes_back_from_the_store_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bars = training.bundled_bars("option_scalper")
    model = PPO("MlpPolicy", training.make_env("option_scalper"), n_steps=64, seed=1).learn(64)
    outcome = training.export_policy(model, "option_scalper", bars, "store")
    policy = training.load_policy("store", "option_scalper", outcome.version.name)

    def earned(player: Any) -> Any:
        test = training.make_env("option_scalper", bars, "test")
        test.reset(seed=1)  # the sessions that are drawn
        return evaluate_policy(player, test, 2, warn=False)

    assert earned(policy) == earned(model)
    assert training.load_report(outcome.run_folder).imported
    (row,) = training.compare_runs([outcome.version])
    assert row["net_return"] == outcome.findings.policy.figures.net_return
    assert {line.study for line in training.load_ledger("store/option_scalper")} == {outcome.run_folder.name}


def test_a_module_whose_answers_do_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    bars = training.bundled_bars("option_scalper")
    for policy, words in (
        (nn.Linear(3, 2), "takes no observations of option_scalper"),
        (nn.Sequential(nn.Flatten(), nn.Linear(460, 5)), r"answers \(2, 5\) to two observations"),
    ):
        with torch.random.fork_rng(), pytest.raises(ValueError, match=words):
            training.export_policy(policy, "option_scalper", bars, tmp_path / "store")
    assert not (tmp_path / "store").exists()
