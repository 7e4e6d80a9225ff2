"""GET /v2beta1/events/activities: the account's activities as server-sent events, replayable by ULID or time.

As documented: `since` and `since_id` begin a replay and exclude each other, without one only news is sent, and `until`
and `until_id` end the answer. Fields are those of `ActivityEventV2` in the published schema.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from aiohttp import web

from daemon.alpaca_api.books import ActivityRow
from daemon.alpaca_api.queries import time_ns
from daemon.alpaca_api.refusals import Refusal
from daemon.alpaca_api.wire import Json, stamp, ulid
from daemon.core.session import new_york_date

PATH = "/v2beta1/events/activities"
POLL_S = 0.02
EXECUTIONS = {"canceled": "trade_bust", "correct": "trade_correct"}
LAST_ID = "Z" * 26
A = TypeVar("A")
A_contra = TypeVar("A_contra", contravariant=True)


class ActivityBackend(Protocol[A_contra]):
    """The stream's interface to the server's accounts."""

    def now_ns(self) -> int:
        """The time of the server, in ns UTC."""

    def account_id(self, account: A_contra) -> str:
        """The account's UUID."""

    def activities(self, account: A_contra) -> Sequence[ActivityRow]:
        """All rows in the order of booking; new rows are only appended. May raise `Refusal`."""

    def client_order_id(self, account: A_contra, order_id: str) -> str:
        """The client order id of an order with a FILL among the activities."""


def event(row: ActivityRow, event_id: str, account_id: str, client_order_id: str) -> Json:
    """Return one activity as an event of the stream; `client_order_id` is that of a fill's order."""
    fields, kind = row.fields, str(row.fields["activity_type"])
    message: Json = {
        "event_id": event_id,
        "ref_id": row.id.rpartition("::")[2],
        "account_id": account_id,
        "activity_type": kind,
        "at": stamp(row.visible_ns),
        "executed_at": stamp(row.time_ns),
        "settle_date": new_york_date(row.time_ns).isoformat(),
        "currency": "USD",
        "status": "executed",
    }
    message |= {name: fields[name] for name in ("net_amount", "qty", "price") if name in fields}
    if row.amends:
        message["previous_id"] = row.amends
    if kind != "FILL":
        return {**message, "details": {"symbol": fields["symbol"]} if "symbol" in fields else {}}
    names = ("order_id", "side", "symbol", "cum_qty", "leaves_qty", "order_status")
    details = {**{name: fields[name] for name in names}, "client_order_id": client_order_id}
    details["execution_type"] = EXECUTIONS.get(fields.get("status", ""), fields["type"])
    return {**message, "details": details}


@dataclasses.dataclass(frozen=True, slots=True)
class IdSpan:
    """Limits of the requested rows: `since_id` is exclusive, the other limits are inclusive; times in ns UTC."""

    since_ns: int | None
    until_ns: int | None
    since_id: str
    until_id: str
    replays: bool
    ends: bool

    @classmethod
    def of(cls, query: Mapping[str, str]) -> IdSpan:
        """Read the query. Raises `Refusal`: 400 for names that exclude each other, 422 for an invalid time."""
        both = "since" in query and "since_id" in query
        if both or ("until" in query and "since" not in query) or ("until_id" in query and "since_id" not in query):
            raise Refusal(400, None, "since and since_id exclude each other, until needs one")
        since_ns, until_ns = (time_ns(query[name]) if name in query else None for name in ("since", "until"))
        replays, ends = "since" in query or "since_id" in query, "until" in query or "until_id" in query
        return cls(since_ns, until_ns, query.get("since_id", ""), query.get("until_id", LAST_ID), replays, ends)

    def has(self, row: ActivityRow, event_id: str) -> bool:
        """Return whether this row is within the limits."""
        if self.since_ns is not None and row.visible_ns < self.since_ns:
            return False
        if self.until_ns is not None and row.visible_ns > self.until_ns:
            return False
        return self.since_id < event_id <= self.until_id


class ActivityStreamServer(Generic[A]):
    """The endpoint for all accounts of one server; `authentic` maps a key and its secret to the account.

    `most` is the most concurrent streams of one key, 0 for no limit.
    """

    def __init__(
        self,
        backend: ActivityBackend[A],
        authentic: Callable[[str, str], A | None],
        *,
        most: int = 0,
    ) -> None:
        self.backend = backend
        self._authentic = authentic
        self._most = most
        self._open: Counter[str] = Counter()

    def routes(self) -> list[web.RouteDef]:
        """Return the route of the stream."""
        return [web.get(PATH, self.serve)]

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer with the requested replay, then with each new row, until the client leaves."""
        key = request.headers.get("APCA-API-KEY-ID", "")
        account = self._authentic(key, request.headers.get("APCA-API-SECRET-KEY", ""))
        status = self.denied(key, account)
        if status or account is None:
            return web.json_response({"message": "endpoint not found"}, status=status)
        try:
            span = IdSpan.of(request.query)
            self.backend.activities(account)
        except Refusal as refusal:
            return web.json_response(refusal.body(), status=refusal.status)
        if self._most and self._open[key] >= self._most:
            return web.json_response({"message": "too many requests."}, status=429)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        self._open[key] += 1
        try:
            await response.prepare(request)
            await response.write(b": connected\n\n")
            await self._send(response, account, span)
        except Refusal:
            pass  # the account's service is away: the stream ends, and the client reconnects
        finally:
            self._open[key] -= 1
        return response

    def denied(self, key: str, account: A | None) -> int:
        """Return the HTTP status of a refusal, 0 if the client is admitted; never 0 without an account."""
        del key
        return 401 if account is None else 0

    async def _send(self, response: web.StreamResponse, account: A, span: IdSpan) -> None:
        rows = self.backend.activities(account)
        sent_count = 0 if span.replays else len(rows)
        ms = max((row.time_ns // 1_000_000 for row in rows[:sent_count]), default=0)
        while True:
            rows, now_ns = self.backend.activities(account), self.backend.now_ns()
            if len(rows) < sent_count:
                return  # old rows were dropped: the client continues by id on a new connection
            while sent_count < len(rows) and (row := rows[sent_count]).visible_ns <= now_ns:
                ms = max(ms, row.time_ns // 1_000_000)  # ids sort in the order of booking
                event_id = ulid(ms, sent_count)
                if span.has(row, event_id) and not await self.write(response, account, row, event_id):
                    return
                sent_count += 1
            if span.ends:
                return
            await self.pause(account)

    async def pause(self, account: A) -> None:
        """Wait before the next look for the account's new rows."""
        del account
        await asyncio.sleep(POLL_S)

    async def write(self, response: web.StreamResponse, account: A, row: ActivityRow, event_id: str) -> bool:
        """Send one event; returns False if the connection must end before it."""
        await response.write(b"data: " + self.line(account, row, event_id) + b"\n\n")
        return True

    def line(self, account: A, row: ActivityRow, event_id: str) -> bytes:
        """Return the data of one event."""
        order_id = row.fields["order_id"] if row.fields["activity_type"] == "FILL" else ""
        name = self.backend.client_order_id(account, order_id) if order_id else ""
        return json.dumps(event(row, event_id, self.backend.account_id(account), name)).encode()
