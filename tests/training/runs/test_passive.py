"""What is exported where no lead is proven, and which setting and seed validation chooses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from strategies.kit.manifest import decode
from strategies.option_scalper import HOLD, SPEC
from tests.support.training.small_runs import quiet, weights
from training.desks.registry import kind
from training.export.export import run_onnx
from training.report.report import find
from training.runs.run import train_and_export
from training.runs.settings import Settings, choose, headline_of, settings_for
from training.study.evaluation import SessionResult
from training.study.study import PlayResult, Study, Trial


def test_without_a_proven_lead_the_passive_policy_is_exported_and_the_first_sentence_says_so(
    small: Settings, tmp_path: Path
) -> None:
    asked = replace(small, out=tmp_path / "store", run_folder=tmp_path / "run", allow_unproven=False)
    made = train_and_export(asked, quiet)
    manifest = decode((made.version / "manifest.json").read_bytes())
    assert manifest.note.startswith(
        "The exported policy is the passive one, which holds nothing: for what was learned no "
    )
    assert json.loads((made.version / "report.json").read_bytes())["verdict"] == manifest.note
    seen = np.random.default_rng(1).normal(size=(50, *SPEC.observation_shape)).astype(np.float32)
    answers = run_onnx(made.version / "policy.onnx", seen)
    assert set(answers.argmax(axis=1).tolist()) == {HOLD}
    assert np.ptp(answers, axis=0).max() == 0.0
    study = msgspec.json.decode((tmp_path / "run" / "study.json").read_bytes(), type=Study)
    assert find(study).verdict == manifest.note  # the report can be made again

    learned = train_and_export(replace(asked, allow_unproven=True), quiet)  # the same run: nothing is trained again
    assert decode((learned.version / "manifest.json").read_bytes()).note.startswith(
        "Exported although no lead over the best baseline is proven. "
    )
    assert np.ptp(run_onnx(learned.version / "policy.onnx", seen), axis=0).max() > 0.0


def test_a_preset_begins_at_the_passive_policy(small: Settings, tmp_path: Path) -> None:
    passive = settings_for("option_scalper", small.bars, small.out, preset="passive")
    assert passive.preset == "passive"
    assert passive.command().endswith("--preset passive")
    begun = replace(
        small, begins=passive.begins, run_folder=tmp_path / "run", out=tmp_path / "store", steps=1,
        coefficients=replace(small.coefficients, learning_rate=1e-9),
    )  # fmt: skip
    train_and_export(begun, quiet)
    bias = weights(tmp_path / "run")["policy.actor.2.bias"]
    assert bias.tolist() == pytest.approx([3.0 if action == HOLD else 0.0 for action in range(6)], abs=1e-6)
    known = kind("option_scalper").passive
    assert known is not None
    assert known.words == "holds nothing"


def _trial(fold: int, reward: str, seed: int, earned: float) -> Trial:
    session = SessionResult("2024-01-02", earned, 1, 1, 0.0, 0.0, 1, 1)
    return Trial(
        fold=fold, seed=seed, reward=reward, steps=1, seconds=0.0, chosen_steps=1, stopped="", curve=(),
        validate=(session,), test=PlayResult(()), lead=earned,
    )  # fmt: skip


def test_the_middle_half_chooses_the_setting_and_a_typical_seed_and_best_the_luckiest() -> None:
    # one seed of the first setting was lucky; the middle of the second is better
    earned = {"potential": (1.0, 2.0, 3.0, 99.0), "reference": (3.0, 4.0, 6.0, 7.0)}
    trials = [
        _trial(0, reward, seed, value) for reward, values in earned.items() for seed, value in enumerate(values, 1)
    ]
    asked = Settings("option_scalper", Path("b.csv"), Path("s"), seeds=(1, 2, 3, 4), rewards=("potential", "reference"))
    assert headline_of(trials, asked) == "reference"  # (4 + 6) / 2 against (2 + 3) / 2
    assert [trials[i].seed for i in choose(trials, asked, "reference")] == [2]  # 4 is as near to 5 as 6: the first
    best = replace(asked, select="best")
    assert headline_of(trials, best) == "potential"
    assert [trials[i].seed for i in choose(trials, best, "potential")] == [4]
