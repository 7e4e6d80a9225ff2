"""What may be subscribed to on which data stream, and the documented error of a request that asks for more."""

from __future__ import annotations

import re
from collections.abc import Mapping

STOCK_CHANNELS = (
    "trades",
    "quotes",
    "bars",
    "updatedBars",
    "dailyBars",
    "statuses",
    "lulds",
    "corrections",
    "cancelErrors",
)
CHANNELS = {
    "/v2/sip": STOCK_CHANNELS,
    "/v2/iex": STOCK_CHANNELS,
    "/v2/test": ("trades", "quotes", "bars"),
    "/v1beta1/indicative": ("trades", "quotes"),
    "/v1beta1/opra": ("trades", "quotes"),
}
OPTION_QUOTES_MAX = 1_000
_STOCK = re.compile(r"\*|[A-Z][A-Z0-9./]{0,10}")
_OPTION = re.compile(r"\*|[A-Z0-9]{1,7}\d{6}[CP]\d{8}")


def refusal(stream: str, asked: Mapping[str, object], offered: tuple[str, ...]) -> int | None:
    """The error that a subscription request of this stream meets, whatever is subscribed already."""
    pattern = _OPTION if stream == "option" else _STOCK
    for channel, symbols in asked.items():
        if channel not in offered:
            return 410
        if channel in {"corrections", "cancelErrors"} or not isinstance(symbols, list):
            return 400
        if any(not isinstance(name, str) or pattern.fullmatch(name) is None for name in symbols):
            return 400
        if stream == "option" and channel == "quotes" and "*" in symbols:
            return 413
    return None
