"""The fixture policy uses every action at least three times on full and half days, through the committed file."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from daemon.core.limits import Trading
from strategies.golden import contract_hash
from strategies.kit.contract import Float32Array, choose
from strategies.kit.manifest import decode
from strategies.option_scalper import ACTIONS, SPEC
from strategies.registry import strategy
from tests.fixture_policy.__main__ import STORE, VERSION, main
from tests.fixture_policy.timetable import ELAPSED
from tests.support.training.made_up import random_walk
from training.desks.scalper.history import History, TradingDay, read_history
from training.export.export import run_onnx

FOLDER = STORE / SPEC.name / VERSION


@pytest.mark.parametrize("minutes", [390, 210])
def test_each_action_is_the_argmax_on_at_least_three_occasions_before_the_last_entry(minutes: int) -> None:
    bars = np.arange(20, minutes - 30)  # minutes at the bar's end: from the 20th until 30 are left
    observations = np.zeros((len(bars), *SPEC.observation_shape), dtype=np.float32)
    observations[:, -1, ELAPSED] = bars / minutes
    _assert_every_action_three_times(observations)


def test_the_same_holds_for_the_feature_table_of_a_full_and_a_half_day() -> None:
    history = read_history(random_walk(32), SPEC, Trading())
    for date in ("2024-07-02", "2024-07-03"):
        day = next(day for day in history.days if day.session.date == date)
        _assert_every_action_three_times(_observations(history, day))


def test_the_committed_fixture_belongs_to_this_contract_and_reads_back() -> None:
    manifest = decode((FOLDER / "manifest.json").read_bytes())
    assert manifest.contract_hash == contract_hash(strategy(SPEC.name))
    golden = np.stack([np.frombuffer(data, dtype="<f4") for data in manifest.golden.observations])
    logits = run_onnx(FOLDER / "policy.onnx", golden.reshape(-1, *SPEC.observation_shape))
    assert np.abs(logits - np.array(manifest.golden.logits)).max() <= 1e-5
    assert (STORE / SPEC.name / "current").read_text() == f"{VERSION}\n"


def test_exporting_again_gives_the_committed_bytes(tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path)]) == 0
    for name in ("policy.onnx", "manifest.json"):
        assert (tmp_path / SPEC.name / VERSION / name).read_bytes() == (FOLDER / name).read_bytes()


def _observations(history: History, day: TradingDay) -> Float32Array:
    rows = np.arange(day.first + 19, day.end - 30)[:, None] + np.arange(-19, 1)
    return np.concatenate([history.features[rows], np.zeros((len(rows), 20, 3))], axis=2).astype(np.float32)


def _assert_every_action_three_times(observations: Float32Array) -> None:
    choices = [choose(row, SPEC.temperature) for row in run_onnx(FOLDER / "policy.onnx", observations).tolist()]
    assert min(choice.confidence for choice in choices) > 0.9
    occasions = [action for action, _ in itertools.groupby(choice.action for choice in choices)]
    counts = {name: occasions.count(index) for index, name in enumerate(ACTIONS)}
    assert min(counts.values()) >= 3, counts
