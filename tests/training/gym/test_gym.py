"""The gymnasium environments against gymnasium's and Stable-Baselines3's own checks, and against each other."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as check_for_sb3

from strategies.kit.synthetic import synthetic_sessions
from tests.support.training.made_up import sessions, write_csv
from training.gym import OptionScalperEnv, OptionScalperVectorEnv

STEPS_OF_A_SESSION = 363  # from the 20th bar's close (row 19) to the flatten's (row 382)


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 28 sessions: 7 usable ones, 4 of them to train."""
    return write_csv(tmp_path_factory.mktemp("bars") / "bars.csv", synthetic_sessions(7, sessions(28)))


def test_gymnasium_s_own_check_finds_nothing(bars: Path) -> None:
    env = gymnasium.make("rltrader/OptionScalper-v0", bars=bars)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def test_stable_baselines3_s_own_check_finds_nothing_but_a_shape_that_is_no_picture(bars: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*unconventional shape.*")  # (20, 23): MlpPolicy flattens it
        check_for_sb3(OptionScalperEnv(bars))


def test_stable_baselines3_trains_on_it(bars: Path) -> None:
    model = PPO("MlpPolicy", OptionScalperEnv(bars), n_steps=64, batch_size=32, n_epochs=1, device="cpu", seed=1)
    model.learn(128)
    assert model.num_timesteps == 128


def test_a_session_ends_at_its_flatten_and_never_by_a_time_limit(bars: Path) -> None:
    env = OptionScalperEnv(bars)
    env.reset(seed=1)
    ends = []
    for _ in range(STEPS_OF_A_SESSION):
        _, _, terminated, truncated, info = env.step(np.int64(0))
        assert not truncated
        ends.append(terminated)
    assert ends == [False] * (STEPS_OF_A_SESSION - 1) + [True]
    assert info["net_pnl_usd"] == 0.0
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step(np.int64(0))


def test_a_seed_gives_its_sessions_again(bars: Path) -> None:
    env = OptionScalperEnv(bars)
    first = [env.reset(seed=5)[1]["session"], *(env.reset()[1]["session"] for _ in range(12))]
    again = [env.reset(seed=5)[1]["session"], *(env.reset()[1]["session"] for _ in range(12))]
    assert first == again
    assert set(first) == set(env.sessions)


def test_the_vector_agrees_with_single_ones_step_by_step_also_over_the_session_s_end(bars: Path) -> None:
    many = gymnasium.make_vec("rltrader/OptionScalper-v0", num_envs=3, bars=bars)
    assert isinstance(many, OptionScalperVectorEnv)
    assert many.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    single = [OptionScalperEnv(bars) for _ in range(3)]
    observations, infos = many.reset(seed=9)
    for place, env in enumerate(single):
        alone, info = env.reset(seed=9 + place)
        assert np.array_equal(alone, observations[place])
        assert info["session"] == infos["session"][place]
    random = np.random.default_rng(1)
    episode_ends = 0
    for _ in range(STEPS_OF_A_SESSION + 20):
        actions = random.integers(0, 6, size=3)
        observations, rewards, terminals, truncations, infos = many.step(actions)
        assert not truncations.any()
        for place, env in enumerate(single):
            alone, reward, terminated, _, info = env.step(actions[place])
            assert (reward, terminated) == (float(rewards[place]), bool(terminals[place]))
            if terminated:
                episode_ends += 1
                assert np.array_equal(infos["final_obs"][place], alone)
                assert infos["final_info"]["net_pnl_usd"][place] == info["net_pnl_usd"] != 0.0
                alone, info = env.reset()
            assert np.array_equal(alone, observations[place])
            assert infos["net_pnl_usd"][place] == info["net_pnl_usd"]
    assert episode_ends == 3


def test_a_chosen_session_is_played_and_an_unknown_one_is_named(bars: Path) -> None:
    env = OptionScalperEnv(bars, "test")
    assert env.reset(options={"session": env.sessions[1]})[1]["session"] == env.sessions[1]
    with pytest.raises(ValueError, match=r"with 2001-01-01; expected one for each of 1 environments"):
        env.reset(options={"session": "2001-01-01"})


@pytest.mark.parametrize("make", [OptionScalperEnv, lambda bars, name: OptionScalperVectorEnv(2, bars, name)])
def test_an_unknown_split_is_named(make: Callable[[Path, str], object], bars: Path) -> None:
    with pytest.raises(ValueError, match="split is 'training', expected one of train, validate, test"):
        make(bars, "training")


def test_splits_are_those_of_our_own_training(bars: Path) -> None:
    parts = [OptionScalperEnv(bars, name).sessions for name in ("train", "validate", "test")]
    assert [len(part) for part in parts] == [4, 1, 2]
    assert sorted(date for part in parts for date in part) == [date for part in parts for date in part]
