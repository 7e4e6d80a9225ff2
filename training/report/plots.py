"""The plots of a report as inline SVG. Numbers in, text out; no library, no colour: the page's style sheet has those.

A plot is as wide as a phone (or twice that), so its text is never scaled to be unreadable. Same numbers, same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

NARROW, WIDE = 340, 780
TEXT = 11.0  # px, as in the style sheet
LETTER, CAPITAL = 5.9, 8.2  # px, generous mean widths at that size

Point = tuple[float, float]
Show = Callable[[float], str]


class Curve(NamedTuple):
    """A line and its style-sheet class; `label`, where not empty, is written at its end."""

    label: str
    style: str
    points: Sequence[Point]


class Band(NamedTuple):
    """A filled range: (x, low, high) from left to right."""

    label: str
    points: Sequence[tuple[float, float, float]]


class Span(NamedTuple):
    """One line of `intervals`: a value, its interval where known, and a style-sheet class."""

    label: str
    value: float
    low: float | None
    high: float | None
    style: str


class Strip(NamedTuple):
    """One line of `strips`: values as dots, one of them chosen, and the interval of their middle."""

    label: str
    values: Sequence[float]
    chosen: int | None
    middle: tuple[float, float, float] | None  # value, low, high


def width_of(text: str) -> float:
    """About how many pixels wide a text is, rather too many than too few."""
    return sum(CAPITAL if letter.isupper() or letter == "_" else LETTER for letter in text)


def percent(value: float) -> str:
    """A fraction as a percentage with as many decimals as it needs: 0.015 is "1.5 %"."""
    return f"{round(value * 100.0, 4):g} %".replace("-", "\N{MINUS SIGN}")


def plain(value: float) -> str:
    """A number without trailing zeros."""
    return f"{round(value, 6):g}".replace("-", "\N{MINUS SIGN}")


def millions(value: float) -> str:
    """A count of steps: 2,000,000 is "2M", 50,000 is "50k"."""
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """About `count` round values (steps of 1, 2 or 5 times a power of ten) that lie within low to high."""
    if not high > low:
        return (low,)
    raw = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1.0, 2.0, 5.0, 10.0) if factor * magnitude >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return tuple(index * step for index in range(first, math.floor(high / step + 1e-9) + 1))


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near those wanted, in the same order, at least `gap` apart, within low to high where they fit."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = [0.0] * len(wanted)
    previous = low - gap
    for index in order:
        previous = placed[index] = max(wanted[index], previous + gap)
    following = high + gap
    for index in reversed(order):
        following = placed[index] = min(placed[index], following - gap)
    return placed


@dataclass(frozen=True, slots=True)
class _Plane:
    """Data coordinates to pixels, with margins for what is written around."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: float
    height: float
    left: float = 44.0
    right: float = 12.0
    top: float = 10.0
    bottom: float = 34.0

    def px(self, value: float) -> float:
        low, high = self.x
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def py(self, value: float) -> float:
        low, high = self.y
        return self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom)

    @property
    def floor(self) -> float:
        return self.height - self.bottom

    @property
    def edge(self) -> float:
        return self.width - self.right

    def y_axis(self, show: Show, *, zero: bool = True) -> list[str]:
        parts = []
        for value in ticks(*self.y):
            y = self.py(value)
            style = "zero" if zero and abs(value) < 1e-12 else "grid"
            parts += [_line(self.left, y, self.edge, y, style), _text(self.left - 5, y + 4, show(value), "end")]
        return parts

    def x_axis(self, show: Show, label: str, *, grid: bool = False, zero: bool = False) -> list[str]:
        parts = []
        for value in ticks(*self.x, count=4):
            x = self.px(value)
            at_zero = zero and abs(value) < 1e-12
            if grid:
                parts.append(_line(x, self.top, x, self.floor, "zero" if at_zero else "grid"))
            parts.append(_text(x, self.floor + 14, show(value), "middle"))
        return [*parts, _text((self.left + self.edge) / 2, self.height - 4, label, "middle", "axis")]


def equity(curves: Sequence[Curve], band: Band | None, folds: Sequence[tuple[float, str]], width: int) -> str:
    """Running sums of returns over sessions with their names at the right edge; `folds` are (session, label)."""
    spread = [point[1] for curve in curves for point in curve.points]
    spread += [value for row in (band.points if band else ()) for value in row[1:]]
    labels = [curve.label for curve in curves] + ([band.label] if band else [])
    last = max(point[0] for curve in curves for point in curve.points)
    right = 10 + max(map(width_of, labels))
    plane = _Plane((0.0, last), _padded(spread), width, 300 if width > NARROW else 260, right=right, bottom=22)
    parts = plane.y_axis(percent)
    for index, (at, label) in enumerate(folds):
        x = plane.px(at)
        ahead = plane.px(folds[index + 1][0]) if index + 1 < len(folds) else plane.edge
        if index:
            parts.append(_line(x, plane.top, x, plane.floor, "fold"))
        if ahead - x > width_of(label):
            parts.append(_text(x + 3, plane.floor + 14, label))
    ends: list[tuple[float, str, str]] = []
    if band:
        upper = [(plane.px(x), plane.py(high)) for x, _, high in band.points]
        lower = [(plane.px(x), plane.py(low)) for x, low, _ in reversed(band.points)]
        parts.append(f'<polygon class="band" points="{_points(upper + lower)}"/>')
        _, low, high = band.points[-1]
        ends.append((plane.py((low + high) / 2), band.label, "band-label"))
    for curve in reversed(curves):
        parts.append(_polyline(plane, curve))
        ends.append((plane.py(curve.points[-1][1]), curve.label, f"{curve.style}-label"))
    places = apart([end[0] for end in ends], TEXT + 2, plane.top, plane.floor)
    parts += [_text(plane.edge + 5, y + 4, end[1], style=end[2]) for y, end in zip(places, ends, strict=True)]
    return _svg(plane.width, plane.height, parts, "Running sum of net returns over the test sessions")


def intervals(rows: Sequence[Span], show: Show, label: str, name: str) -> str:
    """One line for each row: its value as a dot, its interval as a bar, on a common axis with a line at zero."""
    known = [value for row in rows for value in (row.value, row.low, row.high) if value is not None]
    left = 10 + max(width_of(row.label) for row in rows)
    height = 44 + 26 * len(rows)
    plane = _Plane(_padded([*known, 0.0]), (0.0, 1.0), NARROW, height, left=left, right=16, top=4)
    parts = plane.x_axis(show, label, grid=True, zero=True)
    for index, row in enumerate(rows):
        y = plane.top + 26 * (index + 0.5)
        parts.append(_text(plane.left - 6, y + 4, row.label, "end", f"{row.style}-label"))
        if row.low is not None and row.high is not None:
            parts.append(_line(plane.px(row.low), y, plane.px(row.high), y, f"{row.style} interval"))
        parts.append(_dot(plane.px(row.value), y, 4.5, f"{row.style}-dot"))
    return _svg(plane.width, plane.height, parts, name)


def strips(rows: Sequence[Strip], label: str, name: str) -> str:
    """Dots of each row along one axis, the chosen one larger; a row's middle is a bar with a tick."""
    known = [value for row in rows for value in (*row.values, *(row.middle or ()))]
    left = 10 + max(width_of(row.label) for row in rows)
    plane = _Plane(_padded([*known, 0.0]), (0.0, 1.0), NARROW, 44 + 30 * len(rows), left=left, right=16, top=4)
    parts = plane.x_axis(percent, label, grid=True, zero=True)
    for index, row in enumerate(rows):
        y = plane.top + 30 * (index + 0.5)
        parts.append(_text(plane.left - 6, y + 4, row.label, "end"))
        parts += [_dot(plane.px(value), y, 3.5, "seed-dot") for value in row.values]
        if row.chosen is not None:
            parts.append(_dot(plane.px(row.values[row.chosen]), y, 5.5, "chosen-dot"))
        if row.middle is not None:
            value, low, high = (plane.px(one) for one in row.middle)
            parts += [_line(low, y, high, y, "middle interval"), _line(value, y - 6, value, y + 6, "middle")]
    return _svg(plane.width, plane.height, parts, name)


def scatter(points: Sequence[tuple[float, float, bool]], x_label: str, y_label: str, name: str) -> str:
    """Points (x, y, chosen) with both zero lines."""
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    plane = _Plane(_padded([*xs, 0.0]), _padded([*ys, 0.0]), NARROW, 280, top=22)
    parts = plane.y_axis(percent) + plane.x_axis(percent, x_label, grid=True, zero=True)
    parts.append(_text(4, 12, y_label, style="axis"))
    for x, y, chosen in sorted(points, key=lambda point: point[2]):
        style, radius = ("chosen-dot", 5.5) if chosen else ("seed-dot", 3.5)
        parts.append(_dot(plane.px(x), plane.py(y), radius, style))
    return _svg(plane.width, plane.height, parts, name)


def histogram(bins: Sequence[tuple[float, float, float]], split: float, words: tuple[str, str], label: str) -> str:
    """Bars of shares, (from, to, share); those at or below `split` stand out. `words` name the two sides."""
    highest = max(share for *_, share in bins)
    plane = _Plane((bins[0][0], bins[-1][1]), (0.0, highest * 1.1), NARROW, 220, top=24)
    parts = plane.y_axis(percent) + plane.x_axis(plain, label)
    for low, high, share in bins:
        if share > 0.0:
            style = "bad-bar" if (low + high) / 2 <= split else "good-bar"
            x, y = plane.px(low), plane.py(share)
            parts.append(_rect(x + 0.5, y, plane.px(high) - x - 1, plane.floor - y, style))
    if plane.x[0] < split < plane.x[1]:
        parts.append(_line(plane.px(split), plane.top, plane.px(split), plane.floor, "zero"))
    parts += [_text(plane.left, 13, words[0], style="bad-label"), _text(plane.edge, 13, words[1], "end", "good-label")]
    return _svg(plane.width, plane.height, parts, label)


def reliability(bins: Sequence[tuple[float, float, float, float]], x_label: str, y_label: str) -> str:
    """Bins (confidence, share, low, high) and the dashed line on which both agree."""
    least = math.floor(min(row[0] for row in bins) * 10.0 - 1e-9) / 10.0
    plane = _Plane((max(least, 0.0), 1.0), (0.0, 1.0), NARROW, 280, top=22, right=22)
    parts = plane.y_axis(percent) + plane.x_axis(percent, x_label)
    parts.append(_text(4, 12, y_label, style="axis"))
    parts.append(_line(plane.left, plane.py(plane.x[0]), plane.edge, plane.top, "ideal"))
    for confidence, share, below, above in bins:
        x = plane.px(confidence)
        parts.append(_line(x, plane.py(below), x, plane.py(above), "policy interval"))
        parts.append(_dot(x, plane.py(share), 4.5, "policy-dot"))
    return _svg(plane.width, plane.height, parts, y_label)


def learning(thin: Sequence[Sequence[Point]], median: Sequence[Point], show: Show, label: str, name: str) -> str:
    """Every run thin, their median thick, over training steps."""
    known = [y for run in thin for _, y in run]
    last = max(x for run in thin for x, _ in run)
    plane = _Plane((0.0, last), _padded(known), NARROW, 240, top=22, right=16)
    parts = [_line(plane.left, plane.floor, plane.edge, plane.floor, "grid")]
    parts += plane.y_axis(show) + plane.x_axis(millions, "training steps")
    parts.append(_text(4, 12, label, style="axis"))
    parts += [_polyline(plane, Curve("", "run", run)) for run in thin]
    return _svg(plane.width, plane.height, [*parts, _polyline(plane, Curve("", "median", median))], name)


def bars(rows: Sequence[tuple[str, int]], name: str) -> str:
    """Counts as horizontal bars with their number at the end."""
    left = 10 + max(width_of(label) for label, _ in rows)
    most = max(count for _, count in rows)
    plane = _Plane((0.0, float(most)), (0.0, 1.0), NARROW, 8 + 22 * len(rows), left=left, right=52)
    parts = []
    for index, (label, count) in enumerate(rows):
        y = 4 + 22 * index
        end = max(plane.px(count), plane.left + 1)
        parts += [_text(plane.left - 6, y + 15, label, "end"), _rect(plane.left, y + 3, end - plane.left, 16, "bar")]
        parts.append(_text(end + 5, y + 15, f"{count:,}"))
    return _svg(plane.width, plane.height, parts, name)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """The range of values and a twentieth on each side; never empty."""
    low, high = min(values), max(values)
    pad = (high - low) * 0.05 or max(abs(low) * 0.1, 0.01)
    return low - pad, high + pad


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _points(points: Sequence[Point]) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in points)


def _polyline(plane: _Plane, curve: Curve) -> str:
    places = [(plane.px(x), plane.py(y)) for x, y in curve.points]
    return f'<polyline class="{curve.style}" points="{_points(places)}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{_number(x1)}" y1="{_number(y1)}" x2="{_number(x2)}" y2="{_number(y2)}"/>'


def _rect(x: float, y: float, width: float, height: float, style: str) -> str:
    size = f'width="{_number(max(width, 0.5))}" height="{_number(height)}"'
    return f'<rect class="{style}" x="{_number(x)}" y="{_number(y)}" {size}/>'


def _dot(x: float, y: float, radius: float, style: str) -> str:
    return f'<circle class="{style}" cx="{_number(x)}" cy="{_number(y)}" r="{radius}"/>'


def _text(x: float, y: float, words: str, anchor: str = "start", style: str = "") -> str:
    where = f'x="{_number(x)}" y="{_number(y)}" text-anchor="{anchor}"'
    return f"<text {where}{f' class={chr(34)}{style}{chr(34)}' if style else ''}>{escape(words)}</text>"


def _svg(width: float, height: float, parts: Sequence[str], name: str) -> str:
    box = f'viewBox="0 0 {_number(width)} {_number(height)}"'
    return f'<svg role="img" aria-label="{escape(name)}" {box}>{"".join(parts)}</svg>'
