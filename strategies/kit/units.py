"""Spans of time in nanoseconds, the unit of every time in the project; of bars' lengths in seconds."""

from __future__ import annotations

SECOND_NS = 1_000_000_000
MILLISECOND_NS = SECOND_NS // 1000
MINUTE_NS = 60 * SECOND_NS
HOUR_NS = 60 * MINUTE_NS
DAY_NS = 24 * HOUR_NS
MINUTE_S = 60
HOUR_S = 60 * MINUTE_S
DAY_S = 24 * HOUR_S
