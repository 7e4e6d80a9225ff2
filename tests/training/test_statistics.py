"""Figures by hand and by other libraries, bootstraps by their formulas, and series that have nothing to say."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from strategies.manifest import Training
from training.evaluation import SessionResult, figures
from training.statistics import (
    STATISTICS,
    Series,
    annual,
    block_length,
    calibration,
    calmar,
    headline,
    improvement_probability,
    interquartile_mean,
    interval,
    kurtosis,
    max_drawdown,
    paired_difference,
    resamples,
    seeds_interval,
    session_returns,
    sharpe,
    skewness,
    sortino,
    summarise,
    trial_matrix,
    wilson,
)
from training.study import Fold, Played, Study, Trial

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
    found, known = summarise(results, 10_000.0), figures(results, 10_000.0)
    assert (found.net_return, found.mean, found.deviation, found.sharpe_annual) == pytest.approx(
        (known.net_return, known.session_return, known.session_deviation, known.sharpe_annual)
    )
    assert (found.max_drawdown, found.worst_session, found.turnover, found.exposure) == pytest.approx(
        (known.max_drawdown, known.worst_session, known.turnover, known.exposure)
    )
    assert (found.trades, found.hit_rate_trades, found.fees_usd) == (known.trades, known.win_rate, known.fees_usd)


def test_sessions_without_a_result_are_left_out_of_the_hit_rate() -> None:
    found = summarise([_result(pnl) for pnl in (50.0, -20.0, 10.0, 0.0)], 10_000.0)
    assert found.hit_rate_sessions == pytest.approx(2 / 3)
    assert found.hit_rate_trades == 0.5
    assert found.turnover == pytest.approx(0.05)
    assert found.exposure == pytest.approx(30 / 366)
    assert found.notes == ()


def test_a_player_that_never_trades_has_figures_and_notes_instead_of_nan() -> None:
    found = summarise([SessionResult("2024-10-01", 0.0, 0, 0, 0.0, 0.0, 0, 0)] * 3, 10_000.0)
    numbers = [value for value in msgspec.structs.astuple(found) if isinstance(value, float)]
    assert all(math.isfinite(value) for value in numbers)
    assert (found.sharpe, found.sortino_annual, found.calmar, found.exposure, found.kurtosis) == (0, 0, 0, 0, 3)
    assert len(found.notes) == 4


DEGENERATE = [np.zeros(20), np.array([0.01]), np.full(20, 0.1), np.full(7, -0.3)]


@pytest.mark.parametrize("returns", DEGENERATE, ids=["all zero", "one session", "constant gain", "constant loss"])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_series_without_deviation_has_an_interval_of_no_width_and_a_note(returns: Series, statistic: str) -> None:
    found = interval(returns, statistic)
    known = {"mean": returns[0], "sum": returns[0] * len(returns), "sharpe": 0.0}[statistic]
    assert (found.low, found.estimate, found.high) == pytest.approx((known, known, known))
    assert found.note
    assert (sharpe(returns), block_length(returns)) == (0.0, 1.0)


@pytest.mark.parametrize("bad", [np.array([]), np.array([0.1, math.nan]), np.array([math.inf])])
@pytest.mark.parametrize("of", [sharpe, sortino, max_drawdown, interval, block_length, interquartile_mean])
def test_a_number_that_is_none_is_an_error_and_never_a_figure(bad: Series, of: Callable[[Series], object]) -> None:
    with pytest.raises(ValueError, match="expected at least one, all finite"):
        of(bad)


@given(
    returns=some.lists(some.sampled_from([-0.03, -0.01, 0.0, 0.0, 0.02]), min_size=1, max_size=30),
    seed=some.integers(0, 9),
)
def test_an_interval_is_always_finite_and_in_order(returns: list[float], seed: int) -> None:
    for statistic in STATISTICS:
        found = interval(np.array(returns), statistic, seed=seed)
        assert math.isfinite(found.estimate)
        assert -math.inf < found.low <= found.high < math.inf


@pytest.mark.parametrize("block", [1.0, 4.5])
def test_resampled_means_deviate_as_politis_and_romano_say(block: float) -> None:
    steps = np.random.default_rng(5).normal(size=60)
    values = steps + 0.8 * np.roll(steps, 1)
    index = resamples(60, block, 20_000, np.random.default_rng(6))
    centred, keep = values - values.mean(), 1.0 - 1.0 / block
    known = float(centred @ centred) / 60  # lemma 1 of their paper
    for lag in range(1, 60):
        weight = (1 - lag / 60) * keep**lag + lag / 60 * keep ** (60 - lag)
        known += 2 * weight * float(centred[:-lag] @ centred[lag:]) / 60
    assert values[index].mean(axis=1).var() == pytest.approx(known / 60, rel=0.05)
    follows = (index[:, 1:] == (index[:, :-1] + 1) % 60).mean()
    assert follows == pytest.approx(keep + (1 - keep) / 60, abs=0.005)
    assert np.bincount(index.ravel(), minlength=60).std() < 0.05 * index.size / 60  # every session equally often


def test_the_interval_of_a_mean_is_close_to_that_of_the_normal_distribution() -> None:
    returns = np.random.default_rng(7).normal(0.001, 0.01, size=400)
    found = interval(returns, seed=1)
    half = 1.96 * returns.std() / 20.0
    assert (found.low, found.high) == pytest.approx((returns.mean() - half, returns.mean() + half), abs=0.15 * half)
    assert found.note == ""


def test_the_same_seed_gives_the_same_interval_and_the_sum_is_the_mean_of_all_sessions() -> None:
    returns = _series(8, 25)
    mean, total = interval(returns, "mean", seed=3), interval(returns, "sum", seed=3)
    assert mean == interval(returns, "mean", seed=3)
    assert (total.low, total.high) == pytest.approx((mean.low * 25, mean.high * 25))
    assert interval(returns, "mean", seed=4) != mean
    assert "25 sessions are few" in mean.note


def test_blocks_grow_with_the_memory_of_a_series() -> None:
    noise = np.random.default_rng(9).normal(size=500)
    slow = np.convolve(noise, np.ones(10), mode="valid")
    assert block_length(slow) > 5.0 > block_length(noise) >= 1.0
    assert block_length(noise[:8]) == pytest.approx(2.0)  # too few to tell: their cube root


def test_what_both_players_share_leaves_the_paired_difference() -> None:
    market = _series(10, 60) * 5.0
    edge = np.random.default_rng(11).normal(0.002, 0.001, size=60)
    paired, alone = paired_difference(market + edge, market), interval(market + edge)
    assert paired.low > 0.0 > alone.low
    assert paired.estimate == pytest.approx(float(edge.mean()))
    ratio = paired_difference(market + edge, market, "sharpe")
    assert ratio.estimate == pytest.approx(sharpe(market + edge) - sharpe(market))
    assert ratio.low > 0.0
    same = paired_difference(market, market, "sharpe")
    assert (same.low, same.estimate, same.high) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="60 sessions against 59"):
        paired_difference(market, market[1:])


def test_the_interquartile_mean_is_the_trimmed_mean() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    assert interquartile_mean(np.array([100.0, 1.0, 2.0, -50.0])) == 1.5
    for count in (1, 3, 10, 11):
        scores = _series(12, count)
        assert interquartile_mean(scores) == pytest.approx(scipy_stats.trim_mean(scores, 0.25))


def test_an_outlier_among_the_seeds_does_not_move_the_interquartile_mean() -> None:
    folds = [_series(13, 10), _series(14, 10)]
    wild = [np.append(folds[0][1:], 50.0), folds[1]]
    assert seeds_interval(wild).estimate == pytest.approx(seeds_interval(folds).estimate, abs=0.005)
    assert seeds_interval(folds).note == ""
    few = seeds_interval([np.array([0.1, 0.3]), np.array([0.2])])
    assert few.low <= few.estimate <= few.high
    assert "1 seed says nothing of others" in few.note


def test_the_probability_of_improvement_counts_pairs_and_half_of_ties() -> None:
    ours, theirs = [np.array([1.0, 3.0]), np.array([5.0])], [np.array([2.0, 3.0]), np.array([5.0])]
    found = improvement_probability(ours, theirs)  # pairs: 1<2, 1<3, 3>2, 3=3: 1.5 of 4; then a tie
    assert found.estimate == pytest.approx((1.5 / 4 + 0.5) / 2)
    assert found.low <= found.estimate <= found.high
    better = improvement_probability([np.arange(10.0) + 10], [np.arange(10.0)])
    assert (better.estimate, better.low, better.high, better.note) == (1.0, 1.0, 1.0, "")
    with pytest.raises(ValueError, match="1 folds against 2"):
        improvement_probability(ours[:1], theirs)


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=5e-5)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)


def test_calibration_of_four_trades_is_that_worked_out_by_hand() -> None:
    found = calibration(np.array([0.9, 0.6, 0.8, 0.5]), np.array([True, False, True, True]), bins=2)
    assert [(part.trades, part.won) for part in found.bins] == [(2, 0.5), (2, 1.0)]
    assert [part.confidence for part in found.bins] == pytest.approx([0.55, 0.85])
    assert found.brier == pytest.approx((0.01 + 0.36 + 0.04 + 0.25) / 4)
    assert found.expected_error == pytest.approx((0.05 + 0.15) / 2)
    assert "not of a win" in found.note


def test_a_confidence_that_is_right_has_no_error_and_one_that_is_sure_and_wrong_has_all() -> None:
    random = np.random.default_rng(15)
    confidence = random.uniform(0.5, 1.0, size=20_000)
    right = calibration(confidence, random.random(20_000) < confidence)
    assert right.expected_error == pytest.approx(0.0, abs=0.015)
    assert [part.trades for part in right.bins] == [2_000] * 10
    assert sum(part.low <= part.confidence <= part.high for part in right.bins) >= 8
    wrong = calibration(np.ones(5), np.zeros(5, dtype=np.bool_))
    assert (wrong.brier, wrong.expected_error, len(wrong.bins)) == (1.0, 1.0, 1)


def test_equal_confidences_stay_in_one_bin_and_no_trade_has_no_bin() -> None:
    found = calibration(np.array([0.6] * 5 + [0.7]), np.array([True] * 3 + [False] * 3), bins=3)
    assert [part.trades for part in found.bins] == [5, 1]
    empty = calibration(np.array([]), np.array([], dtype=np.bool_))
    assert (empty.trades, empty.bins, empty.brier, empty.expected_error) == (0, (), None, None)


def _trial(fold: int, seed: int, pnl_usd: tuple[float, ...], reward: str = "potential") -> Trial:
    sessions = tuple(_result(pnl, date) for pnl, date in zip(pnl_usd, FOLDS[fold].test, strict=False))
    return Trial(fold, seed, reward, 1000, 1.0, 500, "", (), sessions, Played(sessions))


FOLDS = (
    Fold(("2024-08-01",), ("2024-09-02",), ("2024-10-01", "2024-10-02")),
    Fold(("2024-09-02",), ("2024-10-02",), ("2024-11-01",)),
)


def _study(*trials: Trial, chosen: tuple[int, ...] = (0, 3)) -> Study:
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
        chosen=chosen,
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
    known = [[0.01, -0.005, 0.0005], [0.0001, 0.0002, 0.0003], [0.001, 0.002, -0.003]]
    assert matrix.T.tolist() == pytest.approx(np.array(known))
    assert trial_matrix(_study(_trial(0, 1, (1.0, 2.0))))[1].shape == (3, 0)


def test_a_trial_on_other_sessions_than_its_fold_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"fold 0, reward potential and seed 1 has 1 test sessions"):
        trial_matrix(_study(_trial(0, 1, (100.0,))))
