"""Performance of a desk's journal over a span, and of several desks and their sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
from msgspec.structs import replace

from daemon.journal.equity import EquityDay, at_work, equity_days
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader, reading
from daemon.journal.rows import strategy_of, symbols_of
from daemon.journal.trades import LONGEST, TradeList, Wanted, read_trades, with_trades
from daemon.operator.fleet import distinct, folder_names
from daemon.reports.performance.figures import (
    DaySpan,
    Performance,
    Series,
    begin_of,
    performance,
    span_of,
    sum_desks,
    totals_of,
)
from daemon.reports.performance.prices import Closes, closes_at, held_returns
from daemon.reports.words import kind_of
from strategies.kit.contract import Spec

_HELD = "SELECT opened_ns, iif(entered + left_again = 0, left_ns, NULL) AS left_ns FROM round_trips"


class Benchmark(msgspec.Struct, frozen=True):
    """A benchmark: a name, and its closes by New York date, or a symbol of the journal (no closes)."""

    name: str
    closes: dict[str, float] = {}


class DeskPerformance(msgspec.Struct, frozen=True, kw_only=True):
    """A desk's figures and what they are of."""

    desk: str
    strategy: str
    mode: str
    synthetic: bool
    symbols: tuple[str, ...]  # what it may trade: its own bars can be a benchmark
    figures: Performance
    account: str = ""
    tape: str = ""

    @property
    def kind(self) -> str:
        """How it ran, on which account, on which bars, in words."""
        return kind_of(self.mode, self.account, synthetic=self.synthetic, tape=self.tape)


def spec_of(meta: Mapping[str, str]) -> Spec | None:
    """Return the spec of a journal's strategy, None if this code does not know it."""
    try:
        return strategy_of(meta).spec
    except (KeyError, ValueError):
        return None


def held_times(reader: JournalReader) -> list[tuple[int, int]]:
    """Return the times from and to for each position held, in nanoseconds; `LONGEST` if it is still open."""
    with with_trades(reader) as query:
        return [(row["opened_ns"], LONGEST if row["left_ns"] is None else row["left_ns"]) for row in query(_HELD, {})]


def read_span(
    days: Sequence[EquityDay],
    holding_times: Sequence[tuple[int, int]],
    first_date: str,
    last_date: str,
    range_name: str,
) -> DaySpan:
    """Return the chosen days: from a date to another, or a range that ends with the newest day."""
    if range_name and days:
        first_date = begin_of(range_name, days[-1].date)
    return span_of(days, first_date, last_date, min((opened_ns for opened_ns, _ in holding_times), default=None))


def read_performance(
    reader: JournalReader,
    first_date: str = "",
    last_date: str = "",
    range_name: str = "",
    benchmark: Benchmark | None = None,
) -> DeskPerformance:
    """Return a desk's figures over a span, or over one of `RANGES`. Raises JournalError, sqlite3.Error."""
    return _desk(reader, first_date, last_date, range_name, benchmark)[0]


def read_alone(reader: JournalReader) -> Performance:
    """Return the figures of all days without benchmarks: no strategy is imported. Raises sqlite3.Error."""
    days, holding_times = equity_days(reader), held_times(reader)
    span = read_span(days, holding_times, "", "", "")
    start_ns, end_ns = span.times
    return performance(
        span, holding_times, read_trades(reader, Wanted(start_ns=start_ns, end_ns=end_ns, limit=1)).totals
    )


def _desk(
    reader: JournalReader, first_date: str, last_date: str, range_name: str, benchmark: Benchmark | None
) -> tuple[DeskPerformance, Sequence[EquityDay], list[tuple[int, int]], TradeList]:
    meta, days, holding_times = reader.meta(), equity_days(reader), held_times(reader)
    span = read_span(days, holding_times, first_date, last_date, range_name)
    start_ns, end_ns = span.times
    trades = read_trades(reader, Wanted(start_ns=start_ns, end_ns=end_ns))
    spec = spec_of(meta)
    symbols = spec.symbols if spec is not None else symbols_of(meta)
    closes = _closes(reader, spec, symbols, span)
    figures = performance(
        span, holding_times, trades.totals, at_work(reader, start_ns, end_ns), _lines(closes, span, benchmark, symbols)
    )
    desk = DeskPerformance(
        desk=meta.get("desk", ""),
        strategy=meta.get("strategy", ""),
        mode=meta.get("mode", ""),
        synthetic=bool(meta.get("synthetic")),
        symbols=tuple(symbols),
        figures=figures,
        account=meta.get("account", ""),
        tape=meta.get("tape", ""),
    )
    return desk, days, holding_times, trades


def _closes(reader: JournalReader, spec: Spec | None, symbols: Sequence[str], span: DaySpan) -> Closes:
    """Return the closes of the span's days and of the one before."""
    days = (*((span.before,) if span.before is not None else ()), *span.chosen)
    return closes_at(reader, symbols, days, decides=spec.decides if spec is not None else "bar")


def _lines(closes: Closes, span: DaySpan, benchmark: Benchmark | None, symbols: Sequence[str]) -> dict[str, Series]:
    lines = {_hold_name(symbols): held_returns(list(closes.values()), span)}
    if benchmark is not None:
        lines[benchmark.name] = held_returns([benchmark.closes or closes.get(benchmark.name, {})], span)
    return {name: line for name, line in lines.items() if line is not None}


def _hold_name(symbols: Sequence[str]) -> str:
    name = ", ".join(symbols) if len(symbols) <= 3 else f"{len(symbols)} symbols"
    return f"buy and hold of {name}"


# --- several desks ----------------------------------------------------------------------------------------------------


class Sheet(msgspec.Struct, frozen=True):
    """The figures of several desks, and of their sum where there are several."""

    desks: tuple[DeskPerformance, ...]
    total: Performance | None = None


def read_sheet(
    state_dirs: Sequence[Path],
    first_date: str = "",
    last_date: str = "",
    range_name: str = "",
    benchmark: Benchmark | None = None,
    names: Sequence[str] = (),
) -> Sheet:
    """Return the figures of these state directories. A range ends with the newest day of each desk.

    The desks have these `names`, else their journals'; desks with equal names get their folders' names. Raises
    JournalError.
    """
    desks, all_days, all_holding_times, all_trades = [], [], [], []
    for path in state_dirs:
        with closing(JournalReader(path / FILE)) as reader, reading(path / FILE):
            desk, days, holding_times, trades = _desk(reader, first_date, last_date, range_name, benchmark)
        desks.append(desk)
        all_days.append(days)
        all_holding_times += holding_times
        all_trades.append(trades)
    if len(desks) < 2:
        return Sheet(tuple(desks))
    if not names:
        names = distinct([(desk.desk, *folder_names(path)) for desk, path in zip(desks, state_dirs, strict=True)])
    desks = [replace(desk, desk=name) for desk, name in zip(desks, names, strict=True)]
    span = read_span(sum_desks(all_days), all_holding_times, first_date, last_date, range_name)
    totals = totals_of(
        [trade for trades in all_trades for trade in trades.trades],
        sum(trades.totals.other_usd for trades in all_trades),
    )
    lines = {}
    if benchmark is not None and benchmark.closes and (line := held_returns([benchmark.closes], span)) is not None:
        lines[benchmark.name] = line
    return Sheet(tuple(desks), performance(span, all_holding_times, totals, None, lines))
