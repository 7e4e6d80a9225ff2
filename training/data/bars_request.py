"""A download request: its sessions, its chunks, and when two requests are equal.

Pure but for the exchange calendar: no network, no file, no clock. Invariant: every request object is valid for Alpaca
and for the file's readers.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from daemon.host.time.calendar import NEW_YORK, SessionCalendar, midnight_ns
from strategies.kit.contract import Session
from strategies.kit.units import HOUR_NS, MINUTE_NS, SECOND_NS

SHORTEST_DAY_NS = 23 * HOUR_NS  # when the clocks go forward
TIMEFRAMES = {"1Min": 60, "5Min": 300, "15Min": 900, "1Hour": 3_600, "1Day": 86_400}
"""Timeframe -> seconds between two bars."""
FEEDS = ("sip", "iex")
ADJUSTMENTS = ("raw", "split", "dividend", "all")
SETTLED_NS = 30 * MINUTE_NS  # wait after the hours' end: late trades are in, and the free plan may read SIP (15 min)
BEFORE_OPEN_NS, AFTER_OPEN_NS = 330 * MINUTE_NS, 630 * MINUTE_NS  # extended hours: 04:00 to 20:00 New York
DATA_URL = "https://data.alpaca.markets"
DATA_URL_VARIABLE = "RLTRADER_ALPACA__DATA_URL"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SYMBOL = re.compile(r"[A-Z][A-Z0-9]{0,5}(\.[A-Z]{1,2})?", re.ASCII)


class DownloadError(Exception):
    """The download cannot be done, or not now. The text names the thing, what was found, and the cure; never a key."""


@dataclass(frozen=True, slots=True)
class DownloadRequest:
    """What to download and where to. Dates are New York's, `YYYY-MM-DD`, both included.

    `calls_per_minute` holds for any 60 seconds; `deadline_s` bounds one call with its whole answer, in seconds. Raises
    DownloadError for a value that Alpaca or the file's readers do not support.
    """

    symbols: tuple[str, ...]
    start: str
    end: str
    timeframe: str
    out: Path
    feed: str = "sip"
    adjustment: str = "raw"
    include_extended: bool = False
    calls_per_minute: int = 180
    url: str = DATA_URL
    deadline_s: float = 60.0

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("--timeframe", self.timeframe, tuple(TIMEFRAMES)),
            ("--feed", self.feed, FEEDS),
            ("--adjustment", self.adjustment, ADJUSTMENTS),
        ):
            if value not in allowed:
                raise DownloadError(f"{name} is {value!r}: expected one of {', '.join(allowed)}")
        bad = [symbol for symbol in self.symbols if not _SYMBOL.fullmatch(symbol)]
        if bad or not self.symbols or len(set(self.symbols)) != len(self.symbols):
            symbols_text = ", ".join(bad or self.symbols) or "none"
            raise DownloadError(f"--symbols: found {symbols_text}; expected stock symbols such as SPY,BRK.B, each once")
        if self.include_extended and self.step_ns >= HOUR_NS:
            raise DownloadError(
                f"--include-extended goes with bars of minutes, not with {self.timeframe}: leave it out"
            )
        if self.calls_per_minute < 1:
            raise DownloadError(f"--calls-per-minute is {self.calls_per_minute}: expected at least 1")
        if self.out.suffix != ".parquet":
            raise DownloadError(f"--out is {self.out}: expected a name that ends in .parquet")
        _check_url(self.url)

    @property
    def step_ns(self) -> int:
        """Nanoseconds from one bar's start to the next one's."""
        return TIMEFRAMES[self.timeframe] * SECOND_NS

    @property
    def asked_step_ns(self) -> int:
        """Nanoseconds between requested bars: half hours for "1Hour", as Alpaca's hours begin at the full hour."""
        return 30 * MINUTE_NS if self.timeframe == "1Hour" else self.step_ns

    @property
    def parts(self) -> Path:
        """The folder of finished chunks."""
        return self.out.with_name(f"{self.out.name}.part")


def _check_url(url: str) -> None:
    usable = False
    with contextlib.suppress(ValueError):  # an invalid host or port
        parts = urlsplit(url)
        plain = parts.scheme == "http" and parts.hostname in LOOPBACK
        has_host = bool(parts.hostname) and parts.port != 0
        usable = has_host and (parts.scheme == "https" or plain) and "@" not in parts.netloc and not parts.query
    if not usable:
        raise DownloadError(
            f"{DATA_URL_VARIABLE} is no address for data: expected https://… such as {DATA_URL} (http:// to this "
            "machine alone), without user, password or query"
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """One symbol's sessions of one month (of one year, for daily bars): what is fetched and kept as one."""

    symbol: str
    sessions: tuple[Session, ...]

    @property
    def name(self) -> str:
        """The name of its file among the parts of a download."""
        return f"{self.symbol}-{self.sessions[0].date}-{self.sessions[-1].date}.parquet"


def settled(request: DownloadRequest, now_ns: int) -> tuple[tuple[Session, ...], tuple[str, ...]]:
    """The sessions between the two dates that are over, and the dates of those that are not.

    Raises DownloadError when none is over, CalendarError for dates that are malformed or that the calendar lacks.
    """
    sessions = SessionCalendar.load(request.start, request.end).sessions
    chosen = [session for session in sessions if request.start <= session.date <= request.end]
    over = tuple(session for session in chosen if now_ns >= _hours_of(request, session)[1] + SETTLED_NS)
    if not over:
        raise DownloadError(
            f"--start {request.start} --end {request.end}: {len(chosen)} sessions, none of them is over: "
            f"choose dates of the past (a session is over {SETTLED_NS // MINUTE_NS} minutes after its last bar)"
        )
    return over, tuple(session.date for session in chosen[len(over) :])


def _hours_of(request: DownloadRequest, session: Session) -> tuple[int, int]:
    """The first start of a bar that is wanted, and the end of the last one's, in nanoseconds UTC."""
    if request.include_extended:
        return session.open_ns - BEFORE_OPEN_NS, session.open_ns + AFTER_OPEN_NS
    return session.open_ns, session.close_ns


def spans_of(request: DownloadRequest, chunk: Chunk) -> list[tuple[int, int]]:
    """Bar starts of each session of the chunk as [first, end), in ns UTC."""
    if request.timeframe == "1Day":
        return [(start := midnight_ns(session.date), start + SHORTEST_DAY_NS) for session in chunk.sessions]
    return [_hours_of(request, session) for session in chunk.sessions]


def periods_of(request: DownloadRequest, sessions: Sequence[Session]) -> list[list[Chunk]]:
    """The chunks by period, oldest first; each period has one chunk for each symbol."""
    digits = 4 if request.timeframe == "1Day" else 7  # of YYYY-MM-DD: the year or the month
    grouped: dict[str, list[Session]] = {}
    for session in sessions:
        grouped.setdefault(session.date[:digits], []).append(session)
    return [[Chunk(symbol, tuple(period)) for symbol in request.symbols] for period in grouped.values()]


def identity_of(request: DownloadRequest, now_ns: int) -> dict[str, Any]:
    """The fields that make two requests the same download. Adjusted prices have a date, because splits change them."""
    fields = {name: getattr(request, name) for name in ("start", "end", "timeframe", "feed", "adjustment")}
    day = datetime.fromtimestamp(now_ns / SECOND_NS, NEW_YORK).date().isoformat()
    as_of = "" if request.adjustment == "raw" else day
    return {"symbols": list(request.symbols), **fields, "include_extended": request.include_extended, "as_of": as_of}


def differences(former: Mapping[str, Any], present: Mapping[str, Any]) -> str:
    """The values in which the two identities differ, as text; "" where they are the same download."""
    return ", ".join(
        f"{name} was {former.get(name)!r}, now {present[name]!r}"
        for name in present
        if former.get(name) != present[name]
    )


def utc(time_ns: int) -> str:
    """Whole seconds as Alpaca writes them: `2024-06-27T13:30:00Z`."""
    return datetime.fromtimestamp(time_ns // SECOND_NS, UTC).isoformat().replace("+00:00", "Z")
