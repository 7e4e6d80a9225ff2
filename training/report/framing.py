"""What a plot's axis is made for: the policy and the passive baselines. Others are cut where they leave it, and named.

Pure functions of curves and spans.
"""

from __future__ import annotations

from collections.abc import Sequence

from daemon.page_kit.plots import Curve, IntervalRow
from daemon.page_kit.svg import MINUS, Point

ACTIVE = frozenset(("random", "simple rule", "untrained network"))
"""Baselines that trade at random or by a rule of their own: they may lie far outside."""
ROOM = 0.5  # of the range of all others, on each side of it

Range = tuple[float, float]


def framed_curves(curves: Sequence[Curve]) -> list[Curve]:
    """Return the curves, those of `ACTIVE` in pieces within the range; the label of a cut one has its last value."""
    frame = _frame([value for curve in curves if curve.label not in ACTIVE for _, value in curve.points])
    framed: list[Curve] = []
    for curve in curves:
        if curve.label not in ACTIVE or all(frame[0] <= value <= frame[1] for _, value in curve.points):
            framed.append(curve)
            continue
        *others, last = _pieces(curve.points, frame)
        framed += [Curve("", curve.style, points) for points in others]
        framed.append(Curve(_with_value(curve.label, curve.points[-1][1]), curve.style, last))
    return framed


def framed_spans(spans: Sequence[IntervalRow]) -> list[IntervalRow]:
    """Return the rows, those of `ACTIVE` cut to the range; the label of one whose value lies outside names that."""
    others = [one for one in spans if one.label not in ACTIVE]
    frame = _frame([value for one in others for value in (one.value, one.low, one.high) if value is not None])
    return [one if one.label not in ACTIVE else _cut(one, frame) for one in spans]


def _frame(values: Sequence[float]) -> Range:
    low, high = min(*values, 0.0), max(*values, 0.0)
    room = ROOM * ((high - low) or 0.1)
    return low - room, high + room


def _within(value: float, frame: Range) -> float:
    return min(max(value, frame[0]), frame[1])


def _with_value(label: str, value: float) -> str:
    return f"{label} {value:+.0%}".replace("-", MINUS).replace("%", " %")


def _cut(one: IntervalRow, frame: Range) -> IntervalRow:
    inside = _within(one.value, frame) == one.value
    return one._replace(
        label=one.label if inside else _with_value(one.label, one.value),
        value=_within(one.value, frame),
        low=None if one.low is None else _within(one.low, frame),
        high=None if one.high is None else _within(one.high, frame),
    )


def _pieces(points: Sequence[Point], frame: Range) -> list[list[Point]]:
    """Return the parts of a line within the range, each up to its edge; a point at it where there is none."""
    pieces: list[list[Point]] = [[]]
    for index, (x, value) in enumerate(points):
        inside = _within(value, frame) == value
        if index and inside != (_within(points[index - 1][1], frame) == points[index - 1][1]):
            before_x, before = points[index - 1]
            edge = _within(before if inside else value, frame)
            pieces[-1].append((before_x + (edge - before) / (value - before) * (x - before_x), edge))
        if inside:
            pieces[-1].append((x, value))
        elif pieces[-1]:
            pieces.append([])
    x, value = points[-1]
    return [piece for piece in pieces if piece] or [[(x, _within(value, frame))]]
