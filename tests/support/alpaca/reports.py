"""Reports of a desk at the loopback Alpaca and its log, for the tests of broker reports and clocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from daemon.brokers.alpaca.trading.report import Reporter
from daemon.brokers.alpaca.wire import is_ours
from daemon.core.effects import SubmitOrder
from daemon.host.time.clock import Clock
from tests.support.alpaca.account_side import clock_check
from tests.support.alpaca.rest_desk import Desk, eventually

OURS = is_ours("e1", "scalper")


class LogRecorder:
    """The log's events, kept."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, name: str, /, **fields: Any) -> None:
        self.events.append((name, fields))


def reporter(it: Desk, recorder: LogRecorder | None = None) -> Reporter:
    """A reporter whose host's clock is right."""
    return reporter_at(it, it.clock, recorder)


def reporter_at(
    it: Desk, clock: Clock, recorder: LogRecorder | None = None, agreed_ns: Callable[[], int] = lambda: 0
) -> Reporter:
    """A reporter whose host shows this time."""
    log = recorder or LogRecorder()
    return Reporter(it.reads, clock, OURS, log, clock_check(it.reads, clock, log), agreed_ns=agreed_ns)


async def filled(it: Desk, order: SubmitOrder) -> None:
    """Submit, and wait until the server has filled it whole."""
    await it.orders.submit(order)
    await eventually(lambda: not it.server.account.by_client_id[order.client_order_id].open)
