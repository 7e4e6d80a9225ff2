"""Parse a request for an order: well-formed, or refused with 422, without a look at the account or the market."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import Any

from daemon.alpaca_api.refusals import invalid, unprocessable
from daemon.alpaca_api.wire import decimal
from daemon.core.instruments.option_market import OccContract, parse_occ
from strategies.kit.quantity import PLACES

MAX_CLIENT_ORDER_ID = 128
TYPES = ("market", "limit", "stop", "stop_limit", "trailing_stop")
FURTHER_ORDERS = ("take_profit", "stop_loss", "legs")
SEVERAL = ("bracket", "oco", "oto", "mleg")  # classes of several orders in one request
TIMES_IN_FORCE = ("day", "gtc", "opg", "cls", "ioc", "fok")


@dataclasses.dataclass(frozen=True, slots=True)
class Ticket:
    """A well-formed request for an order; quantities and prices as sent, `contract` for an option."""

    symbol: str
    side: str
    type: str
    time_in_force: str
    qty: Decimal | None
    notional: Decimal | None
    limit_price: Decimal | None
    stop_price: Decimal | None
    trail_price: Decimal | None
    trail_percent: Decimal | None
    extended_hours: bool
    client_order_id: str
    position_intent: str
    contract: OccContract | None

    @property
    def sign(self) -> int:
        """+1 buys, -1 sells."""
        return 1 if self.side == "buy" else -1

    @property
    def fractional(self) -> bool:
        """Whether it is for a fraction of a share: by its quantity, or for an amount of USD."""
        return self.qty is None or bool(self.qty % 1)


def ticket(body: dict[str, Any]) -> Ticket:
    """Return the well-formed request in `body`. Raises `Refusal` (422)."""
    order_class = body.get("order_class") or "simple"
    if order_class not in ("simple", *SEVERAL):
        raise invalid("invalid order_class")
    if order_class != "simple":
        quantity = number(body, "qty")
        if quantity is None or quantity % 1:
            raise unprocessable("fractional orders must be simple orders")
        raise unprocessable(f"{order_class} orders are not supported by this server")
    for key in FURTHER_ORDERS:  # without them it is a different order
        if body.get(key):
            raise unprocessable(f"{key} is not supported by this server: send each order by itself")
    symbol = str(body.get("symbol") or "")
    if not symbol:
        raise invalid("symbol is required")
    qty, notional = number(body, "qty"), number(body, "notional")
    if qty is None and notional is None:
        raise invalid("qty or notional is required")
    if qty is not None and notional is not None:
        raise invalid("only one of qty or notional is accepted")
    if qty is not None and qty <= 0:
        raise invalid("qty must be > 0")
    if notional is not None and notional <= 0:
        raise invalid("notional must be > 0")
    result = Ticket(
        symbol=symbol,
        side=_one_of(body, "side", ("buy", "sell")),
        type=_one_of(body, "type", TYPES),
        time_in_force=_one_of(body, "time_in_force", TIMES_IN_FORCE),
        qty=qty,
        notional=notional,
        limit_price=number(body, "limit_price"),
        stop_price=number(body, "stop_price"),
        trail_price=number(body, "trail_price"),
        trail_percent=number(body, "trail_percent"),
        extended_hours=body.get("extended_hours") in (True, "true", "True"),
        client_order_id=str(body.get("client_order_id") or ""),
        position_intent=str(body.get("position_intent") or ""),
        contract=parse_occ(symbol),
    )
    if len(result.client_order_id) > MAX_CLIENT_ORDER_ID:
        raise invalid("client_order_id must be no more than 128 characters")
    _needs_its_prices(result)
    if result.contract is None:
        _fits_a_fraction(result)
    return result


def number(body: dict[str, Any], name: str) -> Decimal | None:
    """Return the number under `name`, None if missing. Raises `Refusal` (422) if it is not a number."""
    value = body.get(name)
    if value is None or value == "":
        return None
    figure = None if isinstance(value, bool) else decimal(str(value))
    if figure is None:
        raise invalid(f"invalid {name}")
    return figure


def _one_of(body: dict[str, Any], name: str, words: tuple[str, ...]) -> str:
    value = str(body.get(name) or "")
    if value not in words:
        raise invalid(f"invalid {name}")
    return value


def _needs_its_prices(request: Ticket) -> None:
    if request.type in {"limit", "stop_limit"} and request.limit_price is None:
        raise invalid("limit orders require a limit price")
    if request.type in {"stop", "stop_limit"} and request.stop_price is None:
        raise invalid("stop orders require a stop price")
    if request.type in {"market", "stop", "trailing_stop"} and request.limit_price is not None:
        raise invalid(f"{request.type} orders must not have a limit price")
    if request.type == "trailing_stop" and (request.trail_price is None) == (request.trail_percent is None):
        raise invalid("trailing_stop orders require one of trail_price or trail_percent")


def _fits_a_fraction(request: Ticket) -> None:
    """Check a fraction: at most nine decimals; a fraction of a share only for the day, with market, limit or stop."""
    if request.qty is not None and request.qty != round(request.qty, PLACES):
        raise unprocessable(f"qty must be limited to {PLACES} decimal places")
    if request.fractional and request.time_in_force != "day":
        raise unprocessable("fractional orders must be DAY orders")
    if request.fractional and request.type == "trailing_stop":
        raise unprocessable("fractional orders must be market, limit, stop or stop_limit orders")
