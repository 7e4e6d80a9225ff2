"""Figures by hand and by other libraries, bootstraps by their formulas, and series that have nothing to say."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from strategies.kit.manifest import Training
from training.evidence.resampling import block_length, interquartile_mean, interval
from training.evidence.statistics import (
    Series,
    annual,
    calmar,
    headline,
    kurtosis,
    max_drawdown,
    session_returns,
    sharpe,
    skewness,
    sortino,
    summarise,
    trial_matrix,
)
from training.study.study import Fold, PlayResult, SessionResult, Study, Trial, figures

HAND = np.array([0.01, -0.02, 0.03, 0.0, -0.01])


def _result(pnl_usd: float, date: str = "2024-10-01", trades: int = 2, wins: int = 1) -> SessionResult:
    return SessionResult(date, pnl_usd, trades, wins, 1.3, 500.0, 30, 366)


def _series(seed: int, sessions: int = 120) -> Series:
    return np.random.default_rng(seed).standard_t(4, size=sessions) * 0.01 + 0.001


def test_the_ratios_of_five_sessions_are_those_worked_out_by_hand() -> None:
    # mean 0.002; squares about it sum to 0.00148; losses squared to 0.0005
    assert sharpe(HAND) == pytest.approx(0.002 / math.sqrt(0.00148 / 4))
    assert annual(0.1) == pytest.approx(1.5874507866)
    assert sortino(HAND) == pytest.approx(0.002 / math.sqrt(0.0005 / 5))
    assert max_drawdown(HAND) == pytest.approx(0.02)
    assert calmar(HAND) == pytest.approx(0.002 * 252 / 0.02)


def test_the_drawdown_counts_from_nothing_and_does_not_compound() -> None:
    assert max_drawdown(np.array([-0.5, -0.5, 0.3, -0.2])) == pytest.approx(1.0)
    assert max_drawdown(np.array([0.5, -0.5, 0.1])) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", [1, 2])
def test_quantstats_and_scipy_find_the_same_figures(seed: int) -> None:
    pandas, oracle = pytest.importorskip("pandas"), pytest.importorskip("quantstats.stats")
    scipy_stats, returns = pytest.importorskip("scipy.stats"), _series(seed)
    dated = pandas.Series(returns, index=pandas.date_range("2024-01-02", periods=len(returns), freq="B"))
    assert annual(sharpe(returns)) == pytest.approx(oracle.sharpe(dated, periods=252))
    assert annual(sortino(returns)) == pytest.approx(oracle.sortino(dated, periods=252))
    assert skewness(returns) == pytest.approx(scipy_stats.skew(returns))
    assert kurtosis(returns) == pytest.approx(scipy_stats.kurtosis(returns, fisher=False))


def test_a_summary_agrees_with_the_figures_of_the_evaluation() -> None:
    results = [_result(float(pnl), trades=nth % 3, wins=nth % 2) for nth, pnl in enumerate(_series(3, 40) * 10_000)]
    summary, expected = summarise(results, 10_000.0), figures(results, 10_000.0)
    assert (summary.net_return, summary.mean, summary.deviation, summary.sharpe_annual) == pytest.approx(
        (expected.net_return, expected.session_return, expected.session_deviation, expected.sharpe_annual)
    )
    assert (summary.max_drawdown, summary.worst_session, summary.turnover, summary.exposure) == pytest.approx(
        (expected.max_drawdown, expected.worst_session, expected.turnover, expected.exposure)
    )
    assert (summary.trades, summary.hit_rate_trades, summary.fees_usd) == (
        expected.trades,
        expected.win_rate,
        expected.fees_usd,
    )


def test_sessions_without_a_result_are_left_out_of_the_hit_rate() -> None:
    summary = summarise([_result(pnl) for pnl in (50.0, -20.0, 10.0, 0.0)], 10_000.0)
    assert summary.hit_rate_sessions == pytest.approx(2 / 3)
    assert summary.hit_rate_trades == 0.5
    assert summary.turnover == pytest.approx(0.05)
    assert summary.exposure == pytest.approx(30 / 366)
    assert summary.notes == ()


def test_a_player_that_never_trades_has_figures_and_notes_instead_of_nan() -> None:
    summary = summarise([SessionResult("2024-10-01", 0.0, 0, 0, 0.0, 0.0, 0, 0)] * 3, 10_000.0)
    numbers = [value for value in msgspec.structs.astuple(summary) if isinstance(value, float)]
    assert all(math.isfinite(value) for value in numbers)
    assert (summary.sharpe, summary.sortino_annual, summary.calmar, summary.exposure, summary.kurtosis) == (
        0,
        0,
        0,
        0,
        3,
    )
    assert len(summary.notes) == 4


@pytest.mark.parametrize("bad", [np.array([]), np.array([0.1, math.nan]), np.array([math.inf])])
@pytest.mark.parametrize("of", [sharpe, sortino, max_drawdown, interval, block_length, interquartile_mean])
def test_a_number_that_is_none_is_an_error_and_never_a_figure(bad: Series, of: Callable[[Series], object]) -> None:
    with pytest.raises(ValueError, match="expected at least one, all finite"):
        of(bad)


def _trial(fold: int, seed: int, pnl_usd: tuple[float, ...], reward: str = "potential") -> Trial:
    sessions = tuple(_result(pnl, date) for pnl, date in zip(pnl_usd, FOLDS[fold].test, strict=False))
    return Trial(fold, seed, reward, 1000, 1.0, 500, "", (), sessions, PlayResult(sessions))


FOLDS = (
    Fold(("2024-08-01",), ("2024-09-02",), ("2024-10-01", "2024-10-02")),
    Fold(("2024-09-02",), ("2024-10-02",), ("2024-11-01",)),
)


def _study(*trials: Trial, choice: tuple[int, ...] = (0, 3)) -> Study:
    return Study(
        strategy="option_scalper",
        network="mlp",
        reward="potential",
        capital_usd=10_000.0,
        code_version="0",
        settings={},
        machine={},
        data=Training("bars.csv", "0" * 64, "sip", True, 3, "2024-08-01", "2024-11-01", {}),
        folds=FOLDS,
        trials=trials,
        chosen=choice,
        baselines=(),
        random_pnl_usd=(),
        scenarios={},
    )


def test_the_headline_and_the_matrix_of_trials_join_the_folds_in_time() -> None:
    study = _study(
        _trial(0, 1, (100.0, -50.0)),
        _trial(0, 2, (10.0, 20.0)),
        _trial(1, 1, (5.0,)),
        _trial(1, 2, (-30.0,)),
        _trial(1, 2, (7.0,), reward="reference"),  # never trained in the first fold
        _trial(0, 1, (1.0, 2.0)),
        _trial(1, 1, (3.0,)),  # the same seed once more, with other settings
    )
    assert [result.pnl_usd for result in headline(study)] == [100.0, -50.0, -30.0]
    assert session_returns(headline(study), 10_000.0) == pytest.approx([0.01, -0.005, -0.003])
    names, matrix = trial_matrix(study)
    assert names == ("potential, seed 1", "potential, seed 1, run 2", "potential, seed 2")
    expected = [[0.01, -0.005, 0.0005], [0.0001, 0.0002, 0.0003], [0.001, 0.002, -0.003]]
    assert matrix.T.tolist() == pytest.approx(np.array(expected))
    assert trial_matrix(_study(_trial(0, 1, (1.0, 2.0))))[1].shape == (3, 0)


def test_a_trial_on_other_sessions_than_its_fold_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"fold 0, reward potential and seed 1 has 1 test sessions"):
        trial_matrix(_study(_trial(0, 1, (100.0,))))
