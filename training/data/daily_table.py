"""A daily bars file as arrays: sessions by symbols, prices on the grid at which fills happen, features of each close.

Row d knows the session d and those before it alone. Prices are whole ticks (1e-4 USD) as exact float64, so that money
can be counted without rounding; features are those of the live path, bit for bit (`strategies.kit.entry.Columns`).
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from math import isfinite
from pathlib import Path
from zipfile import BadZipFile

import msgspec
import numpy as np

import daemon.tapes
import strategies
from daemon.core.limits import Basket
from daemon.core.paper.shares import on_grid
from daemon.host.time.calendar import SESSIONS_AROUND, midnight_ns
from daemon.tapes.days import DailyTapeSource, scan_daily
from daemon.tapes.files import TapeError
from strategies.golden import contract_hash
from strategies.kit.contract import Bar, DailySpec, DailyStrategy, Float32Array, Session
from strategies.kit.entry import BoolArray, Columns, Float64Array
from strategies.registry import configured, entry
from training.data.sessions import calendar_of_bars, days_of

TICKS = 10_000
"""Ticks of a US dollar: the grid of prices in the paper broker and here."""
OPEN, HIGH, LOW, CLOSE, VOLUME = range(5)


@dataclass(frozen=True, slots=True)
class DailyTable:
    """A daily bars file made ready; d sessions, n symbols in the strategy's order."""

    file: str
    sha256: str  # of the file's bytes
    synthetic: str  # the label of made-up bars, empty for recorded ones
    symbols: tuple[str, ...]
    history_bars: int  # W
    sessions: tuple[Session, ...]  # (d,) ascending; those on which a symbol has a bar
    bars: Float64Array  # (5, d, n): open, high, low, close in USD and volume, adjusted; NaN where there is no bar
    present: BoolArray  # (d, n): there is a good bar
    open_ticks: Float64Array  # (d, n) whole ticks, 0 where there is no bar
    close_ticks: Float64Array  # (d, n) whole ticks, the last known close, 0 before the first
    features: Float32Array  # (d, columns): the market columns of an observation after the close of d
    tradable: Float32Array  # (d, n): 1 or 0, the strategy's masking rule after the close of d
    warm: BoolArray  # (d,): the strategy has an observation after the close of d
    remark: str = ""  # what of the file counts for nothing, where that is much
    calendar: tuple[Session, ...] = ()  # all sessions of the exchange in between, where the file lacks some whole

    @property
    def stale(self) -> BoolArray:
        """Where the session before brought no bar, bool (d,): a desk denies every basket of the day."""
        has_bars: BoolArray = np.logical_or.reduce(self.present, axis=1)
        stale = np.zeros(len(self.sessions), dtype=np.bool_)
        for day in range(1, len(stale)):
            _, previous = self.around(day)
            stale[day] = not has_bars[day - 1] or previous[-1] != self.sessions[day - 1]
        return stale

    def around(self, day: int) -> tuple[tuple[Session, ...], tuple[Session, ...]]:
        """The sessions after a session and those before it, as its announcement has them."""
        sessions = self.calendar or self.sessions
        place = bisect_left(sessions, self.sessions[day].date, key=lambda session: session.date)
        return sessions[place + 1 : place + 1 + SESSIONS_AROUND], sessions[max(place - SESSIONS_AROUND, 0) : place]

    @property
    def dates(self) -> tuple[str, ...]:
        """New York dates of the sessions."""
        return tuple(session.date for session in self.sessions)

    @property
    def first_decision(self) -> int:
        """The first session before whose open the strategy is warm: where training begins."""
        return int(np.argmax(self.warm)) + 1 if self.warm.any() else len(self.sessions)

    @property
    def without_bars(self) -> tuple[str, ...]:
        """The symbols that the file has no good bar of."""
        return tuple(symbol for place, symbol in enumerate(self.symbols) if not self.present[:, place].any())

    def weekday(self, day: int) -> int:
        """0 Monday to 4 Friday of a session; of the one after the last, the next weekday."""
        if day < len(self.sessions):
            return date.fromisoformat(self.sessions[day].date).weekday()
        return (date.fromisoformat(self.sessions[-1].date).weekday() + 1) % 7 % 5

    def span(self, dates: Sequence[str]) -> tuple[int, int]:
        """Indices of the first and the last of `dates`. Raises ValueError when one is no session of the table."""
        index = {session.date: place for place, session in enumerate(self.sessions)}
        missing = [day for day in (*dates[:1], *dates[-1:]) if day not in index]
        if missing or not dates:
            raise ValueError(f"{self.file}: no session {missing or 'given'}; expected dates from {self.dates[0]} to "
                             f"{self.dates[-1]}: check the split against the file")  # fmt: skip
        return index[dates[0]], index[dates[-1]]

    def day_bars(self, day: int) -> tuple[Bar, ...]:
        """The good bars of a session, in the order of symbols."""
        start = midnight_ns(self.sessions[day].date)
        return tuple(
            Bar(symbol, start, *self.bars[:, day, place].tolist())
            for place, symbol in enumerate(self.symbols)
            if self.present[day, place]
        )


def table_cache() -> Path:
    """The folder of cached tables: `$XDG_CACHE_HOME/rltrader`, or one under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rltrader" / "tables"


@cache
def sources() -> str:
    """Eight hex digits over what makes a table of bars: all files of `strategies` and `daemon.tapes`, and this one."""
    digest = hashlib.sha256()
    for root in map(Path, (*strategies.__path__, *daemon.tapes.__path__)):
        for path in (*sorted(root.rglob("*.py")), Path(__file__)):
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def read_table(path: Path, strategy: DailyStrategy, store: Path | None = None) -> DailyTable:
    """Read a bars file as a replay is fed from it, or what `store` keeps of the same bytes, contract and code.

    Raises:
        TapeError: the file cannot be read, or has no bar of the strategy's symbols, or of one without which the
            strategy can decide on no day.
        CalendarError: its dates are not known.
    """
    spec = strategy.spec
    info = scan_daily(path, spec.symbols)
    universe = ",".join(configured(spec)).encode()  # which the contract leaves out where it is open
    contract = contract_hash(strategy)[:16] + (hashlib.sha256(universe).hexdigest()[:8] if universe else "")
    cache_path = None if store is None else store / f"{info.sha256[:16]}-{contract}-{sources()}.npz"
    table = None if cache_path is None else _restore(cache_path, path.name, info.sha256, spec)
    if table is not None:
        return table
    calendar = calendar_of_bars((path, info))
    source = DailyTapeSource(path, info, calendar, Basket())
    bars, sessions, _ = days_of(source, spec.symbols)
    table = _assemble(bars, sessions, spec, path.name, info.sha256, info.synthetic)
    table = replace(table, remark=source.counts.remark)
    if source.counts.absent_sessions:
        first, last = table.dates[0], table.dates[-1]
        table = replace(table, calendar=tuple(day for day in calendar.sessions if first <= day.date <= last))
    if table.without_bars and not table.warm.any():
        lost, present = ", ".join(table.without_bars), ", ".join(sorted(set(spec.symbols) - set(table.without_bars)))
        but = f", but of {present}" if present else ""
        why = f"{source.counts.rejection} " if source.counts.rejection else ""
        raise TapeError(
            f"{path} has no bar of {lost}{but}: {why}{spec.name} can decide on no day without it: correct the "
            "strategy's symbols, or give a file that has them all"
        )
    if cache_path is not None:
        _keep(cache_path, table)
    return table


def table_of(
    bars: Float64Array, sessions: Sequence[Session], spec: DailySpec, *, file: str = "made up", synthetic: str = "yes"
) -> DailyTable:
    """A table of bars that are at hand, float64 (5, d, n) with NaN where there is none, in the spec's order."""
    digest = hashlib.sha256(np.ascontiguousarray(bars).tobytes()).hexdigest()
    return _assemble(bars, tuple(sessions), spec, file, digest, synthetic)


def ticks(prices: Float64Array) -> Float64Array:
    """Whole ticks of 1e-4 USD, shaped as `prices` in USD, on the paper broker's grid; 0 for what is not finite."""
    flat = [float(on_grid(price).scaleb(4)) if isfinite(price) else 0.0 for price in prices.ravel().tolist()]
    return np.array(flat, dtype=np.float64).reshape(prices.shape)


def _assemble(
    bars: Float64Array, sessions: tuple[Session, ...], spec: DailySpec, file: str, digest: str, synthetic: str
) -> DailyTable:
    present: BoolArray = np.logical_and.reduce(np.isfinite(bars), axis=0)
    close = ticks(bars[CLOSE])
    for day in range(1, len(close)):
        close[day] = np.where(present[day], close[day], close[day - 1])
    columns = entry(spec.name).columns or _without_columns
    inputs = columns(bars, present, spec.history_bars, [session.date for session in sessions])
    return DailyTable(
        file=file,
        sha256=digest,
        synthetic=synthetic,
        symbols=spec.symbols,
        history_bars=spec.history_bars,
        sessions=sessions,
        bars=bars,
        present=present,
        open_ticks=ticks(bars[OPEN]),
        close_ticks=close,
        features=inputs.market,
        tradable=inputs.tradable,
        warm=inputs.warm,
    )


def _without_columns(_bars: Float64Array, present: BoolArray, window: int, dates: Sequence[str]) -> Columns:
    """The columns of a strategy that has none: it is warm when each symbol has W bars."""
    warm: BoolArray = np.logical_and.reduce(np.cumsum(present, axis=0) >= window, axis=1)
    return Columns(np.zeros((len(dates), 0), dtype=np.float32), present.astype(np.float32), warm)


_Header = tuple[str, str, tuple[Session, ...], tuple[Session, ...]]  # label, remark, sessions, calendar
_ARRAYS = ("bars", "present", "open_ticks", "close_ticks", "features", "tradable", "warm")


def _keep(path: Path, table: DailyTable) -> None:
    """Write the table whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    header = table.synthetic, table.remark, table.sessions, table.calendar
    sessions = np.frombuffer(msgspec.json.encode(header), dtype=np.uint8)
    with part.open("wb") as stream:
        np.savez(stream, sessions=sessions, **{name: getattr(table, name) for name in _ARRAYS})
    part.replace(path)


def _restore(path: Path, file: str, digest: str, spec: DailySpec) -> DailyTable | None:
    """The cached table; None where there is none, or a broken one."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            header = msgspec.json.decode(archive["sessions"].tobytes(), type=_Header)
            arrays = {name: archive[name] for name in _ARRAYS}
    except (OSError, KeyError, ValueError, BadZipFile):  # another layout, or a file that was cut off
        return None
    synthetic, remark, sessions, calendar = header
    columns = (file, digest, synthetic, spec.symbols, spec.history_bars, sessions)
    return DailyTable(*columns, **arrays, remark=remark, calendar=calendar)
