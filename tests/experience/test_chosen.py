"""What a decision chose, row by row, as its step records it."""

from __future__ import annotations

from daemon.core.records import ChoiceRow, DecisionRow
from daemon.experience.experience import ActionChoice
from daemon.experience.of_journal import choices_of
from strategies.registry import strategy

SPEC = strategy("online_dqn", ("SPY", "QQQ")).spec
CHOICES = (
    ChoiceRow(7, "SPY", 0, "BUY", "BUY", "[0.01,0.99,0.0]", '["HOLD","BUY"]'),
    ChoiceRow(7, "QQQ", 0, "SELL", "HOLD", "[0.02,0.0,0.98]", '["HOLD","SELL"]'),
)
HELD = ActionChoice(0, 0, (1.0, 0.0, 0.0))


def decision(outcome: str) -> DecisionRow:
    return DecisionRow(decision=7, kind="policy", bar_ns=0, time_ns=0, action="BUY SPY, HOLD QQQ", outcome=outcome)


def test_each_symbol_has_its_drawn_and_its_greedy_action_with_the_probabilities() -> None:
    choices = choices_of(SPEC, decision("ordered"), CHOICES)
    assert choices == (ActionChoice(1, 1, (0.01, 0.99, 0.0)), ActionChoice(0, 2, (0.02, 0.0, 0.98)))


def test_a_decision_that_the_gates_denied_held() -> None:
    assert choices_of(SPEC, decision("denied"), CHOICES) == (HELD, HELD)


def test_a_question_without_an_answer_held() -> None:
    assert choices_of(SPEC, decision("failed"), ()) == (HELD, HELD)
