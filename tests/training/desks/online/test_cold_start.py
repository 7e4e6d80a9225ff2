"""The cold start of `online_dqn`: the same bytes again, a full replay, returns of sessions it did not see, a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from daemon.models.runtime import OnnxPolicy
from daemon.models.store import load
from strategies.kit.manifest import decode
from strategies.registry import strategy as registered
from tests.support.training.online_bars import RULES, bundled, five_minutes_of_two
from training.desks.online.cold_start import REPLAY_FILE, Cold, cold_replay, cold_start
from training.desks.online.data import play
from training.desks.online.export import export_online, training_of
from training.desks.online.network import COLD_PRESETS, network_of
from training.rl.dqn.dqn import Dqn
from training.rl.dqn.online import OnlineLearner
from training.study.folds import HistoryError

SMOKE = replace(COLD_PRESETS["smoke"], steps=2048)


@pytest.fixture(scope="module")
def cold() -> Cold:
    return cold_start(bundled(), preset=SMOKE, seed=3)


def test_the_same_seed_gives_the_same_weights_and_the_same_replay_in_memory_and_on_disk(
    cold: Cold, tmp_path: Path
) -> None:
    again = cold_start(bundled(), preset=SMOKE, seed=3, folder=tmp_path)
    for name, weights in cold.network.state_dict().items():
        assert torch.equal(weights, again.network.state_dict()[name])
    places = torch.arange(SMOKE.replay)
    for tensor, other in zip(cold.replay.read(places), again.replay.read(places), strict=True):
        assert torch.equal(tensor.nan_to_num(), other.nan_to_num())
    assert again.session_returns == cold.session_returns
    assert (tmp_path / REPLAY_FILE).exists()


def test_the_replay_is_full_and_knows_what_followed(cold: Cold) -> None:
    assert cold.replay.size == SMOKE.replay
    batch = cold.replay.sample(200, torch.Generator().manual_seed(1))
    assert batch.observations.shape == (200, bundled().spec.observation_shape[0])
    assert set(batch.actions.tolist()) == {0, 1, 2}
    mask = ~batch.labels.isnan()
    assert mask.float().mean() > 0.9
    assert set(batch.labels[:, 0][mask[:, 0]].tolist()) == {0.0, 1.0}
    assert (batch.labels[:, 1][mask[:, 1]] >= 0.0).all()
    assert 0.0 < batch.rewards.abs().max() < 100.0


def test_the_returns_are_of_the_last_sessions_which_were_kept_apart(cold: Cold) -> None:
    data = bundled()
    assert cold.dates == tuple(data.days)[-5:]  # a fifth of 29, in whole sessions
    results = play(cold.network, data, cold.dates, RULES)
    assert cold.session_returns == tuple(result.pnl_usd / 100_000 for result in results)
    assert cold.figures["apart sessions"] == 5.0
    assert cold.figures["steps"] == 2048.0


def test_online_learning_goes_on_from_it_with_half_of_each_batch(cold: Cold, tmp_path: Path) -> None:
    network = network_of(bundled().config, SMOKE, 3)
    network.load_state_dict(cold.network.state_dict())
    again = cold_start(bundled(), preset=SMOKE, seed=3, folder=tmp_path)
    c = replace(SMOKE.online, learning_starts=1)
    learner = OnlineLearner(Dqn(network, c), c, again.replay, seed=1)
    market = bundled().market(cold.dates[:1], RULES, count=1, seed=9)
    figures: dict[str, float] = {}
    for _ in range(40):
        before = market.observe()[0]
        step = market.step(torch.tensor([1]))
        is_end = bool(step.terminals[0])
        observation = market.observe()[0]
        learner.take(
            0, before, 1, float(step.rewards[0]), observation, ended=is_end, goes_on=not is_end, labels=(1.0, 0.001)
        )
        figures = learner.learn() or figures
    assert figures["cold share"] == 0.5
    assert figures["heads loss"] > 0.0
    state = learner.state_dict()
    replay = cold_replay(network, SMOKE, tmp_path)
    other = OnlineLearner(Dqn(network_of(bundled().config, SMOKE, 8), c), c, replay, seed=2)
    other.load_state_dict(state)
    assert replay.size == SMOKE.replay


def test_a_file_of_one_usable_session_is_refused() -> None:
    data = bundled()
    date = next(iter(data.days))
    days = tuple(day for day in data.history.days if day.session.date == date)
    short = replace(data, history=replace(data.history, days=days))
    with pytest.raises(HistoryError, match="expected two at least"):
        cold_start(short, preset=SMOKE, seed=1)


def test_the_exported_version_is_one_the_daemon_opens_and_current_stays(cold: Cold, tmp_path: Path) -> None:
    data = bundled()
    folder = export_online(
        cold.network,
        data.strategy,
        out=tmp_path,
        probes=data.probes(cold.dates, 100, 1),
        training=training_of(data, cold.dates, "sip"),
        hyperparameters={"seed": 3},
        metrics={"apart": cold.figures},
        files={"card.json": b"{}"},
        version="v7",
    )
    manifest = decode((folder / "manifest.json").read_bytes())
    assert manifest.model_config == msgspec.json.decode(data.spec.config)
    assert manifest.model_config_digest == data.config.digest
    assert "card.json" in manifest.files
    assert not (folder.parent / "current").exists()
    strategy = registered("online_dqn")
    OnnxPolicy.open(load(tmp_path, strategy, "v7"), strategy)  # it answers the golden questions as torch did
    values, direction, risk = cold.network(torch.from_numpy(data.probes(cold.dates, 4, 2)))
    assert values.shape == (4, 3)
    assert ((direction > 0.0) & (direction < 1.0)).all()
    assert (risk >= 0.0).all()
    assert np.isfinite(values.detach().numpy()).all()


def test_one_policy_learns_from_two_recorded_symbols_and_decides_about_both_on_one_desk(data_dir: Path) -> None:
    data = five_minutes_of_two(data_dir)
    cold = cold_start(data, preset=SMOKE, seed=2)
    assert len(cold.session_returns) == len(cold.dates) > 30
    dates = cold.dates[:2]
    sizes: list[int] = []

    def player(observations: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sizes.append(len(observations))
        answers: tuple[torch.Tensor, ...] = cold.network(observations)
        return answers

    desk_play = data.desk.play(player, data.desk.before(dates, RULES), RULES)
    assert [result.date for result in desk_play.sessions] == list(dates)
    assert set(sizes) == {2}  # a row for each symbol
    assert len(sizes) == 2 * 78
