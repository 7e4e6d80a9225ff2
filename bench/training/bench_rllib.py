"""SAC by our engine and by RLlib on the same planted task, recipe and seeds: share of the optimum, seconds.

RLlib runs on a Ray of this machine with two runners. Both learn `TRANSITIONS` transitions. Usage:
python -m bench.training.bench_rllib [--seeds 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass

import torch

from tests.support.rl.planted_sizing import BANDIT, FEW_LARGE, INPUTS, place, share_of_optimum
from tests.support.rl.trained import train_agent
from training.rl.off_policy.presets import build
from training.rl.off_policy.trainer import OffPolicyTrainer
from training.rl.ray_cluster import connected
from training.rl.rllib.engine import RllibSac

TRANSITIONS = 8192
RUNNERS = 2


@dataclass(frozen=True, slots=True)
class Result:
    """One training."""

    share: float  # of the best policy's discounted return
    seconds: float
    steps: int
    gradient_steps: int


def ours(seed: int) -> Result:
    """Train with our engine on one thread."""
    began = time.perf_counter()
    agent = build("sac", INPUTS, FEW_LARGE, seed=seed)
    environment = place(FEW_LARGE.environments, seed)
    trainer = OffPolicyTrainer(agent, environment, FEW_LARGE, total_steps=TRANSITIONS, seed=seed)
    train_agent(trainer)
    seconds = time.perf_counter() - began
    return Result(share_of_optimum(BANDIT, agent.actor), seconds, trainer.steps, trainer.gradient_steps)


def theirs(seed: int) -> Result:
    """Train with RLlib in the connected Ray; its start is not timed."""
    trainer = RllibSac(place, FEW_LARGE, scaling=None, total_steps=TRANSITIONS, seed=seed, runners=RUNNERS)
    began = time.perf_counter()
    while not trainer.done:
        trainer.update()
    seconds = time.perf_counter() - began
    trainer.close()
    return Result(share_of_optimum(BANDIT, trainer.agent.actor), seconds, trainer.steps, trainer.gradient_steps)


def show_results(name: str, results: list[Result]) -> dict[str, object]:
    """Print one line; returns its figures."""
    shares = [result.share for result in results]
    spread = statistics.stdev(shares) if len(shares) > 1 else 0.0
    ratio = statistics.fmean(result.gradient_steps / result.steps for result in results)
    seconds = statistics.median(result.seconds for result in results)
    print(
        f"{name:8} {statistics.fmean(shares):.4f} of the optimum, {spread:.4f} between seeds, "
        f"{min(shares):.4f} to {max(shares):.4f}; {seconds:7.1f} s, {ratio:.4f} updates a transition",
        flush=True,
    )
    return {"shares": [round(share, 4) for share in shares], "seconds": round(seconds, 2), "update_to_data": ratio}


def main(arguments: list[str] | None = None) -> dict[str, object]:
    """Print the table and the JSON line; the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="of each engine (%(default)s)")
    seeds = range(parser.parse_args(arguments).seeds)
    torch.set_num_threads(1)
    figures: dict[str, object] = {"benchmark": "rllib", "transitions": TRANSITIONS}
    figures["ours"] = show_results("ours", [ours(seed) for seed in seeds])
    with connected("local", RUNNERS):
        figures["rllib"] = show_results("RLlib", [theirs(seed) for seed in seeds])
    print(json.dumps(figures), flush=True)
    return figures


if __name__ == "__main__":
    main()
