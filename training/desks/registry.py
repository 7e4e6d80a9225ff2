"""How each strategy is trained, by its name. A desk's module is imported when its strategy is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from strategies.registry import entry
from training.desks.kind import TrainingKind
from training.evidence.claims import Reference

KINDS: dict[str, str] = {
    "option_scalper": "training.desks.scalper.kind:KIND",
    "daily_rebalancer": "training.desks.daily.rebalancer:KIND",
    "regime_switcher": "training.desks.daily.regime:KIND",
    "forecast_ensemble": "training.desks.forecast.kind:KIND",
    "online_dqn": "training.desks.online.kind:KIND",
}
"""Strategy -> module and name of its `TrainingKind`."""


def kind(name: str) -> TrainingKind:
    """How the strategy of this name is trained.

    Raises:
        ValueError: no strategy has that name, or it is not trained here.
    """
    entry(name)
    if name not in KINDS:
        raise ValueError(f"strategy {name} cannot be trained yet: add its `TrainingKind` to training/desks/registry.py")
    module, _, attribute = KINDS[name].partition(":")
    return cast("TrainingKind", getattr(import_module(module), attribute))


def reference_of(name: str) -> Reference | None:
    """What others claim for the strategy of this name; None where nothing is, and for a strategy that is not known."""
    return kind(name).reference if name in KINDS else None
