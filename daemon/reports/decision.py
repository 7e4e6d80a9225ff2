"""What a decision rested on: heads, wishes and weights by symbol, and what the risk overlay cut. Reads the journal.

For each wish `taken` is the part that the strategy's `trust` did not let pass; without one, the wish less the answer. A
passive policy's wishes are its own answer, so nothing is taken from them. A wish that has been the same for every
symbol and day depends on nothing, and has no `taken`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from daemon.journal.reader import JournalReader
from strategies.kit.contract import Head, Spec
from strategies.kit.quantity import of_column
from strategies.registry import entry

SAME = 0.001  # wishes in [-1, 1] that differ by less are equal
LOOKED_BACK, LEAST = 20, 5  # decisions examined for a constant wish, and their minimum


class HeadColumn(msgspec.Struct, frozen=True):
    """A head of the spec."""

    name: str
    meaning: str
    wish: bool
    constant: bool = False  # a wish equal for every symbol in the newest decisions


class SymbolHeads(msgspec.Struct, frozen=True):
    """The heads of one symbol, "" if the policy answers for all at once. Weights are parts of the equity."""

    symbol: str
    answer: float | None  # None without a symbol, or if there is a value for each action
    heads: tuple[tuple[float, ...], ...]  # by column
    taken: tuple[float | None, ...]  # by column: a part of the wish, None where the head is no wish
    before: float | None
    after: float | None
    note: str


class SymbolChoice(msgspec.Struct, frozen=True):
    """The action chosen for a symbol, if the policy chooses one for each."""

    symbol: str
    values: dict[str, float]  # by action
    behaviour: dict[str, float]  # the probability with which each action was taken
    greedy: str  # action with the largest value
    drawn: str
    allowed: tuple[str, ...]


class DecisionHeads(msgspec.Struct, frozen=True):
    """All heads of one decision, by symbol in the spec's order."""

    columns: tuple[HeadColumn, ...]
    lines: tuple[SymbolHeads, ...]
    choices: tuple[SymbolChoice, ...] = ()


def heads_at(reader: JournalReader, decision: int, spec: Spec) -> DecisionHeads | None:
    """Return the heads of a decision; None if it has none. Raises sqlite3.Error."""
    if not spec.heads and not spec.by_row:
        return None
    rows = _rows(reader, "WHERE decision = ?", decision)
    if not rows:
        return None
    places = {symbol: place for place, symbol in enumerate(spec.symbols)}
    passive = _answered_by_passive(reader, decision)
    constant = {} if passive else _constant_wishes(reader, decision, spec)
    lines = sorted(
        (_line(row, spec, passive=passive, constant=constant) for row in rows),
        key=lambda line: places.get(line.symbol, len(places)),
    )
    columns = tuple(_column(head, constant.get(head.name, ""), passive=passive) for head in spec.heads)
    return DecisionHeads(columns, tuple(lines), tuple(_choices(reader, decision, rows, spec)))


def _column(head: Head, constant: str, *, passive: bool) -> HeadColumn:
    meaning = f"{constant} ({head.meaning})" if constant else head.meaning
    if passive and head.wish:
        meaning = f"not asked: the passive policy's own answer (in a learned one: {head.meaning})"
    return HeadColumn(head.name, meaning, head.wish, bool(constant))


def _constant_wishes(reader: JournalReader, decision: int, spec: Spec) -> dict[str, str]:
    """Return the wishes equal for every symbol in the model's last decisions: name to words."""
    wishes = [head.name for head in spec.heads if head.wish]
    if not wishes:
        return {}
    same_model = (
        "decision IN (SELECT decision FROM decisions WHERE model = (SELECT model FROM decisions WHERE decision = ?) "
        "AND decision <= ? AND kind = 'policy' ORDER BY decision DESC LIMIT ?)"
    )
    rows = _rows(reader, f"WHERE {same_model}", decision, decision, LOOKED_BACK)
    decisions = len({row["decision"] for row in rows})
    head_rows = [json.loads(row["heads"]) for row in rows if row["symbol"]]
    names: dict[str, str] = {}
    for name in wishes:
        numbers = [value for heads in head_rows for value in _numbers(heads.get(name))]
        if decisions >= LEAST and len(numbers) >= len(head_rows) > decisions and max(numbers) - min(numbers) < SAME:
            names[name] = f"{numbers[-1]:+.3f} for every symbol in the last {decisions} decisions: it looks at nothing"
    return names


def _answered_by_passive(reader: JournalReader, decision: int) -> bool:
    """Return whether the answering version has the name that an export gives to a passive policy."""
    rows = reader.query("SELECT model FROM decisions WHERE decision = ?", (decision,))
    return bool(rows) and "-passive-" in (rows[0]["model"] or "")


def _choices(reader: JournalReader, decision: int, heads: list[sqlite3.Row], spec: Spec) -> Iterator[SymbolChoice]:
    if not spec.by_row:
        return
    values = {row["symbol"]: json.loads(row["answer"]) for row in heads}
    choices = {row["symbol"]: row for row in reader.query("SELECT * FROM choices WHERE decision = ?", (decision,))}
    for symbol in spec.symbols:
        if (row := choices.get(symbol)) is not None:
            shares, worth = json.loads(row["behaviour"]), values.get(symbol, ())
            yield SymbolChoice(
                symbol,
                dict(zip(spec.actions, worth, strict=False)),
                dict(zip(spec.actions, shares, strict=True)),
                row["greedy"],
                row["drawn"],
                tuple(json.loads(row["allowed"])),
            )


def left_alone(reader: JournalReader) -> dict[str, str]:
    """Return the reasons why the newest decision left symbols alone; empty if it left none or gives no reason."""
    rows = _rows(reader, "WHERE decision = (SELECT max(decision) FROM heads) AND note != '' ORDER BY symbol")
    return {row["symbol"]: row["note"] for row in rows}


def _rows(reader: JournalReader, where: str, *values: int) -> list[sqlite3.Row]:
    """Return rows of the read model; none if the journal predates that table. Raises sqlite3.Error."""
    try:
        return reader.query(f"SELECT * FROM heads {where}", values)
    except sqlite3.OperationalError as error:
        if "no such table: heads" in str(error):
            return []
        raise


def _line(row: sqlite3.Row, spec: Spec, *, passive: bool, constant: Collection[str]) -> SymbolHeads:
    values: dict[str, Any] = json.loads(row["heads"])
    answer = json.loads(row["answer"]) if row["symbol"] and not spec.by_row else None
    heads = tuple(_numbers(values.get(head.name)) for head in spec.heads)
    trust = entry(spec.name).trust
    factor = (
        None
        if trust is None or passive
        else trust({head.name: numbers for head, numbers in zip(spec.heads, heads, strict=True)})
    )

    def taken_of(wish: float, answer: float) -> float:
        return wish - answer if factor is None else wish * (1.0 - factor)

    readings = tuple(
        taken_of(numbers[0], answer)
        if head.wish and head.name not in constant and answer is not None and len(numbers) == 1
        else None
        for head, numbers in zip(spec.heads, heads, strict=True)
    )
    return SymbolHeads(row["symbol"], answer, heads, readings, row["weight_before"], row["weight_after"], row["note"])


def _numbers(value: float | list[float] | None) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, list) else () if value is None else (value,)


CUT_SHOWN = 20  # symbols


def overlay_words(reader: JournalReader, decision: int) -> tuple[str, ...]:
    """Return the sentences about a decision; none without the overlay, or if the journal predates it.

    Raises sqlite3.Error.
    """
    try:
        rows = reader.query("SELECT * FROM overlays WHERE decision = ?", (decision,))
    except sqlite3.OperationalError as error:
        if "no such table: overlays" in str(error):
            return ()
        raise
    return _words(rows[0]) if rows else ()


def _words(row: sqlite3.Row) -> tuple[str, ...]:
    cut: dict[str, list[int | str]] = json.loads(row["cut"])
    if row["unknown"]:
        first = f"The volatility of what is asked for is not known, so nothing is bought: {row['unknown']}."
    elif row["volatility"] is None:
        first = "Nothing is to be held, so nothing is capped."
    else:
        target, forecast = f"target {row['target']:.2%}", f"forecast {row['volatility']:.2%} ({row['forecast']})"
        bound_text = f" = {target} / {forecast}" if row["cap"] < 1.0 else f": {forecast} is not above the {target}"
        first = f"At most {row['cap']:.2%} of the equity may be invested{bound_text}."
    second = f"Asked for: {_part(row['asked'])}; allowed: {_part(row['allowed'])}."
    names = [
        f"{symbol} {of_column(quantity):,} to {of_column(goal):,} shares" for symbol, (quantity, goal) in cut.items()
    ]
    more = f" and {len(names) - CUT_SHOWN} more" if len(names) > CUT_SHOWN else ""
    third = f"Cut: {', '.join(names[:CUT_SHOWN])}{more}." if names else "Nothing was cut."
    return first, second, third


def _part(weight: float | None) -> str:
    return "not known" if weight is None else f"{weight:.2%} of the equity"
