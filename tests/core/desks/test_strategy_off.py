"""What a strategy returns is checked where its desk calls it; one that is off is not called until a person resumes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from decimal import Decimal, Inexact, getcontext
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from daemon.core.desks.guarded import GuardedStrategy, blame
from daemon.core.draft import Draft
from daemon.core.events import BarCorrected, HaltRequested, ResumeRequested
from daemon.core.step import Core
from strategies.kit.contract import Bar, Basket, Choice, Decision, Leg, Observation, Rebalance, RowOptions, Target
from tests.support.core.desk import Desk, Pointer, PointerState
from tests.support.core.two_shares import TwoShares

BAR = Bar("SPY", 0, 500.5, 500.5, 500.5, 500.5, 1000.0)


class Raising(Pointer):
    """Raises at each correction."""

    def correct(self, state: PointerState, bar: Bar) -> PointerState:
        raise ZeroDivisionError(bar.symbol)


def desk_of(strategy: Any) -> Desk:
    d = Desk()
    d.core = Core(strategy)
    d.state = d.core.start(d.state.identity, d.state.trading)
    d.fund().begin()
    d.bar(0)
    return d


def halted(d: Desk) -> HaltRequested:
    return HaltRequested(d.at(1), "quarantine", "it raised twice", "rltraderd", strategy=True)


def test_a_correction_is_not_told_to_a_strategy_that_is_off() -> None:
    d = desk_of(Raising())
    d.put(halted(d))
    corrected = BarCorrected(d.at(1), Bar("SPY", d.at(0), 500.5, 500.5, 500.5, 500.5, 1000.0))
    d.put(corrected)
    d.put(ResumeRequested(d.at(2), "op", "mended"))
    assert not d.state.risk.strategy_off
    with pytest.raises(ZeroDivisionError):  # it is asked again after a resume
        d.put(corrected)


class Failing:
    """Raises at every call."""

    def __getattr__(self, name: str) -> Any:
        def call(*_: object) -> Any:
            raise ZeroDivisionError(name)

        return call


class Returning:
    """Returns the same from every call."""

    state_type = PointerState

    def __init__(self, returned: Any) -> None:
        self.returned = returned

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self.returned


class WiderState(PointerState, frozen=True):
    """A state of which `PointerState` is a part."""

    more: int = 0


STATE = PointerState("2024-07-01", (1,), (2.0,))
VIEW: Any = None
ANSWER: Any = None
CALLS: Mapping[str, Callable[[GuardedStrategy, Any], Any]] = {
    "observe": lambda s, d: s.observe(d, (BAR,), VIEW),
    "correct": lambda s, d: s.correct(d, BAR),
    "remember": lambda s, d: s.remember(d, (BAR,)),
    "readjust": lambda s, d: s.readjust(d, "SPY", (BAR,)),
    "known": lambda s, d: s.known(d),
}


def draft(off: bool = False) -> Draft:
    """A draft with a strategy's state in it."""
    d = desk_of(Pointer())
    step_draft = Draft(d.state, d.core.desk)
    step_draft.strategy = STATE
    step_draft.risk = replace(step_draft.risk, strategy_off=off)
    return step_draft


@pytest.mark.parametrize("call", CALLS)
def test_no_call_reaches_a_strategy_that_is_off_by_an_error(call: str) -> None:
    off = draft(off=True)
    assert not CALLS[call](GuardedStrategy(Failing()), off)
    assert off.strategy is STATE
    with pytest.raises(ZeroDivisionError):
        CALLS[call](GuardedStrategy(Failing()), draft())


class Ending:
    """Ends the program at every call, or tries to."""

    def __init__(self, ending: BaseException) -> None:
        self.ending = ending

    def __getattr__(self, name: str) -> Any:
        def call(*_: object) -> Any:
            raise self.ending

        return call


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("ending", [SystemExit(0), GeneratorExit(), asyncio.CancelledError()])
def test_what_would_end_the_program_is_an_error_of_the_strategy_with_its_line(call: str, ending: BaseException) -> None:
    with pytest.raises(RuntimeError, match=type(ending).__name__) as raised:
        CALLS[call](GuardedStrategy(Ending(ending)), draft())
    words, is_the_strategys = blame(raised.value)
    assert is_the_strategys
    assert __file__ in words


class Unsayable(Exception):
    """An error without a text."""

    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize("error", [ValueError("no \udcff"), Unsayable(), ValueError("y" * 5_000_000)])
def test_whatever_an_error_says_the_journal_can_keep_it(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        CALLS["observe"](GuardedStrategy(Ending(error)), draft())
    words, is_the_strategys = blame(raised.value)
    assert is_the_strategys
    assert words.startswith(type(error).__name__)
    assert __file__ in words
    assert len(words.encode()) < 10_000


def test_a_person_ends_a_program_that_is_in_a_strategy() -> None:
    with pytest.raises(KeyboardInterrupt):
        CALLS["observe"](GuardedStrategy(Ending(KeyboardInterrupt())), draft())


class Rounding:
    """Counts with three digits, and refuses what they do not hold, as each of its calls sets it."""

    state_type = PointerState

    def __init__(self) -> None:
        self.thirds: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(*_: object) -> Any:
            self.thirds.append(str(Decimal(1) / 3))
            context = getcontext()
            context.prec, context.traps[Inexact] = 3, True
            return {} if name == "known" else STATE

        return call


def test_the_digits_that_a_strategy_sets_for_decimals_round_no_money() -> None:
    rounding = Rounding()
    for _ in range(2):
        for call in ("known", "correct", "remember", "readjust"):
            CALLS[call](GuardedStrategy(rounding), draft())
    assert str(Decimal("12345.67") + Decimal("0.0001")) == "12345.6701"
    assert set(rounding.thirds) == {"0.3333333333333333333333333333"}  # each call begins with Python's 28 digits


def test_the_bars_that_it_keeps_are_read_while_it_is_off() -> None:
    bars = {"SPY": (BAR,)}
    assert GuardedStrategy(Returning(bars)).known(draft(off=True)) == bars


@pytest.mark.parametrize(
    "returned", [None, (BAR,), 7, {"SPY": None}, {"SPY": BAR}, {"SPY": (500.5,)}, {"SPY": (500.5, BAR)}]
)
def test_bars_that_are_no_mapping_of_symbols_to_bars_are_the_strategy_s_error(returned: Any) -> None:
    guarded = GuardedStrategy(Returning(returned))
    with pytest.raises(TypeError, match="known returned"):
        guarded.known(draft())
    assert guarded.known(draft(off=True)) == {}


def test_bars_that_change_in_a_mapping_that_was_looked_through_are_looked_through_again() -> None:
    bars: dict[str, Any] = {"SPY": (BAR,), "QQQ": (BAR,)}
    guarded = GuardedStrategy(Returning(bars))
    first, later = draft(), draft()
    later.strategy = replace(first.strategy)
    assert guarded.known(first) == {"SPY": (BAR,), "QQQ": (BAR,)}
    bars["QQQ"] = (BAR, 500.5)
    with pytest.raises(TypeError, match=r"known returned .* for QQQ"):
        guarded.known(later)


NAN = Observation(np.array([1.0, np.nan], dtype="<f4").tobytes(), (1, 2))
INFINITE = Observation(np.array([1.0, -np.inf], dtype="<f4").tobytes(), (1, 2))
FLOATS = np.array([1.0, 2.0], dtype="<f4")
WORDS: Any = ("x",)
HALF: Any = (2.5,)
NO_ORDER: Any = frozenset((1, 2))
LARGE = PointerState("x" * (65 * 2**20), (), ())  # bytes of text
LARGE_BY_ROWS = PointerState("", (), (0.5,) * (65 * 2**17))  # 8 bytes each
HOLD = Decision(Choice((0.5, 0.5), 0, 0.5), 0, Target(0, 0))


@pytest.mark.parametrize(
    ("call", "returned", "text"),
    [
        ("observe", (None, None), "observe returned None where its new state is expected"),
        ("observe", (STATE, NAN), "observe returned 1 values that are not finite"),
        ("observe", (STATE, INFINITE), "observe returned 1 values that are not finite"),
        ("observe", (STATE, b"1234"), "observe returned bytes: Observation is expected"),
        ("observe", (STATE, Observation(FLOATS, (1, 2))), "observe returned ndarray as Observation.data: give bytes"),  # type: ignore[arg-type]
        ("observe", (STATE, Observation(FLOATS.tobytes(), (1, 2), FLOATS)), "as Observation.hidden: give bytes"),  # type: ignore[arg-type]
        ("observe", (STATE, Observation(FLOATS.tobytes()[:7], (1, 2))), "observe returned 7 bytes of shape"),
        ("observe", (STATE, Observation(FLOATS.tobytes(), (2,))), r"8 bytes of shape \(2,\), where 8 of \(1, 2\) are"),
        ("observe", (STATE, Observation(FLOATS.astype("f8").tobytes(), (1, 2))), r"16 bytes .* give .*astype\('<f4'\)"),
        ("observe", (STATE, Observation(FLOATS.tobytes(), (1, 2), b"1234")), "spec.recurrent_shape is None"),
        ("observe", (PointerState("", (), (np.float64(2),)), None), r"state.\w+\[0\] is a float64, which the journal"),
        ("correct", PointerState("", (), (1.0, np.nan)), r"state.\w+\[1\] is nan, which no start can read again"),
        ("remember", {"SPY": [np.float32(1)]}, r"state\['SPY'\]\[0\] is a float32, which the journal cannot keep"),
        ("correct", PointerState("", (), WORDS), r"again as PointerState: .* got `str` - at `\$.\w+\[0\]`"),
        ("correct", PointerState("", HALF, ()), "again as PointerState: Expected `int`, got `float`"),
        ("correct", PointerState("\ud800", (), ()), r"state.\w+ is a str, which the journal cannot keep"),
        ("correct", PointerState("", NO_ORDER, ()), r"state.\w+ is a frozenset, whose order is another one"),
        ("correct", WiderState("", (), (), 3), "a WiderState, and would be read again as PointerState: correct"),
        ("correct", LARGE, "a state of 65.0 MiB, expected 64 at most: keep the newest rows alone"),
        ("correct", LARGE_BY_ROWS, "a state of 65.0 MiB, expected 64 at most"),
        ("correct", None, "correct returned None where its new state is expected"),
        ("remember", None, "remember returned None where its new state is expected"),
        ("readjust", None, "readjust returned None where its new state is expected"),
    ],
)
def test_what_cannot_be_used_is_refused_before_it_is_kept(call: str, returned: Any, text: str) -> None:
    step_draft = draft()
    with pytest.raises((TypeError, ValueError), match=text) as raised:
        CALLS[call](GuardedStrategy(Returning(returned)), step_draft)
    assert step_draft.strategy is STATE
    told = blame(raised.value)
    assert told == (f"{type(raised.value).__name__}: {raised.value}", True)


def test_a_state_is_kept_as_a_start_would_read_it() -> None:
    step_draft, shared = draft(), [1]
    GuardedStrategy(Returning(PointerState("", shared, (2,)))).correct(step_draft, BAR)  # type: ignore[arg-type]
    shared.append(2)
    kept = step_draft.strategy
    assert (type(kept), kept) == (PointerState, PointerState("", (1,), (2.0,)))
    assert [type(close) for close in kept.closes] == [float]


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        ((STATE, None), "decide returned NoneType: Decision is expected"),
        ((STATE, Rebalance(HOLD.choice, "A", Basket(()))), "decide returned Rebalance: Decision is expected"),
        ((None, HOLD), "decide returned None where its new state is expected"),
        ((STATE, replace(HOLD, choice=Choice((0.5, np.nan), 0, 0.5))), "not finite"),
        ((STATE, replace(HOLD, choice=Choice((0.5, 0.5), 0, np.inf))), "not finite"),
        ((STATE, replace(HOLD, choice=None)), "decide returned NoneType: Choice is expected"),
        ((STATE, replace(HOLD, target=None)), "decide returned NoneType: Target is expected"),
        ((STATE, replace(HOLD, resolved=99)), "decide returned action 99: the index of one of"),
        ((STATE, replace(HOLD, resolved="CALL")), "decide returned action 'CALL': the index"),
        ((STATE, replace(HOLD, choice=Choice((0.5, 0.5), -1, 0.5))), "decide returned action -1: the index"),
    ],
)
def test_a_decision_that_cannot_be_used_is_refused(returned: Any, text: str) -> None:
    step_draft = draft()
    with pytest.raises((TypeError, ValueError), match=text):
        GuardedStrategy(Returning(returned)).decide(step_draft, ANSWER, VIEW, Decision)
    assert step_draft.strategy is STATE


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (Rebalance(HOLD.choice, {"A": 1}, Basket(())), "decide returned a dict as a name"),  # type: ignore[arg-type]
        (Rebalance(HOLD.choice, "A", Basket((Leg(5, 1),))), "decide returned a int as a name, note or symbol"),  # type: ignore[arg-type]
        (Rebalance(HOLD.choice, "A", Basket(()), {"SPY": 5}), "decide returned a int as a name, note"),  # type: ignore[dict-item]
        (Rebalance(HOLD.choice, "\udc80", Basket(())), "surrogates not allowed"),
        (Rebalance(HOLD.choice, "A", None), "decide returned NoneType: Basket is expected"),  # type: ignore[arg-type]
        (Rebalance(HOLD.choice, "A", Basket((("SPY", 1),))), "decide returned tuple: Leg is expected"),  # type: ignore[arg-type]
    ],
)
def test_a_basket_that_the_journal_cannot_keep_is_refused(returned: Rebalance, text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        GuardedStrategy(Returning((STATE, returned))).decide(draft(), ANSWER, VIEW, Rebalance)


class Rows(TwoShares):
    """One whose policy chooses an action for each of two symbols."""

    spec = replace(TwoShares.spec, rows_are_symbols=True)


BOTH = (None, Leg("SPY", 1))
NONE: Any = (None, 5)


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (None, "options returned NoneType: tuple is expected"),
        ((("SPY", 0, BOTH),), "options returned tuple: RowOptions is expected"),
        ((RowOptions("SPY", 0, BOTH),), r"options returned those of \('SPY',\): those of \('SPY', 'QQQ'\) are"),
        ((RowOptions("SPY", 2, BOTH), RowOptions("QQQ", 0, BOTH)), "a leg or None for each of 2 actions"),
        ((RowOptions("SPY", 0, (None,)), RowOptions("QQQ", 0, BOTH)), "a leg or None for each of 2 actions"),
        ((RowOptions("SPY", 0, NONE), RowOptions("QQQ", 0, BOTH)), "options returned int: .*Leg . None is expected"),
    ],
)
def test_options_that_are_not_those_of_each_symbol_are_the_strategy_s_error(returned: Any, text: str) -> None:
    step_draft = draft()
    step_draft.spec = Rows.spec
    with pytest.raises((TypeError, ValueError), match=text):
        GuardedStrategy(Returning(returned)).options(step_draft, ANSWER, VIEW)


def test_numbers_of_numpy_in_a_choice_are_plain_ones() -> None:
    probabilities: Any = np.array([0.25, 0.75], dtype=np.float32)
    choice = Choice(probabilities, np.int64(1), np.float32(0.75))  # type: ignore[arg-type]
    assert msgspec.json.encode(choice) == b'{"probabilities":[0.25,0.75],"action":1,"confidence":0.75}'


@pytest.mark.parametrize("goal", [10**18, -(10**18), 1e25])
def test_a_goal_that_no_quantity_can_be_is_refused_by_its_symbol(goal: Any) -> None:
    with pytest.raises(ValueError, match=r"Leg.goal of SPY has over 18 digits"):
        Leg("SPY", goal)


def test_large_values_are_no_fault() -> None:
    large = Observation(np.full(2, 3e38, dtype="<f4").tobytes(), (1, 2))
    assert GuardedStrategy(Returning((STATE, large))).observe(draft(), (BAR,), VIEW) is large
