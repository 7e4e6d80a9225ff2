"""Positions closed by the broker's own call: DELETE /v2/positions/{symbol} sells what is there and never more.

The broker gives such an order a name of its own. Here it gets the name back that the journal knows it by, wherever it
is met. Until the call was answered nobody can tell whose order in that symbol it is: such updates wait.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from daemon.brokers.alpaca.wire import text
from daemon.core.events import BrokerOrder


class Closings:
    """The orders that were made by the broker's own call, by the broker's id. Used on the event loop's thread."""

    def __init__(self) -> None:
        self.begun = 0  # counts the calls: a report that was read while one was under way cannot tell them apart
        self._names: dict[str, str] = {}
        self._under_way: dict[str, str] = {}  # client order id -> symbol
        self._waiting: list[Mapping[str, object]] = []

    def follow(self, order_ids: Mapping[str, str]) -> None:
        """Orders of an earlier run: client order id -> the broker's id."""
        self._names.update({order_id: name for name, order_id in order_ids.items()})

    @property
    def under_way(self) -> bool:
        """True while a call is not answered."""
        return bool(self._under_way)

    def begin(self, name: str, symbol: str) -> None:
        """A call leaves."""
        self.begun += 1
        self._under_way[name] = symbol

    def answered(self, name: str, order: BrokerOrder) -> BrokerOrder:
        """The order that a call made, under the journal's name."""
        self._names[order.order_id] = name
        return self.named(order)

    def end(self, name: str) -> list[Mapping[str, object]]:
        """The call is over, answered or not; returns the updates that waited for it."""
        self._under_way.pop(name, None)
        waiting, self._waiting = self._waiting, []
        return waiting

    def holds_back(self, update: Mapping[str, object]) -> bool:
        """Keep the update of an order that a call under way may just have made; True when it waits."""
        order = update.get("order")
        if not self._under_way or not isinstance(order, dict):
            return False
        unknown = text(order.get("id")) not in self._names and order.get("symbol") in self._under_way.values()
        if unknown:
            self._waiting.append(update)
        return unknown

    def renamed(self, update: Mapping[str, object]) -> Mapping[str, object]:
        """The update with the journal's name in its order."""
        order = update.get("order")
        if not isinstance(order, dict) or (name := self._names.get(text(order.get("id")))) is None:
            return update
        return {**update, "order": {**order, "client_order_id": name}}

    def named(self, order: BrokerOrder) -> BrokerOrder:
        """The order under the journal's name."""
        name = self._names.get(order.order_id)
        return order if name is None else replace(order, client_order_id=name)

    def id_of(self, name: str) -> str:
        """The broker's id of an order that was made so; "" for any other."""
        return next((order_id for order_id, known in self._names.items() if known == name), "")
