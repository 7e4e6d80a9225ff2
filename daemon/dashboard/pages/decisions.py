"""The list of decisions, and one decision in full: observation, answer, gates, orders and fills.

They come from the read models, observations from `history`, contributions from `occlusion`.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any

import msgspec
import numpy as np

from daemon.core.draft import PROTECTION
from daemon.dashboard.desks import Picture
from daemon.dashboard.newest import decision_lines, under_way
from daemon.dashboard.pages.history import Lookup
from daemon.dashboard.pages.now import shares_of
from daemon.dashboard.pages.price import NotThere
from daemon.dashboard.pages.risk import DENIES, PASSES, UNKNOWN, why_unneeded
from daemon.dashboard.views import (
    Contribution,
    DecisionPage,
    DecisionsPage,
    GateLine,
    OrderLine,
    Shadowed,
)
from daemon.journal.outcomes import ACTED as ACTED_OUTCOMES
from daemon.journal.outcomes import NO_STOP, SHOWN, shown_outcome
from daemon.journal.reader import JournalReader
from daemon.journal.trades import LONGEST
from daemon.reports.decision import heads_at, overlay_words
from strategies.kit.contract import Observation, Spec
from strategies.kit.quantity import of_column

ACTED = "acted"  # outcome of decisions with orders
FILTERS = (ACTED, *SHOWN)
LINES_MOST = 200
COUNTED_MOST = 1000  # most decisions counted of one outcome: an exact count reads the whole journal
SYMBOLS_MOST = 50  # most symbols on a page whose rows are symbols
Rows = tuple[tuple[float, ...], ...]
NOT_PUT = "not put to this order"


def decisions_page(
    picture: Picture, reader: JournalReader, last_number: int, limit: int, outcome: str, until_ns: int = LONGEST
) -> DecisionsPage:
    """`GET /api/decisions`, newest first: below `last_number`, or up to a time. Raises sqlite3.Error.

    Resting stops are left out: a desk of fifty shares has fifty of them a day.
    """
    newest = 0
    if until_ns < LONGEST:
        decisions = reader.query(
            "SELECT decision FROM decisions WHERE time_ns <= ? ORDER BY time_ns DESC, decision DESC LIMIT 1",
            (until_ns,),
        )
        newest = decisions[0]["decision"] + 1 if decisions else 1
    coming = under_way(picture.state)
    shown_sql = shown_outcome(coming)
    outcomes = ACTED_OUTCOMES if outcome == ACTED else (outcome,) if outcome else ()
    chosen = f" AND {NO_STOP}" + (f" AND ({shown_sql}) IN ({','.join('?' * len(outcomes))})" if outcomes else "")
    rows = reader.query(
        f"SELECT d.*, {shown_sql} AS shown FROM decisions AS d "
        f"WHERE decision < ?{chosen} ORDER BY decision DESC LIMIT ?",
        (last_number or newest or 2**62, *outcomes, limit),
    )
    total = len(rows)
    every = reader.query("SELECT count(*) AS n FROM decisions WHERE time_ns <= ?", (until_ns,))[0]["n"]
    stops = "SELECT count(*) AS n FROM orders WHERE purpose = ? AND submitted_ns <= ?"
    of = every - reader.query(stops, (PROTECTION, until_ns))[0]["n"]
    if outcomes and (last_number or total == limit):
        some = f"SELECT 1 FROM decisions AS d WHERE decision < ?{chosen} LIMIT {COUNTED_MOST + 1}"
        total = reader.query(f"SELECT count(*) AS n FROM ({some})", (newest or 2**62, *outcomes))[0]["n"]
    elif not outcomes:
        total = of
    lines = decision_lines(reader, rows, coming)
    return DecisionsPage(lines, total if not outcomes or total <= COUNTED_MOST else None, of)


def decision_row(picture: Picture, reader: JournalReader, number: int) -> sqlite3.Row:
    """Return the row of `decisions`, with its outcome for display. Raises NotThere, sqlite3.Error."""
    shown_sql = shown_outcome(under_way(picture.state))
    rows = reader.query(f"SELECT d.*, {shown_sql} AS shown FROM decisions AS d WHERE decision = ?", (number,))
    if not rows:
        raise NotThere(f"no decision {number} in this journal")
    return rows[0]


def decision_page(
    picture: Picture,
    reader: JournalReader,
    row: sqlite3.Row,
    lookup: Lookup,
    contribution: Contribution | None,
    why: str,
) -> DecisionPage:
    """`GET /api/decision/N`. `why`: why there is no contribution, "" if there is one."""
    spec, number = picture.spec, row["decision"]
    features, rows, contribution = _feature_rows(lookup.observation, spec, row, contribution)
    gates: dict[str, str | None] = json.loads(row["gates"] or "{}")
    number_before = reader.query("SELECT max(decision) AS n FROM decisions WHERE decision < ?", (number,))[0]["n"]
    number_after = reader.query("SELECT min(decision) AS n FROM decisions WHERE decision > ?", (number,))[0]["n"]
    return DecisionPage(
        line=decision_lines(reader, [row], under_way(picture.state))[0],
        previous=number_before or 0,
        next=number_after or 0,
        features=features,
        rows=rows,
        probabilities=shares_of(dict(row), spec),
        logits=tuple(json.loads(row["logits"] or "[]")),
        target=row["target"] or "",
        gates=tuple(_gate(name, reason, picture.meta.get("mode", "")) for name, reason in gates.items()),
        orders=_orders(reader, row["work"]),
        contribution=contribution,
        pending=lookup.pending,
        missing=lookup.missing or why,
        shadow=_shadow(reader, number, row["action"]),
        heads=heads_at(reader, number, spec) if spec is not None else None,
        overlay=overlay_words(reader, number),
    )


def _feature_rows(
    observation: Observation | None, spec: Spec | None, row: sqlite3.Row, contribution: Contribution | None
) -> tuple[tuple[str, ...], Rows, Contribution | None]:
    """Return the features' names, their rows (oldest first; one row if there is one dimension), and the contributions.

    If rows are symbols: the newest values of the `SYMBOLS_MOST` symbols with the largest answers in one row.
    """
    if spec is None or observation is None or not spec.rows_are_symbols:
        return spec.features if spec is not None else (), _rows_of(observation, spec), contribution
    answers = np.abs(json.loads(row["logits"] or "[]") or [0.0] * spec.rows).reshape(spec.rows, -1).max(axis=1)
    largest = sorted(range(spec.rows), key=lambda place: -answers[place])[:SYMBOLS_MOST]
    newest = np.frombuffer(observation.newest(spec), dtype="<f4").reshape(spec.rows, -1).astype(np.float64)
    names = tuple(f"{feature} {spec.symbols[place]}" for place in largest for feature in spec.features)
    if contribution is not None:  # of one symbol: other symbols' inputs do not affect its answer
        parts = [0.0] * len(names)
        at = [spec.symbols[place] for place in largest].index(contribution.of.split(" ")[-1]) * len(spec.features)
        parts[at : at + len(spec.features)] = contribution.features
        contribution = msgspec.structs.replace(contribution, cells=(tuple(parts),), features=tuple(parts))
    return names, (tuple(newest[largest].reshape(-1).tolist()),), contribution


def _rows_of(observation: Observation | None, spec: Spec | None) -> Rows:
    if observation is None or spec is None:
        return ()
    values = observation.array().reshape(-1, len(spec.features)).astype(np.float64)
    return tuple(map(tuple, values.tolist()))


def _gate(name: str, reason: str | None, mode: str) -> GateLine:
    if reason is None:
        return GateLine(name, UNKNOWN, NOT_PUT)
    return GateLine(name, DENIES, reason) if reason else GateLine(name, PASSES, why_unneeded(name, mode))


def _orders(reader: JournalReader, work: str | None) -> tuple[OrderLine, ...]:
    """Return the orders of a work, or of a basket's works (a name that ends with a dot)."""
    if not work:
        return ()
    beyond = f"{work[:-1]}/" if work.endswith(".") else work  # '/' follows '.'
    orders = reader.query(
        "SELECT * FROM orders WHERE work = ? OR (work >= ? AND work < ?) "
        "ORDER BY submitted_ns, length(client_order_id), client_order_id",
        (work, work, beyond),
    )
    return tuple(_order(reader, order) for order in orders)


def _order(reader: JournalReader, row: sqlite3.Row) -> OrderLine:
    fills = reader.query(
        "SELECT filled_ns, quantity, price, fees_usd FROM fills WHERE client_order_id = ? "
        "ORDER BY correction, cumulative + 0",
        (row["client_order_id"],),
    )
    return OrderLine(
        client_order_id=row["client_order_id"],
        symbol=row["symbol"],
        side=row["side"],
        quantity=of_column(row["quantity"]),
        limit=float(row["limit_price"] or 0),
        status=row["status"],
        filled=of_column(row["filled"]),
        submitted=row["submitted_ns"] / 1e9,
        fills=tuple(
            (f["filled_ns"] / 1e9, of_column(f["quantity"]), float(f["price"]), float(f["fees_usd"])) for f in fills
        ),
        resting=row["purpose"] == PROTECTION,
    )


def _shadow(reader: JournalReader, number: int, action: str | None) -> Shadowed | None:
    """Return the newest candidate's answer; None if there is none, or no such table."""
    rows = shadow_rows(reader, "SELECT * FROM shadows WHERE decision = ? ORDER BY time_ns DESC LIMIT 1", (number,))
    if not rows:
        return None
    row = rows[0]
    choice: Any = row["action"]
    return Shadowed(
        row["model"], choice or "", row["confidence"] or 0.0, choice is not None and choice == action, row["problem"]
    )


def shadow_rows(reader: JournalReader, sql: str, values: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
    """Run a SELECT about `shadows`; no rows in a journal without that table. Raises sqlite3.Error."""
    try:
        return reader.query(sql, values)
    except sqlite3.OperationalError as error:
        if "no such table: shadows" in str(error):
            return []
        raise
