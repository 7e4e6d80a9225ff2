"""The study of planted markets: what its verdict counts, that its edges are there, and that each file suffices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.planted.markets import FORECAST, MARKETS
from bench.planted.study import settings_of, table, verdict
from daemon.core.session import new_york_text
from training.study.folds import walk


def part(low: float, mean: float, *failed: str) -> dict[str, Any]:
    return {"low": low, "lead": mean, "failed": list(failed), "core_s": 1.0, "preset": "usual"}


def test_the_verdict_counts_what_is_proven_and_finds_a_bias_where_noise_pays() -> None:
    parts = {
        "a edge 0": part(0.001, 0.002), "a edge 1": part(0.001, 0.002, "deflated lead"),
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
    assert list(table({"a": fair}))[-1].startswith("| `a` | usual | 1 of 2 | 1 | 0 of 2 | 0 | +0.050 % (")


@pytest.mark.parametrize("strategy", ["daily_rebalancer", "regime_switcher"])
def test_an_edge_of_days_is_in_the_file_and_noise_has_none(strategy: str, tmp_path: Path) -> None:
    """What is known of each stock's past 5 sessions, and its lead over the others in the next one."""
    slopes, rule = [], settings_of(strategy, tmp_path, presets="shipped").walk
    for edge in (True, False):
        bars: dict[str, list[float]] = {}
        dates: dict[str, None] = {}
        for bar in MARKETS[strategy](1, edge):
            bars.setdefault(bar.symbol, []).append(bar.close)
            dates[new_york_text(bar.start_ns)[:10]] = None
        returns = np.diff(np.log(np.array(list(bars.values()))), axis=1)
        over = returns - returns.mean(axis=0)
        past = np.stack([over[:, day - 5 : day].sum(axis=1) for day in range(5, over.shape[1])], axis=1)
        slopes.append(float(np.corrcoef(past.ravel(), over[:, 5:].ravel())[0, 1]))
        warm = 400 if strategy == "daily_rebalancer" else 252
        assert len(walk(list(dates)[warm:], rule, 1)) == 1  # it is long enough
    assert slopes[0] > 0.04
    assert abs(slopes[1]) < 0.02


def test_planted_trends_are_of_bounded_length_and_to_hold_a_stock_earns_nothing() -> None:
    """Sums of 15 sessions say which way a stock goes: on one of trends they lie apart, and no trend outlasts 40."""
    bars: dict[str, list[float]] = {}
    for bar in MARKETS["forecast_ensemble"](1, True):
        bars.setdefault(bar.symbol, []).append(bar.close)
    assert tuple(bars) == FORECAST
    returns = np.diff(np.log(np.array(list(bars.values()))), axis=1)
    assert np.abs(returns.sum(axis=1)).max() < 0.03  # of 3,270 sessions, the first of which has no return here
    drifts = np.convolve(returns[0], np.full(15, 1 / 15), "same") > 0.0
    turns = np.flatnonzero(np.diff(drifts.astype(int)))
    assert np.percentile(np.diff(turns), 90) <= 45
    assert 60 <= len(turns) <= 200  # 3,270 / 30 would be 109
    assert np.corrcoef(returns[0], returns[3])[0, 1] < -0.2  # the other half goes the opposite way


@pytest.mark.parametrize(("market", "way"), [("leaders", 1.0), ("reversal", -1.0), ("pairs", -1.0)])
def test_an_edge_across_stocks_is_known_by_each_stock_s_way_from_its_average(market: str, way: float) -> None:
    """The lead over the others in the next session, by how far a stock is from its mean of 20 sessions."""
    slopes = []
    for edge in (True, False):
        bars: dict[str, list[float]] = {}
        for bar in MARKETS[f"daily_rebalancer/{market}"](1, edge):
            bars.setdefault(bar.symbol, []).append(bar.close)
        closes = np.log(np.array(list(bars.values())))
        means = np.stack([closes[:, day - 19 : day + 1].mean(axis=1) for day in range(19, closes.shape[1] - 1)], axis=1)
        away, ahead = closes[:, 19:-1] - means, np.diff(closes, axis=1)[:, 19:]
        pair = [series - series.mean(axis=0) for series in (away, ahead)]
        slopes.append(way * float(np.corrcoef(pair[0].ravel(), pair[1].ravel())[0, 1]))
    assert slopes[0] > 0.04
    assert abs(slopes[1]) < 0.01
