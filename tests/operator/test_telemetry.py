"""Every log event is declared once, used, and written with exactly its fields; a lost reader stops nothing."""

from __future__ import annotations

import ast
import io
import json
import os
import time
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from msgspec.structs import replace

import daemon
from daemon.core.effects import AnyEffect, CancelOrder, RaiseAlarm, SubmitOrder
from daemon.core.events import (
    BrokerLost,
    BrokerReported,
    ClockTicked,
    Event,
    HaltRequested,
    OrderFilled,
    OrderRejected,
    PolicyAnswered,
    SessionEnded,
    SessionScheduled,
)
from daemon.core.limits import Trading
from daemon.core.records import DecisionRow
from daemon.core.state import Identity
from daemon.core.step import Core, Step
from daemon.operator import log
from daemon.operator.log import LEVELS, Log
from daemon.operator.log_events import GATEWAY_EVENTS, GUARD_EVENTS, LOG_EVENTS, table
from strategies.kit.contract import Session
from strategies.registry import strategy as strategy_named
from tests.support.paths import REPOSITORY

assert daemon.__file__ is not None
TRAINER = REPOSITORY / "training" / "online"  # it logs by the same vocabulary
SOURCES = sorted([*Path(daemon.__file__).parent.rglob("*.py"), *TRAINER.rglob("*.py")])


NAMES = ("log", "_log", "notify", "_notify", "tell", "_tell")  # what a log is called where it is used, or handed in
CHOSEN = {"stream_lost", "stream_busy", "stream_refused"}  # `market_socket` chooses among these, with the same fields
OF_GUARD = {name for name, event in GUARD_EVENTS.items() if event.alarm}  # the alarms of a guard, by its watch's word
OF_GATEWAY = {name for name, event in GATEWAY_EVENTS.items() if event.alarm}  # by its step's
OF_GATEWAY -= {"gateway_exit_waits", "gateway_halted", "gateway_sells_out", "gateway_stream_failed"}


def log_calls() -> dict[str | None, list[tuple[str, frozenset[str]]]]:
    """Every call of a log in the sources, by event name (None: a variable): where, and with which fields."""
    calls: dict[str | None, list[tuple[str, frozenset[str]]]] = defaultdict(list)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            function = ast.unparse(node.func)
            is_log = function.rpartition(".")[2] in NAMES and not function.startswith(
                ("math.", "self._notifier.", "self._apprise.")
            )
            if is_log or function == "Log()" or (function == "self" and path == Path(log.__file__)):
                assert len(node.args) == 1, f"{path}:{node.lineno}: one name, and fields by keyword"
                name = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
                assert isinstance(name, str | None), f"{path}:{node.lineno}"
                fields = frozenset(keyword.arg or "**" for keyword in node.keywords)
                calls[name].append((f"{path.name}:{node.lineno}", fields))
    return calls


def test_every_log_call_in_the_sources_uses_a_declared_event_with_exactly_its_fields() -> None:
    calls = log_calls()
    calls.pop(None)
    assert sum(map(len, calls.values())) >= len(LOG_EVENTS) - len(CHOSEN | OF_GUARD | OF_GATEWAY)
    for name, places in calls.items():
        assert name in LOG_EVENTS, places
        for where, fields in places:
            assert fields == set(LOG_EVENTS[name].fields), f"{where}: {name}"


def test_a_name_is_chosen_in_one_place_only_and_among_events_with_the_same_fields() -> None:
    choices = dict(log_calls()[None])
    passed_on = {where for where, fields in choices.items() if fields == {"**"}}
    assert {where.partition(":")[0] for where in passed_on} == {"desk.py", "operator_side.py"}
    by_place = {where.partition(":")[0]: fields for where, fields in choices.items() if where not in passed_on}
    assert {frozenset(LOG_EVENTS[name].fields) for name in CHOSEN} == {by_place.pop("socket.py")}
    assert {frozenset(LOG_EVENTS[name].fields) for name in OF_GUARD} == {by_place.pop("command.py")}
    assert {frozenset(LOG_EVENTS[name].fields) for name in OF_GATEWAY} == {by_place.pop("gateway.py")}
    assert not by_place


def test_every_declared_event_is_used_and_says_what_it_means() -> None:
    assert set(log_calls()) - {None} == set(LOG_EVENTS) - CHOSEN - OF_GUARD - OF_GATEWAY
    for name, declared in LOG_EVENTS.items():
        assert declared.level in LEVELS, name
        assert declared.meaning.endswith("."), name
        assert len(set(declared.fields)) == len(declared.fields), name


def test_what_is_raised_as_an_alarm_is_a_warning_at_least() -> None:
    alarms = {name: declared for name, declared in LOG_EVENTS.items() if declared.alarm}
    assert "job_failed" in alarms
    assert {declared.level for declared in alarms.values()} <= {"warning", "error"}


def test_the_table_marks_what_is_an_alarm_too() -> None:
    rows = dict(line.strip("| ").split(" | ", 1) for line in table().splitlines()[2:])
    assert set(rows) == {f"`{name}`" for name in LOG_EVENTS}
    for name, declared in LOG_EVENTS.items():
        assert rows[f"`{name}`"].split(" | ")[0] == declared.level + (", alarm" if declared.alarm else "")


def entries_of(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_line_with_its_level_and_time() -> None:
    stream = io.StringIO()
    Log(stream=stream)("stopping", reason="SIGTERM")
    (line,) = entries_of(stream)
    assert (line["event"], line["level"], line["reason"]) == ("stopping", "info", "SIGTERM")
    assert str(line["timestamp"]).endswith("Z")


@pytest.mark.parametrize(
    ("name", "fields"),
    [("made_up", {}), ("stopping", {}), ("stopping", {"reason": "x", "more": 1}), ("stopping", {"raison": "x"})],
)
def test_an_undeclared_event_or_field_is_a_bug(name: str, fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"log event '{name}' with fields"):
        Log(stream=io.StringIO())(name, **fields)


def test_events_below_the_level_are_left_out() -> None:
    stream = io.StringIO()
    log = Log("warning", stream=stream)
    log("stopping", reason="x")
    log("order_rejected", client_order_id="id", reason="x")
    assert [line["event"] for line in entries_of(stream)] == ["order_rejected"]


def test_the_pretty_style_is_text() -> None:
    stream = io.StringIO()
    Log(style="pretty", stream=stream)("stopping", reason="SIGTERM")
    assert "stopping" in stream.getvalue()
    assert "reason=SIGTERM" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_a_terminal_gets_local_times_and_one_line_for_each_event(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        Log(style="pretty", stream=stream)("task_failed", task="mqtt", problem="two\nlines")
    time.tzset()
    (line,) = stream.getvalue().splitlines()
    moment = datetime.strptime(line[:19], "%Y-%m-%d %H:%M:%S").replace(tzinfo=ZoneInfo("Asia/Tokyo"))
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 300
    assert line[19:].split()[:3] == ["[error", "]", "task_failed"]


@pytest.mark.parametrize("style", ["pretty", "json"])
def test_foreign_text_makes_no_line_of_its_own_and_commands_no_terminal(style: str) -> None:
    stream = io.StringIO()
    evil = "x\n2026-01-01T00:00:00Z [info] resumed\r\x1b]52;c;b3duZWQ=\x07\x1b[2J"
    Log(style=style, stream=stream)("order_rejected", client_order_id="id", reason=evil)
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue()[:-1].isprintable()
    assert "resumed" in stream.getvalue()


def test_a_log_that_nobody_reads_any_more_is_silent() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as stream:
        Log(stream=stream)("stopping", reason="x" * 100_000)
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)  # what is left in the buffer has somewhere to go


def stepped(event: Event, *effects: AnyEffect) -> list[dict[str, object]]:
    """The log lines of a step with these effects, in a desk that just began."""
    core = Core(strategy_named("option_scalper"))
    state = core.start(Identity("replay", "paper", "option_scalper", "e", "sip"), Trading())
    stream = io.StringIO()
    Log(stream=stream).step(event, Step(state, effects, ()))
    return [{k: v for k, v in line.items() if k not in ("timestamp", "level")} for line in entries_of(stream)]


def test_a_halt_is_told_by_its_own_word_and_once_among_the_alarms() -> None:
    core = Core(strategy_named("option_scalper"))
    state = core.start(Identity("paper", "paper", "option_scalper", "e", "sip"), Trading())
    stream = io.StringIO()
    log = Log(stream=stream)
    event = HaltRequested(5, "operator", "lunch", "ann")
    log.step(event, core.step(state, event))
    log.step(event, Step(state, (RaiseAlarm("operator", "lunch (by ann)"),), ()))  # a state that is not halted for it
    entries = [(line["event"], line.get("reason"), line.get("alarm")) for line in entries_of(stream)]
    assert entries == [("halted", "operator", None), ("alarm", None, "operator")]


def test_it_is_told_when_book_and_broker_begin_to_agree_and_not_each_minute() -> None:
    core = Core(strategy_named("option_scalper"))
    state = core.start(Identity("paper", "paper", "option_scalper", "e", "sip"), Trading())
    stream = io.StringIO()
    log = Log(stream=stream)
    report = BrokerReported(9, 8, "PA1", Decimal("10000.00"), "", (), (), (), (), ())
    for event in (report, report, BrokerLost(10, "gone"), report):
        step = core.step(state, event)
        state = step.state
        log.step(event, step)
    entries = [(line["event"], line.get("equity_usd"), line.get("positions")) for line in entries_of(stream)]
    assert entries == [
        ("reconciled", "10000.00", []),
        ("alarm", None, None),
        ("reconciled", "10000.00", []),
    ]


def test_with_a_simulated_clock_each_line_has_its_time() -> None:
    stream = io.StringIO()
    log = Log(stream=stream)
    log.market_time = lambda: "2024-07-03 12:00:00"
    log("stopping", reason="x")
    assert [line["simulated"] for line in entries_of(stream)] == ["2024-07-03 12:00:00"]


def test_a_step_is_told_as_a_person_would() -> None:
    session = Session("2024-07-03", 1, 2)
    assert stepped(SessionScheduled(1, session, ())) == [
        {"event": "session_started", "date": "2024-07-03", "equity_usd": "0"}
    ]
    assert stepped(SessionEnded(2, "2024-07-03")) == [
        {"event": "session_ended", "date": "2024-07-03", "equity_usd": "0", "realized_usd": "0", "trades": 0}
    ]
    fill = OrderFilled(1, "id", "SPY", -1, Decimal("1.10"), 2, 3, Decimal("3.30"), Decimal("0.1"), 3)
    assert stepped(fill) == [
        {
            "event": "order_filled",
            "client_order_id": "id",
            "symbol": "SPY",
            "side": -1,
            "cumulative_quantity": 3,
            "price": "1.10",
        }
    ]
    assert stepped(OrderRejected(1, "id", "no")) == [
        {"event": "order_rejected", "client_order_id": "id", "reason": "no"}
    ]


def test_effects_are_told_after_their_event() -> None:
    order = SubmitOrder("id", "SPY", 1, 2, None, "buy_to_open", 9)
    lines = stepped(ClockTicked(1), order, CancelOrder("id"), RaiseAlarm("quarantine", "why"))
    assert lines == [
        {
            "event": "order_submitted",
            "client_order_id": "id",
            "symbol": "SPY",
            "side": 1,
            "quantity": 2,
            "limit_price": None,
            "intent": "buy_to_open",
        },
        {"event": "order_cancel_requested", "client_order_id": "id"},
        {"event": "alarm", "alarm": "quarantine", "detail": "why"},
    ]
    (limit,) = stepped(ClockTicked(1), SubmitOrder("id", "SPY", 1, 2, Decimal("1.05"), "buy_to_open", 9))
    assert limit["limit_price"] == "1.05"


def test_a_daily_desk_tells_baskets_and_its_orders_only_where_each_detail_is_asked_for() -> None:
    core = Core(strategy_named("regime_switcher"))
    state = core.start(Identity("replay", "paper", "regime_switcher", "e", "sip"), Trading())
    basket_state = replace(state, basket=replace(state.basket, date="2024-07-03", given_up={"IWM": 4}))
    decided = DecisionRow(
        decision=7, kind="policy", bar_ns=1, time_ns=2, action="ALL_SPY", target='[{"symbol":"SPY","goal":3}]',
        outcome="ordered",
    )  # fmt: skip
    silent = DecisionRow(decision=8, kind="policy", bar_ns=1, time_ns=2, outcome="expired")
    steps: list[tuple[Event, Step]] = [
        (SessionScheduled(1, Session("2024-07-03", 1, 9), ()), Step(basket_state, (), ())),
        (
            PolicyAnswered(2, 7, (), b"", "m"),
            Step(basket_state, (SubmitOrder("s", "QQQ", -1, 2, None, "", 9),), (decided,)),
        ),
        (
            OrderFilled(3, "s", "QQQ", -1, Decimal(10), 3, 2, Decimal(20), Decimal("0.02"), 2),
            Step(basket_state, (), ()),
        ),
        (OrderFilled(4, "b", "SPY", 1, Decimal(5), 3, 3, Decimal(15), Decimal("0.015"), 3), Step(basket_state, (), ())),
        (ClockTicked(5), Step(basket_state, (CancelOrder("b"),), (silent,))),
        (SessionEnded(9, "2024-07-03"), Step(basket_state, (), ())),
        (SessionScheduled(11, Session("2024-07-05", 11, 19), ()), Step(basket_state, (), ())),
        (SessionEnded(19, "2024-07-05"), Step(basket_state, (), ())),
    ]
    logs = {}
    for level in ("info", "debug"):
        stream = io.StringIO()
        log = Log(level, stream=stream)
        for event, step in steps:
            log.step(event, step)
        logs[level] = entries_of(stream)
    names = [line["event"] for line in logs["info"]]
    assert names == [
        "session_started", "basket_decided", "basket_decided", "basket_traded", "session_ended", "session_started",
        "session_ended",
    ]  # fmt: skip
    assert [(line["action"], line["outcome"], line["legs"]) for line in logs["info"] if "legs" in line] == [
        ("ALL_SPY", "ordered", 1),
        (None, "expired", 0),
    ]
    entry = {k: v for k, v in logs["info"][3].items() if k not in ("event", "timestamp", "level")}
    assert entry == {
        "date": "2024-07-03", "orders": 1, "fills": 2, "bought_usd": "15", "sold_usd": "20", "costs_usd": "0.035",
        "given_up": {"IWM": 4},
    }  # fmt: skip
    quiet = [line["event"] for line in logs["debug"] if line["level"] == "debug"]
    assert quiet == ["order_submitted", "order_filled", "order_filled", "order_cancel_requested"]
    stream = io.StringIO()
    terminal = Log("info", "pretty", stream=stream)
    for event, step in steps:
        terminal.step(event, step)
    words = stream.getvalue()
    assert (words.count("order_filled"), words.count("basket_traded")) == (2, 1)
    assert "order_submitted" not in words
