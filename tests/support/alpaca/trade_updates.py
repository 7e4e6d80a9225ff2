"""An order and a trade update as Alpaca documents them, and what the adapter makes of one."""

from __future__ import annotations

from typing import Any

from daemon.brokers.alpaca import wire

OURS = wire.is_ours("a1b2c3", "option_scalper")
NAME = "a1b2c3-option_scalper-7-0-1"
NOW = 1_800_000_000_000_000_000
OCC = "SPY240703C00545000"


def order(**changes: Any) -> dict[str, Any]:
    """An order object as the broker shows it: a call, 2 of 3 filled at 1.05 and 1.06."""
    return {
        "id": "904837e3-3b76-47ec-b432-046db621571b",
        "client_order_id": NAME,
        "created_at": "2024-07-02T13:31:00.123456789Z",
        "updated_at": "2024-07-02T09:31:01.5-04:00",
        "submitted_at": "2024-07-02T09:31:00.123456789-04:00",
        "filled_at": None,
        "canceled_at": None,
        "replaced_by": None,
        "replaces": None,
        "asset_class": "us_option",
        "symbol": OCC,
        "notional": None,
        "qty": "3",
        "filled_qty": "2",
        "filled_avg_price": "1.055",
        "order_class": "",
        "type": "limit",
        "side": "buy",
        "position_intent": "buy_to_open",
        "time_in_force": "day",
        "limit_price": "1.1",
        "status": "partially_filled",
        "extended_hours": False,
        "legs": None,
    } | changes


def update(event: str, **changes: Any) -> dict[str, Any]:
    """A trade update's data."""
    return {
        "event": event,
        "execution_id": "2f63ea93-423d-4169-b3f6-3fdafc10c418",
        "timestamp": "2024-07-02T13:31:05.024916716Z",
        "price": "1.06",
        "qty": "1",
        "position_qty": "2",
        "order": order(),
    } | changes


def parse(data: object) -> tuple[Any, ...]:
    """The events of an update's data."""
    return wire.trade_update(data, OURS, NOW)
