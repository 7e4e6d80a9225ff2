"""alpaca-py's REST client in one bounded session: each request is sent once, for some methods only.

Only the library's common client is loaded: its trading and data packages bring pandas, 84 MB and a second of start-up,
for models that are not used here.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import http.client
import io
import itertools
import json
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

import certifi
import msgspec
from alpaca.common.rest import RESTClient
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NewConnectionError, ProtocolError, SSLError
from urllib3.exceptions import TimeoutError as TimeoutHTTPError

from daemon.brokers.alpaca.wire import text
from daemon.brokers.api import BrokerError, BrokerRefused
from daemon.host.safe_decode import Unreadable, check_depth, json_value, writable
from daemon.pacing import TokenBucket
from strategies.kit.units import SECOND_NS

if TYPE_CHECKING:
    from daemon.host.time.clock import Clock


class RestError(BrokerError):
    """The broker did not do, or did not confirm, a request."""


class Refused(RestError, BrokerRefused):
    """A definite refusal (HTTP 4xx). `code` is Alpaca's, None where the body has none; `extra` are the body's other
    keys. `of_service` is False where the body is no JSON object: what stands before the service refused. The text names
    the `address` that knows no such keys: other addresses may."""

    def __init__(
        self,
        status: int,
        code: int | None,
        message: str,
        extra: Mapping[str, object],
        *,
        of_service: bool = True,
        address: str = "",
    ) -> None:
        where = f" at {address}" if address and status == 401 else ""
        super().__init__(f"{status} {'-' if code is None else code} {message}{where}")
        self.of_service = of_service
        self.status = status
        self.unknown_keys, self.of_keys = status == 401, status in (401, 403)
        self.code = code
        self.message = message
        self.extra = extra

    @property
    def of_name(self) -> bool:
        """Whether the order's name is taken: it may be that very order."""
        return self.status == 409 or (self.status == 422 and "must be unique" in self.message)


class Throttled(RestError):
    """429: the rate limit. `retry_after_s` is from the header, None without one."""

    def __init__(self, retry_after_s: float | None) -> None:
        super().__init__(f"429 rate limit exceeded, retry after {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Unanswered(RestError):
    """No usable answer (timeout, reset, 5xx, redirect, unreadable body): it may or may not have happened."""


class NotSent(RestError):
    """It never left the process: its turn came too late for it or never, or its queue was full or closed."""


class MethodRefused(NotSent):
    """A client for other methods was used: a bug. Nothing was sent."""


T = TypeVar("T")

GATEWAY = "gateway: "
"""Begins what `rltrader-gateway` itself says, in the broker's place."""
PAUSE_MAX_S = 60  # cap on Retry-After: the broker counts in windows of a minute
PAUSE_DEFAULT_S = 5  # after a refusal for the rate without a time


class CallPriority(IntEnum):
    """Priority of a call; the lowest goes first, equal ones first come first."""

    EXIT = 0  # exits and cancels
    ENTRY = 1
    READ = 2


@dataclass(slots=True, eq=False)
class _Call:
    work: Callable[[], Any]
    urgency: CallPriority
    answer: asyncio.Future[Any]
    started: asyncio.Future[None]


class RequestQueue:
    """One thread and its queue. `reserve` tokens are kept for exits; at `floor` remaining calls the queue pauses.

    With `least_each` every n-th call is of the least urgent that wait, so that none of these starves.
    """

    def __init__(
        self, name: str, bucket: TokenBucket, clock: Clock, *, reserve: int = 0, floor: int = 0, least_each: int = 0
    ) -> None:
        self.name = name
        self.clock = clock
        self._bucket = bucket
        self._reserve = reserve
        self._floor = floor
        self._least_each = least_each
        self._call_count = 0
        self._capacity = 256
        self._queue: list[tuple[int, int, _Call]] = []
        self._number = itertools.count()
        self._wake = asyncio.Event()
        self._paused_until_ns = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"queue-{name}")
        self._dispatcher: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def left(self) -> float:
        """Calls that its budget has left now."""
        return self._bucket.left()

    async def call(
        self, work: Callable[[], T], urgency: CallPriority, deadline_s: float, wait_s: float | None = None
    ) -> T:
        """Run `work` in the queue's thread at its turn. Raises NotSent, Unanswered, and errors of `work`.

        With `wait_s` it waits that long for its turn, however full the queue is, and the deadline begins with its turn.
        A cancelled caller leaves the queue; a running call ends without a receiver.
        """
        self._admit(full_too=wait_s is not None)
        loop = asyncio.get_running_loop()
        call = _Call(work, urgency, loop.create_future(), loop.create_future())
        heapq.heappush(self._queue, (urgency, next(self._number), call))
        self._wake.set()
        if self._dispatcher is None:
            self._dispatcher = asyncio.create_task(self._dispatch(), name=f"queue-{self.name}")
        waited_s = deadline_s
        try:
            if wait_s is not None:
                waited_s = wait_s
                timeout_s = None if wait_s == math.inf else wait_s
                both = {call.started, call.answer}  # the answer of a queue that is closed comes without a turn
                await asyncio.wait(both, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if wait_s is None or call.started.done():
                await asyncio.wait({call.answer}, timeout=deadline_s)
            if call.answer.done():
                answer: T = call.answer.result()
                return answer
        finally:
            call.answer.cancel()  # leaves the queue; no effect if done
        if call.started.done():
            raise Unanswered(f"queue {self.name}: no answer within {deadline_s} s")
        raise NotSent(f"queue {self.name}: its turn did not come within {waited_s:g} s; nothing was sent")

    def observe(self, status: int, headers: Mapping[str, str]) -> None:
        """Apply the broker's rate headers: pause until Reset, or for Retry-After, at most a minute. From the thread."""
        now = self.clock.now_ns()
        pause_s = _number(headers.get("Retry-After"))
        remaining, reset_s = _number(headers.get("X-Ratelimit-Remaining")), _number(headers.get("X-Ratelimit-Reset"))
        if pause_s is None and (status == 429 or (remaining is not None and remaining <= self._floor)):
            default_s = PAUSE_DEFAULT_S if status == 429 else None
            pause_s = default_s if reset_s is None else reset_s - now / SECOND_NS
        if pause_s is not None and pause_s > 0:
            self._paused_until_ns = now + round(min(pause_s, PAUSE_MAX_S) * SECOND_NS)

    async def close(self) -> None:
        """Refuse waiting calls and join the thread: a running call is bounded by its socket's deadlines."""
        self._closed = True
        for _, _, call in self._queue:
            if not call.answer.done():
                call.answer.set_exception(NotSent(f"queue {self.name} was closed; nothing was sent"))
        self._wake.set()
        if self._dispatcher is not None:
            await self._dispatcher
        await asyncio.to_thread(self._thread.shutdown)

    # --- the queue ------------------------------------------------------------------------------------------------

    def _admit(self, *, full_too: bool) -> None:
        if self._closed:
            raise NotSent(f"queue {self.name} is closed; nothing was sent")
        if full_too:
            return
        if len(self._queue) >= self._capacity:
            self._queue = [entry for entry in self._queue if not entry[2].answer.done()]
            heapq.heapify(self._queue)
        if len(self._queue) >= self._capacity:
            raise NotSent(f"queue {self.name}: {len(self._queue)} calls wait already; nothing was sent")

    async def _dispatch(self) -> None:
        loop = asyncio.get_running_loop()
        while (call := await self._next()) is not None:
            call.started.set_result(None)
            running = loop.run_in_executor(self._thread, call.work)
            await asyncio.wait({running})
            error = running.exception()
            if call.answer.done():
                continue  # cancelled meanwhile
            if error is not None:
                call.answer.set_exception(error)
            else:
                call.answer.set_result(running.result())

    async def _next(self) -> _Call | None:
        """Return the first call of the queue, once the rate allows it; None after `close`."""
        while not self._closed:
            while self._queue and self._queue[0][2].answer.done():
                heapq.heappop(self._queue)
            self._wake.clear()
            if not self._queue:
                await self._wake.wait()
                continue
            reserve = 0 if self._queue[0][2].urgency is CallPriority.EXIT else self._reserve
            wait_ns = max(self._paused_until_ns - self.clock.now_ns(), self._bucket.wait_ns(reserve))
            if wait_ns <= 0:
                self._bucket.take()
                self._call_count += 1
                if self._least_each and self._call_count % self._least_each == 0:
                    return self._least_urgent()
                return heapq.heappop(self._queue)[2]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.001, self.clock.real_s(wait_ns))):
                    await self._wake.wait()
        return None

    def _least_urgent(self) -> _Call:
        """Remove and return the first of the least urgent calls; the queue has an awaited call at its head.

        Not the call that has waited longest: urgent calls that reach their deadline and are made anew would be older.
        """
        self._queue = [entry for entry in self._queue if not entry[2].answer.done()]
        least = min(self._queue, key=lambda entry: (-entry[0], entry[1]))
        self._queue.remove(least)
        heapq.heapify(self._queue)
        return least[2]


def _number(value: str | None) -> float | None:
    """Parse a header's number of seconds or calls; None for anything else."""
    try:
        number = float(value) if value is not None else None
    except ValueError:
        return None
    return number if number is not None and 0 <= number < 1e12 else None


def account_queues(clock: Clock) -> tuple[RequestQueue, RequestQueue]:
    """Return the queues for orders and for reads of one account: with `listing_queue` at most 200 calls a minute.

    Orders have 60 a minute and 80 at once, of which 40 are for exits and cancels only: enough to leave fifty positions,
    by a cancel and a sale each, in twenty seconds. Reads have 36 and 16 at once, and pause when the broker has 20 calls
    or fewer left. Look-ups go before reports, but every third call is a report's: it settles all orders at once, and
    comes however many of them are looked up.
    """
    orders = RequestQueue("orders", TokenBucket(clock.now_ns, 60, 80), clock, reserve=40)
    reads = RequestQueue("reads", TokenBucket(clock.now_ns, 36, 16), clock, floor=20, least_each=3)
    return orders, reads


def guard_queues(clock: Clock) -> tuple[RequestQueue, RequestQueue]:
    """Return the queues for orders and for reads of a guard: at most 50 of the account's calls a minute."""
    orders = RequestQueue("orders", TokenBucket(clock.now_ns, 20, 60), clock)
    return orders, RequestQueue("reads", TokenBucket(clock.now_ns, 30, 30), clock)


def listing_queue(clock: Clock) -> RequestQueue:
    """Return the queue for the lists of contracts: large, slow, never urgent. 4 a minute and 4 at once."""
    return RequestQueue("listing", TokenBucket(clock.now_ns, 4, 4), clock, floor=20)


def market_queue(clock: Clock) -> RequestQueue:
    """Return the queue for market data: a budget of its own, 200 calls a minute."""
    return RequestQueue("market", TokenBucket(clock.now_ns, 150, 50), clock)


V2, V1BETA1 = "v2", "v1beta1"  # versions of the market data's addresses; options have the second
BODY_MAX = 64 * 1024 * 1024  # bytes of one answer


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Real seconds: to connect, between two parts of an answer, for a whole answer, and for a call with its waiting."""

    connect_s: float = 3.0
    read_s: float = 5.0
    whole_s: float = 8.0
    call_s: float = 12.0
    pages_s: float = 60.0  # a call of a history or a chain, whose queue may wait for its rate


_deadline = threading.local()  # `until_s`: when the answer to this thread's request must be whole, monotonic


class _UntilDeadline(io.RawIOBase):
    """A socket's bytes until the deadline of this thread's request, which also bounds slow headers."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if time.monotonic() > _deadline.until_s:
            raise TimeoutError("the answer was not whole in time")
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(HTTPResponse):
    """An answer that is read by `_UntilDeadline`."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.fp = io.BufferedReader(_UntilDeadline(self.fp.detach()))


class _InOnePiece(http.client.HTTPConnection):
    """Sends headers and body of a request together: each piece alone costs a quarter of a millisecond."""

    _parts: list[bytes] | None = None

    def request(self, *arguments: Any, **keywords: Any) -> None:
        self._parts = []
        super().request(*arguments, **keywords)
        request, self._parts = b"".join(self._parts), None
        self.send(request)

    def send(self, data: Any) -> None:
        if self._parts is None:
            super().send(data)
        else:
            self._parts.append(data)


class _Plain(_InOnePiece, HTTPConnection):
    response_class = _Answer


class _Secure(_InOnePiece, HTTPSConnection):
    response_class = _Answer


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


def connections() -> PoolManager:
    """Return kept connections, the one used last goes out first: one for each queue that may send at the same time."""
    pool = PoolManager(maxsize=3, retries=False, ca_certs=certifi.where())
    pool.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}
    return pool


@dataclass(frozen=True, slots=True, repr=False)
class Access:
    """Address and credentials. Its repr shows no key.

    Clients of one `pool` share connections. So the minutely reads keep one open for an order after a quiet hour, and
    notice first when the connection was cut silently.
    """

    url: str
    key: str
    secret: str
    deadlines: Deadlines = field(default_factory=Deadlines)
    pool: PoolManager = field(default_factory=connections, compare=False)

    def __repr__(self) -> str:
        return f"Access(url={self.url!r})"


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer with its whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class StatusError(Exception):
    """An answer whose status is 400 or above."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


class Redirected(Exception):
    """An answer that names another place: redirects are not followed."""


class BoundClient(RESTClient):
    """The library's client for some methods only, without its retries, its redirects and its models."""

    def __init__(self, access: Access, queue: RequestQueue, methods: frozenset[str], version: str = V2) -> None:
        super().__init__(access.url, access.key, access.secret, api_version=version, raw_data=True)
        self._bound_session = BoundSession(methods, access, queue)

    def _one_request(self, method: str, url: str, opts: dict[str, Any], retry: int) -> Any:
        """Send once, whatever `retry` is; None for an empty body. Raises StatusError, and the session's errors."""
        del retry  # the library must not decide on resending
        reply = self._bound_session.request(method, url, opts["headers"], opts.get("params"), opts.get("json"))
        if reply.status >= 400:
            raise StatusError(reply)
        return json_of(reply.body)


def json_of(body: bytes) -> object:
    """Return the body's JSON value, None for an empty body. Raises ValueError for invalid JSON, and as `writable` does.

    What the strict fast decoder refuses (NaN, half a surrogate pair, another encoding) goes to the library's.
    """
    try:
        value = msgspec.json.decode(body) if body else None
    except (msgspec.MsgspecError, RecursionError):
        return writable(json.loads(body))
    return check_depth(value)


class BoundSession:
    """Requests of some methods only, with deadlines, without redirects and without settings of the environment.

    On urllib3 itself: the rest of `requests` would cost each order half a millisecond.
    """

    def __init__(self, methods: frozenset[str], access: Access, queue: RequestQueue) -> None:
        self._methods = methods
        self._deadlines = access.deadlines
        self._pool = access.pool
        self._queue = queue

    def request(
        self, method: str, url: str, headers: Mapping[str, str], params: Mapping[str, Any] | None, content: object
    ) -> Reply:
        """Send once, with `content` as JSON where it is not None; parameters that are None are left out.

        Raises MethodRefused, Redirected, and errors of urllib3.
        """
        if method not in self._methods:
            methods_text = ", ".join(sorted(self._methods))
            raise MethodRefused(f"{method} through a client for {methods_text} only: nothing was sent")
        until_s = _deadline.until_s = time.monotonic() + self._deadlines.whole_s
        if params:
            query = urlencode([(name, value) for name, value in params.items() if value is not None], doseq=True)
            url = f"{url}?{query}" if query else url
        request_headers, body = {**headers, "Accept-Encoding": "gzip, deflate"}, None
        if content is not None:
            request_headers["Content-Type"] = "application/json"
            body = json.dumps(content, allow_nan=False).encode()
        timeout = Timeout(connect=self._deadlines.connect_s, read=self._deadlines.read_s)
        response = self._pool.urlopen(
            method, url, redirect=False, headers=request_headers, body=body, timeout=timeout, preload_content=False
        )
        self._queue.observe(response.status, response.headers)
        reply = Reply(response.status, response.headers, _whole_body(response, until_s))
        if 300 <= reply.status < 400:
            raise Redirected(f"{reply.status} instead of an answer; redirects are not followed")
        return reply


def _whole_body(response: BaseHTTPResponse, until_s: float) -> bytes:
    """Read the body part by part, so that a slow one meets the deadline too."""
    body = bytearray()
    while part := response.read1(65_536, decode_content=True):
        body += part
        if time.monotonic() > until_s or len(body) > BODY_MAX:
            response.close()
            raise TimeoutError(f"the answer was not whole in time after {len(body)} bytes")
    return bytes(body)


Raw = dict[str, Any]

READING = frozenset({"GET"})
TRADING = frozenset({"POST", "DELETE"})
SETTING = frozenset({"PATCH"})
PAGES_MAX = 1000


def _exchange(work: Callable[[], object], hide: Callable[[str], str], address: str) -> object:
    """Run `work` in the queue's thread; raise outside of the handler, so that the error keeps no request's headers."""
    try:
        return work()
    except StatusError as error:
        failure = _failure(error.reply, hide, address)
    except (NewConnectionError, ProtocolError, SSLError) as error:
        failure = Unanswered(hide(f"no connection to {address}: {_innermost(error)}"[:300]))
    except (TimeoutError, TimeoutHTTPError) as error:
        failure = Unanswered(hide(f"no answer in time: {_innermost(error)}"[:300]))
    except (Redirected, HTTPError, OSError, ValueError, RecursionError) as error:
        failure = Unanswered(hide(f"{type(error).__name__}: {error}"[:300]))
    raise failure


def _innermost(error: BaseException) -> str:
    """Return the last message of a library's wrapped error."""
    inner = next((part for part in error.args if isinstance(part, BaseException)), getattr(error, "reason", None))
    if isinstance(inner, BaseException) and inner is not error:
        return _innermost(inner)
    return re.sub(r"^\w+\(host=.*?\): ", "", str(error))


def _failure(reply: Reply, hide: Callable[[str], str], address: str) -> RestError:
    status, body = reply.status, reply.body.decode(errors="replace")
    if status == 429:
        header = reply.headers.get("Retry-After", "")
        return Throttled(float(header) if header.isascii() and header.isdigit() else None)
    try:
        fields = json_value(body)
    except Unreadable:
        fields = None
    if not 400 <= status < 500 or status == 408:
        words = text(fields.get("message"))[:500] if isinstance(fields, dict) else ""
        return Unanswered(hide(f"HTTP {status}: {words}" if words.startswith(GATEWAY) else f"HTTP {status}"))
    if not isinstance(fields, dict):
        message = hide(f"no JSON object but {body[:80]!r}")
        return Refused(status, None, message, {}, of_service=False, address=address)
    code = fields.get("code")
    extra = {key: value for key, value in fields.items() if key not in ("code", "message")}
    message = hide(text(fields.get("message"))[:500])
    return Refused(status, code if isinstance(code, int) else None, message, extra, address=address)


class QueuedClient:
    """A client on a request queue: calls in the queue's thread, and translates every failure."""

    def __init__(self, access: Access, queue: RequestQueue, methods: frozenset[str], version: str = V2) -> None:
        self.client = BoundClient(access, queue, methods, version)
        self.queue = queue
        self._deadlines = access.deadlines
        self._address = access.url
        self._secrets = tuple(secret for secret in (access.key, access.secret) if secret)

    def _hide(self, message: str) -> str:
        for secret in self._secrets:
            message = message.replace(secret, "[hidden]")
        return message

    async def ask(
        self, work: Callable[[], object], urgency: CallPriority, *, many: bool = False, wait_s: float | None = None
    ) -> object:
        """Return the raw answer, None for an empty body; `wait_s` as the queue's. Raises RestError."""
        deadline_s = self._deadlines.pages_s if many else self._deadlines.call_s
        return await self.queue.call(partial(_exchange, work, self._hide, self._address), urgency, deadline_s, wait_s)

    async def get(
        self,
        path: str,
        query: Mapping[str, object] | None = None,
        *,
        urgency: CallPriority = CallPriority.READ,
        many: bool = False,
    ) -> object:
        """GET `path`; keys whose value is None are left out."""
        parameters = {key: value for key, value in (query or {}).items() if value is not None}
        return await self.ask(partial(self.client.get, path, parameters), urgency, many=many)

    async def pages(self, path: str, query: Mapping[str, object], key: str) -> list[object]:
        """Return the value of `key` on every page, one entry a page."""
        values: list[object] = []
        token: str | None = None
        for _ in range(PAGES_MAX):
            page = an_object(await self.get(path, {**query, "page_token": token}, many=True), path)
            values.append(page.get(key))
            following = text(page.get("next_page_token")) or None
            if following is None:
                return values
            if following == token:
                break
            token = following
        raise Unanswered(f"GET {path}: the pages do not end (token {token!r} after {len(values)} pages)")


def an_object(answer: object, request: str) -> Raw:
    """Require a JSON object. Raises Unanswered for anything else."""
    if not isinstance(answer, dict):
        raise Unanswered(f"{request}: the answer is {_kind(answer)}, expected an object")
    return answer


def a_list(answer: object, request: str) -> list[Raw]:
    """Require a JSON array of objects. Raises Unanswered for anything else."""
    if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
        raise Unanswered(f"{request}: the answer is {_kind(answer)}, expected an array of objects")
    return answer


def _kind(answer: object) -> str:
    return "empty" if answer is None else f"a {type(answer).__name__}"
