"""What a candidate answers is written down and remembered; nothing else of the desk changes, whenever it answers."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.effects import AnyEffect, AskPolicy, SubmitOrder
from daemon.core.events import Event, OrderAccepted, SessionEnded, ShadowAnswered, ShadowFailed
from daemon.core.limits import Trading
from daemon.core.records import FillRow, MoveRow, OrderRow, Row, ShadowRow
from daemon.core.state import Identity, ShadowState, State
from daemon.core.step import Core, Step
from tests.support.core.daily_desk import IDENTITY as DAILY
from tests.support.core.daily_desk import Choosy, DailyDesk, Shelf
from tests.support.core.desk import (
    BUY_CALL,
    BUY_PUT,
    EXIT,
    HOLD,
    IDENTITY,
    TRIM_50,
    TUESDAY,
    Desk,
    Pointer,
    desk,
    logits,
    of,
)
from tests.support.examples import examples

ANSWER = logits(BUY_PUT, 0.8)


def shadows(rows: list[Row]) -> list[ShadowRow]:
    return [row for row in rows if isinstance(row, ShadowRow)]


def ask(*, hidden: bytes = b"") -> tuple[Desk, ShadowAnswered]:
    """A desk whose first question was answered with HOLD, and a candidate's answer to it."""
    minute = desk()
    minute.bar(0)
    minute.answer(HOLD)
    return minute, ShadowAnswered(minute.state.now_ns, minute.state.decision, ANSWER, hidden, "v2")


# --- one answer ---------------------------------------------------------------------------------------------------


def test_an_answer_is_one_row_that_reads_it_as_the_live_one_is_read() -> None:
    minute, event = ask()
    assert minute.put(event) == []
    assert shadows(minute.rows) == [
        ShadowRow(
            decision=1,
            model="v2",
            bar_ns=minute.at(0),
            time_ns=minute.at(1),
            action="BUY_PUT",
            confidence=0.8,
            probabilities="[0.0,0.0,0.8,0.0,0.0,0.0]",
            logits="[0.0,0.0,0.8,0.0,0.0,0.0]",
            target='{"side":-1,"percent":100,"keep":false}',
        )
    ]


def test_only_the_candidate_s_memory_is_kept() -> None:
    minute, event = ask(hidden=b"memory")
    before = minute.state
    minute.put(event)
    assert minute.state == msgspec.structs.replace(before, seq=before.seq + 1, shadow=ShadowState("v2", b"memory"))
    minute.put(msgspec.structs.replace(event, hidden=b""))  # a candidate without a memory leaves what there is
    assert minute.state.shadow == ShadowState("v2", b"memory")


def test_a_failure_is_one_row_and_the_memory_begins_anew() -> None:
    minute, event = ask(hidden=b"memory")
    minute.put(event)
    failed = ShadowFailed(minute.state.now_ns, 1, "not finite", "v2")
    assert minute.put(failed) == []
    assert minute.state.shadow == ShadowState()
    assert shadows(minute.rows)[-1] == ShadowRow(
        decision=1, model="v2", bar_ns=minute.at(0), time_ns=minute.at(1), problem="not finite"
    )


def test_an_answer_at_which_the_strategy_raises_is_a_failed_one_and_the_desk_goes_on() -> None:
    daily = DailyDesk(strategy=Choosy()).fund().holds(AAA=10)
    daily.begin(TUESDAY)
    daily.due()
    daily.answer(-1, -1, -1)
    before = daily.state
    assert daily.put(ShadowAnswered(daily.state.now_ns, daily.state.decision, (99.0, -1.0, 7.0), b"", "v2")) == []
    (row,) = shadows(daily.rows)
    assert (row.action, row.problem) == (None, "the strategy raised at it: ValueError: 99.0 is too much")
    assert daily.state == msgspec.structs.replace(before, seq=before.seq + 1)


@pytest.mark.parametrize("decision", [0, 2])
def test_an_answer_to_another_question_says_nothing(decision: int) -> None:
    minute, event = ask(hidden=b"memory")
    minute.put(event)
    before, rows = minute.state, list(minute.rows)
    minute.put(
        msgspec.structs.replace(event, decision=decision, hidden=b"other"),
        ShadowFailed(minute.state.now_ns, decision, "late", "v2"),
    )
    assert minute.state == msgspec.structs.replace(before, seq=before.seq + 2)
    assert minute.rows == rows


def test_before_the_first_session_there_is_nothing_to_answer() -> None:
    minute = Desk().fund()
    before = minute.state
    minute.put(ShadowAnswered(minute.state.now_ns, 0, ANSWER, b"memory", "v2"))
    assert minute.state == msgspec.structs.replace(before, seq=before.seq + 1)
    assert shadows(minute.rows) == []


@pytest.mark.parametrize("named", [False, True])
def test_a_daily_desk_s_candidate_is_read_as_a_basket(named: bool) -> None:
    daily = DailyDesk(strategy=Shelf(named=named)).fund().holds(AAA=10)
    daily.begin(TUESDAY)
    daily.due()
    daily.answer(-1, -1, -1)
    before = daily.state
    assert daily.put(ShadowAnswered(daily.state.now_ns, daily.state.decision, (5.0, -1.0, 7.0), b"m", "v2")) == []
    (row,) = shadows(daily.rows)
    assert (row.decision, row.action) == (before.decision, "rebalance")
    assert row.target == '[{"symbol":"AAA","goal":5},{"symbol":"CCC","goal":7}]'
    assert (row.confidence, row.probabilities) == ((0.3, "[0.5,0.3,0.2]") if named else (None, None))
    assert daily.state == msgspec.structs.replace(before, seq=before.seq + 1, shadow=ShadowState("v2", b"m"))


# --- whenever it answers ------------------------------------------------------------------------------------------


class Noting(Core):
    """A core that keeps the events it was given."""

    __slots__ = ("seen",)

    def __init__(self, strategy: Any) -> None:
        super().__init__(strategy)
        self.seen: list[Event] = []

    def step(self, state: State[Any], event: Event, facts: tuple[AnyEffect, ...] | None = None) -> Step:
        self.seen.append(event)
        return super().step(state, event, facts)


@cache
def minutes_of_trading() -> tuple[Event, ...]:
    """Entry in two fills, trim, exit, an entry that is denied, and the session's end."""
    minute = Desk()
    noting = minute.core = Noting(Pointer())
    minute.fund().begin()
    entry = minute.buys(BUY_CALL, 20)
    minute.fill(entry, 1)
    minute.quotes(21.5)
    minute.fill(entry, minute.order(entry).quantity)
    for number, action in enumerate((HOLD, TRIM_50, HOLD, EXIT, BUY_PUT, HOLD), 21):
        minute.bar(number)
        for order in of(minute.answer(action), SubmitOrder):
            minute.put(OrderAccepted(minute.state.now_ns, order.client_order_id))
            minute.fill(order.client_order_id, order.quantity)
    minute.tick(35)
    minute.put(SessionEnded(minute.session.close_ns, minute.session.date))
    return tuple(noting.seen)


@cache
def days_of_trading() -> tuple[Event, ...]:
    """A first basket bought, a second that sells and buys, orders at work when the session ends."""
    daily = DailyDesk()
    noting = daily.core = Noting(daily.strategy)
    daily.fund().holds(AAA=10, BBB=5)
    daily.begin(TUESDAY)
    daily.due()
    sells = of(daily.answer(0, 8, 4, hidden=b"live"), SubmitOrder)
    daily.prints(0, AAA="101", BBB="99", CCC="50")
    for order in sells:
        daily.fill(order.client_order_id, order.quantity, "101")
    for order in of(daily.quotes(2, AAA="101", BBB="99", CCC="50"), SubmitOrder):
        daily.fill(order.client_order_id, 1, "99")  # what is missing works when the session ends
    daily.tick(20)
    daily.end(AAA=101.0, BBB=99.0, CCC=50.0)
    return tuple(noting.seen)


def play(
    core: Core, identity: Identity, events: tuple[Event, ...], beside: dict[int, list[tuple[int, bool, float, bytes]]]
) -> tuple[State[Any], list[AnyEffect], list[Row]]:
    """The run with a candidate's events put in before the places that `beside` names."""
    state, effects, rows = core.start(identity, Trading()), list[AnyEffect](), list[Row]()
    for place, event in enumerate(events):
        for back, fails, goal, hidden in beside.get(place, []):
            now, decision = state.now_ns, state.decision - back
            answer: Event = (
                ShadowFailed(now, decision, "x", "v2")
                if fails
                else ShadowAnswered(now, decision, tuple(goal + n for n in range(_width(core))), hidden, "v2")
            )
            step = core.step(state, answer)
            assert step.effects == ()
            assert all(isinstance(row, ShadowRow) for row in step.rows)
            state = step.state
        step = core.step(state, event)
        state = step.state
        effects += step.effects
        rows += step.rows
    return state, effects, rows


def comparable(effect: AnyEffect) -> object:
    """An effect that can be compared: an observation by its bytes."""
    if isinstance(effect, AskPolicy):
        return effect.decision, effect.valid_until_ns, effect.observation.data, effect.observation.hidden
    return effect


def _width(core: Core) -> int:
    return len(core.strategy.spec.actions)


def unnumbered(row: Row) -> Row:
    """A move without the number of its event: a candidate's answers are events too."""
    return msgspec.structs.replace(row, seq=0) if isinstance(row, MoveRow) else row


POSITIONS = st.dictionaries(
    st.integers(2, 80),  # after the start: before it nothing is asked
    st.lists(
        st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 50).map(float), st.binary(max_size=3)),
        min_size=1,
        max_size=3,
    ),
    max_size=30,
)


@pytest.mark.parametrize(
    ("core", "identity", "events"),
    [(Core(Pointer()), IDENTITY, minutes_of_trading()), (Core(Shelf()), DAILY, days_of_trading())],
    ids=["minutes", "days"],
)
def test_a_candidate_never_changes_book_works_orders_fills_strategy_or_risk(
    core: Core, identity: Identity, events: tuple[Event, ...]
) -> None:
    alone, effects, rows = play(core, identity, events, {})
    assert len(of(effects, SubmitOrder)) >= 3
    assert len([row for row in rows if isinstance(row, FillRow)]) >= 4
    assert len([row for row in rows if isinstance(row, OrderRow)]) >= 8

    @settings(max_examples=examples(60))
    @given(beside=POSITIONS)
    def holds(beside: dict[int, list[tuple[int, bool, float, bytes]]]) -> None:
        state, other_effects, other_rows = play(core, identity, events, beside)
        extra = sum(len(answers) for place, answers in beside.items() if place < len(events))
        assert state == msgspec.structs.replace(alone, seq=alone.seq + extra, shadow=state.shadow)
        assert list(map(comparable, other_effects)) == list(map(comparable, effects))
        assert list(map(unnumbered, other_rows)) == list(map(unnumbered, rows))

    holds()
