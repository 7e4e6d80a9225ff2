"""The study of planted markets: what its verdict counts, that its edges are there, and that each file suffices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.planted.markets import MARKETS
from bench.planted.study import settings_of, table, verdict
from training.study.folds import walk


def part(low: float, mean: float, *failed: str) -> dict[str, Any]:
    return {"low": low, "lead": mean, "failed": list(failed), "core_s": 1.0}


def test_the_verdict_counts_what_is_proven_and_finds_a_bias_where_noise_pays() -> None:
    parts = {
        "a edge 0": part(0.001, 0.002), "a edge 1": part(-0.001, 0.002, "lead"),
        "a noise 0": part(-0.002, -0.001, "lead"), "a noise 1": part(-0.001, 0.002, "lead"),
        "b noise 0": part(0.001, 0.002), "b noise 1": part(0.001, 0.002001),
    }  # fmt: skip
    fair = verdict(parts, "a")
    assert (fair["edges_proven"], fair["edges_passed"], fair["noise_proven"], fair["noise_passed"]) == (1, 1, 0, 0)
    # leads of -0.001 and 0.002: mean 0.0005, deviation 0.00212 / sqrt(2) x 12.706
    assert fair["noise_lead"] == pytest.approx([0.0005 - 0.0190590, 0.0005, 0.0005 + 0.0190590], rel=1e-4)
    assert not fair["biased"]
    biased = verdict(parts, "b")
    assert (biased["noise_proven"], biased["biased"]) == (2, True)
    assert list(table({"a": fair}))[-1].startswith("| `a` | 1 of 2 | 1 | 0 of 2 | 0 | +0.050 % (")


@pytest.mark.parametrize("strategy", ["daily_rebalancer", "regime_switcher"])
def test_an_edge_of_days_is_in_the_file_and_noise_has_none(strategy: str, tmp_path: Path) -> None:
    """What is known of each stock's past 5 sessions, and its lead over the others in the next one."""
    slopes, rule = [], settings_of(strategy, tmp_path, quick=False).walk
    for edge in (True, False):
        bars: dict[str, list[float]] = {}
        for bar in MARKETS[strategy](1, edge):
            bars.setdefault(bar.symbol, []).append(bar.close)
        returns = np.diff(np.log(np.array(list(bars.values()))), axis=1)
        over = returns - returns.mean(axis=0)
        past = np.stack([over[:, day - 5 : day].sum(axis=1) for day in range(5, over.shape[1])], axis=1)
        slopes.append(float(np.corrcoef(past.ravel(), over[:, 5:].ravel())[0, 1]))
        warm = 400 if strategy == "daily_rebalancer" else 252
        assert len(walk([f"{day:05d}" for day in range(returns.shape[1] - warm)], rule, 1)) == 1  # it is long enough
    assert slopes[0] > 0.04
    assert abs(slopes[1]) < 0.02
