"""A baseline that trades by a rule of its own neither stretches an axis nor disappears."""

from __future__ import annotations

from daemon.page_kit.plots import Curve, IntervalRow
from training.report.results import framed_curves, framed_spans

POLICY = Curve("policy", "policy", [(0, 0.0), (1, 0.2), (2, 0.4)])
"""With room for half of its range on each side: from -0.2 to 0.6."""


def test_a_line_that_leaves_the_range_ends_at_its_edge_and_names_its_last_value() -> None:
    rule = Curve("simple rule", "rule", [(0, 0.0), (1, -0.4), (2, 0.0), (3, -1.7)])
    policy, first, last = framed_curves([POLICY, rule])
    assert policy == POLICY
    assert (first.label, last.label) == ("", "simple rule −170 %")
    assert [(round(x, 6), round(y, 6)) for x, y in first.points] == [(0, 0.0), (0.5, -0.2)]
    assert [(round(x, 6), round(y, 6)) for x, y in last.points][:2] == [(1.5, -0.2), (2, 0.0)]
    assert last.points[-1][1] == -0.2


def test_a_line_that_comes_back_across_the_whole_range_is_named_where_it_ends() -> None:
    rule = Curve("simple rule", "rule", [(0, 0.0), (1, -0.4), (2, 1.2), (3, 2.0)])
    policy, down, up = framed_curves([POLICY, rule])
    assert (policy, down.label, up.label) == (POLICY, "", "simple rule +200 %")
    assert [(round(x, 6), round(y, 6)) for x, y in down.points] == [(0, 0.0), (0.5, -0.2)]
    assert [(round(x, 6), round(y, 6)) for x, y in up.points] == [(1.125, -0.2), (1.625, 0.6)]


def test_a_line_within_the_range_stays_whole_and_a_passive_one_makes_it() -> None:
    near = Curve("random", "random", [(0, 0.0), (2, 0.59)])
    passive = Curve("buy and hold", "hold", [(0, 0.0), (2, 5.0)])
    assert framed_curves([POLICY, near]) == [POLICY, near]
    assert framed_curves([POLICY, passive]) == [POLICY, passive]


def test_a_row_outside_is_cut_and_named() -> None:
    policy, rule = IntervalRow("policy", 0.1, 0.0, 0.4, "policy"), IntervalRow("simple rule", -0.9, -1.2, 0.1, "rule")
    visible, outside = framed_spans([policy, rule])
    assert visible == policy
    assert outside == IntervalRow("simple rule −90 %", -0.2, -0.2, 0.1, "rule")
