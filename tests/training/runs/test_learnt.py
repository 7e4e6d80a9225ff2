"""How much was learned: divergence by hand, steps of the optimizer counted, and what a run reports of them."""

from __future__ import annotations

from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch

from strategies.kit.manifest import decode
from tests.support.training.small_runs import Train
from training.desks.ppo import few_words
from training.desks.registry import kind
from training.rl.coefficients import Coefficients
from training.rl.dimensions import with_values
from training.runs.prepared import UNTRAINED
from training.runs.record import Outcome
from training.runs.settings import Settings
from training.runs.tasks import agreement, moved


def test_answers_are_compared_as_what_is_drawn_from_them() -> None:
    before = torch.zeros(2, 2)
    after = torch.tensor([[log(3.0), 0.0], [0.0, log(3.0)]])  # 0.75 and 0.25, then the other way round
    kl, size, variation = moved(before, after, None)
    assert kl == pytest.approx(0.75 * log(1.5) + 0.25 * log(0.5), rel=1e-5)
    assert size == pytest.approx(0.75)
    assert variation == pytest.approx(0.5 / 2**0.5)  # the sample deviation of 0.75 and 0.25
    assert moved(after, after, None)[0] == 0.0
    # means moved by 0.1 at a deviation of 0.5, in two actions: 2 x 0.2 x 0.2 / 2
    kl, size, variation = moved(torch.zeros(3, 2), torch.full((3, 2), -0.1), torch.tensor([0.5, 0.5]))
    assert (kl, size, variation) == pytest.approx((0.04, 0.1, 0.0))


def test_seeds_agree_as_far_as_their_answers_vary_together() -> None:
    random = np.random.default_rng(3)
    one, other, third = (random.normal(size=(256, 3)) for _ in range(3))
    same = agreement([one, 5.0 + 2.0 * one], 0)  # another mean and size, and the same dependence
    assert same.found == pytest.approx(1.0)
    assert 0.0 < same.chance < 0.2
    # three pairs, one of which is the same: correlation of 768 pairs of numbers by numpy itself
    apart = [weights - weights.mean(axis=0) for weights in (one, one, other)]
    expected = np.corrcoef(np.stack([distance.ravel() for distance in apart]))
    share = agreement([one, one, other], 0)
    assert share.found == pytest.approx((expected[0, 1] + expected[0, 2] + expected[1, 2]) / 3)
    alone = agreement([one, other, third], 0)
    assert abs(alone.found) < 2.0 * alone.chance
    assert agreement([one, np.ones((256, 3))], 0).found == pytest.approx(0.0, abs=1e-9)  # one that sees nothing
    assert agreement([one, -one], 0).found == pytest.approx(-1.0)


def test_chance_is_what_one_in_twenty_unrelated_pairs_exceeds() -> None:
    random = np.random.default_rng(5)
    above = 0
    for _ in range(200):
        share = agreement([random.normal(size=(64, 2)), random.normal(size=(64, 2))], 0)
        above += share.found > share.chance
    assert 3 <= above <= 20  # of 200: outside of these a share of 5 % is seen less than once in two hundred times


def test_a_preset_of_large_minibatches_takes_few_gradient_steps_and_says_so() -> None:
    wide = kind("daily_rebalancer").presets["wide"]
    assert wide.gradient_steps == 31 * 4 * 4  # 500,000 / (256 x 64), 16,384 / 4,096
    finrl = kind("daily_rebalancer").presets["finrl"]
    assert isinstance(wide.plan, Coefficients)
    assert isinstance(finrl.plan, Coefficients)
    assert few_words(wide.plan, wide.steps).startswith("496 gradient steps a trial are few (below 2,000)")
    assert few_words(finrl.plan, finrl.steps) == ""


def test_a_trial_counts_its_steps_and_says_how_far_it_came(
    train_trial: Train, small: Settings, whole: Outcome, tmp_path: Path, messages: list[object]
) -> None:
    learnt = train_trial(small).learnt
    assert learnt is not None
    # an update is 2 epochs of 256 / 128 minibatches
    assert learnt.gradient_steps in {4 * update for update in range(1, 7)}
    assert learnt.kl is not None
    assert learnt.kl > 0.0
    assert 1 / 6 <= learnt.size <= 1.0
    assert any(isinstance(news, str) and "24 gradient steps a trial are few" in news for news in messages)
    manifest = decode((whole.version / "manifest.json").read_bytes())
    assert manifest.metrics["learnt"]["gradient_steps"] == learnt.gradient_steps
    assert any(sentence.startswith("Learned: ") for sentence in whole.findings.abstract)
    assert whole.findings.baselines[-1].name == UNTRAINED
    still = train_trial(replace(small, plan=with_values(small.plan, {"learning_rate": 1e-12})), "still").learnt
    assert still is not None
    assert still.kl == pytest.approx(0.0, abs=1e-9)
