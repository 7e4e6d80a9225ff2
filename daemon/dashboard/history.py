"""The exact observation of any decision: the journal is stepped again to the question, whose digest it holds.

The machine goes on from the nearest anchor before it: a snapshot of the journal, or a session's start that was passed
before (kept in memory, bounded). It runs in a thread of its own; until it is there the answer is "pending".
"""

from __future__ import annotations

import msgspec

from strategies.contract import Observation


class Found(msgspec.Struct, frozen=True):
    """What is known about a decision's observation: it, that it is still looked for, or why there is none."""

    observation: Observation | None = None
    pending: bool = False
    missing: str = ""
