"""A policy of `forecast_ensemble` with the weights that it was drawn with."""

from __future__ import annotations

import torch

from training.desks.forecast.graph import AGENT_WIDTH, MEMBERS, Ensemble, Policy, RowScaling
from training.forecast.network import FeatureScaling, Forecaster, ForecastNet, Frozen, Sizes
from training.rl.off_policy.learner import Actor

TINY = Sizes(channels=(4, 4), hidden=8, attention=8)


def untrained(seed: int) -> Policy:
    """A policy that has learnt nothing and trades a lot."""
    scaling = RowScaling(torch.zeros(AGENT_WIDTH), torch.full((AGENT_WIDTH,), 0.2))
    actors = [
        Actor(AGENT_WIDTH, (8, 8), seed=seed + nth, spread=name == "sac", normalised=True, scaling=scaling)
        for nth, name in enumerate(MEMBERS)
    ]
    forecaster = Forecaster([ForecastNet(TINY, Frozen(FeatureScaling.none(TINY.features)), seed)], "calibrated")
    return Policy(forecaster, Ensemble(actors, [0.75, 0.25])).eval()
