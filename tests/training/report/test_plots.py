"""Ticks and labels stay where a plot has room for them."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from training.report import plots


@given(st.floats(-1e4, 1e4), st.floats(1e-6, 1e4))
def test_ticks_are_few_and_always_inside(low: float, width: float) -> None:
    found = plots.ticks(low, low + width)
    slack = 1e-6 * width
    assert all(low - slack <= value <= low + width + slack for value in found)
    assert 1 <= len(found) <= 8


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=7))
def test_labels_never_overlap_and_never_leave_the_plot(wanted: list[float]) -> None:
    placed = sorted(plots.apart(wanted, 13.0, 0.0, 100.0))
    assert placed[0] >= -1e-9
    assert placed[-1] <= 100.0 + 1e-9
    assert all(after - before >= 13.0 - 1e-9 for before, after in pairwise(placed))
