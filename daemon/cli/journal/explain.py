"""`rltraderctl decisions`: the list, or one decision in full: observation, answer, gates, orders and fills.

Reads the journal's read models only.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from daemon.cli.arguments import NotFound, add_limit, add_state_dir, lead_on, print_table
from daemon.core.draft import PROTECTION
from daemon.core.orders import SIDES
from daemon.core.session import NEW_YORK, new_york_text
from daemon.journal.journal import FILE
from daemon.journal.outcomes import (
    NO_CHANGE,
    NO_STOP,
    SHOWN,
    WHY_NO_CHANGE,
    basket_reached,
    became,
    book_changes,
    orders_of,
    shown_outcome,
    why_no_change,
)
from daemon.journal.reader import JournalReader
from daemon.journal.rows import strategy_of
from daemon.reports.decision import DecisionHeads, SymbolChoice, heads_at, overlay_words
from strategies.kit.contract import Spec
from strategies.kit.quantity import of_column
from strategies.kit.units import SECOND_NS

OF_THE_DESK = ("close", "price", "tradable", "shares", "weight", "unrealised_return", "age", "action")
"""Columns that are shown first."""
COLUMNS = 6  # columns of one table
NAMED = 10  # most decisions named in one sentence
_TIMES = range(2**63)  # nanoseconds that a journal can hold: to the year 2262


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `decisions`."""
    command.set_defaults(run=run)
    add_state_dir(command)
    command.add_argument(
        "--bar", metavar="TIME", help="the bar's start: ISO 8601 with zone, New York without one, or ns"
    )
    command.add_argument("--outcome", choices=SHOWN, metavar="NAME", help=f"only one of {', '.join(SHOWN)}")
    add_limit(command)


def run(options: argparse.Namespace, console: Console) -> int:
    """Print the list, or with `options.bar` one decision; returns 0. Raises NotFound."""
    reader = JournalReader(options.state_dir / FILE)
    if options.bar:
        lead_on(options, "report")
        return _explain(reader, options, console)
    where, values = (" AND shown = ?", (options.outcome,)) if options.outcome else ("", ())
    coming = _coming(reader)
    rows = reader.query(
        f"SELECT * FROM ({_decisions(coming)}) WHERE {NO_STOP}{where} ORDER BY decision DESC LIMIT ?",
        (*values, options.limit),
    )
    if not rows:
        raise NotFound(f"no decision in {options.state_dir} matches")
    lead_on(options, "decisions", "--bar", new_york_text(rows[0]["bar_ns"])[:16].replace(" ", "T"))
    table = Table("decision", "bar (New York)", "action", "resolved", "confidence", "outcome", "denied by")
    outcomes = _outcomes(reader, rows, coming)
    for row in rows[::-1]:
        gates_text = ", ".join(name for name, reason in json.loads(row["gates"] or "{}").items() if reason)
        confidence = "" if row["confidence"] is None else f"{row['confidence']:.4f}"
        table.add_row(
            str(row["decision"]),
            new_york_text(row["bar_ns"]),
            row["action"],
            row["resolved"],
            confidence,
            outcomes[row["decision"]],
            gates_text,
        )
    print_table(console, table, "resolved", "denied by")
    unsent_decisions = [str(row["decision"]) for row in rows[::-1] if _unsent(row)]
    if unsent_decisions:
        decisions_text = ", ".join(unsent_decisions[-NAMED:]) + (
            f" and {len(unsent_decisions) - NAMED} before" if len(unsent_decisions) > NAMED else ""
        )
        console.print(f"no order followed decision {decisions_text}: {WHY_NO_CHANGE}", soft_wrap=True)
    return 0


def _coming(reader: JournalReader) -> tuple[int, ...]:
    """Return the decisions that may still send orders: the newest one, at a broker."""
    newest = reader.query("SELECT max(decision) AS newest FROM decisions")[0]["newest"]
    return () if newest is None or reader.meta().get("mode") == "replay" else (newest,)


def _outcomes(reader: JournalReader, rows: Sequence[sqlite3.Row], coming: tuple[int, ...]) -> dict[int, str]:
    """Return each decision's outcome as shown in tables, with the orders' results if there are any."""
    did, texts = book_changes(reader, [row["decision"] for row in rows if row["work"]]), {}
    for row in rows:
        decision, outcome = row["decision"], row["shown"]
        orders = orders_of(reader, decision) if row["work"] else ()
        text = became(outcome, orders, did.get(decision), coming=decision in coming)
        texts[decision] = outcome if text == outcome else f"{outcome}, {text.replace('_', ' ')}"
    return texts


def _decisions(coming: tuple[int, ...]) -> str:
    """Return the query of all decisions, with the outcome for display as `shown`."""
    return f"SELECT d.*, {shown_outcome(coming)} AS shown FROM decisions AS d"


def _unsent(row: sqlite3.Row) -> bool:
    """Return whether the decision is a basket without orders."""
    return bool(row["shown"] == NO_CHANGE and (row["work"] or "").endswith("."))


def _explain(reader: JournalReader, options: argparse.Namespace, console: Console) -> int:
    """Print one decision in full: observation, answer, target, gates, orders and fills."""
    bar_ns = _bar_time(options.bar)
    coming = _coming(reader)
    rows = reader.query(f"{_decisions(coming)} WHERE bar_ns = ? ORDER BY decision", (bar_ns,))
    if not rows:
        near = reader.query("SELECT bar_ns FROM decisions ORDER BY abs(bar_ns - ?) LIMIT 1", (bar_ns,))
        nearest = f"; the nearest one is {new_york_text(near[0]['bar_ns'])}" if near else ""
        raise NotFound(f"no decision for the bar that starts {new_york_text(bar_ns)}{nearest}")
    spec = strategy_of(reader.meta()).spec
    outcomes = _outcomes(reader, rows, coming)
    for row in rows:
        console.rule(f"decision {row['decision']} · bar {new_york_text(row['bar_ns'])} · {row['kind']}", align="left")
        tables: list[Table] = []
        if row["row"] and spec.shown_by_symbol:
            tables, alone = _symbol_tables(row, spec)
            console.print(tables.pop(0))
            if alone:
                console.print(alone, highlight=False)
            _explain_heads(heads_at(reader, row["decision"], spec), console)
        elif row["row"]:
            values = np.frombuffer(row["row"], dtype="<f4").tolist()
            console.print(
                _table(
                    ("feature", "value"),
                    [(f"{i} {n}", f"{v:+.6f}") for i, (n, v) in enumerate(zip(spec.features, values, strict=True))],
                )
            )
        if row["probabilities"]:
            logits, shares = json.loads(row["logits"]), json.loads(row["probabilities"])
            lines = [(n, f"{x:+.4f}", f"{p:.4f}") for n, x, p in zip(spec.actions, logits, shares, strict=True)]
            console.print(_table(("action", "logit", "probability"), lines))
            console.print(
                f"model {row['model']}, temperature {spec.temperature}, confidence {row['confidence']:.4f}",
                highlight=False,
            )
        elif row["logits"]:
            console.print(f"model {row['model']}", highlight=False)
        target = "" if spec.shown_by_symbol else f", target {row['target'] or '-'}"
        console.print(f"action {row['action']}, resolved to {row['resolved']}{target}")
        console.print(f"outcome: {outcomes[row['decision']]}")
        if words := overlay_words(reader, row["decision"]):
            console.print("risk overlay:", *words, highlight=False)
        if reach_text := basket_reached(reader, row["decision"]):
            console.print("basket:", reach_text, highlight=False)
        if row["gates"]:
            verdicts = {"": "passed", None: "not put to this intent"}
            console.print(
                _table(
                    ("gate", "verdict"),
                    [(g, verdicts.get(v, f"DENIED: {v}")) for g, v in json.loads(row["gates"]).items()],
                )
            )
        _explain_work(reader, row, console)
        console.print(*tables)
    return 0


def _symbol_tables(row: sqlite3.Row, spec: Spec) -> tuple[list[Table], str]:
    """Return an observation by symbol as tables with a line per symbol, and the inputs that belong to no symbol.

    The first table has the columns of interest, the action of a continuous policy, and the basket's target shares.
    """
    values_by_column: dict[str, dict[str, float]] = {}  # column -> symbol -> value
    alone: list[str] = []
    feature_names = [f"{feature} {symbol}" for symbol in spec.symbols for feature in spec.features]
    features = feature_names if spec.rows_are_symbols else spec.features
    for feature, value in zip(features, np.frombuffer(row["row"], dtype="<f4").tolist(), strict=True):
        name, _, symbol = feature.rpartition(" ")
        if symbol in spec.symbols:
            values_by_column.setdefault(name, {})[symbol] = value
        elif name != "reserved":
            alone.append(f"{feature} {value:g}")
    if spec.continuous and row["logits"]:
        values_by_column["action"] = dict(zip(spec.answers, json.loads(row["logits"]), strict=True))
    goals = {leg["symbol"]: f"{of_column(leg['goal']):,}" for leg in json.loads(row["target"] or "[]")}
    columns = list(dict.fromkeys(name for name in (*OF_THE_DESK, *values_by_column) if name in values_by_column))
    tables = []
    for first in range(0, len(columns), COLUMNS):
        names = columns[first : first + COLUMNS]
        lines = [(symbol, *(f"{values_by_column[name][symbol]:,.6g}" for name in names)) for symbol in spec.symbols]
        if not first:
            lines = [(*line, goals.get(line[0], "")) for line in lines]
        tables.append(_table(("symbol", *names, *(("to hold",) if not first else ())), lines))
    return tables, " · ".join(alone)


def _explain_heads(answers: DecisionHeads | None, console: Console) -> None:
    """Print the policy's heads by symbol: actions, the part of each wish that the answer adopted, and the weights."""
    if answers is None:
        return
    if answers.choices:
        console.print(_choices_table(answers.choices))
    wishes = [place for place, column in enumerate(answers.columns) if column.wish]
    heads = [(line.symbol, *(_head(values) for values in line.heads)) for line in answers.lines]
    console.print(_table(("symbol", *(column.name for column in answers.columns)), heads))
    headings = [f"taken from {answers.columns[place].name}" for place in wishes]
    lines = [
        (
            line.symbol,
            _signed_text(line.answer),
            *(_signed_text(line.taken[place]) for place in wishes),
            _weight(line.before),
            _weight(line.after),
            line.note,
        )
        for line in answers.lines
    ]
    console.print(_table(("symbol", "answer", *headings, "weight before", "after", "left alone"), lines))
    for column in answers.columns:
        if column.constant:
            console.print(f"{column.name}: {column.meaning}", highlight=False)


def _choices_table(choices: tuple[SymbolChoice, ...]) -> Table:
    """Return a table of each action's value and probabilities, with the chosen action."""
    actions = tuple(choices[0].behaviour)
    lines = [
        (
            one.symbol,
            *(_signed_text(one.values.get(action)) for action in actions),
            one.greedy,
            one.drawn,
            *(f"{one.behaviour[action]:.4f}" for action in actions),
            " ".join(one.allowed),
        )
        for one in choices
    ]
    values, shares = (f"value of {action}" for action in actions), (f"probability of {action}" for action in actions)
    return _table(("symbol", *values, "greedy", "taken", *shares, "allowed"), lines)


def _head(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def _signed_text(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"


def _weight(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _explain_work(reader: JournalReader, row: sqlite3.Row, console: Console) -> None:
    """Print orders and fills of a decision's work, or of a basket's works (a name that ends with a dot)."""
    work = row["work"]
    orders = (
        reader.query(
            "SELECT * FROM orders WHERE work = ? OR (? LIKE '%.' AND work LIKE ? || '%') "
            "ORDER BY submitted_ns, length(client_order_id), client_order_id",
            (work, work, work),
        )
        if work
        else []
    )
    if not orders:
        console.print(f"no order followed: {why_no_change(reader, row)}" if _unsent(row) else "no orders")
        return
    lines = [
        (
            o["client_order_id"],
            o["symbol"],
            f"{SIDES[o['side']]} {o['quantity']}",
            "stop" if o["purpose"] == PROTECTION else o["limit_price"] or "market",
            o["status"],
            str(o["filled"]),
            o["fees_usd"],
            new_york_text(o["submitted_ns"]),
        )
        for o in orders
    ]
    console.print(_table(("order", "symbol", "side", "limit", "status", "filled", "fees USD", "sent"), lines))
    fills = [
        (f["client_order_id"], str(f["quantity"]), f["price"], f["fees_usd"], new_york_text(f["filled_ns"]))
        for o in orders
        for f in reader.query(
            "SELECT * FROM fills WHERE client_order_id = ? ORDER BY cumulative + 0", (o["client_order_id"],)
        )
    ]
    console.print(_table(("fill of", "quantity", "price", "fees USD", "traded"), fills) if fills else "no fills")


def _bar_time(text: str) -> int:
    """Return a bar's start in ns: digits are ns, other texts ISO 8601; without a zone it is New York time."""
    try:
        if text.isdecimal():
            bar_ns = int(text)
        else:
            moment = datetime.fromisoformat(text)
            moment = moment.replace(tzinfo=NEW_YORK) if moment.tzinfo is None else moment
            bar_ns = int(moment.timestamp()) * SECOND_NS
    except (ValueError, OverflowError):
        bar_ns = -1
    if bar_ns not in _TIMES:
        raise NotFound(f"--bar {text!r} is no time: write 2024-08-05T10:15 (New York) or 2024-08-05T14:15Z")
    return bar_ns


def _table(head: tuple[str, ...], lines: Sequence[Sequence[str]]) -> Table:
    table = Table(*(Column(name, overflow="fold") for name in head))  # an order id is never cut
    for line in lines:
        table.add_row(*line)
    return table
