"""One exchange with Alpaca over REST: asked once, bounded in time, every failure translated.

Nothing is ever sent twice from here: no retry, no redirect. A client made for reading refuses every other method in the
process. What is asked is the subject of `trading.py` and `market_data.py`.
"""

from __future__ import annotations

import contextlib
import io
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

from daemon.brokers.alpaca.rest.lanes import Lane, NotStarted, StillRunning, Urgency
from daemon.brokers.alpaca.wire import text
from daemon.host.safe_decode import Unreadable, json_value, writable

if TYPE_CHECKING:
    from alpaca.common.rest import RESTClient


Raw = dict[str, Any]

READING = frozenset({"GET"})
TRADING = frozenset({"POST", "DELETE"})
BODY_MAX = 64 * 1024 * 1024  # bytes of one answer
PAGES_MAX = 1000


# --- what can go wrong --------------------------------------------------------------------------------------------


class RestError(Exception):
    """The broker did not do, or did not say that it did, what it was asked."""


class Refused(RestError):
    """A definite no (HTTP 4xx). `code` is Alpaca's, None where the body has none; `extra` are the body's other keys."""

    def __init__(self, status: int, code: int | None, message: str, extra: Mapping[str, object]) -> None:
        super().__init__(f"{status} {'-' if code is None else code} {message}")
        self.status = status
        self.code = code
        self.message = message
        self.extra = extra


class Throttled(RestError):
    """429: the rate limit. `retry_after_s` is the broker's word, None where it has none."""

    def __init__(self, retry_after_s: float | None) -> None:
        super().__init__(f"429 rate limit exceeded, retry after {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Unanswered(RestError):
    """No usable answer (timeout, reset, 5xx, redirect, a body that cannot be read): it may or may not have happened."""


class NotSent(RestError):
    """It never left the process: its turn did not come in time, or its lane was full or closed."""


class Lapsed(NotSent):
    """It never left the process: the order's validity had passed when its turn came."""


class MethodRefused(NotSent):
    """A client made for other methods was used: a bug. Nothing was sent."""


# --- one exchange -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Real seconds: to connect, between two parts of an answer, for a whole answer, and for a call with its waiting."""

    connect_s: float = 3.0
    read_s: float = 5.0
    whole_s: float = 8.0
    call_s: float = 12.0
    pages_s: float = 60.0  # a call of a history or a chain, where the lane may have to wait for its rate


@dataclass(frozen=True, slots=True, repr=False)
class Access:
    """Where and as whom to ask. Its repr shows no key."""

    url: str
    key: str
    secret: str
    deadlines: Deadlines = field(default_factory=Deadlines)

    def __repr__(self) -> str:
        return f"Access(url={self.url!r})"


class BoundSession(requests.Session):
    """A session for some methods only, with deadlines, without redirects and without settings of the environment."""

    def __init__(self, methods: frozenset[str], deadlines: Deadlines, lane: Lane) -> None:
        super().__init__()
        self.trust_env = False  # no .netrc in place of our keys
        self._methods = methods
        self._deadlines = deadlines
        self._lane = lane
        for scheme in ("http://", "https://"):
            self.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=2, max_retries=0))

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send once. Raises MethodRefused, and what requests and urllib3 raise."""
        if request.method not in self._methods:
            allowed = ", ".join(sorted(self._methods))
            raise MethodRefused(f"{request.method} through a client for {allowed} only: nothing was sent")
        until_s = time.monotonic() + self._deadlines.whole_s
        kwargs |= {
            "timeout": (self._deadlines.connect_s, self._deadlines.read_s),
            "allow_redirects": False,
            "stream": True,
        }
        response = super().send(request, **kwargs)
        self._lane.observe(response.status_code, response.headers)
        response.raw = io.BytesIO(_whole_body(response, until_s))
        if 300 <= response.status_code < 400:
            raise requests.TooManyRedirects(f"{response.status_code} instead of an answer; redirects are not followed")
        return response


def _whole_body(response: requests.Response, until_s: float) -> bytes:
    """The body, read part by part so that one that trickles in ends too."""
    body = bytearray()
    while part := response.raw.read1(65_536, decode_content=True):
        body += part
        if time.monotonic() > until_s or len(body) > BODY_MAX:
            response.close()
            raise requests.ReadTimeout(f"the answer was not whole in time after {len(body)} bytes")
    return bytes(body)


def _exchange(work: Callable[[], object], hide: Callable[[str], str]) -> object:
    """Runs in the lane's thread. The failure is raised outside of the handler: it keeps no request with its headers."""
    from alpaca.common.exceptions import APIError

    try:
        return writable(work())
    except APIError as error:
        failure = _failure(error.status_code, str(error), error.response, hide)
    except requests.Timeout as error:
        failure = Unanswered(hide(f"no answer in time: {_innermost(error)}"[:300]))
    except requests.ConnectionError as error:
        failure = Unanswered(hide(f"no connection: {_innermost(error)}"[:300]))
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError, RecursionError) as error:
        failure = Unanswered(hide(f"{type(error).__name__}: {error}"[:300]))
    raise failure


def _innermost(error: BaseException) -> str:
    """What a library's wrapped error is about, in its last words."""
    inner = next((part for part in error.args if isinstance(part, BaseException)), getattr(error, "reason", None))
    if isinstance(inner, BaseException) and inner is not error:
        return _innermost(inner)
    return re.sub(r"^HTTPS?Connection(Pool)?\(.*?\): ", "", str(error))


def _failure(
    status: int | None, body: str, response: requests.Response | None, hide: Callable[[str], str]
) -> RestError:
    if status == 429:
        header = response.headers.get("Retry-After", "") if response is not None else ""
        return Throttled(float(header) if header.isascii() and header.isdigit() else None)
    if status is None or not 400 <= status < 500 or status == 408:
        return Unanswered(f"HTTP {status}")
    try:
        told = json_value(body)
    except Unreadable:
        told = None
    if not isinstance(told, dict):
        return Refused(status, None, hide(f"no JSON object but {body[:80]!r}"), {})
    code = told.get("code")
    extra = {key: value for key, value in told.items() if key not in ("code", "message")}
    message = hide(text(told.get("message"))[:500])
    return Refused(status, code if isinstance(code, int) else None, message, extra)


@contextlib.contextmanager
def legacy_unsaid() -> Iterator[None]:
    """alpaca-py imports websockets.legacy with its streams, which are not used here; that it is deprecated is known."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "websockets.legacy is deprecated", DeprecationWarning)
        yield


class Door:
    """A client of alpaca-py on a lane, with its retries off and its session replaced."""

    def __init__(self, make: Callable[..., RESTClient], access: Access, lane: Lane, methods: frozenset[str]) -> None:
        client = make(access.key, access.secret, raw_data=True, url_override=access.url)
        client.__dict__.update(_session=BoundSession(methods, access.deadlines, lane), _retry=0, _retry_codes=[])
        self.client = client
        self.lane = lane
        self._deadlines = access.deadlines
        self._secrets = tuple(secret for secret in (access.key, access.secret) if secret)

    def _hide(self, said: str) -> str:
        for secret in self._secrets:
            said = said.replace(secret, "[hidden]")
        return said

    async def ask(
        self, work: Callable[[], object], urgency: Urgency, *, many: bool = False, patience_s: float | None = None
    ) -> object:
        """The raw answer, None where the body was empty; `patience_s` as the lane's. Raises RestError."""
        deadline_s = self._deadlines.pages_s if many else self._deadlines.call_s
        try:
            return await self.lane.call(partial(_exchange, work, self._hide), urgency, deadline_s, patience_s)
        except NotStarted as error:
            failure: RestError = NotSent(str(error))
        except StillRunning as error:
            failure = Unanswered(str(error))
        raise failure

    async def get(
        self,
        path: str,
        query: Mapping[str, object] | None = None,
        *,
        urgency: Urgency = Urgency.READ,
        many: bool = False,
    ) -> object:
        """GET `path`; keys whose value is None are left out."""
        sent = {key: value for key, value in (query or {}).items() if value is not None}
        return await self.ask(partial(self.client.get, path, sent), urgency, many=many)

    async def pages(self, path: str, query: Mapping[str, object], key: str) -> list[object]:
        """What stands under `key` on every page, one entry a page."""
        found: list[object] = []
        token: str | None = None
        for _ in range(PAGES_MAX):
            page = an_object(await self.get(path, {**query, "page_token": token}, many=True), path)
            found.append(page.get(key))
            following = text(page.get("next_page_token")) or None
            if following is None:
                return found
            if following == token:
                break
            token = following
        raise Unanswered(f"GET {path}: the pages do not end (token {token!r} after {len(found)} pages)")


def an_object(answer: object, asked: str) -> Raw:
    """A JSON object. Raises Unanswered for anything else."""
    if not isinstance(answer, dict):
        raise Unanswered(f"{asked}: the answer is {_kind(answer)}, expected an object")
    return answer


def a_list(answer: object, asked: str) -> list[Raw]:
    """A JSON array of objects. Raises Unanswered for anything else."""
    if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
        raise Unanswered(f"{asked}: the answer is {_kind(answer)}, expected an array of objects")
    return answer


def _kind(answer: object) -> str:
    return "empty" if answer is None else f"a {type(answer).__name__}"
