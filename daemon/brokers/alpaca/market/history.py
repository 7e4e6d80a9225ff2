"""Past minute bars over REST: whole sessions with a disk cache, the running session without; and their splits.

Only sessions that ended a while ago are cached, one file for each symbol, feed and date, written whole or not at all; a
file with a wrong digest is fetched again. Returned bars are checked, ascending, and of regular hours only.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from daemon.brokers.alpaca.market.socket import read_bar
from daemon.brokers.alpaca.wire import time_ns
from daemon.brokers.api import EventLogger
from daemon.core.events import SharesSplit
from daemon.core.risk.splits import NEAR, RATIOS, SPLIT_RATIO, factor
from daemon.host.time.calendar import midnight_ns
from strategies.kit.contract import Bar, Session
from strategies.kit.units import MINUTE_NS, SECOND_NS

SETTLED_NS = 30 * MINUTE_NS  # after the close: late trades are booked, the session's bars are final
CACHE_VERSION = 1


class BarReads(Protocol):
    """Source of raw bars: in any order, all pages. `end_ns` is the start of the last bar wanted."""

    async def bars(self, symbol: str, start_ns: int, end_ns: int, feed: str) -> list[dict[str, Any]]: ...

    async def day_bars(
        self, symbols: tuple[str, ...], start_ns: int, end_ns: int, feed: str, adjustment: str
    ) -> dict[str, list[dict[str, Any]]]: ...


class _Head(msgspec.Struct, frozen=True):
    """The first line of a cache file."""

    version: int
    symbol: str
    feed: str
    date: str
    bars: int
    sha256: str  # of the lines after it


class BarHistory:
    """Bars of one feed. Raises RestError (from the reads)."""

    def __init__(self, reads: BarReads, cache_dir: Path, feed: str, interval_s: int, log: EventLogger) -> None:
        self._reads = reads
        self._cache_dir = cache_dir
        self._feed = feed
        self._interval_s = interval_s
        self._log = log

    async def session(self, symbol: str, session: Session, now_ns: int) -> tuple[Bar, ...]:
        """Return all bars of a session that is over."""
        final = now_ns >= session.close_ns + SETTLED_NS
        if final:
            stored_bars = await asyncio.to_thread(self._load, symbol, session)
            if stored_bars is not None:
                return tuple(bar for bar in stored_bars if bar.start_ns < session.close_ns)
        bars = await self.so_far(symbol, session, session.open_ns, now_ns)
        if final and bars:
            await asyncio.to_thread(self._store, symbol, session, bars)
        return bars

    async def so_far(self, symbol: str, session: Session, from_ns: int, now_ns: int) -> tuple[Bar, ...]:
        """Return the session's complete bars that start at `from_ns` or later."""
        interval_ns = self._interval_s * SECOND_NS
        begin = max(from_ns, session.open_ns)
        complete = (min(now_ns, session.close_ns) - session.open_ns) // interval_ns  # bars since the open
        last = session.open_ns + (complete - 1) * interval_ns
        if complete <= 0 or last < begin:
            return ()
        raw = await self._reads.bars(symbol, begin, last, self._feed)
        return self._check(raw, symbol, session, begin, last, now_ns)

    async def splits(self, symbols: tuple[str, ...], past: Sequence[Session], today: Session) -> list[SharesSplit]:
        """Return the splits that count from the open of one of these sessions on, except the first of `past`.

        `past` are over, oldest first, and `today` follows them: only adjustments of their day bars up to it count.
        """
        days = [midnight_ns(session.date) for session in past]
        raw, adjusted_closes = [
            {symbol: _sums(rows) for symbol, rows in (await self._reads.day_bars(*query)).items()}
            for query in [(symbols, days[0], days[-1], self._feed, kind) for kind in ("raw", "split")]
        ]
        splits: list[SharesSplit] = []
        opens = [session.open_ns for session in (*past[1:], today)]
        for symbol in symbols:
            raw_closes, now = raw.get(symbol, {}), adjusted_closes.get(symbol, {})
            ratio_after = 1.0  # new shares for each share of the session examined
            for day, open_ns in zip(reversed(days), reversed(opens), strict=True):
                if day not in raw_closes or day not in now:
                    continue  # it did not trade: the split counts from the next session in which it did
                ratio_before = raw_closes[day] / now[day]
                if factor(ratio_before, ratio_after) >= SPLIT_RATIO:
                    splits.append(SharesSplit(today.open_ns, symbol, _exact(ratio_before / ratio_after), open_ns))
                ratio_after = ratio_before
        return sorted(splits, key=lambda split: split.from_ns)

    def _check(
        self, raw: Sequence[dict[str, Any]], symbol: str, session: Session, begin: int, last: int, now_ns: int
    ) -> tuple[Bar, ...]:
        good: dict[int, Bar] = {}
        for message in raw:
            try:
                bar = read_bar(message, symbol, session, self._interval_s, now_ns)
            except (LookupError, TypeError, ValueError) as error:
                problem = f"{type(error).__name__}: {error} in {str(message)[:200]}"
            else:
                if isinstance(bar, Bar):
                    if begin <= bar.start_ns <= last:
                        good[bar.start_ns] = bar
                    continue
                problem = f"{bar.reason}: {bar.detail} at {bar.start_ns}"
            self._log("history_bar_bad", symbol=symbol, date=session.date, problem=problem)
        return tuple(good[start] for start in sorted(good))

    # --- the cache ------------------------------------------------------------------------------------------------

    def cache_file(self, symbol: str, date: str) -> Path:
        """Return the cache file of a session's bars."""
        return self._cache_dir / f"{symbol}-{self._feed}-{date}.jsonl"

    def _load(self, symbol: str, session: Session) -> tuple[Bar, ...] | None:
        path = self.cache_file(symbol, session.date)
        try:
            head_line, _, body = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        except OSError as error:
            self._log("history_cache_bad", file=str(path), problem=str(error))
            return None
        try:
            head = msgspec.json.decode(head_line, type=_Head)
            bars = tuple(msgspec.json.decode(line, type=Bar) for line in body.splitlines())
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._log("history_cache_bad", file=str(path), problem=f"{error}; it is fetched again")
            return None
        if head != self._head(symbol, session, bars, body):
            self._log("history_cache_bad", file=str(path), problem="head and content differ; it is fetched again")
            return None
        return bars

    def _store(self, symbol: str, session: Session, bars: tuple[Bar, ...]) -> None:
        """Write a temporary file, flush, rename: a crash leaves the old file or the new one."""
        path = self.cache_file(symbol, session.date)
        body = b"".join(msgspec.json.encode(bar) + b"\n" for bar in bars)
        head = msgspec.json.encode(self._head(symbol, session, bars, body))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as part:
                part.write(head + b"\n" + body)
                part.flush()
                os.fsync(part.fileno())
            Path(part.name).replace(path)
        except OSError as error:  # the bars are in memory all the same
            self._log("history_cache_bad", file=str(path), problem=f"cannot be written: {error}")

    def _head(self, symbol: str, session: Session, bars: tuple[Bar, ...], body: bytes) -> _Head:
        digest = hashlib.sha256(body).hexdigest()
        return _Head(CACHE_VERSION, symbol, self._feed, session.date, len(bars), digest)


def _sums(rows: Sequence[dict[str, Any]]) -> dict[int, float]:
    """Return the sum of a day's four prices by its label; rows that cannot be read are left out."""
    sums: dict[int, float] = {}
    for row in rows:
        try:
            total = sum(float(row[name]) for name in ("o", "h", "l", "c"))
            day = time_ns(row.get("t"), "t")
        except (LookupError, TypeError, ValueError):
            continue
        if 0.0 < total < math.inf:
            sums[day] = total
    return sums


def _exact(ratio: float) -> float:
    """Return a split's ratio without the rounding of the prices that showed it."""
    nearest = min(RATIOS, key=lambda exact: factor(exact, ratio))
    return nearest if factor(nearest, ratio) <= 1.0 + NEAR else ratio
