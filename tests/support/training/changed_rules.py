"""Rules of a desk with one key changed."""

from __future__ import annotations

import dataclasses
from typing import Any

from daemon.core.limits import Trading


def with_rule(key: str, value: Any, rules: Trading) -> Trading:
    """The rules with this value at a dotted key, which nothing checks."""
    table, _, name = key.partition(".")
    changed: dict[str, Any] = {table: dataclasses.replace(getattr(rules, table), **{name: value})}
    return dataclasses.replace(rules, **changed)
