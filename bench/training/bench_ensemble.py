"""Size of the graph and time of an answer of 1, 3 and 10 seeds in one, for each network that trains by PPO, as JSON.

    python -m bench.training.bench_ensemble [--answers 2000]

One thread of the CPU, one observation at a time, as a desk asks. Weights are drawn, not trained.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strategies.daily_rebalancer import SPEC
from strategies.golden import golden_observations
from strategies.registry import strategy
from training.desks.daily.networks.rebalancer import RebalancerActorCritic
from training.desks.daily.networks.regime import RegimeActorCritic
from training.desks.scalper.network import IDENTITY, ActorCritic, LstmActorCritic
from training.export.ensemble import together
from training.export.export import onnx_bytes, session_of
from training.rl.layers import Scaling

STOCKS = Scaling.identity(SPEC.observation_shape[0])
NETWORKS: dict[str, tuple[str, Callable[[int], Any]]] = {
    "option_scalper mlp": ("option_scalper", lambda seed: ActorCritic(IDENTITY, seed)),
    "option_scalper lstm": ("option_scalper", lambda seed: LstmActorCritic(IDENTITY, seed)),
    "daily_rebalancer mlp": ("daily_rebalancer", lambda seed: RebalancerActorCritic(STOCKS, seed)),
    "regime_switcher gru": ("regime_switcher", RegimeActorCritic),
}
SEEDS = (1, 3, 10)


def measure(name: str, members: int, answers: int, folder: Path) -> dict[str, Any]:
    """Bytes and nodes of the graph, and microseconds of an answer: median and 99 % quantile."""
    import onnx

    of, network = NETWORKS[name]
    maker = strategy(of)
    policy = together([network(seed).eval().policy for seed in range(members)], maker.spec.recurrent_shape)
    observations = np.stack([example.array() for example in golden_observations(maker)]).reshape(
        -1, *maker.spec.observation_shape
    )
    path = folder / "policy.onnx"
    path.write_bytes(onnx_bytes(policy, observations, maker.spec))
    session = session_of(path)
    inputs = {"observation": observations[:1]}
    for node in session.get_inputs():
        if node.name == "hidden":
            inputs["hidden"] = np.zeros((1, *node.shape[1:]), np.float32)
    took = []
    for _ in range(answers):
        began = time.perf_counter()
        session.run(None, inputs)
        took.append(time.perf_counter() - began)
    p50, p99 = (round(float(value) * 1e6, 1) for value in np.quantile(took, (0.5, 0.99)))
    size, nodes = path.stat().st_size, len(onnx.load(path).graph.node)
    return {"policy": name, "seeds": members, "bytes": size, "nodes": nodes, "us_p50": p50, "us_p99": p99}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each network and number of seeds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--answers", type=int, default=2000, help="(%(default)s)")
    count = parser.parse_args(arguments).answers
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS:
            for members in SEEDS:
                sys.stdout.write(f"{json.dumps(measure(name, members, count, Path(folder)))}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
