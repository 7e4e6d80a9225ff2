"""The tear sheet as one self-contained HTML page. `sheet.html` has the order and the fixed texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from daemon.page_kit.plots import NARROW, Curve, Figure, equity, in_both_widths
from daemon.page_kit.render import render
from daemon.reports.performance.figures import Performance, Period
from daemon.reports.performance.read import DeskPerformance, Sheet
from daemon.reports.performance.words import (
    MONTHS,
    calendar,
    compared_rows,
    day_words,
    drawdown_row,
    heat,
    period_row,
    rows,
    share,
    span_words,
    verdict,
)

TEMPLATE = Path(__file__).with_name("sheet.html")
STYLES = ("desk", "hold", "other", "other")
DRAWDOWNS_MOST, PERIODS_MOST = 10, 60
MARKS, MARKS_NARROW = 6, 2  # most dates below a plot


class CalendarMonth(NamedTuple):
    """A month of the calendar: its text, and the intensity of its colour."""

    words: str
    style: str


class DeskSection(NamedTuple):
    """The page's part for a desk, or for the sum."""

    title: str
    about: str
    tone: str
    figures: Performance
    rows: list[tuple[str, str]]
    compared: list[tuple[str, str, str, str]]
    plot: Figure | None
    caption: str
    calendar: list[tuple[str, list[CalendarMonth]]]
    weeks: list[tuple[str, ...]]
    days: list[tuple[str, ...]]
    drawdowns: list[tuple[str, ...]]


def sheet_page(sheet: Sheet) -> str:
    """Return the page, UTF-8 text. The same figures give the same bytes. Raises as `render`."""
    parts = [_of_desk(desk) for desk in sheet.desks]
    if sheet.total is not None:
        parts.insert(0, _part(f"Sum of {len(sheet.desks)} desks", "as one account", sheet.total))
    title = parts[0].title if parts else "no desk"
    return render(TEMPLATE, title=f"Performance · {title}", parts=parts, months=MONTHS)


def _of_desk(desk: DeskPerformance) -> DeskSection:
    return _part(f"{desk.desk} · {desk.strategy}", desk.kind, desk.figures)


def _part(title: str, kind: str, figures: Performance) -> DeskSection:
    return DeskSection(
        title=title,
        about=f"{kind}. {span_words(figures)}",
        tone="good" if figures.pnl_usd > 0 else "bad" if figures.pnl_usd < 0 else "even",
        figures=figures,
        rows=rows(figures) if figures.sessions else [],
        compared=compared_rows(figures),
        plot=_plot(figures),
        caption=verdict("Result", figures),
        calendar=_calendar(figures),
        weeks=[period_row(week) for week in reversed(figures.weeks[-PERIODS_MOST:])],
        days=[period_row(day) for day in reversed(figures.days[-PERIODS_MOST:])],
        drawdowns=[drawdown_row(fall) for fall in figures.drawdowns[:DRAWDOWNS_MOST]],
    )


def _plot(figures: Performance) -> Figure | None:
    """Plot the returns since the begin; None without a day."""
    if not figures.sessions:
        return None
    curves = [
        Curve(line.name.partition(" of ")[0], style, list(enumerate(line.shares)))
        for line, style in zip(figures.lines, STYLES, strict=False)
    ]
    names = [day.name for day in figures.days]
    title = "Return since the span began"
    return in_both_widths(lambda width: equity(curves, None, _marks(names, width), width, title))


def _marks(names: Sequence[str], width: int) -> list[tuple[float, str]]:
    """Return some days of the plot and the last one, as (session, date)."""
    step = max(1, -(-len(names) // (MARKS if width > NARROW else MARKS_NARROW)))
    marks = [(float(place), day_words(names[max(place - 1, 0)])) for place in range(0, len(names), step)]
    return [*marks, (float(len(names)), day_words(names[-1]))]


def _calendar(figures: Performance) -> list[tuple[str, list[CalendarMonth]]]:
    largest = max((abs(month.share) for month in figures.months), default=0.0)
    return [
        (year, [*(_cell(month, largest) for month in months), CalendarMonth(_arrow(total.share), "total")])
        for year, months, total in calendar(figures)
    ]


def _cell(month: Period | None, largest: float) -> CalendarMonth:
    return (
        CalendarMonth("", "none") if month is None else CalendarMonth(_arrow(month.share), heat(month.share, largest))
    )


def _arrow(value: float) -> str:
    """Return a percentage with an arrow and a sign: a gain and a loss differ without colour."""
    return f"{'▲' if value > 0 else '▼' if value < 0 else ''} {share(value, 1)}".strip()
