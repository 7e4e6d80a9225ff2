"""Positions closed by the broker's own call: DELETE /v2/positions/{symbol} never sells more than is there.

The broker names such an order itself; here it gets back the name that the journal knows, everywhere. Until the call is
answered, the owner of an order in that symbol is unknown: such updates wait.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from daemon.brokers.alpaca.wire import text
from daemon.core.events import BrokerOrder


class Closings:
    """The orders of the broker's own call, by the broker's id. Used on the event loop's thread."""

    def __init__(self) -> None:
        self.begun = 0  # counts the calls: a report read during one cannot tell them apart
        self._names: dict[str, str] = {}
        self._under_way: dict[str, str] = {}  # client order id -> symbol
        self._waiting: list[Mapping[str, object]] = []

    def follow(self, order_ids: Mapping[str, str]) -> None:
        """Add orders of an earlier run: client order id -> the broker's id."""
        self._names.update({order_id: name for name, order_id in order_ids.items()})

    @property
    def under_way(self) -> bool:
        """True while a call is unanswered."""
        return bool(self._under_way)

    def begin(self, name: str, symbol: str) -> None:
        """Begin a call."""
        self.begun += 1
        self._under_way[name] = symbol

    def answered(self, name: str, order: BrokerOrder) -> BrokerOrder:
        """Return the order that a call made, under the journal's name."""
        self._names[order.order_id] = name
        return self.named(order)

    def end(self, name: str) -> list[Mapping[str, object]]:
        """End the call, answered or not; return the updates that waited for it."""
        self._under_way.pop(name, None)
        waiting, self._waiting = self._waiting, []
        return waiting

    def holds_back(self, update: Mapping[str, object]) -> bool:
        """Keep the update of an order that a running call may have made; True when it waits."""
        order = update.get("order")
        if not self._under_way or not isinstance(order, dict):
            return False
        unknown = text(order.get("id")) not in self._names and order.get("symbol") in self._under_way.values()
        if unknown:
            self._waiting.append(update)
        return unknown

    def renamed(self, update: Mapping[str, object]) -> Mapping[str, object]:
        """Return the update with the journal's name in its order."""
        order = update.get("order")
        if not isinstance(order, dict) or (name := self._names.get(text(order.get("id")))) is None:
            return update
        return {**update, "order": {**order, "client_order_id": name}}

    def named(self, order: BrokerOrder) -> BrokerOrder:
        """Return the order under the journal's name."""
        name = self._names.get(order.order_id)
        return order if name is None else replace(order, client_order_id=name)

    def id_of(self, name: str) -> str:
        """Return the broker's id of such an order; "" for any other."""
        return next((order_id for order_id, known in self._names.items() if known == name), "")
