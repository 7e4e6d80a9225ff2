"""The daily environments against gymnasium's and Stable-Baselines3's own checks, and single against vector."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as check_for_sb3

from strategies import daily_rebalancer, regime_switcher
from tests.support.training.made_up_days import days, write_days
from training.gym import REGISTERED
from training.gym.daily import DailyEnv, DailyVectorEnv, funds_env, stocks_env, stocks_vector_env

STOCKS, FUNDS = "rltrader/DailyRebalancer-v0", "rltrader/RegimeSwitcher-v0"
DECIDED = 30  # sessions: 18 train, 6 validate, 6 test


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    home = tmp_path_factory.mktemp("files")
    specs = {STOCKS: daily_rebalancer.SPEC, FUNDS: regime_switcher.SPEC}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        yield {
            name: write_days(
                home / f"{spec.name}.csv",
                spec.symbols,
                days("2021-01-04", "2023-12-29", spec.history_bars + DECIDED),
            )
            for name, spec in specs.items()
        }


def _single(name: str, files: dict[str, Path], split: str = "train") -> DailyEnv:
    env = gymnasium.make(name, bars=files[name], split=split).unwrapped
    assert isinstance(env, DailyEnv)
    return env


@pytest.mark.parametrize("name", [STOCKS, FUNDS])
def test_the_checks_of_gymnasium_and_stable_baselines3_find_nothing(name: str, files: dict[str, Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(_single(name, files))
        check_for_sb3(_single(name, files))


def test_the_funds_are_the_users_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    five = ("SPY", "QQQ", "IWM", "TLT", "GLD")
    bars = write_days(tmp_path / "five.csv", five, days("2021-01-04", "2023-12-29", 252 + DECIDED))
    one = gymnasium.make(FUNDS, bars=bars, symbols=five)
    check_env(one.unwrapped)
    one.reset(seed=1)
    one.step(5)  # ALL_TLT of five
    observation, *_ = one.step(0)
    assert observation[15:21].tolist() == pytest.approx(
        [0.0, 0.0, 0.0, 0.0, 1.0, 0.0], abs=1e-6
    )  # cash, then the funds
    many = gymnasium.make_vec(FUNDS, num_envs=3, bars=bars, symbols=five)
    many.reset(seed=1)
    assert (many.step(np.array([5, 6, 1]))[0][:, 15:21].argmax(axis=1) == (4, 5, 0)).all()
    with pytest.raises(ValueError, match="expected each symbol once"):
        gymnasium.make(FUNDS, bars=bars, symbols=("SPY", "SPY"))


def test_the_spaces_are_those_of_the_contract(files: dict[str, Path]) -> None:
    stocks, funds = _single(STOCKS, files), _single(FUNDS, files)
    assert (stocks.observation_space.shape, funds.observation_space.shape) == ((803,), (64,))
    assert stocks.action_space == gymnasium.spaces.Box(-1.0, 1.0, (50,), np.float32)
    assert funds.action_space == gymnasium.spaces.Discrete(16)
    assert {STOCKS, FUNDS} < set(REGISTERED)


@pytest.mark.parametrize("name", [STOCKS, FUNDS])
def test_stable_baselines3_trains_on_it(name: str, files: dict[str, Path]) -> None:
    model = PPO("MlpPolicy", _single(name, files), n_steps=32, batch_size=32, n_epochs=1, device="cpu", seed=1)
    model.learn(64)
    assert model.num_timesteps == 64


def test_who_holds_cash_earns_nothing_until_the_split_is_over(files: dict[str, Path]) -> None:
    env = _single(STOCKS, files)
    _, info = env.reset(seed=1, options={"session": env.sessions[10]})
    assert info == {"equity_usd": 1_000_000.0, "session": env.sessions[10]}
    for place in range(11, 19):
        _, reward, terminated, truncated, info = env.step(np.zeros(50, dtype=np.float32))
        assert (reward, terminated, truncated) == (0.0, False, place == 18)
        assert info["equity_usd"] == 1_000_000.0
        if place < 18:
            assert info["session"] == env.sessions[place]
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step(np.zeros(50, dtype=np.float32))


def test_a_reward_is_the_change_of_value_in_ten_thousands_of_a_dollar(files: dict[str, Path]) -> None:
    env = _single(STOCKS, files)
    _, info = env.reset(seed=2)
    before = info["equity_usd"]
    for _ in range(2):
        _, reward, _, truncated, info = env.step(np.full(50, 0.5, dtype=np.float32))
        assert reward == pytest.approx((info["equity_usd"] - before) * 1e-4, rel=1e-5)
        assert reward != 0.0
        before = info["equity_usd"]
        if truncated:
            break


@pytest.mark.parametrize("name", [STOCKS, FUNDS])
def test_a_seed_gives_its_sessions_again(name: str, files: dict[str, Path]) -> None:
    env = _single(name, files)
    first = [env.reset(seed=5)[1]["session"], *(env.reset()[1]["session"] for _ in range(60))]
    again = [env.reset(seed=5)[1]["session"], *(env.reset()[1]["session"] for _ in range(60))]
    assert first == again
    sessions = set(env.sessions) if name == STOCKS else {env.sessions[0]}  # 18 sessions are no whole episode of funds
    assert set(first) <= sessions
    assert len(set(first)) >= len(sessions) - 3


@pytest.mark.parametrize("name", [STOCKS, FUNDS])
def test_the_vector_agrees_with_single_ones_step_by_step_also_over_an_episode_s_end(
    name: str, files: dict[str, Path]
) -> None:
    many = gymnasium.make_vec(name, num_envs=3, bars=files[name])
    assert isinstance(many, DailyVectorEnv)
    assert many.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    observations, infos = many.reset(seed=9)
    single = [_single(name, files) for _ in range(3)]
    for place, env in enumerate(single):
        alone, _ = env.reset(options={"session": infos["session"][place]})
        assert np.array_equal(alone, observations[place])
    many.action_space.seed(3)
    episode_ends = 0
    for _ in range(30):
        actions = many.action_space.sample()
        observations, rewards, terminals, truncations, infos = many.step(actions)
        assert not terminals.any()
        for place, env in enumerate(single):
            alone, reward, _, truncated, info = env.step(actions[place])
            assert (reward, truncated) == (float(rewards[place]), bool(truncations[place]))
            if truncated:
                episode_ends += 1
                assert np.array_equal(infos["final_obs"][place], alone)
                assert infos["final_info"]["equity_usd"][place] == info["equity_usd"]
                alone, info = env.reset(options={"session": infos["session"][place]})
            assert np.array_equal(alone, observations[place])
            assert (infos["equity_usd"][place], infos["session"][place]) == (info["equity_usd"], info["session"])
    assert episode_ends >= 3


def test_splits_are_those_of_our_own_training(files: dict[str, Path]) -> None:
    parts = [_single(FUNDS, files, name).sessions for name in ("train", "validate", "test")]
    assert [len(part) for part in parts] == [18, 6, 6]
    assert sorted(date for part in parts for date in part) == [date for part in parts for date in part]


def test_what_is_unknown_is_named_with_what_is_known(files: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="split is 'training', expected one of train, validate, test"):
        funds_env(files[FUNDS], "training")
    with pytest.raises(ValueError, match="called 'potential': expected account, shares, notional for daily_rebalancer"):
        stocks_env(files[STOCKS], variant="potential")
    with pytest.raises(ValueError, match=r"session is '2001-01-01'; expected one from .*: see env.sessions"):
        _single(FUNDS, files).reset(options={"session": "2001-01-01"})
    with pytest.raises(ValueError, match="choose a session in a single environment"):
        stocks_vector_env(2, files[STOCKS]).reset(options={"sessions": []})


@pytest.mark.parametrize(("name", "action"), [(STOCKS, np.ones(50, np.float32)), (FUNDS, np.int64(5))])
def test_a_desk_s_configuration_gives_the_environment_its_risk_overlay(
    name: str, action: object, files: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "desk.toml").write_text("[basket]\nvolatility_target = 0.01\n")
    exposures = []
    for config in (None, tmp_path / "desk.toml"):
        env = gymnasium.make(name, bars=files[name], config=config).unwrapped
        assert isinstance(env, DailyEnv)
        env.reset(seed=1)
        for _ in range(2):  # a desk of stocks buys 1 % of each a day
            env.step(action)
        equity, cash = env._market.closing_usd if env._market is not None else (None, None)
        assert equity is not None
        assert cash is not None
        exposures.append(1.0 - float(cash[0] / equity[0]))
    assert 0.0 < exposures[1] < 0.5 * exposures[0]
