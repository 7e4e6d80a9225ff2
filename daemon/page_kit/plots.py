"""Charts of the reports: numbers in, markup out.

A plot is as wide as a phone or twice that, so its text is never scaled to be unreadable. Bars start at zero. `summary`
is the chart as a text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from markupsafe import Markup

from daemon.page_kit.svg import (
    LETTER,
    Plot,
    Point,
    Show,
    apart,
    fitting,
    millions,
    padded_range,
    percent,
    plain,
    round_step,
    tick_room,
    width_of,
)
from strategies.kit.units import DAY_NS, HOUR_NS, SECOND_NS

NARROW, WIDE = 340, 780
TEXT = 11.0  # px, as in the style sheet
LABELS = 0.6  # most of a plot's width for the labels of its rows
NEW_YORK = ZoneInfo("America/New_York")


class PlotMark(NamedTuple):
    """A highlighted point: `style` entry, exit or halt, `words` its tooltip."""

    time_ns: int
    value: float
    style: str
    words: str


class BarRow(NamedTuple):
    """A row of `bars`: its label, its values (one bar each) and the text at their end."""

    label: str
    values: tuple[float, ...]
    words: str


class HistogramBin(NamedTuple):
    """A column of `histogram` from `low` to `high`; `words` is its tooltip."""

    low: float
    high: float
    height: float
    words: str = ""


class Curve(NamedTuple):
    """A line and its style-sheet class; `label` is written at its end, if not ""."""

    label: str
    style: str
    points: Sequence[Point]


class Runs(NamedTuple):
    """Thin lines of several runs of one kind, and a thick line with its class and name, "" for the only kind."""

    label: str
    style: str
    thin: Sequence[Sequence[Point]]
    thick: Sequence[Point]


class Band(NamedTuple):
    """A filled range: (x, low, high) from left to right."""

    label: str
    points: Sequence[tuple[float, float, float]]


class IntervalRow(NamedTuple):
    """A row of `intervals`: a value, its interval where known, and a style-sheet class."""

    label: str
    value: float
    low: float | None
    high: float | None
    style: str


class Strip(NamedTuple):
    """A row of `strips`: values as dots, one of them chosen, and the interval of their centre."""

    label: str
    values: Sequence[float]
    chosen: int | None
    middle: tuple[float, float, float] | None  # value, low, high


class Figure(NamedTuple):
    """One chart drawn for a narrow and for a wide page, which shows one of them."""

    narrow: Markup
    wide: Markup


def in_both_widths(chart: Callable[[int], Markup]) -> Figure:
    """Draw a chart for phones and for larger pages."""
    return Figure(chart(NARROW), chart(WIDE))


# --- over time ----------------------------------------------------------------------------------------------------


def time_ticks(begin_ns: int, end_ns: int, count: int) -> tuple[tuple[int, str], ...]:
    """Return at most about `count` whole New York hours of a day, or dates if the span is longer than one."""
    if end_ns - begin_ns > DAY_NS:
        step = max(1, math.ceil((end_ns - begin_ns) / DAY_NS / count)) * DAY_NS
        days = range(end_ns, begin_ns, -step)
        return tuple((at, f"{_local(at):%d %b}".lstrip("0")) for at in reversed(days))
    hours = max(1, math.ceil((end_ns - begin_ns) / HOUR_NS / count))
    first = -(-begin_ns // HOUR_NS) * HOUR_NS  # New York's offset is whole hours
    return tuple((at, f"{_local(at):%H:%M}") for at in range(first, end_ns + 1, hours * HOUR_NS))


def _local(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns // SECOND_NS, UTC).astimezone(NEW_YORK)


def _time_axis(plot: Plot) -> None:
    begin, end = int(plot.x[0]), int(plot.x[1])
    plot.text(plot.edge, plot.height - 4, "New York time" if end - begin <= DAY_NS else "date", "end", "axis")
    free = plot.left - 20.0
    for at, words in time_ticks(begin, end, 4 if plot.width <= NARROW else 8):
        half = LETTER * len(words) / 2
        x = min(plot.px(at), plot.edge - half + 8)
        if x - half > free:
            plot.line(plot.px(at), plot.floor, plot.px(at), plot.floor + 4, "zero")
            plot.text(x, plot.floor + 16, words, "middle")
            free = x + half + 4


def course(
    lines: Sequence[Sequence[Point]],
    marks: Sequence[PlotMark],
    span: tuple[int, int],
    unit: str,
    title: str,
    summary: str,
    width: int,
) -> Markup:
    """Draw a value over nanoseconds UTC: `lines` are its unbroken pieces, one of a single point is a dot."""
    values = [value for line in lines for _, value in line] + [mark.value for mark in marks if mark.style != "halt"]
    size = (width, 250 if width <= NARROW else 290)
    plot = Plot(span, padded_range(values, 0.06, 0.001), size, left=62, right=14, top=24, bottom=36)
    plot.y_axis(unit=unit)
    _time_axis(plot)
    for mark in marks:
        if mark.style == "halt":
            x = plot.px(mark.time_ns)
            plot.line(x, plot.top, x, plot.floor, "halt", mark.words)
            plot.text(min(x + 4, plot.edge - 26), plot.top + 9, "halt", style="halt-label")
    for line in lines:
        if len(line) == 1:
            plot.dot(plot.px(line[0][0]), plot.py(line[0][1]), 2.5, "dot")
        else:
            plot.curve(line, "line")
    for mark in marks:
        if mark.style != "halt":
            _triangle(plot, mark)
    return plot.markup(title, summary)


def _triangle(plot: Plot, mark: PlotMark) -> None:
    """Draw a triangle: an entry points up from below the value, an exit down from above it."""
    x, y = plot.px(mark.time_ns), plot.py(mark.value)
    direction = 1 if mark.style == "entry" else -1
    tip, base = y + direction * 4, y + direction * 13
    plot.polygon(((x, tip), (x - 5, base), (x + 5, base)), mark.style, mark.words)


def equity(
    curves: Sequence[Curve],
    band: Band | None,
    folds: Sequence[tuple[float, str]],
    width: int,
    title: str = "Running sum of net returns over the test sessions",
) -> Markup:
    """Draw running sums of returns over sessions, named at the right edge; `folds` are (session, label), in order."""
    spread = [point[1] for curve in curves for point in curve.points]
    spread += [value for row in (band.points if band else ()) for value in row[1:]]
    labels = [curve.label for curve in curves] + ([band.label] if band else [])
    last = max(point[0] for curve in curves for point in curve.points)
    size = (width, 300 if width > NARROW else 260)
    plot = Plot((0.0, last), padded_range(spread), size, right=10 + max(map(width_of, labels)), bottom=22)
    plot.y_axis(percent, count=8)
    free, room = plot.left, plot.edge - (width_of(folds[-1][1]) + 6 if folds and folds[-1][0] >= last else 0)
    for index, (at, label) in enumerate(folds):
        x = plot.px(at)
        if index and at < last:
            plot.line(x, plot.top, x, plot.floor, "fold")
        if at >= last:
            plot.text(plot.edge, plot.floor + 14, label, "end")
        elif x >= free and x + 3 + width_of(label) <= room:
            plot.text(x + 3, plot.floor + 14, label)
            free = x + 9 + width_of(label)
    ends: list[tuple[float, str, str]] = []
    if band:
        upper = [(plot.px(x), plot.py(high)) for x, _, high in band.points]
        lower = [(plot.px(x), plot.py(low)) for x, low, _ in reversed(band.points)]
        plot.polygon(upper + lower, "band")
        _, low, high = band.points[-1]
        ends.append((plot.py((low + high) / 2), band.label, "band-label"))
    for curve in reversed(curves):
        plot.curve(curve.points, curve.style)
        if curve.label:
            ends.append((plot.py(curve.points[-1][1]), curve.label, f"{curve.style}-label"))
    places = apart([end[0] for end in ends], TEXT + 2, plot.top, plot.floor)
    for y, (_, label, style) in zip(places, ends, strict=True):
        plot.text(plot.edge + 5, y + 4, label, style=style)
    return plot.markup(title)


STEPS = (millions, "training steps")


def runs(
    groups: Sequence[Runs], show: Show, label: str, title: str, x_axis: tuple[Show, str] = STEPS, *, begin: float = 0.0
) -> Markup:
    """Draw every run thin and one thick line per kind, from `begin` on; several kinds are named at their ends."""
    lines = [line for group in groups for line in (*group.thin, group.thick) if line]
    low, high = padded_range([y for line in lines for _, y in line])
    last = max(x for line in lines for x, _ in line)
    labelled_groups = [group for group in groups if group.label and group.thick]
    right = 20 + max((width_of(group.label) for group in labelled_groups), default=0.0)
    size = (NARROW, 240)
    plot = Plot((begin, last), (low, high), size, left=tick_room(low, high, show), top=22, right=right)
    plot.line(plot.left, plot.floor, plot.edge, plot.floor, "grid")
    plot.y_axis(show, label)
    plot.x_axis(*x_axis)
    for line in (line for group in groups for line in group.thin):
        plot.curve(line, "run")
    for group in groups:
        plot.curve(group.thick, group.style)
    heights = [plot.py(group.thick[-1][1]) for group in labelled_groups]
    for y, group in zip(apart(heights, TEXT + 2, plot.top, plot.floor), labelled_groups, strict=True):
        plot.text(plot.edge + 5, y + 4, group.label, style=f"{group.style}-label")
    return plot.markup(title)


# --- of a distribution --------------------------------------------------------------------------------------------


def bin_edges(values: Sequence[float]) -> tuple[tuple[float, ...], int]:
    """Return the edges of at most some 14 equal bins, 0 always among them, and the decimals that they need."""
    low, high = min(*values, 0.0), max(*values, 0.0)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    step, decimals = round_step((high - low) / 12)
    first, last = math.floor(low / step + 1e-9), math.floor(high / step + 1e-9) + 1
    return tuple(index * step for index in range(first, last + 1)), decimals


def histogram(
    bins: Sequence[HistogramBin],
    split: float,
    styles: tuple[str, str],
    label: str,
    title: str,
    summary: str = "",
    *,
    unit: str = "",
    words: tuple[str, str] = ("", ""),
    width: int = NARROW,
) -> Markup:
    """Draw columns on both sides of `split`, each side with its style and a text above.

    Heights are counts of the `unit`, or fractions without one.
    """
    highest = max(one.height for one in bins)
    plot = Plot((bins[0].low, bins[-1].high), (0.0, highest * 1.1), (width, 225), top=24)
    plot.y_axis(None if unit else percent, unit, 1.0 if unit else 0.0)
    plot.x_axis(plain, label)
    for one in bins:
        if one.height > 0:
            x, y = plot.px(one.low), plot.py(one.height)
            style = styles[(one.low + one.high) / 2 > split]
            plot.rect(x + 0.5, y, plot.px(one.high) - x - 1, plot.floor - y, style, one.words)
    if plot.x[0] < split < plot.x[1]:
        plot.line(plot.px(split), plot.top, plot.px(split), plot.floor, "zero")
    for side, at, anchor in ((0, plot.left, "start"), (1, plot.edge, "end")):
        if words[side]:
            plot.text(at, 13, words[side], anchor, f"{styles[side]}-label")
    return plot.markup(title, summary)


def reliability(bins: Sequence[tuple[float, float, float, float]], x_label: str, y_label: str) -> Markup:
    """Draw a reliability diagram: bins (confidence, share, low, high), and the dashed line of perfect calibration."""
    least = math.floor(min(row[0] for row in bins) * 10.0 - 1e-9) / 10.0
    plot = Plot((max(least, 0.0), 1.0), (0.0, 1.0), (NARROW, 280), top=22, right=22)
    plot.y_axis(percent, y_label)
    plot.x_axis(percent, x_label)
    plot.line(plot.left, plot.py(plot.x[0]), plot.edge, plot.top, "ideal")
    for confidence, share, below, above in bins:
        x = plot.px(confidence)
        plot.line(x, plot.py(below), x, plot.py(above), "policy interval")
        plot.dot(x, plot.py(share), 4.5, "policy-dot")
    return plot.markup(y_label)


def scatter(points: Sequence[tuple[float, float, bool]], x_label: str, y_label: str, title: str) -> Markup:
    """Draw points (x, y, chosen) with both zero lines."""
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    plot = Plot(padded_range([*xs, 0.0]), padded_range([*ys, 0.0]), (NARROW, 280), top=22)
    plot.y_axis(percent, y_label)
    plot.x_axis(percent, x_label, grid=True)
    for x, y, chosen in sorted(points, key=lambda point: point[2]):
        style, radius = ("chosen-dot", 5.5) if chosen else ("seed-dot", 3.5)
        plot.dot(plot.px(x), plot.py(y), radius, style)
    return plot.markup(title)


# --- in rows ------------------------------------------------------------------------------------------------------


def bars(rows: Sequence[BarRow], styles: Sequence[str], unit: str, title: str, summary: str, width: int) -> Markup:
    """Draw horizontal bars from 0, one for each value of a row, in the order of `styles`."""
    left_px = 12 + max(width_of(row.label) for row in rows)
    right = 12 + max(width_of(row.words) for row in rows)
    high = max((value for row in rows for value in row.values), default=0.0)
    low = min(0.0, min((value for row in rows for value in row.values), default=0.0))
    thick = 14.0 if len(styles) == 1 else 7.0
    tall = thick * len(styles) + 8
    size = (width, 8 + tall * len(rows) + 16)
    plot = Plot((low, max(high, 1e-9)), (0.0, 1.0), size, left=left_px, right=right, top=4, bottom=16)
    if unit:
        plot.text(plot.width - 4, plot.height - 3, unit, "end", "axis")
    zero = plot.px(0)
    for index, row in enumerate(rows):
        y = 4 + tall * index
        plot.text(plot.left - 6, y + tall / 2 + 3, row.label, "end")
        for place, (value, style) in enumerate(zip(row.values, styles, strict=True)):
            start, end = sorted((zero, plot.px(value)))
            plot.rect(start, y + 3 + place * thick, end - start, thick - 1, style, f"{row.label}: {row.words}")
        reach = max((plot.px(value) for value in row.values), default=plot.left)
        plot.text(max(reach, zero) + 5, y + tall / 2 + 3, row.words)
    plot.line(zero, 2, zero, plot.floor, "zero")
    return plot.markup(title, summary)


def intervals(rows: Sequence[IntervalRow], label: str, title: str, width: int = NARROW) -> Markup:
    """Draw a dot for each row's value and a bar for its interval, on a common axis with a line at zero."""
    values = [value for row in rows for value in (row.value, row.low, row.high) if value is not None]
    labels = [fitting(row.label, LABELS * width) for row in rows]
    plot = _rows(labels, [*values, 0.0], 26, 44, label, width)
    for index, row in enumerate(rows):
        y = plot.top + 26 * (index + 0.5)
        plot.text(plot.left - 6, y + 4, labels[index], "end", f"{row.style}-label")
        if row.low is not None and row.high is not None:
            plot.line(plot.px(row.low), y, plot.px(row.high), y, f"{row.style} interval")
        plot.dot(plot.px(row.value), y, 4.5, f"{row.style}-dot")
    return plot.markup(title)


def strips(rows: Sequence[Strip], label: str, title: str) -> Markup:
    """Draw dots of each row along one axis, the chosen one larger; a row's centre is a bar with a tick."""
    values = [value for row in rows for value in (*row.values, *(row.middle or ()))]
    plot = _rows([row.label for row in rows], [*values, 0.0], 30, 44, label)
    for index, row in enumerate(rows):
        y = plot.top + 30 * (index + 0.5)
        plot.text(plot.left - 6, y + 4, row.label, "end")
        for value in row.values:
            plot.dot(plot.px(value), y, 3.5, "seed-dot")
        if row.chosen is not None:
            plot.dot(plot.px(row.values[row.chosen]), y, 5.5, "chosen-dot")
        if row.middle is not None:
            value, low, high = (plot.px(one) for one in row.middle)
            plot.line(low, y, high, y, "middle interval")
            plot.line(value, y - 6, value, y + 6, "middle")
    return plot.markup(title)


def _rows(
    labels: Sequence[str], values: Sequence[float], tall: int, rest: int, label: str, width: int = NARROW
) -> Plot:
    """Return a plot for rows of the same height over one axis of percentages."""
    left_px = 10 + max(map(width_of, labels))
    size = (width, rest + tall * len(labels))
    plot = Plot(padded_range(values), (0.0, 1.0), size, left=left_px, right=16, top=4)
    plot.x_axis(percent, label, grid=True)
    return plot
