"""The broker's refusals of orders: the documented answers by name.

Only status, code and message; the server decides what to refuse, and when.
"""

from __future__ import annotations

from typing import Any

REFUSALS: dict[str, tuple[int, int | None, str]] = {
    "unauthorized": (401, None, "unauthorized."),
    "forbidden": (403, None, "forbidden."),
    "buying_power": (403, 40310000, "insufficient buying power"),
    "options_buying_power": (403, 40310000, "insufficient options buying power (required: 99999, available: 0)"),
    "quantity": (403, 40310000, "insufficient qty available for order (requested: 1, available: 0)"),
    "wash_trade": (403, 40310000, "potential wash trade detected. use complex orders"),
    "short_while_buying": (403, 40310000, "cannot open a short sell while a long buy order is open"),
    "buy_while_shorting": (403, 40310000, "cannot open a long buy while a short sell order is open"),
    "no_short": (403, 40310000, "account is not allowed to short"),
    "not_authorized": (403, 40310000, "account is not authorized to trade"),
    "uncovered": (403, 40310000, "account not eligible to trade uncovered option contracts"),
    "level2": (403, 40310000, "account not eligible for level2 options trading"),
    "intraday_margin": (403, 40310000, "account has an intraday margin deficit and may only close positions"),
    "pattern_day_trader": (403, 40310100, "trade denied due to pattern day trading protection"),
    "symbol_not_found": (404, 40410000, "symbol not found: X"),
    "asset_not_found": (422, 42210000, 'asset "X" not found'),
    "not_tradable": (422, 42210000, 'asset "X" is not tradable'),
    "expires_soon": (422, 42210000, 'contract "X" expires soon, unable to open new positions'),
    "expired": (422, 42210000, 'contract "X" is expired'),
    "market_hours": (422, 42210000, "options market orders are only allowed during market hours"),
    "sub_penny": (
        422,
        42210000,
        "invalid limit_price 1.005. sub-penny increment does not fulfill minimum pricing criteria",
    ),
    "position_intent": (422, 42210000, "position intent mismatch, inferred: buy_to_open, specified: buy_to_close"),
    "duplicate_id": (422, 42210000, "client_order_id must be unique"),
    "duplicate_id_old": (422, 40010001, "client_order_id must be unique"),
    "bad_request": (422, 40010001, "qty or notional is required"),
    "rate_limit": (429, 42910000, "rate limit exceeded"),
    "too_many": (429, None, "too many requests."),
    "server_error": (500, 50010000, "internal server error occurred"),
    "unavailable": (503, 50010000, "service unavailable"),
    "tomorrow": (422, 42299999, "refused for a reason of tomorrow"),
}
"""Documented refusals of an order by name: HTTP status, code (None: none is sent), message."""


class Refusal(Exception):
    """A refusal: HTTP `status`, `code` (None if the body has none), message and extra fields."""

    def __init__(self, status: int, code: int | None, message: str, **extra: Any) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.extra = extra

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        return {**({} if self.code is None else {"code": self.code}), "message": self.message, **self.extra}


def refusal(name: str, **extra: Any) -> Refusal:
    """Return the documented refusal of that name. Raises KeyError for another name."""
    return Refusal(*REFUSALS[name], **extra)


def invalid(message: str) -> Refusal:
    """Return the refusal of an invalid request: 422 with 40010001."""
    return Refusal(422, 40010001, message)


def unprocessable(message: str, **extra: Any) -> Refusal:
    """Return the refusal of a request that cannot be processed: 422 with 42210000."""
    return Refusal(422, 42210000, message, **extra)


def denial(message: str, **extra: Any) -> Refusal:
    """Return the refusal of a request that is forbidden to this account: 403 with 40310000."""
    return Refusal(403, 40310000, message, **extra)


def no_order(name: str) -> Refusal:
    """Return the refusal for an order unknown to the account, by its id or its client order id: 404."""
    return Refusal(404, 40410000, f"order not found for {name}")


def no_position() -> Refusal:
    """Return the refusal for a position that the account does not have: 404."""
    return Refusal(404, 40410000, "position does not exist")
