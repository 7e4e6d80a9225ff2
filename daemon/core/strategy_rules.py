"""Default trading rules of a strategy: the common defaults with the changes of the strategy's file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from daemon.core.limits import Trading
from strategies.registry import entry


def trading_for(strategy: str) -> Trading:
    """Return the default trading rules of a strategy. `ValueError` for an unknown name."""
    rules = Trading()
    for table, keys in entry(strategy).defaults.items():
        if hasattr(rules, table):  # of the step; other tables belong to the shell
            try:
                changed: dict[str, Any] = {table: replace(getattr(rules, table), **keys)}
            except TypeError as error:
                raise ValueError(f"the defaults of {strategy} in [{table}]: {error}: see config.toml") from error
            rules = replace(rules, **changed)
    return rules
