"""The manuals say what the code says: every gate, halt reason, alarm and log event has its place, and no dead one."""

from __future__ import annotations

import ast
import re
from functools import cache

from daemon.core.desks.registry import GATES
from daemon.core.gates import LOSSES
from daemon.operator.log_events import LOG_EVENTS
from daemon.operator.urgency import Urgency, urgency_of
from tests.chaos.kinds import KINDS
from tests.support.paths import REPOSITORY

OPERATIONS = (REPOSITORY / "docs" / "OPERATIONS.md").read_text()
GATE_PAGE = (REPOSITORY / "docs" / "GATES.md").read_text()


@cache
def _calls() -> tuple[tuple[str, tuple[object, ...]], ...]:
    """All calls in the daemon: the name, and the literal of each positional argument."""
    return tuple(
        (
            getattr(node.func, "id", getattr(node.func, "attr", "")),
            tuple(argument.value if isinstance(argument, ast.Constant) else None for argument in node.args),
        )
        for path in (REPOSITORY / "daemon").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    )


def _named_in_calls(function: str, argument: int) -> set[str]:
    """String literals given to a function of this name anywhere in the daemon."""
    calls = [arguments for name, arguments in _calls() if name == function and len(arguments) > argument]
    return {value for arguments in calls if isinstance(value := arguments[argument], str)}


def _headings(pattern: str, manual: str = OPERATIONS) -> set[str]:
    return set(re.findall(rf"^###? {pattern}$", manual, re.MULTILINE))


def test_every_gate_has_a_heading_in_the_manual_and_no_other_has_one() -> None:
    asked_before_the_gates = {"no_quote"}
    assert _headings("`([a-z_]+)`", GATE_PAGE) == {gate.name for gate in GATES} | asked_before_the_gates


def test_every_halt_reason_has_a_heading_in_the_manual_and_no_other_has_one() -> None:
    assert _headings("halt `([a-z_]+)`") == _named_in_calls("halt", 0) | _named_in_calls("HaltRequested", 1)


def test_every_alarm_has_a_heading_in_the_manual_and_no_other_has_one() -> None:
    noticed = {name for name, event in LOG_EVENTS.items() if event.alarm}
    raised = (
        _named_in_calls("alarm", 0) | _named_in_calls("_notice", 0) | _named_in_calls("RaiseAlarm", 0) | noticed
    ) - {LOSSES}
    assert _headings("alarm `([a-z_]+)`") == raised


def test_the_manual_names_the_grave_alarms_of_the_one_table_of_urgency() -> None:
    listed = OPERATIONS.partition("every halt that begins, and ")[2].partition("\n\n")[0]
    halts, alarms = _headings("halt `([a-z_]+)`"), _headings("alarm `([a-z_]+)`")
    assert set(re.findall("`([a-z_]+)`", listed)) == {name for name in alarms if urgency_of(name) == Urgency.GRAVE}
    assert {urgency_of(name) for name in halts - alarms} == {Urgency.GRAVE}


def test_every_reason_to_leave_the_ladder_has_a_heading_in_the_manual_and_no_other_has_one() -> None:
    files = [REPOSITORY / "daemon" / "models" / "ladder" / name for name in ("rules.py", "climber.py")]
    words = {
        node.value
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    names = {
        word
        for word in words
        if re.fullmatch("(card|replay|shadow|canary)_[a-z_]+|by_hand|held_back|version_changed", word)
    }
    passes = {"card_passed", "replay_passed", "replay_empty", "shadow_passed", "canary_passed"}
    figures = {"replay_to"}
    assert passes | figures <= names
    assert _headings("ladder `([a-z_]+)`") == names - passes - figures | {"verification"}


def test_every_log_event_is_written_somewhere() -> None:
    names = set().union(*(_named_in_calls(name, 0) for name in ("log", "self", "tell", "_tell", "_log")))
    assert names <= set(LOG_EVENTS)
    assert set(LOG_EVENTS) - names <= _constants()  # a name may be chosen first and logged then


def test_what_went_wrong_for_others_has_tests_and_kinds_that_are_there() -> None:
    chapter = (
        (REPOSITORY / "docs" / "CHAOS.md")
        .read_text()
        .partition("## What went wrong for others")[2]
        .partition("\n## ")[0]
    )
    shown_by = [row.rsplit("|", 2)[1] for row in chapter.splitlines() if row.startswith("| ")][1:]
    names_by_row = [set(re.findall(r"`([^`]+)`", cell)) for cell in shown_by]
    assert len(names_by_row) == 21
    assert all(names_by_row)
    assert set().union(*names_by_row) - _tests() - set(KINDS) == set()


def test_each_promise_of_the_safety_page_names_tests_that_are_there() -> None:
    page = (REPOSITORY / "docs" / "SAFETY.md").read_text()
    rows = re.findall(r"^\| .+ \| (`test_.+`) \| .+ \|$", page, re.MULTILINE)
    assert len(rows) == len(re.findall(r"^\|.*`test_", page, re.MULTILINE)) >= 80  # each has its three columns
    assert set(re.findall(r"`([^`]+)`", " ".join(rows))) - _tests() == set()


def test_the_manual_says_what_the_tests_hold_that_a_resume_needs_no_stop() -> None:
    manual = " ".join((REPOSITORY / "docs" / "OPERATIONS.md").read_text().split())
    halts = manual.partition("## Halts ")[2].partition("### halt")[0]
    assert "then `rltraderctl resume --state-dir DIR --reason TEXT`, with the daemon up or down;" in halts
    up, down = (
        "test_a_running_desk_is_commanded_through_its_socket_and_says_what_came_of_it",
        "test_halt_and_resume_are_journaled_with_reason_and_person_and_hold_for_the_next_run",
    )
    assert {up, down} <= _tests()


def _tests() -> set[str]:
    files = (REPOSITORY / "tests").rglob("test_*.py")
    return {name for path in files for name in re.findall(r"def (test_\w+)", path.read_text())}


def _constants() -> set[str]:
    """All strings of the daemon outside of the vocabulary itself."""
    return {
        node.value
        for path in (REPOSITORY / "daemon").rglob("*.py")
        if path.name != "telemetry.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
