"""How each strategy is trained, by its name. A desk's module, and torch, are imported when one is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from strategies.kit.entry import RULE, OwnStrategyError
from strategies.kit.own.load import training_of
from strategies.registry import STRATEGIES, entry, own, strategy
from training.evidence.findings import StrategyClaims

if TYPE_CHECKING:
    from training.desks.kind import TrainingKind


def kind(name: str, config: str = "", symbols: tuple[str, ...] = ()) -> TrainingKind:
    """The `TrainingKind` of the strategy of this name.

    Args:
        config: the canonical text of a model configuration, "" for the shipped one.
        symbols: those it trades, () for its own.

    Raises:
        ValueError: no strategy has that name, it is not trained here, or it has no model configuration.
    """
    training = _load_kind(name)
    if symbols and training.with_symbols is not None:
        training = training.with_symbols(symbols)
    if not config:
        return training
    listed = entry(name)
    if training.with_config is None or not (listed.with_config or listed.parameters):
        raise ValueError(f"{name} has no model configuration: leave --model-config out")
    return training.with_config(config)


def _load_kind(name: str) -> TrainingKind:
    """The training object by name."""
    from training.desks.kind import TrainingKind
    from training.desks.own.kind import rule_kind

    training = entry(name).training
    if not training:
        raise ValueError(
            f"strategy {name} cannot be trained yet: name its `TrainingKind` in its StrategyEntry, such as "
            f'training="{name}_training:KIND" (docs/ADD_A_STRATEGY.md)'
        )
    if training == RULE:
        return rule_kind(strategy(name).spec)
    own_strategy = own(name)
    module, _, attribute = training.partition(":")
    training_kind = training_of(own_strategy) if own_strategy is not None else getattr(import_module(module), attribute)
    if not isinstance(training_kind, TrainingKind) or training_kind.strategy != name:
        raise OwnStrategyError(
            f"{module if own_strategy is None else own_strategy.file}: training={training!r} names "
            f"{training_kind!r:.80}, expected a TrainingKind of {name}: correct one of them"
        )
    return training_kind


def reference_of(name: str) -> StrategyClaims | None:
    """The published claims about this strategy; None where there are none, or the strategy is unknown."""
    return kind(name).reference if name in STRATEGIES else None


def parts_of(name: str) -> frozenset[str]:
    """The baselines that are parts of this strategy's policy; none for an unknown strategy."""
    return kind(name).parts if name in STRATEGIES or own(name) is not None else frozenset()
