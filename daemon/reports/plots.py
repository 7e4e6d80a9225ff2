"""The plots of a day's page as inline SVG: numbers in, text out; no library, and no colour, which the page has.

A plot is as wide as a phone or twice that, so its text is never scaled to be unreadable. An axis names its unit, a bar
starts at zero, a line is broken where nothing is known. Same numbers, same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import NamedTuple

from daemon.core.session import NEW_YORK

NARROW, WIDE = 340, 780
LETTER, CAPITAL = 6.3, 8.2  # px, generous mean widths at the style sheet's 11 px
HOUR_NS, DAY_NS = 3_600 * 10**9, 86_400 * 10**9
MINUS = "\N{MINUS SIGN}"

Point = tuple[int, float]  # time in nanoseconds UTC, value


class Mark(NamedTuple):
    """A point that stands out: `style` entry, exit or halt, `words` what a reader gets who points at it."""

    time_ns: int
    value: float
    style: str
    words: str


class Bar(NamedTuple):
    """A line of `bars`: its label, its values (one bar each) and what is written at their end."""

    label: str
    values: tuple[float, ...]
    words: str


def grouped(value: float, decimals: int = 0) -> str:
    """A number with thousands separators and a true minus sign."""
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def width_of(text: str) -> float:
    """About how many pixels wide a text is, rather too many than too few."""
    return sum(CAPITAL if letter.isupper() or letter == "_" else LETTER for letter in text)


def ticks(low: float, high: float, count: int = 5) -> tuple[tuple[float, ...], int]:
    """Round values within low to high (steps of 1, 2 or 5 times a power of ten), and the decimals that they need."""
    if not high > low:
        return (low,), 2
    raw = (high - low) / count
    power = math.floor(math.log10(raw))
    step = next(factor * 10.0**power for factor in (1, 2, 5, 10) if factor * 10.0**power >= raw * 0.999)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(index * step for index in range(first, last + 1)), decimals


def time_ticks(begin_ns: int, end_ns: int, count: int) -> tuple[tuple[int, str], ...]:
    """At most about `count` whole New York hours of a day, or dates where the span is longer than one."""
    if end_ns - begin_ns > DAY_NS:
        step = max(1, math.ceil((end_ns - begin_ns) / DAY_NS / count)) * DAY_NS
        days = range(end_ns, begin_ns, -step)
        return tuple((at, f"{_local(at):%d %b}".lstrip("0")) for at in reversed(days))
    hours = max(1, math.ceil((end_ns - begin_ns) / HOUR_NS / count))
    first = -(-begin_ns // HOUR_NS) * HOUR_NS  # New York's offset is whole hours
    return tuple((at, f"{_local(at):%H:%M}") for at in range(first, end_ns + 1, hours * HOUR_NS))


def _local(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns // 10**9, UTC).astimezone(NEW_YORK)


@dataclass(frozen=True, slots=True)
class _Plane:
    """Data coordinates to pixels, with margins for what is written around."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: float
    height: float
    left: float = 62.0
    right: float = 14.0
    top: float = 24.0
    bottom: float = 36.0

    def px(self, value: float) -> float:
        low, high = self.x
        return self.left + (value - low) / (high - low) * (self.edge - self.left)

    def py(self, value: float) -> float:
        low, high = self.y
        return self.floor - (value - low) / (high - low) * (self.floor - self.top)

    @property
    def floor(self) -> float:
        return self.height - self.bottom

    @property
    def edge(self) -> float:
        return self.width - self.right

    def y_axis(self, unit: str) -> list[str]:
        values, decimals = ticks(*self.y)
        parts = [_text(4, 13, unit, style="axis")]
        for value in values:
            y = self.py(value)
            parts.append(_line(self.left, y, self.edge, y, "zero" if abs(value) < 1e-12 else "grid"))
            parts.append(_text(self.left - 6, y + 4, grouped(value, decimals), "end"))
        return parts

    def time_axis(self) -> list[str]:
        begin, end = int(self.x[0]), int(self.x[1])
        parts = [_text(self.edge, self.height - 4, "New York time" if end - begin <= DAY_NS else "date", "end", "axis")]
        free = self.left - 20.0
        for at, words in time_ticks(begin, end, 4 if self.width <= NARROW else 8):
            x = min(self.px(at), self.edge - LETTER * len(words) / 2 + 8)
            if x - LETTER * len(words) / 2 > free:
                parts += [
                    _line(self.px(at), self.floor, self.px(at), self.floor + 4, "zero"),
                    _text(x, self.floor + 16, words, "middle"),
                ]
                free = x + LETTER * len(words) / 2 + 4
        return parts


def course(
    lines: Sequence[Sequence[Point]],
    marks: Sequence[Mark],
    span: tuple[int, int],
    unit: str,
    title: str,
    told: str,
    width: int,
) -> str:
    """A value over time: `lines` are its unbroken pieces, one of a single point is a dot. `told` says it in words."""
    values = [value for line in lines for _, value in line] + [mark.value for mark in marks if mark.style != "halt"]
    plane = _Plane((float(span[0]), float(span[1])), _padded(values), width, 250 if width <= NARROW else 290)
    parts = plane.y_axis(unit) + plane.time_axis()
    for mark in marks:
        if mark.style == "halt":
            x = plane.px(mark.time_ns)
            parts.append(f"<g>{_line(x, plane.top, x, plane.floor, 'halt')}{_title(mark.words)}</g>")
            parts.append(_text(min(x + 4, plane.edge - 26), plane.top + 9, "halt", style="halt-label"))
    for line in lines:
        if len(line) == 1:
            parts.append(_dot(plane.px(line[0][0]), plane.py(line[0][1]), 2.5))
        else:
            places = " ".join(f"{_number(plane.px(at))},{_number(plane.py(value))}" for at, value in line)
            parts.append(f'<polyline class="line" points="{places}"/>')
    for mark in marks:
        if mark.style != "halt":
            parts.append(_triangle(plane.px(mark.time_ns), plane.py(mark.value), mark))
    return _svg(plane.width, plane.height, parts, title, told)


def histogram(values: Sequence[float], unit: str, title: str, told: str, width: int) -> str:
    """How many values fall into each of equal bins that meet at 0; costs lie above 0, gains below."""
    edges, decimals = bins(values)
    counts = [0] * (len(edges) - 1)
    for value in values:
        counts[min(max(0, math.floor((value - edges[0]) / (edges[1] - edges[0]) + 1e-9)), len(counts) - 1)] += 1
    plane = _Plane((edges[0], edges[-1]), (0.0, max(counts) * 1.12), width, 230, left=36.0)
    parts = [_text(4, 13, "orders", style="axis")]
    step = max(1, math.ceil(max(counts) / 5))
    for count in range(0, max(counts) + 1, step):
        y = plane.py(count)
        parts += [_line(plane.left, y, plane.edge, y, "grid"), _text(plane.left - 6, y + 4, str(count), "end")]
    every = max(1, math.ceil(len(edges) * LETTER * 7 / (plane.edge - plane.left)))
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        if count:
            x, y = plane.px(low), plane.py(count)
            words = f"{count} from {grouped(low, decimals)} to {grouped(high, decimals)} {unit}"
            style = "cost" if low >= -1e-12 else "gain"
            parts.append(_rect(x + 0.7, y, plane.px(high) - x - 1.4, plane.floor - y, style, words))
    start = next(index for index, edge in enumerate(edges) if abs(edge) < 1e-9) % every
    for edge in edges[start::every]:
        parts.append(_text(plane.px(edge), plane.floor + 15, grouped(edge, decimals), "middle"))
    if edges[0] < 0 < edges[-1]:
        parts.append(_line(plane.px(0), plane.top, plane.px(0), plane.floor, "zero"))
    parts.append(_text(plane.edge, plane.height - 4, unit, "end", "axis"))
    return _svg(plane.width, plane.height, parts, title, told)


def bins(values: Sequence[float]) -> tuple[tuple[float, ...], int]:
    """Edges of at most some 14 equal bins, 0 always among them, and the decimals that they need."""
    low, high = min(*values, 0.0), max(*values, 0.0)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / 12
    power = math.floor(math.log10(raw))
    step = next(factor * 10.0**power for factor in (1, 2, 5, 10) if factor * 10.0**power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.floor(high / step + 1e-9) + 1
    return tuple(index * step for index in range(first, last + 1)), max(0, -math.floor(math.log10(step) + 1e-9))


def bars(rows: Sequence[Bar], styles: Sequence[str], unit: str, title: str, told: str, width: int) -> str:
    """Horizontal bars from 0, one for each value of a row, in the order of `styles`."""
    left = 12 + max(width_of(row.label) for row in rows)
    right = 12 + max(width_of(row.words) for row in rows)
    high = max((value for row in rows for value in row.values), default=0.0)
    low = min(0.0, min((value for row in rows for value in row.values), default=0.0))
    thick = 14.0 if len(styles) == 1 else 7.0
    tall = thick * len(styles) + 8
    plane = _Plane((low, max(high, 1e-9)), (0.0, 1.0), width, 8 + tall * len(rows) + 16, left, right, 4, 16)
    parts = [_text(plane.width - 4, plane.height - 3, unit, "end", "axis")]
    for index, row in enumerate(rows):
        y = 4 + tall * index
        parts.append(_text(plane.left - 6, y + tall / 2 + 3, row.label, "end"))
        for place, (value, style) in enumerate(zip(row.values, styles, strict=True)):
            start, end = sorted((plane.px(0), plane.px(value)))
            parts.append(
                _rect(start, y + 3 + place * thick, end - start, thick - 1, style, f"{row.label}: {row.words}")
            )
        reach = max((plane.px(value) for value in row.values), default=plane.left)
        parts.append(_text(max(reach, plane.px(0)) + 5, y + tall / 2 + 3, row.words))
    parts.append(_line(plane.px(0), 2, plane.px(0), plane.floor, "zero"))
    return _svg(plane.width, plane.height, parts, title, told)


# --- the pieces ---------------------------------------------------------------------------------------------------


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = (high - low) * 0.06 or max(abs(low) * 0.001, 0.01)
    return low - pad, high + pad


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _title(words: str) -> str:
    return f"<title>{escape(words)}</title>"


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{_number(x1)}" y1="{_number(y1)}" x2="{_number(x2)}" y2="{_number(y2)}"/>'


def _rect(x: float, y: float, width: float, height: float, style: str, words: str) -> str:
    size = f'width="{_number(max(width, 0.5))}" height="{_number(max(height, 0.0))}"'
    return f'<rect class="{style}" x="{_number(x)}" y="{_number(y)}" {size}>{_title(words)}</rect>'


def _dot(x: float, y: float, radius: float) -> str:
    return f'<circle class="dot" cx="{_number(x)}" cy="{_number(y)}" r="{radius}"/>'


def _triangle(x: float, y: float, mark: Mark) -> str:
    """An entry points up from below the value, an exit down from above it."""
    away = 1 if mark.style == "entry" else -1
    tip, base = y + away * 4, y + away * 13
    corners = ((x, tip), (x - 5, base), (x + 5, base))
    points = " ".join(f"{_number(left)},{_number(top)}" for left, top in corners)
    return f'<polygon class="{mark.style}" points="{points}">{_title(mark.words)}</polygon>'


def _text(x: float, y: float, words: str, anchor: str = "start", style: str = "") -> str:
    named = f' class="{style}"' if style else ""
    return f'<text x="{_number(x)}" y="{_number(y)}" text-anchor="{anchor}"{named}>{escape(words)}</text>'


def _svg(width: float, height: float, parts: Sequence[str], title: str, told: str) -> str:
    box = f'viewBox="0 0 {_number(width)} {_number(height)}"'
    name = f"<title>{escape(title)}</title><desc>{escape(told)}</desc>"
    return f'<svg role="img" aria-label="{escape(f"{title}. {told}")}" {box}>{name}{"".join(parts)}</svg>'
