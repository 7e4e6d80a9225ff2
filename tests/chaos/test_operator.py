"""Each operator command is journaled once; each check of commands detects its own fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from simulator.prices.market import Market
from tests.chaos.campaign import TAPE
from tests.chaos.operator import Asked, Operator, events_apart, orphans
from tests.chaos.plan import plan
from tests.chaos.session import run

DONE = Asked("pause", "pause 0", accepted=True)
UNHEARD = Asked("halt", "halt 1", accepted=False)


def test_a_command_is_one_event_and_may_be_none_where_nobody_answered() -> None:
    assert events_apart([DONE, UNHEARD], [("PauseRequested", "pause 0")]) == []
    assert events_apart([DONE, UNHEARD], [("PauseRequested", "pause 0"), ("HaltRequested", "halt 1")]) == []


@pytest.mark.parametrize(
    ("journaled", "problem"),
    [
        ([], "PauseRequested 'pause 0': 0 events, accepted"),
        ([("PauseRequested", "pause 0")] * 2, "PauseRequested 'pause 0': 2 events, accepted"),
        ([("PauseRequested", "pause 0"), ("HaltRequested", "x")], "HaltRequested 'x' was never asked for"),
        ([("PauseRequested", "pause 0"), *[("HaltRequested", "halt 1")] * 2], "'halt 1': 2 events, unanswered"),
    ],
)
def test_a_command_that_is_no_event_or_two_is_found(journaled: list[tuple[str, str]], problem: str) -> None:
    (difference,) = events_apart([DONE, UNHEARD], journaled)
    assert problem in difference


def test_an_order_without_a_decision_is_found() -> None:
    decisions: list[dict[str, Any]] = [
        {"work": "e-s-3-0", "kind": "policy"},
        {"work": "e-s-5-1", "kind": "rule"},
        {"work": None, "kind": "policy"},
    ]
    orders = {
        "e-s-3-0-0": {"purpose": "entry", "work": "e-s-3-0"},
        "e-s-5-1-0": {"purpose": "exit", "work": "e-s-5-1"},
    }
    assert orphans(orders, decisions) == []
    by_rule = {"e-s-5-1-0": {"purpose": "entry", "work": "e-s-5-1"}}
    assert orphans(by_rule, decisions) == ["e-s-5-1-0: an entry without a decision of the policy"]
    by_nobody = {"e-s-9-1-0": {"purpose": "exit", "work": "e-s-9-1"}}
    assert orphans(by_nobody, decisions) == ["e-s-9-1-0: an exit without a decision"]


def test_an_operator_halts_only_where_no_halt_of_the_plans_own_must_stand(tmp_path: Path) -> None:
    assert Operator.of(plan(1, 0, only=["stock: dropped", "killed"]), tmp_path).halts
    assert not Operator.of(plan(1, 0, only=["stock: dropped", "split of a held contract"]), tmp_path).halts


def test_commands_in_the_middle_of_trouble_make_no_order_and_each_is_one_event(tmp_path: Path) -> None:
    session_plan = plan(20261120, 0, only=["killed", "submit: 503 after", "trade: dropped"])
    outcome = run(session_plan, tmp_path / "session", Market.from_bars(TAPE), operated=True)
    assert outcome.problems == ()
    assert outcome.commands > 5
    assert outcome.lives >= 2
