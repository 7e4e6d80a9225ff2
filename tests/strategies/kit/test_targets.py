"""Quantities that a strategy asks for are ints where whole, whatever type its arithmetic gave them."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import numpy as np
import pytest

from strategies.kit.contract import Leg, Target


@pytest.mark.parametrize("percent", [80, 80.0, np.float32(80), np.int64(80), True * 80])
def test_a_whole_number_of_any_type_is_an_int(percent: int) -> None:
    target = Target(side=np.int8(1), percent=percent)  # type: ignore[arg-type]
    assert (target.side, target.percent) == (1, 80)
    assert (type(target.side), type(target.percent)) == (int, int)
    assert type(Leg("SPY", percent).goal) is int


@pytest.mark.parametrize("percent", [80.5, float("nan"), float("inf"), None, "much"])
def test_anything_else_is_refused_by_its_name(percent: int) -> None:
    with pytest.raises(ValueError, match=r"Target\.percent is .*: a whole number is expected"):
        Target(1, percent)


@pytest.mark.parametrize("goal", [2.5, np.float64(2.5), np.float32(2.5)])
def test_a_goal_of_shares_may_be_a_fraction(goal: float) -> None:
    leg = Leg("SPY", goal)
    assert (leg.goal, type(leg.goal)) == (2.5, float)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(leg), type=Leg) == leg
    whole = msgspec.msgpack.decode(msgspec.msgpack.encode(Leg("SPY", 3.0)), type=Leg)
    assert (whole.goal, type(whole.goal)) == (3, int)


@pytest.mark.parametrize("goal", [float("nan"), float("inf"), None, "much", "2.5", Decimal("2.5")])
def test_a_goal_that_is_no_finite_number_is_refused_by_its_name(goal: float) -> None:
    with pytest.raises(ValueError, match=r"Leg\.goal is .*: a number is expected"):
        Leg("SPY", goal)


def test_there_are_three_sides() -> None:
    with pytest.raises(ValueError, match=r"Target\.side is 2: \+1 for calls, -1 for puts or 0 for flat is expected"):
        Target(2, 100)
