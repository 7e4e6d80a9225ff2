"""Minute bars generated from a daily bar: a path from the open through both extremes to the close.

Deterministic in seed, symbol and date. A session's minutes combined equal its daily bar to the last digit.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import overload

import numpy as np
from msgspec.structs import replace

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
    """Minutes of all sessions of one symbol, in order, generated on demand.

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
