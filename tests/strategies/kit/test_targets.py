"""Quantities that a strategy asks for are whole numbers, whatever type its arithmetic gave them."""

from __future__ import annotations

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
    with pytest.raises(ValueError, match=r"Leg\.goal is .*: a whole number is expected"):
        Leg("SPY", percent)


def test_there_are_three_sides() -> None:
    with pytest.raises(ValueError, match=r"Target\.side is 2: \+1 for calls, -1 for puts or 0 for flat is expected"):
        Target(2, 100)
