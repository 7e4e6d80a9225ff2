"""Answers that another process serves: the step waits for none, and a late one is a HOLD, counted and reported."""

from __future__ import annotations

from dataclasses import replace

import pytest

from daemon.core import events as ev
from daemon.core.effects import AskPolicy, RaiseAlarm, SubmitOrder
from daemon.core.limits import Served, Sizing
from daemon.core.state import encode_state
from daemon.core.step import Divergence, Machine
from daemon.journal.rows import encode_effects
from strategies.kit.contract import Bar
from tests.support.core.desk import of
from tests.support.core.two_shares import RULES, SYMBOLS, Desk

SERVED = replace(RULES, served=Served(deadline_ms=500))
MODEL = "v1"


def answer_of(decision: int, at_ns: int, *wishes: float) -> ev.PolicyAnswered:
    return ev.PolicyAnswered(at_ns, decision, wishes, b"", MODEL)


def test_a_question_is_marked_as_served_and_waits_for_its_deadline() -> None:
    d = Desk(SERVED)
    (question,) = of(d.minute(0), AskPolicy)
    assert question.served
    assert question.valid_until_ns == d.at(1, 1.5)
    assert '"served":true' in encode_effects([question])
    local = Desk()
    (local_question,) = of(local.minute(0), AskPolicy)
    assert not local_question.served
    assert "served" not in encode_effects([local_question])
    assert b'"served"' not in encode_state(local.state)


def test_a_served_answer_in_time_is_acted_on() -> None:
    d = Desk(SERVED)
    (question,) = of(d.minute(0), AskPolicy)
    orders = of(d.put(answer_of(question.decision, d.at(1, 1.5), 1.0, 0.0)), SubmitOrder)
    assert [(order.symbol, order.side) for order in orders] == [("SPY", 1)]


def test_an_answer_of_a_version_that_answers_no_more_is_a_hold() -> None:
    """A canary that fell, or a version that broke its claim, was asked; its successor has another size and no fault."""
    d = Desk(SERVED)
    (question,) = of(d.minute(0), AskPolicy)
    d.put(ev.ModelPromoted(d.at(1, 1.1), "v2", "", True, "sip", MODEL))
    effects = d.put(answer_of(question.decision, d.at(1, 1.2), 1.0, 1.0))
    assert [alarm.name for alarm in of(effects, RaiseAlarm)] == ["policy_failed"]
    assert (d.state.ask, d.state.works) == (None, {})


@pytest.mark.parametrize("late", ["a tick", "the answer itself"])
def test_no_answer_in_time_is_a_hold_that_is_counted_and_reported(late: str) -> None:
    d = Desk(SERVED)
    (question,) = of(d.minute(0), AskPolicy)
    effects = d.tick(1, 1.6) if late == "a tick" else d.put(answer_of(question.decision, d.at(1, 1.6), 1.0, 1.0))
    assert [alarm.name for alarm in of(effects, RaiseAlarm)] == ["served_late"]
    assert d.state.stats.denials == {"served_late": 1}
    assert (d.state.ask, d.state.works) == (None, {})
    again = d.put(answer_of(question.decision, d.at(1, 1.7), 1.0, 1.0))
    assert again == []


def test_after_an_answer_in_time_the_next_late_one_is_a_new_case() -> None:
    d = Desk(SERVED)
    d.minute(0)
    d.tick(1, 1.6)
    (question,) = of(d.minute(1), AskPolicy)
    d.put(answer_of(question.decision, d.at(2, 1.2), 0.0, 0.0))
    d.minute(2)
    assert [alarm.name for alarm in of(d.tick(3, 1.6), RaiseAlarm)] == ["served_late"]


def test_a_stop_goes_out_while_a_question_is_open() -> None:
    d = Desk(replace(RULES, served=Served(deadline_ms=5000), sizing=Sizing(stop_loss=0.1)))
    d.holds()
    (question,) = of(d.minute(1), AskPolicy)
    assert of(d.put(ev.QuotesReceived(d.at(2, 1.2), 0, (d.quote("SPY", d.at(2, 1.2), "85"),))), SubmitOrder) == []
    fallen = d.put(ev.QuotesReceived(d.at(2, 1.9), 0, (d.quote("SPY", d.at(2, 1.9), "85"),)))  # confirms the fall
    assert [(o.symbol, o.side, o.limit_price) for o in of(fallen, SubmitOrder)] == [("SPY", -1, None)]
    assert d.state.ask is not None
    assert d.state.ask.decision == question.decision


def test_a_journal_with_a_served_answer_among_other_events_replays() -> None:
    d = Desk(SERVED)
    before = d.state
    events: list[ev.Event] = []
    for symbol in SYMBOLS:
        now, start = d.at(1, 1.0), d.at(0)
        events.append(ev.BarClosed(now, Bar(symbol, start, 100.0, 100.0, 100.0, 100.0, 1000.0)))
        events.append(ev.QuotesReceived(now, start, (d.quote(symbol, now),)))
    events.append(ev.ClockTicked(d.at(1, 1.2)))
    events.append(ev.PolicyAnswered(d.at(1, 1.3), 1, (1.0, 0.0), b"", "v1"))
    events.append(ev.ClockTicked(d.at(1, 1.4)))
    live, again = Machine(d.core, before), Machine(d.core, before)
    for event in events:
        live.apply(event)
        assert not live.queue  # so a snapshot may be taken while the question is open
    for event in events:
        again.reapply(event)
    assert live.state.ask is None
    assert live.state.works != {}
    assert encode_state(again.state) == encode_state(live.state)


def test_an_answer_to_no_question_diverges() -> None:
    d = Desk(SERVED)
    with pytest.raises(Divergence):
        Machine(d.core, d.state).reapply(answer_of(1, d.at(1), 1.0, 1.0))
