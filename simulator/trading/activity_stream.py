"""GET /v2beta1/events/activities: the account's activities as server-sent events, replayable by ULID or time.

As documented: `since` and `since_id` begin a replay and exclude each other, without one only news is sent, and `until`
and `until_id` end the answer. Fields are those of `ActivityEventV2` in the published schema.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

from daemon.alpaca_api.books import ActivityRow
from daemon.alpaca_api.queries import time_ns
from daemon.alpaca_api.wire import stamp
from simulator.prices.tape import new_york_date
from simulator.trading.account import Account
from simulator.trading.venue import Brokerage

PATH = "/v2beta1/events/activities"
POLL_S = 0.02
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
EXECUTIONS = {"canceled": "trade_bust", "correct": "trade_correct"}


def routes(venue: Brokerage) -> list[web.RouteDef]:
    """The stream of activities, bound to `venue`."""
    return [web.get(PATH, ActivityStreamServer(venue).serve)]


def ulid(ms: int, number: int) -> str:
    """A ULID: 48 bits of milliseconds, then what sorts within one, here the row's number."""
    value = (ms << 80) | number
    return "".join(CROCKFORD[value >> shift & 31] for shift in range(125, -1, -5))


def event_ids(account: Account) -> list[str]:
    """The ULIDs of the account's rows in the order in which they were booked."""
    ids, ms = [], 0
    for number, row in enumerate(account.activities):
        ms = max(ms, row.time_ns // 1_000_000)
        ids.append(ulid(ms, number))
    return ids


def event(account: Account, row: ActivityRow, event_id: str) -> dict[str, Any]:
    """One activity as the stream shows it."""
    fields, kind = row.fields, str(row.fields["activity_type"])
    message: dict[str, Any] = {
        "event_id": event_id,
        "ref_id": row.id.rpartition("::")[2],
        "account_id": account.id,
        "activity_type": kind,
        "at": stamp(row.visible_ns),
        "executed_at": stamp(row.time_ns),
        "settle_date": new_york_date(row.time_ns),
        "currency": "USD",
        "status": "executed",
    }
    message |= {name: fields[name] for name in ("net_amount", "qty", "price") if name in fields}
    if row.amends:
        message["previous_id"] = row.amends
    if kind != "FILL":
        return {**message, "details": {"symbol": fields["symbol"]} if "symbol" in fields else {}}
    order = account.orders[fields["order_id"]]
    names = ("order_id", "side", "symbol", "cum_qty", "leaves_qty", "order_status")
    details = {**{name: fields[name] for name in names}, "client_order_id": order.client_order_id}
    details["execution_type"] = EXECUTIONS.get(fields.get("status", ""), fields["type"])
    return {**message, "details": details}


class ActivityStreamServer:
    """The endpoint for all accounts of one server."""

    def __init__(self, venue: Brokerage) -> None:
        self.venue = venue

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer with the replay that is asked for, then with each new row, until the client leaves."""
        key, query = request.headers.get("APCA-API-KEY-ID", ""), request.query
        account = self.venue.authentic(key, request.headers.get("APCA-API-SECRET-KEY", ""))
        refused = self.venue.faults.take("activity_refused", {"key": key})
        if account is None or refused is not None:
            status = 401 if refused is None else int(refused.get("status", 404))
            return web.json_response({"message": "endpoint not found"}, status=status)
        both = "since" in query and "since_id" in query
        if both or ("until" in query and "since" not in query) or ("until_id" in query and "since_id" not in query):
            return web.json_response({"message": "since and since_id exclude each other, until needs one"}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": connected\n\n")
        await self._send(response, account, query)
        return response

    async def _send(self, response: web.StreamResponse, account: Account, query: Any) -> None:
        replay = "since" in query or "since_id" in query
        ends = "until" in query or "until_id" in query
        sent = 0 if replay else len(account.activities)
        while True:
            rows, now_ns = account.activities, self.venue.clock.now_ns()
            while sent < len(rows) and rows[sent].visible_ns <= now_ns:
                name = event_ids(account)[sent]
                if _within(rows[sent], name, query) and not await self._write(response, account, rows[sent], name):
                    return
                sent += 1
            if ends:
                return
            await asyncio.sleep(POLL_S)

    async def _write(self, response: web.StreamResponse, account: Account, row: ActivityRow, name: str) -> bool:
        """Send one event; False where a fault cuts the connection before it."""
        faults, context = self.venue.faults, {"key": account.key, "activity_type": row.fields["activity_type"]}
        if faults.take("activity_dropped", context) is not None:
            return False
        late = faults.take("activity_late", context)
        if late is not None:
            await asyncio.sleep(float(late.get("seconds", 1.0)))
        data = json.dumps(event(account, row, name)).encode()
        garbage = faults.take("activity_garbage", context)
        if garbage is not None:
            data = str(garbage.get("text", '{"event_id": 7')).encode("latin-1")
        copies = 1 if faults.take("activity_doubled", context) is None else 2
        await response.write((b"data: " + data + b"\n\n") * copies)
        return True


def _within(row: ActivityRow, name: str, query: Any) -> bool:
    """Whether the query lets this row pass; `since_id` is exclusive, the other limits are inclusive."""
    if "since" in query and row.visible_ns < time_ns(query["since"]):
        return False
    if "until" in query and row.visible_ns > time_ns(query["until"]):
        return False
    return bool(query.get("since_id", "") < name <= query.get("until_id", "Z" * 26))
