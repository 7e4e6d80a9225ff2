"""A decided basket on a Tuesday."""

from __future__ import annotations

from daemon.core.limits import Trading
from strategies.kit.quantity import Quantity
from tests.support.core.daily_desk import DailyDesk, orders
from tests.support.core.desk import TUESDAY


def tuesday(trading: Trading | None = None, mode: str = "replay", **shares: int) -> DailyDesk:
    """Tuesday before the open, with these shares bought on Monday at 100.00."""
    d = DailyDesk(trading, mode=mode).fund().holds(**shares)
    d.begin(TUESDAY)
    return d


def decided(d: DailyDesk, *goals: float, minute: float = -15) -> list[tuple[str, Quantity, str | None]]:
    """The orders that leave with the decision."""
    d.due(minute)
    return orders(d.answer(*goals))
