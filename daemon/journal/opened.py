"""A journal as readers and tools see it: opened for reading alone, its rows as objects, its hash chain checked.

Also while a daemon writes it: each read is a short transaction, nothing is locked, nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, get_args

import msgspec

from daemon.core.events import AnyEvent, Event
from daemon.core.records import DecisionRow, EquityRow, FillRow, OrderRow, Row
from daemon.journal.equity import EquityDay, equity_days
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader, reading
from daemon.journal.rows import Entry, base_of, chain_start, is_whole
from daemon.journal.trade import Trade
from daemon.journal.trades import (
    RESULTS,
    SIDES,
    SORTS,
    Totals,
    Wanted,
    day_begin,
    day_end,
    read_trades,
    with_trades,
)
from strategies.kit.quantity import Quantity, of_column

R = TypeVar("R", bound=Row)
T = TypeVar("T")
PAGE, SPAN = 2000, 20_000  # rows that one read returns at most, and rows that it scans
KINDS = frozenset(kind.__name__ for kind in get_args(AnyEvent))


class ChainCheck(msgspec.Struct, frozen=True):
    """What the check of a file's hash chain found. `difference` is "" where each row is as it was written.

    Attributes:
        rows: rows whose hash was computed again.
        head: hash of the last chained row, 64 hexadecimal digits: the one that the desk publishes.
        difference: the first row that is not as it was written, in words; the rows before it are.
    """

    rows: int
    head: str
    difference: str = ""


class AccountAt(msgspec.Struct, frozen=True, kw_only=True):
    """The account after a row, as the journal's tables have it. Amounts are USD, exact decimals.

    Attributes:
        row: id of the row.
        seq: sequence of the last chained row up to it, 0 before the first.
        time_ns: time of the row, nanoseconds UTC.
        equity_usd, cash_usd, realized_usd: by the newest record of the equity that is no later; None before the first.
        marked_ns: when that record was made, nanoseconds UTC.
        positions: symbol to contracts or shares, negative when short; what is flat is left out.
    """

    row: int
    seq: int
    time_ns: int
    equity_usd: Decimal | None = None
    cash_usd: Decimal | None = None
    realized_usd: Decimal | None = None
    marked_ns: int | None = None
    positions: dict[str, Quantity] = {}


def open(path: Path | str) -> OpenJournal:  # noqa: A001 - `journal.open`, as `gzip.open`
    """Open the journal in a state directory, or a file of one, for reading. A daemon may run on it meanwhile.

    After a rotation the state directory's own file has all decisions, orders, fills, trades and equity, and the events
    since; earlier events are in its `rotated/*.sqlite`, which are opened by their paths.

    Raises:
        JournalError: there is none, it is damaged, or another version wrote it; the text names file, fault and cure.
        JournalBusy: it cannot be read at the moment (a JournalError): try again.

    >>> from daemon import journal
    >>> with journal.open("state") as book:  # of `rltraderd --dry-run --state-dir state --bars FILE`
    ...     print(book.strategy, book.check_chain().difference == "")
    option_scalper True
    >>> journal.open("elsewhere")
    Traceback (most recent call last):
    daemon.journal.rows.JournalError: elsewhere/journal.sqlite: no journal here; is this the right --state-dir?
    """
    path_given = Path(path)
    return OpenJournal(
        path_given if path_given.is_file() or path_given.suffix == Path(FILE).suffix else path_given / FILE
    )


class OpenJournal:
    """A journal that is open for reading; `open` makes one. Use it in a `with` statement, or `close` it.

    Rows, decisions, orders, fills and records of equity come one by one, in pages: a journal of any size fits.
    Every method raises JournalError where the file is damaged, and JournalBusy where it cannot be read at the moment.
    Times are nanoseconds UTC; amounts in the tables' rows are text, exact decimals of USD.

    >>> from daemon import journal
    >>> book = journal.open("state")
    >>> fills = book.events("OrderFilled")  # lazily, oldest first
    >>> first = next(fills)
    >>> type(first).__name__, first.price > 0
    ('OrderFilled', True)
    >>> {decision.outcome for decision in book.decisions()} >= {"hold", "ordered", "denied"}
    True
    >>> won = book.trades(result="win", sort="pnl")
    >>> won[0].pnl_usd >= won[-1].pnl_usd > 0
    True
    >>> totals = book.totals()
    >>> totals.trades == len(book.trades()), totals.wins == len(won)
    (True, True)
    >>> at = book.at(next(book.rows("OrderFilled")).id)  # the account after the first fill
    >>> list(at.positions) == [first.symbol], at.seq > 0
    (True, True)
    >>> book.query("SELECT count(*) AS n FROM trades")[0]["n"] == totals.trades  # any SELECT
    True
    >>> book.close()
    """

    def __init__(self, path: Path) -> None:
        self._reader = JournalReader(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. What was read stays."""
        self._reader.close()

    @property
    def path(self) -> Path:
        """The file."""
        return self._reader.path

    @property
    def meta(self) -> Mapping[str, str]:
        """What the journal was made with: `strategy`, `epoch`, `account`, …, and its end as `head`."""
        return self._read(self._reader.meta)

    @property
    def strategy(self) -> str:
        """The name of the desk's strategy."""
        return self.meta.get("strategy", "")

    def rows(self, *kinds: str, after: int = 0) -> Iterator[Entry]:
        """Yield the rows of events, oldest first: all of them, or those of these kinds, with an id above `after`.

        To follow a desk at work, ask again after the last id. After a rotation the first id is not 1.

        Raises:
            ValueError: no event has that name.
        """
        if unknown_kinds := sorted(set(kinds) - KINDS):
            raise ValueError(f"{unknown_kinds[0]!r} is no kind of event: expected some of {', '.join(sorted(KINDS))}")
        return self._entries(frozenset(kinds), after)

    def _entries(self, kinds: frozenset[str], after_id: int) -> Iterator[Entry]:
        with reading(self.path):
            if not kinds:
                yield from self._reader.entries(after_id)
                return
            kinds_text = ", ".join(f"'{kind}'" for kind in sorted(kinds))
            query = f"SELECT {', '.join(Entry._fields)} FROM events WHERE id > ? AND id <= ? AND kind IN ({kinds_text})"
            first, last = self._ends()
            after_id = max(after_id, first - 1)
            while after_id < last:
                yield from map(Entry._make, self._reader.query(f"{query} ORDER BY id", (after_id, after_id + SPAN)))
                after_id, last = after_id + SPAN, self._ends()[1]

    def _ends(self) -> tuple[int, int]:
        """The ids of the first and the last row, 0 of a journal without any."""
        (ends,) = self._reader.query("SELECT min(id) AS first, max(id) AS last FROM events")
        return ends["first"] or 0, ends["last"] or 0

    def events(self, *kinds: str, after: int = 0) -> Iterator[Event]:
        """Yield the events of `rows`: frozen structs of `daemon.core.events`, with `time_ns` and their own fields.

        Raises:
            ValueError: no event has that name, or a row holds what is no event of this version.
        """
        return (entry.event for entry in self.rows(*kinds, after=after))

    def decisions(self) -> Iterator[DecisionRow]:
        """Yield the decisions of the policy and of the rules, oldest first."""
        return self._table(DecisionRow, "decision")

    def orders(self) -> Iterator[OrderRow]:
        """Yield the orders as they are now, in the order in which they were submitted."""
        return self._table(OrderRow, "submitted_ns, client_order_id")

    def fills(self) -> Iterator[FillRow]:
        """Yield the fills, each once, in the order in which the desk learned of them."""
        return self._table(FillRow, "time_ns, filled_ns, client_order_id, correction, cumulative + 0")

    def equity(self) -> Iterator[EquityRow]:
        """Yield the records of the equity: at a bar while a position is open, at a session's first bar and its end."""
        return self._table(EquityRow, "time_ns")

    def equity_days(self) -> tuple[EquityDay, ...]:
        """Return the equity of each New York day, oldest first."""
        return self._read(lambda: equity_days(self._reader))

    def trades(
        self,
        symbol: str = "",
        *,
        start: str = "",
        end: str = "",
        side: str = "",
        result: str = "",
        open_only: bool = False,
        sort: str = "time",
        limit: int = 0,
    ) -> tuple[Trade, ...]:
        """Return the round trips from flat to flat that match, newest first, those that are still open before all.

        Args:
            symbol: a share, an underlying or an OCC symbol; "": all.
            start, end: New York days, `YYYY-MM-DD`, both included, of the exit; of an open trade of the entry.
            side: "long", "short", "call" or "put".
            result: "win" or "loss", of closed trades.
            open_only: those that are not closed yet.
            sort: "time", "pnl" or "duration", the largest first.
            limit: at most so many; 0: all.

        Raises:
            ValueError: a day, side, result or sort that is not one of these.
        """
        wish = _wish(symbol, start, end, side, result, open_only=open_only, sort=sort, limit=limit)
        return self._read(lambda: read_trades(self._reader, wish).trades)

    def totals(
        self,
        symbol: str = "",
        *,
        start: str = "",
        end: str = "",
        side: str = "",
        result: str = "",
        open_only: bool = False,
    ) -> Totals:
        """Return the sums over the trades that match, with the arguments of `trades`."""
        wish = _wish(symbol, start, end, side, result, open_only=open_only, sort="time", limit=1)
        return self._read(lambda: read_trades(self._reader, wish).totals)

    def at(self, row: int) -> AccountAt:
        """Return the account after the event row of this id, from the journal's tables: nothing is stepped again.

        Raises:
            ValueError: the file has no such row.
        """
        return self._read(lambda: self._at(row))

    def _at(self, row: int) -> AccountAt:
        rows = self._reader.query("SELECT time_ns FROM events WHERE id = ?", (row,))
        if not rows:
            first, last = self._ends()
            raise ValueError(f"{self.path} has no row {row}: expected one from {first} to {last}")
        time_ns = rows[0]["time_ns"]
        chain_rows = self._reader.query(
            "SELECT seq FROM events WHERE seq IS NOT NULL AND id <= ? ORDER BY id DESC LIMIT 1", (row,)
        )
        base = base_of(self._reader.meta())
        seq = chain_rows[0]["seq"] if chain_rows else 0 if base is None else base.seq
        equity_rows = self._reader.query(
            "SELECT time_ns, equity_usd, cash_usd, realized_usd FROM equity WHERE time_ns <= ? "
            "ORDER BY time_ns DESC LIMIT 1",
            (time_ns,),
        )
        with with_trades(self._reader) as query:  # moves that follow from fills alone have no sequence
            moves = query(
                "SELECT symbol, held FROM moves WHERE opened_ns <> 0 AND time_ns <= :time AND seq <= :seq "
                "ORDER BY time_ns, seq, part",
                {"time": time_ns, "seq": seq},
            )
        holdings = {move["symbol"]: of_column(move["held"]) for move in moves}
        positions = {symbol: count for symbol, count in holdings.items() if count}
        at = AccountAt(row=row, seq=seq, time_ns=time_ns, positions=positions)
        if not equity_rows:
            return at
        return msgspec.structs.replace(
            at,
            equity_usd=Decimal(equity_rows[0]["equity_usd"]),
            cash_usd=Decimal(equity_rows[0]["cash_usd"]),
            realized_usd=Decimal(equity_rows[0]["realized_usd"]),
            marked_ns=equity_rows[0]["time_ns"],
        )

    def head(self, row: int | None = None) -> str:
        """Return the chain's head, 64 hexadecimal digits: at the end, or as it was after the event row of this id.

        With its row it is what the desk publishes in its log and reports. Keep it elsewhere, and compare it later.
        """
        return self._read(lambda: self._reader.chain_head(row).hex())

    def check_chain(self) -> ChainCheck:
        """Compute the hash of every row again and compare, in one pass; a difference is returned, not raised.

        It proves that no row was changed, added or removed without computing all later hashes again; whoever wrote the
        file could do that: compare `head` with a published one. `rltraderctl verify` also steps every event again.
        """
        return self._read(lambda: _check_chain(self._reader))

    def query(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """Return the rows of any SELECT over the journal's tables, each a `sqlite3.Row`: `row["usd"]`, `dict(row)`."""
        return self._read(lambda: self._reader.query(sql, parameters))  # type: ignore[arg-type]

    def _read(self, read: Callable[[], T]) -> T:
        with reading(self.path):
            return read()

    def _table(self, row_type: type[R], order: str) -> Iterator[R]:
        """Yield the rows of a table. They are taken in pages, so that a writer is not kept waiting."""
        columns = row_type.__struct_fields__
        quantities = [field.name for field in msgspec.structs.fields(row_type) if field.type is Quantity]
        offset = 0
        while True:
            rows = self.query(
                f"SELECT {', '.join(columns)} FROM {row_type.TABLE} ORDER BY {order} LIMIT ? OFFSET ?", (PAGE, offset)
            )
            for row in rows:
                values = dict(zip(columns, tuple(row), strict=True))
                yield row_type(**values | {name: of_column(values[name]) for name in quantities})
            if len(rows) < PAGE:
                return
            offset += PAGE


def _wish(
    symbol: str, start: str, end: str, side: str, result: str, *, open_only: bool, sort: str, limit: int
) -> Wanted:
    for name, value, choices in (
        ("side", side, ("", *SIDES)),
        ("result", result, ("", *RESULTS)),
        ("sort", sort, SORTS),
    ):
        if value not in choices:
            choices_text = ", ".join(repr(one) for one in choices if one)
            raise ValueError(f"{name} is {value!r}: expected one of {choices_text}")
    return Wanted(
        symbol=symbol,
        start_ns=day_begin(start),
        end_ns=day_end(end),
        side=side,
        result=result,
        open_only=open_only,
        sort=sort,
        limit=limit,
    )


def _check_chain(reader: JournalReader) -> ChainCheck:
    meta = reader.meta()  # its end too: a daemon may append rows meanwhile, but removes none
    base, (end, _, end_text) = base_of(meta), meta.get("head", "").partition(":")
    previous, seq, row = chain_start(meta), 0, 0
    if base is not None:
        seq, row = base.seq, base.row
    count = 0
    for entry in reader.entries():
        row += 1
        where = f"row {entry.id} ({entry.kind})"
        if entry.id != row:
            return ChainCheck(count, previous.hex(), f"row {row} is missing, row {entry.id} follows")
        if not is_whole(entry, previous) or (str(row) == end and entry.hash.hex() != end_text):
            words = f"{where}: its hash does not match: it, or what is before it, was changed"
            return ChainCheck(count, previous.hex(), words)
        if entry.seq is not None and entry.seq != seq + 1:
            return ChainCheck(count, previous.hex(), f"{where}: its sequence is {entry.seq}, expected {seq + 1}")
        if entry.seq is not None:
            previous, seq = entry.hash, entry.seq
        count += 1
    short = f"the journal's end is row {end}, found {row}" if row < int(end or 0) else ""
    return ChainCheck(count, previous.hex(), short)
