"""How a log event is declared."""

from __future__ import annotations

from typing import NamedTuple


class LogEvent(NamedTuple):
    """A declared log event."""

    level: str
    fields: tuple[str, ...]
    meaning: str
    alarm: bool = False  # a live desk also raises it as an alarm, once an hour, with a heading in the manual
