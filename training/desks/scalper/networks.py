"""The networks of `option_scalper` by their names."""

from __future__ import annotations

from training.desks.scalper.lstm_policy import LstmActorCritic
from training.desks.scalper.network import ActorCritic
from training.rl.layers.scaling import Scaling

NETWORKS = ("mlp", "lstm")
"""The policies that `build` knows."""


def build(name: str, scaling: Scaling, seed: int) -> ActorCritic | LstmActorCritic:
    """The network called `name`; its `.policy`, from raw float32 (batch, 20, 23) to logits (batch, 6), is exported.

    Raises:
        ValueError: `name` is not one of `NETWORKS`.
    """
    match name:
        case "mlp":
            return ActorCritic(scaling, seed)
        case "lstm":
            return LstmActorCritic(scaling, seed)
        case _:
            raise ValueError(f"the network is called {name!r}: expected one of {', '.join(NETWORKS)}")
