"""What a server of Alpaca's protocols asks of whoever keeps the accounts."""

from __future__ import annotations

from typing import Protocol

from daemon.alpaca_api.wire import Json


class ShownOrder(Protocol):
    """An order as REST shows it: what the filters of a list look at, and the whole object."""

    @property
    def symbol(self) -> str: ...
    @property
    def side(self) -> str: ...
    @property
    def created_ns(self) -> int: ...
    @property
    def open(self) -> bool: ...
    def shown(self) -> Json: ...
