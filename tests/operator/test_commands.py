"""A command is one event or a refusal; none of them opens a position."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.events import (
    AcceptBrokerRequested,
    ClockReset,
    CloseRequested,
    Event,
    FlattenRequested,
    HaltRequested,
    PauseRequested,
    ReloadRequested,
    ResumeRequested,
    StatusRequested,
)
from daemon.operator.commands import NAMES, REASON_MOST, Command, CommandError, event_of
from strategies.kit.quantity import exact

EVENTS: dict[str, Event] = {
    "pause": PauseRequested(7, "news", "control/ann (uid 1)"),
    "resume": ResumeRequested(7, "news", "control/ann (uid 1)"),
    "resume-reset-limits": ResumeRequested(7, "news", "control/ann (uid 1)", reset_limits=True),
    "halt": HaltRequested(7, "operator", "news", "control/ann (uid 1)"),
    "flatten": FlattenRequested(7, "news", "control/ann (uid 1)"),
    "close SPY 2.5": CloseRequested(7, "SPY", exact("2.5"), "news", "control/ann (uid 1)"),
    "accept-broker": AcceptBrokerRequested(7, "news", "control/ann (uid 1)"),
    "reload-model": ReloadRequested(7, "news", "control/ann (uid 1)"),
    "status": StatusRequested(7, "news", "control/ann (uid 1)"),
    "reset-clock": ClockReset(7, "news", "control/ann (uid 1)"),
}


@pytest.mark.parametrize("name", EVENTS)
def test_each_name_is_one_event_with_reason_and_person(name: str) -> None:
    assert event_of(Command(name, " news\n", "\tcontrol/ann (uid 1) "))(7) == EVENTS[name]


def test_the_list_of_names_is_closed() -> None:
    assert set(NAMES) == {name.split()[0] for name in EVENTS}
    with pytest.raises(CommandError, match="command is 'buy': expected one of pause, resume, halt, flatten, close"):
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


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("close", "expected a symbol, and maybe a quantity"),
        ("close spy", "expected a symbol"),
        ("close SPY 1 2", "expected a symbol"),
        ("close SPY 0", "expected one above 0"),
        ("close SPY -1", "expected one above 0"),
        ("close SPY 1e-10", "at most 9 decimals"),
        ("close SPY many", "at most 9 decimals"),
        ("pause SPY", "expected one of pause"),
        ("resume now", "expected nothing more, or the desk's time"),
        ("resume 0", "expected nothing more, or the desk's time"),
        ("resume 1 2", "expected nothing more, or the desk's time"),
    ],
)
def test_what_stands_behind_a_command_and_says_nothing_is_refused(name: str, problem: str) -> None:
    with pytest.raises(CommandError, match=problem):
        event_of(Command(name, "why", "ann"))


def test_a_close_without_a_quantity_is_of_all() -> None:
    assert event_of(Command("close BRK.B", "why", "ann"))(1) == CloseRequested(1, "BRK.B", 0, "why", "ann")


def test_a_resume_may_say_until_when_its_halts_were_seen() -> None:
    assert event_of(Command("resume 170", "why", "ann"))(200) == ResumeRequested(200, "why", "ann", seen_ns=170)


def test_five_hundred_letters_of_any_language_are_taken() -> None:
    event = event_of(Command("pause", "ß" * REASON_MOST, "Åsa"))(1)
    assert event == PauseRequested(1, "ß" * 500, "Åsa")


@given(name=st.text(), reason=st.text(), actor=st.text())
def test_whatever_is_asked_is_refused_or_says_printable_text(name: str, reason: str, actor: str) -> None:
    try:
        result = event_of(Command(name, reason, actor))(1)
    except CommandError:
        return
    assert type(result) in {type(event) for event in EVENTS.values()}
    assert reason.strip().isprintable()
    assert actor.strip().isprintable()
