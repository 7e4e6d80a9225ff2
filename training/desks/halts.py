"""Halts of a desk that plays one account."""

from __future__ import annotations

from typing import Any

from daemon.core.state import State
from training.study.study import AccountHalt


def halts_of(date: str, before: State[Any], after: State[Any]) -> tuple[AccountHalt, ...]:
    """The halt that the session of this date ended with and did not begin with; none, or one."""
    found = after.risk.halt
    if found is None or found == before.risk.halt:
        return ()
    return (AccountHalt(date, found.reason, found.detail),)
