"""Client for Alpaca's recorded bars and corporate actions: page by page, rate-limited, bounded, with retries.

It does not judge the bars. Invariants: only GET, one call at a time, at most the request's calls a minute; no error
text contains a key.
"""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import requests
import urllib3
from alpaca.common.rest import RESTClient

from daemon.pacing import back_off_s
from strategies.kit.units import SECOND_NS
from training.data.bars_request import Chunk, DownloadError, DownloadRequest, spans_of, utc

Listen = Callable[[str], None]
PAGE_BARS = 10_000  # Alpaca's most
PAGES_MAX = 1_000  # of one chunk
TRIES = 8  # attempts for one page; with the pauses between them they survive 90 s without an answer
PAUSE_MAX_S = 300.0  # longest Retry-After, in seconds, that is obeyed
_AGAIN = "give the same command again later"
BODY_MAX = 64 * 1024 * 1024  # bytes of one answer
ACTIONS_LIMIT = 1_000  # Alpaca's maximum for a page of corporate actions
SYMBOLS_MAX = 50  # of one request for corporate actions
KEY_VARIABLES = ("APCA_API_KEY_ID", "APCA_API_SECRET_KEY")


class Resource(NamedTuple):
    """A resource of the API: its version, the path below it, and the member of an answer that holds the data."""

    version: str
    path: str
    member: str


BARS = Resource("v2", "/stocks/bars", "bars")
CORPORATE_ACTIONS = Resource("v1", "/corporate-actions", "corporate_actions")
ACTION_TYPES = ("cash_dividend", "forward_split", "reverse_split", "spin_off", "stock_dividend")


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """Alpaca's keys; the repr shows neither."""

    key: str
    secret: str

    def __repr__(self) -> str:
        return "Keys([hidden])"

    def hide(self, text: str) -> str:
        """`text` without the keys."""
        for secret in (self.secret, self.key):
            text = text.replace(secret, "[hidden]") if secret else text
        return text


@dataclass(frozen=True, slots=True)
class PacingClock:
    """A clock for pacing: time of day in nanoseconds UTC, monotonic seconds, and a sleep."""

    now_ns: Callable[[], int] = time.time_ns
    monotonic_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class _Bounded:
    """An HTTP session: GET only, no redirects, no environment settings, one deadline for a whole answer."""

    def __init__(self, deadline_s: float) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}  # of the newest answer
        self._deadline_s = deadline_s
        self._session = requests.Session()
        self._session.trust_env = False  # so that .netrc does not replace our keys

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


class _StatusError(Exception):
    """An answer whose status is 400 or above."""

    def __init__(self, response: requests.Response) -> None:
        super().__init__(response.status_code)
        self.status, self.body = response.status_code, response.text


class _BarsClient(RESTClient):
    """alpaca-py's common client in a bounded session, without its retries; its data package would bring pandas."""

    def __init__(self, url: str, keys: Keys, session: _Bounded) -> None:
        super().__init__(url, keys.key, keys.secret, raw_data=True)
        self._bounded = session

    def _one_request(self, method: str, url: str, opts: dict[str, Any], retry: int) -> Any:
        """Send once, whatever `retry` is: the caller asks again. Raises _StatusError, and what the session raises."""
        del retry
        response = self._bounded.request(method, url, **opts)
        if response.status_code >= 400:
            raise _StatusError(response)
        return response.json() if response.text else None


@dataclass(frozen=True, slots=True)
class _Unusable:
    """No usable answer; a retry may help."""

    reason: str


class BarsDoor:
    """Alpaca's history, one call at a time: paced, bounded, with retries."""

    def __init__(self, request: DownloadRequest, keys: Keys, listen: Listen, clock: PacingClock) -> None:
        self._session = _Bounded(request.deadline_s)
        self._client = _BarsClient(request.url.rstrip("/"), keys, self._session)
        self._hide = keys.hide
        self._listen = listen
        self._clock = clock
        self._window: deque[float] = deque(maxlen=request.calls_per_minute)  # when the newest calls were made
        self._not_before_s = 0.0

    def page(self, query: Mapping[str, object], what: Resource = BARS) -> Mapping[str, Any]:
        """Request one page. Raises DownloadError for a refusal, and after `TRIES` answers that cannot be used."""
        reason = ""
        for attempt in range(TRIES):
            self._await_turn()
            answer = self._once(query, what)
            pause_s = self._heed_headers(limited=isinstance(answer, _Unusable))
            if not isinstance(answer, _Unusable):
                return answer
            reason, wait_s = answer.reason, max(pause_s, back_off_s(attempt + 1, 1.0, 30.0))
            if attempt + 1 < TRIES:
                self._listen(f"{reason}; asking again in {wait_s:.0f} s")
                self._clock.sleep(wait_s)
        raise DownloadError(
            f"Alpaca gave no usable answer in {TRIES} attempts, the last: {reason}; what is finished is kept: "
            "give the same command again later"
        )

    def _await_turn(self) -> None:
        """Wait until a call is allowed: at most `calls_per_minute` in any minute, none within a pause of the broker."""
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

    def _once(self, query: Mapping[str, object], what: Resource) -> Mapping[str, Any] | _Unusable:
        """Failures are made outside the exception handler, so that they hold no request with its headers."""
        refused: tuple[int, str] | None = None
        try:
            answer = self._client.get(what.path, dict(query), api_version=what.version)
        except _StatusError as error:
            refused = error.status, error.body
        except requests.Timeout:
            return _Unusable("no answer in time")
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError, RecursionError) as error:
            return _Unusable(self._hide(f"{type(error).__name__}: {error}"[:200]))
        if refused is None:
            if isinstance(answer, dict) and isinstance(answer.get(what.member) or {}, dict):
                return answer
            return _Unusable(f"HTTP {self._session.status} without a page of {what.member.replace('_', ' ')}")
        status, body = refused
        if status in {0, 408, 429} or status >= 500:
            return _Unusable(f"HTTP {status}")
        raise DownloadError(_refusal(status, self._hide(body)))


def _refusal(status: int, body: str) -> str:
    """The reason of Alpaca's refusal, and the cure, as text."""
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


def pages_of(door: BarsDoor, request: DownloadRequest, chunk: Chunk) -> Iterator[list[Any]]:
    """The rows of each page of a chunk, in order, as Alpaca gave them, one page in flight.

    Raises DownloadError when the pages do not end, and as `BarsDoor.page` does.
    """
    symbol = chunk.symbol
    for page in _all_pages(door, _query(request, chunk), BARS, symbol):
        rows = (page.get("bars") or {}).get(symbol) or []
        if not isinstance(rows, list):
            raise DownloadError(f"{symbol}: Alpaca's page holds {str(rows)[:80]!r}: expected a list of bars")
        yield rows


def actions_of(door: BarsDoor, symbols: Sequence[str], first: str, last: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The corporate actions that Alpaca processed between two dates, `YYYY-MM-DD`: their kind, and the row it gave.

    The kinds are those of `ACTION_TYPES` with an s. Raises DownloadError as `pages_of`.
    """
    actions: list[tuple[str, Mapping[str, Any]]] = []
    for begin in range(0, len(symbols), SYMBOLS_MAX):
        names = ",".join(symbols[begin : begin + SYMBOLS_MAX])
        query = {"symbols": names, "types": ",".join(ACTION_TYPES), "start": first, "end": last, "limit": ACTIONS_LIMIT}
        for page in _all_pages(door, query, CORPORATE_ACTIONS, names):
            kinds = page.get(CORPORATE_ACTIONS.member) or {}
            if not all(
                isinstance(rows, list) and all(isinstance(row, dict) for row in rows) for rows in kinds.values()
            ):
                raise DownloadError(f"{names}: Alpaca's page of corporate actions holds {str(kinds)[:80]!r}: {_AGAIN}")
            actions += [(kind, row) for kind, rows in kinds.items() for row in rows]
    return actions


def _all_pages(door: BarsDoor, query: Mapping[str, object], what: Resource, symbol: str) -> Iterator[Mapping[str, Any]]:
    token: str | None = None
    for _ in range(PAGES_MAX):
        page = door.page(query if token is None else {**query, "page_token": token}, what)
        yield page
        following = page.get("next_page_token")
        if not following:
            return
        if following == token:
            break
        token = str(following)
    raise DownloadError(f"{symbol}: Alpaca's pages do not end (page token {token!r}): {_AGAIN}")


def _query(request: DownloadRequest, chunk: Chunk) -> dict[str, object]:
    """Alpaca's `end` is the last start that it includes."""
    spans = spans_of(request, chunk)
    last_ns = spans[-1][0] if request.timeframe == "1Day" else spans[-1][1] - request.asked_step_ns
    return {
        "symbols": chunk.symbol,
        "timeframe": "30Min" if request.timeframe == "1Hour" else request.timeframe,
        "start": utc(spans[0][0]),
        "end": utc(last_ns),
        "feed": request.feed,
        "adjustment": request.adjustment,
        "limit": PAGE_BARS,
        "sort": "asc",
    }
