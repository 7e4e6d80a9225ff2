"""Report on a file of option quotes: its faults, and the contracts and minutes that it covers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import numpy as np

from daemon.host.time.calendar import SessionCalendar
from daemon.tapes.minutes import utc_text
from daemon.tapes.quotes.faults import FAULTS, REMARKS, faults, gaps, over_time
from daemon.tapes.quotes.reader import Int64Array, QuoteArrays, QuoteFile
from daemon.tapes.quotes.schema import MINUTE
from daemon.tapes.quotes.spot import spots
from strategies.kit.contract import Session
from strategies.kit.units import MINUTE_NS

EXAMPLES = 3
MONEYNESS = (0.005, 0.01, 0.02, 0.05)  # of |strike / underlying - 1|, upper bounds
MONEYNESS_NAMES = ("0.5 %", "1 %", "2 %", "5 %", "beyond", "unknown")


class Finding(msgspec.Struct, frozen=True):
    """A fault or a remark: how many rows (of `gaps`: minutes), in how many contracts, and the first of them."""

    name: str
    fault: bool
    rows: int
    contracts: int
    examples: tuple[str, ...]


class Cover(msgspec.Struct, frozen=True):
    """The contracts of one session, expiry and distance of the strike: rows, and rows there could be at most."""

    date: str
    expiry: str
    days: int  # calendar days to the expiry
    moneyness: str  # upper bound of |strike / underlying - 1| at the session's median
    contracts: int
    rows: int
    two_sided: int
    possible: int  # contracts x times of the session


class QuoteReport(msgspec.Struct, frozen=True):
    """The whole report. `version` counts changes of this structure."""

    version: int
    file: str
    rows: int
    sessions: int
    first_date: str
    last_date: str
    interval: str
    format: str
    synthetic: str
    sources: tuple[str, ...]
    findings: tuple[Finding, ...]
    coverage: tuple[Cover, ...]

    @property
    def faulty(self) -> int:
        """Count of all faults, a row once for each."""
        return sum(finding.rows for finding in self.findings if finding.fault)


class _Tally:
    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.contracts: dict[str, set[str]] = {name: set() for name in (*FAULTS, *REMARKS)}
        self.examples: dict[str, list[str]] = {name: [] for name in (*FAULTS, *REMARKS)}

    def add(self, quotes: QuoteArrays, session: Session | None, *, minutes: bool) -> None:
        names = quotes.contracts.symbols
        masks = faults(quotes, session, minutes=minutes) | (over_time(quotes) if minutes else {})
        for name, mask in masks.items():
            rows = np.flatnonzero(mask)
            if rows.size:
                self.rows[name] += rows.size
                self.contracts[name].update(names[code] for code in np.unique(quotes.codes[rows]).tolist())
                first = rows[: max(EXAMPLES - len(self.examples[name]), 0)].tolist()
                self.examples[name] += [_example(quotes, row) for row in first]
        missing = gaps(quotes) if minutes else np.zeros(0, dtype=np.int64)
        for code in np.flatnonzero(missing).tolist():
            self.rows["gaps"] += int(missing[code])
            self.contracts["gaps"].add(names[code])
            if len(self.examples["gaps"]) < EXAMPLES:
                self.examples["gaps"].append(f"{names[code]} {quotes.date}: {missing[code]} minutes")

    def findings(self) -> tuple[Finding, ...]:
        return tuple(
            Finding(name, name in FAULTS, self.rows[name], len(self.contracts[name]), tuple(self.examples[name]))
            for name in (*FAULTS, *REMARKS)
            if self.rows[name]
        )


def report_on(path: Path) -> QuoteReport:
    """Read the whole file and report on it; memory holds one session.

    Raises TapeError for an unusable file, CalendarError for dates outside the calendar.
    """
    file = QuoteFile(path)
    minutes = file.interval == MINUTE
    tally, cover = _Tally(), list[Cover]()
    sources: set[str] = set()
    dates: list[str] = []
    calendar: SessionCalendar | None = None
    for quotes in file.sessions():
        if calendar is None:
            calendar = SessionCalendar.to_horizon(quotes.date)
            days = {session.date: session for session in calendar.sessions}
        session = days.get(quotes.date)
        tally.add(quotes, session, minutes=minutes)
        cover.extend(coverage_of(quotes, session, minutes=minutes))
        sources.update(quotes.sources)
        dates.append(quotes.date)
    return QuoteReport(
        version=1,
        file=path.name,
        rows=file.rows,
        sessions=len(dates),
        first_date=dates[0] if dates else "",
        last_date=dates[-1] if dates else "",
        interval=file.interval,
        format=file.format,
        synthetic=file.synthetic,
        sources=tuple(sorted(sources)),
        findings=tally.findings(),
        coverage=tuple(cover),
    )


def coverage_of(quotes: QuoteArrays, session: Session | None, *, minutes: bool) -> list[Cover]:
    """Return the coverage of one session, by expiry and by distance of the strike.

    With `minutes` a contract could have a row for each minute of the session, else for each time of the file.
    """
    contracts, codes = quotes.contracts, quotes.codes
    inside = np.ones(codes.size, dtype=np.bool_)
    if session is not None:
        inside = (quotes.end_ns > session.open_ns) & (quotes.end_ns <= session.close_ns)
    times = int(np.unique(quotes.end_ns[inside]).size)
    if session is not None and minutes:
        times = (session.close_ns - session.open_ns) // MINUTE_NS
    count = len(contracts.symbols)
    rows = np.bincount(codes[inside], minlength=count)
    mid_counts = np.bincount(codes[inside & np.isfinite(quotes.mid)], minlength=count)
    place = _moneyness(quotes)
    cells = []
    for expiry in np.unique(contracts.expiry[~np.isnat(contracts.expiry)]):
        for number, name in enumerate(MONEYNESS_NAMES):
            in_cell = (contracts.expiry == expiry) & (place == number)
            if in_cell.any():
                days = int((expiry - np.datetime64(quotes.date)).astype(int))
                counts = int(in_cell.sum()), int(rows[in_cell].sum()), int(mid_counts[in_cell].sum())
                cells.append(Cover(quotes.date, str(expiry), days, name, *counts, counts[0] * times))
    return cells


def _example(quotes: QuoteArrays, row: int) -> str:
    symbol, when = quotes.contracts.symbols[quotes.codes[row]], utc_text(int(quotes.end_ns[row]))
    return f"{symbol} {when} {quotes.bid[row]:g} / {quotes.ask[row]:g}"


def _moneyness(quotes: QuoteArrays) -> Int64Array:
    """Return (k,) index into MONEYNESS_NAMES of each contract, at the median of its root's underlying."""
    contracts = quotes.contracts
    spot = spots(quotes)
    place = np.full(len(contracts.symbols), len(MONEYNESS_NAMES) - 1, dtype=np.int64)
    roots = np.array(contracts.roots, dtype=object)
    for root in set(contracts.roots) - {""}:
        prices = spot[(roots == root)[quotes.codes]]
        prices = prices[np.isfinite(prices)]
        if prices.size:
            apart = np.abs(contracts.strike / np.median(prices) - 1)
            place = np.where(roots == root, np.searchsorted(MONEYNESS, apart), place)
    return place
