"""Days and states for the tests of starts and stops."""

from __future__ import annotations

from tests.support.desks.stage import Stage

DAY = "2024-10-31"


BEFORE_FIRST_ENTRY = "10:06"  # the lively policy's first action comes 39 minutes after the open


def working(played: Stage, side: str) -> list[str]:
    """Names of the server's open orders of one side."""
    orders = played.server.call(lambda: list(played.account.working.values()))
    return [order.client_order_id for order in orders if order.side == side]


def holding(played: Stage) -> bool:
    """Whether the server's book has a position, and no entry works any more."""
    return bool(played.held()) and not working(played, "buy")
