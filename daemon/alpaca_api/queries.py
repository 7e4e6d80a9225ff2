"""Requests and answers of REST as JSON: bodies, numbers, times, and filters of orders and activities.

Raises `Refusal` (422) for invalid values; nothing is looked up or changed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from daemon.alpaca_api.backend import ShownOrder
from daemon.alpaca_api.books import ActivityRow
from daemon.alpaca_api.refusals import invalid
from daemon.alpaca_api.wire import decimal
from daemon.core.session import new_york_date
from strategies.kit.units import SECOND_NS

_TIME = re.compile(r"(\d{4}-\d\d-\d\d(?:T\d\d:\d\d:\d\d)?)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?")
TRADE_TYPES = frozenset({"FILL"})
Shown = TypeVar("Shown", bound=ShownOrder)


async def json_body(request: web.Request) -> dict[str, Any]:
    """Return the JSON object of the request; `{}` for an empty body. Raises `Refusal` for anything else."""
    try:
        raw = await request.text()
        body = json.loads(raw, parse_float=Decimal) if raw else {}
    except (ValueError, RecursionError, LookupError):  # no JSON, or an unknown charset
        raise invalid("request body format is invalid") from None
    if not isinstance(body, dict):
        raise invalid("request body format is invalid")
    return body


def reply(body: object, status: int = 200) -> web.Response:
    """Return `body` as a JSON response."""
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def whole_number(value: str, name: str, most: int) -> int:
    """Read a whole number from 1 to `most`. Raises `Refusal` (422)."""
    if not value.isdecimal() or len(value) > 9 or not 1 <= int(value) <= most:
        raise invalid(f"{name} must be between 1 and {most}")
    return int(value)


def is_true(value: str | None) -> bool:
    """Return whether a flag of the query is set."""
    return (value or "").lower() in {"true", "1"}


def positive(value: str, name: str) -> Decimal:
    """Read a number above 0. Raises `Refusal` (422)."""
    number = decimal(value)
    if number is None:
        raise invalid(f"invalid {name}")
    if number <= 0:
        raise invalid(f"{name} must be > 0")
    return number


def time_ns(value: str) -> int:
    """Return a query's time (RFC 3339 with up to nine digits, or a date; without offset UTC) in nanoseconds UTC."""
    match = _TIME.fullmatch(value.replace(" ", "+"))
    if match is None:
        raise invalid(f"invalid time {value}")
    whole, fraction, offset = match.groups()
    try:
        moment = datetime.fromisoformat(whole + (offset or "+00:00" if "T" in whole else "T00:00:00+00:00"))
    except ValueError:
        raise invalid(f"invalid time {value}") from None
    return int(moment.timestamp()) * SECOND_NS + int((fraction or "0").ljust(9, "0"))


def asked_orders(orders: Iterable[Shown], query: Mapping[str, str]) -> list[Shown]:
    """Return the orders that match the filters of GET /v2/orders; both times are exclusive. Raises `Refusal` (422)."""
    symbols, side = frozenset(filter(None, query.get("symbols", "").split(","))), query.get("side")
    after_ns, until_ns = _times(query)
    return [
        order
        for order in orders
        if after_ns < order.submitted_ns < until_ns
        and (not symbols or order.symbol in symbols)
        and side in (None, order.side)
    ]


def asked_lines(rows: Iterable[ActivityRow], query: Mapping[str, str], types: frozenset[str]) -> list[ActivityRow]:
    """Return the rows of these types (all, if empty) that match the filters of GET /v2/account/activities, as above."""
    category, day, order_id = (query.get(key) for key in ("category", "date", "order_id"))
    after_ns, until_ns = _times(query)
    return [
        row
        for row in rows
        if after_ns < row.time_ns < until_ns
        and (not types or row.fields["activity_type"] in types)
        and (category is None or (row.fields["activity_type"] in TRADE_TYPES) == (category == "trade_activity"))
        and (day is None or new_york_date(row.time_ns).isoformat() == day[:10])
        and order_id in (None, row.fields.get("order_id"))
    ]


def _times(query: Mapping[str, str]) -> tuple[float, float]:
    """Return a query's `after` and `until` in nanoseconds UTC, infinite if missing."""
    return (
        time_ns(query["after"]) if "after" in query else -math.inf,
        time_ns(query["until"]) if "until" in query else math.inf,
    )
