"""What a strategy changes in the defaults of the settings: one table, read by the settings and by training.

Only what differs stands here; a configuration may change it again. Pure data.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from daemon.core.limits import Trading

CHANGES: dict[str, dict[str, dict[str, object]]] = {
    "daily_rebalancer": {
        "risk": {"daily_loss_max": 0.20, "drawdown_max": 0.60},
        "paper": {"cash_usd": Decimal(1_000_000)},
        "drift": {"window": 250, "least": 60},
    },
    "regime_switcher": {
        "risk": {"daily_loss_max": 0.20, "drawdown_max": 0.60},
        "paper": {"cash_usd": Decimal(100_000)},
        "drift": {"window": 250, "least": 60},
    },
}
"""Strategy -> table -> key -> its default. The US stock market stops for the day after a fall of 20 %, and fell by 55 %
from 2007 to 2009: a desk that is meant to be invested halts beyond that, and not within. A desk that decides once a day
is looked at over a year, not over eight."""


def trading_for(strategy: str) -> Trading:
    """The trading rules that a strategy starts with."""
    rules = Trading()
    for table, keys in CHANGES.get(strategy, {}).items():
        if hasattr(rules, table):  # of the step; others are the shell's
            rules = replace(rules, **{table: replace(getattr(rules, table), **keys)})
    return rules
