"""A desk's positions when a session began and ended, and the prices known before, from its journal.

Exact if a snapshot followed the last fill, else the sum of the fills of the desk's own orders.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from daemon.core.instruments.option_market import parse_occ
from daemon.core.state import Book, RiskState
from daemon.journal.reader import JournalReader
from daemon.journal.rows import Entry
from daemon.reports.execution_quality import Arrival, Quality
from daemon.reports.record import WARM_NS, Held, Notice, first_id
from strategies.kit.contract import Session
from strategies.kit.quantity import Quantity, from_json, of_column


def rows_between(reader: JournalReader, begin: int, end: int) -> Iterable[Entry]:
    """Return the rows with ids from `begin` up to but without `end`."""
    for entry in reader.entries(begin - 1):
        if entry.id >= end:
            return
        yield entry


def prices_before(reader: JournalReader, begin: int, begin_ns: int, session: Session, underlying: str) -> Iterable[str]:
    """Return payloads of the events with the prices known at the session's begin.

    These are the newest quotes of the contracts held, or for a daily desk, which has no `underlying`, its last days.
    """
    oldest = first_id(reader, begin_ns - WARM_NS)
    if not underlying:
        return [entry.payload for entry in rows_between(reader, oldest, begin)]
    payloads: list[str] = []
    for symbol in _filled_quantities(reader, begin_ns, session.date, underlying):
        rows = reader.query(
            "SELECT payload FROM events WHERE id BETWEEN ? AND ? AND kind = 'QuotesReceived' "
            "AND instr(payload, ?) ORDER BY id DESC LIMIT 1",
            (oldest, begin - 1, f'"{symbol}"'),
        )
        payloads += [row["payload"] for row in rows]
    return payloads


class _ReportState(msgspec.Struct):
    """The fields of a state that a report reads."""

    book: Book
    risk: RiskState


def holdings(
    reader: JournalReader,
    span: tuple[int, int],
    quality: Quality,
    session: Session,
    until_ns: int,
    first: Mapping[str, Arrival],
    last: Mapping[str, Arrival],
) -> tuple[tuple[Held, ...], Notice | None, bool]:
    """Positions at the end and before, the halt that holds where that is known, and whether the positions are exact.

    A snapshot between the rows of `span` counts: from the last one that changed what is held to the session's last.
    `first` and `last` are the prices known at the first decision and at the end.
    """
    newest = reader.query(
        "SELECT state FROM snapshots WHERE event_id BETWEEN ? AND ? ORDER BY event_id DESC LIMIT 1",
        span,
    )
    state = msgspec.json.decode(newest[0]["state"], type=_ReportState, dec_hook=from_json) if newest else None
    if state is not None:
        quantities: dict[str, Quantity] = {
            symbol: position.quantity for symbol, position in state.book.positions.items()
        }
    else:
        quantities = _filled_quantities(reader, until_ns, session.date)
    quantities_traded: dict[str, Quantity] = defaultdict(int)
    for order in quality.orders:
        quantities_traded[order.symbol] += order.side * order.filled
    expired_symbols = {
        symbol for symbol in quantities_traded if (contract := parse_occ(symbol)) and contract.expiry <= session.date
    }
    symbols = sorted(
        symbol for symbol in {*quantities, *quantities_traded} if symbol in quantities or symbol not in expired_symbols
    )
    positions = tuple(
        Held(
            symbol,
            quantities.get(symbol, 0) - quantities_traded[symbol],
            quantities.get(symbol, 0),
            first[symbol].price if symbol in first else None,
            last[symbol].price if symbol in last else None,
        )
        for symbol in symbols
        if quantities.get(symbol, 0) or quantities.get(symbol, 0) - quantities_traded[symbol]
    )
    halt = state.risk.halt if state is not None else None
    return positions, Notice(halt.since_ns, halt.reason, halt.detail) if halt else None, state is not None


def _filled_quantities(reader: JournalReader, until_ns: int, date: str, underlying: str = "") -> dict[str, Quantity]:
    """Sum the fills of all orders up to a time, by symbol, without expired contracts.

    With an `underlying` only its shares and contracts, including those that expire on `date`: expired ones, which are
    most, are not even read.
    """
    where, values = "submitted_ns <= ?", list[object]([until_ns])
    if underlying:
        alive = f"{underlying}{date[2:].replace('-', '')}"  # in a contract's symbol the expiry follows
        where += " AND (symbol = ? OR symbol BETWEEN ? AND ?)"
        values += [underlying, alive, f"{underlying}:"]
    rows = reader.query(
        f"SELECT symbol, exact_sum(filled, side) AS n FROM orders WHERE {where} GROUP BY symbol", values
    )
    terms = {row["symbol"]: parse_occ(row["symbol"]) for row in rows}
    expired_symbols = {
        symbol
        for symbol, contract in terms.items()
        if contract and (contract.expiry < date or (contract.expiry == date and not underlying))
    }
    quantities = {row["symbol"]: of_column(row["n"]) for row in rows if row["symbol"] not in expired_symbols}
    return {symbol: quantity for symbol, quantity in quantities.items() if quantity}
