"""How often the off-policy intervals of 95 % hold the truth, in a market whose values are known exactly.

`python -m bench.training.off_policy_coverage [--replications N] [--processes N]`; prints one line of JSON. Each
replication draws a new log, and counts for every estimator whether value and lead lie in their intervals.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial

import numpy as np

from tests.support.planted.tabular_market import TabularMarket
from training.evidence.off_policy.evaluation import Least, evaluate

HORIZON = 2
DRAWS = 1_000
MARKET = TabularMarket(sessions=100, decisions=60, epsilon=0.6)
CHUNK = 25  # replications of one task

Counts = dict[str, list[float]]


def replicate(market: TabularMarket, horizon: int, seeds: range) -> Counts:
    """Return for each estimator and figure: intervals that held the truth, sum of the errors, sum of the widths."""
    truth = [market.value(policy, horizon) for policy in (market.challenger, market.champion)]
    truths = {"challenger": truth[0], "champion": truth[1], "lead": truth[0] - truth[1]}
    counts: Counts = {}
    for seed in seeds:
        log, states = market.log(np.random.default_rng(seed))
        found = evaluate(
            log,
            market.challenger[states],
            market.champion[states],
            horizon=horizon,
            least=Least(effective=0.0, sessions=2),
            seed=seed,
            draws=DRAWS,
        )
        for estimate in found.estimates:
            for figure, value in truths.items():
                one = getattr(estimate, figure)
                sums = counts.setdefault(f"{estimate.name} {figure}", [0.0, 0.0, 0.0])
                sums[0] += one.low <= value <= one.high
                sums[1] += one.estimate - value
                sums[2] += one.high - one.low
        counts.setdefault("effective", [0.0])[0] += found.effective
    return counts


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replications", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    chunks = [range(first, min(first + CHUNK, options.replications)) for first in range(0, options.replications, CHUNK)]
    total: Counts = {}
    with ProcessPoolExecutor(options.processes) as pool:
        for counts in pool.map(partial(replicate, MARKET, HORIZON), chunks):
            for name, sums in counts.items():
                total[name] = [a + b for a, b in zip(total.get(name, [0.0] * len(sums)), sums, strict=True)]
    count = options.replications
    effective = total.pop("effective")[0] / count
    figures = {
        name: {"coverage": round(held / count, 4), "bias": round(off / count, 5), "width": round(wide / count, 4)}
        for name, (held, off, wide) in total.items()
    }
    market = asdict(MARKET) | {"horizon": HORIZON, "effective_episodes": round(effective)}
    print(json.dumps({"replications": count, "draws": DRAWS, "market": market, "figures": figures}))


if __name__ == "__main__":
    main()
