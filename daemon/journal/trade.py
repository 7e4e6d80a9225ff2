"""A trade: the declaration of each of its columns, and the SQL view `trades` made from them.

A column is declared once, as a field of `Trade`: its unit, how it is computed, its text for the manual and its heading.
Everything that shows trades follows from that: view, Parquet, CSV, JSON and its schema, tables, page, docs/TRADES.md.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec

from daemon.core.instruments.option_market import parse_occ, root_of
from strategies.kit.quantity import Quantity, of_column

NAME = "trades"
USD, USD_PER_SHARE, PERCENT, RATIO, SECONDS, TIME, NUMBER, TEXT = (
    "USD", "USD a share", "%", "0 to 1", "seconds", "time", "number", "text"
)  # fmt: skip
"""Units. `TIME` is nanoseconds UTC, in CSV and JSON ISO 8601."""
TERMINAL, PAGE = "terminal", "page"
_FLAT = "t.entered + t.left_again = 0"
_PNL = f"iif({_FLAT}, t.realized_usd, t.now_usd)"


class Column(msgspec.Struct, frozen=True):
    """The declaration of a column of trades."""

    unit: str
    meaning: str  # in the manual
    sql: str  # in the view, of `round_trips` t, the entry's decision d and the exit's e; "" where the view lacks it
    of: Callable[[sqlite3.Row], Any] | None  # of a row of the view; None: its field as it is, "" for no text
    name: str  # in CSV and JSON; "" where they lack it
    heading: str  # of a column of its own in tables; "" where a cell of several columns shows it
    shown: tuple[str, ...]  # the tables that have this column


def column(
    unit: str,
    meaning: str,
    sql: str = "",
    *,
    of: Callable[[sqlite3.Row], Any] | None = None,
    name: str = "",
    listed: bool = True,
    heading: str = "",
    shown: tuple[str, ...] = (TERMINAL, PAGE),
) -> Any:
    """Declare a column; `name` is its name in CSV and JSON if not the field's, unless it is not `listed` there."""
    return field(metadata={Column: (Column(unit, meaning, sql, of, name, heading, shown), listed)})


def _symbol(row: sqlite3.Row) -> str:
    return root_of(str(row["symbol"]))


def _contract(row: sqlite3.Row) -> str:
    return "" if parse_occ(row["symbol"]) is None else str(row["symbol"])


def _right(row: sqlite3.Row) -> str:
    terms = parse_occ(row["symbol"])
    return "" if terms is None else "call" if terms.right > 0 else "put"


def _bars(row: sqlite3.Row) -> int | None:
    return row["bars"] if row["worst_usd"] is not None else None


def _unrealised_usd(row: sqlite3.Row) -> float | None:
    if not row["held"] or row["pnl_usd"] is None:
        return None
    return float(round(row["pnl_usd"] - row["realized_usd"], 6))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """One round trip. Times are nanoseconds UTC, amounts USD after fees; None: not known (or not yet).

    The order is that of CSV and JSON: a new column goes to the end.
    """

    opened_ns: int = column(TIME, "key, with `symbol`: its first fill", "t.opened_ns", listed=False)
    symbol: str = column(TEXT, "share or underlying; the view has the OCC symbol of an option", "t.symbol", of=_symbol)
    contract: str = column(TEXT, "OCC symbol of an option", of=_contract)
    right: str = column(TEXT, "call or put", of=_right)
    side: str = column(TEXT, "long or short", "iif(t.entered + 0 < 0, 'short', 'long')")
    quantity: Quantity = column(
        NUMBER,
        "entered in all; a fraction of shares is text, its exact decimals",
        "iif(typeof(t.entered) = 'text', ltrim(t.entered, '-'), abs(t.entered))",
        of=lambda row: of_column(row["quantity"]),
    )
    held: Quantity = column(
        NUMBER,
        "still held, 0 when closed; in the view a fraction is rounded to nine decimals",
        "iif(typeof(t.entered) = 'integer' AND typeof(t.left_again) = 'integer', t.entered + t.left_again, "
        "round(t.entered + t.left_again, 9))",
        of=lambda row: of_column(row["all_entered"]) + of_column(row["all_left"]),
    )
    entered_ns: int = column(TIME, "first fill", "t.opened_ns", name="entered_utc")
    left_ns: int | None = column(
        TIME, "last fill; none while it is open", f"iif({_FLAT}, t.left_ns, NULL)", name="left_utc"
    )
    held_s: float = column(
        SECONDS, "until it was left, or until the desk's newest mark", of=lambda row: row["held_ns"] / 1e9
    )
    bars: int | None = column(NUMBER, "bars observed", "t.bars", of=_bars)
    entry_price: float | None = column(
        USD_PER_SHARE, "average", "abs(t.entered_usd / nullif(t.entered * t.multiplier, 0))", name="entry_usd_per_share"
    )
    exit_price: float | None = column(
        USD_PER_SHARE,
        "average; of an open trade: of the part left so far",
        "abs(t.left_usd / nullif(t.left_again * t.multiplier, 0))",
        name="exit_usd_per_share",
    )
    entered_usd: float = column(USD, "bought at cost; sold before fees", "abs(t.entered_usd)")
    pnl_usd: float | None = column(USD, "after fees; of an open trade at the newest mark", f"round({_PNL}, 6)")
    pnl_pct: float | None = column(
        PERCENT, "of what was entered", f"100 * {_PNL} / nullif(abs(t.entered_usd), 0)", name="pnl_percent"
    )
    fees_usd: float = column(USD, "fees so far", "round(t.fees_usd, 6)", heading="Fees", shown=(PAGE,))
    worst_usd: float | None = column(USD, "lowest profit while it was held", "round(t.worst_usd, 6)")
    worst_pct: float | None = column(
        PERCENT, "of what was entered", "100 * t.worst_usd / nullif(abs(t.entered_usd), 0)", name="worst_percent"
    )
    best_usd: float | None = column(USD, "highest profit while it was held", "round(t.best_usd, 6)")
    best_pct: float | None = column(
        PERCENT, "of what was entered", "100 * t.best_usd / nullif(abs(t.entered_usd), 0)", name="best_percent"
    )
    why_entered: str = column(TEXT, "reason of the first order", "t.why_entered")
    why_left: str = column(TEXT, "reason of the last one", f"iif({_FLAT}, t.why_left, NULL)")
    entry_action: str = column(TEXT, "action of the entry's decision", "coalesce(d.resolved, d.action)")
    entry_confidence: float | None = column(RATIO, "its confidence, where the policy gives one", "d.confidence")
    exit_action: str = column(
        TEXT, "action of the exit's decision", f"iif({_FLAT}, coalesce(e.resolved, e.action), NULL)"
    )
    entry_decision: int | None = column(NUMBER, "`rltraderctl decisions` explains it", "t.entry_decision")
    exit_decision: int | None = column(NUMBER, "the same", f"iif({_FLAT}, t.exit_decision, NULL)")
    fills: int = column(NUMBER, "entries and exits", "t.fills")
    realized_usd: float = column(USD, "by what was left again, after all fees", "round(t.realized_usd, 6)")
    unrealized_usd: float | None = column(
        USD, "of what is still held, at the newest mark; none of a closed trade", of=_unrealised_usd
    )


def _declared_columns() -> dict[str, Column]:
    columns = {}
    for one in fields(Trade):
        declaration, list_name = one.metadata[Column]
        columns[one.name] = msgspec.structs.replace(
            declaration, name=(declaration.name or one.name) if list_name else ""
        )
    return columns


COLUMNS = _declared_columns()
"""Field of `Trade` -> its declaration."""
LISTED = {column.name: (name, column) for name, column in COLUMNS.items() if column.name}
"""Column of CSV and JSON -> the field of `Trade` and its declaration."""
_KEPT = (  # of the view alone
    "t.multiplier",
    "abs(t.left_usd) AS left_usd",
    "t.entered AS all_entered",
    "t.left_again AS all_left",
)
SELECT = f"""SELECT {", ".join((*(f"{c.sql} AS {name}" for name, c in COLUMNS.items() if c.sql), *_KEPT))}
FROM round_trips AS t LEFT JOIN decisions AS d ON d.decision = t.entry_decision
LEFT JOIN decisions AS e ON e.decision = t.exit_decision"""
VIEW = f"CREATE VIEW {NAME} AS\n{SELECT}"


def trade_of(row: sqlite3.Row) -> Trade:
    """Return the trade of a row of the view that has `held_ns` too."""
    return Trade(**{name: make(row) for name, make in _MAKE.items()})


def table() -> str:
    """Return the columns as the Markdown table in docs/TRADES.md."""
    lines = ["| CSV and JSON | view | unit | meaning |", "|---|---|---|---|"]
    for name, c in COLUMNS.items():
        list_text, view_text = (f"`{text}`" if text else "" for text in (c.name, name if c.sql else ""))
        lines.append(f"| {list_text} | {view_text} | {c.unit} | {c.meaning} |")
    lines.append("| | `multiplier`, `left_usd` | | shares a contract; USD of what was left again |")
    lines.append("| | `all_entered`, `all_left` | | what was entered and left, signed and exact |")
    return "\n".join(lines)


def renew_view(db: sqlite3.Connection) -> None:
    """Create the view, or replace one of another release."""
    view = db.execute("SELECT sql FROM sqlite_schema WHERE type = 'view' AND name = ?", (NAME,)).fetchone()
    if view is None or view[0] != VIEW:
        db.execute(f"DROP VIEW IF EXISTS {NAME}")
        db.execute(VIEW)


def _reader(name: str, column: Column) -> Callable[[sqlite3.Row], Any]:
    if column.of is not None:
        return column.of
    if column.unit == TEXT:
        return lambda row: row[name] or ""
    return lambda row: row[name]


_MAKE = {name: _reader(name, column) for name, column in COLUMNS.items()}
