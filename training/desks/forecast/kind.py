"""How `forecast_ensemble` is trained and compared: what the pipeline asks of a strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from strategies.forecast_ensemble import SPEC
from strategies.forecast_ensemble.features import COUNT
from training.desks.forecast.baselines import BASELINES, PARTS
from training.desks.forecast.claims import REFERENCE
from training.desks.forecast.graph import passive_of, policy_of
from training.desks.forecast.plan import PRESETS, WALK
from training.desks.forecast.procedure import WalkByYears
from training.desks.kind import Passive, Span, TrainingKind
from training.export.reference import each_column


def _policy(_network: str, _seed: int, weights: Mapping[str, Any]) -> nn.Module:
    return policy_of(weights)


def _rules(span: Span) -> dict[str, str]:
    """What an action of 1 is worth, and which changes are not traded: the agents learnt with these."""
    return {f"basket.{key}": str(getattr(span.trading.basket, key)) for key in ("weight_max", "band")}


KIND = TrainingKind(
    strategy=SPEC.name,
    networks=("cnn_lstm",),
    variants=("bonus",),
    presets=PRESETS,
    baselines=BASELINES,
    parts=PARTS,
    procedure=WalkByYears(),
    policy=_policy,
    inputs=each_column(SPEC, range(COUNT)),
    walk=WALK,
    before=f"that warm the desk up ({SPEC.history_bars})",
    compounds=True,
    reference=REFERENCE,
    rules=_rules,
    passive=Passive("holds as much of each stock as one may weigh, whatever is forecast", of=passive_of),
)
