"""A log for what is given one: it keeps the events, and knows which fields each has."""

from __future__ import annotations

from daemon.operator.log_events import LOG_EVENTS


class LogRecorder:
    """The log's events as (name, fields); each has the fields that its name declares."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, dict[str, object]]] = []

    def __call__(self, name: str, /, **fields: object) -> None:
        assert set(fields) == set(LOG_EVENTS[name].fields), name
        self.entries.append((name, fields))

    def names(self) -> set[str]:
        return {name for name, _ in self.entries}

    def of(self, name: str) -> list[dict[str, object]]:
        return [fields for event, fields in self.entries if event == name]
