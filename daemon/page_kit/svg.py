"""A plot as inline SVG: data coordinates in, markup out. It knows no chart.

It has no colours: the pages' style sheet sets those, by class. Same numbers, same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

LETTER, CAPITAL = 6.3, 8.2  # px, generous mean widths at the style sheet's 11 px
MINUS = "\N{MINUS SIGN}"

Point = tuple[float, float]
Range = tuple[float, float]
Show = Callable[[float], str]


def grouped_number(value: float, decimals: int = 0) -> str:
    """Return a number with thousands separators and a true minus sign."""
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def percent(value: float) -> str:
    """Return a fraction as a percentage with as many decimals as it needs: 0.015 is "1.5 %"."""
    return f"{round(value * 100.0, 4):g} %".replace("-", MINUS)


def plain(value: float) -> str:
    """Return a number without trailing zeros."""
    return f"{round(value, 6):g}".replace("-", MINUS)


def millions(value: float) -> str:
    """Return a count of steps in short form: 2,000,000 is "2M", 50,000 is "50k"."""
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def width_of(text: str) -> float:
    """Return the approximate width of a text in pixels, rounded up."""
    return sum(CAPITAL if letter.isupper() or letter == "_" else LETTER for letter in text)


def fitting(text: str, room: float) -> str:
    """Return the text, or its beginning and end if it is wider than `room`, in pixels."""
    short = text
    while width_of(short) > room:
        half = (len(short) - 2) // 2
        short = f"{text[:half]}…{text[-half:]}"
    return short


def round_step(raw: float) -> tuple[float, int]:
    """Return the smallest step of 1, 2 or 5 times a power of ten that is about `raw` or more, and its decimals."""
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1.0, 2.0, 5.0, 10.0) if factor * magnitude >= raw * 0.999)
    return step, max(0, -math.floor(math.log10(step) + 1e-9))


def tick_room(low: float, high: float, show: Show) -> float:
    """Return the pixels for the tick labels left of a plane, at least a plot's usual margin."""
    return max(44.0, *(10.0 + width_of(show(value)) for value in ticks(low, high)[0]))


def ticks(low: float, high: float, count: int = 5, least: float = 0.0) -> tuple[tuple[float, ...], int]:
    """Return about `count` round values from low to high, at least `least` apart, and the decimals that they need."""
    if not high > low:
        return (low,), 2
    step, decimals = round_step(max((high - low) / count, least))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(index * step for index in range(first, last + 1)), decimals


def padded_range(values: Sequence[float], share: float = 0.05, least: float = 0.1) -> Range:
    """Return the range of the values, padded by `share` of it on each side; equal values by `least` of the value."""
    low, high = min(values), max(values)
    pad = (high - low) * share or max(abs(low) * least, 0.01)
    return low - pad, high + pad


class Plot:
    """One picture of `width` pixels: the plane of x and y inside its margins, and the shapes drawn so far."""

    def __init__(
        self,
        x: Range,
        y: Range,
        size: tuple[float, float],
        *,
        left: float = 44.0,
        right: float = 12.0,
        top: float = 10.0,
        bottom: float = 34.0,
    ) -> None:
        self.x, self.y = x, y
        self.width, self.height = size
        self.left, self.top = left, top
        self.edge, self.floor = self.width - right, self.height - bottom
        self._shapes: list[Element] = []

    def px(self, value: float) -> float:
        """Return the pixel of an x value."""
        low, high = self.x
        return self.left + (value - low) / (high - low) * (self.edge - self.left)

    def py(self, value: float) -> float:
        """Return the pixel of a y value."""
        low, high = self.y
        return self.floor - (value - low) / (high - low) * (self.floor - self.top)

    # --- shapes, in pixels ----------------------------------------------------------------------------------------

    def _add(self, name: str, words: str, **attributes: str | float) -> None:
        """Draw a shape; `words` is its tooltip."""
        texts = {
            key.rstrip("_").replace("_", "-"): value if isinstance(value, str) else _number(value)
            for key, value in attributes.items()
        }
        shape = Element(name, {key: value for key, value in texts.items() if value})
        if words:
            SubElement(shape, "title").text = words
        self._shapes.append(shape)

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str, words: str = "") -> None:
        """Draw a straight line."""
        self._add("line", words, class_=style, x1=x1, y1=y1, x2=x2, y2=y2)

    def rect(self, x: float, y: float, width: float, height: float, style: str, words: str = "") -> None:
        """Draw a rectangle from its upper left corner, at least 0.5 pixels wide."""
        self._add("rect", words, class_=style, x=x, y=y, width=max(width, 0.5), height=max(height, 0.0))

    def dot(self, x: float, y: float, radius: float, style: str) -> None:
        """Draw a filled circle."""
        self._add("circle", "", class_=style, cx=x, cy=y, r=radius)

    def text(self, x: float, y: float, words: str, anchor: str = "start", style: str = "") -> None:
        """Write a text with its base line at y."""
        self._add("text", "", class_=style, x=x, y=y, text_anchor=anchor)
        self._shapes[-1].text = words

    def polygon(self, points: Iterable[Point], style: str, words: str = "") -> None:
        """Draw a filled polygon."""
        self._add("polygon", words, class_=style, points=_points(points))

    def curve(self, points: Iterable[Point], style: str) -> None:
        """Draw a line through values."""
        places = _points((self.px(x), self.py(y)) for x, y in points)
        self._add("polyline", "", class_=style, points=places)

    # --- axes -----------------------------------------------------------------------------------------------------

    def y_axis(self, show: Show | None = None, unit: str = "", least: float = 0.0, count: int = 5) -> None:
        """Draw horizontal lines at round values, the one at zero darker, with the unit above."""
        values, decimals = ticks(*self.y, count, least)
        if unit:
            self.text(4, 13, unit, style="axis")
        for value in values:
            y = self.py(value)
            self.line(self.left, y, self.edge, y, "zero" if abs(value) < 1e-12 else "grid")
            self.text(self.left - 6, y + 4, show(value) if show else grouped_number(value, decimals), "end")

    def x_axis(self, show: Show | None, label: str, *, grid: bool = False) -> None:
        """Write round values below the plane and the label under them; with `grid` a line at each."""
        values, decimals = ticks(*self.x, count=4)
        free = 0.0  # the next label may begin here
        for value in values:
            x, words = self.px(value), show(value) if show else grouped_number(value, decimals)
            if grid:
                self.line(x, self.top, x, self.floor, "zero" if abs(value) < 1e-12 else "grid")
            half = width_of(words) / 2
            if x - half >= free:
                self.text(x, self.floor + 14, words, "middle")
                free = x + half
        middle = min((self.left + self.edge) / 2, self.width - width_of(label) / 2)
        self.text(middle, self.height - 4, label, "middle", "axis")

    def markup(self, title: str, summary: str = "") -> Markup:
        """Return the picture; `summary` is the picture as a text."""
        box = f"0 0 {_number(self.width)} {_number(self.height)}"
        svg = Element("svg", {"role": "img", "aria-label": f"{title}. {summary}" if summary else title, "viewBox": box})
        SubElement(svg, "title").text = title
        if summary:
            SubElement(svg, "desc").text = summary
        svg.extend(self._shapes)
        return Markup(tostring(svg, encoding="unicode"))


def apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return positions near the given ones, in the same order, at least `gap` apart, within low to high if possible."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    positions = [0.0] * len(places)
    previous = low - gap
    for index in order:
        previous = positions[index] = max(places[index], previous + gap)
    following = high + gap
    for index in reversed(order):
        following = positions[index] = min(positions[index], following - gap)
    return positions


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _points(points: Iterable[Point]) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
