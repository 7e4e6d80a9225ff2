"""The trading rules that a strategy starts with: the defaults of all, and what the strategy's file changes in them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from daemon.core.limits import Trading
from strategies.registry import entry


def trading_for(strategy: str) -> Trading:
    """The trading rules that a strategy starts with. `ValueError` for an unknown name."""
    rules = Trading()
    for table, keys in entry(strategy).defaults.items():
        if hasattr(rules, table):  # of the step; others are the shell's
            changed: dict[str, Any] = {table: replace(getattr(rules, table), **keys)}
            rules = replace(rules, **changed)
    return rules
