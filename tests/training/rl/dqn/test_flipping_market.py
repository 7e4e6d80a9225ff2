"""A learner that goes on learning finds the new rule of a market whose rule flipped; a frozen policy does not."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from tests.support.planted.flipping import (
    BUY,
    HOLD,
    SELL,
    Flipping,
    best,
    earned,
    held_after,
    optimum,
    share_of_optimum,
)
from tests.support.rl.flipped import AFTER, BEFORE, MARKET, Desk, champion
from training.rl.dqn.networks import QNetwork
from training.rl.ppo import make_deterministic

SHORT, SESSIONS = 4, 20


@cache
def cold_start() -> QNetwork:
    make_deterministic()
    return champion(1)


def test_the_optimum_of_two_steps_is_the_hand_worked_one() -> None:
    # last step: + pays 1 - 0.5 from flat, 1 when held; - pays 0 from flat, and -0.5 (sell) from held
    # first step, flat, +: buy 0.5 + 0.9 x 1 + 0.1 x -0.5 = 1.35, against waiting 0.9 x 0.5 = 0.45
    # first step, flat, -: wait 0.1 x 0.5 = 0.05, against buying -1.5 + ...; the mean of both
    assert optimum(Flipping(stay=0.9, drift=1.0, cost=0.5, steps=2)) == pytest.approx((1.35 + 0.05) / 2.0)


def test_the_best_rule_earns_the_optimum_within_the_noise_of_its_sessions() -> None:
    for rule in (BEFORE, AFTER):
        assert earned(MARKET, best(rule), rule, 1024, 7) == pytest.approx(optimum(MARKET), rel=0.03)


def test_actions_mean_what_they_mean_at_the_desk() -> None:
    before = torch.tensor([0.0, 1.0])
    positions = [held_after(torch.full((2,), action), before).tolist() for action in (HOLD, BUY, SELL)]
    assert positions == [[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]


def test_a_frozen_champion_loses_when_the_rule_flips() -> None:
    assert share_of_optimum(MARKET, cold_start().values, BEFORE) >= 0.95
    assert share_of_optimum(MARKET, cold_start().values, AFTER) < 0.0


def test_online_learning_recovers_90_percent_of_the_new_optimum_within_20_sessions() -> None:
    make_deterministic()
    desk = Desk(cold_start(), seed=5)
    desk.play(SHORT)
    assert desk.learner.cold_share == 0.5  # nothing contradicts the cold start yet
    assert desk.share() >= 0.9
    desk.market.rule = AFTER
    desk.play(SESSIONS)
    assert desk.learner.cold_share == 0.0
    assert desk.share() >= 0.9
