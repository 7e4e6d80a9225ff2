"""A command is one event or a refusal; none of them opens a position."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.events import (
    AcceptBrokerRequested,
    ClockReset,
    Event,
    FlattenRequested,
    HaltRequested,
    PauseRequested,
    ReloadRequested,
    ResumeRequested,
    StatusRequested,
)
from daemon.operator.commands import NAMES, REASON_MOST, Command, CommandError, event_of

EVENTS: dict[str, Event] = {
    "pause": PauseRequested(7, "news", "control/ann (uid 1)"),
    "resume": ResumeRequested(7, "news", "control/ann (uid 1)"),
    "resume-reset-limits": ResumeRequested(7, "news", "control/ann (uid 1)", reset_limits=True),
    "halt": HaltRequested(7, "operator", "news", "control/ann (uid 1)"),
    "flatten": FlattenRequested(7, "news", "control/ann (uid 1)"),
    "accept-broker": AcceptBrokerRequested(7, "news", "control/ann (uid 1)"),
    "reload-model": ReloadRequested(7, "news", "control/ann (uid 1)"),
    "status": StatusRequested(7, "news", "control/ann (uid 1)"),
    "reset-clock": ClockReset(7, "news", "control/ann (uid 1)"),
}


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_one_event_with_reason_and_person(name: str) -> None:
    assert event_of(Command(name, " news\n", "\tcontrol/ann (uid 1) "))(7) == EVENTS[name]


def test_the_list_of_names_is_closed() -> None:
    assert set(NAMES) == set(EVENTS)
    with pytest.raises(CommandError, match="command is 'buy': expected one of pause, resume, halt, flatten"):
        event_of(Command("buy", "x", "ann"))


@pytest.mark.parametrize("field", ["reason", "who"])
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "0 letters"),
        (" \t", "0 letters"),
        ("x" * (REASON_MOST + 1), "501 letters"),
        ("a\x00b", "text with control characters"),
        ("a\u2028b", "text with control characters"),
        ("\ud800", "text with control characters"),
    ],
)
def test_a_reason_and_a_name_are_one_to_five_hundred_printable_letters(field: str, text: str, problem: str) -> None:
    command = Command("halt", text, "ann") if field == "reason" else Command("halt", "why", text)
    with pytest.raises(CommandError, match=f"{field} has {problem}: expected 1 to 500 printable ones"):
        event_of(command)


def test_five_hundred_letters_of_any_language_are_taken() -> None:
    event = event_of(Command("pause", "ß" * REASON_MOST, "Åsa"))(1)
    assert event == PauseRequested(1, "ß" * 500, "Åsa")


@given(name=st.text(), reason=st.text(), who=st.text())
def test_whatever_is_asked_is_refused_or_says_printable_text(name: str, reason: str, who: str) -> None:
    try:
        result = event_of(Command(name, reason, who))(1)
    except CommandError:
        return
    assert type(result) in {type(event) for event in EVENTS.values()}
    assert reason.strip().isprintable()
    assert who.strip().isprintable()
