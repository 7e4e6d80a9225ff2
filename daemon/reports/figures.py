"""The sections of a day's page that are made of plots: what each shows, and what it says to who cannot see it."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

from daemon.core.session import MINUTE_NS
from daemon.reports import plots as day_plots
from daemon.reports.execution_quality import OrderQuality
from daemon.reports.markup import NONE, figure, say, section, table
from daemon.reports.plots import NARROW, WIDE, Mark
from daemon.reports.record import Day
from daemon.reports.words import clock, instrument, money, number, plural, price


def _span(day: Day) -> tuple[int, int]:
    return (day.session.open_ns, day.session.close_ns)


def _halt_marks(day: Day) -> list[Mark]:
    begin, end = _span(day)
    return [
        Mark(halt.time_ns, 0.0, "halt", f"{clock(halt.time_ns)} {halt.name}: {halt.detail}")
        for halt in day.halts
        if begin <= halt.time_ns <= end
    ]


def equity(day: Day) -> str:
    """Over the session, of a daily desk over the ends of the sessions before."""
    points = [(at, float(value)) for at, value in (*day.history, *day.equity)]
    if not points:
        return section("Equity", say("No equity was recorded in this session."))
    values = [value for _, value in points]
    low, high = (money(Decimal(str(value))) for value in (min(values), max(values)))
    first, last = (money(Decimal(str(value))) for value in (values[0], values[-1]))
    told = f"It went from {first} to {last} USD, between {low} and {high}."
    if day.daily:
        span, title = (points[0][0], max(points[-1][0], points[0][0] + 1)), "Equity at the ends of sessions"
        caption = f"USD, up to three months back; the last points are this session's. {told}"
        lines, marks = [points], []
    else:
        span, title = _span(day), "Equity in the session"
        points = [point for point in _stepped(day) if span[0] <= point[0] <= span[1]]
        caption = f"USD, at every bar's close while something was held. {told}"
        lines, marks = [points], _halt_marks(day)
    if not points:
        return section("Equity", say(told))
    plots = [day_plots.course(lines, marks, span, "USD", title, told, width) for width in (NARROW, WIDE)]
    return section("Equity", figure(plots[0], plots[1], caption))


def _stepped(day: Day) -> list[tuple[int, float]]:
    """Equity is recorded while something is held: in between it lies where the last exit left it.

    That is what it would be at the next record with what was bought meanwhile at cost (but for the fee of that).
    """
    points = [(at, float(value)) for at, value in day.equity]
    line = points[:1]
    for index, ((before, _), point) in enumerate(pairwise(points), start=1):
        if day.at_cost and point[0] - before > 2 * MINUTE_NS:
            flat = float(day.at_cost[index])
            line += [(before + MINUTE_NS, flat), (point[0] - MINUTE_NS, flat)]
        line.append(point)
    return line


def prices(day: Day) -> str:
    """The underlying's closes with every filled order; nothing of a daily desk."""
    if day.daily or not day.bars:
        return "" if day.daily else section("Price, entries and exits", say("No bar came in this session."))
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
    told = (
        f"{day.underlying} went from {price(Decimal(repr(day.bars[0][1])))} to {price(Decimal(repr(day.bars[-1][1])))} "
        f"USD; {plural(entries, 'entry', 'entries')} and {plural(len(marks) - entries, 'exit')} filled."
    )
    title = f"{day.underlying}, USD a share, with entries and exits"
    args = (lines, [*_halt_marks(day), *marks], _span(day), "USD a share", title, told)
    plots = [day_plots.course(*args, width) for width in (NARROW, WIDE)]
    caption = (
        f"Closes of {day.underlying}. \N{BLACK UP-POINTING TRIANGLE} entry, \N{BLACK DOWN-POINTING TRIANGLE} exit, at "
        f"the time of the fill; a line is broken where bars are missing. {told}"
    )
    return section("Price, entries and exits", figure(plots[0], plots[1], caption))


def _mark(day: Day, order: OrderQuality) -> Mark | None:
    at = order.last_fill_ns
    closes = [close for ended, close in day.bars if ended <= at] or [day.bars[0][1]]
    if not order.filled or order.average is None or not day.session.open_ns <= at <= day.session.close_ns:
        return None
    verb = "bought" if order.side > 0 else "sold"
    words = f"{clock(at)} {verb} {order.filled} {instrument(order.symbol)} at {price(order.average)}"
    return Mark(at, closes[-1], order.purpose, words)


def weights(day: Day) -> str:
    """A daily desk: each holding's share of the equity before its decision and at the end."""
    before, after = day.equity_before, day.equity[-1][1] if day.equity else None
    if not day.daily or not before or not after:
        return ""
    rows = []
    for held in day.held:
        start = float(held.before * (held.price_before or 0) / before * 100)
        end = float(held.quantity * (held.price or 0) / after * 100)
        rows.append((max(start, end), held.symbol, (start, end), held.quantity - held.before))
    rows.sort(key=lambda row: (-row[0], row[1]))
    lines = [
        day_plots.Bar(
            symbol,
            values,
            f"{values[0]:.1f} \N{RIGHTWARDS ARROW} {values[1]:.1f} %" + (f" ({change:+,})" if change else ""),
        )
        for _, symbol, values, change in rows
    ]
    if not lines:
        return section("Weights before and after", say("The desk held cash alone."))
    cash = (100.0 - sum(row[2][0] for row in rows), 100.0 - sum(row[2][1] for row in rows))
    lines.append(day_plots.Bar("cash", cash, f"{cash[0]:.1f} \N{RIGHTWARDS ARROW} {cash[1]:.1f} %"))
    told = f"{sum(bool(row[3]) for row in rows)} of {len(rows)} holdings changed."
    title = "Weight of each holding before the decision and at the end"
    args = (lines, ("before", "after"), "% of the equity", title, told)
    plots = [day_plots.bars(*args, width) for width in (NARROW, WIDE)]
    caption = (
        "% of the equity: above, before the decision at the prices known then; below, at the end. In brackets the "
        f"change in shares. {told}"
    )
    return section("Weights before and after", figure(plots[0], plots[1], caption))


def execution(day: Day) -> str:
    """The sums of the execution, and how the orders' slippage is spread."""
    quality = day.quality
    if not quality.orders:
        return ""
    share, mean = quality.filled_share, quality.slippage_bp
    rows = [
        ("Orders (works)", f"{len(quality.orders):,} ({len(quality.works):,})"),
        ("Filled of what was wanted", NONE if share is None else f"{number(share * 100, 1)} %"),
        ("Slippage against the arrival price\ncost is positive", f"{money(quality.slippage_usd, sign=True)} USD"),
        ("The same, mean weighted by notional", NONE if mean is None else f"{number(mean, 1)} bp"),
        ("Fees", f"{money(quality.fees_usd)} USD"),
        ("Implementation shortfall\nexecution, missed and fees", f"{money(quality.shortfall_usd, sign=True)} USD"),
    ]
    parts = [table(("", ""), rows, "facts")]
    if quality.unpriced:
        parts.append(
            say(f"{quality.unpriced} filled orders have no arrival price: none was known when they were sent.")
        )
    values = [float(order.slippage_bp) for order in quality.orders if order.slippage_bp is not None]
    if values:
        worst = max(values)
        told = (
            f"{sum(value > 0 for value in values)} of {len(values)} orders filled worse than the price at which they "
            f"were sent, the worst by {number(Decimal(str(worst)), 1)} bp."
        )
        unit, title = "bp of the arrival price", "Slippage of the filled orders"
        plots = [day_plots.histogram(values, unit, title, told, width) for width in (NARROW, WIDE)]
        parts.append(figure(plots[0], plots[1], f"Orders by slippage; right of zero is cost. {told}"))
    return section("What trading cost", *parts)


def decisions(day: Day) -> str:
    """What was decided with what outcome, and which gates denied."""
    if not day.decisions:
        return section("Decisions", say("Nothing was decided."))
    parts = [table(("action", "outcome", "decisions"), ((a, o, f"{n:,}") for a, o, n in day.decisions), "counts")]
    if day.denials:
        rows = [day_plots.Bar(gate, (float(count),), f"{count:,}") for gate, count in day.denials]
        told = f"{day.denials[0][0]} denied most, {day.denials[0][1]:,} times."
        args = (rows, ("count",), "denials", "Denials by gate", told)
        plots = [day_plots.bars(*args, width) for width in (NARROW, WIDE)]
        parts.append(figure(plots[0], plots[1], f"Denials by gate; a decision may be denied by several. {told}"))
    return section("Decisions", *parts)
