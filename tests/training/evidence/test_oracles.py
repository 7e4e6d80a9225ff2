"""The statistics of choosing against `purgedcv`, and the bootstrap over sessions against `arch`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from arch.bootstrap import StationaryBootstrap
from purgedcv import (
    deflated_sharpe_ratio_full,
    min_track_record_length,
    probability_of_backtest_overfitting,
    purge,
)

from strategies.registry import STRATEGIES, strategy
from training.desks.registry import kind
from training.evidence.overfitting import (
    backtest_overfitting,
    deflated_sharpe,
    minimum_track_record,
    probabilistic_sharpe,
)
from training.evidence.resampling import block_length, interval
from training.evidence.statistics import Series, sharpes
from training.study.folds import walk


def returns(seed: int, sessions: int = 300, trials: int = 6) -> Series:
    """Fat-tailed returns that remember the session before, with an edge that grows from trial to trial."""
    noise = np.random.default_rng(seed).standard_t(5, (sessions, trials)) * 0.01
    return np.asarray(noise[1:] + 0.3 * noise[:-1] + np.linspace(-0.0005, 0.001, trials), dtype=np.float64)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_purgedcv_finds_the_same_overfitting(seed: int) -> None:
    matrix = returns(seed, sessions=121)
    result = backtest_overfitting(matrix, blocks=8)
    assert result.splits == 70
    assert result.probability == pytest.approx(probability_of_backtest_overfitting(matrix.T, n_splits=8).pbo)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_purgedcv_finds_the_same_sharpe_ratios_after_a_choice(seed: int) -> None:
    matrix = returns(seed)
    chosen_returns, ratios = matrix[:, -1], sharpes(matrix.T)
    for trials in (6, 40):
        sharpe = deflated_sharpe(chosen_returns, ratios.tolist(), trials=trials)
        oracle = deflated_sharpe_ratio_full(chosen_returns, trials, float(ratios.var(ddof=1)))
        population = (
            sharpe.sharpe * (len(chosen_returns) / (len(chosen_returns) - 1)) ** 0.5
        )  # their deviation divides by n
        assert (population, sharpe.threshold) == pytest.approx((oracle.observed_sr, oracle.sr_star))
        moments = oracle.skew, oracle.kurt
        of_theirs = probabilistic_sharpe(oracle.observed_sr, len(chosen_returns), *moments, threshold=sharpe.threshold)
        assert of_theirs == pytest.approx(oracle.dsr, abs=1e-12)
        assert sharpe.deflated == pytest.approx(oracle.dsr, abs=0.003)
    least = minimum_track_record(0.08, *moments, threshold=0.01)
    assert least is not None
    assert np.ceil(least) == min_track_record_length(0.08, 0.01, 0.05, *moments)


@pytest.mark.parametrize("statistic", ["mean", "sharpe"])
def test_arch_finds_the_same_interval_over_sessions(statistic: str) -> None:
    values = returns(4)[:, -1]
    bounds = interval(values, statistic)

    def of(sample: Series) -> Series:
        deviation = sample.std(ddof=1) if statistic == "sharpe" else 1.0
        return np.array([sample.mean() / deviation])

    block: Any = block_length(values)  # arch takes a part of a session, but says that it does not
    arch_bounds = StationaryBootstrap(block, values, seed=1).conf_int(of, 2000, method="percentile")[:, 0]
    width = bounds.high - bounds.low
    assert [bounds.low, bounds.high] == pytest.approx(arch_bounds.tolist(), abs=0.06 * width)  # 2,000 draws


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_purgedcv_would_leave_out_no_session_more_between_spans(name: str) -> None:
    """A decision for session i sees the bars of the look-back before it and earns in it: [i - look-back, i + 1)."""
    rule, spec = kind(name).walk, strategy(name).spec
    look_back = {"option_scalper": 21, "forecast_ensemble": 160}.get(name, spec.history_bars)
    if name == "online_dqn":  # of minutes, of which a session has 390
        look_back = -(-spec.history_bars // 390)
    days = pd.bdate_range("1990-01-01", "2019-12-31")
    fold = walk(tuple(str(day.date()) for day in days), rule, 1)[0]
    place = {str(day.date()): at for at, day in enumerate(days)}
    at = pd.Series(pd.Timestamp("1970-01-01") + pd.to_timedelta(np.arange(len(days)), unit="D"))
    horizon = 5 if name == "forecast_ensemble" else 1
    begins, ends = at - pd.Timedelta(days=look_back), at + pd.Timedelta(days=horizon)
    for span, after in ((fold.train, fold.validate), (fold.validate, fold.test)):
        before, later = np.arange(place[span[0]], place[after[0]]), np.array([place[day] for day in after])
        places = purge(before, later, begins, ends)
        assert place[span[-1]] <= places[-1] <= place[span[-1]] + 1
