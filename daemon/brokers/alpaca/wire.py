"""Translate Alpaca's JSON into our structs: pure, no I/O, no clock, no decision.

Every documented trade event and order status has exactly one outcome in `EVENT_TABLE` and `STATUS_TABLE`; any other is
`FOUND`: the order itself is emitted. Unreadable data is `Malformed`, which names the key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from zoneinfo import ZoneInfo

from msgspec import UNSET

from daemon.brokers.api import BrokerUnreadable
from daemon.core.events import (
    BrokerOrder,
    BrokerPosition,
    CancelRejected,
    Event,
    OrderAccepted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderFound,
    OrderRejected,
    TradeCorrected,
)
from daemon.core.instruments.option_market import is_contract
from daemon.core.orders import name_prefix
from strategies.kit.quantity import PLACES, Quantity, exact
from strategies.kit.units import SECOND_NS

NEW_YORK = ZoneInfo("America/New_York")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,18}))?(?:([Zz])|([+-])(\d\d):?(\d\d))", re.ASCII
)
TEXTS, SHORT = 16_384, 64  # parsed texts of times and numbers cached, and their greatest length

ACCEPTED = "accepted"  # OrderAccepted
FILLED = "filled"  # OrderFilled
CANCELED = "canceled"  # OrderCanceled
EXPIRED = "expired"  # OrderExpired
REJECTED = "rejected"  # OrderRejected
CANCEL_REJECTED = "cancel_rejected"  # CancelRejected
CORRECTED = "corrected"  # TradeCorrected
FOUND = "found"  # OrderFound: the order's own status and figures count
IGNORED = "ignored"  # changes nothing about the order

EVENT_TABLE: dict[str, str] = {
    "accepted": ACCEPTED,
    "pending_new": ACCEPTED,
    "new": ACCEPTED,
    "partial_fill": FILLED,
    "fill": FILLED,
    "canceled": CANCELED,
    "replaced": CANCELED,  # ends under this name; `replaced_by`, emitted before it, names the new order
    "expired": EXPIRED,
    "rejected": REJECTED,
    "done_for_day": FOUND,  # no final state at Alpaca: a later event shows how it ended
    "calculated": FOUND,
    "suspended": FOUND,
    "restated": FOUND,
    "held": FOUND,
    "stopped": IGNORED,  # a trade at a guaranteed price follows
    "pending_cancel": IGNORED,  # requests in flight: their result is an event of its own
    "pending_replace": IGNORED,
    "order_replace_rejected": IGNORED,  # the order is unchanged, and we never replace one
    "order_cancel_rejected": CANCEL_REJECTED,
    "trade_bust": CORRECTED,
    "trade_correct": CORRECTED,
}
"""Event of the trading stream -> outcome, for orders of ours (Alpaca, Websocket Streaming, trade updates)."""

STATUS_TABLE: dict[str, str] = {
    "new": ACCEPTED,
    "accepted": ACCEPTED,
    "pending_new": ACCEPTED,
    "accepted_for_bidding": ACCEPTED,
    "pending_review": ACCEPTED,
    "held": ACCEPTED,
    "partially_filled": FILLED,
    "filled": FILLED,
    "canceled": CANCELED,
    "replaced": CANCELED,
    "expired": EXPIRED,
    "rejected": REJECTED,
    "done_for_day": FOUND,
    "calculated": FOUND,
    "stopped": FOUND,
    "suspended": FOUND,
    "pending_cancel": FOUND,
    "pending_replace": FOUND,
}
"""Order status -> meaning of a submission's reply with it: `ACCEPTED`, or else the order itself is emitted."""

ENDED = frozenset({"filled", "canceled", "expired", "rejected", "replaced"})
"""Statuses that never change again (Alpaca, order lifecycle); every other one, unknown ones too, may still fill."""


class Malformed(BrokerUnreadable):
    """Unreadable broker data; the text names the key and the value."""


def is_ours(epoch: str, strategy: str, guard_prefix: str = "") -> Callable[[str], bool]:
    """Return a test whether a client order id is of this journal and strategy, or of its guard if one is named."""
    guards = (f"{guard_prefix}-",) if guard_prefix else ()
    prefixes = (name_prefix(epoch, strategy), *guards)
    return lambda name: name.startswith(prefixes)


# --- single values ------------------------------------------------------------------------------------------------


def time_ns(value: object, key: str = "timestamp") -> int:
    """Parse RFC 3339 text (`Z` or an offset; digits beyond the ninth are cut) as nanoseconds UTC. Raises Malformed."""
    ns = _instant_ns(value) if isinstance(value, str) and len(value) <= SHORT else None
    if ns is None:
        raise Malformed(f"{key} is {value_text(value)}: expected RFC 3339 text such as 2026-11-20T14:30:00.5Z")
    return ns


@lru_cache(maxsize=TEXTS)  # each report repeats the orders of a day, a history of days its dates for each symbol
def _instant_ns(text: str) -> int | None:
    """Parse RFC 3339 text; None for other texts, and for times that do not exist."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, zulu, sign, off_hours, off_minutes = match.groups()
    offset = timedelta(0) if zulu else timedelta(hours=int(off_hours), minutes=int(off_minutes))
    try:
        zone = timezone(-offset if sign == "-" else offset)
        elapsed_time = (
            datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), tzinfo=zone) - _EPOCH
        )
    except (ValueError, OverflowError):
        return None
    nanoseconds = int((fraction or "")[:9].ljust(9, "0"))
    return (elapsed_time.days * 86_400 + elapsed_time.seconds) * SECOND_NS + nanoseconds


def moment_ns(value: object, key: str = "timestamp") -> int:
    """Parse the time of something in the account, from 1970 to 2262, as a journal can hold it. Raises Malformed."""
    ns = time_ns(value, key)
    if not 0 <= ns < 2**63:
        raise Malformed(f"{key} is {value_text(value)}: expected a time from 1970 to 2262")
    return ns


def first_moment_ns(raw: Mapping[str, object], *keys: str) -> int | None:
    """Return the first of these times that is set; None without one: year 1 is Go's zero. Raises Malformed."""
    keys_given = (key for key in keys if raw.get(key) and not text(raw[key]).startswith("0001-01-01T00:00:00"))
    return next((moment_ns(raw[key], key) for key in keys_given), None)


def time_text(ns: int) -> str:
    """Format nanoseconds UTC as RFC 3339 with `Z`, up to nine digits, trailing zeros dropped."""
    seconds, rest = divmod(ns, SECOND_NS)
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{(_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()}{fraction}Z"


def day_start_ns(ns: int) -> int:
    """Return the New York midnight at or before `ns`."""
    local = datetime.fromtimestamp(ns // SECOND_NS, NEW_YORK)
    return int(local.replace(hour=0, minute=0, second=0).timestamp()) * SECOND_NS


NUMERIC = (str, int, float, Decimal)


def decimal(value: object, key: str) -> Decimal:
    """Parse text or a JSON number as a Decimal below 10^12 (a float by its shortest text). Raises Malformed."""
    if isinstance(value, NUMERIC) and not isinstance(value, bool):
        try:
            digits = str(value)
            number = _number(digits) if len(digits) <= SHORT else _number.__wrapped__(digits)
        except (InvalidOperation, ValueError):
            number = None
        if number is not None:
            return number
    raise Malformed(f"{key} is {value_text(value)}: expected a number below 10^12")


@lru_cache(maxsize=TEXTS)
def _number(text: str) -> Decimal | None:
    number = Decimal(text)
    in_range = number.is_finite() and (not number or -18 <= number.adjusted() < 12)
    return (number or Decimal(0)) if in_range else None


def quantity(value: object, key: str) -> Decimal:
    """Parse a number of shares or contracts, also as `1e-9`. Raises Malformed beyond nine decimals."""
    number = decimal(value, key)
    places = number.as_tuple().exponent
    if isinstance(places, int) and -places > PLACES and number != round(number, PLACES):
        raise Malformed(f"{key} is {number:f}: expected at most {PLACES} decimals")
    return number


def text(value: object) -> str:
    """Return a text; `""` for null, a missing key and anything else."""
    return value if isinstance(value, str) else ""


def mapping(value: object, key: str) -> Mapping[str, object]:
    """Require a JSON object. Raises Malformed."""
    if not isinstance(value, dict):
        raise Malformed(f"{key} is {value_text(value)}: expected a JSON object")
    return value


def value_text(value: object) -> str:
    """Format a value for an error: numbers and containers by their type, anything else in 60 characters."""
    return f"a {type(value).__name__}" if isinstance(value, int | dict | list) else repr(value)[:60]


def required_text(raw: Mapping[str, object], key: str) -> str:
    """Return the text under `key`. Raises Malformed without one."""
    value = text(raw.get(key))
    if not value:
        raise Malformed(f"{key} is {value_text(raw.get(key))}: expected text")
    return value


def optional_decimal(raw: Mapping[str, object], key: str) -> Decimal | None:
    """Return the number under `key`; None for null, a missing key and no text. Raises Malformed."""
    value = raw.get(key)
    return None if value is None or value == "" else decimal(value, key)


def optional_quantity(raw: Mapping[str, object], key: str) -> Decimal | None:
    """Return the quantity under `key`; None for null, a missing key and no text. Raises Malformed."""
    value = raw.get(key)
    return None if value is None or value == "" else quantity(value, key)


def side_of(value: object) -> int:
    """Return +1 for buy, -1 for sell and sell_short, 0 when absent (the parent of a multi-leg order)."""
    word = text(value)
    return 1 if word.startswith("buy") else -1 if word.startswith("sell") else 0


# --- orders and positions -----------------------------------------------------------------------------------------


def order(value: object) -> BrokerOrder:
    """Parse an order object (legs of a multi-leg order are left out; its own side is 0, its symbol `""`).

    Nulls, unknown words and further keys are accepted. Raises Malformed for a missing id or a figure that is no number.
    """
    raw = mapping(value, "order")
    stop = optional_decimal(raw, "stop_price")
    ordered_quantity, filled_quantity = (optional_quantity(raw, key) or Decimal(0) for key in ("qty", "filled_qty"))
    return BrokerOrder(
        client_order_id=text(raw.get("client_order_id")),
        order_id=required_text(raw, "id"),
        symbol=text(raw.get("symbol")),
        side=side_of(raw.get("side")),
        quantity=ordered_quantity,
        limit_price=optional_decimal(raw, "limit_price"),
        intent=text(raw.get("position_intent")),
        status=_status_of(raw, whole=0 < ordered_quantity <= filled_quantity),
        filled=filled_quantity,
        average_price=optional_decimal(raw, "filled_avg_price"),
        submitted_ns=first_moment_ns(raw, "submitted_at", "created_at") or 0,
        replaced_by=text(raw.get("replaced_by")),
        stop_price=UNSET if stop is None else stop,
    )


def _status_of(raw: Mapping[str, object], *, whole: bool) -> str:
    """Return an order's status; one that filled `whole` is final, even if the status is `calculated`."""
    status = text(raw.get("status"))
    return "filled" if whole and status not in ENDED else status


def position(value: object) -> BrokerPosition:
    """Parse a position; short ones are negative whether by quantity or by side. Raises Malformed."""
    raw = mapping(value, "position")
    sign = -1 if raw.get("side") == "short" else 1
    units = quantity(raw.get("qty"), "qty")
    available = optional_quantity(raw, "qty_available")
    return BrokerPosition(
        symbol=required_text(raw, "symbol"),
        quantity=sign * abs(units) if sign < 0 else units,
        average_price=decimal(raw.get("avg_entry_price"), "avg_entry_price"),
        available=None if available is None else sign * abs(available) if sign < 0 else available,
    )


def positions(rows: Iterable[object]) -> tuple[BrokerPosition, ...]:
    """Parse positions; those of quantity 0 are left out. Raises Malformed."""
    return tuple(one for one in map(position, rows) if one.quantity)


def cost(symbol: str, filled_quantity: Decimal, average_price: Decimal | None) -> Decimal:
    """Return the sum of price x quantity from an order's average price, in USD a share times contracts.

    Options trade in whole cents, so their sum is one too and rounding to it restores what the average lost (exact while
    quantity x the average's rounding stays below half a cent). Shares are rounded to 0.0001 USD, fractions not at all.
    """
    total = filled_quantity * (average_price or Decimal(0))
    if filled_quantity % 1 and not is_contract(symbol):
        return total
    return total.quantize(Decimal("0.01") if is_contract(symbol) else Decimal("0.0001"))


def units(value: Decimal, symbol: str, key: str) -> Quantity:
    """Return an exact number of shares, or a whole one of contracts. Raises Malformed."""
    if is_contract(symbol) and value != value.to_integral_value():
        raise Malformed(f"{key} is {value}: expected a whole number")
    try:
        return exact(value)
    except ValueError:
        raise Malformed(f"{key} is {value:f}: expected at most {PLACES} decimals") from None


# --- news of the trading stream -----------------------------------------------------------------------------------


def trade_update(value: object, ours: Callable[[str], bool], now_ns: int) -> tuple[Event, ...]:
    """Translate the `data` of a trade update into events, by `EVENT_TABLE`; a foreign order is emitted as found.

    An end after fills, or by a replacement, is preceded by the order itself, because the end's event cannot carry those
    figures. Raises Malformed (null data, missing keys).
    """
    raw = mapping(value, "data")
    word = required_text(raw, "event")
    about = order(raw.get("order"))
    report = OrderFound(now_ns, about)
    if not ours(about.client_order_id):
        return (report,)
    name = about.client_order_id
    match EVENT_TABLE.get(word, FOUND):
        case "accepted":
            return (OrderAccepted(now_ns, name, about.order_id),)
        case "filled":
            return (_fill_event(raw, about, now_ns),)
        case "canceled":
            return _with_figures(report, OrderCanceled(now_ns, name))
        case "expired":
            return _with_figures(report, OrderExpired(now_ns, name))
        case "rejected":
            reason = text(raw.get("reason")) or text(mapping(raw["order"], "order").get("reject_reason"))
            return _with_figures(report, OrderRejected(now_ns, name, reason or "rejected after it was accepted"))
        case "cancel_rejected":
            return (CancelRejected(now_ns, name, word),)
        case "corrected":
            return (_correction_event(raw, about, word, now_ns),)
        case "ignored":
            return ()
        case _:
            return (report,)


def _with_figures(report: OrderFound, end: Event) -> tuple[Event, ...]:
    return (report, end) if report.order.filled or report.order.replaced_by else (end,)


def _fill_event(raw: Mapping[str, object], about: BrokerOrder, now_ns: int) -> OrderFilled:
    if about.average_price is None:
        raise Malformed("filled_avg_price is None: expected the average price of a filled order")
    return OrderFilled(
        now_ns,
        client_order_id=about.client_order_id,
        symbol=about.symbol,
        side=about.side,
        price=decimal(raw.get("price"), "price"),
        filled_ns=moment_ns(raw.get("timestamp")),
        cumulative_quantity=units(about.filled, about.symbol, "filled_qty"),
        cumulative_cost=cost(about.symbol, about.filled, about.average_price),
        cumulative_fees=Decimal(0),
        quantity=units(quantity(raw.get("qty"), "qty"), about.symbol, "qty"),
    )


def _correction_event(raw: Mapping[str, object], about: BrokerOrder, word: str, now_ns: int) -> TradeCorrected:
    return TradeCorrected(
        now_ns,
        client_order_id=about.client_order_id,
        execution_id=text(raw.get("execution_id")),
        cumulative_quantity=units(about.filled, about.symbol, "filled_qty"),
        cumulative_cost=cost(about.symbol, about.filled, about.average_price),
        reason=word,
    )
