"""Alpaca over REST: three doors (reads, orders, market data) that ask, bound the answer in time and translate failures.

Nothing is ever sent twice from here: no retry, no redirect. A client made for reading refuses every other method in the
process. What an answer means is `wire.py`'s and `link.py`'s subject.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

from daemon.core.effects import SubmitOrder
from daemon.shell.alpaca.lanes import Lane, NotStarted, StillRunning, Urgency
from daemon.shell.alpaca.wire import is_option, text, time_ns, time_text

if TYPE_CHECKING:
    from alpaca.common.rest import RESTClient

Raw = dict[str, Any]

READING = frozenset({"GET"})
TRADING = frozenset({"POST", "DELETE"})
BODY_MAX = 64 * 1024 * 1024  # bytes of one answer
PAGES_MAX = 1000
MILLISECOND_NS = 1_000_000


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
        return work()
    except APIError as error:
        failure = _failure(error.status_code, str(error), error.response, hide)
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError, RecursionError) as error:
        failure = Unanswered(hide(f"{type(error).__name__}: {error}"[:300]))
    raise failure


def _failure(
    status: int | None, body: str, response: requests.Response | None, hide: Callable[[str], str]
) -> RestError:
    if status == 429:
        header = response.headers.get("Retry-After", "") if response is not None else ""
        return Throttled(float(header) if header.isascii() and header.isdigit() else None)
    if status is None or not 400 <= status < 500 or status == 408:
        return Unanswered(f"HTTP {status}")
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        return Refused(status, None, hide(f"no JSON object but {body[:80]!r}"), {})
    code = told.get("code")
    extra = {key: value for key, value in told.items() if key not in ("code", "message")}
    message = hide(text(told.get("message"))[:500])
    return Refused(status, code if isinstance(code, int) else None, message, extra)


@contextlib.contextmanager
def _legacy_unsaid() -> Iterator[None]:
    """alpaca-py imports websockets.legacy with its streams, which are not used here; that it is deprecated is known."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "websockets.legacy is deprecated", DeprecationWarning)
        yield


def _trading_client() -> Callable[..., RESTClient]:
    """The library's class, imported when it is first needed: that costs half a second."""
    with _legacy_unsaid():
        from alpaca.trading.client import TradingClient
    return TradingClient


class _Door:
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

    async def ask(self, work: Callable[[], object], urgency: Urgency, *, many: bool = False) -> object:
        """The raw answer, None where the body was empty. Raises RestError."""
        deadline_s = self._deadlines.pages_s if many else self._deadlines.call_s
        try:
            return await self.lane.call(partial(_exchange, work, self._hide), urgency, deadline_s)
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


# --- reading the account ------------------------------------------------------------------------------------------


class TradingReads:
    """The account's reading side: GET only by construction. Every method raises RestError."""

    def __init__(self, access: Access, lane: Lane) -> None:
        self._door = _Door(_trading_client(), access, lane, READING)

    async def account(self) -> Raw:
        """GET /v2/account."""
        return an_object(await self._door.get("/account"), "account")

    async def configurations(self) -> Raw:
        """GET /v2/account/configurations."""
        return an_object(await self._door.get("/account/configurations"), "configurations")

    async def clock(self) -> Raw:
        """GET /v2/clock."""
        return an_object(await self._door.get("/clock"), "clock")

    async def calendar(self, first: str, last: str) -> list[Raw]:
        """GET /v2/calendar for New York dates `YYYY-MM-DD`, both included."""
        return a_list(await self._door.get("/calendar", {"start": first, "end": last}), "calendar")

    async def asset(self, symbol: str) -> Raw:
        """GET /v2/assets/{symbol}."""
        return an_object(await self._door.get(f"/assets/{symbol}"), "asset")

    async def positions(self) -> list[Raw]:
        """GET /v2/positions."""
        return a_list(await self._door.get("/positions"), "positions")

    async def open_orders(self) -> list[Raw]:
        """All orders that Alpaca counts as open, oldest first."""
        return await self._orders("open", None)

    async def orders_since(self, since_ns: int) -> list[Raw]:
        """All orders submitted at `since_ns` or later, whatever became of them, oldest first."""
        return await self._orders("all", since_ns)

    async def _orders(self, status: str, since_ns: int | None) -> list[Raw]:
        """`after` is exclusive, so a page starts a millisecond before the last one's end and repeats are dropped."""
        found: dict[str, Raw] = {}
        after = None if since_ns is None else time_text(since_ns - 1)
        for _ in range(PAGES_MAX):
            query = {"status": status, "limit": 500, "direction": "asc", "nested": "false", "after": after}
            page = a_list(await self._door.get("/orders", query), "orders")
            new = {text(row.get("id")): row for row in page if text(row.get("id")) not in found}
            found |= new
            if len(page) < 500:
                return list(found.values())
            if not new:
                break
            last = page[-1].get("submitted_at") or page[-1].get("created_at")
            after = time_text(time_ns(last, "submitted_at") - MILLISECOND_NS)
        raise Unanswered(f"GET /orders: the pages do not end (after={after}, {len(found)} orders)")

    async def order_by_id(self, order_id: str) -> Raw:
        """GET /v2/orders/{id}."""
        return an_object(await self._door.get(f"/orders/{order_id}"), "order")

    async def order_by_client_id(self, client_order_id: str) -> Raw | None:
        """The order of this name; None when the broker says 404 because it knows none. Goes before other reads."""
        query = {"client_order_id": client_order_id}
        try:
            answer = await self._door.get("/orders:by_client_order_id", query, urgency=Urgency.EXIT)
            found = an_object(answer, "order")
        except Refused as error:
            unknown = error.status == 404 and "endpoint" not in error.message
            if unknown and (error.code == 40410000 or "not found" in error.message):
                return None
            raise
        if found.get("client_order_id") != client_order_id:
            raise Unanswered(f"asked for order {client_order_id}, got {str(found.get('client_order_id'))[:128]!r}")
        return found

    async def activities(self, after_ns: int) -> list[Raw]:
        """The ledger's lines after `after_ns` (exclusive), oldest first, each once."""
        found: dict[str, Raw] = {}
        token: str | None = None
        for _ in range(PAGES_MAX):
            query = {"after": time_text(after_ns), "direction": "asc", "page_size": 100, "page_token": token}
            page = a_list(await self._door.get("/account/activities", query), "activities")
            new = {text(row.get("id")): row for row in page if text(row.get("id")) not in found}
            found |= new
            if len(page) < 100:
                return list(found.values())
            if not new:
                break
            token = text(page[-1].get("id"))
        raise Unanswered(f"GET /account/activities: the pages do not end (token {token!r}, {len(found)} lines)")

    async def option_contracts(
        self, underlying: str, expiry_from: str, expiry_to: str, strike_from: object, strike_to: object
    ) -> list[Raw]:
        """Active contracts between two New York dates and two strikes in USD, all included."""
        query = {
            "underlying_symbols": underlying,
            "status": "active",
            "expiration_date_gte": expiry_from,
            "expiration_date_lte": expiry_to,
            "strike_price_gte": str(strike_from),
            "strike_price_lte": str(strike_to),
            "limit": 10_000,
        }
        pages = await self._door.pages("/options/contracts", query, "option_contracts")
        return [row for page in pages for row in a_list(page or [], "option_contracts")]


# --- orders -------------------------------------------------------------------------------------------------------


class TradingOrders:
    """The account's writing side: POST and DELETE only by construction. Every method raises RestError."""

    def __init__(self, access: Access, lane: Lane) -> None:
        self._door = _Door(_trading_client(), access, lane, TRADING)

    async def submit(self, order: SubmitOrder) -> Raw:
        """POST /v2/orders once. An opening order whose validity passed before its turn raises Lapsed, unsent."""
        opening = order.intent == "buy_to_open"
        answer = await self._door.ask(partial(self._post, order), Urgency.ENTRY if opening else Urgency.EXIT)
        return an_object(answer, f"order {order.client_order_id}")

    def _post(self, order: SubmitOrder) -> object:
        now = self._door.lane.clock.now_ns()
        if order.intent == "buy_to_open" and now > order.valid_until_ns:
            raise Lapsed(
                f"order {order.client_order_id} was valid until {order.valid_until_ns}, now is {now}: not sent"
            )
        return self._door.client.post("/orders", submission(order))

    async def cancel(self, order_id: str) -> None:
        """DELETE /v2/orders/{id}: a request only, the trade stream says what came of it."""
        await self._door.ask(partial(self._door.client.delete, f"/orders/{order_id}"), Urgency.EXIT)

    async def cancel_all(self) -> list[Raw]:
        """DELETE /v2/orders: for each open order {id, status}."""
        answer = await self._door.ask(partial(self._door.client.delete, "/orders"), Urgency.EXIT)
        return a_list(answer, "cancel all")

    async def close_all(self) -> list[Raw]:
        """DELETE /v2/positions with its orders: for each position {symbol, status, body}: an order or an error."""
        query = {"cancel_orders": "true"}
        answer = await self._door.ask(partial(self._door.client.delete, "/positions", query), Urgency.EXIT)
        return a_list(answer, "close all")


def submission(order: SubmitOrder) -> Raw:
    """The body of POST /v2/orders: a day order, the price as exact text, the intent for options alone."""
    body: Raw = {
        "symbol": order.symbol,
        "qty": order.quantity,
        "side": "buy" if order.side > 0 else "sell",
        "type": "market" if order.limit_price is None else "limit",
        "time_in_force": "day",
        "client_order_id": order.client_order_id,
    }
    if order.limit_price is not None:
        body["limit_price"] = format(order.limit_price, "f")
    if is_option(order.symbol):
        body["position_intent"] = order.intent
    return body


# --- market data --------------------------------------------------------------------------------------------------


class MarketData:
    """Prices over REST: GET only by construction. Every method raises RestError. Numbers are JSON's."""

    def __init__(self, access: Access, lane: Lane) -> None:
        with _legacy_unsaid():
            from alpaca.data.historical import OptionHistoricalDataClient, StockHistoricalDataClient

        self._stocks = _Door(StockHistoricalDataClient, access, lane, READING)
        self._options = _Door(OptionHistoricalDataClient, access, lane, READING)

    async def bars(self, symbol: str, start_ns: int, end_ns: int, feed: str) -> list[Raw]:
        """Unadjusted minute bars {t, o, h, l, c, v, n, vw} that start between the two times, oldest first."""
        query = {
            "symbols": symbol,
            "timeframe": "1Min",
            "start": time_text(start_ns),
            "end": time_text(end_ns),
            "feed": feed,
            "limit": 10_000,
            "adjustment": "raw",
            "sort": "asc",
        }
        pages = await self._stocks.pages("/stocks/bars", query, "bars")
        return [bar for page in pages for bar in a_list(an_object(page or {}, "bars").get(symbol) or [], "bars")]

    async def latest_quote(self, symbol: str, feed: str) -> Raw | None:
        """The newest quote {t, bp, bs, ap, as, ...} of a stock; None where there is none."""
        answer = await self._stocks.get("/stocks/quotes/latest", {"symbols": symbol, "feed": feed})
        quotes = an_object(an_object(answer, "quotes").get("quotes") or {}, "quotes")
        return an_object(quotes[symbol], "quote") if quotes.get(symbol) else None

    async def latest_option_quotes(self, symbols: tuple[str, ...], feed: str) -> dict[str, Raw]:
        """Symbol -> newest quote; contracts without one are absent. 100 symbols a request."""
        found: dict[str, Raw] = {}
        for first in range(0, len(symbols), 100):
            query = {"symbols": ",".join(symbols[first : first + 100]), "feed": feed}
            answer = an_object(await self._options.get("/options/quotes/latest", query), "quotes")
            found |= an_object(answer.get("quotes") or {}, "quotes")
        return found

    async def option_chain(
        self, underlying: str, expiry_from: str, expiry_to: str, strike_from: object, strike_to: object, feed: str
    ) -> dict[str, Raw]:
        """Symbol -> snapshot of the contracts between two New York dates and two strikes in USD, all included."""
        query = {
            "feed": feed,
            "limit": 1000,
            "expiration_date_gte": expiry_from,
            "expiration_date_lte": expiry_to,
            "strike_price_gte": str(strike_from),
            "strike_price_lte": str(strike_to),
        }
        pages = await self._options.pages(f"/options/snapshots/{underlying}", query, "snapshots")
        return {symbol: row for page in pages for symbol, row in an_object(page or {}, "snapshots").items()}
