"""Effects of the risk overlay on one decision, in words. Only reads the journal."""

from __future__ import annotations

import json
import sqlite3

from daemon.journal.reader import JournalReader
from strategies.kit.quantity import of_column

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
