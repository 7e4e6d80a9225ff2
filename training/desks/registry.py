"""How each strategy is trained, by its name. A desk's module is imported when its strategy is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from strategies.registry import entry
from training.desks.kind import Kind
from training.evidence.claims import Reference

KINDS: dict[str, str] = {
    "option_scalper": "training.desks.scalper.kind:KIND",
    "daily_rebalancer": "training.desks.daily.kind:REBALANCER",
    "regime_switcher": "training.desks.daily.kind:REGIME",
}
"""Strategy -> module and name of its `Kind`."""


def kind(name: str) -> Kind:
    """How the strategy of this name is trained.

    Raises:
        ValueError: no strategy has that name, or it is not trained here.
    """
    entry(name)
    if name not in KINDS:
        raise ValueError(f"strategy {name} cannot be trained yet: add its `Kind` to training/desks/registry.py")
    module, _, attribute = KINDS[name].partition(":")
    return cast("Kind", getattr(import_module(module), attribute))


def reference_of(name: str) -> Reference | None:
    """What others claim for the strategy of this name; None where nothing is, and for a strategy that is not known."""
    return kind(name).reference if name in KINDS else None
