"""Write a session's report as JSON and as a page.

Files appear whole or not at all. A page that cannot be made does not stop the report.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing, suppress
from decimal import Decimal
from pathlib import Path

import msgspec
from msgspec.structs import replace

from daemon.core.instruments.option_market import parse_occ
from daemon.engine.state_dir import report_path
from daemon.host.whole_files import whole_text
from daemon.journal.outcomes import NO_STOP
from daemon.journal.reader import JournalReader
from daemon.journal.rows import JournalError, strategy_of
from daemon.journal.trades import Totals
from daemon.reports.execution_quality import ExecutionSums, sums_of
from daemon.reports.gather import read_day
from daemon.reports.page import day_page
from daemon.reports.record import REPORT_SPAN_NS, Day, alarms_in, equity_of, first_id
from strategies.kit.contract import Session
from strategies.kit.quantity import Quantity, of_column, to_json, total

PAGE_FAILURES = (
    ArithmeticError, AssertionError, AttributeError, JournalError, LookupError, MemoryError, OSError, RuntimeError,
    TypeError, ValueError, msgspec.MsgspecError, sqlite3.Error,
)  # fmt: skip
"""Errors of reading the session or making its page; the report names them and is written anyway."""


Cell = str | int | float | None


class DecisionCount(msgspec.Struct, frozen=True):
    """Count of an action's decisions with one outcome; a rule's action is its reason."""

    action: str
    outcome: str
    n: int


class SessionReport(msgspec.Struct, frozen=True, kw_only=True):
    """A session for programs: figures and orders. `orders` and `trades` have the columns of their CSV files.

    Money and prices are USD as exact text, times nanoseconds UTC. An unknown field is None.
    """

    desk: str
    strategy: str
    mode: str
    account: str
    synthetic: bool
    session: str  # New York date
    ended: bool
    newest_event_ns: int
    said: tuple[str, ...]  # the sentences of the page
    gain_usd: str | None
    equity_usd: str | None
    execution: ExecutionSums
    fees_usd: str
    decisions: tuple[DecisionCount, ...]
    denials: dict[str, int]  # gate to how often it denied
    alarms: int
    commands: int
    halt: str  # in force at the end, "" for none
    bars_missing: int
    bars_rejected: int
    held: dict[str, Quantity]  # symbol to contracts or shares
    held_exactly_known: bool
    trades: tuple[dict[str, Cell], ...]
    trade_sums: Totals
    orders: tuple[dict[str, Cell], ...]
    fees_by_the_day_usd: str = "0"  # booked on the day without a fill; `fees_usd` came with the fills


class Chain(msgspec.Struct, frozen=True):
    """The last event row, and the hash chain's head there, hex."""

    row: int
    head: str


class OrderCount(msgspec.Struct, frozen=True):
    """Count of orders with a purpose and a status."""

    purpose: str
    status: str
    n: int


class RaisedAlarm(msgspec.Struct, frozen=True):
    """One alarm."""

    time_ns: int
    alarm: str
    detail: str


class DayReport(msgspec.Struct, frozen=True, kw_only=True):
    """A session as its desk writes it. Money is USD as text.

    `execution` is None if the session could not be read as a whole.
    """

    date: str  # New York
    chain: Chain
    decisions: dict[str, int]  # outcome to count
    orders: tuple[OrderCount, ...]
    contracts_bought: Quantity
    contracts_sold: Quantity
    shares_bought: Quantity
    shares_sold: Quantity
    fees_usd: str
    equity_first_usd: str | None
    equity_last_usd: str | None
    realized_usd: str | None
    execution: ExecutionSums | None
    alarms: tuple[RaisedAlarm, ...]
    page: str = ""  # name of the page's file, or the reason why it is missing


_ORDERS = (
    "SELECT purpose, status, symbol, side, filled, fees_usd FROM orders WHERE submitted_ns BETWEEN ? AND ? UNION ALL "
    "SELECT purpose, status, o.symbol, o.side, exact_sum(f.quantity), exact_sum(f.fees_usd) FROM fills AS f "
    "JOIN orders AS o USING (client_order_id) WHERE f.time_ns BETWEEN ? AND ? AND submitted_ns < ? "
    "GROUP BY client_order_id ORDER BY purpose, status"
)
"""Orders of a session, and fills in it of earlier orders, such as long-lived stops."""


def day_report(journal: Path, session: Session, day: Day | None = None) -> DayReport:
    """Return decisions, orders, fills, equity and alarms of one session, from its open to an hour after its close.

    A daily desk's session begins earlier, by as long as it may decide and send its sells before the open. Money is USD
    as text. The equity is that of its New York day; `realized_usd` is the gain since the last record before that day
    (or the first known equity); equity is None in a session without a bar. `execution` is None unless `day`, the
    session as `daemon.reports.gather` read it, is given. Raises JournalError, sqlite3.Error.
    """
    with closing(JournalReader(journal)) as reader:
        span = (session.open_ns - strategy_of(reader.meta()).spec.before_open_ns, session.close_ns + REPORT_SPAN_NS)
        outcomes = reader.query(
            f"SELECT outcome, count(*) AS n FROM decisions WHERE time_ns BETWEEN ? AND ? AND {NO_STOP} "
            "GROUP BY outcome",
            span,
        )
        orders = reader.query(_ORDERS, (*span, *span, span[0]))
        equity_before, equity = equity_of(reader, session)
        rows = (first_id(reader, span[0]), first_id(reader, span[1] + 1) - 1)  # times never decrease: no full scan
        alarms = reader.query(
            "SELECT time_ns, effects FROM events WHERE id BETWEEN ? AND ? AND effects LIKE '[%\"RaiseAlarm\"%' "
            "ORDER BY id",
            rows,
        )
        last = reader.last_entry()
        chain = Chain(last.id if last is not None else 0, reader.chain_head().hex())
    return DayReport(
        date=session.date,
        chain=chain,
        decisions={row["outcome"]: row["n"] for row in outcomes},
        orders=tuple(
            OrderCount(purpose, status, n)
            for (purpose, status), n in Counter((row["purpose"], row["status"]) for row in orders).items()
        ),
        contracts_bought=_filled_quantity(orders, 1, options=True),
        contracts_sold=_filled_quantity(orders, -1, options=True),
        shares_bought=_filled_quantity(orders, 1, options=False),
        shares_sold=_filled_quantity(orders, -1, options=False),
        fees_usd=str(sum((Decimal(row["fees_usd"]) for row in orders), Decimal(0))),
        equity_first_usd=equity[0]["equity_usd"] if equity else None,
        equity_last_usd=equity[-1]["equity_usd"] if equity else None,
        realized_usd=_gain([*equity_before, *equity]) if equity else None,
        execution=sums_of(day.quality) if day is not None else None,
        alarms=tuple(
            RaisedAlarm(row["time_ns"], name, detail) for row in alarms for name, detail in alarms_in(row["effects"])
        ),
    )


def newest_head(journal: Path) -> tuple[int, str]:
    """Return the last event row on the disk, and the chain's head there, hex. Raises JournalError, sqlite3.Error."""
    with closing(JournalReader(journal)) as reader:
        last = reader.last_entry()
        row = last.id if last is not None else 0
        return row, reader.chain_head(row).hex()


def _filled_quantity(orders: list[sqlite3.Row], side: int, *, options: bool) -> Quantity:
    """Return the contracts or shares filled by the orders of one side, with the broker's corrections."""
    own_rows = (row for row in orders if row["side"] == side and (parse_occ(row["symbol"]) is not None) == options)
    return total(of_column(row["filled"]) for row in own_rows)


def _gain(rows: list[sqlite3.Row]) -> str:
    return str(Decimal(rows[-1]["realized_usd"]) - Decimal(rows[0]["realized_usd"]))


def write_report(journal: Path, session: Session) -> Path:
    """Write the report to its `report_path`, then the page in the same folder; `page` names its file or the error.

    Raises JournalError, OSError, sqlite3.Error if the report itself cannot be made or written.
    """
    path = report_path(journal, session)
    day, page, failure = _page(journal, session)
    report = day_report(journal, session, day)
    path.parent.mkdir(mode=0o750, exist_ok=True)
    _write_json(path, replace(report, page=f"not made: {failure}" if failure else path.with_suffix(".html").name))
    if page:
        try:
            whole_text(path.with_suffix(".html"), page)
        except OSError as error:  # the report comes first, even if there is no room for the page
            with suppress(OSError):
                _write_json(path, replace(report, page=f"not written: {error}"))
    return path


def _page(journal: Path, session: Session) -> tuple[Day | None, str, str]:
    """Return the session and its page, and the error if one is missing."""
    day: Day | None = None
    try:
        day = read_day(journal, session)
        return day, day_page(day), ""
    except PAGE_FAILURES as error:
        return day, "", f"{type(error).__name__}: {error}"


def _write_json(path: Path, report: DayReport) -> None:
    whole_text(path, json.dumps(msgspec.to_builtins(report, enc_hook=to_json), indent=1) + "\n")
