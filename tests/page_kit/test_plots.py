"""Ticks, bins and labels stay where a plot has room for them, and text in a plot stays text."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.page_kit import plots
from daemon.page_kit.svg import apart, ticks

OPEN, CLOSE = 1_733_236_200 * 10**9, 1_733_259_600 * 10**9  # 9:30 and 16:00 in New York
HOSTILE = "<script>alert(1)</script>&\"'"


@given(st.floats(-1e4, 1e4), st.floats(1e-6, 1e4))
def test_ticks_are_few_and_always_inside(low: float, width: float) -> None:
    places, _ = ticks(low, low + width)
    slack = 1e-6 * width
    assert all(low - slack <= value <= low + width + slack for value in places)
    assert 1 <= len(places) <= 8


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=7))
def test_labels_never_overlap_and_never_leave_the_plot(heights: list[float]) -> None:
    placed = sorted(apart(heights, 13.0, 0.0, 100.0))
    assert placed[0] >= -1e-9
    assert placed[-1] <= 100.0 + 1e-9
    assert all(after - before >= 13.0 - 1e-9 for before, after in pairwise(placed))


@pytest.mark.parametrize(
    ("values", "edges"),
    [
        ([1.0, 12.0], tuple(float(edge) for edge in range(14))),
        ([-30.0, 1.0], (-30.0, -25.0, -20.0, -15.0, -10.0, -5.0, 0.0, 5.0)),
        ([0.0], (-0.5, -0.4, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)),
    ],
)
def test_bins_meet_at_zero_and_hold_every_value(values: list[float], edges: tuple[float, ...]) -> None:
    places, _ = plots.bin_edges(values)
    assert places == pytest.approx(edges)
    assert places[0] <= min(values)
    assert max(values) < places[-1]


def test_ticks_are_round_numbers_with_the_decimals_they_need() -> None:
    assert ticks(0.0, 10.0) == ((0.0, 2.0, 4.0, 6.0, 8.0, 10.0), 0)
    places, decimals = ticks(458.1, 458.9)
    assert ([round(value, 6) for value in places], decimals) == ([458.2, 458.4, 458.6, 458.8], 1)
    assert ticks(5.0, 5.0) == ((5.0,), 2)


def test_times_are_new_yorks_on_both_sides_of_the_change_of_clocks() -> None:
    assert [words for _, words in plots.time_ticks(OPEN, CLOSE, 8)] == [f"{hour}:00" for hour in range(10, 17)]
    july = (1_720_013_400 * 10**9, 1_720_036_800 * 10**9)  # 9:30 to 16:00 in summer
    assert [words for _, words in plots.time_ticks(*july, 4)] == ["10:00", "12:00", "14:00", "16:00"]


def test_text_in_a_plot_stays_text_and_reads_as_it_was_given() -> None:
    drawn = plots.bars([plots.BarRow(HOSTILE, (1.0,), HOSTILE)], ("count",), "", HOSTILE, HOSTILE, plots.NARROW)
    assert "<script" not in drawn
    root = ET.fromstring(drawn)
    assert root.attrib["aria-label"] == f"{HOSTILE}. {HOSTILE}"
    assert [part.text for part in root.iter("text")] == [HOSTILE, HOSTILE]
    assert [part.text for part in root.iter("title")] == [HOSTILE, f"{HOSTILE}: {HOSTILE}"]


def test_columns_right_of_the_split_have_the_second_style_and_counts_have_whole_ticks() -> None:
    bins = [plots.HistogramBin(-1.0, 0.0, 1), plots.HistogramBin(0.0, 1.0, 2)]
    root = ET.fromstring(plots.histogram(bins, 0.0, ("gain", "cost"), "bp", "Costs", unit="orders"))
    assert [part.attrib["class"] for part in root.iter("rect")] == ["gain", "cost"]
    ends = [part.text for part in root.iter("text") if part.attrib["text-anchor"] == "end"]
    assert ends == ["0", "1", "2"]
