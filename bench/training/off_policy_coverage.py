"""How often the off-policy intervals of 95 % hold the truth, in two markets whose values are known exactly.

In `slow` a purchase pays its cost long after the episode that makes it; the challenger `idle` never buys.

`python -m bench.training.off_policy_coverage [--replications N] [--processes N] [--into FILE]`. Each replication draws
a new log, and counts for every estimator whether value and lead lie in their intervals. Prints its verdict, then one
line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.training.resumed import OtherStudy, resumed
from tests.support.planted.tabular_market import TabularMarket
from training.evidence.off_policy import Least, evaluate

HORIZON = 2
DISCOUNT = 0.99
DRAWS = 1_000
MARKETS = {
    "quick": (TabularMarket(sessions=100, decisions=60, epsilon=0.6), "challenger"),
    "slow": (TabularMarket(sessions=100, decisions=60, epsilon=0.6, stays=0.95, cost=2.5), "idle"),
}
CHUNK = 25  # replications of one task
LEAST, MOST = 0.93, 0.97  # of intervals of 95 % that hold the truth

Counts = dict[str, list[float]]


def replicate(seeds: range) -> Counts:
    """Return for each figure: intervals that held the truth, sum of the errors, sum of the widths."""
    counts: Counts = {}
    for name, (market, challenger) in MARKETS.items():
        policies = market.explored(getattr(market, challenger)), market.champion
        truth = [market.value(policy, HORIZON, DISCOUNT) for policy in policies]
        truths = {"challenger": truth[0], "champion": truth[1], "lead": truth[0] - truth[1]}
        for seed in seeds:
            log, states = market.log(np.random.default_rng(seed))
            evaluated = evaluate(
                log,
                *(policy[states] for policy in policies),
                horizon=HORIZON,
                discount=DISCOUNT,
                least=Least(effective=0.0, sessions=2),
                seed=seed,
                draws=DRAWS,
            )
            for estimate in evaluated.estimates:
                for figure, value in truths.items():
                    interval = getattr(estimate, figure)
                    sums = counts.setdefault(f"{name} {estimate.name} {figure}", [0.0, 0.0, 0.0])
                    sums[0] += interval.low <= value <= interval.high
                    sums[1] += interval.estimate - value
                    sums[2] += interval.high - interval.low
            counts.setdefault(f"{name} effective", [0.0])[0] += evaluated.effective
    return counts


def counted(chunks: list[int], *, processes: int) -> Iterator[tuple[int, Counts]]:
    """The counts of these chunks, by their first replication."""
    with ProcessPoolExecutor(processes) as pool:
        ranges = [range(first, first + CHUNK) for first in chunks]
        yield from zip(chunks, pool.map(replicate, ranges), strict=True)


def verdict(figures: dict[str, dict[str, float]], count: int) -> dict[str, Any]:
    """Whether each interval holds the truth as often as it says, and which ones do not."""
    outside = [name for name, figure in figures.items() if not LEAST <= figure["coverage"] <= MOST]
    coverages = [figure["coverage"] for figure in figures.values()]
    sentence = f"{count:,} logs: intervals of 95 % hold the truth in {min(coverages):.1%} to {max(coverages):.1%}"
    return {"holds": not outside, "outside": outside, "verdict": sentence}


def main() -> None:
    """Run what is missing of the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replications", type=int, default=10_000, help=f"in steps of {CHUNK} (10,000)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--into", type=Path, metavar="FILE", help="keeps each part as it is done; goes on there")
    options = parser.parse_args()
    markets = {name: asdict(market) | {"challenger": challenger} for name, (market, challenger) in MARKETS.items()}
    plan = {"study": "coverage", "chunk": CHUNK, "draws": DRAWS, "horizon": HORIZON, "discount": DISCOUNT} | markets
    total: Counts = {}
    work, firsts = partial(counted, processes=options.processes), range(0, options.replications, CHUNK)
    try:
        for _, counts in resumed(options.into, plan, firsts, work):
            for name, sums in counts.items():
                total[name] = [a + b for a, b in zip(total.get(name, [0.0] * len(sums)), sums, strict=True)]
    except OtherStudy as error:
        sys.exit(str(error))
    count = len(firsts) * CHUNK
    effective = {name: round(total.pop(f"{name} effective")[0] / count) for name in MARKETS}
    figures = {
        name: {"coverage": round(hits / count, 4), "bias": round(off / count, 5), "width": round(wide / count, 4)}
        for name, (hits, off, wide) in total.items()
    }
    outcome = verdict(figures, count)
    print(outcome["verdict"])
    print(json.dumps({"replications": count, **plan, "effective_episodes": effective, "figures": figures, **outcome}))


if __name__ == "__main__":
    main()
