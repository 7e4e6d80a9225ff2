"""The base of all events."""

from __future__ import annotations

import msgspec


class Event(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Base of all events: `time_ns` is when it happened in market time."""

    time_ns: int
