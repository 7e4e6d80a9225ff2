"""alpaca-py's REST client in one bounded session: each request is sent once, for some methods only.

Only the library's common client is loaded: its trading and data packages bring pandas, 84 MB and a second of start-up,
for models that are not used here.
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, field
from typing import Any

import requests
from alpaca.common.rest import RESTClient
from requests.adapters import HTTPAdapter

from daemon.brokers.alpaca.rest.errors import MethodRefused
from daemon.brokers.alpaca.rest.queues import RequestQueue

V2, V1BETA1 = "v2", "v1beta1"  # of options' market data
BODY_MAX = 64 * 1024 * 1024  # bytes of one answer


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Real seconds: to connect, between two parts of an answer, for a whole answer, and for a call with its waiting."""

    connect_s: float = 3.0
    read_s: float = 5.0
    whole_s: float = 8.0
    call_s: float = 12.0
    pages_s: float = 60.0  # a call of a history or a chain, whose queue may wait for its rate


def connections() -> HTTPAdapter:
    """Return kept connections, the one used last goes out first: one for each queue that may send at the same time."""
    return HTTPAdapter(pool_connections=1, pool_maxsize=3, max_retries=0)


@dataclass(frozen=True, slots=True, repr=False)
class Access:
    """Address and credentials. Its repr shows no key.

    Clients of one `pool` send over each other's connections. So the reads of each minute keep one open for an order
    after a quiet hour, and find out in its place when the way to the broker was cut without a word.
    """

    url: str
    key: str
    secret: str
    deadlines: Deadlines = field(default_factory=Deadlines)
    pool: HTTPAdapter = field(default_factory=connections, compare=False)

    def __repr__(self) -> str:
        return f"Access(url={self.url!r})"


class StatusError(Exception):
    """An answer whose status is 400 or above."""

    def __init__(self, response: requests.Response) -> None:
        super().__init__(response.status_code)
        self.response = response


class BoundClient(RESTClient):
    """The library's client for some methods only, without its retries, its redirects and its models."""

    def __init__(self, access: Access, queue: RequestQueue, methods: frozenset[str], version: str = V2) -> None:
        super().__init__(access.url, access.key, access.secret, api_version=version, raw_data=True)
        self._bound = BoundSession(methods, access, queue)

    def _one_request(self, method: str, url: str, opts: dict[str, Any], retry: int) -> Any:
        """Send once, whatever `retry` is; None for an empty body. Raises StatusError, and the session's errors."""
        del retry  # the library must not decide on resending
        response = self._bound.request(method, url, **opts)
        if response.status_code >= 400:
            raise StatusError(response)
        return response.json() if response.text else None


class BoundSession(requests.Session):
    """A session for some methods only, with deadlines, without redirects and without settings of the environment."""

    def __init__(self, methods: frozenset[str], access: Access, queue: RequestQueue) -> None:
        super().__init__()
        self.trust_env = False  # no .netrc in place of our keys
        self._methods = methods
        self._deadlines = access.deadlines
        self._queue = queue
        for scheme in ("http://", "https://"):
            self.mount(scheme, access.pool)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send once. Raises MethodRefused, and errors of requests and urllib3."""
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
        self._queue.observe(response.status_code, response.headers)
        response.raw = io.BytesIO(_whole_body(response, until_s))
        if 300 <= response.status_code < 400:
            raise requests.TooManyRedirects(f"{response.status_code} instead of an answer; redirects are not followed")
        return response


def _whole_body(response: requests.Response, until_s: float) -> bytes:
    """Read the body part by part, so that a slow one meets the deadline too."""
    body = bytearray()
    while part := response.raw.read1(65_536, decode_content=True):
        body += part
        if time.monotonic() > until_s or len(body) > BODY_MAX:
            response.close()
            raise requests.ReadTimeout(f"the answer was not whole in time after {len(body)} bytes")
    return bytes(body)
