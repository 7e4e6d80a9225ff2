"""A session as one self-contained HTML page: no request leaves it, no script runs in it.

`day.html` has the order, the headings and the fixed words. All text from the journal is foreign; the template escapes
it.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from itertools import islice
from pathlib import Path

from daemon.core.session import new_york_text
from daemon.page_kit.render import render
from daemon.page_kit.svg import MINUS
from daemon.reports import figures
from daemon.reports.execution_quality import Arrival, OrderQuality, WorkQuality
from daemon.reports.record import Day, Notice
from daemon.reports.tables import milliseconds, sum_line, trade_row
from daemon.reports.words import (
    NONE,
    about,
    clock,
    ending,
    first_sentence,
    further_sentences,
    instrument,
    number,
    number_text,
    price,
)

TEMPLATE = Path(__file__).with_name("day.html")
ROWS_MAX = 400  # most lines of a table; the CSV has all
DOT = " \N{MIDDLE DOT} "
Row = tuple[str, ...]


def day_page(day: Day) -> str:
    """Return the page, UTF-8 text. The same day gives the same bytes. Raises the errors of `render`."""
    hours = f"Session {clock(day.session.open_ns)} to {clock(day.session.close_ns)} New York"
    newest = f"newest event {new_york_text(day.last_ns)}" if day.last_ns else "no event"
    return render(
        TEMPLATE,
        day=day,
        rows_max=ROWS_MAX,
        happened=_notice_rows,
        instrument=instrument,
        title=DOT.join((day.desk, day.strategy, day.session.date)),
        about=about(day),
        tone="good" if (day.gain or 0) > 0 else "bad" if (day.gain or 0) < 0 else "even",
        verdict=first_sentence(day),
        further=further_sentences(day),
        equity=figures.equity(day),
        prices=figures.prices(day),
        weights=figures.weights(day),
        costs=figures.costs(day),
        slippage=figures.slippage(day.quality),
        trades=[trade_row(trade) for trade in day.trades.trades[::-1][:ROWS_MAX]],
        sums=sum_line(day.trades.totals),
        orders=[_order(order) for order in day.quality.orders[:ROWS_MAX]],
        works=[_work(work) for work in day.quality.works[:ROWS_MAX]],
        decisions=[(action, outcome, f"{count:,}") for action, outcome, count in day.decisions],
        denials=figures.denials(day),
        events=_events(day),
        answers=[
            (
                a.model, "as a shadow" if a.shadow else "live", f"{a.count:,}", clock(a.first_ns),
                clock(a.last_ns),
            )
            for a in day.answers
        ],
        missing=sum(count for _, count in day.gaps),
        gaps=[(clock(start), f"{count:,}") for start, count in day.gaps[:ROWS_MAX]],
        held=[
            (instrument(one.symbol), f"{one.quantity:,}", number_text(one.price, 2)) for one in day.held if one.quantity
        ],
        foot=f"{hours}; {day.events:,} journaled events, {newest}. All times are market time as journaled.",
    )  # fmt: skip


def _notice_rows(all_of_it: Iterable[Notice]) -> list[Row]:
    return [(clock(notice.time_ns, seconds=True), notice.name, notice.detail) for notice in islice(all_of_it, ROWS_MAX)]


def _arrival(arrival: Arrival | None) -> str:
    if arrival is None:
        return f"{NONE}\nnot known"
    if arrival.bid is None or arrival.ask is None:
        return f"{price(arrival.price)}\n{arrival.source}"
    return f"{price(arrival.price)}\n{price(arrival.bid)} / {price(arrival.ask)}"


def _duration(value: Decimal | None) -> str:
    if value is None:
        return NONE
    return f"{number(value, 0)} ms" if abs(value) < 10_000 else f"{number(value / 1000, 0)} s"


def _order(order: OrderQuality) -> Row:
    return (
        f"{clock(order.submitted_ns, seconds=True)}\n{order.work}, attempt {order.attempt}",
        f"{'buy' if order.side > 0 else 'sell'} {order.quantity:,} {instrument(order.symbol)}\n{order.purpose}"
        + (", opening auction" if order.auction else ""),
        "market" if order.limit is None else price(order.limit),
        _arrival(order.arrival),
        NONE if order.average is None else price(order.average),
        number_text(order.slippage_bp, 1),
        number_text(order.slippage_usd, 2),
        number_text(order.spread_ratio, 2),
        NONE if order.improvement is None else price(order.improvement).replace("-", MINUS),
        number(order.fees, 2),
        _duration(milliseconds(order.submitted_ns, order.accepted_ns)),
        _duration(milliseconds(order.submitted_ns, order.last_fill_ns)),
        f"{ending(order.status, order.reason)}\n{order.filled:,} of {order.quantity:,}"
        + (f", corrected {order.corrections} times" if order.corrections else ""),
    )


def _work(work: WorkQuality) -> Row:
    return (
        f"{work.work}\n{work.orders} {'order' if work.orders == 1 else 'orders'}{', works still' if work.open else ''}",
        f"{'buy' if work.side > 0 else 'sell'} {work.wanted:,} {instrument(work.symbol)}\n{work.purpose}",
        NONE if work.decision is None else f"{price(work.decision.price)}\n{work.decision.source}",
        NONE if work.end is None else price(work.end.price),
        f"{work.filled:,} / {work.wanted:,}",
        number_text(work.execution_usd, 2),
        number_text(work.missed_usd, 2),
        number(work.fees_usd, 2),
        number_text(work.shortfall_usd, 2),
    )


def _events(day: Day) -> list[Row]:
    """Return alarms, halts and commands by time."""
    rows = [*((notice, "alarm") for notice in day.alarms), *((notice, "command") for notice in day.commands)]
    halts = {(halt.time_ns, halt.name) for halt in day.halts}
    return [
        (
            clock(notice.time_ns, seconds=True),
            "halt" if kind == "alarm" and (notice.time_ns, notice.name) in halts else kind,
            notice.name,
            notice.detail,
            notice.who,
        )
        for notice, kind in sorted(rows, key=lambda row: row[0].time_ns)
    ]
