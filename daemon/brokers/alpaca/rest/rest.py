"""One REST exchange with Alpaca: sent once, bounded in time, every failure translated.

Nothing is ever sent twice from here: no retry, no redirect. A read client refuses every other method in the process.
The requests are in `trading.py` and `market_data.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import requests
import urllib3

from daemon.brokers.alpaca.rest.client import V2, Access, BoundClient, StatusError
from daemon.brokers.alpaca.rest.errors import NotSent, Refused, RestError, Throttled, Unanswered
from daemon.brokers.alpaca.rest.queues import NotStarted, RequestQueue, StillRunning, Urgency
from daemon.brokers.alpaca.wire import text
from daemon.host.safe_decode import Unreadable, json_value, writable

Raw = dict[str, Any]

READING = frozenset({"GET"})
TRADING = frozenset({"POST", "DELETE"})
PAGES_MAX = 1000


def _exchange(work: Callable[[], object], hide: Callable[[str], str]) -> object:
    """Run in the queue's thread. Raises outside of the handler, so that the error keeps no request with its headers."""
    try:
        return writable(work())
    except StatusError as error:
        failure = _failure(error.response, hide)
    except requests.Timeout as error:
        failure = Unanswered(hide(f"no answer in time: {_innermost(error)}"[:300]))
    except requests.ConnectionError as error:
        failure = Unanswered(hide(f"no connection: {_innermost(error)}"[:300]))
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError, RecursionError) as error:
        failure = Unanswered(hide(f"{type(error).__name__}: {error}"[:300]))
    raise failure


def _innermost(error: BaseException) -> str:
    """Return the last message of a library's wrapped error."""
    inner = next((part for part in error.args if isinstance(part, BaseException)), getattr(error, "reason", None))
    if isinstance(inner, BaseException) and inner is not error:
        return _innermost(inner)
    return re.sub(r"^HTTPS?Connection(Pool)?\(.*?\): ", "", str(error))


def _failure(response: requests.Response, hide: Callable[[str], str]) -> RestError:
    status, body = response.status_code, response.text
    if status == 429:
        header = response.headers.get("Retry-After", "")
        return Throttled(float(header) if header.isascii() and header.isdigit() else None)
    if not 400 <= status < 500 or status == 408:
        return Unanswered(f"HTTP {status}")
    try:
        decoded = json_value(body)
    except Unreadable:
        decoded = None
    if not isinstance(decoded, dict):
        return Refused(status, None, hide(f"no JSON object but {body[:80]!r}"), {})
    code = decoded.get("code")
    extra = {key: value for key, value in decoded.items() if key not in ("code", "message")}
    message = hide(text(decoded.get("message"))[:500])
    return Refused(status, code if isinstance(code, int) else None, message, extra)


class QueuedClient:
    """A client on a request queue: calls in the queue's thread, and translates every failure."""

    def __init__(self, access: Access, queue: RequestQueue, methods: frozenset[str], version: str = V2) -> None:
        self.client = BoundClient(access, queue, methods, version)
        self.queue = queue
        self._deadlines = access.deadlines
        self._secrets = tuple(secret for secret in (access.key, access.secret) if secret)

    def _hide(self, shown: str) -> str:
        for secret in self._secrets:
            shown = shown.replace(secret, "[hidden]")
        return shown

    async def ask(
        self, work: Callable[[], object], urgency: Urgency, *, many: bool = False, wait_s: float | None = None
    ) -> object:
        """Return the raw answer, None for an empty body; `wait_s` as the queue's. Raises RestError."""
        deadline_s = self._deadlines.pages_s if many else self._deadlines.call_s
        try:
            return await self.queue.call(partial(_exchange, work, self._hide), urgency, deadline_s, wait_s)
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
        """Return the value of `key` on every page, one entry a page."""
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
    """Require a JSON object. Raises Unanswered for anything else."""
    if not isinstance(answer, dict):
        raise Unanswered(f"{asked}: the answer is {_kind(answer)}, expected an object")
    return answer


def a_list(answer: object, asked: str) -> list[Raw]:
    """Require a JSON array of objects. Raises Unanswered for anything else."""
    if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
        raise Unanswered(f"{asked}: the answer is {_kind(answer)}, expected an array of objects")
    return answer


def _kind(answer: object) -> str:
    return "empty" if answer is None else f"a {type(answer).__name__}"
