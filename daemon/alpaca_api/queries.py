"""Requests and answers of REST as JSON: bodies, numbers, times, and which orders and activities are asked for.

Raises `Refusal` (422) for what makes no sense; nothing is looked up and nothing changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

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


async def json_body(request: web.Request) -> dict[str, Any]:
    """The JSON object of the request; `{}` for an empty body. Raises `Refusal` for anything else."""
    try:
        raw = await request.text()
        body = json.loads(raw, parse_float=Decimal) if raw else {}
    except (ValueError, RecursionError, LookupError):  # no JSON, or a charset that nobody knows
        raise invalid("request body format is invalid") from None
    if not isinstance(body, dict):
        raise invalid("request body format is invalid")
    return body


def reply(body: object, status: int = 200) -> web.Response:
    """`body` as JSON."""
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def whole_number(value: str, name: str, most: int) -> int:
    """A whole number from 1 to `most`. Raises `Refusal` (422)."""
    if not value.isdecimal() or len(value) > 9 or not 1 <= int(value) <= most:
        raise invalid(f"{name} must be between 1 and {most}")
    return int(value)


def is_true(value: str | None) -> bool:
    """Whether a flag of the query is set."""
    return (value or "").lower() in {"true", "1"}


def positive(value: str, name: str) -> Decimal:
    """A number above 0. Raises `Refusal` (422)."""
    number = decimal(value)
    if number is None:
        raise invalid(f"invalid {name}")
    if number <= 0:
        raise invalid(f"{name} must be > 0")
    return number


@lru_cache(maxsize=64)  # a query's times are asked for with each row
def time_ns(value: str) -> int:
    """A query's time (RFC 3339 with up to nine digits, or a date; without offset UTC) in nanoseconds UTC."""
    match = _TIME.fullmatch(value.replace(" ", "+"))
    if match is None:
        raise invalid(f"invalid time {value}")
    whole, fraction, offset = match.groups()
    try:
        moment = datetime.fromisoformat(whole + (offset or "+00:00" if "T" in whole else "T00:00:00+00:00"))
    except ValueError:
        raise invalid(f"invalid time {value}") from None
    return int(moment.timestamp()) * SECOND_NS + int((fraction or "0").ljust(9, "0"))


def asked_for(order: ShownOrder, query: Mapping[str, str]) -> bool:
    """Whether the filters of GET /v2/orders let this order pass; both times are exclusive."""
    symbols = [symbol for symbol in query.get("symbols", "").split(",") if symbol]
    if symbols and order.symbol not in symbols:
        return False
    if query.get("side", order.side) != order.side:
        return False
    if "after" in query and order.created_ns <= time_ns(query["after"]):
        return False
    return not ("until" in query and order.created_ns >= time_ns(query["until"]))


def fits(row: ActivityRow, query: Mapping[str, str], types: frozenset[str]) -> bool:
    """Whether the filters of GET /v2/account/activities let this row pass; both times are exclusive."""
    kind = row.fields["activity_type"]
    if types and kind not in types:
        return False
    if "category" in query and (kind in TRADE_TYPES) != (query["category"] == "trade_activity"):
        return False
    if "date" in query and new_york_date(row.time_ns).isoformat() != query["date"][:10]:
        return False
    if "order_id" in query and row.fields.get("order_id") != query["order_id"]:
        return False
    if "after" in query and row.time_ns <= time_ns(query["after"]):
        return False
    return not ("until" in query and row.time_ns >= time_ns(query["until"]))
