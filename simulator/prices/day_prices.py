"""Daily bars of many shares as traded, with corporate actions: the price source of a server.

A day without a bar is one without a trade: halted, delisted, not listed yet, or missing. Only `made_up` is random, and
it is seeded.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet
from msgspec.structs import replace

from simulator.prices.corporate_actions import (
    BackAdjustment,
    Dividend,
    Merger,
    Rename,
    SpinOff,
    Split,
    as_traded,
    effective_day,
    morning_ns,
    spun_off,
    steps_of,
)
from simulator.prices.tape import calendar_sessions, grid, midnight_ns, new_york_date
from strategies.kit.contract import Bar, Session
from strategies.kit.units import MINUTE_NS

WIGGLE = 0.02  # standard deviation of the noise on the path, as a fraction of the day's range
LEAST_VOLUME = 390.0  # of a daily bar, so that every minute trades


@lru_cache(maxsize=1_024)
def minutes_of(bar: Bar, session: Session, seed: int) -> tuple[Bar, ...]:
    """Return the minute bars of a session with the daily bar `bar`, whose prices are on the grid.

    A rising day visits its low first, a falling one its high. Every minute trades.
    """
    count = (session.close_ns - session.open_ns) // MINUTE_NS
    unit = 100 if bar.low >= 1 else 10_000
    opening, high, low, close = (round(price * unit) for price in (bar.open, bar.high, bar.low, bar.close))
    random = np.random.default_rng(zlib.crc32(f"{seed}:{bar.symbol}:{session.date}".encode()))
    middle = count // 2
    places = [0, int(random.integers(1, middle)), int(random.integers(middle, count)), count]
    prices = [opening, *((low, high) if close >= opening else (high, low)), close]
    path = np.interp(np.arange(count + 1), places, prices) + random.normal(0, WIGGLE * (high - low), count + 1)
    path = np.clip(np.rint(path), low, high)
    path[places] = prices
    points = (path / unit).tolist()
    volume, first = divmod(int(bar.volume), count)
    return tuple(
        Bar(
            bar.symbol,
            session.open_ns + minute * MINUTE_NS,
            points[minute],
            max(points[minute], points[minute + 1]),
            min(points[minute], points[minute + 1]),
            points[minute + 1],
            float(volume + (first if minute == 0 else 0)),
        )
        for minute in range(count)
    )


class DayMinutes(Sequence[Bar]):
    """Minutes of all sessions of one symbol, in order, generated on demand from its daily bars.

    A session's path goes from the open through both extremes to the close; its minutes combined equal the daily bar to
    the last digit. Deterministic in seed, symbol and date.

    `days` are the sessions in which it traded with their daily bars; `symbol` is the minutes' symbol.
    """

    def __init__(self, symbol: str, days: Sequence[tuple[Session, Bar]], seed: int) -> None:
        self.symbol = symbol
        self.days = days
        self.dates = [session.date for session, _ in days]
        self._seed = seed
        self._opens = [session.open_ns for session, _ in days]
        lengths = ((session.close_ns - session.open_ns) // MINUTE_NS for session, _ in days)
        self._minutes_before = [0, *accumulate(lengths)]  # [i]: minutes of all sessions before the i-th

    def __len__(self) -> int:
        return self._minutes_before[-1]

    @overload
    def __getitem__(self, index: int) -> Bar: ...
    @overload
    def __getitem__(self, index: slice) -> list[Bar]: ...
    def __getitem__(self, index: int | slice) -> Bar | list[Bar]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        day, minute = self._place(index)
        session, bar = self.days[day]
        minute_bar = minutes_of(bar, session, self._seed)[minute]
        return minute_bar if minute_bar.symbol == self.symbol else replace(minute_bar, symbol=self.symbol)

    def start_of(self, index: int) -> int:
        """Return the start of the minute with that index."""
        day, minute = self._place(index)
        return self._opens[day] + minute * MINUTE_NS

    def last_at(self, now_ns: int) -> tuple[int, int]:
        """Return index and start of the last minute that started up to `now_ns`; -1 and 0 before the first."""
        day = bisect_right(self._opens, now_ns) - 1
        if day < 0:
            return -1, 0
        last = self._minutes_before[day + 1] - self._minutes_before[day] - 1
        minute = min((now_ns - self._opens[day]) // MINUTE_NS, last)
        return self._minutes_before[day] + minute, self._opens[day] + minute * MINUTE_NS

    def _place(self, index: int) -> tuple[int, int]:
        index += len(self) if index < 0 else 0
        if not 0 <= index < len(self):
            raise IndexError(f"minute {index} of {self.symbol}: it has {len(self)}")
        day = bisect_right(self._minutes_before, index) - 1
        return day, index - self._minutes_before[day]


class MinuteStarts(Sequence[int]):
    """Starts of the minutes of `DayMinutes`, for searches."""

    def __init__(self, minutes: DayMinutes) -> None:
        self._minutes = minutes

    def __len__(self) -> int:
        return len(self._minutes)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        if isinstance(index, slice):
            return [self._minutes.start_of(place) for place in range(*index.indices(len(self)))]
        return self._minutes.start_of(index)


Action = Split | Dividend | Rename | Merger | SpinOff


class DailyPrices:
    """Daily bars as traded (`bars`, any order, labelled by any time of their New York date), by symbol.

    `halts` are the dates without trading of a symbol, `delisted` the first date after its last trade. Shares removed by
    `mergers` are delisted; shares from `spin_offs` have their own bars or those derived from the parent. Prices are on
    the grid (cents, four decimals below 1.00 USD). Raises ValueError for an action of an unknown symbol.
    """

    def __init__(
        self,
        bars: Iterable[Bar],
        sessions: Sequence[Session],
        *,
        splits: Iterable[Split] = (),
        dividends: Iterable[Dividend] = (),
        renames: Iterable[Rename] = (),
        mergers: Iterable[Merger] = (),
        spin_offs: Iterable[SpinOff] = (),
        halts: Mapping[str, Collection[str]] | None = None,
        delisted: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        self.sessions = list(sessions)
        self.seed = seed
        self.splits, self.dividends, self.renames = tuple(splits), tuple(dividends), tuple(renames)
        self.mergers, self.spin_offs = tuple(mergers), tuple(spin_offs)
        self.halts = {symbol: frozenset(days) for symbol, days in (halts or {}).items()}
        self.delisted = dict(delisted or {})
        for merger in self.mergers:
            self.delisted[merger.symbol] = min(merger.date, self.delisted.get(merger.symbol, "9999"))
        self.bars: dict[str, dict[str, Bar]] = {}
        for bar in sorted(bars, key=lambda bar: bar.start_ns):
            day = new_york_date(bar.start_ns)
            if bar.volume > 0 and self._trades(bar.symbol, day):
                self.bars.setdefault(bar.symbol, {})[day] = _on_grid(bar, day)
        for spin_off in self.spin_offs:
            if spin_off.symbol in self.bars and spin_off.new not in self.bars:
                self.bars[spin_off.new] = self.spun_off(spin_off)
        self._known_as = {rename.new: rename for rename in self.renames}
        self._renames = {rename.symbol: rename for rename in self.renames}
        actions: list[Action] = [*self.splits, *self.dividends, *self.renames, *self.mergers, *self.spin_offs]
        acquirers = [merger.new for merger in self.mergers if merger.ratio]
        for symbol in (*(action.symbol for action in actions), *acquirers, *self.halts, *self.delisted):
            if symbol not in self.bars:
                names = ", ".join(sorted(self.bars)) or "none"
                raise ValueError(f"{symbol} has an action but no bar: found bars of {names}; add its bars")

    @classmethod
    def made_up(
        cls,
        symbols: Iterable[str],
        sessions: Sequence[Session],
        *,
        last: str = "9999",
        closes: Mapping[str, tuple[str, float]] | None = None,
        **settings: Any,
    ) -> Self:
        """Return seeded random walks, one bar per symbol and session up to `last`; scripted actions make jumps.

        `closes[symbol]` is a date and the close of that symbol's walk on it. `settings` are those of
        the constructor; splits, dividends and spin-offs make the walk jump as they make real prices jump.
        """
        days = [session.date for session in sessions if session.date <= last]
        walks = {symbol: _walk(symbol, days, int(settings.get("seed", 0))) for symbol in symbols}
        for symbol, (day, price) in (closes or {}).items():
            factor = price / walks[symbol][day].close
            walks[symbol] = {date: _times(bar, factor) for date, bar in walks[symbol].items()}
        return cls._of_continuous(walks, sessions, settings)

    @classmethod
    def from_parquet(
        cls,
        *paths: Path,
        symbols: Collection[str] | None = None,
        first: str = "",
        last: str = "9999",
        sessions: Sequence[Session] | None = None,
        **settings: Any,
    ) -> Self:
        """Return the rows of files of daily bars (symbol, date, open, high, low, close, volume) from `first` to `last`.

        The files' prices are continuous: scripted actions make them jump. Without `sessions` it asks
        exchange_calendars.
        """
        names = ("symbol", "date", "open", "high", "low", "close", "volume")
        table = pyarrow.concat_tables(_columns(path, names) for path in paths)
        if symbols is not None:
            table = table.filter(pc.is_in(table["symbol"], pyarrow.array(list(symbols))))
        rows = zip(*(table[name].to_pylist() for name in names), strict=True)
        by_symbol: dict[str, dict[str, Bar]] = {}
        for symbol, date, opening, high, low, close, volume in rows:
            day = date.isoformat()
            if first <= day <= last:
                bar = Bar(symbol, midnight_ns(day), opening, high, low, close, float(volume))
                by_symbol.setdefault(symbol, {})[day] = bar
        if not by_symbol:
            files = ", ".join(path.name for path in paths)
            raise ValueError(f"{files}: no bar from {first or 'the begin'} to {last}; name symbols and dates they have")
        dates = sorted(set().union(*by_symbol.values()))
        return cls._of_continuous(by_symbol, sessions or calendar_sessions(dates[0], dates[-1]), settings)

    @classmethod
    def _of_continuous(
        cls, series: Mapping[str, Mapping[str, Bar]], sessions: Sequence[Session], settings: Mapping[str, Any]
    ) -> Self:
        bars: list[Bar] = []
        for symbol, days in series.items():
            splits = [split for split in settings.get("splits", ()) if split.symbol == symbol]
            symbol_dividends = [dividend for dividend in settings.get("dividends", ()) if dividend.symbol == symbol]
            spin_offs = [spin_off for spin_off in settings.get("spin_offs", ()) if spin_off.symbol == symbol]
            bars += as_traded(days, splits, symbol_dividends, spin_offs).values()
        return cls(bars, sessions, **settings)

    # --- names ------------------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """Return all symbols that ever exist, new names included."""
        return [*self.bars, *self._known_as]

    def share(self, name: str) -> str:
        """Return the symbol under which a share's bars are stored; other names are returned unchanged."""
        rename = self._known_as.get(name)
        return name if rename is None else rename.symbol

    def name_on(self, share: str, day: str) -> str:
        """Return the share's name on `day`."""
        rename = self._renames.get(share)
        return share if rename is None or day < rename.date else rename.new

    def called(self, name: str, day: str) -> bool:
        """Return whether a share has this name on `day`, whether it trades or not; not before its first bar."""
        days, rename, rename_away = self.bars.get(self.share(name)), self._known_as.get(name), self._renames.get(name)
        if not days or day < next(iter(days)):
            return False
        return (rename is None or day >= rename.date) and (rename_away is None or day < rename_away.date)

    def tradable(self, name: str, now_ns: int) -> bool:
        """Return whether orders are accepted: neither halted today nor delisted nor renamed."""
        day = effective_day(now_ns)
        return self.called(name, day) and self._trades(self.share(name), day)

    def _trades(self, share: str, day: str) -> bool:
        return day not in self.halts.get(share, ()) and day < self.delisted.get(share, "9999")

    # --- bars -------------------------------------------------------------------------------------------------------

    def bar(self, name: str, day: str) -> Bar | None:
        """Return the bar of `day` as traded; None on a day without a trade."""
        return self.bars.get(self.share(name), {}).get(day)

    def minutes(self, name: str) -> DayMinutes:
        """Return the minutes in which the share traded under this name; of a new name also those before."""
        days, rename = self.bars.get(self.share(name), {}), self._renames.get(name)
        last_date = "9999" if rename is None else rename.date
        pairs = ((session, days.get(session.date)) for session in self.sessions if session.date < last_date)
        return DayMinutes(name, [(session, bar) for session, bar in pairs if bar is not None], self.seed)

    def steps(self, name: str, adjustment: str, day: str) -> list[BackAdjustment]:
        """Return an adjustment's factors for the share's bars as of `day`."""
        share = self.share(name)
        splits = [split for split in self.splits if split.symbol == share]
        dividends = [dividend for dividend in self.dividends if dividend.symbol == share]
        spin_offs = [spin_off for spin_off in self.spin_offs if spin_off.symbol == share]
        return steps_of(self.bars.get(share, {}), splits, dividends, spin_offs, adjustment, day)

    def spun_off(self, action: SpinOff) -> dict[str, Bar]:
        """Return the bars of the spun-off share, derived from its parent's."""
        splits = [split for split in self.splits if split.symbol == action.symbol]
        bars = spun_off(self.bars[action.symbol], action, splits)
        return {day: _on_grid(bar, day) for day, bar in bars.items()}

    def split_between(self, name: str, from_ns: int, until_ns: int) -> tuple[int, Decimal] | None:
        """Return the time of the last split after `from_ns` up to `until_ns`, and the product of ratios; or None."""
        share, newest_ns, ratio = self.share(name), 0, Decimal(1)
        for split in self.splits:
            at_ns = morning_ns(split.date)
            if split.symbol == share and from_ns < at_ns <= until_ns:
                newest_ns, ratio = max(newest_ns, at_ns), ratio * split.ratio
        return (newest_ns, ratio) if newest_ns else None

    def actions(self) -> list[tuple[int, Action, bool]]:
        """Return times and actions in order; True if a dividend is paid, False if it leaves the price."""
        effective: list[Action] = [*self.splits, *self.dividends, *self.renames, *self.mergers, *self.spin_offs]
        entries = [(morning_ns(action.date), action, False) for action in effective]
        entries += [(morning_ns(dividend.paid or dividend.date), dividend, True) for dividend in self.dividends]
        return sorted(entries, key=lambda entry: entry[0])


def _columns(path: Path, names: Sequence[str]) -> Any:
    """Return these columns of a file, with the symbols as plain strings, whatever their stored type."""
    try:
        table = pyarrow.parquet.read_table(path, columns=list(names))
    except (OSError, ValueError) as error:
        raise ValueError(f"--daily {path}: no Parquet file that can be read: {error}") from error
    if missing := [name for name in names if name not in table.column_names]:
        raise ValueError(f"--daily {path}: the column {', '.join(missing)} is missing: rename the columns")
    return table.set_column(0, "symbol", table["symbol"].cast("string"))


def _on_grid(bar: Bar, day: str) -> Bar:
    opening, high, low, close = (float(grid(price)) for price in (bar.open, bar.high, bar.low, bar.close))
    return Bar(bar.symbol, midnight_ns(day), opening, high, low, close, max(bar.volume, LEAST_VOLUME))


def _times(bar: Bar, factor: float) -> Bar:
    opening, high, low, close = (price * factor for price in (bar.open, bar.high, bar.low, bar.close))
    return Bar(bar.symbol, bar.start_ns, opening, high, low, close, bar.volume)


def _walk(symbol: str, days: Sequence[str], seed: int) -> dict[str, Bar]:
    """Return a synthetic history: 1.5 % a day, a third of it over night; with matching extremes and volume."""
    random = np.random.default_rng(zlib.crc32(f"{seed}:{symbol}".encode()))
    count = len(days)
    night, move = random.normal(0.0002, 0.005, count), random.normal(0.0002, 0.014, count)
    close = float(random.uniform(30, 300)) * np.exp(np.cumsum(night + move))
    opening = close * np.exp(-move)
    up, down = np.exp(np.abs(random.normal(0, 0.005, (2, count))))
    high, low = np.maximum(opening, close) * up, np.minimum(opening, close) / down
    volume = random.integers(1_000_000, 20_000_000, count)
    columns = (column.tolist() for column in (opening, high, low, close, volume))
    rows = zip(days, *columns, strict=True)
    return {day: Bar(symbol, midnight_ns(day), o, h, lo, c, float(v)) for day, o, h, lo, c, v in rows}
