"""`option_scalper` as its callers see it: observations, corrections, restarts and decisions.

Expected rows come from the table path over the same bars, expected resolutions from the strategy's specification.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import log

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.kit.contract import Answer, Bar, Observation, Session, Strategy, Target, View
from strategies.kit.synthetic import synthetic_sessions
from strategies.option_scalper import ACTIONS, RESOLUTION, OptionScalper, ScalperState
from tests.support.examples import examples
from tests.support.strategies.minutes import MINUTE_NS, Minutes, W, minutes_of

DAY_NS = 86_400_000_000_000
OPEN_NS = 1_719_927_000_000_000_000
SESSIONS = tuple(
    Session(f"2024-07-0{i + 2}", OPEN_NS + i * DAY_NS, OPEN_NS + i * DAY_NS + minutes * MINUTE_NS)
    for i, minutes in enumerate((390, 60, 60))
)
DAYS = minutes_of(list(synthetic_sessions(11, SESSIONS)), SESSIONS)
TODAY = SESSIONS[2]
YESTERDAY_END = 450  # bars before today's open


def view_of(bar: Bar, session: Session) -> View:
    """A desk that goes from flat to calls to puts every ten minutes."""
    minute = (bar.start_ns - session.open_ns) // MINUTE_NS
    side = (0, 1, -1)[minute // 10 % 3]
    return View(bar.start_ns + MINUTE_NS, session, side, side * minute / 100, abs(side) * float(minute))


def play(
    scalper: OptionScalper, state: ScalperState, bars: Sequence[Bar], session: Session
) -> tuple[ScalperState, list[Observation | None]]:
    observations = []
    for bar in bars:
        state, observation = scalper.observe(state, (bar,), view_of(bar, session))
        observations.append(observation)
    return state, observations


def through(scalper: OptionScalper, days: Minutes, sessions: int) -> ScalperState:
    """The state after the first `sessions` sessions."""
    state = scalper.start()
    for number in range(sessions):
        state, _ = play(scalper, state, days.of_session(number), days.sessions[number])
    return state


def data_of(observations: Sequence[Observation | None]) -> list[bytes]:
    return [b"" if o is None else o.data for o in observations]


def test_it_keeps_the_contract_of_a_strategy() -> None:
    scalper: Strategy = OptionScalper()
    assert scalper.state_type is type(scalper.start())
    assert scalper.spec.observation_shape == (20, 23) == (scalper.spec.window, len(scalper.spec.features))
    assert scalper.spec.actions == ("HOLD", "BUY_CALL", "BUY_PUT", "TRIM_50", "TRIM_70", "EXIT")


def test_the_first_observation_is_at_the_20th_bar_of_the_first_session_with_enough_history() -> None:
    scalper = OptionScalper()
    state, first = play(scalper, scalper.start(), DAYS.of_session(0), SESSIONS[0])
    assert first == [None] * 390
    for number in (1, 2):
        state, observations = play(scalper, state, DAYS.of_session(number), SESSIONS[number])
        assert [o is None for o in observations] == [True] * 19 + [False] * 41


@pytest.mark.parametrize(("history", "rows"), [(255, 0), (256, 20)])
def test_without_256_earlier_bars_there_is_no_row(history: int, rows: int) -> None:
    scalper = OptionScalper()
    state, _ = play(scalper, scalper.start(), DAYS.of_session(0)[60 - history :], SESSIONS[0])
    state, _ = play(scalper, state, DAYS.of_session(1), SESSIONS[1])
    state, observations = play(scalper, state, DAYS.of_session(2), TODAY)
    assert len(state.history) == history
    assert len(state.rows) == rows
    assert (observations[-1] is None) == (state.rows == ()) == (rows == 0)


def test_an_observation_holds_the_last_20_rows_of_the_table_with_the_position_of_each_rows_own_close() -> None:
    scalper = OptionScalper()
    _, observations = play(scalper, through(scalper, DAYS, 2), DAYS.of_session(2), TODAY)
    table = DAYS.table().values[YESTERDAY_END:]
    rows = []
    for market, bar in zip(table.tolist(), DAYS.of_session(2), strict=True):
        view = view_of(bar, TODAY)
        position = (view.side, max(-1, min(3, view.position_return)), min(2, view.position_age_min / 60))
        rows.append(struct.pack("<23f", *market, *position))
    for t in range(19, 60):
        observation = observations[t]
        assert observation is not None
        assert observation.data == b"".join(rows[t - 19 : t + 1])
        assert observation.array().shape == (20, 23)


def test_the_last_row_is_the_newest_of_the_observation() -> None:
    scalper = OptionScalper()
    state, observations = play(scalper, through(scalper, DAYS, 2), DAYS.of_session(2), TODAY)
    newest = observations[-1]
    assert newest is not None
    assert struct.unpack("<23f", state.rows[-1]) == tuple(newest.array()[-1].tolist())


def test_bars_of_other_symbols_and_outside_of_the_session_are_left_out() -> None:
    scalper = OptionScalper()
    state = through(scalper, DAYS, 2)
    bar = DAYS.of_session(2)[0]
    strangers = (
        msgspec.structs.replace(bar, symbol="QQQ"),
        msgspec.structs.replace(bar, start_ns=TODAY.open_ns - MINUTE_NS),
        msgspec.structs.replace(bar, start_ns=TODAY.close_ns),
    )
    rolled, observation = scalper.observe(state, strangers, view_of(bar, TODAY))
    assert observation is None
    assert (rolled.session, rolled.bars, rolled.history) == (TODAY, (), DAYS.bars[YESTERDAY_END - W : YESTERDAY_END])


@settings(max_examples=examples(15), deadline=None)
@given(st.integers(0, 59))
def test_a_state_that_was_written_and_read_again_gives_the_same_bytes(stop: int) -> None:
    scalper = OptionScalper()
    bars = DAYS.of_session(2)
    before, _ = play(scalper, through(scalper, DAYS, 2), bars[:stop], TODAY)
    restarted = OptionScalper()
    decoded = msgspec.json.decode(msgspec.json.encode(before), type=ScalperState)
    after, expected = play(scalper, before, bars[stop:], TODAY)
    again, observations = play(restarted, decoded, bars[stop:], TODAY)
    assert data_of(observations) == data_of(expected)
    assert again == after


@settings(max_examples=examples(25), deadline=None)
@given(where=st.integers(YESTERDAY_END - W, YESTERDAY_END + 29), at=st.integers(30, 50), cents=st.integers(-500, 500))
def test_rows_after_a_late_correction_are_those_of_a_rebuild_from_corrected_bars(
    where: int, at: int, cents: int
) -> None:
    wrong = DAYS.bars[where]
    move = cents / 100
    right = Bar(
        "SPY",
        wrong.start_ns,
        wrong.open + move,
        wrong.high + move,
        wrong.low + move,
        wrong.close + move,
        wrong.volume + 7,
    )
    scalper = OptionScalper()
    bars = DAYS.of_session(2)
    before, _ = play(scalper, through(scalper, DAYS, 2), bars[:at], TODAY)
    corrected = scalper.correct(before, right)
    assert corrected.rows == before.rows  # emitted rows stand
    after, _ = play(scalper, corrected, bars[at : at + 20], TODAY)

    rebuilt = minutes_of([*DAYS.bars[:where], right, *DAYS.bars[where + 1 :]], SESSIONS)
    fresh = OptionScalper()
    scratch, _ = play(fresh, through(fresh, rebuilt, 2), rebuilt.of_session(2)[: at + 20], TODAY)
    size = min(20, 60 - at)
    assert after.rows[-size:] == scratch.rows[-size:]


def test_a_correction_of_an_unknown_bar_changes_nothing() -> None:
    scalper = OptionScalper()
    state = through(scalper, DAYS, 2)
    original = state.bars[5]
    for stranger in (
        msgspec.structs.replace(original, symbol="QQQ", close=1.0),
        msgspec.structs.replace(original, start_ns=original.start_ns + 1, close=1.0),
    ):
        assert scalper.correct(state, stranger) == state


def test_results_depend_on_the_arguments_alone_and_not_on_what_the_object_saw_before() -> None:
    scalper = OptionScalper()
    bars = DAYS.of_session(2)
    start = through(scalper, DAYS, 2)
    _, expected = play(OptionScalper(), start, bars, TODAY)
    states = [start]
    for bar in bars:
        states.append(scalper.observe(states[-1], (bar,), view_of(bar, TODAY))[0])
    for t in (40, 20, 59, 19):  # back and forth on one object
        _, observation = scalper.observe(states[t], (bars[t],), view_of(bars[t], TODAY))
        assert data_of([observation]) == data_of([expected[t]])


def test_a_bar_that_raises_leaves_no_trace_in_the_cache() -> None:
    scalper = OptionScalper()
    bars = DAYS.of_session(2)
    state, _ = play(scalper, through(scalper, DAYS, 2), bars[:30], TODAY)
    impossible = msgspec.structs.replace(bars[30], close=0.0)
    with pytest.raises(ValueError, match="math domain error"):
        scalper.observe(state, (impossible,), view_of(impossible, TODAY))
    _, observation = scalper.observe(state, (bars[30],), view_of(bars[30], TODAY))
    _, expected = OptionScalper().observe(state, (bars[30],), view_of(bars[30], TODAY))
    assert data_of([observation]) == data_of([expected])


FLAT = {"TRIM_50": "HOLD", "TRIM_70": "HOLD", "EXIT": "HOLD"}
CALLS = {"BUY_CALL": "HOLD", "BUY_PUT": "EXIT"}
PUTS = {"BUY_PUT": "HOLD", "BUY_CALL": "EXIT"}


@pytest.mark.parametrize(("side", "changed"), [(0, FLAT), (1, CALLS), (-1, PUTS)])
def test_an_action_means_what_the_side_held_makes_of_it(side: int, changed: dict[str, str]) -> None:
    assert {a: ACTIONS[RESOLUTION[side][i]] for i, a in enumerate(ACTIONS)} == {a: changed.get(a, a) for a in ACTIONS}


@pytest.mark.parametrize(
    ("action", "side", "target"),
    [
        ("HOLD", 0, Target(0, 100, keep=True)),
        ("HOLD", -1, Target(-1, 100, keep=True)),
        ("BUY_CALL", 0, Target(1, 100)),
        ("BUY_CALL", 1, Target(1, 100, keep=True)),
        ("BUY_CALL", -1, Target(0, 0)),
        ("BUY_PUT", 0, Target(-1, 100)),
        ("BUY_PUT", 1, Target(0, 0)),
        ("TRIM_50", 1, Target(1, 50)),
        ("TRIM_50", 0, Target(0, 100, keep=True)),
        ("TRIM_70", -1, Target(-1, 30)),
        ("EXIT", 1, Target(0, 0)),
        ("EXIT", 0, Target(0, 100, keep=True)),
    ],
)
def test_a_decision_says_what_to_hold(action: str, side: int, target: Target) -> None:
    scalper = OptionScalper()
    state = scalper.start()
    index = ACTIONS.index(action)
    logits = tuple(0.7 * log(5) if i == index else 0.0 for i in range(6))  # at 0.7: 5 parts of 10
    after, decision = scalper.decide(state, Answer(logits), View(OPEN_NS, TODAY, side))
    assert after is state
    assert decision.target == target
    assert decision.resolved == RESOLUTION[side][index]
    assert decision.choice.action == index
    assert decision.choice.confidence == pytest.approx(0.5, abs=1e-12)
