"""SAC by RLlib on a Ray of this machine with two runners: our networks, our score, nothing left behind."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.rl.planted_sizing import BANDIT, FEW_LARGE, place, share_of_optimum
from tests.support.rl.trained import train_agent
from tests.support.training.ray_processes import LOOPBACK, left, listening, mark
from training.rl.off_policy.learner import Actor
from training.rl.off_policy.presets import build
from training.rl.off_policy.trainer import OffPolicyTrainer
from training.rl.ppo import make_deterministic
from training.rl.ray_cluster import connected
from training.rl.rllib.engine import RllibSac

needs_rllib = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or importlib.util.find_spec("tree") is None,
    reason="needs RLlib: pip install '.[scale]'",
)
RECIPE = replace(FEW_LARGE, gradient_steps=8, smoothing=0.04, batch=128)
TRANSITIONS = 8192


class Halved(torch.nn.Module):
    """A scaling that becomes a part of the actor."""

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        return 0.5 * raw


def score_of(seed: int) -> float:
    """What our engine reaches with the recipe."""
    agent = build("sac", 4, RECIPE, seed=seed, scaling=Halved())
    train_agent(OffPolicyTrainer(agent, place(64, seed), RECIPE, total_steps=TRANSITIONS, seed=seed))
    return share_of_optimum(BANDIT, agent.actor)


@needs_rllib
@pytest.mark.filterwarnings("ignore")  # RLlib warns of its own older ways, and of gymnasium's
def test_rllib_reaches_the_score_of_our_engine_with_our_networks_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_deterministic()  # one thread
    scores = [score_of(seed) for seed in range(4)]
    mark(monkeypatch, str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))  # where RLlib makes its folder
    with connected("local", 2):
        trainer = RllibSac(place, RECIPE, scaling=Halved(), total_steps=TRANSITIONS, seed=1)
        start = Actor(4, RECIPE.actor_widths, seed=1, spread=True, normalised=True).state_dict()
        assert all(torch.equal(value, start[name]) for name, value in trainer.weights().items())
        assert set(listening(str(tmp_path)).values()) <= LOOPBACK
        while not trainer.done:
            progress = trainer.update()
        trainer.close()
    assert left(str(tmp_path)) == []
    spread = max(scores) - min(scores)
    assert share_of_optimum(BANDIT, trainer.agent.actor) >= min(scores) - 2.0 * spread - 0.02
    assert progress.update_to_data == pytest.approx(8 / 512, rel=0.25)
    assert {"critic loss", "Q mean", "actor loss", "temperature"} <= progress.figures.keys()
    assert not list(tmp_path.glob("ray_results/*"))


def test_a_schedule_that_rllib_has_no_word_for_is_refused() -> None:
    with pytest.raises(ValueError, match="schedule is 'cosine': RLlib is given constant or linear ones"):
        RllibSac(place, replace(RECIPE, schedule="cosine"), scaling=None, total_steps=1, seed=1)
