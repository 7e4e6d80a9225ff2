"""Plots of a day's page with their captions, and the sums of trading costs."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from typing import NamedTuple

from daemon.page_kit.plots import (
    BarRow,
    Figure,
    HistogramBin,
    PlotMark,
    bars,
    bin_edges,
    course,
    histogram,
    in_both_widths,
)
from daemon.page_kit.svg import grouped_number
from daemon.reports.execution_quality import OrderQuality, Quality
from daemon.reports.record import Day
from daemon.reports.words import NONE, clock, instrument, money, number, plural, price, reference
from strategies.kit.units import MINUTE_NS

Points = list[tuple[int, float]]


class CaptionedPlot(NamedTuple):
    """A plot and its caption; without data, the reason."""

    plot: Figure | None
    words: str


def _span(day: Day) -> tuple[int, int]:
    return (day.session.open_ns, day.session.close_ns)


def _halt_marks(day: Day) -> list[PlotMark]:
    begin, end = _span(day)
    return [
        PlotMark(halt.time_ns, 0.0, "halt", f"{clock(halt.time_ns)} {halt.name}: {halt.detail}")
        for halt in day.halts
        if begin <= halt.time_ns <= end
    ]


def equity(day: Day) -> CaptionedPlot:
    """Plot the equity over the session; for a daily desk, at the ends of the last sessions."""
    points = [(at, float(value)) for at, value in (*day.history, *day.equity)]
    if not points:
        return CaptionedPlot(None, "No equity was recorded in this session.")
    curve = _COURSES[day.decides](day, points)
    values = [value for _, value in curve.points or points]
    low, high = (money(Decimal(str(value))) for value in (min(values), max(values)))
    first, last = (money(Decimal(str(value))) for value in (values[0], values[-1]))
    summary = f"It went from {first} to {last} USD, between {low} and {high}."
    if not curve.points:
        return CaptionedPlot(None, summary)
    plot = in_both_widths(
        lambda width: course([curve.points], curve.marks, curve.span, "USD", curve.title, summary, width)
    )
    return CaptionedPlot(plot, f"USD, {curve.words}. {summary}")


class _EquityPlot(NamedTuple):
    """A plot of equity: its points, marks and time span, and the words of its title and caption."""

    points: Points
    marks: list[PlotMark]
    span: tuple[int, int]
    title: str
    words: str


def _in_session(day: Day, _: Points) -> _EquityPlot:
    span = _span(day)
    points = [point for point in _equity_steps(day) if span[0] <= point[0] <= span[1]]
    words = "at every bar's close while something was held"
    return _EquityPlot(points, _halt_marks(day), span, "Equity in the session", words)


def _at_ends(_: Day, points: Points) -> _EquityPlot:
    span = (points[0][0], max(points[-1][0], points[0][0] + 1))
    words = "up to three months back; the last points are this session's"
    return _EquityPlot(points, [], span, "Equity at the ends of sessions", words)


_COURSES: dict[str, Callable[[Day, Points], _EquityPlot]] = {"bar": _in_session, "session": _at_ends}


def _equity_steps(day: Day) -> list[tuple[int, float]]:
    """Fill in the equity between records, which exist only while something is held, at the last exit's level.

    That is the next record with later purchases at cost (but for their fee).
    """
    points = [(at, float(value)) for at, value in day.equity]
    line = points[:1]
    for index, ((time_before, _), point) in enumerate(pairwise(points), start=1):
        if day.at_cost and point[0] - time_before > 2 * MINUTE_NS:
            flat = float(day.at_cost[index])
            line += [(time_before + MINUTE_NS, flat), (point[0] - MINUTE_NS, flat)]
        line.append(point)
    return line


def prices(day: Day) -> CaptionedPlot | None:
    """Plot the underlying's closes with every filled order; None for a desk without one."""
    if not day.underlying:
        return None
    if not day.bars:
        return CaptionedPlot(None, "No bar came in this session.")
    missing = {start for start, _ in day.gaps}
    lines: list[list[tuple[int, float]]] = [[]]
    previous = 0
    for at, close in day.bars:
        if previous and any(previous <= start < at for start in missing):
            lines.append([])
        lines[-1].append((at, close))
        previous = at
    marks = [mark for order in day.quality.orders if (mark := _mark(day, order)) is not None]
    entries = sum(mark.style == "entry" for mark in marks)
    summary = (
        f"{day.underlying} went from {price(Decimal(repr(day.bars[0][1])))} to {price(Decimal(repr(day.bars[-1][1])))} "
        f"USD; {plural(entries, 'entry', 'entries')} and {plural(len(marks) - entries, 'exit')} filled."
    )
    title = f"{day.underlying}, USD a share, with entries and exits"
    marks = [*_halt_marks(day), *marks]
    plot = in_both_widths(lambda width: course(lines, marks, _span(day), "USD a share", title, summary, width))
    caption = (
        f"Closes of {day.underlying}. \N{BLACK UP-POINTING TRIANGLE} entry, \N{BLACK DOWN-POINTING TRIANGLE} exit, at "
        f"the time of the fill; a line is broken where bars are missing. {summary}"
    )
    return CaptionedPlot(plot, caption)


def _mark(day: Day, order: OrderQuality) -> PlotMark | None:
    at = order.last_fill_ns
    closes = [close for end_ns, close in day.bars if end_ns <= at] or [day.bars[0][1]]
    if not order.filled or order.average is None or not day.session.open_ns <= at <= day.session.close_ns:
        return None
    verb = "bought" if order.side > 0 else "sold"
    words = f"{clock(at)} {verb} {order.filled} {instrument(order.symbol)} at {price(order.average)}"
    return PlotMark(at, closes[-1], order.purpose, words)


def weights(day: Day) -> CaptionedPlot | None:
    """Plot the weights of a desk that holds shares overnight: before its decision and at the end."""
    equity_before, equity_after = day.equity_before, day.equity[-1][1] if day.equity else None
    if not day.overnight or not equity_before or not equity_after:
        return None
    weights = []
    for one in day.held:
        start = float(one.before * (one.price_before or 0) / equity_before * 100)
        end = float(one.quantity * (one.price or 0) / equity_after * 100)
        weights.append((max(start, end), one.symbol, (start, end), one.quantity - one.before))
    if not weights:
        return CaptionedPlot(None, "The desk held cash alone.")
    weights.sort(key=lambda row: (-row[0], row[1]))
    cash = (100.0 - sum(row[2][0] for row in weights), 100.0 - sum(row[2][1] for row in weights))
    rows = [
        BarRow(
            name, values, f"{values[0]:.1f} \N{RIGHTWARDS ARROW} {values[1]:.1f} %" + (f" ({change:+,})" * bool(change))
        )
        for _, name, values, change in (*weights, (0.0, "cash", cash, 0))
    ]
    summary = f"{sum(bool(row[3]) for row in weights)} of {len(weights)} holdings changed."
    title = "Weight of each holding before the decision and at the end"
    plot = in_both_widths(lambda width: bars(rows, ("before", "after"), "% of the equity", title, summary, width))
    return CaptionedPlot(
        plot,
        "% of the equity: above, before the decision at the prices known then; below, at the end. In brackets the "
        f"change in shares. {summary}",
    )


def costs(day: Day) -> list[tuple[str, str]]:
    """Return the sums of the execution as rows."""
    quality = day.quality
    share, mean = quality.filled_share, quality.slippage_bp
    return [
        ("Orders\nentries and exits that they served", f"{len(quality.orders):,}\n{len(quality.works):,}"),
        ("Filled of what was wanted", NONE if share is None else f"{number(share * 100, 1)} %"),
        (f"Slippage against {reference(quality)}\ncost is positive", f"{money(quality.slippage_usd, sign=True)} USD"),
        ("The same, mean weighted by notional", NONE if mean is None else f"{number(mean, 1)} bp"),
        ("Fees\nthat came with the fills", f"{money(quality.fees_usd)} USD"),
        ("Fees by the day\nwithout a fill, as far as they are booked", f"{money(day.fees_by_the_day)} USD"),
        (
            "Implementation shortfall\nexecution, missed and fees of fills",
            f"{money(quality.shortfall_usd, sign=True)} USD",
        ),
    ]


def slippage(quality: Quality) -> CaptionedPlot | None:
    """Plot the distribution of slippage; costs lie above 0, gains below."""
    values = [float(order.slippage_bp) for order in quality.orders if order.slippage_bp is not None]
    if not values:
        return None
    summary = (
        f"{sum(value > 0 for value in values)} of {len(values)} orders filled worse than {reference(quality)}, "
        f"the worst by {number(Decimal(str(max(values))), 1)} bp."
    )
    unit, title, styles = "bp of the arrival price", "Slippage of the filled orders", ("good", "bad")
    bins = slippage_bins(values, unit)
    plot = in_both_widths(
        lambda width: histogram(bins, 0.0, styles, unit, title, summary, unit="orders", width=width),
    )
    return CaptionedPlot(plot, f"Orders by slippage; right of zero is cost. {summary}")


def slippage_bins(values: list[float], unit: str) -> list[HistogramBin]:
    """Count the values in equal bins that meet at 0."""
    edges, decimals = bin_edges(values)
    counts = [0] * (len(edges) - 1)
    for value in values:
        counts[min(max(0, int((value - edges[0]) / (edges[1] - edges[0]) + 1e-9)), len(counts) - 1)] += 1
    return [
        HistogramBin(
            low, high, count, f"{count} from {grouped_number(low, decimals)} to {grouped_number(high, decimals)} {unit}"
        )
        for (low, high), count in zip(pairwise(edges), counts, strict=True)
    ]


def denials(day: Day) -> CaptionedPlot | None:
    """Plot the count of denials of each gate."""
    if not day.denials:
        return None
    rows = [BarRow(gate, (float(count),), f"{count:,}") for gate, count in day.denials]
    summary = f"{day.denials[0][0]} denied most, {day.denials[0][1]:,} times."
    plot = in_both_widths(lambda width: bars(rows, ("count",), "denials", "Denials by gate", summary, width))
    return CaptionedPlot(plot, f"Denials by gate; a decision may be denied by several. {summary}")
