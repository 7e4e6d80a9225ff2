"""The log of a desk, for the tests of broker reports and clocks."""

from __future__ import annotations

from typing import Any


class LogRecorder:
    """The log's events, kept."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, name: str, /, **fields: Any) -> None:
        self.events.append((name, fields))
