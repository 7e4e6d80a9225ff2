"""A session as one page of HTML that needs nothing else: no request leaves it, no script runs in it.

Everything that stands in the journal is foreign text and goes through `escape`. The frame and the style sheet are
`page.html`; a section without anything to say is left out, one that must be said says that there was nothing.
"""

from __future__ import annotations

from decimal import Decimal
from html import escape
from pathlib import Path
from string import Template

from daemon.core.session import new_york_text
from daemon.reports.csv_tables import milliseconds
from daemon.reports.execution_quality import Arrival, WorkQuality
from daemon.reports.figures import decisions, equity, execution, prices, weights
from daemon.reports.markup import NONE, known, say, section, table
from daemon.reports.plots import MINUS
from daemon.reports.record import Day, Told
from daemon.reports.words import (
    clock,
    ending,
    first_sentence,
    further_sentences,
    instrument,
    number,
    price,
)

FRAME = Path(__file__).with_name("page.html")
ROWS_MAX = 400  # lines of a table; the CSV has all


def day_page(day: Day) -> str:
    """The page, UTF-8 text. The same day gives the same bytes."""
    parts = [equity(day), prices(day), weights(day), execution(day), _orders(day), _works(day)]
    parts += [decisions(day), _events(day), _models(day), _data(day), _open(day)]
    kind = "synthetic bars" if day.synthetic else f"tape {day.tape}" if day.tape else ""
    about = (day.desk, day.strategy, f"{day.mode}, {day.account} account", kind, day.session.date)
    hours = f"Session {clock(day.session.open_ns)} to {clock(day.session.close_ns)} New York"
    newest = f"newest event {new_york_text(day.last_ns)}" if day.last_ns else "no event"
    return Template(FRAME.read_text()).substitute(
        title=escape(f"{day.desk} \N{MIDDLE DOT} {day.strategy} \N{MIDDLE DOT} {day.session.date}"),
        about=escape(" \N{MIDDLE DOT} ".join(word for word in about if word)),
        tone="good" if (day.gain or 0) > 0 else "bad" if (day.gain or 0) < 0 else "even",
        verdict=escape(first_sentence(day)),
        further="".join(f"<li>{escape(said)}</li>" for said in further_sentences(day)),
        sections="".join(part for part in parts if part),
        foot=escape(f"{hours}; {day.events:,} journaled events, {newest}. All times are market time as journaled."),
    )


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


def _orders(day: Day) -> str:
    orders = day.quality.orders
    if not orders:
        return section("Orders", say("No order was sent."))
    head = (
        "sent\nNew York", "order", "limit\nUSD", "arrival\nbid / ask", "average fill\nUSD", "slippage\nbp",
        "slippage\nUSD", "spread\neffective / quoted", "better than\nthe limit", "fees\nUSD", "accepted\nafter",
        "filled\nafter", "ended",
    )  # fmt: skip
    rows = (
        (
            f"{clock(order.submitted_ns, seconds=True)}\n{order.work}, attempt {order.attempt}",
            f"{'buy' if order.side > 0 else 'sell'} {order.quantity:,} {instrument(order.symbol)}\n{order.purpose}"
            + (", opening auction" if order.auction else ""),
            "market" if order.limit is None else price(order.limit),
            _arrival(order.arrival),
            NONE if order.average is None else price(order.average),
            known(order.slippage_bp, 1),
            known(order.slippage_usd, 2),
            known(order.spread_ratio, 2),
            NONE if order.improvement is None else price(order.improvement).replace("-", MINUS),
            number(order.fees, 2),
            _duration(milliseconds(order.submitted_ns, order.accepted_ns)),
            _duration(milliseconds(order.submitted_ns, order.last_fill_ns)),
            f"{ending(order.status, order.reason)}\n{order.filled:,} of {order.quantity:,}"
            + (f", corrected {order.corrections} times" if order.corrections else ""),
        )
        for order in orders[:ROWS_MAX]
    )
    return section("Orders", table(head, rows, "numbers orders"), _cut(len(orders)))


def _cut(count: int) -> str:
    return say(f"The first {ROWS_MAX} of {count:,}; the CSV file has all.") if count > ROWS_MAX else ""


def _works(day: Day) -> str:
    works = day.quality.works
    if not works:
        return ""
    head = (
        "work", "what", "decision\nUSD a share", "end\nUSD a share", "filled", "execution\nUSD", "missed\nUSD",
        "fees\nUSD", "shortfall\nUSD",
    )  # fmt: skip
    rows = (_work(work) for work in works[:ROWS_MAX])
    said = (
        "Each entry or exit over all its attempts against a paper trade of the same size at the price that was known "
        "when it was decided (Perold 1988). Positive is cost; what was not filled is valued when the work ended."
    )
    return section("Shortfall of each work", say(said), table(head, rows, "numbers"), _cut(len(works)))


def _work(work: WorkQuality) -> tuple[str, ...]:
    return (
        f"{work.work}\n{work.orders} {'order' if work.orders == 1 else 'orders'}{', works still' if work.open else ''}",
        f"{'buy' if work.side > 0 else 'sell'} {work.wanted:,} {instrument(work.symbol)}\n{work.purpose}",
        NONE if work.decision is None else f"{price(work.decision.price)}\n{work.decision.source}",
        NONE if work.end is None else price(work.end.price),
        f"{work.filled:,} / {work.wanted:,}",
        known(work.execution_usd, 2),
        known(work.missed_usd, 2),
        number(work.fees_usd, 2),
        known(work.shortfall_usd, 2),
    )


def _events(day: Day) -> str:
    """Alarms, halts and commands in one table, by time."""
    rows = [*((told, "alarm") for told in day.alarms), *((told, "command") for told in day.commands)]
    if not rows:
        return section("Alarms and commands", say("No alarm was raised and no command was given."))
    halts = {(halt.time_ns, halt.name) for halt in day.halts}
    lines = (
        (
            clock(told.time_ns, seconds=True),
            "halt" if kind == "alarm" and (told.time_ns, told.name) in halts else kind,
            told.name,
            told.detail,
            told.who,
        )
        for told, kind in sorted(rows, key=lambda row: row[0].time_ns)[:ROWS_MAX]
    )
    lined = table(("New York", "what", "name", "detail", "who"), lines, "words")
    return section("Alarms and commands", lined, _cut(len(rows)))


def _models(day: Day) -> str:
    parts = []
    if day.answers:
        rows = (
            (
                a.model,
                "beside, as a shadow" if a.shadow else "live",
                f"{a.count:,}",
                clock(a.first_ns),
                clock(a.last_ns),
            )
            for a in day.answers
        )
        parts.append(table(("version", "how", "answers", "first", "last"), rows, "words"))
    else:
        parts.append(say("No model answered."))
    if day.models:
        parts.append(table(("New York", "version", "what"), map(_told, day.models), "words"))
    return section("Models", *parts)


def _told(told: Told) -> tuple[str, ...]:
    return (clock(told.time_ns, seconds=True), told.name, told.detail)


def _data(day: Day) -> str:
    if day.daily and not day.rejected:
        return ""
    missing = sum(count for _, count in day.gaps)
    parts = []
    if not day.daily:
        parts.append(say(f"{day.expected_bars - missing:,} of {day.expected_bars:,} bars came, {missing:,} did not."))
    if day.gaps:
        rows = ((clock(start), f"{count:,}") for start, count in day.gaps[:ROWS_MAX])
        parts.append(table(("from, New York", "bars missing"), rows, "counts"))
    if day.rejected:
        rejected = map(_told, day.rejected[:ROWS_MAX])
        parts += [table(("New York", "refused for", "detail"), rejected, "words"), _cut(len(day.rejected))]
    return section("Data", *parts)


def _open(day: Day) -> str:
    held = [one for one in day.held if one.quantity]
    source = "the desk's book" if day.exact else "what the desk's own orders filled, without splits and exercises"
    parts = []
    if held:
        rows = ((instrument(one.symbol), f"{one.quantity:,}", known(one.price, 2)) for one in held)
        parts.append(table(("held", "quantity", "last known USD"), rows, "counts"))
    else:
        parts.append(say("No position is held."))
    parts.append(say(f"Positions are {source}."))
    for order in day.open_orders:
        said = f"{order.client_order_id}: {order.quantity - order.filled:,} {instrument(order.symbol)} not filled yet"
        parts.append(say(f"{said}, {order.status.replace('_', ' ')}."))
    return section("Open at the end" if day.ended else "Open now", *parts)
