"""Telemetry as messages: those of a run, held against the published schemas by the `jsonschema` library."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.core.events import (
    BarClosed,
    CandidateRefused,
    ClockTicked,
    Event,
    HaltRequested,
    LadderMoved,
    ModelPromoted,
    ModelRefused,
    ModelVerified,
    PauseRequested,
    ResumeRequested,
)
from daemon.core.records import DecisionRow, EquityRow, FillRow, OrderRow
from daemon.core.session import bar_end_ns
from daemon.core.step import Core, Step
from daemon.journal.published import heads_in
from daemon.operator.announce import Announcer
from daemon.operator.mqtt.messages import Alarm, ChainHead, ResponseMessage, message_of, schemas, telemetry_of
from daemon.operator.mqtt.outbox import Counts, Item, Outbox
from strategies.kit.contract import Bar, Session
from strategies.option_scalper import OptionScalper
from tests.support.desks.desk_run import Desk, tape_rows, write_tape

jsonschema: Any = pytest.importorskip("jsonschema")
SCHEMA_OF = {"bars": "bar", "decisions": "decision", "orders": "order", "fills": "fill"}
SCHEMA_OF |= {"denials": "denial", "alarms": "alarm", "models": "model"}


class AnnouncedRun:
    """A run, and all that the announcer left of it, in order."""

    def __init__(self, folder: Path) -> None:
        self.items: list[Item] = []
        self.steps: list[tuple[Event, Step]] = []
        desk = Desk(write_tape(folder / "tape.csv", tape_rows(1, 120)))
        outbox = Outbox(100_000)
        announcer = Announcer(outbox)

        def observe(event: Event, step: Step) -> None:
            announcer.observe(event, step)
            self.steps.append((event, step))
            while (item := outbox._take()) is not None:
                self.items.append(item)

        outcome = desk.run(folder / "state", observe=observe)
        assert outcome.failure is None

    def things(self, topic: str) -> list[Any]:
        return [item.thing for item in self.items if item.topic == topic]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> AnnouncedRun:
    return AnnouncedRun(tmp_path_factory.mktemp("run"))


@cache
def _validator(name: str) -> Any:
    schema = json.loads(schemas()[f"{name}.v1.json"])
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def _valid(name: str, text: bytes) -> dict[str, Any]:
    """The message, once the published schema says that it is one."""
    message: dict[str, Any] = json.loads(text)
    _validator(name).validate(message)
    return message


def test_every_message_of_a_run_fits_its_published_schema(run: AnnouncedRun) -> None:
    topics = set()
    for item in run.items:
        message = _valid(
            SCHEMA_OF.get(item.topic, item.topic), msgspec.json.encode(message_of(item.topic, item.thing, "paper-1"))
        )
        assert (message["v"], message["desk"]) == (1, "paper-1")
        topics.add(item.topic)
    assert topics >= {"status", "bars", "decisions", "orders", "fills", "equity", "models"}


def test_the_chain_s_head_is_told_as_verify_reads_it() -> None:
    text = msgspec.json.encode(message_of("chain", ChainHead(7, "ab" * 32), "paper-1"))
    message = _valid("chain", text)
    assert (message["row"], message["head"]) == (7, "ab" * 32)
    assert heads_in(text.decode()) == [(7, "ab" * 32)]


def test_a_message_with_a_field_missing_does_not_fit_its_schema() -> None:
    message = msgspec.to_builtins(telemetry_of(Counts(1, 1, 0, 0, 0, 0), 0, "paper-1"))
    _valid("telemetry", msgspec.json.encode(message))
    for name in message:
        with pytest.raises(jsonschema.ValidationError):
            _valid("telemetry", json.dumps({key: message[key] for key in message if key != name}).encode())


def test_a_run_tells_each_bar_decision_order_and_fill_once(run: AnnouncedRun) -> None:
    rows = [row for _, step in run.steps for row in step.rows]
    for topic, kind in (("decisions", DecisionRow), ("orders", OrderRow), ("fills", FillRow)):
        expected = [row for row in rows if isinstance(row, kind)]
        assert run.things(topic) == expected
        assert expected
    assert len(run.things("bars")) == 3 * 86 + 120
    assert run.things("denials") == [row for row in rows if isinstance(row, DecisionRow) and row.outcome == "denied"]
    assert run.things("equity")[-1] == [row for row in rows if isinstance(row, EquityRow)][-1]


def test_the_status_is_told_when_it_changes_and_not_with_every_step(run: AnnouncedRun) -> None:
    sessions = 4  # each begins and ends
    assert 2 * sessions <= len(run.things("status")) <= 4 * sessions < len(run.steps) / 10


def _waiting_statuses(outbox: Outbox) -> list[tuple[bool, bool]]:
    """Halted and paused, as the waiting statuses tell it."""
    statuses = []
    while (item := outbox._take()) is not None:
        if item.topic == "status":
            message = _valid("status", msgspec.json.encode(message_of("status", item.thing, "paper-1")))
            assert message["online"] is True
            statuses.append((message["status"]["halt"] != "", message["status"]["pause"] != ""))
    return statuses


def test_halt_pause_and_resume_are_told_at_once(run: AnnouncedRun) -> None:
    outbox, core = Outbox(10), Core(OptionScalper())
    announcer = Announcer(outbox)
    event, step = run.steps[-1]
    announcer.observe(event, step)
    assert _waiting_statuses(outbox) == [(False, False)]
    announcer.observe(event, step)
    assert _waiting_statuses(outbox) == []
    state, statuses = step.state, []
    for request in (
        PauseRequested(1, "look", "test"),
        HaltRequested(2, "operator", "stop", "test"),
        ResumeRequested(3, "go", "test"),
    ):
        next_step = core.step(state, request)
        announcer.observe(request, next_step)
        statuses += _waiting_statuses(outbox)
        state = next_step.state
    assert statuses == [(False, True), (True, True), (False, False)]


def test_an_alarm_tells_its_event_and_whether_the_desk_is_halted(run: AnnouncedRun) -> None:
    outbox, core = Outbox(10), Core(OptionScalper())
    event = HaltRequested(5, "operator", "stop", "mqtt/ops")
    step = core.step(run.steps[-1][1].state, event)
    Announcer(outbox).observe(event, step)
    alarms = [item.thing for item in iter(outbox._take, None) if item.topic == "alarms"]
    assert len(alarms) == 1
    message = _valid("alarm", msgspec.json.encode(message_of("alarms", alarms[0], "paper-1")))
    assert (message["alarm"], message["detail"]) == ("operator", "stop (by mqtt/ops)")
    assert (message["seq"], message["halted"]) == (step.state.seq, True)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (ModelVerified(1, "v1", "d", True, "sip"), {"what": "verified", "version": "v1", "promoted": True}),
        (
            ModelPromoted(1, "v2", "d", False, "sip", "v1"),
            {"what": "promoted", "version": "v2", "previous": "v1", "promoted": False},
        ),
        (CandidateRefused(1, "v3", "its hash differs"), {"what": "refused", "version": "v3"}),
        (ModelRefused(1, "no such file"), {"what": "refused", "version": "", "reason": "no such file"}),
    ],
)
def test_news_of_models_says_what_became_of_which_version(event: Event, expected: dict[str, Any]) -> None:
    message = _valid("model", msgspec.json.encode(message_of("models", event, "paper-1")))
    assert message | expected == message


@pytest.mark.parametrize(
    ("length_s", "known_s", "lag_ms"),
    [(60, 60.0, 0.0), (60, 60.25, 250.0), (60, 59.0, 0.0), (60, 3660.0, 3_600_000.0), (900, 900.25, 250.0)],
)
def test_the_lag_of_a_bar_counts_from_its_end(run: AnnouncedRun, length_s: int, known_s: float, lag_ms: float) -> None:
    outbox, start_ns = Outbox(10), 1_732_600_000_000_000_000
    event = BarClosed(start_ns + int(known_s * 1e9), Bar("SPY", start_ns, 1.0, 1.0, 1.0, 1.0, 1.0))
    Announcer(outbox, length_s * 10**9).observe(event, run.steps[-1][1])
    (bar,) = [item.thing for item in iter(outbox._take, None) if item.topic == "bars"]
    message = _valid("bar", msgspec.json.encode(message_of("bars", bar, "paper-1")))
    assert message["lag_ms"] == lag_ms


def test_the_last_bar_of_a_session_ends_with_it() -> None:
    session = Session("2024-12-03", 0, 390 * 60)
    assert bar_end_ns(360 * 60, 60 * 60, session) == 390 * 60
    assert [bar_end_ns(start, 60 * 60, session) for start in (300 * 60, 390 * 60)] == [360 * 60, 450 * 60]


def test_a_denial_names_the_gates_that_denied_and_no_other() -> None:
    gates = json.dumps({"halted": "halted: operator", "paused": "", "order_quantity": None, "drawdown": "too deep"})
    row = DecisionRow(decision=7, kind="policy", bar_ns=1, time_ns=2, gates=gates, outcome="denied")
    message = _valid("denial", msgspec.json.encode(message_of("denials", row, "paper-1")))
    assert message["denials"] == [
        {"gate": "halted", "reason": "halted: operator"},
        {"gate": "drawdown", "reason": "too deep"},
    ]
    assert message["decision"] == 7


MOVED = LadderMoved(1, "v2", "shadow", "canary_10", "v1", 0.1, 0, "shadow_passed", "ahead", {"pnl": 0.02})


def test_a_step_of_the_ladder_is_a_message_and_changes_the_status(run: AnnouncedRun) -> None:
    outbox, core = Outbox(10), Core(OptionScalper())
    announcer = Announcer(outbox)
    state = run.steps[-1][1].state
    announcer.observe(ClockTicked(state.now_ns), Step(state, (), ()))  # the status before
    while outbox._take() is not None:
        pass
    step = core.step(state, MOVED)
    announcer.observe(MOVED, step)
    items = {item.topic: item.thing for item in iter(outbox._take, None)}
    message = _valid("ladder", msgspec.json.encode(message_of("ladder", items["ladder"], "paper-1")))
    assert (message["version"], message["to_step"], message["share"]) == ("v2", "canary_10", 0.1)
    assert (message["reason"], message["figures"]) == ("shadow_passed", {"pnl": 0.02})
    status = _valid("status", msgspec.json.encode(message_of("status", items["status"], "paper-1")))["status"]
    challenger = {"version": "v2", "step": "canary_10", "champion": "v1", "size": 0.1, "sessions": 0}
    assert status["challenger"] == challenger


def test_an_answer_to_a_command_fits_its_schema() -> None:
    assert _valid("response", msgspec.json.encode(ResponseMessage(ok=False, error="late")))["seq"] == 0


def test_what_nobody_leaves_under_a_topic_is_an_error() -> None:
    with pytest.raises(KeyError):
        message_of("bars", Alarm("a", "b", 1, 2, False), "paper-1")
