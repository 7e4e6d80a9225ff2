"""How each strategy is trained, by its name. What is not asked for is not imported."""

from __future__ import annotations

from strategies.registry import strategy
from training.desks.kind import Kind


def kind(name: str) -> Kind:
    """How the strategy of this name is trained.

    Raises:
        ValueError: no strategy has that name, or it is not trained here.
    """
    match strategy(name).spec.name:
        case "option_scalper":
            from training.desks.scalper.kind import KIND

            return KIND
        case "daily_rebalancer":
            from training.desks.daily.kind import REBALANCER

            return REBALANCER
        case "regime_switcher":
            from training.desks.daily.kind import REGIME

            return REGIME
        case other:
            raise ValueError(f"strategy {other} cannot be trained yet: add its `Kind` to training/desks/registry.py")
