"""The trainer of a desk on served answers is killed in each step of the ladder: the desk does what it does without.

Each step has a kill at each boundary of the trainer's work, always while a question of the desk is open.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from strategies.kit.contract import ShareSpec
from strategies.registry import strategy
from tests.support.desks.desk_run import chained, records, verified
from tests.support.models.online_models import NAME
from tests.support.outside.stream import walked
from tests.support.outside.taught_desk import HeldReplay, TaughtDesk, taught, without_children
from tests.support.rl.noting import takes

STEPS = (
    "trained", "card", "replay", "shadow", "canary_10", "canary_25", "canary_50", "canary_100", "champion",
    "rolled_back",
)  # fmt: skip
BOUNDARIES = ("taken", "learned", "before checkpoint", "after checkpoint", "after acknowledgement")
SESSIONS = 10
REPLAY_BARS, DRIFT_BAR = 12, 8


def test_a_trainer_that_is_killed_in_each_step_of_the_ladder_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_children(monkeypatch)
    kills = {step: list(BOUNDARIES) for step in STEPS}
    quiet, alone = taught(tmp_path / "quiet", SESSIONS, {}, happenings)
    disturbed, killed = taught(tmp_path / "disturbed", SESSIONS, kills, happenings)
    one, other = tmp_path / "quiet" / "state", tmp_path / "disturbed" / "state"

    assert tuple(quiet.steps) == STEPS
    assert disturbed.died == [(step, boundary) for step in STEPS for boundary in BOUNDARIES]
    assert alone.lives == 1
    assert killed.lives == 1 + len(STEPS) * len(BOUNDARIES)

    assert len(records(one, "orders", "submitted_ns")) > 50
    assert chained(other) == chained(one)
    assert verified(other).difference == ""

    spec = strategy(NAME).spec
    assert isinstance(spec, ShareSpec)
    expected = [entry for experience in walked(other, epoch=killed.epoch, spec=spec) for entry in takes(experience)]
    assert killed.learner.taken == alone.learner.taken == expected


def happenings(desk: TaughtDesk) -> Callable[[int], bool]:
    """The first replay lasts for some bars, and the version after the champion drifts as soon as it trades."""
    steps: list[str] = []

    def at(bar: int) -> bool:
        steps.append(desk.step)
        replayed = desk.step == "replay" and steps.count("replay") == REPLAY_BARS
        drifts = desk.step == "canary_10" and "champion" in steps and bar == DRIFT_BAR
        if replayed:
            HeldReplay.gate.set()
        if drifts:
            desk.drift()
        return replayed or drifts

    return at
