"""The ladder as a pure machine: criteria of the card, shadow, canary, drawdown, and the band's false alarms."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from daemon.config.load import ConfigError, load
from daemon.config.tables import LadderTable
from daemon.core.state import Halt, Pause, RiskState
from daemon.models.ladder.replay_gate import Replayed
from daemon.models.ladder.rules import (
    CANARY,
    CHAMPION,
    REFUSED,
    REPLAY,
    ROLLED_BACK,
    SHADOW,
    after_canary,
    after_replay,
    after_shadow,
    bet,
    drawdown,
    evidence_of,
    idle,
    judge_card,
    unusable,
)
from strategies.kit.card import FORMAT, Card, Lead
from training.evidence.off_policy import OffPolicy as Evaluated
from training.evidence.off_policy import card_of
from training.evidence.statistics import Series

NAMES = ("band_0.1", "band_0.2", "band_0.4", "band_0.8")
RULES = LadderTable(promotion="automatic", shadow_sessions=2, canary_sessions=1)
CARD = Card(
    format=FORMAT,
    version="v2",
    parent="v1",
    trainer="abc",
    stream="s",
    decisions=3000,
    sessions=8,
    exploration=0.03,
    overlap=0.8,
    effective=300.0,
    leads={"dr": Lead(estimate=0.2, low=0.01, high=0.4)},
    session_mean=0.001,
    session_deviation=0.01,
    band=(0.005, 0.02, 0.08, 0.32),  # stake² / 2: a normal
)
BAND = {"session_mean": 0.001, "session_deviation": 0.01, **dict(zip(NAMES, CARD.band, strict=True))}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "card_passed"),
        ({"parent": "v0"}, "card_parent"),
        ({"cannot_be_said": "nothing was explored", "leads": {}}, "card_cannot_say"),
        ({"sessions": 7}, "card_sessions"),
        ({"overlap": 0.79}, "card_overlap"),
        ({"effective": 299.0}, "card_effective"),
        ({"effective": math.nan}, "card_effective"),
        ({"leads": {"dr": Lead(estimate=0.2, low=0.0, high=0.4)}}, "card_lead"),
        ({"leads": {"wis": Lead(estimate=0.2, low=0.1, high=0.4)}}, "card_lead"),
        ({"session_deviation": 0.0}, "card_band"),
        ({"band": ()}, "card_band"),
        ({"band": (0.005, 0.02, 0.08, 9.0)}, "card_band"),
    ],
)
def test_a_card_climbs_only_with_every_criterion(changes: dict[str, object], reason: str) -> None:
    move = judge_card(msgspec.structs.replace(CARD, **changes), "v1", RULES)
    assert (move.to_step, move.reason) == (REPLAY if reason == "card_passed" else REFUSED, reason)


def test_without_a_replay_a_card_that_passed_leads_into_the_shadow() -> None:
    assert judge_card(CARD, "v1", replace(RULES, replay_sessions=0)).to_step == SHADOW


@pytest.mark.parametrize(
    ("replay", "to_step", "reason"),
    [
        (Replayed(sessions=5, asked=100, failed=1, pnl=0.01, champion_pnl=0.01), SHADOW, "replay_passed"),
        (Replayed(sessions=5, asked=100, pnl=-0.0099, champion_pnl=0.01), SHADOW, "replay_passed"),
        (Replayed(sessions=5, asked=100, pnl=-0.0101, champion_pnl=0.01), REFUSED, "replay_behind"),
        (Replayed(sessions=5, asked=100, failed=2, pnl=0.5), REFUSED, "replay_failed"),
        (Replayed(problem="ModelError: digest"), REFUSED, "replay_failed"),
        (Replayed(sessions=2), SHADOW, "replay_empty"),
        (Replayed(), SHADOW, "replay_empty"),
    ],
)
def test_a_replay_is_judged_by_its_end_against_the_champions(replay: Replayed, to_step: str, reason: str) -> None:
    """At most 2 % of the equity behind, and 1 % of the questions without an answer."""
    move = after_replay(replay, replace(RULES, replay_behind_max=0.02))
    assert (move.to_step, move.reason) == (to_step, reason)


@pytest.mark.parametrize(
    ("sessions", "answers", "failed", "pnl", "expected"),
    [
        (1, 100, 0, 0.5, None),
        (1, 98, 2, 0.5, (REFUSED, "shadow_failed")),
        (2, 0, 0, 0.0, (REFUSED, "shadow_failed")),
        (2, 100, 1, 0.01, ("canary_10", "shadow_passed")),
        (2, 100, 0, 0.009, (REFUSED, "shadow_behind")),
    ],
)
def test_a_shadow_is_judged_by_its_answers_and_its_account(
    sessions: int, answers: int, failed: int, pnl: float, expected: tuple[str, str] | None
) -> None:
    move = after_shadow(sessions, answers, failed, pnl, 0.01, RULES)
    assert (move and (move.to_step, move.reason)) == expected


def test_without_automatic_promotion_a_shadow_that_passed_waits() -> None:
    assert after_shadow(9, 100, 0, 0.5, 0.0, replace(RULES, promotion="shadow")) is None


def test_a_canary_climbs_by_parts_of_the_size_to_the_champion() -> None:
    steps, step = [], "canary_10"
    while step != CHAMPION:
        assert after_canary(step, 0, 1.0, RULES) is None
        move = after_canary(step, 1, 1.0, RULES)
        assert move is not None
        step = move.to_step
        steps.append(step)
    assert steps == ["canary_25", "canary_50", "canary_100", CHAMPION]
    assert tuple(CANARY.values()) == (0.10, 0.25, 0.50, 1.0)
    out = after_canary("canary_50", 1, 100.0, RULES)
    assert out is not None
    assert (out.to_step, out.reason) == (ROLLED_BACK, "canary_rewards")


def test_the_drawdown_of_a_canary_is_a_part_of_the_one_at_the_full_size() -> None:
    rules = replace(RULES, drawdown_max=0.05)  # at a quarter of the size 1.25 % of 10,000: 125
    assert drawdown(9_976.0, 10_100.0, 10_000.0, 0.25, rules) is None
    move = drawdown(9_974.0, 10_100.0, 10_000.0, 0.25, rules)
    assert move is not None
    assert (move.to_step, move.reason) == (ROLLED_BACK, "canary_drawdown")
    assert drawdown(10.0, 10.0, 0.0, 1.0, rules) is not None  # an unknown base is no permission


@pytest.mark.parametrize(
    ("risk", "questions", "reason"),
    [
        (RiskState(), 390, ""),
        (RiskState(), 299, "3 of 299 questions without an answer"),  # 1 % may have none
        (RiskState(), 0, "no question was asked"),
        (RiskState(pause=Pause("by alice", 0)), 390, "paused: by alice"),
        (RiskState(pause=Pause("by alice", 2_000)), 390, "paused: by alice"),
        (RiskState(pause=Pause("by alice", 1_000)), 390, ""),  # over by then
        (RiskState(pause=Pause("consecutive_losses", 2_000)), 390, ""),  # its own losses
        (RiskState(halt=Halt("foreign_order", "", 0)), 390, "halt foreign_order"),
        (RiskState(halt=Halt("daily_loss", "", 0)), 390, ""),
    ],
)
def test_a_session_without_new_risk_shows_nothing_about_a_canary(risk: RiskState, questions: int, reason: str) -> None:
    assert idle(risk, 1_000, questions, 3, RULES) == reason


def test_one_answer_in_a_hundred_may_be_of_no_use() -> None:
    assert unusable(300, 3, RULES) is None
    move = unusable(299, 3, RULES)
    assert move is not None
    assert (move.to_step, move.reason) == (ROLLED_BACK, "canary_failed")
    assert unusable(0, 0, RULES) is None


def test_a_bet_is_worked_out_by_hand() -> None:
    """At a quarter of the size -0.00475 is -0.019 at the full one: 2 deviations below 0.001."""
    bets = bet({**BAND, "bet_0.1": 2.0}, -0.00475, 0.25)
    assert bets["bet_0.1"] == pytest.approx(2.0 * math.exp(0.2 - 0.005))
    assert bets["bet_0.8"] == pytest.approx(math.exp(1.6 - 0.32))
    assert evidence_of({}) == 1.0
    far = bet(BAND, -9.0, 1.0)
    assert far["bet_0.8"] == pytest.approx(math.exp(4 * 0.8 - 0.32))  # one session counts four deviations


@pytest.mark.parametrize("law", ["normal", "student", "skewed"])
def test_sessions_as_good_as_the_card_s_rarely_raise_a_false_alarm(law: str) -> None:
    """In 250 sessions, watched after each one, 1 % at most by Ville; more than 10 of 400 have a chance of 0.3 %."""
    random = np.random.default_rng(7)

    def draws(shape: tuple[int, ...]) -> Series:
        match law:
            case "normal":
                z = random.normal(size=shape)
            case "student":
                z = random.standard_t(5, size=shape) / math.sqrt(5.0 / 3.0)
            case _:  # rare long losses, many small gains
                z = 1.0 - random.exponential(size=shape)
        return np.asarray(0.001 + 0.01 * z)

    evaluation = Evaluated(
        decisions=1, sessions=1, episodes=1, horizon=1, discount=1.0, exploration=0, overlap=0, effective=0
    )
    card = card_of(evaluation, draws((5_000,)), version="v2", parent="v1", trainer="abc")
    assert sum(_alarmed(run, card) for run in draws((400, 250))) <= 10


def test_sessions_far_below_the_card_are_found_within_some_weeks() -> None:
    random = np.random.default_rng(8)
    assert sum(_alarmed(0.001 + 0.01 * (random.normal(size=25) - 1.0), CARD) for _ in range(100)) >= 90


def _alarmed(returns: Series, card: Card) -> bool:
    band = dict(zip(NAMES, card.band, strict=True))
    figures = {"session_mean": card.session_mean, "session_deviation": card.session_deviation, **band}
    for earned in returns.tolist():
        figures |= bet(figures, 0.25 * earned, 0.25)
        if evidence_of(figures) >= 1.0 / RULES.false_alarm:
            return True
    return False


def test_automatic_promotion_needs_the_pointer_that_it_moves(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"policy\.version.*v1.*current while ladder\.promotion is automatic"):
        load(None, {"ladder.promotion": "automatic", "policy.version": "v1"})
    assert load(None, {"ladder.promotion": "automatic", "policy.version": "current"}).ladder.promotion == "automatic"
