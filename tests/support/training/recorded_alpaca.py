"""A loopback Alpaca with minutes of SPY recorded on it, and a clock that passes while somebody sleeps.

What a download should give is what `spy` handed to the server.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.parquet

from daemon.host.time.calendar import SessionCalendar
from simulator.clock import SimClock
from simulator.prices.market import Market
from simulator.server import RunningServer, serving
from simulator.trading.account import Account
from strategies.kit.contract import Bar, Session
from training.cli.download import download
from training.data.alpaca_bars import Keys, PacingClock
from training.data.bars_parts import DownloadSummary
from training.data.bars_request import DownloadRequest

KEYS = Keys("PKPLANTED0KEY0ID", "planted-secret-0123456789")
SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
DATES = ("2024-06-27", "2024-06-28", "2024-07-01", "2024-07-02", "2024-07-03", "2024-07-05", "2024-08-01")
"""The sessions on the server's tape: July 3rd is a half day, the 4th a holiday; three months, so three chunks."""
SPAN = ("2024-06-27", "2024-07-05")
AFTER_ALL_NS = 1_725_000_000 * SECOND_NS  # 2024-08-30


@functools.cache
def session_of(date: str) -> Session:
    return SessionCalendar.load(date, date).around(date)[0]


SESSIONS = tuple(map(session_of, DATES))


def minutes(symbol: str, session: Session, cents: int, before: int = 0, after: int = 0) -> Iterator[Bar]:
    """A bar each minute, a cent higher than the one before; `before` and `after` are minutes of extended hours."""
    for minute in range(-before, (session.close_ns - session.open_ns) // MINUTE_NS + after):
        price = (cents + minute) / 100
        start_ns = session.open_ns + minute * MINUTE_NS
        yield Bar(symbol, start_ns, price, price + 0.05, price - 0.05, price + 0.01, 1000.0 + minute)


def spy(skip: Sequence[str] = (), extended: int = 0) -> list[Bar]:
    """SPY on all sessions of the tape but `skip`."""
    sessions = [session for session in SESSIONS if session.date not in skip]
    return [bar for session in sessions for bar in minutes("SPY", session, 54_500, extended, extended)]


class Passing:
    """A clock whose seconds pass only while somebody sleeps; it starts after the tape."""

    def __init__(self, now_ns: int = AFTER_ALL_NS) -> None:
        self.slept: list[float] = []
        self.clock = PacingClock(
            lambda: now_ns + int(sum(self.slept) * SECOND_NS), lambda: sum(self.slept), self.slept.append
        )


@contextmanager
def alpaca(bars: Sequence[Bar], **settings: Any) -> Iterator[RunningServer]:
    market = Market.from_bars(bars, sessions=SESSIONS)
    clock = SimClock.starting_now(AFTER_ALL_NS, 1e-6)
    with serving(market, clock, accounts=[Account(KEYS.key, KEYS.secret)], **settings) as server:
        yield server


def request_to(server: RunningServer, out: Path, **changes: Any) -> DownloadRequest:
    settled: dict[str, Any] = {"symbols": ("SPY",), "start": SPAN[0], "end": SPAN[1], "timeframe": "1Min"}
    return DownloadRequest(**{**settled, "out": out, "url": server.data_url, **changes})


def fetch(server: RunningServer, out: Path, **changes: Any) -> DownloadSummary:
    return download(request_to(server, out, **changes), KEYS, lambda _: None, Passing().clock)


def bars_in(path: Path) -> list[Bar]:
    table = pa.parquet.read_table(path)
    starts = table.column("timestamp").cast(pa.int64()).to_pylist()
    columns = (table.column(name).to_pylist() for name in ("open", "high", "low", "close", "volume"))
    return list(map(Bar, table.column("symbol").to_pylist(), starts, *columns))


def requested_dates(server: RunningServer, since: int = 0) -> list[str]:
    """First day of each request that was answered with a page."""
    log = server.call(lambda: list(server.server.requests))[since:]
    return [parse_qs(urlsplit(r.path).query)["start"][0][:10] for r in log if r.status == 200]


def requests_so_far(server: RunningServer) -> int:
    return server.call(lambda: len(server.server.requests))
