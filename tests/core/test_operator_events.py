"""What an operator, and the shell on an operator's behalf, may set off in the core."""

from __future__ import annotations

import msgspec
import pytest

from daemon.core.effects import AskPolicy, CancelOrder, RaiseAlarm, SubmitOrder
from daemon.core.events import (
    CandidateRefused,
    ClaimJudged,
    CommandRefused,
    Event,
    FlattenRequested,
    HaltRequested,
    ModelPromoted,
    PauseRequested,
    PolicyAnswered,
    ReloadRequested,
    ResumeRequested,
    StatusRequested,
)
from daemon.core.state import Model, Pause, RiskState
from tests.support.core.claims import claim_of, watched
from tests.support.core.daily_desk import LAST_FRIDAY, DailyDesk, Shelf
from tests.support.core.desk import BUY_CALL, MINUTE, TUESDAY, Desk, alarms, desk, logits, of

# --- models -------------------------------------------------------------------------------------------------------


def promoted(at_ns: int, version: str = "v2", *, promoted: bool = True, feed: str = "sip") -> ModelPromoted:
    return ModelPromoted(at_ns, version, "digest", promoted, feed, "v1")


def test_a_promoted_version_is_the_desk_s_model_from_then_on_and_the_next_decision_carries_it() -> None:
    minute = desk()
    minute.bar(0)
    minute.answer(BUY_CALL)
    assert minute.put(promoted(minute.state.now_ns)) == []
    assert minute.state.model == Model("v2", promoted=True, feed="sip")
    minute.bar(1)
    ask = minute.state.ask
    assert ask is not None
    minute.put(PolicyAnswered(minute.state.now_ns, ask.decision, logits(BUY_CALL), b"", "v2"))
    assert [(row.decision, row.model) for row in minute.decisions()] == [(1, "v1"), (2, "v2")]


def test_an_order_at_work_lives_on_when_the_model_changes() -> None:
    minute = desk()
    name = minute.buys()
    before = minute.state
    minute.put(promoted(before.now_ns))
    after = minute.state
    assert after == msgspec.structs.replace(before, seq=before.seq + 1, model=after.model)
    minute.fill(name, minute.order(name).quantity)
    assert minute.held


@pytest.mark.parametrize(
    ("event", "gate"),
    [(promoted(0, promoted=False), "model_not_promoted"), (promoted(0, feed="iex"), "model_other_feed")],
)
def test_the_gates_judge_the_promoted_version_as_they_judge_the_first(event: ModelPromoted, gate: str) -> None:
    live = Desk(mode="live")
    live.state = msgspec.structs.replace(
        live.state, identity=msgspec.structs.replace(live.state.identity, account="live")
    )
    live.fund().begin()
    live.put(msgspec.structs.replace(event, time_ns=live.state.now_ns))
    live.bar(20)
    live.answer(BUY_CALL)
    (row,) = live.decisions()
    assert row.gates is not None
    denied = {name for name, reason in msgspec.json.decode(row.gates).items() if reason}
    assert gate in denied


def test_another_version_is_not_given_the_memory_of_the_one_before() -> None:
    daily = DailyDesk(strategy=Shelf()).fund()
    daily.begin()
    daily.bars(LAST_FRIDAY, AAA=100.0)
    first = of(daily.due(), AskPolicy)[0]
    assert first.observation.hidden == b""
    daily.answer(-1, -1, -1, hidden=b"memory")
    assert daily.state.basket.memory_of == "v1"
    daily.end()
    daily.begin(TUESDAY)
    daily.put(promoted(daily.state.now_ns))
    second = of(daily.due(), AskPolicy)[0]
    assert second.observation.hidden == b""
    assert second.observation.data == first.observation.data
    ask = daily.state.ask
    assert ask is not None
    daily.put(PolicyAnswered(daily.state.now_ns, ask.decision, (-1, -1, -1), b"its own", "v2"))
    assert daily.state.basket.memory_of == "v2"


def test_the_same_version_is_given_its_memory() -> None:
    daily = DailyDesk(strategy=Shelf()).fund()
    daily.begin()
    daily.bars(LAST_FRIDAY, AAA=100.0)
    daily.due()
    daily.answer(-1, -1, -1, hidden=b"memory")
    daily.end()
    daily.begin(TUESDAY)
    daily.put(promoted(daily.state.now_ns, "v1"))
    assert of(daily.due(), AskPolicy)[0].observation.hidden == b"memory"


# --- what is reported ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "alarm"),
    [
        (CandidateRefused(0, "v9", "golden answers differ"), ("candidate_refused", "v9: golden answers differ")),
        (CommandRefused(0, "mqtt", "mac is wrong"), ("command_refused", "mqtt: mac is wrong")),
    ],
)
def test_what_was_refused_is_an_alarm_each_time_and_changes_nothing(event: Event, alarm: tuple[str, str]) -> None:
    minute = desk()
    before = minute.state
    for number in (1, 2):
        assert minute.put(event) == [RaiseAlarm(*alarm)]
        assert minute.state == msgspec.structs.replace(before, seq=before.seq + number)


@pytest.mark.parametrize("event", [ReloadRequested(0, "why", "ann"), StatusRequested(0, "why", "ann")])
def test_a_question_of_an_operator_changes_nothing(event: Event) -> None:
    for machine in (desk(), DailyDesk().fund()):
        before = machine.state
        assert machine.put(event) == []
        assert machine.state == msgspec.structs.replace(before, seq=before.seq + 1)


# --- what is done -------------------------------------------------------------------------------------------------


def test_a_pause_cancels_entries_keeps_positions_and_lets_exits_pass_until_resumed() -> None:
    minute = desk()
    minute.holds(minute=20)
    assert minute.put(PauseRequested(minute.state.now_ns, "news", "ann")) == []
    assert minute.paused() == "news (by ann)"
    assert minute.held
    minute.tick(200)
    assert minute.paused() == "news (by ann)"  # it ends by a resume, not by time
    minute.put(ResumeRequested(minute.state.now_ns, "over", "ann"))
    assert minute.paused() == ""


def test_a_resume_ends_no_pause_that_came_after_its_sender_looked() -> None:
    minute = desk()
    minute.put(PauseRequested(minute.at(1), "lunch", "ann"), PauseRequested(minute.at(3), "features drifted", "drift"))
    (alarm,) = minute.put(ResumeRequested(minute.at(4), "back", "ann", seen_ns=minute.at(2)))
    assert isinstance(alarm, RaiseAlarm)
    assert (alarm.name, "features drifted" in alarm.detail) == ("resume_refused", True)
    assert minute.paused() == "features drifted (by drift)"
    assert minute.put(ResumeRequested(minute.at(5), "back", "ann", seen_ns=minute.at(4))) == []
    assert minute.paused() == ""


@pytest.mark.parametrize("kind", ["halt", "flatten", "pause", "halt again"])
def test_a_resume_ends_nothing_that_somebody_else_commanded_a_moment_before(kind: str) -> None:
    minute = desk()
    bob = "control/bob (uid 0)"
    if kind == "halt again":
        minute.put(HaltRequested(minute.at(1), "operator", "first", "offline/ann (uid 0)"))
    events = {"flatten": FlattenRequested(minute.at(3), "out", bob), "pause": PauseRequested(minute.at(3), "out", bob)}
    minute.put(events.get(kind, HaltRequested(minute.at(3), "operator", "wrong prices", bob)))
    ask = ResumeRequested(minute.at(3) + MINUTE - 1, "back", "control/ann (uid 0)")
    (alarm,) = minute.put(ask)
    assert isinstance(alarm, RaiseAlarm)
    assert alarm.name == "resume_refused"
    assert f"add --seen {ask.time_ns}" in alarm.detail
    risk = minute.state.risk
    assert risk.halt is not None or risk.pause is not None
    minute.put(msgspec.structs.replace(ask, seen_ns=ask.time_ns))
    assert (minute.state.risk.halt, minute.state.risk.pause) == (None, None)


@pytest.mark.parametrize("again", ["halt", "flatten"])
def test_a_resume_ends_at_once_what_one_commanded_twice(again: str) -> None:
    minute, ann = desk(), "control/ann (uid 0)"
    for at, reason in ((1, "first"), (3, "in other words")):
        by_socket = f"offline/{ann.partition('/')[2]}" if at == 1 else ann
        halt = HaltRequested(minute.at(at), "operator", reason, by_socket)
        minute.put(halt if again == "halt" else FlattenRequested(minute.at(at), reason, by_socket))
    bob = ResumeRequested(minute.at(3) + 1, "back", "control/bob (uid 0)")
    assert alarms(minute.put(bob)) == ["resume_refused"]
    minute.put(ResumeRequested(minute.at(3) + 2, "back", ann))
    assert minute.state.risk.halt is None


@pytest.mark.parametrize(("actor", "after"), [("offline/bob (uid 0)", 1), ("control/ann (uid 0)", MINUTE)])
def test_a_resume_ends_one_s_own_halt_at_once_and_another_s_after_a_minute(actor: str, after: int) -> None:
    minute = desk()
    minute.put(HaltRequested(minute.at(3), "operator", "wrong prices", "control/bob (uid 0)"))
    minute.put(ResumeRequested(minute.at(3) + after, "back", actor))
    assert minute.state.risk.halt is None


def test_a_resume_ends_no_pause_of_losses_that_came_after_its_sender_looked() -> None:
    minute = desk()
    losses = Pause("consecutive_losses", minute.at(63))  # 60 minutes, by default
    minute.state = msgspec.structs.replace(minute.state, risk=RiskState(pause=losses))
    assert alarms(minute.put(ResumeRequested(minute.at(4), "back", "ann", seen_ns=minute.at(2)))) == ["resume_refused"]
    assert minute.put(ResumeRequested(minute.at(5), "back", "ann", seen_ns=minute.at(3))) == []


def test_a_resume_forgives_no_claim_that_broke_after_its_sender_looked() -> None:
    d = watched()
    d.put(ClaimJudged(d.state.now_ns + MINUTE, "v1", "above", "volatility 20.00%", 60, 0.2, 0.0, "no_new_risk"))
    broke_ns = d.state.now_ns
    request = ResumeRequested(broke_ns + MINUTE, "back", "ann", seen_ns=broke_ns - 1)
    assert (alarms(d.put(request)), list(claim_of(d).broken)) == (["resume_refused"], ["v1"])
    assert (d.put(msgspec.structs.replace(request, seen_ns=broke_ns)), claim_of(d).broken) == ([], {})


@pytest.mark.parametrize("kind", ["pause", "halt", "flatten"])
def test_an_entry_at_work_is_cancelled_by_whatever_stops_new_risk(kind: str) -> None:
    minute = desk()
    name = minute.buys(minute=20)
    now = minute.state.now_ns
    event: Event = {
        "pause": PauseRequested(now, "x", "ann"),
        "halt": HaltRequested(now, "operator", "x", "ann"),
        "flatten": FlattenRequested(now, "x", "ann"),
    }[kind]
    assert [effect.client_order_id for effect in of(minute.put(event), CancelOrder)] == [name]


def test_a_flatten_halts_and_sells_what_is_held() -> None:
    minute = desk()
    minute.holds(minute=20)
    ((symbol, quantity),) = minute.held.items()
    effects = minute.put(FlattenRequested(minute.state.now_ns, "x", "ann"))
    (sale,) = of(effects, SubmitOrder)
    assert (sale.symbol, sale.side, sale.quantity) == (symbol, -1, quantity)
    assert minute.halted() == "flatten"
