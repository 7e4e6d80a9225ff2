"""`train-and-export download`: Alpaca's recorded bars in one Parquet file that training, dry run and replay read.

Finished chunks (one symbol's month) are kept beside the output, so a broken download goes on where it broke. Invariant:
--out appears by one rename, after every bar in it was checked against itself and against the exchange calendar.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import os
import re
import shutil
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet
import requests
import urllib3

from daemon.shell.calendar import NEW_YORK, CalendarError, SessionCalendar, midnight_ns
from daemon.shell.tape_file import PRICES, TapeError, TapeFile
from strategies.contract import Session

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]
Listen = Callable[[str], None]

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
HOUR_NS = 60 * MINUTE_NS
USAGE_ERROR, INTERRUPTED = 2, 130
TIMEFRAMES = {"1Min": 60, "5Min": 300, "15Min": 900, "1Hour": 3_600, "1Day": 86_400}
"""Timeframe -> seconds between two bars."""
FEEDS = ("sip", "iex")
ADJUSTMENTS = ("raw", "split", "dividend", "all")
SETTLED_NS = 30 * MINUTE_NS  # after the hours' end: late trades are booked, and the free plan may read SIP (15 minutes)
BEFORE_OPEN_NS, AFTER_OPEN_NS = 330 * MINUTE_NS, 630 * MINUTE_NS  # extended hours: 04:00 to 20:00 New York
PAGE_BARS = 10_000  # Alpaca's most
PAGES_MAX = 1_000  # of one chunk
TRIES = 8  # of one page; with the pauses between them it gets over 90 s without an answer
PAUSE_MAX_S = 300.0  # no word of the broker's makes us wait longer
BODY_MAX = 64 * 1024 * 1024  # bytes of one answer
EXAMPLES = 5
DATA_URL = "https://data.alpaca.markets"
DATA_URL_VARIABLE = "RLTRADER_ALPACA__DATA_URL"
KEY_VARIABLES = ("APCA_API_KEY_ID", "APCA_API_SECRET_KEY")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
METADATA_KEY = b"download"  # of the file's Parquet metadata: JSON with the request and the summary
SCHEMA = pa.schema(
    [("symbol", pa.string()), ("timestamp", pa.timestamp("ns", "UTC")), *((name, pa.float64()) for name in PRICES)]
)
_SYMBOL = re.compile(r"[A-Z][A-Z0-9]{0,5}(\.[A-Z]{1,2})?", re.ASCII)
_KEY = re.compile(r"[!-~]{1,256}", re.ASCII)


class DownloadError(Exception):
    """The download cannot be done, or not now. The text names the thing, what was found, and the cure; never a key."""


@dataclass(frozen=True, slots=True)
class DownloadRequest:
    """What to download and where to. Dates are New York's, `YYYY-MM-DD`, both included.

    `calls_per_minute` is kept in any minute; `deadline_s` bounds one call with its whole answer, in seconds.
    Raises DownloadError when a value is not one of those that Alpaca and the file's readers know.
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
        for name, value, known in (
            ("--timeframe", self.timeframe, tuple(TIMEFRAMES)),
            ("--feed", self.feed, FEEDS),
            ("--adjustment", self.adjustment, ADJUSTMENTS),
        ):
            if value not in known:
                raise DownloadError(f"{name} is {value!r}: expected one of {', '.join(known)}")
        bad = [symbol for symbol in self.symbols if not _SYMBOL.fullmatch(symbol)]
        if bad or not self.symbols or len(set(self.symbols)) != len(self.symbols):
            found = ", ".join(bad or self.symbols) or "none"
            raise DownloadError(f"--symbols: found {found}; expected stock symbols such as SPY,BRK.B, each once")
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
    def parts(self) -> Path:
        """The folder of finished chunks."""
        return self.out.with_name(f"{self.out.name}.part")


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """Alpaca's keys; the repr shows neither."""

    key: str
    secret: str

    def __repr__(self) -> str:
        return "Keys([hidden])"

    def hide(self, said: str) -> str:
        """`said` without the keys."""
        for secret in (self.secret, self.key):
            said = said.replace(secret, "[hidden]") if secret else said
        return said


@dataclass(frozen=True, slots=True)
class Clock:
    """The time of day in nanoseconds UTC, seconds that never go back, and a way to let them pass."""

    now_ns: Callable[[], int] = time.time_ns
    monotonic_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class DownloadSummary(msgspec.Struct, frozen=True):
    """What the file holds and what it lacks. Counts are whole; lists of examples have at most `EXAMPLES` entries."""

    bars: dict[str, int]  # by symbol
    sessions: int  # of the exchange, between the two dates, that are over
    first_session: str
    last_session: str
    pages: int  # of Alpaca's answers, those of earlier runs included
    outside_hours: int  # bars that were left out
    missing_sessions: dict[str, tuple[str, ...]]  # by symbol: all sessions without a bar
    missing_bars: dict[str, int]  # by symbol: bars that the other sessions' regular hours lack
    missing_examples: dict[str, tuple[str, ...]]  # by symbol: the first of them, in UTC
    left_out: tuple[str, ...]  # sessions that are still running or to come


@dataclass(frozen=True, slots=True)
class _Chunk:
    """One symbol's sessions of one month (of one year, for daily bars): what is fetched and kept as one."""

    symbol: str
    sessions: tuple[Session, ...]

    @property
    def name(self) -> str:
        return f"{self.symbol}-{self.sessions[0].date}-{self.sessions[-1].date}.parquet"


@dataclass(frozen=True, slots=True)
class _Part:
    """A chunk's bars, checked: `start_ns` (n,) ascending, `prices` (5, n) open, high, low, close, volume."""

    start_ns: Int64Array
    prices: Float64Array
    pages: int
    outside: int


def download(request: DownloadRequest, keys: Keys, listen: Listen, clock: Clock | None = None) -> DownloadSummary:
    """Fetch what is not there yet, check it, and put the file at `request.out`. `listen` hears of the progress.

    A file of the same finished request is left as it is and its summary returned.

    Raises:
        DownloadError: Alpaca refused or was not reached, a bar is bad, or the file cannot be written; chunks that are
            finished are kept for the next time.
        CalendarError: the dates are malformed or beyond what the exchange calendar knows.
    """
    clock = clock or Clock()
    sessions, left_out = _sessions(request, clock.now_ns())
    identity = _identity(request, clock.now_ns())
    if request.out.exists():
        return _already(request, identity, left_out)
    if left_out:
        listen(f"left out, not over yet: {', '.join(left_out)}")
    periods = _periods(request, sessions)
    with _writing(request):
        _claim(request, identity)
        door = _Door(request, keys, listen, clock)
        for chunk in (chunk for period in periods for chunk in period):
            if _stored(request, identity, chunk) is None:
                part = _fetched(door, request, chunk)
                _store(request, identity, chunk, part)
                listen(f"{chunk.name.removesuffix('.parquet')}: {part.start_ns.size:,} bars in {part.pages} pages")
            else:
                listen(f"{chunk.name.removesuffix('.parquet')}: here already")
        summary = _assemble(request, identity, periods, left_out)
        shutil.rmtree(request.parts)
    return summary


# --- what is asked for --------------------------------------------------------------------------------------------


def _sessions(request: DownloadRequest, now_ns: int) -> tuple[tuple[Session, ...], tuple[str, ...]]:
    """The sessions between the two dates that are over, and the dates of those that are not."""
    known = SessionCalendar.load(request.start, request.end).sessions
    asked = [session for session in known if request.start <= session.date <= request.end]
    over = tuple(session for session in asked if now_ns >= _hours(request, session)[1] + SETTLED_NS)
    if not over:
        raise DownloadError(
            f"--start {request.start} --end {request.end}: {len(asked)} sessions, none of them is over: "
            f"choose dates of the past (a session is over {SETTLED_NS // MINUTE_NS} minutes after its last bar)"
        )
    return over, tuple(session.date for session in asked[len(over) :])


def _hours(request: DownloadRequest, session: Session) -> tuple[int, int]:
    """The first start of a bar that is wanted, and the end of the last one's, in nanoseconds UTC."""
    if request.include_extended:
        return session.open_ns - BEFORE_OPEN_NS, session.open_ns + AFTER_OPEN_NS
    return session.open_ns, session.close_ns


def _periods(request: DownloadRequest, sessions: Sequence[Session]) -> list[list[_Chunk]]:
    """The chunks by period, oldest first; each period has one chunk for each symbol."""
    digits = 4 if request.timeframe == "1Day" else 7  # of YYYY-MM-DD: the year or the month
    grouped: dict[str, list[Session]] = {}
    for session in sessions:
        grouped.setdefault(session.date[:digits], []).append(session)
    return [[_Chunk(symbol, tuple(period)) for symbol in request.symbols] for period in grouped.values()]


def _identity(request: DownloadRequest, now_ns: int) -> dict[str, Any]:
    """What makes two requests the same download. Adjusted prices are as of a day: they change with the next split."""
    named = {name: getattr(request, name) for name in ("start", "end", "timeframe", "feed", "adjustment")}
    day = datetime.fromtimestamp(now_ns / SECOND_NS, NEW_YORK).date().isoformat()
    as_of = "" if request.adjustment == "raw" else day
    return {"symbols": list(request.symbols), **named, "include_extended": request.include_extended, "as_of": as_of}


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} was {found.get(name)!r}, now {wanted[name]!r}" for name in wanted if found.get(name) != wanted[name]
    )


def _already(request: DownloadRequest, identity: Mapping[str, Any], left_out: tuple[str, ...]) -> DownloadSummary:
    """The summary of a finished file of the same request; every other file at --out is left alone."""
    told = "another file stands there"
    with contextlib.suppress(pa.ArrowException, OSError, msgspec.DecodeError, KeyError, TypeError):
        metadata = pa.parquet.read_schema(request.out).metadata or {}
        held = msgspec.json.decode(metadata[METADATA_KEY])
        summary = msgspec.convert(held["summary"], DownloadSummary)
        told = _differences(held["request"] | {"as_of": ""}, {**identity, "as_of": ""})
        if not told and summary.left_out == left_out:
            return summary
        told = told or f"it left out {', '.join(summary.left_out)}, which can be had now"
    raise DownloadError(f"--out {request.out} exists already ({told}): move it away or choose another name")


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    plain = parts.scheme == "http" and parts.hostname in LOOPBACK
    if not (parts.hostname and (parts.scheme == "https" or plain)) or "@" in parts.netloc or parts.query:
        raise DownloadError(
            f"{DATA_URL_VARIABLE} is no address for data: expected https://… such as {DATA_URL} (http:// to this "
            "machine alone), without user, password or query"
        )


# --- asking -------------------------------------------------------------------------------------------------------


class _Bounded:
    """In place of alpaca-py's session: GET only, no redirect, nothing of the environment, a whole deadline."""

    def __init__(self, deadline_s: float) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}  # of the newest answer
        self._deadline_s = deadline_s
        self._session = requests.Session()
        self._session.trust_env = False  # no .netrc in place of our keys

    def request(self, method: str, url: str, **options: Any) -> requests.Response:
        """Send once. Raises what requests and urllib3 raise."""
        if method != "GET":
            raise ValueError(f"{method} from a reader: nothing was sent")
        self.status, self.headers = 0, {}
        until_s = time.monotonic() + self._deadline_s
        waits = (min(5.0, self._deadline_s), min(20.0, self._deadline_s))
        response = self._session.request(
            method, url, **{**options, "timeout": waits, "allow_redirects": False, "stream": True}
        )
        self.status, self.headers = response.status_code, response.headers
        body = bytearray()
        while part := response.raw.read1(65_536, decode_content=True):
            body += part
            if time.monotonic() > until_s or len(body) > BODY_MAX:
                response.close()
                raise requests.ReadTimeout(f"the answer was not whole in time after {len(body)} bytes")
        response.raw = io.BytesIO(bytes(body))
        return response


@dataclass(frozen=True, slots=True)
class _Unusable:
    """No usable answer this time; asking again may help."""

    reason: str


class _Door:
    """Alpaca's history of bars, one call at a time: paced, bounded, and asked again where that may help."""

    def __init__(self, request: DownloadRequest, keys: Keys, listen: Listen, clock: Clock) -> None:
        with warnings.catch_warnings():  # alpaca-py imports it with its streams, which are not used here
            warnings.filterwarnings("ignore", "websockets.legacy is deprecated", DeprecationWarning)
            from alpaca.data.historical import StockHistoricalDataClient
        self._session = _Bounded(request.deadline_s)
        self._client = StockHistoricalDataClient(
            keys.key, keys.secret, raw_data=True, url_override=request.url.rstrip("/")
        )
        self._client.__dict__.update(_session=self._session, _retry=0, _retry_codes=[])
        self._hide = keys.hide
        self._listen = listen
        self._clock = clock
        self._window: deque[float] = deque(maxlen=request.calls_per_minute)  # when the newest calls were made
        self._not_before_s = 0.0

    def page(self, query: Mapping[str, object]) -> Mapping[str, Any]:
        """One page. Raises DownloadError for a refusal, and after `TRIES` answers that cannot be used."""
        reason = ""
        for attempt in range(TRIES):
            self._await_turn()
            answer = self._once(query)
            pause_s = self._heed_headers(limited=isinstance(answer, _Unusable))
            if not isinstance(answer, _Unusable):
                return answer
            reason, wait_s = answer.reason, max(pause_s, min(2.0**attempt, 30.0))
            if attempt + 1 < TRIES:
                self._listen(f"{reason}; asking again in {wait_s:.0f} s")
                self._clock.sleep(wait_s)
        raise DownloadError(
            f"Alpaca gave no usable answer in {TRIES} attempts, the last: {reason}; what is finished is kept: "
            "give the same command again later"
        )

    def _await_turn(self) -> None:
        """At most `calls_per_minute` calls in any minute, and none before the broker's word allows it."""
        now_s = self._clock.monotonic_s()
        ready_s = self._window[0] + 60.0 if len(self._window) == self._window.maxlen else 0.0
        wait_s = max(ready_s, self._not_before_s) - now_s
        if wait_s > 0.0:
            self._listen(f"rate limit: going on in {wait_s:.0f} s")
            self._clock.sleep(wait_s)
        self._window.append(self._clock.monotonic_s())

    def _heed_headers(self, *, limited: bool) -> float:
        """Seconds to pause: Retry-After's, or until X-RateLimit-Reset where no call is left; else 0."""
        headers, throttled = self._session.headers, limited and self._session.status == 429
        pause_s = _number(headers.get("Retry-After")) if limited else None
        if pause_s is None and (throttled or _number(headers.get("X-RateLimit-Remaining")) == 0.0):
            reset_s = _number(headers.get("X-RateLimit-Reset"))
            pause_s = 5.0 if reset_s is None else reset_s - self._clock.now_ns() / SECOND_NS
        pause_s = min(max(pause_s or 0.0, 0.0), PAUSE_MAX_S)
        self._not_before_s = self._clock.monotonic_s() + pause_s if pause_s else 0.0
        return pause_s

    def _once(self, query: Mapping[str, object]) -> Mapping[str, Any] | _Unusable:
        """The failure is made outside of the handler: it keeps no request with its headers."""
        from alpaca.common.exceptions import APIError

        refused: tuple[int, str] | None = None
        try:
            answer = self._client.get("/stocks/bars", dict(query))
        except APIError as error:
            refused = (error.status_code or 0, str(error))
        except requests.Timeout:
            return _Unusable("no answer in time")
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError, RecursionError) as error:
            return _Unusable(self._hide(f"{type(error).__name__}: {error}"[:200]))
        if refused is None:
            if isinstance(answer, dict) and isinstance(answer.get("bars") or {}, dict):
                return answer
            return _Unusable(f"HTTP {self._session.status} without a page of bars")
        status, body = refused
        if status in {0, 408, 429} or status >= 500:
            return _Unusable(f"HTTP {status}")
        raise DownloadError(_refusal(status, self._hide(body)))


def _refusal(status: int, body: str) -> str:
    """Why Alpaca said no, and the cure."""
    try:
        message = str(msgspec.json.decode(body)["message"])[:300]
    except (msgspec.DecodeError, LookupError, TypeError):
        message = body[:100]
    if "recent SIP" in message:
        cure = "the plan has SIP after 15 minutes only: end earlier, or take --feed iex"
    elif status in {401, 403}:
        cure = f"check {' and '.join(KEY_VARIABLES)}, and that the plan has the feed (--feed iex is on every plan)"
    else:
        cure = "correct what it names"
    return f"Alpaca refused, HTTP {status}: {message}: {cure}"


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else None
    except ValueError:
        return None
    return number if number is not None and 0.0 <= number < 1e12 else None


def _pages(door: _Door, query: Mapping[str, object], symbol: str) -> Iterator[list[Any]]:
    """The rows of each page, in order, one page in flight. Raises DownloadError when the pages do not end."""
    token: str | None = None
    for _ in range(PAGES_MAX):
        page = door.page(query if token is None else {**query, "page_token": token})
        rows = (page.get("bars") or {}).get(symbol) or []
        if not isinstance(rows, list):
            raise DownloadError(f"{symbol}: Alpaca's page holds {str(rows)[:80]!r}: expected a list of bars")
        yield rows
        following = page.get("next_page_token")
        if not following:
            return
        if following == token:
            break
        token = str(following)
    raise DownloadError(
        f"{symbol}: Alpaca's pages do not end (page token {token!r}): give the same command again later"
    )


# --- one chunk ----------------------------------------------------------------------------------------------------


def _fetched(door: _Door, request: DownloadRequest, chunk: _Chunk) -> _Part:
    """A chunk's bars from Alpaca, checked, of the wanted hours, in the wanted timeframe."""
    daily, hourly = request.timeframe == "1Day", request.timeframe == "1Hour"
    step_ns = 30 * MINUTE_NS if hourly else request.step_ns  # Alpaca's hours begin at the full hour, a session does not
    if daily:
        spans = [(start := midnight_ns(session.date), start + 1) for session in chunk.sessions]
    else:
        spans = [_hours(request, session) for session in chunk.sessions]
    query = {
        "symbols": chunk.symbol,
        "timeframe": "30Min" if hourly else request.timeframe,
        "start": _utc(spans[0][0]),
        "end": _utc(spans[-1][0] if daily else spans[-1][1] - step_ns),
        "feed": request.feed,
        "adjustment": request.adjustment,
        "limit": PAGE_BARS,
        "sort": "asc",
    }
    rows: list[tuple[int, list[float]]] = []
    pages = 0
    for page in _pages(door, query, chunk.symbol):
        pages += 1
        rows.extend(_row(row, chunk.symbol) for row in page)
    starts = np.array([row[0] for row in rows], dtype=np.int64)
    prices = np.array([row[1] for row in rows], dtype=np.float64).reshape(-1, len(PRICES)).T
    _check_order(chunk.symbol, starts)
    begins, ends = np.array(spans, dtype=np.int64).T
    at = np.searchsorted(begins, starts, side="right") - 1
    inside = (at >= 0) & (starts < ends[at])
    starts, prices, at = starts[inside], prices[:, inside], at[inside]
    _check_values(chunk.symbol, starts, prices, starts - begins[at] if daily else starts % step_ns)
    if hourly and starts.size:
        starts, prices = _hours_of_sessions(starts, prices, begins[at])
    return _Part(starts, prices, pages, int(np.count_nonzero(~inside)))


def _row(row: Any, symbol: str) -> tuple[int, list[float]]:
    """Start in nanoseconds UTC, and open, high, low, close, volume. Raises DownloadError for what is no bar."""
    try:
        moment = datetime.fromisoformat(row["t"])
        values = [row[name] for name in "ohlcv"]
    except (LookupError, TypeError, ValueError):
        pass
    else:
        if moment.tzinfo is not None and all(type(value) in {int, float} for value in values):
            return int(moment.timestamp()) * SECOND_NS, [float(value) for value in values]
    raise DownloadError(f"{symbol}: {str(row)[:200]} is no bar: expected t, o, h, l, c, v: {_BAD_BAR_CURE}")


_BAD_BAR_CURE = "give the same command again; if it stays, tell Alpaca or leave the day out"


def _check_order(symbol: str, starts: Int64Array) -> None:
    steps = np.diff(starts)
    if steps.size and int(steps.min()) <= 0:
        index = int(np.argmax(steps <= 0))
        kind = "comes twice" if steps[index] == 0 else f"comes after {_utc(int(starts[index]))}"
        raise DownloadError(f"{symbol}: the bar of {_utc(int(starts[index + 1]))} {kind}: {_BAD_BAR_CURE}")


def _check_values(symbol: str, starts: Int64Array, prices: Float64Array, off_grid: Int64Array) -> None:
    """Raises DownloadError that names the first bad bar."""
    opened, high, low, close, volume = prices
    for fault, found in (
        ("a value is not finite", ~np.isfinite(prices).all(axis=0)),
        ("a price is not above 0", (prices[:4] <= 0.0).any(axis=0)),
        ("high is below low", high < low),
        (
            "open or close is outside of low and high",
            (np.minimum(opened, close) < low) | (np.maximum(opened, close) > high),
        ),
        ("the volume is below 0", volume < 0.0),
        ("its start is not on the grid of the timeframe", off_grid != 0),
    ):
        if found.any():
            index = int(np.argmax(found))
            values = " ".join(f"{name}={value}" for name, value in zip(PRICES, prices[:, index].tolist(), strict=True))
            raise DownloadError(f"{symbol}: the bar of {_utc(int(starts[index]))}: {fault}: {values}: {_BAD_BAR_CURE}")


def _hours_of_sessions(starts: Int64Array, prices: Float64Array, opens: Int64Array) -> tuple[Int64Array, Float64Array]:
    """Half-hour bars as hours that begin at their session's open; the last one of a session may be half as long."""
    labels = starts - (starts - opens) % HOUR_NS
    hours, first = np.unique(labels, return_index=True)
    last = np.append(first[1:], len(labels)) - 1
    opened, high, low, close, volume = prices
    extremes = np.maximum.reduceat(high, first), np.minimum.reduceat(low, first)
    return hours, np.stack([opened[first], *extremes, close[last], np.add.reduceat(volume, first)])


# --- on disk ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _writing(request: DownloadRequest) -> Iterator[None]:
    """What the file system says, as a DownloadError."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
        raise DownloadError(
            f"{request.out} cannot be written ({reason}): nothing was put there, finished parts are in "
            f"{request.parts}; make room or choose another --out, then give the command again"
        ) from error


def _claim(request: DownloadRequest, identity: Mapping[str, Any]) -> None:
    """The part folder is this request's. Raises DownloadError when it holds parts of another one."""
    file = request.parts / "request.json"
    if any(request.parts.glob("*-*.parquet")):
        try:
            found = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        except (FileNotFoundError, msgspec.DecodeError):
            found = {}
        if different := _differences(found, identity):
            raise DownloadError(
                f"{request.parts} holds parts of another download ({different}): finish that one, "
                "remove the folder, or choose another --out"
            )
        return
    request.parts.mkdir(exist_ok=True)
    _put(file, msgspec.json.encode(identity))


def _put(path: Path, data: bytes) -> None:
    """Write beside, flush, rename: a crash leaves the old file or the new one."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _store(request: DownloadRequest, identity: Mapping[str, Any], chunk: _Chunk, part: _Part) -> None:
    told = msgspec.json.encode({"request": identity, "part": chunk.name, "pages": part.pages, "outside": part.outside})
    table = _table([(chunk.symbol, part)]).replace_schema_metadata({METADATA_KEY: told})
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(table, sink, compression="zstd", write_page_checksum=True)
    _put(request.parts / chunk.name, sink.getvalue().to_pybytes())


def _stored(request: DownloadRequest, identity: Mapping[str, Any], chunk: _Chunk) -> _Part | None:
    """A finished part; None where there is none, or one that is damaged or another request's."""
    path = request.parts / chunk.name
    if not path.exists():
        return None
    try:
        table = pa.parquet.read_table(path, page_checksum_verification=True)
        told = msgspec.json.decode((table.schema.metadata or {})[METADATA_KEY], type=dict[str, Any])
        if told["request"] != identity or told["part"] != chunk.name:
            return None
        starts = table.column("timestamp").cast(pa.int64()).to_numpy()
        prices = np.stack([table.column(name).to_numpy() for name in PRICES])
        return _Part(starts, prices, int(told["pages"]), int(told["outside"]))
    except (pa.ArrowException, OSError, LookupError, ValueError):
        return None


def _table(parts: Sequence[tuple[str, _Part]]) -> Any:
    """The bars of one period, by start, then in the request's order of symbols."""
    starts = np.concatenate([part.start_ns for _, part in parts])
    order = np.argsort(starts, kind="stable")
    names = np.repeat([symbol for symbol, _ in parts], [part.start_ns.size for _, part in parts])[order]
    prices = np.concatenate([part.prices for _, part in parts], axis=1)[:, order]
    columns = [pa.array(names.tolist(), pa.string()), pa.array(starts[order]).cast(SCHEMA.field("timestamp").type)]
    return pa.table([*columns, *(pa.array(column) for column in prices)], schema=SCHEMA)


@dataclass(slots=True)
class _Tally:
    """Counts for the summary, chunk by chunk."""

    bars: Counter[str] = field(default_factory=Counter)
    pages: int = 0
    outside: int = 0
    missing_sessions: dict[str, list[str]] = field(default_factory=dict)
    missing: dict[str, list[int]] = field(default_factory=dict)  # starts of bars, by symbol

    def add(self, request: DownloadRequest, chunk: _Chunk, part: _Part) -> None:
        self.bars[chunk.symbol] += part.start_ns.size
        self.pages += part.pages
        self.outside += part.outside
        for session in chunk.sessions:
            daily = request.timeframe == "1Day"
            first, end = (
                (start := midnight_ns(session.date), start + 1) if daily else (session.open_ns, session.close_ns)
            )
            wanted = np.arange(first, end, request.step_ns)
            lacking = wanted[~np.isin(wanted, part.start_ns)]
            if lacking.size == wanted.size:
                self.missing_sessions.setdefault(chunk.symbol, []).append(session.date)
            elif lacking.size:
                self.missing.setdefault(chunk.symbol, []).extend(lacking.tolist())


def _assemble(
    request: DownloadRequest, identity: Mapping[str, Any], periods: list[list[_Chunk]], left_out: tuple[str, ...]
) -> DownloadSummary:
    """All parts as one file: written beside, read back, renamed. Raises DownloadError for a symbol without a bar."""
    tally = _Tally()
    parts: dict[str, _Part] = {}
    for chunk in (chunk for period in periods for chunk in period):
        part = _stored(request, identity, chunk)
        if part is None:
            raise DownloadError(f"{request.parts / chunk.name} is damaged: give the same command again")
        tally.add(request, chunk, part)
        parts[chunk.name] = part
    if empty := [symbol for symbol in request.symbols if not tally.bars[symbol]]:
        raise DownloadError(
            f"no bar of {', '.join(empty)} from {request.start} to {request.end} on feed {request.feed}: check the "
            f"symbol and the dates (Alpaca's history begins in 2016), and remove {request.parts} before another attempt"
        )
    summary = DownloadSummary(
        bars=dict(tally.bars),
        sessions=sum(len(period[0].sessions) for period in periods),
        first_session=periods[0][0].sessions[0].date,
        last_session=periods[-1][0].sessions[-1].date,
        pages=tally.pages,
        outside_hours=tally.outside,
        missing_sessions={symbol: tuple(dates) for symbol, dates in tally.missing_sessions.items()},
        missing_bars={symbol: len(starts) for symbol, starts in tally.missing.items()},
        missing_examples={s: tuple(_utc(start) for start in starts[:EXAMPLES]) for s, starts in tally.missing.items()},
        left_out=left_out,
    )
    schema = SCHEMA.with_metadata(
        {
            "source": "Alpaca /v2/stocks/bars",
            "feed": request.feed,
            "adjustment": request.adjustment,
            "timeframe": request.timeframe,
            "hours": "extended" if request.include_extended else "regular",
            METADATA_KEY: msgspec.json.encode({"request": identity, "summary": summary}),
        }
    )
    whole = request.parts / "whole.parquet"
    with whole.open("wb") as file:
        with pa.parquet.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer:
            for period in periods:
                writer.write_table(_table([(chunk.symbol, parts[chunk.name]) for chunk in period]).cast(schema))
        file.flush()
        os.fsync(file.fileno())
    read_back = sum(rows.start_ns.size for rows in TapeFile(whole, request.symbols).batches())
    if read_back != tally.bars.total():
        raise DownloadError(f"{whole} reads as {read_back} bars, {tally.bars.total()} were written: check the disk")
    whole.replace(request.out)
    return summary


def _utc(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // SECOND_NS, UTC).isoformat().replace("+00:00", "Z")


# --- the command --------------------------------------------------------------------------------------------------


def told(request: DownloadRequest, summary: DownloadSummary) -> str:
    """The summary as lines for a person."""
    hours = "regular and extended hours" if request.include_extended else "regular hours"
    bars = ", ".join(f"{count:,} bars of {symbol}" for symbol, count in summary.bars.items())
    lines = [
        f"{request.out}: {bars}; {summary.sessions} sessions from {summary.first_session} to {summary.last_session}",
        f"{request.timeframe}, feed {request.feed}, adjustment {request.adjustment}, {hours}",
        f"{summary.pages} pages; {summary.outside_hours:,} bars outside of these hours left out",
    ]
    if summary.left_out:
        lines.append(f"left out, not over yet: {', '.join(summary.left_out)}")
    for symbol, dates in summary.missing_sessions.items():
        shown = ", ".join(dates[:EXAMPLES]) + (", …" if len(dates) > EXAMPLES else "")
        lines.append(f"{symbol}: {len(dates)} missing sessions: {shown}")
    for symbol, count in summary.missing_bars.items():
        more = ", …" if count > EXAMPLES else ""
        lines.append(f"{symbol}: {count:,} missing bars: {', '.join(summary.missing_examples[symbol])}{more}")
    if not summary.missing_sessions and not summary.missing_bars:
        lines.append("no session and no bar of regular hours is missing")
    return "\n".join(lines)


def warnings_of(request: DownloadRequest) -> tuple[str, ...]:
    """What a person should know of a request that is allowed all the same."""
    found = []
    if request.adjustment != "raw" and request.timeframe != "1Day":
        found.append(
            f"--adjustment {request.adjustment}: strikes of options are on raw prices, so bars for a strategy that "
            "trades options must be raw"
        )
    if request.feed == "iex":
        found.append("--feed iex: one exchange's trades alone; volumes are small and minutes may be missing")
    return tuple(found)


def keys_of(environment: Mapping[str, str]) -> Keys:
    """The keys of the environment, under the daemon's names. Raises DownloadError, without what it found."""
    key, secret = (environment.get(name, "").strip() for name in KEY_VARIABLES)
    if not key or not secret:
        raise DownloadError(f"no keys: set {' and '.join(KEY_VARIABLES)} in the environment")
    if not _KEY.fullmatch(key) or not _KEY.fullmatch(secret):
        raise DownloadError(f"{' or '.join(KEY_VARIABLES)} is no key: expected signs without a space: copy it again")
    return Keys(key, secret)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    defaults = {item.name: item.default for item in dataclasses.fields(DownloadRequest)}
    parser.add_argument("--symbols", required=True, help="stocks, with commas between them: SPY,QQQ")
    parser.add_argument("--start", required=True, help="first New York date, YYYY-MM-DD")
    parser.add_argument("--end", required=True, help="last New York date, included")
    parser.add_argument("--timeframe", choices=tuple(TIMEFRAMES), default="1Min", help="(%(default)s)")
    parser.add_argument("--out", required=True, type=Path, help="the file to write, such as bars.parquet")
    parser.add_argument("--feed", choices=FEEDS, default=defaults["feed"], help="(%(default)s)")
    parser.add_argument("--adjustment", choices=ADJUSTMENTS, default=defaults["adjustment"], help="(%(default)s)")
    parser.add_argument(
        "--include-extended", action="store_true", help="04:00 to 20:00 New York, not regular hours alone"
    )
    parser.add_argument(
        "--calls-per-minute", type=int, default=defaults["calls_per_minute"], help="Alpaca allows 200 (%(default)s)"
    )


def run(chosen: argparse.Namespace) -> int:
    """Run the parsed command; returns the exit code: 0, 2 with one line on standard error, 130 after Ctrl-C."""
    try:
        request = DownloadRequest(
            symbols=tuple(symbol.strip().upper() for symbol in chosen.symbols.split(",") if symbol.strip()),
            start=chosen.start,
            end=chosen.end,
            timeframe=chosen.timeframe,
            out=chosen.out,
            feed=chosen.feed,
            adjustment=chosen.adjustment,
            include_extended=chosen.include_extended,
            calls_per_minute=chosen.calls_per_minute,
            url=os.environ.get(DATA_URL_VARIABLE, "").strip() or DATA_URL,
        )
        for warning in warnings_of(request):
            _say(f"warning: {warning}")
        summary = download(request, keys_of(os.environ), _say)
    except (DownloadError, CalendarError, TapeError) as error:
        _say(str(error))
        return USAGE_ERROR
    except KeyboardInterrupt:
        _say("interrupted; what is finished is kept: give the same command again")
        return INTERRUPTED
    sys.stdout.write(f"{told(request, summary)}\n")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """`train-and-export download …`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="train-and-export download",
        description=(__doc__ or "").partition("\n")[0],
        epilog=f"Keys: {' and '.join(KEY_VARIABLES)} in the environment; {DATA_URL_VARIABLE} for another server.",
    )
    add_arguments(parser)
    return run(parser.parse_args(arguments))


def _say(text: str) -> None:
    sys.stderr.write(f"download: {text}\n")
    sys.stderr.flush()
