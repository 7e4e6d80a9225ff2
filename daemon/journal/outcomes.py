"""What became of a decision, as it is shown: `ordered` where orders followed, `no_change` where none did.

A basket is journaled as ordered when its gates passed. It may still lead to no order: nothing is affordable, or what
is held is close enough to the goal.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from daemon.journal.reader import JournalReader

NO_CHANGE = "no_change"
WHY_NO_CHANGE = "the cash covered no share of it, or a halt, a pause or a missing price kept it back"
SHOWN = ("hold", "ordered", NO_CHANGE, "exit", "denied", "expired", "failed")


def shown_outcome(under_way: Iterable[int] = ()) -> str:
    """Return the SQL expression of the shown outcome, of the table `decisions` named `d`.

    `under_way`: the decisions whose orders are still to come; they stay ordered.
    """
    coming = ",".join(map(str, sorted({int(number) for number in under_way})))
    return (
        "CASE WHEN d.outcome = 'ordered' AND NOT EXISTS (SELECT 1 FROM orders AS o "
        f"WHERE o.work >= d.decision || '.' AND o.work < d.decision || '/') AND d.decision NOT IN ({coming}) "
        f"THEN '{NO_CHANGE}' ELSE d.outcome END"
    )


class Baskets(NamedTuple):
    """How many baskets were ordered, and how many of them sent no order."""

    ordered: int = 0
    unsent: int = 0


def read_baskets(reader: JournalReader, under_way: Iterable[int] = ()) -> Baskets:
    """Count the journal's baskets. Raises sqlite3.Error."""
    baskets = (
        f"SELECT {shown_outcome(under_way)} AS shown FROM decisions AS d WHERE outcome = 'ordered' AND work LIKE '%.'"
    )
    (row,) = reader.query(f"SELECT count(*) AS ordered, total(shown = '{NO_CHANGE}') AS unsent FROM ({baskets})")
    return Baskets(row["ordered"], int(row["unsent"]))
